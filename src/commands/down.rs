//! `srsctl down`: the end of a cluster, also of one whose supervisor was killed.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cluster::UnitId;
use supervisor::ClientError;
use supervisor::orphans::{self, OrphansError};

use crate::failure::{Failure, code};
use crate::subject::{Global, Subject};
use crate::terminal::complain;

/// Bytes read of an answer.
const ANSWER_MAX: u64 = 80;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's file or its name
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// Remove logs, generated configs and the secret too
    #[arg(long)]
    purge: bool,
    /// Do not ask, where the cluster was not named and its file is not here
    #[arg(short, long)]
    yes: bool,
}

/// Stops the cluster.
pub(crate) async fn run(global: &Global, Args { path, purge, yes }: Args) -> Result<ExitCode, Failure> {
    let subject = &Subject::find(global, path.as_deref(), "down")?;
    if subject.is_guessed() && !yes {
        ask(subject)?;
    }
    let asked = match subject.client().down(complain).await {
        Ok(()) => true,
        Err(ClientError::NotRunning { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    // What no supervisor knows of may be left, too.
    if !asked || orphans::living(subject.dirs()) > 0 {
        let report = orphans::down(subject.dirs(), complain).await.map_err(|error| match error {
            OrphansError::Supervised { .. } => Failure::new(code::LOCKED, error),
            error => Failure::failed(error),
        })?;
        if !report.left.is_empty() {
            let left: String = report.left.iter().map(|(id, why, lock)| left_alone(id, why, lock)).collect();
            return Err(Failure::failed(format!("not all is stopped:{left}")));
        }
        if report.stopped.is_empty() {
            let said = subject.not_running();
            if subject.holders().is_empty() {
                complain(&said);
            } else {
                return Err(Failure::failed(format!("{said}\nnothing is stopped: {NOT_OURS}")));
            }
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

/// Whether the cluster that happens to be the only one is meant: this folder is not its own.
fn ask(subject: &Subject) -> Result<(), Failure> {
    let name = subject.name();
    let file = subject.origin_of_file().map(|path| format!(" ({})", path.display())).unwrap_or_default();
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "the only cluster here is {name}{file}, and nobody named it; to stop it: srsctl down {name}, or srsctl down --yes"
        )));
    }
    complain(&format!("The only cluster here is {name}{file}. Stop it? [y/N]"));
    let mut answer = String::new();
    let read = io::stdin().lock().take(ANSWER_MAX).read_line(&mut answer);
    let is_yes = read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES");
    if is_yes { Ok(()) } else { Err(Failure::failed(format!("cluster {name} is left as it is"))) }
}

/// What to do about a port that a worker of another cluster, user or place has.
const NOT_OURS: &str = "stop that cluster by its own name, as its user, with its --state-dir";

fn left_alone(id: &UnitId, why: &str, lock: &Path) -> String {
    format!("\n  {id}: left alone: {why}; who holds its lock tells: fuser -v {}", lock.display())
}
