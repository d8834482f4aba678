//! From nothing to a supervised cluster, all or nothing; the loop; and its end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use cluster::events::Kind as Happened;
use cluster::plan::Action;
use cluster::{Cluster, EncoderSpec, Host, Port, ProcessSpec, Role, UnitId, WorkerSpec};
use control::api::{Apply, StartupEvent};
use control::start::Secret;
use tokio::signal::unix;
use tokio::sync::mpsc;

use super::config::{AgentConfig, AgentError, Parse};
use super::events::of_cluster;
use super::kernel::{Command, InForce, Input, Kernel as _, Leftover, Look, OnRecord};
use super::plan::{compare, differ_in_share};
use super::reconciler::{End, Reconciler, specs};
use super::surroundings::{self, Surroundings};
use crate::api;
use crate::exec::adopt::{Found, find_all};
use crate::exec::listeners;
use crate::exec::monitor::Message;
use crate::exec::own::settle_signals;
use crate::exec::process::Spawner;
use crate::exec::processes::{Processes, Remembered};
use crate::exec::record::{Departing, UnitFiles};
use crate::host::dirs::{ClusterDirs, Created};
use crate::host::files::StateError;
use crate::host::preflight::Problem;
use crate::host::systemd::{Manager, Order, Service};
use crate::host::{history, logs, preflight, procfs};

/// Commands that wait for the loop.
const COMMANDS: usize = 16;
/// Messages of the tasks that wait for the loop.
const MESSAGES: usize = 256;
/// Between two looks at logs and files.
const UPKEEP: Duration = Duration::from_secs(1);

/// Supervises a cluster until told to end: by SIGTERM, SIGINT or `down`, which stop its processes, or by SIGQUIT,
/// which leaves them to the next supervisor. Needs a tokio runtime with one thread, I/O and time.
///
/// # Errors
/// When it cannot start, and what then runs on, if anything does.
pub async fn run(config: AgentConfig, startup: impl FnMut(StartupEvent)) -> Result<(), AgentError> {
    // Boxed: it lives as long as the supervisor, and callers poll it among other things.
    Box::pin(supervise(config, startup)).await
}

/// Where everything that happens comes from.
struct Inputs {
    messages: mpsc::Receiver<Message>,
    commands: mpsc::Receiver<api::Asked>,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    quit: unix::Signal,
    hangup: unix::Signal,
    user: unix::Signal,
    upkeep: tokio::time::Interval,
    /// Of the service that this is.
    orders: Option<mpsc::Receiver<Order>>,
}

impl Inputs {
    fn new(
        commands: mpsc::Receiver<api::Asked>,
        messages: mpsc::Receiver<Message>,
        orders: Option<mpsc::Receiver<Order>>,
    ) -> std::io::Result<Self> {
        Ok(Self {
            messages,
            commands,
            orders,
            terminate: unix::signal(unix::SignalKind::terminate())?,
            interrupt: unix::signal(unix::SignalKind::interrupt())?,
            quit: unix::signal(unix::SignalKind::quit())?,
            hangup: unix::signal(unix::SignalKind::hangup())?,
            user: unix::signal(unix::SignalKind::user_defined1())?,
            upkeep: tokio::time::interval(UPKEEP),
        })
    }

