//! How a port leaves its place, which is one way for all that do: those that a file does not name any more, those that it has listen
//! elsewhere, and those with which a supervisor that was killed had begun. Nobody comes any more, who is there has some time, the rest is
//! told and closed; then the process is stopped, and the port forgotten, or started where the file says. Each goes on by itself,
//! whatever the supervisor does beside it, and is written down, so that the next supervisor goes on with it ([`Departure`]).

use std::time::{Duration, Instant};

use cluster::events::Kind as Happened;
use cluster::plan::whom;
use cluster::status::Draining;
use cluster::{Drain, EncoderSpec, ProcessSpec, Role, UnitId, WorkerSpec};
use control::{Code, Error};

use super::apply::await_ready;
use super::departure::{DRAIN, DRAIN_MAX, Departure, Phase, Then};
use super::events;
use super::job::{Job, Leave, Step, Turn};
use super::kernel::{Client, Kernel, OnRecord, Report};
use super::member::Member;
use super::queue::Runs;
use super::reconciler::{Reconciler, specs};
use super::steps::STOP_LIMIT;
use crate::machine::state::{Event, State, Wanted};

/// How often those that leave are asked who is left.
const DRAIN_POLL: Duration = Duration::from_millis(500);
/// For so long players that were told to go are waited for.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Who is connected to a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Left {
    Nobody,
    /// Players and encoders.
    Some(u32, u32),
    /// It has not said since it was told to take nobody.
    Unknown,
}

impl Left {
    fn whom(self) -> String {
        match self {
            Self::Nobody => "nobody".to_owned(),
            Self::Some(players, encoders) => whom(Some(players), Some(encoders)),
            Self::Unknown => "whoever is there".to_owned(),
        }
    }
}

impl Reconciler {
    /// Has ports begin to leave.
    pub(super) fn leave(&mut self, leave: Leave, job: &Job, now: Instant, kernel: &mut impl Kernel) -> Turn {
        let Leave { removed, moved, limit, consent } = leave;
        let limit = limit.unwrap_or(DRAIN).min(DRAIN_MAX);
        let removed = removed.into_iter().map(|id| (id, Then::Removed));
        for (id, then) in removed.chain(moved.into_iter().map(|id| (id, Then::Moved))) {
            let Some(member) = self.member(&id) else { continue };
            let is_live = member.live.is_some();
            let there = match member.report.as_ref().map(|it| (it.process.players, self.encoders(member, it)))
            {
                Some((0, 0)) => Left::Nobody,
                Some((players, encoders)) => Left::Some(players, encoders),
                None => Left::Unknown,
            };
            self.depart(&id, Departure::begin(now, then, limit, consent), now, kernel);
            if is_live && !limit.is_zero() {
                let time = format!("who is there has {} s to go", limit.as_secs());
                kernel.say(job.client, format!("{id} takes nobody any more; {time}"));
                let text = format!("for {} s; there now: {}", limit.as_secs(), there.whom());
                kernel.record(events::of_unit(Happened::Draining, &id, None, text));
            } else if is_live && there != Left::Nobody {
                let text = format!("closed at once: {}", there.whom());
                kernel.record(events::of_unit(Happened::Drained, &id, None, text));
            }
        }
        self.forward_anew(now, kernel);
        Turn::Done
    }

    /// Has one port leave from now on.
    pub(super) fn depart(
        &mut self,
        id: &UnitId,
        departure: Departure,
        now: Instant,
        kernel: &mut impl Kernel,
    ) {
        let Some(member) = self.index(id).and_then(|index| self.members.get_mut(index)) else { return };
        let Departure { limit, consent, until, .. } = departure;
        let left = until.saturating_duration_since(now);
        let is_at_once = left.is_zero();
        member.departure = Some(departure);
        kernel.note_departure(id, Some(OnRecord { left, limit, consent }));
        let drain = if is_at_once && consent { Drain::Close } else { Drain::Refuse };
        self.refuse(id, drain, now, kernel);
        let Some(member) = self.index(id).and_then(|index| self.members.get_mut(index)) else { return };
        if let Some(departure) = &mut member.departure {
            if drain == Drain::Close {
                departure.phase = Phase::Closing(now + CLOSE_LIMIT);
            }
            // It has said so before.
            departure.told = departure.told.or_else(|| member.untold.is_none().then_some(now));
        }
    }

