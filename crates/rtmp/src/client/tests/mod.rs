//! A client session against a server that is played by the test.

mod peer;
mod record;

use super::*;
use crate::amf0::Value;
use crate::chunk::Message;
use crate::link::object;
use crate::message_type::{AUDIO, DATA, DATA_AMF3, VIDEO};
use crate::testing::{
    Ear, command, control, message, moved_client, moved_server, simple_handshake, user_control, values,
};
use crate::{auth, server};
use proptest::prelude::*;

const NULL: Value = Value::Null;

fn config(mode: Mode) -> Config {
    Config::new(mode, "rtmp://127.0.0.6/live/s?token=1".parse().unwrap())
}

/// A session whose server is the test. It is moved to another process between any two calls.
struct Scripted {
    session: Session,
    ear: Ear,
    config: Config,
}

impl Scripted {
    /// Behind the handshake.
    fn new(mode: Mode) -> Self {
        let config = config(mode);
        let mut scripted = Self { session: Session::new(config.clone()).unwrap(), ear: Ear::new(), config };
        assert_eq!(scripted.session.output().len(), 1537, "C0 and C1");
        assert_eq!(scripted.events(&simple_handshake()), []);
        scripted
    }

    /// Behind `connect` and `createStream`, with message stream 5.
    fn starting(mode: Mode) -> Self {
        let mut scripted = Self::new(mode);
        assert_eq!(scripted.events(&connected()), [Event::Connected]);
        assert_eq!(scripted.events(&command(3, 0, "_result", 4.0, &[NULL, 5.0.into()])), []);
        scripted.heard();
        scripted
    }

    fn send(&mut self, mut input: &[u8]) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        loop {
            if let Some(moved) = moved_client(&self.session, self.config.clone()) {
                self.session = moved;
            }
            let Some(event) = self.session.handle_input(&mut input)? else { break };
            events.push(event);
        }
        assert!(input.is_empty());
        Ok(events)
    }

    fn events(&mut self, input: &[u8]) -> Vec<Event> {
        self.send(input).unwrap()
    }

    fn heard(&mut self) -> Vec<String> {
        self.ear.lines(self.session.output())
    }
}

fn connected() -> Vec<u8> {
    let info = object([("code", "NetConnection.Connect.Success".into())]);
    command(3, 0, "_result", 1.0, &[object([]), info])
}

fn status(msid: u32, level: &str, code: &str) -> Vec<u8> {
    let info = object([("level", level.into()), ("code", code.into()), ("description", "why".into())]);
    command(3, msid, "onStatus", 0.0, &[NULL, info])
}

fn rejected(code: &str, description: &str) -> Error {
    Error::Rejected { code: code.into(), description: description.into() }
}

#[test]
fn a_publisher_asks_step_by_step_and_sets_its_chunk_size_behind_connect() {
    let mut scripted = Scripted::new(Mode::Publish);
    assert_eq!(scripted.heard(), ["0: connect 1 {}"]);
    assert_eq!(scripted.session.stage(), Stage::Connect);
    assert_eq!(scripted.events(&connected()), [Event::Connected]);
    assert_eq!(scripted.session.stage(), Stage::CreateStream);
    assert_eq!(
        scripted.heard(),
        [
            "SetChunkSize 60000",
            "WindowAckSize 2500000",
            "0: releaseStream 2 null s?token=1",
            "0: FCPublish 3 null s?token=1",
            "0: createStream 4 null",
        ]
    );
    assert_eq!(scripted.session.msid(), 0);
    assert_eq!(scripted.events(&command(3, 0, "_result", 4.0, &[NULL, 5.0.into()])), []);
    assert_eq!(scripted.session.msid(), 5);
    assert_eq!(scripted.heard(), ["5: publish 5 null s?token=1 live"]);
    assert_eq!(scripted.events(&status(5, "status", "NetStream.Publish.Start")), [Event::Started]);
    assert_eq!(scripted.heard(), [""; 0]);
    scripted.session.finish();
    scripted.session.finish();
    assert_eq!(scripted.heard(), ["0: FCUnpublish 6 null s?token=1", "0: deleteStream 7 null 5"]);
    // And once more on the same connection.
    scripted.session.restart();
    scripted.session.restart();
    let asked =
        ["0: releaseStream 2 null s?token=1", "0: FCPublish 3 null s?token=1", "0: createStream 4 null"];
    assert_eq!(scripted.heard(), asked);
    assert_eq!(scripted.events(&command(3, 0, "_result", 4.0, &[NULL, 6.0.into()])), []);
    assert_eq!(scripted.heard(), ["6: publish 5 null s?token=1 live"]);
    assert_eq!(scripted.events(&status(6, "status", "NetStream.Publish.Start")), [Event::Started]);
}

