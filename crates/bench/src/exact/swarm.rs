//! The loop that runs all players and publishers on one thread.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

use rtmp::url::Url;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Protocol, Socket, Type};

use super::client::{Habit, Player};
use super::publisher::Publisher;
use super::random::Random;

/// Read at once at most, bytes.
const READ: usize = 128 * 1024;
/// The same of one that reads slowly, and its receive buffer.
const SLOW_READ: usize = 3 * 1024;
const SLOW_BUFFER: usize = 4 * 1024;
/// From the connect to the first frame and from a question to its answer at most.
const PATIENCE: Duration = Duration::from_secs(15);
/// Without media for this long one that watches is starved.
const STARVED: Duration = Duration::from_secs(8);
/// Events taken from the kernel at once.
const EVENTS: usize = 512;
/// Between two parts of what a publisher or a player writes in parts.
const PART_PAUSE: Duration = Duration::from_millis(2);
/// Bytes of a part of a player that talks at most.
const PART: u64 = 300;
/// Wrongs that are told; all are counted.
const TOLD: usize = 40;

/// The streams, with the chunk size of their publishers and how much those write at once at most.
const STREAMS: [(&str, u32, Option<u64>); 2] = [("small", 128, Some(1_500)), ("large", 65_536, None)];

/// What a swarm is made of.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Where the streams are published.
    pub origin: SocketAddr,
    /// Where they are played.
    pub edge: SocketAddr,
    /// Players.
    pub players: u32,
    /// Of all that is by chance.
    pub seed: u64,
}

/// What a swarm has met.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Connections that were begun.
    pub connections: u64,
    /// Frames that were right, of all players.
    pub frames: u64,
    /// Times that one that may has skipped.
    pub skips: u64,
    /// Connections that ended, that were refused, or that got nothing.
    pub lost: u64,
    /// Connections that were sent what is wrong.
    pub wrong: u64,
    /// What was lost and what was wrong, by reason.
    pub reasons: BTreeMap<String, u64>,
}

/// The longest time without a byte, of each player that should get some always.
#[derive(Clone, Debug, Default)]
pub struct Gaps(Vec<Duration>);

impl Gaps {
    /// The gap that `part` of 1 of the players have at most.
    #[must_use]
    pub fn quantile(&self, part: f64) -> Duration {
        let index = (self.0.len().saturating_sub(1) as f64 * part) as usize;
        self.0.get(index).copied().unwrap_or_default()
    }

    /// All, the shortest first.
    #[must_use]
    pub fn all(&self) -> &[Duration] {
        &self.0
    }
}

enum Who {
    Player(Player),
    Publisher(Publisher),
}

struct Slot {
    who: Who,
    socket: TcpStream,
    output: Vec<u8>,
    is_connected: bool,
    waits_to_write: bool,
    /// When it has got media last, or was begun.
    heard: Instant,
    /// When it was seen first to have come as far as it has, and how far that is; see [`Player::progress`].
    asked: Instant,
    progress: u64,
    /// All that it says is written; its next time is its own.
    rests: bool,
    /// The longest time without a byte, in this window.
    gap: Duration,
    /// From when on it had media.
    since: Option<Instant>,
    /// Of it are the times in the queue.
    begun: u64,
}

/// See the [module](self).
pub struct Swarm {
    plan: Plan,
    epoll: OwnedFd,
    slots: Vec<Option<Slot>>,
    times: BinaryHeap<Reverse<(Instant, usize, u64)>>,
    random: Random,
    counts: Counts,
    buffer: Vec<u8>,
    window: Instant,
    next_look: Instant,
    /// When the next player comes, of those that are still to come.
    coming: Instant,
}

impl Swarm {
    /// Begins the publishers of `plan`; the players follow by [`ramp`](Self::ramp).
    ///
    /// # Errors
    /// When the system refuses it.
    pub fn new(plan: Plan) -> io::Result<Self> {
        let now = Instant::now();
        let mut this = Self {
            plan,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            slots: Vec::new(),
            times: BinaryHeap::new(),
            random: Random::new(plan.seed),
            counts: Counts::default(),
            buffer: vec![0; READ],
            window: now,
            next_look: now,
            coming: now,
        };
        for (stream, chunk_size, part) in STREAMS {
            let url = format!("rtmp://{}/live/{stream}", plan.origin).parse::<Url>();
            let publisher =
                url.map_err(|error| error.to_string()).and_then(|url| Publisher::new(url, chunk_size, part));
            let publisher = publisher.map_err(io::Error::other)?;
            this.slots.push(None);
            this.begin(this.slots.len() - 1, Who::Publisher(publisher), plan.origin)?;
        }
        Ok(this)
    }

