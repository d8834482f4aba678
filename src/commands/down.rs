//! `srsctl down`: the end of a cluster, also of one whose supervisor was killed, on all its machines.

pub(crate) mod several;

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::path::PathBuf;
use std::process::ExitCode;

use supervisor::orphans;

use crate::failure::Failure;
use crate::fleet::{Fleet, Reach};
use crate::stopping;
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
    /// Do not ask, where the cluster's file is not here and was not named
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Stops the cluster.
pub(crate) async fn run(
    global: &Global,
    Args { path, purge, yes, reach }: Args,
) -> Result<ExitCode, Failure> {
    let subject = &Subject::find_to_change(global, path.as_deref(), "down")?;
    // Whoever names a file has that in mind, and a name may be another cluster's than that of the folder that somebody is in.
    let is_aimed = !subject.is_guessed() && (!subject.is_called() || subject.is_here());
    if !is_aimed && !yes && (subject.is_guessed() || purge || orphans::are_there(subject.dirs())) {
        ask(subject)?;
    }
    if let Some(fleet) = Fleet::of(global, subject)? {
        return several::run(fleet, &reach, purge).await;
    }
    let is_stopped = stopping::stop(subject.dirs(), complain).await?;
    if !is_stopped {
        let said = subject.not_running();
        if !subject.holders().is_empty() {
            return Err(Failure::failed(format!("{said}\nnothing is stopped: {NOT_OURS}")));
        }
        complain(&said);
    }
    if purge {
        stopping::purge(subject.dirs())?;
        complain(&format!("cluster {}: logs, generated configs and the secret are removed", subject.name()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the cluster is meant that happens to be the only one, or is called so: this folder is not its own.
fn ask(subject: &Subject) -> Result<(), Failure> {
    let (name, full_name) = (subject.name(), subject.full_name());
    if !io::stdin().is_terminal() {
        let why =
            if subject.is_guessed() { "nobody named cluster" } else { "this is not the folder of cluster" };
        return Err(Failure::usage(format!(
            "{why} {full_name}, and nobody can be asked; to stop it: srsctl down {name} --yes, or name its file"
        )));
    }
    complain(&format!("Stop cluster {full_name}? [y/N]"));
    let mut answer = String::new();
    let read = io::stdin().lock().take(ANSWER_MAX).read_line(&mut answer);
    let is_yes = read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES");
    if is_yes { Ok(()) } else { Err(Failure::failed(format!("cluster {name} is left as it is"))) }
}

/// What to do about a port that a worker of another cluster, user or place has.
const NOT_OURS: &str = "stop that cluster by its own name, as its user, with its --state-dir";
