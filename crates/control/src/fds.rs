//! The descriptors that a process is started with, by name.
//!
//! The supervisor lends them at whatever numbers they have and says in [`VARIABLE`] which is which:
//! `SRSCTL_FDS=listener:9,control:12,socket:13,lock:14,config:15,secret:16`. A keeper that starts its program anew adds what is its own:
//! `state`, `program`, `before`. Besides them a process has 0 (/dev/null) and 1 and 2 (its log, opened with
//! `O_APPEND`), and nothing else is open. The process takes them first of all, before a runtime or a thread exists, and
//! makes sure that each is what its name says.
#![expect(unsafe_code, reason = "inherited descriptors are numbers; the environment asks for a promise")]

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{FileType, FlockOperation, MemfdFlags, SealFlags};
use rustix::io::{Errno, FdFlags, fcntl_getfd, fcntl_setfd};
use rustix::net::{SocketType, sockopt};

use crate::packet::Listener;

/// Whether descriptor 1 was closed when this process began.
static NO_STDOUT: AtomicBool = AtomicBool::new(false);

/// Looks at descriptor 1 before the runtime of the language puts /dev/null in place of what is closed: afterwards that cannot be told
/// from a /dev/null that somebody chose.
extern "C" fn look_at_stdout() {
    // SAFETY: only borrowed for one fcntl, which says whether it is open.
    let stdout = unsafe { BorrowedFd::borrow_raw(1) };
    NO_STDOUT.store(fcntl_getfd(stdout) == Err(Errno::BADF), Ordering::Relaxed);
}

// SAFETY: the C library calls what stands there once, with one thread, after it is ready itself; one system call is made.
#[used]
#[unsafe(link_section = ".init_array")]
static BEFORE_MAIN: extern "C" fn() = look_at_stdout;

/// Whether there is no standard output: descriptor 1 was closed when this process began, and what is written there is lost.
#[must_use]
pub fn is_stdout_missing() -> bool {
    NO_STDOUT.load(Ordering::Relaxed)
}

/// The environment variable that names a process's descriptors: `NAME:NUMBER`, separated by commas.
pub const VARIABLE: &str = "SRSCTL_FDS";
/// Characters of a token: 128 bits in hex.
const TOKEN: usize = 32;

/// What a descriptor is for. A name may stand once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Name {
    /// The RTMP listener, bound and listening.
    Listener,
    /// The control socket, bound and listening.
    Control,
    /// The lock file: its lock lives as long as the process does, its text is the token of [`Hello`](crate::Hello).
    Lock,
    /// The generated config, in memory: a start needs no disk.
    Config,
    /// The secret between origin and edges, in memory.
    Secret,
    /// The control socket's file: see [`crate::unix::hold`].
    Socket,
    /// Memory in which the workers of a port leave what they are at to each other.
    State,
    /// The program of which a keeper is started anew.
    Program,
    /// The program that the keeper was before that.
    Before,
}

impl Name {
    const ALL: [Self; 9] = [
        Self::Listener,
        Self::Control,
        Self::Lock,
        Self::Config,
        Self::Secret,
        Self::Socket,
        Self::State,
        Self::Program,
        Self::Before,
    ];

    /// As it stands in [`VARIABLE`].
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Listener => "listener",
            Self::Control => "control",
            Self::Lock => "lock",
            Self::Config => "config",
            Self::Secret => "secret",
            Self::Socket => "socket",
            Self::State => "state",
            Self::Program => "program",
            Self::Before => "before",
        }
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The descriptors that are lent to one process.
#[derive(Debug, Default)]
pub struct Lent(Vec<(Name, OwnedFd)>);

impl Lent {
    /// Adds a descriptor.
    pub fn add(&mut self, name: Name, fd: impl Into<OwnedFd>) {
        self.0.push((name, fd.into()));
    }

    /// The number of a descriptor, here and in the process.
    #[must_use]
    pub fn number(&self, name: Name) -> Option<RawFd> {
        self.0.iter().find(|(it, _)| *it == name).map(|(_, fd)| fd.as_raw_fd())
    }

