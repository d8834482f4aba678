//! An accepted connection as a pure machine: what it was asked, what it answers, when its time is up.
//!
//! ```text
//!  Open ──publish, play──▶ Asking ──accept──▶ Publishing, Playing ──stop──▶ Open
//!                            └─────refuse──▶ Refused
//! ```
//!
//! It knows neither socket nor stream. Bytes go in by [`Machine::handle_input`], and what they ask of the worker comes out as a
//! [`Wish`]. Between a command and its answer the connection is `Asking` and takes no input, so whoever answers may ask
//! somebody else first.

use rtmp::server::{Config, Event, Session, StreamKey};
use rtmp::{auth, chunk, wire};
use stream::{CONTROL_MAX, Track};

use super::end::{Cut, End};

/// A connection publishes or plays within this time of its accept, ms.
const OPEN_TIMEOUT: u64 = 10_000;
/// First media of a publisher, ms: encoders look for a keyframe first. As SRS `firstpkt_timeout`.
const FIRST_MEDIA_TIMEOUT: u64 = 20_000;
/// A publisher silent for this long is closed, ms, so that its name is free again. As SRS `normal_timeout`.
const SILENT_TIMEOUT: u64 = 5_000;
/// The same for a forwarder of the origin, ms: longer, so that the origin, which sees the encoder, decides first.
const FORWARDER_SILENT_TIMEOUT: u64 = 10_000;
/// A refused connection is given this long to read why, ms.
const LINGER: u64 = 2_000;

/// Why a publish or a play is refused: an RTMP status code and a sentence for the log at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) description: String,
}

/// What a peer wants of the worker.
#[derive(Debug)]
pub(crate) enum Wish {
    /// To be answered by [`Machine::accept`] or [`Machine::refuse`].
    Publish {
        stream: StreamKey,
        /// The clock of a proven forwarder.
        clock: Option<String>,
    },
    /// To be answered by [`Machine::accept`] or [`Machine::refuse`].
    Play {
        stream: StreamKey,
        /// Message stream it plays on.
        msid: u32,
    },
    /// Of the stream it publishes.
    Media(chunk::Message),
    /// It publishes or plays no more: what is still owed to it as a player comes back by [`Machine::reopen`].
    Stop,
    /// A player pauses, or goes on.
    Pause(bool),
    /// A player turns a track off, or on.
    Mute(Track, bool),
}

/// By what a forwarder of the cluster is known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Proof<'a> {
    /// The secret between origin and edges.
    pub(crate) secret: &'a [u8],
    /// The id of this worker; `None` where no forwarder is expected.
    pub(crate) target: Option<&'a str>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// Has not said what it wants, or has stopped it.
    Open,
    /// Waits for an answer.
    Asking {
        to_publish: bool,
    },
    Publishing,
    Playing,
    /// Is told why, and then closed.
    Refused,
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
    role: Role,
    /// The clock of a proven forwarder of the origin.
    clock: Option<String>,
    /// Why a forwarder that says that it is the origin's is not believed.
    doubt: Option<&'static str>,
    out: Outbox,
    deadline: Option<(u64, Cut)>,
}

impl Machine {
    /// A connection that was accepted at `now`, monotonic ms.
    pub(crate) fn new(now: u64) -> Self {
        let config = Config { chunk_size: wire::CHUNK_SIZE, limits: chunk::Limits::default() };
        Self {
            session: Session::new(config),
            role: Role::Open,
            clock: None,
            doubt: None,
            out: Outbox::default(),
            deadline: Some((now + OPEN_TIMEOUT, Cut::Idle)),
        }
    }

    /// Takes from the front of `input` up to the first wish. `None`: all is taken, or the last wish has no answer yet.
    ///
    /// # Errors
    /// When the connection is to be ended; what stands in [`output`](Self::output) should reach the peer.
    pub(crate) fn handle_input(&mut self, input: &mut &[u8], proof: Proof<'_>) -> Result<Option<Wish>, End> {
        loop {
            match self.role {
                Role::Asking { .. } => return Ok(None),
                Role::Refused => {
                    *input = &[];
                    return Ok(None);
                }
                Role::Open | Role::Publishing | Role::Playing => {}
            }
            let Some(event) = self.session.handle_input(input)? else { return Ok(None) };
            if let Some(wish) = self.handle_event(event, proof) {
                return Ok(Some(wish));
            }
        }
    }

    /// Takes why a message of the peer was left out since the last call.
    pub(crate) fn take_left_out(&mut self) -> Option<chunk::ReadError> {
        self.session.take_left_out()
    }

