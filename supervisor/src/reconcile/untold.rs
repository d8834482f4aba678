//! Values that a port has not said that it took, as data: when it is told again.

use std::time::{Duration, Instant};

use cluster::WorkerSpec;

use super::kernel::Ticket;

/// A port that has not said that it took its values is told again after this time; each further wait is twice as long.
const AGAIN: Duration = Duration::from_secs(1);
/// The longest of these waits: one that hangs costs nothing but a request now and then.
const AGAIN_MAX: Duration = Duration::from_secs(60);
/// Values that a port has not said that it took.
#[derive(Debug)]
pub(crate) struct Untold {
    /// When it is told, unless it is being told.
    pub(super) due: Instant,
    /// How long the next wait is.
    pub(super) wait: Duration,
    /// The question that is under way, and what it told.
    pub(super) asked: Option<(Ticket, Box<WorkerSpec>)>,
    /// It did not say so when it was asked, which is an event.
    pub(super) has_failed: bool,
}

impl Untold {
    pub(crate) fn now(now: Instant) -> Self {
        Self { due: now, wait: AGAIN, asked: None, has_failed: false }
    }

    /// It was told in vain.
    pub(super) fn fail(self, now: Instant) -> Self {
        Self { due: now + self.wait, wait: (self.wait * 2).min(AGAIN_MAX), asked: None, has_failed: true }
    }

    pub(crate) fn is_asked(&self) -> bool {
        self.asked.is_some()
    }

    pub(crate) fn due(&self) -> Option<Instant> {
        self.asked.is_none().then_some(self.due)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_waits_of_one_that_does_not_hear_double_up_to_a_minute() {
        let mut now = Instant::now();
        let mut untold = Untold::now(now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            untold = untold.fail(now);
            let due = untold.due().unwrap();
            waits.push((due - now).as_secs());
            now = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    }
}
