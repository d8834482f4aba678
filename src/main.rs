//! `srsctl`: the command line, the supervisor (`agent`) and the workers (`worker`, `encoder`) in one binary.
//!
//! stdout is data, stderr is everything else. No logic that another crate needs lives here.

mod agent;
mod bench;
mod cli;
mod commands;
mod failure;
mod locate;
mod logs;
mod output;
mod up;

use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use crate::cli::{Cli, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    match run(parse()) {
        Ok(code) => code,
        Err(failure) => {
            commands::complain(&failure.to_string());
            failure.code()
        }
    }
}

/// The command line; where a command is missing, the help instead of a list that has the internal ones.
fn parse() -> Cli {
    let arguments = || std::env::args_os();
    let error = match Cli::try_parse_from(arguments()) {
        Ok(cli) => return cli,
        Err(error) => error,
    };
    if error.kind() == ErrorKind::MissingSubcommand
        && let Err(help) = Cli::try_parse_from(arguments().chain(["--help".into()]))
    {
        commands::complain(help.render().to_string().trim_end());
        std::process::exit(i32::from(failure::code::USAGE));
    }
    error.exit()
}

fn run(Cli { global, command }: Cli) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    let outcome = runtime.block_on(async {
        match command {
            Command::Up { path, foreground } => up::up(&global, path, foreground).await,
            Command::Status { json } => commands::status(&global, json).await,
            Command::Restart { role, port, host } => commands::restart(&global, role, port, host).await,
            Command::Down { purge } => commands::down(&global, purge).await,
            Command::Logs { role, port, lines, follow } => {
                logs::logs(&global, role, port, lines, follow).await
            }
            Command::Urls { stream } => commands::urls(&global, &stream),
            Command::Check { path } => commands::check(&global, path),
            Command::Probe { url, timeout } => commands::probe(&url, timeout).await,
            Command::Publish { test_card, args } => commands::publish(test_card, args).await,
            Command::Bench(command) => bench::bench(command),
            Command::Agent { path } => agent::agent(&global, &path).await,
            Command::Worker { config } => agent::worker(&config).await,
            Command::Encoder { config } => agent::encoder(&config).await,
        }
    });
    // Without waiting for threads that still look names up.
    runtime.shutdown_background();
    outcome
}
