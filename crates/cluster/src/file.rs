//! cluster.yaml as written → [`Cluster`], or a message that shows every wrong line.
//!
//! The file is read in three steps, each on what the last one left sound: [`tree`] reads any YAML and keeps the place
//! of every value, [`check`] holds it against the schema and says all that is wrong at once, [`hosts`] looks the host
//! names up and finds ports that are one and the same. [`report`] renders what any of them has to say.

mod check;
mod destination;
mod draft;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod host_name;
mod hosts;
mod report;
mod tree;

use std::io::{self, Read as _};
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;

pub use check::{CLUSTER_NAME, is_cluster_name};

/// Takes `[user@]host[:port]` apart, as it stands behind `ssh:`.
///
/// # Errors
/// Why it is none, and what to do, for a person.
pub fn destination_of(text: &str) -> Result<crate::Destination, String> {
    destination::parse(text).map_err(|(why, help)| format!("{why}; {help}"))
}

use crate::spec::{Cluster, Role};
use report::{Diagnostic, Mark};

/// Largest file that is read, bytes: a cluster of [`Cluster::MAX_EDGE_PORTS`] with a comment on each line needs a
/// tenth of it.
pub const MAX_FILE: usize = 1024 * 1024;

/// Why a file was refused. Displayed, it is the whole message for the person, of one or more lines, the path as it
/// was given; it ends without a line break.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file cannot be read: missing, a directory, no permission, too large.
    #[error("{0}")]
    Unreadable(String),
    /// The system could not read it now; it may the next time.
    #[error("{0}")]
    System(String),
    /// The file was read, and something in it is wrong.
    #[error("{0}")]
    Invalid(String),
}

/// A cluster file as it was read, right or wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterFile {
    path: PathBuf,
    text: String,
}

impl ClusterFile {
    /// A file that was read at `path` before.
    #[must_use]
    pub fn new(path: PathBuf, text: String) -> Self {
        Self { path, text }
    }

    /// Reads the file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, is too large for a cluster file, or is no text.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        Ok(Self { path: path.to_owned(), text: utf8(read(path)?, path)? })
    }

    /// Where it was read, as it was named.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What is written in it.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// The name of the cluster that it describes, whatever else in it may be wrong by now: a host that no longer resolves must
    /// not keep anyone from stopping the cluster.
    ///
    /// # Errors
    /// [`FileError::Invalid`].
    pub fn name(&self) -> Result<String, FileError> {
        let tree = tree::parse(&self.text);
        tree.and_then(|tree| check::name(&tree, &self.text)).map_err(|found| self.invalid(&found))
    }

    /// The origin's `host:port` as it is written, whatever else in it may be wrong; `None` where it cannot be read.
    #[must_use]
    pub fn origin(&self) -> Option<String> {
        check::origin(&tree::parse(&self.text).ok()?, &self.text)
    }

    /// Its ports as they are written, without a look-up of their hosts; none where something in it is wrong.
    #[must_use]
    pub fn ports(&self) -> Vec<(Role, String, u16)> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new(""));
        let draft =
            tree::parse(&self.text).and_then(|tree| check::cluster(&tree, &self.text, directory)).ok();
        let entries = draft.into_iter().flat_map(|draft| draft.origins.into_iter().chain(draft.edges));
        let ports = entries.flat_map(|entry| {
            entry.ports.into_iter().map(move |(port, _)| (entry.role, entry.host.clone(), port))
        });
        ports.collect()
    }

    /// What it says, once it has been found sound.
    ///
    /// `resolve` looks up one host name; it is asked once for each different name, never for a literal address, and only
    /// when nothing else is wrong. The encoder's file is sought beside the cluster file and has to exist.
    ///
    /// # Errors
    /// [`FileError::Invalid`].
    pub fn cluster(&self, resolve: &dyn Fn(&str) -> io::Result<Vec<IpAddr>>) -> Result<Cluster, FileError> {
        let directory = self.path.parent().unwrap_or_else(|| Path::new(""));
        tree::parse(&self.text)
            .and_then(|tree| check::cluster(&tree, &self.text, directory))
            .and_then(|draft| hosts::settle(draft, resolve))
            .map_err(|found| self.invalid(&found))
    }

    fn invalid(&self, found: &[Diagnostic]) -> FileError {
        FileError::Invalid(report::render(&self.path, &self.text, found))
    }
}

/// Reads a generated config at `path` as `T`.
pub(crate) fn read_config<T: DeserializeOwned>(
    path: &Path,
    check: impl Fn(&T) -> Result<(), String>,
) -> Result<T, FileError> {
    let text = utf8(read(path)?, path)?;
    let value: T =
        tree::from_str(&text).map_err(|found| FileError::Invalid(report::render(path, &text, &found)))?;
    check(&value).map_err(|e| FileError::Invalid(format!("{}: {e}", path.display())))?;
    Ok(value)
}

/// The bytes of the file at `path`, of whatever kind it is, at most [`MAX_FILE`].
fn read(path: &Path) -> Result<Vec<u8>, FileError> {
    let name = report::clean(&path.to_string_lossy());
    let unreadable = |e: &io::Error| match e.kind() {
        io::ErrorKind::NotFound => FileError::Unreadable(format!(
            "{name}: no such file\n  = help: check the name and the current directory"
        )),
        io::ErrorKind::IsADirectory => FileError::Unreadable(format!(
            "{name}: this is a directory\n  = help: name the file in it, such as {name}/cluster.yaml"
        )),
        io::ErrorKind::PermissionDenied => FileError::Unreadable(format!(
            "{name}: permission denied\n  = help: it has to be readable by the user who runs srsctl"
        )),
        _ => FileError::System(format!("{name}: cannot be read: {e}")),
    };
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(|e| unreadable(&e))?;
    file.take(MAX_FILE as u64 + 1).read_to_end(&mut bytes).map_err(|e| unreadable(&e))?;
    if bytes.len() > MAX_FILE {
        return Err(FileError::Unreadable(format!(
            "{name}: larger than {} KiB\n  = help: a cluster file has a few KiB; is this the right file?",
            MAX_FILE / 1024
        )));
    }
    Ok(bytes)
}

fn utf8(bytes: Vec<u8>, path: &Path) -> Result<String, FileError> {
    String::from_utf8(bytes).map_err(|e| {
        let good = e.utf8_error().valid_up_to();
        let bytes = e.into_bytes();
        let before = String::from_utf8_lossy(bytes.get(..good).unwrap_or_default());
        let help = match bytes.get(..2) {
            Some([0xFF, 0xFE] | [0xFE, 0xFF]) => "this looks like UTF-16: save the file as UTF-8",
            _ => "save the file as UTF-8",
        };
        let bad = bytes.get(good).copied().unwrap_or_default();
        let diagnostic =
            Diagnostic::new(Mark::after(&before), format!("byte 0x{bad:02x} is not UTF-8 text")).help(help);
        FileError::Invalid(report::render(path, &String::from_utf8_lossy(&bytes), &[diagnostic]))
    })
}

#[cfg(test)]
mod tests;
