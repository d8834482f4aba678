//! What the connections of one worker share: channels by key, connections by number, counters, the spec in force.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use cluster::WorkerSpec;
use rtmp::server::StreamKey;
use rtmp::wire::CHUNK_SIZE;
use stream::{ConnId, Stream};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::warn;

use crate::budget::Budget;
use crate::channel::Channel;
use crate::conn::end::Cut;
use crate::conn::handle::Conn;
use crate::counters::{Counters, Lag, count};
use crate::limits::{Admission, Slots};
use crate::tally::{Limit, Tally};

/// Bytes read from a socket at once. One buffer serves all connections: what is read is parsed before the next read. The
/// smallest messages of one read take about 2 ms.
const READ_BUFFER: usize = 32 * 1024;
/// A stream that nobody publishes nor plays is forgotten after this long, ms; earlier where room is needed.
const FORGET_AFTER: u64 = 10_000;

/// See the [module](self).
pub(crate) struct Hub {
    pub(crate) spec: RefCell<WorkerSpec>,
    pub(crate) secret: Vec<u8>,
    /// Names this process in the names of its streams' clocks.
    process: String,
    channels_made: Cell<u64>,
    epoch: Instant,
    pub(crate) counters: Counters,
    pub(crate) tally: Tally,
    pub(crate) lag: Lag,
    /// Log lines that connections cause.
    pub(crate) conn_lines: Budget,
    /// Log lines that forwards cause: one for each target of each stream.
    pub(crate) forward_lines: Budget,
    /// Streams that begin to be forwarded.
    pub(crate) forward_starts: Budget,
    pub(crate) buffer: RefCell<Box<[u8]>>,
    channels: RefCell<HashMap<StreamKey, Rc<Channel>>>,
    /// Every open connection.
    conns: RefCell<BTreeMap<ConnId, Rc<Conn>>>,
    pub(crate) slots: RefCell<Slots>,
    conns_made: Cell<u64>,
    pub(crate) players: Cell<u32>,
    /// Channels with something to send.
    dirty: RefCell<Vec<Rc<Channel>>>,
    pub(crate) flush_wanted: Notify,
}

impl Hub {
    pub(crate) fn new(spec: WorkerSpec, secret: Vec<u8>) -> Rc<Self> {
        Rc::new(Self {
            spec: RefCell::new(spec),
            secret,
            process: format!("{:016x}", getrandom::u64().unwrap_or_else(|_| wall_clock())),
            channels_made: Cell::new(0),
            epoch: Instant::now(),
            counters: Counters::default(),
            tally: Tally::default(),
            lag: Lag::default(),
            conn_lines: Budget::of_lines(),
            forward_lines: Budget::of_lines(),
            forward_starts: Budget::of_forwards(),
            buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            channels: RefCell::default(),
            conns: RefCell::default(),
            slots: RefCell::default(),
            conns_made: Cell::new(0),
            players: Cell::new(0),
            dirty: RefCell::default(),
            flush_wanted: Notify::new(),
        })
    }

    /// Monotonic milliseconds of this process.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Takes an accepted connection in, if there is a slot for it.
    pub(crate) fn admit(&self, socket: TcpStream, peer: SocketAddr) -> Option<Rc<Conn>> {
        let (capacity, is_source) = {
            let spec = self.spec.borrow();
            (spec.connections() as usize, spec.sources.contains(&peer.ip().to_canonical()))
        };
        let id = ConnId(self.conns_made.replace(self.conns_made.get() + 1));
        match self.slots.borrow_mut().admit(id, is_source, capacity) {
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
        self.conns.borrow_mut().insert(id, Rc::clone(&conn));
        count(&self.counters.accepted, 1);
        Some(conn)
    }

    /// A connection is gone.
    pub(crate) fn release(&self, id: ConnId) {
        self.conns.borrow_mut().remove(&id);
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
        let queue_length = self.spec.borrow().options.queue_length.as_millis();
        let stream = Stream::new(CHUNK_SIZE, queue_length.into(), self.now());
        let number = self.channels_made.replace(self.channels_made.get() + 1);
        let clock = format!("{}-{number}", self.process);
        let channel = Rc::new(Channel::new(key.clone(), clock, stream));
        channels.insert(key.clone(), Rc::clone(&channel));
        Some(channel)
    }

    /// Makes room for one more stream that is published or holds media: where there are `max_streams`, the one that ended first drops its media. False if all are being published.
    pub(crate) fn make_room(&self) -> bool {
        let held: Vec<_> = self.channels().into_iter().filter(|channel| channel.is_held()).collect();
        if held.len() < self.spec.borrow().options.max_streams as usize {
            return true;
        }
        let ended = held.iter().filter_map(|channel| Some((channel.stream().idle_since()?, channel)));
        let Some((_, channel)) = ended.min_by_key(|(since, _)| *since) else { return false };
        channel.clear();
        self.forget_if_useless(channel);
        true
    }

    /// A name without media and players is worth nothing.
    pub(crate) fn forget_if_useless(&self, channel: &Channel) {
        if !channel.is_held() && channel.players.borrow().is_empty() {
            // Their tasks hold the channel.
            channel.forwards.borrow_mut().clear();
            self.channels.borrow_mut().remove(&channel.key);
        }
    }

    /// `channel` has something for its players, if there are any.
    pub(crate) fn mark_dirty(&self, channel: &Rc<Channel>) {
        if !channel.players.borrow().is_empty() && !channel.dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(channel));
            self.flush_wanted.notify_one();
        }
    }

    pub(crate) fn take_dirty(&self) -> Vec<Rc<Channel>> {
        std::mem::take(&mut *self.dirty.borrow_mut())
    }

    /// Once a second: deadlines, rates, streams that nobody needs any more.
    pub(crate) fn tick(&self) {
        let now = self.now();
        for conn in self.conns.borrow().values() {
            conn.check_deadline(now);
        }
        self.tally.tell(&self.spec.borrow().options, now);
        for (lines, kind) in [(&self.conn_lines, "connections"), (&self.forward_lines, "forwards")] {
            if let Some(lines) = lines.take_left_out(now) {
                warn!(lines, "left out of the log: too many lines of {kind}");
            }
        }
        for channel in self.channels() {
            channel.tick();
            let stuck = channel.players.borrow().iter().filter(|player| player.check_stuck(now)).count();
            count(&self.counters.stuck_players, stuck as u64);
            if channel.idle_since().is_some_and(|since| now.saturating_sub(since) >= FORGET_AFTER) {
                channel.clear();
                self.forget_if_useless(&channel);
            }
        }
    }
}

/// Milliseconds since 1970, within 31 bits so that a stream's clock meets the 32-bit wrap only after weeks. As the start of
/// every stream's clock on the origin it lets edges go on without a jump when the origin's process is replaced.
pub(crate) fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0) & 0x7FFF_FFFF
}
