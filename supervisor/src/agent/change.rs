//! What a person asks of a running cluster: apply a changed file, restart, down.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::stats::StreamStats;
use cluster::{Cluster, Port, ProcessSpec, Role, UnitId, WorkerSpec};
use control::{Request, ask_once};

use super::engine::{Agent, Cut, Interrupt};
use super::start::Before;
use super::supervised::{self, Supervised};
use crate::api::{Apply, Command, Progress, Restart};
use crate::files::write_atomic;
use crate::machine::state::{Event, KILL_REPEAT, START_LIMIT, STOP_STEP, State, Wanted};
use crate::plan::Plan;
use crate::process::Process;
use crate::{listeners, preflight, probe};

/// How long a process may take to take a new config.
const CONFIGURE_LIMIT: Duration = Duration::from_secs(5);
/// How long `restart` waits for a keyframe of each live stream before it goes on to the next process.
const KEYFRAME_LIMIT: Duration = Duration::from_secs(10);
/// Between two plays of a stream that is not there yet.
const PLAY_RETRY: Duration = Duration::from_millis(100);
/// All steps of a stop, and some time for the kernel.
const STOP_LIMIT: Duration = STOP_STEP.saturating_mul(2).saturating_add(KILL_REPEAT);

const ENDING: &str = "the supervisor was told to end; what was not done yet is left as it was";

impl Agent {
    pub(super) async fn carry_out(&mut self, command: Command) {
        let (progress, outcome) = match command {
            Command::Apply(apply, progress) => {
                self.busy = Some("it applies a changed file");
                let outcome = self.apply(apply, &progress).await;
                (progress, outcome)
            }
            Command::Restart(restart, progress) => {
                self.busy = Some("it restarts processes");
                let outcome = self.restart(restart, &progress).await;
                (progress, outcome)
            }
            // Answered at once, or an interrupt.
            Command::Status(_) | Command::Down(_) => return,
        };
        self.busy = None;
        progress.finish(outcome).await;
    }

    async fn apply(&mut self, Apply { path, text }: Apply, progress: &Progress) -> Result<(), String> {
        // Looks names up, which may take as long as the resolver waits.
        let parse = {
            let (parse, path, text) = (Arc::clone(&self.parse), path.clone(), text.clone());
            tokio::task::spawn_blocking(move || parse(&path, &text))
        };
        let parsed = self.beside(parse).await.map_err(|_| ENDING.to_owned())?;
        let new = parsed.map_err(|error| format!("the file could not be read: {error}"))??;
        let elsewhere = preflight::hosts(&new);
        if !elsewhere.is_empty() {
            let said: Vec<String> = elsewhere.iter().map(ToString::to_string).collect();
            return Err(format!("nothing was touched: {}", said.join("\n  ")));
        }
        let plan = Plan::compare(&self.cluster, &new);
        let refused: Vec<String> = plan.refused().map(|action| format!("\n  {action}")).collect();
        if !refused.is_empty() {
            return Err(format!(
                "{} has changes that a running cluster (started from {}) cannot take yet; nothing was touched:{}\n\
                 bring them into force, at the cost of disconnecting all players, with: \
                 srsctl -f {0} down && srsctl -f {0} up",
                path.display(),
                self.path.display(),
                refused.concat()
            ));
        }
        if plan.is_empty() {
            self.put_in_force(&path, &text)?;
            if !self.start_failed(progress).await? {
                progress.say("nothing to change").await;
            }
            return Ok(());
        }
        let ids: Vec<UnitId> = plan.started().cloned().collect();
        // What an earlier rollback had to leave alone may be gone by now.
        self.units.retain(|unit| !(ids.contains(&unit.id) && *unit.machine.state() == State::Stopped));
        if let Some(why) =
            ids.iter().cloned().chain(new.origins.iter().map(Port::id)).find_map(|id| self.left_alone(&id))
        {
            return Err(format!("nothing was touched: {why}"));
        }
        let specs = supervised::specs(&new, &self.dirs);
        let workers: Vec<_> = specs
            .iter()
            .filter_map(|(spec, _)| match spec {
                ProcessSpec::Worker(spec) => Some(spec.clone()),
                ProcessSpec::Encoder(_) => None,
            })
            .collect();
        let added: Vec<&Port> = new.edges.iter().filter(|edge| ids.contains(&edge.id())).collect();
        // The encoder is the one that runs: any other is refused above.
        let problems = preflight::check(&Cluster { encoder: None, ..new.clone() }, &workers);
        let mut problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        let bound = listeners::bind_all(added.iter().copied());
        problems.extend(bound.as_ref().err().into_iter().flatten().map(ToString::to_string));
        let mut bound = match bound {
            Ok(bound) if problems.is_empty() => bound,
            Ok(_) | Err(_) => return Err(format!("nothing was touched: {}", problems.join("\n  "))),
        };

        let place =
            self.units.iter().position(|unit| unit.role() == Role::Encoder).unwrap_or(self.units.len());
        let units = specs.into_iter().filter(|(spec, _)| ids.contains(spec.id()));
        let units: Vec<Supervised> =
            units.map(|(spec, port)| Supervised::new(spec, port, &self.dirs, &mut bound)).collect();
        self.units.splice(place..place, units);
        let outcome = self.add(&new, &ids, &path, &text, progress).await;
        if outcome.is_err() {
            self.remove(&ids).await;
        }
        outcome?;
        self.start_failed(progress).await.map(drop)
    }