    /// Has a port take nobody, or close who is there.
    fn refuse(&mut self, id: &UnitId, drain: Drain, now: Instant, kernel: &mut impl Kernel) {
        let Some(Member { spec: ProcessSpec::Worker(spec), port: Some(port), .. }) = self.member(id) else {
            return;
        };
        // The origin may have moved meanwhile.
        let sources = self.cluster.worker_spec(port, self.dirs.secret()).sources;
        let spec = WorkerSpec { drain, sources, ..spec.clone() };
        self.set_spec(id, spec, now, kernel);
    }

    fn departure_mut(&mut self, id: &UnitId) -> Option<&mut Departure> {
        self.members.iter_mut().find(|member| member.id == *id)?.departure.as_mut()
    }

    /// Goes on with all ports that leave; true if one has come further.
    pub(super) fn go_on_leaving(&mut self, now: Instant, kernel: &mut impl Kernel) -> bool {
        // What a change has begun may be undone, which is against how it was then.
        if self.queue.runs() == Some(Runs::End) || self.job.as_ref().is_some_and(Job::is_open) {
            return false;
        }
        let leaving = self.members.iter().filter(|member| member.departure.is_some());
        let ids: Vec<UnitId> = leaving.map(|member| member.id.clone()).collect();
        let mut is_any = false;
        for id in ids {
            while self.go_on_with(&id, now, kernel) {
                is_any = true;
            }
        }
        is_any
    }

    /// Goes on with one of them; true if it has come further.
    fn go_on_with(&mut self, id: &UnitId, now: Instant, kernel: &mut impl Kernel) -> bool {
        let Some(member) = self.member(id) else { return false };
        let Some(departure) = &member.departure else { return false };
        if matches!(member.machine.state(), State::Unknown { .. }) {
            return false;
        }
        let left = self.left(member, departure);
        let has_stopped = member.is_at_rest();
        let next = match departure.phase {
            Phase::Stopping(_) | Phase::Stuck if has_stopped => {
                self.has_left(id, now, kernel);
                return true;
            }
            Phase::Stopping(until) if now >= until => Phase::Stuck,
            Phase::Stopping(_) | Phase::Stuck => return false,
            Phase::Draining | Phase::Overdue | Phase::Closing(_) if left == Left::Nobody => {
                if !matches!(departure.phase, Phase::Closing(_)) && member.live.is_some() {
                    let text = format!("nobody is left, after {} s", (now - departure.since).as_secs());
                    kernel.record(events::of_unit(Happened::Drained, id, None, text));
                }
                Phase::Stopping(now + STOP_LIMIT)
            }
            Phase::Draining if now >= departure.until && departure.consent => {
                let whom = left.whom();
                let text = format!("its time is over; closed: {whom}");
                kernel.record(events::of_unit(Happened::Drained, id, None, text));
                kernel.say(self.client_of(id), format!("closing the connections of {id}: {whom}"));
                self.refuse(id, Drain::Close, now, kernel);
                Phase::Closing(now + CLOSE_LIMIT)
            }
            Phase::Draining if now >= departure.until => Phase::Overdue,
            Phase::Closing(until) if now >= until => Phase::Stopping(now + STOP_LIMIT),
            Phase::Draining | Phase::Overdue | Phase::Closing(_) => {
                let is_due = departure.told.is_some() && departure.ask.is_none_or(|ask| now >= ask);
                if is_due && let Some(departure) = self.departure_mut(id) {
                    departure.ask = Some(now + DRAIN_POLL);
                    kernel.refresh(id);
                }
                return false;
            }
        };
        if let Some(departure) = self.departure_mut(id) {
            departure.phase = next;
        }
        if matches!(next, Phase::Stopping(_)) {
            self.feed_id(id, Event::Want(Wanted::Down), now, kernel);
        }
        true
    }

