//! What is counted of a stream.

use std::collections::VecDeque;

use rtmp::media::{Codec, Kind};
use serde::{Deserialize, Serialize};

use crate::clock::FAR;
use crate::track::Track;

/// Seconds over which the bitrate is averaged.
const RATE_WINDOW: usize = 5;

/// What a stream has received; times are ms on the caller's monotonic clock.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Stats {
    /// Video messages.
    pub video_frames: u64,
    /// Audio messages.
    pub audio_frames: u64,
    /// When the last message came that readers get.
    pub last_frame: Option<u64>,
    /// When the last audio message came that readers get.
    pub last_audio: Option<u64>,
    /// When the last video message came that readers get.
    pub last_video: Option<u64>,
    /// When the last keyframe came.
    pub last_key: Option<u64>,
    /// Once known.
    pub video_codec: Option<Codec>,
    /// Once known.
    pub audio_codec: Option<Codec>,
    /// Packets of configuration, and metadata, that whoever joins later does not get: there was no room to keep them.
    pub(crate) left_out: u64,
    bytes: u64,
    /// `bytes` at the last seconds, oldest first.
    history: VecDeque<u64>,
}

impl Stats {
    /// Average of the last seconds, bits a second.
    #[must_use]
    pub fn bitrate(&self) -> u64 {
        let seconds = self.history.len().saturating_sub(1) as u64;
        let received =
            self.history.back().zip(self.history.front()).map_or(0, |(newest, oldest)| newest - oldest);
        (received * 8).checked_div(seconds).unwrap_or(0)
    }

    /// Whether one that was read from a record can be right.
    pub(crate) fn is_sound(&self) -> bool {
        let history = || self.history.iter();
        history().len() <= RATE_WINDOW + 1
            && history().zip(history().skip(1)).all(|(one, next)| one <= next)
            && history().all(|bytes| *bytes <= self.bytes)
            && [self.bytes, self.video_frames, self.audio_frames, self.left_out]
                .iter()
                .all(|count| *count <= FAR)
    }

    /// Called once a second.
    pub(crate) fn tick(&mut self) {
        self.history.push_back(self.bytes);
        if self.history.len() > RATE_WINDOW + 1 {
            self.history.pop_front();
        }
    }

    pub(crate) fn count_received(&mut self, track: Track, bytes: usize, codec: Option<Codec>) {
        self.bytes += bytes as u64;
        match track {
            Track::Video => {
                self.video_frames += 1;
                self.video_codec = codec.or(self.video_codec);
            }
            Track::Audio => {
                self.audio_frames += 1;
                self.audio_codec = codec.or(self.audio_codec);
            }
            Track::Data => {}
        }
    }

    /// Not what is left out: that would be reported as live.
    pub(crate) fn count_stored(&mut self, track: Track, kind: Kind, now: u64) {
        match track {
            Track::Video => self.last_video = Some(now),
            Track::Audio => self.last_audio = Some(now),
            Track::Data => {}
        }
        if track != Track::Data {
            self.last_frame = Some(now);
        }
        if kind == Kind::Keyframe {
            self.last_key = Some(now);
        }
    }
}
