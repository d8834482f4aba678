//! The loop: what happened goes into the units' machines, what they say is done.

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use cluster::status::Status;
use cluster::{Cluster, UnitId};
use control::{Request, ask_once};
use tokio::signal::unix;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::monitor::{Signal, What};
use super::supervised::{Report, Supervised};
use super::{Parse, random};
use crate::adopt::Found;
use crate::api::{Command, Progress};
use crate::dirs::ClusterDirs;
use crate::machine::backoff::Spacing;
use crate::machine::state::{Action, Event, STOP_STEP, State};
use crate::process::Spawner;

/// Between two looks at logs, unknown processes and missing streams.
const HOUSEKEEPING: Duration = Duration::from_secs(1);
/// For so long `status` waits for processes to report anew; one that does not is shown with its last report's age.
const REFRESH_LIMIT: Duration = Duration::from_millis(300);
/// The same while one that is ready has never reported: it has just started, or cannot be told.
const FIRST_REPORT_LIMIT: Duration = Duration::from_secs(1);
/// Nothing is due.
const LATER: Duration = Duration::from_secs(3600);

/// A supervisor at work.
pub(super) struct Agent {
    pub(super) cluster: Cluster,
    pub(super) path: PathBuf,
    pub(super) dirs: ClusterDirs,
    pub(super) parse: Parse,
    pub(super) units: Vec<Supervised>,
    pub(super) started: Instant,
    pub(super) inputs: Inputs,
    /// What the running command is, for those that come meanwhile.
    pub(super) busy: Option<&'static str>,
    /// A command that waits for the loop to be free.
    pub(super) pending: Option<Command>,
    /// Clients that wait for a status in which all is new, and since when.
    asked: Vec<(oneshot::Sender<Status>, Instant)>,
    /// What ends all waiting.
    pub(super) interrupt: Option<Interrupt>,
    spawner: Spawner,
    pub(super) boot_id: String,
    spacing: Spacing,
    instances: u64,
    /// Requests and looks that are under way.
    pub(super) helpers: JoinSet<()>,
}

/// Where everything that happens comes from.
pub(super) struct Inputs {
    pub(super) sender: mpsc::Sender<Signal>,
    pub(super) signals: mpsc::Receiver<Signal>,
    pub(super) commands: mpsc::Receiver<Command>,
    pub(super) terminate: unix::Signal,
    pub(super) interrupt: unix::Signal,
    pub(super) quit: unix::Signal,
    pub(super) hangup: unix::Signal,
    pub(super) housekeeping: tokio::time::Interval,
}

/// Why the supervisor ends.
#[derive(Debug)]
pub(super) enum Interrupt {
    /// A signal: stop all processes.
    Stop,
    /// SIGQUIT: leave them.
    Leave,
    /// A client: stop all processes, and tell it.
    Down(Progress),
}

/// Why a wait ended without what was waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    /// The time was up.
    TimedOut,
    /// See [`Agent::interrupt`].
    Interrupted,
}

impl Inputs {
    pub(super) fn new(commands: mpsc::Receiver<Command>) -> std::io::Result<Self> {
        let (sender, signals) = mpsc::channel(256);
        Ok(Self {
            sender,
            signals,
            commands,
            terminate: unix::signal(unix::SignalKind::terminate())?,
            interrupt: unix::signal(unix::SignalKind::interrupt())?,
            quit: unix::signal(unix::SignalKind::quit())?,
            hangup: unix::signal(unix::SignalKind::hangup())?,
            housekeeping: tokio::time::interval(HOUSEKEEPING),
        })
    }
}

/// What one turn of the loop is about.
enum Turn {
    Signal(Signal),
    Command(Command),
    Stop,
    Leave,
    Hangup,
    Deadline,
    Housekeeping,
}

impl Agent {
    #[expect(clippy::too_many_arguments, reason = "all that a supervisor is made of, once")]
    pub(super) fn new(
        cluster: Cluster,
        path: PathBuf,
        dirs: ClusterDirs,
        parse: Parse,
        units: Vec<Supervised>,
        inputs: Inputs,
        spawner: Spawner,
        boot_id: String,
    ) -> Self {
        Self {
            cluster,
            path,
            dirs,
            parse,
            units,
            started: Instant::now(),
            inputs,
            busy: None,
            pending: None,
            asked: Vec::new(),
            interrupt: None,
            spawner,
            boot_id,
            spacing: Spacing::default(),
            instances: 0,
            helpers: JoinSet::new(),
        }
    }

