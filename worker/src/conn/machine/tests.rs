use super::*;
use rtmp::client::{self, Mode};

const NOBODY: Proof<'_> = Proof { secret: &[], target: None };
const PATIENCE: Patience = Patience { first: 20_000, normal: 5_000 };

/// A client's session and the machine it talks to, without a network between them.
struct Pair {
    client: client::Session,
    machine: Machine,
    now: u64,
    /// Of the client, not taken by the machine yet.
    input: Vec<u8>,
    events: Vec<client::Event>,
}

impl Pair {
    fn new(mode: Mode) -> Self {
        let url = "rtmp://127.0.0.1/live/a".parse().unwrap();
        Self::with(client::Config::new(mode, url))
    }

    fn with(config: client::Config) -> Self {
        let client = client::Session::new(config).unwrap();
        Self { client, machine: Machine::new(PATIENCE, 0), now: 0, input: Vec::new(), events: Vec::new() }
    }

    /// Passes bytes to and fro until a wish or silence.
    fn talk(&mut self, proof: Proof<'_>) -> Result<Option<Wish>, End> {
        loop {
            self.input.append(self.client.output());
            let mut input = &self.input[..];
            let wish = self.machine.handle_input(&mut input, proof, self.now)?;
            let taken = self.input.len() - input.len();
            self.input.drain(..taken);
            let output = self.machine.output().to_vec();
            self.machine.handle_sent(output.len());
            let mut replies = &output[..];
            while let Some(event) = self.client.handle_input(&mut replies).unwrap() {
                self.events.push(event);
            }
            if wish.is_some() || (taken == 0 && output.is_empty()) {
                return Ok(wish);
            }
        }
    }

    /// What the client's session never says.
    fn say(&mut self, bytes: &[u8]) -> Option<Wish> {
        self.machine.handle_input(&mut &bytes[..], NOBODY, self.now).unwrap()
    }

    fn until_asked(mode: Mode) -> Self {
        let mut pair = Self::new(mode);
        let wish = pair.talk(NOBODY).unwrap().unwrap();
        assert!(matches!(wish, Wish::Publish { .. } | Wish::Play { .. }), "{wish:?}");
        pair
    }
}

#[test]
fn between_a_wish_and_its_answer_nothing_is_taken() {
    let mut pair = Pair::until_asked(Mode::Publish);
    pair.client.ping(7);
    assert!(pair.talk(NOBODY).unwrap().is_none());
    assert!(!pair.input.is_empty(), "the ping waits");
    pair.machine.accept(3_000);
    assert!(pair.talk(NOBODY).unwrap().is_none());
    assert!(pair.input.is_empty());
    let started = pair.events.iter().position(|event| *event == client::Event::Started).unwrap();
    let pong = pair.events.iter().position(|event| matches!(event, client::Event::Pong { .. })).unwrap();
    assert!(started < pong);
}

fn media(msid: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    chunk::put_full(&mut bytes, wire::CHUNK_SIZE, 5, 0, 8, msid, payload);
    bytes
}

/// A publish or play on `msid`.
fn ask(kind: &str, name: &str, msid: u32) -> Vec<u8> {
    let mut payload = vec![2, 0, kind.len() as u8];
    payload.extend_from_slice(kind.as_bytes());
    payload.extend_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 2, 0, name.len() as u8]);
    payload.extend_from_slice(name.as_bytes());
    let mut bytes = Vec::new();
    chunk::put_full(&mut bytes, wire::CHUNK_SIZE, 3, 0, 20, msid, &payload);
    bytes
}

/// The time at which the machine ends the connection if nothing more comes, looked at each second, and why.
fn cut_after(machine: &mut Machine, from: u64) -> (u64, Cut) {
    for now in (from..from + 400_000).step_by(1_000) {
        match machine.handle_timeout(now) {
            Ok(None) => {}
            Err(End::Cut(why)) => return (now - from, why),
            other => panic!("{other:?}"),
        }
    }
    panic!("never");
}

fn publishing() -> Pair {
    let mut pair = Pair::until_asked(Mode::Publish);
    pair.machine.accept(0);
    pair.talk(NOBODY).unwrap();
    pair
}

#[test]
fn who_does_not_connect_is_cut_and_who_has_connected_may_take_its_time() {
    assert_eq!(cut_after(&mut Machine::new(PATIENCE, 0), 0), (OPEN_TIMEOUT, Cut::Idle));
    let mut pair = publishing();
    pair.now = 50_000;
    pair.client.finish();
    assert!(matches!(pair.talk(NOBODY), Ok(Some(Wish::Stop { msid: 1 }))));
    assert_eq!(cut_after(&mut pair.machine, 50_000), (IDLE_TIMEOUT, Cut::Idle));
}

#[test]
fn a_player_has_no_deadline() {
    let mut player = Pair::until_asked(Mode::Play);
    player.machine.accept(100);
    assert_eq!(player.machine.deadline(), None);
}

