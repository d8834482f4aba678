//! `srsctl encoder`: the supervised encoder. The supervisor starts it.

use std::path::PathBuf;
use std::process::ExitCode;

use crate::failure::Failure;
use crate::log;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(long)]
    config: PathBuf,
}

/// Publishes what the config says.
pub(crate) fn run(Args { config }: &Args) -> Result<ExitCode, Failure> {
    supervisor::die_of_faults();
    log::start();
    let ended = encoder::run(config);
    ended.map(|()| ExitCode::SUCCESS).map_err(|e| Failure::new(e.exit_code(), e))
}
