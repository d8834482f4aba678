//! What a coded picture says of itself. The frame type in front of it is 0 from some senders and wrong from others, and then nobody
//! could join: so the first bytes of the picture are looked at, as far as they are told without the decoder's configuration.
//!
//! NAL units: ITU-T H.264 §7.3, H.265 §7.3, H.266 §7.3, each behind its length (ISO/IEC 14496-15) or a start code (annex B). OBUs:
//! AV1 §5.3. VP8: RFC 6386 §9.1. VP9: bitstream specification §6.2.

use super::codec::Coding;

/// NAL units or OBUs looked at in one message. Encoders put fewer than ten in front of a picture, and a picture of 4K has hundreds of
/// slices at most.
const UNITS_MAX: usize = 4096;
/// Bytes of one SEI message looked at for a recovery point.
const SEI_MAX: usize = 4 * 1024;

/// See the [module](self).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Picture {
    /// Decoding can start here.
    Key,
    /// It cannot.
    Dependent,
    /// The bytes do not tell.
    Untold,
}

/// Looks at `body`, which is what stands behind all headers of the message.
pub(super) fn look(coding: Coding, body: &[u8]) -> Picture {
    match coding {
        Coding::Avc => nal_units(body, avc),
        Coding::Hevc => nal_units(body, hevc),
        Coding::Vvc => nal_units(body, vvc),
        Coding::Av1 => av1(body),
        Coding::Vp8 => vp8(body),
        Coding::Vp9 => vp9(body),
    }
}

/// What one NAL unit is.
enum Unit {
    /// Part of a picture: then it is told.
    Slice(Picture),
    /// An SEI message, without its header.
    Sei(usize),
    /// Anything else.
    Other,
}

/// What separates the units: how long their lengths are stands in the decoder's configuration, but lengths that are read in the wrong
/// size do not end where the message does. Nearly all senders have four bytes. Some send start codes, as an elementary stream has them.
fn nal_units(body: &[u8], classify: fn(&[u8]) -> Unit) -> Picture {
    let (picture, fits) = by_lengths::<4>(body, classify);
    if fits {
        return picture;
    }
    if body.starts_with(&[0, 0, 1]) || body.starts_with(&[0, 0, 0, 1]) {
        return by_start_codes(body, classify);
    }
    for (other, fits) in [by_lengths::<2>(body, classify), by_lengths::<1>(body, classify)] {
        if fits {
            return other;
        }
    }
    picture
}

/// What is told by the units so far.
#[derive(Default)]
struct Told {
    picture: Option<Picture>,
    recovers: bool,
}

impl Told {
    /// The first slice tells; a recovery point in front of it makes it a place to start.
    fn note(&mut self, unit: &[u8], kind: Unit) {
        match kind {
            Unit::Slice(_) if self.recovers => self.picture = Some(Picture::Key),
            Unit::Slice(picture) => self.picture = Some(picture),
            Unit::Sei(header) => self.recovers |= has_recovery_point(unit.get(header..).unwrap_or(&[])),
            Unit::Other => {}
        }
    }
}

/// The picture, if each unit stands behind its length of `N` bytes, and whether the units end where `body` does, but for zeros.
fn by_lengths<const N: usize>(mut body: &[u8], classify: fn(&[u8]) -> Unit) -> (Picture, bool) {
    let mut told = Told::default();
    for _ in 0..UNITS_MAX {
        let Some((length, rest)) = body.split_first_chunk::<N>() else { break };
        let length = length.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
        // Lengths of four bytes, read as shorter ones, begin with zero.
        let Some((unit, rest)) = rest.split_at_checked(length).filter(|_| length > 0 || N == 4) else {
            break;
        };
        if told.picture.is_none() {
            told.note(unit, classify(unit));
        }
        body = rest;
    }
    (told.picture.unwrap_or(Picture::Untold), body.iter().all(|byte| *byte == 0))
}

