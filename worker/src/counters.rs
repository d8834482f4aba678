//! What is counted of a process, and how late its loop is.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use crate::keeping::FAR;

/// Counters of the process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub(crate) accepted: Cell<u64>,
    pub(crate) peer_errors: Cell<u64>,
    pub(crate) stuck_players: Cell<u64>,
    pub(crate) skips: Cell<u64>,
    pub(crate) bytes_in: Cell<u64>,
    pub(crate) bytes_out: Cell<u64>,
    pub(crate) beats: Cell<u64>,
}

impl Counters {
    fn all(&self) -> [&Cell<u64>; 6] {
        [&self.accepted, &self.peer_errors, &self.stuck_players, &self.skips, &self.bytes_in, &self.bytes_out]
    }

    /// All but the beats, which are of this process alone.
    pub(crate) fn values(&self) -> Vec<u64> {
        self.all().iter().map(|counter| counter.get()).collect()
    }

    /// They go on from the `values` of a process before.
    pub(crate) fn restore(&self, values: &[u64]) {
        self.all().iter().zip(values).for_each(|(counter, value)| counter.set((*value).min(FAR)));
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &Cell<u64>, n: u64) {
    counter.set(counter.get() + n);
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

    /// How long of the last `span` the loop stood still or was late: sum, ms.
    pub(crate) fn late_within(&self, span: Duration) -> u32 {
        let mut left = u32::try_from(span.as_millis()).unwrap_or(u32::MAX);
        let period = u32::try_from(Self::PERIOD.as_millis()).unwrap_or(u32::MAX);
        let mut sum = 0;
        for late in self.0.borrow().iter().rev() {
            let late = (*late).min(left);
            sum += late;
            left = left.saturating_sub(late.saturating_add(period));
        }
        sum
    }

    /// 99th percentile and maximum, ms.
    pub(crate) fn p99_and_max(&self) -> (u32, u32) {
        let mut samples: Vec<_> = self.0.borrow().iter().copied().collect();
        samples.sort_unstable();
        let p99 = samples.get(samples.len().saturating_sub(1) * 99 / 100);
        (p99.copied().unwrap_or(0), samples.last().copied().unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_loop_was_late_within_the_last_seconds_is_known_at_once() {
        let lag = Lag::default();
        (0..600).for_each(|_| lag.push(Duration::from_millis(1)));
        let ten = Duration::from_secs(10);
        assert!(lag.late_within(ten) < 300);
        // It stands still for 1.5 s of each 1.55 s.
        (0..3).for_each(|_| lag.push(Duration::from_millis(1500)));
        let late = lag.late_within(ten);
        assert!((4_500..4_800).contains(&late), "{late}");
        lag.push(Duration::from_secs(60));
        assert_eq!(lag.late_within(ten), 10_000, "no more than all of it");
    }
}