    /// A port has left its place: it is forgotten, or started where the file in force says.
    fn has_left(&mut self, id: &UnitId, now: Instant, kernel: &mut impl Kernel) {
        let client = self.client_of(id);
        let then = self.member(id).and_then(|member| member.departure.as_ref()).map(|it| it.then);
        let place = specs(&self.cluster, &self.dirs).into_iter().find(|(spec, _)| spec.id() == id);
        kernel.close_port(id);
        match (then, place) {
            (Some(Then::Moved), Some((spec, port))) => {
                kernel.note_departure(id, None);
                if let Some(member) = self.index(id).and_then(|index| self.members.get_mut(index)) {
                    (member.spec, member.port, member.departure) = (spec, port, None);
                }
                kernel.say(client, format!("moving {id}"));
                self.feed_id(id, Event::Want(Wanted::Up), now, kernel);
            }
            _ => {
                kernel.record(events::of_unit(Happened::Removed, id, None, ""));
                kernel.remove(id, false);
                self.members.retain(|member| member.id != *id);
                kernel.say(client, format!("{id} is removed"));
            }
        }
        self.forward_anew(now, kernel);
    }

    /// Who waits for a port to leave.
    fn client_of(&self, id: &UnitId) -> Option<Client> {
        let job = self.job.as_ref()?;
        let waits = |step: &Step| matches!(step, Step::AwaitLeft { ids } if ids.contains(id));
        job.client.filter(|_| job.steps.iter().any(waits))
    }

    pub(super) fn await_left(&self, ids: Vec<UnitId>, job: &mut Job, now: Instant) -> Turn {
        let (mut errors, mut ready) = (Vec::new(), Vec::new());
        for id in &ids {
            let Some(member) = self.member(id) else { continue };
            let Some(departure) = &member.departure else {
                ready.push(await_ready(id.clone(), true));
                continue;
            };
            let out = format!("{id} is out of the cluster, and its process is still there");
            let left = self.left(member, departure);
            // It may be about to say that nobody is left.
            let is_seen = left != Left::Unknown || now >= departure.until + STOP_LIMIT;
            errors.push(match (departure.phase, member.left_alone()) {
                (_, Some(why)) => Error::new(Code::NotReady, format!("{out}: {why}")),
                (Phase::Stuck, None) => {
                    let why = "it does not end, though it was sent SIGKILL";
                    Error::new(Code::NotReady, format!("{out}: {why}"))
                }
                (Phase::Overdue, None) if is_seen => {
                    let whom = left.whom();
                    let why = format!(
                        "{id} takes nobody any more, and goes on until nobody is left: {whom} came after the plan was made; \
                         to close it now: srsctl up --yes"
                    );
                    Error::new(Code::NeedsConsent, why)
                }
                (Phase::Overdue, None) => {
                    let due = departure.until + STOP_LIMIT;
                    return Turn::Wait(Step::AwaitLeft { ids }, Some(due));
                }
                (Phase::Draining | Phase::Closing(_) | Phase::Stopping(_), None) => {
                    return Turn::Wait(Step::AwaitLeft { ids }, None);
                }
            });
        }
        job.errors.extend(errors);
        job.push_first(ready);
        Turn::Done
    }

    /// Has a port stay: until this change is in force, it may have to leave all the same.
    pub(super) fn keep(&mut self, id: &UnitId, job: &mut Job, kernel: &mut impl Kernel) -> Turn {
        let Some(member) = self.index(id).and_then(|index| self.members.get_mut(index)) else {
            return Turn::Done;
        };
        let Some(departure) = member.departure.take() else { return Turn::Done };
        job.has_begun = true;
        kernel.note_departure(id, None);
        kernel.say(job.client, format!("{id} stays"));
        kernel.record(events::of_unit(Happened::Kept, id, None, "it takes players again"));
        job.undo.insert(0, Step::LeaveAgain { id: id.clone(), departure: Box::new(departure) });
        Turn::Done
    }

