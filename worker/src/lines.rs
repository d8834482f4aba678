//! A bound on the log lines that peers can cause.

use std::cell::Cell;

/// Lines of one kind within one [`WINDOW`]: a reconnect of every encoder at once fits, a flood fills no disk.
const LINES_MAX: u32 = 200;
/// See [`LINES_MAX`], ms.
const WINDOW: u64 = 10_000;

/// The budget of one kind of lines.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    window_began: Cell<u64>,
    written: Cell<u32>,
    left_out: Cell<u64>,
}

impl Lines {
    /// Whether a line may be written at `now`, monotonic ms; it counts as written then.
    pub(crate) fn take(&self, now: u64) -> bool {
        if now.saturating_sub(self.window_began.get()) >= WINDOW {
            self.window_began.set(now);
            self.written.set(0);
        }
        let may = self.written.get() < LINES_MAX;
        if may {
            self.written.set(self.written.get() + 1);
        } else {
            self.left_out.set(self.left_out.get() + 1);
        }
        may
    }

    /// How many lines were left out in a window that is over by `now`, once.
    pub(crate) fn take_left_out(&self, now: u64) -> Option<u64> {
        let is_over = now.saturating_sub(self.window_began.get()) >= WINDOW;
        (is_over && self.left_out.get() > 0).then(|| self.left_out.take())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_cut_and_counted_and_the_next_window_is_fresh() {
        let lines = Lines::default();
        let written = (0..100_000).filter(|now| lines.take(now % WINDOW)).count();
        assert_eq!(written, LINES_MAX as usize);
        assert_eq!(lines.take_left_out(WINDOW - 1), None);
        assert_eq!(lines.take_left_out(WINDOW), Some(100_000 - u64::from(LINES_MAX)));
        assert_eq!(lines.take_left_out(WINDOW), None);
        assert!(lines.take(WINDOW));
    }
}
