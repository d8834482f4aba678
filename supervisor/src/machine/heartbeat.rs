//! Signs of life of a process. Pure: samples in, a verdict out.

use std::time::Duration;

/// Judges signs of life, once a [`Heartbeat::PERIOD`].
///
/// Silence is counted in the time that the process had for itself: one that waits for a core or for the disk is slow, and
/// to start it again would make it slower.
#[derive(Clone, Debug, Default)]
pub(crate) struct Heartbeat {
    /// It has said who it is.
    is_greeted: bool,
    beats: Option<u64>,
    /// The beats of the report that is coming in have moved.
    moves: bool,
    /// There was a sign of life since the last sample.
    is_alive: bool,
    /// There was an answer since the last sample, whatever it said.
    has_answered: bool,
    /// Since the last sign of life: what the process had for itself.
    silent: Duration,
    /// The same by the clock.
    passed: Duration,
    /// What it had for itself when its replacement was asked for.
    replaced_at: Option<Duration>,
    /// Time since the last replacements that were asked for, the oldest first, at most [`Heartbeat::REPLACEMENTS`].
    replacements: Vec<Duration>,
}

/// What is to be done about a process that is frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// Its keeper shall replace it.
    Replace,
    /// That did not help for long, or it has never said who it is: all of it is to be killed.
    Kill,
}

