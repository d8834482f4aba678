//! What a packet of configuration is about: of all that a late player needs, which takes the place of which.

use super::codec::Codec;
use serde::{Deserialize, Serialize};

/// Packet types of Enhanced RTMP that begin a sequence; legacy headers count as the first.
const SEQUENCE_START: u8 = 0;
const MPEG2TS_SEQUENCE_START: u8 = 5;

/// What a configuration is about. A later one about the same takes the place of an earlier one, and of no other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Scope {
    /// Of audio or video.
    Packet {
        /// Packet type of Enhanced RTMP; 0 of a legacy sequence header.
        packet_type: u8,
        /// Of its lowest track, where the payload tells.
        codec: Option<Codec>,
        /// Tracks that it names; 0 where there is only one.
        tracks: TrackIds,
    },
    /// Of data: its name, and what else tells it from others of that name.
    Data(Vec<u8>),
}

impl Scope {
    /// Takes what `later` is about away from what this is about; true if nothing is left. A header of another codec takes all that was
    /// said of its tracks: it was about the codec before.
    pub fn give_way(&mut self, later: &Self) -> bool {
        match (self, later) {
            (
                Self::Packet { packet_type, codec, tracks },
                Self::Packet { packet_type: later_type, codec: later_codec, tracks: later_tracks },
            ) => {
                let is_header = matches!(*later_type, SEQUENCE_START | MPEG2TS_SEQUENCE_START);
                let is_other_codec = codec.is_some() && later_codec.is_some() && codec != later_codec;
                if packet_type == later_type || (is_header && is_other_codec) {
                    tracks.remove(later_tracks);
                }
                tracks.is_empty()
            }
            (Self::Data(name), Self::Data(later)) => name == later,
            (Self::Packet { .. }, Self::Data(_)) | (Self::Data(_), Self::Packet { .. }) => false,
        }
    }
}

/// A set of track ids of Enhanced RTMP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TrackIds([u64; 4]);

impl TrackIds {
    pub(super) fn insert(&mut self, id: u8) {
        if let Some(word) = self.0.get_mut(usize::from(id / 64)) {
            *word |= 1 << (id % 64);
        }
    }

    fn remove(&mut self, others: &Self) {
        self.0.iter_mut().zip(others.0).for_each(|(word, other)| *word &= !other);
    }

    fn is_empty(&self) -> bool {
        self.0 == [0; 4]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_scope_is_the_same_in_a_record() {
        let packet = Scope::Packet {
            packet_type: 5,
            codec: Some(Codec::four_cc(*b"hvc1")),
            tracks: TrackIds([1, 0, u64::MAX, 0]),
        };
        let unknown = Scope::Packet {
            packet_type: 0,
            codec: Some(Codec::four_cc(*b"xyz9")),
            tracks: TrackIds::default(),
        };
        for scope in [packet, unknown, Scope::Data(b"name\0id".to_vec())] {
            let record = postcard::to_stdvec(&scope).unwrap();
            assert_eq!(postcard::from_bytes(&record), Ok(scope));
        }
    }
}