#[test]
fn first_media_have_a_time_of_their_own_and_metadata_are_none() {
    let mut pair = publishing();
    pair.now = 15_000;
    assert!(matches!(pair.say(&media(1, &[0xAF, 1, 2])), Some(Wish::Media(_))));
    assert_eq!(cut_after(&mut pair.machine, 0), (PATIENCE.first, Cut::Silent));
}

#[test]
fn every_part_of_a_large_first_frame_is_a_sign_of_life() {
    let mut pair = publishing();
    let frame = media(1, &vec![0xAF; 50_000]);
    for part in frame.chunks(5_000) {
        pair.now += 15_000;
        assert!(pair.machine.handle_timeout(pair.now).unwrap().is_none());
        pair.say(part);
    }
    // It may have been none that is relayed.
    assert_eq!(cut_after(&mut pair.machine, pair.now - 15_000), (PATIENCE.first, Cut::Silent));
}

#[test]
fn received_bytes_are_a_publishers_life_and_it_is_asked_before_it_is_cut() {
    let mut pair = publishing();
    pair.say(&media(1, &[0xAF, 1, 2]));
    pair.machine.handle_media(1);
    // The next message takes a minute.
    for part in media(1, &vec![0xAF; 50_000]).chunks(3_500) {
        pair.now += 4_000;
        assert!(pair.machine.handle_timeout(pair.now).unwrap().is_none());
        pair.say(part);
        pair.machine.output();
    }
    // Nothing to send for a minute, but the client is there.
    for _ in 0..30 {
        pair.now += 2_500;
        assert!(pair.machine.handle_timeout(pair.now).unwrap().is_none());
        assert!(pair.talk(NOBODY).unwrap().is_none());
    }
    assert_eq!(cut_after(&mut pair.machine, pair.now), (PATIENCE.normal, Cut::Silent));
    assert!(!pair.machine.output().is_empty(), "it was asked");
}

#[test]
fn a_forwarder_may_be_silent_for_twice_as_long() {
    let url: rtmp::url::Url = "rtmp://127.0.0.1/live/a".parse().unwrap();
    let claim = auth::Claim { secret: vec![7; 32], target: "edge-a".to_owned(), clock: "c".to_owned() };
    let config = client::Config { auth: Some(claim), ..client::Config::new(Mode::Publish, url) };
    let mut pair = Pair::with(config);
    let proof = Proof { secret: &[7; 32], target: Some("edge-a") };
    pair.talk(proof).unwrap();
    pair.machine.accept(0);
    pair.machine.handle_media(1);
    assert_eq!(cut_after(&mut pair.machine, 0), (2 * PATIENCE.normal, Cut::Silent));
}

#[test]
fn who_is_refused_is_told_and_may_ask_for_something_else() {
    for (mode, kind) in [(Mode::Publish, "publish"), (Mode::Play, "play")] {
        let mut pair = Pair::until_asked(mode);
        let refusal = Refusal { code: "NetStream.Publish.BadName", description: "taken".to_owned() };
        pair.machine.refuse(&refusal, 50);
        let told = pair.machine.output().to_vec();
        let refused = pair.client.handle_input(&mut &told[..]).unwrap_err();
        assert!(refused.to_string().contains("taken"), "{refused}");
        // Media of one that does not listen change nothing.
        pair.now = 1_000;
        assert!(pair.say(&media(1, &[0xAF, 1])).is_none());
        assert_eq!(pair.machine.deadline(), Some(50 + LINGER));
        assert!(pair.say(&ask(kind, "b", 1)).is_some());
        pair.machine.accept(1_000);
        assert_ne!(pair.machine.deadline(), Some(50 + LINGER));
    }
    let mut pair = Pair::until_asked(Mode::Publish);
    pair.machine.refuse(&Refusal { code: "x", description: String::new() }, 0);
    assert_eq!(cut_after(&mut pair.machine, 0), (LINGER, Cut::Lingered));
}

#[test]
fn a_refusal_on_one_message_stream_leaves_the_others() {
    let mut pair = publishing();
    for kind in ["publish", "play"] {
        assert!(pair.say(&ask(kind, "b", 2)).is_some());
        pair.machine.refuse(&Refusal { code: "x", description: String::new() }, 10);
        assert!(matches!(pair.say(&media(1, &[0xAF, 1])), Some(Wish::Media(message)) if message.msid == 1));
        pair.machine.handle_media(1);
        assert!(pair.machine.deadline() > Some(LINGER + 10));
    }
}

#[test]
fn a_message_stream_without_media_ends_alone_where_another_has_some() {
    let mut pair = publishing();
    assert!(matches!(pair.say(&ask("publish", "b", 2)), Some(Wish::Publish { msid: 2, .. })));
    pair.machine.accept(0);
    pair.machine.handle_media(1);
    pair.now = PATIENCE.first;
    assert!(matches!(pair.say(&media(1, &[0xAF, 1])), Some(Wish::Media(_))));
    assert!(matches!(pair.machine.handle_timeout(pair.now), Ok(Some(Wish::Stop { msid: 2 }))));
    assert!(matches!(pair.say(&media(1, &[0xAF, 1])), Some(Wish::Media(_))));
    assert_eq!(cut_after(&mut pair.machine, pair.now), (PATIENCE.normal, Cut::Silent));
}

