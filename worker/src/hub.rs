//! What the connections of one worker share: streams by key, limits, counters, the spec in force.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use cluster::stats::{ProcessStats, StreamStats};
use cluster::{Role, WorkerSpec};
use control::{Code, Error};
use rtmp::server::StreamKey;
use rtmp::wire::CHUNK_SIZE;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::clock::Start;
use crate::cursor::{Cursor, Reader};
use crate::forward::Forwarder;
use crate::link::{Cut, Link, millis};
use crate::player::Player;
use crate::stream::{Publisher, Stream};

/// Bytes read from a socket at once. One buffer serves all connections: what is read is parsed before the next read. The
/// smallest messages of one read take about 2 ms.
const READ_BUFFER: usize = 32 * 1024;
/// Names that players may wait for or play at once: each costs memory, and a line of every report.
const NAMES_MAX: usize = 1_024;
/// Streams in one report, published ones first.
const REPORTED_MAX: usize = 256;
/// Connections from the origin's address beyond all others: it may share the address with players.
const ORIGIN_EXTRA: usize = 32;
/// Refusals are told in the log at most this often, ms.
const REFUSALS_EVERY: u64 = 10_000;
/// A stream that nobody publishes nor plays is forgotten after this long, ms.
const FORGET_AFTER: u64 = 10_000;

/// Counters of the process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Cell<u64>,
    pub(crate) refused: Cell<u64>,
    pub(crate) peer_errors: Cell<u64>,
    pub(crate) stuck_players: Cell<u64>,
    pub(crate) skips: Cell<u64>,
    pub(crate) bytes_in: Cell<u64>,
    pub(crate) bytes_out: Cell<u64>,
    pub(crate) beats: Cell<u64>,
}

/// How late the loop gets to what is due: samples of the last minute, ms, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Lag(RefCell<VecDeque<u32>>);

impl Lag {
    /// Samples kept.
    const SAMPLES: usize = 1_200;
    /// Time between samples.
    pub(crate) const PERIOD: Duration = Duration::from_millis(50);

    pub(crate) fn push(&self, late: Duration) {
        let mut samples = self.0.borrow_mut();
        if samples.len() == Self::SAMPLES {
            samples.pop_front();
        }
        samples.push_back(u32::try_from(late.as_millis()).unwrap_or(u32::MAX));
    }

    /// 99th percentile and maximum, ms.
    fn p99_and_max(&self) -> (u32, u32) {
        let mut samples: Vec<_> = self.0.borrow().iter().copied().collect();
        samples.sort_unstable();
        let p99 = samples.get(samples.len().saturating_sub(1) * 99 / 100);
        (p99.copied().unwrap_or(0), samples.last().copied().unwrap_or(0))
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get() + n);
}

/// Why a publish or a play is refused: an RTMP status code and a sentence for the log at the other end.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) code: &'static str,
    pub(crate) description: String,
}

/// See the [module](self).
pub(crate) struct Hub {
    pub(crate) spec: RefCell<WorkerSpec>,
    pub(crate) secret: Vec<u8>,
    /// Names the clocks of this process's streams to the edges.
    pub(crate) clock: String,
    pub(crate) epoch: Instant,
    pub(crate) counters: Counters,
    pub(crate) lag: Lag,
    pub(crate) buffer: RefCell<Box<[u8]>>,
    streams: RefCell<HashMap<StreamKey, Rc<Stream>>>,
    /// Every open connection.
    links: RefCell<BTreeMap<u64, Rc<Link>>>,
    /// Those that neither publish nor play yet, oldest first.
    open: RefCell<BTreeMap<u64, Rc<Link>>>,
    next_link: Cell<u64>,
    players: Cell<u32>,
    /// Refusals told in the log, and when, ms.
    refusals_told: Cell<(u64, u64)>,
    /// Streams with something to send.
    dirty: RefCell<Vec<Rc<Stream>>>,
    pub(crate) flush_wanted: Notify,
}

