//! What a data message is: metadata, other data, or nothing for a player. Adds and removes `@setDataFrame`, and removes from metadata
//! what is true of a file only.

use super::class::Kind;
use super::scope::Scope;
use super::{audio, video};
use crate::amf0::{self, Amf0Error};
use bytes::Bytes;

const SET_DATA_FRAME: &str = "@setDataFrame";

/// What metadata says of a file, in the names of those who write them, whatever their case: how long it is, and where in it is what. Of a
/// live stream it is wrong, and players that believe it end early or offer to seek.
const OF_A_FILE: [&[u8]; 15] = [
    b"duration",
    b"totalduration",
    b"filesize",
    b"datasize",
    b"videosize",
    b"audiosize",
    b"lasttimestamp",
    b"lastkeyframetimestamp",
    b"lastkeyframelocation",
    b"keyframes",
    b"haskeyframes",
    b"seekpoints",
    b"canseektoend",
    b"cuepoints",
    b"hascuepoints",
];

const ON_METADATA: &[u8] = b"onMetaData";

/// A track in data messages, as OBS sends a second audio track: one message announces it, then each carries a tag of it.
const ANNOUNCES_MEDIA: &[u8] = b"onExpectAdditionalMedia";
const CARRIES_MEDIA: &[u8] = b"additionalMedia";
/// Data with a longer name is not kept for late players, bytes: the longest in use has 23.
const NAME_MAX: usize = 256;

pub(super) fn kind(payload: &[u8]) -> Kind {
    let sent = without_amf3(payload);
    let payload = without_set_data_frame(sent);
    let is_to_be_kept = payload.len() < sent.len();
    let Some((name, value)) = amf0::leading_string(payload) else { return Kind::Ignore };
    match name {
        ON_METADATA if value.is_empty() => Kind::Ignore,
        ON_METADATA => {
            let live = without_file(value);
            match amf0::read_prefix(live.as_deref().unwrap_or(value)).1 {
                // Players parse it, some without bounds.
                Some(Amf0Error::TooDeep | Amf0Error::TooMany) => Kind::Ignore,
                _ => Kind::Metadata,
            }
        }
        // Connection matters of the sender; a player would take an onStatus for a data track.
        b"" | b"@clearDataFrame" | b"|RtmpSampleAccess" | b"onStatus" => Kind::Ignore,
        CARRIES_MEDIA => match additional_media(value) {
            Some((_, tag)) if is_header(tag) => Kind::DataHeader,
            _ => Kind::Data,
        },
        ANNOUNCES_MEDIA => Kind::DataHeader,
        _ if is_to_be_kept => Kind::DataHeader,
        _ => Kind::Data,
    }
}

/// What data is about: its name, and the track whose header it carries; `None` of a frame of such a track.
pub(super) fn scope(payload: &[u8]) -> Option<Scope> {
    let kind = kind(payload);
    let (name, value) = amf0::leading_string(without_set_data_frame(without_amf3(payload)))?;
    let id = match (kind, name) {
        (Kind::Data, CARRIES_MEDIA) => return None,
        (Kind::DataHeader, CARRIES_MEDIA) => additional_media(value)?.0,
        (Kind::DataHeader | Kind::Data, _) => b"",
        _ => return None,
    };
    (name.len() + id.len() <= NAME_MAX).then(|| Scope::Data([name, b"\0", id].concat()))
}

/// Id of the track and FLV tag body in the object of an `additionalMedia` message: the body is a byte array of AMF3.
fn additional_media(value: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut rest = value.strip_prefix(b"\x03")?;
    let mut id = &b""[..];
    loop {
        let (name, value) = amf0::short_text(rest)?;
        match name {
            b"media" => return Some((id, byte_array(value.strip_prefix(b"\x11\x0c")?)?)),
            b"id" => (id, rest) = amf0::leading_string(value)?,
            _ => return None,
        }
    }
}

/// A byte array of AMF3 behind its marker, in place: a length of 7 bits a byte, doubled, plus 1 (AMF3, section 3.14).
fn byte_array(mut bytes: &[u8]) -> Option<&[u8]> {
    let mut length = 0;
    for index in 0..4 {
        let (&byte, rest) = bytes.split_first()?;
        bytes = rest;
        if index == 3 {
            length = length << 8 | usize::from(byte);
            break;
        }
        length = length << 7 | usize::from(byte & 0x7F);
        if byte & 0x80 == 0 {
            break;
        }
    }
    (length & 1 == 1).then(|| bytes.get(..length >> 1))?
}

