//! Command sequences in the shape clients were recorded to send.

use super::*;
use proptest::prelude::*;

/// An object as FFmpeg, librtmp and others send it with `connect`.
fn connect_object(extra: &[(&str, Value)]) -> Value {
    let mut fields = vec![("app".to_owned(), "live".into())];
    fields.extend(extra.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    fields.push(("tcUrl".into(), "rtmp://127.0.0.1:1935/live".into()));
    Value::Object(fields)
}

fn metadata() -> Vec<u8> {
    let entries = vec![("duration".to_owned(), 0.0.into()), ("encoder".to_owned(), "Lavf59".into())];
    values(&["@setDataFrame".into(), "onMetaData".into(), Value::EcmaArray(entries)])
}

fn ffmpeg_publisher() -> Vec<u8> {
    let publisher = [("type", "nonprivate".into()), ("flashVer", "FMLE/3.0 (compatible; Lavf59)".into())];
    [
        simple_handshake(),
        command(3, 0, "connect", 1.0, &[connect_object(&publisher)]),
        control(1, 60_000),
        command(3, 0, "releaseStream", 2.0, &[NULL, "s?token=1".into()]),
        command(3, 0, "FCPublish", 3.0, &[NULL, "s?token=1".into()]),
        command(3, 0, "createStream", 4.0, &[NULL]),
        command(3, 0, "_checkbw", 5.0, &[NULL]),
        command(8, 1, "publish", 6.0, &[NULL, "s?token=1".into(), "live".into()]),
        message(4, DATA, 1, 0, &metadata()),
        message(6, VIDEO, 1, 0, b"\x17\0\0\0\0\x01"),
        message(4, AUDIO, 1, 0, b"\xaf\0\x12\x10"),
        // The time code bytes of some inputs.
        message(4, DATA, 1, 0, b"\0\0\0\x05"),
        command(3, 0, "FCUnpublish", 7.0, &[NULL, "s?token=1".into()]),
        command(3, 0, "deleteStream", 8.0, &[NULL, 1.0.into()]),
    ]
    .concat()
}

#[test]
fn ffmpeg_publishes() {
    let mut pair = Pair::new();
    let bytes = ffmpeg_publisher();
    let events = pair.events(&bytes[3073..]);
    assert_eq!(events[0], Event::Connected { app: "live".into(), auth: None });
    assert_eq!(events[1], Event::Publish { msid: 1, stream: key("live/s") });
    assert_eq!(events[2..6].iter().filter(|event| matches!(event, Event::Media(_))).count(), 4);
    assert_eq!(events[6..], [Event::Unpublish { msid: 1 }]);
    assert_eq!(
        pair.heard()[3..],
        [
            "0: _result 1 {} status/NetConnection.Connect.Success",
            "0: onBWDone 0 null",
            "0: _result 2 null undefined",
            "0: _result 3 null undefined",
            "0: _result 4 null 1",
            "0: _result 5 null null",
            "UserControl 0 1",
            "1: onFCPublish 0 null -/NetStream.Publish.Start",
            "1: onStatus 0 null status/NetStream.Publish.Start",
            "1: onFCUnpublish 0 null -/NetStream.Unpublish.Success",
            "0: _result 7 null undefined",
            "1: onStatus 0 null status/NetStream.Unpublish.Success",
        ]
    );
}

#[test]
fn ffmpeg_plays() {
    let mut pair = Pair::new();
    let player = [("fpad", false.into()), ("capabilities", 15.0.into()), ("videoFunction", 1.0.into())];
    let bytes = [
        command(3, 0, "connect", 1.0, &[connect_object(&player)]),
        control(5, 2_500_000),
        command(3, 0, "createStream", 2.0, &[NULL]),
        command(8, 0, "getStreamLength", 3.0, &[NULL, "livestream".into()]),
        command(8, 1, "play", 4.0, &[NULL, "livestream".into(), (-2000.0).into()]),
        user_control(3, b"\0\0\0\x01\0\0\x0b\xb8"),
    ];
    let events = pair.events(&bytes.concat());
    assert_eq!(events[1..], [Event::Play { msid: 1, stream: key("live/livestream"), length: None }]);
    assert_eq!(pair.heard()[5..7], ["0: _result 2 null 1", "0: _result 3 null 0"]);
}

#[test]
fn obs_publishes_with_its_chunk_size_before_connect_and_everything_on_one_chunk_stream() {
    let mut pair = Pair::new();
    let connect = connect_object(&[
        ("type", "nonprivate".into()),
        ("flashVer", "FMLE/3.0 (compatible; FMSc/1.0)".into()),
    ]);
    let payload = values(&["connect".into(), 1.0.into(), connect]);
    assert!(payload.len() > 128, "it would be cut without the chunk size");
    let mut bytes = control(1, 4096);
    crate::chunk::put_full(&mut bytes, 4096, 3, 0, crate::message_type::COMMAND, 0, &payload);
    let events = pair.events(&bytes);
    assert_eq!(events.len(), 1);
    let bytes = [
        command(3, 0, "releaseStream", 2.0, &[NULL, "key".into()]),
        command(3, 0, "FCPublish", 3.0, &[NULL, "key".into()]),
        command(3, 0, "createStream", 4.0, &[NULL]),
        command(3, 0, "_checkbw", 5.0, &[NULL]),
        command(4, 1, "publish", 6.0, &[NULL, "key".into(), "live".into()]),
        message(4, DATA, 1, 0, &metadata()),
        message(4, AUDIO, 1, 0, b"\xaf\0\x12\x10"),
        message(4, VIDEO, 1, 0, b"\x17\0\0\0\0\x01"),
        // fmt 1, and fmt 3 for the same header again.
        b"\x44\0\0\x21\0\0\x05\x09\x27\x01\0\0\0\xc4\x27\x01\0\0\0".to_vec(),
        command(3, 0, "FCUnpublish", 7.0, &[NULL, "key".into()]),
        command(3, 0, "deleteStream", 8.0, &[NULL, 1.0.into()]),
    ];
    let events = pair.events(&bytes.concat());
    assert_eq!(events[0], Event::Publish { msid: 1, stream: key("live/key") });
    let times = events.iter().filter_map(|event| match event {
        Event::Media(message) => Some((message.type_id, message.timestamp)),
        _ => None,
    });
    let times = times.collect::<Vec<_>>();
    assert_eq!(times, [(DATA, 0), (AUDIO, 0), (VIDEO, 0), (VIDEO, 33), (VIDEO, 66)]);
    assert_eq!(events.last(), Some(&Event::Unpublish { msid: 1 }));
}

#[test]
fn rtmpdump_plays_with_a_compressed_header_on_a_fresh_chunk_stream() {
    let mut pair = Pair::new();
    let bytes = [
        command(3, 0, "connect", 1.0, &[connect_object(&[("videoFunction", 1.0.into())])]),
        control(5, 2_500_000),
        command(3, 0, "createStream", 2.0, &[NULL]),
        b"\x42\0\0\0\0\0\x0a\x04\0\x03\0\0\0\0\0\0\x01\x2c".to_vec(),
        command(3, 0, "FCSubscribe", 3.0, &[NULL, "livestream".into()]),
        command(8, 1, "play", 4.0, &[NULL, "livestream".into(), (-1000.0).into()]),
        b"\x42\0\0\x01\0\0\x0a\x04\0\x03\0\0\0\x01\0\0\x0b\xb8".to_vec(),
    ];
    let events = pair.events(&bytes.concat());
    assert_eq!(events[1..], [Event::Play { msid: 1, stream: key("live/livestream"), length: None }]);
    assert_eq!(pair.heard()[5..7], ["0: _result 2 null 1", "0: _result 3 null null"]);
}

#[test]
fn gstreamer_publishes_and_plays_with_transaction_0() {
    let mut pair = Pair::new();
    let bytes = [
        command(3, 0, "connect", 1.0, &[connect_object(&[("flashVer", "LNX 10,0,32,18".into())])]),
        command(3, 0, "releaseStream", 0.0, &[NULL, "s".into()]),
        command(3, 0, "FCPublish", 0.0, &[NULL, "s".into()]),
        command(3, 0, "createStream", 2.0, &[NULL]),
        command(4, 1, "publish", 0.0, &[NULL, "s".into(), "live".into()]),
        control(1, 128),
        message(5, VIDEO, 1, 0, b"\x17\0\0\0\0\x01"),
    ];
    let events = pair.events(&bytes.concat());
    assert_eq!(events[1], Event::Publish { msid: 1, stream: key("live/s") });
    assert!(matches!(events[2], Event::Media(_)));
    let results = pair.heard().into_iter().filter(|line| line.contains("_result")).count();
    assert_eq!(results, 2, "connect and createStream");

    let mut pair = Pair::new();
    let bytes = [
        command(3, 0, "connect", 1.0, &[connect_object(&[])]),
        command(3, 0, "createStream", 2.0, &[NULL]),
        command(4, 1, "play", 0.0, &[NULL, "s".into(), (-2.0).into()]),
        user_control(3, b"\0\0\0\x01\0\0\x75\x30"),
    ];
    assert_eq!(
        pair.events(&bytes.concat())[1..],
        [Event::Play { msid: 1, stream: key("live/s"), length: None }]
    );
}

#[test]
fn go_oryx_connects_with_a_tc_url_alone() {
    let mut pair = Pair::new();
    let bytes = [
        command(3, 0, "connect", 1.0, &[object([("tcUrl", "rtmp://127.0.0.1/live".into())])]),
        command(3, 0, "createStream", 2.0, &[NULL]),
        command(3, 1, "publish", 0.0, &[NULL, "s".into(), "live".into()]),
    ];
    assert_eq!(pair.events(&bytes.concat())[1..], [Event::Publish { msid: 1, stream: key("live/s") }]);
    let results: Vec<_> = pair.heard().into_iter().filter(|line| line.contains("_result")).collect();
    assert_eq!(results.len(), 2, "{results:?}");
}

#[test]
fn an_srs_forwarder_publishes_with_bare_metadata() {
    let mut pair = Pair::new();
    let metadata = values(&["onMetaData".into(), object([("width", 1280.0.into())])]);
    let bytes = [
        command(3, 0, "connect", 1.0, &[connect_object(&[]), object([("srs_version", "7".into())])]),
        control(5, 2_500_000),
        command(3, 0, "releaseStream", 2.0, &[NULL, "s?vhost=__defaultVhost__".into()]),
        command(3, 0, "FCPublish", 3.0, &[NULL, "s?vhost=__defaultVhost__".into()]),
        command(3, 0, "createStream", 4.0, &[NULL]),
        command(5, 1, "publish", 5.0, &[NULL, "s?vhost=__defaultVhost__".into(), "live".into()]),
        message(5, DATA, 1, 0, &metadata),
    ];
    let events = pair.events(&bytes.concat());
    assert_eq!(events[1], Event::Publish { msid: 1, stream: key("live/s") });
    assert_eq!(events[2], media(5, DATA, 0, &metadata).1);
}

#[test]
fn an_nginx_relay_announces_its_sizes_before_connect() {
    let mut pair = Pair::new();
    let bytes = [
        control(5, 5_000_000),
        command(3, 0, "connect", 1.0, &[connect_object(&[])]),
        command(3, 0, "createStream", 2.0, &[NULL]),
        command(3, 1, "publish", 3.0, &[NULL, "s".into(), "live".into()]),
    ];
    assert_eq!(pair.events(&bytes.concat())[1..], [Event::Publish { msid: 1, stream: key("live/s") }]);
}

proptest! {
    #[test]
    fn any_cut_of_the_bytes_gives_the_same_events_and_replies(cuts in prop::collection::vec(1usize..400, 1..40)) {
        let bytes = ffmpeg_publisher();
        let mut whole = Pair::new();
        let expected = whole.events(&bytes[3073..]);
        let session = Session::new(Config::default());
        let mut cut = Pair { session, ear: Ear::new(), accept: true };
        let mut events = Vec::new();
        let mut rest = &bytes[..];
        for len in cuts.iter().cycle() {
            let (piece, tail) = rest.split_at((*len).min(rest.len()));
            events.extend(cut.events(piece));
            rest = tail;
            if rest.is_empty() {
                break;
            }
        }
        prop_assert_eq!(events, expected);
        prop_assert_eq!(cut.heard(), whole.heard());
    }
}
