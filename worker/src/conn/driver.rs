//! What moves an accepted connection: reads and writes its socket, and does what its machine says.

mod journal;
pub(crate) mod record;

use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use cluster::Role;
use rtmp::server::{PlayEnd, PublishEnd, StreamKey};
use rtmp_io::socket;
use stream::Cursor;
use tracing::{debug, info, warn};

use self::journal::Journal;
use super::by_stream::ByStream;
use super::end::{Cut, End};
use super::handle::Conn;
use super::machine::{Machine, Patience, Proof, Refusal, Wish};
use crate::counters::count;
use crate::egress::play::{Playing, play};
use crate::egress::player::Player;
use crate::failpoints;
use crate::hub::Hub;
use crate::ingress::{Publisher, publish};
use crate::relief::relieve;
use crate::tally::Limit;

/// Reads and writes of one connection in one go, fewer where a read fills its buffer.
const TURNS: usize = 4;

/// Why the port ends what a message stream does.
enum Ending {
    Publish(PublishEnd),
    Play(PlayEnd),
}

/// A connection that was accepted; it is to be [served](serve).
pub(crate) fn begin(hub: Rc<Hub>, conn: Rc<Conn>) -> Serving {
    let mut serving = Serving(Driver {
        machine: Machine::new(patience(&hub), hub.now()),
        hub,
        conn,
        streams: ByStream::default(),
        journal: Journal::default(),
        is_changed: false,
        is_deaf: false,
    });
    serving.0.commit();
    serving
}

fn patience(hub: &Hub) -> Patience {
    let options = &hub.spec.borrow().options;
    Patience {
        first: options.publish_firstpkt_timeout.as_millis().into(),
        normal: options.publish_normal_timeout.as_millis().into(),
    }
}

/// Serves a connection to its end.
pub(crate) async fn serve(mut serving: Serving) {
    let driver = &mut serving.0;
    driver.conn.set_deadline(driver.machine.deadline());
    let end = std::future::poll_fn(|cx| driver.poll(cx)).await;
    if end.is_peer_error() {
        count(&driver.hub.counters.peer_errors, 1);
    }
    let peer = driver.conn.peer;
    for publisher in driver.publishers() {
        if driver.takes_line() {
            info!(%peer, stream = %publisher.key(), %end, "publisher gone");
        }
    }
    debug!(%peer, %end, "connection ended");
    let hub = Rc::clone(&driver.hub);
    drop(serving);
    hub.keeping.commit();
}

/// A connection that has a slot; dropping it, in a panic too, frees the slot.
pub(crate) struct Serving(Driver);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.hub.release(self.0.conn.id);
    }
}

/// What a message stream has of the worker's streams.
enum Activity {
    Publishing(Publisher),
    Playing(Playing),
}

struct Driver {
    hub: Rc<Hub>,
    conn: Rc<Conn>,
    machine: Machine,
    /// The message streams that do something.
    streams: ByStream<Activity>,
    /// Of what has come of messages that are not whole.
    journal: Journal,
    /// A command has changed what a player gets: it is flushed once all of the read is taken.
    is_changed: bool,
    /// The peer takes nothing any more. What it has published before is still read, to its end.
    is_deaf: bool,
}

impl Driver {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<End> {
        self.conn.set_waker(cx.waker());
        if self.machine.set_patience(patience(&self.hub)) {
            self.conn.set_deadline(self.machine.deadline());
        }
        let mut turns = 0;
        loop {
            if turns == TURNS {
                if let Err(end) = self.look_at_time() {
                    return self.last_words(end);
                }
                // A peer that sends or takes without end lets the others have their turn: timers and other sockets too, so
                // not by waking itself, which they would have to wait for many times.
                let _ = pin!(tokio::task::yield_now()).poll(cx);
                return Poll::Pending;
            }
            turns += 1;
            let is_publishing = self.publishers().next().is_some();
            match self.conn.is_cut() {
                None => {}
                Some(Cut::Lost) if is_publishing => self.is_deaf = true,
                Some(cut) => return Poll::Ready(End::Cut(cut)),
            }
            if let Err(end) = self.end_activities() {
                return self.last_words(end);
            }
            match self.write(cx) {
                Ok(true) => continue,
                Ok(false) => {}
                // The last of what it published may still be there to read.
                Err(_) if is_publishing => self.is_deaf = true,
                Err(e) => return Poll::Ready(e.into()),
            }
            match self.conn.socket.poll_read_ready(cx) {
                // A peer is silent only if nothing of it waits to be read, however long we did not get to it.
                Poll::Pending => match self.look_at_time() {
                    Ok(true) => continue,
                    Ok(false) => return Poll::Pending,
                    Err(end) => return self.last_words(end),
                },
                Poll::Ready(Err(e)) => return Poll::Ready(e.into()),
                Poll::Ready(Ok(())) => {}
            }
            let read = self.read();
            self.conn.set_deadline(self.machine.deadline());
            match read {
                Ok(true) => turns = TURNS,
                Ok(false) => {}
                Err(end) => return self.last_words(end),
            }
        }
    }

