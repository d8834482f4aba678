//! `down` without a supervisor: stops what a killed one left behind.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use cluster::{Cluster, Port, Role, UnitId};
use control::Request;
use nix::unistd::{Uid, User};

use crate::exec::adopt::{self, Found};
use crate::exec::process::Process;
use crate::exec::record::UnitFiles;
use crate::exec::strays::{self, Started};
use crate::host::dirs::ClusterDirs;
use crate::host::files::StateError;
use crate::host::{owner, procfs};
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
    dirs.run().exists() || !strays::find(dirs).is_empty()
}

/// What the names of hosts (in lower case) stand for as long as the workers of the cluster run that were brought up with them,
/// supervised or not: a name service that is away keeps nobody from taking them over, and a name that has moved moves no port.
#[must_use]
pub fn addresses(dirs: &ClusterDirs) -> BTreeMap<String, IpAddr> {
    strays::addresses(dirs)
}

/// A unit on record, looked at without a supervisor.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remnant {
    /// The unit.
    pub id: UnitId,
    /// The process that was started last, if it is on record.
    pub pid: Option<u32>,
    /// Whether a process holds the unit's lock, or was started as its process and lives.
    pub is_alive: bool,
}

/// The units of the cluster that are on record or have a process, sorted by id.
#[must_use]
pub fn remnants(dirs: &ClusterDirs) -> Vec<Remnant> {
    let strays = strays::find(dirs);
    let look = |id: UnitId| {
        let files = UnitFiles::new(dirs.unit(&id));
        let stray = strays.get(&id).copied();
        let recorded = || files.read(&id).map(|record| record.process.pid);
        Remnant { pid: stray.or_else(recorded), is_alive: stray.is_some() || files.is_held(), id }
    };
    known(dirs, &strays).into_iter().map(look).collect()
}

/// The units on record and those of `strays`, sorted.
fn known(dirs: &ClusterDirs, strays: &BTreeMap<UnitId, u32>) -> Vec<UnitId> {
    let mut ids = adopt::recorded(dirs);
    ids.extend(strays.keys().cloned());
    ids.sort();
    ids.dedup();
    ids
}

/// A worker, of whatever cluster and user, that has a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The port.
    pub address: SocketAddr,
    /// The worker's process.
    pub pid: u32,
    /// Whose it is.
    pub user: String,
    /// Where its cluster's state is; the last part is that cluster's name.
    pub lib: PathBuf,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { address, pid, user, lib } = self;
        let cluster = lib.file_name().unwrap_or_default().display();
        write!(f, "{address}: a worker (pid {pid}) of cluster {cluster} of user {user}, in {}", lib.display())
    }
}

/// Who has the ports of `cluster`, of all workers that this user can see.
#[must_use]
pub fn holders(cluster: &Cluster) -> Vec<Holder> {
    let workers: Vec<Started> = strays::all().collect();
    let holds = |port: &Port| {
        let started = workers.iter().filter(|worker| worker.unit == port.id());
        // A keeper is named by its worker.
        let worker = started.max_by_key(|worker| procfs::session(worker.pid) != Some(worker.pid))?;
        let address = port.listen_addr();
        let user = User::from_uid(Uid::from_raw(worker.uid)).ok().flatten();
        owner::is_listened_to(address).then(|| Holder {
            address,
            pid: worker.pid,
            user: user.map_or_else(|| worker.uid.to_string(), |user| user.name),
            lib: worker.lib().to_owned(),
        })
    };
    cluster.ports().filter_map(holds).collect()
}

/// How many processes of the cluster live.
#[must_use]
pub fn living(dirs: &ClusterDirs) -> usize {
    remnants(dirs).into_iter().filter(|remnant| remnant.is_alive).count()
}

/// Takes the cluster down: as [`stop_all`], and it does not come up by itself.
///
/// # Errors
/// When nothing could be done.
pub async fn down(dirs: &ClusterDirs, progress: impl FnMut(&str)) -> Result<Stopped, OrphansError> {
    let stopped = stop_all(dirs, progress).await?;
    dirs.stay_down();
    Ok(stopped)
}

/// Stops every process of the cluster that can be proved to be its own: encoder, then edges, then origin; and removes
/// the run directory, unless something was left alone.
///
/// # Errors
/// When nothing could be done.
pub async fn stop_all(dirs: &ClusterDirs, mut progress: impl FnMut(&str)) -> Result<Stopped, OrphansError> {
    let mut stopped = Stopped::default();
    if !are_there(dirs) {
        return Ok(stopped);
    }
    let supervised = || OrphansError::Supervised { cluster: dirs.name().to_owned() };
    let _lock = dirs.lock()?.ok_or_else(supervised)?;
    let boot_id = procfs::boot_id().map_err(OrphansError::BootId)?;
    let strays = strays::find(dirs);
    let mut ids = known(dirs, &strays);
    ids.sort_by_key(stop_order);
    for id in ids {
        let files = UnitFiles::new(dirs.unit(&id));
        match adopt::find(&id, &files, strays.get(&id).copied(), &boot_id).await? {
            Found::Nothing => files.remove(),
            Found::Ended { pid } => {
                files.remove();
                progress(&format!("{id}: its keeper had died; its worker (pid {pid}) is killed"));
                stopped.stopped.push(id);
            }
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
    let asked = async {
        let (mut connection, _) = adopt::open(&files.control(), Some(process.identity().pid))?;
        connection.ask(&Request::Stop, None, STOP_STEP).await
    };
    if asked.await.is_ok() && ends(STOP_STEP).await {
        return Ok(());
    }
    process.terminate();
    if ends(STOP_STEP).await {
        return Ok(());
    }
    process.kill();
    if ends(KILL_LIMIT).await { Ok(()) } else { Err("the kernel does not end it".to_owned()) }
}
