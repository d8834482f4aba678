//! The state machine of a connection that we open: handshake, commands, then media.

mod record;

use super::{Config, Error, Event, MAX_OUTPUT, Mode, Stage};
use crate::amf0::Value;
use crate::auth::{self, Claim};
use crate::chunk::Message;
use crate::handshake::ClientHandshake;
use crate::link::{self, Command, Link, user_control};
use crate::message_type;
use serde::{Deserialize, Serialize};

/// Transaction ids; each command is sent once.
mod transaction {
    pub(super) const CONNECT: f64 = 1.0;
    pub(super) const RELEASE_STREAM: f64 = 2.0;
    pub(super) const FC_PUBLISH: f64 = 3.0;
    pub(super) const CREATE_STREAM: f64 = 4.0;
    pub(super) const START: f64 = 5.0;
    pub(super) const FC_UNPUBLISH: f64 = 6.0;
    pub(super) const DELETE_STREAM: f64 = 7.0;
}

/// How much a player asks the server to send ahead, ms. Live servers send what they have.
const BUFFER_LENGTH: u32 = 3000;

/// `start` of a play command: live, else recorded (RTMP 1.0, section 7.2.2.1).
const LIVE_OR_RECORDED: f64 = -2.0;

/// Columns that each of a server's words may take, where it is shown.
const MAX_TEXT: usize = 80;

/// One outgoing connection: handshake, `connect`, `createStream`, `publish` or `play`. Plain data.
///
/// ```text
/// Handshake ──S2──▶ Connecting ──_result──▶ Creating ──_result──▶ Starting ──onStatus──▶ Active
///                           ▲                                        └───────finish()──────┴──▶ Finished
///                           └──────────────────────────restart()─────────────────────────────────┘
/// ```
///
/// `_error` and an `onStatus` of level error end the connection in every state; answers nobody waits for are ignored.
///
/// Behind its handshake it can be put in a [record](crate::record); to serialise it before is an error. What it was asked for, the
/// cluster's secret for one, is not in the record.
#[derive(Debug, Serialize, Deserialize)]
pub struct Session {
    link: Link,
    #[serde(skip, default = "record::no_config")]
    config: Config,
    state: State,
}

#[derive(Debug, Serialize, Deserialize)]
enum State {
    Connecting,
    Creating,
    Starting {
        msid: u32,
    },
    Active {
        msid: u32,
    },
    Finished,
    /// The last, so that the others have the numbers in a record that they are read by.
    #[serde(skip)]
    Handshake(Box<ClientHandshake>),
}

impl Session {
    /// A connection that begins with C0 and C1, in the output at once. A chunk size or window of 0 counts as 1.
    pub fn new(mut config: Config) -> Result<Self, Error> {
        config.chunk_size = config.chunk_size.clamp(1, i32::MAX as u32);
        let mut link = Link::new(config.limits);
        let progress = ClientHandshake::new(&mut link.output.bytes)?;
        Ok(Self { link, config, state: State::Handshake(Box::new(progress)) })
    }