impl Hub {
    pub(crate) fn new(spec: WorkerSpec, secret: Vec<u8>) -> Rc<Self> {
        Rc::new(Self {
            spec: RefCell::new(spec),
            secret,
            clock: format!("{:016x}", getrandom::u64().unwrap_or_else(|_| wall_clock())),
            epoch: Instant::now(),
            counters: Counters::default(),
            lag: Lag::default(),
            buffer: RefCell::new(vec![0; READ_BUFFER].into_boxed_slice()),
            streams: RefCell::default(),
            links: RefCell::default(),
            open: RefCell::default(),
            next_link: Cell::new(0),
            players: Cell::new(0),
            refusals_told: Cell::default(),
            dirty: RefCell::default(),
            flush_wanted: Notify::new(),
        })
    }

    /// Monotonic milliseconds of this process.
    pub(crate) fn now(&self) -> u64 {
        millis(self.epoch)
    }

    /// Takes an accepted connection in, or refuses it when even the reserved slots are taken. Then the oldest connection
    /// that has not said what it wants makes room, but never one from a source's address: a rush of players must not
    /// lock the origin out.
    pub(crate) fn admit(&self, socket: TcpStream, peer: SocketAddr) -> Option<Rc<Link>> {
        let spec = self.spec.borrow();
        let capacity = spec.options.max_connections.saturating_add(WorkerSpec::RESERVED_CONNECTIONS) as usize;
        let is_source = |peer: SocketAddr| spec.sources.contains(&peer.ip().to_canonical());
        let taken = self.links.borrow().len();
        if taken >= capacity {
            let open = self.open.borrow();
            let victim = open.values().find(|l| !is_source(l.peer) && l.is_cut().is_none());
            match victim {
                Some(link) => {
                    count(&self.counters.refused, 1);
                    link.cut(Cut::Evicted);
                }
                None if is_source(peer) && taken < capacity + ORIGIN_EXTRA => {}
                None => {
                    count(&self.counters.refused, 1);
                    return None;
                }
            }
        }
        let id = self.next_link.replace(self.next_link.get() + 1);
        let link = Rc::new(Link::new(id, peer, socket, self.epoch));
        self.links.borrow_mut().insert(id, Rc::clone(&link));
        count(&self.counters.accepted, 1);
        Some(link)
    }

    pub(crate) fn release(&self, link: &Link) {
        self.links.borrow_mut().remove(&link.id);
        self.open.borrow_mut().remove(&link.id);
    }

    /// Notes whether a connection has yet to say what it wants.
    pub(crate) fn set_open(&self, link: &Rc<Link>, open: bool) {
        if open {
            self.open.borrow_mut().insert(link.id, Rc::clone(link));
        } else {
            self.open.borrow_mut().remove(&link.id);
        }
    }

    /// Makes `link` the publisher of `key`, if the rules allow it; `forwarder` is the clock of a proven forwarder of the origin.
    pub(crate) fn publish(
        self: &Rc<Self>,
        key: &StreamKey,
        forwarder: Option<&str>,
        link: &Rc<Link>,
    ) -> Result<Publisher, Refusal> {
        let trusted = forwarder.is_some();
        let role = self.spec.borrow().role;
        if role == Role::Edge && !trusted {
            return Err(Refusal {
                code: "NetStream.Publish.Denied",
                description: "this is an edge: publish to the cluster's origin".to_owned(),
            });
        }
        let is_taken = self.streams.borrow().get(key).is_some_and(|s| s.is_publishing());
        // A half-open connection of the origin must never hold its place; any other publisher keeps it.
        if is_taken && !trusted {
            return Err(Refusal {
                code: "NetStream.Publish.BadName",
                description: format!("{key} is being published by somebody else"),
            });
        }
        let publishing = self.streams.borrow().values().filter(|s| s.is_publishing()).count();
        if publishing >= WorkerSpec::MAX_STREAMS as usize && !is_taken {
            return Err(Refusal {
                code: "NetStream.Publish.BadName",
                description: format!("{publishing} streams are being published, the limit"),
            });
        }
        // Waiting players cannot use up the names: publishers have their own limit.
        let stream = self.stream(key, usize::MAX).ok_or_else(too_many_names)?;
        let publisher = match forwarder {
            Some(clock) => stream.publish_forwarded(Rc::clone(link), clock),
            None => stream.publish(Rc::clone(link), Start::At(wall_clock())),
        };
        self.sync_forwarders(&stream);
        Ok(publisher)
    }

