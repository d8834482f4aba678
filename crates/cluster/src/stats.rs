//! What a process reports of itself: counters, its streams, how forwarding stands. Part of the status document and of the
//! messages between a process and its supervisor.

use serde::{Deserialize, Serialize};

use crate::spec::Target;

/// What a whole process reports. Counters start at 0 with the process; those of connections, bytes and limits of a worker
/// with the first one of its port.
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
    /// Publishes, plays and connections refused at a limit.
    pub refused: u64,
    /// Publishes among them.
    pub refused_publishers: u64,
    /// Bytes that streams and connections hold of the memory that the port may use.
    pub memory_used_bytes: u64,
    /// Bytes that they may hold.
    pub memory_limit_bytes: u64,
    /// What each limit that was met has cost, by its name.
    pub limits: Vec<LimitStats>,
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
    /// How long of the last 10 s the loop stood still, or was late: sum, ms.
    pub loop_late_ms: u32,
    /// What keeps it from its work now, in an operator's words; nothing if all is well.
    pub trouble: Option<String>,
    /// For how long it has been kept from it, ms.
    pub trouble_ms: Option<u64>,
}

/// What one of a process's limits has cost its peers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LimitStats {
    /// The setting, or a short name where the limit is none: `max_streams`, `names`.
    pub limit: String,
    /// What happened and why, fit to stand behind the count: `publishers refused: …`.
    pub what: String,
    /// How often since the port's first process started.
    pub count: u64,
    /// Milliseconds since the last time.
    pub last_ago_ms: u64,
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
    /// Those that have been sent nothing of it yet: nobody publishes it here, or no audio and no video has come.
    pub waiting_players: u32,
    /// Those that are sent the rest and no video yet: no keyframe has come since they joined, or no video at all.
    pub videoless_players: u32,
    /// What a player gets that joins now; `None` from a process of a version that does not say.
    pub joining: Option<Joining>,
    /// Media received, bits/s, over the last seconds.
    pub bitrate: u64,
    /// Video codec in the field's usual name (`h264`, `hevc`, …), once known.
    pub video_codec: Option<String>,
    /// Audio codec (`aac`, `mp3`, …), once known.
    pub audio_codec: Option<String>,
    /// Milliseconds since the last audio or video message.
    pub last_frame_age_ms: Option<u64>,
    /// Milliseconds since the last audio message.
    pub last_audio_age_ms: Option<u64>,
    /// Milliseconds since the last video message.
    pub last_video_age_ms: Option<u64>,
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

/// What a player gets that joins a stream now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Joining {
    /// Nothing: nobody publishes it here. On an edge: the origin does not forward it here, because it does not have it or does not
    /// reach this port, which the origin's [`ForwardStats`] tell.
    Unpublished,
    /// Nothing: somebody publishes it, and no audio and no video has come.
    NoMedia,
    /// Audio: there has been no video.
    Audio,
    /// Audio at once, and video from the next keyframe, or without one after a bounded time.
    NoKeyframe,
    /// Audio and video at once, but no keyframe: the source has sent none for a while.
    Keyless,
    /// A keyframe at once, and all that follows.
    Keyframe,
    /// What another version reports.
    #[serde(other)]
    Unknown,
}

/// How the forwarding of one stream to one target stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ForwardStats {
    /// The edge; of a target beyond the edges its name behind `out:`, and its host and port.
    pub target: Target,
    /// What the signs of life of the target say.
    pub state: ForwardState,
    /// How far the target is behind, ms: what is not sent yet, in stream time, plus the longer of the last echo's time and the
    /// wait for the oldest ping without an echo. `None` before its first echo.
    pub lag_ms: Option<u64>,
    /// Messages sent since the process started.
    #[serde(rename = "sent_messages", alias = "sent")]
    pub sent: u64,
    /// Connections made after one that failed.
    pub reconnects: u64,
    /// What ended the last connection or attempt, if any failed.
    pub last_error: Option<String>,
    /// Milliseconds that the target has been without the stream, though somebody publishes it: since it was live or idle.
    #[serde(default)]
    pub waiting_ms: Option<u64>,
    /// Of a target beyond the edges where the stream is published there, without parameters and with `{key}` for its key; `None` of an edge.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The RTMP status by which such a target refused last, if it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// Bytes sent to such a target.
    #[serde(default, skip_serializing_if = "is_none")]
    pub bytes: u64,
    /// Times that such a target was too slow and was given the newest group of pictures in place of what lay before it.
    #[serde(default, skip_serializing_if = "is_none")]
    pub dropped: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_none(number: &u64) -> bool {
    *number == 0
}

impl ForwardStats {
    /// The name of the target, if it is beyond the edges: what becomes of it is no edge's matter.
    #[must_use]
    pub fn outbound(&self) -> Option<&str> {
        self.url.as_ref()?;
        self.target.id.as_str().strip_prefix("out:")
    }
}

/// State of a forwarder: from signs of life of its target (the echo of a ping, as a rule), never from "connected".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ForwardState {
    /// Connecting, or connected and no echo yet on this connection.
    Connecting,
    /// A sign of life came within 2 s of being asked for.
    Live,
    /// Connected, and no sign of life for 2 s; after 5 s the connection is given up.
    Stalled,
    /// Failed, and waiting before the next attempt; `last_error` says why.
    Backoff,
    /// Nobody publishes the stream.
    Idle,
}
