//! What each step of a command does. The commands themselves stand in `start`, `apply`, `restart` and `stop`.

use std::time::{Duration, Instant};

use cluster::{Role, UnitId};
use control::api::UpgradeResult;
use control::{Code, Error};

use super::job::{AwaitPlay, AwaitReady, Job, Restarted, Step, Turn};
use super::kernel::{Kernel, Program};
use super::member::Member;
use super::reconciler::Reconciler;
use crate::machine::heartbeat::Heartbeat;
use crate::machine::state::{KILL_REPEAT, STOP_STEP, State};

/// How long `restart` waits for a keyframe of each live stream before it goes on to the next process.
pub(super) const KEYFRAME_LIMIT: Duration = Duration::from_secs(10);
/// All steps of a stop, and some time for the kernel.
pub(super) const STOP_LIMIT: Duration = STOP_STEP.saturating_mul(2).saturating_add(KILL_REPEAT);

impl Reconciler {
    pub(super) fn take_step(
        &mut self,
        step: Step,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        match step {
            Step::AwaitStart(wait) => self.await_start(wait, job, now),
            Step::AwaitStreams { end, ask } => self.await_streams((end, ask), job, now, kernel),
            Step::Parse { file } => self.parse(file, job, kernel),
            Step::Start { id } => self.start_added(&id, job, now, kernel),
            Step::AwaitReady(wait) => self.await_ready(wait, job, now, kernel),
            Step::Configure(configure) => self.configure(configure, job, now, kernel),
            Step::Weigh { file, new, asked } => self.weigh((file, new, asked), job, now, kernel),
            Step::Commit { file, new, changes } => self.commit((&file, *new, changes), job, kernel),
            Step::Retry { idle } => self.retry(idle, job, now, kernel),
            Step::Leave(leave) => self.leave(leave, job, now, kernel),
            Step::AwaitLeft { ids } => self.await_left(ids, job, now),
            Step::Keep { id } => self.keep(&id, job, kernel),
            Step::LeaveAgain { id, departure } => self.leave_again(&id, *departure, now, kernel),
            Step::AwaitAnswers { end } => self.await_answers(end, job, now, kernel),
            Step::Remove { ids, end, how } => self.remove((ids, end, how), job, now, kernel),
            Step::Encoder { end } => self.change_encoder(end, job, now, kernel),
            Step::Examine(examine) => self.examine(examine, job, kernel),
            Step::Restart(restart) => self.restart_one(restart, job, now, kernel),
            Step::Renew(renew) => self.renew(renew, job, now, kernel),
            Step::Try(it) => self.try_program(it, job, now, kernel),
            Step::Install(program) => self.install(&program, job, kernel),
            Step::AwaitPlay(wait) => self.await_play(wait, job, now, kernel),
            Step::GoBack(before) => self.go_back(*before, job, kernel),
            Step::Stop(stop) => self.stop_role(stop, job, now, kernel),
            Step::Clear { all } => self.clear(all, kernel),
        }
    }

    /// Waits until a process other than the one before is ready.
    fn await_ready(
        &mut self,
        mut wait: AwaitReady,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let limit = STOP_LIMIT + Heartbeat::START_LIMIT;
        let end = *wait.end.get_or_insert(now + limit);
        let id = wait.id.clone();
        let failure = match self.member(&id).map(|member| (member, member.machine.state())) {
            Some((member, State::Running { .. })) if member.live.map(|live| live.instance) != wait.before => {
                if wait.program != Program::OfStart && kernel.is_running(&id, &wait.program) {
                    self.note_upgraded(&id, &wait.program, job, kernel);
                } else if wait.program != Program::OfStart {
                    let outcome = (UpgradeResult::Failed, "it runs another one");
                    return self.not_upgraded(&id, &wait.program, outcome, job, kernel);
                }
                self.ready(&wait.id, wait.restart, job, now, kernel);
                return Turn::Done;
            }
            Some((_, State::Failed { why } | State::Unknown { why })) => why.clone(),
            Some((_, State::Stopped)) | None => "it was stopped".to_owned(),
            Some((member, State::Backoff { .. })) => {
                let how = member.last_end().map(|(_, how)| how).unwrap_or_default();
                let is_undone = !wait.go_on && !job.undo.is_empty() && wait.restart.is_none();
                format!("{how}; {}", if is_undone { "it is taken back" } else { "it is tried again" })
            }
            Some((
                _,
                State::Starting | State::Running { .. } | State::Stopping { .. } | State::Killing { .. },
            )) if now < end => return Turn::Wait(Step::AwaitReady(wait), Some(end)),
            Some(_) => format!("not within {} s", limit.as_secs()),
        };
        if wait.program != Program::OfStart {
            // It is tried again with what a start runs.
            kernel.start_next(&id, &Program::OfStart);
            let outcome = (UpgradeResult::Failed, &*failure);
            return self.not_upgraded(&id, &wait.program, outcome, job, kernel);
        }
        let why = format!("{id} did not get ready: {failure}; its log: {}", self.dirs.log(&id).display());
        let error = Error::new(Code::NotReady, why);
        if wait.go_on {
            job.errors.push(error);
            return Turn::Done;
        }
        Turn::Failed(error)
    }

    /// Tells that a unit is ready; one that was restarted has to play.
    pub(super) fn ready(
        &self,
        id: &UnitId,
        restart: Option<Restarted>,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) {
        let Some(Restarted { begin, streams, rest }) = restart else {
            kernel.say(job.client, format!("{id} is ready"));
            return;
        };
        let took = now.saturating_duration_since(begin).as_secs_f32();
        kernel.say(job.client, format!("{id} is ready after {took:.1} s"));
        let goes_on = |member: &Member| {
            let serving = member.live.and_then(|live| live.serving);
            serving.is_some_and(|serving| serving.generation > 0 && !serving.is_cold)
        };
        let is_left = |it: &&Member| it.role() == Role::Origin && !goes_on(it);
        let encoder = self.member(id).filter(is_left).map(|_| now + KEYFRAME_LIMIT);
        job.push_first(streams.into_iter().map(|stream| {
            let (id, rest) = (id.clone(), rest.clone());
            Step::AwaitPlay(AwaitPlay { id, stream, encoder, rest, end: None, again: None, failed: None })
        }));
    }

    /// A new question of a job; it waits for the answer.
    pub(super) fn ask(&mut self, job: &mut Job) -> u64 {
        self.tickets += 1;
        job.question = Some(self.tickets);
        self.tickets
    }
}
