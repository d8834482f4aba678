//! Unix sockets below directories of any depth.
//!
//! The address of a unix socket holds 107 bytes. A socket has its path for address where that fits, so that whoever cleans up
//! sees in /proc/net/unix that it is in use; any other is reached through `/proc/self/fd/DIRECTORY/NAME`, which is always short.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// Connections that may wait at a process's control socket; a frozen process accepts none.
const CONTROL_BACKLOG: i32 = 16;

/// Bytes of the longest path that is an address.
const ADDRESS_MAX: usize = 107;

struct ShortPath {
    dir: OwnedFd,
    name: std::ffi::OsString,
    /// The whole path, if it fits.
    whole: Option<PathBuf>,
}

impl ShortPath {
    fn of(path: &Path) -> io::Result<Self> {
        let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
        let name = path.file_name().unwrap_or_else(|| OsStr::new("")).to_owned();
        let dir = rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let whole = (path.as_os_str().len() <= ADDRESS_MAX).then(|| path.to_owned());
        Ok(Self { dir, name, whole })
    }

    /// Short enough, and good as long as `self` lives.
    fn address(&self) -> PathBuf {
        if let Some(whole) = &self.whole {
            return whole.clone();
        }
        Path::new("/proc/self/fd").join(self.dir.as_raw_fd().to_string()).join(&self.name)
    }

    fn unlink(&self) {
        let _ = rustix::fs::unlinkat(&self.dir, &*self.name, AtFlags::empty());
    }

    fn restrict(&self, mode: u32) -> io::Result<()> {
        Ok(rustix::fs::chmodat(&self.dir, &*self.name, Mode::from_raw_mode(mode), AtFlags::empty())?)
    }
}

/// A listening stream socket at `path`, in place of a stale one. Only the holder of the cluster's lock may do this.
///
/// # Errors
/// As of bind(2).
pub fn listen_stream(path: &Path, mode: u32) -> io::Result<std::os::unix::net::UnixListener> {
    let place = ShortPath::of(path)?;
    place.unlink();
    let listener = std::os::unix::net::UnixListener::bind(place.address())?;
    place.restrict(mode)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Connects to the stream socket at `path`.
///
/// # Errors
/// As of connect(2).
pub fn connect_stream(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    let stream = std::os::unix::net::UnixStream::connect(ShortPath::of(path)?.address())?;
    stream.set_nonblocking(true)?;
    Ok(stream)
}

/// A listening `SOCK_SEQPACKET` socket at `path` (0600, non-blocking), in place of a stale one.
pub(crate) fn listen_packets(path: &Path) -> io::Result<OwnedFd> {
    let place = ShortPath::of(path)?;
    place.unlink();
    let socket = seqpacket()?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(place.address())?)?;
    place.restrict(0o600)?;
    rustix::net::listen(&socket, CONTROL_BACKLOG)?;
    Ok(socket)
}

/// Holds the file of the socket at `path`. Through this descriptor, seen under /proc, the socket is reached though its file be
/// removed.
///
/// # Errors
/// As of open(2).
pub fn hold(path: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?)
}

/// Connects to the `SOCK_SEQPACKET` socket at `path`; packets that are received tell who sent them. `WouldBlock` when too
/// many connections wait there already.
pub(crate) fn connect_packets(path: &Path) -> io::Result<OwnedFd> {
    let place = ShortPath::of(path)?;
    let socket = seqpacket()?;
    rustix::net::sockopt::set_socket_passcred(&socket, true)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(place.address())?)?;
    Ok(socket)
}

fn seqpacket() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn a_socket_deep_below_the_limit_of_an_address_works() {
        let temporary = tempfile::tempdir().unwrap();
        let deep = (0..8).fold(temporary.path().to_owned(), |path, _| path.join("d".repeat(40)));
        std::fs::create_dir_all(&deep).unwrap();
        let path = deep.join("agent.sock");
        let _listener = listen_stream(&path, 0o660).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
        connect_stream(&path).unwrap();
        let control = deep.join("ctl.sock");
        let _listener = listen_packets(&control).unwrap();
        connect_packets(&control).unwrap();
    }

    #[test]
    fn a_socket_is_known_by_its_path_and_reached_by_whoever_holds_it_when_that_is_removed() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("ctl.sock");
        let _listener = listen_packets(&path).unwrap();
        let known = std::fs::read_to_string("/proc/net/unix").unwrap();
        assert!(known.contains(path.to_str().unwrap()), "{known}");
        let held = hold(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        assert!(connect_packets(&path).is_err());
        connect_packets(&Path::new("/proc/self/fd").join(held.as_raw_fd().to_string())).unwrap();
    }

    #[test]
    fn a_stale_socket_is_replaced() {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("ctl.sock");
        drop(listen_packets(&path).unwrap());
        assert_eq!(connect_packets(&path).unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        let _listener = listen_packets(&path).unwrap();
        connect_packets(&path).unwrap();
    }
}
