//! The steps of `upgrade`: another program on all ports, one after the other, and first on some that have to prove it. Where it fails
//! on one, those before it are given back what they ran: the supervisor starts that, and a cluster of two programs is nobody's wish.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use cluster::plan::whom;
use cluster::status::who_runs;
use cluster::{ProcessSpec, Role, UnitId};
use control::api::{Upgrade, UpgradeResult, Upgraded, UpgradedPort};
use control::{Code, Error};

use super::job::{Cost, Examine, Job, Restart, Step, Try, Turn};
use super::kernel::{Answer, Examined, Kernel, Program};
use super::member::Member;
use super::reconciler::Reconciler;
use crate::machine::state::State;

/// A keeper goes back to the program before within 10 s of trial, and then tells.
const TRIAL_LIMIT: Duration = Duration::from_secs(11);
/// How a person says that it is to be done at any cost.
const CONSENT: &str = "if that shall be: the same with --yes";
/// Told when an upgrade is given up.
const GIVEN_BACK: &str = "ports that run it are given back what they ran";

impl Reconciler {
    /// Has all ports run another program: edges first, since encoders are at the origin.
    pub(super) fn upgrade(&self, Upgrade { program, canary, yes }: &Upgrade, job: &mut Job) {
        let of = |role| {
            let members = self.members.iter().filter(move |member| member.role() == role);
            members.filter(|member| member.is_wanted())
        };
        let ports: Vec<&Member> = of(Role::Edge).chain(of(Role::Origin)).collect();
        let ids: Vec<UnitId> = ports.iter().map(|member| member.id.clone()).collect();
        let (program, path) = (Program::At(program.clone()), program);
        let cost = if *yes { Cost::AsNeeded } else { Cost::Nothing };
        let restart = |(place, id): (usize, &UnitId)| {
            let (rest, program) = (ids.iter().skip(place + 1).cloned().collect(), program.clone());
            Step::Restart(Restart { id: id.clone(), rest, cost, program })
        };
        let trial = |count: usize| {
            let ids = ids.iter().take(count).cloned().collect();
            Step::Try(Try { ids, program: program.clone(), end: None })
        };
        let mut steps: Vec<Step> = ids.iter().enumerate().map(restart).collect();
        steps.push(trial(ids.len()));
        if (1..ids.len()).contains(canary) {
            steps.insert(*canary, trial(*canary));
        }
        steps.push(Step::Install(path.clone()));
        let examine = Step::Examine(Examine { ids, program: program.clone(), cost, consent: CONSENT });
        job.steps = std::iter::once(examine).chain(steps).collect();
        let untouched = |member: &&Member| UpgradedPort {
            unit: member.id.clone(),
            result: UpgradeResult::NotTried,
            from: member.version.clone(),
            to: member.version.clone(),
            lost: 0,
            why: None,
            program: None,
        };
        let upgraded = Upgraded { version: None, ports: ports.iter().map(untouched).collect() };
        job.upgrade = Some((upgraded, ports.iter().map(|member| member.lost).collect()));
    }

