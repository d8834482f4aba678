//! `srsctl upgrade`: the ports run another program, and keep their connections.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cluster::Role;
use cluster::status::Status;
use control::api::Upgrade;

use crate::commands::self_check::SelfCheck;
use crate::failure::{Failure, code};
use crate::subject::{Global, Subject};
use crate::terminal::complain;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's file or its name
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// The program; without it the one that runs this command
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// So many ports have to run it for 11 s before the others do
    #[arg(long, value_name = "PORTS", default_value_t = 1)]
    canary: usize,
    /// Also where connections cannot be kept: whoever is connected has to connect again
    #[arg(short, long)]
    yes: bool,
}

/// Checks the program, then has the supervisor do it.
pub(crate) async fn run(global: &Global, Args { path, bin, canary, yes }: Args) -> Result<ExitCode, Failure> {
    let subject = Subject::find(global, path.as_deref(), "upgrade")?;
    let program = bin.map_or_else(supervisor::own_binary, |bin| bin.canonicalize());
    let program =
        program.map_err(|error| Failure::failed(format!("nothing was touched: the program: {error}")))?;
    let new = SelfCheck::of(&program).map_err(|why| {
        Failure::failed(format!("nothing was touched: {} cannot be used: {why}", program.display()))
    })?;
    let client = subject.client();
    let cost = cost(&client.status().await?, &new);
    if !cost.is_empty() && !yes {
        let cost = cost.join("\n  ");
        return Err(Failure::failed(format!(
            "nothing was touched: version {} reads nothing of what runs, so connections would be lost:\n  {cost}\n\
             if that shall be: srsctl upgrade --yes",
            new.version
        )));
    }
    complain(&format!("{} is version {}", program.display(), new.version));
    let request = Upgrade { program, canary };
    tokio::select! {
        done = client.upgrade(&request, complain) => done?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(
            code::INTERRUPTED,
            "interrupted: the supervisor goes on with the upgrade; see srsctl status",
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// The ports whose connections a program of `new` could not take over, and what they are.
fn cost(status: &Status, new: &SelfCheck) -> Vec<String> {
    let ports = status.units.iter().filter_map(|unit| Some((unit, unit.keeper_pid?)));
    let lost = ports.filter(|(_, keeper)| {
        // What runs there, whatever became of its file.
        let runs = SelfCheck::of(Path::new(&format!("/proc/{keeper}/exe")));
        !runs.is_ok_and(|runs| new.fits(&runs))
    });
    lost.map(|(unit, _)| {
        let (players, publishers) = unit.stats.as_ref().map_or((0, 0), |it| (it.players, it.publishers));
        let encoders = if unit.role == Role::Origin { publishers } else { 0 };
        format!("{}: {players} players, {encoders} encoders", unit.id)
    })
    .collect()
}
