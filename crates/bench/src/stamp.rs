//! Stamps: the time of sending, inside H.264 frames.
//!
//! A stamp is an SEI message "user data, unregistered" (H.264 annex D.1.7) in front of a frame's own NAL units. Decoders
//! skip it, servers relay it, and a player finds it in the first bytes of a message.

use std::ops::Range;

/// Marks user data as a stamp (ITU-T H.264 D.2.7: a random UUID).
const UUID: [u8; 16] =
    [0x5b, 0x8d, 0xe1, 0x3c, 0x77, 0x42, 0x4f, 0x96, 0xa9, 0x21, 0xc4, 0x58, 0x9b, 0x36, 0xf2, 0x7d];
/// The time in hexadecimal digits: binary zeros would need emulation prevention bytes.
const DIGITS: usize = 16;
const USER_DATA: usize = UUID.len() + DIGITS;
/// NAL header, payload type, payload size, user data, stop bit.
const NAL: usize = 3 + USER_DATA + 1;
const NAL_SEI: u8 = 6;
const NAL_ACCESS_UNIT_DELIMITER: u8 = 9;
const SEI_USER_DATA_UNREGISTERED: u8 = 5;
/// FLV video header and AVC packet header (FLV 10.1, E.4.3), bytes.
const FRAME_HEADER: usize = 5;
/// The longest access unit delimiter believed, with its length, bytes: it has one byte of payload.
const MAX_DELIMITER: usize = 8;

/// Bytes from the front of a video message that hold its stamp, if it has one.
pub(crate) const HEAD: usize = FRAME_HEADER + MAX_DELIMITER + 4 + NAL;

/// Bytes of the length in front of each NAL unit, from an AVC sequence header message; `None` for any other.
pub(crate) fn length_size(payload: &[u8]) -> Option<usize> {
    let &[first, packet, _, _, _, _, _, _, _, sizes, ..] = payload else { return None };
    (first & 0x8F == 7 && packet == 0).then_some(usize::from(sizes & 3) + 1)
}

/// Appends `payload` with a stamp of `micros`; unchanged when it is no AVC frame.
pub(crate) fn put(out: &mut Vec<u8>, payload: &[u8], length_size: usize, micros: u64) {
    let Some(at) = place(payload, length_size) else { return out.extend_from_slice(payload) };
    let (front, rest) = payload.split_at(at);
    out.extend_from_slice(front);
    let length = (NAL as u32).to_be_bytes();
    out.extend_from_slice(length.get(4 - length_size..).unwrap_or(&length));
    out.extend_from_slice(&[NAL_SEI, SEI_USER_DATA_UNREGISTERED, USER_DATA as u8]);
    out.extend_from_slice(&UUID);
    out.extend_from_slice(format!("{micros:016x}").as_bytes());
    out.push(0x80);
    out.extend_from_slice(rest);
}

/// The stamp in the front of a video message, microseconds.
pub(crate) fn find(head: &[u8]) -> Option<u64> {
    let at = head.windows(UUID.len()).position(|window| window == UUID)? + UUID.len();
    let digits = std::str::from_utf8(head.get(at..at + DIGITS)?).ok()?;
    u64::from_str_radix(digits, 16).ok()
}

/// Where a stamp goes: in front of all NAL units but an access unit delimiter (H.264 7.4.1.2.3).
fn place(payload: &[u8], length_size: usize) -> Option<usize> {
    let &[first, 1, ..] = payload else { return None };
    if first & 0x8F != 7 || payload.len() <= FRAME_HEADER + length_size {
        return None;
    }
    let nal = FRAME_HEADER + length_size;
    if payload.get(nal)? & 0x1F != NAL_ACCESS_UNIT_DELIMITER {
        return Some(FRAME_HEADER);
    }
    let length = number(payload, FRAME_HEADER..nal)?;
    (length_size + length <= MAX_DELIMITER && nal + length <= payload.len()).then_some(nal + length)
}

fn number(bytes: &[u8], range: Range<usize>) -> Option<usize> {
    Some(bytes.get(range)?.iter().fold(0, |number, &byte| number << 8 | usize::from(byte)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEYFRAME: [u8; 12] = [0x17, 1, 0, 0, 0, 0, 0, 0, 3, 0x65, 1, 2];
    const WITH_DELIMITER: [u8; 18] = [0x17, 1, 0, 0, 0, 0, 0, 0, 2, 9, 0x10, 0, 0, 0, 3, 0x65, 1, 2];

    fn stamped(payload: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put(&mut out, payload, 4, 0x0006_1234_5678_9abc);
        out
    }

    #[test]
    fn a_stamp_is_found_where_it_was_put() {
        for frame in [&KEYFRAME[..], &WITH_DELIMITER] {
            let out = stamped(frame);
            assert_eq!(out.len(), frame.len() + 4 + NAL);
            assert_eq!(find(&out[..out.len().min(HEAD)]), Some(0x0006_1234_5678_9abc));
        }
    }

    #[test]
    fn a_stamp_is_one_nal_unit_behind_the_delimiter() {
        let out = stamped(&WITH_DELIMITER);
        assert_eq!(out[..11], WITH_DELIMITER[..11]);
        assert_eq!(out[11..15], [0, 0, 0, NAL as u8]);
        assert_eq!(out[15..18], [6, 5, 32]);
        assert_eq!(out[15 + NAL..], WITH_DELIMITER[11..]);
    }

    #[test]
    fn what_is_no_avc_frame_is_not_touched() {
        for payload in [
            &[0x17, 0, 0, 0, 0, 1, 0x64, 0, 31, 0xff, 0xe1][..],
            &[0xaf, 1, 2],
            &[],
            &[0x17],
            &[0x17, 1, 0, 0, 0],
        ] {
            assert_eq!(stamped(payload), payload);
        }
    }

    #[test]
    fn the_length_size_comes_from_the_sequence_header() {
        assert_eq!(length_size(&[0x17, 0, 0, 0, 0, 1, 0x64, 0, 31, 0xff, 0xe1]), Some(4));
        assert_eq!(length_size(&[0x17, 0, 0, 0, 0, 1, 0x64, 0, 31, 0xfd, 0xe1]), Some(2));
        assert_eq!(length_size(&KEYFRAME), None);
    }

    #[test]
    fn no_stamp_is_found_where_there_is_none() {
        assert_eq!(find(&KEYFRAME), None);
        assert_eq!(find(&stamped(&KEYFRAME)[..40]), None);
    }
}