    /// Starts what was given up: its cause may be mended. False if there is none.
    async fn start_failed(&mut self, progress: &Progress) -> Result<bool, String> {
        let failed = |unit: &&Supervised| matches!(unit.machine.state(), State::Failed { .. });
        let ids: Vec<UnitId> = self.units.iter().filter(failed).map(|unit| unit.id.clone()).collect();
        for id in &ids {
            progress.say(format!("starting {id} again")).await;
            self.feed_id(id, Event::Restart);
        }
        let mut errors = Vec::new();
        for id in &ids {
            match self.until_ready(id, None).await {
                Ok(()) => progress.say(format!("{id} is ready")).await,
                Err(error) => errors.push(error),
            }
        }
        if errors.is_empty() { Ok(!ids.is_empty()) } else { Err(errors.join("\n")) }
    }

    /// That a process is not touched, and why, if so.
    fn left_alone(&self, id: &UnitId) -> Option<String> {
        match self.units.get(self.index(id)?)?.machine.state() {
            State::Unknown { why } => Some(format!("{id} is left alone: {why}")),
            State::Stopped
            | State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Backoff { .. }
            | State::Failed { .. } => None,
        }
    }

    async fn add(
        &mut self,
        new: &Cluster,
        ids: &[UnitId],
        path: &Path,
        text: &str,
        progress: &Progress,
    ) -> Result<(), String> {
        for id in ids {
            progress.say(format!("starting {id}")).await;
            self.feed_id(id, Event::Want(Wanted::Up));
        }
        for id in ids {
            self.until_ready(id, None).await?;
            progress.say(format!("{id} is ready")).await;
        }
        self.configure_origins(new).await?;
        for origin in &new.origins {
            progress.say(format!("{} forwards to {} edge ports", origin.id(), new.edges.len())).await;
        }
        self.cluster = new.clone();
        self.put_in_force(path, text)
    }

    fn put_in_force(&mut self, path: &Path, text: &str) -> Result<(), String> {
        path.clone_into(&mut self.path);
        self.dirs
            .put_in_force(path, text)
            .map_err(|error| format!("done, but the file in force is not remembered: {error}"))
    }

    /// Undoes an addition.
    async fn remove(&mut self, ids: &[UnitId]) {
        if self.cluster.edges.iter().any(|edge| ids.contains(&edge.id())) {
            return;
        }
        for id in ids {
            self.feed_id(id, Event::Want(Wanted::Down));
        }
        let _ = self.until(STOP_LIMIT, |agent| agent.at_rest(ids).then_some(())).await;
        for id in ids {
            let Some(index) = self.index(id) else { continue };
            if self.left_alone(id).is_some() {
                // It stays, to be told of, without the port.
                self.units.get_mut(index).into_iter().for_each(|unit| unit.listener = None);
                continue;
            }
            if let Some(unit) = self.units.get(index)
                && unit.live.is_none()
            {
                unit.files.remove();
                let _ = std::fs::remove_file(&unit.config);
                drop(self.units.remove(index));
            }
        }
    }

