//! What the probes of a process amount to. Pure: samples in, verdicts out.
//!
//! The rungs, lowest first, and what each may do: the process (its end restarts it), its heartbeat (its absence kills
//! it), an RTMP connect, the age of frames. A process that answers on its control socket is never killed: it still serves
//! somebody, and the cause may be another host's. So the upper rungs are only shown.

use std::time::Duration;

use cluster::Role;
use cluster::stats::{ForwardState, ProcessStats, StreamStats};
use cluster::status::Health;

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
}

impl Heartbeat {
    /// Time between two samples.
    pub(crate) const PERIOD: Duration = Duration::from_secs(1);
    /// So long without a sign of life a process is frozen. Less would kill one that a loaded machine let wait; more would
    /// let its players wait.
    pub(crate) const LIMIT: Duration = Duration::from_secs(5);
    /// The same for its first sign, the answer to HELLO: before it, the process reads its files.
    pub(crate) const START_LIMIT: Duration = Duration::from_secs(30);
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

    /// Takes one sample: `elapsed` since the one before, and what of it the process had for itself. Returns why it is to
    /// be killed, if it is frozen.
    pub(crate) fn handle_sample(&mut self, elapsed: Duration, own: Duration) -> Option<String> {
        let has_answered = std::mem::take(&mut self.has_answered);
        if std::mem::take(&mut self.is_alive) || elapsed > Self::PERIOD + Self::LATE {
            (self.silent, self.passed) = (Duration::ZERO, Duration::ZERO);
            return None;
        }
        self.silent += own;
        self.passed += elapsed;
        let limit = if self.is_greeted { Self::LIMIT } else { Self::START_LIMIT };
        // A timer is never early by much, and may be so each time.
        if self.silent + Self::PERIOD / 2 < limit {
            return None;
        }
        let seconds = self.passed.as_secs_f32().round();
        Some(match (self.is_greeted, has_answered) {
            (false, _) => format!("no answer on its control socket within {seconds} s"),
            (true, true) => format!("frozen: its data loop stood still for {seconds} s"),
            (true, false) => format!("frozen: no heartbeat for {seconds} s"),
        })
    }
}

/// A probe with hysteresis.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ladder {
    failing: bool,
    /// Results in a row that speak against the verdict.
    against: u32,
    error: String,
}

impl Ladder {
    /// Failures in a row that turn it.
    pub(crate) const FALL: u32 = 3;
    /// Successes in a row that turn it back.
    pub(crate) const RISE: u32 = 2;

    /// Takes one result. Whoever asks does so sooner while failures are counted.
    pub(crate) fn handle_result(&mut self, result: Result<(), String>) {
        let failed = result.is_err();
        if let Err(error) = result {
            self.error = error;
        }
        if failed == self.failing {
            self.against = 0;
            return;
        }
        self.against += 1;
        if self.against >= if failed { Self::FALL } else { Self::RISE } {
            self.failing = failed;
            self.against = 0;
        }
    }

    /// The newest error with its weight: a warning while failures are counted, critical once they are enough.
    pub(crate) fn failure(&self) -> Option<(Health, &str)> {
        match (self.failing, self.against) {
            (true, _) => Some((Health::Critical, &self.error)),
            (false, 1..) => Some((Health::Warning, &self.error)),
            (false, 0) => None,
        }
    }
}

/// A published stream without a frame for longer than this is stale.
pub(crate) const STALE: Duration = Duration::from_secs(5);
/// An edge may lack a stream of the origin for this long: forwarders connect.
pub(crate) const MISSING_WARNING: Duration = Duration::from_secs(3);
/// From here on the edge does not do what it exists for.
pub(crate) const MISSING_CRITICAL: Duration = Duration::from_secs(10);

/// What a limit has cost is shown for this long: somebody who looks shall see it, and see that it is over.
pub(crate) const LIMIT_SHOWN: Duration = Duration::from_secs(60);

