//! What streams there are: those that encoders send, and those that an edge lacks.

use std::time::{Duration, Instant};

use cluster::Role;

use super::reconciler::Reconciler;
use crate::machine::health::STALE;

/// A stream that an encoder sends to the origin now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveStream {
    /// `app/stream`.
    pub(super) name: String,
    /// Without video there is no keyframe to wait for.
    pub(super) has_keyframes: bool,
}

impl Reconciler {
    /// The streams that encoders send to the origin now.
    pub(super) fn live_streams(&self, now: Instant) -> Vec<LiveStream> {
        let origin = self.members.iter().find(|member| member.role() == Role::Origin);
        let streams = origin
            .and_then(|origin| origin.fresh_report(now))
            .map_or(&[][..], |report| report.streams.as_slice());
        streams
            .iter()
            .filter(|stream| stream.publishing)
            .filter(|stream| stream.last_frame_age_ms.is_some_and(|age| Duration::from_millis(age) <= STALE))
            .map(|stream| LiveStream {
                name: stream.stream.clone(),
                has_keyframes: stream.keyframe_age_ms.is_some(),
            })
            .collect()
    }

    pub(super) fn look_for_missing_streams(&mut self, now: Instant) {
        let live = self.live_streams(now);
        for member in self.members.iter_mut().filter(|member| member.role() == Role::Edge) {
            let missing = member.fresh_report(now).and_then(|report| {
                live.iter().find(|live| {
                    !report.streams.iter().any(|stream| stream.publishing && stream.stream == live.name)
                })
            });
            member.missing = missing.map(|live| {
                let known = member.missing.take().filter(|(name, _)| *name == live.name);
                (live.name.clone(), known.map_or(now, |(_, since)| since))
            });
        }
    }
}