    /// What the peer is told last should reach it.
    fn last_words(&mut self, end: End) -> Poll<End> {
        if self.players().next().is_none() {
            let _ = self.conn.socket.try_write(self.machine.output());
        }
        Poll::Ready(end)
    }

    fn players(&self) -> impl Iterator<Item = &Playing> {
        self.streams.values().filter_map(|activity| match activity {
            Activity::Playing(playing) => Some(playing),
            Activity::Publishing(_) => None,
        })
    }

    fn publishers(&self) -> impl Iterator<Item = &Publisher> {
        self.streams.values().filter_map(|activity| match activity {
            Activity::Publishing(publisher) => Some(publisher),
            Activity::Playing(_) => None,
        })
    }

    /// Does what is due; true if something was.
    fn look_at_time(&mut self) -> Result<bool, End> {
        if !self.conn.take_due() {
            return Ok(false);
        }
        let now = self.hub.now();
        if let Some(wish) = self.machine.handle_timeout(now)? {
            self.grant(wish, now)?;
        }
        self.pass_replies()?;
        self.conn.set_deadline(self.machine.deadline());
        Ok(true)
    }

    /// Ends the plays that have had all that they get, what makes room for others, and what a port publishes that is taken out.
    fn end_activities(&mut self) -> Result<(), End> {
        loop {
            let now = self.hub.now();
            let ended = self.streams.iter().find_map(|(msid, activity)| match activity {
                Activity::Publishing(publisher) => Some((msid, Ending::Publish(publisher.is_to_end()?))),
                Activity::Playing(playing) => Some((msid, Ending::Play(playing.player.ended()?))),
            });
            let Some((msid, why)) = ended else { return Ok(()) };
            match why {
                Ending::Publish(why) => self.machine.end_publish(msid, why, now),
                Ending::Play(why) => self.machine.end_play(msid, why, now),
            }
            self.leave(msid)?;
            self.pass_replies()?;
            self.conn.set_deadline(self.machine.deadline());
        }
    }

