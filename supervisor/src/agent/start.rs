//! From nothing to a supervised cluster, all or nothing; and its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use cluster::{Cluster, ProcessSpec, UnitId};
use control::unix;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::engine::{Agent, Cut, Inputs, Interrupt};
use super::supervised::{self, Supervised};
use super::{AgentConfig, AgentError, StartupEvent};
use crate::adopt::{self, Found};
use crate::api::Progress;
use crate::dirs::{ClusterDirs, Created, Lock};
use crate::files::StateError;
use crate::machine::state::{Event, START_LIMIT, State, Wanted};
use crate::plan::{Action, Kind, Plan};
use crate::preflight::Problem;
use crate::process::Spawner;
use crate::record::UnitFiles;
use crate::{api, listeners, logs, preflight, procfs};

/// Commands that wait for the loop.
const COMMANDS: usize = 16;
/// Beyond the limit of one start: one more try of a process that died at once.
const SECOND_TRY: Duration = Duration::from_secs(5);
/// How long the first report of a process that is ready is waited for.
const REPORT_LIMIT: Duration = Duration::from_secs(1);
/// Answers that are under way may take this long when the supervisor ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// What there was before this supervisor.
struct Left {
    /// The units of which no process was found.
    fresh: Vec<UnitId>,
    /// What was in force, if processes run and the file differs.
    before: Option<Before>,
}

/// A cluster file that was in force.
pub(super) struct Before {
    pub(super) path: PathBuf,
    pub(super) text: String,
    pub(super) cluster: Cluster,
}

/// What the supervisor holds beside its loop.
struct Frame {
    _lock: Lock,
    stop_api: oneshot::Sender<()>,
    api: tokio::task::JoinHandle<()>,
}

pub(super) async fn run(
    config: AgentConfig,
    mut startup: impl FnMut(StartupEvent),
) -> Result<(), AgentError> {
    let (mut agent, frame, Left { fresh, before }) = Box::pin(assemble(config, &mut startup)).await?;
    let started = Box::pin(agent.start_up(fresh, &mut startup)).await;
    if started.is_ok() {
        Box::pin(agent.serve()).await;
    }
    let interrupt = agent.interrupt.take();
    // Interrupted while it starts: what was found running goes on, as before.
    let all = started.is_ok() || !matches!(interrupt, Some(Interrupt::Stop));
    match interrupt {
        Some(Interrupt::Leave) => {
            tracing::info!("leaving the processes to the next supervisor");
            agent.dirs.remove_agent_socket();
            frame.end().await;
        }
        Some(Interrupt::Stop) | None => {
            if let (false, Some(before)) = (all, before) {
                agent.go_back(before).await;
            }
            if let Err(error) = agent.stop(&Progress::none(), all).await {
                tracing::warn!("{error}");
            }
            frame.end().await;
        }
        Some(Interrupt::Down(progress)) => {
            let outcome = agent.stop(&progress, all).await;
            progress.finish(outcome).await;
            drop(agent);
            frame.end().await;
        }
    }
    if started.is_ok() { Ok(()) } else { Err(AgentError::Interrupted) }
}

impl Frame {
    async fn end(self) {
        let _ = self.stop_api.send(());
        let _ = tokio::time::timeout(LAST_ANSWERS, self.api).await;
    }
}