/// The same behind start codes. They are not looked for in the picture itself.
fn by_start_codes(mut body: &[u8], classify: fn(&[u8]) -> Unit) -> Picture {
    let find = |bytes: &[u8]| bytes.windows(3).position(|bytes| bytes == [0, 0, 1]);
    let mut told = Told::default();
    for _ in 0..UNITS_MAX {
        let Some(unit) = find(body).and_then(|at| body.get(at + 3..)) else { break };
        let kind = classify(unit);
        let is_picture = matches!(kind, Unit::Slice(_));
        let end = if is_picture { unit.len() } else { find(unit).unwrap_or(unit.len()) };
        told.note(unit.get(..end).unwrap_or(unit), kind);
        if is_picture {
            break;
        }
        body = unit;
    }
    told.picture.unwrap_or(Picture::Untold)
}

fn avc(unit: &[u8]) -> Unit {
    match unit.first().map(|first| first & 0x1F) {
        Some(5) => Unit::Slice(Picture::Key),
        // Whole, and the first part of one in parts.
        Some(1 | 2) => Unit::Slice(avc_slice(unit.get(1..).unwrap_or(&[]))),
        Some(3 | 4) => Unit::Slice(Picture::Untold),
        Some(6) => Unit::Sei(1),
        _ => Unit::Other,
    }
}

/// A slice that is no IDR: of type P, B or SP it needs other pictures; of type I it may be one to start at.
fn avc_slice(header: &[u8]) -> Picture {
    let mut bytes = [0; 8];
    bytes.iter_mut().zip(unescaped(header)).for_each(|(to, from)| *to = from);
    let mut bits = u64::from_be_bytes(bytes);
    let _first_macroblock = exp_golomb(&mut bits);
    match exp_golomb(&mut bits).map(|slice_type| slice_type % 5) {
        Some(0 | 1 | 3) => Picture::Dependent,
        _ => Picture::Untold,
    }
}

/// An unsigned Exp-Golomb number at the front of `bits` (H.264 §9.1), which it is taken from.
fn exp_golomb(bits: &mut u64) -> Option<u64> {
    let zeros = bits.leading_zeros();
    if zeros > 24 {
        return None;
    }
    let value = (*bits << zeros) >> (63 - zeros);
    *bits <<= 2 * zeros + 1;
    Some(value - 1)
}

fn hevc(unit: &[u8]) -> Unit {
    match unit.first().map(|first| (first >> 1) & 0x3F) {
        // IDR, CRA and BLA.
        Some(16..=21) => Unit::Slice(Picture::Key),
        // Trailing pictures and sublayers, and what is skipped behind a keyframe.
        Some(0..=9) => Unit::Slice(Picture::Dependent),
        Some(10..=31) => Unit::Slice(Picture::Untold),
        Some(39) => Unit::Sei(2),
        _ => Unit::Other,
    }
}

fn vvc(unit: &[u8]) -> Unit {
    match unit.get(1).map(|second| second >> 3) {
        // IDR, CRA and gradual decoding refresh.
        Some(7..=10) => Unit::Slice(Picture::Key),
        // As of HEVC.
        Some(0..=3) => Unit::Slice(Picture::Dependent),
        Some(4..=11) => Unit::Slice(Picture::Untold),
        _ => Unit::Other,
    }
}

/// Whether there is a recovery point: from there on decoding ends in exact pictures (H.264 and H.265, annex D).
fn has_recovery_point(sei: &[u8]) -> bool {
    let recovery_point = 6;
    let mut bytes = unescaped(sei.get(..SEI_MAX).unwrap_or(sei));
    loop {
        let mut number = || {
            let mut sum = 0;
            loop {
                let byte = bytes.next()?;
                sum += usize::from(byte);
                if byte != 0xFF {
                    return Some(sum);
                }
            }
        };
        let (Some(kind), Some(size)) = (number(), number()) else { return false };
        if kind == recovery_point && size > 0 {
            return true;
        }
        if size > 0 && bytes.nth(size - 1).is_none() {
            return false;
        }
    }
}

/// The bytes of a NAL unit without those that keep a start code from appearing in it (H.264 §7.4.1).
fn unescaped(bytes: &[u8]) -> impl Iterator<Item = u8> {
    let mut zeros = 0;
    bytes.iter().copied().filter(move |byte| {
        let is_escape = zeros >= 2 && *byte == 3;
        zeros = if *byte == 0 { zeros + 1 } else { 0 };
        !is_escape
    })
}

