//! `srsctl logs`: the logs of a cluster's processes, merged in order of time.

mod file;
mod merge;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use self::file::LogFile;
use self::merge::merge;
use crate::failure::Failure;
use crate::subject::{Global, Subject};
use crate::terminal::{complain, is_reader_gone, print};
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LogArg {
    Origin,
    Edge,
    Encoder,
    Supervisor,
}

impl LogArg {
    /// What the name of a log begins with.
    fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Edge => "edge",
            Self::Encoder => "encoder",
            Self::Supervisor => "supervisor",
        }
    }
}

/// Prints the last `lines` lines of each log, and goes on if that is wanted.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let Args { words, lines, follow, _file: _ } = args;
    let Words { role, port, path } = Words::<LogArg>::read(words)?;
    let subject = &Subject::find(global, path.as_deref(), "logs")?;
    let directory = subject.dirs().lib().join("log");
    let wanted = |directory: &Path| -> Result<BTreeMap<String, PathBuf>, Failure> {
        let files = log_files(directory)?.into_iter();
        Ok(files.filter(|(name, _)| is_wanted(name, role, port)).collect())
    };
    let mut logs = BTreeMap::new();
    let mut found = Vec::new();
    for (name, path) in wanted(&directory)? {
        let unreadable = |e: io::Error| Failure::failed(format!("cannot read {}: {e}", path.display()));
        let mut log = LogFile::new(path.clone());
        let mut tail = log.tail(lines).map_err(unreadable)?;
        if !follow && lines > 0 {
            // It may be all that there will be.
            tail.extend(log.end_line());
        }
        found.push((name.clone(), tail));
        logs.insert(name, log);
    }
    if logs.is_empty() {
        let none = none_found(subject, &directory, role, port)?;
        if !follow {
            return Err(Failure::failed(none));
        }
        complain(&format!("{none}; waiting for one"));
    }
    let mut is_read = show(found)?;
    while follow && is_read && !is_reader_gone() {
        tokio::time::sleep(FOLLOW_POLL).await;
        // A directory or log that cannot be read now may be readable again later.
        for (name, path) in wanted(&directory).unwrap_or_default() {
            logs.entry(name).or_insert_with(|| LogFile::new(path));
        }
        let new =
            logs.iter_mut().map(|(name, log)| (name.clone(), log.new_lines().unwrap_or_default().into()));
        is_read = show(new.collect())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints lines of several logs; false once nobody reads them.
fn show(logs: Vec<(String, std::collections::VecDeque<String>)>) -> Result<bool, Failure> {
    let width = logs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let logs = logs.iter().map(|(name, lines)| (name.as_str(), lines.iter().cloned())).collect();
    let lines = merge(logs).into_iter().map(|(name, line)| format!("{name:width$} | {line}\n"));
    print(&lines.collect::<String>())
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

/// The logs by unit id, the supervisor's as `supervisor`; one that was removed is known by what was put aside of it.
fn log_files(directory: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
    let entries = match directory.read_dir() {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
        Err(e) => return Err(Failure::failed(format!("cannot read {}: {e}", directory.display()))),
    };
    let named = entries.flatten().filter_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        let stem = name.strip_suffix(".1").unwrap_or(&name).strip_suffix(".log")?;
        let path = directory.join(format!("{stem}.log"));
        Some((if stem == "agent" { "supervisor" } else { stem }.to_owned(), path))
    });
    Ok(named.collect())
}

fn is_wanted(name: &str, role: Option<LogArg>, port: Option<u16>) -> bool {
    let of_role = role.is_none_or(|role| name.split('-').next() == Some(role.as_str()));
    of_role && port.is_none_or(|port| name.ends_with(&format!("-{port}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_and_a_port_choose_the_logs() {
        for (name, role, port, wanted) in [
            ("edge-127.0.0.6-1936", Some(LogArg::Edge), Some(1936), true),
            ("edge-127.0.0.6-1935", Some(LogArg::Edge), Some(1936), false),
            ("edge-127.0.0.6-11936", Some(LogArg::Edge), Some(1936), false),
            ("supervisor", None, None, true),
            ("supervisor", Some(LogArg::Supervisor), None, true),
            ("supervisor", Some(LogArg::Origin), None, false),
        ] {
            assert_eq!(is_wanted(name, role, port), wanted, "{name}");
        }
    }
}
