//! `srsctl host`: the machines of a cluster, before srsctl is asked there.

mod install;
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
    /// Have a machine run clusters that has nothing but sshd, or have one that does run this srsctl
    Install(install::Args),
    /// Make this machine one that runs clusters; root's part of an installation
    #[command(hide = true)]
    Setup(setup::Args),
}

/// Does it.
pub(crate) async fn run(global: &Global, command: Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Trust(args) => trust::run(global, args).await,
        Command::Install(args) => install::run(global, args).await,
        Command::Setup(args) => setup::run(&args),
    }
}
