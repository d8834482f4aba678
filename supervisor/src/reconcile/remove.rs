//! The steps by which a unit goes at once: one whose addition is undone, and the encoder. Ports that serve leave their places in another
//! way ([`super::leave`]).

use std::time::Instant;

use cluster::events::Kind as Happened;
use cluster::{ProcessSpec, UnitId};
use control::{Code, Error};

use super::apply::await_ready;
use super::events;
use super::job::{AwaitReady, Job, Removal, Step, Turn};
use super::kernel::{Kernel, Program};
use super::member::Member;
use super::reconciler::Reconciler;
use super::steps::STOP_LIMIT;
use crate::machine::state::{Event, Wanted};

impl Reconciler {
    /// Stops units and forgets them.
    pub(super) fn remove(
        &mut self,
        (ids, end, how): (Vec<UnitId>, Option<Instant>, Removal),
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        if end.is_none() {
            for id in &ids {
                self.feed_id(id, Event::Want(Wanted::Down), now, kernel);
            }
        }
        let end: Instant = end.unwrap_or(now + STOP_LIMIT);
        let at_rest = ids.iter().filter_map(|id| self.member(id)).all(Member::is_at_rest);
        if !at_rest && now < end {
            return Turn::Wait(Step::Remove { ids, end: Some(end), how }, Some(end));
        }
        for id in &ids {
            let Some(member) = self.member(id) else { continue };
            let left_alone = member.left_alone();
            if left_alone.is_none() && member.live.is_none() {
                let kind = match how {
                    Removal::TakenBack => Happened::TakenBack,
                    Removal::Removed => Happened::Removed,
                };
                kernel.record(events::of_unit(kind, id, None, ""));
                kernel.remove(id, false);
                self.members.retain(|member| member.id != *id);
                if how == Removal::Removed {
                    kernel.say(job.client, format!("{id} is removed"));
                }
                continue;
            }
            if left_alone.is_some() {
                // It stays, to be told of, without the port.
                kernel.close_port(id);
            }
            if how == Removal::Removed {
                let why =
                    left_alone.unwrap_or_else(|| "it does not end, though it was sent SIGKILL".to_owned());
                let why = format!("{id} is out of the cluster, and its process is still there: {why}");
                job.errors.push(Error::new(Code::NotReady, why));
            }
        }
        Turn::Done
    }

    /// Has the encoder do what the file in force says now.
    pub(super) fn change_encoder(
        &mut self,
        end: Option<Instant>,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let id = UnitId::encoder();
        let Some(spec) = self.cluster.encoder_spec().map(ProcessSpec::Encoder) else {
            job.push_first([Step::Remove { ids: vec![id], end, how: Removal::Removed }]);
            return Turn::Done;
        };
        match self.index(&id).and_then(|index| self.members.get_mut(index)) {
            Some(member) => {
                let before = member.live.map(|live| live.instance);
                member.spec = spec;
                kernel.say(job.client, format!("restarting {id}"));
                self.feed_id(&id, Event::Restart, now, kernel);
                let program = Program::OfStart;
                let wait = AwaitReady { id, before, end: None, restart: None, go_on: true, program };
                job.push_first([Step::AwaitReady(wait)]);
            }
            None => {
                self.insert(Member::new(spec, None));
                job.push_first([Step::Start { id: id.clone() }, await_ready(id, true)]);
            }
        }
        Turn::Done
    }
}
