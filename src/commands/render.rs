//! `srsctl render`: what other programs need of srsctl, made from what it is.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap_complete::Shell;

use crate::failure::Failure;
use crate::subject;
use crate::terminal::print;
use crate::units::{self, UNITS};

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// The units of systemd: srsctl@.service is the supervisor of a cluster, srsctl-ports@.service ends what outlives it
    Systemd(Systemd),
    /// A manual page for each command, written into a directory
    Man {
        /// The directory
        dir: PathBuf,
    },
    /// What a shell needs to complete a command line
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Systemd {
    /// The cluster; without it, templates for clusters of any name
    #[arg(value_name = "CLUSTER", value_parser = subject::cluster_name)]
    cluster: Option<String>,
    /// The program that they run [default: this one]
    #[arg(long, value_name = "PATH")]
    program: Option<PathBuf>,
    /// Write them into a directory instead, a file each
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

/// Prints or writes it; `cli` is the command line of which manual pages and completions tell.
pub(crate) fn run(command: &Command, mut cli: clap::Command) -> Result<ExitCode, Failure> {
    match command {
        Command::Systemd(args) => systemd(args)?,
        Command::Man { dir } => manual(cli, dir)?,
        Command::Completions { shell } => {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut cli, "srsctl", &mut text);
            print(&String::from_utf8_lossy(&text))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn systemd(Systemd { cluster, program, output }: &Systemd) -> Result<(), Failure> {
    let program = match program {
        Some(program) if program.is_absolute() => program.clone(),
        Some(program) => {
            return Err(Failure::usage(format!("{}: systemd takes an absolute path", program.display())));
        }
        None => units::own_program().map_err(|e| {
            Failure::failed(format!("cannot find srsctl itself: {e}; name it: --program PATH"))
        })?,
    };
    let of = |unit: &units::File| match cluster {
        Some(cluster) => unit.of(cluster, &program),
        None => (unit.path.to_owned(), unit.text(&program)),
    };
    for (path, text) in UNITS.iter().map(of) {
        match output {
            // As systemctl cat prints them.
            None => drop(print(&format!("# {path}\n{text}\n"))?),
            Some(dir) => write(&dir.join(Path::new(&path).file_name().unwrap_or_default()), &text)?,
        }
    }
    Ok(())
}

/// One for srsctl, and one for each command that help shows.
fn manual(cli: clap::Command, dir: &Path) -> Result<(), Failure> {
    let fail = |error: io::Error| Failure::failed(format!("cannot write into {}: {error}", dir.display()));
    std::fs::create_dir_all(dir).map_err(fail)?;
    clap_mangen::generate_to(cli, dir).map_err(fail)
}

fn write(path: &Path, text: &str) -> Result<(), Failure> {
    let written =
        path.parent().map_or(Ok(()), std::fs::create_dir_all).and_then(|()| std::fs::write(path, text));
    written.map_err(|error: io::Error| Failure::failed(format!("cannot write {}: {error}", path.display())))
}
