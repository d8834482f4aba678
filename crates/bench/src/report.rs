//! What a run met: counted by each process, merged, then shown.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;
use crate::load::Work;

/// Different reasons kept; servers may put anything into a description.
const MAX_REASONS: usize = 32;
/// Columns that a reason may take; a server may have written it.
const REASON_COLUMNS: usize = 64;
/// The load generator's share of its core from which its own figures are doubtful, percent.
const BUSY: f64 = 90.0;

/// Counts of one process. Times in microseconds.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Tally {
    /// Clients whose connection was begun.
    pub(crate) begun: u64,
    /// Clients whose play or publish was accepted.
    pub(crate) accepted: u64,
    /// Why others were not.
    pub(crate) refused: BTreeMap<String, u64>,
    /// Why accepted ones ended before the run did.
    pub(crate) lost: BTreeMap<String, u64>,
    /// TCP connect begun to first keyframe complete.
    pub(crate) first_keyframe: Histogram,
    /// Bits per second of each client.
    pub(crate) bitrate: Histogram,
    pub(crate) stalls: u64,
    pub(crate) backwards: u64,
    /// Stamp to frame complete.
    pub(crate) latency: Histogram,
    /// How late frames were sent.
    pub(crate) lag: Histogram,
    pub(crate) bytes: u64,
    pub(crate) seconds: f64,
    /// Of the busiest process.
    pub(crate) cpu_percent: Option<f64>,
}

impl Tally {
    pub(crate) fn refuse(&mut self, reason: &str) {
        count(&mut self.refused, reason, 1);
    }

    pub(crate) fn lose(&mut self, reason: &str) {
        count(&mut self.lost, reason, 1);
    }

    /// What is known of a process that ended without a tally: all its clients are lost.
    pub(crate) fn of_lost_process(last: &Interim) -> Self {
        let mut tally = Self {
            begun: last.begun,
            accepted: last.accepted,
            stalls: last.stalls,
            bytes: last.bytes,
            seconds: last.seconds,
            ..Self::default()
        };
        let reason = "a process of the load generator ended early";
        for (reasons, n) in
            [(&mut tally.refused, last.begun.saturating_sub(last.accepted)), (&mut tally.lost, last.accepted)]
        {
            if n > 0 {
                count(reasons, reason, n);
            }
        }
        tally
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        self.begun += other.begun;
        self.accepted += other.accepted;
        for (mine, theirs) in [(&mut self.refused, &other.refused), (&mut self.lost, &other.lost)] {
            theirs.iter().for_each(|(reason, n)| count(mine, reason, *n));
        }
        self.first_keyframe.merge(&other.first_keyframe);
        self.bitrate.merge(&other.bitrate);
        self.stalls += other.stalls;
        self.backwards += other.backwards;
        self.latency.merge(&other.latency);
        self.lag.merge(&other.lag);
        self.bytes += other.bytes;
        self.seconds = self.seconds.max(other.seconds);
        self.cpu_percent = match (self.cpu_percent, other.cpu_percent) {
            (Some(a), Some(b)) => Some(a.max(b)),
            (a, b) => a.or(b),
        };
    }

    pub(crate) fn progress(&self) -> Interim {
        Interim {
            seconds: self.seconds,
            begun: self.begun,
            accepted: self.accepted,
            refused: self.refused.values().sum(),
            lost: self.lost.values().sum(),
            stalls: self.stalls,
            bytes: self.bytes,
        }
    }
}

fn count(reasons: &mut BTreeMap<String, u64>, reason: &str, n: u64) {
    let known = reasons.contains_key(reason) || reasons.len() < MAX_REASONS;
    *reasons.entry(if known { reason } else { "other reasons" }.to_owned()).or_default() += n;
}

/// How far a run is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Interim {
    /// Since the first connection.
    pub seconds: f64,
    /// Clients whose connection was begun.
    pub begun: u64,
    /// Clients whose play or publish was accepted.
    pub accepted: u64,
    /// Clients that were not.
    pub refused: u64,
    /// Accepted clients that ended before the run did.
    pub lost: u64,
    /// Times a player had no media for 3 s.
    pub stalls: u64,
    /// Bytes received by players or sent by publishers so far.
    pub bytes: u64,
}

impl Interim {
    pub(crate) fn add(&mut self, other: &Self) {
        self.seconds = self.seconds.max(other.seconds);
        self.begun += other.begun;
        self.accepted += other.accepted;
        self.refused += other.refused;
        self.lost += other.lost;
        self.stalls += other.stalls;
        self.bytes += other.bytes;
    }

