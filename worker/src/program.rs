//! The program of a keeper, and its place being taken by another, with all that the port has open.
//!
//! An exec leaves the keeper its process id, its session and its descriptors, if they are not closed at exec: those that are
//! lent, and every socket of the worker, at the numbers that they had. What else goes on is a [`Life`], in the environment.
//! The program that is to be run is a descriptor ([`Name::Program`]), which a worker has put there ([`Service::renew`](control::Service::renew)): so the
//! keeper looks for no file. The one that ran before stays open too ([`Name::Before`]), for the way back.
#![expect(unsafe_code, reason = "what the worker had open are numbers")]

use std::ffi::OsString;
use std::io;
use std::ops::Range;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use control::fds::{self, Lent, Name};
use control::{cause, trial};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::net::AddressFamily;
use rustix::process::{Resource, getrlimit};
use tracing::warn;

/// The environment variable in which a keeper tells the one that it becomes of itself.
const VARIABLE: &str = "SRSCTL_LIFE";
/// The program that runs here, whatever became of its file.
const OWN: &str = "/proc/self/exe";
/// The word by which a program is tried out; an older one does not know it, and fails.
const TRIAL: &str = "--trial";
/// What a program on trial looks at.
const TRIED: [Name; 4] = [Name::Config, Name::Secret, Name::State, Name::Program];
/// A program may take so long to show that it runs, while nobody serves.
const TRIAL_MAX: Duration = Duration::from_secs(2);

/// What a worker is told of itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Life {
    /// So many ended before it.
    pub(crate) generation: u32,
    /// So many of them made place, and did not die.
    pub(crate) renewed: u32,
    /// How the one before it ended.
    pub(crate) cause: Option<String>,
    /// What those before it have left is not to be used: it may be what they died of.
    pub(crate) is_cold: bool,
}

impl Life {
    /// Of the first worker of this program.
    pub(crate) fn begin() -> Self {
        let told = std::env::var_os(VARIABLE).and_then(|text| Self::from_text(&text.to_string_lossy()));
        if told.is_some()
            && let Some(name) =
                std::env::args_os().next().as_deref().and_then(|name| Path::new(name).file_name())
        {
            // An exec by a number has made that its name.
            let _ = std::fs::write("/proc/self/comm", name.as_encoded_bytes());
        }
        told.unwrap_or_default()
    }

    /// A worker made place.
    pub(crate) fn handle_renewal(&mut self) {
        self.renewed = self.renewed.saturating_add(1);
        self.handle_end(cause::RESTART.to_owned(), false);
    }

    /// A worker ended.
    pub(crate) fn handle_end(&mut self, cause: String, is_cold: bool) {
        self.generation = self.generation.saturating_add(1);
        (self.cause, self.is_cold) = (Some(cause), is_cold);
    }

    /// Something more of the newest end.
    pub(crate) fn add(&mut self, more: &str) {
        let cause = self.cause.get_or_insert_default();
        cause.push_str("; ");
        cause.push_str(more);
    }

    fn to_text(&self) -> String {
        format!("{}:{}:{}", self.generation, self.renewed, self.cause.as_deref().unwrap_or_default())
    }

    fn from_text(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ':');
        let (generation, renewed) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?);
        Some(Self { generation, renewed, cause: Some(words.next()?.to_owned()), is_cold: false })
    }
}

/// Has a place among what is lent for the program that is run next. None where /proc is not mounted.
pub(crate) fn prepare(lent: &mut Lent) {
    if lent.get(Name::Program).is_none() {
        match own() {
            Ok(own) => lent.add(Name::Program, own),
            Err(error) => warn!(%error, "the program cannot be changed while the port is open"),
        }
    }
}

/// Runs [`Name::Program`] as a child that goes no further than [`rehearse`](crate::keeper::rehearse): as a keeper that dies before it has a
/// worker it would take the port with it. Of the port it gets [`TRIED`] alone: what it leaves in the background, in a session of its own too, must
/// not have what nobody could start the port again with, its listener and its lock.
fn try_out(lent: &Lent, life: &Life) -> io::Result<()> {
    let lent = lent.try_clone_of(&TRIED)?;
    lent.pass_on()?;
    match trial::run(command(&lent, life)?.arg(TRIAL).stdin(Stdio::null()), TRIAL_MAX)? {
        Some(ended) if ended.status.success() => Ok(()),
        Some(ended) => Err(io::Error::other(format!("on trial it ends with {}", ended.status))),
        None => {
            let why = format!("on trial it does not end within {} s", TRIAL_MAX.as_secs());
            Err(io::Error::other(why))
        }
    }
}

/// Becomes [`Name::Program`]. Returns if that fails: then this one goes on.
pub(crate) fn start_anew(lent: &mut Lent, life: &Life) -> io::Error {
    let start = |lent: &mut Lent| -> io::Result<()> {
        let own = own()?;
        let program = lent.get(Name::Program).ok_or(io::ErrorKind::NotFound)?;
        let is_other = identity(program)? != identity(own.as_fd())?;
        lent.remove(Name::Before);
        if is_other {
            try_out(lent, life)?;
            lent.add(Name::Before, own);
        }
        exec(lent, life)
    };
    let failed = start(lent);
    lent.remove(Name::Before);
    give_up(lent, failed)
}

/// Becomes [`Name::Before`]. Returns if that fails: then this one goes on.
pub(crate) fn go_back(lent: &mut Lent, life: &Life) -> io::Error {
    let start = |lent: &mut Lent| {
        let before = lent.remove(Name::Before).ok_or(io::ErrorKind::NotFound)?;
        lent.replace(Name::Program, before.as_fd())?;
        drop(before);
        exec(lent, life)
    };
    let failed = start(lent);
    give_up(lent, failed)
}

