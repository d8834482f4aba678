//! The steps of a start: until all is ready, or waiting longer is of no use.

use std::time::{Duration, Instant};

use cluster::ProcessSpec;
use cluster::status::Health;
use control::api::StartupEvent;

use super::job::{AwaitStart, Job, Step, Turn};
use super::kernel::Kernel;
use super::member::Member;
use super::reconciler::Reconciler;
use crate::machine::heartbeat::Heartbeat;
use crate::machine::state::State;

/// Beyond the limit of one start: one more try of a process that died at once.
const SECOND_TRY: Duration = Duration::from_secs(5);
/// How long the first reports of processes that are ready are waited for, the encoder, and the forwards of streams that are live.
const SETTLE_LIMIT: Duration = Duration::from_secs(10);
/// How often they are asked.
const SETTLE_POLL: Duration = Duration::from_millis(100);

impl Reconciler {
    pub(super) fn await_start(&mut self, mut wait: AwaitStart, job: &mut Job, now: Instant) -> Turn {
        let mut open = 0;
        for member in self.members.iter().filter(|member| member.departure.is_none()) {
            match member.machine.state() {
                State::Running { .. } if wait.told.contains(&member.id) => {}
                // It answers soon, or is found frozen and replaced.
                State::Running { .. } if !member.is_ready() => open += 1,
                State::Running { .. } => {
                    wait.told.push(member.id.clone());
                    let after = now.saturating_duration_since(wait.begin).as_millis();
                    let after_ms = u64::try_from(after).unwrap_or(u64::MAX);
                    self.startup.push_back(StartupEvent::Ready { unit: member.id.clone(), after_ms });
                }
                State::Failed { .. } | State::Unknown { .. } => {}
                State::Stopped
                | State::Starting
                | State::Stopping { .. }
                | State::Killing { .. }
                | State::Backoff { .. } => open += 1,
            }
        }
        let end = wait.begin + Heartbeat::START_LIMIT + SECOND_TRY;
        if open > 0 && now < end {
            return Turn::Wait(Step::AwaitStart(wait), Some(end));
        }
        job.push_first([Step::AwaitStreams { end: now + SETTLE_LIMIT, ask: now }]);
        Turn::Done
    }

    /// Waits until players get what there is, and tells of the whole.
    pub(super) fn await_streams(
        &mut self,
        (end, mut ask): (Instant, Instant),
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        if !self.is_settled(now) && now < end {
            // Not at each answer: it would be asked for by the one before.
            if now >= ask {
                ask = now + SETTLE_POLL;
                for member in self.members.iter().filter(|member| member.is_ready()) {
                    kernel.refresh(&member.id);
                }
            }
            return Turn::Wait(Step::AwaitStreams { end, ask }, Some(end.min(ask)));
        }
        let status = self.status(now, kernel);
        let (mut ready, mut waiting) = (0, 0);
        for (member, unit) in self.members.iter().zip(status.units) {
            if member.departure.is_some() {
                continue;
            }
            if member.is_ready() && unit.health != Health::Critical {
                ready += 1;
                continue;
            }
            waiting += 1;
            let why = if unit.note.is_empty() { "it is still starting".to_owned() } else { unit.note };
            self.startup.push_back(StartupEvent::NotReady { unit: member.id.clone(), why });
        }
        if let Some((name, _)) = &mut job.asked {
            name.push_str(&format!(": {ready} ready, {waiting} not"));
        }
        self.startup.push_back(StartupEvent::Complete { ready, waiting });
        Turn::Done
    }

    /// Whether everything that runs has reported, the encoder publishes, and each stream that is live at the origin is at each
    /// edge.
    fn is_settled(&mut self, now: Instant) -> bool {
        self.look_for_missing_streams(now);
        let ready = self.members.iter().filter(|it| it.is_ready() && it.departure.is_none());
        let ready: Vec<&Member> = ready.collect();
        let live = self.live_streams(now);
        let is_live = |url: &str| live.iter().any(|stream| url.ends_with(&format!("/{}", stream.name)));
        ready.iter().all(|member| {
            let published = match &member.spec {
                ProcessSpec::Encoder(spec) => is_live(&spec.url),
                ProcessSpec::Worker(_) => true,
            };
            published && member.report.is_some() && member.missing.is_none()
        })
    }
}
