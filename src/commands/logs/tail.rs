//! The logs of one machine: which there are, their last lines, and those that come.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::{Path, PathBuf};

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::file::LogFile;
use crate::failure::Failure;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum LogArg {
    Origin,
    Edge,
    Encoder,
    Supervisor,
}

impl LogArg {
    /// What the name of a log begins with.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Edge => "edge",
            Self::Encoder => "encoder",
            Self::Supervisor => "supervisor",
        }
    }
}

/// Which logs are wanted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wanted {
    /// Of this role.
    pub(crate) role: Option<LogArg>,
    /// Of this port.
    pub(crate) port: Option<u16>,
    /// Of this host; the supervisor is on each.
    pub(crate) host: Option<String>,
    /// The last so many lines of each.
    pub(crate) lines: usize,
    /// And what comes.
    pub(crate) follow: bool,
}

/// Lines of several logs.
pub(crate) type Found = Vec<(String, VecDeque<String>)>;

/// The logs below one directory, read up to some place.
pub(crate) struct Tail {
    directory: PathBuf,
    wanted: Wanted,
    logs: BTreeMap<String, LogFile>,
}

impl Tail {
    /// Nothing is read yet.
    pub(crate) fn new(directory: PathBuf, wanted: Wanted) -> Self {
        Self { directory, wanted, logs: BTreeMap::new() }
    }

    /// The last lines of each.
    ///
    /// # Errors
    /// When one is there and cannot be read.
    pub(crate) fn last_lines(&mut self) -> Result<Found, Failure> {
        let mut found = Vec::new();
        for (name, path) in self.files()? {
            let unreadable = |e: io::Error| Failure::failed(format!("cannot read {}: {e}", path.display()));
            let mut log = LogFile::new(path.clone());
            let mut tail = log.tail(self.wanted.lines).map_err(unreadable)?;
            if !self.wanted.follow && self.wanted.lines > 0 {
                // It may be all that there will be.
                tail.extend(log.end_line());
            }
            found.push((name.clone(), tail));
            self.logs.insert(name, log);
        }
        Ok(found)
    }

    /// What came since, also to logs that were made since.
    pub(crate) fn new_lines(&mut self) -> Found {
        // A directory or log that cannot be read now may be readable again later.
        for (name, path) in self.files().unwrap_or_default() {
            self.logs.entry(name).or_insert_with(|| LogFile::new(path));
        }
        let lines = self.logs.iter_mut();
        lines.map(|(name, log)| (name.clone(), log.new_lines().unwrap_or_default().into())).collect()
    }

    fn files(&self) -> Result<BTreeMap<String, PathBuf>, Failure> {
        let files = log_files(&self.directory)?.into_iter();
        Ok(files.filter(|(name, _)| is_wanted(name, &self.wanted)).collect())
    }
}

/// The logs by unit id, the supervisor's as `supervisor`; one that was removed is known by what was put aside of it.
pub(crate) fn log_files(directory: &Path) -> Result<BTreeMap<String, PathBuf>, Failure> {
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

fn is_wanted(name: &str, Wanted { role, port, host, .. }: &Wanted) -> bool {
    let of_role = role.is_none_or(|role| name.split('-').next() == Some(role.as_str()));
    let of_host = |host: &String| {
        let place = name.split_once('-').and_then(|(_, place)| place.rsplit_once('-'));
        place.is_none_or(|(found, _)| found == host)
    };
    of_role
        && port.is_none_or(|port| name.ends_with(&format!("-{port}")))
        && host.as_ref().is_none_or(of_host)
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
            let words = Wanted { role, port, host: None, lines: 1, follow: false };
            assert_eq!(is_wanted(name, &words), wanted, "{name}");
        }
        for (name, wanted) in [
            ("edge-127.0.0.6-1936", true),
            ("edge-127.0.0.7-1936", false),
            ("supervisor", true),
            ("encoder", true),
        ] {
            let host = Some("127.0.0.6".to_owned());
            let words = Wanted { role: None, port: None, host, lines: 1, follow: false };
            assert_eq!(is_wanted(name, &words), wanted, "{name}");
        }
    }
}
