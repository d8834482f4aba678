//! `srsctl logs`: the logs of a cluster's processes, merged in order of time.

mod file;
mod merge;
mod several;
mod show;
pub(crate) mod tail;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use self::show::show;
use self::tail::{LogArg, Tail, Wanted, log_files};
use crate::failure::Failure;
use crate::fleet::Fleet;
use crate::subject::{Global, Subject};
use crate::terminal::{complain, is_reader_gone};
use crate::words::Words;

/// Between two looks at logs that are followed.
const FOLLOW_POLL: Duration = Duration::from_millis(250);

/// What its help shows: the words are told apart by what they are.
pub(crate) const USAGE: &str = "srsctl logs [OPTIONS] [ROLE] [PORT] [FILE]";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A role: origin, edge, encoder or supervisor; a port, for its processes alone; the cluster's file or its name
    #[arg(num_args = 0..=3, value_name = "WORD")]
    words: Vec<String>,
    /// Only this host, as written in the cluster's file
    #[arg(long)]
    host: Option<String>,
    /// Lines of each log
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: usize,
    /// Go on with what is written from now on, also of logs that are made later
    #[arg(short, long)]
    follow: bool,
    // In place of the one of all commands, whose -f is taken here; its value is found there.
    /// The cluster's file or its name; without it ./cluster.yaml, else the only cluster that runs
    #[arg(id = "file", long = "file", value_name = "FILE")]
    _file: Option<PathBuf>,
}

/// Prints the last `lines` lines of each log, and goes on if that is wanted.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let Args { words, host, lines, follow, _file: _ } = args;
    let Words { role, port, path } = Words::<LogArg>::read(words)?;
    let subject = &Subject::find(global, path.as_deref(), "logs")?;
    let wanted = Wanted { role, port, host, lines, follow };
    if let Some(fleet) = Fleet::of(global, subject)? {
        return several::run(fleet, &wanted).await;
    }
    let directory = subject.dirs().lib().join("log");
    let mut tail = Tail::new(directory.clone(), wanted);
    let found = tail.last_lines()?;
    if found.is_empty() {
        let none = none_found(subject, &directory, role, port)?;
        if !follow {
            return Err(Failure::failed(none));
        }
        complain(&format!("{none}; waiting for one"));
    }
    let mut is_read = show(found)?;
    while follow && is_read && !is_reader_gone() {
        tokio::time::sleep(FOLLOW_POLL).await;
        is_read = show(tail.new_lines())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// What there is instead of what was asked for.
fn none_found(
    subject: &Subject,
    directory: &Path,
    role: Option<LogArg>,
    port: Option<u16>,
) -> Result<String, Failure> {
    let names: Vec<_> = log_files(directory)?.into_keys().collect();
    if names.is_empty() {
        return Ok(format!(
            "cluster {} has no logs: it was never started, or its logs were purged",
            subject.name()
        ));
    }
    let what = role.map_or("process", LogArg::as_str);
    let port = port.map(|port| format!(" on port {port}")).unwrap_or_default();
    Ok(format!("there is no {what}{port}; there are: {}", names.join(", ")))
}
