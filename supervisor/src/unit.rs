//! One supervised process as a pure machine: events in, at most one action out, time as an argument.

mod transitions;

use std::time::{Duration, Instant};

use cluster::status::UnitState;

use crate::backoff::Backoff;

/// A start that is not ready by then is killed and counts as a death.
pub const START_LIMIT: Duration = Duration::from_secs(30);
/// From asking a process to stop until it is sent SIGTERM, and from there until SIGKILL.
pub const STOP_STEP: Duration = Duration::from_secs(5);
/// SIGKILL is repeated this often while the kernel has not ended the process.
pub const KILL_REPEAT: Duration = Duration::from_secs(10);

/// What its owner wants of a unit, apart from what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// A process that serves.
    Up,
    /// No process.
    Down,
}

/// Where a unit stands.
///
/// ```text
///                spawn              Ready
///   Stopped ─────────────▶ Starting ──────▶ Running ◀── Adopted (found alive by a new supervisor)
///      ▲                    │ ▲  │ late, frozen │
///      │ Exited, not wanted │ │  ▼              ▼ frozen
///      ├────────────────────┼─┼─ Killing ◀──────┤
///      │                    │ │  │ Exited       │ Exited
///      │                    │ │  ▼              ▼
///      │                    │ └─ Backoff ◀──────┘         Failed: bad config or no binary
///      │        asked to    ▼   Deadline                  Unknown: the lock is held by a process that
///      └──────────────── Stopping ──▶ Starting (restart)            cannot be proved to be ours
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum State {
    /// No process, none wanted.
    Stopped,
    /// A process was spawned and is not ready yet.
    Starting {
        /// When.
        since: Instant,
    },
    /// Ready: it answered on its control socket and took an RTMP connect.
    Running {
        /// Since when it is ready.
        since: Instant,
    },
    /// Told to stop, as a person wished; its exit is no death.
    Stopping {
        /// How far the stop has gone.
        step: Stop,
        /// When the next step is due.
        until: Instant,
    },
    /// Sent SIGKILL because it does not do its work; its exit is a death.
    Killing {
        /// What it failed to do.
        why: String,
        /// How long it had been ready, if ever.
        ready_for: Option<Duration>,
        /// When SIGKILL is repeated.
        until: Instant,
    },
    /// Dead; the next start is due at `until`.
    Backoff {
        /// When.
        until: Instant,
    },
    /// Not started again without a change.
    Failed {
        /// Why, for a person.
        why: String,
    },
    /// Somebody holds the unit's lock; nothing is done to it.
    Unknown {
        /// What could not be proved.
        why: String,
    },
}

/// How far a stop has gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Asked on the control socket.
    Asked,
    /// Sent SIGTERM.
    Terminated,
    /// Sent SIGKILL.
    Killed,
}

/// What happened to a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// Its owner wants it so from now on.
    Want(Wanted),
    /// A person asks for a new process; implies [`Wanted::Up`].
    Restart,
    /// The moment of [`Unit::deadline`] has come.
    Deadline,
    /// [`Action::Spawn`] did not give a process.
    SpawnFailed {
        /// Trying again cannot help: no binary, bad config.
        fatal: bool,
        /// Why, for a person.
        why: String,
    },
    /// The process is ready.
    Ready,
    /// The process shows no sign of life.
    Frozen {
        /// Which one is missing.
        why: String,
    },
    /// The process could not be asked to stop.
    AskFailed,
    /// The process has ended.
    Exited(Exit),
    /// A process of an earlier supervisor was proved to be this unit's.
    Adopted,
    /// A process that cannot be proved to be this unit's holds its lock.
    Unproven {
        /// What is missing.
        why: String,
    },
    /// The lock that an unknown process held is free.
    Freed,
}

/// What is to be done to a unit's process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Start a process.
    Spawn,
    /// Ask it to stop, on its control socket.
    AskStop,
    /// Send SIGTERM.
    Terminate,
    /// Send SIGKILL.
    Kill,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Its exit code.
    Code(i32),
    /// The signal that ended it.
    Signal(i32),
    /// It was no child of this supervisor, so that the kernel does not tell.
    Unobserved,
}

impl Exit {
    /// EX_USAGE and EX_CONFIG of sysexits.h: the same start would end the same way.
    fn is_final(self) -> bool {
        matches!(self, Self::Code(64 | 78))
    }
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match *self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(number) => match nix::sys::signal::Signal::try_from(number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
            Self::Unobserved => f.write_str("ended (adopted, so its exit code is not known)"),
        }
    }
}

/// One supervised process.
#[derive(Clone, Debug)]
pub struct Unit {
    wanted: Wanted,
    state: State,
    backoff: Backoff,
    restarts: u32,
    last_end: Option<(Instant, String)>,
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
    pub fn handle(&mut self, now: Instant, event: Event, jitter: f64) -> Option<Action> {
        if let Event::Want(wanted) = event {
            self.wanted = wanted;
        } else if event == Event::Restart {
            self.wanted = Wanted::Up;
        }
        match self.state.clone() {
            State::Stopped => self.handle_stopped(now, event, jitter),
            State::Starting { since } => self.handle_starting(now, event, since, jitter),
            State::Running { since } => self.handle_running(now, event, since, jitter),
            State::Stopping { step, .. } => self.handle_stopping(now, event, step),
            State::Killing { why, ready_for, .. } => self.handle_killing(now, event, &why, ready_for, jitter),
            State::Backoff { .. } => self.handle_backoff(now, event),
            State::Failed { .. } => self.handle_failed(now, event),
            State::Unknown { .. } => self.handle_unknown(now, event),
        }
    }

    /// When [`Event::Deadline`] is due.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Starting { since } => Some(*since + START_LIMIT),
            State::Stopping { until, .. } | State::Killing { until, .. } | State::Backoff { until } => {
                Some(*until)
            }
            State::Stopped | State::Running { .. } | State::Failed { .. } | State::Unknown { .. } => None,
        }
    }

    /// Where the unit stands.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// What its owner wants.
    #[must_use]
    pub fn wanted(&self) -> Wanted {
        self.wanted
    }

    /// Where the unit stands, in the words of `status`.
    #[must_use]
    pub fn status(&self) -> UnitState {
        match &self.state {
            State::Stopped => UnitState::Stopped,
            State::Starting { .. } if self.backoff.is_flapping() => UnitState::Flapping,
            State::Starting { .. } => UnitState::Starting,
            State::Running { .. } => UnitState::Running,
            State::Stopping { .. } | State::Killing { .. } => UnitState::Stopping,
            State::Backoff { .. } if self.backoff.is_flapping() => UnitState::Flapping,
            State::Backoff { .. } => UnitState::Backoff,
            State::Failed { .. } => UnitState::Failed,
            State::Unknown { .. } => UnitState::Unknown,
        }
    }

    /// Whether it keeps dying.
    #[must_use]
    pub fn is_flapping(&self) -> bool {
        self.backoff.is_flapping()
    }

    /// Starts that nobody asked for.
    #[must_use]
    pub fn restarts(&self) -> u32 {
        self.restarts
    }

    /// When and how the last process ended.
    #[must_use]
    pub fn last_end(&self) -> Option<&(Instant, String)> {
        self.last_end.as_ref()
    }

    /// Forgets old deaths once the process has been ready for long. To be called now and then.
    pub fn handle_time(&mut self, now: Instant) {
        if let State::Running { since } = self.state
            && now.saturating_duration_since(since) >= crate::backoff::STABLE
        {
            self.backoff.handle_stable();
        }
    }
}

#[cfg(test)]
mod tests;
