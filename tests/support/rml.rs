//! Publisher and player on `rml_rtmp`'s client session: a peer that shares no code with the product, inside the test.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use nix::sys::socket::{setsockopt, sockopt};
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::sessions::{
    ClientSession, ClientSessionConfig, ClientSessionEvent as Event, ClientSessionResult as Outcome,
    PublishRequestType,
};
use rml_rtmp::time::RtmpTimestamp;

use super::flv::{self, AUDIO, Tag, VIDEO};
use super::{SOON, wait_for};

/// What a peer shows to its test.
#[derive(Default)]
struct Seen {
    tags: Mutex<Vec<Tag>>,
    /// Codes of `onStatus` other than the wanted one.
    codes: Mutex<Vec<String>>,
    /// The request was accepted.
    started: AtomicBool,
    /// Why the connection ended.
    end: Mutex<Option<String>>,
    /// The test wants the peer to end.
    stop: AtomicBool,
    /// The test wants a publisher to fall silent.
    silent: AtomicBool,
    /// Pause behind each read, ms.
    pause_ms: AtomicU64,
}

/// A peer's thread; it ends with its value.
pub struct Peer {
    seen: Arc<Seen>,
    thread: Option<JoinHandle<()>>,
}

/// A player that keeps every message.
pub type Player = Peer;

/// Plays `stream`. Connecting is part of the call, so that a refused connection is the caller's to see.
pub fn play(addr: SocketAddr, stream: &str) -> io::Result<Player> {
    Ok(start(addr, stream, None, TcpStream::connect(addr)?))
}

/// Plays `stream` with a small receive buffer and a pause behind each read of 16 KiB.
pub fn play_slowly(addr: SocketAddr, stream: &str, pause: Duration) -> io::Result<Player> {
    let tcp = TcpStream::connect(addr)?;
    setsockopt(&tcp, sockopt::RcvBuf, &READ)?;
    let player = start(addr, stream, None, tcp);
    player.seen.pause_ms.store(pause.as_millis() as u64, Ordering::Relaxed);
    Ok(player)
}

/// Publishes frames in real time; `period` ms make it start again, later by that much each time.
pub fn publish(addr: SocketAddr, stream: &str, tags: Vec<Tag>, period: Option<u32>) -> Peer {
    start(addr, stream, Some((tags, period)), TcpStream::connect(addr).unwrap())
}

fn start(addr: SocketAddr, stream: &str, source: Option<(Vec<Tag>, Option<u32>)>, tcp: TcpStream) -> Peer {
    let seen = Arc::new(Seen::default());
    let (app, name) = stream.split_once('/').unwrap();
    let (app, name) = (app.to_owned(), name.to_owned());
    let thread = thread::spawn({
        let seen = Arc::clone(&seen);
        move || {
            let result = Connection::open(addr, &app, tcp, &seen).and_then(|c| c.run(&app, &name, source));
            *seen.end.lock().unwrap() = Some(result.err().unwrap_or_else(|| "stopped".into()));
        }
    });
    Peer { seen, thread: Some(thread) }
}

impl Peer {
    /// Every audio and video message so far.
    pub fn tags(&self) -> Vec<Tag> {
        self.seen.tags.lock().unwrap().clone()
    }

    /// The number of messages so far: a mark for [`Peer::record_after`].
    pub fn mark(&self) -> usize {
        self.seen.tags.lock().unwrap().len()
    }

    /// Why the connection ended, if it has.
    pub fn ended(&self) -> Option<String> {
        self.seen.end.lock().unwrap().clone()
    }

    /// `onStatus` codes other than the start of what was asked for.
    pub fn codes(&self) -> Vec<String> {
        self.seen.codes.lock().unwrap().clone()
    }

    /// Waits until play or publish was accepted.
    #[track_caller]
    pub fn await_started(&self) {
        self.wait("the request to be accepted", |p| p.seen.started.load(Ordering::Relaxed).then_some(()));
    }

