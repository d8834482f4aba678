//! The steps by which a port is taken out of the cluster: nobody comes any more, who is there has some time, the rest is told and
//! closed; then the process is stopped, the port closed and what is remembered of it removed. [`Reconciler::remove`] is the one way on
//! which a port leaves: also one whose addition is undone, and one that a supervisor which was killed has not come to.

use std::time::{Duration, Instant};

use cluster::events::Kind as Happened;
use cluster::{Drain, ProcessSpec, Role, UnitId, WorkerSpec};
use control::{Code, Error};

use super::apply::await_ready;
use super::events;
use super::job::{AwaitReady, Configure, Draining, Job, Removal, Step, Turn};
use super::kernel::{Kernel, Program};
use super::member::Member;
use super::reconciler::{Reconciler, specs};
use super::steps::STOP_LIMIT;
use crate::machine::state::{Event, State, Wanted};

/// For so long a port that is taken out keeps its players where nothing else is asked for: enough for a page that reloads by itself to
/// move on, and short enough to wait for.
const DRAIN: Duration = Duration::from_secs(30);
/// The longest that may be asked for: as long the supervisor takes no other change.
pub const DRAIN_MAX: Duration = Duration::from_secs(3_600);
/// How often those that leave are asked who is left.
const DRAIN_POLL: Duration = Duration::from_millis(500);
/// For so long players that were told to go are waited for.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

impl Reconciler {
    /// The steps by which `ids` get rid of those whom they have, for which they have the time `limit`.
    pub(super) fn leave(&self, ids: Vec<UnitId>, limit: Option<Duration>) -> Vec<Step> {
        let limit = limit.unwrap_or(DRAIN).min(DRAIN_MAX);
        let mut steps = if limit.is_zero() { Vec::new() } else { self.refuse(&ids, Drain::Refuse) };
        steps.push(Step::Drain(Draining { ids, limit, begun: None, ask: None, is_last: false }));
        steps
    }

    /// Has those that are left have nobody come, or close who is there.
    fn refuse(&self, ids: &[UnitId], drain: Drain) -> Vec<Step> {
        let specs = ids.iter().filter_map(|id| match &self.member(id)?.spec {
            ProcessSpec::Worker(spec) => Some(WorkerSpec { drain, ..spec.clone() }),
            ProcessSpec::Encoder(_) => None,
        });
        // One that does not know of it is closed at the end.
        specs.map(|spec| Configure::step(spec, false)).collect()
    }

    pub(super) fn drain(
        &mut self,
        mut draining: Draining,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let is_first = draining.begun.is_none();
        let begun = *draining.begun.get_or_insert(now);
        let end = begun + draining.limit;
        let used: Vec<(UnitId, u32)> = draining
            .ids
            .iter()
            .filter_map(|id| Some((id.clone(), self.member(id)?.connected(begun)?)))
            .collect();
        if used.is_empty() {
            return Turn::Done;
        }
        if now >= end && !draining.is_last {
            for (id, left) in &used {
                kernel.say(job.client, format!("closing the connections of {id}, {left} are left"));
            }
            let ids: Vec<UnitId> = used.into_iter().map(|(id, _)| id).collect();
            let last = Draining { ids, limit: CLOSE_LIMIT, begun: None, ask: None, is_last: true };
            let steps: Vec<Step> =
                self.refuse(&last.ids, Drain::Close).into_iter().chain([Step::Drain(last)]).collect();
            job.push_first(steps);
            return Turn::Done;
        }
        if now >= end {
            return Turn::Done;
        }
        if is_first && !draining.is_last {
            let seconds = draining.limit.as_secs();
            for id in &draining.ids {
                kernel.say(
                    job.client,
                    format!("{id} takes nobody any more; who is there has {seconds} s to go"),
                );
            }
        }
        let ask = match draining.ask {
            Some(ask) if now < ask => ask,
            Some(_) | None => {
                used.iter().for_each(|(id, _)| kernel.refresh(id));
                now + DRAIN_POLL
            }
        };
        draining.ask = Some(ask);
        Turn::Wait(Step::Drain(draining), Some(end.min(ask)))
    }

