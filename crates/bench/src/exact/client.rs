//! A player that checks what it gets: its commands, the answers that it awaits, and its stream.

use std::collections::VecDeque;
use std::time::Duration;

use rtmp::amf0::{self, Value};
use rtmp::chunk::{self, Limits, Message, Reader};
use rtmp::message_type::{
    ACK, AUDIO, COMMAND, DATA, SET_CHUNK_SIZE, SET_PEER_BANDWIDTH, USER_CONTROL, VIDEO, WINDOW_ACK_SIZE,
};
use rtmp::wire::csid;

use super::check::{Check, Gets};
use super::random::Random;

/// C1, S1 and S2 (RTMP 1.0, section 5.2), bytes.
const PART: usize = 1536;
/// User control events (RTMP 1.0, section 7.1.7).
const PING: [u8; 2] = [0, 6];
const PONG: [u8; 2] = [0, 7];
/// The message stream that the first `createStream` makes.
const MSID: u32 = 1;
/// Bytes that are read at most before they are acknowledged.
const ACKNOWLEDGED: u64 = 60_000;
/// A chunk size that a player sets beside the usual 128.
const CHUNK_SIZE: u32 = 4_096;

/// What a player does beside watching.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Habit {
    /// Nothing.
    Watches,
    /// Leaves and comes again.
    Comes,
    /// Reads slowly, with a small receive buffer.
    Reads,
    /// Pauses and goes on.
    Pauses,
    /// Hears only.
    Hears,
    /// Pings, acknowledges, sets its chunk size and asks in chunks of it, in parts.
    Talks,
}

impl Habit {
    /// That of player `index`, of any twenty the same.
    pub(super) fn of(index: u32) -> Self {
        match index % 20 {
            1 | 8 => Self::Comes,
            3 => Self::Reads,
            6 => Self::Pauses,
            11 => Self::Hears,
            13 | 18 => Self::Talks,
            _ => Self::Watches,
        }
    }

    /// Whether it hears of all frames as soon as they are there.
    pub(super) fn is_prompt(self) -> bool {
        matches!(self, Self::Watches | Self::Talks | Self::Hears)
    }

