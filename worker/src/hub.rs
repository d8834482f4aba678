//! What the connections of one worker share: channels by key, connections by number, counters, the spec in force.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cluster::WorkerSpec;
use rtmp::server::StreamKey;
use rtmp::wire::CHUNK_SIZE;
use shm::Id;
use stream::{ConnId, Stream};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::warn;

use crate::budget::{Budget, Sources};
use crate::channel::Channel;
use crate::conn::end::Cut;
use crate::conn::handle::Conn;
use crate::counters::{Counters, Lag, count};
use crate::egress::outbound::Lookups;
use crate::egress::player::Player;
use crate::keeping::{Keeping, PortRecord, kind};
use crate::limits::{Admission, NAMES_MAX, Slots};
use crate::memory::Books;
use crate::places::{self, JUDGED_AFTER, KnownNames, Place, Standing, Waiting};
use crate::secret::Secrets;
use crate::tally::{Limit, Tally};

/// A stream that nobody publishes nor plays is forgotten after this long, ms; earlier where room is needed.
const FORGET_AFTER: u64 = 10_000;

/// See the [module](self).
pub(crate) struct Hub {
    pub(crate) spec: RefCell<WorkerSpec>,
    /// Between origin and edges.
    pub(crate) secret: Secrets,
    /// Names this process in the names of its streams' clocks.
    process: String,
    channels_made: Cell<u64>,
    /// Publications so far.
    pub(crate) publications: Cell<u64>,
    epoch: Instant,
    /// What the port's clock had reached when this process began.
    before: Duration,
    pub(crate) keeping: Rc<Keeping>,
    /// Its record.
    object: Option<Id>,
    pub(crate) counters: Counters,
    pub(crate) tally: Tally,
    pub(crate) books: Books,
    pub(crate) lag: Lag,
    /// Log lines that connections cause.
    pub(crate) conn_lines: Budget,
    /// Log lines that forwards cause: one for each target of each stream.
    pub(crate) forward_lines: Budget,
    /// Names of targets beyond the edges that are looked up.
    pub(crate) lookups: Lookups,
    /// What each address may cause.
    pub(crate) sources: Sources,
    /// Connections of each address that came to nothing.
    connects: Sources,
    known: RefCell<KnownNames<StreamKey>>,
    channels: RefCell<HashMap<StreamKey, Rc<Channel>>>,
    /// Every open connection.
    conns: RefCell<BTreeMap<ConnId, Rc<Conn>>>,
    pub(crate) slots: RefCell<Slots>,
    conns_made: Cell<u64>,
    pub(crate) players: Cell<u32>,
    /// Channels with something to send.
    dirty: RefCell<Vec<Rc<Channel>>>,
    pub(crate) flush_wanted: Notify,
    /// Players that were parked and could take more, in turn.
    catching_up: RefCell<VecDeque<(Rc<Channel>, Rc<Player>)>>,
    pub(crate) catch_up_wanted: Notify,
}

impl Hub {
    /// A port that ends with this process.
    #[cfg(test)]
    pub(crate) fn new(spec: WorkerSpec, secret: Vec<u8>) -> Rc<Self> {
        let keeping = Rc::new(Keeping::new(shm::Store::private(1 << 20), None));
        Self::with(spec, secret, &keeping, (None, PortRecord::default()))
    }

    /// A port that goes on from what `port` says, the record `object`.
    pub(crate) fn with(
        spec: WorkerSpec,
        secret: Vec<u8>,
        keeping: &Rc<Keeping>,
        (object, port): (Option<Id>, PortRecord),
    ) -> Rc<Self> {
        let counters = Counters::default();
        counters.restore(&port.counters);
        let tally = Tally::default();
        let of_tally = port.counters.get(counters.values().len()..).unwrap_or_default();
        tally.restore(of_tally, u64::try_from(port.age().as_millis()).unwrap_or(u64::MAX));
        let books = Books::new(spec.options.memory);
        Rc::new(Self {
            spec: RefCell::new(spec),
            secret: Secrets::new(secret),
            process: format!("{:016x}", getrandom::u64().unwrap_or_else(|_| wall_clock())),
            channels_made: Cell::new(0),
            publications: Cell::new(0),
            epoch: Instant::now(),
            before: port.age(),
            object: object.or_else(|| keeping.store.add()),
            keeping: Rc::clone(keeping),
            counters,
            tally,
            books,
            lag: Lag::default(),
            conn_lines: Budget::of_lines(),
            forward_lines: Budget::of_lines(),
            lookups: Lookups::default(),
            sources: Sources::of_peers(),
            connects: Sources::of_connections(),
            known: RefCell::default(),
            channels: RefCell::default(),
            conns: RefCell::default(),
            slots: RefCell::default(),
            conns_made: Cell::new(0),
            players: Cell::new(0),
            dirty: RefCell::default(),
            flush_wanted: Notify::new(),
            catching_up: RefCell::default(),
            catch_up_wanted: Notify::new(),
        })
    }

