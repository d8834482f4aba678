//! The steps of `apply`: a changed file is compared with the one in force, and the plan carried out, or taken back.
//!
//! What may fail comes first: ports are bound, added ones started, running ones told, and until then all can be undone. From
//! [`Step::Commit`] on the new file is in force, whatever becomes of the rest; only then somebody is disconnected. So whoever is killed
//! in between leaves one of two files in force, whole, and the next supervisor brings the processes in line with that.

use std::time::{Duration, Instant};

use cluster::events::Kind as Happened;
use cluster::plan::{Action, Change, summary};
use cluster::{Cluster, Port, ProcessSpec, Role, UnitId};
use control::api::Apply;
use control::{Code, Error};

use super::changes::{Ends, Moves, consent};
use super::departure::Departure;
use super::events;
use super::job::{AwaitReady, Configure, Job, Leave, Removal, Step, Turn};
use super::kernel::{Answer, InForce, Kernel, Program};
use super::member::Member;
use super::plan::differ_in_share;
use super::reconciler::{Reconciler, specs};
use super::view::REFRESH_LIMIT;
use crate::machine::state::{Event, State, Wanted};

impl Reconciler {
    pub(super) fn parse(&mut self, file: Apply, job: &mut Job, kernel: &mut impl Kernel) -> Turn {
        if let Err(error) = self.expect_generation(&file) {
            return Turn::Failed(error);
        }
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
        match parsed {
            Ok(new) => {
                job.push_first([Step::Weigh { file, new: Box::new(new), asked: None }]);
                Turn::Done
            }
            Err(error) => Turn::Failed(error),
        }
    }

    /// Asks those that would be stopped who is connected now, and makes the plan.
    pub(super) fn weigh(
        &mut self,
        (file, new, asked): (Apply, Box<Cluster>, Option<Instant>),
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let mut changes = self.changes(&self.cluster, &new);
        let since = asked.unwrap_or(now);
        // Of those that stay, players may go with a stream that ends.
        let is_all = Ends::of(&self.cluster, &new).some();
        let stopped =
            changes.iter().filter(|it| is_all || matches!(it.action, Action::Stop | Action::Restart));
        let stopped = stopped.filter_map(|change| self.member(&change.unit));
        let is_old = |member: &&Member| {
            let is_running = matches!(member.machine.state(), State::Running { .. });
            is_running && member.report.as_ref().is_none_or(|report| report.at < since)
        };
        let old: Vec<&Member> = stopped.filter(is_old).collect();
        let end = since + REFRESH_LIMIT;
        if !old.is_empty() && now < end {
            if asked.is_none() {
                old.iter().for_each(|member| kernel.refresh(&member.id));
            }
            return Turn::Wait(Step::Weigh { file, new, asked: Some(since) }, Some(end));
        }
        self.count(&mut changes, &new, now);
        match self.plan(file, *new, &changes, job, kernel) {
            Ok(()) => Turn::Done,
            Err(error) => Turn::Failed(error),
        }
    }

