//! Publishing: who may, and the way of what is published.

use std::cell::Cell;
use std::net::IpAddr;
use std::rc::Rc;

use cluster::{Drain, EndOfStream, Role};
use rtmp::chunk::Message;
use rtmp::server::{PublishEnd, StreamKey};
use stream::{Ended, PublicationId, Sender};

use crate::channel::Channel;
use crate::conn::end::Cut;
use crate::conn::handle::Conn;
use crate::conn::machine::Refusal;
use crate::egress::forward;
use crate::hub::{Hub, wall_clock};
use crate::tally::Limit;

/// What publishers are told at an origin that is taken out, those who come and those who are left at the end.
const TAKEN_OUT: &str = "this origin is taken out of its cluster; publish to another one";

/// The right to publish a stream; dropping it ends the publication, unless another has replaced it.
pub(crate) struct Publisher {
    hub: Rc<Hub>,
    channel: Rc<Channel>,
    /// Whose share it uses.
    source: IpAddr,
    id: PublicationId,
    has_media: Cell<bool>,
    /// Whether media have come since the last commit.
    is_fresh: Cell<bool>,
    has_finished: Cell<bool>,
}

/// Makes `conn` the publisher of `key`, if the rules allow it; `clock` is that of a proven forwarder of the origin.
pub(crate) fn publish(
    hub: &Rc<Hub>,
    key: &StreamKey,
    clock: Option<&str>,
    conn: &Rc<Conn>,
) -> Result<Publisher, Refusal> {
    let role = hub.spec.borrow().role;
    if role == Role::Edge && clock.is_none() {
        return Err(Refusal {
            code: "NetStream.Publish.Denied",
            description: "this is an edge: publish to the cluster's origin".to_owned(),
        });
    }
    if role == Role::Origin && !hub.spec.borrow().drain.is_no() {
        return Err(Refusal { code: "NetStream.Publish.Denied", description: TAKEN_OUT.to_owned() });
    }
    let channel = hub.find(key);
    // A half-open connection of the origin must never hold its place; any other publisher keeps it.
    if clock.is_none() && channel.as_ref().is_some_and(|channel| channel.is_publishing()) {
        return Err(bad_name(format!("{key} is being published by somebody else")));
    }
    // Where the origin moves, the old one still has its encoder for a while: the new one takes the stream once, and they do not take it
    // from each other.
    let is_outdone = |channel: &Rc<Channel>| {
        clock.is_some() && channel.is_publishing() && channel.outdone.borrow().as_deref() == clock
    };
    if channel.as_ref().is_some_and(is_outdone) {
        return Err(bad_name(format!("another origin forwards {key} by now")));
    }
    if !channel.is_some_and(|channel| channel.is_held()) && !hub.make_room(key, conn) {
        hub.tally.count(Limit::Streams, hub.now());
        let most = hub.spec.borrow().options.max_streams;
        return Err(bad_name(format!("{most} streams are being published, the limit (max_streams)")));
    }
    // Waiting players cannot use up the names: publishers have their own limit.
    let channel = hub.channel(key, usize::MAX).ok_or_else(|| bad_name(format!("{key} has no place")))?;
    let sender = match clock {
        Some(clock) => Sender::Forwarder { clock },
        None => Sender::Encoder { clock: wall_clock() },
    };
    if let Some(before) = channel.stream().clock().filter(|before| Some(*before) != clock) {
        *channel.outdone.borrow_mut() = Some(before.to_owned()).filter(|_| channel.is_publishing());
    }
    let (id, replaced) = channel.stream_mut().publish(conn.id, sender, hub.now());
    channel.began.set(hub.now());
    channel.number.set(hub.publications.replace(hub.publications.get() + 1));
    channel.is_to_end.set(false);
    // By another connection; one may publish on several of its message streams.
    if let Some(replaced) = replaced.filter(|replaced| *replaced != conn.id) {
        hub.cut(replaced, Cut::Replaced);
    }
    channel.announce();
    Ok(Publisher::new(hub, channel, conn.source, id))
}

/// Ends a publication of a process before, whose connection is gone.
pub(crate) fn end_orphan(hub: &Rc<Hub>, channel: &Rc<Channel>) {
    let publication = channel.stream().publication();
    if let Some(id) = publication {
        let source = IpAddr::from([0; 4]);
        drop(Publisher::new(hub, Rc::clone(channel), source, id));
    }
}

