//! Who supervises a cluster: one process at a time, by two proofs.
//!
//! The lock file in the run directory is seen by every command. But whoever cleans up may remove it under its holder, and the
//! directory with it; then a second supervisor could lock another file of that name. So the holder also listens on a name that
//! no file system has, an abstract unix socket (unix(7)), which lives as long as the process does. The kernel tells whose it is.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::FlockOperation;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use crate::host::dirs::ClusterDirs;
use crate::host::files::{FileId, StateError, in_directory};

/// Tries of a lock that another command may hold for some microseconds.
const TRIES: u32 = 20;
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(5);
/// Commands that looked and were not noticed yet; more than these find the name in use all the same.
const BACKLOG: i32 = 128;

/// The cluster's lock, held until dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    file: File,
    /// None where another user has taken the name: then the file alone must do.
    name: Option<OwnedFd>,
}

impl Lock {
    /// Puts the lock file back where somebody removed or replaced it; tells whether that was so. To be called now and then.
    ///
    /// # Errors
    /// When it cannot be put back, or another process has locked the one that is there.
    pub(crate) fn tend(&mut self, dirs: &ClusterDirs) -> Result<bool, StateError> {
        while self.name.as_ref().is_some_and(|name| rustix::net::accept(name).is_ok()) {}
        let path = lock_path(dirs);
        if FileId::of(&self.file).is_some_and(|own| Some(own) == FileId::at(&path)) {
            return Ok(false);
        }
        let fail = |source| StateError { what: "cannot lock", path: path.clone(), source };
        let file = open(dirs)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| fail(error.into()))?;
        sign(&file).map_err(fail)?;
        self.file = file;
        Ok(true)
    }
}

impl ClusterDirs {
    /// Takes the cluster's lock.
    ///
    /// `None`: a supervisor runs, or another command holds it for good.
    ///
    /// # Errors
    /// When the lock file cannot be used.
    pub(crate) fn lock(&self) -> Result<Option<Lock>, StateError> {
        let path = lock_path(self);
        let fail = |source| StateError { what: "cannot lock", path: path.clone(), source };
        // `is_supervised` of another command may hold it for some microseconds.
        for _ in 0..TRIES {
            let file = open(self)?;
            match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
                // A `down` that ended meanwhile may have removed the file that was opened.
                Ok(()) if FileId::of(&file) != FileId::at(&path) => continue,
                Ok(()) => {}
                Err(Errno::WOULDBLOCK) => {
                    std::thread::sleep(PAUSE);
                    continue;
                }
                Err(error) => return Err(fail(error.into())),
            }
            match listen(self) {
                Err(Errno::ADDRINUSE) if holder(self).is_some() => std::thread::sleep(PAUSE),
                name => {
                    sign(&file).map_err(fail)?;
                    return Ok(Some(Lock { file, name: name.ok() }));
                }
            }
        }
        Ok(None)
    }

    /// Whether a supervisor of this cluster runs.
    #[must_use]
    pub fn is_supervised(&self) -> bool {
        let is_locked = File::open(lock_path(self)).is_ok_and(|file| {
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockShared) == Err(Errno::WOULDBLOCK)
        });
        is_locked || holder(self).is_some()
    }

    /// The supervisor's process id; to be shown, not to be signalled.
    #[must_use]
    pub fn supervisor_pid(&self) -> Option<u32> {
        let signed = || fs::read_to_string(lock_path(self)).ok()?.trim().parse().ok();
        holder(self).flatten().or_else(signed)
    }
}

fn lock_path(dirs: &ClusterDirs) -> PathBuf {
    dirs.run().join("lock")
}

fn open(dirs: &ClusterDirs) -> Result<File, StateError> {
    let path = lock_path(dirs);
    let open =
        || OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
    in_directory(&path, open).map_err(|source| StateError { what: "cannot lock", path: path.clone(), source })
}

fn sign(mut file: &File) -> std::io::Result<()> {
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()))
}

/// The cluster's name in the abstract namespace: of this user, and of the processes that see each other. Containers that share
/// a network may each have a cluster in the same place.
fn address(dirs: &ClusterDirs) -> Result<SocketAddrUnix, Errno> {
    let user = rustix::process::geteuid().as_raw();
    let processes = fs::read_link("/proc/self/ns/pid").unwrap_or_default();
    // FNV-1a: a path may be longer than a name, and every build must come to the same.
    let bytes = dirs.run().as_os_str().as_bytes();
    let place = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    SocketAddrUnix::new_abstract_name(
        format!("srsctl/{user}/{}/{place:016x}", processes.display()).as_bytes(),
    )
}

fn socket() -> Result<OwnedFd, Errno> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
}

fn listen(dirs: &ClusterDirs) -> Result<OwnedFd, Errno> {
    let socket = socket()?;
    rustix::net::bind(&socket, &address(dirs)?)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Whether a process of this user has the cluster's name, and which, as far as the kernel tells.
fn holder(dirs: &ClusterDirs) -> Option<Option<u32>> {
    let socket = socket().ok()?;
    match rustix::net::connect(&socket, &address(dirs).ok()?) {
        Ok(()) => {
            let peer = sockopt::socket_peercred(&socket).ok()?;
            let is_own = peer.uid == rustix::process::geteuid();
            is_own.then(|| u32::try_from(peer.pid.as_raw_nonzero().get()).ok())
        }
        // It has not looked up for long, as one that was stopped.
        Err(Errno::WOULDBLOCK) => Some(None),
        Err(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::dirs::StateRoots;

    fn dirs(temporary: &tempfile::TempDir) -> ClusterDirs {
        StateRoots::resolve(Some(temporary.path())).unwrap().cluster("live")
    }

    #[test]
    fn a_lock_is_held_though_its_file_and_directory_are_removed_and_is_put_back() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = dirs(&temporary);
        let mut lock = dirs.lock().unwrap().unwrap();
        assert!(!lock.tend(&dirs).unwrap());
        for _ in 0..2 {
            fs::remove_dir_all(dirs.run()).unwrap();
            assert!(dirs.is_supervised() && dirs.lock().unwrap().is_none());
            assert_eq!(dirs.supervisor_pid(), Some(std::process::id()));
            // `lock` has made another file: it is taken over.
            assert!(lock.tend(&dirs).unwrap());
            assert!(!lock.tend(&dirs).unwrap());
            assert_eq!(fs::read_to_string(lock_path(&dirs)).unwrap().trim(), std::process::id().to_string());
        }
        drop(lock);
        assert!(!dirs.is_supervised() && dirs.lock().unwrap().is_some());
    }

    #[test]
    fn however_often_it_is_looked_for_a_holder_is_found() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = dirs(&temporary);
        let mut lock = dirs.lock().unwrap().unwrap();
        fs::remove_file(lock_path(&dirs)).unwrap();
        assert!((0..BACKLOG * 2).all(|_| dirs.is_supervised()));
        lock.tend(&dirs).unwrap();
        assert_eq!(holder(&dirs), Some(Some(std::process::id())));
    }

    #[test]
    fn clusters_in_different_places_do_not_know_each_other() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let _lock = dirs(&one).lock().unwrap().unwrap();
        assert!(!dirs(&other).is_supervised());
        let _lock = dirs(&other).lock().unwrap().unwrap();
    }
}