    /// Makes room for what `new` changes, and puts the steps that do it before those that are left. When it fails nothing was touched.
    fn plan(
        &mut self,
        file: Apply,
        new: Cluster,
        changes: &[Change],
        job: &mut Job,
        kernel: &mut impl Kernel,
    ) -> Result<(), Error> {
        let refuse = |why| Error::new(Code::Refused, why);
        if new.name != self.cluster.name {
            let (old, new) = (&self.cluster.name, &new.name);
            return Err(refuse(format!(
                "nothing was touched: the file is of cluster {new}, and this is cluster {old}"
            )));
        }
        if changes.iter().all(|change| change.action == Action::Nothing) {
            let commit = Step::Commit { file, new: Box::new(new), changes: changes.to_vec() };
            job.push_first([commit, Step::Retry { idle: true }]);
            return Ok(());
        }
        let moves = self.moves(changes, &new);
        self.check_untouched(&moves, &new)?;
        consent(changes, file.yes)?;
        let is_at_once = |port: &&Port| moves.added.contains(&port.id());
        let added: Vec<&Port> = new.ports().filter(is_at_once).collect();
        let encoder = changes.iter().find(|change| change.unit == UnitId::encoder());
        let is_encoder_new = encoder.is_some_and(|it| matches!(it.action, Action::Start | Action::Restart));
        // That of one that runs may be gone.
        let checked = Cluster { encoder: new.encoder.clone().filter(|_| is_encoder_new), ..new.clone() };
        kernel.prepare(&checked, &added).map_err(|why| refuse(format!("nothing was touched: {why}")))?;
        let ids: Vec<UnitId> = moves.added.iter().chain(&moves.late).cloned().collect();
        // What an earlier rollback had to leave alone is gone by now.
        self.members.retain(|member| !ids.contains(&member.id));
        let new_ones = specs(&new, &self.dirs).into_iter().filter(|(spec, _)| ids.contains(spec.id()));
        new_ones.for_each(|(spec, port)| self.insert(Member::new(spec, port)));

        let start = |id: &UnitId| Step::Start { id: id.clone() };
        let (consent, limit) = (file.yes, file.drain_ms.map(Duration::from_millis));
        let leave = |role: Role| {
            let of = |ids: &[UnitId]| ids.iter().filter(|id| id.parts().0 == role).cloned().collect();
            Step::Leave(Leave { removed: of(&moves.removed), moved: of(&moves.moved), limit, consent })
        };
        let mut steps: Vec<Step> = moves.kept.iter().map(|id| Step::Keep { id: id.clone() }).collect();
        steps.extend(moves.added.iter().map(start));
        steps.extend(moves.added.iter().map(|id| await_ready(id.clone(), false)));
        steps.extend(self.told(&moves, &new));
        let is_origin = |id: &UnitId| id.parts().0 == Role::Origin;
        // Where the encoder is to publish to is there only then.
        let is_encoder_late = moves.late.iter().chain(&moves.moved).any(is_origin);
        let encoder = encoder.filter(|it| it.action != Action::Nothing).map(|_| Step::Encoder { end: None });
        let (at_once, late) = if is_encoder_late { (None, encoder) } else { (encoder, None) };
        steps.push(Step::Commit { file, new: Box::new(new), changes: changes.to_vec() });
        steps.push(leave(Role::Edge));
        // It does not wait for those who leave, nor they for it.
        steps.extend(at_once);
        steps.push(leave(Role::Origin));
        steps.push(Step::AwaitLeft { ids: moves.awaited.clone() });
        for id in &moves.late {
            steps.extend([start(id), await_ready(id.clone(), true)]);
        }
        steps.extend(late);
        steps.extend([Step::AwaitAnswers { end: None }, Step::Retry { idle: false }]);
        job.push_first(steps);
        job.undo = vec![Step::Remove { ids, end: None, how: Removal::TakenBack }];
        Ok(())
    }

    /// That no process is in the way that is left alone, or still ends.
    fn check_untouched(&self, moves: &Moves, new: &Cluster) -> Result<(), Error> {
        let refuse = |why| Error::new(Code::Refused, format!("nothing was touched: {why}"));
        let secret = self.dirs.secret();
        let is_new = |id: &&UnitId| {
            let port = new.ports().find(|port| port.id() == **id);
            match (self.member(id).map(|member| &member.spec), port) {
                (Some(ProcessSpec::Worker(old)), Some(port)) => {
                    !differ_in_share(old, &new.worker_spec(port, secret.clone()))
                }
                _ => true,
            }
        };
        let added = || moves.added.iter().chain(&moves.late);
        let told = moves.told.iter().filter(is_new);
        let touched = added().chain(&moves.removed).chain(&moves.moved).chain(&moves.kept).chain(told);
        if let Some(why) = touched.filter_map(|id| self.member(id)).find_map(Member::left_alone) {
            return Err(refuse(why));
        }
        // An earlier addition was taken back, or it was taken out, and its process does not end.
        let mut added = added().filter_map(|id| self.member(id)).filter(|member| !member.is_at_rest());
        let mut leaving =
            moves.kept.iter().chain(&moves.removed).chain(&moves.moved).filter_map(|id| self.member(id));
        let is_stopping = |it: &&Member| it.departure.as_ref().is_some_and(Departure::is_stopping);
        match added.next().or_else(|| leaving.find(is_stopping)) {
            Some(member) => Err(refuse(format!("{} is still being stopped; try again later", member.id))),
            None => Ok(()),
        }
    }