fn bad_name(description: String) -> Refusal {
    Refusal { code: "NetStream.Publish.BadName", description }
}

impl Publisher {
    fn new(hub: &Rc<Hub>, channel: Rc<Channel>, source: IpAddr, id: PublicationId) -> Self {
        Self {
            hub: Rc::clone(hub),
            channel,
            source,
            id,
            has_media: Cell::new(false),
            is_fresh: Cell::new(false),
            has_finished: Cell::new(false),
        }
    }

    /// What a record has of it.
    pub(crate) fn saved(&self) -> (PublicationId, bool) {
        (self.id, self.has_media.get())
    }

    /// The publisher of a record. If another has replaced it, its connection is to end.
    pub(crate) fn restore(
        hub: &Rc<Hub>,
        channel: Rc<Channel>,
        conn: &Conn,
        (id, has_media): (PublicationId, bool),
    ) -> Self {
        if channel.stream().publisher() != Some(conn.id) {
            conn.cut(Cut::Replaced);
        }
        let this = Self::new(hub, channel, conn.source, id);
        this.has_media.set(has_media);
        this
    }

    /// The stream that it publishes.
    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    pub(crate) fn key(&self) -> &StreamKey {
        &self.channel.key
    }

    /// Why its publication is to end, if it is: it makes room for another, or the port for nobody.
    pub(crate) fn is_to_end(&self) -> Option<PublishEnd> {
        if !self.channel.is_to_end.get() {
            return None;
        }
        let spec = self.hub.spec.borrow();
        let is_taken_out = spec.role == Role::Origin && spec.drain == Drain::Close;
        Some(if is_taken_out { PublishEnd::Denied(TAKEN_OUT) } else { PublishEnd::MadeRoom })
    }

    /// Takes one message; true if it was media. The first media starts the forwarders: a name alone costs no connection. In a flood of names they wait
    /// for their turn ([`forward::start_late`]).
    pub(crate) fn take(&self, message: &Message, now: u64) -> bool {
        let is_media = self.channel.stream_mut().take(self.id, message, now);
        self.is_fresh.set(self.is_fresh.get() | is_media);
        if is_media {
            self.channel.is_open.set(true);
        }
        if is_media && !self.has_media.replace(true) && self.hub.sources.take_forward(self.source, now) {
            forward::sync(&self.hub, &self.channel);
        }
        is_media
    }

    /// What was taken since the last time becomes visible to forwarders and players.
    pub(crate) fn commit(&self) {
        if self.is_fresh.take() {
            self.channel.announce();
            self.hub.mark_dirty(&self.channel);
        }
    }

    /// The publisher says that its publication is over: the next one is another.
    pub(crate) fn finish(self) {
        self.has_finished.set(true);
    }

    /// Whether players are told of this end. On an edge a connection that broke off is no end: the origin comes back, or says so, of what
    /// an earlier connection has brought too.
    fn is_end_told(&self, how: Ended) -> bool {
        let spec = self.hub.spec.borrow();
        self.channel.is_open.get()
            && spec.options.end_of_stream == EndOfStream::Close
            && (spec.role == Role::Origin || how == Ended::Finished)
    }