    /// Has it leave all the same, with the time that it had.
    pub(super) fn leave_again(
        &mut self,
        id: &UnitId,
        departure: Departure,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let Departure { then, until, limit, consent, .. } = departure;
        let left = until.saturating_duration_since(now);
        let again = Departure { limit, ..Departure::begin(now, then, left.max(CLOSE_LIMIT), consent) };
        self.depart(id, again, now, kernel);
        Turn::Done
    }

    /// Whether a port leaves and it is not known yet if anybody is left there.
    pub(super) fn is_leaving_unseen(&self, member: &Member) -> bool {
        let Some(departure) = member.departure.as_ref().filter(|_| member.left_alone().is_none()) else {
            return false;
        };
        match departure.phase {
            Phase::Draining => matches!(self.left(member, departure), Left::Nobody | Left::Unknown),
            Phase::Closing(_) | Phase::Stopping(_) => true,
            Phase::Overdue | Phase::Stuck => false,
        }
    }

    /// Who is connected to a port that leaves, as it has said since it takes nobody.
    fn left(&self, member: &Member, departure: &Departure) -> Left {
        if member.live.is_none() || member.port.is_none() {
            return Left::Nobody;
        }
        let Some(told) = departure.told else { return Left::Unknown };
        let Some(report) = member.report.as_ref().filter(|report| report.at >= told) else {
            let is_running = matches!(member.machine.state(), State::Running { .. });
            return if is_running { Left::Unknown } else { Left::Nobody };
        };
        match (report.process.players, self.encoders(member, report)) {
            (0, 0) => Left::Nobody,
            (players, encoders) => Left::Some(players, encoders),
        }
    }

    /// How many encoders publish to a port. That of the cluster is none of them: it goes where the origin goes. Those of an edge are the
    /// origin's.
    pub(super) fn encoders(&self, member: &Member, report: &Report) -> u32 {
        if member.role() != Role::Origin {
            return 0;
        }
        let own = u32::from(self.own_stream(member, report).is_some());
        report.process.publishers.saturating_sub(own)
    }

    /// The stream that the cluster's own encoder publishes to a port.
    pub(super) fn own_stream<'a>(&self, member: &Member, report: &'a Report) -> Option<&'a str> {
        let encoder = self.member(&UnitId::encoder()).filter(|encoder| encoder.live.is_some())?;
        let (ProcessSpec::Encoder(EncoderSpec { url, .. }), Some(port)) = (&encoder.spec, &member.port)
        else {
            return None;
        };
        // One that is refused since somebody else publishes its stream says so.
        let publishes = encoder.report.as_ref().is_none_or(|report| report.process.publishers > 0);
        let mut streams = report.streams.iter().filter(|it| publishes && it.publishing);
        streams.find(|it| port.local_url(&it.stream) == *url).map(|it| it.stream.as_str())
    }

    /// What a status says of a port that leaves.
    pub(super) fn draining(&self, member: &Member, now: Instant) -> Option<Draining> {
        let departure = member.departure.as_ref()?;
        let (players, encoders) = match (self.left(member, departure), &member.report) {
            (Left::Nobody, _) => (Some(0), Some(0)),
            (Left::Some(players, encoders), _) => (Some(players), Some(encoders)),
            (Left::Unknown, Some(report)) => {
                (Some(report.process.players), Some(self.encoders(member, report)))
            }
            (Left::Unknown, None) => (None, None),
        };
        let left = departure.until.saturating_duration_since(now).as_millis();
        let left_ms = departure.consent.then(|| u64::try_from(left).unwrap_or(u64::MAX));
        Some(Draining { left_ms, players, encoders, moves: departure.then == Then::Moved })
    }
}