/// This program is the one that is run, still.
fn give_up(lent: &mut Lent, failed: io::Result<()>) -> io::Error {
    let own = own().and_then(|own| lent.replace(Name::Program, own.as_fd()));
    match failed.and(own) {
        Err(error) => error,
        Ok(()) => io::ErrorKind::Other.into(),
    }
}

/// The program as this one was started, with what is lent.
fn command(lent: &Lent, life: &Life) -> io::Result<Command> {
    let program = lent.get(Name::Program).ok_or(io::ErrorKind::NotFound)?;
    let mut arguments = std::env::args_os();
    let name: OsString = arguments.next().unwrap_or_default();
    let mut command = Command::new(fds::path_of(&program));
    command.arg0(name).args(arguments).env(fds::VARIABLE, lent.variable()).env(VARIABLE, life.to_text());
    Ok(command)
}

/// Becomes it, with every connection of players and of others of the cluster.
fn exec(lent: &Lent, life: &Life) -> io::Result<()> {
    lent.pass_on()?;
    let sockets = sockets()?;
    set_flags(&sockets, FdFlags::empty());
    let failed = command(lent, life)?.exec();
    // What is tried out next gets none of them.
    let _ = lent.keep();
    set_flags(&sockets, FdFlags::CLOEXEC);
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: it is no handler that could run. It was so until the exec was tried, which changes it, as it unblocks all signals.
    let _ = unsafe { sigaction(Signal::SIGPIPE, &ignore) };
    Err(failed)
}

fn set_flags(sockets: &[RawFd], flags: FdFlags) {
    for socket in sockets {
        // SAFETY: only borrowed for one fcntl. A keeper has one thread and nobody shares its table then, so it is the socket that was found;
        // were it closed, that gives EBADF, and it need not go on.
        let _ = rustix::io::fcntl_setfd(unsafe { BorrowedFd::borrow_raw(*socket) }, flags);
    }
}

/// Those of the network. What the worker had open on its control socket ends with it, and whoever asks there shall see that: what the
/// program starts besides would keep it open, and nobody would answer.
fn sockets() -> io::Result<Vec<RawFd>> {
    Ok(numbers()?
        .filter(|number| {
            // SAFETY: only looked at; a number that is closed by now is none of a socket.
            let domain = rustix::net::sockopt::socket_domain(unsafe { BorrowedFd::borrow_raw(*number) });
            matches!(domain, Ok(AddressFamily::INET | AddressFamily::INET6))
        })
        .collect())
}

/// Numbers from 3 up of which each that is open is one.
///
/// To try them all costs a tenth of what a list of those that are open does, of which /proc makes a file each.
///
/// # Errors
/// When /proc is not mounted.
pub(crate) fn numbers() -> io::Result<Range<RawFd>> {
    match std::fs::read_to_string("/proc/self/status") {
        Ok(status) => {
            // The size of the table of descriptors (proc_pid_status(5)).
            let size = status.lines().find_map(|line| line.strip_prefix("FDSize:")?.trim().parse().ok());
            size.map(|end| 3..end).ok_or_else(|| io::Error::other("/proc/self/status does not say FDSize"))
        }
        // None is left to look by. The soft limit may have been another when they were opened.
        Err(error) if is_used_up(&error) => {
            let end = getrlimit(Resource::Nofile).maximum.and_then(|end| RawFd::try_from(end).ok());
            Ok(3..end.unwrap_or(RawFd::MAX))
        }
        Err(error) => Err(error),
    }
}

/// Whether there is no descriptor more, for this process or for all.
fn is_used_up(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::MFILE | Errno::NFILE))
}

/// The program that runs here.
fn own() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open(OWN, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
}

/// The file behind a descriptor.
fn identity(fd: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let stat = rustix::fs::fstat(fd)?;
    Ok((stat.st_dev, stat.st_ino))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_keeper_tells_the_one_that_it_becomes_reads_back() {
        let mut life = Life::default();
        life.handle_end("killed by SIGKILL: frozen: no heartbeat".to_owned(), false);
        assert_eq!(Life::from_text(&life.to_text()), Some(life.clone()));
        life.handle_renewal();
        life.add("why: not");
        assert_eq!((life.generation, life.renewed), (2, 1));
        assert_eq!(life.cause.as_deref(), Some("restart; why: not"));
        assert_eq!(Life::from_text(&life.to_text()), Some(life));
        for text in ["", "1", "1:2", "x:1:c", "1:-1:c"] {
            assert_eq!(Life::from_text(text), None, "{text}");
        }
    }

    #[test]
    fn a_program_that_cannot_be_run_leaves_the_one_that_runs_in_its_place() {
        let (mut lent, life) = (Lent::default(), Life::default());
        prepare(&mut lent);
        let own = identity(lent.get(Name::Program).unwrap()).unwrap();
        let null = std::fs::File::open("/dev/null").unwrap();
        lent.replace(Name::Program, null.as_fd()).unwrap();
        let error = start_anew(&mut lent, &life);
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{error}");
        assert_eq!(identity(lent.get(Name::Program).unwrap()).unwrap(), own);
        assert!(lent.get(Name::Before).is_none());
        lent.add(Name::Before, null);
        assert_eq!(go_back(&mut lent, &life).kind(), io::ErrorKind::PermissionDenied);
        assert_eq!(identity(lent.get(Name::Program).unwrap()).unwrap(), own);
        assert!(lent.get(Name::Before).is_none());
    }
}
