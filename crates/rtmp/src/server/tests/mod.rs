//! A server session against a client that is played by the test.

mod clients;
mod hostile;
mod peer;
mod record;
mod reuse;

use super::*;
use crate::amf0::Value;
use crate::chunk::Message;
use crate::handshake::HandshakeError;
use crate::link::object;
use crate::message_type::{AUDIO, COMMAND_AMF3, DATA, DATA_AMF3, VIDEO};
use crate::testing::{Ear, command, control, message, moved_server, simple_handshake, user_control, values};

const NULL: Value = Value::Null;

/// A session with its client; publish and play are accepted as they come. It is moved to another process between any two calls.
struct Pair {
    session: Session,
    ear: Ear,
    accept: bool,
}

impl Pair {
    /// Behind the handshake.
    fn new() -> Self {
        let session = Session::new(Config::default());
        let mut pair = Self { session, ear: Ear::new(), accept: true };
        assert_eq!(pair.send(&simple_handshake()), Ok(vec![]));
        assert_eq!(pair.heard(), [""; 0]);
        pair
    }

    /// Behind an answered `connect` to app "live".
    fn connected() -> Self {
        let mut pair = Self::new();
        let connect = command(3, 0, "connect", 1.0, &[object([("app", "live".into())])]);
        assert_eq!(pair.events(&connect), [Event::Connected { app: "live".into(), auth: None }]);
        pair.heard();
        pair
    }

    /// A publisher, or a player, on message stream 1.
    fn active(kind: &str) -> Self {
        let mut pair = Self::connected();
        pair.events(&command(3, 0, "createStream", 2.0, &[NULL]));
        pair.events(&command(8, 1, kind, 0.0, &[NULL, "livestream".into()]));
        pair.heard();
        pair
    }

    fn send(&mut self, mut input: &[u8]) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        loop {
            self.session = moved_server(&self.session);
            let Some(event) = self.session.handle_input(&mut input)? else { break };
            self.session = moved_server(&self.session);
            match (&event, self.accept) {
                (Event::Publish { .. }, true) => self.session.accept_publish(),
                (Event::Play { .. }, true) => self.session.accept_play(),
                _ => {}
            }
            events.push(event);
        }
        assert!(input.is_empty());
        Ok(events)
    }

    fn events(&mut self, input: &[u8]) -> Vec<Event> {
        self.send(input).unwrap()
    }

    fn error(&mut self, input: &[u8]) -> Error {
        self.send(input).unwrap_err()
    }

    fn heard(&mut self) -> Vec<String> {
        self.ear.lines(self.session.output())
    }

    /// What a command is answered with, when it causes no event.
    fn answer(&mut self, input: &[u8]) -> Vec<String> {
        assert_eq!(self.events(input), []);
        self.heard()
    }
}

fn key(text: &str) -> StreamKey {
    text.parse().unwrap()
}

fn media(csid: u8, type_id: u8, timestamp: u32, payload: &[u8]) -> (Vec<u8>, Event) {
    let event = Event::Media(Message {
        csid: csid.into(),
        type_id,
        msid: 1,
        timestamp,
        payload: payload.to_vec().into(),
    });
    (message(csid, type_id, 1, timestamp, payload), event)
}

#[test]
fn connect_is_answered_in_the_order_clients_expect() {
    let mut pair = Pair::new();
    assert!(!pair.session.is_connected());
    pair.events(&command(3, 0, "connect", 1.0, &[object([("app", "live".into())])]));
    assert!(pair.session.is_connected());
    assert_eq!(
        pair.heard(),
        [
            "WindowAckSize 2500000",
            "SetPeerBandwidth 2500000 2",
            "SetChunkSize 60000",
            "0: _result 1 {} status/NetConnection.Connect.Success",
            "0: onBWDone 0 null",
        ]
    );
}

