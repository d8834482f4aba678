//! The steps of `restart`: one process after the other, each until it plays what is live.

use std::time::{Duration, Instant};

use cluster::stats::StreamStats;
use cluster::{ProcessSpec, Role, UnitId};
use control::api::UpgradeResult;
use control::{Code, Error, api};

use super::job::{AwaitPlay, AwaitReady, Cost, Examine, Job, Renew, Restart, Restarted, Step, Turn};
use super::kernel::{Answer, Instance, Kernel, Program, Unplayed};
use super::member::Member;
use super::reconciler::Reconciler;
use super::steps::KEYFRAME_LIMIT;
use super::upgrade::{moved, names};
use crate::machine::state::{Event, State};

/// How long a keeper may take to start the worker after one that has made place.
const RENEW_LIMIT: Duration = Duration::from_secs(10);
/// Between two plays of a stream that is not there yet.
const PLAY_RETRY: Duration = Duration::from_millis(100);
/// For so long the origin is waited for to say whether a stream that was not played is still published.
const REPORT_LIMIT: Duration = Duration::from_secs(1);
/// How a person says that it is to be done at any cost.
const CONSENT: &str =
    "if that shall be: the same with --yes, or with --cold, which closes each port and opens it anew";

impl Reconciler {
    /// The steps that restart all that fits.
    pub(super) fn restart(&self, restart: &api::Restart) -> Result<Vec<Step>, Error> {
        let fits = |member: &&Member| {
            let port = member.port.as_ref();
            // What an addition left when it was taken back is not of the cluster, nor one that leaves it.
            member.is_wanted()
                && member.role() == restart.role
                && restart.port.is_none_or(|number| port.is_some_and(|port| port.port == number))
                && restart.host.as_ref().is_none_or(|host| port.is_some_and(|port| port.host.name == *host))
        };
        let ids: Vec<UnitId> = self.members.iter().filter(fits).map(|member| member.id.clone()).collect();
        if !ids.is_empty() {
            let cost = match restart {
                api::Restart { cold: true, .. } => Cost::Cold,
                api::Restart { yes: true, .. } => Cost::AsNeeded,
                api::Restart { .. } => Cost::Nothing,
            };
            let step = |(place, id): (usize, &UnitId)| {
                let rest = ids.iter().skip(place + 1).cloned().collect();
                Step::Restart(Restart { id: id.clone(), rest, cost, program: Program::OfStart })
            };
            let (program, consent) = (Program::OfStart, CONSENT);
            let examine = Step::Examine(Examine { ids: ids.clone(), program, cost, consent });
            return Ok(std::iter::once(examine).chain(ids.iter().enumerate().map(step)).collect());
        }
        let all = self.members.iter().filter(|member| member.is_wanted());
        let all: Vec<&str> = all.map(|member| member.id.as_str()).collect();
        let port = restart.port.map(|port| format!(" on port {port}")).unwrap_or_default();
        let host = restart.host.as_ref().map(|host| format!(" at {host}")).unwrap_or_default();
        let why = format!("there is no {}{port}{host}; there are: {}", restart.role, all.join(", "));
        Err(Error::new(Code::NotFound, why))
    }

