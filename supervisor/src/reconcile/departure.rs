//! A port that leaves its place, as data: since when, until when, what then.
//!
//! ```text
//!             nobody is left                          has ended
//!   Draining ────────────────────────▶ Stopping ────────────────▶ removed, or started elsewhere
//!     │  │ time over, consent              ▲  │ does not end
//!     │  └───────▶ Closing ────────────────┤  ▼
//!     │ time over, nobody has consented    │ Stuck
//!     └──────────▶ Overdue ────────────────┘
//! ```

use std::time::{Duration, Instant};

use super::kernel::OnRecord;

/// For so long a port that leaves keeps its players where nothing else is asked for: enough for a page that reloads by itself to
/// move on, and short enough to wait for.
pub(crate) const DRAIN: Duration = Duration::from_secs(30);
/// The longest that may be asked for: as long the supervisor takes no other change.
pub const DRAIN_MAX: Duration = Duration::from_secs(3_600);

/// See the top of this file.
#[derive(Clone, Debug)]
pub(crate) struct Departure {
    pub(crate) then: Then,
    /// Somebody has said that whoever is left is disconnected when its time is over.
    pub(crate) consent: bool,
    pub(crate) since: Instant,
    /// Until when whoever is there may stay.
    pub(crate) until: Instant,
    pub(crate) limit: Duration,
    /// When it answered that it knows: what it reported before says nothing.
    pub(crate) told: Option<Instant>,
    /// When it is asked again who is left.
    pub(crate) ask: Option<Instant>,
    pub(crate) phase: Phase,
}

/// What becomes of a port that has left its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// It is forgotten: it is in no file.
    Removed,
    /// It is started where the file says.
    Moved,
}

/// How far a port has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It takes nobody, and whoever is there stays.
    Draining,
    /// The same, and its time is over: nobody is disconnected without consent.
    Overdue,
    /// Whoever is there is told that it is over; until when that is waited for.
    Closing(Instant),
    /// Its process is stopped; until when that is waited for.
    Stopping(Instant),
    /// Its process does not end.
    Stuck,
}

impl Departure {
    pub(crate) fn begin(now: Instant, then: Then, limit: Duration, consent: bool) -> Self {
        let (since, until) = (now, now + limit);
        Self { then, consent, since, until, limit, told: None, ask: None, phase: Phase::Draining }
    }

    /// That of a port which a supervisor before had begun with: with the time that is left, where that is over with one as long
    /// again, at most an ordinary one. Without a record nobody has consented.
    pub(crate) fn go_on(now: Instant, then: Then, record: Option<OnRecord>) -> Self {
        let OnRecord { left, limit, consent } =
            record.unwrap_or(OnRecord { left: Duration::ZERO, limit: DRAIN, consent: false });
        let left = if left.is_zero() { limit.min(DRAIN) } else { left.min(DRAIN_MAX) };
        Self { limit: limit.min(DRAIN_MAX), ..Self::begin(now, then, left, consent) }
    }

    /// When something is due though nothing happens.
    pub(crate) fn due(&self) -> Option<Instant> {
        let end = match self.phase {
            Phase::Draining => Some(self.until),
            Phase::Closing(until) | Phase::Stopping(until) => Some(until),
            Phase::Overdue | Phase::Stuck => None,
        };
        let asks = match self.phase {
            Phase::Draining | Phase::Overdue | Phase::Closing(_) => self.ask.filter(|_| self.told.is_some()),
            Phase::Stopping(_) | Phase::Stuck => None,
        };
        end.into_iter().chain(asks).min()
    }

    /// Whether its process is being stopped: then it cannot be kept any more.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(self.phase, Phase::Stopping(_) | Phase::Stuck)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_supervisor_had_begun_goes_on_with_the_time_that_is_left_or_once_more() {
        let (now, s) = (Instant::now(), Duration::from_secs);
        let on_record = |left, limit| Some(OnRecord { left: s(left), limit: s(limit), consent: true });
        let of = |record| {
            let departure = Departure::go_on(now, Then::Removed, record);
            ((departure.until - now).as_secs(), departure.consent)
        };
        assert_eq!(of(on_record(400, 600)), (400, true));
        assert_eq!(of(on_record(0, 600)), (30, true));
        assert_eq!(of(on_record(0, 5)), (5, true));
        assert_eq!(of(on_record(0, 0)), (0, true));
        assert_eq!(of(None), (30, false));
    }
}
