//! A player: a real RTMP client until its play is accepted, from then on a [`Scanner`].

use std::time::{Duration, Instant};

use rtmp::amf0::{self, Value};
use rtmp::client::{Config, Event, Mode, Session};
use rtmp::media::{Kind, classify};
use rtmp::url::Url;
use rtmp::wire::{WINDOW, csid};
use rtmp::{chunk, message_type};

use crate::engine::{Client, Now, micros};
use crate::load::{Load, Target};
use crate::pieces::Pieces;
use crate::report::Tally;
use crate::scan::{Scanned, Scanner};
use crate::stamp;

/// S0, S1 and S2 (RTMP 1.0, section 5.2), bytes.
const HANDSHAKE: usize = 1 + 2 * 1536;
/// Without media for this long a player counts as stalled.
const STALL: Duration = Duration::from_secs(3);
/// Media of this long after the first is the burst of a GOP cache and tells nothing about the rate.
const BURST: Duration = Duration::from_secs(1);
/// User control events (RTMP 1.0, section 7.1.7).
const PING: [u8; 2] = [0, 6];
const PONG: [u8; 2] = [0, 7];

/// One player.
pub(crate) struct Player {
    /// Until play is accepted.
    session: Option<Box<Session>>,
    /// Until then, if it is to be an ordinary client.
    pieces: Option<Box<Pieces>>,
    /// Bytes of the handshake still to pass over.
    handshake: usize,
    scanner: Scanner,
    begun: Now,
    /// CLOCK_REALTIME of the acceptance, microseconds.
    accepted: u64,
    meter: Meter,
    has_keyframe: bool,
    last_media: Option<Instant>,
    is_stalled: bool,
    /// Time of the last frame of audio and of video.
    times: [Option<u32>; 2],
    received: u64,
    acknowledged: u64,
    window: u32,
}

/// Rate behind the first burst.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    /// When bytes were first due: a client that gets none has a rate, 0.
    first: Option<Instant>,
    /// When the burst was over, and bytes until then.
    base: Option<(Instant, u64)>,
    bytes: u64,
}

impl Meter {
    pub(crate) fn start(&mut self, now: Instant) {
        self.first.get_or_insert(now);
    }

    pub(crate) fn add(&mut self, bytes: usize, now: Instant) {
        let first = *self.first.get_or_insert(now);
        self.bytes += bytes as u64;
        if self.base.is_none() && now.duration_since(first) >= BURST {
            self.base = Some((now, self.bytes));
        }
    }

    /// Bits per second, when there was 1 s to measure.
    pub(crate) fn rate(&self, now: Instant) -> Option<u64> {
        let (since, before) = self.base.unwrap_or((self.first? + BURST, self.bytes));
        let elapsed = now.duration_since(since);
        (elapsed >= Duration::from_secs(1))
            .then(|| ((self.bytes - before) as f64 * 8.0 / elapsed.as_secs_f64()) as u64)
    }
}

impl Player {
    pub(crate) fn new(
        load: &Load,
        target: &Target,
        index: u32,
        now: Now,
    ) -> Result<Self, rtmp::client::Error> {
        let session = Session::new(config(Mode::Play, load, target, index))?;
        Ok(Self {
            session: Some(Box::new(session)),
            pieces: load.nagle.then(|| Box::new(Pieces::new())),
            handshake: HANDSHAKE,
            scanner: Scanner::default(),
            begun: now,
            accepted: 0,
            meter: Meter::default(),
            has_keyframe: false,
            last_media: None,
            is_stalled: false,
            times: [None; 2],
            received: 0,
            acknowledged: 0,
            window: WINDOW,
        })
    }

    fn scan(
        &mut self,
        mut input: &[u8],
        now: Now,
        tally: &mut Tally,
        output: &mut Vec<u8>,
    ) -> Result<(), String> {
        // Taken out so that a message may borrow it while the rest of the player changes.
        let mut scanner = std::mem::take(&mut self.scanner);
        while let Some(message) = scanner.next(&mut input).map_err(|e| e.to_string())? {
            match message.type_id {
                message_type::AUDIO | message_type::VIDEO | message_type::AGGREGATE => {
                    self.handle_media(&message, now, tally);
                }
                message_type::COMMAND | message_type::COMMAND_AMF3 => refusal(message.head)?,
                message_type::USER_CONTROL => {
                    if let Some((&PING, value)) = message.head.split_first_chunk()
                        && self.session.is_none()
                    {
                        put_control(output, message_type::USER_CONTROL, &[&PONG, value].concat());
                    }
                }
                message_type::WINDOW_ACK_SIZE => {
                    let window = message.head.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
                    self.window = window.filter(|&window| window > 0).unwrap_or(self.window);
                }
                _ => {}
            }
        }
        self.scanner = scanner;
        Ok(())
    }

    fn handle_media(&mut self, message: &Scanned<'_>, now: Now, tally: &mut Tally) {
        self.last_media = Some(now.mono);
        self.is_stalled = false;
        let (type_id, head) = match (message.type_id, message.head) {
            // Of an aggregate the first part is looked at: an FLV tag, whose body stands behind 11 bytes.
            (message_type::AGGREGATE, [type_id, _, _, _, _, _, _, _, _, _, _, head @ ..]) => (*type_id, head),
            whole => whole,
        };
        let kind = classify(type_id, head).kind;
        let lane = match kind {
            Kind::Keyframe | Kind::Video => 1,
            Kind::Audio => 0,
            // Headers may carry any time.
            _ => return,
        };
        if let Some(last) = self.times.get_mut(lane) {
            let backwards = last.is_some_and(|last| (message.timestamp.wrapping_sub(last) as i32) < 0);
            tally.backwards += u64::from(backwards);
            *last = Some(message.timestamp);
        }
        if kind == Kind::Keyframe && !self.has_keyframe {
            self.has_keyframe = true;
            tally.first_keyframe.record(micros(now.mono.duration_since(self.begun.mono)));
        }
        // Older frames come out of the GOP cache, or were delayed by the rush of the ramp itself.
        if lane == 1
            && let Some(sent) = stamp::find(head)
            && now.all_begun.is_some_and(|all_begun| sent >= all_begun.max(self.accepted))
        {
            tally.latency.record(now.wall.saturating_sub(sent));
        }
    }