    /// Lets players come, so many in a second, until all are there.
    ///
    /// # Errors
    /// See [`run`](Self::run).
    pub fn ramp(&mut self, per_second: u32) -> io::Result<()> {
        let pause = Duration::from_secs(1) / per_second.max(1);
        while self.players() < self.plan.players {
            let until = self.coming.max(Instant::now() - Duration::from_millis(50)) + pause;
            self.coming = until;
            self.slots.push(None);
            self.begin_player(self.slots.len() - 1);
            if until > Instant::now() {
                self.run(until)?;
            }
        }
        Ok(())
    }

    /// Players that are there.
    #[must_use]
    pub fn players(&self) -> u32 {
        (self.slots.len() - STREAMS.len()) as u32
    }

    /// So many players go, those that came last.
    pub fn leave(&mut self, players: u32) {
        for key in (STREAMS.len()..self.slots.len()).rev().take(players as usize) {
            self.forget(key);
            self.slots.pop();
        }
    }

    /// What it has met so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let mut counts = self.counts.clone();
        for slot in self.slots.iter().flatten() {
            if let Who::Player(player) = &slot.who {
                counts.frames += player.check.frames();
                counts.skips += player.check.skips();
            }
        }
        counts
    }

    /// Frames that were published, video and audio of each stream.
    #[must_use]
    pub fn published(&self) -> Vec<(u32, u32)> {
        let publishers = self.slots.iter().flatten().filter_map(|slot| match &slot.who {
            Who::Publisher(publisher) => Some(publisher.stamp()),
            Who::Player(_) => None,
        });
        publishers.collect()
    }

    /// Whether all are there, and all that was asked is answered.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.slots.iter().flatten().all(|slot| match &slot.who {
            Who::Publisher(publisher) => publisher.is_publishing(),
            Who::Player(player) => player.is_content(),
        })
    }

    /// The gaps since the last call.
    pub fn take_gaps(&mut self) -> Gaps {
        let (now, window) = (Instant::now(), self.window);
        let slots = self.slots.iter_mut().flatten();
        let mut gaps: Vec<_> = slots
            .filter_map(|slot| {
                let is_prompt = matches!(&slot.who, Who::Player(player) if player.habit.is_prompt());
                let gap = std::mem::take(&mut slot.gap).max(now - slot.heard);
                (is_prompt && slot.since.is_some_and(|since| since < window)).then_some(gap)
            })
            .collect();
        gaps.sort_unstable();
        self.window = now;
        Gaps(gaps)
    }

    /// Runs all until then.
    ///
    /// # Errors
    /// When the system refuses to wait.
    pub fn run(&mut self, until: Instant) -> io::Result<()> {
        let mut events = Vec::with_capacity(EVENTS);
        loop {
            let now = Instant::now();
            if now >= until {
                return Ok(());
            }
            self.handle_times(now);
            if now >= self.next_look {
                self.next_look = now + Duration::from_secs(1);
                self.look(now);
            }
            let next = self.times.peek().map(|Reverse((at, ..))| *at);
            let wake = [Some(until), Some(self.next_look), next].into_iter().flatten().min().unwrap_or(until);
            let wait = wake.saturating_duration_since(now);
            let wait = Timespec { tv_sec: wait.as_secs() as i64, tv_nsec: wait.subsec_nanos().into() };
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&wait)) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in events.drain(..) {
                let (data, flags) = (event.data, event.flags);
                self.handle_event(data.u64() as usize, flags);
            }
        }
    }

    fn begin_player(&mut self, key: usize) {
        let index = (key - STREAMS.len()) as u32;
        let (stream, ..) = STREAMS[(index / 20) as usize % STREAMS.len()];
        let player = Player::new(Habit::of(index), &self.plan.edge.to_string(), stream);
        if let Err(error) = self.begin(key, Who::Player(player), self.plan.edge) {
            self.lose(key, &error.to_string());
        }
    }

    fn begin(&mut self, key: usize, who: Who, address: SocketAddr) -> io::Result<()> {
        self.counts.connections += 1;
        let reads_slowly = matches!(&who, Who::Player(player) if player.habit == Habit::Reads);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if reads_slowly {
            socket.set_recv_buffer_size(SLOW_BUFFER)?;
        }
        socket.set_nonblocking(true)?;
        socket.set_tcp_nodelay(true)?;
        match socket.connect(&address.into()) {
            Err(error) if error.raw_os_error() != Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {
                return Err(error);
            }
            Ok(()) | Err(_) => {}
        }
        let (socket, now) = (TcpStream::from(socket), Instant::now());
        let both = epoll::EventFlags::IN | epoll::EventFlags::OUT;
        epoll::add(&self.epoll, &socket, epoll::EventData::new_u64(key as u64), both)?;
        let begun = self.counts.connections;
        let slot = Slot {
            who,
            socket,
            output: Vec::new(),
            is_connected: false,
            waits_to_write: true,
            heard: now,
            asked: now,
            progress: 0,
            rests: true,
            gap: Duration::ZERO,
            since: None,
            begun,
        };
        if let Some(place) = self.slots.get_mut(key) {
            *place = Some(slot);
        }
        let first = match self.slots.get(key).and_then(Option::as_ref).map(|slot| &slot.who) {
            Some(Who::Player(player)) => player.habit.pause(&mut self.random),
            Some(Who::Publisher(_)) | None => Some(Duration::from_millis(50)),
        };
        if let Some(first) = first {
            self.times.push(Reverse((now + first, key, begun)));
        }
        Ok(())
    }

    fn handle_event(&mut self, key: usize, flags: epoll::EventFlags) {
        let Some(slot) = self.slots.get_mut(key).and_then(Option::as_mut) else { return };
        let handled = slot.handle_event(flags, &mut self.buffer);
        self.settle(key, handled);
    }

    fn handle_times(&mut self, now: Instant) {
        while let Some(&Reverse((at, key, begun))) = self.times.peek()
            && at <= now
        {
            self.times.pop();
            let slot = self.slots.get_mut(key).and_then(Option::as_mut).filter(|slot| slot.begun == begun);
            let Some(slot) = slot else { continue };
            match &mut slot.who {
                Who::Publisher(publisher) => {
                    let acted = publisher.act(now, &mut self.random, &mut slot.output);
                    let is_part = publisher.part.is_some() && !slot.output.is_empty();
                    let due = publisher.due().unwrap_or(now + Duration::from_millis(50));
                    let next =
                        if is_part { now + PART_PAUSE } else { due.max(now + Duration::from_millis(1)) };
                    self.times.push(Reverse((next, key, begun)));
                    self.settle(key, acted.map_err(Loss::Wrong));
                }
                Who::Player(player) => {
                    if slot.is_connected && slot.rests && player.act(&mut self.random, &mut slot.output) {
                        // It has gone, and comes again.
                        self.forget(key);
                        self.begin_player(key);
                        continue;
                    }
                    let habit = player.habit;
                    let read = if habit == Habit::Reads { slot.read(&mut self.buffer) } else { Ok(()) };
                    slot.rests = habit != Habit::Talks || slot.output.is_empty();
                    let pause = if !slot.rests { Some(PART_PAUSE) } else { habit.pause(&mut self.random) };
                    if let Some(pause) = pause {
                        self.times.push(Reverse((now + pause, key, begun)));
                    }
                    self.settle(key, read);
                }
            }
        }
    }

    /// Whether any waits for too long.
    fn look(&mut self, now: Instant) {
        for key in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(key).and_then(Option::as_mut) else { continue };
            let Who::Player(player) = &slot.who else { continue };
            if player.is_content() || player.progress() != slot.progress {
                (slot.asked, slot.progress) = (now, player.progress());
            }
            let loss = if now - slot.asked > PATIENCE {
                player.missing()
            } else if player.is_watching() && now - slot.heard > STARVED {
                "it gets no media any more".to_owned()
            } else {
                continue;
            };
            self.settle(key, Err(Loss::Lost(loss)));
        }
    }

    fn settle(&mut self, key: usize, handled: Result<(), Loss>) {
        let Some(slot) = self.slots.get_mut(key).and_then(Option::as_mut) else { return };
        match handled.and_then(|()| slot.write(&self.epoll, key, &mut self.random)) {
            Ok(()) => {}
            Err(Loss::Lost(why)) => self.lose(key, &why),
            Err(Loss::Wrong(why)) => {
                self.counts.wrong += 1;
                self.note(key, "wrong", &why);
            }
        }
    }

    fn lose(&mut self, key: usize, why: &str) {
        self.counts.lost += 1;
        self.note(key, "lost", why);
    }

    /// Notes why a connection ends, and begins the next one of a player in its place.
    fn note(&mut self, key: usize, what: &str, why: &str) {
        let who = self.slots.get(key).and_then(Option::as_ref).map(|slot| match &slot.who {
            Who::Player(player) => {
                let has_frames = if player.check.frames() > 0 { "" } else { ", joining" };
                let port = slot.socket.local_addr().map_or(0, |at| at.port());
                if self.counts.reasons.len() < TOLD {
                    eprintln!(
                        "{what}: player {key} ({:?}{has_frames}, port {port}, last {:?}): {why}",
                        player.habit,
                        player.check.last()
                    );
                }
                format!("{:?}{has_frames}", player.habit)
            }
            Who::Publisher(_) => {
                eprintln!("{what}: publisher {key}: {why}");
                "publisher".to_owned()
            }
        });
        // Numbers would make each reason another.
        let why: String = why.chars().filter(|c| !c.is_ascii_digit()).collect();
        let reason = format!("{what}: {}: {why}", who.unwrap_or_default());
        *self.counts.reasons.entry(reason).or_default() += 1;
        self.forget(key);
        if key >= STREAMS.len() && self.counts.lost + self.counts.wrong < u64::from(self.plan.players) {
            self.begin_player(key);
        }
    }

    /// Closes a connection, and keeps its counts.
    fn forget(&mut self, key: usize) {
        let Some(slot) = self.slots.get_mut(key).and_then(Option::take) else { return };
        if let Who::Player(player) = &slot.who {
            self.counts.frames += player.check.frames();
            self.counts.skips += player.check.skips();
        }
    }
}

