//! `srsctl down`: the end of a cluster, also of one whose supervisor was killed.

use std::path::Path;
use std::process::ExitCode;

use cluster::UnitId;
use supervisor::ClientError;
use supervisor::orphans::{self, OrphansError};

use crate::failure::{Failure, code};
use crate::subject::Subject;
use crate::terminal::complain;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Remove logs, generated configs and the secret too
    #[arg(long)]
    purge: bool,
}

/// Stops the cluster.
pub(crate) async fn run(subject: &Subject, Args { purge }: Args) -> Result<ExitCode, Failure> {
    let asked = match subject.client().down(complain).await {
        Ok(()) => true,
        Err(ClientError::NotRunning { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    if !asked {
        let report = orphans::down(subject.dirs(), complain).await.map_err(|error| match error {
            OrphansError::Supervised { .. } => Failure::new(code::LOCKED, error),
            error => Failure::failed(error),
        })?;
        if !report.left.is_empty() {
            let left: String = report.left.iter().map(|(id, why, lock)| left_alone(id, why, lock)).collect();
            return Err(Failure::failed(format!("not all is stopped:{left}")));
        }
        if report.stopped.is_empty() {
            complain(&subject.not_running());
        }
    }
    if purge {
        if !subject.dirs().purge()? {
            let name = subject.name();
            return Err(Failure::new(
                code::LOCKED,
                format!("cluster {name} is being started again; nothing is removed"),
            ));
        }
        complain(&format!("cluster {}: logs, generated configs and the secret are removed", subject.name()));
    }
    Ok(ExitCode::SUCCESS)
}

fn left_alone(id: &UnitId, why: &str, lock: &Path) -> String {
    format!("\n  {id}: left alone: {why}; who holds its lock tells: fuser -v {}", lock.display())
}
