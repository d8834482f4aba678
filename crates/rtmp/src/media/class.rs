//! The answer of [`classify`](super::classify): what a payload is to a relay, and its codec.

use super::codec::Codec;
use serde::{Deserialize, Serialize};

/// What a payload is to a relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Kind {
    /// Decoder configuration of a track, needed before its other video.
    VideoHeader,
    /// Decoding of its track can start here.
    Keyframe,
    /// Any other video: relayed, not cached.
    Video,
    /// Enhanced RTMP colour information of a track: a late player needs the last one, whether it came before or behind the header.
    VideoMetadata,
    /// Decoder configuration of a track, or which of its channels is where: needed before its other audio.
    AudioHeader,
    /// Any other audio.
    Audio,
    /// `onMetaData`, with or without `@setDataFrame`.
    Metadata,
    /// Data that a late player needs as well: what its sender told the server to keep (`@setDataFrame`), and what announces or configures a
    /// track that travels in data.
    DataHeader,
    /// Other data: cue points, text.
    Data,
    /// Not to be relayed: empty, cut short, meant for a player's own control (seek marks, `onStatus`,
    /// `|RtmpSampleAccess`), the time code bytes FFmpeg sends as data, or metadata no bounded reader takes.
    Ignore,
}

/// Kind and codec of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Class {
    /// What it is to a relay.
    pub kind: Kind,
    /// Of its track; `None` for data, and where the payload does not tell.
    pub codec: Option<Codec>,
    /// The track it is about, 0 where there is only one. Of several in one message it is the lowest, and kind and codec are of that.
    pub track: u8,
}

impl Class {
    pub(super) const IGNORE: Self = Self { kind: Kind::Ignore, codec: None, track: 0 };
}
