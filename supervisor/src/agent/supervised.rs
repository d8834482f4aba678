//! One supervised process with all that belongs to it: machine, listener, process, reports.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::stats::{ProcessStats, StreamStats};
use cluster::{Cluster, Port, ProcessSpec, Role, UnitId};
use control::fds::{Lent, Name};
use control::packet;
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinSet;

use super::monitor::{Signal, Watched};
use crate::dirs::ClusterDirs;
use crate::files::write_atomic;
use crate::machine::health::Ladder;
use crate::machine::state::{Event, State};
use crate::machine::unit::Unit;
use crate::process::{Given, Process, Spawner};
use crate::record::{AliveLock, Record, SCHEMA, UnitFiles};
use crate::{listeners, logs, procfs};

/// Descriptors that the encoder uses at most.
const ENCODER_FDS: u64 = 64;

/// One unit.
#[derive(Debug)]
pub(super) struct Supervised {
    pub(super) id: UnitId,
    pub(super) spec: ProcessSpec,
    /// None of an encoder.
    pub(super) port: Option<Port>,
    pub(super) files: UnitFiles,
    pub(super) config: PathBuf,
    pub(super) log: PathBuf,
    pub(super) machine: Unit,
    /// Kept while processes come and go. None of an encoder, of one that was given up, and of an adopted process that
    /// could not lend it.
    pub(super) listener: Option<OwnedFd>,
    pub(super) live: Option<Live>,
    pub(super) report: Option<Report>,
    pub(super) probe: Ladder,
    /// What a start still waits for.
    pub(super) not_ready: Option<String>,
    /// It is unknown, and another look at it is under way.
    pub(super) looked_for: bool,
    /// A stream that is live at the origin and not here, since when.
    pub(super) missing: Option<(String, Instant)>,
}

/// A process, and the tasks that watch it; dropping it ends the tasks, not the process.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) instance: u64,
    pub(super) process: Arc<Process>,
    pub(super) adopted: bool,
    pub(super) started: Instant,
    /// Asks it for a report now.
    pub(super) refresh: Arc<Notify>,
    _tasks: JoinSet<()>,
}

/// The newest report of a process.
#[derive(Debug)]
pub(super) struct Report {
    pub(super) at: Instant,
    pub(super) process: ProcessStats,
    pub(super) streams: Vec<StreamStats>,
}

/// The specs of all processes of a cluster: origins, edges in the file's order, encoder.
pub(super) fn specs(cluster: &Cluster, dirs: &ClusterDirs) -> Vec<(ProcessSpec, Option<Port>)> {
    let workers = cluster
        .ports()
        .map(|port| (ProcessSpec::Worker(cluster.worker_spec(port, dirs.secret())), Some(port.clone())));
    workers.chain(cluster.encoder_spec().map(|spec| (ProcessSpec::Encoder(spec), None))).collect()
}

impl Supervised {
    pub(super) fn new(
        spec: ProcessSpec,
        port: Option<Port>,
        dirs: &ClusterDirs,
        listeners: &mut BTreeMap<UnitId, OwnedFd>,
    ) -> Self {
        let id = spec.id().clone();
        Self {
            listener: listeners.remove(&id),
            files: UnitFiles::new(dirs.unit(&id)),
            config: dirs.config(&id),
            log: dirs.log(&id),
            machine: Unit::default(),
            live: None,
            report: None,
            probe: Ladder::default(),
            not_ready: None,
            looked_for: false,
            missing: None,
            id,
            spec,
            port,
        }
    }

    pub(super) fn role(&self) -> Role {
        self.spec.role()
    }

    pub(super) fn pid(&self) -> Option<u32> {
        self.live.as_ref().map(|live| live.process.identity().pid)
    }

    /// The text of its generated config.
    pub(super) fn config_text(&self) -> String {
        match &self.spec {
            ProcessSpec::Worker(spec) => spec.to_file_text(),
            ProcessSpec::Encoder(spec) => spec.to_file_text(),
        }
    }

