//! Fuzz bodies: any bytes may come in, none may panic, and what a body asserts must hold for all.

use crate::amf0;
use crate::chunk::{self, Limits, Message, ReadError, Reader};
use crate::client::{self, Mode};
use crate::flv;
use crate::server;
use crate::url::{self, Url};

/// Small limits, so that short inputs reach them.
const LIMITS: Limits = Limits { message: 4096, data: 2048, command: 1024, chunk_streams: 8, partial: 8192 };

/// The first byte says how the rest is cut: whole and cut it must read the same.
pub fn chunk_reader(data: &[u8]) {
    let Some((&step, bytes)) = data.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, usize::from(step).max(1)), whole);
}

fn read(bytes: &[u8], step: usize) -> (Vec<Message>, Option<ReadError>) {
    let mut reader = Reader::new(LIMITS);
    let mut messages = Vec::new();
    for mut piece in bytes.chunks(step) {
        loop {
            match reader.read(&mut piece) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                // Where a limit on buffered bytes strikes depends on the cut; that it strikes does not.
                Err(error) => return (messages, Some(error)),
            }
        }
    }
    (messages, None)
}

/// What is read can be written, and reads the same again.
pub fn amf0(data: &[u8]) {
    let (values, _) = amf0::read_prefix(data);
    let encode = |values: &[amf0::Value]| {
        let mut out = Vec::new();
        values.iter().for_each(|value| amf0::write(&mut out, value));
        out
    };
    let bytes = encode(&values);
    if let Ok(again) = amf0::read_all(&bytes) {
        // As bytes: NaN is not equal to itself.
        assert_eq!(encode(&again), bytes);
    }
}

/// What is read can be written, and reads the same again.
pub fn flv(data: &[u8]) {
    let mut reader = flv::Reader::new();
    let mut tags = Vec::new();
    for piece in data.chunks(13) {
        reader.push(piece);
        while let Ok(Some(tag)) = reader.next_tag() {
            tags.push(tag);
        }
    }
    let mut out = Vec::new();
    flv::put_header(&mut out, true, true);
    tags.iter().for_each(|tag| flv::put_tag(&mut out, tag));
    let mut reader = flv::Reader::new();
    reader.push(&out);
    for tag in &tags {
        assert_eq!(reader.next_tag().as_ref(), Ok(&Some(tag.clone())));
    }
    assert_eq!(reader.next_tag(), Ok(None));
    assert!(reader.is_clean_end());
}

/// A server behind its handshake. The data are operations: a byte, and for some of its values input of a length the next
/// byte gives.
pub fn server_session(data: &[u8]) {
    let mut session = server::Session::new(server::Config { chunk_size: 128, limits: LIMITS });
    let mut handshake = [0; 3073];
    handshake[0] = 3;
    assert_eq!(session.handle_input(&mut &handshake[..]), Ok(None));
    operate(session, data);
}

/// A server from a record; what stands behind the record are operations.
pub fn server_record(data: &[u8]) {
    let Ok((mut session, rest)) = postcard::take_from_bytes::<server::Session>(data) else { return };
    if session.check(server::Config { chunk_size: 128, limits: LIMITS }).is_ok() {
        let partials = vec![0; session.reader().partial_bytes()];
        assert!(session.restore_partials(&partials));
        operate(session, rest);
    }
}

fn operate(mut session: server::Session, data: &[u8]) {
    let mut rest = data;
    while let [operation, len, tail @ ..] = rest {
        let (piece, tail) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = tail;
        match operation {
            0 => session.accept_publish(),
            1 => session.accept_play(),
            2 => session.reject_publish("a", "b"),
            3 => session.reject_play("a", "b"),
            4 => session.ping(u32::from(*len)),
            5 => session.end_play(u32::from(*len), server::PlayEnd::Complete),
            6 => session.output().clear(),
            _ => {}
        }
        let mut input = piece;
        loop {
            match session.handle_input(&mut input) {
                Ok(None) => break,
                Ok(Some(server::Event::Publish { .. })) => session.accept_publish(),
                Ok(Some(server::Event::Play { .. })) => session.accept_play(),
                Ok(Some(server::Event::Media(message))) => media(&message),
                Ok(Some(_)) => {}
                Err(_) => return,
            }
            assert!(session.output().len() <= server::MAX_OUTPUT + (128 << 10));
            assert!(session.held() <= 2 << 20, "{} bytes", session.held());
        }
        assert!(input.is_empty());
    }
}

