//! The steps of an end: encoder, then edges, then origin; and what is to vanish with them.

use std::time::Instant;

use control::{Code, Error};

use super::departure::{Departure, Then};
use super::job::{Job, Step, StopRole, Turn};
use super::kernel::Kernel;
use super::member::Member;
use super::reconciler::Reconciler;
use super::steps::STOP_LIMIT;
use crate::machine::state::{Event, State, Wanted};

impl Reconciler {
    pub(super) fn stop_role(
        &mut self,
        mut stop: StopRole,
        job: &Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let (ids, end) = match stop.begun.take() {
            Some(begun) => begun,
            None => {
                let ours = |member: &&Member| {
                    member.role() == stop.role && (stop.all || member.live.is_none_or(|live| !live.adopted))
                };
                let ids: Vec<_> = self.members.iter().filter(ours).map(|member| member.id.clone()).collect();
                for id in &ids {
                    self.feed_id(id, Event::Want(Wanted::Down), now, kernel);
                }
                (ids, now + STOP_LIMIT)
            }
        };
        if now < end && !ids.iter().filter_map(|id| self.member(id)).all(Member::is_at_rest) {
            stop.begun = Some((ids, end));
            return Turn::Wait(Step::Stop(stop), Some(end));
        }
        for member in ids.iter().filter_map(|id| self.member(id)) {
            if *member.machine.state() == State::Stopped {
                kernel.say(job.client, format!("{} is stopped", member.id));
            }
        }
        Turn::Done
    }

    pub(super) fn clear(&mut self, all: bool, kernel: &mut impl Kernel) -> Turn {
        let mut left = String::new();
        let mut is_empty = true;
        for member in &self.members {
            let why = match member.machine.state() {
                State::Stopped => {
                    let is_out = |it: &Departure| it.then == Then::Removed;
                    kernel.remove(&member.id, !member.departure.as_ref().is_some_and(is_out));
                    continue;
                }
                State::Unknown { why } => why.as_str(),
                _ if !member.is_stopped(all) => {
                    is_empty = false;
                    continue;
                }
                State::Starting
                | State::Running { .. }
                | State::Stopping { .. }
                | State::Killing { .. }
                | State::Backoff { .. }
                | State::Failed { .. } => "it does not end, though it was sent SIGKILL",
            };
            let look = self.dirs.unit(&member.id).join("alive.lock");
            left.push_str(&format!("\n  {}: {why}; see who it is: fuser -v {}", member.id, look.display()));
        }
        // Whoever takes the lock next meets neither our socket nor our ports.
        kernel.close();
        if !left.is_empty() {
            return Turn::Failed(Error::new(Code::Failed, format!("not all could be stopped:{left}")));
        }
        match if is_empty { kernel.remove_run() } else { Ok(()) } {
            Ok(()) => Turn::Done,
            Err(why) => Turn::Failed(Error::new(Code::Failed, why)),
        }
    }
}