    /// One line, with the rate since `before`.
    #[must_use]
    pub fn line(&self, before: &Self) -> String {
        let seconds = (self.seconds - before.seconds).max(0.001);
        let rate = self.bytes.saturating_sub(before.bytes) as f64 * 8.0 / seconds / 1e6;
        let Self { seconds, accepted, refused, lost, stalls, .. } = self;
        format!(
            "{seconds:.0} s  {accepted} connected  {refused} refused  {lost} lost  {stalls} stalls  {rate:.1} Mbit/s"
        )
    }
}

/// What the run met. As JSON: schema `srsctl/bench/v1`; changes only add.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Results {
    /// `srsctl/bench/v1`
    pub schema: String,
    /// What the clients did.
    pub work: Work,
    /// Where, without parameters.
    pub urls: Vec<String>,
    /// Clients asked for.
    pub clients: u64,
    /// Processes that ran them.
    pub processes: u64,
    /// From the first connection to the end.
    pub seconds: f64,
    /// Clients whose play or publish was accepted.
    pub connected: u64,
    /// Clients that were not accepted, by reason: RTMP code or system error.
    pub refused: BTreeMap<String, u64>,
    /// Accepted clients whose connection ended before the run did, by reason.
    pub lost: BTreeMap<String, u64>,
    /// Clients never begun: the run was interrupted.
    pub not_begun: u64,
    /// Players: TCP connect begun to first keyframe complete, ms.
    pub first_keyframe_ms: Option<Quantiles>,
    /// Players accepted that never had a keyframe.
    pub without_keyframe: u64,
    /// Bits per second of each client that ran for 2 s, from its second 1 on, the burst of a GOP cache left out.
    #[serde(rename = "bitrate_bps")]
    pub bitrate: Option<Bitrate>,
    /// Times a player had no media for 3 s.
    pub stalls: u64,
    /// Frames older than the frame of the same kind before them on the same connection.
    pub backwards: u64,
    /// Sending by `bench publish` to frame complete at a player, ms; only of frames sent once all players were begun.
    pub latency_ms: Option<Quantiles>,
    /// Publishers: how much later than real time frames were handed to the socket, ms.
    pub lag_ms: Option<Quantiles>,
    /// Received by players, sent by publishers; RTMP with its headers, without TCP's.
    pub bytes: u64,
    /// CPU of the load generator's busiest process, percent of one core. Near 100 its own figures are doubtful.
    pub generator_cpu_percent: Option<f64>,
}

/// Quantiles of a quantity, each within 0.1 %.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Quantiles {
    /// Values.
    pub count: u64,
    /// Median.
    pub p50: f64,
    /// 99 of 100 values are not larger.
    pub p99: f64,
    /// Largest.
    pub max: f64,
}

/// Bits per second over all clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bitrate {
    /// Of the worst client.
    pub min: u64,
    /// Of the one in the middle.
    pub median: u64,
}

impl Quantiles {
    fn of(micros: &Histogram) -> Option<Self> {
        let ms = |value: u64| value as f64 / 1000.0;
        Some(Self {
            count: micros.count(),
            p50: ms(micros.quantile(0.5)?),
            p99: ms(micros.quantile(0.99)?),
            max: ms(micros.max()?),
        })
    }
}

impl Results {
    pub(crate) fn new(work: Work, urls: Vec<String>, clients: u64, processes: u64, tally: Tally) -> Self {
        let without_keyframe = match work {
            Work::Play => tally.accepted.saturating_sub(tally.first_keyframe.count()),
            Work::Publish | Work::Drain => 0,
        };
        Self {
            schema: "srsctl/bench/v1".to_owned(),
            work,
            urls,
            clients,
            processes,
            seconds: tally.seconds,
            connected: tally.accepted,
            not_begun: clients.saturating_sub(tally.begun),
            first_keyframe_ms: Quantiles::of(&tally.first_keyframe),
            without_keyframe,
            bitrate: tally
                .bitrate
                .min()
                .zip(tally.bitrate.quantile(0.5))
                .map(|(min, median)| Bitrate { min, median }),
            stalls: tally.stalls,
            backwards: tally.backwards,
            latency_ms: Quantiles::of(&tally.latency),
            lag_ms: Quantiles::of(&tally.lag),
            bytes: tally.bytes,
            generator_cpu_percent: tally.cpu_percent,
            refused: tally.refused,
            lost: tally.lost,
        }
    }

    /// Whether every client that was begun was accepted, stayed, and had what it came for.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.connected > 0
            && self.refused.is_empty()
            && self.lost.is_empty()
            && self.without_keyframe == 0
            && self.stalls == 0
            && self.backwards == 0
    }
}

impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let who = match (self.work, self.clients) {
            (Work::Play | Work::Drain, 1) => "player of",
            (Work::Play | Work::Drain, _) => "players of",
            (Work::Publish, 1) => "publisher to",
            (Work::Publish, _) => "publishers to",
        };
        write!(f, "{} {who} {}", self.clients, self.urls.first().map_or("", String::as_str))?;
        if self.urls.len() > 1 {
            write!(f, " and {} more", self.urls.len() - 1)?;
        }
        write!(f, ", {:.1} s", self.seconds)?;
        if self.processes > 1 {
            write!(f, ", {} processes", self.processes)?;
        }
        writeln!(f)?;
        row(f, "connected", self.connected)?;
        reasons(f, "refused", &self.refused)?;
        reasons(f, "lost", &self.lost)?;
        if self.not_begun > 0 {
            row(f, "never begun", self.not_begun)?;
        }
        if self.work == Work::Play {
            row(f, "first keyframe", times(self.first_keyframe_ms))?;
            if self.without_keyframe > 0 {
                row(f, "no keyframe", self.without_keyframe)?;
            }
        }
        if let Some(Bitrate { min, median }) = self.bitrate {
            let kbit = |bits: u64| bits as f64 / 1000.0;
            row(
                f,
                "bitrate",
                format_args!("min {:.0} kbit/s   median {:.0} kbit/s", kbit(min), kbit(median)),
            )?;
        }
        match self.work {
            Work::Play => {
                row(f, "stalls over 3 s", self.stalls)?;
                row(f, "time backwards", self.backwards)?;
                match self.latency_ms {
                    None => row(
                        f,
                        "latency",
                        "unknown: no stamped frame since the last join (srsctl bench publish stamps H.264)",
                    )?,
                    latency => row(f, "latency", times(latency))?,
                }
            }
            Work::Publish => row(f, "sent late by", times(self.lag_ms))?,
            Work::Drain => {}
        }
        if let Some(cpu) = self.generator_cpu_percent {
            let doubt = if cpu >= BUSY {
                ": too busy, the times above are partly its own; use --processes"
            } else {
                ""
            };
            row(f, "load generator", format_args!("{cpu:.0} % of a core{doubt}"))?;
        }
        Ok(())
    }
}

fn row(f: &mut fmt::Formatter<'_>, name: &str, value: impl fmt::Display) -> fmt::Result {
    writeln!(f, "  {name:<16} {value}")
}

fn reasons(f: &mut fmt::Formatter<'_>, name: &str, reasons: &BTreeMap<String, u64>) -> fmt::Result {
    row(f, name, reasons.values().sum::<u64>())?;
    reasons.iter().try_for_each(|(reason, n)| writeln!(f, "    {n} x {}", text::fit(reason, REASON_COLUMNS)))
}

fn times(quantiles: Option<Quantiles>) -> String {
    match quantiles {
        None => "none".to_owned(),
        Some(Quantiles { p50, p99, max, .. }) => {
            format!("p50 {}   p99 {}   max {}", millis(p50), millis(p99), millis(max))
        }
    }
}

fn millis(ms: f64) -> String {
    if ms < 10.0 { format!("{ms:.2} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_tallies_add_up() {
        let mut one =
            Tally { begun: 2, accepted: 1, seconds: 3.0, cpu_percent: Some(5.0), ..Tally::default() };
        one.refuse("full");
        let mut two = Tally { begun: 1, seconds: 4.0, ..Tally::default() };
        two.refuse("full");
        one.merge(&two);
        assert_eq!((one.begun, one.accepted, one.seconds, one.cpu_percent), (3, 1, 4.0, Some(5.0)));
        assert_eq!(one.refused.get("full"), Some(&2));
    }

    #[test]
    fn the_clients_of_a_process_that_ended_early_are_lost() {
        let last = Interim { begun: 7, accepted: 5, bytes: 9, ..Interim::default() };
        let report = Results::new(Work::Play, Vec::new(), 10, 2, Tally::of_lost_process(&last));
        assert_eq!((report.connected, report.not_begun, report.bytes), (5, 3, 9));
        assert_eq!((report.refused.values().sum::<u64>(), report.lost.values().sum::<u64>()), (2, 5));
        assert!(!report.is_good());
    }

    #[test]
    fn reasons_are_bounded() {
        let mut tally = Tally::default();
        (0..100).for_each(|n| tally.refuse(&format!("client {n}")));
        assert_eq!(tally.refused.len(), MAX_REASONS + 1);
        assert_eq!(tally.refused.get("other reasons"), Some(&(100 - MAX_REASONS as u64)));
    }

    #[test]
    fn a_report_shows_what_was_refused_and_is_not_good() {
        let mut tally = Tally { begun: 1, ..Tally::default() };
        tally.refuse("NetStream.Play.StreamNotFound");
        let report = Results::new(Work::Play, vec!["rtmp://h/live/s".into()], 1, 1, tally);
        let text = report.to_string();
        assert!(text.contains("1 x NetStream.Play.StreamNotFound"), "{text}");
        assert!(!report.is_good());
    }
}
