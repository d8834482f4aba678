//! `srsctl host`: the machines of a cluster, before srsctl is asked there.

mod program;
mod setup;

use std::process::ExitCode;

use crate::failure::Failure;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Make this machine one that runs clusters; root's part of an installation
    #[command(hide = true)]
    Setup(setup::Args),
}

/// Does it.
pub(crate) async fn run(command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Setup(args) => setup::run(&args),
    }
}