    /// Total received modulo 2^32, twice per window (RTMP 1.0, section 5.4.3); before, the session does it.
    fn acknowledge(&mut self, output: &mut Vec<u8>) {
        if self.received - self.acknowledged >= u64::from(self.window / 2).max(1) {
            self.acknowledged = self.received;
            if self.session.is_none() {
                put_control(output, message_type::ACK, &(self.received as u32).to_be_bytes());
            }
        }
    }
}

impl Client for Player {
    fn handle_connected(&mut self, output: &mut Vec<u8>) {
        if let Some(session) = &mut self.session {
            output.append(session.output());
        }
    }

    fn handle_input(
        &mut self,
        input: &[u8],
        now: Now,
        tally: &mut Tally,
        output: &mut Vec<u8>,
    ) -> Result<(), String> {
        if let Some(session) = &mut self.session {
            let mut rest = input;
            let accepted = loop {
                match session.handle_input(&mut rest).map_err(|e| reason(&e))? {
                    Some(Event::Started) => break true,
                    Some(_) => {}
                    None => break false,
                }
            };
            output.append(session.output());
            if accepted {
                (self.session, self.pieces) = (None, None);
                self.accepted = now.wall;
                self.meter.start(now.mono);
                self.last_media = Some(now.mono);
            }
        }
        self.received += input.len() as u64;
        tally.bytes += input.len() as u64;
        let (handshake, chunks) = input.split_at(self.handshake.min(input.len()));
        self.handshake -= handshake.len();
        self.scan(chunks, now, tally, output)?;
        if self.session.is_none() {
            self.meter.add(input.len(), now.mono);
        }
        self.acknowledge(output);
        Ok(())
    }

    fn handle_second(&mut self, now: Now, tally: &mut Tally) {
        let quiet = self.last_media.is_some_and(|last| now.mono.duration_since(last) > STALL);
        if quiet && !self.is_stalled {
            self.is_stalled = true;
            tally.stalls += 1;
        }
    }

    fn next_write(&mut self, output: &[u8]) -> usize {
        self.pieces.as_mut().map_or(output.len(), |pieces| pieces.next(output))
    }

    fn is_accepted(&self) -> bool {
        self.session.is_none()
    }

    fn finish(&self, now: Now, tally: &mut Tally) {
        if let Some(rate) = self.meter.rate(now.mono) {
            tally.bitrate.record(rate);
        }
    }
}

/// Reads whatever comes.
#[derive(Default)]
pub(crate) struct Drain {
    meter: Meter,
}

impl Client for Drain {
    fn handle_connected(&mut self, _: &mut Vec<u8>) {
        self.meter.start(Instant::now());
    }

    fn handle_input(
        &mut self,
        input: &[u8],
        now: Now,
        tally: &mut Tally,
        _: &mut Vec<u8>,
    ) -> Result<(), String> {
        tally.bytes += input.len() as u64;
        self.meter.add(input.len(), now.mono);
        Ok(())
    }

    fn is_accepted(&self) -> bool {
        true
    }

    fn finish(&self, now: Now, tally: &mut Tally) {
        if let Some(rate) = self.meter.rate(now.mono) {
            tally.bitrate.record(rate);
        }
    }
}

/// What client `index` asks of `target`.
pub(crate) fn config(mode: Mode, load: &Load, target: &Target, index: u32) -> Config {
    Config::new(mode, Url { stream: load.stream(&target.url, index), ..target.url.clone() })
}

/// For counting: the same for all clients that were refused alike.
pub(crate) fn reason(error: &rtmp::client::Error) -> String {
    match error {
        rtmp::client::Error::Rejected { code, description } if code.is_empty() => {
            format!("refused: {description}")
        }
        rtmp::client::Error::Rejected { code, description } if description.is_empty() => code.clone(),
        rtmp::client::Error::Rejected { code, description } => format!("{code}: {description}"),
        other => other.to_string(),
    }
}

/// An `onStatus` of level error, or `_error`, ends a player.
fn refusal(command: &[u8]) -> Result<(), String> {
    let (values, _) = amf0::read_prefix(command.strip_prefix(&[0]).unwrap_or(command));
    let name = values.first().and_then(Value::as_str);
    let text = |field| values.iter().find_map(|value| value.field(field)).and_then(Value::as_str);
    let failed = name == Some("_error") || (name == Some("onStatus") && text("level") == Some("error"));
    if failed { Err(text("code").unwrap_or("refused without a code").to_owned()) } else { Ok(()) }
}

/// A control message stands in one chunk of any size that a server can expect: 128 is never shrunk by a player.
fn put_control(output: &mut Vec<u8>, type_id: u8, payload: &[u8]) {
    chunk::put_full(output, chunk::DEFAULT_CHUNK_SIZE, csid::CONTROL, 0, type_id, 0, payload);
}