    pub(super) fn restart_one(
        &mut self,
        Restart { id, rest, cost, program }: Restart,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let Some(member) = self.member(&id) else { return Turn::Done };
        if let Some(why) = member.left_alone() {
            return Turn::Failed(Error::new(Code::NotReady, why));
        }
        let (role, has_port) = (member.role(), member.port.is_some());
        let before = member.live.map(|live| live.instance);
        if program == Program::Before && kernel.is_running(&id, &program) {
            // It came back by itself.
            self.note_upgraded(&id, &program, job, kernel);
            return Turn::Done;
        }
        if let Program::At(path) = &program
            && !kernel.is_in_place(path)
        {
            let outcome = (UpgradeResult::NotTried, &*moved(path));
            return self.not_upgraded(&id, &program, outcome, job, kernel);
        }
        let live = self.live_streams(now).into_iter().filter(|stream| has_port && stream.has_keyframes);
        let restart = Restarted { begin: now, streams: live.map(|stream| stream.name).collect(), rest };
        let worker = member.live.map(|live| (live.instance, live.serving.map(|serving| serving.generation)));
        let runs = matches!(member.machine.state(), State::Running { .. });
        let is_kept = runs && cost != Cost::Cold;
        if let (ProcessSpec::Worker(spec), Some(before), true) = (&member.spec, worker, is_kept) {
            let doing = match program {
                Program::OfStart => format!("restarting {id}"),
                Program::At(_) => format!("upgrading {id}"),
                Program::Before => format!("giving {id} back what it ran"),
            };
            kernel.say(job.client, doing);
            let spec = spec.clone();
            if let Some(member) = self.members.iter_mut().find(|member| member.id == id) {
                member.renewal = Some(program.word());
            }
            kernel.renew(self.ask(job), &spec, &program);
            job.push_first([Step::Renew(Renew { id, restart, before, cost, program, end: None })]);
            return Turn::Done;
        }
        if program != Program::OfStart && !(runs && cost == Cost::Cold) {
            let outcome = (UpgradeResult::Failed, "it does not serve");
            return self.not_upgraded(&id, &program, outcome, job, kernel);
        }
        let cost = match role {
            Role::Origin => ": its encoders are disconnected and must reconnect",
            Role::Edge => ": its players are disconnected and must reconnect",
            Role::Encoder => "",
        };
        let doing = if program == Program::OfStart { "restarting" } else { "starting anew" };
        kernel.say(job.client, format!("{doing} {id}{cost}"));
        kernel.start_next(&id, &program);
        if let Some(index) = self.index(&id).filter(|_| runs && has_port)
            && let Some(member) = self.members.get_mut(index)
        {
            member.cold_starts = member.cold_starts.saturating_add(1);
        }
        self.feed_id(&id, Event::Restart, now, kernel);
        let restart = Some(restart);
        job.push_first([Step::AwaitReady(AwaitReady {
            id,
            before,
            end: None,
            restart,
            go_on: false,
            program,
        })]);
        Turn::Done
    }

