//! `srsctl worker`: one RTMP port. The supervisor starts it.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::failure::Failure;
use crate::log;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    config: PathBuf,
    /// Show that it could, and end
    #[arg(long)]
    trial: bool,
}

/// Serves one port.
pub(crate) fn run(Args { config, trial }: &Args) -> Result<ExitCode, Failure> {
    supervisor::die_of_faults();
    log::start();
    let ended = worker::run(config, *trial);
    ended.map(ExitCode::from).map_err(|e| Failure::new(e.exit_code(), e))
}