    /// Waits for one thing to happen and deals with it. May be dropped while it waits.
    pub(super) async fn turn(&mut self) {
        let due = tokio::time::Instant::from_std(self.next_due());
        let inputs = &mut self.inputs;
        let turn = tokio::select! {
            Some(signal) = inputs.signals.recv() => Turn::Signal(signal),
            Some(command) = inputs.commands.recv() => Turn::Command(command),
            _ = inputs.terminate.recv() => Turn::Stop,
            _ = inputs.interrupt.recv() => Turn::Stop,
            _ = inputs.quit.recv() => Turn::Leave,
            _ = inputs.hangup.recv() => Turn::Hangup,
            () = tokio::time::sleep_until(due) => Turn::Deadline,
            _ = inputs.housekeeping.tick() => Turn::Housekeeping,
        };
        match turn {
            Turn::Signal(signal) => self.handle_signal(signal),
            Turn::Command(command) => self.handle_command(command),
            Turn::Stop => self.interrupt = Some(Interrupt::Stop),
            Turn::Leave => self.interrupt = Some(Interrupt::Leave),
            Turn::Hangup => {
                tracing::info!("SIGHUP has no effect; `srsctl up` brings a changed file into force");
            }
            Turn::Deadline => self.handle_deadlines(),
            Turn::Housekeeping => self.handle_housekeeping(),
        }
        self.answer_status();
    }

    /// Turns the loop until `done` gives something.
    pub(super) async fn until<T>(
        &mut self,
        limit: Duration,
        mut done: impl FnMut(&mut Self) -> Option<T>,
    ) -> Result<T, Cut> {
        let end = tokio::time::Instant::now() + limit;
        loop {
            if let Some(result) = done(self) {
                return Ok(result);
            }
            if self.interrupt.is_some() {
                return Err(Cut::Interrupted);
            }
            if tokio::time::timeout_at(end, self.turn()).await.is_err() {
                return done(self).ok_or(Cut::TimedOut);
            }
        }
    }

    /// Turns the loop until `future` is there.
    pub(super) async fn beside<F: Future>(&mut self, future: F) -> Result<F::Output, Cut> {
        let mut future = pin!(future);
        loop {
            tokio::select! {
                biased;
                output = &mut future => return Ok(output),
                () = self.turn() => if self.interrupt.is_some() {
                    return Err(Cut::Interrupted);
                },
            }
        }
    }

    pub(super) fn index(&self, id: &UnitId) -> Option<usize> {
        self.units.iter().position(|unit| unit.id == *id)
    }

    /// Feeds one event, and does what the machine says.
    pub(super) fn feed(&mut self, index: usize, event: Event) {
        let mut next = Some(event);
        while let Some(event) = next.take() {
            let Some(unit) = self.units.get_mut(index) else { return };
            tracing::debug!(unit = %unit.id, ?event, state = ?unit.machine.state(), "event");
            let before = unit.machine.status();
            let action = unit.machine.handle(Instant::now(), event, random());
            let after = unit.machine.status();
            if before != after {
                tracing::info!(unit = %unit.id, from = ?before, to = ?after, "state");
            }
            if matches!(unit.machine.state(), State::Failed { .. }) {
                // Nobody will serve whoever waits there. The next start binds it anew.
                unit.listener = None;
            }
            match action {
                None => {}
                Some(Action::Spawn) => {
                    self.instances += 1;
                    next =
                        unit.spawn(&self.spawner, &self.boot_id, self.instances, &self.inputs.sender).err();
                }
                Some(Action::AskStop) => self.ask_stop(index),
                Some(Action::Terminate) => unit.live.iter().for_each(|live| live.process.terminate()),
                Some(Action::Kill) => unit.live.iter().for_each(|live| live.process.kill()),
            }
        }
    }

    /// Takes in what was found of a unit when it was looked for.
    pub(super) fn handle_found(&mut self, index: usize, found: Found) {
        let Some(unit) = self.units.get_mut(index) else { return };
        let event = match found {
            Found::Nothing => Event::Freed,
            Found::Unknown { why } => Event::Unproven { why },
            Found::Process { process, listener, silent: _ } => {
                self.instances += 1;
                unit.adopt(process, listener, self.instances, &self.inputs.sender);
                Event::Adopted
            }
        };
        self.feed(index, event);
    }

    fn handle_signal(&mut self, Signal { unit: id, instance, what }: Signal) {
        let Some(index) = self.index(&id) else { return };
        let Some(unit) = self.units.get_mut(index) else { return };
        if let What::Found(found) = what {
            unit.looked_for = false;
            if matches!(unit.machine.state(), State::Unknown { .. }) {
                self.handle_found(index, found);
            }
            return;
        }
        if unit.live.as_ref().is_none_or(|live| live.instance != instance) {
            return;
        }
        match what {
            What::Event(event) => {
                if let Event::Exited(exit) = &event {
                    tracing::info!(unit = %id, %exit, "ended");
                    unit.handle_exit();
                }
                self.feed(index, event);
            }
            What::NotReady(why) => unit.not_ready = Some(why),
            What::Report(process, streams) => {
                unit.report = Some(Report { at: Instant::now(), process, streams });
            }
            What::Probe(result) => unit.probe.handle_result(result),
            What::Found(_) => {}
        }
    }

