//! The loop that runs all clients of a process on one thread: epoll, one shared read buffer, one read per event.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use socket2::{Domain, Protocol, Socket, Type};

use crate::load::{Load, LoadError};
use crate::report::{Interim, Tally};

/// TCP connect to acceptance of play or publish at most.
const ACCEPT_TIMEOUT: Duration = Duration::from_secs(10);
/// Shared by all clients, bytes: a whole GOP of a usual stream comes with one read.
const READ_BUFFER: usize = 256 * 1024;
/// Events taken from the kernel at once.
const EVENTS: usize = 512;
/// Connections begun between two looks at the others, so that a steep ramp starves nobody.
const CONNECTS_AT_ONCE: usize = 32;
const SECOND: Duration = Duration::from_secs(1);
/// The connection is over, in both directions.
const ENDED: epoll::EventFlags = epoll::EventFlags::HUP.union(epoll::EventFlags::ERR);

/// The time, as both clocks have it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    pub(crate) mono: Instant,
    /// CLOCK_REALTIME, microseconds: stamps travel between processes and hosts.
    pub(crate) wall: u64,
    /// `wall` when the last client had been begun.
    pub(crate) all_begun: Option<u64>,
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// What a connection does with bytes and time. Errors are reasons, for counting.
pub(crate) trait Client {
    /// TCP is connected.
    fn handle_connected(&mut self, output: &mut Vec<u8>);

    /// Bytes from the server.
    fn handle_input(
        &mut self,
        input: &[u8],
        now: Now,
        tally: &mut Tally,
        output: &mut Vec<u8>,
    ) -> Result<(), String>;

    /// When it wants [`Client::handle_timeout`].
    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The time of `poll_timeout` has come.
    fn handle_timeout(&mut self, _: Now, _: &mut Tally, _: &mut Vec<u8>) -> Result<(), String> {
        Ok(())
    }

    /// Called once a second.
    fn handle_second(&mut self, _: Now, _: &mut Tally) {}

    /// How many bytes of `output`, which is not empty, go out with one write.
    fn next_write(&mut self, output: &[u8]) -> usize {
        output.len()
    }

    /// Whether the server has accepted what it asked for.
    fn is_accepted(&self) -> bool;

    /// The end, of an accepted client.
    fn finish(&self, now: Now, tally: &mut Tally);
}

struct Slot<C> {
    socket: TcpStream,
    client: C,
    /// Not yet taken by the socket.
    output: Vec<u8>,
    /// How many of them are left of the write that is begun.
    writing: usize,
    begun: Instant,
    is_connected: bool,
    waits_to_write: bool,
    is_counted: bool,
    /// Whether a time of it stands in the queue.
    is_queued: bool,
    /// Bytes it may still read in this second; `None`: all that comes.
    allowance: Option<u64>,
    /// Whether it waits for bytes.
    is_reading: bool,
}

pub(crate) struct Engine<C> {
    epoll: OwnedFd,
    slots: Vec<Option<Slot<C>>>,
    /// Slots in use.
    live: usize,
    /// Times of [`Client::poll_timeout`], one per client at most.
    timeouts: BinaryHeap<Reverse<(Instant, usize)>>,
    tally: Tally,
    epoch: (Instant, u64),
    all_begun: Option<u64>,
    /// See [`Load::read_rate`].
    read_rate: Option<u64>,
}

