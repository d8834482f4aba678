//! The step by which a running port takes new values: its file, the process, and what its next process starts with.

use std::time::Instant;

use cluster::{ProcessSpec, Role, WorkerSpec};
use control::{Code, Error};

use super::job::{Configure, Job, Phase, Step, Turn};
use super::kernel::{Answer, Kernel};
use super::reconciler::Reconciler;
use super::untold::Untold;

impl Reconciler {
    /// Gives a running port its new spec, and its next process too.
    pub(super) fn configure(
        &mut self,
        configure: Configure,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let Configure { spec, is_change, phase } = configure;
        let id = spec.id.clone();
        if self.member(&id).and_then(|member| member.untold.as_ref()).is_some_and(Untold::is_asked) {
            // Whichever came last would be what it has.
            return Turn::Wait(Step::Configure(Configure { spec, is_change, phase }), None);
        }
        let failed = |why: String| {
            if is_change {
                return Turn::Failed(Error::new(Code::Failed, why));
            }
            tracing::warn!("{why}");
            Turn::Done
        };
        let Some(member) = self.index(&id).and_then(|index| self.members.get_mut(index)) else {
            return failed(format!("{id} is not supervised"));
        };
        let is_live = member.live.is_some();
        let (phase, told) = match (phase, job.answer.take()) {
            (Phase::Begin, _) => {
                let ProcessSpec::Worker(before) = member.spec.clone() else { return Turn::Done };
                let new = ProcessSpec::Worker((*spec).clone());
                member.untold = None;
                // The file first: it can be undone, what the process was told cannot.
                if let Err(why) = kernel.write_config(&new) {
                    if is_change {
                        return failed(job.as_before(why));
                    }
                    // Each start writes it again.
                    tracing::warn!("{why}");
                }
                job.has_begun |= is_change;
                member.spec = new;
                if !is_live {
                    return configured(&spec, before, is_change, job, kernel);
                }
                (Phase::Telling { before: Box::new(before) }, (*spec).clone())
            }
            (Phase::Telling { before }, Some(Answer::Configured(Ok(())))) => {
                return configured(&spec, *before, is_change, job, kernel);
            }
            (Phase::Telling { before }, Some(Answer::Configured(Err(why)))) => {
                let why = format!("{id} does not take its new config: {why}");
                if before == spec || !is_change {
                    // Its next process has it, and this one is told again.
                    member.untold = is_live.then(|| Untold::now(now));
                    undo_with(*before, job);
                    return failed(why);
                }
                member.spec = ProcessSpec::Worker((*before).clone());
                if let Err(error) = kernel.write_config(&member.spec) {
                    tracing::warn!(unit = %id, %error, "old config not written");
                }
                if !is_live {
                    return failed(why);
                }
                // It may have taken the new targets and not said so.
                (Phase::Undoing { why }, *before)
            }
            (Phase::Undoing { why }, Some(Answer::Configured(Ok(())))) => return failed(why),
            (Phase::Undoing { why }, Some(_)) => {
                member.untold = is_live.then(|| Untold::now(now));
                return failed(why);
            }
            (phase @ (Phase::Telling { .. } | Phase::Undoing { .. }), _) => {
                return Turn::Wait(Step::Configure(Configure { spec, is_change, phase }), None);
            }
        };
        kernel.configure(self.ask(job), &told);
        Turn::Wait(Step::Configure(Configure { spec, is_change, phase }), None)
    }
}

/// A port has its new spec.
fn configured(
    spec: &WorkerSpec,
    before: WorkerSpec,
    is_change: bool,
    job: &mut Job,
    kernel: &mut impl Kernel,
) -> Turn {
    if is_change {
        let is_forwarding = spec.role == Role::Origin && spec.forward != before.forward;
        kernel.say(
            job.client,
            match spec.forward.len() {
                1 if is_forwarding => format!("{} forwards to 1 edge port", spec.id),
                more if is_forwarding => format!("{} forwards to {more} edge ports", spec.id),
                _ => format!("{} has its new values", spec.id),
            },
        );
    }
    undo_with(before, job);
    Turn::Done
}

/// All ports are told, or none: where a change can still be undone, this is a part of that.
fn undo_with(before: WorkerSpec, job: &mut Job) {
    if !job.undo.is_empty() {
        job.undo.insert(0, Configure::step(before, false));
    }
}
