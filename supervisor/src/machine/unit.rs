//! One supervised process as a pure machine: events in, at most one action out, time as an argument.

use std::time::Instant;

use cluster::status::UnitState;

use super::backoff::{Backoff, STABLE};
use super::exit::Last;
use super::state::{Action, Event, State, Wanted};

/// One supervised process.
#[derive(Clone, Debug)]
pub(crate) struct Unit {
    pub(super) wanted: Wanted,
    pub(super) state: State,
    pub(super) backoff: Backoff,
    pub(super) restarts: u32,
    pub(super) last_end: Option<(Instant, Last)>,
}

impl Default for Unit {
    fn default() -> Self {
        Self {
            wanted: Wanted::Down,
            state: State::Stopped,
            backoff: Backoff::default(),
            restarts: 0,
            last_end: None,
        }
    }
}

impl Unit {
    /// Takes what happened at `now`; the action must be carried out. `jitter` is a random number in 0..1.
    pub(crate) fn handle(&mut self, now: Instant, event: Event, jitter: f64) -> Option<Action> {
        if let Event::Want(wanted) = event {
            self.wanted = wanted;
        } else if event == Event::Restart {
            self.wanted = Wanted::Up;
        }
        match self.state.clone() {
            State::Stopped => self.handle_stopped(now, event, jitter),
            State::Starting => self.handle_starting(now, event, jitter),
            State::Running { since } => self.handle_running(now, event, since, jitter),
            State::Stopping { step, .. } => self.handle_stopping(now, event, step, jitter),
            State::Killing { why, ready_for, .. } => self.handle_killing(now, event, &why, ready_for, jitter),
            State::Backoff { .. } => self.handle_backoff(event),
            State::Failed { .. } => self.handle_failed(event),
            State::Unknown { .. } => self.handle_unknown(now, event),
        }
    }

    /// When [`Event::Deadline`] is due.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Stopping { until, .. } | State::Killing { until, .. } | State::Backoff { until } => {
                Some(*until)
            }
            State::Stopped
            | State::Starting
            | State::Running { .. }
            | State::Failed { .. }
            | State::Unknown { .. } => None,
        }
    }

    /// Where the unit stands.
    pub(crate) fn state(&self) -> &State {
        &self.state
    }

    /// What its owner wants.
    pub(crate) fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Where the unit stands, in the words of `status`.
    pub(crate) fn status(&self) -> UnitState {
        match &self.state {
            State::Stopped => UnitState::Stopped,
            State::Starting if self.backoff.is_flapping() => UnitState::Flapping,
            State::Starting => UnitState::Starting,
            State::Running { .. } => UnitState::Running,
            State::Stopping { .. } | State::Killing { .. } => UnitState::Stopping,
            State::Backoff { .. } if self.backoff.is_flapping() => UnitState::Flapping,
            State::Backoff { .. } => UnitState::Backoff,
            State::Failed { .. } => UnitState::Failed,
            State::Unknown { .. } => UnitState::Unknown,
        }
    }

    /// Whether it keeps dying.
    pub(crate) fn is_flapping(&self) -> bool {
        self.backoff.is_flapping()
    }

    /// Starts that nobody asked for.
    pub(crate) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// When and how the last process ended, or was not started.
    pub(crate) fn last_end(&self) -> Option<&(Instant, Last)> {
        self.last_end.as_ref()
    }

    /// Forgets old deaths once the process has been ready for long. To be called now and then.
    pub(crate) fn handle_time(&mut self, now: Instant) {
        if let State::Running { since } = self.state
            && now.saturating_duration_since(since) >= STABLE
        {
            self.backoff.handle_stable();
        }
    }
}