#[test]
fn a_player_asks_step_by_step() {
    let mut scripted = Scripted::new(Mode::Play);
    scripted.heard();
    scripted.events(&connected());
    assert_eq!(scripted.heard(), ["SetChunkSize 60000", "WindowAckSize 2500000", "0: createStream 4 null"]);
    scripted.events(&command(3, 0, "_result", 4.0, &[NULL, 5.0.into()]));
    assert_eq!(scripted.heard(), ["5: play 5 null s?token=1 -2", "UserControl 3 5"]);
    let reset = scripted.events(&status(5, "status", "NetStream.Play.Reset"));
    assert!(matches!(&reset[..], [Event::Status { code, .. }] if code == "NetStream.Play.Reset"));
    assert_eq!(scripted.events(&status(5, "status", "NetStream.Play.Start")), [Event::Started]);
    scripted.session.finish();
    assert_eq!(scripted.heard(), ["0: deleteStream 7 null 5"]);
}

#[test]
fn answers_nobody_waits_for_are_ignored() {
    let mut scripted = Scripted::new(Mode::Publish);
    scripted.events(&connected());
    for bytes in [
        command(3, 0, "_result", 2.0, &[NULL, Value::Undefined]),
        command(3, 0, "_error", 3.0, &[NULL, object([("level", "error".into())])]),
        command(3, 0, "_result", 99.0, &[NULL, 7.0.into()]),
        command(3, 0, "onBWDone", 0.0, &[NULL]),
        message(3, 20, 0, 0, b"\x05"),
        message(2, 6, 0, 0, b"\0\x26\x25\xa0\x02"),
        message(3, 99, 0, 0, b"x"),
    ] {
        assert_eq!(scripted.events(&bytes), []);
    }
    assert_eq!(scripted.session.msid(), 0);
}

#[test]
fn a_refusal_carries_code_and_description() {
    let info =
        |code: &str| object([("level", "error".into()), ("code", code.into()), ("description", "no".into())]);
    let error = |transaction, code| command(3, 0, "_error", transaction, &[NULL, info(code)]);
    let mut connecting = Scripted::new(Mode::Publish);
    let refused = connecting.send(&error(1.0, "NetConnection.Connect.Rejected"));
    assert_eq!(refused, Err(rejected("NetConnection.Connect.Rejected", "no")));
    let mut creating = Scripted::new(Mode::Publish);
    creating.events(&connected());
    assert_eq!(creating.send(&error(4.0, "x")), Err(rejected("x", "no")));
    let mut starting = Scripted::starting(Mode::Publish);
    let busy = starting.send(&status(5, "error", "NetStream.Publish.BadName"));
    assert_eq!(busy, Err(rejected("NetStream.Publish.BadName", "why")));
    let mut bare = Scripted::new(Mode::Play);
    assert_eq!(bare.send(&command(3, 0, "_error", 1.0, &[])), Err(rejected("", "")));
}

#[test]
fn a_redirect_is_a_refusal_that_names_the_target() {
    let ex = object([("code", 302.0.into()), ("redirect", "rtmp://other/live\n".into())]);
    let info = object([("code", "NetConnection.Connect.Rejected".into()), ("ex", ex)]);
    let refused = Scripted::new(Mode::Play).send(&command(3, 0, "_error", 1.0, &[NULL, info]));
    assert_eq!(
        refused,
        Err(rejected("NetConnection.Connect.Rejected", "redirected to rtmp://other/live\u{fffd}"))
    );
}

#[test]
fn words_of_the_server_are_clean_and_take_80_columns_at_most() {
    let hostile = "x\u{1b}[31m\u{202e}\u{2028}\u{200b}直".repeat(1000);
    let info = object([
        ("level", "error".into()),
        ("code", (&*hostile).into()),
        ("description", (&*hostile).into()),
    ]);
    let error =
        Scripted::starting(Mode::Play).send(&command(3, 5, "onStatus", 0.0, &[NULL, info])).unwrap_err();
    let Error::Rejected { code, description } = error else { panic!("{error}") };
    for words in [code, description] {
        assert_eq!(text::clean(&words), words);
        assert!((70..=80).contains(&text::width(&words)), "{words}");
    }
}

