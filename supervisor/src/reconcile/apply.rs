//! The steps of `apply`: a changed file is compared with the one in force, and the plan carried out, or taken back.

use std::time::Instant;

use cluster::events::Kind as Happened;
use cluster::{Cluster, Port, ProcessSpec, Role, UnitId, WorkerSpec};
use control::api::Apply;
use control::{Code, Error};

use super::events;
use super::job::{AwaitReady, Configure, Job, Phase, Step, Turn};
use super::kernel::{Answer, InForce, Kernel, Program};
use super::member::Member;
use super::plan::{Kind, Plan};
use super::reconciler::{Reconciler, specs};
use super::steps::STOP_LIMIT;
use crate::machine::state::{Event, State, Wanted};

impl Reconciler {
    pub(super) fn parse(&mut self, file: Apply, job: &mut Job, kernel: &mut impl Kernel) -> Turn {
        let parsed = match job.answer.take() {
            Some(Answer::Parsed(parsed)) => parsed,
            Some(_) => Err(Error::new(Code::Failed, "the file could not be read")),
            None => {
                if job.question.is_none() {
                    // Looks names up, which may take as long as the resolver waits.
                    kernel.parse(self.ask(job), &file);
                }
                return Turn::Wait(Step::Parse { file }, None);
            }
        };
        match parsed.and_then(|new| self.plan(file, new, job, kernel)) {
            Ok(()) => Turn::Done,
            Err(error) => Turn::Failed(error),
        }
    }

    /// Finds out what `new` changes, makes room for it, and puts the steps that do it before those that are left. When
    /// it fails nothing was touched.
    fn plan(
        &mut self,
        file: Apply,
        new: Cluster,
        job: &mut Job,
        kernel: &mut impl Kernel,
    ) -> Result<(), Error> {
        let refuse = |why| Error::new(Code::Refused, why);
        let plan = Plan::compare(&self.cluster, &new);
        let refused: Vec<String> = plan.refused().map(|action| format!("\n  {action}")).collect();
        if !refused.is_empty() {
            return Err(refuse(format!(
                "{} has changes that a running cluster (started from {}) cannot take yet; nothing was touched:{}\n\
                 bring them into force, at the cost of disconnecting all players, with: \
                 srsctl -f {0} down && srsctl -f {0} up",
                file.path.display(),
                self.path.display(),
                refused.concat()
            )));
        }
        if plan.is_empty() {
            job.push_first([Step::Commit { file, new: Box::new(new) }, Step::Retry { idle: true }]);
            return Ok(());
        }
        let ids: Vec<UnitId> = plan.units(Kind::Start).cloned().collect();
        let origins: Vec<UnitId> = new.origins.iter().map(Port::id).collect();
        let mut touched = ids.iter().chain(&origins).filter_map(|id| self.member(id));
        if let Some(why) = touched.find_map(Member::left_alone) {
            return Err(refuse(format!("nothing was touched: {why}")));
        }
        // An earlier addition was taken back, and its process does not end.
        let mut added = ids.iter().filter_map(|id| self.member(id));
        if let Some(member) = added.find(|member| !member.is_at_rest()) {
            return Err(refuse(format!(
                "nothing was touched: {} is still being stopped; try again later",
                member.id
            )));
        }
        let added: Vec<&Port> = new.edges.iter().filter(|edge| ids.contains(&edge.id())).collect();
        kernel.prepare(&new, &added).map_err(|why| refuse(format!("nothing was touched: {why}")))?;
        // What an earlier rollback had to leave alone is gone by now.
        self.members.retain(|member| !ids.contains(&member.id));
        let place = self.members.iter().position(|member| member.role() == Role::Encoder);
        let place = place.unwrap_or(self.members.len());
        let specs = specs(&new, &self.dirs).into_iter().filter(|(spec, _)| ids.contains(spec.id()));
        self.members.splice(place..place, specs.map(|(spec, port)| Member::new(spec, port)));

        let starts = ids.iter().map(|id| Step::Start { id: id.clone() });
        let waits = ids.iter().map(|id| {
            Step::AwaitReady(AwaitReady {
                id: id.clone(),
                before: None,
                end: None,
                restart: None,
                go_on: false,
                program: Program::OfStart,
            })
        });
        let told = new
            .origins
            .iter()
            .map(|origin| Configure::step(new.worker_spec(origin, self.dirs.secret()), true));
        // Each port's share of memory is smaller by those that were added. One that does not take it now, has it with its next start.
        let shares: Vec<_> =
            new.edges.iter().filter(|edge| plan.units(Kind::Configure).any(|id| *id == edge.id())).collect();
        let told = told.chain(
            shares.into_iter().map(|edge| Configure::step(new.worker_spec(edge, self.dirs.secret()), false)),
        );
        let rest = [Step::Commit { file, new: Box::new(new.clone()) }, Step::Retry { idle: false }];
        let steps: Vec<Step> = starts.chain(waits).chain(told).chain(rest).collect();
        job.push_first(steps);
        job.undo = vec![Step::TakeBack { ids, end: None }];
        Ok(())
    }