/// The message does not tell whether its track is audio or video; a header of one is no header of the other.
fn is_header(tag: &[u8]) -> bool {
    audio::scope(tag).is_some() || video::scope(tag).is_some()
}

/// What players get: the bytes as published, without a leading `@setDataFrame`, and of metadata without what is true of a file only.
pub fn metadata_for_players(payload: &Bytes) -> Bytes {
    let stripped = without_set_data_frame(without_amf3(payload));
    if let Some((ON_METADATA, value)) = amf0::leading_string(stripped)
        && let Some(live) = without_file(value)
    {
        let name = stripped.get(..stripped.len() - value.len()).unwrap_or_default();
        return [name, &live].concat().into();
    }
    payload.slice(payload.len() - stripped.len()..)
}

/// The value of metadata without what is true of a file only; `None` where there is nothing of it.
fn without_file(value: &[u8]) -> Option<Vec<u8>> {
    amf0::without_fields(value, |name| OF_A_FILE.iter().any(|out| out.eq_ignore_ascii_case(name)))
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
    fn what_metadata_says_of_a_file_is_cut_out_and_nothing_else() {
        let fields = |of_a_file: &[(&str, Value)]| {
            let mut fields = vec![("width".to_owned(), Value::from(1280.0))];
            fields.extend(of_a_file.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            fields.push(("videocodecid".to_owned(), 7.0.into()));
            encode(&["onMetaData".into(), Value::EcmaArray(fields)])
        };
        // Far more values than are read of a message.
        let times = Value::StrictArray(vec![1.0.into(); 6_000]);
        let index = Value::Object(vec![("times".to_owned(), times)]);
        let file = fields(&[("duration", 60.0.into()), ("fileSize", 0.0.into()), ("keyframes", index)]);
        assert_eq!((kind(&file), metadata_for_players(&file)), (Kind::Metadata, fields(&[])));
        let cue_point =
            encode(&["onCuePoint".into(), Value::Object(vec![("duration".to_owned(), 1.0.into())])]);
        assert_eq!(metadata_for_players(&cue_point), cue_point);
    }

    #[test]
    fn the_longest_data_that_is_passed_on_is_taken_in_by_the_next_server() {
        let limits = crate::chunk::Limits::default();
        assert!(metadata_for_publish(&vec![0; crate::chunk::MAX_DATA]).len() < limits.data);
    }

    #[test]
    fn other_data_passes_and_is_kept_where_its_sender_says_so() {
        for name in ["onTextData", "onCuePoint", "onFI"] {
            assert_eq!(kind(&encode(&[name.into(), metadata()])), Kind::Data);
            let wrapped = encode(&["@setDataFrame".into(), name.into(), metadata()]);
            assert_eq!(kind(&wrapped), Kind::DataHeader);
            assert_eq!(scope(&wrapped), scope(&encode(&[name.into()])));
        }
    }

    /// As OBS writes it.
    fn additional(id: &str, tag: &[u8]) -> Bytes {
        let mut out = encode(&["additionalMedia".into()]).to_vec();
        out.extend_from_slice(b"\x03\0\x02id");
        amf0::write_str(&mut out, id);
        out.extend_from_slice(b"\0\x05media\x11\x0c");
        let length = tag.len() << 1 | 1;
        if length > 0x7F {
            out.push(0x80 | (length >> 7) as u8);
        }
        out.push((length & 0x7F) as u8);
        out.extend_from_slice(tag);
        out.extend_from_slice(b"\0\0\x09");
        out.into()
    }

    #[test]
    fn a_track_in_data_messages_has_an_announcement_and_headers_and_frames() {
        let announced = encode(&["onExpectAdditionalMedia".into(), metadata()]);
        let header = additional("stream0", b"\xaf\x00\x12\x10");
        let frame = additional("stream0", &[&b"\xaf\x01"[..], &[7; 300]].concat());
        let other = additional("stream1", b"\xaf\x00\x12\x10");
        let kinds = [&announced, &header, &frame, &other].map(|payload| kind(payload));
        assert_eq!(kinds, [Kind::DataHeader, Kind::DataHeader, Kind::Data, Kind::DataHeader]);
        assert!(scope(&header).is_some() && scope(&frame).is_none());
        assert_ne!(scope(&header), scope(&other));
        assert_eq!(additional_media(&frame[18..]).unwrap().1.len(), 302);
        let long = additional("stream0", &[&b"\x17\x00"[..], &[7; 70]].concat());
        assert_eq!(kind(&long), Kind::DataHeader);
        assert_eq!(kind(&long[..long.len() - 10]), Kind::Data, "cut short");
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
