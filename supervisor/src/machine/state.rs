//! Where a unit stands, what may happen to it, and what is to be done then.

use std::time::{Duration, Instant};

use super::exit::Exit;

/// From asking a process to stop until it is sent SIGTERM, and from there until SIGKILL.
pub(crate) const STOP_STEP: Duration = Duration::from_secs(5);
/// SIGKILL is repeated this often while the kernel has not ended the process.
pub(crate) const KILL_REPEAT: Duration = Duration::from_secs(10);

/// What its owner wants of a unit, apart from what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
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
///      ▲                    │ ▲  │      frozen  │
///      │ Exited, not wanted │ │  ▼              ▼ frozen
///      ├────────────────────┼─┼─ Killing ◀──────┤
///      │                    │ │  │ Exited       │ Exited
///      │                    │ │  ▼              ▼
///      │                    │ └─ Backoff ◀──────┘         Failed: bad config            
///      │        asked to    ▼   Deadline                  Unknown: the lock is held by a process that
///      └──────────────── Stopping ──▶ Starting (restart)            cannot be proved to be ours
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// No process, none wanted.
    Stopped,
    /// A process was spawned and is not ready yet.
    Starting,
    /// Ready: it answered on its control socket and took an RTMP connect on the address that it is bound to.
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
pub(crate) enum Stop {
    /// Asked on the control socket.
    Asked,
    /// Sent SIGTERM.
    Terminated,
    /// Sent SIGKILL.
    Killed,
}

/// What happened to a unit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Its owner wants it so from now on.
    Want(Wanted),
    /// A person asks for a new process; implies [`Wanted::Up`].
    Restart,
    /// The moment of [`super::unit::Unit::deadline`] has come.
    Deadline,
    /// [`Action::Spawn`] did not give a process.
    SpawnFailed {
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
pub(crate) enum Action {
    /// Start a process.
    Spawn,
    /// Ask it to stop, on its control socket.
    AskStop,
    /// Send SIGTERM.
    Terminate,
    /// Send SIGKILL.
    Kill,
}
