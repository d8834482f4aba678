//! The descriptors a supervised process is started with; see [`cluster::control`].
#![expect(unsafe_code, reason = "inherited descriptors are numbers")]

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

use cluster::control::fd;
use rustix::io::{FdFlags, fcntl_getfd, fcntl_setfd};
use tokio::io::unix::AsyncFd;

/// What the supervisor lends.
pub(crate) struct Lent {
    pub(crate) listener: OwnedFd,
    pub(crate) control: OwnedFd,
    /// Kept open: its lock says that this process lives.
    pub(crate) lock: File,
}

impl Lent {
    /// Takes the descriptors over.
    ///
    /// # Errors
    /// When one is not open: then the process was not started by a supervisor.
    pub(crate) fn take() -> io::Result<Self> {
        // SAFETY: called once, first of all, before anything else has opened a descriptor: what is open at these numbers was
        // inherited for this purpose and has no other owner.
        let [listener, control, lock] = unsafe { [own(fd::LISTENER)?, own(fd::CONTROL)?, own(fd::LOCK)?] };
        Ok(Self { listener, control, lock: lock.into() })
    }

    /// The token in the lock file.
    pub(crate) fn token(&mut self) -> io::Result<String> {
        let mut token = String::new();
        let mut file = &self.lock;
        io::Seek::seek(&mut file, io::SeekFrom::Start(0))?;
        file.take(64).read_to_string(&mut token)?;
        Ok(token.trim().to_owned())
    }
}

/// Lets the runtime wait for `fd`.
pub(crate) fn watch(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an `OwnedFd` keeps one open descriptor for its whole life, and `AsyncFd` gives no way to replace it.
    unsafe { AsyncFd::register(fd) }.map_err(|e| e.into_parts().1)
}

/// # Safety
/// Nothing else may own `number`.
unsafe fn own(number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: only looked at.
    let borrowed = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed)?;
    fcntl_setfd(borrowed, flags | FdFlags::CLOEXEC)?;
    // SAFETY: it is open, as `fcntl` has shown, and by the caller's promise ours.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}