#[test]
fn a_stream_id_is_required() {
    for answer in [NULL, 0.0.into(), (-1.0).into(), f64::NAN.into(), "5".into()] {
        let mut scripted = Scripted::new(Mode::Play);
        scripted.events(&connected());
        let error = scripted.send(&command(3, 0, "_result", 4.0, &[NULL, answer]));
        assert_eq!(error, Err(Error::NoStreamId));
    }
}

#[test]
fn media_is_an_event_for_a_player_once_it_asked() {
    let video = message(4, VIDEO, 5, 40, b"\x17\x01");
    assert_eq!(Scripted::new(Mode::Play).events(&video), []);
    assert_eq!(Scripted::starting(Mode::Publish).events(&video), []);
    let mut player = Scripted::starting(Mode::Play);
    assert_eq!(player.events(&video).len(), 1);
    let payload = values(&["onMetaData".into(), object([])]);
    let events = player.events(&message(4, DATA_AMF3, 5, 0, &[&[0], &payload[..]].concat()));
    let [Event::Media(data)] = &events[..] else { panic!("{events:?}") };
    assert_eq!((data.type_id, &data.payload[..]), (DATA, &payload[..]));
}

#[test]
fn acknowledgements_and_pings_go_both_ways() {
    let mut scripted = Scripted::starting(Mode::Play);
    assert_eq!(scripted.events(&control(3, 77)), [Event::Ack { sequence: 77 }]);
    scripted.session.ping(9);
    scripted.events(&user_control(6, b"\0\0\0\x08"));
    assert_eq!(scripted.heard(), ["UserControl 6 9", "UserControl 7 8"]);
    assert_eq!(scripted.events(&user_control(7, b"\0\0\0\x09")), [Event::Pong { timestamp: 9 }]);
    scripted.events(&control(5, 10_000));
    scripted.events(&message(4, AUDIO, 5, 0, &[0xAF; 5000]));
    assert_eq!(scripted.heard().len(), 1);
    let mut early = Session::new(config(Mode::Play)).unwrap();
    early.ping(1);
    assert_eq!(early.output().len(), 1537, "nothing inside the handshake");
}

/// Both sessions of this crate, connected in memory; the server accepts.
/// Both are moved to another process between any two pieces.
struct Both {
    config: Config,
    client: Session,
    server: server::Session,
    client_events: Vec<Event>,
    server_events: Vec<server::Event>,
    verified: Option<bool>,
}

const SECRET: &[u8] = b"secret";

impl Both {
    fn new(config: Config) -> Self {
        Self {
            client: Session::new(config.clone()).unwrap(),
            config,
            server: server::Session::new(server::Config::default()),
            client_events: Vec::new(),
            server_events: Vec::new(),
            verified: None,
        }
    }

    /// Until neither side has anything to say; `step` bytes at a time.
    fn run(&mut self, step: usize) {
        loop {
            let to_server = std::mem::take(self.client.output());
            for mut piece in to_server.chunks(step) {
                self.server = moved_server(&self.server);
                while let Some(event) = self.server.handle_input(&mut piece).unwrap() {
                    match &event {
                        server::Event::Connected { auth: Some(auth), .. } => {
                            let s1 = self.server.s1().unwrap();
                            self.verified = Some(auth::verify(SECRET, s1, "edge-1", &auth.tag));
                        }
                        server::Event::Publish { .. } => self.server.accept_publish(),
                        server::Event::Play { .. } => self.server.accept_play(),
                        _ => {}
                    }
                    self.server_events.push(event);
                }
            }
            let to_client = std::mem::take(self.server.output());
            for mut piece in to_client.chunks(step) {
                if let Some(moved) = moved_client(&self.client, self.config.clone()) {
                    self.client = moved;
                }
                while let Some(event) = self.client.handle_input(&mut piece).unwrap() {
                    self.client_events.push(event);
                }
            }
            if self.client.output().is_empty() {
                return;
            }
        }
    }
}