    /// Makes `link` a player of `key`, if there is room; `msid` is the message stream it plays on.
    pub(crate) fn play(
        self: &Rc<Self>,
        key: &StreamKey,
        msid: u32,
        link: &Rc<Link>,
    ) -> Result<Playing, Refusal> {
        let (max, gop_cache) = {
            let spec = self.spec.borrow();
            (spec.options.max_connections, spec.options.gop_cache)
        };
        if self.players.get() >= max {
            count(&self.counters.refused, 1);
            return Err(Refusal {
                code: "NetStream.Play.Failed",
                description: format!("full: {max} players (max_connections)"),
            });
        }
        let stream = self.stream(key, NAMES_MAX).ok_or_else(too_many_names)?;
        let from = {
            let log = stream.log();
            let point = stream.is_publishing().then(|| log.join(gop_cache)).flatten();
            point.map_or_else(|| log.end(), |point| point.offset)
        };
        let player = Rc::new(Player::new(Rc::clone(link), Cursor::new(Reader::Player, msid, from)));
        stream.players.borrow_mut().push(Rc::clone(&player));
        self.players.set(self.players.get() + 1);
        Ok(Playing { hub: Rc::clone(self), stream, player })
    }

    /// Takes a new spec: limits and forward targets.
    ///
    /// # Errors
    /// When the difference needs a restart.
    pub(crate) fn configure(self: &Rc<Self>, new: WorkerSpec) -> Result<(), Error> {
        {
            let old = self.spec.borrow();
            let changed =
                WorkerSpec { options: new.options.clone(), forward: new.forward.clone(), ..old.clone() };
            if changed != new {
                let why = "only options and forward targets change without a restart";
                return Err(Error::new(Code::NeedsRestart, why));
            }
        }
        info!(targets = new.forward.len(), "configured");
        *self.spec.borrow_mut() = new;
        let streams: Vec<_> = self.streams.borrow().values().cloned().collect();
        for stream in streams {
            if stream.is_publishing() {
                self.sync_forwarders(&stream);
            }
        }
        Ok(())
    }

    /// One forwarder a target: starts those that are missing, ends those that are no longer wanted.
    fn sync_forwarders(self: &Rc<Self>, stream: &Rc<Stream>) {
        let targets = self.spec.borrow().forward.clone();
        let mut forwarders = stream.forwarders.borrow_mut();
        forwarders.retain(|f| targets.contains(f.target()));
        for target in targets {
            if !forwarders.iter().any(|f| *f.target() == target) {
                forwarders.push(Forwarder::start(self, stream, target));
            }
        }
    }

    /// `stream` has something for its players.
    pub(crate) fn mark_dirty(&self, stream: &Rc<Stream>) {
        if !stream.dirty.replace(true) {
            self.dirty.borrow_mut().push(Rc::clone(stream));
            self.flush_wanted.notify_one();
        }
    }

    pub(crate) fn take_dirty(&self) -> Vec<Rc<Stream>> {
        std::mem::take(&mut *self.dirty.borrow_mut())
    }

    /// Once a second: deadlines, rates, streams that nobody needs any more.
    pub(crate) fn tick(&self) {
        let now = self.now();
        for link in self.links.borrow().values() {
            link.check_deadline(now);
        }
        self.report_refusals(now);
        let streams: Vec<_> = self.streams.borrow().values().cloned().collect();
        for stream in streams {
            stream.tick();
            let stuck = stream.players.borrow().iter().filter(|p| p.check_stuck(now)).count();
            count(&self.counters.stuck_players, stuck as u64);
        }
        self.streams.borrow_mut().retain(|_, stream| {
            let keep = stream.idle_for(now).is_none_or(|ms| ms < FORGET_AFTER);
            if !keep {
                // Their tasks hold the stream.
                stream.forwarders.borrow_mut().clear();
            }
            keep
        });
    }

