//! What a supervisor tells while it starts.

use cluster::UnitId;
use serde::{Deserialize, Serialize};

/// What a supervisor tells while it starts, in this order: any number of [`Adopted`](Self::Adopted),
/// [`Unknown`](Self::Unknown) and [`Started`](Self::Started), then [`Ready`](Self::Ready) for each process that gets
/// ready and [`NotReady`](Self::NotReady) for each that is not at the end, then [`Complete`](Self::Complete).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum StartupEvent {
    /// A process that a killed supervisor left was proved to be its own; it goes on as it is.
    Adopted {
        /// The unit.
        unit: UnitId,
        /// Its process.
        pid: u32,
        /// It does not answer; it is killed and restarted if it stays so, and counts as ready only when it has reported.
        silent: bool,
    },
    /// Something holds the unit's lock that cannot be proved to be its process; it is left alone.
    Unknown {
        /// The unit.
        unit: UnitId,
        /// What could not be proved.
        why: String,
    },
    /// A process was started.
    Started {
        /// The unit.
        unit: UnitId,
        /// Its process.
        pid: u32,
    },
    /// A process is ready.
    Ready {
        /// The unit.
        unit: UnitId,
        /// Since the supervisor started.
        after_ms: u64,
    },
    /// A process is not ready, and the wait for it is over; it is still being tried unless the reason is final.
    NotReady {
        /// The unit.
        unit: UnitId,
        /// Why.
        why: String,
    },
    /// All that could be waited for has been.
    Complete {
        /// Processes that are ready.
        ready: usize,
        /// Processes that are not.
        waiting: usize,
    },
}
