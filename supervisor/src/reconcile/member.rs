//! One unit with all that is known of it: machine, process, reports.

use std::time::{Duration, Instant};

use cluster::status::Health;
use cluster::{Port, ProcessSpec, Role, UnitId};
use control::cause;

use super::departure::Departure;
use super::kernel::{Instance, Report, Worker};
use super::untold::Untold;
use crate::machine::exit::{End, Exit, Last, Meaning};
use crate::machine::health::Ladder;
use crate::machine::keeper::Keeper;
use crate::machine::state::{State, Wanted};
use crate::machine::unit::Unit;

/// A report older than this says nothing of now.
const FRESH: Duration = Duration::from_secs(5);
/// A health that has lasted for so long is told as an event.
const LASTS: Duration = Duration::from_secs(5);

/// One unit.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) id: UnitId,
    pub(crate) spec: ProcessSpec,
    /// None of an encoder.
    pub(crate) port: Option<Port>,
    pub(crate) machine: Unit,
    pub(crate) live: Option<Live>,
    pub(crate) report: Option<Report>,
    pub(crate) probe: Ladder,
    /// What is wrong with the name of its host.
    pub(crate) name: Option<(Health, String)>,
    /// How its keeper was found.
    pub(crate) keeper: Keeper,
    /// What the process that ended last said of it.
    pub(crate) last_words: Option<String>,
    /// The same of one whose end is not known yet.
    pub(crate) heard: Option<String>,
    /// What a start still waits for.
    pub(crate) not_ready: Option<String>,
    /// It is unknown, and another look at it is under way.
    pub(crate) looked_for: bool,
    /// Workers that have died and whose connections went on.
    pub(crate) resumed: u32,
    /// Workers that have made place for another, as they were asked to.
    pub(crate) renewed: u32,
    /// Workers behind which nothing went on, and restarts that wanted that.
    pub(crate) cold_starts: u32,
    /// Connections that were lost with a process or a worker.
    pub(crate) lost: u64,
    /// Those among them that the process had that ended last.
    pub(crate) lost_last: u64,
    /// The version of what serves.
    pub(crate) version: Option<String>,
    /// What its worker was asked to make place for, in a word.
    pub(crate) renewal: Option<&'static str>,
    /// When and how the last worker ended that the port has outlived.
    outlived: Option<(Instant, String)>,
    /// A stream that is live at the origin and not here, or comes here no more, since when.
    pub(crate) missing: Option<(String, Instant)>,
    /// Its health, as far as that is an event.
    pub(crate) health: Settled,
    /// It leaves its place.
    pub(crate) departure: Option<Departure>,
    /// It has not said that it took its values.
    pub(crate) untold: Option<Untold>,
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) instance: Instance,
    /// Of a port its keeper.
    pub(crate) pid: u32,
    /// What serves; `None` before it has said who it is.
    pub(crate) serving: Option<Serving>,
    /// An earlier supervisor started it.
    pub(crate) adopted: bool,
    pub(crate) started: Instant,
}

/// The process that serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Serving {
    pub(crate) pid: u32,
    pub(crate) generation: u32,
    renewed: u32,
    /// It uses nothing of what those before it left.
    pub(crate) is_cold: bool,
    pub(crate) started: Instant,
}

/// The workers of a port that have ended since the one before was heard of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outlived {
    /// They died, and the next one went on with their connections.
    pub(crate) resumed: u32,
    /// They made place for one that did.
    pub(crate) renewed: u32,
    /// The next one used nothing of what they left.
    pub(crate) cold: u32,
}

impl Outlived {
    pub(crate) fn total(self) -> u32 {
        self.resumed + self.renewed + self.cold
    }
}

impl Member {
    pub(crate) fn new(spec: ProcessSpec, port: Option<Port>) -> Self {
        Self {
            id: spec.id().clone(),
            spec,
            port,
            machine: Unit::default(),
            live: None,
            report: None,
            probe: Ladder::default(),
            name: None,
            keeper: Keeper::default(),
            last_words: None,
            heard: None,
            not_ready: None,
            looked_for: false,
            resumed: 0,
            renewed: 0,
            cold_starts: 0,
            lost: 0,
            lost_last: 0,
            version: None,
            renewal: None,
            outlived: None,
            missing: None,
            health: Settled::default(),
            departure: None,
            untold: None,
        }
    }

