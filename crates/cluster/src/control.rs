//! Messages between the supervisor and a process it runs.
//!
//! The process listens on a `SOCK_SEQPACKET` unix socket (mode 0600); one packet carries one JSON document, and may
//! carry descriptors beside it. The supervisor sends one [`Request`] and reads [`Reply`] packets up to and with the
//! one that [ends](Reply::is_last) the answer; then it may send the next. Unknown fields are ignored, so that both
//! sides may grow; a process that meets an unknown request answers [`Reply::Error`].
//!
//! # What a process is given
//!
//! | fd | what |
//! | --- | --- |
//! | 0 | /dev/null |
//! | 1, 2 | its log file, opened with `O_APPEND` |
//! | 3 | the RTMP listener, bound and listening (an encoder gets /dev/null) |
//! | 4 | the control socket, bound and listening |
//! | 5 | the lock file: its lock lives as long as the process does; its text is the token of [`Hello`] |
//!
//! Its arguments are `worker --config FILE` or `encoder --config FILE`.

use serde::{Deserialize, Serialize};

use crate::spec::{Role, Target, UnitId, WorkerSpec};

/// The version of these messages. A change that only adds fields keeps it.
pub const VERSION: u32 = 1;

/// Upper bound of one packet, bytes: below the kernel's default for a unix socket, above 256 forward targets' reports.
pub const MAX_PACKET: usize = 160 * 1024;

/// The descriptor numbers of the table above.
pub mod fd {
    /// The RTMP listener.
    pub const LISTENER: i32 = 3;
    /// The control socket.
    pub const CONTROL: i32 = 4;
    /// The lock file.
    pub const LOCK: i32 = 5;
}

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
    /// [`Reply::Done`], or [`Reply::Error`] when the spec differs in what needs a restart.
    Configure {
        /// The whole new spec.
        spec: Box<WorkerSpec>,
    },
    /// Log into the descriptor that comes with this packet. Answered by [`Reply::Done`].
    ReopenLog,
    /// Lend back the RTMP listener: a supervisor that was restarted owns it again and keeps the port open when this
    /// process dies. Answered by [`Reply::Done`] with a duplicate of the listener beside it; the process goes on
    /// accepting. An encoder answers [`Reply::Error`].
    Listener,
    /// Stop: answered by [`Reply::Done`], then the process closes its connections and exits with 0.
    Stop,
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
    Error {
        /// Why, for a person.
        message: String,
    },
}

impl Reply {
    /// Whether no further packet belongs to this answer.
    #[must_use]
    pub fn is_last(&self) -> bool {
        matches!(self, Self::Hello(_) | Self::Done | Self::Error { .. })
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

/// What a whole process reports. Counters start at 0 with the process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProcessStats {
    /// Turns of the data-plane loop: a process that answers while this stands still is stuck.
    pub beats: u64,
    /// Open RTMP connections of all kinds.
    pub connections: u32,
    /// Connections that play.
    pub players: u32,
    /// Connections that publish.
    pub publishers: u32,
    /// Connections accepted.
    pub accepted: u64,
    /// Plays and connections refused at a limit.
    pub refused: u64,
    /// Connections closed for what the peer sent (protocol errors, limits, time-outs).
    pub peer_errors: u64,
    /// Players closed because they took no byte for 30 s.
    pub stuck_players: u64,
    /// Times a slow player skipped ahead to a keyframe.
    pub skips: u64,
    /// Bytes received from peers.
    pub bytes_in: u64,
    /// Bytes sent to peers.
    pub bytes_out: u64,
    /// How late the loop got to what was due, over the last minute: 99th percentile, ms.
    pub loop_lag_p99_ms: u32,
    /// The same: maximum, ms.
    pub loop_lag_max_ms: u32,
}

/// What a process reports of one stream.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamStats {
    /// `app/stream`.
    pub stream: String,
    /// Whether it is being published now.
    pub publishing: bool,
    /// Address of the publisher, if there is one.
    pub publisher: Option<String>,
    /// Players of it, waiting ones too.
    pub players: u32,
    /// Media received, bits/s, over the last seconds.
    pub bitrate: u64,
    /// Video codec in the field's usual name (`h264`, `hevc`, …), once known.
    pub video_codec: Option<String>,
    /// Audio codec (`aac`, `mp3`, …), once known.
    pub audio_codec: Option<String>,
    /// Milliseconds since the last audio or video message.
    pub last_frame_age_ms: Option<u64>,
    /// Milliseconds since the last keyframe.
    pub keyframe_age_ms: Option<u64>,
    /// Newest timestamp of the stream's clock, ms.
    pub newest_ms: Option<u64>,
    /// Video messages received since the process started.
    pub video_frames: u64,
    /// Audio messages received since the process started.
    pub audio_frames: u64,
    /// One entry a forward target.
    pub forwards: Vec<ForwardStats>,
}

/// How the forwarding of one stream to one target stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardStats {
    /// The edge.
    pub target: Target,
    /// What frames sent and acknowledged say.
    pub state: ForwardState,
    /// How far the target is behind, ms: what is not sent yet, and how long the acknowledgement of what was sent takes. `None`
    /// before its first acknowledgement.
    pub lag_ms: Option<u64>,
    /// Messages sent since the process started.
    pub sent: u64,
    /// Connections made after one that failed.
    pub reconnects: u64,
    /// What ended the last connection or attempt, if any failed.
    pub last_error: Option<String>,
}

/// State of a forwarder: from frames sent and acknowledged, never from "connected".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardState {
    /// Connecting, or connected and nothing acknowledged yet.
    Connecting,
    /// Frames were sent and acknowledged in the last seconds.
    Live,
    /// Frames were sent and are not being acknowledged.
    Stalled,
    /// Waiting before the next attempt.
    Backoff,
    /// Nobody publishes the stream.
    Idle,
}
