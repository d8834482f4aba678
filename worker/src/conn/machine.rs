//! An accepted connection as a pure machine: what it was asked, what it answers, when its time is up.
//!
//! ```text
//!  each message stream:  Idle ──publish, play──▶ Asking ──accept──▶ Publishing, Playing ──stop──▶ Idle
//!                                                  └─────refuse──▶ Idle
//!  the connection:       Open ──the publication that it played is over, and nothing else is active──▶ Closing
//! ```
//!
//! It knows neither socket nor stream. Bytes go in by [`Machine::handle_input`], and what they ask of the worker comes out as a
//! [`Wish`]. Between a command and its answer the connection takes no input, so whoever answers may ask somebody else first.
//! Time goes in by [`Machine::handle_timeout`] when [`Machine::deadline`] has come.
//!
//! Received bytes are a publisher's life, not whole messages: a large keyframe takes long on a slow uplink, and a picture that
//! stands still is not sent at all. Whoever has been silent for half of its time is pinged; most clients answer.

use rtmp::server::{Config, Event, PlayEnd, PublishEnd, Session, StreamKey};
use rtmp::{auth, chunk, wire};
use stream::{CONTROL_MAX, Track};

use super::by_stream::ByStream;
use super::end::{Cut, End};

/// From accept to `connect`, ms.
const OPEN_TIMEOUT: u64 = 10_000;
/// A connection that neither publishes nor plays is closed when nothing has come for this long, ms. As SRS keeps one that has
/// unpublished.
const IDLE_TIMEOUT: u64 = 180_000;
/// A forwarder of the origin has so many times the time of an encoder: the origin, which sees the encoder, decides first.
const FORWARDER_PATIENCE: u64 = 2;
/// A connection that is refused and has nothing else has this long to ask for something else, ms, and one that is closing to read
/// why.
const LINGER: u64 = 2_000;

/// Why a publish or a play is refused: an RTMP status code and a sentence for the log at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) description: String,
}

/// What a peer wants of the worker, on the message stream `msid`.
#[derive(Debug)]
pub(crate) enum Wish {
    /// To be answered by [`Machine::accept`] or [`Machine::refuse`]. What the stream did until now is over.
    Publish {
        msid: u32,
        stream: StreamKey,
        /// The clock of a proven forwarder.
        clock: Option<String>,
    },
    /// To be answered by [`Machine::accept`] or [`Machine::refuse`]. What the stream did until now is over.
    Play {
        msid: u32,
        stream: StreamKey,
        /// How much of it, ms.
        length: Option<u64>,
    },
    /// Of the stream that publishes on the message's message stream.
    Media(chunk::Message),
    /// It publishes or plays no more.
    Stop { msid: u32 },
    /// A player pauses, or goes on.
    Pause { msid: u32, on: bool },
    /// A player turns a track off, or on.
    Mute { msid: u32, track: Track, off: bool },
}

/// By what a forwarder of the cluster is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof<'a> {
    /// The secret between origin and edges.
    pub(crate) secret: &'a [u8],
    /// The id of this worker; `None` where no forwarder is expected.
    pub(crate) target: Option<&'a str>,
}

/// How long a publisher may be silent, ms.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// From publish to the first media.
    pub(crate) first: u64,
    /// Between bytes after it.
    pub(crate) normal: u64,
}

/// What a message stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Publishing {
        /// When it was accepted, or a part of its first media came, ms; `None` once media have come.
        awaits_since: Option<u64>,
    },
    Playing,
}

/// What is to be done at a time.
#[derive(Clone, Copy, Debug)]
enum Due {
    Cut(Cut),
    /// The publisher on this message stream has sent no media.
    Unpublish(u32),
    Ping,
}

/// A question without an answer.
#[derive(Clone, Copy, Debug)]
struct Asking {
    msid: u32,
    to_publish: bool,
}

/// Bytes on their way out.
#[derive(Debug, Default)]
struct Outbox {
    bytes: Vec<u8>,
    sent: usize,
    /// How many of `bytes` are no replies but the rest of a message of media.
    owed: usize,
}

