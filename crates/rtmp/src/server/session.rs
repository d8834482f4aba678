//! The state machine of an accepted connection. The commands themselves are handled in `command`.

mod command;
mod pending;
mod record;
mod streams;

use self::pending::Pending;
use self::streams::{Activity, Streams};
use super::reply;
use super::{Config, Error, Event, MAX_BEFORE_CONNECT, MAX_OUTPUT, PlayEnd, PublishEnd};
use crate::chunk::{Message, ReadError};
use crate::handshake::ServerHandshake;
use crate::link::{self, Command, Link, user_control};
use crate::message_type;
use serde::{Deserialize, Serialize};

/// One accepted connection: handshake, `connect`, `createStream`, `publish` or `play`. Plain data.
///
/// ```text
/// Handshake ──C2──▶ AwaitConnect ──connect──▶ Connected
///
/// each message stream of a connection, up to MAX_ACTIVE of them beside Idle:
///
/// Idle ──publish──▶ PublishAsked ──accept──▶ Publishing ──publish(false), FCUnpublish, deleteStream, closeStream──▶ Idle
/// Idle ──play─────▶ PlayAsked ─────accept──▶ Playing ─────play(false), deleteStream, closeStream─────────────────▶ Idle
///                   *Asked ────────reject──▶ Idle
/// any  ──publish, play──▶ *Asked: what it did until then is over
/// ```
///
/// Commands that do not fit the state are ignored, or refused on their message stream; the others go on. Media is an event
/// where its stream is Publishing, and dropped else.
///
/// It can be put in a [record](crate::record), also while it waits for an answer to a publish or play; what of a play is still to
/// come then is in it.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    link: Link,
    state: State,
    s1: Option<Box<[u8]>>,
    chunk_size: u32,
    streams: Streams,
    pending: Pending,
    /// FCPublish came: its sender expects onFCPublish.
    fc_publish: bool,
}

#[derive(Debug, Serialize, Deserialize)]
enum State {
    Handshake(ServerHandshake),
    AwaitConnect,
    Connected { app: Box<str> },
}

impl Session {
    /// A connection of which no byte was read yet. A chunk size of 0 counts as 1.
    pub fn new(config: Config) -> Self {
        Self {
            link: Link::new(config.limits),
            state: State::Handshake(ServerHandshake::default()),
            s1: None,
            chunk_size: config.chunk_size.clamp(1, i32::MAX as u32),
            streams: Streams::default(),
            pending: Pending::default(),
            fc_publish: false,
        }
    }

    /// Consumes from the front of `input`; returns at the first event, leaving the rest in `input`, or `None` when it is
    /// used up: call until `None`. Replies are appended to the output.
    pub fn handle_input(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Error> {
        self.link.output.shrink();
        if let Some(event) = self.pending.pop() {
            return Ok(Some(event));
        }
        loop {
            let message = match self.state {
                State::Handshake(_) => {
                    if !self.shake_hands(input)? {
                        return Ok(None);
                    }
                    continue;
                }
                State::AwaitConnect => self.read_before_connect(input)?,
                State::Connected { .. } => self.link.read(input)?,
            };
            if self.link.output.bytes.len() > MAX_OUTPUT {
                return Err(Error::TooMuchOutput);
            }
            let Some(message) = message else { return Ok(None) };
            if let Some(event) = self.handle_message(message)? {
                return Ok(Some(event));
            }
        }
    }

    /// Bytes to be sent, in order; the caller drains it. They are whole messages, so other whole messages may stand
    /// before and behind them.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.link.output.bytes
    }

    /// Takes why a message of the client was left out since the last call: it was too long. See
    /// [`chunk::Reader::take_left_out`](crate::chunk::Reader::take_left_out).
    pub fn take_left_out(&mut self) -> Option<ReadError> {
        self.link.take_left_out()
    }

    /// S1 of the handshake, the nonce of [`crate::auth`]; from the end of the handshake until the first publish or play is
    /// answered.
    pub fn s1(&self) -> Option<&[u8]> {
        self.s1.as_deref()
    }

    /// Outbound chunk size, bytes, in force once the session is connected.
    pub fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Bytes consumed, handshake included.
    pub fn bytes_received(&self) -> u64 {
        self.link.received()
    }

    /// Whether `connect` was answered.
    pub fn is_connected(&self) -> bool {
        matches!(self.state, State::Connected { .. })
    }

    /// Whether a message of audio or video is under way: its first bytes have come, and not yet its last.
    pub fn is_receiving_media(&self) -> bool {
        self.link.is_receiving_media()
    }