    /// What is lent under `name`.
    #[must_use]
    pub fn get(&self, name: Name) -> Option<BorrowedFd<'_>> {
        self.0.iter().find(|(it, _)| *it == name).map(|(_, fd)| fd.as_fd())
    }

    /// No longer has what is lent under `name`, and gives it back.
    pub fn remove(&mut self, name: Name) -> Option<OwnedFd> {
        let place = self.0.iter().position(|(it, _)| *it == name)?;
        Some(self.0.swap_remove(place).1)
    }

    /// The value of [`VARIABLE`].
    #[must_use]
    pub fn variable(&self) -> String {
        let entries: Vec<String> =
            self.0.iter().map(|(name, fd)| format!("{name}:{}", fd.as_raw_fd())).collect();
        entries.join(",")
    }

    /// Whether a descriptor that is lent has this number.
    #[must_use]
    pub fn has(&self, number: RawFd) -> bool {
        self.0.iter().any(|(_, fd)| fd.as_raw_fd() == number)
    }

    /// Duplicates of all, at other numbers.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn try_clone(&self) -> io::Result<Self> {
        self.try_clone_of(&Name::ALL)
    }

    /// The same of what is lent under `names`.
    ///
    /// # Errors
    /// When descriptors run out.
    pub fn try_clone_of(&self, names: &[Name]) -> io::Result<Self> {
        let wanted = self.0.iter().filter(|(name, _)| names.contains(name));
        wanted.map(|(name, fd)| Ok((*name, fd.try_clone()?))).collect::<io::Result<_>>().map(Self)
    }

    /// Puts a duplicate of `fd` at the number of what is lent under `name`; nothing happens where nothing is.
    ///
    /// # Errors
    /// As of dup2(2).
    pub fn replace(&mut self, name: Name, fd: BorrowedFd<'_>) -> io::Result<()> {
        match self.0.iter_mut().find(|(it, _)| *it == name) {
            Some((_, lent)) => Ok(rustix::io::dup3(fd, lent, rustix::io::DupFlags::CLOEXEC)?),
            None => Ok(()),
        }
    }

    /// Takes the descriptors that [`VARIABLE`] names, has them closed at the next exec, and removes the variable. To be called
    /// once, before a thread exists.
    ///
    /// # Errors
    /// When the supervisor did not start this process.
    pub fn take() -> Result<Self, FdsError> {
        Self::take_value(std::env::var_os(VARIABLE))
    }

    fn take_value(value: Option<OsString>) -> Result<Self, FdsError> {
        let value = value.ok_or(FdsError::NoVariable)?;
        if std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) != 1 {
            return Err(FdsError::TooLate);
        }
        // SAFETY: this is the only thread, so nobody reads the environment meanwhile.
        unsafe { std::env::remove_var(VARIABLE) };
        Self::claim(&value.to_string_lossy())
    }

    fn claim(value: &str) -> Result<Self, FdsError> {
        let take = |(name, number)| {
            let fd = own(number).map_err(|wrong| FdsError::Wrong { name, number, wrong })?;
            Ok((name, fd))
        };
        parse(value)?.into_iter().map(take).collect::<Result<_, _>>().map(Self)
    }

    /// Keeps the descriptors open at exec. To be called between fork and exec: makes system calls alone, allocates nothing.
    ///
    /// # Errors
    /// As of fcntl(2).
    pub fn pass_on(&self) -> io::Result<()> {
        self.set_flags(FdFlags::empty())
    }

    /// Has them closed at exec again.
    ///
    /// # Errors
    /// As of fcntl(2).
    pub fn keep(&self) -> io::Result<()> {
        self.set_flags(FdFlags::CLOEXEC)
    }

    fn set_flags(&self, flags: FdFlags) -> io::Result<()> {
        self.0.iter().try_for_each(|(_, fd)| Ok(fcntl_setfd(fd, flags)?))
    }
}

/// Why a process does not have the descriptors that it needs: it was not started by a supervisor.
#[derive(Debug, thiserror::Error)]
pub enum FdsError {
    /// There is no [`VARIABLE`].
    #[error("{VARIABLE} is not set")]
    NoVariable,
    /// [`VARIABLE`] is no list of known names, each once, and numbers.
    #[error("{VARIABLE}={0:?} is not understood")]
    Variable(String),
    /// A name is missing.
    #[error("{VARIABLE} names no {0}")]
    Missing(Name),
    /// A descriptor is not what its name says.
    #[error("{name}, descriptor {number}, {wrong}")]
    Wrong {
        /// Its name.
        name: Name,
        /// Its number.
        number: RawFd,
        /// What it is or is not.
        wrong: &'static str,
    },
    /// A bug: something has been started before.
    #[error("the descriptors of {VARIABLE} must be taken before there is a second thread")]
    TooLate,
}

