//! The steps of a start: until all is ready, or waiting longer is of no use.

use std::time::{Duration, Instant};

use control::api::StartupEvent;

use super::job::{AwaitStart, Job, Step, Turn};
use super::reconciler::Reconciler;
use crate::machine::health::Heartbeat;
use crate::machine::state::State;

/// Beyond the limit of one start: one more try of a process that died at once.
const SECOND_TRY: Duration = Duration::from_secs(5);
/// How long the first report of a process that is ready is waited for.
const REPORT_LIMIT: Duration = Duration::from_secs(1);

impl Reconciler {
    pub(super) fn await_start(&mut self, mut wait: AwaitStart, job: &mut Job, now: Instant) -> Turn {
        let mut open = 0;
        for member in &self.members {
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
        // The first reports follow at once; with them the status is worth a look.
        job.push_first([Step::AwaitReports { end: now + REPORT_LIMIT }]);
        Turn::Done
    }

    /// Waits for the first reports, and tells of the whole.
    pub(super) fn await_reports(&mut self, end: Instant, now: Instant) -> Turn {
        let all = self.members.iter().filter(|m| m.is_ready()).all(|member| member.report.is_some());
        if !all && now < end {
            return Turn::Wait(Step::AwaitReports { end }, Some(end));
        }
        let status = self.status(now);
        let mut waiting = 0;
        for (member, unit) in self.members.iter().zip(status.units).filter(|(member, _)| !member.is_ready()) {
            waiting += 1;
            let why = if unit.note.is_empty() { "it is still starting".to_owned() } else { unit.note };
            self.startup.push_back(StartupEvent::NotReady { unit: member.id.clone(), why });
        }
        let ready = self.members.len() - waiting;
        self.startup.push_back(StartupEvent::Complete { ready, waiting });
        Turn::Done
    }
}
