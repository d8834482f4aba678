//! Forwarding of one stream to one edge port: a client connection that is one more cursor.
//!
//! A forwarder lives from the first publish on, reconnects for ever, and at each connect gives its target metadata,
//! headers, the current GOP and live. It keeps no backlog. Its state is what the target has proved: four times a second it
//! sends a ping that carries the time of the last frame sent before it; the echo proves that the target's loop has read that
//! far. TCP's own acknowledgements would not: a frozen process has a kernel that acknowledges.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use cluster::Target;
use cluster::stats::{ForwardState, ForwardStats};
use rtmp::auth::Claim;
use rtmp::client::{self, Event, Session};
use rtmp::url::Url;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::AbortHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use crate::backoff::Backoff;
use crate::cursor::{Cursor, Reader};
use crate::hub::{Hub, count};
use crate::stream::Stream;

/// TCP connect to the target's Publish.Start at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often acknowledgement is asked for.
const PING_EVERY: Duration = Duration::from_millis(250);
/// Without an acknowledgement for this long a forwarder is stalled, ms.
const STALLED_AFTER: u64 = 2_000;
/// Without an acknowledgement for this long it connects anew, ms.
const DEAD_AFTER: u64 = 5_000;
/// After the end of the publication, what is left is sent for at most this long.
const FINISH_TIMEOUT: Duration = Duration::from_secs(1);
/// Pings that wait for their echo at most; beyond it the oldest are forgotten.
const PINGS_MAX: usize = 64;

/// Why a connection to a target ended.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error("cannot look up {host}: {source}")]
    Lookup { host: String, source: io::Error },
    #[error("cannot connect: {0}")]
    Connect(io::Error),
    #[error("no answer within 5 s")]
    Timeout,
    #[error("the target closed the connection")]
    Closed,
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Rtmp(#[from] client::Error),
    #[error("the target acknowledged nothing for 5 s")]
    Dead,
}

/// A forwarder's handle: its target, what it reports, and its task, which ends with it.
pub(crate) struct Forwarder {
    report: Rc<Report>,
    task: AbortHandle,
}

struct Report {
    target: Target,
    phase: Cell<ForwardState>,
    acked: Cell<Option<Acked>>,
    /// When the oldest ping without an echo was sent, ms.
    waiting_since: Cell<Option<u64>>,
    /// Stream time of the last message sent, ms.
    reached: Cell<Option<u64>>,
    sent: Cell<u64>,
    /// Whether the last attempt failed.
    failed: Cell<bool>,
    reconnects: Cell<u64>,
    last_error: RefCell<Option<String>>,
}

/// The last acknowledgement.
#[derive(Clone, Copy, Debug)]
struct Acked {
    /// When it came, ms.
    at: u64,
    /// How long it took, ms.
    took: u64,
}

impl Forwarder {
    pub(crate) fn start(hub: &Rc<Hub>, stream: &Rc<Stream>, target: Target) -> Self {
        let report = Rc::new(Report {
            target,
            phase: Cell::new(ForwardState::Idle),
            acked: Cell::new(None),
            waiting_since: Cell::new(None),
            reached: Cell::new(None),
            sent: Cell::new(0),
            failed: Cell::new(false),
            reconnects: Cell::new(0),
            last_error: RefCell::new(None),
        });
        let task = tokio::task::spawn_local(run(Rc::clone(hub), Rc::clone(stream), Rc::clone(&report)));
        Self { report, task: task.abort_handle() }
    }

    pub(crate) fn target(&self) -> &Target {
        &self.report.target
    }

