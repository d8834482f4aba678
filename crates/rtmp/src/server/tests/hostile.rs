//! Bytes nobody sends by accident.

use super::*;
use crate::chunk::ReadError;
use crate::message_type::COMMAND;

#[test]
fn another_protocol_is_refused_at_its_first_byte() {
    for (first, bytes) in [(b'G', &b"GET / HTTP/1.1\r\n"[..]), (6, b"\x06\0\0"), (0x16, b"\x16\x03\x01")] {
        let mut session = Session::new(Config::default());
        let error = session.handle_input(&mut &bytes[..]).unwrap_err();
        assert_eq!(error, Error::Handshake(HandshakeError::Version(first)));
        assert!(session.output().is_empty());
    }
}

#[test]
fn deeply_nested_amf_costs_nothing() {
    for unit in [&b"\x0a\0\0\0\x01"[..], b"\x03\0\x01a", b"\x08\0\0\0\x01\0\x01a"] {
        let mut nested = values(&["connect".into(), 1.0.into()]);
        nested.extend(unit.repeat(50_000 / unit.len()));
        let mut pair = Pair::new();
        assert_eq!(pair.events(&message(3, COMMAND, 0, 0, &nested)).len(), 1, "an empty app");
        pair.heard();
        assert_eq!(pair.answer(&message(3, COMMAND, 0, 0, &nested[20..])), [""; 0]);
        let mut publisher = Pair::active("publish");
        assert_eq!(publisher.events(&message(4, DATA, 1, 0, &nested)).len(), 1, "data is not parsed here");
    }
}

#[test]
fn commands_without_name_or_arguments_are_ignored() {
    let mut pair = Pair::connected();
    for payload in
        [&b"\x05"[..], b"\0", b"\x02", b"\x02\xff\xff", b"\x02\0\x01a", &values(&[1.0.into(), 2.0.into()])]
    {
        assert_eq!(pair.answer(&message(3, COMMAND, 0, 0, payload)), [""; 0]);
        assert_eq!(pair.answer(&message(3, COMMAND_AMF3, 0, 0, payload)), [""; 0]);
    }
}

#[test]
fn a_lone_set_data_frame_is_data_like_any_other() {
    let mut pair = Pair::active("publish");
    let payload = values(&["@setDataFrame".into()]);
    assert_eq!(pair.events(&message(4, DATA, 1, 0, &payload)), [media(4, DATA, 0, &payload).1]);
    assert_eq!(crate::media::classify(DATA, &payload).kind, crate::media::Kind::Ignore);
}

#[test]
fn a_flood_before_connect_is_cut_at_64_kib_at_any_cut() {
    let noise = command(3, 0, "anything", 1.0, &[NULL]).repeat(2000);
    let unfinished = message(6, VIDEO, 1, 0, &vec![0; 100_000]);
    let tiny = control(1, 128).repeat(6000);
    for flood in [noise, unfinished, tiny] {
        for step in [1000, usize::MAX] {
            let mut pair = Pair::new();
            let error = flood.chunks(step).find_map(|piece| pair.send(piece).err());
            assert_eq!(error, Some(Error::NoConnect));
            assert_eq!(pair.session.bytes_received(), MAX_BEFORE_CONNECT);
            assert_eq!(pair.heard(), [""; 0]);
        }
    }
}

#[test]
fn a_second_connect_is_an_error() {
    let mut pair = Pair::connected();
    assert_eq!(pair.error(&command(3, 0, "connect", 1.0, &[object([])])), Error::ConnectTwice);
}

#[test]
fn a_name_that_is_none_is_refused_on_its_stream_and_the_connection_goes_on() {
    for name in ["", "/", "?x", "a\u{7}b", "a\u{fffd}", &"x".repeat(300)] {
        let mut pair = Pair::connected();
        assert_eq!(pair.events(&command(8, 1, "publish", 0.0, &[NULL, name.into()])), [Event::Refused]);
        assert_eq!(pair.heard(), ["1: onStatus 0 null error/NetStream.Publish.BadName"]);
        let next = pair.events(&command(8, 1, "publish", 0.0, &[NULL, "other".into()]));
        assert_eq!(next, [Event::Publish { msid: 1, stream: key("live/other") }]);
    }
    let mut pair = Pair::connected();
    assert_eq!(pair.events(&command(8, 1, "play", 0.0, &[NULL, 7.0.into()])), [Event::Refused]);
    assert_eq!(pair.heard(), ["1: onStatus 0 null error/NetStream.Play.StreamNotFound"]);
}