fn media(message: &Message) {
    crate::media::classify(message.type_id, &message.payload);
    let _ = crate::media::metadata_for_publish(&crate::media::metadata_for_players(&message.payload));
    for part in crate::media::split_aggregate(message) {
        crate::media::classify(part.type_id, &part.payload);
    }
}

/// A client behind its handshake; the first byte's lowest bit is its mode.
pub fn client_session(data: &[u8]) {
    let Some((&first, input)) = data.split_first() else { return };
    let Ok(mut session) = client::Session::new(client_config(first)) else { return };
    let mut handshake = [0; 3073];
    handshake[0] = 3;
    assert_eq!(session.handle_input(&mut &handshake[..]), Ok(None));
    listen(session, input);
}

/// A client from a record, in the mode that the first byte says; what stands behind the record is input.
pub fn client_record(data: &[u8]) {
    let Some((&first, data)) = data.split_first() else { return };
    let Ok((mut session, rest)) = postcard::take_from_bytes::<client::Session>(data) else { return };
    if session.check(client_config(first)).is_ok() {
        let partials = vec![0; session.reader().partial_bytes()];
        assert!(session.restore_partials(&partials));
        listen(session, rest);
    }
}

fn client_config(first: u8) -> client::Config {
    client::Config {
        mode: if first & 1 == 0 { Mode::Publish } else { Mode::Play },
        url: Url { host: "h".into(), port: url::DEFAULT_PORT, app: "a".into(), stream: "s".into() },
        chunk_size: chunk::DEFAULT_CHUNK_SIZE,
        limits: LIMITS,
        auth: None,
        window_ack: 1,
    }
}