/// The first frame header tells. A keyframe that is not shown is a place to start if the same unit of time shows it: else pictures
/// may stand between that need what came before it.
fn av1(mut body: &[u8]) -> Picture {
    let (sequence_header, frame_header, frame) = (1, 3, 6);
    let mut has_hidden_key = false;
    for _ in 0..UNITS_MAX {
        let Some((&header, rest)) = body.split_first() else { break };
        let (kind, has_extension, has_size) = ((header >> 3) & 0xF, header & 4 != 0, header & 2 != 0);
        let Some(mut rest) = rest.get(usize::from(has_extension)..) else { break };
        let Some(size) = (if has_size { leb128(&mut rest) } else { Some(rest.len()) }) else { break };
        let Some((unit, rest)) = rest.split_at_checked(size) else { break };
        body = rest;
        let Some(first) = unit.first() else { continue };
        // A still picture has no frame type.
        if kind == sequence_header && first & 0x08 != 0 {
            return Picture::Key;
        }
        if kind == frame_header || kind == frame {
            let (shows_existing, frame_type, is_shown) = (first >> 7, (first >> 5) & 3, (first >> 4) & 1);
            match (shows_existing, frame_type, is_shown) {
                (0, 0, 1) => return Picture::Key,
                (0, 0, _) => has_hidden_key = true,
                (1.., _, _) if has_hidden_key => return Picture::Key,
                _ if has_hidden_key => break,
                // An earlier frame is shown, or needed.
                _ => return Picture::Dependent,
            }
        }
    }
    Picture::Untold
}

