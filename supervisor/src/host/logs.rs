//! Log files: opened by the supervisor, inherited by its processes, rotated by size. Never a pipe: a worker must not
//! notice when its supervisor dies.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::Resource;

use crate::host::files::in_directory;

/// A log larger than this is put aside. Bytes.
pub(crate) const MAX_SIZE: u64 = 10 << 20;
/// So many old logs are kept: NAME.1 is the newest.
pub(crate) const KEPT: u32 = 3;

/// Opens a log for appending, 0600. Its directory is made again if somebody removed it.
///
/// # Errors
/// As of open(2).
pub(crate) fn open(path: &Path) -> io::Result<File> {
    in_directory(path, || OpenOptions::new().append(true).create(true).mode(0o600).open(path))
}

/// Whether process `pid` writes to the log that is at `path` now: not if that was moved or removed. A process that does not let
/// us look is believed.
#[must_use]
pub(crate) fn writes_to(pid: u32, path: &Path) -> bool {
    match (fs::metadata(path), fs::metadata(format!("/proc/{pid}/fd/2"))) {
        (Ok(named), Ok(opened)) => (named.dev(), named.ino()) == (opened.dev(), opened.ino()),
        (named, _) => named.is_ok(),
    }
}

/// Whether a log is to be put aside: it is large, or half as large as a file may be (`ulimit -f`).
#[must_use]
pub(crate) fn is_full(path: &Path) -> bool {
    let limit = rustix::process::getrlimit(Resource::Fsize).current.unwrap_or(u64::MAX);
    fs::metadata(path).is_ok_and(|metadata| metadata.len() > MAX_SIZE.min(limit / 2))
}

/// Puts a log aside and opens a new one. Whoever has the old one open goes on writing there until it is given the new.
///
/// # Errors
/// When the new one cannot be opened.
pub(crate) fn rotate(path: &Path) -> io::Result<File> {
    let old = |number: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{number}"));
        PathBuf::from(name)
    };
    let mut new = path.as_os_str().to_owned();
    new.push(".new");
    // First: where it cannot be made, the old logs stay as they are.
    let file = open(Path::new(&new))?;
    for number in (1..KEPT).rev() {
        // Most often there is none.
        let _ = fs::rename(old(number), old(number + 1));
    }
    fs::rename(path, old(1))?;
    fs::rename(&new, path).inspect_err(|_| {
        // What cannot be replaced goes on to be written, and to be tried again.
        let _ = fs::rename(old(1), path);
    })?;
    Ok(file)
}

/// Has standard output and standard error of this process go to the log at `path`.
///
/// # Errors
/// When the log cannot be opened.
pub(crate) fn write_here(path: &Path) -> io::Result<()> {
    become_output(&open(path)?)
}

/// Has them go nowhere.
///
/// # Errors
/// When there is no /dev/null.
pub(crate) fn write_nowhere() -> io::Result<()> {
    become_output(&File::options().append(true).open("/dev/null")?)
}

fn become_output(file: &File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(file)?;
    rustix::stdio::dup2_stderr(file)?;
    Ok(())
}

/// Rotates the supervisor's own log, to which its output goes, if it is full, and opens it anew if it was moved or removed.
///
/// # Errors
/// When it cannot be opened; then the old one is written to.
pub(crate) fn tend_own(path: &Path) -> io::Result<()> {
    if !writes_to(std::process::id(), path) {
        write_here(path)
    } else if is_full(path) {
        rotate(path).and_then(|file| become_output(&file))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    #[test]
    fn rotation_keeps_the_newest_three_and_drops_the_rest() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("edge.log");
        let mut file = open(&path).unwrap();
        for number in 0..6 {
            write!(file, "{number}").unwrap();
            file = rotate(&path).unwrap();
        }
        let text = |name: &str| fs::read_to_string(temporary.path().join(name)).unwrap();
        assert_eq!(
            (text("edge.log"), text("edge.log.1"), text("edge.log.3")),
            (String::new(), "5".into(), "3".into())
        );
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 4);
    }

    #[test]
    fn a_log_that_cannot_be_replaced_keeps_its_name_and_the_older_ones() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("edge.log");
        fs::write(&path, "now").unwrap();
        fs::write(path.with_extension("log.1"), "before").unwrap();
        fs::create_dir(path.with_extension("log.new")).unwrap();
        assert!(rotate(&path).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), "now");
        assert_eq!(fs::read_to_string(path.with_extension("log.1")).unwrap(), "before");
    }

    #[test]
    fn a_log_is_full_beyond_10_mib() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("edge.log");
        open(&path).unwrap().set_len(MAX_SIZE).unwrap();
        assert!(!is_full(&path));
        open(&path).unwrap().set_len(MAX_SIZE + 1).unwrap();
        assert!(is_full(&path));
    }
}