fn media(csid: u32, timestamp: u32, payload: &[u8]) -> Message {
    Message { csid, type_id: VIDEO, msid: 1, timestamp, payload: payload.to_vec().into() }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    #[test]
    fn both_sessions_publish_at_any_cut(step in 1usize..4000) {
        let mut both = Both::new(config(Mode::Publish));
        both.run(step);
        prop_assert_eq!(&both.client_events[..], &[Event::Connected, Event::Started][..]);
        let (chunk_size, msid) = (both.client.chunk_size(), both.client.msid());
        crate::chunk::put_full(both.client.output(), chunk_size, 4, 7, VIDEO, msid, &[0x17; 70_000]);
        crate::chunk::put_delta(both.client.output(), chunk_size, 4, 40, VIDEO, b"\x27\x01");
        both.client.ping(3);
        both.client.finish();
        both.run(step);
        let stream: server::StreamKey = "live/s".parse().unwrap();
        let expected = [
            server::Event::Connected { app: "live".into(), auth: None },
            server::Event::Publish { msid: 1, stream },
            server::Event::Media(media(4, 7, &[0x17; 70_000])),
            server::Event::Media(media(4, 47, b"\x27\x01")),
            server::Event::Unpublish { msid: 1 },
        ];
        prop_assert_eq!(&both.server_events[..], &expected[..]);
        let gone = Event::Status {
            level: "status".into(),
            code: "NetStream.Unpublish.Success".into(),
            description: "Stopped publishing stream.".into(),
        };
        prop_assert_eq!(&both.client_events[2..], &[Event::Pong { timestamp: 3 }, gone][..]);
    }

    #[test]
    fn both_sessions_play_at_any_cut(step in 1usize..4000) {
        let mut both = Both::new(config(Mode::Play));
        both.run(step);
        let chunk_size = both.server.chunk_size();
        crate::chunk::put_full(both.server.output(), chunk_size, 4, 0xFF_FFFE, VIDEO, 1, &[0x17; 70_000]);
        both.server.ping(1);
        crate::chunk::put_delta(both.server.output(), chunk_size, 4, 40, VIDEO, b"\x27\x01");
        let to_client = std::mem::take(both.server.output());
        for mut piece in to_client.chunks(step) {
            while let Some(event) = both.client.handle_input(&mut piece).unwrap() {
                both.client_events.push(event);
            }
        }
        let played: Vec<_> = both.client_events.iter().filter_map(|event| match event {
            Event::Media(message) if message.type_id == VIDEO => Some(message.clone()),
            _ => None,
        }).collect();
        prop_assert_eq!(played, [media(4, 0xFF_FFFE, &[0x17; 70_000]), media(4, 0xFF_FFFE + 40, b"\x27\x01")]);
        prop_assert!(both.client_events.contains(&Event::Started));
        both.client.finish();
        both.run(step);
        prop_assert_eq!(both.server_events.last(), Some(&server::Event::StopPlay { msid: 1 }));
    }
}

#[test]
fn a_record_has_no_secret_and_none_is_made_inside_the_handshake() {
    let claim = auth::Claim { secret: SECRET.to_vec(), target: "edge-1".into(), clock: "c".into() };
    let mut both = Both::new(Config { auth: Some(claim), ..config(Mode::Publish) });
    assert!(postcard::to_stdvec(&both.client).is_err());
    both.run(1000);
    assert_eq!(both.client.stage(), Stage::Active);
    let record = postcard::to_stdvec(&both.client).unwrap();
    assert!(!record.windows(SECRET.len()).any(|bytes| bytes == SECRET));
    both.client.finish();
    both.client.restart();
    both.run(1000);
    assert_eq!(both.client.stage(), Stage::Active);
}

#[test]
fn a_forwarder_with_the_secret_is_believed_and_another_is_not() {
    for (secret, target, believed) in
        [(SECRET, "edge-1", true), (&b"guess"[..], "edge-1", false), (SECRET, "edge-2", false)]
    {
        let auth =
            Some(auth::Claim { secret: secret.to_vec(), target: target.to_owned(), clock: "c".into() });
        let mut both = Both::new(Config { auth, ..config(Mode::Publish) });
        both.run(usize::MAX);
        assert_eq!(both.verified, Some(believed));
    }
    let mut without = Both::new(config(Mode::Publish));
    without.run(usize::MAX);
    assert_eq!(without.verified, None);
}

#[test]
fn a_server_that_refuses_is_reported_with_its_reason() {
    let mut client = Session::new(config(Mode::Publish)).unwrap();
    let mut server = server::Session::new(server::Config::default());
    let error = loop {
        let to_server = std::mem::take(client.output());
        let mut input = &to_server[..];
        while let Some(event) = server.handle_input(&mut input).unwrap() {
            if let server::Event::Publish { .. } = event {
                server.reject_publish("NetStream.Publish.BadName", "busy");
            }
        }
        let to_client = std::mem::take(server.output());
        let mut input = &to_client[..];
        let mut step = || -> Result<(), Error> {
            while client.handle_input(&mut input)?.is_some() {}
            Ok(())
        };
        if let Err(error) = step() {
            break error;
        }
    };
    assert_eq!(error, rejected("NetStream.Publish.BadName", "busy"));
}
