//! The steps of `upgrade`: another program on all ports, one after the other, and first on some that have to prove it.

use std::time::{Duration, Instant};

use cluster::{Role, UnitId};
use control::api::Upgrade;
use control::{Code, Error};

use super::job::{Job, Restart, Step, Try, Turn};
use super::kernel::Kernel;
use super::reconciler::Reconciler;
use crate::machine::state::Wanted;

/// A keeper goes back to the program before within 10 s of trial, and then tells.
const TRIAL_LIMIT: Duration = Duration::from_secs(11);

impl Reconciler {
    /// The steps that have all ports run another program: edges first, since encoders are at the origin.
    pub(super) fn upgrade(&self, Upgrade { program, canary }: &Upgrade) -> Vec<Step> {
        let of = |role| {
            let members = self.members.iter().filter(move |member| member.role() == role);
            members.filter(|member| member.machine.wanted() == Wanted::Up).map(|member| member.id.clone())
        };
        let ids: Vec<UnitId> = of(Role::Edge).chain(of(Role::Origin)).collect();
        let after = |place: usize| ids.iter().skip(place).cloned().collect::<Vec<_>>();
        let restart = |(place, id): (usize, &UnitId)| {
            let (rest, program) = (after(place + 1), Some(program.clone()));
            Step::Restart(Restart { id: id.clone(), rest, is_cold: false, program })
        };
        let trial = |count: usize| {
            let (tried, rest) = (ids.iter().take(count).cloned().collect(), after(count));
            Step::Try(Try { ids: tried, program: program.clone(), rest, end: None })
        };
        let mut steps: Vec<Step> = ids.iter().enumerate().map(restart).collect();
        steps.push(trial(ids.len()));
        if (1..ids.len()).contains(canary) {
            steps.insert(*canary, trial(*canary));
        }
        steps.push(Step::Install(program.clone()));
        steps
    }

    /// Waits until the trial of a program is over on some ports; fails when one runs another.
    pub(super) fn try_program(
        &mut self,
        mut it: Try,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        for id in &it.ids {
            let Some(member) = self.member(id) else { continue };
            if !kernel.is_running(id, &it.program) {
                let how = member.last_end().map(|(_, how)| how).unwrap_or_default();
                return Turn::Failed(not_upgraded(id, &how, &it.rest));
            }
        }
        if it.end.is_none() {
            let seconds = TRIAL_LIMIT.as_secs();
            kernel.say(job.client, format!("waiting {seconds} s for what becomes of it"));
        }
        let end = *it.end.get_or_insert(now + TRIAL_LIMIT);
        if now < end {
            return Turn::Wait(Step::Try(it), Some(end));
        }
        Turn::Done
    }
}

/// An upgrade stops at a port; ports before it run the new program.
pub(super) fn not_upgraded(id: &UnitId, why: &str, rest: &[UnitId]) -> Error {
    let rest: Vec<&str> = rest.iter().map(UnitId::as_str).collect();
    let rest = if rest.is_empty() { "none".to_owned() } else { rest.join(", ") };
    let why = format!(
        "the upgrade stops: {id} does not run the new program: {why}; those after it that run the one before: {rest}"
    );
    Error::new(Code::Failed, why)
}
