//! The supervisor's decisions: which unit gets which event, when, and what a command does next. What happens goes in by
//! [`Reconciler::handle`]; what is to be done goes out to the [`Kernel`]. It has no clock, no socket and no task of its
//! own, so that the simulation runs it as it is.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster::events::{By, Kind};
use cluster::{Cluster, Port, ProcessSpec, UnitId};
use control::api::StartupEvent;
use control::{Code, Error};

use super::events;
use super::job::{Job, Step, StopRole, Turn};
use super::kernel::{Answer, Client, Command, InForce, Input, Instance, Kernel, Look, Program, What, Worker};
use super::member::{Live, Member, Outlived};
use super::queue::{Accepted, Asked, Queue, Refusal, Runs};
use super::untold::Untold;
use crate::host::dirs::ClusterDirs;
use crate::machine::backoff::Spacing;
use crate::machine::keeper::Keeper;
use crate::machine::state::{Action, Event, State, Wanted};

/// Between two looks at unknown processes and missing streams.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// Told to a command that is broken off.
const ENDING: &str = "the supervisor was told to end; what was not done yet is left as it was";

/// How a supervisor ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Its processes are stopped; or some are not, and why.
    Stopped(Result<(), Error>),
    /// So many of its processes run on.
    Left(usize),
}

/// What a client waits for.
#[derive(Debug)]
pub(super) struct Question {
    pub(super) client: Client,
    pub(super) since: Instant,
    /// What bringing this into force would do; else the status.
    pub(super) new: Option<Box<Cluster>>,
}

/// A supervisor's decisions.
#[derive(Debug)]
pub(crate) struct Reconciler {
    /// What is in force.
    pub(super) cluster: Cluster,
    pub(super) path: PathBuf,
    /// The number of that file.
    pub(super) generation: u64,
    pub(super) dirs: ClusterDirs,
    /// What was in force before a start that is not over yet.
    pub(super) before: Option<Box<InForce>>,
    pub(super) members: Vec<Member>,
    pub(super) started: Instant,
    pub(super) queue: Queue,
    /// What the queue says to run; what is answered at once has none.
    pub(super) job: Option<Job>,
    /// Clients that wait for a status in which all is new, or a plan that is made of one.
    pub(super) asked: Vec<Question>,
    pub(super) spacing: Spacing,
    pub(super) next_housekeeping: Instant,
    pub(super) instances: Instance,
    pub(super) tickets: u64,
    /// What is wrong with the place where logs and state are kept.
    pub(super) warnings: Vec<String>,
    pub(super) is_started: bool,
    pub(super) startup: VecDeque<StartupEvent>,
    /// Units that were started with it, of which what serves is not known yet.
    pub(super) fresh: Vec<UnitId>,
    pub(super) end: Option<End>,
}

impl Reconciler {
    /// Takes in one thing that happened at `now`, and whatever is due.
    pub(crate) fn handle(&mut self, now: Instant, input: Input, kernel: &mut impl Kernel) {
        match input {
            Input::Process { unit, instance, what } => {
                self.handle_process(&unit, instance, what, now, kernel)
            }
            Input::Looked { unit, look } => {
                if let Some(index) = self.index(&unit)
                    && let Some(member) = self.members.get_mut(index)
                {
                    member.looked_for = false;
                    if matches!(member.machine.state(), State::Unknown { .. }) {
                        self.handle_found(index, look, now, kernel);
                    }
                }
            }
            Input::Answered { ticket, answer } => {
                if let Some(job) = self.job.as_mut().filter(|job| job.question == Some(ticket)) {
                    (job.question, job.answer) = (None, Some(answer));
                } else if let Answer::Configured(told) = answer {
                    self.handle_told_port(ticket, told, now, kernel);
                }
            }
            Input::Asked { client, by, command } => self.handle_command(client, by, command, now, kernel),
            Input::Warnings(warnings) => self.handle_warnings(warnings, kernel),
            Input::Stop => self.handle_told(Asked::Stop, now, kernel),
            Input::Leave => self.handle_told(Asked::Leave, now, kernel),
            Input::Time => {}
        }
        self.handle_deadlines(now, kernel);
        self.go_on(now, kernel);
        self.answer_status(now, self.end.is_some(), kernel);
    }