    /// `newest` is the stream's newest time while it is published.
    pub(crate) fn stats(&self, newest: Option<u64>, now: u64) -> ForwardStats {
        let report = &self.report;
        let acked = report.acked.get();
        let state = match report.phase.get() {
            ForwardState::Live if acked.is_none_or(|acked| now.saturating_sub(acked.at) > STALLED_AFTER) => {
                ForwardState::Stalled
            }
            phase => phase,
        };
        ForwardStats {
            target: report.target.clone(),
            state,
            lag_ms: newest.zip(acked).map(|(newest, acked)| {
                let unsent = newest.saturating_sub(report.reached.get().unwrap_or(newest));
                let waiting = report.waiting_since.get().map_or(0, |since| now.saturating_sub(since));
                unsent + waiting.max(acked.took)
            }),
            sent: report.sent.get(),
            reconnects: report.reconnects.get(),
            last_error: report.last_error.borrow().clone(),
        }
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn run(hub: Rc<Hub>, stream: Rc<Stream>, report: Rc<Report>) {
    let mut backoff = Backoff::new();
    let mut head = stream.watch();
    loop {
        report.phase.set(ForwardState::Idle);
        if head.wait_for(|head| head.publishing).await.is_err() {
            return;
        }
        report.phase.set(ForwardState::Connecting);
        let outcome = forward(&hub, &stream, &report, &mut backoff).await;
        report.failed.set(outcome.is_err());
        match outcome {
            Ok(()) => {
                report.acked.set(None);
                backoff.reset();
            }
            Err(error) => {
                report.acked.set(None);
                report.phase.set(ForwardState::Backoff);
                let text = error.to_string();
                if report.last_error.replace(Some(text)).as_deref() != Some(&error.to_string()) {
                    warn!(stream = %stream.key, target = %report.target.id, %error, "forward failed");
                }
                tokio::time::sleep(backoff.next_delay()).await;
            }
        }
    }
}

/// One connection, to the end of the publication.
async fn forward(
    hub: &Hub,
    stream: &Stream,
    report: &Report,
    backoff: &mut Backoff,
) -> Result<(), ForwardError> {
    let started = timeout(CONNECT_TIMEOUT, connect(hub, stream, &report.target)).await;
    let (socket, session) = started.map_err(|_| ForwardError::Timeout)??;
    if report.failed.get() {
        count(&report.reconnects, 1);
    }
    report.waiting_since.set(None);
    info!(stream = %stream.key, target = %report.target.id, "forwarding");
    // Metadata, headers and the current GOP, whatever players of the origin get.
    let from = {
        let log = stream.log();
        log.join(true).map_or_else(|| log.end(), |point| point.offset)
    };
    let mut connection = Connection {
        hub,
        stream,
        report,
        cursor: Cursor::new(Reader::Forwarder, session.msid(), from),
        pings: VecDeque::new(),
        heard: hub.now(),
        position: stream.log().position(from).0,
        has_sent: false,
        socket,
        session,
    };
    let mut head = stream.watch();
    let mut ping = interval(PING_EVERY);
    ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let publishing = head.borrow_and_update().publishing;
        let blocked = connection.flush()?;
        if !publishing {
            return connection.finish().await;
        }
        tokio::select! {
            changed = head.changed() => if changed.is_err() { return Ok(()) },
            ready = connection.socket.readable() => {
                ready?;
                connection.read()?;
            }
            ready = connection.socket.writable(), if blocked => ready?,
            _ = ping.tick() => {
                connection.ping()?;
                if connection.report.phase.get() == ForwardState::Live {
                    backoff.reset();
                }
            }
        }
    }
}

/// Connects from the worker's own address, by which the target keeps a slot for us, and publishes.
async fn connect(hub: &Hub, stream: &Stream, target: &Target) -> Result<(TcpStream, Session), ForwardError> {
    let own = hub.spec.borrow().listen.ip();
    let url = Url {
        host: target.host.clone(),
        port: target.port,
        app: stream.key.app().to_owned(),
        stream: stream.key.name().to_owned(),
    };
    let lookup = |source| ForwardError::Lookup { host: target.host.clone(), source };
    let addresses = tokio::net::lookup_host((target.host.as_str(), target.port)).await.map_err(lookup)?;
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "no address");
    for address in addresses {
        match connect_from(own, address).await {
            Ok(socket) => {
                socket.set_nodelay(true)?;
                let config = client::Config {
                    auth: Some(Claim {
                        secret: hub.secret.clone(),
                        target: target.id.as_str().to_owned(),
                        clock: hub.clock.clone(),
                    }),
                    ..client::Config::new(client::Mode::Publish, &url)
                };
                let session = start(&socket, Session::new(config)?, hub).await?;
                return Ok((socket, session));
            }
            Err(e) => failed = e,
        }
    }
    Err(ForwardError::Connect(failed))
}

async fn connect_from(own: std::net::IpAddr, address: SocketAddr) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if !own.is_unspecified() && own.is_ipv4() == address.is_ipv4() {
        socket.bind(SocketAddr::new(own, 0))?;
    }
    socket.connect(address).await
}

/// Handshake to Publish.Start.
async fn start(socket: &TcpStream, mut session: Session, hub: &Hub) -> Result<Session, ForwardError> {
    loop {
        crate::io::write_all(socket, session.output()).await?;
        socket.readable().await?;
        if read(socket, &mut session, hub, |event| matches!(event, Event::Started))? {
            // The rest of the output goes out with the first media.
            return Ok(session);
        }
    }
}