/// What a process was started with.
#[derive(Debug)]
pub struct Inherited {
    /// The RTMP listener; an encoder has none.
    pub listener: Option<TcpListener>,
    /// The control socket.
    pub control: Listener,
    /// The lock.
    pub lock: Lock,
    /// The generated config; none of a supervisor that is older than this program.
    pub config: Option<File>,
    /// The secret; none of an older supervisor, and of an encoder. Whoever keeps it open keeps it for the next supervisor too.
    pub secret: Option<File>,
    /// What keeps the control socket in reach; none of an older supervisor.
    pub socket: Option<OwnedFd>,
}

/// Takes the descriptors that the service manager has kept for this process (sd_listen_fds(3)), each with the name under which it
/// was stored; they are closed at the next exec. To be called once, before a thread exists.
///
/// # Errors
/// When what the service manager says of them is not understood, or it is too late.
pub fn take_stored() -> io::Result<Vec<(String, OwnedFd)>> {
    if std::fs::read_dir("/proc/self/task").map_or(0, Iterator::count) != 1 {
        return Err(io::Error::other(FdsError::TooLate));
    }
    // SAFETY: this is the only thread, so nobody reads the environment meanwhile.
    let stored = unsafe { sd_notify::listen_fds_with_names_and_unset_env() }?;
    // SAFETY: the service manager passed them to this process, by its pid; they are open, since they were made to close at exec, and have
    // no other owner, since nothing was opened before and the variables are gone.
    Ok(stored.map(|(number, name)| (name, unsafe { OwnedFd::from_raw_fd(number) })).collect())
}

/// The name of the file in memory that holds the config of a process, as /proc shows it.
pub const CONFIG: &str = "srsctl-config";
/// The same of the secret.
pub const SECRET: &str = "srsctl-secret";

/// A file in memory that holds `text` and cannot be changed any more.
///
/// # Errors
/// As of memfd_create(2) and write(2).
pub fn in_memory(name: &str, text: &[u8]) -> io::Result<File> {
    let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(text)?;
    rustix::fs::fcntl_add_seals(
        &file,
        SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
    )?;
    Ok(file)
}

/// A path under which this process can read `file` from its start, or run it.
#[must_use]
pub fn path_of(file: &impl AsFd) -> PathBuf {
    Path::new("/proc/self/fd").join(file.as_fd().as_raw_fd().to_string())
}

/// The lock by which a process is known to live. Dropping it says that it has ended.
#[derive(Debug)]
pub struct Lock {
    file: File,
    token: String,
}