/// All that is known of a running process.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Facts<'a> {
    /// What it is for.
    pub(crate) role: Role,
    /// It was restarted again and again.
    pub(crate) flapping: bool,
    /// The newest report.
    pub(crate) process: Option<&'a ProcessStats>,
    /// The streams of the newest report.
    pub(crate) streams: &'a [StreamStats],
    /// Age of that report.
    pub(crate) report_age: Option<Duration>,
    /// Players it may serve.
    pub(crate) max_connections: u32,
    /// What the RTMP probe fails with; see [`Ladder::failure`].
    pub(crate) probe: Option<(Health, &'a str)>,
    /// A stream that is live at the origin and not here, and for how long.
    pub(crate) missing: Option<(&'a str, Duration)>,
}

/// The verdict on a running process, and why.
pub(crate) fn assess(facts: &Facts<'_>) -> (Health, String) {
    if let Some((Health::Critical, error)) = facts.probe {
        return (Health::Critical, format!("RTMP connect fails: {error}"));
    }
    if let Some((stream, age)) = facts.missing
        && age >= MISSING_CRITICAL
    {
        return (
            Health::Critical,
            format!("{stream} is live at the origin and has been missing here for {} s", age.as_secs()),
        );
    }
    let Some(process) = facts.process else {
        return (Health::Unknown, "no report yet".to_owned());
    };
    let mut notes = Vec::new();
    if let Some(age) = facts.report_age
        && age > Heartbeat::PERIOD * 3
    {
        notes.push(format!("no report for {} s", age.as_secs()));
    }
    if let Some((stream, age)) = facts.missing
        && age >= MISSING_WARNING
    {
        notes.push(format!("{stream} is live at the origin and not here yet"));
    }
    for stream in facts.streams.iter().filter(|stream| stream.publishing) {
        if let Some(age) = stream.last_frame_age_ms.map(Duration::from_millis)
            && age > STALE
        {
            notes.push(format!("{}: no frame for {} s", stream.stream, age.as_secs()));
        }
        for forward in &stream.forwards {
            if matches!(forward.state, ForwardState::Stalled | ForwardState::Backoff) {
                let error = forward.last_error.as_deref().unwrap_or("nothing acknowledged");
                notes.push(format!("{} to {}: {error}", stream.stream, forward.target.id));
            }
        }
    }
    if let Some((_, error)) = facts.probe {
        notes.push(format!("RTMP connect failed: {error}"));
    }
    if facts.role == Role::Encoder && process.publishers == 0 {
        notes.push("not publishing; see srsctl logs encoder".to_owned());
    }
    if facts.role != Role::Encoder && process.players >= facts.max_connections {
        notes.push(format!("full: {} players", process.players));
    }
    for limit in process.limits.iter().filter(|limit| Duration::from_millis(limit.last_ago_ms) <= LIMIT_SHOWN)
    {
        notes.push(format!("{} {}", limit.count, limit.what));
    }
    if facts.flapping {
        notes.push("it died again and again".to_owned());
    }
    let health = if notes.is_empty() { Health::Passing } else { Health::Warning };
    (health, notes.join("; "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::stats::{ForwardStats, LimitStats};
    use cluster::{Target, UnitId};

    const TICK: Duration = Heartbeat::PERIOD;

    fn alive() -> Heartbeat {
        let mut heartbeat = Heartbeat::of_adopted();
        heartbeat.handle_beats(1);
        assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
        heartbeat
    }

    #[test]
    fn a_process_that_does_not_answer_is_frozen_after_5_s() {
        let mut heartbeat = alive();
        for _ in 0..4 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
        }
        assert_eq!(heartbeat.handle_sample(TICK, TICK).unwrap(), "frozen: no heartbeat for 5 s");
    }

    #[test]
    fn a_process_that_answers_while_its_loop_stands_still_is_frozen_after_5_s() {
        let mut heartbeat = alive();
        let mut sample = || {
            heartbeat.handle_beats(1);
            heartbeat.handle_packet();
            heartbeat.handle_sample(TICK, TICK)
        };
        for _ in 0..4 {
            assert_eq!(sample(), None);
        }
        assert_eq!(sample().unwrap(), "frozen: its data loop stood still for 5 s");
    }

    #[test]
    fn one_beat_starts_the_count_anew() {
        let mut heartbeat = Heartbeat::of_adopted();
        for beats in 0..100 {
            for _ in 0..4 {
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
        for _ in 0..200 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK / 50), None, "4 s of its own in 200 s");
        }
        let killed = (0..100).find_map(|_| heartbeat.handle_sample(TICK, TICK / 50)).unwrap();
        assert!(killed.starts_with("frozen: no heartbeat for 2"), "{killed}");
    }

    #[test]
    fn a_start_has_30_s_of_its_own_to_say_who_it_is() {
        let mut heartbeat = Heartbeat::default();
        for _ in 0..29 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None);
        }
        let late = heartbeat.handle_sample(TICK, TICK);
        assert_eq!(late.unwrap(), "no answer on its control socket within 30 s");
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
        for _ in 0..4 {
            heartbeat.handle_sample(TICK, TICK);
        }
        let long = Duration::from_secs(30);
        assert_eq!(heartbeat.handle_sample(long, long), None);
        for _ in 0..4 {
            assert_eq!(heartbeat.handle_sample(TICK, TICK), None, "the count starts anew");
        }
        assert!(heartbeat.handle_sample(TICK, TICK).is_some());
    }

    #[test]
    fn a_probe_warns_at_once_falls_after_three_failures_and_rises_after_two_successes() {
        let mut ladder = Ladder::default();
        let fail = || Err("x".to_owned());
        for (result, verdict) in [
            (fail(), Some(Health::Warning)),
            (fail(), Some(Health::Warning)),
            (Ok(()), None),
            (fail(), Some(Health::Warning)),
            (fail(), Some(Health::Warning)),
            (fail(), Some(Health::Critical)),
            (Ok(()), Some(Health::Critical)),
            (fail(), Some(Health::Critical)),
            (Ok(()), Some(Health::Critical)),
            (Ok(()), None),
        ] {
            ladder.handle_result(result);
            assert_eq!(ladder.failure().map(|(health, _)| health), verdict);
        }
    }

    fn stream() -> StreamStats {
        StreamStats {
            stream: "live/a".into(),
            publishing: true,
            last_frame_age_ms: Some(40),
            ..StreamStats::default()
        }
    }

    fn assessed(change: impl FnOnce(&mut Facts<'_>)) -> (Health, String) {
        let process = ProcessStats::default();
        let streams = [stream()];
        let mut facts = Facts {
            role: Role::Edge,
            flapping: false,
            process: Some(&process),
            streams: &streams,
            report_age: Some(TICK),
            max_connections: 10,
            probe: None,
            missing: None,
        };
        change(&mut facts);
        assess(&facts)
    }

    #[test]
    fn a_process_of_which_all_is_well_passes_without_a_note() {
        assert_eq!(assessed(|_| {}), (Health::Passing, String::new()));
    }

    #[test]
    fn each_trouble_has_its_verdict_and_its_note() {
        let (health, note) = assessed(|facts| facts.probe = Some((Health::Critical, "refused")));
        assert_eq!((health, note.as_str()), (Health::Critical, "RTMP connect fails: refused"));
        let (health, note) = assessed(|facts| facts.probe = Some((Health::Warning, "refused")));
        assert_eq!((health, note.as_str()), (Health::Warning, "RTMP connect failed: refused"));
        let (health, note) = assessed(|facts| facts.role = Role::Encoder);
        assert_eq!((health, note.as_str()), (Health::Warning, "not publishing; see srsctl logs encoder"));

        assert_eq!(assessed(|facts| facts.missing = Some(("live/a", TICK))).0, Health::Passing);
        assert_eq!(assessed(|facts| facts.missing = Some(("live/a", TICK * 4))).0, Health::Warning);
        assert_eq!(assessed(|facts| facts.missing = Some(("live/a", TICK * 10))).0, Health::Critical);

        let stale = [StreamStats { last_frame_age_ms: Some(7000), ..stream() }];
        let (health, note) = assess_streams(&stale);
        assert_eq!((health, note.as_str()), (Health::Warning, "live/a: no frame for 7 s"));

        let ended = [StreamStats { last_frame_age_ms: Some(7000), publishing: false, ..stream() }];
        assert_eq!(assess_streams(&ended).0, Health::Passing, "nobody publishes it: nothing is stale");

        let full = ProcessStats { players: 10, ..ProcessStats::default() };
        assert_eq!(
            assess(&Facts { process: Some(&full), ..facts(&[]) }),
            (Health::Warning, "full: 10 players".to_owned())
        );
        assert_eq!(assessed(|facts| facts.report_age = Some(TICK * 4)).1, "no report for 4 s");
        assert_eq!(assessed(|facts| facts.process = None).0, Health::Unknown);
        assert_eq!(assessed(|facts| facts.flapping = true).0, Health::Warning);
    }

    #[test]
    fn a_forward_that_stalls_is_named_with_its_target() {
        let target = Target { id: UnitId::worker(Role::Edge, "h", 1), host: "h".into(), port: 1 };
        let forward = ForwardStats {
            target,
            state: ForwardState::Stalled,
            lag_ms: Some(9),
            sent: 1,
            reconnects: 0,
            last_error: None,
        };
        let streams = [StreamStats { forwards: vec![forward], ..stream() }];
        assert_eq!(assess_streams(&streams).1, "live/a to edge-h-1: nothing acknowledged");
    }

    #[test]
    fn what_a_limit_has_cost_is_noted_with_its_cause_for_a_while() {
        let met = |last_ago_ms| {
            let what = "publishers refused: 64 streams are being published (max_streams)".to_owned();
            let limit = LimitStats { limit: "max_streams".to_owned(), what, count: 3, last_ago_ms };
            let process = ProcessStats { limits: vec![limit], ..IDLE.clone() };
            assess(&Facts { process: Some(&process), ..facts(&[]) })
        };
        let note = "3 publishers refused: 64 streams are being published (max_streams)".to_owned();
        assert_eq!(met(60_000), (Health::Warning, note));
        assert_eq!(met(60_001), (Health::Passing, String::new()));
    }

    const IDLE: &ProcessStats = &ProcessStats {
        beats: 0,
        connections: 0,
        players: 0,
        publishers: 0,
        accepted: 0,
        refused: 0,
        refused_publishers: 0,
        limits: Vec::new(),
        peer_errors: 0,
        stuck_players: 0,
        skips: 0,
        bytes_in: 0,
        bytes_out: 0,
        loop_lag_p99_ms: 0,
        loop_lag_max_ms: 0,
    };

    fn facts(streams: &[StreamStats]) -> Facts<'_> {
        Facts {
            role: Role::Origin,
            flapping: false,
            process: Some(IDLE),
            streams,
            report_age: Some(TICK),
            max_connections: 10,
            probe: None,
            missing: None,
        }
    }

    fn assess_streams(streams: &[StreamStats]) -> (Health, String) {
        assess(&facts(streams))
    }
}
