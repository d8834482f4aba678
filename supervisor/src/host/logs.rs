//! Log files: opened by the supervisor, inherited by its processes, rotated by size. Never a pipe: a worker must not
//! notice when its supervisor dies.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// A log larger than this is put aside. Bytes.
pub(crate) const MAX_SIZE: u64 = 10 << 20;
/// So many old logs are kept: NAME.1 is the newest.
pub(crate) const KEPT: u32 = 3;

/// Opens a log for appending, 0600.
///
/// # Errors
/// As of open(2).
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Whether a log is to be put aside.
#[must_use]
pub(crate) fn is_full(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|metadata| metadata.len() > MAX_SIZE)
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

fn become_output(file: &File) -> io::Result<()> {
    rustix::stdio::dup2_stdout(file)?;
    rustix::stdio::dup2_stderr(file)?;
    Ok(())
}

/// Rotates the supervisor's own log, if its output goes there.
pub(crate) fn rotate_own(path: &Path) {
    let Ok(named) = fs::metadata(path) else { return };
    let is_output = rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|output| (output.st_dev, output.st_ino) == (named.dev(), named.ino()));
    if !is_output || !is_full(path) {
        return;
    }
    let rotated = rotate(path).and_then(|file| become_output(&file));
    if let Err(error) = rotated {
        tracing::warn!(%error, "own log not rotated");
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
