//! `srsctl logs`: the logs of a cluster's processes, merged in order of time.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use cluster::Role;

use crate::cli::{Global, RoleArg};
use crate::commands::print;
use crate::failure::Failure;
use crate::locate;

/// Bytes read from the end of one log at most: more lines than anyone reads.
const TAIL_MAX: u64 = 4 << 20;

/// Between two looks at logs that are followed.
const FOLLOW_POLL: Duration = Duration::from_millis(250);

/// One line with what it is sorted by.
struct Line {
    /// Its own time stamp, or that of the line before: a message of several lines stays whole.
    time: String,
    source: String,
    text: String,
}

/// Prints the last `lines` lines of each log.
pub(crate) async fn logs(
    global: &Global,
    role: Option<RoleArg>,
    port: Option<u16>,
    lines: usize,
    follow: bool,
) -> Result<ExitCode, Failure> {
    let dirs = locate::cluster(global)?;
    let directory = dirs.lib().join("log");
    let mut found: Vec<Line> = Vec::new();
    let mut followed: Vec<Followed> = Vec::new();
    for (name, path) in log_files(&directory)? {
        if !is_wanted(&name, role.map(Role::from), port) {
            continue;
        }
        let (tail, end) = tail(&path, lines)
            .map_err(|e| Failure::failed(format!("cannot read {}: {e}", path.display())))?;
        found.extend(lines_of(&name, &tail));
        followed.push(Followed { name, path, at: end, rest: String::new() });
    }
    if followed.is_empty() {
        return Err(Failure::failed(format!(
            "no such log of cluster {} in {}",
            dirs.name(),
            directory.display()
        )));
    }
    // Stable: lines of one log keep their order.
    found.sort_by(|a, b| a.time.cmp(&b.time));
    let width = found.iter().map(|line| line.source.len()).max().unwrap_or(0);
    print(&found.iter().map(|l| format!("{:width$} | {}\n", l.source, l.text)).collect::<String>());
    if !follow {
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        tokio::time::sleep(FOLLOW_POLL).await;
        for log in &mut followed {
            // A log that cannot be read now may be readable again when it has been rotated.
            for line in log.new_lines().unwrap_or_default() {
                print(&format!("{:width$} | {line}\n", log.name));
            }
        }
    }
}

/// A log that is followed.
struct Followed {
    name: String,
    path: PathBuf,
    /// Up to where it was read.
    at: u64,
    /// The beginning of a line whose end is not there yet.
    rest: String,
}

impl Followed {
    fn new_lines(&mut self) -> io::Result<Vec<String>> {
        let mut file = File::open(&self.path)?;
        if file.metadata()?.len() < self.at {
            // Rotated: a new file has its name.
            self.at = 0;
        }
        file.seek(SeekFrom::Start(self.at))?;
        let mut bytes = Vec::new();
        self.at += file.take(TAIL_MAX).read_to_end(&mut bytes)? as u64;
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let Some(end) = self.rest.rfind('\n') else { return Ok(Vec::new()) };
        let rest = self.rest.split_off(end + 1);
        let lines = std::mem::replace(&mut self.rest, rest);
        Ok(lines.lines().map(str::to_owned).collect())
    }
}

/// The current logs by unit id, the supervisor's as `agent`.
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
            Some((name.strip_suffix(".log")?.to_owned(), entry.path()))
        })
        .collect();
    files.sort();
    Ok(files)
}

fn is_wanted(name: &str, role: Option<Role>, port: Option<u16>) -> bool {
    let of_role = role.is_none_or(|role| name.split('-').next() == Some(role.as_str()));
    of_role && port.is_none_or(|port| name.ends_with(&format!("-{port}")))
}

/// The last `lines` lines of a file, and up to where it was read.
fn tail(path: &Path, lines: usize) -> io::Result<(String, u64)> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(TAIL_MAX)))?;
    let mut bytes = Vec::new();
    let end = len.saturating_sub(TAIL_MAX) + file.take(TAIL_MAX).read_to_end(&mut bytes)? as u64;
    let text = String::from_utf8_lossy(&bytes);
    let all: Vec<_> = text.lines().collect();
    let skip = all.len().saturating_sub(lines);
    Ok((all.into_iter().skip(skip).collect::<Vec<_>>().join("\n"), end))
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
    use super::*;

    #[test]
    fn a_role_and_a_port_choose_the_logs() {
        for (name, role, port, wanted) in [
            ("edge-127.0.0.6-1936", Some(Role::Edge), Some(1936), true),
            ("edge-127.0.0.6-1935", Some(Role::Edge), Some(1936), false),
            ("edge-127.0.0.6-11936", Some(Role::Edge), Some(1936), false),
            ("agent", None, None, true),
            ("agent", Some(Role::Origin), None, false),
        ] {
            assert_eq!(is_wanted(name, role, port), wanted, "{name}");
        }
    }

    #[test]
    fn a_message_of_several_lines_stays_whole() {
        let lines = lines_of("agent", "2026-01-02T03:04:05.000001Z  INFO one\n  more of it\n");
        assert_eq!(lines[1].time, lines[0].time);
    }
}
