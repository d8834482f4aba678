//! What streams there are: those that encoders send, and those that an edge lacks.

use std::time::{Duration, Instant};

use cluster::Role;
use cluster::stats::StreamStats;

use super::member::Member;
use super::reconciler::Reconciler;
use crate::machine::health::STALE;

/// So much later than to the origin a frame may come to an edge.
const BEHIND: Duration = Duration::from_secs(1);

/// A stream that an encoder sends to the origin now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveStream {
    /// `app/stream`.
    pub(super) name: String,
    /// Without video there is no keyframe to wait for.
    pub(super) has_keyframes: bool,
    /// When its newest frame came to the origin.
    newest: Instant,
}

impl Reconciler {
    /// The origin: where it moves, the one that stays.
    fn origin(&self) -> Option<&Member> {
        let origins = || self.members.iter().filter(|member| member.role() == Role::Origin);
        origins().find(|member| member.departure.is_none()).or_else(|| origins().next())
    }

    /// The streams that encoders send to the origin now.
    pub(super) fn live_streams(&self, now: Instant) -> Vec<LiveStream> {
        let origin = self.origin();
        let streams = origin
            .and_then(|origin| origin.fresh_report(now))
            .map_or(&[][..], |report| report.streams.as_slice());
        let reported = origin.and_then(|origin| origin.report.as_ref()).map_or(now, |report| report.at);
        let live = streams.iter().filter(|stream| stream.publishing).filter_map(|stream| {
            let age = Duration::from_millis(stream.last_frame_age_ms?);
            (age <= STALE).then(|| LiveStream {
                name: stream.stream.clone(),
                has_keyframes: stream.keyframe_age_ms.is_some(),
                newest: reported.checked_sub(age).unwrap_or(reported),
            })
        });
        live.collect()
    }

    /// When the origin reported last, if that is to be believed still.
    pub(super) fn origin_reported(&self, now: Instant) -> Option<Instant> {
        self.origin()?.fresh_report(now).map(|report| report.at)
    }

    /// Whether nobody publishes `stream` to the origin any more, as it says itself.
    pub(super) fn is_over(&self, stream: &str, now: Instant) -> bool {
        let report = self.origin().and_then(|origin| origin.fresh_report(now));
        report.is_some_and(|report| !report.streams.iter().any(|it| it.publishing && it.stream == stream))
    }

    pub(super) fn look_for_missing_streams(&mut self, now: Instant) {
        let live = self.live_streams(now);
        for member in self.members.iter_mut().filter(|it| it.role() == Role::Edge && it.departure.is_none()) {
            let missing = member.fresh_report(now).and_then(|report| {
                let is_here = |stream: &StreamStats, live: &LiveStream| {
                    stream.publishing
                        && stream.stream == live.name
                        && keeps_up(stream, report.at, live.newest)
                };
                live.iter().find(|live| !report.streams.iter().any(|stream| is_here(stream, live)))
            });
            member.missing = missing.map(|live| {
                let known = member.missing.take().filter(|(name, _)| *name == live.name);
                (live.name.clone(), known.map_or(now, |(_, since)| since))
            });
        }
    }
}

/// Whether an edge that reported a stream at `reported` had all by then of what came to the origin until `newest`.
fn keeps_up(stream: &StreamStats, reported: Instant, newest: Instant) -> bool {
    let Some(age) = stream.last_frame_age_ms.map(Duration::from_millis) else { return false };
    let here = reported.checked_sub(age).unwrap_or(reported);
    // What came to the origin after the report cannot be in it.
    newest.min(reported).saturating_duration_since(here) <= BEHIND
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_keeps_up_whose_newest_frame_is_no_older_than_the_origins_whenever_the_two_report() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let edge = |age| StreamStats { last_frame_age_ms: age, ..StreamStats::default() };
        // A report of 1 s ago, and one of the origin just now.
        assert!(keeps_up(&edge(Some(20)), at(10_000), at(10_990)));
        // A report just now, and one of the origin of 1 s ago.
        assert!(keeps_up(&edge(Some(20)), at(11_000), at(9_990)));
        assert!(keeps_up(&edge(Some(5_900)), at(10_000), at(4_100)), "a still picture");
        assert!(!keeps_up(&edge(Some(2_500)), at(10_000), at(9_900)), "nothing has come for 2.5 s");
        assert!(!keeps_up(&edge(None), at(10_000), at(9_900)));
    }
}