    /// Gives all origins the targets of `new`, or none.
    async fn configure_origins(&mut self, new: &Cluster) -> Result<(), String> {
        let mut taken = Vec::new();
        for origin in &new.origins {
            if let Err(error) = self.configure_origin(new, origin).await {
                let current = self.cluster.clone();
                for origin in taken {
                    let _ = self.configure_origin(&current, origin).await;
                }
                return Err(error);
            }
            taken.push(origin);
        }
        Ok(())
    }

    /// Gives one running origin the targets of `new`, and its next process too.
    async fn configure_origin(&mut self, new: &Cluster, origin: &Port) -> Result<(), String> {
        let id = origin.id();
        let Some(index) = self.index(&id) else { return Err(format!("{id} is not supervised")) };
        let Some(unit) = self.units.get_mut(index) else { return Ok(()) };
        let spec = new.worker_spec(origin, self.dirs.secret());
        let live = unit.live.as_ref().map(|live| Arc::clone(&live.process));
        // The file first: it can be undone, what the process was told cannot.
        write_atomic(&unit.config, spec.to_file_text().as_bytes()).map_err(|error| error.to_string())?;
        let before = std::mem::replace(&mut unit.spec, ProcessSpec::Worker(spec.clone()));
        let told = self.tell_origin(index, live.clone(), spec).await;
        if told.is_err()
            && let Some(unit) = self.units.get_mut(index)
            && unit.spec != before
        {
            unit.spec = before.clone();
            let _ = write_atomic(&unit.config, unit.config_text().as_bytes());
            // It may have taken the new targets and not said so.
            if let ProcessSpec::Worker(before) = before {
                let _ = self.tell_origin(index, live, before).await;
            }
        }
        told
    }

    /// Has the running origin, if there is one, take `spec`.
    async fn tell_origin(
        &mut self,
        index: usize,
        live: Option<Arc<Process>>,
        spec: WorkerSpec,
    ) -> Result<(), String> {
        let Some(unit) = self.units.get(index) else { return Ok(()) };
        let origin = unit.id.clone();
        if let Some(process) = live {
            let cannot = |what: String| format!("{origin} does not take its new forward targets: {what}");
            process.raise_fd_limit(spec.fds_needed()).map_err(|error| cannot(error.to_string()))?;
            let control = unit.files.control();
            let request = Request::Configure { spec: Box::new(spec) };
            let asked = self.beside(ask_once(&control, &request, None, CONFIGURE_LIMIT)).await;
            asked.map_err(|_| ENDING.to_owned())?.map_err(|error| cannot(error.to_string()))?;
        }
        Ok(())
    }

    /// An origin that was found running may know fewer edges than the file has now, whatever its config says: the
    /// supervisor before may have ended between writing it and telling.
    pub(super) async fn configure_adopted_origins(&mut self) -> Result<(), String> {
        let cluster = self.cluster.clone();
        for origin in &cluster.origins {
            let unit = self.index(&origin.id()).and_then(|index| self.units.get(index));
            if unit.and_then(|unit| unit.live.as_ref()).is_some_and(|live| live.adopted) {
                self.configure_origin(&cluster, origin).await?;
            }
        }
        Ok(())
    }

    /// Brings back what was in force before this supervisor, which does not come to its work.
    pub(super) async fn go_back(&mut self, Before { path, text, cluster }: Before) {
        let written = self.dirs.put_in_force(&path, &text).map_err(|error| error.to_string());
        self.cluster = cluster.clone();
        if let Err(error) = self.configure_origins(&cluster).await.and(written) {
            tracing::warn!("{error}");
        }
    }

