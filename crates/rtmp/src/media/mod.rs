//! What a media payload is: enough to cache headers and to find keyframes, not to decode (FLV 10.1 annex E.4, Enhanced
//! RTMP v1 and v2). Payloads stay opaque; an unknown codec is relayed like a known one.

mod audio;
mod class;
mod codec;
mod data;
mod picture;
mod video;

use crate::chunk::Message;
use crate::message_type;
use bytes::Bytes;

pub use class::{Class, Kind};
pub use codec::Codec;
pub use data::{metadata_for_players, metadata_for_publish};

/// Sub-messages taken from one aggregate. Encoders put fewer than 20 into one; more is an attempt to make us work.
const MAX_AGGREGATE: usize = 1024;

/// Looks at the first bytes of an audio (8), video (9) or data (18, 15) message; other types are [`Kind::Ignore`].
pub fn classify(type_id: u8, payload: &[u8]) -> Class {
    match type_id {
        message_type::AUDIO => audio::classify(payload),
        message_type::VIDEO => video::classify(payload),
        message_type::DATA | message_type::DATA_AMF3 => Class { kind: data::kind(payload), codec: None },
        _ => Class::IGNORE,
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

    proptest! {
        #[test]
        fn any_payload_has_a_class_and_any_aggregate_an_end(
            type_id in prop_oneof![Just(8u8), Just(9), Just(15), Just(18), Just(22)],
            bytes in prop::collection::vec(any::<u8>(), 0..64),
        ) {
            classify(type_id, &bytes);
            let payload = Bytes::from(bytes);
            let _ = metadata_for_publish(&metadata_for_players(&payload));
            split_aggregate(&Message { csid: 4, type_id: 22, msid: 1, timestamp: 0, payload });
        }
    }
}
