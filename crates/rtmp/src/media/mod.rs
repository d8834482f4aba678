//! What a media payload is: enough to cache headers and to find keyframes, not to decode (FLV 10.1 annex E.4, Enhanced
//! RTMP v1 and v2). Payloads stay opaque; an unknown codec is relayed like a known one.

mod audio;
mod class;
mod codec;
mod data;
mod picture;
mod scope;
mod video;

use crate::chunk::Message;
use crate::message_type;
use bytes::Bytes;

pub use class::{Class, Kind};
pub use codec::Codec;
pub use data::{metadata_for_players, metadata_for_publish};
pub use scope::{Scope, TrackIds};

/// Sub-messages taken from one aggregate. Encoders put fewer than 20 into one; more is an attempt to make us work.
const MAX_AGGREGATE: usize = 1024;

/// Looks at the first bytes of an audio (8), video (9) or data (18, 15) message; other types are [`Kind::Ignore`].
pub fn classify(type_id: u8, payload: &[u8]) -> Class {
    match type_id {
        message_type::AUDIO => audio::classify(payload),
        message_type::VIDEO => video::classify(payload),
        message_type::DATA | message_type::DATA_AMF3 => {
            Class { kind: data::kind(payload), codec: None, track: 0 }
        }
        _ => Class::IGNORE,
    }
}

/// What a header, a metadata packet or a data message is about; `None` of frames, and of what is [`Kind::Ignore`].
pub fn scope(type_id: u8, payload: &[u8]) -> Option<Scope> {
    match type_id {
        message_type::AUDIO => audio::scope(payload),
        message_type::VIDEO => video::scope(payload),
        message_type::DATA | message_type::DATA_AMF3 => data::scope(payload),
        _ => None,
    }
}

/// The audio, video and data messages of an aggregate (type 22; RTMP 1.0, section 7.1.6), each with its own time.
///
/// The time stamps inside are shifted so that the first equals the aggregate's. At most 1024; a malformed tail is dropped.
pub fn split_aggregate(message: &Message) -> Vec<Message> {
    let mut parts: Vec<Message> = Vec::new();
    let mut first = None;
    let mut at = 0;
    while parts.len() < MAX_AGGREGATE {
        let rest = message.payload.get(at..).unwrap_or_default();
        let Some(&[type_id, s2, s1, s0, t2, t1, t0, t3, ..]) = rest.first_chunk::<11>() else { break };
        let size = u32::from_be_bytes([0, s2, s1, s0]) as usize;
        let time = u32::from_be_bytes([t3, t2, t1, t0]);
        let (start, end) = (at + 11, at + 11 + size);
        if end > message.payload.len() {
            break;
        }
        let first = *first.get_or_insert(time);
        if size > 0 && matches!(type_id, message_type::AUDIO | message_type::VIDEO | message_type::DATA) {
            parts.push(Message {
                csid: message.csid,
                type_id,
                msid: message.msid,
                timestamp: message.timestamp.wrapping_add(time.wrapping_sub(first)),
                payload: message.payload.slice(start..end),
            });
        }
        // Behind each part stands its length once more.
        at = end + 4;
    }
    parts
}