/// Why a connection goes on no more.
enum Loss {
    Lost(String),
    Wrong(String),
}

impl Slot {
    fn handle_event(&mut self, flags: epoll::EventFlags, buffer: &mut [u8]) -> Result<(), Loss> {
        let lost = |error: io::Error| Loss::Lost(error.to_string());
        if !self.is_connected {
            if let Some(error) = self.socket.take_error().map_err(lost)? {
                return Err(lost(error));
            }
            if !flags.contains(epoll::EventFlags::OUT) {
                return Ok(());
            }
            self.is_connected = true;
            match &mut self.who {
                Who::Player(player) => player.handle_connected(&mut self.output),
                Who::Publisher(publisher) => publisher.handle_connected(&mut self.output),
            }
        }
        if !flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            return Ok(());
        }
        self.read(buffer)
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), Loss> {
        let is_slow =
            self.since.is_some() && matches!(&self.who, Who::Player(player) if player.habit == Habit::Reads);
        let most = if is_slow { SLOW_READ } else { READ };
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        let taken = match self.socket.read(buffer) {
            Ok(0) => return Err(Loss::Lost("closed by the server".to_owned())),
            Ok(taken) => taken,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {
                return Ok(());
            }
            Err(error) => return Err(Loss::Lost(error.to_string())),
        };
        let (input, now) = (buffer.get(..taken).unwrap_or_default(), Instant::now());
        match &mut self.who {
            Who::Publisher(publisher) => {
                publisher.handle_input(input, now, &mut self.output).map_err(Loss::Wrong)
            }
            Who::Player(player) => {
                let has_media = player.handle_input(input, &mut self.output).map_err(Loss::Wrong)?;
                if self.since.is_some() {
                    self.gap = self.gap.max(now - self.heard);
                }
                self.heard = now;
                if has_media && self.since.is_none() {
                    self.since = Some(now);
                }
                Ok(())
            }
        }
    }

    /// Writes what the socket takes, or a part of it.
    fn write(&mut self, epoll: &OwnedFd, key: usize, random: &mut Random) -> Result<(), Loss> {
        if !self.is_connected {
            return Ok(());
        }
        let part = match &self.who {
            Who::Publisher(publisher) if publisher.is_publishing() => publisher.part,
            Who::Player(player) if player.habit == Habit::Talks => Some(PART),
            Who::Player(_) | Who::Publisher(_) => None,
        };
        let mut is_full = false;
        while !self.output.is_empty() {
            let length =
                part.map_or(self.output.len(), |part| self.output.len().min(1 + random.below(part) as usize));
            match self.socket.write(self.output.get(..length).unwrap_or(&self.output)) {
                Ok(written) => {
                    self.output.drain(..written);
                    if let Who::Publisher(publisher) = &mut self.who {
                        publisher.sent += written as u64;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    is_full = true;
                    break;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Loss::Lost(error.to_string())),
            }
            if part.is_some() {
                // The next part follows by the clock.
                break;
            }
        }
        self.register(epoll, key, is_full).map_err(|error| Loss::Lost(error.to_string()))
    }

    fn register(&mut self, epoll: &OwnedFd, key: usize, is_full: bool) -> io::Result<()> {
        let reads = match &self.who {
            // By the clock, once it has media.
            Who::Player(player) => player.habit != Habit::Reads || self.since.is_none(),
            Who::Publisher(_) => true,
        };
        let is_slow = !reads;
        if self.waits_to_write == is_full && !is_slow {
            return Ok(());
        }
        self.waits_to_write = is_full;
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, reads);
        flags.set(epoll::EventFlags::OUT, is_full);
        epoll::modify(epoll, &self.socket, epoll::EventData::new_u64(key as u64), flags)?;
        Ok(())
    }
}