impl<C: Client> Engine<C> {
    /// Begins the clients of `load` at its rate, runs them until its end or until `stop`, and closes them.
    ///
    /// `begin` makes client `index` and tells where it connects to.
    pub(crate) fn run(
        load: &Load,
        mut begin: impl FnMut(u32, Now) -> Result<(C, SocketAddr), String>,
        stop: &AtomicBool,
        progress: &mut dyn FnMut(&Interim),
    ) -> Result<Tally, LoadError> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).map_err(LoadError::system("epoll_create"))?;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let start = Instant::now();
        let mut engine = Self {
            epoll,
            slots: Vec::new(),
            live: 0,
            timeouts: BinaryHeap::new(),
            tally: Tally::default(),
            epoch: (start, micros(wall)),
            all_begun: None,
            read_rate: load.read_rate,
        };
        let mut indices = load.indices().peekable();
        let mut buffer = vec![0; READ_BUFFER];
        let mut events = Vec::with_capacity(EVENTS);
        let mut next_second = start + SECOND;
        let mut end = None;
        let cpu_before = cpu_time();
        while !stop.load(Ordering::Relaxed) {
            let now = engine.now();
            let due = (now.mono.duration_since(start).as_secs_f64() * load.ramp) as u64 + 1;
            for _ in 0..CONNECTS_AT_ONCE {
                if engine.tally.begun >= due {
                    break;
                }
                let Some(index) = indices.next() else { break };
                engine.begin(index, load, &mut begin);
            }
            if indices.peek().is_none() && engine.all_begun.is_none() {
                engine.all_begun = Some(now.wall);
                end = (load.duration > 0).then(|| now.mono + Duration::from_secs(load.duration.into()));
            }
            if end.is_some_and(|end| now.mono >= end) || (indices.peek().is_none() && engine.live == 0) {
                break;
            }
            engine.handle_timeouts();
            if now.mono >= next_second {
                next_second += SECOND;
                engine.handle_second(now);
                engine.tally.seconds = now.mono.duration_since(start).as_secs_f64();
                progress(&engine.tally.progress());
            }
            let next_connect = indices
                .peek()
                .map(|_| start + Duration::from_secs_f64(engine.tally.begun as f64 / load.ramp));
            let next_timeout = engine.timeouts.peek().map(|Reverse((at, _))| *at);
            let wake = [Some(next_second), next_connect, next_timeout, end].into_iter().flatten().min();
            engine.wait(wake.unwrap_or(next_second), &mut events)?;
            for event in events.drain(..) {
                engine.handle_event(event, &mut buffer);
            }
        }
        Ok(engine.finish(start, cpu_before))
    }

    fn now(&self) -> Now {
        let mono = Instant::now();
        let wall = self.epoch.1 + micros(mono.duration_since(self.epoch.0));
        Now { mono, wall, all_begun: self.all_begun }
    }

    fn begin(
        &mut self,
        index: u32,
        load: &Load,
        begin: &mut impl FnMut(u32, Now) -> Result<(C, SocketAddr), String>,
    ) {
        self.tally.begun += 1;
        let now = self.now();
        let source = load.sources.get(index as usize % load.sources.len().max(1)).copied();
        let begun = begin(index, now).and_then(|(client, address)| {
            let socket = connect(address, source, load).map_err(|e| e.to_string())?;
            let key = epoll::EventData::new_u64(self.slots.len() as u64);
            let both = epoll::EventFlags::IN | epoll::EventFlags::OUT;
            epoll::add(&self.epoll, &socket, key, both).map_err(|e| e.to_string())?;
            Ok(Slot {
                socket,
                client,
                output: Vec::new(),
                writing: 0,
                begun: now.mono,
                is_connected: false,
                waits_to_write: true,
                is_counted: false,
                is_queued: false,
                allowance: load.read_rate,
                is_reading: true,
            })
        });
        match begun {
            Ok(slot) => {
                self.slots.push(Some(slot));
                self.live += 1;
            }
            Err(reason) => self.tally.refuse(&reason),
        }
    }

    fn wait(&self, until: Instant, events: &mut Vec<epoll::Event>) -> Result<(), LoadError> {
        let timeout = until.saturating_duration_since(Instant::now());
        let timeout = Timespec { tv_sec: timeout.as_secs() as i64, tv_nsec: timeout.subsec_nanos().into() };
        match epoll::wait(&self.epoll, spare_capacity(events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(LoadError::system("epoll_wait")(error)),
        }
    }

    fn handle_event(&mut self, event: epoll::Event, buffer: &mut [u8]) {
        let (data, flags) = (event.data, event.flags);
        let key = data.u64() as usize;
        let now = self.now();
        let Some(slot) = self.slots.get_mut(key).and_then(Option::as_mut) else { return };
        let handled = slot.handle_event(flags, now, &mut self.tally, buffer);
        self.settle(key, handled, now);
    }

    fn handle_timeouts(&mut self) {
        let now = self.now();
        while let Some(&Reverse((at, key))) = self.timeouts.peek()
            && at <= now.mono
        {
            self.timeouts.pop();
            let Some(slot) = self.slots.get_mut(key).and_then(Option::as_mut) else { continue };
            slot.is_queued = false;
            let handled = slot.client.handle_timeout(now, &mut self.tally, &mut slot.output);
            self.settle(key, handled, now);
        }
    }

    fn handle_second(&mut self, now: Now) {
        for key in 0..self.slots.len() {
            let Some(slot) = self.slots.get_mut(key).and_then(Option::as_mut) else { continue };
            slot.client.handle_second(now, &mut self.tally);
            if let (Some(rate), Some(allowance)) = (self.read_rate, &mut slot.allowance) {
                *allowance = rate;
            }
            if slot.register(&self.epoll, key).is_err() {
                continue;
            }
            if !slot.client.is_accepted() && now.mono.duration_since(slot.begun) > ACCEPT_TIMEOUT {
                let missing = if slot.is_connected {
                    "play or publish was not accepted"
                } else {
                    "TCP was not connected"
                };
                self.settle(key, Err(format!("{missing} within {} s", ACCEPT_TIMEOUT.as_secs())), now);
            }
        }
    }

    /// Writes what a client has to say, renews its registrations, or lets it go.
    fn settle(&mut self, key: usize, handled: Result<(), String>, now: Now) {
        let Some(entry) = self.slots.get_mut(key) else { return };
        let Some(slot) = entry else { return };
        let settled = handled.and_then(|()| {
            slot.write(&self.epoll, key).map_err(|lost| slot.why_lost(&lost, now, &mut self.tally))
        });
        if slot.is_connected && slot.client.is_accepted() && !slot.is_counted {
            slot.is_counted = true;
            self.tally.accepted += 1;
        }
        match settled {
            Ok(()) => {
                if !slot.is_queued
                    && let Some(at) = slot.client.poll_timeout()
                {
                    slot.is_queued = true;
                    self.timeouts.push(Reverse((at, key)));
                }
            }
            Err(reason) => {
                if slot.is_counted {
                    slot.client.finish(now, &mut self.tally);
                    self.tally.lose(&reason);
                } else {
                    self.tally.refuse(&reason);
                }
                *entry = None;
                self.live -= 1;
            }
        }
    }

    fn finish(mut self, start: Instant, cpu_before: Option<Duration>) -> Tally {
        let now = self.now();
        self.tally.seconds = now.mono.duration_since(start).as_secs_f64();
        let used = cpu_before.zip(cpu_time()).map(|(before, after)| after.saturating_sub(before));
        self.tally.cpu_percent = used.map(|used| used.as_secs_f64() * 100.0 / self.tally.seconds.max(0.001));
        for slot in self.slots.iter().flatten() {
            if slot.is_counted {
                slot.client.finish(now, &mut self.tally);
            } else {
                self.tally.refuse("not accepted yet at the end of the run");
            }
        }
        self.tally
    }
}