/// Everything but the first spawn: when this fails, nothing was touched.
async fn assemble(
    config: AgentConfig,
    startup: &mut impl FnMut(StartupEvent),
) -> Result<(Agent, Frame, Left), AgentError> {
    let AgentConfig { cluster, path, text, dirs, binary, detached, parse } = config;
    let running = || AgentError::AlreadyRunning { cluster: cluster.name.clone(), pid: dirs.supervisor_pid() };
    if dirs.is_supervised() {
        return Err(running());
    }
    let specs = supervised::specs(&cluster, &dirs);
    let problems = preflight::check(&cluster, &workers(&specs));
    if !problems.is_empty() {
        return Err(AgentError::Preflight(problems));
    }
    let system = |what| move |source| AgentError::System { what, source };
    let boot_id = procfs::boot_id().map_err(system("cannot read the boot id (is /proc mounted?)"))?;
    let spawner = Spawner::new(binary).map_err(system("cannot prepare to start processes"))?;
    let (commands, incoming) = mpsc::channel(COMMANDS);
    let inputs = Inputs::new(incoming).map_err(system("cannot handle signals"))?;

    // The order matters when this fails: first the directories go, then the lock.
    let created = dirs.create()?;
    let Some(lock) = dirs.lock()? else {
        // Another one was faster: the directories are its own now.
        created.keep();
        return Err(running());
    };
    let undo = Undo { created: Some(created) };
    let mut found = find_all(&dirs, &specs, &boot_id).await?;
    let mut before = None;
    if !found.is_empty() {
        before = what_was_in_force(&dirs, &path, &text, &parse)?;
        let refused = refused(before.as_ref(), &cluster, &found);
        if !refused.is_empty() {
            return Err(AgentError::Changed(refused));
        }
    }
    let missing = cluster.ports().filter(|port| !found.contains_key(&port.id()));
    let mut listeners = listeners::bind_all(missing)
        .map_err(|errors| AgentError::Preflight(errors.into_iter().map(Problem::from).collect()))?;
    let socket = dirs.agent_socket();
    let listener = unix::listen_stream(&socket, 0o660)
        .and_then(tokio::net::UnixListener::from_std)
        .map_err(|source| StateError { what: "cannot listen on", path: socket, source })?;
    let committed = dirs.ensure_secret().and_then(|_| {
        if detached {
            let log = dirs.agent_log();
            logs::write_here(&log).map_err(|source| StateError {
                what: "cannot open log",
                path: log,
                source,
            })?;
        }
        dirs.put_in_force(&path, &text)
    });
    if let Err(error) = committed {
        dirs.remove_agent_socket();
        return Err(error.into());
    }
    undo.keep();

    let (stop_api, stopped) = oneshot::channel();
    let api = tokio::spawn(api::serve(listener, commands, stopped));
    let units: Vec<Supervised> =
        specs.into_iter().map(|(spec, port)| Supervised::new(spec, port, &dirs, &mut listeners)).collect();
    let frame = Frame { _lock: lock, stop_api, api };
    let mut agent = Agent::new(cluster, path, dirs, parse, units, inputs, spawner, boot_id);
    let mut fresh = Vec::new();
    for index in 0..agent.units.len() {
        let Some(id) = agent.units.get(index).map(|unit| unit.id.clone()) else { continue };
        match found.remove(&id) {
            Some(found) => {
                match &found {
                    Found::Process { process, silent, .. } => startup(StartupEvent::Adopted {
                        unit: id,
                        pid: process.identity().pid,
                        silent: *silent,
                    }),
                    Found::Unknown { why } => startup(StartupEvent::Unknown { unit: id, why: why.clone() }),
                    Found::Nothing => {}
                }
                agent.handle_found(index, found);
            }
            None => fresh.push(id),
        }
    }
    Ok((agent, frame, Left { fresh, before }))
}

/// Removes what was created, unless it is kept.
struct Undo {
    created: Option<Created>,
}

impl Undo {
    fn keep(mut self) {
        if let Some(created) = self.created.take() {
            created.keep();
        }
    }
}

fn workers(specs: &[(ProcessSpec, Option<cluster::Port>)]) -> Vec<cluster::WorkerSpec> {
    let workers = specs.iter().filter_map(|(spec, _)| match spec {
        ProcessSpec::Worker(spec) => Some(spec.clone()),
        ProcessSpec::Encoder(_) => None,
    });
    workers.collect()
}

