//! A bound on how often something is done that peers can cause.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::IpAddr;

/// The length of a window, ms.
const WINDOW: u64 = 10_000;
/// Log lines of one kind within one window: a reconnect of every encoder at once fits, a flood fills no disk.
const LINES_MAX: u32 = 200;
/// Log lines within one window that one address causes: it leaves room for those of others.
const LINES_OF_ONE: u32 = 40;
/// Streams of one address that begin to be forwarded at once within one window. Each costs a connection to every edge port, so those
/// that begin beyond it, a flood of names, wait for the next second, which few of them see.
const FORWARDS_OF_ONE: u32 = 32;
/// Publishes of one address within one window, as a multiple of `max_streams`: all its encoders may come back twice.
const PUBLISHES_OF_ONE: u32 = 2;
/// Of a port of fewer streams, the same counts as for so many: its one encoder may be restarted often.
const LEAST_STREAMS: u32 = 64;
/// The length of a window of connections, ms: whoever is refused comes again.
const CONNECT_WINDOW: u64 = 1_000;
/// Connections of one address within [`CONNECT_WINDOW`] that come to nothing, which ended and neither published nor played. While
/// others wait in the queue, more are refused: no client does that, and whoever plays or publishes does not count.
const VOIDS_OF_ONE: u32 = 200;
/// Addresses that are told apart within one window; all others share.
const ADDRESSES_MAX: usize = 4_096;

/// How often something may be done within one window.
#[derive(Debug)]
pub(crate) struct Budget {
    most: u32,
    window_began: Cell<u64>,
    done: Cell<u32>,
    left_out: Cell<u64>,
    /// Left out in windows that are over, and not told yet.
    due: Cell<u64>,
}

impl Budget {
    /// For log lines of one kind.
    pub(crate) fn of_lines() -> Self {
        Self::new(LINES_MAX)
    }

    fn new(most: u32) -> Self {
        Self {
            most,
            window_began: Cell::new(0),
            done: Cell::new(0),
            left_out: Cell::new(0),
            due: Cell::new(0),
        }
    }

    /// Whether it may be done once more at `now`, monotonic ms; it counts as done then.
    pub(crate) fn take(&self, now: u64) -> bool {
        if now.saturating_sub(self.window_began.get()) >= WINDOW {
            self.window_began.set(now);
            self.done.set(0);
            self.due.set(self.due.get() + self.left_out.take());
        }
        let may = self.done.get() < self.most;
        if may {
            self.done.set(self.done.get() + 1);
        } else {
            self.left_out.set(self.left_out.get() + 1);
        }
        may
    }

    /// It was not done once more, for another reason.
    pub(crate) fn leave_out(&self) {
        self.left_out.set(self.left_out.get() + 1);
    }

    /// How often it was not done in windows that are over by `now`; told once.
    pub(crate) fn take_left_out(&self, now: u64) -> Option<u64> {
        if now.saturating_sub(self.window_began.get()) >= WINDOW {
            self.due.set(self.due.get() + self.left_out.take());
        }
        Some(self.due.take()).filter(|left_out| *left_out > 0)
    }
}

/// What each address may do within one window.
#[derive(Debug)]
pub(crate) struct Sources {
    /// Its length, ms.
    window: u64,
    window_began: Cell<u64>,
    done: RefCell<HashMap<Option<IpAddr>, Done>>,
}

#[derive(Debug, Default)]
struct Done {
    lines: u32,
    forwards: u32,
    publishes: u32,
    voids: u32,
}

impl Sources {
    /// For what is done by those who have a connection.
    pub(crate) fn of_peers() -> Self {
        Self { window: WINDOW, window_began: Cell::new(0), done: RefCell::default() }
    }

    /// For connections.
    pub(crate) fn of_connections() -> Self {
        Self { window: CONNECT_WINDOW, ..Self::of_peers() }
    }

    /// A connection of `source` came to nothing.
    pub(crate) fn note_void(&self, source: IpAddr, now: u64) {
        self.take(source, now, 0, |done| &mut done.voids);
    }

    /// Whether as many connections of `source` came to nothing as may in one window.
    pub(crate) fn has_many_voids(&self, source: IpAddr, now: u64) -> bool {
        self.begin_window(now);
        let done = self.done.borrow();
        let done = done.get(&Some(source)).or_else(|| done.get(&None));
        done.is_some_and(|done| done.voids >= VOIDS_OF_ONE)
    }