    /// Waits for the next thing to happen, or until `due`.
    async fn next(
        &mut self,
        due: Instant,
        processes: &mut Processes,
        surroundings: &mut Surroundings,
    ) -> Input {
        loop {
            tokio::select! {
                Some(message) = self.messages.recv() => return processes.take_in(message),
                Some(api::Asked { by, request, reply }) = self.commands.recv() => match command(request) {
                    Asked::Decision(command) => return Input::Asked { client: processes.enrol(reply), by, command },
                    Asked::Events(after) => processes.tell_events(after, reply),
                    Asked::Secret(secret) => processes.replace_secret(&secret, reply),
                    Asked::Plan(file) => processes.read_for_plan(&file, by, reply),
                },
                _ = self.terminate.recv() => {
                    return if self.orders.is_some() { Input::Leave } else { Input::Stop };
                }
                Some(Order::Stop) = order(&mut self.orders) => return Input::Stop,
                _ = self.interrupt.recv() => return Input::Stop,
                _ = self.quit.recv() => return Input::Leave,
                _ = self.hangup.recv() => {
                    tracing::info!("SIGHUP opens the logs anew; `srsctl up` brings a changed file into force");
                    processes.reopen_logs();
                }
                _ = self.user.recv() => processes.reopen_logs(),
                () = tokio::time::sleep_until(due.into()) => return Input::Time,
                _ = self.upkeep.tick() => {
                    if processes.tend() {
                        surroundings.tend();
                        return Input::Warnings(processes.warnings());
                    }
                }
            }
        }
    }
}

/// What the service says; nothing ever where this is none.
async fn order(orders: &mut Option<mpsc::Receiver<Order>>) -> Option<Order> {
    match orders {
        Some(orders) => orders.recv().await,
        None => std::future::pending().await,
    }
}

/// What a client asks.
enum Asked {
    /// What takes a decision.
    Decision(Command),
    /// Events behind this number.
    Events(u64),
    /// A plan for this file, once it is read.
    Plan(Apply),
    /// Another secret.
    Secret(Secret),
}

fn command(request: api::Request) -> Asked {
    Asked::Decision(match request {
        api::Request::Events(after) => return Asked::Events(after),
        api::Request::Secret(secret) => return Asked::Secret(secret),
        api::Request::Plan(file) => return Asked::Plan(file),
        api::Request::Status => Command::Status,
        api::Request::Apply(file) => Command::Apply(file),
        api::Request::Restart(restart) => Command::Restart(restart),
        api::Request::Upgrade(upgrade) => Command::Upgrade(upgrade),
        api::Request::Down => Command::Down,
    })
}

async fn supervise(config: AgentConfig, mut startup: impl FnMut(StartupEvent)) -> Result<(), AgentError> {
    settle_signals();
    let (dirs, was_wanted) = (config.dirs.clone(), config.dirs.is_wanted());
    let stay_down = || {
        if !was_wanted {
            dirs.stay_down();
        }
    };
    let Assembled { mut inputs, mut processes, mut reconciler, mut surroundings, manager, before } =
        Box::pin(assemble(config)).await.inspect_err(|_| stay_down())?;
    let (end, is_started) = loop {
        while let Some(event) = reconciler.poll_startup() {
            startup(event);
        }
        if let Some(manager) = &manager {
            manager.show(&reconciler.summary());
            manager.live();
        }
        if let Some((end, is_started)) = reconciler.end() {
            break (end.clone(), is_started);
        }
        let input = inputs.next(reconciler.next_due(), &mut processes, &mut surroundings).await;
        reconciler.handle(Instant::now(), input, &mut processes);
    };
    if let End::Left(_) = end {
        surroundings.dirs.remove_agent_socket();
    }
    let last = match &end {
        End::Left(left) => format!("{left} processes are left to the next one"),
        End::Stopped(Ok(())) => String::new(),
        End::Stopped(Err(why)) => why.to_string(),
    };
    processes.record(of_cluster(Happened::SupervisorEnded, None, last));
    // With the clients that are owed nothing any more; the tasks end, the processes do not.
    drop((inputs, processes));
    surroundings.end().await;
    match end {
        _ if is_started => Ok(()),
        End::Left(processes) => Err(AgentError::Left(processes)),
        End::Stopped(Ok(())) => {
            if let Some(Err(error)) = before.map(|before| before.bring_back(&dirs)) {
                tracing::warn!(%error, "the file before is not in force again");
            }
            stay_down();
            Err(AgentError::Interrupted)
        }
        End::Stopped(Err(error)) => Err(AgentError::NotStopped(error.message)),
    }
}