impl Heartbeat {
    /// Time between two samples.
    pub(crate) const PERIOD: Duration = Duration::from_secs(1);
    /// So long without a sign of life a process is frozen. Less would replace one for a single sample that is late; more would let its
    /// players wait.
    pub(crate) const LIMIT: Duration = Duration::from_secs(3);
    /// The same for its first sign, the answer to HELLO: before it, the process reads its files.
    pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);
    /// So long a process that was to be replaced may show no sign of life: a new one is there within some ms.
    pub(crate) const REPLACE_LIMIT: Duration = Duration::from_secs(2);
    /// So many replacements within [`Heartbeat::REPLACEMENTS_WITHIN`] have not helped: a worker may freeze by what the one before it has
    /// left.
    pub(crate) const REPLACEMENTS: usize = 2;
    /// See [`Heartbeat::REPLACEMENTS`].
    pub(crate) const REPLACEMENTS_WITHIN: Duration = Duration::from_secs(60);
    /// A sample that is this late says more about the sampler (stopped, starved) than about the process.
    pub(crate) const LATE: Duration = Duration::from_secs(1);

    /// Of a process that has said who it is to somebody else.
    pub(crate) fn of_adopted() -> Self {
        Self { is_greeted: true, ..Self::default() }
    }

    /// Whether it has said who it is.
    pub(crate) fn is_greeted(&self) -> bool {
        self.is_greeted
    }

    /// It has said who it is.
    pub(crate) fn handle_hello(&mut self) {
        (self.is_greeted, self.is_alive) = (true, true);
    }

    /// It cannot be asked, since its control socket is not there. Whoever removed that file has not stopped the process.
    pub(crate) fn handle_missing(&mut self) {
        self.is_alive = true;
    }

    /// It could show none, since who starts the next worker was stopped, and goes on now: its time begins anew.
    pub(crate) fn handle_woken(&mut self) {
        self.is_alive = true;
    }

    /// The first packet of a report came.
    pub(crate) fn handle_beats(&mut self, beats: u64) {
        self.moves = self.beats.replace(beats) != Some(beats);
        self.has_answered = true;
        self.is_alive |= self.moves;
    }

    /// A further packet of that report came: whoever takes long for a long report still turns.
    pub(crate) fn handle_packet(&mut self) {
        self.is_alive |= self.moves;
    }

    /// Takes one sample: `elapsed` since the one before, and what of it the process had for itself. Returns what is to be done and
    /// why, if it is frozen.
    pub(crate) fn handle_sample(&mut self, elapsed: Duration, own: Duration) -> Option<(Remedy, String)> {
        let has_answered = std::mem::take(&mut self.has_answered);
        self.replacements.iter_mut().for_each(|since| *since += elapsed);
        self.replacements.retain(|since| *since < Self::REPLACEMENTS_WITHIN);
        if std::mem::take(&mut self.is_alive) || elapsed > Self::PERIOD + Self::LATE {
            (self.silent, self.passed, self.replaced_at) = (Duration::ZERO, Duration::ZERO, None);
            return None;
        }
        self.silent += own;
        self.passed += elapsed;
        let limit = match (self.is_greeted, self.replaced_at) {
            (_, Some(at)) => at + Self::REPLACE_LIMIT,
            (true, None) => Self::LIMIT,
            (false, None) => Self::START_LIMIT,
        };
        // A timer is never early by much, and may be so each time.
        if self.silent + Self::PERIOD / 2 < limit {
            return None;
        }
        let remedy = match (self.is_greeted, self.replaced_at) {
            (true, None) if self.replacements.len() < Self::REPLACEMENTS => Remedy::Replace,
            (_, None) | (_, Some(_)) => Remedy::Kill,
        };
        if remedy == Remedy::Replace {
            self.replacements.push(Duration::ZERO);
        }
        self.replaced_at.get_or_insert(self.silent);
        let seconds = self.passed.as_secs_f32().round();
        let why = match (self.is_greeted, has_answered) {
            (false, _) => format!("no answer on its control socket within {seconds} s"),
            (true, true) => format!("frozen: its data loop stood still for {seconds} s"),
            (true, false) => format!("frozen: no heartbeat for {seconds} s"),
        };
        Some((remedy, why))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Heartbeat::PERIOD;

    fn alive() -> Heartbeat {
        let mut heartbeat = Heartbeat::of_adopted();
        heartbeat.handle_beats(1);
        assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
        heartbeat
    }

    #[test]
    fn a_process_that_does_not_answer_is_frozen_after_3_s() {
        let mut heartbeat = alive();
        for _ in 0..2 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
        }
        let frozen = |remedy, why: &str| Some((remedy, why.to_owned()));
        assert_eq!(
            heartbeat.handle_sample(TICK, TICK),
            frozen(Remedy::Replace, "frozen: no heartbeat for 3 s")
        );
        assert_eq!(heartbeat.handle_sample(TICK, TICK), None, "its successor has 2 s");
        assert_eq!(heartbeat.handle_sample(TICK, TICK), frozen(Remedy::Kill, "frozen: no heartbeat for 5 s"));
        assert_eq!(heartbeat.handle_sample(TICK, TICK), frozen(Remedy::Kill, "frozen: no heartbeat for 6 s"));
        heartbeat.handle_hello();
        (0..3).for_each(|_| assert_eq!(heartbeat.handle_sample(TICK, TICK), None));
        let again = heartbeat.handle_sample(TICK, TICK);
        assert_eq!(again, frozen(Remedy::Replace, "frozen: no heartbeat for 3 s"));
    }

    #[test]
    fn a_process_that_freezes_for_the_third_time_within_a_minute_is_not_replaced_again_but_killed() {
        let mut heartbeat = alive();
        let mut freeze = |quiet: u32| {
            heartbeat.handle_hello();
            (0..quiet).for_each(|_| {
                heartbeat.handle_hello();
                assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
            });
            (0..10).find_map(|_| heartbeat.handle_sample(TICK, TICK)).map(|(remedy, _)| remedy)
        };
        assert_eq!(freeze(1), Some(Remedy::Replace));
        assert_eq!(freeze(20), Some(Remedy::Replace));
        assert_eq!(freeze(20), Some(Remedy::Kill));
        assert_eq!(freeze(60), Some(Remedy::Replace), "that is long ago");
    }

    #[test]
    fn a_process_that_answers_while_its_loop_stands_still_is_frozen_after_3_s() {
        let mut heartbeat = alive();
        let mut sample = || {
            heartbeat.handle_beats(1);
            heartbeat.handle_packet();
            heartbeat.handle_sample(TICK, TICK)
        };
        for _ in 0..2 {
            assert_eq!(sample(), None);
        }
        assert_eq!(sample().unwrap().1, "frozen: its data loop stood still for 3 s");
    }

    #[test]
    fn no_single_sample_of_a_process_that_was_alive_before_it_makes_it_frozen() {
        let late = TICK + Heartbeat::LATE;
        assert_eq!(alive().handle_sample(late, late), None);
    }

    #[test]
    fn a_process_that_cannot_be_asked_is_not_frozen() {
        let mut heartbeat = alive();
        for _ in 0..100 {
            heartbeat.handle_missing();
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
        }
    }

    #[test]
    fn who_is_found_stopped_at_the_verdict_has_its_time_once_it_is_woken() {
        let mut heartbeat = alive();
        for _ in 0..2 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
        }
        heartbeat.handle_woken();
        for _ in 0..3 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
        }
        assert!(heartbeat.handle_sample(TICK, TICK).is_some());
    }

    #[test]
    fn one_beat_starts_the_count_anew() {
        let mut heartbeat = Heartbeat::of_adopted();
        for beats in 0..100 {
            for _ in 0..2 {
                assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
            }
            heartbeat.handle_beats(beats);
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
        }
    }

    #[test]
    fn a_report_that_takes_longer_than_the_limit_is_a_sign_of_life_from_its_first_packet_on() {
        let mut heartbeat = alive();
        heartbeat.handle_beats(2);
        for _ in 0..60 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
            heartbeat.handle_packet();
        }
    }

    #[test]
    fn a_process_that_waits_for_the_core_or_the_disk_is_slow_and_not_frozen() {
        let mut heartbeat = alive();
        for _ in 0..100 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK / 50), None, "2 s of its own in 100 s");
        }
        let (_, why) = (0..100).find_map(|_| heartbeat.handle_sample(TICK, TICK / 50)).unwrap();
        assert!(why.starts_with("frozen: no heartbeat for 12"), "{why}");
    }

    #[test]
    fn a_start_has_30_s_of_its_own_to_say_who_it_is() {
        let mut heartbeat = Heartbeat::default();
        for _ in 0..29 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
        }
        let late = heartbeat.handle_sample(TICK, TICK);
        assert_eq!(late.unwrap(), (Remedy::Kill, "no answer on its control socket within 30 s".to_owned()));
        let mut slow = Heartbeat::default();
        for _ in 0..600 {
            assert_eq!(slow.handle_sample(TICK, TICK / 50), None);
        }
        slow.handle_hello();
        assert_eq!(slow.handle_sample(TICK, TICK), None);
    }

    #[test]
    fn a_supervisor_that_was_stopped_itself_blames_nobody() {
        let mut heartbeat = alive();
        for _ in 0..2 {
            heartbeat.handle_sample(TICK, TICK);
        }
        let long = Duration::from_secs(30);
        assert_eq!(heartbeat.handle_sample(long, long), None);
        for _ in 0..2 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None, "the count starts anew");
        }
        assert!(heartbeat.handle_sample(TICK, TICK).is_some());
    }
}
