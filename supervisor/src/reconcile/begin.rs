//! How a supervisor begins: what it takes over, and what it makes of that.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;
use std::time::Instant;

use cluster::events::Kind;
use cluster::{Cluster, ProcessSpec, UnitId};
use control::api::StartupEvent;

use super::departure::{Departure, Then};
use super::events;
use super::job::{AwaitStart, Job, Removal, Step};
use super::kernel::{InForce, Kernel, Leftover, Look};
use super::member::Member;
use super::queue::Queue;
use super::reconciler::{Reconciler, specs};
use crate::host::dirs::ClusterDirs;
use crate::machine::backoff::Spacing;
use crate::machine::state::{Event, Wanted};

impl Reconciler {
    /// A supervisor that starts at `now` with a file of the number `generation`, what was `found` of its units, what is left of others
    /// and, if that differs, with what was in force `before`.
    pub(crate) fn start(
        now: Instant,
        (cluster, path, dirs, generation): (Cluster, PathBuf, ClusterDirs, u64),
        before: Option<InForce>,
        (mut found, left): (BTreeMap<UnitId, Look>, Leftover),
        kernel: &mut impl Kernel,
    ) -> Self {
        let members =
            specs(&cluster, &dirs).into_iter().map(|(spec, port)| Member::new(spec, port)).collect();
        let mut new = Self {
            cluster,
            path,
            generation,
            dirs,
            before: before.map(Box::new),
            members,
            started: now,
            queue: Queue::starting(now),
            job: None,
            asked: Vec::new(),
            spacing: Spacing::default(),
            next_housekeeping: now,
            instances: 0,
            tickets: 0,
            warnings: Vec::new(),
            is_started: false,
            startup: VecDeque::new(),
            fresh: Vec::new(),
            end: None,
        };
        let mut steps = Vec::new();
        let mut surplus = BTreeSet::new();
        for (spec, port) in left.surplus {
            surplus.insert(spec.id().clone());
            if let ProcessSpec::Encoder(spec) = &spec {
                let ids = vec![spec.id.clone()];
                steps.push(Step::Remove { ids, end: None, how: Removal::Removed });
            }
            new.insert(Member::new(spec, port));
        }
        if left.is_encoder_old {
            steps.push(Step::Encoder { end: None });
        }
        for (id, address) in &left.misplaced {
            // Where it is, as long as it is there.
            let Some(member) = new.members.iter_mut().find(|member| member.id == *id) else { continue };
            if let (ProcessSpec::Worker(spec), Some(port)) = (&mut member.spec, &mut member.port) {
                (spec.listen, port.listen) = (*address, address.ip());
            }
        }
        let mut fresh = Vec::new();
        for index in 0..new.members.len() {
            let Some(unit) = new.members.get(index).map(|member| member.id.clone()) else { continue };
            match found.remove(&unit) {
                Some(look) => {
                    match &look {
                        Look::Process { serving, silent, .. } => {
                            let (pid, silent) = (*serving, *silent);
                            new.startup.push_back(StartupEvent::Adopted { unit, pid, silent });
                        }
                        Look::Unknown { why } => {
                            new.startup.push_back(StartupEvent::Unknown { unit, why: why.clone() });
                        }
                        Look::Nothing => {}
                    }
                    new.handle_found(index, look, now, kernel);
                }
                None => fresh.push(unit),
            }
        }
        for index in 0..new.members.len() {
            if new.members.get(index).is_some_and(|member| !surplus.contains(&member.id)) {
                new.feed(index, Event::Want(Wanted::Up), now, kernel);
            }
        }
        new.fresh = fresh;
        let leaving = surplus.into_iter().filter(|id| *id != UnitId::encoder()).map(|id| (id, Then::Removed));
        let moving = left.misplaced.into_iter().map(|(id, _)| (id, Then::Moved));
        for (id, then) in leaving.chain(moving) {
            let departure = Departure::go_on(now, then, left.on_record.get(&id).copied());
            let time = (departure.until - now).as_secs();
            new.depart(&id, departure, now, kernel);
            kernel.record(events::of_unit(Kind::Draining, &id, None, format!("goes on, for {time} s")));
            if new.member(&id).is_some_and(|member| member.live.is_some()) {
                // It is stopped when nobody is left there.
                new.feed_id(&id, Event::Want(Wanted::Up), now, kernel);
            }
            if new.member(&id).is_some_and(|member| member.left_alone().is_some()) {
                // Whoever is no process of it cannot connect there any more.
                kernel.close_port(&id);
            }
        }
        let stay: Vec<UnitId> = left.on_record.into_keys().filter(|id| new.stays(id)).collect();
        stay.iter().for_each(|id| kernel.note_departure(id, None));
        new.forward_anew(now, kernel);
        steps.push(Step::AwaitAnswers { end: None });
        steps.push(Step::AwaitStart(AwaitStart { begin: now, told: Vec::new() }));
        new.job = Some(Job { asked: Some(("start".to_owned(), now)), ..Job::new(None, steps) });
        new.go_on(now, kernel);
        new
    }

    fn stays(&self, id: &UnitId) -> bool {
        self.member(id).is_some_and(|member| member.departure.is_none())
    }
}
