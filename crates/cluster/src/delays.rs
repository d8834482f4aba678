//! Delays between attempts: whoever tries again, at a process or at the other end of a network, waits like this.

use std::time::Duration;

/// Growing delays with jitter: each is somewhere between `first` and a ceiling, which begins at twice `first` and doubles with each
/// attempt up to `longest`. Those who failed together do not come back together.
#[derive(Clone, Debug)]
pub struct Delays {
    first: Duration,
    longest: Duration,
    ceiling: Duration,
}

impl Delays {
    /// Delays of `first` at least and `longest` at most.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { first, longest: longest.max(first), ceiling: first }
    }

    /// It works again: the next delay is a short one.
    pub fn reset(&mut self) {
        self.ceiling = self.first;
    }

    /// How long to wait before the next attempt. `chance` is in 0..1, and another number for each who waits.
    pub fn next_delay(&mut self, chance: f64) -> Duration {
        self.ceiling = self.ceiling.saturating_mul(2).min(self.longest);
        self.first + (self.ceiling - self.first).mul_f64(chance.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_millis(200);
    const LONGEST: Duration = Duration::from_secs(30);

    #[test]
    fn the_ceiling_doubles_up_to_the_longest_and_starts_over() {
        let mut delays = Delays::new(FIRST, LONGEST);
        let seconds: Vec<f64> = (0..9).map(|_| delays.next_delay(1.0).as_secs_f64()).collect();
        assert_eq!(seconds, [0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30.0, 30.0]);
        delays.reset();
        assert_eq!(delays.next_delay(1.0), 2 * FIRST);
    }

    #[test]
    fn no_chance_leaves_the_bounds() {
        for chance in [-1.0, 0.0, 0.5, 1.0, 7.0] {
            let mut delays = Delays::new(FIRST, LONGEST);
            for _ in 0..100 {
                let delay = delays.next_delay(chance);
                assert!((FIRST..=LONGEST).contains(&delay), "{delay:?} for {chance}");
            }
        }
    }
}
