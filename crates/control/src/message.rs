//! What the supervisor asks a process that it runs, and what the process answers.
//!
//! The supervisor sends one [`Request`] and reads [`Reply`] packets up to and with the one that [ends](Reply::is_last)
//! the answer; then it may send the next. Both sides may grow: unknown fields are ignored, an unknown request is
//! answered by [`Code::Unsupported`](crate::Code::Unsupported), an unknown packet of an answer is passed over.

use cluster::stats::{ProcessStats, StreamStats};
use cluster::{Role, UnitId, WorkerSpec};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// The version of these messages. A change that only adds keeps it; a new last packet of an answer does not.
pub const VERSION: u32 = 1;

/// What the supervisor asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Request {
    /// Who are you? Answered by [`Reply::Hello`].
    Hello {
        /// [`VERSION`] of the asker.
        version: u32,
    },
    /// Answered by one [`Reply::Process`], a [`Reply::Stream`] for each stream, and [`Reply::Done`].
    Stats,
    /// Take this spec from now on: forward targets and limits change, nothing running is dropped. Answered by
    /// [`Reply::Done`], or [`Code::NeedsRestart`](crate::Code::NeedsRestart) when the spec differs in what cannot change.
    Configure {
        /// The whole new spec.
        spec: Box<WorkerSpec>,
    },
    /// Log into the descriptor that comes with this packet. Answered by [`Reply::Done`].
    ReopenLog,
    /// Lend back the RTMP listener: a supervisor that was restarted owns it again and keeps the port open when this
    /// process dies. Answered by [`Reply::Done`] with a duplicate of the listener beside it; the process goes on
    /// accepting. A process without one answers [`Code::Unsupported`](crate::Code::Unsupported).
    Listener,
    /// Stop: answered by [`Reply::Done`], then the process closes its connections and exits with 0.
    Stop,
    /// A request of a newer supervisor.
    #[serde(other, skip_serializing)]
    Unknown,
}

/// What a process answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "kebab-case")]
pub enum Reply {
    /// To [`Request::Hello`].
    Hello(Hello),
    /// First packet of the answer to [`Request::Stats`].
    Process(ProcessStats),
    /// One stream of the answer to [`Request::Stats`].
    Stream(StreamStats),
    /// The request has been carried out, or the answer is complete.
    Done,
    /// The request was not carried out.
    Error(Error),
    /// A packet of a newer process.
    #[serde(other, skip_serializing)]
    Unknown,
}

impl Reply {
    /// Whether no further packet belongs to this answer.
    #[must_use]
    pub fn is_last(&self) -> bool {
        match self {
            Self::Hello(_) | Self::Done | Self::Error(_) => true,
            Self::Process(_) | Self::Stream(_) | Self::Unknown => false,
        }
    }
}

/// Who a process is: enough to prove that it belongs to the supervisor that asks.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// [`VERSION`] of the answerer.
    pub version: u32,
    /// Its unit.
    pub id: UnitId,
    /// Its role.
    pub role: Role,
    /// The text of the lock file it was started with, 32 hex digits.
    pub token: String,
    /// The process id, as it sees itself.
    pub pid: u32,
    /// `CARGO_PKG_VERSION` of its binary.
    pub build: String,
}
