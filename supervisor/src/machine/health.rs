//! What the probes of a process amount to. Pure: samples in, verdicts out.
//!
//! The rungs, lowest first, and what each may do: the process (its end restarts it), its heartbeat (its absence kills
//! it), an RTMP connect, the age of frames. A process that answers on its control socket is never killed: it still serves
//! somebody, and the cause may be another host's. So the upper rungs are only shown.

mod forwards;

use std::net::IpAddr;
use std::time::Duration;

use cluster::Role;
use cluster::stats::{Joining, ProcessStats, StreamStats};
use cluster::status::Health;

use crate::machine::heartbeat::Heartbeat;
use crate::machine::keeper::Keeper;

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

/// What is wrong with the name `host` of a port that listens on `listen`, given what it stands for now. Players look it up;
/// whoever is there, and the cluster itself, does not depend on it.
pub(crate) fn judge_name(
    host: &str,
    listen: IpAddr,
    found: Result<&[IpAddr], &String>,
    is_here: impl Fn(IpAddr) -> bool,
) -> Option<(Health, String)> {
    let found = match found {
        Ok(found) => found,
        Err(error) => {
            let why = format!(
                "{host} cannot be looked up ({error}): who is there stays, new players may not find it"
            );
            return Some((Health::Warning, why));
        }
    };
    if found.iter().any(|at| if listen.is_unspecified() { is_here(*at) } else { *at == listen }) {
        return None;
    }
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    let found = if found.is_empty() { "nothing".to_owned() } else { found.join(", ") };
    let why = format!(
        "{host} stands for {found} now, and this port listens on {listen}: players that look it up do not reach it; \
         correct the name, or follow it with srsctl down and srsctl up"
    );
    Some((Health::Critical, why))
}

/// A published stream without a frame for longer than this is stale.
pub(crate) const STALE: Duration = Duration::from_secs(5);
/// An edge may lack a stream of the origin for this long: forwarders connect.
pub(crate) const MISSING_WARNING: Duration = Duration::from_secs(1);
/// From here on the edge does not do what it exists for: its players see it.
pub(crate) const MISSING_CRITICAL: Duration = Duration::from_secs(3);
/// An encoder that has not been let publish for so long does not do what it exists for.
const ENCODER_CRITICAL: Duration = Duration::from_secs(3);
/// Where a reader that joins waits for a keyframe, the last one may be so old; encoders send one each 2 s, or 10 s by default.
const KEYFRAME_WARNING: Duration = Duration::from_secs(12);
/// A loop that was late for so long of the last 10 s, in all, starves its players.
const LATE_WARNING: Duration = Duration::from_secs(2);

/// What a limit has cost is shown for this long: somebody who looks shall see it, and see that it is over.
pub(crate) const LIMIT_SHOWN: Duration = Duration::from_secs(60);

/// All that is known of a running process.
#[derive(Clone, Debug)]
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
    /// What is wrong with the name of its host.
    pub(crate) name: Option<(Health, &'a str)>,
    /// The process that holds the port, and how it was found.
    pub(crate) keeper: Option<(u32, Keeper)>,
    /// A stream that is live at the origin and does not come here.
    pub(crate) missing: Option<Missing<'a>>,
}

/// A stream that an edge lacks.
#[derive(Clone, Debug)]
pub(crate) struct Missing<'a> {
    /// `app/stream`.
    pub(crate) stream: &'a str,
    /// For how long.
    pub(crate) lasts: Duration,
    /// Why, as far as the origin can tell.
    pub(crate) cause: String,
}

/// The verdict on a running process, and why: what weighs most comes first.
pub(crate) fn assess(facts: &Facts<'_>) -> (Health, String) {
    let mut found = outside(facts);
    match facts.process {
        Some(process) => {
            if let Some(age) = facts.report_age.filter(|age| *age > Heartbeat::PERIOD * 3) {
                found.push((Health::Warning, format!("no report for {} s", age.as_secs())));
            }
            found.extend(facts.streams.iter().filter(|stream| stream.publishing).flat_map(stream_troubles));
            found.extend(process_troubles(facts, process));
        }
        None if found.iter().all(|(health, _)| *health != Health::Critical) => {
            return (Health::Unknown, "no report yet".to_owned());
        }
        None => {}
    }
    // Stable: within a weight the order stays.
    found.sort_by_key(|(health, _)| *health != Health::Critical);
    let health = found.first().map_or(Health::Passing, |(health, _)| *health);
    let notes: Vec<String> = found.into_iter().map(|(_, note)| note).collect();
    (health, notes.join("; "))
}