    fn handle_command(&mut self, command: Command) {
        let (name, progress) = match &command {
            Command::Status(_) => {
                if let Command::Status(reply) = command {
                    self.asked.push((reply, Instant::now()));
                    self.units.iter().flat_map(|unit| &unit.live).for_each(|live| live.refresh.notify_one());
                }
                return;
            }
            Command::Down(progress) => {
                if self.interrupt.is_none() {
                    self.interrupt = Some(Interrupt::Down(progress.clone()));
                    return;
                }
                ("down", progress)
            }
            Command::Apply(_, progress) => ("apply", progress),
            Command::Restart(_, progress) => ("restart", progress),
        };
        let busy = match (&self.interrupt, self.busy, &self.pending) {
            (Some(_), _, _) => "it is ending",
            (None, Some(busy), _) => busy,
            (None, None, Some(_)) => "another command came first",
            (None, None, None) => {
                self.pending = Some(command);
                return;
            }
        };
        let progress = progress.clone();
        let refused = format!("{name}: the supervisor is busy ({busy}); try again when that is done");
        self.helpers.spawn(progress.refuse_as_busy(refused));
    }

    /// Answers those who asked for the status, once every ready process has reported since.
    fn answer_status(&mut self) {
        let is_due = |since: Instant| {
            let stale = |unit: &&Supervised| unit.report.as_ref().is_none_or(|report| report.at < since);
            Instant::now() >= self.answer_due(since) || self.running().find(stale).is_none()
        };
        let due: Vec<bool> = self.asked.iter().map(|(_, since)| is_due(*since)).collect();
        let mut waiting = Vec::new();
        for ((reply, since), due) in std::mem::take(&mut self.asked).into_iter().zip(due) {
            if due {
                let _ = reply.send(self.status());
            } else {
                waiting.push((reply, since));
            }
        }
        self.asked = waiting;
    }

    fn running(&self) -> impl Iterator<Item = &Supervised> {
        self.units.iter().filter(|unit| matches!(unit.machine.state(), State::Running { .. }))
    }

    /// When a status that was asked for at `since` is given as it is.
    fn answer_due(&self, since: Instant) -> Instant {
        let is_new = self.running().any(|unit| unit.report.is_none());
        since + if is_new { FIRST_REPORT_LIMIT } else { REFRESH_LIMIT }
    }

    fn next_due(&self) -> Instant {
        let now = Instant::now();
        let due = self.units.iter().filter_map(|unit| {
            let deadline = unit.machine.deadline()?;
            Some(match unit.machine.state() {
                State::Backoff { .. } => deadline.max(self.spacing.earliest(now)),
                _ => deadline,
            })
        });
        let asked = self.asked.iter().map(|(_, since)| self.answer_due(*since));
        due.chain(asked).min().unwrap_or(now + LATER)
    }

    fn handle_deadlines(&mut self) {
        for index in 0..self.units.len() {
            let now = Instant::now();
            let Some(unit) = self.units.get(index) else { return };
            if unit.machine.deadline().is_none_or(|deadline| deadline > now) {
                continue;
            }
            let restarts = matches!(unit.machine.state(), State::Backoff { .. });
            if restarts && self.spacing.earliest(now) > now {
                continue;
            }
            self.feed(index, Event::Deadline);
            if restarts {
                // Counted from the fork: what comes before it waits for the disk.
                self.spacing.handle_restart(Instant::now());
            }
        }
    }

    fn ask_stop(&mut self, index: usize) {
        let Some(unit) = self.units.get(index) else { return };
        let Some(live) = &unit.live else { return };
        let (id, instance, control) = (unit.id.clone(), live.instance, unit.files.control());
        let signals = self.inputs.sender.clone();
        self.helpers.spawn(async move {
            if let Err(error) = ask_once(&control, &Request::Stop, None, STOP_STEP).await {
                tracing::info!(unit = %id, %error, "could not be asked to stop");
                let what = What::Event(Event::AskFailed);
                let _ = signals.send(Signal { unit: id, instance, what }).await;
            }
        });
    }

    /// A second signal: the processes `ids` are waited for no longer.
    pub(super) fn hurry(&mut self, ids: &[UnitId]) {
        for index in ids.iter().filter_map(|id| self.index(id)).collect::<Vec<_>>() {
            self.feed(index, Event::Frozen { why: "told to hurry".to_owned() });
        }
    }
}
