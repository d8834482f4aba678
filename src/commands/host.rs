//! `srsctl host`: the machines of a cluster, before srsctl is asked there.

mod program;
mod setup;
mod trust;

use std::process::ExitCode;

use crate::failure::Failure;
use crate::subject::Global;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Pin the host key of a machine for this cluster: no other is believed from then on
    Trust(trust::Args),
    /// Make this machine one that runs clusters; root's part of an installation
    #[command(hide = true)]
    Setup(setup::Args),
}

/// Does it.
pub(crate) async fn run(global: &Global, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Trust(args) => trust::run(global, args).await,
        Command::Setup(args) => setup::run(&args),
    }
}