#[test]
fn the_connect_result_has_the_properties_clients_read() {
    let mut pair = Pair::new();
    let connect = object([("app", "live".into()), ("objectEncoding", 3.0.into())]);
    pair.events(&command(3, 0, "connect", 1.0, &[connect]));
    let result = pair.ear.messages(pair.session.output()).remove(3);
    let values = crate::amf0::read_all(&result.payload).unwrap();
    assert_eq!(values[2].field("capabilities"), Some(&127.0.into()));
    assert_eq!(values[3].field("objectEncoding"), Some(&3.0.into()));
    assert_eq!(values[3].field("fourCcList"), None);
}

#[test]
fn enhanced_capabilities_are_answered_when_the_client_names_any() {
    let asked = [
        ("fourCcList", Value::StrictArray(vec!["hvc1".into()])),
        ("videoFourCcInfoMap", object([("*", 1.0.into())])),
        ("audioFourCcInfoMap", object([("Opus", 1.0.into())])),
        ("capsEx", 1.0.into()),
    ];
    for property in asked {
        let mut pair = Pair::new();
        pair.events(&command(3, 0, "connect", 1.0, &[object([("app", "live".into()), property])]));
        let result = pair.ear.messages(pair.session.output()).remove(3);
        let values = crate::amf0::read_all(&result.payload).unwrap();
        for object in &values[2..] {
            assert_eq!(object.field("fourCcList"), Some(&Value::StrictArray(vec!["*".into()])));
            let forward = object.field("videoFourCcInfoMap").and_then(|map| map.field("*"));
            assert_eq!(forward, Some(&4.0.into()));
            assert_eq!(object.field("audioFourCcInfoMap").and_then(|map| map.field("*")), forward);
            assert_eq!(object.field("capsEx"), Some(&6.0.into()));
        }
    }
}

#[test]
fn the_app_comes_from_connect_or_else_from_the_tc_url() {
    let app = |object| match &Pair::new().events(&command(3, 0, "connect", 1.0, &[object]))[..] {
        [Event::Connected { app, .. }] => app.clone(),
        other => panic!("{other:?}"),
    };
    let tc_url = |url: &str| ("tcUrl", Value::from(url));
    assert_eq!(app(object([tc_url("rtmp://h:1935/live")])), "live");
    assert_eq!(app(object([tc_url("rtmp://h/a/b?token=x")])), "a/b");
    assert_eq!(app(object([("app", "".into()), tc_url("rtmp://h/live")])), "live");
    assert_eq!(app(object([("app", "live?token=x".into()), tc_url("rtmp://h/other")])), "live");
    assert_eq!(app(Value::EcmaArray(vec![("app".into(), "live".into())])), "live");
    assert_eq!(app(object([])), "");
    assert_eq!(app(Value::Null), "");
}

#[test]
fn a_bad_app_is_refused_with_a_reason() {
    for bad in ["x".repeat(300), "a\nb".into()] {
        let mut pair = Pair::new();
        let error = pair.error(&command(3, 0, "connect", 1.0, &[object([("app", (&*bad).into())])]));
        assert!(matches!(error, Error::Key(_)), "{error}");
        assert_eq!(pair.heard(), ["0: _error 1 null error/NetConnection.Connect.InvalidApp"]);
    }
}

#[test]
fn the_claim_of_a_forwarder_is_passed_on_with_the_nonce_it_signed() {
    let mut pair = Pair::new();
    let properties = [("app", "live".into()), ("srsctlTarget", "edge-1".into()), ("srsctlTag", "ab".into())];
    let events = pair.events(&command(3, 0, "connect", 1.0, &[object(properties)]));
    let auth = Some(Auth { target: "edge-1".into(), tag: "ab".into(), clock: String::new() });
    assert_eq!(events, [Event::Connected { app: "live".into(), auth }]);
    assert_eq!(pair.session.s1().map(<[u8]>::len), Some(1536));
    pair.events(&command(3, 1, "publish", 0.0, &[NULL, "s".into()]));
    assert_eq!(pair.session.s1(), None);
}

