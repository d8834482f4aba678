//! What a video payload is: a header, a keyframe, another frame or nothing to relay. Audio shares its reader of
//! enhanced headers.

use super::class::{Class, Kind};
use super::codec::{Codec, Coding};
use super::picture::{self, Picture};
use super::scope::{Scope, TrackIds};

const KEY: u8 = 1;
const GENERATED_KEY: u8 = 4;
/// A command to the player (seek marks), no picture.
const COMMAND: u8 = 5;

/// Packet types of Enhanced RTMP.
const SEQUENCE_START: u8 = 0;
const CODED_FRAMES: u8 = 1;
const CODED_FRAMES_X: u8 = 3;
const METADATA: u8 = 4;
const MPEG2TS_SEQUENCE_START: u8 = 5;

/// Enhanced RTMP packet types audio and video of v2 use to wrap others.
const AUDIO_OR_VIDEO_MOD_EX: u8 = 7;

/// Kinds of multitrack packets: of one track, of several with one codec, of several with a codec each.
const ONE_TRACK: u8 = 0;
const MANY_CODECS: u8 = 2;
/// Track ids are one byte: who names more tracks repeats some.
const TRACKS_MAX: usize = 256;

pub(super) fn classify(payload: &[u8]) -> Class {
    let Some((&first, rest)) = payload.split_first() else { return Class::IGNORE };
    // This bit first: the low nibble of an enhanced header is a packet type, no codec.
    if first & 0x80 != 0 { enhanced(first, rest) } else { legacy(first, rest) }
}

fn legacy(first: u8, rest: &[u8]) -> Class {
    let (frame, id) = (first >> 4, first & 0x0F);
    let key = matches!(frame, KEY | GENERATED_KEY);
    let framed = matches!(id, 7 | 12 | 13);
    let kind = match rest.first() {
        _ if frame == COMMAND => return Class::IGNORE,
        None if framed => return Class::IGNORE,
        Some(0) if framed => Kind::VideoHeader,
        // Behind the packet type and the composition time.
        Some(1) if framed => frame_kind(key, Codec::video(id), rest.get(4..)),
        _ if framed => Kind::Video,
        _ if key => Kind::Keyframe,
        _ => Kind::Video,
    };
    Class { kind, codec: Codec::video(id), track: 0 }
}

fn enhanced(first: u8, rest: &[u8]) -> Class {
    let frame = (first >> 4) & 7;
    let Some(packet) = Packet::parse_video(first & 0x0F, rest) else {
        return Class { kind: Kind::Video, codec: None, track: 0 };
    };
    // The frame type of a metadata packet means nothing; FFmpeg sends 5 there.
    if frame == COMMAND && packet.kind != METADATA {
        return Class::IGNORE;
    }
    let key = matches!(frame, KEY | GENERATED_KEY);
    let kind = match packet.kind {
        SEQUENCE_START | MPEG2TS_SEQUENCE_START => Kind::VideoHeader,
        METADATA => Kind::VideoMetadata,
        CODED_FRAMES => frame_kind(key, packet.codec, packet.coded_frames()),
        CODED_FRAMES_X => frame_kind(key, packet.codec, Some(packet.body)),
        _ => Kind::Video,
    };
    Class { kind, codec: packet.codec, track: packet.track }
}

/// What a header or a metadata packet is about; `None` of frames.
pub(super) fn scope(payload: &[u8]) -> Option<Scope> {
    let Class { kind, codec, .. } = classify(payload);
    match (kind, payload.split_first()?) {
        (Kind::VideoHeader | Kind::VideoMetadata, (first, rest)) if first & 0x80 != 0 => {
            Packet::parse_video(first & 0x0F, rest).map(|packet| packet.scope())
        }
        (Kind::VideoHeader, _) => Some(Scope::Packet { packet_type: 0, codec, tracks: main_track() }),
        _ => None,
    }
}