    /// When it does something next.
    pub(super) fn pause(self, random: &mut Random) -> Option<Duration> {
        let ms =
            |from: u64, to: u64, random: &mut Random| Duration::from_millis(from + random.below(to - from));
        match self {
            Self::Watches | Self::Hears => None,
            Self::Comes => Some(ms(300, 6_000, random)),
            Self::Reads => Some(ms(150, 350, random)),
            Self::Pauses => Some(ms(500, 3_000, random)),
            Self::Talks => Some(ms(50, 700, random)),
        }
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Player {
    pub(super) habit: Habit,
    app: &'static str,
    stream: String,
    address: String,
    /// Bytes of S0, S1 and S2 that have come.
    handshake: Vec<u8>,
    reader: Option<Reader>,
    pub(super) check: Check,
    /// Answers that are to come, in this order.
    expected: VecDeque<String>,
    /// So many have come.
    answers: u64,
    is_paused: bool,
    wants_pause: bool,
    transaction: u32,
    chunk_size: u32,
    received: u64,
    acknowledged: u64,
}

impl Player {
    pub(super) fn new(habit: Habit, address: &str, stream: &str) -> Self {
        let gets = match habit {
            Habit::Hears => Gets::Audio,
            Habit::Reads => Gets::Skips,
            Habit::Pauses => Gets::Again,
            Habit::Watches | Habit::Comes | Habit::Talks => Gets::All,
        };
        Self {
            habit,
            app: "live",
            stream: stream.to_owned(),
            address: address.to_owned(),
            handshake: Vec::new(),
            reader: None,
            check: Check::new(gets),
            expected: VecDeque::new(),
            answers: 0,
            is_paused: false,
            wants_pause: false,
            transaction: 100,
            chunk_size: chunk::DEFAULT_CHUNK_SIZE,
            received: 0,
            acknowledged: 0,
        }
    }

    /// TCP is connected.
    pub(super) fn handle_connected(&mut self, output: &mut Vec<u8>) {
        output.push(3);
        output.resize(output.len() + PART, 0);
    }

    /// Whether its play was accepted and all that it has asked is answered.
    pub(super) fn is_content(&self) -> bool {
        self.reader.is_some() && self.expected.is_empty() && self.check.frames() > 0
    }

    /// How far it has come: more, whenever something came that was awaited.
    pub(super) fn progress(&self) -> u64 {
        self.answers + u64::from(self.check.frames() > 0)
    }

    /// Whether it is to get media now.
    pub(super) fn is_watching(&self) -> bool {
        self.check.frames() > 0 && !self.is_paused && !self.wants_pause
    }

    /// What it still waits for.
    pub(super) fn missing(&self) -> String {
        match self.expected.front() {
            Some(answer) => format!("{answer} has not come"),
            None if self.reader.is_none() => {
                format!("{} bytes of the handshake have come", self.handshake.len())
            }
            None => "no frame has come".to_owned(),
        }
    }

    /// Bytes of the server; whether there were media.
    pub(super) fn handle_input(&mut self, mut input: &[u8], output: &mut Vec<u8>) -> Result<bool, String> {
        self.received += input.len() as u64;
        if self.reader.is_none() {
            let (front, rest) = input.split_at(input.len().min(1 + 2 * PART - self.handshake.len()));
            self.handshake.extend_from_slice(front);
            input = rest;
            if self.handshake.len() < 1 + 2 * PART {
                return Ok(false);
            }
            let handshake = std::mem::take(&mut self.handshake);
            if handshake.first() != Some(&3)
                || handshake.get(1 + PART + 8..).is_none_or(|s2| s2.iter().any(|b| *b != 0))
            {
                return Err("S2 is not what C1 was".to_owned());
            }
            output.extend_from_slice(handshake.get(1..=PART).unwrap_or_default());
            self.reader = Some(Reader::new(Limits::default()));
            self.ask_for_stream(output);
        }
        let Some(mut reader) = self.reader.take() else { return Ok(false) };
        let mut has_media = false;
        loop {
            match reader.read(&mut input) {
                Ok(Some(message)) => has_media |= self.handle_message(&message, output)?,
                Ok(None) => break,
                Err(error) => return Err(format!("broken RTMP: {error}")),
            }
        }
        self.reader = Some(reader);
        if self.received - self.acknowledged > ACKNOWLEDGED && self.habit == Habit::Talks {
            self.acknowledged = self.received;
            self.control(output, ACK, &(self.received as u32).to_be_bytes());
        }
        Ok(has_media)
    }

    fn handle_message(&mut self, message: &Message, output: &mut Vec<u8>) -> Result<bool, String> {
        match message.type_id {
            AUDIO | VIDEO | DATA => {
                if self.is_paused {
                    return Err("media while it is paused".to_owned());
                }
                if message.msid != MSID {
                    return Err(format!("media on message stream {}", message.msid));
                }
                self.check.handle_media(message).map_err(|wrong| wrong.to_string())?;
                return Ok(message.type_id != DATA);
            }
            COMMAND => {
                let (values, _) = amf0::read_prefix(&message.payload);
                let name = values.first().and_then(Value::as_str).unwrap_or("?");
                let code = values.iter().find_map(|value| value.field("code")).and_then(Value::as_str);
                let transaction = values.get(1).and_then(Value::as_number).unwrap_or(-1.0);
                match code.filter(|_| name == "onStatus") {
                    Some(code) => self.take_answer(code)?,
                    None => self.take_answer(&format!("{name} {transaction}"))?,
                }
                match code {
                    Some("NetStream.Pause.Notify") => self.is_paused = true,
                    Some("NetStream.Unpause.Notify") => {
                        self.is_paused = false;
                        self.check.handle_resumed();
                    }
                    _ => {}
                }
            }
            USER_CONTROL => match message.payload.split_first_chunk() {
                Some((&PING, value)) => self.control(output, USER_CONTROL, &[&PONG, value].concat()),
                Some((&PONG, value)) => {
                    let value = value.first_chunk().map_or(0, |value| u32::from_be_bytes(*value));
                    self.take_answer(&format!("pong {value}"))?;
                }
                _ => {}
            },
            ACK | WINDOW_ACK_SIZE | SET_PEER_BANDWIDTH => {}
            other => return Err(format!("a message of type {other}, {} bytes", message.payload.len())),
        }
        Ok(false)
    }

    fn take_answer(&mut self, answer: &str) -> Result<(), String> {
        match self.expected.pop_front() {
            Some(expected) if expected == answer => {
                self.answers += 1;
                Ok(())
            }
            Some(expected) => Err(format!("{answer} came for {expected}")),
            None => Err(format!("{answer} came, and nothing was asked")),
        }
    }

    fn ask_for_stream(&mut self, output: &mut Vec<u8>) {
        let url = format!("rtmp://{}/{}", self.address, self.app);
        let connect = Value::Object(vec![
            ("app".to_owned(), self.app.into()),
            ("tcUrl".to_owned(), url.as_str().into()),
            ("flashVer".to_owned(), "LNX 9,0,124,2".into()),
        ]);
        self.command(output, 0, "connect", 1, &[connect]);
        self.command(output, 0, "createStream", 2, &[Value::Null]);
        if self.habit == Habit::Hears {
            self.command(output, MSID, "receiveVideo", 0, &[Value::Null, false.into()]);
        }
        let stream = self.stream.as_str().into();
        self.command(output, MSID, "play", 3, &[Value::Null, stream]);
        self.expect(&[
            "_result 1",
            "onBWDone 0",
            "_result 2",
            "NetStream.Play.Reset",
            "NetStream.Play.Start",
        ]);
    }

    fn expect(&mut self, answers: &[&str]) {
        self.expected.extend(answers.iter().map(|answer| (*answer).to_owned()));
    }

    /// Its time has come: does what it does; whether it goes.
    pub(super) fn act(&mut self, random: &mut Random, output: &mut Vec<u8>) -> bool {
        if self.check.frames() == 0 {
            return false;
        }
        match self.habit {
            Habit::Watches | Habit::Hears | Habit::Reads => {}
            Habit::Comes => return self.expected.is_empty(),
            Habit::Pauses => {
                if self.expected.is_empty() {
                    self.wants_pause = !self.wants_pause;
                    let on = self.wants_pause;
                    self.command(output, MSID, "pause", 0, &[Value::Null, on.into(), 0.0.into()]);
                    let answer = if on { "NetStream.Pause.Notify" } else { "NetStream.Unpause.Notify" };
                    self.expect(&[answer]);
                }
            }
            Habit::Talks => {
                self.transaction += 1;
                match random.below(4) {
                    0 => {
                        let value = self.transaction;
                        self.control(output, USER_CONTROL, &[&PING[..], &value.to_be_bytes()].concat());
                        self.expect(&[&format!("pong {value}")]);
                    }
                    1 => {
                        let size = if self.chunk_size == CHUNK_SIZE {
                            chunk::DEFAULT_CHUNK_SIZE
                        } else {
                            CHUNK_SIZE
                        };
                        self.control(output, SET_CHUNK_SIZE, &size.to_be_bytes());
                        self.chunk_size = size;
                    }
                    _ => {
                        // Of several chunks of 128 bytes.
                        let name = "n".repeat(random.below(2_000) as usize);
                        let values = [Value::Null, name.as_str().into()];
                        self.command(output, 0, "getStreamLength", self.transaction, &values);
                        self.expect(&[&format!("_result {}", self.transaction)]);
                    }
                }
            }
        }
        false
    }

    fn command(&self, output: &mut Vec<u8>, msid: u32, name: &str, transaction: u32, values: &[Value]) {
        let mut payload = Vec::new();
        amf0::write(&mut payload, &name.into());
        amf0::write(&mut payload, &f64::from(transaction).into());
        values.iter().for_each(|value| amf0::write(&mut payload, value));
        chunk::put_full(output, self.chunk_size, csid::COMMAND, 0, COMMAND, msid, &payload);
    }

    fn control(&self, output: &mut Vec<u8>, type_id: u8, payload: &[u8]) {
        chunk::put_full(output, self.chunk_size, csid::CONTROL, 0, type_id, 0, payload);
    }
}