/// The AMF0 part of an AMF3 message: senders put one zero byte before a string marker.
pub(crate) fn strip_amf3(payload: &Bytes) -> Bytes {
    payload.slice(payload.len() - data::without_amf3(payload).len()..)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message_type::{AUDIO, DATA, VIDEO};
    use proptest::prelude::*;

    fn aggregate(parts: &[(u8, u32, &[u8])]) -> Message {
        let mut payload = Vec::new();
        for (type_id, time, body) in parts {
            let [t3, t2, t1, t0] = time.to_be_bytes();
            payload.extend_from_slice(&[*type_id, 0, 0, body.len() as u8, t2, t1, t0, t3, 0, 0, 0]);
            payload.extend_from_slice(body);
            payload.extend_from_slice(&(11 + body.len() as u32).to_be_bytes());
        }
        Message { csid: 6, type_id: 22, msid: 3, timestamp: 5000, payload: payload.into() }
    }

    #[test]
    fn an_aggregate_is_split_with_its_times_shifted_to_the_message() {
        let parts =
            split_aggregate(&aggregate(&[(9, 1000, b"v"), (8, 1020, b"a"), (18, 990, b"d"), (8, 1040, b"")]));
        let seen: Vec<_> = parts.iter().map(|p| (p.type_id, p.timestamp, p.msid, &p.payload[..])).collect();
        assert_eq!(seen, [(9, 5000, 3, &b"v"[..]), (8, 5020, 3, b"a"), (18, 4990, 3, b"d")]);
    }

    #[test]
    fn parts_of_other_types_are_left_out() {
        assert!(split_aggregate(&aggregate(&[(20, 0, b"c"), (22, 0, b"n")])).is_empty());
    }

    #[test]
    fn a_malformed_tail_of_an_aggregate_is_dropped() {
        let mut message = aggregate(&[(8, 0, b"aa"), (9, 5, b"vv")]);
        message.payload = message.payload.slice(..message.payload.len() - 5);
        assert_eq!(split_aggregate(&message).len(), 1);
    }

    #[test]
    fn the_number_of_parts_is_bounded() {
        let parts: Vec<_> = (0..2000).map(|time| (8, time, &b"a"[..])).collect();
        assert_eq!(split_aggregate(&aggregate(&parts)).len(), MAX_AGGREGATE);
    }

    /// Which of `payloads` are in force behind the last.
    fn in_force<const N: usize>(type_id: u8, payloads: [&[u8]; N]) -> Vec<usize> {
        let mut kept: Vec<(usize, Scope)> = Vec::new();
        for (index, payload) in payloads.iter().enumerate() {
            let later = scope(type_id, payload).unwrap();
            kept.retain_mut(|(_, scope)| !scope.give_way(&later));
            kept.push((index, later));
        }
        kept.into_iter().map(|(index, _)| index).collect()
    }

    #[test]
    fn each_track_and_each_type_of_packet_has_a_place_of_its_own() {
        let video = [&b"\x17\x00\0\0\0a"[..], b"\x96\x00avc1\x01b", b"\xd4avc1c", b"\x96\x04avc1\x01d"];
        assert_eq!(in_force(VIDEO, video), [0, 1, 2, 3]);
        let audio = [&b"\x90Opusa"[..], b"\x94Opusb", b"\x95\x00Opus\x01c", b"\x95\x04Opus\x01d"];
        assert_eq!(in_force(AUDIO, audio), [0, 1, 2, 3]);
    }

    #[test]
    fn a_later_packet_takes_the_place_of_the_one_about_the_same() {
        assert_eq!(in_force(VIDEO, [b"\xd4hvc1before", b"\x90hvc1one", b"\x90hvc1two"]), [0, 2]);
        assert_eq!(in_force(AUDIO, [b"\xaf\x00a", b"\x95\x00mp4a\x00b"]), [1], "track 0 is the only one");
        assert_eq!(in_force(AUDIO, [&b"\x90Opus"[..], b"\x94Opus", b"\xaf\x00a"]), [2], "another codec");
    }

    #[test]
    fn a_packet_of_many_tracks_is_in_force_until_each_has_another() {
        let many = b"\x96\x10hvc1\x00\0\0\x01a\x01\0\0\x01b";
        let both = b"\x96\x20hvc1\x00\0\0\x01aav01\x01\0\0\x01b";
        let (first, second) = (b"\x96\x00hvc1\x00x", b"\x96\x00hvc1\x01y");
        assert_eq!(in_force(VIDEO, [&many[..], first]), [0, 1]);
        assert_eq!(in_force(VIDEO, [&many[..], first, second]), [1, 2]);
        assert_eq!(in_force(VIDEO, [&first[..], second, both]), [2]);
    }

    #[test]
    fn frames_are_about_nothing_and_data_about_its_name() {
        assert_eq!(scope(VIDEO, b"\x17\x01\0\0\0x"), None);
        assert_eq!(scope(AUDIO, b"\x2f\0\0"), None);
        let expected = [&b"\x02\0\x0d@setDataFrame\x02\0\x01a"[..], b"\x02\0\x01a\x05", b"\x02\0\x01b"];
        assert_eq!(in_force(DATA, expected), [1, 2]);
    }

    proptest! {
        #[test]
        fn any_payload_has_a_class_and_any_aggregate_an_end(
            type_id in prop_oneof![Just(8u8), Just(9), Just(15), Just(18), Just(22)],
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            classify(type_id, &bytes);
            let scope = scope(type_id, &bytes);
            prop_assert!(scope.is_none_or(|scope| scope.clone().give_way(&scope)), "it takes its own place");
            let payload = Bytes::from(bytes);
            let _ = metadata_for_publish(&metadata_for_players(&payload));
            split_aggregate(&Message { csid: 4, type_id: 22, msid: 1, timestamp: 0, payload });
        }
    }
}