    /// Finds out whether a program can be used at all, and what it would cost, before anything is touched.
    pub(super) fn examine(&mut self, it: Examine, job: &mut Job, kernel: &mut impl Kernel) -> Turn {
        let has_port = |id: &&UnitId| {
            let member = self.member(id);
            member.is_some_and(|it| {
                matches!((it.machine.state(), &it.spec), (State::Running { .. }, ProcessSpec::Worker(_)))
            })
        };
        let ports: Vec<UnitId> = it.ids.iter().filter(has_port).cloned().collect();
        let examined = match job.answer.take() {
            Some(Answer::Examined(examined)) => examined,
            // Its ports are closed in any case.
            _ if it.cost == Cost::Cold || ports.is_empty() && it.program == Program::OfStart => {
                return Turn::Done;
            }
            _ => {
                if job.question.is_none() {
                    kernel.examine(self.ask(job), &it.program, &ports);
                }
                return Turn::Wait(Step::Examine(it), None);
            }
        };
        let Examined { version, before, unread, unreadable } = match examined {
            Ok(examined) => examined,
            Err(why) => return Turn::Failed(Error::new(Code::Failed, format!("nothing was touched: {why}"))),
        };
        if let Some((upgraded, _)) = &mut job.upgrade {
            upgraded.version = Some(version.clone());
            for port in &mut upgraded.ports {
                port.from = before.get(&port.unit).cloned().or_else(|| port.from.take());
                port.to.clone_from(&port.from);
            }
        }
        let is_unkept = |id: &&UnitId| !unread.contains(id) && self.unkept(id).is_some();
        let unkept: Vec<UnitId> = ports.iter().filter(is_unkept).cloned().collect();
        if !(unread.is_empty() && unkept.is_empty()) && it.cost == Cost::Nothing {
            let cost = |id: &UnitId, why: &str| format!("\n  {id}: {}{why}", self.connections(id));
            let of_unread = unread.iter().map(|id| cost(id, ""));
            let of_unkept =
                unkept.iter().map(|id| cost(id, &format!(" ({})", self.unkept(id).unwrap_or_default())));
            let reason = match unread.as_slice() {
                [] => "connections do not outlive their worker there, and would be lost".to_owned(),
                _ => format!("version {version} reads nothing of what runs, so connections would be lost"),
            };
            let cost: String = of_unread.chain(of_unkept).collect();
            let why = format!("nothing was touched: {reason}:{cost}\n{}", it.consent);
            return Turn::Failed(Error::new(Code::NeedsConsent, why));
        }
        if job.upgrade.is_some() || before.values().any(|before| *before != version) {
            kernel.say(job.client, format!("the program is version {version}"));
        }
        if !unreadable.is_empty() && unread.is_empty() && job.upgrade.is_some() {
            let line = "what runs reads nothing of what that leaves: a port that has to go back to it loses its connections";
            kernel.say(job.client, line.to_owned());
        }
        Turn::Done
    }

    /// Why nothing outlives the worker of a port, as it says itself, if that is so.
    fn unkept(&self, id: &UnitId) -> Option<&str> {
        let member = self.member(id).filter(|member| member.port.is_some())?;
        member.report.as_ref()?.process.trouble.as_deref()
    }