    async fn restart(&mut self, restart: Restart, progress: &Progress) -> Result<(), String> {
        let ids = self.matching(&restart)?;
        for (place, id) in ids.iter().enumerate() {
            let Some(unit) = self.index(id).and_then(|index| self.units.get(index)) else { continue };
            if let Some(why) = self.left_alone(id) {
                return Err(why);
            }
            let before = unit.live.as_ref().map(|live| live.instance);
            let port = unit.port.clone();
            let live = self.live_streams();
            let cost = match unit.role() {
                Role::Origin => ": its encoders are disconnected and must reconnect",
                Role::Edge | Role::Encoder => "",
            };
            progress.say(format!("restarting {id}{cost}")).await;
            let begin = Instant::now();
            self.feed_id(id, Event::Restart);
            self.until_ready(id, before).await?;
            progress.say(format!("{id} is ready after {:.1} s", begin.elapsed().as_secs_f32())).await;
            let Some(port) = port else { continue };
            let end = Instant::now() + KEYFRAME_LIMIT;
            for stream in live.iter().filter(|stream| stream.has_keyframes).map(|stream| &stream.name) {
                match (self.until_keyframe(id, &port.url(stream), stream, end).await?, port.role) {
                    (Ok(()), _) => progress.say(format!("{id} plays {stream}")).await,
                    // Its encoder has left meanwhile.
                    (Err(_), Role::Edge) if !self.live_streams().iter().any(|live| live.name == *stream) => {
                        progress.say(format!("{stream} is not published any more")).await;
                    }
                    (Err(_), Role::Origin)
                        if !self.live_streams().iter().any(|live| live.name == *stream) =>
                    {
                        progress
                            .say(format!("no encoder has come back to publish {stream}; start it again"))
                            .await;
                    }
                    // The encoder decides when it comes back, and edges cannot be at fault.
                    (Err(why), Role::Origin | Role::Encoder) => {
                        progress.say(format!("{id} does not play {stream} yet: {why}")).await;
                    }
                    (Err(why), Role::Edge) => {
                        let rest: Vec<&str> = ids.iter().skip(place + 1).map(UnitId::as_str).collect();
                        let rest = if rest.is_empty() { "none".to_owned() } else { rest.join(", ") };
                        return Err(format!(
                            "{id} is restarted and does not play {stream} within {} s: {why}; not restarted: {rest}",
                            KEYFRAME_LIMIT.as_secs()
                        ));
                    }
                }
            }
        }
        Ok(())
    }

    fn matching(&self, restart: &Restart) -> Result<Vec<UnitId>, String> {
        let fits = |unit: &&Supervised| {
            unit.role() == restart.role
                && restart
                    .port
                    .is_none_or(|number| unit.port.as_ref().is_some_and(|port| port.port == number))
                && restart
                    .host
                    .as_ref()
                    .is_none_or(|host| unit.port.as_ref().is_some_and(|port| port.host.name == *host))
        };
        let ids: Vec<UnitId> = self.units.iter().filter(fits).map(|unit| unit.id.clone()).collect();
        if !ids.is_empty() {
            return Ok(ids);
        }
        let all: Vec<&str> = self.units.iter().map(|unit| unit.id.as_str()).collect();
        let port = restart.port.map(|port| format!(" on port {port}")).unwrap_or_default();
        let host = restart.host.as_ref().map(|host| format!(" at {host}")).unwrap_or_default();
        Err(format!("there is no {}{port}{host}; there are: {}", restart.role, all.join(", ")))
    }

    /// Waits until a process other than `before` is ready.
    async fn until_ready(&mut self, id: &UnitId, before: Option<u64>) -> Result<(), String> {
        let waited = self
            .until(STOP_LIMIT + START_LIMIT, |agent| {
                let unit = agent.units.get(agent.index(id)?)?;
                match unit.machine.state() {
                    State::Running { .. } if unit.live.as_ref().map(|live| live.instance) != before => {
                        Some(Ok(()))
                    }
                    State::Failed { why } | State::Unknown { why } => Some(Err(why.clone())),
                    State::Stopped => Some(Err("it was stopped".to_owned())),
                    State::Backoff { .. } => Some(Err("it ended at once, and is tried again".to_owned())),
                    State::Starting { .. }
                    | State::Running { .. }
                    | State::Stopping { .. }
                    | State::Killing { .. } => None,
                }
            })
            .await;
        let log = self.dirs.log(id);
        match waited {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(format!("{id} did not get ready: {why}; its log: {}", log.display())),
            Err(Cut::TimedOut) => Err(format!(
                "{id} did not get ready within {} s; its log: {}",
                (STOP_LIMIT + START_LIMIT).as_secs(),
                log.display()
            )),
            Err(Cut::Interrupted) => Err(ENDING.to_owned()),
        }
    }

