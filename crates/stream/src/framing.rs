//! The seam between what is stored and what a reader gets.
//!
//! A message is stored as RTMP chunks with a fmt-1 header (RTMP 1.0 §5.3.1.2.2): a time *delta* and no message stream id,
//! so the same bytes are right for every reader that has been *seeded*, that is, has received a fmt-0 message on that
//! chunk stream with the time from which the delta counts. This file alone knows where in those bytes the header ends and
//! the payload goes on, so that a reader of another form (FLV tags) can be given the same payload.

use bytes::BufMut;
use rtmp::{chunk, wire};
use serde::{Deserialize, Serialize};

use crate::track::Track;

/// Bytes of the basic and message header in front of a stored message.
const HEADER: usize = 8;

/// How messages are put into bytes: in chunks of one size, for all readers.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Framing {
    chunk_size: u32,
}

impl Framing {
    /// Chunks of `chunk_size` bytes.
    pub(crate) fn new(chunk_size: u32) -> Self {
        Self { chunk_size: chunk_size.max(1) }
    }

    /// Whether one that was read from a record can be right.
    pub(crate) fn is_sound(self) -> bool {
        self.chunk_size > 0
    }

    /// Bytes of a stored message.
    pub(crate) fn stored_len(self, payload: usize) -> usize {
        chunk::delta_len(self.chunk_size, payload)
    }

    /// Appends a message as it is stored; `delta` is the time since the last one on its track, ms.
    pub(crate) fn store(self, out: &mut impl BufMut, track: Track, delta: u32, payload: &[u8]) {
        chunk::put_delta(out, self.chunk_size, csid(track), delta, track.type_id(), payload);
    }

    /// Appends a whole message for one reader, with an absolute `timestamp`, ms.
    pub(crate) fn message(self, out: &mut Vec<u8>, track: Track, timestamp: u32, msid: u32, payload: &[u8]) {
        chunk::put_full(out, self.chunk_size, csid(track), timestamp, track.type_id(), msid, payload);
    }

    /// Appends what stands in front of the payload of a stored message when it has an absolute `timestamp`, and gives the
    /// number of stored bytes that this replaces. `None` where the rest would differ too: its chunks repeat a time of 32 bits.
    pub(crate) fn absolute(
        self,
        out: &mut Vec<u8>,
        track: Track,
        timestamp: u32,
        msid: u32,
        payload: usize,
    ) -> Option<usize> {
        if payload > self.chunk_size as usize && timestamp >= chunk::EXTENDED {
            return None;
        }
        chunk::put_full_header(out, csid(track), timestamp, track.type_id(), msid, payload);
        Some(HEADER)
    }

    /// The payload of a stored message.
    pub(crate) fn payload(self, stored: &[u8]) -> Vec<u8> {
        let chunks = stored.get(HEADER..).unwrap_or(&[]).chunks(self.chunk_size as usize + 1);
        let mut payload = Vec::with_capacity(stored.len());
        for chunk in chunks {
            // Behind each full chunk stands the header of the next one, of one byte.
            payload.extend_from_slice(chunk.get(..self.chunk_size as usize).unwrap_or(chunk));
        }
        payload
    }
}

fn csid(track: Track) -> u8 {
    match track {
        Track::Video => wire::csid::VIDEO,
        Track::Audio => wire::csid::AUDIO,
        Track::Data => wire::csid::DATA,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_is_read_back_from_what_is_stored() {
        let framing = Framing::new(100);
        for len in [1, 99, 100, 101, 199, 200, 201, 1_000] {
            let payload: Vec<u8> = (0..len).map(|i| i as u8).collect();
            let mut stored = Vec::new();
            framing.store(&mut stored, Track::Video, 40, &payload);
            assert_eq!(stored.len(), framing.stored_len(len));
            assert_eq!(framing.payload(&stored), payload);
        }
    }

    #[test]
    fn a_stored_message_with_an_absolute_header_is_the_message_written_whole() {
        let framing = Framing::new(100);
        for (len, timestamp) in [(50, 7), (250, 7), (50, 0xFF_FFFF), (100, u32::MAX)] {
            let payload = vec![9; len];
            let (mut stored, mut whole, mut seeded) = (Vec::new(), Vec::new(), Vec::new());
            framing.store(&mut stored, Track::Audio, 40, &payload);
            framing.message(&mut whole, Track::Audio, timestamp, 3, &payload);
            let replaced = framing.absolute(&mut seeded, Track::Audio, timestamp, 3, len).unwrap();
            seeded.extend_from_slice(&stored[replaced..]);
            assert_eq!(seeded, whole);
        }
        assert!(framing.absolute(&mut Vec::new(), Track::Audio, 0xFF_FFFF, 3, 101).is_none());
    }
}