    /// Consumes from the front of `input`; returns at the first event, leaving the rest in `input`, or `None` when it is
    /// used up: call until `None`. What is to be sent is appended to the output.
    pub fn handle_input(&mut self, input: &mut &[u8]) -> Result<Option<Event>, Error> {
        self.link.output.shrink();
        loop {
            if !self.shake_hands(input)? {
                return Ok(None);
            }
            let message = self.link.read(input)?;
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

    /// The message stream the server made; 0 before.
    pub fn msid(&self) -> u32 {
        match self.state {
            State::Starting { msid } | State::Active { msid } => msid,
            State::Handshake(_) | State::Connecting | State::Creating | State::Finished => 0,
        }
    }

    /// Outbound chunk size, bytes, in force once the session is connected.
    pub fn chunk_size(&self) -> u32 {
        self.config.chunk_size
    }

    /// What it waits for.
    pub fn stage(&self) -> Stage {
        match self.state {
            State::Handshake(_) => Stage::Handshake,
            State::Connecting => Stage::Connect,
            State::Creating => Stage::CreateStream,
            State::Starting { .. } => Stage::Start(self.config.mode),
            State::Active { .. } => Stage::Active,
            State::Finished => Stage::Finished,
        }
    }

    /// Asks for an [`Event::Pong`] with the same value. Nothing is sent during the handshake.
    pub fn ping(&mut self, timestamp: u32) {
        if !matches!(self.state, State::Handshake(_)) {
            self.link.output.user_control(user_control::PING, timestamp);
        }
    }

    /// Gives the stream back: FCUnpublish and deleteStream. When the output is flushed, the caller closes the connection or
    /// [restarts](Self::restart).
    pub fn finish(&mut self) {
        if let State::Starting { msid } | State::Active { msid } = self.state {
            let output = &mut self.link.output;
            if self.config.mode == Mode::Publish {
                let name = self.config.url.stream.as_str().into();
                output.command(0, "FCUnpublish", transaction::FC_UNPUBLISH, &[Value::Null, name]);
            }
            let id = f64::from(msid).into();
            output.command(0, "deleteStream", transaction::DELETE_STREAM, &[Value::Null, id]);
            self.state = State::Finished;
        }
    }

    /// Publishes or plays the same stream once more on the connection, after [`finish`](Self::finish): [`Event::Started`] says when.
    pub fn restart(&mut self) {
        if let State::Finished = self.state {
            self.create_stream();
            self.state = State::Creating;
        }
    }

    /// `true` when the handshake is complete; at that moment `connect` is sent.
    fn shake_hands(&mut self, input: &mut &[u8]) -> Result<bool, Error> {
        let State::Handshake(progress) = &mut self.state else { return Ok(true) };
        let before = input.len();
        let s1 = progress.read(input, &mut self.link.output.bytes)?;
        self.link.count(before - input.len());
        if let Some(s1) = &s1 {
            self.state = State::Connecting;
            self.send_connect(s1);
        }
        Ok(s1.is_some())
    }

    fn send_connect(&mut self, s1: &[u8]) {
        let Config { url, mode, auth, .. } = &self.config;
        let mut fields: Vec<(&str, Value)> = vec![("app", url.app.as_str().into())];
        match mode {
            Mode::Publish => fields.extend([
                ("type", "nonprivate".into()),
                ("flashVer", "FMLE/3.0 (compatible; srsctl)".into()),
                ("tcUrl", url.tc_url().as_str().into()),
            ]),
            Mode::Play => fields.extend([
                ("flashVer", "LNX 9,0,124,2".into()),
                ("tcUrl", url.tc_url().as_str().into()),
                ("fpad", false.into()),
                ("capabilities", 15.0.into()),
                ("audioCodecs", 4071.0.into()),
                ("videoCodecs", 252.0.into()),
                ("videoFunction", 1.0.into()),
            ]),
        }
        if let Some(Claim { secret, target, clock }) = auth {
            let tag = auth::tag(secret, s1, target);
            fields.extend([
                ("srsctlTarget", target.as_str().into()),
                ("srsctlTag", tag.as_str().into()),
                ("srsctlClock", clock.as_str().into()),
            ]);
        }
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        self.link.output.command(0, "connect", transaction::CONNECT, &[Value::Object(fields)]);
    }

    fn handle_message(&mut self, message: Message) -> Result<Option<Event>, Error> {
        match message.type_id {
            message_type::COMMAND | message_type::COMMAND_AMF3 => match Command::read(&message) {
                Some(command) => self.handle_command(&command),
                None => Ok(None),
            },
            message_type::AUDIO
            | message_type::VIDEO
            | message_type::DATA
            | message_type::DATA_AMF3
            | message_type::AGGREGATE => {
                let playing = self.config.mode == Mode::Play
                    && matches!(self.state, State::Starting { .. } | State::Active { .. });
                Ok(playing.then(|| Event::Media(link::without_amf3(message))))
            }
            message_type::ACK => {
                let sequence = message.payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
                Ok(sequence.map(|sequence| Event::Ack { sequence }))
            }
            message_type::USER_CONTROL => Ok(match link::user_control(&message) {
                Some((user_control::PONG, timestamp)) => Some(Event::Pong { timestamp }),
                _ => None,
            }),
            _ => Ok(None),
        }
    }

    fn handle_command(&mut self, command: &Command) -> Result<Option<Event>, Error> {
        match (&*command.name, &self.state) {
            // Nothing else was asked yet, whatever id the answer carries.
            ("_result", State::Connecting) => {
                self.begin();
                self.state = State::Creating;
                Ok(Some(Event::Connected))
            }
            ("_result", State::Creating) if command.transaction == transaction::CREATE_STREAM => {
                let id = command.value(1).and_then(Value::as_number).map(|id| id as u32);
                let msid = id.filter(|&id| id > 0).ok_or(Error::NoStreamId)?;
                self.send_start(msid);
                self.state = State::Starting { msid };
                Ok(None)
            }
            // Servers that do not know these two say so; it does not matter.
            ("_error", _)
                if [transaction::RELEASE_STREAM, transaction::FC_PUBLISH, transaction::FC_UNPUBLISH]
                    .contains(&command.transaction) =>
            {
                Ok(None)
            }
            ("_error", _) => Err(rejected(&Status::read(command))),
            ("onStatus", state) => {
                let status = Status::read(command);
                if status.level == "error" {
                    return Err(rejected(&status));
                }
                let start = match self.config.mode {
                    Mode::Publish => "NetStream.Publish.Start",
                    Mode::Play => "NetStream.Play.Start",
                };
                if let &State::Starting { msid } = state
                    && status.code == start
                {
                    self.state = State::Active { msid };
                    return Ok(Some(Event::Started));
                }
                let Status { level, code, description, .. } = status;
                Ok(Some(Event::Status { level, code, description }))
            }
            _ => Ok(None),
        }
    }

    /// The chunk size only now: some servers refuse it before `connect`.
    fn begin(&mut self) {
        let output = &mut self.link.output;
        output.set_chunk_size(self.config.chunk_size);
        output.control(message_type::WINDOW_ACK_SIZE, &self.config.window_ack.max(1).to_be_bytes());
        self.create_stream();
    }

    fn create_stream(&mut self) {
        let output = &mut self.link.output;
        if self.config.mode == Mode::Publish {
            let name = || [Value::Null, self.config.url.stream.as_str().into()];
            output.command(0, "releaseStream", transaction::RELEASE_STREAM, &name());
            output.command(0, "FCPublish", transaction::FC_PUBLISH, &name());
        }
        output.command(0, "createStream", transaction::CREATE_STREAM, &[Value::Null]);
    }

    fn send_start(&mut self, msid: u32) {
        let output = &mut self.link.output;
        let name = self.config.url.stream.as_str().into();
        match self.config.mode {
            Mode::Publish => {
                output.command(msid, "publish", transaction::START, &[Value::Null, name, "live".into()]);
            }
            Mode::Play => {
                output.command(
                    msid,
                    "play",
                    transaction::START,
                    &[Value::Null, name, LIVE_OR_RECORDED.into()],
                );
                let [e1, e0] = user_control::SET_BUFFER_LENGTH.to_be_bytes();
                let [a, b, c, d] = msid.to_be_bytes();
                let [w, x, y, z] = BUFFER_LENGTH.to_be_bytes();
                output.control(message_type::USER_CONTROL, &[e1, e0, a, b, c, d, w, x, y, z]);
            }
        }
    }
}

/// The information object of `_error` and `onStatus`, fit to be shown.
struct Status {
    level: String,
    code: String,
    description: String,
    redirect: Option<String>,
}

impl Status {
    fn read(command: &Command) -> Self {
        let info = command
            .values
            .iter()
            .find(|value| value.field("code").is_some() || value.field("level").is_some());
        let text = |name| info.and_then(|info| info.field(name)).and_then(Value::as_str).map(shown);
        let extra = info.and_then(|info| info.field("ex"));
        let redirect = ["redirect2", "redirect"]
            .iter()
            .find_map(|name| extra.and_then(|extra| extra.field(name)).and_then(Value::as_str));
        Self {
            level: text("level").unwrap_or_default(),
            code: text("code").unwrap_or_default(),
            description: text("description").unwrap_or_default(),
            redirect: redirect.map(shown),
        }
    }
}

fn rejected(status: &Status) -> Error {
    let description = match &status.redirect {
        Some(to) => format!("redirected to {to}"),
        None => status.description.clone(),
    };
    Error::Rejected { code: status.code.clone(), description }
}

/// The peer chose this text, and a terminal will show it.
fn shown(words: &str) -> String {
    text::fit(words, MAX_TEXT)
}