    /// A line in the log for many refusals, not one each.
    fn report_refusals(&self, now: u64) {
        let refused = self.counters.refused.get();
        let (told, at) = self.refusals_told.get();
        if refused > told && now.saturating_sub(at) >= REFUSALS_EVERY {
            let (players, max) = (self.players.get(), self.spec.borrow().options.max_connections);
            warn!(refused = refused - told, players, max_connections = max, "players or connections refused");
            self.refusals_told.set((refused, now));
        }
    }

    pub(crate) fn process_stats(&self) -> ProcessStats {
        let c = &self.counters;
        let streams = self.streams.borrow();
        let (loop_lag_p99_ms, loop_lag_max_ms) = self.lag.p99_and_max();
        ProcessStats {
            beats: c.beats.get(),
            connections: u32::try_from(self.links.borrow().len()).unwrap_or(u32::MAX),
            players: self.players.get(),
            publishers: u32::try_from(streams.values().filter(|s| s.is_publishing()).count())
                .unwrap_or(u32::MAX),
            accepted: c.accepted.get(),
            refused: c.refused.get(),
            peer_errors: c.peer_errors.get(),
            stuck_players: c.stuck_players.get(),
            skips: c.skips.get(),
            bytes_in: c.bytes_in.get(),
            bytes_out: c.bytes_out.get(),
            loop_lag_p99_ms,
            loop_lag_max_ms,
        }
    }

    /// Streams that are published, played or were just now; published ones first, by name.
    pub(crate) fn stream_stats(&self) -> Vec<StreamStats> {
        let now = self.now();
        let mut stats: Vec<_> = self.streams.borrow().values().map(|s| s.stats(now)).collect();
        stats.sort_by(|a, b| (!a.publishing, &a.stream).cmp(&(!b.publishing, &b.stream)));
        stats.truncate(REPORTED_MAX);
        stats
    }

    /// The stream `key`; a new one only while there are fewer than `names`.
    fn stream(&self, key: &StreamKey, names: usize) -> Option<Rc<Stream>> {
        let mut streams = self.streams.borrow_mut();
        if streams.len() >= names && !streams.contains_key(key) {
            return None;
        }
        let stream = streams.entry(key.clone()).or_insert_with(|| {
            let queue_length = self.spec.borrow().options.queue_length.as_millis();
            Rc::new(Stream::new(key.clone(), CHUNK_SIZE, queue_length.into(), self.now()))
        });
        Some(Rc::clone(stream))
    }
}

fn too_many_names() -> Refusal {
    Refusal {
        code: "NetStream.Play.StreamNotFound",
        description: format!("{NAMES_MAX} streams are in use, the limit"),
    }
}

/// A place among the players of a stream; dropping it gives it up.
pub(crate) struct Playing {
    hub: Rc<Hub>,
    pub(crate) stream: Rc<Stream>,
    pub(crate) player: Rc<Player>,
}

impl Drop for Playing {
    fn drop(&mut self) {
        let mut players = self.stream.players.borrow_mut();
        if let Some(index) = players.iter().position(|p| Rc::ptr_eq(p, &self.player)) {
            players.swap_remove(index);
        }
        self.stream.removals.set(self.stream.removals.get() + 1);
        if players.is_empty() && !self.stream.was_published() {
            // A name that nobody ever published is worth nothing without players.
            self.hub.streams.borrow_mut().remove(&self.stream.key);
        }
        self.hub.players.set(self.hub.players.get() - 1);
    }
}

/// Milliseconds since 1970, within 31 bits so that a stream's clock meets the 32-bit wrap only after weeks. As the start of
/// every stream's clock on the origin it lets edges go on without a jump when the origin's process is replaced.
fn wall_clock() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(0) & 0x7FFF_FFFF
}