/// What is known of a process without its help.
fn outside(facts: &Facts<'_>) -> Vec<(Health, String)> {
    let mut found = Vec::new();
    match facts.probe {
        Some((Health::Critical, error)) => {
            found.push((Health::Critical, format!("RTMP connect fails: {error}")));
        }
        Some((health, error)) => found.push((health, format!("RTMP connect failed: {error}"))),
        None => {}
    }
    if let Some(Missing { stream, lasts, cause }) = &facts.missing
        && *lasts >= MISSING_WARNING
    {
        let health = if *lasts >= MISSING_CRITICAL { Health::Critical } else { Health::Warning };
        let lasts = lasts.as_secs();
        let note = format!("{stream} is live at the origin and has been missing here for {lasts} s: {cause}");
        found.push((health, note));
    }
    found.extend(facts.name.map(|(health, why)| (health, why.to_owned())));
    let keeper = match facts.keeper {
        Some((_, Keeper::Waits | Keeper::Woken)) | None => None,
        Some((pid, Keeper::Stopped)) => Some(format!(
            "its keeper (pid {pid}) is stopped again and again: while it is, nobody follows its worker when that dies; find out who sends it SIGSTOP"
        )),
        Some((pid, Keeper::Traced)) => Some(format!(
            "a debugger holds its keeper (pid {pid}): until it lets go, nobody follows its worker when that dies"
        )),
    };
    found.extend(keeper.map(|why| (Health::Warning, why)));
    found
}

/// What is wrong with a stream that is published.
fn stream_troubles(stream: &StreamStats) -> Vec<(Health, String)> {
    let name = &stream.stream;
    let mut found = Vec::new();
    if let Some(age) = stream.last_frame_age_ms.map(Duration::from_millis)
        && age > STALE
    {
        found.push(format!("{name}: no frame for {} s", age.as_secs()));
    }
    let players = |number: u32| {
        if number == 1 { "1 player waits".to_owned() } else { format!("{number} players wait") }
    };
    let keyframe_age = stream.keyframe_age_ms.map(Duration::from_millis);
    match (stream.joining, stream.waiting_players, stream.videoless_players) {
        (Some(Joining::NoMedia), 1.., _) => {
            found.push(format!(
                "{name}: {}: it is published, and no media has come",
                players(stream.waiting_players)
            ));
        }
        (Some(Joining::NoKeyframe), ..) if keyframe_age.is_some_and(|age| age >= KEYFRAME_WARNING) => {
            let age = keyframe_age.unwrap_or_default().as_secs();
            found.push(format!(
                "{name}: no keyframe for {age} s: who joins waits for a picture; let the encoder send one each 2 s"
            ));
        }
        (Some(Joining::NoKeyframe), _, 1..) => {
            found.push(format!(
                "{name}: {} for a picture: no keyframe yet; let the encoder send one each 2 s",
                players(stream.videoless_players)
            ));
        }
        (Some(Joining::Keyless), ..) => {
            let age = keyframe_age.map_or_else(String::new, |age| format!(" for {} s", age.as_secs()));
            found.push(format!(
                "{name}: no keyframe{age}: who joins starts without a whole picture; let the encoder send one each 2 s"
            ));
        }
        _ => {}
    }
    found.extend(forwards::troubles(stream));
    found.into_iter().map(|note| (Health::Warning, note)).collect()
}