    /// When [`Input::Time`] is due at the latest.
    pub(crate) fn next_due(&self) -> Instant {
        let now = self.started;
        let units = self.members.iter().filter_map(|member| {
            let deadline = member.machine.deadline()?;
            Some(match member.machine.state() {
                State::Backoff { .. } => deadline.max(self.spacing.earliest(now)),
                _ => deadline,
            })
        });
        let asked = self.asked.iter().map(|question| self.answer_due(question.since));
        let job = self.job.as_ref().and_then(|job| job.due);
        let is_ending = self.queue.runs() == Some(Runs::End);
        let goes_on = !is_ending && !self.job.as_ref().is_some_and(Job::is_open);
        let leaving = self.members.iter().filter(|member| goes_on && member.left_alone().is_none());
        let leaving = leaving.filter_map(|member| member.departure.as_ref()?.due());
        let untold = self.members.iter().filter(|_| !is_ending).filter_map(|it| it.untold.as_ref()?.due());
        units.chain(asked).chain(job).chain(leaving).chain(untold).fold(self.next_housekeeping, Instant::min)
    }

    /// The next thing to be told of the start.
    pub(crate) fn poll_startup(&mut self) -> Option<StartupEvent> {
        self.startup.pop_front()
    }

    /// How it has ended, once it has, and whether its start was over then.
    pub(crate) fn end(&self) -> Option<(&End, bool)> {
        Some((self.end.as_ref()?, self.is_started))
    }

    /// How it is, in a line, for whoever looks at it from outside.
    pub(crate) fn summary(&self) -> String {
        let wanted = self.members.iter().filter(|member| member.is_wanted());
        let ready = wanted.clone().filter(|member| member.is_ready()).count();
        let does = self.queue.does().map(|what| format!("; {what}")).unwrap_or_default();
        format!("cluster {}: {ready} of {} ready{does}", self.cluster.name, wanted.count())
    }

    pub(super) fn index(&self, id: &UnitId) -> Option<usize> {
        self.members.iter().position(|member| member.id == *id)
    }

    pub(super) fn member(&self, id: &UnitId) -> Option<&Member> {
        self.members.iter().find(|member| member.id == *id)
    }

