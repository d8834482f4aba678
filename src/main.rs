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
    match command {
        Command::Up { path, foreground } => block_on(up::up(&global, path, foreground)),
        Command::Status { json } => block_on(commands::status(&global, json)),
        Command::Restart { role, port, host } => block_on(commands::restart(&global, role, port, host)),
        Command::Down { purge } => block_on(commands::down(&global, purge)),
        Command::Logs { role, port, lines, follow } => {
            block_on(logs::logs(&global, role, port, lines, follow))
        }
        Command::Urls { stream } => commands::urls(&global, &stream),
        Command::Check { path } => commands::check(&global, path),
        Command::Probe { url, timeout } => block_on(commands::probe(&url, timeout)),
        Command::Publish { test_card, args } => block_on(commands::publish(test_card, args)),
        Command::Bench(command) => bench::bench(command),
        Command::Agent { path } => block_on(agent::agent(&global, &path)),
        // They take their descriptors over before a runtime exists.
        Command::Worker { config } => agent::worker(&config),
        Command::Encoder { config } => agent::encoder(&config),
    }
}

fn block_on(command: impl Future<Output = Result<ExitCode, Failure>>) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    let outcome = runtime.block_on(command);
    // Without waiting for threads that still look names up.
    runtime.shutdown_background();
    outcome
}
