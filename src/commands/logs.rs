//! `srsctl logs`: the logs of a cluster's processes, merged in order of time.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;

use crate::failure::Failure;
use crate::subject::Subject;
use crate::terminal::print;

/// Bytes read from the end of one log at most: more lines than anyone reads.
const TAIL_MAX: u64 = 4 << 20;

/// Between two looks at logs that are followed.
const FOLLOW_POLL: Duration = Duration::from_millis(250);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only this role, or the supervisor
    role: Option<LogArg>,
    /// Only this port
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Lines of each log
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: usize,
    /// Go on with what is written from now on
    #[arg(long)]
    follow: bool,
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

/// One line with what it is sorted by.
struct Line {
    /// Its own time stamp, or that of the line before: a message of several lines stays whole.
    time: String,
    source: String,
    text: String,
}

/// Prints the last `lines` lines of each log.
pub(crate) async fn run(subject: &Subject, args: Args) -> Result<ExitCode, Failure> {
    let Args { role, port, lines, follow } = args;
    let directory = subject.dirs().lib().join("log");
    let mut found: Vec<Line> = Vec::new();
    let mut followed: Vec<Followed> = Vec::new();
    let files = log_files(&directory)?;
    let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    for (name, path) in files {
        if !is_wanted(&name, role, port) {
            continue;
        }
        let unreadable = |e: io::Error| Failure::failed(format!("cannot read {}: {e}", path.display()));
        let mut file = File::open(&path).map_err(unreadable)?;
        let mut tail = tail(&mut file, lines).map_err(unreadable)?;
        if tail.lines().count() < lines
            && let Ok(mut older) = File::open(rotated(&path))
        {
            // It was rotated lately.
            let missing = lines - tail.lines().count();
            tail = self::tail(&mut older, missing).map_err(unreadable)? + &tail;
        }
        found.extend(lines_of(&name, &tail));
        followed.push(Followed { name, path, file, rest: String::new() });
    }
    if followed.is_empty() {
        let name = subject.name();
        return Err(Failure::failed(match names.as_slice() {
            [] => format!("cluster {name} has no logs: it was never started, or its logs were purged"),
            names => {
                let what = role.map_or("process", LogArg::as_str);
                let port = port.map(|port| format!(" on port {port}")).unwrap_or_default();
                format!("there is no {what}{port}; there are: {}", names.join(", "))
            }
        }));
    }
    // Stable: lines of one log keep their order.
    found.sort_by(|a, b| a.time.cmp(&b.time));
    let width = found.iter().map(|line| line.source.len()).max().unwrap_or(0);
    let mut is_read =
        print(&found.iter().map(|l| format!("{:width$} | {}\n", l.source, l.text)).collect::<String>());
    while follow && is_read {
        tokio::time::sleep(FOLLOW_POLL).await;
        for log in &mut followed {
            // A log that cannot be read now may be readable again when it has been rotated.
            let lines = log.new_lines().unwrap_or_default();
            let lines: String = lines.iter().map(|line| format!("{:width$} | {line}\n", log.name)).collect();
            is_read &= print(&lines);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Where the supervisor puts a full log.
fn rotated(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".1");
    PathBuf::from(name)
}

/// A log that is followed.
struct Followed {
    name: String,
    path: PathBuf,
    /// Read up to its end.
    file: File,
    /// The beginning of a line whose end is not there yet.
    rest: String,
}

impl Followed {
    fn new_lines(&mut self) -> io::Result<Vec<String>> {
        let mut bytes = Vec::new();
        // Looked at before the rest is read: what comes into the old file later is its process's last word.
        let successor = File::open(&self.path).ok().filter(|named| !is_same(named, &self.file));
        (&self.file).take(TAIL_MAX).read_to_end(&mut bytes)?;
        if let Some(successor) = successor.filter(|_| (bytes.len() as u64) < TAIL_MAX) {
            self.file = successor;
            (&self.file).take(TAIL_MAX).read_to_end(&mut bytes)?;
        }
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let Some(end) = self.rest.rfind('\n') else { return Ok(Vec::new()) };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        Ok(lines.lines().map(str::to_owned).collect())
    }
}

fn is_same(a: &File, b: &File) -> bool {
    let inode = |file: &File| file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    inode(a) == inode(b)
}

/// The current logs by unit id, the supervisor's as `supervisor`.
fn log_files(directory: &Path) -> Result<Vec<(String, PathBuf)>, Failure> {
    let entries = match directory.read_dir() {
        Ok(entries) => entries,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(Failure::failed(format!("cannot read {}: {e}", directory.display()))),
    };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let name = match name.strip_suffix(".log")? {
                "agent" => "supervisor",
                unit => unit,
            };
            Some((name.to_owned(), entry.path()))
        })
        .collect();
    files.sort();
    Ok(files)
}

fn is_wanted(name: &str, role: Option<LogArg>, port: Option<u16>) -> bool {
    let of_role = role.is_none_or(|role| name.split('-').next() == Some(role.as_str()));
    of_role && port.is_none_or(|port| name.ends_with(&format!("-{port}")))
}

/// The last `lines` lines of a file, each with its line break; the file is read up to its end.
fn tail(file: &mut File, lines: usize) -> io::Result<String> {
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_MAX)))?;
    let mut bytes = Vec::new();
    file.take(TAIL_MAX).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    let skip = all.len().saturating_sub(lines);
    Ok(all.into_iter().skip(skip).flat_map(|line| [line, "\n"]).collect())
}

fn lines_of(name: &str, text: &str) -> Vec<Line> {
    let mut time = String::new();
    let mut lines = Vec::new();
    for text in text.lines() {
        let first = text.split(' ').next().unwrap_or_default();
        if first.len() >= 20 && first.starts_with("20") && first.contains('T') {
            first.clone_into(&mut time);
        }
        lines.push(Line { time: time.clone(), source: name.to_owned(), text: text.to_owned() });
    }
    lines
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

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

    #[test]
    fn a_rotation_loses_no_line_of_a_log_that_is_followed() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("edge.log");
        std::fs::write(&path, "one\ntwo\n").unwrap();
        let mut file = File::open(&path).unwrap();
        assert_eq!(tail(&mut file, 1).unwrap(), "two\n");
        let mut log = Followed { name: "edge".into(), path: path.clone(), file, rest: String::new() };
        assert!(log.new_lines().unwrap().is_empty());
        let mut old = File::options().append(true).open(&path).unwrap();
        old.write_all(b"three\n").unwrap();
        std::fs::rename(&path, rotated(&path)).unwrap();
        // Longer than what was read of the old one.
        std::fs::write(&path, "four, which is longer\nfi").unwrap();
        assert_eq!(log.new_lines().unwrap(), ["three", "four, which is longer"]);
        File::options().append(true).open(&path).unwrap().write_all(b"ve\n").unwrap();
        assert_eq!(log.new_lines().unwrap(), ["five"]);
    }

    #[test]
    fn a_message_of_several_lines_stays_whole() {
        let lines = lines_of("agent", "2026-01-02T03:04:05.000001Z  INFO one\n  more of it\n");
        assert_eq!(lines[1].time, lines[0].time);
    }
}
