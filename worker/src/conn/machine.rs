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

#[cfg(test)]
mod tests;

use rtmp::server::{Auth, Config, Event, PlayEnd, PublishEnd, Session, StreamKey};
use rtmp::{auth, chunk, wire};
use serde::{Deserialize, Serialize};
use stream::{CONTROL_MAX, Track};

use super::by_stream::ByStream;
use super::end::{Cut, End};
use crate::secret;

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
    /// The secrets between origin and edges, a line each: any is believed.
    pub(crate) secret: &'a [u8],
    /// The id of this worker; `None` where no forwarder is expected.
    pub(crate) target: Option<&'a str>,
}

/// Whether one of the secrets has made the tag.
fn is_proven(secrets: &[u8], s1: &[u8], auth: &Auth) -> bool {
    secret::each(secrets).any(|secret| auth::verify(secret, s1, &auth.target, &auth.tag))
}

/// How long a publisher may be silent, ms.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Patience {
    /// From publish to the first media.
    pub(crate) first: u64,
    /// Between bytes after it.
    pub(crate) normal: u64,
}

/// What a message stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Asking {
    msid: u32,
    to_publish: bool,
}

/// Bytes on their way out.
#[derive(Debug, Default, Serialize, Deserialize)]
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

/// Why a forwarder is not believed.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Doubt {
    /// Its proof is made with another secret.
    Secret,
    /// It means another port.
    Target,
}

impl Doubt {
    /// As the forwarder is told.
    fn text(self) -> &'static str {
        match self {
            Self::Secret => {
                "the origin has another secret than this edge: the secret file was changed between their starts; \
                 srsctl restart gives the older process the new one"
            }
            Self::Target => "this is not the port that the origin means: its address leads to another edge",
        }
    }
}

fn config() -> Config {
    Config { chunk_size: wire::CHUNK_SIZE, limits: chunk::Limits::default() }
}

/// See the [module](self). Plain data.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    session: Session,
    patience: Patience,
    /// The message streams that do something.
    streams: ByStream<Role>,
    asking: Option<Asking>,
    /// The clock of a proven forwarder of the origin.
    clock: Option<String>,
    /// Why a forwarder that says that it is the origin's is not believed.
    doubt: Option<Doubt>,
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
        Self {
            session: Session::new(config()),
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

    /// Makes one that was read from a record whole, with the parts of messages that it had received; false if it cannot be right.
    pub(crate) fn restore(&mut self, partials: &[u8]) -> bool {
        self.session.check(config()).is_ok()
            && self.session.restore_partials(partials)
            && self.asking.is_none()
            && self.out.sent <= self.out.bytes.len()
            && self.out.bytes.len() - self.out.sent <= CONTROL_MAX + self.out.owed
    }

    /// From now on a publisher may be silent for so long; whether that is new.
    pub(crate) fn set_patience(&mut self, patience: Patience) -> bool {
        std::mem::replace(&mut self.patience, patience) != patience
    }

    /// What has come of messages that are not whole.
    pub(crate) fn reader(&self) -> &chunk::Reader {
        self.session.reader()
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
                    let proves = || is_proven(proof.secret, s1, auth);
                    match auth.target == target {
                        false => Some(Doubt::Target),
                        true if !proves() => Some(Doubt::Secret),
                        true => None,
                    }
                });
                let proven = auth.filter(|auth| {
                    proof.target == Some(auth.target.as_str()) && is_proven(proof.secret, s1, auth)
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
            let doubt = self.doubt.map(Doubt::text);
            self.session.reject_publish(why.code, doubt.unwrap_or(&why.description));
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

    /// What is published on `msid` is over, and its client is told why. Whatever else it does goes on.
    pub(crate) fn end_publish(&mut self, msid: u32, why: PublishEnd, now: u64) {
        self.session.end_publish(msid, why);
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
