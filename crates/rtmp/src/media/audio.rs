//! What an audio payload is: a header or sound, and of which codec.

use super::class::{Class, Kind};
use super::codec::Codec;
use super::video::{Packet, Track};

/// SoundFormat that announces an Enhanced RTMP header.
const EX_HEADER: u8 = 9;
const AAC: u8 = 10;

pub(super) fn classify(payload: &[u8]) -> Class {
    let Some((&first, rest)) = payload.split_first() else { return Class::IGNORE };
    let format = first >> 4;
    if format == EX_HEADER {
        let Some(packet) = Packet::parse(first & 0x0F, rest) else {
            return Class { kind: Kind::Audio, codec: None };
        };
        let kind = match (packet.kind, packet.track) {
            (0, Track::Main) => Kind::AudioHeader,
            _ => Kind::Audio,
        };
        return Class { kind, codec: packet.codec };
    }
    let kind = match (format, rest.first()) {
        (AAC, None) => return Class::IGNORE,
        (AAC, Some(0)) => Kind::AudioHeader,
        _ => Kind::Audio,
    };
    Class { kind, codec: Codec::audio(format) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(payload: &[u8]) -> (Kind, String) {
        let class = classify(payload);
        (class.kind, class.codec.map(|codec| codec.to_string()).unwrap_or_default())
    }

    #[test]
    fn only_legacy_aac_has_a_header() {
        assert_eq!(seen(b"\xaf\x00\x12\x10"), (Kind::AudioHeader, "aac".into()));
        assert_eq!(seen(b"\xaf\x01\x21"), (Kind::Audio, "aac".into()));
        assert_eq!(seen(b"\x2f\x00\x00"), (Kind::Audio, "mp3".into()));
        assert_eq!(seen(b"\x72\x00"), (Kind::Audio, "g711a".into()));
        assert_eq!(seen(b"\xb2\x00"), (Kind::Audio, "speex".into()));
        assert_eq!(seen(b"\xaf").0, Kind::Ignore);
        assert_eq!(seen(b"").0, Kind::Ignore);
    }

    #[test]
    fn enhanced_audio_names_its_codec() {
        assert_eq!(seen(b"\x90OpusHead"), (Kind::AudioHeader, "opus".into()));
        assert_eq!(seen(b"\x91Opus\xfc"), (Kind::Audio, "opus".into()));
        assert_eq!(seen(b"\x92fLaC"), (Kind::Audio, "flac".into()));
        assert_eq!(seen(b"\x94ac-3\x00\x02"), (Kind::Audio, "ac3".into()));
        assert_eq!(seen(b"\x90Op"), (Kind::Audio, String::new()));
    }

    #[test]
    fn only_the_first_track_is_the_one_to_cache() {
        assert_eq!(seen(b"\x95\x00Opus\x00").0, Kind::AudioHeader);
        assert_eq!(seen(b"\x95\x00Opus\x01").0, Kind::Audio);
        assert_eq!(seen(b"\x97\x02\0\0\x05\x00Opus").0, Kind::AudioHeader);
    }
}
