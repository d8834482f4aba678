//! What a supervisor notices by itself and does nothing about but to tell: health that changes, and state that cannot be written.

use std::time::Instant;

use cluster::events::Kind;
use cluster::status::Health;

use super::events;
use super::kernel::Kernel;
use super::reconciler::Reconciler;
use crate::machine::state::State;

impl Reconciler {
    /// Takes in what is wrong with the place where logs and state are kept.
    pub(super) fn handle_warnings(&mut self, warnings: Vec<String>, kernel: &mut impl Kernel) {
        for new in warnings.iter().filter(|it| !self.warnings.contains(it)) {
            kernel.record(events::of_cluster(Kind::Warning, None, new.clone()));
        }
        for over in self.warnings.iter().filter(|it| !warnings.contains(it)) {
            kernel.record(events::of_cluster(Kind::Passing, None, format!("no more: {over}")));
        }
        self.warnings = warnings;
    }

    /// Tells of each unit whose health has changed for longer than a moment. What its state says was told with that.
    pub(super) fn watch_health(&mut self, now: Instant, kernel: &mut impl Kernel) {
        for index in 0..self.members.len() {
            let Some(member) = self.members.get(index) else { return };
            let (health, note) = match member.machine.state() {
                State::Running { .. } => self.verdict(member, &self.dirs.unit(&member.id), now),
                State::Stopped
                | State::Starting
                | State::Stopping { .. }
                | State::Killing { .. }
                | State::Backoff { .. }
                | State::Failed { .. }
                | State::Unknown { .. } => (Health::Unknown, String::new()),
            };
            let Some(member) = self.members.get_mut(index) else { return };
            if member.health.handle(now, health)
                && let Some(event) = events::of_health(member, health, note)
            {
                kernel.record(event);
            }
        }
    }
}
