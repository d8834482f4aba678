//! One accepted connection: reads, lets the protocol machine decide, writes.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use rtmp::server::{self, Event, Session};
use tracing::{debug, info};

use crate::cursor::CONTROL_MAX;
use crate::hub::{Hub, Playing, Refusal, count};
use crate::link::{Cut, Link};
use crate::log::Lane;
use crate::stream::Publisher;

/// A connection publishes or plays within this time of its accept, ms.
const OPEN_TIMEOUT: u64 = 10_000;
/// First media of a publisher, ms: encoders look for a keyframe first. As SRS `firstpkt_timeout`.
const FIRST_MEDIA_TIMEOUT: u64 = 20_000;
/// A publisher silent for this long is closed, ms, so that its name is free again. As SRS `normal_timeout`.
const SILENT_TIMEOUT: u64 = 5_000;
/// The same for a forwarder of the origin, ms: longer, so that the origin, which sees the encoder, decides first.
const FORWARDER_SILENT_TIMEOUT: u64 = 10_000;
/// Reads and writes of one connection in one go, fewer where a read fills its buffer.
const TURNS: usize = 4;
/// A refused connection is given this long to read why, ms.
const LINGER: u64 = 2_000;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("closed by the peer")]
    Closed,
    #[error("{0}")]
    Cut(Cut),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] server::Error),
    #[error("asks without reading the answers")]
    Flood,
}

impl End {
    /// Whether the peer is at fault.
    fn is_peer_error(&self) -> bool {
        match self {
            Self::Protocol(_) | Self::Flood | Self::Cut(Cut::Idle | Cut::Silent | Cut::Stuck) => true,
            Self::Closed
            | Self::Io(_)
            | Self::Cut(Cut::Replaced | Cut::Evicted | Cut::Lingered | Cut::Lost) => false,
        }
    }
}

/// Serves `link` to its end.
pub(crate) async fn serve(hub: Rc<Hub>, link: Rc<Link>) {
    let _place = Place(Rc::clone(&hub), Rc::clone(&link));
    hub.set_open(&link, true);
    link.set_deadline(Some((hub.now() + OPEN_TIMEOUT, Cut::Idle)));
    let mut connection = Connection {
        hub,
        link,
        session: Session::new(server::Config::default()),
        forwarder: None,
        is_changed: false,
        out: Outbox::default(),
        role: Role::Open,
    };
    let end = std::future::poll_fn(|cx| connection.poll(cx)).await;
    if end.is_peer_error() {
        count(&connection.hub.counters.peer_errors, 1);
    }
    let peer = connection.link.peer;
    match &connection.role {
        Role::Publishing(publisher) => info!(%peer, stream = %publisher.stream().key, %end, "publisher gone"),
        Role::Open | Role::Playing(_) | Role::Refused => debug!(%peer, %end, "connection ended"),
    }
}

/// A place among the connections; dropping it, in a panic too, gives it up.
struct Place(Rc<Hub>, Rc<Link>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.release(&self.1);
    }
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

    /// Takes what has not been sent.
    fn take(&mut self) -> Vec<u8> {
        let rest = self.bytes.split_off(self.sent.min(self.bytes.len()));
        *self = Self::default();
        rest
    }
}

enum Role {
    /// Has not said what it wants, or has stopped it.
    Open,
    Publishing(Publisher),
    Playing(Playing),
    /// Is told why, and then closed.
    Refused,
}

struct Connection {
    hub: Rc<Hub>,
    link: Rc<Link>,
    session: Session,
    /// The clock of a proven forwarder of the origin.
    forwarder: Option<String>,
    /// A command has changed what the player gets: it is flushed once all of the read is taken.
    is_changed: bool,
    out: Outbox,
    role: Role,
}