impl Lock {
    /// What proves that this process is the supervisor's: 32 hex digits.
    #[must_use]
    pub fn token(&self) -> &str {
        &self.token
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Inherited {
    /// Takes and checks the descriptors that [`VARIABLE`] names: see [`Lent::take`].
    ///
    /// # Errors
    /// When the supervisor did not start this process.
    pub fn take() -> Result<Self, FdsError> {
        Lent::take()?.try_into()
    }
}

impl TryFrom<Lent> for Inherited {
    type Error = FdsError;

    /// Checks that each is what its name says.
    fn try_from(lent: Lent) -> Result<Self, FdsError> {
        let (mut listener, mut control, mut lock) = (None, None, None);
        let (mut config, mut secret, mut socket) = (None, None, None);
        for (name, fd) in lent.0 {
            let number = fd.as_raw_fd();
            let fail = |wrong| FdsError::Wrong { name, number, wrong };
            match name {
                Name::Listener => listener = Some(tcp_listener(fd).map_err(fail)?),
                Name::Control => {
                    let socket = Listener::from_inherited(fd);
                    control = Some(socket.map_err(|_| fail("is no listening SOCK_SEQPACKET socket"))?);
                }
                Name::Lock => lock = Some(locked(fd).map_err(fail)?),
                Name::Config => config = Some(regular(fd).map_err(fail)?),
                Name::Secret => secret = Some(regular(fd).map_err(fail)?),
                Name::Socket => socket = Some(fd),
                // The keeper's.
                Name::State | Name::Program | Name::Before => drop(fd),
            }
        }
        Ok(Self {
            listener,
            control: control.ok_or(FdsError::Missing(Name::Control))?,
            lock: lock.ok_or(FdsError::Missing(Name::Lock))?,
            config,
            secret,
            socket,
        })
    }
}

fn parse(value: &str) -> Result<Vec<(Name, RawFd)>, FdsError> {
    let wrong = || FdsError::Variable(value.to_owned());
    let mut table: Vec<(Name, RawFd)> = Vec::new();
    for entry in value.split(',') {
        let (name, number) = entry.split_once(':').ok_or_else(wrong)?;
        let name = Name::ALL.into_iter().find(|it| it.as_str() == name).ok_or_else(wrong)?;
        let number = number.parse().ok().filter(|number| *number > 2).ok_or_else(wrong)?;
        if table.iter().any(|known| known.0 == name || known.1 == number) {
            return Err(wrong());
        }
        table.push((name, number));
    }
    Ok(table)
}

/// Takes what was inherited at `number`, and has it closed at the next exec.
fn own(number: RawFd) -> Result<OwnedFd, &'static str> {
    // SAFETY: only looked at.
    let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
    let flags = fcntl_getfd(borrowed).map_err(|_| "is not open")?;
    if flags.contains(FdFlags::CLOEXEC) {
        return Err("was not inherited");
    }
    fcntl_setfd(borrowed, FdFlags::CLOEXEC).map_err(|_| "is not open")?;
    // SAFETY: it is open, and has no other owner: whatever this program opens closes at exec, and so does what has been
    // taken once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

fn tcp_listener(fd: OwnedFd) -> Result<TcpListener, &'static str> {
    if !is_tcp_listener(&fd) {
        return Err("is no listening TCP socket");
    }
    let listener = TcpListener::from(fd);
    listener.set_nonblocking(true).map_err(|_| "cannot be made non-blocking")?;
    Ok(listener)
}

fn regular(fd: OwnedFd) -> Result<File, &'static str> {
    let is_file = rustix::fs::fstat(&fd)
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    if is_file { Ok(fd.into()) } else { Err("is no file") }
}

/// A lock that came later, in place of the one that this process was started with.
pub(crate) fn locked(fd: OwnedFd) -> Result<Lock, &'static str> {
    let file = regular(fd)?;
    // The lock belongs to the open file: opened once more, the file shows whether somebody has it.
    let again = File::open(path_of(&file)).map_err(|_| "cannot be read")?;
    if rustix::fs::flock(&again, FlockOperation::NonBlockingLockShared) != Err(rustix::io::Errno::WOULDBLOCK)
    {
        return Err("is not locked");
    }
    let mut token = String::new();
    again.take(TOKEN as u64 + 1).read_to_string(&mut token).map_err(|_| "cannot be read")?;
    if token.len() != TOKEN || !token.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err("holds no token");
    }
    Ok(Lock { file, token })
}

/// Whether `fd` is a TCP socket that listens.
#[must_use]
pub fn is_tcp_listener(fd: &impl AsFd) -> bool {
    sockopt::socket_acceptconn(fd) == Ok(true)
        && sockopt::socket_type(fd) == Ok(SocketType::STREAM)
        && rustix::net::getsockname(fd).is_ok_and(|address| std::net::SocketAddr::try_from(address).is_ok())
}

/// Lock files for tests.
#[cfg(test)]
pub(crate) mod testing {
    use super::{File, FlockOperation, Lock, locked};
    use std::io::Write as _;
    use std::path::Path;

    pub(crate) const TOKEN: &str = "00112233445566778899aabbccddeeff";

    pub(crate) fn file(dir: &Path, text: &str) -> File {
        let mut file = tempfile::Builder::new().tempfile_in(dir).unwrap().into_file();
        file.write_all(text.as_bytes()).unwrap();
        file
    }

    pub(crate) fn locked_file(dir: &Path, text: &str) -> File {
        let file = file(dir, text);
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
        file
    }

    pub(crate) fn lock(dir: &Path) -> Lock {
        locked(locked_file(dir, TOKEN).into()).unwrap()
    }
}
