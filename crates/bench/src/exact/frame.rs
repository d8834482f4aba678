//! Frames that say which they are: how many frames of video and of audio there are with them, when they are due, and a checksum
//! of all of their bytes.

use rtmp::message_type::{AUDIO, VIDEO};

/// What begins a stamp.
const MAGIC: [u8; 4] = *b"sRv\x7f";
/// Bytes of a stamp: magic, video, audio, time, checksum.
const STAMP: usize = 20;
/// FLV header, AVC packet header, length of a NAL unit, its type and the begin of a slice (FLV E.4.3, H.264 7.3): of an IDR picture, and
/// of a P picture.
const KEY: [u8; 11] = [0x17, 1, 0, 0, 0, 0, 0, 0, 0, 0x65, 0x88];
const INTER: [u8; 11] = [0x27, 1, 0, 0, 0, 0, 0, 0, 0, 0x41, 0x9A];
/// Where the length of the NAL unit stands.
const LENGTH: std::ops::Range<usize> = 5..9;
/// AAC, raw (FLV E.4.2).
const RAW: [u8; 2] = [0xAF, 1];
/// Sequence headers, which the publisher sends first and each player gets first.
pub(super) const VIDEO_HEADER: &[u8] =
    b"\x17\0\0\0\0\x01\x64\0\x1f\xff\xe1\0\x04\x67\x64\0\x1f\x01\0\x04\x68\xee\x3c\x80";
pub(super) const AUDIO_HEADER: &[u8] = &[0xAF, 0, 0x12, 0x10];

/// Which frame of a stream it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Frames of video up to it, with it.
    pub video: u32,
    /// Frames of audio up to it, with it.
    pub audio: u32,
    /// When it is due, ms from the begin of the stream.
    pub time: u32,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    /// A keyframe.
    Key,
    /// A picture that needs others.
    Inter,
    /// A frame of audio.
    Audio,
}

impl Lane {
    /// See [`rtmp::message_type`].
    #[must_use]
    pub fn type_id(self) -> u8 {
        if self == Self::Audio { AUDIO } else { VIDEO }
    }

    fn header(self) -> &'static [u8] {
        match self {
            Self::Key => &KEY,
            Self::Inter => &INTER,
            Self::Audio => &RAW,
        }
    }
}

/// A payload is none of a stamped stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a frame that was never sent")]
pub struct NotSent;

/// Makes in `out` the frame `stamp` of about `size` bytes.
pub fn put(out: &mut Vec<u8>, lane: Lane, stamp: Stamp, size: usize) {
    out.clear();
    let header = lane.header();
    out.extend_from_slice(header);
    out.extend_from_slice(&MAGIC);
    for number in [stamp.video, stamp.audio, stamp.time, 0] {
        out.extend_from_slice(&number.to_be_bytes());
    }
    // No two frames have equal bytes at equal places.
    let mut random = super::random::Random::new(u64::from(stamp.video) << 32 | u64::from(stamp.audio));
    while out.len() < size {
        out.extend_from_slice(&random.next().to_le_bytes());
    }
    if lane != Lane::Audio {
        let length = (out.len() - LENGTH.end) as u32;
        out.splice(LENGTH, length.to_be_bytes());
    }
    let sum = crc32fast::hash(out);
    let at = header.len() + STAMP - 4;
    out.splice(at..at + 4, sum.to_be_bytes());
}

/// Which frame `payload` is, if all of its bytes are right.
///
/// # Errors
/// Where one of them is not.
pub fn read(type_id: u8, payload: &[u8]) -> Result<(Lane, Stamp), NotSent> {
    let lane = match (type_id, payload.first(), payload.get(1)) {
        (VIDEO, Some(0x17), Some(1)) => Lane::Key,
        (VIDEO, Some(0x27), Some(1)) => Lane::Inter,
        (AUDIO, Some(0xAF), Some(1)) => Lane::Audio,
        _ => return Err(NotSent),
    };
    let at = lane.header().len();
    let numbers = payload.get(at..at + STAMP).and_then(|stamp| stamp.strip_prefix(&MAGIC)).ok_or(NotSent)?;
    let number = |index: usize| {
        let bytes = numbers.get(index * 4..).and_then(|rest| rest.first_chunk());
        bytes.map(|bytes| u32::from_be_bytes(*bytes)).ok_or(NotSent)
    };
    let mut hasher = crc32fast::Hasher::new();
    let (front, rest) = payload.split_at_checked(at + STAMP - 4).ok_or(NotSent)?;
    hasher.update(front);
    hasher.update(&[0; 4]);
    hasher.update(rest.get(4..).ok_or(NotSent)?);
    if hasher.finalize() != number(3)? {
        return Err(NotSent);
    }
    Ok((lane, Stamp { video: number(0)?, audio: number(1)?, time: number(2)? }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtmp::media::{Kind, classify};

    const STAMP: Stamp = Stamp { video: 70_000, audio: 3, time: 2_800_000 };

    #[test]
    fn a_frame_says_which_it_is_and_is_to_a_relay_what_it_should_be() {
        for (lane, kind) in
            [(Lane::Key, Kind::Keyframe), (Lane::Inter, Kind::Video), (Lane::Audio, Kind::Audio)]
        {
            let mut frame = Vec::new();
            for size in [0, 100, 40_000] {
                put(&mut frame, lane, STAMP, size);
                assert_eq!(read(lane.type_id(), &frame), Ok((lane, STAMP)));
                assert_eq!(classify(lane.type_id(), &frame).kind, kind);
            }
        }
        assert_eq!(classify(VIDEO, VIDEO_HEADER).kind, Kind::VideoHeader);
        assert_eq!(classify(AUDIO, AUDIO_HEADER).kind, Kind::AudioHeader);
    }

    #[test]
    fn a_frame_with_one_other_byte_or_of_another_length_was_never_sent() {
        let mut frame = Vec::new();
        put(&mut frame, Lane::Inter, STAMP, 90);
        for at in 0..frame.len() {
            let mut other = frame.clone();
            other[at] ^= 0x10;
            assert_eq!(read(VIDEO, &other), Err(NotSent), "byte {at}");
            assert_eq!(read(VIDEO, &frame[..at]), Err(NotSent), "{at} bytes");
        }
        assert_eq!(read(AUDIO, &frame), Err(NotSent));
    }
}
