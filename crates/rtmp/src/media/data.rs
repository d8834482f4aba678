//! What a data message is: metadata, other data, or nothing for a player. Adds and removes `@setDataFrame`.

use super::class::Kind;
use crate::amf0::{self, Amf0Error};
use bytes::Bytes;

const SET_DATA_FRAME: &str = "@setDataFrame";

pub(super) fn kind(payload: &[u8]) -> Kind {
    let payload = without_set_data_frame(without_amf3(payload));
    let Some((name, value)) = amf0::leading_string(payload) else { return Kind::Ignore };
    match name {
        b"onMetaData" if value.is_empty() => Kind::Ignore,
        b"onMetaData" => match amf0::read_prefix(payload).1 {
            // Players parse it, some without bounds.
            Some(Amf0Error::TooDeep | Amf0Error::TooMany) => Kind::Ignore,
            _ => Kind::Metadata,
        },
        // Connection matters of the sender; a player would take an onStatus for a data track.
        b"" | b"@clearDataFrame" | b"|RtmpSampleAccess" | b"onStatus" => Kind::Ignore,
        _ => Kind::Data,
    }
}

/// What players get: the bytes as published, without a leading `@setDataFrame`.
pub fn metadata_for_players(payload: &Bytes) -> Bytes {
    let stripped = without_set_data_frame(without_amf3(payload));
    payload.slice(payload.len() - stripped.len()..)
}

/// What a server is given: `@setDataFrame` and the bytes players get.
pub fn metadata_for_publish(payload_for_players: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(3 + SET_DATA_FRAME.len() + payload_for_players.len());
    amf0::write_str(&mut out, SET_DATA_FRAME);
    out.extend_from_slice(payload_for_players);
    out
}

/// AMF3 messages carry AMF0 behind one zero byte. Only before a string marker: a zero may also begin a number.
pub(super) fn without_amf3(payload: &[u8]) -> &[u8] {
    match payload.split_first() {
        Some((0, rest)) if rest.first() == Some(&0x02) => rest,
        _ => payload,
    }
}

fn without_set_data_frame(payload: &[u8]) -> &[u8] {
    match amf0::leading_string(payload) {
        Some((name, rest)) if name == SET_DATA_FRAME.as_bytes() => rest,
        _ => payload,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::amf0::{Value, read_all, write};

    fn encode(values: &[Value]) -> Bytes {
        let mut out = Vec::new();
        for value in values {
            write(&mut out, value);
        }
        out.into()
    }

    fn metadata() -> Value {
        Value::EcmaArray(vec![("width".into(), 1280.0.into())])
    }

    #[test]
    fn metadata_is_known_with_and_without_the_publishers_wrapper() {
        let wrapped = encode(&["@setDataFrame".into(), "onMetaData".into(), metadata()]);
        let bare = encode(&["onMetaData".into(), metadata()]);
        assert_eq!((kind(&wrapped), kind(&bare)), (Kind::Metadata, Kind::Metadata));
        assert_eq!(metadata_for_players(&wrapped), bare);
        assert_eq!(metadata_for_players(&bare), bare);
        assert_eq!(metadata_for_publish(&bare), wrapped);
        let amf3: Bytes = [&[0], &wrapped[..]].concat().into();
        assert_eq!(kind(&amf3), Kind::Metadata);
        assert_eq!(metadata_for_players(&amf3), bare);
    }

    #[test]
    fn metadata_with_a_date_a_long_string_or_latin1_text_is_kept_raw() {
        let odd = encode(&["onMetaData".into(), Value::Date(0.0, 0), Value::String("x".repeat(66_000))]);
        assert_eq!(kind(&odd), Kind::Metadata);
        let latin1 = Bytes::from_static(b"\x02\0\x0aonMetaData\x08\0\0\0\x01\0\x01t\x02\0\x01\xe9\0\0\x09");
        assert_eq!(kind(&latin1), Kind::Metadata);
        assert_eq!(metadata_for_players(&latin1), latin1);
        assert!(read_all(&latin1).is_ok());
    }

    #[test]
    fn other_data_passes() {
        for name in ["onTextData", "onCuePoint", "onFI"] {
            assert_eq!(kind(&encode(&[name.into(), metadata()])), Kind::Data);
            assert_eq!(kind(&encode(&["@setDataFrame".into(), name.into(), metadata()])), Kind::Data);
        }
    }

    #[test]
    fn what_no_player_should_see_is_ignored() {
        let nested = [&b"\x02\0\x0aonMetaData"[..], &b"\x0a\0\0\0\x01".repeat(10_000)].concat();
        let lone = encode(&["@setDataFrame".into()]);
        let status = encode(&["onStatus".into(), metadata()]);
        let access = encode(&["|RtmpSampleAccess".into(), true.into(), true.into()]);
        let nameless = encode(&["onMetaData".into()]);
        // FFmpeg's time code: four bytes, the first zero.
        let time_codes: [&[u8]; 2] = [b"\0\0\0\x05", b"\0\x02\0\0"];
        let cut: [&[u8]; 2] = [b"", b"\x02\0\x09on"];
        for payload in
            [&nested[..], &lone, &status, &access, &nameless].into_iter().chain(time_codes).chain(cut)
        {
            assert_eq!(kind(payload), Kind::Ignore, "{:?}", &payload[..payload.len().min(20)]);
        }
    }
}
