//! One unit with all that is known of it: machine, process, reports.

use std::time::{Duration, Instant};

use cluster::status::Health;
use cluster::{Port, ProcessSpec, Role, UnitId};

use super::kernel::{Instance, Report};
use crate::machine::health::Ladder;
use crate::machine::state::State;
use crate::machine::unit::Unit;

/// A report older than this says nothing of now.
const FRESH: Duration = Duration::from_secs(5);

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
    /// What the process that ended last said of it.
    pub(crate) last_words: Option<String>,
    /// The same of one whose end is not known yet.
    pub(crate) heard: Option<String>,
    /// What a start still waits for.
    pub(crate) not_ready: Option<String>,
    /// It is unknown, and another look at it is under way.
    pub(crate) looked_for: bool,
    /// A stream that is live at the origin and not here, or comes here no more, since when.
    pub(crate) missing: Option<(String, Instant)>,
}

/// A process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Live {
    pub(crate) instance: Instance,
    pub(crate) pid: u32,
    /// An earlier supervisor started it.
    pub(crate) adopted: bool,
    pub(crate) started: Instant,
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
            last_words: None,
            heard: None,
            not_ready: None,
            looked_for: false,
            missing: None,
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
        self.not_ready = None;
        self.missing = None;
        self.live = Some(live);
    }

    /// Its process has ended.
    pub(crate) fn handle_exit(&mut self) {
        self.live = None;
        self.report = None;
        self.missing = None;
        self.last_words = self.heard.take();
    }

    /// How the last process ended, or why there was none, with what it said of it.
    pub(crate) fn last_end(&self) -> Option<(Instant, String)> {
        let (at, how) = self.machine.last_end()?;
        let how = match &self.last_words {
            Some(words) => format!("{how}: {words}"),
            None => how.to_string(),
        };
        Some((*at, how))
    }

    /// Whether it serves, as far as can be known. One that was taken over counts only when it has reported.
    pub(crate) fn is_ready(&self) -> bool {
        let is_silent = self.report.is_none() && self.live.is_some_and(|live| live.adopted);
        matches!(self.machine.state(), State::Running { .. }) && !is_silent
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