    /// Waits until a worker has made place, and the next one goes on.
    pub(super) fn renew(
        &mut self,
        mut renew: Renew,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let (id, instance) = (renew.id.clone(), renew.before.0);
        let failed =
            |why: String| Turn::Failed(Error::new(Code::NotReady, format!("{id} is not restarted: {why}")));
        let end = match (renew.end, job.answer.take()) {
            (Some(end), _) => end,
            (None, Some(Answer::Renewed(Ok(())))) => now + RENEW_LIMIT,
            (None, Some(Answer::Renewed(Err(error))))
                if renew.program != Program::OfStart
                    && (error.code != Code::Unsupported || renew.cost == Cost::Nothing) =>
            {
                let outcome = (UpgradeResult::NotTried, &*error.to_string());
                return self.not_upgraded(&id, &renew.program, outcome, job, kernel);
            }
            (None, Some(Answer::Renewed(Err(error)))) if error.code == Code::Unsupported => {
                let (cost, rest) = (Cost::Cold, renew.restart.rest);
                if renew.cost == Cost::Nothing {
                    let left = names(&rest);
                    let why = format!(
                        "{id} is not restarted: it cannot keep its connections ({}): {error}; not restarted either: {left}\n{CONSENT}",
                        self.connections(&id),
                    );
                    return Turn::Failed(Error::new(Code::NeedsConsent, why));
                }
                kernel.say(job.client, format!("{id} cannot keep its connections: {error}"));
                job.push_first([Step::Restart(Restart { id, rest, cost, program: renew.program })]);
                return Turn::Done;
            }
            // It was killed meanwhile: what that cost is told when it has ended.
            (None, Some(Answer::Renewed(Err(_)))) if !self.runs(&id, instance) => now + RENEW_LIMIT,
            (None, Some(Answer::Renewed(Err(error)))) => return failed(error.to_string()),
            (None, _) => return Turn::Wait(Step::Renew(renew), None),
        };
        renew.end = Some(end);
        let Some(member) = self.member(&id) else { return Turn::Done };
        let serving = match member.live.filter(|live| live.instance == instance) {
            Some(live) if matches!(member.machine.state(), State::Running { .. }) => live.serving,
            // It is being killed, and how that ends is told too.
            Some(_) if now < end => return Turn::Wait(Step::Renew(renew), Some(end)),
            // The keeper too has ended, and the supervisor starts another: of the program before, where this is an upgrade.
            _ if renew.program != Program::OfStart => {
                let how = member.last_end().map(|(_, how)| how).unwrap_or_default();
                let outcome = (UpgradeResult::Failed, &*format!("its process ended: {how}"));
                return self.not_upgraded(&id, &renew.program, outcome, job, kernel);
            }
            _ => {
                let how = member.last_end().map(|(_, how)| how).unwrap_or_default();
                let (lost, left) = (member.lost_last, names(&renew.restart.rest));
                let why = format!(
                    "{id} is started anew, and whoever was connected has to connect again ({lost} connections): \
                     its process did not start the next worker: {how}; not restarted: {left}"
                );
                job.errors.push(Error::new(Code::Failed, why));
                // The next one would fare no better.
                job.steps.clear();
                let (before, restart) = (Some(instance), Some(renew.restart));
                let wait =
                    AwaitReady { id, before, end: None, restart, go_on: false, program: Program::OfStart };
                job.push_first([Step::AwaitReady(wait)]);
                return Turn::Done;
            }
        };
        let is_next = serving.map(|serving| serving.generation) > renew.before.1;
        if is_next && member.report.is_some() {
            let how = member.last_end();
            if renew.program != Program::OfStart {
                if !kernel.is_running(&id, &renew.program) {
                    let how = how.map(|(_, how)| how).unwrap_or_default();
                    let outcome = (UpgradeResult::WentBack, &*how);
                    return self.not_upgraded(&id, &renew.program, outcome, job, kernel);
                }
                self.note_upgraded(&id, &renew.program, job, kernel);
            }
            let word = renew.program.word();
            match how {
                Some((_, how)) if how == word => {}
                // As was consented to.
                Some((_, how)) if renew.cost != Cost::Nothing && serving.is_some_and(|it| it.is_cold) => {
                    kernel.say(job.client, format!("{id}: {how}"));
                }
                Some((_, how)) if how.starts_with(word) || serving.is_some_and(|it| it.is_cold) => {
                    job.errors.push(Error::new(Code::Failed, format!("{id}: {how}")));
                }
                other => {
                    kernel.say(job.client, format!("{id}: {}", other.map(|(_, how)| how).unwrap_or_default()))
                }
            }
            self.ready(&id, Some(renew.restart), job, now, kernel);
            return Turn::Done;
        }
        if now < end {
            return Turn::Wait(Step::Renew(renew), Some(end));
        }
        let why = format!("no other worker serves within {} s", RENEW_LIMIT.as_secs());
        if renew.program != Program::OfStart {
            return self.not_upgraded(&id, &renew.program, (UpgradeResult::Failed, &why), job, kernel);
        }
        failed(why)
    }

    /// Whether a unit has this process still, and that is not being ended.
    fn runs(&self, id: &UnitId, instance: Instance) -> bool {
        let member = self.member(id).filter(|it| it.live.is_some_and(|live| live.instance == instance));
        member.is_some_and(|member| matches!(member.machine.state(), State::Running { .. }))
    }