#[test]
fn create_stream_gives_new_ids_without_end_and_the_newest_again_once_it_is_deleted() {
    let mut pair = Pair::connected();
    let create = command(3, 0, "createStream", 7.0, &[NULL]);
    assert_eq!(pair.answer(&create), ["0: _result 7 null 1"]);
    assert_eq!(pair.answer(&create), ["0: _result 7 null 2"]);
    assert_eq!(pair.answer(&command(3, 0, "deleteStream", 0.0, &[NULL, 2.0.into()])), [""; 0]);
    assert_eq!(pair.answer(&create), ["0: _result 7 null 2"]);
    assert_eq!(pair.answer(&create.repeat(100)).last().unwrap(), "0: _result 7 null 102");
}

#[test]
fn publish_and_play_never_get_a_result() {
    for (kind, start) in [("publish", "NetStream.Publish.Start"), ("play", "NetStream.Play.Start")] {
        let mut pair = Pair::connected();
        pair.events(&command(8, 1, kind, 5.0, &[NULL, "s".into(), "LIVE".into()]));
        let heard = pair.heard();
        assert!(heard.contains(&format!("1: onStatus 0 null status/{start}")), "{heard:?}");
        assert!(!heard.iter().any(|line| line.contains("_result")), "{heard:?}");
    }
}

#[test]
fn a_player_gets_begin_reset_start_and_sample_access_but_no_data_start() {
    let mut pair = Pair::connected();
    let events = pair.events(&command(8, 3, "play", 4.0, &[NULL, "livestream".into(), (-2000.0).into()]));
    assert_eq!(events, [Event::Play { msid: 3, stream: key("live/livestream"), length: None }]);
    assert_eq!(
        pair.heard(),
        [
            "WindowAckSize 1073741824",
            "UserControl 0 3",
            "3: onStatus 0 null status/NetStream.Play.Reset",
            "3: onStatus 0 null status/NetStream.Play.Start",
            "3: |RtmpSampleAccess true true",
        ]
    );
}

#[test]
fn a_rejected_client_gets_an_error_status_on_its_stream() {
    for kind in ["publish", "play"] {
        let mut pair = Pair::connected();
        pair.accept = false;
        pair.events(&command(8, 1, kind, 0.0, &[NULL, "s".into()]));
        match kind {
            "publish" => pair.session.reject_publish("NetStream.Publish.BadName", "busy"),
            _ => pair.session.reject_play("NetStream.Publish.BadName", "busy"),
        }
        assert_eq!(pair.heard(), ["1: onStatus 0 null error/NetStream.Publish.BadName"]);
        assert_eq!(pair.session.s1(), None);
        assert_eq!(pair.events(&media(4, AUDIO, 0, b"\xaf\x01").0), []);
    }
}

#[test]
fn answers_to_questions_nobody_asked_do_nothing() {
    let mut pair = Pair::connected();
    pair.session.accept_publish();
    pair.session.accept_play();
    pair.session.reject_publish("x", "y");
    pair.session.reject_play("x", "y");
    assert_eq!(pair.heard(), [""; 0]);
    let mut session = Session::new(Config::default());
    session.ping(1);
    session.end_play(1, PlayEnd::Complete);
    session.end_publish(1, PublishEnd::MadeRoom);
    assert!(session.output().is_empty());
}

#[test]
fn media_of_any_chunk_stream_and_message_stream_is_an_event_while_publishing() {
    let mut pair = Pair::active("publish");
    let payload = values(&["@setDataFrame".into(), "onMetaData".into(), object([])]);
    for (csid, type_id) in [(4, AUDIO), (4, VIDEO), (6, VIDEO), (33, DATA), (4, 22)] {
        let (bytes, event) = media(csid, type_id, 40, &payload);
        assert_eq!(pair.events(&bytes), [event]);
    }
    // It is of the only one that publishes.
    let other_stream = message(6, VIDEO, 5, 0, b"\x17\x01");
    assert_eq!(pair.events(&other_stream), [media(6, VIDEO, 0, b"\x17\x01").1]);
}

#[test]
fn data_in_amf3_becomes_data_in_amf0() {
    let mut pair = Pair::active("publish");
    let payload = values(&["onMetaData".into(), object([])]);
    let bytes = message(5, DATA_AMF3, 1, 9, &[&[0], &payload[..]].concat());
    assert_eq!(pair.events(&bytes), [media(5, DATA, 9, &payload).1]);
}

