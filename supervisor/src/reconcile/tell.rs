//! What running ports are told beside the steps of a command: again and again, until they say that they took it. Until then a port may
//! go on with what it had: the values of an earlier file, or players that it should not take any more.

use std::time::{Duration, Instant};

use cluster::events::Kind as Happened;
use cluster::{ProcessSpec, Role, UnitId, WorkerSpec};

use super::events;
use super::job::{Configure, Job, Phase, Step, Turn};
use super::kernel::{Kernel, Ticket};
use super::member::Member;
use super::queue::Runs;
use super::reconciler::Reconciler;
use super::untold::Untold;

/// For so long a command waits for ports to say that they took their values, and for those that leave to say whether anybody is
/// left; it goes on without that.
const ANSWERS_LIMIT: Duration = Duration::from_secs(20);

impl Reconciler {
    /// Has a member run with a spec from now on: its next process, and the one that it has.
    pub(super) fn set_spec(&mut self, id: &UnitId, spec: WorkerSpec, now: Instant, kernel: &mut impl Kernel) {
        let Some(member) = self.index(id).and_then(|index| self.members.get_mut(index)) else { return };
        let spec = ProcessSpec::Worker(spec);
        if member.spec == spec {
            return;
        }
        if let Err(why) = kernel.write_config(&spec) {
            // Each start writes it again.
            tracing::warn!("{why}");
        }
        member.spec = spec;
        if let Some(departure) = &mut member.departure {
            (departure.told, departure.ask) = (None, None);
        }
        if member.live.is_some() {
            let asked = member.untold.take().and_then(|untold| untold.asked);
            member.untold = Some(Untold { asked, ..Untold::now(now) });
        }
    }

    /// Tells those whose time it is.
    pub(super) fn tell(&mut self, now: Instant, kernel: &mut impl Kernel) {
        if self.queue.runs() == Some(Runs::End) {
            return;
        }
        let told_by_job = match self.job.as_ref().and_then(|job| job.steps.front()) {
            Some(Step::Configure(Configure {
                spec,
                phase: Phase::Telling { .. } | Phase::Undoing { .. },
                ..
            })) => Some(spec.id.clone()),
            _ => None,
        };
        for member in self.members.iter_mut().filter(|member| Some(&member.id) != told_by_job.as_ref()) {
            let (Some(untold), ProcessSpec::Worker(spec)) = (&mut member.untold, &member.spec) else {
                continue;
            };
            if untold.asked.is_some() || untold.due > now {
                continue;
            }
            self.tickets += 1;
            untold.asked = Some((self.tickets, Box::new(spec.clone())));
            kernel.configure(self.tickets, spec);
        }
    }

    /// Takes in what a port says that was told.
    pub(super) fn handle_told_port(
        &mut self,
        ticket: Ticket,
        answer: Result<(), String>,
        now: Instant,
        kernel: &mut impl Kernel,
    ) {
        let is_of = |untold: &Untold| untold.asked.as_ref().is_some_and(|(asked, _)| *asked == ticket);
        let Some(member) = self.members.iter_mut().find(|it| it.untold.as_ref().is_some_and(is_of)) else {
            return;
        };
        let Some(mut untold) = member.untold.take() else { return };
        let told = untold.asked.take().map(|(_, spec)| ProcessSpec::Worker(*spec));
        if told.as_ref() != Some(&member.spec) {
            // It has other ones since.
            member.untold = Some(Untold { due: now, ..untold });
            return;
        }
        if let Some(departure) = &mut member.departure
            && (answer.is_ok() || departure.consent)
        {
            // Without consent nobody may come any more before it is empty.
            departure.told.get_or_insert(now);
        }
        match answer {
            Ok(()) if untold.has_failed => {
                let text = "it has taken its values by now";
                kernel.record(events::of_unit(Happened::Configured, &member.id, None, text));
            }
            Ok(()) => {}
            Err(why) => {
                let unit = &member.id;
                if untold.has_failed {
                    tracing::debug!(%unit, why, "does not say that it took its values");
                } else {
                    tracing::warn!(%unit, why, "does not say that it took its values; it is told again");
                    let text = format!("{why}; it is told again until it does");
                    kernel.record(events::of_unit(Happened::NotConfigured, unit, None, text));
                }
                member.untold = Some(untold.fail(now));
            }
        }
    }

    /// Waits until all ports have said that they took their values, and those that leave whether anybody is left.
    pub(super) fn await_answers(
        &self,
        end: Option<Instant>,
        job: &Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let end = end.unwrap_or(now + ANSWERS_LIMIT);
        let is_open = |member: &&Member| {
            let waits = member.untold.as_ref().is_some_and(|untold| !untold.has_failed);
            waits || self.is_leaving_unseen(member)
        };
        if now < end && self.members.iter().find(is_open).is_some() {
            return Turn::Wait(Step::AwaitAnswers { end: Some(end) }, Some(end));
        }
        for member in self.members.iter().filter(|member| member.untold.is_some()) {
            let line =
                format!("{} has not said that it took its values; it is told again until it does", member.id);
            kernel.say(job.client, line);
        }
        Turn::Done
    }

    /// What the worker of a port is told now: what the file in force says and, of an origin, those that leave their places too, whom it
    /// serves as long as somebody is there; and `more`, as if these had begun to.
    pub(super) fn with_leaving(&self, mut spec: WorkerSpec, more: &[UnitId]) -> WorkerSpec {
        if spec.role != Role::Origin {
            return spec;
        }
        let is_leaving = |member: &&Member| {
            member.role() == Role::Edge && (member.departure.is_some() || more.contains(&member.id))
        };
        for port in self.members.iter().filter(is_leaving).filter_map(|member| member.port.as_ref()) {
            let target = port.target_here();
            match spec.forward.iter_mut().find(|it| it.id == target.id) {
                Some(known) => *known = target,
                None => spec.forward.push(target),
            }
        }
        spec
    }

    /// Has the origins forward to those that are there.
    pub(super) fn forward_anew(&mut self, now: Instant, kernel: &mut impl Kernel) {
        let secret = self.dirs.secret();
        let is_here = |id: &UnitId| self.member(id).is_some_and(|it| it.departure.is_none());
        let origins = self.cluster.origins.iter().filter(|port| is_here(&port.id()));
        let specs: Vec<WorkerSpec> = origins
            .map(|port| self.with_leaving(self.cluster.worker_spec(port, secret.clone()), &[]))
            .collect();
        for spec in specs {
            self.set_spec(&spec.id.clone(), spec, now, kernel);
        }
    }
}