fn listen(mut session: client::Session, mut input: &[u8]) {
    while let Ok(Some(event)) = session.handle_input(&mut input) {
        if let client::Event::Media(message) = event {
            media(&message);
        }
        session.output().clear();
    }
    session.finish();
    session.restart();
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{command, message, values};
    use proptest::prelude::*;

    /// Bytes as they may come: plausible pieces, damaged.
    pub(crate) fn bytes() -> impl Strategy<Value = Vec<u8>> {
        let null = amf0::Value::Null;
        let connect = command(3, 0, "connect", 1.0, &[amf0::Value::Object(vec![("app".into(), "a".into())])]);
        let pieces = vec![
            connect,
            command(3, 0, "createStream", 2.0, std::slice::from_ref(&null)),
            command(3, 1, "publish", 3.0, &[null.clone(), "s".into()]),
            command(3, 1, "play", 3.0, &[null.clone(), "s".into()]),
            command(3, 0, "deleteStream", 3.0, &[null.clone(), 1.0.into()]),
            command(3, 0, "_result", 1.0, &[null.clone(), 1.0.into()]),
            command(3, 0, "_result", 4.0, &[null.clone(), 1.0.into()]),
            command(3, 1, "receiveAudio", 3.0, &[null.clone(), false.into()]),
            message(4, 9, 1, 40, &[0x17; 200]),
            // Two chunks of a message of four, and one more.
            message(7, 9, 1, 40, &[0x27; 500])[..12 + 128 + 129].to_vec(),
            message(7, 9, 1, 40, &[0x27; 500])[12 + 128..][..129].to_vec(),
            message(8, 9, 1, 40, &[0x27; 5_000])[..12 + 128].to_vec(),
            // Of one that is too long.
            message(9, 20, 0, 40, &[0x27; 70_000])[..12 + 128].to_vec(),
            message(9, 20, 0, 40, &[0x27; 70_000])[12 + 128..][..129].to_vec(),
            // Headers that refer to the one before.
            b"\x44\0\0\x28\0\0\x01\x09\x17".to_vec(),
            b"\x84\0\0\x28\x27".to_vec(),
            b"\xc4\x27".to_vec(),
            command(3, 2, "publish", 3.0, &[null.clone(), "t".into()]),
            command(3, 0, "FCPublish", 3.0, &[null.clone(), "s".into()]),
            message(2, 5, 0, 0, &2_000u32.to_be_bytes()),
            message(2, 4, 0, 0, b"\0\x06\0\0\0\x09"),
            message(2, 3, 0, 0, &[0; 1_100]),
            message(6, 8, 1, u32::MAX, b"\xaf\x01"),
            message(2, 1, 0, 0, b"\0\0\x10\0"),
            message(5, 18, 1, 0, &values(&["@setDataFrame".into(), "onMetaData".into()])),
            b"FLV\x01\x05\0\0\0\x09\0\0\0\0".to_vec(),
            b"\x09\0\0\x02\0\0\0\0\0\0\0\x17\x01\0\0\0\x0d".to_vec(),
        ];
        let piece = prop_oneof![
            4 => prop::sample::select(pieces),
            1 => prop::collection::vec(any::<u8>(), 0..40),
            1 => prop::collection::vec(0u8..0x12, 0..40),
        ];
        let damage = prop::option::weighted(0.3, (any::<prop::sample::Index>(), any::<u8>()));
        (prop::collection::vec(piece, 0..12), damage).prop_map(|(pieces, damage)| {
            let mut bytes = pieces.concat();
            if let Some((at, value)) = damage
                && !bytes.is_empty()
            {
                let at = at.index(bytes.len());
                bytes[at] = value;
            }
            bytes
        })
    }

    fn damaged(session: &impl serde::Serialize, damages: Vec<(prop::sample::Index, u8)>) -> Vec<u8> {
        let mut record = postcard::to_stdvec(session).unwrap();
        for (at, value) in damages {
            let at = at.index(record.len());
            record[at] = value;
        }
        record
    }

    proptest! {
        #[test]
        fn the_chunk_reader_survives(step: u8, bytes in bytes()) {
            chunk_reader(&[&[step], &bytes[..]].concat());
        }

        #[test]
        fn amf0_survives(bytes in bytes()) {
            amf0(&bytes);
        }

        #[test]
        fn the_flv_reader_survives(bytes in bytes()) {
            flv(&bytes);
        }

        #[test]
        fn the_server_survives(bytes in bytes(), operations in prop::collection::vec(any::<u8>(), 64)) {
            let mut data = Vec::new();
            for (piece, operation) in bytes.chunks(50).zip(operations.iter().cycle()) {
                data.extend([operation % 10, piece.len() as u8]);
                data.extend_from_slice(piece);
            }
            server_session(&data);
        }

        /// Records of sessions as they are, damaged.
        #[test]
        fn the_server_survives_any_record(
            begin in bytes(),
            damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            end in bytes(),
        ) {
            let mut session = server::Session::new(server::Config { chunk_size: 128, limits: LIMITS });
            let mut input = &[&crate::testing::simple_handshake(), &begin[..]].concat()[..];
            while let Ok(Some(_)) = session.handle_input(&mut input) {}
            let mut data = damaged(&session, damages);
            for piece in end.chunks(50) {
                data.extend([9, piece.len() as u8]);
                data.extend_from_slice(piece);
            }
            server_record(&data);
        }

        #[test]
        fn the_client_survives_any_record(
            mode: u8,
            begin in bytes(),
            damages in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4),
            end in bytes(),
        ) {
            let mut session = client::Session::new(client_config(mode)).unwrap();
            let mut input = &[&crate::testing::simple_handshake(), &begin[..]].concat()[..];
            while let Ok(Some(_)) = session.handle_input(&mut input) {}
            session.output().clear();
            client_record(&[&[mode], &damaged(&session, damages)[..], &end].concat());
        }

        #[test]
        fn the_client_survives(mode: u8, bytes in bytes()) {
            client_session(&[&[mode], &bytes[..]].concat());
        }
    }
}