/// What earlier supervisors left, of this cluster file and of older ones.
pub(crate) async fn find_all(
    dirs: &ClusterDirs,
    specs: &[(ProcessSpec, Option<cluster::Port>)],
    boot_id: &str,
) -> Result<BTreeMap<UnitId, Found>, StateError> {
    let mut ids: Vec<UnitId> = specs.iter().map(|(spec, _)| spec.id().clone()).collect();
    ids.extend(recorded(dirs));
    ids.sort();
    ids.dedup();
    // Side by side: each that is frozen takes its time to be silent.
    let mut looks = JoinSet::new();
    for id in ids {
        let (files, boot_id) = (UnitFiles::new(dirs.unit(&id)), boot_id.to_owned());
        looks.spawn(async move { adopt::find(&id, &files, &boot_id).await.map(|found| (id, found)) });
    }
    let mut all = BTreeMap::new();
    while let Some(found) = looks.join_next().await {
        match found {
            Ok(Ok((_, Found::Nothing))) => {}
            Ok(Ok((id, found))) => drop(all.insert(id, found)),
            Ok(Err(error)) => return Err(error),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    Ok(all)
}

/// The units that have a run directory.
pub(crate) fn recorded(dirs: &ClusterDirs) -> Vec<UnitId> {
    let entries = std::fs::read_dir(dirs.units()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // A unit id is any string; what is no unit has no lock that is held.
    names.filter_map(|name| serde_json::from_value(serde_json::Value::String(name)).ok()).collect()
}

/// What was in force, unless it is the same file with the same text.
fn what_was_in_force(
    dirs: &ClusterDirs,
    path: &Path,
    text: &str,
    parse: &super::Parse,
) -> Result<Option<Before>, AgentError> {
    let Some((old_path, old_text)) =
        dirs.in_force()?.filter(|(p, t)| (p.as_path(), t.as_str()) != (path, text))
    else {
        return Ok(None);
    };
    match parse(&old_path, &old_text) {
        Ok(cluster) => Ok(Some(Before { path: old_path, text: old_text, cluster })),
        // A file that it names may have moved, or a host have lost its address.
        Err(error) => Err(AgentError::Changed(vec![Action {
            kind: Kind::Refuse,
            unit: None,
            reason: format!("the file in force, to compare it with, is not valid any more: {error}"),
        }])),
    }
}

/// What the file asks for that cannot be done while the processes found run on.
fn refused(before: Option<&Before>, cluster: &Cluster, found: &BTreeMap<UnitId, Found>) -> Vec<Action> {
    let mut refused: Vec<Action> = before
        .map(|before| Plan::compare(&before.cluster, cluster).refused().cloned().collect())
        .unwrap_or_default();
    let known: Vec<UnitId> = cluster
        .ports()
        .map(cluster::Port::id)
        .chain(cluster.encoder_spec().map(|encoder| encoder.id))
        .collect();
    for id in found.keys() {
        if !known.contains(id) && !refused.iter().any(|action| action.unit.as_ref() == Some(id)) {
            let reason = "it runs and is not in the file".to_owned();
            refused.push(Action { kind: Kind::Refuse, unit: Some(id.clone()), reason });
        }
    }
    refused
}

impl Agent {
    /// Starts what does not run, and waits until all is ready, or until waiting longer is of no use.
    async fn start_up(
        &mut self,
        fresh: Vec<UnitId>,
        startup: &mut impl FnMut(StartupEvent),
    ) -> Result<(), Cut> {
        self.busy = Some("it is starting");
        for index in 0..self.units.len() {
            self.feed(index, Event::Want(Wanted::Up));
            let Some(unit) = self.units.get(index) else { continue };
            if let (true, Some(pid)) = (fresh.contains(&unit.id), unit.pid()) {
                startup(StartupEvent::Started { unit: unit.id.clone(), pid });
            }
        }
        if let Err(error) = self.configure_adopted_origins().await {
            tracing::warn!("{error}");
        }
        let begin = Instant::now();
        let mut told: Vec<UnitId> = Vec::new();
        let waited = self
            .until(START_LIMIT + SECOND_TRY, |agent| {
                let mut open = 0;
                for unit in &agent.units {
                    match unit.machine.state() {
                        State::Running { .. } if told.contains(&unit.id) => {}
                        // It answers soon, or is found frozen and replaced.
                        State::Running { .. } if !unit.is_ready() => open += 1,
                        State::Running { .. } => {
                            told.push(unit.id.clone());
                            let after_ms = u64::try_from(begin.elapsed().as_millis()).unwrap_or(u64::MAX);
                            startup(StartupEvent::Ready { unit: unit.id.clone(), after_ms });
                        }
                        State::Failed { .. } | State::Unknown { .. } => {}
                        State::Stopped
                        | State::Starting { .. }
                        | State::Stopping { .. }
                        | State::Killing { .. }
                        | State::Backoff { .. } => open += 1,
                    }
                }
                (open == 0).then_some(())
            })
            .await;
        if waited == Err(Cut::Interrupted) {
            return Err(Cut::Interrupted);
        }
        // The first reports follow at once; with them the status is worth a look.
        let reported = |agent: &mut Self| {
            let mut ready = agent.units.iter().filter(|unit| told.contains(&unit.id));
            ready.all(|unit| unit.report.is_some()).then_some(())
        };
        if self.until(REPORT_LIMIT, reported).await == Err(Cut::Interrupted) {
            return Err(Cut::Interrupted);
        }
        let status = self.status();
        let waiting: Vec<&UnitId> =
            self.units.iter().filter(|unit| !unit.is_ready()).map(|unit| &unit.id).collect();
        for unit in status.units.iter().filter(|unit| waiting.contains(&&unit.id)) {
            let why =
                if unit.note.is_empty() { "it is still starting".to_owned() } else { unit.note.clone() };
            startup(StartupEvent::NotReady { unit: unit.id.clone(), why });
        }
        startup(StartupEvent::Complete { ready: self.units.len() - waiting.len(), waiting: waiting.len() });
        self.busy = None;
        Ok(())
    }

    /// Turns the loop until told to end.
    async fn serve(&mut self) {
        while self.interrupt.is_none() {
            self.turn().await;
            if let Some(command) = self.pending.take() {
                Box::pin(self.carry_out(command)).await;
            }
        }
    }
}