impl Connection {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.link.set_waker(cx.waker());
        let mut turns = 0;
        loop {
            if turns == TURNS {
                // A peer that sends or takes without end lets the others have their turn: timers and other sockets too, so
                // not by waking itself, which they would have to wait for many times.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
            turns += 1;
            if let Some(cut) = self.link.is_cut() {
                return Poll::Ready(End::Cut(cut));
            }
            match self.write(cx) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(e) => return Poll::Ready(e.into()),
            }
            match self.link.socket.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(e)) => return Poll::Ready(e.into()),
                Poll::Ready(Ok(())) => {}
            }
            let read = self.read();
            if matches!(read, Ok(true)) {
                turns = TURNS;
            }
            if let Err(end) = read {
                // What the peer is told last should reach it.
                if !matches!(self.role, Role::Playing(_)) {
                    let _ = self.link.socket.try_write(self.out.rest());
                }
                return Poll::Ready(end);
            }
        }
    }

    /// Sends what this task has to send itself. True if the socket's state has changed and all should be looked at again.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if let Role::Playing(playing) = &self.role {
            if !playing.player.is_parked() {
                return Ok(false);
            }
            return match self.link.socket.poll_write_ready(cx) {
                Poll::Pending => Ok(false),
                Poll::Ready(result) => {
                    result?;
                    playing.player.flush(&playing.stream.log(), &self.hub.counters, self.hub.now());
                    Ok(true)
                }
            };
        }
        while !self.out.rest().is_empty() {
            match self.link.socket.try_write(self.out.rest()) {
                Ok(taken) => {
                    self.out.sent += taken;
                    count(&self.hub.counters.bytes_out, taken as u64);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match self.link.socket.poll_write_ready(cx) {
                        Poll::Pending => return Ok(false),
                        Poll::Ready(result) => result?,
                    }
                }
                Err(e) => return Err(e),
            }
        }
        if !self.out.bytes.is_empty() {
            self.out = Outbox::default();
            if matches!(self.role, Role::Refused) {
                // Half closed, so that no reset overtakes the reason.
                rustix::net::shutdown(&self.link.socket, rustix::net::Shutdown::Write)?;
            }
        }
        Ok(false)
    }

    /// Reads once and acts on all of it; true if there may be much more.
    fn read(&mut self) -> Result<bool, End> {
        let hub = Rc::clone(&self.hub);
        let mut buffer = hub.buffer.borrow_mut();
        let taken = match self.link.socket.try_read(&mut buffer) {
            Ok(0) => return Err(End::Closed),
            Ok(taken) => taken,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        let more = taken == buffer.len();
        count(&hub.counters.bytes_in, taken as u64);
        if matches!(self.role, Role::Refused) {
            return Ok(more);
        }
        let mut input = buffer.get(..taken).unwrap_or(&[]);
        let mut got_media = false;
        let result = loop {
            match self.session.handle_input(&mut input) {
                Ok(Some(event)) => match self.handle_event(event) {
                    Ok(media) => got_media |= media,
                    Err(end) => break Err(end),
                },
                Ok(None) => break Ok(()),
                Err(e) => break Err(e.into()),
            }
            if matches!(self.role, Role::Refused) {
                break Ok(());
            }
        };
        drop(buffer);
        if let Role::Publishing(publisher) = &self.role
            && got_media
        {
            let limit = if self.forwarder.is_some() { FORWARDER_SILENT_TIMEOUT } else { SILENT_TIMEOUT };
            self.link.set_deadline(Some((hub.now() + limit, Cut::Silent)));
            publisher.commit();
            hub.mark_dirty(publisher.stream());
        }
        self.collect_output()?;
        result.map(|()| more)
    }

    /// Hands the session's replies to whoever writes to the socket.
    fn collect_output(&mut self) -> Result<(), End> {
        let is_changed = std::mem::take(&mut self.is_changed);
        let output = self.session.output();
        if output.is_empty() && !is_changed {
            return Ok(());
        }
        if let Role::Playing(playing) = &self.role {
            let accepted = playing.player.cursor.borrow_mut().push_control(output);
            playing.player.flush(&playing.stream.log(), &self.hub.counters, self.hub.now());
            return if accepted { Ok(()) } else { Err(End::Flood) };
        }
        self.out.bytes.append(output);
        if self.out.rest().len() > CONTROL_MAX + self.out.owed { Err(End::Flood) } else { Ok(()) }
    }

    /// True for media of the publisher.
    fn handle_event(&mut self, event: Event) -> Result<bool, End> {
        match event {
            Event::Connected { auth, .. } => {
                let proven = auth.filter(|auth| {
                    let spec = self.hub.spec.borrow();
                    let s1 = self.session.s1().unwrap_or(&[]);
                    spec.role == cluster::Role::Edge
                        && auth.target == spec.id.as_str()
                        && rtmp::auth::verify(&self.hub.secret, s1, &auth.target, &auth.tag)
                });
                self.forwarder = proven.map(|auth| auth.clock);
            }
            Event::Publish { stream, .. } => {
                match self.hub.publish(&stream, self.forwarder.as_deref(), &self.link) {
                    Ok(publisher) => {
                        info!(peer = %self.link.peer, %stream, forwarder = self.forwarder.is_some(), "publishing");
                        self.session.accept_publish();
                        self.hub.set_open(&self.link, false);
                        self.link.set_deadline(Some((self.hub.now() + FIRST_MEDIA_TIMEOUT, Cut::Silent)));
                        self.role = Role::Publishing(publisher);
                    }
                    Err(Refusal { code, description }) => {
                        info!(peer = %self.link.peer, %stream, %code, %description, "publish refused");
                        self.session.reject_publish(code, &description);
                        self.refuse();
                    }
                }
            }
            Event::Play { msid, stream } => match self.hub.play(&stream, msid, &self.link) {
                Ok(playing) => {
                    debug!(peer = %self.link.peer, %stream, "playing");
                    self.session.accept_play();
                    self.hub.set_open(&self.link, false);
                    self.link.set_deadline(None);
                    // The replies so far, and what is half sent of an earlier play.
                    playing.player.cursor.borrow_mut().owe(self.out.take());
                    self.role = Role::Playing(playing);
                }
                Err(Refusal { code, description }) => {
                    debug!(peer = %self.link.peer, %stream, %code, %description, "play refused");
                    self.session.reject_play(code, &description);
                    self.refuse();
                }
            },
            Event::Media(message) => {
                if let Role::Publishing(publisher) = &self.role {
                    return Ok(publisher.ingest(message, self.hub.now()));
                }
            }
            Event::Unpublish | Event::StopPlay => self.reopen()?,
            Event::Pause(pause) => {
                self.with_cursor(|cursor| if pause { cursor.pause() } else { cursor.resume() })
            }
            Event::ReceiveAudio(on) => self.with_cursor(|cursor| cursor.mute(Lane::Audio, !on)),
            Event::ReceiveVideo(on) => self.with_cursor(|cursor| cursor.mute(Lane::Video, !on)),
            Event::Pong { .. } => {}
        }
        Ok(false)
    }

    fn with_cursor(&mut self, change: impl FnOnce(&mut crate::cursor::Cursor)) {
        if let Role::Playing(playing) = &self.role {
            change(&mut playing.player.cursor.borrow_mut());
            self.is_changed = true;
        }
    }

    fn refuse(&mut self) {
        self.link.set_deadline(Some((self.hub.now() + LINGER, Cut::Lingered)));
        self.role = Role::Refused;
    }

    /// The connection may publish or play again.
    fn reopen(&mut self) -> Result<(), End> {
        match std::mem::replace(&mut self.role, Role::Open) {
            Role::Publishing(publisher) => {
                info!(peer = %self.link.peer, stream = %publisher.stream().key, "unpublished");
                publisher.finish();
            }
            Role::Playing(playing) => {
                let mut cursor = playing.player.cursor.borrow_mut();
                let owed = cursor.half_sent();
                let rest = cursor.take_rest();
                if rest.len() > CONTROL_MAX + owed {
                    return Err(End::Flood);
                }
                self.out = Outbox { bytes: rest, sent: 0, owed };
            }
            Role::Open | Role::Refused => return Ok(()),
        }
        self.hub.set_open(&self.link, true);
        self.link.set_deadline(Some((self.hub.now() + OPEN_TIMEOUT, Cut::Idle)));
        Ok(())
    }
}