    /// Who is connected to a port, for a person.
    pub(super) fn connections(&self, id: &UnitId) -> String {
        let member = self.member(id);
        let stats = member.and_then(|member| member.report.as_ref()).map(|report| &report.process);
        let (players, publishers) = stats.map_or((None, None), |it| (Some(it.players), Some(it.publishers)));
        // Those of an edge are the origin's.
        let encoders = if member.is_some_and(|it| it.role() == Role::Origin) { publishers } else { Some(0) };
        match (players, encoders) {
            (Some(0), Some(0)) => "nobody is connected".to_owned(),
            (players, encoders) => whom(players, encoders),
        }
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
                let serves = matches!(member.machine.state(), State::Running { .. });
                let is_back = serves && kernel.is_running(id, &Program::Before);
                let result = if is_back { UpgradeResult::WentBack } else { UpgradeResult::Failed };
                return self.not_upgraded(id, &it.program, (result, &how), job, kernel);
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

    /// A port runs another program now: the new one or, where an upgrade is given up, the one before.
    pub(super) fn note_upgraded(
        &self,
        id: &UnitId,
        program: &Program,
        job: &mut Job,
        kernel: &mut impl Kernel,
    ) {
        match program {
            Program::OfStart => {}
            Program::At(_) => {
                let restart = Restart {
                    id: id.clone(),
                    rest: Vec::new(),
                    cost: Cost::AsNeeded,
                    program: Program::Before,
                };
                job.undo.insert(0, Step::Restart(restart));
                self.note(id, job, |port| port.result = UpgradeResult::Upgraded);
            }
            Program::Before => {
                kernel.say(job.client, format!("{id} runs the program before again"));
                self.note(id, job, |port| port.result = UpgradeResult::WentBack);
            }
        }
    }

    /// A port does not run a program that it was given. The upgrade fails there; one that is given up goes on with the others.
    pub(super) fn not_upgraded(
        &self,
        id: &UnitId,
        program: &Program,
        (result, why): (UpgradeResult, &str),
        job: &mut Job,
        kernel: &mut impl Kernel,
    ) -> Turn {
        if *program == Program::Before {
            let why = format!("it was not given the program before again: {why}");
            job.errors.push(Error::new(Code::Failed, format!("{id}: {why}")));
            let failed = result == UpgradeResult::Failed;
            self.note(id, job, |port| {
                port.result = if failed { result } else { port.result };
                port.why = Some(why);
            });
            return Turn::Done;
        }
        job.undo.retain(|step| !matches!(step, Step::Restart(it) if it.id == *id));
        let why = match kernel.last_words(id).filter(|words| !why.contains(words)) {
            Some(words) => format!("{why}; its last words: {words}"),
            None => why.to_owned(),
        };
        self.note(id, job, |port| (port.result, port.why) = (result, Some(why.clone())));
        if !job.undo.is_empty() {
            kernel.say(job.client, GIVEN_BACK.to_owned());
        }
        Turn::Failed(Error::new(
            Code::Failed,
            format!("the upgrade stops: {id} does not run the new program: {why}"),
        ))
    }

    /// Has every start run a program that all ports have proven, if that is still there.
    pub(super) fn install(&self, program: &Path, job: &mut Job, kernel: &mut impl Kernel) -> Turn {
        if !kernel.is_in_place(program) {
            kernel.say(job.client, GIVEN_BACK.to_owned());
            let why = format!("the upgrade stops: no start could run the new program: {}", moved(program));
            return Turn::Failed(Error::new(Code::Failed, why));
        }
        kernel.install(program);
        job.undo.clear();
        Turn::Done
    }

    fn note(&self, id: &UnitId, job: &mut Job, change: impl FnOnce(&mut UpgradedPort)) {
        let Some((upgraded, _)) = &mut job.upgrade else { return };
        if let Some(port) = upgraded.ports.iter_mut().find(|port| port.unit == *id) {
            change(port);
        }
    }

    /// What the ports of an upgrade run now, for a person: a line for each program, and one for each port that does not serve.
    pub(super) fn what_runs(&self, upgraded: &Upgraded, is_done: bool, kernel: &impl Kernel) -> Vec<String> {
        let ports = &upgraded.ports;
        if ports.iter().all(|port| port.result == UpgradeResult::NotTried) {
            return Vec::new();
        }
        let (mut programs, mut lines) = (BTreeMap::<_, Vec<UnitId>>::new(), Vec::new());
        for member in ports.iter().filter_map(|port| self.member(&port.unit)) {
            if !matches!(member.machine.state(), State::Running { .. }) {
                let how = member.last_end().map(|(_, how)| how).unwrap_or_default();
                let (next, _) = kernel.next_program();
                lines.push(format!(
                    "{} does not serve now: {how}; a start runs {}",
                    member.id,
                    next.display()
                ));
            } else if let Some(program) = kernel.program(&member.id) {
                let version =
                    member.version.clone().unwrap_or_else(|| "of a version that it does not say".into());
                programs.entry((version, program.path)).or_default().push(member.id.clone());
            }
        }
        lines.extend(programs.into_iter().map(|((version, path), ids)| {
            let who = who_runs(&ids.iter().collect::<Vec<_>>(), ports.len());
            let more = if is_done { ", and so does every start" } else { "" };
            format!("{who} srsctl {version} from {path} now{more}")
        }));
        lines
    }

    /// What has become of an upgrade, by now.
    pub(super) fn upgraded(
        &self,
        (mut upgraded, lost): (Upgraded, Vec<u64>),
        kernel: &impl Kernel,
    ) -> Upgraded {
        for (port, lost) in upgraded.ports.iter_mut().zip(lost) {
            if let Some(member) = self.member(&port.unit) {
                port.lost = member.lost.saturating_sub(lost);
                port.to.clone_from(&member.version);
                port.program = kernel.program(&port.unit).map(|program| program.path);
            }
        }
        upgraded
    }
}

/// That the file of an upgrade's program is another one by now, for a person.
pub(super) fn moved(path: &Path) -> String {
    format!("{} has been replaced or removed since the upgrade began", path.display())
}

/// Units, for a person.
pub(super) fn names(ids: &[UnitId]) -> String {
    let ids: Vec<&str> = ids.iter().map(UnitId::as_str).collect();
    if ids.is_empty() { "none".to_owned() } else { ids.join(", ") }
}