struct Assembled {
    inputs: Inputs,
    processes: Processes,
    reconciler: Reconciler,
    surroundings: Surroundings,
    manager: Option<Manager>,
    /// What was in force, where nothing ran.
    before: Option<history::Before>,
}

/// All that is to be done before the first spawn, and the beginning of the start. When this fails, nothing was touched.
async fn assemble(config: AgentConfig) -> Result<Assembled, AgentError> {
    let AgentConfig { cluster, path, text, hosts, secret: given, dirs, binary, detached, parse, service } =
        config;
    let (manager, orders, kept) = match service {
        Some(Service { manager, kept, orders }) => (Some(manager), Some(orders), kept),
        None => (None, None, Vec::new()),
    };
    let running = || AgentError::AlreadyRunning { cluster: cluster.name.clone(), pid: dirs.supervisor_pid() };
    if dirs.is_supervised() {
        return Err(running());
    }
    let specs = specs(&cluster, &dirs);
    let problems = preflight::check(&cluster, &workers(&specs));
    if !problems.is_empty() {
        return Err(AgentError::Preflight(problems));
    }
    let system = |what| move |source| AgentError::System { what, source };
    let boot_id = procfs::boot_id().map_err(system("cannot read the boot id (is /proc mounted?)"))?;
    let spawner = Spawner::new(binary).map_err(system("cannot prepare to start processes"))?;
    let (commands, incoming) = mpsc::channel(COMMANDS);
    let (sender, messages) = mpsc::channel(MESSAGES);
    let inputs = Inputs::new(incoming, messages, orders).map_err(system("cannot handle signals"))?;

    // The order matters when this fails: first the directories go, then the lock.
    let created = dirs.create()?;
    let Some(lock) = dirs.lock()? else {
        // Another one was faster: the directories are its own now.
        created.keep();
        return Err(running());
    };
    let undo = Undo { created: Some(created) };
    let units = specs.iter().map(|(spec, _)| spec.id().clone());
    let is_ended = |(_, found): &(UnitId, Found)| matches!(found, Found::Ended { .. });
    let (ended, found): (BTreeMap<_, _>, BTreeMap<_, _>) =
        find_all(&dirs, units, &boot_id).await?.into_iter().partition(is_ended);
    let (mut before, mut left) = (None, Leftover::default());
    let mut was_in_force = None;
    if found.is_empty() {
        dirs.prove_room()?;
        was_in_force = Some(history::Before::now(&dirs)?);
    } else {
        before = what_was_in_force(&dirs, &path, (&text, &hosts), &parse)?;
        left = leftover(&dirs, &cluster, &found);
        let refused = refused(before.as_ref(), &cluster, &found, &left);
        if !refused.is_empty() {
            return Err(AgentError::Changed(refused));
        }
    }
    let (mut listeners, strange) = listeners::sort(kept, &cluster);
    let is_missing = |port: &&Port| !found.contains_key(&port.id()) && !listeners.contains_key(&port.id());
    let missing: Vec<_> = cluster.ports().filter(is_missing).collect();
    let bound = listeners::bind_all(missing)
        .map_err(|errors| AgentError::Preflight(errors.into_iter().map(Problem::from).collect()))?;
    listeners.extend(bound);
    let listener = surroundings::listen(&dirs)?;
    let kept = || found.values().find_map(Found::secret);
    // What runs already needs no log, and no file that says again what it says.
    let (is_takeover, is_changed) = (!found.is_empty(), before.is_some());
    let given = given.filter(|_| !is_takeover);
    let committed = given.map_or(Ok(()), |given| dirs.put_secret(&given));
    let in_force = Apply { hosts, ..Apply::new(path.clone(), text) };
    let committed = committed.and_then(|()| dirs.ensure_secret(kept)).and_then(|secret| {
        let what = if is_changed { "taken over with another file" } else { "brought up" }.to_owned();
        let new = history::New { file: &in_force, by: Some(procfs::this_process()), what };
        let generation = match history::put_in_force(&dirs, new, SystemTime::now()) {
            Ok(generation) => generation,
            Err(error) if !is_takeover || is_changed => return Err(error),
            Err(error) => {
                tracing::warn!(%error, "file in force not written");
                history::newest(&dirs)
            }
        };
        if detached {
            open_log(&dirs.agent_log(), is_takeover)?;
        }
        Ok((secret, generation))
    });
    let (secret, generation) = match committed {
        Ok(committed) => committed,
        Err(error) => {
            dirs.remove_agent_socket();
            return Err(error.into());
        }
    };
    undo.keep();

    let surroundings = Surroundings::new(lock, dirs.clone(), listener, commands);
    let remembered = Remembered {
        boot_id,
        secret,
        in_force,
        own_log: detached.then(|| dirs.agent_log()),
        manager: manager.clone(),
    };
    if let Some(manager) = &manager {
        strange.iter().for_each(|name| manager.give_up_named(name));
    }
    let mut processes = Processes::new(dirs.clone(), parse, spawner, remembered, listeners, sender);
    let mut first = format!("version {}, pid {}", env!("CARGO_PKG_VERSION"), std::process::id());
    if processes.follows_a_killed_one() {
        first.push_str("; the one before ended without a word");
    }
    processes.record(of_cluster(Happened::SupervisorStarted, None, first));
    for (unit, found) in ended {
        // Told only now, that there is a log.
        processes.found(&unit, found);
    }
    let looks: BTreeMap<UnitId, Look> = found
        .into_iter()
        .map(|(unit, found)| {
            let look = processes.found(&unit, found);
            (unit, look)
        })
        .collect();
    let files = (cluster, path, dirs, generation);
    let reconciler = Reconciler::start(Instant::now(), files, before, (looks, left), &mut processes);
    Ok(Assembled { inputs, processes, reconciler, surroundings, manager, before: was_in_force })
}