    /// Answers [`Event::Publish`]; without one it does nothing.
    pub fn accept_publish(&mut self) {
        if let Some(asked) = self.streams.asked()
            && asked.activity == Activity::PublishAsked
        {
            asked.activity = Activity::Publishing;
            let msid = asked.msid;
            self.streams.note_published(msid);
            self.s1 = None;
            reply::publish_started(&mut self.link.output, msid, std::mem::take(&mut self.fc_publish));
        }
    }

    /// Answers [`Event::Publish`] with an `onStatus` of level error, as `NetStream.Publish.BadName`. The connection may go on.
    pub fn reject_publish(&mut self, code: &str, description: &str) {
        if let Some(asked) = self.streams.asked()
            && asked.activity == Activity::PublishAsked
        {
            self.reject(code, description);
        }
    }

    /// Answers [`Event::Play`]; without one it does nothing. Media for the player may follow in the output.
    pub fn accept_play(&mut self) {
        if let Some(asked) = self.streams.asked()
            && let Activity::PlayAsked { resets } = asked.activity
        {
            asked.activity = Activity::Playing;
            let msid = asked.msid;
            self.s1 = None;
            reply::play_started(&mut self.link.output, msid, resets);
        }
    }

    /// Answers [`Event::Play`] with an `onStatus` of level error, as `NetStream.Play.StreamNotFound`. The connection may go
    /// on.
    pub fn reject_play(&mut self, code: &str, description: &str) {
        if let Some(asked) = self.streams.asked()
            && matches!(asked.activity, Activity::PlayAsked { .. })
        {
            self.reject(code, description);
        }
    }

    fn reject(&mut self, code: &str, description: &str) {
        let Some(msid) = self.streams.asked().map(|asked| asked.msid) else { return };
        self.streams.stop(msid);
        self.s1 = None;
        reply::on_status(&mut self.link.output, msid, "error", code, description);
    }

    /// Ends what is published on `msid`, and says why; the others go on.
    pub fn end_publish(&mut self, msid: u32, why: PublishEnd) {
        if self.streams.find(msid) == Some(Activity::Publishing) {
            self.streams.stop(msid);
            reply::publish_ended(&mut self.link.output, msid, why);
        }
    }

    /// Tells the player on `msid` that nothing more comes, and why.
    pub fn end_play(&mut self, msid: u32, why: PlayEnd) {
        if self.streams.find(msid) == Some(Activity::Playing) {
            self.streams.stop(msid);
            reply::play_ended(&mut self.link.output, msid, why);
        }
    }

    /// Asks for an [`Event::Pong`] with the same value. Nothing is sent before `connect`.
    pub fn ping(&mut self, timestamp: u32) {
        if self.is_connected() {
            self.link.output.user_control(user_control::PING, timestamp);
        }
    }

    /// Bytes on the heap.
    #[must_use]
    pub fn held(&self) -> usize {
        let state = match &self.state {
            State::Handshake(progress) => progress.held(),
            State::AwaitConnect => 0,
            State::Connected { app } => app.len(),
        };
        state + self.streams.held() + self.s1.as_ref().map_or(0, |s1| s1.len()) + self.link.held()
    }

    /// `true` when the handshake is complete.
    fn shake_hands(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        let State::Handshake(progress) = &mut self.state else { return Ok(true) };
        let before = input.len();
        let s1 = progress.read(input, &mut self.link.output.bytes)?;
        self.link.count(before - input.len());
        let is_complete = s1.is_some();
        if is_complete {
            self.s1 = s1;
            self.state = State::AwaitConnect;
        }
        Ok(is_complete)
    }

    fn read_before_connect(&mut self, input: &mut &[u8]) -> Result<Option<Message>, Error> {
        let left = MAX_BEFORE_CONNECT.saturating_sub(self.link.received());
        let offered = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        let (mut front, rest) = input.split_at(offered);
        let message = self.link.read(&mut front)?;
        *input = if front.is_empty() { rest } else { input.get(offered - front.len()..).unwrap_or_default() };
        if message.is_none() && self.link.received() >= MAX_BEFORE_CONNECT {
            return Err(Error::NoConnect);
        }
        Ok(message)
    }

    fn handle_message(&mut self, message: Message) -> Result<Option<Event>, Error> {
        match message.type_id {
            message_type::COMMAND | message_type::COMMAND_AMF3 => match Command::read(&message) {
                Some(command) => self.handle_command(message.msid, &command),
                None => Ok(None),
            },
            message_type::AUDIO
            | message_type::VIDEO
            | message_type::DATA
            | message_type::DATA_AMF3
            | message_type::AGGREGATE => Ok(self
                .streams
                .publishing(message.msid)
                .map(|msid| Event::Media(Message { msid, ..link::without_amf3(message) }))),
            message_type::USER_CONTROL => Ok(match link::user_control(&message) {
                Some((user_control::PONG, timestamp)) => Some(Event::Pong { timestamp }),
                _ => None,
            }),
            _ => Ok(None),
        }
    }
}