    pub(super) fn start_added(
        &mut self,
        id: &UnitId,
        job: &Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        kernel.say(job.client, format!("starting {id}"));
        kernel.record(events::of_unit(Happened::Added, id, None, ""));
        self.feed_id(id, Event::Want(Wanted::Up), now, kernel);
        Turn::Done
    }

    /// Gives a running port its new spec, and its next process too.
    pub(super) fn configure(
        &mut self,
        configure: Configure,
        job: &mut Job,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let Configure { spec, is_change, phase } = configure;
        let id = spec.id.clone();
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
                // The file first: it can be undone, what the process was told cannot.
                if let Err(why) = kernel.write_config(&new) {
                    if is_change {
                        return failed(why);
                    }
                    // Each start writes it again.
                    tracing::warn!("{why}");
                }
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
                    // Its next process has it.
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
            (Phase::Undoing { why }, Some(_)) => return failed(why),
            (phase @ (Phase::Telling { .. } | Phase::Undoing { .. }), _) => {
                return Turn::Wait(Step::Configure(Configure { spec, is_change, phase }), None);
            }
        };
        kernel.configure(self.ask(job), &told);
        Turn::Wait(Step::Configure(Configure { spec, is_change, phase }), None)
    }

    pub(super) fn commit(
        &mut self,
        file: &Apply,
        new: Cluster,
        job: &mut Job,
        kernel: &mut impl Kernel,
    ) -> Turn {
        job.undo.clear();
        self.cluster = new;
        file.path.clone_into(&mut self.path);
        match kernel.put_in_force(file) {
            Ok(()) => Turn::Done,
            Err(why) => {
                let why = format!("done, but the file in force is not remembered: {why}");
                Turn::Failed(Error::new(Code::Failed, why))
            }
        }
    }

    pub(super) fn retry(
        &mut self,
        idle: bool,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let failed = |member: &&Member| matches!(member.machine.state(), State::Failed { .. });
        let ids: Vec<UnitId> = self.members.iter().filter(failed).map(|member| member.id.clone()).collect();
        if idle && ids.is_empty() {
            kernel.say(job.client, "nothing to change".to_owned());
        }
        for id in &ids {
            kernel.say(job.client, format!("starting {id} again"));
            self.feed_id(id, Event::Restart, now, kernel);
        }
        let waits = ids.into_iter().map(|id| {
            let program = Program::OfStart;
            Step::AwaitReady(AwaitReady { id, before: None, end: None, restart: None, go_on: true, program })
        });
        job.push_first(waits);
        Turn::Done
    }

    /// Undoes an addition.
    pub(super) fn take_back(
        &mut self,
        ids: Vec<UnitId>,
        end: Option<Instant>,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        if end.is_none() {
            for id in &ids {
                self.feed_id(id, Event::Want(Wanted::Down), now, kernel);
            }
        }
        let end: Instant = end.unwrap_or(now + STOP_LIMIT);
        let at_rest = ids.iter().filter_map(|id| self.member(id)).all(Member::is_at_rest);
        if !at_rest && now < end {
            return Turn::Wait(Step::TakeBack { ids, end: Some(end) }, Some(end));
        }
        for id in &ids {
            let Some(member) = self.member(id) else { continue };
            if member.left_alone().is_some() {
                // It stays, to be told of, without the port.
                kernel.close_port(id);
            } else if member.live.is_none() {
                kernel.record(events::of_unit(Happened::TakenBack, id, None, ""));
                kernel.remove(id, false);
                self.members.retain(|member| member.id != *id);
            }
        }
        Turn::Done
    }

    /// Brings back what was in force before this supervisor, which does not come to its work.
    pub(super) fn go_back(&mut self, before: InForce, job: &mut Job, kernel: &mut impl Kernel) -> Turn {
        let InForce { file, cluster } = before;
        if let Err(error) = kernel.put_in_force(&file) {
            tracing::warn!(%error, "the file before is not in force again");
        }
        let secret = self.dirs.secret();
        let told: Vec<_> = cluster.ports().map(|port| cluster.worker_spec(port, secret.clone())).collect();
        job.push_first(told.into_iter().map(|spec| Configure::step(spec, false)));
        (self.cluster, self.path) = (cluster.clone(), file.path);
        Turn::Done
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
        kernel.say(job.client, format!("{} forwards to {} edge ports", spec.id, spec.forward.len()));
        // All origins, or none.
        job.undo.insert(0, Configure::step(before, false));
    }
    Turn::Done
}
