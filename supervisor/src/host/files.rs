//! How state files are written, and what is said when that fails.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why the state of a cluster cannot be read or written.
#[derive(Debug, thiserror::Error)]
#[error("{what} {}: {}", .path.display(), explain(.source))]
pub struct StateError {
    /// What was tried.
    pub what: &'static str,
    /// On which file or directory.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

fn explain(error: &io::Error) -> String {
    let advice = match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOSPC) => {
            "no space left there; free some, or choose another place with --state-dir"
        }
        Some(rustix::io::Errno::DQUOT) => {
            "the disk quota is used up; free some, or choose another place with --state-dir"
        }
        Some(rustix::io::Errno::ROFS) => {
            "that file system is read-only; choose another place with --state-dir"
        }
        Some(rustix::io::Errno::ACCESS | rustix::io::Errno::PERM) => {
            "this user may not write there; choose another place with --state-dir"
        }
        Some(rustix::io::Errno::FBIG) => {
            "File too large: the limit of a file's size (ulimit -f) is lower than logs need; raise it"
        }
        Some(rustix::io::Errno::NOTDIR) => {
            "a part of that path is no directory; choose another place with --state-dir"
        }
        _ => return error.to_string(),
    };
    advice.to_owned()
}

/// Writes a file so that a reader, a crash, a power cut or a full disk meets the old text or the new, never a part.
/// Mode 0600. A file that has this text is left alone: that needs no room on a full disk.
///
/// # Errors
/// When it cannot be written; then the old file is whole and nothing is left beside it.
pub(crate) fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    if fs::read(path).is_ok_and(|there| there == bytes) {
        return Ok(());
    }
    replace(path, bytes, write_synced)?;
    let fail = |source| StateError { what: "cannot write", path: path.to_owned(), source };
    // The rename itself must survive a power cut.
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all()).map_err(fail)
}

/// As [`write_atomic`], but without waiting for the disk: for what means nothing after a reboot.
///
/// # Errors
/// When it cannot be written; then the old file is whole and nothing is left beside it.
pub(crate) fn write_for_this_boot(path: &Path, bytes: &[u8]) -> Result<(), StateError> {
    replace(path, bytes, |temporary, bytes| create(temporary)?.write_all(bytes))
}

fn replace(
    path: &Path,
    bytes: &[u8],
    write: impl FnOnce(&Path, &[u8]) -> io::Result<()>,
) -> Result<(), StateError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".tmp");
    let temporary = path.with_file_name(name);
    write(&temporary, bytes).and_then(|()| fs::rename(&temporary, path)).map_err(|source| {
        let _ = fs::remove_file(&temporary);
        StateError { what: "cannot write", path: path.to_owned(), source }
    })
}

fn create(path: &Path) -> io::Result<File> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits();
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600).custom_flags(nofollow.cast_signed());
    // A link in its place could lead to a file of somebody else.
    in_directory(path, || options.open(path))
}

/// Which file there is, whatever it is called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FileId(u64, u64);

impl FileId {
    /// What is at `path`, links not followed.
    #[must_use]
    pub(crate) fn at(path: &Path) -> Option<Self> {
        fs::symlink_metadata(path).ok().map(|file| Self(file.dev(), file.ino()))
    }

    /// What `path` leads to; in /proc what a process has open.
    #[must_use]
    pub(crate) fn behind(path: &Path) -> Option<Self> {
        fs::metadata(path).ok().map(|file| Self(file.dev(), file.ino()))
    }

    /// An open file.
    #[must_use]
    pub(crate) fn of(file: &File) -> Option<Self> {
        file.metadata().ok().map(|file| Self(file.dev(), file.ino()))
    }
}

/// Opens a file, and makes its directory (0700) where somebody removed it.
pub(crate) fn in_directory(path: &Path, open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    match (open(), path.parent()) {
        (Err(error), Some(dir)) if error.kind() == io::ErrorKind::NotFound => {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
            open()
        }
        (opened, _) => opened,
    }
}

pub(crate) fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = create(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Lower-case hex digits.
#[must_use]
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_device_is_named_and_leaves_no_file() {
        let error =
            StateError { what: "cannot write", path: "/x".into(), source: rustix::io::Errno::NOSPC.into() };
        assert!(error.to_string().contains("no space left"), "{error}");
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("dir");
        fs::create_dir(&path).unwrap();
        fs::create_dir(path.join("x")).unwrap();
        assert!(write_atomic(&path, b"text").is_err(), "a directory is in the way");
        assert_eq!(fs::read_dir(temporary.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn a_file_that_has_the_text_already_is_not_written_again() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("x");
        let inode = |text: &[u8]| {
            write_atomic(&path, text).unwrap();
            assert_eq!(fs::read(&path).unwrap(), text);
            fs::metadata(&path).unwrap().ino()
        };
        let first = inode(b"text");
        assert_eq!(inode(b"text"), first);
        assert_ne!(inode(b"more"), first);
    }
}