/// Has the output of this process go to its log; nowhere until that can be opened, in a takeover.
fn open_log(log: &Path, is_takeover: bool) -> Result<(), StateError> {
    let fail = |source| StateError { what: "cannot open log", path: log.to_owned(), source };
    match logs::write_here(log).map_err(fail) {
        Err(error) if is_takeover => {
            tracing::warn!(%error, "the supervisor has no log until this is mended");
            logs::write_nowhere().map_err(fail)
        }
        other => other,
    }
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

/// What was in force, unless it is the same file with the same text.
fn what_was_in_force(
    dirs: &ClusterDirs,
    path: &Path,
    (text, hosts): (&str, &[String]),
    parse: &Parse,
) -> Result<Option<InForce>, AgentError> {
    let old_hosts = dirs.hosts_in_force()?;
    let is_same = |p: &Path, t: &str| (p, t, &*old_hosts) == (path, text, hosts);
    let Some((old_path, old_text)) = dirs.in_force()?.filter(|(p, t)| !is_same(p, t)) else {
        return Ok(None);
    };
    match parse(&old_path, &old_text) {
        Ok(cluster) => {
            let cluster = cluster.only(&old_hosts);
            let file = Apply { hosts: old_hosts, ..Apply::new(old_path, old_text) };
            Ok(Some(InForce { file, cluster }))
        }
        // A file that it names may have moved, or a host have lost its address.
        Err(error) => Err(AgentError::Changed(vec![format!(
            "the file in force, to compare it with, is not valid any more: {error}"
        )])),
    }
}

/// What was found beside what the file asks for, as far as its configs tell what it is.
fn leftover(dirs: &ClusterDirs, cluster: &Cluster, found: &BTreeMap<UnitId, Found>) -> Leftover {
    let known = |id: &UnitId| match id.parts().0 {
        Role::Encoder => cluster.encoder_spec().is_some(),
        Role::Origin | Role::Edge => cluster.ports().any(|port| port.id() == *id),
    };
    let surplus = found.keys().filter(|id| !known(id)).filter_map(|id| {
        let config = dirs.config(id);
        let (spec, port) = if id.parts().0 == Role::Encoder {
            (ProcessSpec::Encoder(EncoderSpec::from_file(&config).ok()?), None)
        } else {
            let spec = WorkerSpec::from_file(&config).ok()?;
            let port = Port {
                role: spec.role,
                host: Host { name: spec.host.clone(), address: spec.host_address() },
                port: spec.listen.port(),
                listen: spec.listen.ip(),
                options: spec.options.clone(),
            };
            (ProcessSpec::Worker(spec), Some(port))
        };
        (spec.id() == id).then_some((spec, port))
    });
    let elsewhere = |port: &Port| match found.get(&port.id()) {
        Some(Found::Process { listener: Some(listener), .. }) => {
            let bound = listeners::bound_to(listener).filter(|bound| *bound != port.listen_addr())?;
            Some((port.id(), bound))
        }
        Some(_) | None => None,
    };
    let misplaced = cluster.ports().filter_map(elsewhere).collect();
    let on_record = |unit: &UnitId| {
        let Departing { until_ms, limit_ms, consent } = UnitFiles::new(dirs.unit(unit)).departing()?;
        let left = Duration::from_millis(until_ms).saturating_sub(procfs::since_boot());
        Some((unit.clone(), OnRecord { left, limit: Duration::from_millis(limit_ms), consent }))
    };
    let on_record = found.keys().filter_map(on_record).collect();
    let encoder = UnitId::encoder();
    let runs = || EncoderSpec::from_file(&dirs.config(&encoder)).ok();
    let is_encoder_old = matches!(found.get(&encoder), Some(Found::Process { .. }))
        && cluster.encoder_spec().zip(runs()).is_some_and(|(wanted, runs)| wanted != runs);
    Leftover { surplus: surplus.collect(), misplaced, is_encoder_old, on_record }
}

/// What another file than the one in force asks for that cannot be done while the processes found run on: whoever brings it into force
/// asks a supervisor that has taken them over.
fn refused(
    before: Option<&InForce>,
    cluster: &Cluster,
    found: &BTreeMap<UnitId, Found>,
    left: &Leftover,
) -> Vec<String> {
    let mut refused = Vec::new();
    let current = before.map(|before| &before.cluster);
    let spec = |cluster: &Cluster, id: &UnitId| {
        let port = cluster.ports().find(|port| port.id() == *id)?;
        Some(WorkerSpec { forward: Vec::new(), ..cluster.worker_spec(port, PathBuf::new()) })
    };
    for change in current.into_iter().flat_map(|current| compare(Some(current), cluster)) {
        let is_small = || {
            let specs = current
                .and_then(|current| Some((spec(current, &change.unit)?, spec(cluster, &change.unit)?)));
            specs.is_some_and(|(old, new)| differ_in_share(&old, &new))
        };
        match change.action {
            Action::Nothing | Action::Unknown | Action::Start => {}
            Action::Reconfigure if is_small() => {}
            Action::Stop | Action::Restart | Action::Reconfigure => {
                refused.push(format!("cannot {} {}: {}", change.action, change.unit, change.why.join("; ")));
            }
        }
    }
    let known = |id: &UnitId| match id.parts().0 {
        Role::Encoder => cluster.encoder_spec().is_some(),
        Role::Origin | Role::Edge => cluster.ports().any(|port| port.id() == *id),
    };
    let is_told = |id: &UnitId| left.surplus.iter().any(|(spec, _)| spec.id() == id);
    let unknown = found.keys().filter(|id| !known(id) && !is_told(id));
    refused.extend(unknown.map(|id| {
        format!("{id} runs and is not in the file, and its config cannot be read; stop it with the others: srsctl down")
    }));
    refused
}