    /// Feeds one event to a unit, and has done what its machine says.
    pub(super) fn feed(&mut self, index: usize, event: Event, now: Instant, kernel: &mut impl Kernel) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let Some(member) = self.members.get_mut(index) else { return };
            tracing::debug!(unit = %member.id, ?event, state = ?member.machine.state(), "event");
            let (was, before) = (member.machine.state().clone(), member.machine.status());
            let action = member.machine.handle(now, event, kernel.random());
            let after = member.machine.status();
            if before != after {
                tracing::info!(unit = %member.id, from = ?before, to = ?after, "state");
            }
            if let Some(event) = events::of_state(member, &was, now) {
                kernel.record(event);
            }
            if let Some(Action::Terminate | Action::Kill) = action {
                let why = match member.machine.state() {
                    State::Killing { why, .. } => why,
                    _ => "it did not stop when it was asked to",
                };
                tracing::warn!(unit = %member.id, pid = member.live.map(|live| live.pid), %why, ?action, "ending it");
            }
            if matches!(member.machine.state(), State::Failed { .. }) {
                // Nobody will serve whoever waits there. The next start binds it again.
                kernel.close_port(&member.id);
            }
            match action {
                None => {}
                Some(Action::Spawn) => {
                    self.instances += 1;
                    let instance = self.instances;
                    match kernel.spawn(&member.spec, member.port.as_ref(), instance) {
                        Ok((pid, started)) => {
                            kernel.record(events::of_unit(Kind::Started, &member.id, Some(pid), ""));
                            member.handle_process(Live {
                                instance,
                                pid,
                                serving: None,
                                adopted: false,
                                started,
                            });
                        }
                        Err(event) => {
                            if let Event::SpawnFailed { why } | Event::Unproven { why } = &event {
                                tracing::warn!(unit = %member.id, %why, "not started");
                            }
                            next = Some(event);
                        }
                    }
                }
                Some(Action::AskStop) => kernel.ask_stop(&member.id),
                Some(Action::Terminate) => kernel.terminate(&member.id),
                Some(Action::Kill) => kernel.kill(&member.id),
            }
        }
    }

    pub(super) fn feed_id(&mut self, id: &UnitId, event: Event, now: Instant, kernel: &mut impl Kernel) {
        if let Some(index) = self.index(id) {
            self.feed(index, event, now, kernel);
        }
    }

    /// Takes in what was found of a unit when it was looked for.
    pub(super) fn handle_found(&mut self, index: usize, look: Look, now: Instant, kernel: &mut impl Kernel) {
        let Some(member) = self.members.get_mut(index) else { return };
        let event = match look {
            Look::Nothing => Event::Freed,
            Look::Unknown { why } => Event::Unproven { why },
            Look::Process { pid, serving: _, silent: _, age } => {
                self.instances += 1;
                kernel.adopt(&member.id, member.port.as_ref(), self.instances);
                let started = now.checked_sub(age).unwrap_or(now);
                let instance = self.instances;
                member.handle_process(Live { instance, pid, serving: None, adopted: true, started });
                // It may have other values than the file, whatever its config says: the supervisor before may have ended between writing
                // it and telling, or after telling what was never in force.
                member.untold = member.port.is_some().then(|| Untold::now(now));
                if member.departure.is_some() {
                    // It is stopped when nobody is left there.
                    self.feed(index, Event::Want(Wanted::Up), now, kernel);
                }
                Event::Adopted
            }
        };
        self.feed(index, event, now, kernel);
    }

    fn handle_process(
        &mut self,
        id: &UnitId,
        instance: Instance,
        what: What,
        now: Instant,
        kernel: &mut impl Kernel,
    ) {
        let Some(index) = self.index(id) else { return };
        let Some(member) = self.members.get_mut(index) else { return };
        if member.live.is_none_or(|live| live.instance != instance) {
            return;
        }
        match what {
            What::Event(event) => {
                let has_ended = matches!(event, Event::Exited(_));
                if has_ended {
                    member.handle_exit();
                    kernel.forget(id);
                }
                self.feed(index, event, now, kernel);
                if has_ended {
                    if let Some(member) = self.members.get(index)
                        && let Some((_, how)) = member.last_end()
                    {
                        match member.machine.wanted() {
                            Wanted::Up => tracing::warn!(unit = %id, %how, "ended"),
                            Wanted::Down => tracing::info!(unit = %id, %how, "ended"),
                        }
                    }
                    if self.queue.runs() == Some(Runs::End) {
                        // Also one that was to be left: nothing is started any more.
                        self.feed(index, Event::Want(Wanted::Down), now, kernel);
                    }
                }
            }
            What::NotReady(why) => member.not_ready = Some(why),
            What::Worker(mut worker) => {
                let is_first = member.live.is_some_and(|live| live.adopted && live.serving.is_none());
                let version = member.version.clone();
                let outlived = member.handle_worker(&worker, now);
                member.name_renewal(&mut worker);
                if let Some(event) = events::of_worker(id, &worker, outlived, (is_first, version)) {
                    kernel.record(event);
                }
                if let Some(place) = self.fresh.iter().position(|fresh| fresh == id) {
                    let unit = self.fresh.swap_remove(place);
                    self.startup.push_back(StartupEvent::Started { unit, pid: worker.pid });
                }
                let Worker { pid, generation, cause, .. } = worker;
                let cause = cause.unwrap_or_default();
                match outlived {
                    Outlived { resumed: 0, renewed: 0, cold: 0 } => {}
                    Outlived { cold: 1.., .. } => {
                        tracing::warn!(unit = %id, pid, generation, %cause, "cold start: another worker goes on with nothing");
                    }
                    Outlived { resumed: 0, .. } => {
                        tracing::info!(unit = %id, pid, generation, %cause, "renewed: another worker goes on")
                    }
                    Outlived { resumed: 1.., .. } => {
                        tracing::warn!(unit = %id, pid, generation, %cause, "resumed: its port has outlived a worker");
                    }
                }
            }
            What::Report(report) => member.report = Some(report),
            What::Probe(result) => member.probe.handle_result(result),
            What::Name(trouble) => member.name = trouble,
            What::Keeper(keeper) => {
                member.keeper = keeper;
                if keeper == Keeper::Woken
                    && let Some(live) = member.live
                {
                    tracing::warn!(unit = %id, pid = live.pid, "its keeper was stopped; it is sent SIGCONT");
                    kernel.record(events::of_unit(Kind::Woken, id, Some(live.pid), events::WOKEN));
                }
            }
            What::LastWords(words) => member.heard = Some(words),
        }
    }

    fn handle_command(
        &mut self,
        client: Client,
        by: Option<By>,
        command: Command,
        now: Instant,
        kernel: &mut impl Kernel,
    ) {
        let asked = match &command {
            Command::Status => Asked::Status,
            Command::Plan(_) => Asked::Plan,
            Command::Apply(_) => Asked::Apply,
            Command::Restart(_) => Asked::Restart,
            Command::Upgrade(_) => Asked::Upgrade,
            Command::Down => Asked::Down,
        };
        let accepted = self.queue.handle(now, asked, by.map(|by| by.pid));
        let name = events::name(&command).filter(|_| accepted.is_ok());
        if let Some(name) = &name {
            kernel.record(events::of_cluster(Kind::Asked, by, name.clone()));
        }
        let asked = name.map(|name| (name, now));
        match (accepted, command) {
            (Err(refusal), _) => kernel.finish(Some(client), Err(refusal.into())),
            (Ok(_), Command::Status) => self.look_first(client, None, now, kernel),
            (Ok(_), Command::Plan(Ok(new))) => self.look_first(client, Some(new), now, kernel),
            (Ok(_), Command::Plan(Err(why))) => kernel.show_plan(client, Err(why)),
            (Ok(_), Command::Apply(file)) => {
                self.job = Some(Job { asked, by, ..Job::new(Some(client), [Step::Parse { file }]) });
            }
            (Ok(_), Command::Restart(restart)) => {
                let (steps, errors) = match self.restart(&restart) {
                    Ok(steps) => (steps, Vec::new()),
                    Err(why) => (Vec::new(), vec![why]),
                };
                self.job = Some(Job { asked, errors, ..Job::new(Some(client), steps) });
            }
            (Ok(_), Command::Upgrade(upgrade)) => {
                let mut job = Job { asked, ..Job::new(Some(client), []) };
                self.upgrade(&upgrade, &mut job);
                self.job = Some(job);
            }
            (Ok(_), Command::Down) => {
                // Now: the machine may fail before all is stopped.
                kernel.take_down();
                self.begin_end((Some(client), asked), true, now, kernel);
            }
        }
    }

    /// Has all report, and answers then.
    fn look_first(
        &mut self,
        client: Client,
        new: Option<Box<Cluster>>,
        since: Instant,
        kernel: &mut impl Kernel,
    ) {
        self.asked.push(Question { client, since, new });
        for member in self.members.iter().filter(|member| member.live.is_some()) {
            kernel.refresh(&member.id);
        }
    }

    fn handle_told(&mut self, asked: Asked, now: Instant, kernel: &mut impl Kernel) {
        let accepted: Result<Accepted, Refusal> = self.queue.handle(now, asked, None);
        let name = match asked {
            Asked::Leave => "SIGQUIT, or SIGTERM from the service manager",
            _ => "SIGTERM or SIGINT",
        };
        if accepted.is_ok() {
            kernel.record(events::of_cluster(Kind::Asked, None, name));
        }
        match (accepted, asked) {
            (Ok(Accepted::End), Asked::Leave) => {
                self.break_off(now, kernel);
                let left = self.members.iter().filter(|member| member.live.is_some()).count();
                tracing::info!(processes = left, "left to the next supervisor");
                self.end = Some(End::Left(left));
            }
            // A start that is interrupted leaves what was found running as it was.
            (Ok(Accepted::End), _) => {
                let asked = Some((name.to_owned(), now));
                self.begin_end((None, asked), self.is_started, now, kernel);
            }
            (Ok(Accepted::Hurry), _) => {
                for index in 0..self.members.len() {
                    let state = self.members.get(index).map(|member| member.machine.state());
                    if matches!(state, Some(State::Stopping { .. })) {
                        self.feed(index, Event::Frozen { why: "told to hurry".to_owned() }, now, kernel);
                    }
                }
            }
            (Ok(Accepted::Answer | Accepted::Begin) | Err(_), _) => {}
        }
    }

    /// Breaks off what runs, and begins to stop all processes, or only those that this supervisor started.
    fn begin_end(
        &mut self,
        (client, asked): (Option<Client>, Option<(String, Instant)>),
        all: bool,
        now: Instant,
        kernel: &mut impl Kernel,
    ) {
        use cluster::Role::{Edge, Encoder, Origin};
        self.break_off(now, kernel);
        for index in 0..self.members.len() {
            let Some(member) = self.members.get(index).filter(|member| member.is_stopped(all)) else {
                continue;
            };
            // What waits for its restart, or is being restarted, does not come back before its turn to stop.
            if !matches!(member.machine.state(), State::Starting | State::Running { .. }) {
                self.feed(index, Event::Want(Wanted::Down), now, kernel);
            }
        }
        let back = self.before.take().filter(|_| !all).map(Step::GoBack);
        let stops = [Encoder, Edge, Origin].map(|role| Step::Stop(StopRole { role, all, begun: None }));
        let steps = back.into_iter().chain(stops).chain([Step::Clear { all }]);
        self.job = Some(Job { asked, ..Job::new(client, steps) });
    }

    fn break_off(&mut self, now: Instant, kernel: &mut impl Kernel) {
        if let Some(job) = self.job.take() {
            let outcome = Err(Error::new(Code::Interrupted, ENDING));
            if let Some(asked) = job.asked {
                kernel.record(events::of_end(asked, &outcome, now));
            }
            kernel.finish(job.client, outcome);
        }
    }

    fn handle_deadlines(&mut self, now: Instant, kernel: &mut impl Kernel) {
        for index in 0..self.members.len() {
            let Some(member) = self.members.get(index) else { return };
            let restarts = matches!(member.machine.state(), State::Backoff { .. });
            if !restarts && member.machine.deadline().is_some_and(|deadline| deadline <= now) {
                self.feed(index, Event::Deadline, now, kernel);
            }
        }
        if self.spacing.earliest(now) <= now
            && let Some(index) = self.next_restart(now)
        {
            self.feed(index, Event::Deadline, now, kernel);
            // Counted from the fork: what comes before it waits for the disk.
            let live = self.members.get(index).and_then(|member| member.live);
            self.spacing.handle_restart(live.map_or(now, |live| live.started));
        }
        if now >= self.next_housekeeping {
            self.next_housekeeping = now + HOUSEKEEPING;
            self.members.iter_mut().for_each(|member| member.machine.handle_time(now));
            self.look_for_missing_streams(now);
            self.watch_health(now, kernel);
            for member in &mut self.members {
                if !member.looked_for && matches!(member.machine.state(), State::Unknown { .. }) {
                    member.looked_for = true;
                    kernel.look(&member.id);
                }
            }
        }
    }

    /// Of the units whose wait is over the one that has waited longest: one that dies at once must not keep another back.
    fn next_restart(&self, now: Instant) -> Option<usize> {
        let due =
            self.members.iter().enumerate().filter_map(|(index, member)| match member.machine.state() {
                State::Backoff { until } if *until <= now => Some((*until, index)),
                _ => None,
            });
        due.min().map(|(_, index)| index)
    }

    /// Has all go on that goes on by itself, and the running command with it.
    pub(super) fn go_on(&mut self, now: Instant, kernel: &mut impl Kernel) {
        loop {
            self.advance(now, kernel);
            let is_any = self.go_on_leaving(now, kernel);
            self.tell(now, kernel);
            if !is_any {
                return;
            }
        }
    }

    /// Takes the steps of the running command as far as they go.
    fn advance(&mut self, now: Instant, kernel: &mut impl Kernel) {
        while let Some(mut job) = self.job.take() {
            job.due = None;
            let Some(step) = job.steps.pop_front() else {
                self.finish(job, now, kernel);
                continue;
            };
            match self.take_step(step, &mut job, now, kernel) {
                Turn::Wait(step, due) => {
                    job.steps.push_front(step);
                    job.due = due;
                    self.job = Some(job);
                    return;
                }
                Turn::Done => {}
                Turn::Failed(why) => {
                    job.errors.push(why);
                    job.steps = std::mem::take(&mut job.undo).into();
                }
            }
            self.job = Some(job);
        }
    }

    fn finish(&mut self, job: Job, now: Instant, kernel: &mut impl Kernel) {
        let outcome = outcome(job.errors);
        if let Some(asked) = job.asked {
            kernel.record(events::of_end(asked, &outcome, now));
        }
        match self.queue.runs() {
            Some(Runs::End) => self.end = Some(End::Stopped(outcome.clone())),
            Some(Runs::Start) => {
                self.is_started = true;
                self.before = None;
            }
            Some(Runs::Apply | Runs::Restart | Runs::Upgrade) | None => {}
        }
        self.queue.handle_done();
        if let Some(upgrade) = job.upgrade {
            for line in self.what_runs(&upgrade.0, outcome.is_ok(), kernel) {
                kernel.say(job.client, line);
            }
            let upgraded = self.upgraded(upgrade, kernel);
            for port in &upgraded.ports {
                kernel.start_next(&port.unit, &Program::OfStart);
            }
            kernel.report(job.client, upgraded);
        }
        kernel.finish(job.client, outcome);
    }
}

/// All errors as one, of the first one's kind.
fn outcome(errors: Vec<Error>) -> Result<(), Error> {
    let Some(code) = errors.first().map(|error| error.code) else { return Ok(()) };
    let messages: Vec<String> = errors.into_iter().map(|error| error.message).collect();
    Err(Error::new(code, messages.join("\n")))
}

/// The specs of all processes of a cluster: origins, edges in the file's order, encoder.
pub(crate) fn specs(cluster: &Cluster, dirs: &ClusterDirs) -> Vec<(ProcessSpec, Option<Port>)> {
    let workers = cluster
        .ports()
        .map(|port| (ProcessSpec::Worker(cluster.worker_spec(port, dirs.secret())), Some(port.clone())));
    workers.chain(cluster.encoder_spec().map(|spec| (ProcessSpec::Encoder(spec), None))).collect()
}
