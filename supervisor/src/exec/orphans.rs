//! `down` without a supervisor: stops what a killed one left behind.

use std::path::PathBuf;
use std::time::Duration;

use cluster::{Role, UnitId};
use control::{Request, ask_once};

use crate::exec::adopt::{self, Found};
use crate::exec::process::Process;
use crate::exec::record::UnitFiles;
use crate::host::dirs::ClusterDirs;
use crate::host::files::StateError;
use crate::host::procfs;
use crate::machine::state::STOP_STEP;

/// How long the kernel may take to end a process that was sent SIGKILL.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Stopped {
    /// Processes that were proved to be the cluster's, and ended.
    pub stopped: Vec<UnitId>,
    /// What was left alone, why, and the lock that it holds.
    pub left: Vec<(UnitId, String, PathBuf)>,
}

/// Why nothing was done.
#[derive(Debug, thiserror::Error)]
pub enum OrphansError {
    /// A supervisor runs: it does that itself.
    #[error("a supervisor of cluster {cluster} runs; it is what `down` has to ask")]
    Supervised {
        /// The cluster's name.
        cluster: String,
    },
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The system does not tell what a proof needs.
    #[error("cannot read the boot id (is /proc mounted?): {0}")]
    BootId(std::io::Error),
}

/// Whether there is anything that [`down`] would look at.
#[must_use]
pub fn are_there(dirs: &ClusterDirs) -> bool {
    dirs.run().exists()
}

/// A unit on record, looked at without a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remnant {
    /// The unit.
    pub id: UnitId,
    /// The process that was started last, if it is on record.
    pub pid: Option<u32>,
    /// Whether a process holds the unit's lock.
    pub is_alive: bool,
}

/// The units of the cluster that are on record, sorted by id.
#[must_use]
pub fn remnants(dirs: &ClusterDirs) -> Vec<Remnant> {
    let mut ids = adopt::recorded(dirs);
    ids.sort();
    let look = |id: UnitId| {
        let files = UnitFiles::new(dirs.unit(&id));
        let is_alive = std::fs::File::open(files.alive_lock()).is_ok_and(|lock| {
            let operation = rustix::fs::FlockOperation::NonBlockingLockShared;
            rustix::fs::flock(&lock, operation) == Err(rustix::io::Errno::WOULDBLOCK)
        });
        Remnant { pid: files.read(&id).map(|record| record.process.pid), id, is_alive }
    };
    ids.into_iter().map(look).collect()
}

/// How many processes of the cluster live, by the locks that they hold.
#[must_use]
pub fn living(dirs: &ClusterDirs) -> usize {
    remnants(dirs).into_iter().filter(|remnant| remnant.is_alive).count()
}

/// Stops every process of the cluster that can be proved to be its own: encoder, then edges, then origin; and removes
/// the run directory, unless something was left alone.
///
/// # Errors
/// When nothing could be done.
pub async fn down(dirs: &ClusterDirs, mut progress: impl FnMut(&str)) -> Result<Stopped, OrphansError> {
    let mut stopped = Stopped::default();
    if !are_there(dirs) {
        return Ok(stopped);
    }
    let supervised = || OrphansError::Supervised { cluster: dirs.name().to_owned() };
    let _lock = dirs.lock()?.ok_or_else(supervised)?;
    let boot_id = procfs::boot_id().map_err(OrphansError::BootId)?;
    let mut ids = adopt::recorded(dirs);
    ids.sort_by_key(stop_order);
    for id in ids {
        let files = UnitFiles::new(dirs.unit(&id));
        match adopt::find(&id, &files, &boot_id).await? {
            Found::Nothing => files.remove(),
            Found::Unknown { why } => stopped.left.push((id, why, files.alive_lock())),
            Found::Process { process, .. } => match stop(&process, &files).await {
                Ok(()) => {
                    files.remove();
                    progress(&format!("{id} is stopped"));
                    stopped.stopped.push(id);
                }
                Err(why) => stopped.left.push((id, why, files.alive_lock())),
            },
        }
    }
    if stopped.left.is_empty() {
        dirs.remove_run()?;
    }
    Ok(stopped)
}

fn stop_order(id: &UnitId) -> u8 {
    let of = |role: Role| id.as_str().starts_with(role.as_str());
    match (of(Role::Encoder), of(Role::Edge)) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    }
}

async fn stop(process: &Process, files: &UnitFiles) -> Result<(), String> {
    let ends = |limit: Duration| async move { tokio::time::timeout(limit, process.wait()).await.is_ok() };
    let asked = ask_once(&files.control(), &Request::Stop, None, STOP_STEP).await;
    if asked.is_ok() && ends(STOP_STEP).await {
        return Ok(());
    }
    process.terminate();
    if ends(STOP_STEP).await {
        return Ok(());
    }
    process.kill();
    if ends(KILL_LIMIT).await { Ok(()) } else { Err("the kernel does not end it".to_owned()) }
}