/// Track 0 alone.
pub(super) fn main_track() -> TrackIds {
    let mut tracks = TrackIds::default();
    tracks.insert(0);
    tracks
}

/// What its own bytes say counts, and where they say nothing, the frame type.
fn frame_kind(key: bool, codec: Option<Codec>, body: Option<&[u8]>) -> Kind {
    let coding = codec.and_then(Codec::coding);
    let picture = coding.zip(body).map_or(Picture::Untold, |(coding, body)| picture::look(coding, body));
    match picture {
        Picture::Key => Kind::Keyframe,
        Picture::Dependent => Kind::Video,
        Picture::Untold if key => Kind::Keyframe,
        Picture::Untold => Kind::Video,
    }
}

/// The part of an enhanced header that audio and video share.
pub(super) struct Packet<'a> {
    pub(super) kind: u8,
    /// The lowest, where there are several; 0 where it names none.
    pub(super) track: u8,
    /// Of that track.
    pub(super) codec: Option<Codec>,
    /// What is behind the header, of that track.
    body: &'a [u8],
    /// Kind of multitrack packet, and its bytes behind that.
    multitrack: Option<(u8, &'a [u8])>,
}

impl<'a> Packet<'a> {
    /// For audio: packet type 5 is multitrack, 7 an extension.
    pub(super) fn parse(kind: u8, rest: &'a [u8]) -> Option<Self> {
        Self::parse_with(5, kind, rest)
    }

    /// For video: packet type 6 is multitrack, 7 an extension.
    fn parse_video(kind: u8, rest: &'a [u8]) -> Option<Self> {
        Self::parse_with(6, kind, rest)
    }

    fn parse_with(multitrack: u8, mut kind: u8, rest: &'a [u8]) -> Option<Self> {
        let mut bytes = rest;
        while kind == AUDIO_OR_VIDEO_MOD_EX {
            let mut size = usize::from(take::<1>(&mut bytes)?[0]) + 1;
            if size == 256 {
                size = usize::from(u16::from_be_bytes(take(&mut bytes)?)) + 1;
            }
            bytes = bytes.get(size..)?;
            kind = take::<1>(&mut bytes)?[0] & 0x0F;
        }
        if kind != multitrack {
            let codec = Some(Codec::four_cc(take(&mut bytes)?));
            return Some(Self { kind, track: 0, codec, body: bytes, multitrack: None });
        }
        let [mode] = take(&mut bytes)?;
        let (kind, mode) = (mode & 0x0F, mode >> 4);
        let Part { track, codec, body } = parts(mode, bytes).min_by_key(|part| part.track)?;
        Some(Self { kind, track, codec: Some(codec), body, multitrack: Some((mode, bytes)) })
    }

    /// The pictures of a packet of coded frames: for some codecs behind the composition time.
    fn coded_frames(&self) -> Option<&'a [u8]> {
        match self.codec?.coding()? {
            Coding::Avc | Coding::Hevc | Coding::Vvc => self.body.get(3..),
            Coding::Av1 | Coding::Vp8 | Coding::Vp9 => Some(self.body),
        }
    }

    /// See [`Scope`], of a configuration.
    pub(super) fn scope(&self) -> Scope {
        let tracks = match self.multitrack {
            None => main_track(),
            Some((mode, bytes)) => {
                let mut tracks = TrackIds::default();
                parts(mode, bytes).for_each(|part| tracks.insert(part.track));
                tracks
            }
        };
        Scope::Packet { packet_type: self.kind, codec: self.codec, tracks }
    }
}

/// One track of a multitrack packet.
struct Part<'a> {
    track: u8,
    codec: Codec,
    body: &'a [u8],
}