#[test]
fn more_streams_than_a_connection_may_have_are_refused_and_the_others_go_on() {
    let mut pair = Pair::connected();
    let ask = |msid: u32, kind| command(8, 1, kind, 0.0, &[NULL, (&*format!("s{msid}")).into()]);
    let on = |msid: u32, kind| {
        let mut bytes = ask(msid, kind);
        bytes[8..12].copy_from_slice(&msid.to_le_bytes());
        bytes
    };
    for msid in 1..=MAX_ACTIVE as u32 {
        assert!(!matches!(pair.events(&on(msid, "publish"))[..], [Event::Refused]));
    }
    pair.heard();
    for (kind, code) in [("publish", "Publish.BadName"), ("play", "Play.Failed")] {
        assert_eq!(pair.events(&on(99, kind)), [Event::Refused]);
        assert_eq!(pair.heard(), [format!("99: onStatus 0 null error/NetStream.{code}")]);
    }
    // One that is active may do something else.
    assert!(matches!(pair.events(&on(5, "play"))[..], [Event::Play { msid: 5, .. }]));
    assert_eq!(pair.events(&command(8, 7, "closeStream", 0.0, &[NULL])), [Event::Unpublish { msid: 7 }]);
    assert!(matches!(pair.events(&on(99, "play"))[..], [Event::Play { msid: 99, .. }]));
}

#[test]
fn a_window_of_0_does_not_make_us_answer_every_read() {
    let mut pair = Pair::active("publish");
    for window in [0, 1] {
        pair.events(&control(5, window));
        for _ in 0..50 {
            pair.events(&control(3, 0));
        }
        assert!(pair.heard().len() <= 1);
    }
}

#[test]
fn a_window_of_0_leaves_the_one_before_in_force() {
    let mut pair = Pair::active("publish");
    pair.events(&control(5, 0));
    pair.events(&media(4, AUDIO, 0, &[0xAF; 100_000]).0);
    assert_eq!(pair.heard(), [""; 0]);
}

#[test]
fn user_control_events_of_any_kind_and_length_are_ignored() {
    let mut pair = Pair::connected();
    for event in [3, 26, 27, 0x1a, 31, 32, u16::MAX] {
        assert_eq!(pair.answer(&user_control(event, b"")), [""; 0]);
        assert_eq!(pair.answer(&user_control(event, &[0; 60])), [""; 0]);
    }
    assert_eq!(pair.answer(&user_control(6, b"\0")), [""; 0], "a ping without its value");
    assert_eq!(pair.answer(&message(2, 4, 0, 0, b"\0")), [""; 0]);
    assert_eq!(pair.answer(&message(2, 6, 0, 0, b"\0\0\0\0\x09")), [""; 0]);
    for type_id in [0, 7, 16, 19, 21, 255] {
        assert_eq!(pair.answer(&message(2, type_id, 0, 0, b"x")), [""; 0]);
    }
}

#[test]
fn replies_nobody_reads_are_bounded() {
    let mut pair = Pair::connected();
    let calls = command(3, 0, "a", 1.0, &[]).repeat(1000);
    let error = (0..100).find_map(|_| pair.send(&calls).err());
    assert_eq!(error, Some(Error::TooMuchOutput));
    assert!(pair.session.output().len() < MAX_OUTPUT + 1024);
}

#[test]
fn chunk_errors_end_the_connection() {
    let mut pair = Pair::connected();
    assert_eq!(pair.error(&control(1, 0)), Error::Chunk(ReadError::ChunkSize(0)));
}

#[test]
fn stream_ids_out_of_range_do_no_harm() {
    let mut pair = Pair::active("publish");
    for id in [0.0, -1.0, 17.0, 4e9, 1e300, f64::NAN, f64::INFINITY] {
        assert_eq!(pair.answer(&command(3, 0, "deleteStream", 0.0, &[NULL, id.into()])), [""; 0]);
    }
    assert_eq!(pair.events(&media(6, VIDEO, 0, b"\x17\x01").0).len(), 1);
}