#[test]
fn commands_in_amf3_are_read_like_amf0() {
    let mut pair = Pair::connected();
    let payload = [&[0][..], &values(&["createStream".into(), 2.0.into(), NULL])].concat();
    assert_eq!(pair.answer(&message(3, COMMAND_AMF3, 0, 0, &payload)), ["0: _result 2 null 1"]);
    assert_eq!(pair.answer(&message(3, COMMAND_AMF3, 0, 0, &payload[1..])), ["0: _result 2 null 2"]);
}

#[test]
fn media_before_publish_and_from_players_is_dropped() {
    let video = media(6, VIDEO, 0, b"\x17\x01").0;
    assert_eq!(Pair::connected().events(&video), []);
    assert_eq!(Pair::active("play").events(&video), []);
    let mut waiting = Pair::connected();
    waiting.accept = false;
    waiting.events(&command(8, 1, "publish", 0.0, &[NULL, "s".into()]));
    assert_eq!(waiting.events(&video), []);
}

#[test]
fn a_publisher_may_end_its_stream_in_many_ways_and_publish_again() {
    let endings = [
        command(3, 0, "FCUnpublish", 6.0, &[NULL, "livestream".into()]),
        command(3, 0, "deleteStream", 7.0, &[NULL, 1.0.into()]),
        command(3, 1, "closeStream", 0.0, &[NULL]),
        command(3, 0, "closeStream", 0.0, &[NULL]),
        command(8, 1, "publish", 0.0, &[NULL, false.into()]),
        command(8, 1, "publish", 0.0, &[NULL, NULL]),
    ];
    for ending in endings {
        let mut pair = Pair::active("publish");
        assert_eq!(pair.events(&ending), [Event::Unpublish { msid: 1 }]);
        assert_eq!(pair.events(&ending), [], "only once");
        assert_eq!(pair.events(&media(6, VIDEO, 0, b"\x17\x01").0), []);
        let again = pair.events(&command(8, 1, "publish", 0.0, &[NULL, "other".into()]));
        assert_eq!(again, [Event::Publish { msid: 1, stream: key("live/other") }]);
        assert_eq!(pair.events(&media(6, VIDEO, 0, b"\x17\x01").0).len(), 1);
    }
}

#[test]
fn the_end_of_another_stream_ends_nothing() {
    let mut pair = Pair::active("publish");
    assert_eq!(pair.events(&command(3, 0, "deleteStream", 0.0, &[NULL, 2.0.into()])), []);
    assert_eq!(pair.events(&command(3, 2, "closeStream", 0.0, &[NULL])), []);
    assert_eq!(pair.events(&media(6, VIDEO, 0, b"\x17\x01").0).len(), 1);
}

#[test]
fn fc_unpublish_is_answered_three_times() {
    let mut pair = Pair::active("publish");
    pair.events(&command(3, 0, "FCUnpublish", 6.0, &[NULL, "livestream".into()]));
    assert_eq!(
        pair.heard(),
        [
            "1: onFCUnpublish 0 null -/NetStream.Unpublish.Success",
            "0: _result 6 null undefined",
            "1: onStatus 0 null status/NetStream.Unpublish.Success",
        ]
    );
}

