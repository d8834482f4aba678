//! `srsctl`: the command line, the supervisor (`agent`) and the workers (`worker`, `encoder`) in one binary.
//!
//! stdout is data, stderr is everything else. No logic that another crate needs lives here.

mod change;
mod cli;
mod commands;
mod failure;
mod fleet;
mod log;
mod output;
mod people;
mod runtime;
mod starting;
mod stopping;
mod subject;
mod table;
mod talk;
mod terminal;
mod units;
mod words;

use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory as _, Parser};
use nix::sys::signal::SigSet;

use crate::cli::{Cli, Command, hint};
use crate::commands::{
    agent, bench, check, down, encoder, events, history, host, logs, ls, plan, probe, publish, render,
    restart, rollback, secret, self_check, service, status, up, upgrade, urls, worker,
};
use crate::failure::{Failure, code};
use crate::runtime::block_on;
use crate::terminal::{complain, has_colour, print_clean, print_json};

fn main() -> ExitCode {
    supervisor::settle_lookups();
    // A program that blocks signals hands that on to what it starts; then neither Ctrl-C nor a service manager could end us.
    let _ = SigSet::empty().thread_set_mask();
    supervisor::fail_at_file_limit();
    parse().and_then(main_of).unwrap_or_else(|failure| {
        complain(&failure.to_string());
        failure.code()
    })
}

/// Where JSON was asked for, a failure is a document too.
fn main_of(cli: Cli) -> Result<ExitCode, Failure> {
    let wants_json = cli.command.wants_json();
    run(cli).or_else(|failure| {
        if wants_json {
            print_json(&failure.document())?;
        }
        Err(failure)
    })
}

/// The command line; where a command is missing, the help instead of a list that has the internal ones.
fn parse() -> Result<Cli, Failure> {
    let arguments = || std::env::args_os();
    let mut error = match Cli::try_parse_from(arguments()) {
        Ok(cli) => return Ok(cli),
        Err(error) => error,
    };
    match error.kind() {
        // Asked for, so it is data: whoever cannot be given it is told.
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            let text = error.render();
            print_clean(&if has_colour() { text.ansi().to_string() } else { text.to_string() })?;
            std::process::exit(0);
        }
        ErrorKind::MissingSubcommand => {
            if let Err(help) = Cli::try_parse_from(arguments().chain(["--help".into()])) {
                complain(help.render().to_string().trim_end());
                std::process::exit(i32::from(code::USAGE));
            }
        }
        ErrorKind::InvalidSubcommand => hint(&mut error),
        _ => {}
    }
    if arguments().skip(1).take_while(|word| word != "--").any(|word| word == "--json") {
        print_json(&Failure::usage(what_is_wrong(&error)).document())?;
    }
    error.exit()
}

/// What clap says first: behind it stand tips and the usage, for a person.
fn what_is_wrong(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let lines: Vec<_> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let said = lines.join(" ");
    said.strip_prefix("error: ").unwrap_or(&said).to_owned()
}

fn run(Cli { global, command }: Cli) -> Result<ExitCode, Failure> {
    match command {
        Command::Up(args) => block_on(up::run(&global, args)),
        Command::Plan(args) => block_on(plan::run(&global, args)),
        Command::History(args) => block_on(history::run(&global, args)),
        Command::Rollback(args) => block_on(rollback::run(&global, args)),
        Command::Status(args) => block_on(status::run(&global, args)),
        Command::Restart(args) => block_on(restart::run(&global, args)),
        Command::Upgrade(args) => block_on(upgrade::run(&global, args)),
        Command::SelfCheck => self_check::run(),
        Command::Down(args) => block_on(down::run(&global, args)),
        Command::Logs(args) => block_on(logs::run(&global, args)),
        Command::Events(args) => block_on(events::run(&global, args)),
        Command::Urls(args) => urls::run(&global, &args),
        Command::Ls(args) => block_on(ls::run(&global, args)),
        Command::Check(args) => check::run(&global, args),
        Command::Probe(args) => block_on(probe::run(args)),
        Command::Publish(args) => block_on(publish::run(args)),
        Command::Bench(command) => bench::run(command),
        Command::Render(command) => render::run(&command, Cli::command()),
        Command::Secret(command) => block_on(secret::run(&global, command)),
        Command::Host(command) => block_on(host::run(&global, command)),
        Command::Agent(args) => block_on(agent::run(&global, args)),
        // They take their descriptors over before a runtime exists.
        Command::Service(args) => service::run(&global, args),
        Command::Worker(args) => worker::run(&args),
        Command::Encoder(args) => encoder::run(&args),
    }
}