    /// Plays until a keyframe comes; the inner error says why none came until `end`.
    async fn until_keyframe(
        &mut self,
        id: &UnitId,
        url: &str,
        stream: &str,
        end: Instant,
    ) -> Result<Result<(), String>, String> {
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let played = self.beside(probe::play(url, left)).await.map_err(|_| ENDING.to_owned())?;
            let Err(error) = played else { return Ok(Ok(())) };
            if error.is_full() && self.has_keyframe(id, stream) {
                // Its players are back before us, and it plays to them.
                return Ok(Ok(()));
            }
            if Instant::now() + PLAY_RETRY >= end {
                return Ok(Err(error.to_string()));
            }
            self.beside(tokio::time::sleep(PLAY_RETRY)).await.map_err(|_| ENDING.to_owned())?;
        }
    }

    /// Whether a process reports a keyframe of a stream that is published.
    fn has_keyframe(&self, id: &UnitId, stream: &str) -> bool {
        let report =
            self.index(id).and_then(|index| self.units.get(index)).and_then(Supervised::fresh_report);
        report.is_some_and(|report| {
            let fits =
                |it: &StreamStats| it.publishing && it.stream == stream && it.keyframe_age_ms.is_some();
            report.streams.iter().any(fits)
        })
    }

    /// Stops all processes (or only those that this supervisor started): encoder, then edges, then origin; and removes
    /// what is to vanish with them.
    pub(super) async fn stop(&mut self, progress: &Progress, all: bool) -> Result<(), String> {
        self.busy = Some("it is ending");
        for role in [Role::Encoder, Role::Edge, Role::Origin] {
            let ours = |unit: &&Supervised| {
                unit.role() == role && (all || unit.live.as_ref().is_none_or(|live| !live.adopted))
            };
            let ids: Vec<UnitId> = self.units.iter().filter(ours).map(|unit| unit.id.clone()).collect();
            for id in &ids {
                self.feed_id(id, Event::Want(Wanted::Down));
            }
            let begin = Instant::now();
            while !self.at_rest(&ids) && begin.elapsed() < STOP_LIMIT {
                self.turn().await;
                match self.interrupt.take() {
                    None => {}
                    Some(Interrupt::Stop | Interrupt::Leave) => self.hurry(&ids),
                    Some(Interrupt::Down(other)) => {
                        other.refuse_as_busy("the supervisor is stopping already".to_owned()).await;
                    }
                }
            }
            for id in &ids {
                let stopped = self
                    .index(id)
                    .and_then(|index| self.units.get(index))
                    .is_some_and(|unit| *unit.machine.state() == State::Stopped);
                if stopped {
                    progress.say(format!("{id} is stopped")).await;
                }
            }
        }
        let mut left = String::new();
        let mut running = false;
        for unit in &self.units {
            let why = match unit.machine.state() {
                State::Stopped => {
                    unit.files.remove();
                    continue;
                }
                State::Unknown { why } => why.as_str(),
                State::Running { .. } if !all => {
                    running = true;
                    continue;
                }
                State::Starting { .. }
                | State::Running { .. }
                | State::Stopping { .. }
                | State::Killing { .. }
                | State::Backoff { .. }
                | State::Failed { .. } => "it does not end, though it was sent SIGKILL",
            };
            let lock = unit.files.alive_lock();
            left.push_str(&format!("\n  {}: {why}; see who it is: fuser -v {}", unit.id, lock.display()));
        }
        // Whoever takes the lock next meets neither our socket nor our ports.
        self.dirs.remove_agent_socket();
        self.units.iter_mut().for_each(|unit| unit.listener = None);
        match (left.is_empty(), running) {
            (true, false) => self.dirs.remove_run().map_err(|error| error.to_string()),
            (true, true) => Ok(()),
            (false, _) => Err(format!("not all could be stopped:{left}")),
        }
    }

    fn at_rest(&self, ids: &[UnitId]) -> bool {
        ids.iter().filter_map(|id| self.units.get(self.index(id)?)).all(|unit| match unit.machine.state() {
            State::Stopped | State::Failed { .. } | State::Unknown { .. } => true,
            State::Starting { .. }
            | State::Running { .. }
            | State::Stopping { .. }
            | State::Killing { .. }
            | State::Backoff { .. } => false,
        })
    }

    fn feed_id(&mut self, id: &UnitId, event: Event) {
        if let Some(index) = self.index(id) {
            self.feed(index, event);
        }
    }
}
