//! The steps of `restart`: one process after the other, each until it plays what is live.

use std::time::{Duration, Instant};

use cluster::stats::StreamStats;
use cluster::{Role, UnitId};
use control::api::Restart;
use control::{Code, Error};

use super::job::{AwaitPlay, AwaitReady, Job, Step, Turn};
use super::kernel::{Answer, Kernel, Unplayed};
use super::member::Member;
use super::reconciler::Reconciler;
use super::steps::KEYFRAME_LIMIT;
use crate::machine::state::{Event, Wanted};

/// Between two plays of a stream that is not there yet.
const PLAY_RETRY: Duration = Duration::from_millis(100);

impl Reconciler {
    /// The steps that restart all that fits.
    pub(super) fn restart(&self, restart: &Restart) -> Result<Vec<Step>, Error> {
        let fits = |member: &&Member| {
            let port = member.port.as_ref();
            // What an addition left when it was taken back is not of the cluster.
            member.machine.wanted() == Wanted::Up
                && member.role() == restart.role
                && restart.port.is_none_or(|number| port.is_some_and(|port| port.port == number))
                && restart.host.as_ref().is_none_or(|host| port.is_some_and(|port| port.host.name == *host))
        };
        let ids: Vec<UnitId> = self.members.iter().filter(fits).map(|member| member.id.clone()).collect();
        if !ids.is_empty() {
            let step = |(place, id): (usize, &UnitId)| {
                let rest = ids.iter().skip(place + 1).cloned().collect();
                Step::Restart { id: id.clone(), rest }
            };
            return Ok(ids.iter().enumerate().map(step).collect());
        }
        let all: Vec<&str> = self.members.iter().map(|member| member.id.as_str()).collect();
        let port = restart.port.map(|port| format!(" on port {port}")).unwrap_or_default();
        let host = restart.host.as_ref().map(|host| format!(" at {host}")).unwrap_or_default();
        let why = format!("there is no {}{port}{host}; there are: {}", restart.role, all.join(", "));
        Err(Error::new(Code::NotFound, why))
    }

    pub(super) fn restart_one(
        &mut self,
        id: UnitId,
        rest: Vec<UnitId>,
        job: &mut Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let Some(member) = self.member(&id) else { return Turn::Done };
        if let Some(why) = member.left_alone() {
            return Turn::Failed(Error::new(Code::NotReady, why));
        }
        let before = member.live.map(|live| live.instance);
        let cost = match member.role() {
            Role::Origin => ": its encoders are disconnected and must reconnect",
            Role::Edge | Role::Encoder => "",
        };
        kernel.say(job.client, format!("restarting {id}{cost}"));
        let has_port = member.port.is_some();
        let live = self.live_streams(now).into_iter().filter(|stream| has_port && stream.has_keyframes);
        let streams = live.map(|stream| stream.name).collect();
        self.feed_id(&id, Event::Restart, now, kernel);
        let restart = Some((now, streams, rest));
        job.push_first([Step::AwaitReady(AwaitReady { id, before, end: None, restart, go_on: false })]);
        Turn::Done
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
        if let Some(Answer::Played(played)) = job.answer.take() {
            match self.played(&wait, played, now) {
                Ok(()) => {
                    kernel.say(job.client, format!("{} plays {}", wait.id, wait.stream));
                    return Turn::Done;
                }
                Err(why) if now + PLAY_RETRY >= wait.end => {
                    return self.not_played(&wait, port.role, &why, job, now, kernel);
                }
                Err(_) => wait.again = Some(now + PLAY_RETRY),
            }
        }
        let again = wait.again.filter(|again| *again > now);
        if again.is_none() && job.question.is_none() {
            let left = wait.end.saturating_duration_since(now);
            kernel.play(self.ask(job), &port.local_url(&wait.stream), left);
        }
        Turn::Wait(Step::AwaitPlay(wait), again)
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
        AwaitPlay { id, stream, rest, .. }: &AwaitPlay,
        role: Role,
        why: &str,
        job: &Job,
        now: Instant,
        kernel: &mut impl Kernel,
    ) -> Turn {
        let is_live = self.live_streams(now).iter().any(|live| live.name == *stream);
        let line = match (role, is_live) {
            // Its encoder has left meanwhile.
            (Role::Edge, false) => format!("{stream} is not published any more"),
            (Role::Origin, false) => {
                format!("no encoder has come back to publish {stream}; start it again")
            }
            // The encoder decides when it comes back, and edges cannot be at fault.
            (Role::Origin | Role::Encoder, _) => format!("{id} does not play {stream} yet: {why}"),
            (Role::Edge, true) => {
                let rest: Vec<&str> = rest.iter().map(UnitId::as_str).collect();
                let rest = if rest.is_empty() { "none".to_owned() } else { rest.join(", ") };
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