/// What is wrong with the process itself.
fn process_troubles(facts: &Facts<'_>, process: &ProcessStats) -> Vec<(Health, String)> {
    let mut found = Vec::new();
    let lasts = process.trouble_ms.map(Duration::from_millis).unwrap_or_default();
    match (&process.trouble, facts.role) {
        (Some(why), Role::Encoder) => {
            let health = if lasts >= ENCODER_CRITICAL { Health::Critical } else { Health::Warning };
            found.push((health, format!("not publishing for {} s: {why}", lasts.as_secs())));
        }
        (Some(why), _) => found.push((Health::Warning, why.clone())),
        (None, Role::Encoder) if process.publishers == 0 => {
            found.push((Health::Warning, "not publishing; see srsctl logs encoder".to_owned()));
        }
        (None, _) => {}
    }
    if facts.role != Role::Encoder && process.players >= facts.max_connections {
        let why = "more are refused; raise max_connections, or add ports";
        let players = if process.players == 1 { "player" } else { "players" };
        found.push((Health::Warning, format!("full: {} {players}: {why}", process.players)));
    }
    let late = Duration::from_millis(process.loop_late_ms.into());
    if late >= LATE_WARNING {
        let why = "the machine is too slow for it, or too busy";
        found.push((
            Health::Warning,
            format!("it stood still for {:.1} s of the last 10 s: {why}", late.as_secs_f32()),
        ));
    }
    for limit in process.limits.iter().filter(|limit| Duration::from_millis(limit.last_ago_ms) <= LIMIT_SHOWN)
    {
        found.push((Health::Warning, format!("{} {}", limit.count, limit.what)));
    }
    if facts.flapping {
        found.push((Health::Warning, "it died again and again".to_owned()));
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::stats::{ForwardState, ForwardStats, LimitStats};
    use cluster::{Target, UnitId};

    const TICK: Duration = Heartbeat::PERIOD;

    #[test]
    fn a_keeper_that_is_stopped_is_woken_and_warned_of_when_that_does_not_help_or_a_debugger_has_it() {
        use crate::machine::keeper::Halt::{Stopped, Traced};
        let looks = [
            None,
            Some(Stopped),
            None,
            Some(Stopped),
            Some(Stopped),
            Some(Stopped),
            Some(Traced),
            Some(Stopped),
            None,
        ];
        let mut keeper = Keeper::default();
        let found = looks.map(|look| {
            keeper = keeper.next(look);
            let (health, note) = of(|facts| facts.keeper = Some((7, keeper)));
            assert_eq!(health == Health::Warning, note.contains("(pid 7)"), "{note}");
            (keeper, health == Health::Warning)
        });
        let told = [
            (Keeper::Waits, false),
            (Keeper::Woken, false),
            (Keeper::Waits, false),
            (Keeper::Woken, false),
            (Keeper::Stopped, true),
            (Keeper::Stopped, true),
            (Keeper::Traced, true),
            (Keeper::Woken, false),
            (Keeper::Waits, false),
        ];
        assert_eq!(found, told);
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

    fn assessed(
        process: &ProcessStats,
        streams: &[StreamStats],
        change: impl FnOnce(&mut Facts<'_>),
    ) -> (Health, String) {
        let mut facts = Facts {
            role: Role::Edge,
            flapping: false,
            process: Some(process),
            streams,
            report_age: Some(TICK),
            max_connections: 10,
            probe: None,
            name: None,
            keeper: None,
            missing: None,
        };
        change(&mut facts);
        assess(&facts)
    }

    fn of(change: impl FnOnce(&mut Facts<'_>)) -> (Health, String) {
        assessed(&ProcessStats::default(), &[stream()], change)
    }

    fn of_stream(stream: StreamStats) -> (Health, String) {
        assessed(&ProcessStats::default(), &[stream], |facts| facts.role = Role::Origin)
    }

    fn said(health: Health, note: &str) -> (Health, String) {
        (health, note.to_owned())
    }

    #[test]
    fn a_process_of_which_all_is_well_passes_without_a_note() {
        assert_eq!(of(|_| {}), said(Health::Passing, ""));
    }

    #[test]
    fn each_trouble_has_its_verdict_and_its_note() {
        use Health::{Critical, Unknown, Warning};
        let probe = |health| of(|facts| facts.probe = Some((health, "refused")));
        assert_eq!(probe(Critical), said(Critical, "RTMP connect fails: refused"));
        assert_eq!(probe(Warning), said(Warning, "RTMP connect failed: refused"));
        assert_eq!(of(|facts| facts.name = Some((Warning, "e cannot be found"))).0, Warning);
        assert_eq!(of(|facts| facts.report_age = Some(TICK * 4)), said(Warning, "no report for 4 s"));
        assert_eq!(of(|facts| facts.process = None), said(Unknown, "no report yet"));
        assert_eq!(of(|facts| facts.flapping = true).0, Warning);

        let stale = StreamStats { last_frame_age_ms: Some(7000), ..stream() };
        assert_eq!(of_stream(stale.clone()), said(Warning, "live/a: no frame for 7 s"));
        let ended = StreamStats { publishing: false, ..stale };
        assert_eq!(of_stream(ended).0, Health::Passing, "nobody publishes it: nothing is stale");

        let full = ProcessStats { players: 10, ..ProcessStats::default() };
        assert!(assessed(&full, &[], |_| {}).1.starts_with("full: 10 players"));
        let late = ProcessStats { loop_late_ms: 4_500, ..ProcessStats::default() };
        let (health, note) = assessed(&late, &[], |_| {});
        assert!(health == Warning && note.starts_with("it stood still for 4.5 s of the last 10 s"), "{note}");
    }

    #[test]
    fn a_name_that_moved_is_critical_and_a_name_service_that_is_away_a_warning() {
        let [own, other]: [IpAddr; 2] = [[127, 0, 0, 6].into(), [127, 0, 0, 66].into()];
        let all: IpAddr = [0, 0, 0, 0].into();
        let judge = |listen, found: Result<&[IpAddr], &String>| {
            judge_name("e.lan", listen, found, |at| at == own).map(|(health, _)| health)
        };
        assert_eq!(judge(own, Ok(&[own])), None);
        assert_eq!(judge(own, Ok(&[other, own])), None, "one of several");
        assert_eq!(judge(own, Ok(&[other])), Some(Health::Critical));
        assert_eq!(judge(own, Ok(&[])), Some(Health::Critical));
        assert_eq!(judge(all, Ok(&[own])), None);
        assert_eq!(judge(all, Ok(&[other])), Some(Health::Critical));
        assert_eq!(judge(own, Err(&"no answer".to_owned())), Some(Health::Warning));
        let (_, moved) = judge_name("e.lan", own, Ok(&[other]), |_| false).unwrap();
        assert!(
            moved.starts_with("e.lan stands for 127.0.0.66 now, and this port listens on 127.0.0.6:"),
            "{moved}"
        );
    }

    #[test]
    fn what_a_limit_has_cost_is_noted_with_its_cause_for_a_while() {
        let met = |last_ago_ms| {
            let what = "publishers refused: 64 streams are being published (max_streams)".to_owned();
            let limit = LimitStats { limit: "max_streams".to_owned(), what, count: 3, last_ago_ms };
            let process = ProcessStats { limits: vec![limit], ..ProcessStats::default() };
            assessed(&process, &[], |_| {})
        };
        let note = "3 publishers refused: 64 streams are being published (max_streams)";
        assert_eq!(met(60_000), said(Health::Warning, note));
        assert_eq!(met(60_001), said(Health::Passing, ""));
    }

    #[test]
    fn what_weighs_most_comes_first_and_nothing_is_left_out() {
        let (health, note) = of(|facts| {
            facts.flapping = true;
            facts.name = Some((Health::Critical, "moved"));
        });
        assert_eq!((health, note.as_str()), (Health::Critical, "moved; it died again and again"));
    }

    #[test]
    fn an_edge_that_lacks_a_stream_says_so_after_1_s_and_does_not_do_its_work_after_3_s() {
        let lacks = |ms| {
            let lasts = Duration::from_millis(ms);
            of(|facts| facts.missing = Some(Missing { stream: "live/b", lasts, cause: "refused".into() }))
        };
        let note = |seconds| {
            format!("live/b is live at the origin and has been missing here for {seconds} s: refused")
        };
        assert_eq!(lacks(999).0, Health::Passing);
        assert_eq!(lacks(1_000), (Health::Warning, note(1)));
        assert_eq!(lacks(3_000), (Health::Critical, note(3)));
    }

    #[test]
    fn an_encoder_that_cannot_publish_does_not_do_its_work_and_says_why() {
        let kept = |ms| {
            let trouble = Some("live/a is taken".to_owned());
            let process = ProcessStats { trouble, trouble_ms: Some(ms), ..ProcessStats::default() };
            assessed(&process, &[], |facts| facts.role = Role::Encoder)
        };
        assert_eq!(kept(500), said(Health::Warning, "not publishing for 0 s: live/a is taken"));
        assert_eq!(kept(4_000), said(Health::Critical, "not publishing for 4 s: live/a is taken"));
        let older = assessed(&ProcessStats::default(), &[], |facts| facts.role = Role::Encoder);
        assert_eq!(older, said(Health::Warning, "not publishing; see srsctl logs encoder"));
    }

    #[test]
    fn what_players_lack_of_a_stream_is_told() {
        let waits = |joining, waiting_players, videoless_players| {
            let joining = Some(joining);
            let keyframe_age_ms = Some(42_000);
            let stream =
                StreamStats { joining, waiting_players, videoless_players, keyframe_age_ms, ..stream() };
            of_stream(stream).1
        };
        assert_eq!(waits(Joining::Keyframe, 0, 0), "");
        assert_eq!(waits(Joining::NoMedia, 0, 0), "", "nobody waits");
        assert!(waits(Joining::NoMedia, 2, 0).starts_with("live/a: 2 players wait: it is published"));
        assert!(
            waits(Joining::NoKeyframe, 0, 0).starts_with("live/a: no keyframe for 42 s: who joins waits")
        );
        let none_yet = StreamStats { joining: Some(Joining::NoKeyframe), videoless_players: 1, ..stream() };
        assert!(of_stream(none_yet).1.starts_with("live/a: 1 player waits for a picture"));
        assert!(waits(Joining::Keyless, 0, 0).starts_with("live/a: no keyframe for 42 s:"));
        let never = StreamStats { joining: Some(Joining::Keyless), ..stream() };
        assert!(
            of_stream(never).1.starts_with("live/a: no keyframe: who joins"),
            "also when nobody is there"
        );
    }

    #[test]
    fn players_that_wait_on_a_name_that_nobody_publishes_are_no_failure() {
        let (joining, players) = (Some(Joining::Unpublished), 9);
        let before_the_show = StreamStats {
            joining,
            players,
            waiting_players: players,
            publishing: false,
            last_frame_age_ms: None,
            ..stream()
        };
        assert_eq!(of_stream(before_the_show), said(Health::Passing, ""));
    }

    fn forward(state: ForwardState, waiting_ms: Option<u64>, error: Option<&str>) -> ForwardStats {
        let id = UnitId::worker(Role::Edge, "h", 1);
        ForwardStats {
            target: Target { id, host: "h".into(), port: 1, address: None },
            state,
            lag_ms: None,
            sent: 1,
            reconnects: 0,
            last_error: error.map(str::to_owned),
            waiting_ms,
            url: None,
            code: None,
            bytes: 0,
            dropped: 0,
        }
    }

    #[test]
    fn a_forward_that_is_not_live_is_named_with_its_target_and_its_cause() {
        use ForwardState::{Backoff, Connecting, Idle, Live, Stalled};
        for (state, waiting, error, note) in [
            (Live, None, Some("of before"), ""),
            (Idle, None, None, ""),
            (Connecting, Some(500), None, ""),
            (Connecting, Some(5_100), None, "live/a to edge-h-1: still connecting (for 5 s)"),
            (Connecting, Some(7_000), Some("refused"), "live/a to edge-h-1: refused (for 7 s)"),
            (Backoff, Some(100), Some("refused"), "live/a to edge-h-1: refused"),
            (Stalled, Some(2_100), Some("of before"), "live/a to edge-h-1: no sign of life (for 2 s)"),
        ] {
            let stream = StreamStats { forwards: vec![forward(state, waiting, error)], ..stream() };
            assert_eq!(of_stream(stream).1, note, "{state:?} {waiting:?} {error:?}");
        }
        let mut beyond = forward(Backoff, Some(9_000), Some("connection refused"));
        beyond.target.id = serde_json::from_str("\"out:backup\"").unwrap();
        beyond.url = Some("rtmp://backup/live/a".into());
        let (health, note) = of_stream(StreamStats { forwards: vec![beyond.clone()], ..stream() });
        assert_eq!(
            (health, note.as_str()),
            (Health::Warning, "live/a to backup: connection refused (for 9 s)")
        );
        let forwards = vec![beyond; 32];
        let note = of_stream(StreamStats { forwards, ..stream() }).1;
        assert!(note.ends_with("; live/a to 29 more targets of `forward`: see their lines"), "{note}");
        let forwards = vec![forward(Stalled, None, None); 60];
        let note = of_stream(StreamStats { forwards, ..stream() }).1;
        assert!(note.ends_with("live/a to 57 more ports: see their lines"), "{note}");
    }
}