/// Reads once; true if an event satisfied `until`.
fn read(
    socket: &TcpStream,
    session: &mut Session,
    hub: &Hub,
    mut until: impl FnMut(Event) -> bool,
) -> Result<bool, ForwardError> {
    let mut buffer = hub.buffer.borrow_mut();
    let taken = match socket.try_read(&mut buffer) {
        Ok(0) => return Err(ForwardError::Closed),
        Ok(taken) => taken,
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
        Err(e) => return Err(e.into()),
    };
    count(&hub.counters.bytes_in, taken as u64);
    let mut input = buffer.get(..taken).unwrap_or(&[]);
    let mut found = false;
    while let Some(event) = session.handle_input(&mut input)? {
        found |= until(event);
    }
    Ok(found)
}

struct Connection<'a> {
    hub: &'a Hub,
    stream: &'a Stream,
    report: &'a Report,
    socket: TcpStream,
    session: Session,
    cursor: Cursor,
    /// Stream time and sending time, ms, of the pings whose echo has not come, oldest first.
    pings: VecDeque<(u64, u64)>,
    /// When the target last acknowledged, ms.
    heard: u64,
    /// Number of the message the cursor has reached.
    position: u64,
    /// Whether a message has gone out on this connection.
    has_sent: bool,
}

impl Connection<'_> {
    /// Sends what there is; true if the socket takes no more.
    fn flush(&mut self) -> Result<bool, ForwardError> {
        let log = self.stream.log();
        // The bound is for peers that only ask; ours asks little.
        let _ = self.cursor.push_control(self.session.output());
        let before = self.cursor.bytes_sent();
        let flushed = self.cursor.flush(&log, &mut |slices| crate::io::try_send(&self.socket, slices))?;
        count(&self.hub.counters.bytes_out, self.cursor.bytes_sent() - before);
        let (position, reached) = log.position(self.cursor.offset());
        self.report.reached.set(reached);
        let skips = self.cursor.take_skips();
        count(&self.hub.counters.skips, skips);
        if skips == 0 {
            let sent = position.saturating_sub(self.position);
            self.has_sent |= sent > 0;
            count(&self.report.sent, sent);
        }
        self.position = position;
        Ok(flushed == crate::cursor::Flushed::Blocked)
    }

    fn read(&mut self) -> Result<(), ForwardError> {
        let (hub, pings) = (self.hub, &mut self.pings);
        let mut acked = None;
        read(&self.socket, &mut self.session, hub, |event| {
            if let Event::Pong { timestamp } = event {
                #[expect(clippy::cast_possible_truncation, reason = "a ping carries 32 bits")]
                let echo = pings.iter().position(|&(time, _)| time as u32 == timestamp);
                if let Some(index) = echo {
                    acked = pings.drain(..=index).next_back();
                }
            }
            false
        })?;
        if let Some((_, sent_at)) = acked {
            self.heard = hub.now();
            self.report.acked.set(Some(Acked { at: self.heard, took: self.heard.saturating_sub(sent_at) }));
            self.report.waiting_since.set(self.pings.front().map(|&(_, at)| at));
            self.report.phase.set(ForwardState::Live);
        }
        Ok(())
    }

    fn ping(&mut self) -> Result<(), ForwardError> {
        if self.hub.now().saturating_sub(self.heard) > DEAD_AFTER {
            return Err(ForwardError::Dead);
        }
        // Until a frame has gone out on this connection there is nothing to be acknowledged.
        let Some(time) = self.stream.log().position(self.cursor.offset()).1.filter(|_| self.has_sent) else {
            self.heard = self.hub.now();
            return Ok(());
        };
        if self.pings.len() == PINGS_MAX {
            self.pings.pop_front();
        }
        self.pings.push_back((time, self.hub.now()));
        self.report.waiting_since.set(self.pings.front().map(|&(_, at)| at));
        #[expect(clippy::cast_possible_truncation, reason = "a ping carries 32 bits")]
        self.session.ping(time as u32);
        Ok(())
    }

    /// The publication is over: sends what is left, says so, closes.
    async fn finish(mut self) -> Result<(), ForwardError> {
        let rest = timeout(FINISH_TIMEOUT, async {
            while self.flush()? {
                self.socket.writable().await?;
            }
            self.session.finish();
            let mut rest = self.cursor.take_rest();
            rest.append(self.session.output());
            crate::io::write_all(&self.socket, &mut rest).await?;
            // Read to the end: closing with bytes unread would reset the connection, and with it what is still on its way.
            rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Write).map_err(io::Error::from)?;
            loop {
                self.socket.readable().await?;
                self.read()?;
            }
        });
        match rest.await {
            // A target that does not take the rest in time is closed all the same.
            Err(_) | Ok(Err(ForwardError::Closed)) => Ok(()),
            Ok(Err(error)) => Err(error),
            Ok(Ok(never)) => never,
        }
    }
}