    pub(crate) fn role(&self) -> Role {
        self.spec.role()
    }

    /// It has a new process, of which nothing is known yet.
    pub(crate) fn handle_process(&mut self, live: Live) {
        self.report = None;
        self.probe = Ladder::default();
        self.name = None;
        self.keeper = Keeper::default();
        self.not_ready = None;
        self.missing = None;
        // It starts with them.
        self.untold = None;
        self.live = Some(live);
    }

    /// Another worker serves; tells what the port has outlived.
    pub(crate) fn handle_worker(&mut self, worker: &Worker, now: Instant) -> Outlived {
        let Some(live) = &mut self.live else { return Outlived::default() };
        let started = now.checked_sub(worker.age).unwrap_or(now);
        let Worker { pid, generation, renewed, is_cold, lost, .. } = *worker;
        self.version = Some(worker.version.clone());
        let before = live.serving.replace(Serving { pid, generation, renewed, is_cold, started });
        let (of_before, renewed_before) = before.map_or((0, 0), |before| (before.generation, before.renewed));
        let ended = generation.saturating_sub(of_before);
        if ended == 0 {
            return Outlived::default();
        }
        self.lost = self.lost.saturating_add(lost.into());
        // It counts from 0 again.
        self.report = None;
        self.missing = None;
        let mut outlived =
            Outlived { renewed: renewed.saturating_sub(renewed_before).min(ended), ..Outlived::default() };
        outlived.resumed = ended - outlived.renewed;
        if is_cold {
            // Of those that ended the last one.
            let made_place = worker.cause.as_deref().is_some_and(|cause| cause.starts_with(cause::RESTART));
            let of = if made_place { &mut outlived.renewed } else { &mut outlived.resumed };
            let cold = 1.min(*of);
            *of -= cold;
            outlived.cold = cold;
        }
        self.renewed = self.renewed.saturating_add(outlived.renewed);
        self.resumed = self.resumed.saturating_add(outlived.resumed);
        self.cold_starts = self.cold_starts.saturating_add(outlived.cold);
        self.outlived = worker.cause.clone().map(|cause| (started, cause));
        outlived
    }

    /// A worker has made place for this one: says what for, of which its keeper knows that it was asked to.
    pub(crate) fn name_renewal(&mut self, worker: &mut Worker) {
        let Some(rest) = worker.cause.as_deref().and_then(|cause| cause.strip_prefix(cause::RESTART)) else {
            return;
        };
        let Some(word) = self.renewal.take() else { return };
        let cause = format!("{word}{rest}");
        if let Some((_, how)) = &mut self.outlived {
            how.clone_from(&cause);
        }
        worker.cause = Some(cause);
    }

    /// Its process has ended, and with it all its connections.
    pub(crate) fn handle_exit(&mut self) {
        // Of an encoder it is its own.
        let report = self.report.as_ref().filter(|_| self.port.is_some());
        self.lost_last = report.map_or(0, |report| report.process.connections.into());
        self.lost = self.lost.saturating_add(self.lost_last);
        self.live = None;
        self.report = None;
        self.missing = None;
        self.untold = None;
        self.last_words = self.heard.take();
    }

    /// How the last process or worker ended, or why there was none, with what it said of it.
    pub(crate) fn last_end(&self) -> Option<(Instant, String)> {
        // A worker's signal is not told by its keeper's end.
        let is_keepers = |how: &Last| match how {
            Last::Ended(End { exit, meaning: Meaning::Crash, .. }) => !matches!(exit, Exit::Code(_)),
            Last::Ended(_) | Last::NotStarted { .. } => false,
        };
        let ended = self.machine.last_end().map(|(at, how)| {
            let mut text = how.to_string();
            if self.port.is_some() && is_keepers(how) {
                let verb = if text.starts_with("killed") { "was " } else { "" };
                text = format!("its keeper {verb}{text}");
            }
            match &self.last_words {
                Some(words) => (*at, format!("{text}: {words}")),
                None => (*at, text),
            }
        });
        ended.into_iter().chain(self.outlived.clone()).max_by_key(|(at, _)| *at)
    }