impl<C: Client> Slot<C> {
    fn handle_event(
        &mut self,
        flags: epoll::EventFlags,
        now: Now,
        tally: &mut Tally,
        buffer: &mut [u8],
    ) -> Result<(), String> {
        if !self.is_connected {
            if let Some(error) = self.socket.take_error().map_err(|e| e.to_string())? {
                return Err(error.to_string());
            }
            if !flags.contains(epoll::EventFlags::OUT) {
                return Ok(());
            }
            self.is_connected = true;
            self.client.handle_connected(&mut self.output);
        }
        let readable = epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR;
        if !flags.intersects(readable) {
            return Ok(());
        }
        // One that reads slowly takes no more at once than it may.
        let most = match self.allowance {
            // A connection that has ended is read to its end.
            Some(allowance) if self.client.is_accepted() && !flags.intersects(ENDED) => {
                allowance.min(buffer.len() as u64) as usize
            }
            _ => buffer.len(),
        };
        let buffer = buffer.get_mut(..most).unwrap_or_default();
        if buffer.is_empty() {
            return Ok(());
        }
        loop {
            let taken = match self.socket.read(buffer) {
                Ok(0) => return Err("closed by the server".to_owned()),
                Ok(taken) => taken,
                Err(e) if e.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.to_string()),
            };
            if let Some(allowance) = self.allowance.as_mut().filter(|_| self.client.is_accepted()) {
                *allowance = allowance.saturating_sub(taken as u64);
            }
            let input = buffer.get(..taken).unwrap_or_default();
            return self.client.handle_input(input, now, tally, &mut self.output);
        }
    }

    /// Why a connection ended that is `lost` to writing: what the server said last may still be there to read.
    fn why_lost(&mut self, lost: &io::Error, now: Now, tally: &mut Tally) -> String {
        let mut buffer = [0; 4096];
        loop {
            match self.socket.read(&mut buffer) {
                Ok(taken @ 1..) => {
                    let input = buffer.get(..taken).unwrap_or_default();
                    if let Err(reason) = self.client.handle_input(input, now, tally, &mut self.output) {
                        return reason;
                    }
                }
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Ok(_) | Err(_) => return lost.to_string(),
            }
        }
    }

    /// Writes what the socket takes, and waits for it to be writable only while something is left.
    fn write(&mut self, epoll: &OwnedFd, key: usize) -> io::Result<()> {
        if !self.is_connected {
            return Ok(());
        }
        while !self.output.is_empty() {
            if self.writing == 0 {
                self.writing = self.client.next_write(&self.output);
            }
            match self.socket.write(self.output.get(..self.writing).unwrap_or(&self.output)) {
                Ok(written) => {
                    self.output.drain(..written);
                    self.writing = self.writing.saturating_sub(written);
                }
                Err(e) if e.kind() == ErrorKind::WouldBlock => break,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        let waits = !self.output.is_empty();
        self.register(epoll, key)?;
        if !waits && self.client.poll_timeout().is_none() {
            // A player has said all it will: thousands of them need no buffer.
            self.output = Vec::new();
        }
        Ok(())
    }
}

impl<C: Client> Slot<C> {
    /// Waits for bytes while it may read, and for room while something is left to be written.
    fn register(&mut self, epoll: &OwnedFd, key: usize) -> io::Result<()> {
        if !self.is_connected {
            return Ok(());
        }
        let reads = self.allowance != Some(0) || !self.client.is_accepted();
        let waits = !self.output.is_empty();
        if (waits, reads) == (self.waits_to_write, self.is_reading) {
            return Ok(());
        }
        (self.waits_to_write, self.is_reading) = (waits, reads);
        let mut flags = epoll::EventFlags::empty();
        flags.set(epoll::EventFlags::IN, reads);
        flags.set(epoll::EventFlags::OUT, waits);
        epoll::modify(epoll, &self.socket, epoll::EventData::new_u64(key as u64), flags)?;
        Ok(())
    }
}

/// Begins a connection; the socket tells when it stands.
fn connect(address: SocketAddr, source: Option<IpAddr>, load: &Load) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if let Some(size) = load.receive_buffer {
        // Before the connection stands: the window is agreed upon with it.
        socket.set_recv_buffer_size(size)?;
    }
    socket.set_nonblocking(true)?;
    // Handshake and commands are small and each waits for an answer.
    socket.set_tcp_nodelay(!load.nagle)?;
    if let Some(source) = source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    match socket.connect(&address.into()) {
        Ok(()) => {}
        Err(e) if e.raw_os_error() == Some(rustix::io::Errno::INPROGRESS.raw_os_error()) => {}
        Err(e) => return Err(e),
    }
    Ok(socket.into())
}

/// Time this process has been on a core; `None` where the kernel keeps no account.
fn cpu_time() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}