#[test]
fn a_player_may_pause_seek_and_turn_tracks_off() {
    let mut pair = Pair::active("play");
    assert_eq!(
        pair.events(&command(8, 1, "pause", 0.0, &[NULL, true.into(), 0.0.into()])),
        [Event::Pause { msid: 1, on: true }]
    );
    assert_eq!(pair.heard(), ["1: onStatus 0 null status/NetStream.Pause.Notify", "UserControl 1 1"]);
    assert_eq!(
        pair.events(&command(8, 1, "pauseraw", 0.0, &[NULL, false.into()])),
        [Event::Pause { msid: 1, on: false }]
    );
    assert_eq!(pair.heard(), ["1: onStatus 0 null status/NetStream.Unpause.Notify", "UserControl 0 1"]);
    let seek = command(8, 1, "seek", 0.0, &[NULL, 1000.0.into()]);
    assert_eq!(pair.answer(&seek), ["1: onStatus 0 null status/NetStream.Seek.Notify"]);
    let receive = |name, on: bool| command(8, 1, name, 0.0, &[NULL, on.into()]);
    assert_eq!(pair.events(&receive("receiveAudio", false)), [Event::ReceiveAudio { msid: 1, on: false }]);
    assert_eq!(pair.events(&receive("receiveVideo", true)), [Event::ReceiveVideo { msid: 1, on: true }]);
    assert_eq!(pair.events(&command(8, 1, "closeStream", 0.0, &[NULL])), [Event::StopPlay { msid: 1 }]);
    assert_eq!(pair.answer(&command(8, 1, "pause", 0.0, &[NULL, true.into()])), [""; 0]);
}

#[test]
fn calls_are_answered_when_they_carry_a_transaction() {
    let mut pair = Pair::connected();
    let calls = [
        ("_checkbw", "null"),
        ("FCSubscribe", "null"),
        ("anything", "null"),
        ("getStreamLength", "0"),
        ("releaseStream", "undefined"),
        ("FCPublish", "undefined"),
        ("FCUnpublish", "undefined"),
    ];
    for (name, value) in calls {
        assert_eq!(pair.answer(&command(3, 0, name, 9.0, &[NULL])), [format!("0: _result 9 null {value}")]);
        assert_eq!(pair.answer(&command(3, 0, name, 0.0, &[NULL])), [""; 0]);
        assert_eq!(pair.answer(&command(3, 0, name, f64::NAN, &[NULL])), [""; 0]);
    }
    for name in ["_result", "_error", "onStatus", "play2", "closeStream", "deleteStream", "seek"] {
        assert_eq!(pair.answer(&command(3, 0, name, 9.0, &[NULL])), [""; 0], "{name}");
    }
}

#[test]
fn pings_go_both_ways() {
    let mut pair = Pair::connected();
    assert_eq!(pair.answer(&user_control(6, b"\x01\x02\x03\x04")), ["UserControl 7 16909060"]);
    pair.session.ping(42);
    assert_eq!(pair.heard(), ["UserControl 6 42"]);
    assert_eq!(pair.events(&user_control(7, b"\0\0\0\x2a")), [Event::Pong { timestamp: 42 }]);
}

#[test]
fn received_bytes_are_acknowledged_as_a_running_total_twice_per_window() {
    let mut pair = Pair::active("publish");
    pair.events(&control(5, 100_000));
    let mut expected = Vec::new();
    let mut heard = Vec::new();
    let audio = media(4, AUDIO, 0, &[0xAF; 10_000]).0;
    let mut last = 0;
    for _ in 0..40 {
        pair.events(&audio);
        let total = pair.session.bytes_received();
        if total - last >= 50_000 {
            expected.push(format!("Ack {total}"));
            last = total;
        }
        heard.extend(pair.heard());
    }
    assert_eq!(heard, expected);
    assert!(heard.len() >= 7, "{heard:?}");
}

#[test]
fn without_a_window_the_usual_one_is_assumed() {
    let mut pair = Pair::active("publish");
    let video = media(6, VIDEO, 0, &vec![0x17; 1_000_000]).0;
    pair.events(&video);
    assert_eq!(pair.heard(), [""; 0]);
    pair.events(&video);
    assert_eq!(pair.heard(), [format!("Ack {}", pair.session.bytes_received())]);
}

#[test]
fn a_watching_player_holds_little_memory() {
    let mut pair = Pair::active("play");
    for _ in 0..3 {
        // Drained as a connection does it: the buffer stays with the session.
        pair.events(&user_control(6, &[0; 4]).repeat(200));
        pair.session.output().clear();
        pair.events(&control(3, 1_000_000));
    }
    let held = size_of::<Session>() + pair.session.held();
    assert!(held <= 2048, "{held} bytes");
}
