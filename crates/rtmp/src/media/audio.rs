//! What an audio payload is: a header or sound, and of which codec.

use super::class::{Class, Kind};
use super::codec::Codec;
use super::scope::Scope;
use super::video::{Packet, main_track};

/// SoundFormat that announces an Enhanced RTMP header.
const EX_HEADER: u8 = 9;
const AAC: u8 = 10;

/// Packet types of Enhanced RTMP that a decoder needs before sound: the sequence header, and which channels are where.
const SEQUENCE_START: u8 = 0;
const MULTICHANNEL_CONFIG: u8 = 4;

pub(super) fn classify(payload: &[u8]) -> Class {
    let Some((&first, rest)) = payload.split_first() else { return Class::IGNORE };
    let format = first >> 4;
    if format == EX_HEADER {
        let Some(packet) = Packet::parse(first & 0x0F, rest) else {
            return Class { kind: Kind::Audio, codec: None, track: 0 };
        };
        let kind = match packet.kind {
            SEQUENCE_START | MULTICHANNEL_CONFIG => Kind::AudioHeader,
            _ => Kind::Audio,
        };
        return Class { kind, codec: packet.codec, track: packet.track };
    }
    let kind = match (format, rest.first()) {
        (AAC, None) => return Class::IGNORE,
        (AAC, Some(0)) => Kind::AudioHeader,
        _ => Kind::Audio,
    };
    Class { kind, codec: Codec::audio(format), track: 0 }
}

/// What a header is about; `None` of sound.
pub(super) fn scope(payload: &[u8]) -> Option<Scope> {
    let Class { kind: Kind::AudioHeader, codec, .. } = classify(payload) else { return None };
    let (&first, rest) = payload.split_first()?;
    if first >> 4 == EX_HEADER {
        return Packet::parse(first & 0x0F, rest).map(|packet| packet.scope());
    }
    Some(Scope::Packet { packet_type: SEQUENCE_START, codec, tracks: main_track() })
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
        assert_eq!(seen(b"\x94ac-3\x00\x02"), (Kind::AudioHeader, "ac3".into()));
        assert_eq!(seen(b"\x90Op"), (Kind::Audio, String::new()));
    }

    #[test]
    fn each_track_has_headers_and_a_codec() {
        assert_eq!(seen(b"\x95\x00Opus\x00"), (Kind::AudioHeader, "opus".into()));
        assert_eq!(seen(b"\x95\x00Opus\x01"), (Kind::AudioHeader, "opus".into()));
        assert_eq!(seen(b"\x95\x01Opus\x01"), (Kind::Audio, "opus".into()));
        assert_eq!(classify(b"\x95\x01Opus\x01").track, 1);
        assert_eq!(seen(b"\x97\x02\0\0\x05\x00Opus").0, Kind::AudioHeader);
    }
}