    /// Waits until a keyframe of a stream comes.
    pub(super) fn await_play(
        &mut self,
        mut wait: AwaitPlay,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let Some(port) = self.member(&wait.id).and_then(|member| member.port.clone()) else {
            return Turn::Done;
        };
        let end = *wait.end.get_or_insert(now + KEYFRAME_LIMIT);
        if let Some(Answer::Played(played)) = job.answer.take() {
            match self.played(&wait, played, now) {
                Ok(()) => {
                    kernel.say(job.client, format!("{} plays {}", wait.id, wait.stream));
                    return Turn::Done;
                }
                Err(why) if now + PLAY_RETRY >= end => wait.failed = Some((now, why)),
                Err(_) => wait.again = Some(now + PLAY_RETRY),
            }
            // It may be over.
            let origin = self.members.iter().find(|member| member.role() == Role::Origin);
            if let Some(origin) = origin.filter(|origin| origin.live.is_some()) {
                kernel.refresh(&origin.id);
            }
        }
        if wait.encoder.is_none_or(|encoder| now >= encoder) && self.is_over(&wait.stream, now) {
            // Whatever is being played: nobody waits for that any more.
            job.question = None;
            return self.not_played(&wait, port.role, "nobody publishes it", job, now, kernel);
        }
        if let Some((failed, why)) = &wait.failed {
            let due = *failed + REPORT_LIMIT;
            if now < due && self.origin_reported(now).is_none_or(|at| at < *failed) {
                return Turn::Wait(Step::AwaitPlay(wait), Some(due));
            }
            return self.not_played(&wait, port.role, why, job, now, kernel);
        }
        let again = wait.again.filter(|again| *again > now);
        if again.is_none() && job.question.is_none() {
            let left = end.saturating_duration_since(now);
            kernel.play(self.ask(job), &port.local_url(&wait.stream), left);
        }
        let encoder = wait.encoder.filter(|encoder| *encoder > now);
        let due = again.into_iter().chain(encoder).min();
        Turn::Wait(Step::AwaitPlay(wait), due)
    }

    fn played(&self, wait: &AwaitPlay, played: Result<(), Unplayed>, now: Instant) -> Result<(), String> {
        match played {
            Ok(()) => Ok(()),
            // Its players are back before us, and it plays to them.
            Err(Unplayed { is_full: true, .. }) if self.has_keyframe(wait, now) => Ok(()),
            Err(Unplayed { why, .. }) => Err(why),
        }
    }

    /// Whether a process reports a keyframe of a stream that is published.
    fn has_keyframe(&self, wait: &AwaitPlay, now: Instant) -> bool {
        let report = self.member(&wait.id).and_then(|member| member.fresh_report(now));
        let fits =
            |it: &StreamStats| it.publishing && it.stream == wait.stream && it.keyframe_age_ms.is_some();
        report.is_some_and(|report| report.streams.iter().any(fits))
    }

    fn not_played(
        &self,
        AwaitPlay { id, stream, encoder, rest, .. }: &AwaitPlay,
        role: Role,
        why: &str,
        job: &Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let is_live = self.live_streams(now).iter().any(|live| live.name == *stream);
        let line = match (role, is_live) {
            (Role::Origin, false) if encoder.is_some() => {
                format!("no encoder has come back to publish {stream}; start it again")
            }
            // Its encoder has left meanwhile.
            (Role::Edge | Role::Origin, false) => format!("{stream} is not published any more"),
            // The encoder decides when it comes back, and edges cannot be at fault.
            (Role::Origin | Role::Encoder, _) => format!("{id} does not play {stream} yet: {why}"),
            (Role::Edge, true) => {
                let rest = names(rest);
                let limit = KEYFRAME_LIMIT.as_secs();
                let why = format!(
                    "{id} is restarted and does not play {stream} within {limit} s: {why}; not restarted: {rest}"
                );
                return Turn::Failed(Error::new(Code::NotReady, why));
            }
        };
        kernel.say(job.client, line);
        Turn::Done
    }
}