    /// What running ports are told before anybody is disconnected: an origin forwards to those too that are taken out, as long as they are
    /// there.
    fn told(&self, moves: &Moves, new: &Cluster) -> Vec<Step> {
        let leaving = moves.leaving();
        let told = |port: &&Port| moves.told.contains(&port.id());
        let step = |port: &Port| {
            let spec = self.with_leaving(new.worker_spec(port, self.dirs.secret()), &leaving);
            let is_share = match self.member(&spec.id).map(|member| &member.spec) {
                Some(ProcessSpec::Worker(before)) => differ_in_share(before, &spec),
                Some(ProcessSpec::Encoder(_)) | None => false,
            };
            // One that does not take its share now, takes it later.
            Configure::step(spec, !is_share)
        };
        new.ports().filter(told).map(step).collect()
    }

    /// Adds a member behind those of its role.
    pub(super) fn insert(&mut self, member: Member) {
        let rank = |role| [Role::Origin, Role::Edge, Role::Encoder].iter().position(|it| *it == role);
        let place = self.members.iter().position(|it| rank(it.role()) > rank(member.role()));
        self.members.insert(place.unwrap_or(self.members.len()), member);
    }

    pub(super) fn start_added(
        &mut self,
        id: &UnitId,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        job.has_begun = true;
        kernel.say(job.client, format!("starting {id}"));
        kernel.record(events::of_unit(Happened::Added, id, None, ""));
        self.feed_id(id, Event::Want(Wanted::Up), now, kernel);
        Turn::Done
    }

    pub(super) fn commit(
        &mut self,
        (file, new, changes): (&Apply, Cluster, Vec<Change>),
        job: &mut Job,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let what = match file.rollback {
            Some(number) => format!("rollback to {number}: {}", summary(&changes)),
            None => summary(&changes),
        };
        match kernel.put_in_force(file, job.by, what) {
            Ok(generation) => self.generation = generation,
            Err(why) => return Turn::Failed(Error::new(Code::Failed, job.as_before(why))),
        }
        job.undo.clear();
        file.path.clone_into(&mut self.path);
        for member in &mut self.members {
            let port = new.ports().find(|port| port.id() == member.id);
            // Of one that moves it says where it still is.
            let is_here = |port: &&Port| member.port.as_ref().is_some_and(|it| it.listen == port.listen);
            if let Some(port) = port.filter(is_here) {
                member.port = Some(port.clone());
            }
        }
        self.cluster = new;
        for change in changes.into_iter().filter(|it| it.action == Action::Reconfigure) {
            kernel.record(events::of_unit(Happened::Configured, &change.unit, None, change.why.join("; ")));
        }
        Turn::Done
    }

    pub(super) fn retry(
        &mut self,
        idle: bool,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let failed =
            |member: &&Member| matches!(member.machine.state(), State::Failed { .. }) && member.is_wanted();
        let ids: Vec<UnitId> = self.members.iter().filter(failed).map(|member| member.id.clone()).collect();
        if idle && ids.is_empty() {
            kernel.say(job.client, "nothing to change".to_owned());
        }
        for id in &ids {
            kernel.say(job.client, format!("starting {id} again"));
            self.feed_id(id, Event::Restart, now, kernel);
        }
        job.push_first(ids.into_iter().map(|id| await_ready(id, true)));
        Turn::Done
    }

    /// Brings back what was in force before this supervisor, which does not come to its work.
    pub(super) fn go_back(&mut self, before: InForce, job: &mut Job, kernel: &mut impl Kernel) -> Turn {
        let InForce { file, cluster } = before;
        match kernel.put_in_force(&file, None, "the start was interrupted".to_owned()) {
            Ok(generation) => self.generation = generation,
            Err(error) => tracing::warn!(%error, "the file before is not in force again"),
        }
        let secret = self.dirs.secret();
        let told: Vec<_> = cluster.ports().map(|port| cluster.worker_spec(port, secret.clone())).collect();
        job.push_first(told.into_iter().map(|spec| Configure::step(spec, false)));
        (self.cluster, self.path) = (cluster.clone(), file.path);
        Turn::Done
    }
}

/// Wait until a unit is ready that was just started; where the command is to `go_on` when it is not, that is told at its end.
pub(super) fn await_ready(id: UnitId, go_on: bool) -> Step {
    let program = Program::OfStart;
    Step::AwaitReady(AwaitReady { id, before: None, end: None, restart: None, go_on, program })
}