impl Outbox {
    fn rest(&self) -> &[u8] {
        self.bytes.get(self.sent..).unwrap_or(&[])
    }
}

/// Told to a forwarder whose proof is made with another secret.
const ANOTHER_SECRET: &str = "the origin has another secret than this edge: the secret file was changed between their starts; \
    srsctl restart gives the older process the new one";
/// Told to a forwarder that means another port.
const ANOTHER_TARGET: &str = "this is not the port that the origin means: its address leads to another edge";

/// See the [module](self). Plain data.
#[derive(Debug)]
pub(crate) struct Machine {
    session: Session,
    patience: Patience,
    /// The message streams that do something.
    streams: ByStream<Role>,
    asking: Option<Asking>,
    /// The clock of a proven forwarder of the origin.
    clock: Option<String>,
    /// Why a forwarder that says that it is the origin's is not believed.
    doubt: Option<&'static str>,
    out: Outbox,
    accepted: u64,
    /// When bytes came last, ms.
    heard: u64,
    /// Since then it was asked for a sign of life.
    is_pinged: bool,
    /// When it was refused, ms, if it has asked for nothing since.
    refused: Option<u64>,
    /// When it was told that its last play is over, ms.
    closing: Option<u64>,
}

impl Machine {
    /// A connection that was accepted at `now`, monotonic ms.
    pub(crate) fn new(patience: Patience, now: u64) -> Self {
        let config = Config { chunk_size: wire::CHUNK_SIZE, limits: chunk::Limits::default() };
        Self {
            session: Session::new(config),
            patience,
            streams: ByStream::default(),
            asking: None,
            clock: None,
            doubt: None,
            out: Outbox::default(),
            accepted: now,
            heard: now,
            is_pinged: false,
            refused: None,
            closing: None,
        }
    }

    /// Takes from the front of `input`, which came at `now`, up to the first wish. `None`: all is taken, or the last wish has no
    /// answer yet.
    ///
    /// # Errors
    /// When the connection is to be ended; what stands in [`output`](Self::output) should reach the peer.
    pub(crate) fn handle_input(
        &mut self,
        input: &mut &[u8],
        proof: Proof<'_>,
        now: u64,
    ) -> Result<Option<Wish>, End> {
        if self.closing.is_some() {
            *input = &[];
        }
        if !input.is_empty() {
            (self.heard, self.is_pinged) = (now, false);
        }
        while self.asking.is_none() {
            let Some(event) = self.session.handle_input(input)? else {
                self.note_partial_media(now);
                break;
            };
            if let Some(wish) = self.handle_event(event, proof, now) {
                return Ok(Some(wish));
            }
        }
        Ok(None)
    }

    /// Takes why a message of the peer was left out since the last call.
    pub(crate) fn take_left_out(&mut self) -> Option<chunk::ReadError> {
        self.session.take_left_out()
    }

    fn handle_event(&mut self, event: Event, proof: Proof<'_>, now: u64) -> Option<Wish> {
        match event {
            Event::Connected { auth, .. } => {
                let s1 = self.session.s1().unwrap_or(&[]);
                self.doubt = auth.as_ref().zip(proof.target).and_then(|(auth, target)| {
                    let proves = || auth::verify(proof.secret, s1, &auth.target, &auth.tag);
                    match auth.target == target {
                        false => Some(ANOTHER_TARGET),
                        true if !proves() => Some(ANOTHER_SECRET),
                        true => None,
                    }
                });
                let proven = auth.filter(|auth| {
                    proof.target == Some(auth.target.as_str())
                        && auth::verify(proof.secret, s1, &auth.target, &auth.tag)
                });
                self.clock = proven.map(|auth| auth.clock);
                None
            }
            Event::Publish { msid, stream } => {
                self.ask(msid, true);
                Some(Wish::Publish { msid, stream, clock: self.clock.clone() })
            }
            Event::Play { msid, stream, length } => {
                self.ask(msid, false);
                Some(Wish::Play { msid, stream, length })
            }
            Event::Refused => {
                self.refused = Some(now);
                None
            }
            Event::Media(message) => Some(Wish::Media(message)),
            Event::Unpublish { msid } | Event::StopPlay { msid } => {
                self.streams.remove(msid);
                Some(Wish::Stop { msid })
            }
            Event::Pause { msid, on } => Some(Wish::Pause { msid, on }),
            Event::ReceiveAudio { msid, on } => Some(Wish::Mute { msid, track: Track::Audio, off: !on }),
            Event::ReceiveVideo { msid, on } => Some(Wish::Mute { msid, track: Track::Video, off: !on }),
            Event::Pong { .. } => None,
        }
    }