    /// Starts a process. An event for the machine, if there is none.
    pub(super) fn spawn(
        &mut self,
        spawner: &Spawner,
        boot_id: &str,
        instance: u64,
        signals: &mpsc::Sender<Signal>,
    ) -> Result<(), Event> {
        let fail = |why: String| Event::SpawnFailed { fatal: false, why };
        self.files.create().map_err(|error| fail(error.to_string()))?;
        let AliveLock::Free(lock) = self.files.take_lock().map_err(|error| fail(error.to_string()))? else {
            return Err(Event::Unproven { why: "a process that it left behind holds its lock".to_owned() });
        };
        if let (None, Some(port)) = (&self.listener, &self.port) {
            self.listener = Some(listeners::bind(port).map_err(|error| fail(error.to_string()))?);
        }
        write_atomic(&self.config, self.config_text().as_bytes()).map_err(|error| fail(error.to_string()))?;
        let control = packet::Listener::bind(&self.files.control())
            .map_err(|error| fail(format!("control socket {}: {error}", self.files.control().display())))?;
        if logs::is_full(&self.log)
            && let Err(error) = logs::rotate(&self.log)
        {
            tracing::warn!(unit = %self.id, %error, "log not rotated");
        }
        let log = logs::open(&self.log).map_err(|error| fail(format!("{}: {error}", self.log.display())))?;
        let token = self.files.begin(&lock).map_err(|error| fail(error.to_string()))?;
        let mut lent = Lent::default();
        if let Some(listener) = &self.listener {
            lent.add(Name::Listener, listener.try_clone().map_err(|error| fail(error.to_string()))?);
        }
        lent.add(Name::Control, control);
        lent.add(Name::Lock, lock);
        let listener_fd = lent.number(Name::Listener);
        let process = spawner
            .spawn(Given {
                subcommand: if self.role() == Role::Encoder { "encoder" } else { "worker" },
                config: &self.config,
                log,
                lent,
                descriptors: match &self.spec {
                    ProcessSpec::Worker(spec) => spec.fds_needed(),
                    ProcessSpec::Encoder(_) => ENCODER_FDS,
                },
            })
            .map_err(|error| {
                self.files.forget();
                Event::SpawnFailed { fatal: error.is_fatal(), why: error.to_string() }
            })?;
        let record = Record {
            schema: SCHEMA.to_owned(),
            unit: self.id.clone(),
            token,
            boot_id: boot_id.to_owned(),
            process: process.identity(),
            listener_fd,
        };
        if let Err(error) = self.files.write(&record) {
            // The token in the lock file is proof enough.
            tracing::warn!(unit = %self.id, %error, "process not recorded");
        }
        tracing::info!(unit = %self.id, pid = process.identity().pid, "started");
        self.watch(process, false, instance, signals);
        Ok(())
    }

    /// Takes over a process that an earlier supervisor started.
    pub(super) fn adopt(
        &mut self,
        process: Process,
        listener: Option<OwnedFd>,
        instance: u64,
        signals: &mpsc::Sender<Signal>,
    ) {
        if let Some(port) = &self.port {
            self.listener = listener
                .filter(|listener| listeners::is_bound_to(listener, port))
                .or_else(|| self.listener.take());
        }
        tracing::info!(unit = %self.id, pid = process.identity().pid, listener = self.listener.is_some(), "adopted");
        self.watch(process, true, instance, signals);
    }

    fn watch(&mut self, process: Process, adopted: bool, instance: u64, signals: &mpsc::Sender<Signal>) {
        let (process, refresh) = (Arc::new(process), Arc::new(Notify::new()));
        let age = if adopted { procfs::age(process.identity().start_ticks) } else { None };
        let now = Instant::now();
        let watched = Watched {
            unit: self.id.clone(),
            instance,
            process: Arc::clone(&process),
            control: self.files.control(),
            address: self.port.as_ref().map(|port| (port.host.name.clone(), port.port)),
            signals: signals.clone(),
            refresh: Arc::clone(&refresh),
        };
        self.report = None;
        self.probe = Ladder::default();
        self.not_ready = None;
        self.missing = None;
        self.live = Some(Live {
            instance,
            process,
            adopted,
            started: now.checked_sub(age.unwrap_or_default()).unwrap_or(now),
            refresh,
            _tasks: watched.watch(adopted),
        });
    }

    /// Its process has ended.
    pub(super) fn handle_exit(&mut self) {
        self.live = None;
        self.report = None;
        self.missing = None;
        self.files.forget();
    }

    /// Whether it serves, as far as can be known. One that was taken over counts only when it has reported.
    pub(super) fn is_ready(&self) -> bool {
        let is_silent = self.report.is_none() && self.live.as_ref().is_some_and(|live| live.adopted);
        matches!(self.machine.state(), State::Running { .. }) && !is_silent
    }

    /// The newest report, unless it is too old to speak of now.
    pub(super) fn fresh_report(&self) -> Option<&Report> {
        self.report.as_ref().filter(|report| report.at.elapsed() < Duration::from_secs(5))
    }
}