    /// Whether `source` may cause one more log line.
    pub(crate) fn take_line(&self, source: IpAddr, now: u64) -> bool {
        self.take(source, now, LINES_OF_ONE, |done| &mut done.lines)
    }

    /// Whether one more stream of `source` may begin to be forwarded at once.
    pub(crate) fn take_forward(&self, source: IpAddr, now: u64) -> bool {
        self.take(source, now, FORWARDS_OF_ONE, |done| &mut done.forwards)
    }

    /// Whether `source` may publish once more, on a port of `max_streams`.
    pub(crate) fn take_publish(&self, source: IpAddr, now: u64, max_streams: u32) -> bool {
        let most = max_streams.max(LEAST_STREAMS).saturating_mul(PUBLISHES_OF_ONE);
        self.take(source, now, most, |done| &mut done.publishes)
    }

    fn take(&self, source: IpAddr, now: u64, most: u32, what: impl Fn(&mut Done) -> &mut u32) -> bool {
        self.begin_window(now);
        let mut done = self.done.borrow_mut();
        let is_known = done.contains_key(&Some(source)) || done.len() < ADDRESSES_MAX;
        let count = what(done.entry(is_known.then_some(source)).or_default());
        *count = count.saturating_add(1);
        *count <= most
    }

    fn begin_window(&self, now: u64) {
        if now.saturating_sub(self.window_began.get()) >= self.window {
            self.window_began.set(now);
            *self.done.borrow_mut() = HashMap::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_address_has_its_own_and_the_next_window_is_fresh() {
        let (sources, [a, b]) = (Sources::of_peers(), [1, 2].map(|n| IpAddr::from([192, 0, 2, n])));
        let may = |address, now| (0..1_000).filter(|_| sources.take_publish(address, now, 64)).count();
        assert_eq!((may(a, 0), may(a, WINDOW - 1), may(b, 0)), (128, 0, 128));
        assert_eq!(may(a, WINDOW), 128);
        assert_eq!((0..1_000).filter(|_| sources.take_forward(a, WINDOW)).count(), FORWARDS_OF_ONE as usize);
        assert_eq!((0..1_000).filter(|_| sources.take_line(a, WINDOW)).count(), LINES_OF_ONE as usize);
    }

    #[test]
    fn connections_of_an_address_that_come_to_nothing_are_counted_anew_each_second() {
        let (sources, [a, b]) = (Sources::of_connections(), [1, 2].map(|n| IpAddr::from([192, 0, 2, n])));
        let voids = |count, now| (0..count).for_each(|_| sources.note_void(a, now));
        voids(VOIDS_OF_ONE - 1, 0);
        assert!(!sources.has_many_voids(a, 999));
        voids(1, 999);
        assert!(sources.has_many_voids(a, 999) && !sources.has_many_voids(b, 999));
        assert!(!sources.has_many_voids(a, 1_000));
    }

    #[test]
    fn addresses_without_number_cost_no_memory_without_end() {
        let sources = Sources::of_peers();
        for number in 0..10 * ADDRESSES_MAX as u32 {
            sources.take_line(IpAddr::from(number.to_be_bytes()), 0);
        }
        assert_eq!(sources.done.borrow().len(), ADDRESSES_MAX + 1);
    }

    #[test]
    fn a_flood_is_cut_and_counted_and_the_next_window_is_fresh() {
        let lines = Budget::of_lines();
        let written = (0..100_000).filter(|now| lines.take(now % WINDOW)).count();
        assert_eq!(written, LINES_MAX as usize);
        assert_eq!(lines.take_left_out(WINDOW - 1), None);
        assert_eq!(lines.take_left_out(WINDOW), Some(100_000 - u64::from(LINES_MAX)));
        assert_eq!(lines.take_left_out(WINDOW), None);
        assert!(lines.take(WINDOW));
        // A flood that lasts is told too.
        let more = (0..1_000).filter(|_| lines.take(WINDOW)).count();
        assert_eq!(more, LINES_MAX as usize - 1);
        assert!(lines.take(2 * WINDOW));
        assert_eq!(lines.take_left_out(2 * WINDOW + 1), Some(1_000 - more as u64));
    }
}
