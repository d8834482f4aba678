//! What moves an accepted connection: reads and writes its socket, and does what its machine says.

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use cluster::Role;
use rtmp_io::socket;
use stream::Cursor;
use tracing::{debug, info, warn};

use super::end::End;
use super::handle::Conn;
use super::machine::{Machine, Proof, Wish};
use crate::counters::count;
use crate::egress::play::{Playing, play};
use crate::hub::Hub;
use crate::ingress::{Publisher, publish};

/// Reads and writes of one connection in one go, fewer where a read fills its buffer.
const TURNS: usize = 4;

/// Serves `conn` to its end.
pub(crate) async fn serve(hub: Rc<Hub>, conn: Rc<Conn>) {
    let mut serving = Serving(Driver {
        machine: Machine::new(hub.now()),
        hub,
        conn,
        activity: Activity::None,
        is_changed: false,
    });
    let driver = &mut serving.0;
    driver.conn.set_deadline(driver.machine.deadline());
    let end = std::future::poll_fn(|cx| driver.poll(cx)).await;
    if end.is_peer_error() {
        count(&driver.hub.counters.peer_errors, 1);
    }
    let peer = driver.conn.peer;
    match &driver.activity {
        Activity::Publishing(publisher) if driver.hub.conn_lines.take(driver.hub.now()) => {
            info!(%peer, stream = %publisher.key(), %end, "publisher gone");
        }
        Activity::None | Activity::Publishing(_) | Activity::Playing(_) => {
            debug!(%peer, %end, "connection ended");
        }
    }
}

/// A connection that has a slot; dropping it, in a panic too, frees the slot.
struct Serving(Driver);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.hub.release(self.0.conn.id);
    }
}

/// What the connection has of the worker's streams.
enum Activity {
    None,
    Publishing(Publisher),
    Playing(Playing),
}

