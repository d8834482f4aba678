//! `srsctl service`: what systemd runs of a cluster, see deploy/systemd/.
//!
//! [`run`](run()) is the process that is always there. It waits until an `up` gives it a file, is the supervisor then, and waits again after
//! `down`. A cluster that was up when the machine, or this process, ended goes on with its file in force; what does not come up is tried
//! again. SIGTERM leaves the workers to the next one: systemd sends it before a restart too. Before an end, [`stop`](stop()) has them stopped.

mod run;
mod stop;

use std::process::ExitCode;

use crate::failure::Failure;
use crate::runtime::block_on;
use crate::subject::{self, Global};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Be the supervisor of a cluster for as long as it is up, and wait for that otherwise
    Run(Named),
    /// Stop all processes of a cluster; it comes up again with the machine
    Stop(Stop),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Named {
    /// The cluster's name
    #[arg(value_name = "CLUSTER", value_parser = subject::cluster_name)]
    name: String,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Stop {
    #[command(flatten)]
    named: Named,
    /// Do nothing but where systemd is about to stop this unit
    #[arg(long, value_name = "UNIT")]
    if_stopped: Option<String>,
}

/// The descriptors that systemd has kept are taken before a runtime exists.
pub(crate) fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    match args.command {
        Command::Run(Named { name }) => run::run(global, name),
        Command::Stop(Stop { named, if_stopped }) => {
            block_on(stop::run(global, &named.name, if_stopped.as_deref()))
        }
    }
}