#[test]
fn a_publication_that_makes_room_ends_alone_and_a_connection_that_has_no_other_lingers() {
    let mut pair = publishing();
    assert!(matches!(pair.say(&ask("publish", "b", 2)), Some(Wish::Publish { msid: 2, .. })));
    pair.machine.accept(0);
    pair.machine.end_publish(2, PublishEnd::MadeRoom, 100);
    assert!(pair.say(&media(2, &[0xAF, 1])).is_none(), "its media go nowhere");
    assert!(matches!(pair.say(&media(1, &[0xAF, 1])), Some(Wish::Media(message)) if message.msid == 1));
    pair.machine.end_publish(1, PublishEnd::MadeRoom, 200);
    assert_eq!(cut_after(&mut pair.machine, 200), (LINGER, Cut::Lingered));
}

#[test]
fn a_recorder_whose_publication_is_over_is_closed_and_one_that_has_its_length_is_not() {
    let mut pair = Pair::until_asked(Mode::Play);
    pair.machine.accept(0);
    pair.machine.end_play(1, PlayEnd::Complete, 100);
    assert!(!pair.machine.is_closing());
    assert!(matches!(pair.say(&ask("play", "b", 1)), Some(Wish::Play { .. })));
    pair.machine.accept(200);
    assert!(matches!(pair.say(&ask("play", "c", 2)), Some(Wish::Play { .. })));
    pair.machine.accept(200);
    pair.machine.end_play(1, PlayEnd::Unpublished, 300);
    assert!(!pair.machine.is_closing(), "the other one goes on");
    pair.machine.end_play(2, PlayEnd::Unpublished, 400);
    assert!(pair.machine.is_closing());
    assert_eq!(pair.machine.deadline(), Some(400 + LINGER));
    assert!(pair.say(&[0xFF; 100]).is_none(), "it is heard no more");
}

#[test]
fn a_forwarder_is_one_that_proves_it_for_this_worker() {
    let url: rtmp::url::Url = "rtmp://127.0.0.1/live/a".parse().unwrap();
    let secret = b"0123456789abcdef0123456789abcdef".to_vec();
    let claim = |target: &str| {
        Some(auth::Claim { secret: secret.clone(), target: target.to_owned(), clock: "c".to_owned() })
    };
    let clock_of = |claim, proof| {
        let config = client::Config { auth: claim, ..client::Config::new(Mode::Publish, url.clone()) };
        match Pair::with(config).talk(proof).unwrap() {
            Some(Wish::Publish { clock, .. }) => clock,
            other => panic!("{other:?}"),
        }
    };
    let proof = |target| Proof { secret: &secret, target };
    assert_eq!(clock_of(claim("edge-a"), proof(Some("edge-a"))), Some("c".to_owned()));
    assert_eq!(clock_of(claim("edge-b"), proof(Some("edge-a"))), None);
    assert_eq!(clock_of(claim("edge-a"), proof(None)), None);
    assert_eq!(clock_of(claim("edge-a"), Proof { secret: b"another", target: Some("edge-a") }), None);
    assert_eq!(clock_of(None, proof(Some("edge-a"))), None);
}

#[test]
fn a_forwarder_that_is_not_believed_is_told_why() {
    let url: rtmp::url::Url = "rtmp://127.0.0.1/live/a".parse().unwrap();
    let told = |secret: &[u8], target: &str| {
        let claim = auth::Claim { secret: secret.to_vec(), target: target.to_owned(), clock: "c".to_owned() };
        let config = client::Config { auth: Some(claim), ..client::Config::new(Mode::Publish, url.clone()) };
        let mut pair = Pair::with(config);
        let proof = Proof { secret: b"0123456789abcdef", target: Some("edge-a") };
        pair.talk(proof).unwrap().unwrap();
        let refusal = Refusal { code: "NetStream.Publish.Denied", description: "an edge".to_owned() };
        pair.machine.refuse(&refusal, 0);
        let output = pair.machine.output().to_vec();
        pair.client.handle_input(&mut &output[..]).unwrap_err().to_string()
    };
    let another = told(b"fedcba9876543210", "edge-a");
    assert!(another.contains("another secret"), "{another}");
    let elsewhere = told(b"0123456789abcdef", "edge-b");
    assert!(elsewhere.contains("not the port that the origin means"), "{elsewhere}");
}

#[test]
fn who_asks_without_reading_is_ended() {
    let mut pair = Pair::until_asked(Mode::Publish);
    pair.machine.accept(0);
    let mut pings = Vec::new();
    for _ in 0..CONTROL_MAX / 18 + 1 {
        chunk::put_full(&mut pings, wire::CHUNK_SIZE, 2, 0, 4, 0, &[0, 6, 0, 0, 0, 9]);
    }
    assert!(pair.machine.handle_input(&mut &pings[..], NOBODY, 0).unwrap().is_none());
    assert!(matches!(pair.machine.check_flood(), Err(End::Flood)));
}