    /// Whether it serves, as far as can be known. One that was taken over counts only when it has reported.
    pub(crate) fn is_ready(&self) -> bool {
        let is_silent = self.report.is_none() && self.live.is_some_and(|live| live.adopted);
        matches!(self.machine.state(), State::Running { .. }) && !is_silent
    }

    /// Whether it is to serve: it is not stopped, and does not leave its place.
    pub(crate) fn is_wanted(&self) -> bool {
        self.machine.wanted() == Wanted::Up && self.departure.is_none()
    }

    /// The newest report, unless it is too old to speak of `now`.
    pub(crate) fn fresh_report(&self, now: Instant) -> Option<&Report> {
        self.report.as_ref().filter(|report| now.saturating_duration_since(report.at) < FRESH)
    }

    /// Whether an end stops it: `all`, or only those whose process no earlier supervisor started.
    pub(crate) fn is_stopped(&self, all: bool) -> bool {
        all || self.live.is_none_or(|live| !live.adopted)
    }

    /// That the process is not touched, and why, if so.
    pub(crate) fn left_alone(&self) -> Option<String> {
        match self.machine.state() {
            State::Unknown { why } => Some(format!("{} is left alone: {why}", self.id)),
            State::Stopped
            | State::Starting
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Backoff { .. }
            | State::Failed { .. } => None,
        }
    }

    /// Nothing more happens to it by itself.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.machine.state() {
            State::Stopped | State::Failed { .. } | State::Unknown { .. } => true,
            State::Starting
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Backoff { .. } => false,
        }
    }
}

/// A unit's health, of which a change counts once it has lasted.
#[derive(Debug)]
pub(crate) struct Settled {
    told: Health,
    /// Another one, and since when.
    next: Option<(Health, Instant)>,
}

impl Default for Settled {
    fn default() -> Self {
        Self { told: Health::Passing, next: None }
    }
}

