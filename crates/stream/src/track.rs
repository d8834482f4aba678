//! The three tracks of a stream.

use rtmp::message_type;
use serde::{Deserialize, Serialize};

/// What belongs together on a reader's side: one chunk stream, one line of times. The further tracks of Enhanced RTMP
/// are inside the payloads of these three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Track {
    /// Messages of type 9.
    Video,
    /// Messages of type 8.
    Audio,
    /// Messages of type 18: cue points, text.
    Data,
}

impl Track {
    /// All of them, each at its [index](Self::index).
    pub const ALL: [Self; 3] = [Self::Video, Self::Audio, Self::Data];

    /// Its place in an array with one element a track.
    pub(crate) fn index(self) -> usize {
        self as usize
    }

    /// The message type of everything on it.
    pub(crate) fn type_id(self) -> u8 {
        match self {
            Self::Video => message_type::VIDEO,
            Self::Audio => message_type::AUDIO,
            Self::Data => message_type::DATA,
        }
    }
}

/// A set of tracks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tracks(u8);

impl Tracks {
    pub(crate) fn is_empty(self) -> bool {
        self.0 == 0
    }

    pub(crate) fn has(self, track: Track) -> bool {
        self.0 & (1 << track.index()) != 0
    }

    pub(crate) fn set(&mut self, track: Track, is_in: bool) {
        let bit = 1 << track.index();
        self.0 = if is_in { self.0 | bit } else { self.0 & !bit };
    }
}
