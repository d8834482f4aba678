//! The end of a cluster on this machine, also of one whose supervisor was killed.

use std::path::Path;

use cluster::UnitId;
use supervisor::orphans::{self, OrphansError};
use supervisor::{Client, ClientError, ClusterDirs};

use crate::failure::{Failure, code};

/// Stops all that runs of it; false if nothing did.
///
/// # Errors
/// When not all is stopped.
pub(crate) async fn stop(dirs: &ClusterDirs, mut say: impl FnMut(&str)) -> Result<bool, Failure> {
    let asked = match Client::new(dirs.clone()).down(&mut say).await {
        Ok(()) => true,
        Err(ClientError::NotRunning { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    // What no supervisor knows of may be left, too.
    if asked && orphans::living(dirs) == 0 {
        return Ok(true);
    }
    let report = orphans::down(dirs, &mut say).await.map_err(|error| match error {
        OrphansError::Supervised { .. } => Failure::new(code::LOCKED, error),
        error => Failure::failed(error),
    })?;
    if !report.left.is_empty() {
        let left: String = report.left.iter().map(|(id, why, lock)| left_alone(id, why, lock)).collect();
        return Err(Failure::failed(format!("not all is stopped:{left}")));
    }
    Ok(asked || !report.stopped.is_empty())
}

/// Removes logs, generated configs and the secret too.
///
/// # Errors
/// When the cluster is being started again, or something cannot be removed.
pub(crate) fn purge(dirs: &ClusterDirs) -> Result<(), Failure> {
    let name = dirs.name();
    if dirs.purge()? {
        return Ok(());
    }
    Err(Failure::new(code::LOCKED, format!("cluster {name} is being started again; nothing is removed")))
}

fn left_alone(id: &UnitId, why: &str, lock: &Path) -> String {
    format!("\n  {id}: left alone: {why}; who holds its lock tells: fuser -v {}", lock.display())
}
