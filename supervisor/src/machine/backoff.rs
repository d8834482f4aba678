//! When a process that died is started again.
//!
//! A process that served for a while is started again at once: the port is open, players queue. One that dies young
//! waits longer each time. Nothing here gives up: an edge that stays down at night is worse than one that retries.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use cluster::Delays;

/// Readiness after which a death counts as the first one again.
pub(crate) const STABLE: Duration = Duration::from_secs(60);
/// The shortest wait before a restart that is not immediate.
pub(crate) const SHORTEST: Duration = Duration::from_millis(200);
/// The longest wait before a restart.
pub(crate) const LONGEST: Duration = Duration::from_secs(30);
/// This many deaths within [`FLAPPING_WINDOW`] are flapping.
pub(crate) const FLAPPING_DEATHS: usize = 5;
/// See [`FLAPPING_DEATHS`].
pub(crate) const FLAPPING_WINDOW: Duration = Duration::from_secs(60);

/// The deaths of one unit, as far as they decide its next start.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    /// Those of a process that dies young.
    delays: Delays,
    /// The newest deaths, at most [`FLAPPING_DEATHS`].
    recent: VecDeque<Instant>,
    flapping: bool,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { delays: Delays::new(SHORTEST, LONGEST), recent: VecDeque::new(), flapping: false }
    }
}

impl Backoff {
    /// Records a death at `now` of a process that had been ready for `ready_for` (`None`: never), and returns how long
    /// to wait before the next start. `jitter` is in 0..1; siblings that die together must not pass the same value.
    pub(crate) fn handle_death(
        &mut self,
        now: Instant,
        ready_for: Option<Duration>,
        jitter: f64,
    ) -> Duration {
        if ready_for.is_some_and(|ready| ready >= STABLE) {
            *self = Self::default();
            self.recent.push_back(now);
            return Duration::ZERO;
        }
        if self.recent.len() == FLAPPING_DEATHS {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        if self.recent.len() == FLAPPING_DEATHS
            && self
                .recent
                .front()
                .is_some_and(|oldest| now.saturating_duration_since(*oldest) <= FLAPPING_WINDOW)
        {
            self.flapping = true;
        }
        self.delays.next_delay(jitter)
    }

    /// Whether the unit has died so often that a person should look. Holds until a process has been ready for
    /// [`STABLE`] (see [`Backoff::handle_stable`]).
    pub(crate) fn is_flapping(&self) -> bool {
        self.flapping
    }

    /// A process has been ready for [`STABLE`]: all is forgotten.
    pub(crate) fn handle_stable(&mut self) {
        *self = Self::default();
    }
}

/// Keeps automatic restarts of siblings apart, so that a cause common to all does not also make them start together.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Spacing {
    last: Option<Instant>,
}

impl Spacing {
    /// Least time between two automatic restarts. A single restart never waits for it.
    pub(crate) const GAP: Duration = Duration::from_millis(100);

    /// The earliest moment for the next automatic restart.
    pub(crate) fn earliest(&self, now: Instant) -> Instant {
        self.last.map_or(now, |last| (last + Self::GAP).max(now))
    }

    /// An automatic restart happens now.
    pub(crate) fn handle_restart(&mut self, now: Instant) {
        self.last = Some(now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_process_that_was_ready_for_a_minute_is_restarted_at_once() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        assert_eq!(backoff.handle_death(now, Some(STABLE), 1.0), Duration::ZERO);
        assert_eq!(backoff.handle_death(now, Some(STABLE), 1.0), Duration::ZERO, "each time anew");
    }

    #[test]
    fn young_deaths_wait_up_to_twice_as_long_each_time_within_bounds() {
        let mut backoff = Backoff::default();
        let now = Instant::now();
        let waits: Vec<f64> =
            (0..9).map(|_| backoff.handle_death(now, Some(59 * SECOND), 1.0).as_secs_f64()).collect();
        assert_eq!(waits, [0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]);
    }

    #[test]
    fn five_deaths_in_a_minute_are_flapping_until_a_stable_run() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        for death in 0..4 {
            backoff.handle_death(start + SECOND * death, None, 0.0);
        }
        assert!(!backoff.is_flapping());
        backoff.handle_death(start + SECOND * 60, None, 0.0);
        assert!(backoff.is_flapping());
        backoff.handle_death(start + SECOND * 200, None, 0.0);
        assert!(backoff.is_flapping(), "waiting long between deaths is no recovery");
        backoff.handle_stable();
        assert!(!backoff.is_flapping());
    }

    #[test]
    fn five_deaths_in_more_than_a_minute_are_not_flapping() {
        let mut backoff = Backoff::default();
        let start = Instant::now();
        for death in 0..50 {
            backoff.handle_death(start + SECOND * death * 16, None, 0.0);
        }
        assert!(!backoff.is_flapping());
    }

    #[test]
    fn spacing_delays_the_second_restart_and_never_a_single_one() {
        let mut spacing = Spacing::default();
        let now = Instant::now();
        assert_eq!(spacing.earliest(now), now);
        spacing.handle_restart(now);
        assert_eq!(spacing.earliest(now), now + Spacing::GAP);
        assert_eq!(spacing.earliest(now + SECOND), now + SECOND);
    }
}