struct Driver {
    hub: Rc<Hub>,
    conn: Rc<Conn>,
    machine: Machine,
    activity: Activity,
    /// A command has changed what the player gets: it is flushed once all of the read is taken.
    is_changed: bool,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.conn.set_waker(cx.waker());
        let mut turns = 0;
        loop {
            if turns == TURNS {
                // A peer that sends or takes without end lets the others have their turn: timers and other sockets too, so
                // not by waking itself, which they would have to wait for many times.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
            turns += 1;
            if let Some(cut) = self.conn.is_cut() {
                return Poll::Ready(End::Cut(cut));
            }
            match self.write(cx) {
                Ok(true) => continue,
                Ok(false) => {}
                Err(e) => return Poll::Ready(e.into()),
            }
            match self.conn.socket.poll_read_ready(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(e)) => return Poll::Ready(e.into()),
                Poll::Ready(Ok(())) => {}
            }
            let read = self.read();
            self.conn.set_deadline(self.machine.deadline());
            match read {
                Ok(true) => turns = TURNS,
                Ok(false) => {}
                Err(end) => {
                    // What the peer is told last should reach it.
                    if !matches!(self.activity, Activity::Playing(_)) {
                        let _ = self.conn.socket.try_write(self.machine.output());
                    }
                    return Poll::Ready(end);
                }
            }
        }
    }

    /// Sends what this task has to send itself. True if the socket's state has changed and all should be looked at again.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if let Activity::Playing(playing) = &self.activity {
            if !playing.player.is_parked() {
                return Ok(false);
            }
            return match self.conn.socket.poll_write_ready(cx) {
                Poll::Pending => Ok(false),
                Poll::Ready(result) => {
                    result?;
                    playing.flush();
                    Ok(true)
                }
            };
        }
        loop {
            let rest = self.machine.output();
            if rest.is_empty() {
                return Ok(false);
            }
            match self.conn.socket.try_write(rest) {
                Ok(taken) => {
                    count(&self.hub.counters.bytes_out, taken as u64);
                    if self.machine.handle_sent(taken) && self.machine.is_refused() {
                        // Half closed, so that no reset overtakes the reason.
                        rustix::net::shutdown(&self.conn.socket, rustix::net::Shutdown::Write)?;
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                    match self.conn.socket.poll_write_ready(cx) {
                        Poll::Pending => return Ok(false),
                        Poll::Ready(result) => result?,
                    }
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Reads once and acts on all of it; true if there may be much more.
    fn read(&mut self) -> Result<bool, End> {
        let hub = Rc::clone(&self.hub);
        let mut buffer = hub.buffer.borrow_mut();
        let taken = match socket::try_read(&self.conn.socket, &mut buffer) {
            Ok(0) => return Err(End::Closed),
            Ok(taken) => taken,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(e) => return Err(e.into()),
        };
        let more = taken == buffer.len();
        count(&hub.counters.bytes_in, taken as u64);
        if matches!(self.activity, Activity::None) {
            // If it is gone, the next read says so.
            let _ = socket::acknowledge(&self.conn.socket);
        }
        let acted = self.act_on(buffer.get(..taken).unwrap_or(&[]));
        drop(buffer);
        if let Some(why) = self.machine.take_left_out()
            && self.hub.conn_lines.take(self.hub.now())
        {
            warn!(peer = %self.conn.peer, %why, "a message was left out");
        }
        if let Activity::Publishing(publisher) = &self.activity {
            publisher.commit();
        }
        self.pass_replies()?;
        acted.map(|()| more)
    }

    fn act_on(&mut self, mut input: &[u8]) -> Result<(), End> {
        let now = self.hub.now();
        loop {
            let wish = {
                let spec = self.hub.spec.borrow();
                let target = (spec.role == Role::Edge).then_some(spec.id.as_str());
                self.machine.handle_input(&mut input, Proof { secret: &self.hub.secret, target })?
            };
            let Some(wish) = wish else { return Ok(()) };
            self.grant(wish, now)?;
        }
    }

    /// Hands the session's replies to whoever writes to the socket.
    fn pass_replies(&mut self) -> Result<(), End> {
        let Activity::Playing(playing) = &self.activity else { return self.machine.check_flood() };
        let is_changed = std::mem::take(&mut self.is_changed);
        let replies = self.machine.replies();
        if replies.is_empty() && !is_changed {
            return Ok(());
        }
        let accepted = playing.player.cursor.borrow_mut().push_control(replies);
        playing.flush();
        if accepted { Ok(()) } else { Err(End::Flood) }
    }

    fn grant(&mut self, wish: Wish, now: u64) -> Result<(), End> {
        let peer = self.conn.peer;
        match wish {
            Wish::Media(message) => {
                if let Activity::Publishing(publisher) = &self.activity
                    && publisher.take(&message, now)
                {
                    self.machine.handle_media(now);
                }
            }
            Wish::Publish { stream, clock } => {
                let is_told = self.hub.conn_lines.take(now);
                match publish(&self.hub, &stream, clock.as_deref(), self.conn.id) {
                    Ok(publisher) => {
                        if is_told {
                            info!(%peer, %stream, forwarder = self.machine.is_forwarder(), "publishing");
                        }
                        self.machine.accept(now);
                        self.begin(Activity::Publishing(publisher));
                    }
                    Err(refusal) => {
                        if is_told {
                            info!(%peer, %stream, code = refusal.code, refusal.description, "publish refused");
                        }
                        self.machine.refuse(&refusal, now);
                    }
                }
            }
            Wish::Play { stream, msid } => match play(&self.hub, &stream, msid, &self.conn) {
                Ok(playing) => {
                    debug!(%peer, %stream, "playing");
                    self.machine.accept(now);
                    // The replies so far, and what is half sent of an earlier play.
                    playing.player.cursor.borrow_mut().owe(self.machine.take_output());
                    self.is_changed = true;
                    self.begin(Activity::Playing(playing));
                }
                Err(refusal) => {
                    debug!(%peer, %stream, code = refusal.code, refusal.description, "play refused");
                    self.machine.refuse(&refusal, now);
                }
            },
            Wish::Stop => self.stop(now)?,
            Wish::Pause(true) => self.with_cursor(Cursor::pause),
            Wish::Pause(false) => self.with_cursor(Cursor::resume),
            Wish::Mute(track, off) => self.with_cursor(|cursor| cursor.mute(track, off)),
        }
        Ok(())
    }

    fn begin(&mut self, activity: Activity) {
        self.hub.slots.borrow_mut().set_open(self.conn.id, false);
        self.activity = activity;
    }

    /// The connection may publish or play again.
    fn stop(&mut self, now: u64) -> Result<(), End> {
        let (mut rest, mut owed) = (Vec::new(), 0);
        match std::mem::replace(&mut self.activity, Activity::None) {
            Activity::None => return Ok(()),
            Activity::Publishing(publisher) => {
                if self.hub.conn_lines.take(now) {
                    info!(peer = %self.conn.peer, stream = %publisher.key(), "unpublished");
                }
                publisher.finish();
            }
            Activity::Playing(playing) => {
                let mut cursor = playing.player.cursor.borrow_mut();
                owed = cursor.half_sent();
                rest = cursor.take_rest();
            }
        }
        self.hub.slots.borrow_mut().set_open(self.conn.id, true);
        self.machine.reopen(rest, owed, now)
    }

    fn with_cursor(&mut self, change: impl FnOnce(&mut Cursor)) {
        if let Activity::Playing(playing) = &self.activity {
            change(&mut playing.player.cursor.borrow_mut());
            self.is_changed = true;
        }
    }
}