    /// Waits for `seconds` of video from the first keyframe at or after `mark`; gives the messages from `mark` on.
    #[track_caller]
    pub fn record_after(&self, mark: usize, seconds: f64) -> Vec<Tag> {
        self.wait(&format!("{seconds} s of video"), |p| {
            let tags = &p.seen.tags.lock().unwrap()[mark..];
            (flv::seconds_of_video(tags) >= seconds).then(|| tags.to_vec())
        })
    }

    /// Waits until so many more messages have come, and one.
    #[track_caller]
    pub fn await_more(&self, messages: usize) {
        let mark = self.mark();
        self.wait("more messages", |p| (p.mark() > mark + messages).then_some(()));
    }

    /// Waits for the connection to end; why it did.
    #[track_caller]
    pub fn await_end(&self) -> String {
        wait_for("the connection to end", SOON, || {
            self.ended().ok_or_else(|| format!("{} messages so far", self.mark()))
        })
    }

    /// Keeps the connection and sends nothing from now on.
    pub fn fall_silent(&self) {
        self.seen.silent.store(true, Ordering::Relaxed);
    }

    #[track_caller]
    fn wait<T>(&self, what: &str, mut probe: impl FnMut(&Self) -> Option<T>) -> T {
        wait_for(what, SOON, || {
            probe(self).ok_or_else(|| {
                let (end, codes) = (self.ended(), self.codes());
                format!("{} messages so far, onStatus {codes:?}, ended: {end:?}", self.mark())
            })
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.seen.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// How long a read may wait: the grain of a publisher's clock.
const TICK: Duration = Duration::from_millis(5);

/// Bytes of one read.
const READ: usize = 16 * 1024;

/// Messages a publisher may send late before it waits for replies again.
const READ_EVERY: usize = 16;

struct Connection<'a> {
    tcp: TcpStream,
    session: ClientSession,
    seen: &'a Seen,
    connected: bool,
}

impl<'a> Connection<'a> {
    fn open(addr: SocketAddr, app: &str, mut tcp: TcpStream, seen: &'a Seen) -> Result<Self, String> {
        tcp.set_nodelay(true).map_err(text)?;
        tcp.set_read_timeout(Some(TICK)).map_err(text)?;
        tcp.set_write_timeout(Some(SOON)).map_err(text)?;
        let mut handshake = Handshake::new(PeerType::Client);
        tcp.write_all(&handshake.generate_outbound_p0_and_p1().map_err(text)?).map_err(text)?;
        let rest = loop {
            let bytes = read(&mut tcp)?;
            if seen.stop.load(Ordering::Relaxed) {
                return Err("stopped".into());
            }
            match handshake.process_bytes(&bytes).map_err(text)? {
                HandshakeProcessResult::InProgress { response_bytes } => {
                    tcp.write_all(&response_bytes).map_err(text)?
                }
                HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                    tcp.write_all(&response_bytes).map_err(text)?;
                    break remaining_bytes;
                }
            }
        };
        let mut config = ClientSessionConfig::new();
        config.tc_url = Some(format!("rtmp://{addr}/{app}"));
        let (session, first) = ClientSession::new(config).map_err(text)?;
        let mut this = Self { tcp, session, seen, connected: false };
        this.handle(first)?;
        let outcomes = this.session.handle_input(&rest).map_err(text)?;
        this.handle(outcomes)?;
        let connect = this.session.request_connection(app.to_owned()).map_err(text)?;
        this.handle(vec![connect])?;
        while !this.connected {
            this.receive()?;
        }
        Ok(this)
    }

    fn run(mut self, app: &str, name: &str, source: Option<(Vec<Tag>, Option<u32>)>) -> Result<(), String> {
        let _ = app;
        let name = name.to_owned();
        let request = match source {
            Some(_) => self.session.request_publishing(name, PublishRequestType::Live),
            None => self.session.request_playback(name),
        };
        self.handle(vec![request.map_err(text)?])?;
        while !self.seen.started.load(Ordering::Relaxed) {
            self.receive()?;
        }
        if let Some((tags, period)) = source {
            self.send_in_real_time(&tags, period)?;
        }
        loop {
            self.receive()?;
        }
    }

    fn send_in_real_time(&mut self, tags: &[Tag], period: Option<u32>) -> Result<(), String> {
        let begin = Instant::now();
        for round in 0.. {
            if round > 0 && period.is_none() {
                break;
            }
            for (i, tag) in tags
                .iter()
                .filter(|t| (t.kind == AUDIO || t.kind == VIDEO) && (round == 0 || t.is_frame()))
                .enumerate()
            {
                let time = tag.timestamp + round * period.unwrap_or(0);
                let due = begin + Duration::from_millis(u64::from(time));
                while Instant::now() < due || self.seen.silent.load(Ordering::Relaxed) {
                    self.receive()?;
                }
                if i % READ_EVERY == 0 {
                    self.receive()?;
                }
                let payload = tag.payload.clone().into();
                let outcome = match tag.kind {
                    AUDIO => self.session.publish_audio_data(payload, RtmpTimestamp::new(time), false),
                    _ => self.session.publish_video_data(payload, RtmpTimestamp::new(time), false),
                };
                self.handle(vec![outcome.map_err(text)?])?;
            }
        }
        Ok(())
    }

    /// Reads what is there, or for one [`TICK`].
    fn receive(&mut self) -> Result<(), String> {
        if self.seen.stop.load(Ordering::Relaxed) {
            return Err("stopped".into());
        }
        let bytes = read(&mut self.tcp)?;
        if !bytes.is_empty() {
            thread::sleep(Duration::from_millis(self.seen.pause_ms.load(Ordering::Relaxed)));
        }
        let outcomes = self.session.handle_input(&bytes).map_err(text)?;
        self.handle(outcomes)
    }

    fn handle(&mut self, outcomes: Vec<Outcome>) -> Result<(), String> {
        let media = |kind, timestamp: RtmpTimestamp, data: &[u8]| {
            self.seen.tags.lock().unwrap().push(Tag {
                kind,
                timestamp: timestamp.value,
                payload: data.to_vec(),
            });
        };
        for outcome in outcomes {
            match outcome {
                // Not even an answer to a ping.
                Outcome::OutboundResponse(_) if self.seen.silent.load(Ordering::Relaxed) => {}
                Outcome::OutboundResponse(packet) => self.tcp.write_all(&packet.bytes).map_err(text)?,
                Outcome::RaisedEvent(Event::VideoDataReceived { timestamp, data }) => {
                    media(VIDEO, timestamp, &data)
                }
                Outcome::RaisedEvent(Event::AudioDataReceived { timestamp, data }) => {
                    media(AUDIO, timestamp, &data)
                }
                Outcome::RaisedEvent(Event::ConnectionRequestAccepted) => self.connected = true,
                Outcome::RaisedEvent(Event::PlaybackRequestAccepted | Event::PublishRequestAccepted) => {
                    self.seen.started.store(true, Ordering::Relaxed);
                }
                Outcome::RaisedEvent(Event::UnhandleableOnStatusCode { code }) => {
                    self.seen.codes.lock().unwrap().push(code)
                }
                Outcome::RaisedEvent(Event::ConnectionRequestRejected { description }) => {
                    return Err(format!("connect rejected: {description}"));
                }
                Outcome::RaisedEvent(_) | Outcome::UnhandleableMessageReceived(_) => {}
            }
        }
        Ok(())
    }
}

/// What is there within one [`TICK`], maybe nothing.
fn read(tcp: &mut TcpStream) -> Result<Vec<u8>, String> {
    let mut buffer = [0; READ];
    match tcp.read(&mut buffer) {
        Ok(0) => Err("closed by the server".into()),
        Ok(n) => Ok(buffer[..n].to_vec()),
        Err(e)
            if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted) =>
        {
            Ok(Vec::new())
        }
        Err(e) => Err(e.to_string()),
    }
}

fn text(error: impl std::fmt::Display) -> String {
    error.to_string()
}