    /// Sends what this task has to send itself. True if the socket's state has changed and all should be looked at again.
    fn write(&mut self, cx: &mut Context<'_>) -> io::Result<bool> {
        if self.is_deaf {
            let unheard = self.machine.output().len();
            self.machine.handle_sent(unheard);
            return Ok(false);
        }
        if self.players().next().is_some() {
            let waits = |player: &Player| player.is_parked() && !player.is_queued();
            if self.players().any(|playing| waits(&playing.player))
                && let Poll::Ready(result) = self.conn.socket.poll_write_ready(cx)
            {
                result?;
                self.in_order(waits).for_each(Playing::catch_up);
            }
            return Ok(false);
        }
        loop {
            if self.machine.output().is_empty() {
                return Ok(false);
            }
            if !self.conn.is_writer(None) {
                self.conn.set_writer(None, &self.hub.keeping);
                self.commit();
            }
            match self.conn.socket.try_write(self.machine.output()) {
                Ok(taken) => {
                    failpoints::pass("send");
                    self.conn.note_written(taken);
                    count(&self.hub.counters.bytes_out, taken as u64);
                    if self.machine.handle_sent(taken) && self.machine.is_closing() {
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

    /// Those of the players that are `meant`; first the one that is in the middle of a message.
    fn in_order(&self, is_meant: impl Fn(&Player) -> bool + Copy) -> impl Iterator<Item = &Playing> {
        let half_sent = self.players().find(|playing| playing.player.cursor.borrow().is_half_sent());
        let half_sent = half_sent.map(|playing| playing.player.msid);
        let is_first = move |playing: &&Playing| Some(playing.player.msid) == half_sent;
        let meant = move || self.players().filter(move |playing| is_meant(&playing.player));
        meant().filter(is_first).chain(meant().filter(move |playing| !is_first(playing)))
    }

    /// Reads once and acts on all of it; true if there may be much more.
    fn read(&mut self) -> Result<bool, End> {
        let keeping = &self.hub.keeping;
        let (taken, more) = {
            let mut buffer = keeping.buffer.borrow_mut();
            keeping.begin_read(self.conn.object.get());
            let read = socket::try_read(&self.conn.socket, &mut buffer);
            if !matches!(read, Ok(1..)) {
                keeping.end_read();
            }
            match read {
                Ok(0) => return Err(End::Closed),
                Ok(taken) => (taken, taken == buffer.len()),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(e) => return Err(e.into()),
            }
        };
        failpoints::pass("read");
        let handled = self.handle_read(taken);
        failpoints::pass("read.handled");
        self.hub.keeping.end_read();
        handled.map(|()| more)
    }

    /// Acts on all of the first `taken` bytes of the buffer, which were read.
    fn handle_read(&mut self, taken: usize) -> Result<(), End> {
        let hub = Rc::clone(&self.hub);
        self.conn.read.set(self.conn.read.get() + taken as u64);
        count(&hub.counters.bytes_in, taken as u64);
        if self.streams.is_empty() {
            // If it is gone, the next read says so.
            let _ = socket::acknowledge(&self.conn.socket);
        }
        let buffer = hub.keeping.buffer.borrow();
        let input = buffer.get(..taken).unwrap_or(&[]);
        let acted = self.act_on(input);
        self.journal.note(&hub.keeping.store, self.machine.reader(), input);
        drop(buffer);
        if let Some(why) = self.machine.take_left_out()
            && self.takes_line()
        {
            warn!(peer = %self.conn.peer, %why, "a message was left out");
        }
        self.publishers().for_each(Publisher::commit);
        self.pass_replies()?;
        hub.books.note_session(&self.conn.holding, self.machine.held() as u64, !self.streams.is_empty());
        relieve(&hub);
        acted
    }

    fn act_on(&mut self, mut input: &[u8]) -> Result<(), End> {
        let now = self.hub.now();
        loop {
            let wish = {
                let spec = self.hub.spec.borrow();
                let target = (spec.role == Role::Edge).then_some(spec.id.as_str());
                let secret = self.hub.secret.all();
                let proof = Proof { secret: &secret, target };
                self.machine.handle_input(&mut input, proof, now)?
            };
            let Some(wish) = wish else { return Ok(()) };
            self.grant(wish, now)?;
        }
    }

    /// Hands the session's replies to whoever writes to the socket, the first of the players, and writes down what has changed before
    /// anything of it is sent.
    fn pass_replies(&mut self) -> Result<(), End> {
        let is_changed = std::mem::take(&mut self.is_changed);
        // In order: behind those that wait already.
        let has_replies = |playing: &&Playing| self.conn.outlet.has_replies(playing.player.msid);
        let first = self.players().find(has_replies).or_else(|| self.players().next());
        let first = first.map(|playing| Rc::clone(&playing.player));
        let Some(first) = first else {
            self.commit();
            return self.machine.check_flood();
        };
        let replies = self.machine.replies();
        if replies.is_empty() && !is_changed {
            self.commit();
            return Ok(());
        }
        let accepted = first.push_control(replies);
        self.commit();
        self.in_order(|_| true).for_each(Playing::flush);
        if accepted { Ok(()) } else { Err(End::Flood) }
    }

    fn grant(&mut self, wish: Wish, now: u64) -> Result<(), End> {
        let peer = self.conn.peer;
        match wish {
            Wish::Media(message) => {
                if let Some(Activity::Publishing(publisher)) = self.streams.get(message.msid)
                    && publisher.take(&message, now)
                {
                    self.machine.handle_media(message.msid);
                }
            }
            Wish::Publish { msid, stream, clock } => {
                self.leave(msid)?;
                let is_told = self.takes_line();
                match self.publish(&stream, clock.as_deref(), now) {
                    Ok(publisher) => {
                        if is_told {
                            info!(%peer, %stream, forwarder = self.machine.is_forwarder(), "publishing");
                        }
                        self.machine.accept(now);
                        self.begin(msid, Activity::Publishing(publisher));
                    }
                    Err(refusal) => {
                        if is_told {
                            info!(%peer, %stream, code = refusal.code, refusal.description, "publish refused");
                        }
                        self.machine.refuse(&refusal, now);
                    }
                }
            }
            Wish::Play { msid, stream, length } => {
                self.leave(msid)?;
                match play(&self.hub, &stream, msid, length, &self.conn) {
                    Ok(playing) => {
                        debug!(%peer, %stream, "playing");
                        self.machine.accept(now);
                        if self.players().next().is_none() {
                            // The replies so far, and what is half sent of an earlier play.
                            playing.player.owe(self.machine.take_output());
                        }
                        self.is_changed = true;
                        self.begin(msid, Activity::Playing(playing));
                        self.share_socket();
                    }
                    Err(refusal) => {
                        debug!(%peer, %stream, code = refusal.code, refusal.description, "play refused");
                        self.machine.refuse(&refusal, now);
                    }
                }
            }
            Wish::Stop { msid } => self.leave(msid)?,
            Wish::Pause { msid, on: true } => self.with_cursor(msid, |cursor, _| cursor.pause()),
            Wish::Pause { msid, on: false } => self.with_cursor(msid, |cursor, from| cursor.resume(from)),
            Wish::Mute { msid, track, off } => {
                self.with_cursor(msid, |cursor, from| cursor.mute(track, off, from));
            }
        }
        Ok(())
    }

    fn publish(&self, key: &StreamKey, clock: Option<&str>, now: u64) -> Result<Publisher, Refusal> {
        let most = self.hub.spec.borrow().options.max_streams;
        if clock.is_none() && !self.hub.sources.take_publish(self.conn.source, now, most) {
            self.hub.tally.count(Limit::PublishRate, now);
            return Err(Refusal {
                code: "NetStream.Publish.BadName",
                description: "your address publishes too often; wait 10 s".to_owned(),
            });
        }
        publish(&self.hub, key, clock, &self.conn)
    }

    /// Whether the peer may cause one more line of the log.
    fn takes_line(&self) -> bool {
        let may = self.hub.sources.take_line(self.conn.source, self.hub.now());
        if !may {
            self.hub.conn_lines.leave_out();
        }
        may && self.hub.conn_lines.take(self.hub.now())
    }

    fn begin(&mut self, msid: u32, activity: Activity) {
        self.conn.was_served.set(true);
        self.hub.slots.borrow_mut().set_open(self.conn.id, false);
        self.streams.insert(msid, activity);
    }

    /// The message stream publishes or plays no more, if it did, and may do so again.
    fn leave(&mut self, msid: u32) -> Result<(), End> {
        let Some(activity) = self.streams.remove(msid) else { return Ok(()) };
        if self.streams.is_empty() {
            self.hub.slots.borrow_mut().set_open(self.conn.id, true);
        }
        match activity {
            Activity::Publishing(publisher) => {
                if self.takes_line() {
                    let why = publisher.is_to_end();
                    let makes_room = why == Some(PublishEnd::MadeRoom);
                    let taken_out = why.is_some() && !makes_room;
                    info!(peer = %self.conn.peer, stream = %publisher.key(), makes_room, taken_out, "unpublished");
                }
                publisher.finish();
                Ok(())
            }
            Activity::Playing(playing) => self.hand_over(&playing.player),
        }
    }

    /// What a player that goes still owes is sent by the next one, or by this task.
    fn hand_over(&mut self, player: &Player) -> Result<(), End> {
        self.conn.outlet.note(player.msid, false, false);
        let next = self.players().next().map(|playing| Rc::clone(&playing.player));
        match next {
            None => {
                let owed = player.cursor.borrow().half_sent();
                let rest = player.change(Cursor::take_rest);
                self.machine.owe(rest, owed)?;
                // Who wrote last is to be somebody who is there: from it the next worker counts.
                if !self.conn.is_writer(None) {
                    self.conn.set_writer(None, &self.hub.keeping);
                }
            }
            Some(next) if player.cursor.borrow().is_half_sent() => {
                next.owe(player.change(Cursor::take_rest));
            }
            Some(next) => {
                if !next.push_control(&mut player.change(Cursor::take_control)) {
                    return Err(End::Flood);
                }
            }
        }
        self.is_changed = true;
        self.share_socket();
        Ok(())
    }

    /// Tells the players whether they share the socket.
    fn share_socket(&self) {
        let is_shared = self.players().count() > 1;
        self.players().for_each(|playing| playing.player.change(|cursor| cursor.share(is_shared)));
    }

    /// Gives `change` the player's cursor, and where a player begins that comes now.
    fn with_cursor(&mut self, msid: u32, change: impl FnOnce(&mut Cursor, u64)) {
        if let Some(Activity::Playing(playing)) = self.streams.get(msid) {
            let from = playing.begin();
            playing.player.change(|cursor| change(cursor, from));
            self.is_changed = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rtmp::client::{self, Mode};
    use rtmp::message_type::{AUDIO, WINDOW_ACK_SIZE};
    use rtmp::server::StreamKey;
    use rtmp::{chunk, wire};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::LocalSet;

    use super::*;
    use crate::testing::spec;

    /// More than one read, and less than a kernel takes at once.
    const FRAMES: u32 = 50;

    async fn publish(socket: &TcpStream) -> client::Session {
        let url = "rtmp://127.0.0.1/live/a".parse().unwrap();
        let mut session = client::Session::new(client::Config::new(Mode::Publish, url)).unwrap();
        let mut buffer = vec![0; 8 * 1024];
        loop {
            socket::write_all(socket, session.output()).await.unwrap();
            socket.readable().await.unwrap();
            let Ok(taken) = socket.try_read(&mut buffer) else { continue };
            let mut input = &buffer[..taken];
            while let Some(event) = session.handle_input(&mut input).unwrap() {
                if event == client::Event::Started {
                    return session;
                }
            }
        }
    }

    #[tokio::test]
    async fn what_a_publisher_sent_before_it_went_without_reading_is_taken() {
        let test = async {
            let hub = Hub::new(spec(Role::Origin), vec![7; 32]);
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let socket = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
            let (accepted, peer) = listener.accept().await.unwrap();
            let conn = hub.admit(accepted, peer).unwrap();
            tokio::task::spawn_local(serve(begin(Rc::clone(&hub), conn)));
            let session = publish(&socket).await;

            // It is acknowledged again and again, and resets the connection at once.
            let (mut bytes, size) = (Vec::new(), session.chunk_size());
            let window = 2_048_u32.to_be_bytes();
            chunk::put_full(&mut bytes, size, wire::csid::CONTROL, 0, WINDOW_ACK_SIZE, 0, &window);
            let mut payload = [0; 1_000];
            payload[..2].copy_from_slice(&[0xAF, 1]);
            for frame in 0..FRAMES {
                chunk::put_full(
                    &mut bytes,
                    size,
                    wire::csid::AUDIO,
                    frame * 20,
                    AUDIO,
                    session.msid(),
                    &payload,
                );
            }
            assert_eq!(socket.try_write(&bytes).unwrap(), bytes.len());
            rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO)).unwrap();
            drop(socket);

            while hub.conns() > 0 {
                tokio::task::yield_now().await;
            }
            let channel = hub.find(&StreamKey::parse("live", "a").unwrap()).expect("media are left");
            let log = channel.log();
            assert_eq!(log.position(log.end()).0, u64::from(FRAMES));
        };
        let limit = Duration::from_secs(20);
        tokio::time::timeout(limit, LocalSet::new().run_until(test)).await.expect("the connection is kept");
    }
}
