//! Delays between attempts at the other end of a network.

use std::time::Duration;

/// First delay: a port whose worker was restarted is back within a few of these.
const FIRST: Duration = Duration::from_millis(50);
/// Longest delay, as SRS waits between attempts of a forwarder.
const LONGEST: Duration = Duration::from_secs(3);

/// Doubling delays with full jitter above half, so that forwarders of many streams do not come back in step.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Self {
        Self { next: FIRST }
    }

    /// The other end works again.
    pub(crate) fn reset(&mut self) {
        self.next = FIRST;
    }

    pub(crate) fn next_delay(&mut self) -> Duration {
        let full = self.next;
        self.next = (full * 2).min(LONGEST);
        full / 2 + full.mul_f64(random_fraction() / 2.0)
    }
}

/// A number in 0..1; without the kernel's generator there is no jitter, and nothing worse.
fn random_fraction() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_double_up_to_the_longest_and_start_over() {
        let mut backoff = Backoff::new();
        for full in [50, 100, 200, 400, 800, 1600, 3000, 3000] {
            let delay = backoff.next_delay();
            let full = Duration::from_millis(full);
            assert!(full / 2 <= delay && delay <= full, "{delay:?} of {full:?}");
        }
        backoff.reset();
        assert!(backoff.next_delay() <= FIRST);
    }
}
