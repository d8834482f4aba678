//! A bound on how often something is done that peers can cause.

use std::cell::Cell;

/// The length of a window, ms.
const WINDOW: u64 = 10_000;
/// Log lines of one kind within one window: a reconnect of every encoder at once fits, a flood fills no disk.
const LINES_MAX: u32 = 200;
/// Streams that begin to be forwarded within one window: twice what a worker holds. Each costs a connection to every edge port, so
/// those that begin beyond it, a flood of names, wait for the next second, which few of them see.
const FORWARDS_MAX: u32 = 128;

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

    /// For streams that begin to be forwarded.
    pub(crate) fn of_forwards() -> Self {
        Self::new(FORWARDS_MAX)
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

    /// How often it was not done in windows that are over by `now`; told once.
    pub(crate) fn take_left_out(&self, now: u64) -> Option<u64> {
        if now.saturating_sub(self.window_began.get()) >= WINDOW {
            self.due.set(self.due.get() + self.left_out.take());
        }
        Some(self.due.take()).filter(|left_out| *left_out > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