    fn end_players(&self) {
        self.channel.is_open.set(false);
        let end = self.channel.log().end();
        for player in self.channel.players.borrow().iter() {
            player.end_at(end);
        }
        self.hub.mark_dirty(&self.channel);
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let how = if self.has_finished.get() { Ended::Finished } else { Ended::BrokenOff };
        // The last of it may have come with its end.
        self.commit();
        if self.channel.stream_mut().end(self.id, how, self.hub.now()) {
            self.channel.announce();
            if self.is_end_told(how) {
                self.end_players();
            }
            self.hub.forget_if_useless(&self.channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use cluster::{Target, UnitId, WorkerOptions, WorkerSpec};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::LocalSet;

    use super::*;
    use crate::egress::play::play;
    use crate::testing::spec;

    fn origin() -> Rc<Hub> {
        let options = WorkerOptions { max_streams: MAX_STREAMS as u32, ..WorkerOptions::default() };
        Hub::new(WorkerSpec { options, ..spec(Role::Origin) }, vec![7; 32])
    }

    /// To one port, where nobody is.
    fn origin_that_forwards(targets: u16) -> Rc<Hub> {
        let hub = origin();
        let target = |port| {
            let id = UnitId::worker(Role::Edge, "e", port);
            Target { id, host: "127.0.0.1".to_owned(), port, address: None }
        };
        hub.spec.borrow_mut().forward = (1..=targets).map(target).collect();
        hub
    }

    const MAX_STREAMS: usize = 64;

    async fn conn(hub: &Hub) -> Rc<Conn> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        hub.admit(TcpStream::connect(address).await.unwrap(), address).unwrap()
    }

    fn key(number: usize) -> StreamKey {
        StreamKey::parse("live", &number.to_string()).unwrap()
    }

    fn audio() -> Message {
        Message { csid: 5, type_id: 8, msid: 1, timestamp: 0, payload: vec![0xAF, 1, 2].into() }
    }

    #[tokio::test]
    async fn whoever_publishes_name_after_name_leaves_no_more_than_the_limit_behind() {
        let test = async {
            let hub = origin();
            let conn = conn(&hub).await;
            let waiting = play(&hub, &key(3), 1, None, &conn).unwrap();
            for number in 0..1_000 {
                let publisher = publish(&hub, &key(number), None, &conn).unwrap();
                assert!(publisher.take(&audio(), hub.now()));
                publisher.finish();
                let held = hub.channels().iter().filter(|channel| channel.is_held()).count();
                assert!(held <= MAX_STREAMS, "{held}");
                // And the name that somebody waits for.
                assert!(hub.channels().len() <= MAX_STREAMS + 1);
            }
            assert!(hub.find(&key(3)).is_some(), "a player keeps its name");
            assert!(hub.find(&key(999)).is_some(), "the newest is still there");
            drop(waiting);
            assert!(hub.find(&key(3)).is_none());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_flood_of_names_starts_few_forwards_at_once_and_each_that_is_left_in_its_turn() {
        let flood = async |targets: u16, most_late: usize| {
            let hub = origin_that_forwards(targets);
            let conn = conn(&hub).await;
            let mut started = 0;
            for number in 0..1_000 {
                let publisher = publish(&hub, &key(number), None, &conn).unwrap();
                assert!(publisher.take(&audio(), hub.now()));
                started += hub.find(&key(number)).unwrap().forwards.borrow().len();
            }
            assert!((1..=32 * usize::from(targets)).contains(&started), "{started}");
            let stays = publish(&hub, &key(5), None, &conn).unwrap();
            assert!(stays.take(&audio(), hub.now()));
            assert!(hub.find(&key(5)).unwrap().forwards.borrow().is_empty());
            let forwarded = || {
                let channels = hub.channels();
                channels.iter().filter(|channel| !channel.forwards.borrow().is_empty()).count()
            };
            // All that are left are over, but for this one.
            let before = forwarded();
            forward::start_late(&hub);
            assert_eq!(hub.find(&key(5)).unwrap().forwards.borrow().len(), usize::from(targets));
            let waited = forwarded() - before - 1;
            assert!((1..=most_late).contains(&waited), "{waited} of those that are over");
            for _ in 0..MAX_STREAMS {
                forward::start_late(&hub);
            }
            assert_eq!(forwarded(), hub.channels().len(), "each has its turn");
        };
        LocalSet::new().run_until(flood(1, 8)).await;
        LocalSet::new().run_until(flood(64, 1)).await;
    }

    #[tokio::test]
    async fn a_name_of_which_nothing_is_kept_leaves_nothing_behind() {
        let test = async {
            let hub = origin_that_forwards(1);
            let conn = conn(&hub).await;
            let publisher = publish(&hub, &key(1), None, &conn).unwrap();
            let channel = Rc::downgrade(&hub.find(&key(1)).unwrap());
            drop(publisher);
            hub.take_dirty();
            assert!(hub.channels().is_empty());
            while channel.strong_count() > 0 {
                tokio::task::yield_now().await;
            }
        };
        let limit = std::time::Duration::from_secs(20);
        tokio::time::timeout(limit, LocalSet::new().run_until(test))
            .await
            .expect("a channel is held for ever");
    }

    #[tokio::test]
    async fn an_edge_that_hears_of_an_end_by_a_later_connection_tells_its_players() {
        let test = async {
            let hub = origin();
            hub.spec.borrow_mut().role = Role::Edge;
            hub.spec.borrow_mut().options.end_of_stream = EndOfStream::Close;
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = listener.local_addr().unwrap();
            let conn = hub.admit(TcpStream::connect(address).await.unwrap(), address).unwrap();
            conn.socket.writable().await.unwrap();
            let waiting = play(&hub, &key(1), 1, None, &conn).unwrap();
            // Nothing has come yet.
            publish(&hub, &key(1), Some("clock"), &conn).unwrap().finish();
            waiting.flush();
            assert_eq!(waiting.player.ended(), None);
            let publisher = publish(&hub, &key(1), Some("clock"), &conn).unwrap();
            assert!(publisher.take(&audio(), hub.now()));
            drop(publisher);
            waiting.flush();
            assert_eq!(waiting.player.ended(), None, "the forwarder comes back");
            publish(&hub, &key(1), Some("clock"), &conn).unwrap().finish();
            waiting.flush();
            assert!(waiting.player.ended().is_some());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn only_a_stream_with_players_asks_for_a_pass() {
        let test = async {
            let hub = origin();
            let conn = conn(&hub).await;
            let publisher = publish(&hub, &key(1), None, &conn).unwrap();
            let publish = || {
                publisher.take(&audio(), hub.now());
                publisher.commit();
                hub.take_dirty().iter().filter(|channel| channel.dirty.replace(false)).count()
            };
            assert_eq!(publish(), 0);
            let playing = play(&hub, &key(1), 1, None, &conn).unwrap();
            assert_eq!(publish(), 1);
            drop(playing);
            assert_eq!(publish(), 0);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn what_no_reader_needs_is_dropped_a_second_later_and_the_slowest_reader_counts() {
        let test = async {
            let hub = origin();
            let conn = conn(&hub).await;
            let publisher = publish(&hub, &key(1), None, &conn).unwrap();
            let channel = hub.find(&key(1)).unwrap();
            let publish = |frames: std::ops::Range<u32>| {
                for frame in frames {
                    let payload = if frame.is_multiple_of(25) { [0x17, 1] } else { [0x27, 1] };
                    let payload = payload.to_vec().into();
                    let message = Message { csid: 6, type_id: 9, msid: 1, timestamp: frame * 20, payload };
                    assert!(publisher.take(&message, hub.now()));
                }
                channel.log().position(0).0
            };
            assert_eq!(publish(0..100), 0);
            hub.tick();
            // All before the newest keyframe but one.
            assert_eq!(publish(100..101), 99);
            let slow = play(&hub, &key(1), 1, None, &conn).unwrap();
            assert_eq!(publish(101..150), 99);
            hub.tick();
            assert_eq!(publish(150..200), 99);
            drop(slow);
            hub.tick();
            assert_eq!(publish(200..201), 199);
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn streams_that_are_published_are_never_displaced() {
        let test = async {
            let hub = origin();
            let conn = conn(&hub).await;
            let mut publishers: Vec<_> =
                (0..MAX_STREAMS).map(|number| publish(&hub, &key(number), None, &conn).unwrap()).collect();
            assert!(publishers.iter().all(|publisher| publisher.take(&audio(), hub.now())));
            let refusal = publish(&hub, &key(99), None, &conn).err().unwrap();
            assert_eq!(refusal.code, "NetStream.Publish.BadName");
            assert!(refusal.description.contains("max_streams"), "{}", refusal.description);
            let limits = hub.tally.stats(&hub.spec.borrow().options, hub.now());
            let [limit] = &limits[..] else { panic!("{limits:?}") };
            assert_eq!((&*limit.limit, limit.count), ("max_streams", 1));
            assert_eq!((hub.tally.refused(), hub.tally.refused_publishers()), (1, 1));
            drop(publishers.pop());
            assert!(publish(&hub, &key(99), None, &conn).is_ok());
        };
        LocalSet::new().run_until(test).await;
    }
}