    fn ask(&mut self, msid: u32, to_publish: bool) {
        self.streams.remove(msid);
        self.refused = None;
        self.asking = Some(Asking { msid, to_publish });
    }

    /// A part of its first media is a publisher's sign of life too.
    fn note_partial_media(&mut self, now: u64) {
        let waits = |role: &Role| matches!(role, Role::Publishing { awaits_since: Some(_) });
        if self.streams.values().any(waits) && self.session.is_receiving_media() {
            for role in self.streams.values_mut().filter(|role| waits(role)) {
                *role = Role::Publishing { awaits_since: Some(now) };
            }
        }
    }

    /// What it published on `msid` was media, and not metadata or nothing that is relayed.
    pub(crate) fn handle_media(&mut self, msid: u32) {
        if let Some(Role::Publishing { awaits_since }) = self.streams.get_mut(msid) {
            *awaits_since = None;
        }
    }

    /// It may do what it asked for.
    pub(crate) fn accept(&mut self, now: u64) {
        let Some(Asking { msid, to_publish }) = self.asking.take() else { return };
        let role = if to_publish {
            self.session.accept_publish();
            Role::Publishing { awaits_since: Some(now) }
        } else {
            self.session.accept_play();
            Role::Playing
        };
        self.streams.insert(msid, role);
    }

    /// It may not, and is told. Whatever else it does goes on.
    pub(crate) fn refuse(&mut self, why: &Refusal, now: u64) {
        let Some(Asking { to_publish, .. }) = self.asking.take() else { return };
        if to_publish {
            self.session.reject_publish(why.code, self.doubt.unwrap_or(&why.description));
        } else {
            self.session.reject_play(why.code, &why.description);
        }
        self.refused = Some(now);
    }

    /// The player on `msid` has had all that it gets, and is told so. If its publication is over and the connection has nothing else,
    /// it is closed: a recorder has ended.
    pub(crate) fn end_play(&mut self, msid: u32, why: PlayEnd, now: u64) {
        self.session.end_play(msid, why);
        self.streams.remove(msid);
        self.heard = now;
        match why {
            PlayEnd::Unpublished if self.streams.is_empty() => self.closing = Some(now),
            PlayEnd::MadeRoom => self.refused = Some(now),
            PlayEnd::Unpublished | PlayEnd::Complete => {}
        }
    }

    /// What is published on `msid` makes room for another, and is told so. Whatever else it does goes on.
    pub(crate) fn make_room(&mut self, msid: u32, now: u64) {
        self.session.end_publish(msid, PublishEnd::MadeRoom);
        self.streams.remove(msid);
        self.refused = Some(now);
    }