/// A number of at most four bytes, which is taken from the front: more than a message can have.
fn leb128(bytes: &mut &[u8]) -> Option<usize> {
    let mut value = 0;
    for place in 0..4 {
        let (&byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= usize::from(byte & 0x7F) << (7 * place);
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

fn vp8(body: &[u8]) -> Picture {
    match body {
        [first, ..] if first & 1 == 1 => Picture::Dependent,
        [_, _, _, 0x9D, 0x01, 0x2A, ..] => Picture::Key,
        _ => Picture::Untold,
    }
}

fn vp9(body: &[u8]) -> Picture {
    let Some(&[first, second, third, fourth, fifth]) = body.first_chunk::<5>() else {
        return Picture::Untold;
    };
    let bits = u64::from_be_bytes([0, 0, 0, first, second, third, fourth, fifth]);
    // Frame marker, profile (a third bit where it is 3), then "show existing frame" and the frame type.
    let (marker, is_profile_3) = (first >> 6, (first >> 4) & 3 == 3);
    let at = if is_profile_3 { 34 } else { 35 };
    let bit = |from: u32| (bits >> from) & 1;
    if marker != 2 {
        return Picture::Untold;
    }
    // An earlier frame is shown, or needed.
    if bit(at) == 1 || bit(at - 1) == 1 {
        return Picture::Dependent;
    }
    let sync = (bits >> (at - 3 - 24)) & 0xFF_FFFF;
    if sync == 0x49_83_42 { Picture::Key } else { Picture::Untold }
}

#[cfg(test)]
mod tests {
    use super::Picture::{Dependent, Key, Untold};
    use super::*;
    use proptest::prelude::*;

    /// NAL units, each behind its length.
    fn units(units: &[&[u8]]) -> Vec<u8> {
        units.iter().flat_map(|unit| [&(unit.len() as u32).to_be_bytes()[..], unit].concat()).collect()
    }

    #[test]
    fn an_h264_picture_is_told_by_its_first_slice() {
        let (delimiter, parameters) = (&[9, 0xF0][..], &[0x67, 0x42, 0xC0, 0x1F][..]);
        let idr = units(&[delimiter, parameters, &[0x68, 0xCE], &[0x65, 0x88, 0x80]]);
        assert_eq!(look(Coding::Avc, &idr), Key);
        // first_mb_in_slice 0, then slice_type 5 (P), 6 (B), 7 (I).
        for (slice, picture) in [(0b1001_1000, Dependent), (0b1001_1100, Dependent), (0b1000_1000, Untold)] {
            assert_eq!(look(Coding::Avc, &units(&[delimiter, &[0x41, slice, 0]])), picture, "{slice:b}");
        }
    }

    #[test]
    fn a_recovery_point_is_a_place_to_start() {
        let p_slice = &[0x41, 0b1001_1000, 0][..];
        // Behind another message, whose size counts bytes without the one that breaks a start code.
        let sei = [6, 5, 4, 0, 0, 3, 0, 9, 6, 1, 0xC4, 0x80];
        assert_eq!(look(Coding::Avc, &units(&[&sei, p_slice])), Key);
        let other = [6, 5, 3, 6, 1, 0xC4, 0x80];
        assert_eq!(look(Coding::Avc, &units(&[&other, p_slice])), Dependent);
        assert_eq!(look(Coding::Avc, &units(&[&sei])), Untold, "there is no picture");
        assert_eq!(look(Coding::Hevc, &units(&[&[0x4E, 1, 6, 1, 0x80], &[2, 1, 0xD0]])), Key);
    }

    /// Units, each behind a length of `size` bytes.
    fn units_of(size: usize, units: &[&[u8]]) -> Vec<u8> {
        let length = |unit: &[u8]| (unit.len() as u32).to_be_bytes()[4 - size..].to_vec();
        units.iter().flat_map(|unit| [length(unit), unit.to_vec()].concat()).collect()
    }

    #[test]
    fn a_picture_is_found_behind_lengths_of_any_size_and_behind_start_codes() {
        let (delimiter, sei) = (&[9, 0xF0][..], &[6, 5, 3, 9, 9, 9, 0x80][..]);
        let recovery = &[6, 6, 1, 0xC4, 0x80][..];
        // Two slices, the second in the way of an end that fits by chance; first_mb_in_slice 0, slice_type 5 (P).
        let slice = |header: u8, rest: usize| [&[header, 0b1001_1000][..], &vec![0x55; rest]].concat();
        for length in [2, 40, 200] {
            let (idr, p) = (slice(0x65, length), slice(0x41, length));
            let pictures = [
                (vec![delimiter, sei, &idr, &idr], Key),
                (vec![&idr[..]], Key),
                (vec![delimiter, sei, &p, &p], Dependent),
                (vec![&p[..]], Dependent),
                (vec![delimiter, recovery, &p], Key),
            ];
            for (parts, picture) in pictures {
                for size in [1, 2, 4] {
                    assert_eq!(
                        look(Coding::Avc, &units_of(size, &parts)),
                        picture,
                        "{size} {length} {parts:x?}"
                    );
                }
                for start in [&[0, 0, 1][..], &[0, 0, 0, 1]] {
                    let body: Vec<u8> = parts.iter().flat_map(|unit| [start, unit].concat()).collect();
                    assert_eq!(look(Coding::Avc, &body), picture, "{start:?} {length} {parts:x?}");
                }
            }
        }
        assert_eq!(look(Coding::Hevc, &units_of(2, &[&[0x46, 1, 0x50], &[0x26, 1, 0xAF]])), Key);
        assert_eq!(look(Coding::Hevc, &[0, 0, 0, 1, 0x46, 1, 0x50, 0, 0, 1, 2, 1, 0xD0]), Dependent);
    }

    #[test]
    fn a_large_picture_behind_short_lengths_is_not_taken_for_one_behind_long_ones() {
        // Of four bytes the first length would be 0x2_09F0, and end in the middle of the picture.
        let idr = [&[0x65, 0x88][..], &[0x41; 60_000]].concat();
        let body = units_of(2, &[&[9, 0xF0], &idr, &idr, &idr]);
        assert_eq!(look(Coding::Avc, &body), Key);
    }

    #[test]
    fn a_message_that_is_cut_or_padded_tells_all_the_same() {
        let body = units(&[&[9, 0xF0], &[&[0x65, 0x88][..], &[0x55; 300]].concat(), &[0x65, 0x88]]);
        assert_eq!(look(Coding::Avc, &body[..body.len() - 1]), Key);
        let p = units(&[&[&[0x41, 0b1001_1000][..], &[0x55; 0x163]].concat()]);
        assert_eq!(p[3], 0x65, "behind a start code it would be a keyframe");
        assert_eq!(look(Coding::Avc, &[&p[..], &[0; 3]].concat()), Dependent);
    }

    #[test]
    fn hevc_and_vvc_are_told_by_the_type_of_their_nal_unit() {
        for kind in 0..32 {
            let hevc = match kind {
                0..=9 => Dependent,
                16..=21 => Key,
                _ => Untold,
            };
            assert_eq!(look(Coding::Hevc, &units(&[&[0x40, 1], &[kind << 1, 1, 0x80]])), hevc, "{kind}");
            let vvc = match kind {
                0..=3 => Dependent,
                7..=10 => Key,
                _ => Untold,
            };
            assert_eq!(look(Coding::Vvc, &units(&[&[0, 0xA0, 1], &[0, kind << 3 | 1, 0x80]])), vvc, "{kind}");
        }
    }

    #[test]
    fn an_av1_frame_is_told_by_its_frame_header() {
        let (delimiter, sequence) = (&[0x12, 0][..], &[0x0A, 3, 0, 0, 0][..]);
        let unit = |frame: &[u8]| look(Coding::Av1, &[delimiter, sequence, frame].concat());
        assert_eq!(unit(&[0x32, 1, 0b0001_0000]), Key);
        assert_eq!(unit(&[0x32, 1, 0b0011_0000]), Dependent);
        assert_eq!(unit(&[0x1A, 1, 0b0000_0000]), Untold, "a keyframe that is not shown yet");
        assert_eq!(unit(&[0x1A, 1, 0b1000_0000]), Dependent, "an earlier frame");
        let hidden = &[0x32, 1, 0b0000_0000][..];
        assert_eq!(unit(&[hidden, &[0x1A, 1, 0b1000_0000]].concat()), Key, "it is shown at once");
        assert_eq!(unit(&[hidden, &[0x32, 1, 0b0011_0000]].concat()), Untold, "another picture is shown");
        // Without a size; behind a long one.
        assert_eq!(look(Coding::Av1, &[0x30, 0b0001_0000]), Key);
        assert_eq!(look(Coding::Av1, &[&[0x2A, 0x80, 0x01][..], &[0; 128], &[0x30, 0x10]].concat()), Key);
        assert_eq!(look(Coding::Av1, &[0x0A, 1, 0x18]), Key, "a still picture");
    }

    #[test]
    fn vp8_and_vp9_frames_are_told_by_their_first_bytes() {
        assert_eq!(look(Coding::Vp8, &[0x10, 0, 0, 0x9D, 1, 0x2A, 0]), Key);
        assert_eq!(look(Coding::Vp8, &[0x11, 0, 0]), Dependent);
        assert_eq!(look(Coding::Vp9, &[0x82, 0x49, 0x83, 0x42, 0]), Key);
        assert_eq!(look(Coding::Vp9, &[0x86, 0, 0x40, 0x92, 0]), Dependent);
        // Profile 3: one bit later.
        assert_eq!(look(Coding::Vp9, &[0xB1, 0x24, 0xC1, 0xA1, 0]), Key);
        assert_eq!(look(Coding::Vp9, &[0x88, 0, 0, 0, 0]), Dependent, "an earlier frame");
    }

    #[test]
    fn bytes_that_are_no_units_tell_nothing() {
        for coding in [Coding::Avc, Coding::Hevc, Coding::Vvc, Coding::Av1] {
            assert_eq!(look(coding, b""), Untold);
            assert_eq!(look(coding, &[0; 1_000]), Untold);
        }
        assert_eq!(look(Coding::Avc, &[0, 0, 1, 0, 0x65]), Untold, "longer than the message");
        assert_eq!(look(Coding::Avc, &units(&[&[9, 0xF0][..]; UNITS_MAX + 1])), Untold);
        assert_eq!(look(Coding::Avc, &[0, 0, 1].repeat(UNITS_MAX + 1)), Untold);
    }

    proptest! {
        #[test]
        fn any_bytes_are_looked_at_without_a_panic(
            bytes in prop::collection::vec(prop_oneof![4 => 0u8..8, 1 => any::<u8>()], 0..200),
        ) {
            for coding in [Coding::Avc, Coding::Hevc, Coding::Vvc, Coding::Av1, Coding::Vp8, Coding::Vp9] {
                look(coding, &bytes);
            }
        }

        #[test]
        fn what_stands_in_front_of_a_keyframe_does_not_hide_it(
            before in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..100),
        ) {
            // Parameter sets and end-of-sequence, of any content.
            let mut body = Vec::new();
            for mut unit in before {
                unit.insert(0, 0x67);
                body.extend(units(&[&unit]));
            }
            body.extend(units(&[&[0x65, 0x88]]));
            prop_assert_eq!(look(Coding::Avc, &body), Key);
        }
    }
}