impl Settled {
    /// Takes the health `now` in; tells whether it is another one than was told, and lasts. What is not known changes nothing.
    pub(crate) fn handle(&mut self, now: Instant, health: Health) -> bool {
        if health == Health::Unknown || health == self.told {
            self.next = None;
            return false;
        }
        let since = self.next.filter(|(next, _)| *next == health).map_or(now, |(_, since)| since);
        self.next = Some((health, since));
        let lasts = now.saturating_duration_since(since) >= LASTS;
        if lasts {
            (self.told, self.next) = (health, None);
        }
        lasts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::{EncoderSource, EncoderSpec};

    fn member(now: Instant) -> Member {
        let spec = EncoderSpec {
            id: UnitId::encoder(),
            cluster: "live".into(),
            source: EncoderSource::TestCard,
            url: "rtmp://127.0.0.5/live/a".into(),
        };
        let mut member = Member::new(ProcessSpec::Encoder(spec), None);
        member.handle_process(Live { instance: 1, pid: 10, serving: None, adopted: false, started: now });
        member
    }

    fn worker(pid: u32, generation: u32, cause: Option<&str>) -> Worker {
        let (cause, version) = (cause.map(str::to_owned), "1".to_owned());
        Worker { pid, generation, renewed: 0, cause, is_cold: false, lost: 0, version, age: Duration::ZERO }
    }

    #[test]
    fn what_a_port_outlives_is_counted_whatever_was_seen_of_it_and_no_process_forgets_it() {
        let now = Instant::now();
        let mut member = member(now);
        let mut outlived = |worker: Worker| {
            let Outlived { resumed, renewed, cold } = member.handle_worker(&worker, now);
            ((resumed, renewed, cold), (member.resumed, member.renewed, member.cold_starts))
        };
        assert_eq!(outlived(worker(11, 0, None)), ((0, 0, 0), (0, 0, 0)));
        assert_eq!(outlived(worker(12, 1, Some("exit 70"))), ((1, 0, 0), (1, 0, 0)));
        assert_eq!(outlived(worker(15, 4, Some("exit 101"))), ((3, 0, 0), (4, 0, 0)));
        let restarted = Worker { renewed: 1, ..worker(16, 5, Some("exit 101")) };
        assert_eq!(outlived(restarted.clone()), ((0, 1, 0), (4, 1, 0)));
        assert_eq!(outlived(Worker { pid: 18, generation: 7, ..restarted }), ((2, 0, 0), (6, 1, 0)));
        assert_eq!(member.last_end(), Some((now, "exit 101".to_owned())));
        member.handle_process(Live { instance: 2, pid: 20, serving: None, adopted: true, started: now });
        assert_eq!(
            member.handle_worker(&worker(23, 2, Some("exit 70")), now),
            Outlived { resumed: 2, ..Outlived::default() },
            "before it was taken over"
        );
        assert_eq!(member.resumed, 8);
    }

    #[test]
    fn a_worker_that_goes_on_with_nothing_is_a_cold_start_and_neither_resumed_nor_renewed() {
        let now = Instant::now();
        let mut member = member(now);
        member.handle_worker(&worker(11, 0, None), now);
        let cold = |generation, renewed, cause| Worker {
            renewed,
            is_cold: true,
            ..worker(20 + generation, generation, Some(cause))
        };
        for (worker, counts) in [
            (cold(3, 0, "killed by SIGKILL; all forgotten"), (2, 0, 1)),
            (cold(3, 0, "killed by SIGKILL; all forgotten"), (2, 0, 1)),
            (cold(4, 1, "restart; what was left is of another version"), (2, 0, 2)),
            (cold(6, 2, "exit 70; all forgotten"), (2, 1, 3)),
            (Worker { renewed: 2, ..worker(30, 7, Some("exit 70")) }, (3, 1, 3)),
        ] {
            member.handle_worker(&worker, now);
            assert_eq!((member.resumed, member.renewed, member.cold_starts), counts, "{worker:?}");
        }
    }

    #[test]
    fn an_upgrade_is_told_as_one_and_with_all_that_its_keeper_says() {
        let now = Instant::now();
        let mut member = member(now);
        let told = |member: &mut Member, renewal, generation, cause| {
            member.renewal = renewal;
            let mut worker = worker(11, generation, Some(cause));
            member.handle_worker(&worker, now);
            member.name_renewal(&mut worker);
            assert_eq!(member.last_end().map(|(_, how)| how), worker.cause);
            worker.cause.unwrap()
        };
        assert_eq!(told(&mut member, Some("upgrade"), 1, "restart"), "upgrade");
        assert_eq!(told(&mut member, None, 2, "restart"), "restart", "of somebody else");
        assert_eq!(told(&mut member, Some("upgrade"), 3, "exit 70"), "exit 70");
        assert_eq!(told(&mut member, Some("upgrade"), 4, "restart; it cannot"), "upgrade; it cannot");
    }

    #[test]
    fn a_health_is_told_once_it_lasts_and_once() {
        use Health::{Critical, Passing, Unknown, Warning};
        let (start, mut health, mut told) = (Instant::now(), Settled::default(), Vec::new());
        // One of each second.
        let seconds = [
            (Passing, 9),
            (Warning, 3),
            (Passing, 1),
            (Warning, 3),
            (Unknown, 1),
            (Critical, 9),
            (Passing, 9),
        ];
        let seconds = seconds.into_iter().flat_map(|(health, count)| std::iter::repeat_n(health, count));
        for (second, now) in seconds.enumerate() {
            if health.handle(start + Duration::from_secs(second as u64), now) {
                told.push((second, now));
            }
        }
        assert_eq!(told, [(22, Critical), (31, Passing)]);
    }

    #[test]
    fn a_new_worker_has_reported_nothing_yet() {
        let now = Instant::now();
        let mut member = member(now);
        let report = Report { at: now, process: Default::default(), streams: Vec::new() };
        for (generation, is_there) in [(0, true), (1, false)] {
            member.report = Some(report.clone());
            member.handle_worker(&worker(11 + generation, generation, None), now);
            assert_eq!(member.report.is_some(), is_there);
        }
    }
}