    fn handle_event(&mut self, event: Event, proof: Proof<'_>) -> Option<Wish> {
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
            Event::Publish { stream, .. } => {
                self.role = Role::Asking { to_publish: true };
                Some(Wish::Publish { stream, clock: self.clock.clone() })
            }
            Event::Play { msid, stream } => {
                self.role = Role::Asking { to_publish: false };
                Some(Wish::Play { stream, msid })
            }
            Event::Media(message) => Some(Wish::Media(message)),
            Event::Unpublish | Event::StopPlay => Some(Wish::Stop),
            Event::Pause(pause) => Some(Wish::Pause(pause)),
            Event::ReceiveAudio(on) => Some(Wish::Mute(Track::Audio, !on)),
            Event::ReceiveVideo(on) => Some(Wish::Mute(Track::Video, !on)),
            Event::Pong { .. } => None,
        }
    }

    /// What it published at `now` was media, and not metadata or nothing that is relayed.
    pub(crate) fn handle_media(&mut self, now: u64) {
        let limit = if self.is_forwarder() { FORWARDER_SILENT_TIMEOUT } else { SILENT_TIMEOUT };
        if self.role == Role::Publishing {
            self.deadline = Some((now + limit, Cut::Silent));
        }
    }

    /// It may do what it asked for.
    pub(crate) fn accept(&mut self, now: u64) {
        let Role::Asking { to_publish } = self.role else { return };
        if to_publish {
            self.session.accept_publish();
            self.deadline = Some((now + FIRST_MEDIA_TIMEOUT, Cut::Silent));
            self.role = Role::Publishing;
        } else {
            self.session.accept_play();
            self.deadline = None;
            self.role = Role::Playing;
        }
    }

    /// It may not; it is told, and closed soon.
    pub(crate) fn refuse(&mut self, why: &Refusal, now: u64) {
        let Role::Asking { to_publish } = self.role else { return };
        if to_publish {
            self.session.reject_publish(why.code, self.doubt.unwrap_or(&why.description));
        } else {
            self.session.reject_play(why.code, &why.description);
        }
        self.deadline = Some((now + LINGER, Cut::Lingered));
        self.role = Role::Refused;
    }

    /// It may publish or play again; `rest` is what it is owed as a player, `owed` bytes of it the rest of a message.
    ///
    /// # Errors
    /// [`End::Flood`].
    pub(crate) fn reopen(&mut self, rest: Vec<u8>, owed: usize, now: u64) -> Result<(), End> {
        if self.role == Role::Playing {
            self.out = Outbox { bytes: rest, sent: 0, owed };
        }
        self.role = Role::Open;
        self.deadline = Some((now + OPEN_TIMEOUT, Cut::Idle));
        self.check_flood()
    }

    /// When the connection is to be cut, ms, and why.
    pub(crate) fn deadline(&self) -> Option<(u64, Cut)> {
        self.deadline
    }

    pub(crate) fn is_forwarder(&self) -> bool {
        self.clock.is_some()
    }

    pub(crate) fn is_refused(&self) -> bool {
        self.role == Role::Refused
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

    /// A client's session and the machine it talks to, without a network between them.
    struct Pair {
        client: client::Session,
        machine: Machine,
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
            Self { client, machine: Machine::new(0), input: Vec::new(), events: Vec::new() }
        }

        /// Passes bytes to and fro until a wish or silence.
        fn talk(&mut self, proof: Proof<'_>) -> Result<Option<Wish>, End> {
            loop {
                self.input.append(self.client.output());
                let mut input = &self.input[..];
                let wish = self.machine.handle_input(&mut input, proof)?;
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

    #[test]
    fn each_state_has_its_deadline() {
        let mut pair = Pair::new(Mode::Publish);
        assert_eq!(pair.machine.deadline(), Some((OPEN_TIMEOUT, Cut::Idle)));
        pair.talk(NOBODY).unwrap();
        pair.machine.accept(100);
        assert_eq!(pair.machine.deadline(), Some((100 + FIRST_MEDIA_TIMEOUT, Cut::Silent)));
        pair.talk(NOBODY).unwrap();
        let mut media = Vec::new();
        chunk::put_full(&mut media, wire::CHUNK_SIZE, 5, 0, 8, 1, &[0xAF, 1, 2]);
        let wish = pair.machine.handle_input(&mut &media[..], NOBODY).unwrap();
        assert!(matches!(wish, Some(Wish::Media(_))));
        // It may be metadata: encoders send that first, and their picture much later.
        assert_eq!(pair.machine.deadline(), Some((100 + FIRST_MEDIA_TIMEOUT, Cut::Silent)));
        pair.machine.handle_media(200);
        assert_eq!(pair.machine.deadline(), Some((200 + SILENT_TIMEOUT, Cut::Silent)));
        pair.client.finish();
        assert!(matches!(pair.talk(NOBODY), Ok(Some(Wish::Stop))));
        pair.machine.reopen(Vec::new(), 0, 300).unwrap();
        assert_eq!(pair.machine.deadline(), Some((300 + OPEN_TIMEOUT, Cut::Idle)));

        let mut player = Pair::until_asked(Mode::Play);
        player.machine.accept(100);
        assert_eq!(player.machine.deadline(), None);
    }

    #[test]
    fn who_is_refused_is_told_and_heard_no_more() {
        for mode in [Mode::Publish, Mode::Play] {
            let mut pair = Pair::until_asked(mode);
            let refusal = Refusal { code: "NetStream.Publish.BadName", description: "taken".to_owned() };
            pair.machine.refuse(&refusal, 50);
            assert_eq!(pair.machine.deadline(), Some((50 + LINGER, Cut::Lingered)));
            let told = pair.machine.output().to_vec();
            let refused = pair.client.handle_input(&mut &told[..]).unwrap_err();
            assert!(refused.to_string().contains("taken"), "{refused}");
            let mut input = &[0xFF; 100][..];
            assert!(pair.machine.handle_input(&mut input, NOBODY).unwrap().is_none());
            assert!(input.is_empty());
        }
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
        assert!(pair.machine.handle_input(&mut &pings[..], NOBODY).unwrap().is_none());
        assert!(matches!(pair.machine.check_flood(), Err(End::Flood)));
    }
}