    /// Milliseconds since the port's first process began; they go on when another takes its place.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from((self.before + self.epoch.elapsed()).as_millis()).unwrap_or(u64::MAX)
    }

    /// Writes down what the port as a whole is.
    pub(crate) fn save(&self) {
        let counters = [self.counters.values(), self.tally.values()].concat();
        let port = PortRecord::new(self.before + self.epoch.elapsed(), counters);
        self.keeping.put(self.object, kind::PORT, |bytes| postcard::to_extend(&port, bytes).ok());
    }

    /// Takes in a connection that a process before has accepted.
    pub(crate) fn take_over(&self, conn: &Rc<Conn>) {
        let (capacity, is_source) = self.room_for(conn.peer);
        // It has its slot already, however many there are by now.
        self.slots.borrow_mut().admit(conn.id, conn.source, is_source, capacity.max(self.conns() + 1));
        self.slots.borrow_mut().set_open(conn.id, !conn.was_served.get());
        self.conns_made.set(self.conns_made.get().max(conn.id.0 + 1));
        self.conns.borrow_mut().insert(conn.id, Rc::clone(conn));
    }

    /// Takes in a stream that a process before has left.
    pub(crate) fn take_over_stream(&self, channel: &Rc<Channel>) {
        self.publications.set(self.publications.get().max(channel.number.get() + 1));
        self.known.borrow_mut().note(&channel.key, channel.carried.get());
        // That process may have been told of another one, and have written down the spec alone.
        channel.stream_mut().set_queue_length(self.queue_length());
        self.channels.borrow_mut().insert(channel.key.clone(), Rc::clone(channel));
    }

    /// Media that are kept for slow players, ms.
    pub(crate) fn queue_length(&self) -> u64 {
        self.spec.borrow().options.queue_length.as_millis().into()
    }

    /// How many slots there are, and whether streams come from the address of `peer`.
    fn room_for(&self, peer: SocketAddr) -> (usize, bool) {
        let spec = self.spec.borrow();
        let is_source = spec.sources.contains(&peer.ip().to_canonical());
        let capacity = spec.connections() as usize;
        if self.conns() < capacity {
            return (capacity, is_source);
        }
        // No more than an earlier spec allowed: beyond the limits nobody comes to play or to publish.
        (spec.connections_beside(self.players.get(), self.publishers()) as usize, is_source)
    }

    /// Streams that are published.
    pub(crate) fn publishers(&self) -> u32 {
        let publishers = self.channels.borrow().values().filter(|channel| channel.is_publishing()).count();
        u32::try_from(publishers).unwrap_or(u32::MAX)
    }

    /// Whether a connection from `peer` is refused while others wait to be accepted: its address has had too many that came to nothing.
    /// Never one of the origin.
    pub(crate) fn is_flood(&self, peer: SocketAddr) -> bool {
        let is_flood = self.connects.has_many_voids(places::source(peer), self.now())
            && !self.spec.borrow().sources.contains(&peer.ip().to_canonical());
        if is_flood {
            self.tally.count(Limit::ConnectRate, self.now());
        }
        is_flood
    }

    /// Takes an accepted connection in, if there is a slot for it.
    pub(crate) fn admit(&self, socket: TcpStream, peer: SocketAddr) -> Option<Rc<Conn>> {
        let (capacity, is_source) = self.room_for(peer);
        let id = ConnId(self.conns_made.replace(self.conns_made.get() + 1));
        let admission = self.slots.borrow_mut().admit(id, places::source(peer), is_source, capacity);
        match admission {
            Admission::Taken => {}
            Admission::Evicts(victim) => {
                self.tally.count(Limit::Connections, self.now());
                self.cut(victim, Cut::Evicted);
            }
            Admission::Refused => {
                self.tally.count(Limit::Connections, self.now());
                return None;
            }
        }
        let conn = Rc::new(Conn::new(id, peer, socket));
        conn.object.set(self.keeping.store.add());
        self.conns.borrow_mut().insert(id, Rc::clone(&conn));
        count(&self.counters.accepted, 1);
        Some(conn)
    }

    /// A connection is gone.
    pub(crate) fn release(&self, id: ConnId) {
        if let Some(conn) = self.conns.borrow_mut().remove(&id) {
            self.books.close(&conn.holding);
            if let Some(object) = conn.object.take() {
                self.keeping.store.remove(object);
            }
            if !conn.was_served.get() {
                self.connects.note_void(conn.source, self.now());
            }
        }
        self.slots.borrow_mut().release(id);
    }

    /// Ends a connection, if it is still there.
    pub(crate) fn cut(&self, id: ConnId, why: Cut) {
        if let Some(conn) = self.conns.borrow().get(&id) {
            conn.cut(why);
        }
    }

    /// Where a connection comes from, if it is still there.
    pub(crate) fn peer(&self, id: ConnId) -> Option<SocketAddr> {
        self.conns.borrow().get(&id).map(|conn| conn.peer)
    }

    /// Every open connection.
    pub(crate) fn open(&self) -> Vec<Rc<Conn>> {
        self.conns.borrow().values().cloned().collect()
    }

    pub(crate) fn conns(&self) -> usize {
        self.conns.borrow().len()
    }

    pub(crate) fn channels(&self) -> Vec<Rc<Channel>> {
        self.channels.borrow().values().cloned().collect()
    }

    pub(crate) fn find(&self, key: &StreamKey) -> Option<Rc<Channel>> {
        self.channels.borrow().get(key).cloned()
    }

    /// The channel of `key`; a new one only while there are fewer than `names`.
    pub(crate) fn channel(&self, key: &StreamKey, names: usize) -> Option<Rc<Channel>> {
        if let Some(channel) = self.find(key) {
            return Some(channel);
        }
        let mut channels = self.channels.borrow_mut();
        if channels.len() >= names {
            return None;
        }
        let mut stream = Stream::new(&self.keeping.store, CHUNK_SIZE, self.queue_length(), self.now());
        stream.count_in(self.books.media.clone());
        let number = self.channels_made.replace(self.channels_made.get() + 1);
        let clock = format!("{}-{number}", self.process);
        let channel = Channel::new(key.clone(), clock, stream, &self.keeping);
        channel.carried.set(self.known.borrow().carried(key));
        channels.insert(key.clone(), Rc::clone(&channel));
        Some(channel)
    }

    /// Makes room for one more stream, `key` that `by` publishes: where `max_streams` are published or hold media, the one that ended
    /// first drops its media; when all are published, [`places::displaced`] says who makes room. False if nobody does.
    pub(crate) fn make_room(&self, key: &StreamKey, by: &Conn) -> bool {
        let most = self.spec.borrow().options.max_streams as usize;
        loop {
            // A publisher that was told to make room has gone as good as.
            let held: Vec<_> =
                self.channels().into_iter().filter(|c| c.is_held() && !self.is_leaving(c)).collect();
            if held.len() < most {
                return true;
            }
            let ended = held.iter().filter_map(|channel| Some((channel.stream().idle_since()?, channel)));
            if let Some((_, channel)) = ended.min_by_key(|(since, _)| *since) {
                channel.clear();
                self.forget_if_useless(channel);
                continue;
            }
            let places = held.iter().filter_map(|channel| Some((self.place(channel)?, channel)));
            let (places, published): (Vec<_>, Vec<_>) = places.unzip();
            let is_known = self.known.borrow().has(key);
            let displaced = places::displaced(&places, by.source, is_known);
            let Some(channel) = displaced.and_then(|index| published.get(index)) else { return false };
            self.tally.count(Limit::StreamsRoom, self.now());
            channel.is_to_end.set(true);
            channel.touch();
            // Its task ends the publication.
            self.publisher(channel).inspect(|conn| conn.wake());
        }
    }

    /// Whether its publication is being ended.
    fn is_leaving(&self, channel: &Channel) -> bool {
        let publisher = self.publisher(channel);
        publisher.is_some_and(|conn| channel.is_to_end.get() || conn.is_cut().is_some())
    }

    fn publisher(&self, channel: &Channel) -> Option<Rc<Conn>> {
        let id = channel.stream().publisher()?;
        self.conns.borrow().get(&id).cloned()
    }

    fn place(&self, channel: &Channel) -> Option<Place> {
        let conn = self.publisher(channel)?;
        let is_young = self.now().saturating_sub(channel.began.get()) < JUDGED_AFTER;
        let standing = if self.known.borrow().has(&channel.key) {
            Standing::Known
        } else if is_young || self.carries(channel) {
            Standing::Carrying
        } else {
            Standing::Idle
        };
        Some(Place { source: conn.source, standing, number: channel.number.get() })
    }

    /// Whether more than next to nothing is published there.
    fn carries(&self, channel: &Channel) -> bool {
        let stream = channel.stream();
        stream.publisher().is_some() && stream.stats().bitrate() >= places::IDLE_RATE
    }

    /// Makes a place for one more player, `conn`, which `has_media` before it or would wait: one of those who wait goes. False if
    /// none has to.
    pub(crate) fn displace_waiting(&self, conn: &Conn, has_media: bool) -> bool {
        let players: Vec<_> = self.channels().iter().flat_map(|channel| waiting(channel)).collect();
        let waiting: Vec<_> = players.iter().map(|player| place_of(player)).collect();
        let displaced = places::gives_way(&waiting, conn.source, has_media);
        let Some(player) = displaced.and_then(|index| players.get(index)) else { return false };
        self.tally.count(Limit::PlayersRoom, self.now());
        player.make_room();
        true
    }

    /// Gives up one of the names that are waited for, and with it those who wait; only where there are [`NAMES_MAX`].
    pub(crate) fn make_room_for_name(&self) {
        let channels = self.channels();
        if channels.len() < NAMES_MAX {
            return;
        }
        let places = |channel| waiting(channel).iter().map(|player| place_of(player)).collect();
        let names: Vec<(_, Vec<_>)> = channels.iter().map(|channel| (channel, places(channel))).collect();
        let Some(given_up) = places::name_given_up(names.iter().map(|(name, waiting)| (*name, &waiting[..])))
        else {
            return;
        };
        self.tally.count(Limit::Names, self.now());
        for player in given_up.players.borrow().iter() {
            player.make_room();
        }
        // Its players hold it until they are gone.
        self.channels.borrow_mut().remove(&given_up.key);
    }

    /// A name without media and players is worth nothing.
    pub(crate) fn forget_if_useless(&self, channel: &Channel) {
        if !channel.is_held() && channel.players.borrow().is_empty() {
            // Their tasks hold the channel.
            channel.forwards.borrow_mut().clear();
            let mut channels = self.channels.borrow_mut();
            // Another may have its name by now.
            if channels.get(&channel.key).is_some_and(|other| std::ptr::eq(&raw const **other, channel)) {
                channels.remove(&channel.key);
            }
        }
    }

    /// `channel` has something for its players, if there are any.
    pub(crate) fn mark_dirty(&self, channel: &Rc<Channel>) {
        if !channel.players.borrow().is_empty() && !channel.dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(channel));
            self.flush_wanted.notify_one();
        }
    }

    /// `player` could take more.
    pub(crate) fn queue(&self, channel: &Rc<Channel>, player: &Rc<Player>) {
        if !player.set_queued(true) {
            self.catching_up.borrow_mut().push_back((Rc::clone(channel), Rc::clone(player)));
            self.catch_up_wanted.notify_one();
        }
    }

    /// The next player that is to catch up.
    pub(crate) fn next_in_queue(&self) -> Option<(Rc<Channel>, Rc<Player>)> {
        let next = self.catching_up.borrow_mut().pop_front();
        next.inspect(|(_, player)| {
            player.set_queued(false);
        })
    }

    pub(crate) fn take_dirty(&self) -> Vec<Rc<Channel>> {
        std::mem::take(&mut *self.dirty.borrow_mut())
    }

    /// Once a second: deadlines, rates, streams that nobody needs any more.
    pub(crate) fn tick(&self) {
        let now = self.now();
        for conn in self.conns.borrow().values() {
            conn.check_deadline(now);
            self.books.forget_cursors(&conn.holding);
        }
        self.tally.tell(&self.spec.borrow().options, now);
        for (lines, kind) in [(&self.conn_lines, "connections"), (&self.forward_lines, "forwards")] {
            if let Some(lines) = lines.take_left_out(now) {
                warn!(lines, "left out of the log: too many lines of {kind}");
            }
        }
        for channel in self.channels() {
            channel.tick(now);
            self.tally.add(Limit::Headers, channel.stream_mut().take_left_out(), now);
            if self.carries(&channel) {
                channel.carried.set(channel.carried.get().saturating_add(1));
                self.known.borrow_mut().note(&channel.key, channel.carried.get());
            }
            for player in channel.players.borrow().iter() {
                self.books.add_cursor(&player.conn.holding, player.cursor.borrow().held() as u64);
            }
            let stuck = channel.players.borrow().iter().filter(|player| player.check_stuck(now)).count();
            count(&self.counters.stuck_players, stuck as u64);
            if channel.idle_since().is_some_and(|since| now.saturating_sub(since) >= FORGET_AFTER) {
                channel.clear();
                self.forget_if_useless(&channel);
            }
        }
        self.save();
        self.keeping.commit();
    }
}

/// Those who wait for the name of a channel without media.
fn waiting(channel: &Channel) -> Vec<Rc<Player>> {
    if channel.is_held() {
        return Vec::new();
    }
    let players = channel.players.borrow();
    let is_staying = |player: &&Rc<Player>| player.conn.is_cut().is_none() && player.ended().is_none();
    players.iter().filter(is_staying).cloned().collect()
}

fn place_of(player: &Player) -> Waiting {
    Waiting { source: player.conn.source, conn: player.conn.id }
}

/// Milliseconds since 1970, within 31 bits so that a stream's clock meets the 32-bit wrap only after weeks. As the start of
/// every stream's clock on the origin it lets edges go on without a jump when the origin's process is replaced.
pub(crate) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0) & 0x7FFF_FFFF
}