    /// The last player is none any more: `rest` is what it is still owed, `owed` bytes of it the rest of a message.
    ///
    /// # Errors
    /// [`End::Flood`].
    pub(crate) fn owe(&mut self, rest: Vec<u8>, owed: usize) -> Result<(), End> {
        self.out = Outbox { bytes: rest, sent: 0, owed };
        self.check_flood()
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called, ms.
    pub(crate) fn deadline(&self) -> Option<u64> {
        self.due().map(|(at, _)| at)
    }

    /// Does what is due at `now`.
    ///
    /// # Errors
    /// When the connection is to be cut.
    pub(crate) fn handle_timeout(&mut self, now: u64) -> Result<Option<Wish>, End> {
        match self.due().filter(|(at, _)| *at <= now) {
            None => Ok(None),
            Some((_, Due::Cut(why))) => Err(End::Cut(why)),
            Some((_, Due::Ping)) => {
                #[expect(clippy::cast_possible_truncation, reason = "a ping carries 32 bits")]
                self.session.ping(now as u32);
                self.is_pinged = true;
                Ok(None)
            }
            Some((_, Due::Unpublish(msid))) => {
                self.session.end_publish(msid, PublishEnd::Idle);
                self.streams.remove(msid);
                Ok(Some(Wish::Stop { msid }))
            }
        }
    }

    fn due(&self) -> Option<(u64, Due)> {
        if let Some(since) = self.closing {
            return Some((since + LINGER, Due::Cut(Cut::Lingered)));
        }
        if !self.session.is_connected() {
            return Some((self.accepted + OPEN_TIMEOUT, Due::Cut(Cut::Idle)));
        }
        if self.streams.is_empty() {
            return Some(match self.refused {
                Some(since) => (since + LINGER, Due::Cut(Cut::Lingered)),
                None => (self.heard + IDLE_TIMEOUT, Due::Cut(Cut::Idle)),
            });
        }
        let patience = if self.is_forwarder() { FORWARDER_PATIENCE } else { 1 };
        let normal = self.patience.normal * patience;
        let of = |(msid, role): (u32, &Role)| match role {
            Role::Playing => None,
            Role::Publishing { awaits_since: Some(since) } => {
                let due = if self.streams.len() == 1 { Due::Cut(Cut::Silent) } else { Due::Unpublish(msid) };
                Some((since + self.patience.first * patience, due))
            }
            Role::Publishing { awaits_since: None } if self.is_pinged => {
                Some((self.heard + normal, Due::Cut(Cut::Silent)))
            }
            Role::Publishing { awaits_since: None } => Some((self.heard + normal / 2, Due::Ping)),
        };
        self.streams.iter().filter_map(of).min_by_key(|(at, _)| *at)
    }

    /// Bytes of memory that it holds.
    pub(crate) fn held(&self) -> usize {
        self.session.held() + self.out.bytes.capacity()
    }

    pub(crate) fn is_forwarder(&self) -> bool {
        self.clock.is_some()
    }

    /// Whether nothing more is to be said once the output is sent.
    pub(crate) fn is_closing(&self) -> bool {
        self.closing.is_some()
    }

    /// The session's new replies, for a player: its cursor sends them.
    pub(crate) fn replies(&mut self) -> &mut Vec<u8> {
        self.session.output()
    }

    /// What a player was still owed before it was one, and the replies so far.
    pub(crate) fn take_output(&mut self) -> Vec<u8> {
        let mut rest = self.out.bytes.split_off(self.out.sent.min(self.out.bytes.len()));
        self.out = Outbox::default();
        rest.append(self.session.output());
        rest
    }

    /// What is to be sent to a peer that is no player.
    pub(crate) fn output(&mut self) -> &[u8] {
        self.out.bytes.append(self.session.output());
        self.out.rest()
    }

    /// So many bytes of the output have been sent; true if that was all of it.
    pub(crate) fn handle_sent(&mut self, bytes: usize) -> bool {
        self.out.sent += bytes;
        let is_all = self.out.rest().is_empty();
        if is_all {
            self.out = Outbox::default();
        }
        is_all
    }

    /// # Errors
    /// [`End::Flood`] when more replies wait than a peer that reads leaves.
    pub(crate) fn check_flood(&mut self) -> Result<(), End> {
        let owed = self.out.owed;
        if self.output().len() > CONTROL_MAX + owed { Err(End::Flood) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
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
            assert!(
                matches!(pair.say(&media(1, &[0xAF, 1])), Some(Wish::Media(message)) if message.msid == 1)
            );
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
        pair.machine.make_room(2, 100);
        assert!(pair.say(&media(2, &[0xAF, 1])).is_none(), "its media go nowhere");
        assert!(matches!(pair.say(&media(1, &[0xAF, 1])), Some(Wish::Media(message)) if message.msid == 1));
        pair.machine.make_room(1, 200);
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
            let claim =
                auth::Claim { secret: secret.to_vec(), target: target.to_owned(), clock: "c".to_owned() };
            let config =
                client::Config { auth: Some(claim), ..client::Config::new(Mode::Publish, url.clone()) };
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
}