    /// Stops units and forgets them.
    pub(super) fn remove(
        &mut self,
        (ids, end, how): (Vec<UnitId>, Option<Instant>, Removal),
        job: &mut Job,
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
            return Turn::Wait(Step::Remove { ids, end: Some(end), how }, Some(end));
        }
        for id in &ids {
            let Some(member) = self.member(id) else { continue };
            let left_alone = member.left_alone();
            if left_alone.is_none() && member.live.is_none() {
                let kind = match how {
                    Removal::TakenBack => Happened::TakenBack,
                    Removal::Removed => Happened::Removed,
                };
                kernel.record(events::of_unit(kind, id, None, ""));
                kernel.remove(id, false);
                self.members.retain(|member| member.id != *id);
                if how == Removal::Removed {
                    kernel.say(job.client, format!("{id} is removed"));
                }
                continue;
            }
            if left_alone.is_some() {
                // It stays, to be told of, without the port.
                kernel.close_port(id);
            }
            if how == Removal::Removed {
                let why =
                    left_alone.unwrap_or_else(|| "it does not end, though it was sent SIGKILL".to_owned());
                let why = format!("{id} is out of the cluster, and its process is still there: {why}");
                job.errors.push(Error::new(Code::NotReady, why));
            }
        }
        Turn::Done
    }

    /// Stops a port, and starts it where the file in force says now.
    pub(super) fn move_port(
        &mut self,
        (id, end): (UnitId, Option<Instant>),
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let new = specs(&self.cluster, &self.dirs).into_iter().find(|(spec, _)| *spec.id() == id);
        let Some((spec, port)) = new else { return Turn::Done };
        if end.is_none() {
            kernel.say(job.client, format!("moving {id}"));
            self.feed_id(&id, Event::Want(Wanted::Down), now, kernel);
        }
        let end = end.unwrap_or(now + STOP_LIMIT);
        let Some(member) = self.member(&id) else { return Turn::Done };
        if !member.is_at_rest() && now < end {
            return Turn::Wait(Step::Move { id, end: Some(end) }, Some(end));
        }
        let why = member.left_alone();
        if let Some(member) = self.index(&id).and_then(|index| self.members.get_mut(index)) {
            (member.spec, member.port) = (spec, port);
        }
        kernel.close_port(&id);
        self.feed_id(&id, Event::Want(Wanted::Up), now, kernel);
        match why {
            Some(why) => job.errors.push(Error::new(Code::NotReady, why)),
            None => job.push_first([await_ready(id, true)]),
        }
        Turn::Done
    }

    /// Has the encoder do what the file in force says now.
    pub(super) fn change_encoder(
        &mut self,
        end: Option<Instant>,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let id = UnitId::encoder();
        let Some(spec) = self.cluster.encoder_spec().map(ProcessSpec::Encoder) else {
            job.push_first([Step::Remove { ids: vec![id], end, how: Removal::Removed }]);
            return Turn::Done;
        };
        match self.index(&id).and_then(|index| self.members.get_mut(index)) {
            Some(member) => {
                let before = member.live.map(|live| live.instance);
                member.spec = spec;
                kernel.say(job.client, format!("restarting {id}"));
                self.feed_id(&id, Event::Restart, now, kernel);
                let program = Program::OfStart;
                let wait = AwaitReady { id, before, end: None, restart: None, go_on: true, program };
                job.push_first([Step::AwaitReady(wait)]);
            }
            None => {
                self.insert(Member::new(spec, None));
                job.push_first([Step::Start { id: id.clone() }, await_ready(id, true)]);
            }
        }
        Turn::Done
    }
}

impl Member {
    /// How many players and encoders it has, as it has said since `begun`; as it says, at least one, until then. None: nobody.
    fn connected(&self, begun: Instant) -> Option<u32> {
        self.live?;
        self.port.as_ref()?;
        let is_running = matches!(self.machine.state(), State::Running { .. });
        let Some(report) = self.report.as_ref().filter(|report| report.at >= begun) else {
            return is_running
                .then(|| self.report.as_ref().map_or(1, |report| report.process.players.max(1)));
        };
        // Those of an edge are the origin's.
        let encoders = if self.role() == Role::Origin { report.process.publishers } else { 0 };
        Some(report.process.players.saturating_add(encoders)).filter(|left| *left > 0)
    }
}