/// The tracks of a multitrack packet whose kind stands in front of `bytes`; up to where it is cut short.
fn parts(mode: u8, mut bytes: &[u8]) -> impl Iterator<Item = Part<'_>> {
    let mut codec = None;
    std::iter::from_fn(move || {
        // One for all, or each its own.
        if codec.is_none() || mode == MANY_CODECS {
            codec = Some(Codec::four_cc(take(&mut bytes)?));
        }
        let [track] = take(&mut bytes)?;
        let size = if mode == ONE_TRACK { None } else { take(&mut bytes) };
        let body = match size {
            Some([a, b, c]) => {
                let size = u32::from_be_bytes([0, a, b, c]) as usize;
                let (body, rest) = bytes.split_at_checked(size).unwrap_or((bytes, &[]));
                bytes = rest;
                body
            }
            None => std::mem::take(&mut bytes),
        };
        Some(Part { track, codec: codec?, body })
    })
    .take(TRACKS_MAX)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(payload: &[u8]) -> (Kind, String) {
        let class = classify(payload);
        (class.kind, class.codec.map(|codec| codec.to_string()).unwrap_or_default())
    }

    #[test]
    fn legacy_h264_is_told_by_its_packet_type() {
        assert_eq!(seen(b"\x17\x00\0\0\0\x01"), (Kind::VideoHeader, "h264".into()));
        assert_eq!(seen(b"\x17\x01\0\0\0\x65"), (Kind::Keyframe, "h264".into()));
        assert_eq!(seen(b"\x27\x01\0\0\0\x41"), (Kind::Video, "h264".into()));
        assert_eq!(seen(b"\x17\x02\0\0\0"), (Kind::Video, "h264".into()));
        assert_eq!(seen(b"\x1c\x00\0\0\0"), (Kind::VideoHeader, "hevc".into()));
        assert_eq!(seen(b"\x1d\x01\0\0\0"), (Kind::Keyframe, "av1".into()));
    }

    #[test]
    fn codecs_without_a_header_have_keyframes_all_the_same() {
        assert_eq!(seen(b"\x12\x00"), (Kind::Keyframe, "h263".into()));
        assert_eq!(seen(b"\x24\x00"), (Kind::Video, "vp6".into()));
    }

    #[test]
    fn commands_and_cut_payloads_are_ignored() {
        for payload in [&b""[..], b"\x17", b"\x57\x00", b"\x52\x01", b"\xd0hvc1"] {
            assert_eq!(seen(payload).0, Kind::Ignore, "{payload:?}");
        }
    }

    #[test]
    fn enhanced_video_as_ffmpeg_sends_it() {
        assert_eq!(seen(b"\x90hvc1conf"), (Kind::VideoHeader, "hevc".into()));
        // Frame type 5 and Metadata: a rule "commands are dropped" would lose HDR.
        assert_eq!(seen(b"\xd4hvc1\x02\0\x09colorInfo"), (Kind::VideoMetadata, "hevc".into()));
        assert_eq!(seen(b"\x91hvc1\0\0\0"), (Kind::Keyframe, "hevc".into()));
        assert_eq!(seen(b"\xa1hvc1\0\0\0"), (Kind::Video, "hevc".into()));
        assert_eq!(seen(b"\x93av01"), (Kind::Keyframe, "av1".into()));
        assert_eq!(seen(b"\x92vp09"), (Kind::Video, "vp9".into()));
        assert_eq!(seen(b"\x95av01"), (Kind::VideoHeader, "av1".into()));
    }

    #[test]
    fn extensions_are_passed_over_to_the_packet_they_wrap() {
        assert_eq!(seen(b"\x97\x02\0\0\x05\x01hvc1"), (Kind::Keyframe, "hevc".into()));
        assert_eq!(seen(b"\x97\x00\0\x07\x01\0\0\x01hvc1"), (Kind::Keyframe, "hevc".into()));
        let mut long = b"\x97\xff\x01\x00".to_vec();
        long.extend([0; 257]);
        long.extend(b"\x00hvc1");
        assert_eq!(seen(&long), (Kind::VideoHeader, "hevc".into()));
        assert_eq!(seen(b"\x97\xff\xff\xff\x00"), (Kind::Video, String::new()));
    }

    #[test]
    fn each_track_has_headers_keyframes_and_a_codec() {
        assert_eq!(seen(b"\x96\x00hvc1\x00"), (Kind::VideoHeader, "hevc".into()));
        assert_eq!(seen(b"\x96\x00hvc1\x01"), (Kind::VideoHeader, "hevc".into()));
        assert_eq!(seen(b"\x96\x04hvc1\x01"), (Kind::VideoMetadata, "hevc".into()));
        assert_eq!(seen(b"\x96\x11avc1\x00\0\0\x04data"), (Kind::Keyframe, "h264".into()));
        assert_eq!(seen(b"\x96\x21avc1\x00\0\0\x04data"), (Kind::Keyframe, "h264".into()));
        assert_eq!(seen(b"\x96\x01avc1\x02"), (Kind::Keyframe, "h264".into()));
        assert_eq!(classify(b"\x96\x01avc1\x02").track, 2);
    }

    #[test]
    fn of_several_tracks_in_a_message_the_lowest_counts() {
        // HEVC of track 3 with a trailing picture, then of track 1 with an IDR; the same with H.264 first.
        let one_codec = b"\x86\x13hvc1\x03\0\0\x06\0\0\0\x02\x02\x01\x01\0\0\x06\0\0\0\x02\x26\x01";
        let two_codecs = b"\x86\x23avc1\x03\0\0\x06\0\0\0\x02\x41\x98hvc1\x01\0\0\x06\0\0\0\x02\x26\x01";
        for payload in [&one_codec[..], two_codecs] {
            assert_eq!(seen(payload), (Kind::Keyframe, "hevc".into()));
            assert_eq!(classify(payload).track, 1);
        }
        let size = one_codec.len();
        // Cut in the second track: the first is left.
        assert_eq!(classify(&one_codec[..size - 10]).track, 3);
    }

    #[test]
    fn a_keyframe_is_what_the_picture_says_where_the_frame_type_does_not() {
        let kinds = [
            // Frame type 0, as some senders give each frame of Enhanced RTMP.
            (&b"\x83hvc1\0\0\0\x02\x26\x01"[..], Kind::Keyframe),
            (b"\x83hvc1\0\0\0\x02\x02\x01", Kind::Video),
            (b"\x81hvc1\0\0\x28\0\0\0\x02\x26\x01", Kind::Keyframe),
            (b"\x81av01\x12\0\x32\x01\x10", Kind::Keyframe),
            (b"\x81vp09\x82\x49\x83\x42\0", Kind::Keyframe),
            // A wrong one, both ways; a last picture that the old codec number says is HEVC.
            (b"\x27\x01\0\0\0\0\0\0\x02\x65\x88", Kind::Keyframe),
            (b"\x17\x01\0\0\0\0\0\0\x02\x41\x98", Kind::Video),
            (b"\x2c\x01\0\0\0\0\0\0\x02\x2a\x01", Kind::Keyframe),
            // The first track, alone and before others.
            (b"\x86\x03hvc1\0\0\0\0\x02\x26\x01", Kind::Keyframe),
            (b"\x86\x13hvc1\0\0\0\x06\0\0\0\x02\x26\x01\x01\0\0\0", Kind::Keyframe),
            (b"\x86\x03hvc1\x01\0\0\0\x02\x26\x01", Kind::Keyframe),
        ];
        for (payload, kind) in kinds {
            assert_eq!(seen(payload).0, kind, "{payload:x?}");
        }
    }

    #[test]
    fn an_unknown_codec_is_relayed_opaque() {
        assert_eq!(seen(b"\x1f\x00"), (Kind::Keyframe, String::new()));
        assert_eq!(seen(b"\x91wxyz\0"), (Kind::Keyframe, "wxyz".into()));
        assert_eq!(seen(b"\x91wx"), (Kind::Video, String::new()));
    }
}
