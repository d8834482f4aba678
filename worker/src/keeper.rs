//! What holds a port while its workers come and go.
//!
//! # Theory of operation
//!
//! `srsctl worker` is first of all a keeper. It clones the worker that serves, with `CLONE_FILES` and without `CLONE_VM`: both have
//! one table of descriptors and each its own memory, as behind fork(2). So what the worker accepts stays open when the worker dies,
//! and what it closes is closed. The keeper waits for the worker's end and clones the next one at once, which finds listener,
//! control socket, lock and config at the numbers that they always had. The memory in which workers leave their state to each
//! other is a file of the keeper's.
//!
//! The keeper has one thread, parses nothing, reads and writes nothing but a line of the log for each end, opens and closes
//! nothing but when it is started anew. A worker that dies again and again costs its state first ([`Life::is_cold`]) and then the keeper,
//! so that the supervisor's back-off decides.
//!
//! A worker that makes place (EX_RENEW) is followed by one of another program, or of the same one anew: the keeper becomes it ([`program`]).
//! Where that one's workers die at once, it goes back to the one before.
//!
//! | signal | what the keeper does |
//! | --- | --- |
//! | SIGTERM, SIGINT | hands it on, and ends with the worker |
//! | SIGHUP, SIGUSR1 | hands it on: the worker opens the log of both anew |
//! | SIGUSR2 | kills the worker; the next one goes on, and that counts as no death |
//! | any other | as it does to any process of the cluster (docs/operations.md) |
#![expect(
    unsafe_code,
    reason = "a clone that shares its descriptors, and closing those of the dead, have no safe form"
)]

mod deaths;

use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use control::fds::{Lent, Name};
use control::{RunError, cause};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::io::fcntl_getfd;
use rustix::process::{Pid, WaitOptions, kill_process, waitpid};
use shm::Memory;
use tracing::{info, warn};

use crate::keeper::deaths::{Deaths, End, Next};
use crate::program::{self, Life};

/// Bytes that workers can leave to each other; a sparse file, of which exists what was written.
const STATE: u64 = 16 << 30;
/// Tries to start a worker where the system has no memory or no process left, and the time between two.
const TRIES: u32 = 50;
/// See [`TRIES`].
const PAUSE: Duration = Duration::from_millis(100);

/// What this process is from here on.
pub(crate) enum Kept {
    /// A worker, with its own memory and everybody's descriptors.
    Worker(Life),
    /// The keeper, behind the end of the last worker; its exit code.
    Ended(u8),
}

/// Keeps the port, to whose descriptors it adds its own. To be called with one thread.
///
/// # Errors
/// When the system gives no process, or does not let it wait for one, and when workers die again and again.
pub(crate) fn keep(lent: &mut Lent) -> Result<Kept, RunError> {
    use Signal::{SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
    let told: SigSet = [SIGCHLD, SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2].into_iter().collect();
    // Blocked, they wait for `SigSet::wait`, also those that are ignored.
    let block = || {
        let before = told.thread_swap_mask(SigmaskHow::SIG_BLOCK);
        before.map_err(|error| RunError::system("blocking signals")(error.into()))
    };
    let before = block()?;
    let mut life = Life::begin();
    program::prepare(lent);
    if lent.get(Name::State).is_none()
        && let Some(state) = state()
    {
        lent.add(Name::State, state);
    }
    let mut deaths = Deaths::of(lent.get(Name::Before).is_some().then(Instant::now));
    loop {
        let born = Instant::now();
        let Some(worker) = clone_patiently().map_err(RunError::system("starting the worker"))? else {
            // A worker that cannot be told to stop is killed in the end.
            let _ = before.thread_set_mask();
            return Ok(Kept::Worker(life));
        };
        let (end, asked) = await_end(worker, &told).map_err(RunError::system("waiting for the worker"))?;
        let (now, lived, generation) = (Instant::now(), born.elapsed(), life.generation);
        let next = match asked {
            Some(Asked::End) => Next::End(end.code()),
            Some(Asked::Replacement) => deaths.handle_replacement(now, lived, end),
            None => deaths.handle_end(now, lived, end),
        };
        match next {
            Next::End(code) => return Ok(Kept::Ended(code)),
            Next::GiveUp => {
                warn!(generation, cause = %end, ?lived, "the worker died, though it was started cold");
                return Err(RunError::Dies(end.to_string()));
            }
            Next::Worker { is_cold } => {
                let follows = if is_cold {
                    "the next one uses nothing of what it left"
                } else {
                    "the next one goes on"
                };
                let cause = match (asked, end) {
                    (Some(Asked::Replacement), End::Signal(libc::SIGKILL)) => cause::REPLACED.to_owned(),
                    _ => end.to_string(),
                };
                warn!(generation, %cause, ?lived, "the worker died; {follows}");
                life.handle_end(cause, is_cold);
            }
            Next::Program => {
                info!(generation, ?lived, "the worker makes place; the keeper is started anew");
                life.handle_renewal();
                let error = program::start_anew(lent, &life);
                warn!(%error, "the program cannot be started; the one that runs goes on");
                life.add(&format!("the program cannot be started, so the one that ran goes on: {error}"));
                // An exec unblocks them, also one that fails.
                block()?;
            }
            Next::Return => {
                warn!(generation, cause = %end, ?lived, "the worker died; the keeper goes back to the program before");
                life.handle_end(end.to_string(), false);
                life.add(cause::WENT_BACK);
                let error = program::go_back(lent, &life);
                warn!(%error, "the program before cannot be started; the one that runs goes on");
                life.add(&format!("or would, could it be started: {error}"));
                block()?;
            }
        }
    }
}

/// All that a keeper of this program does until it has a worker, and what a worker begins with, without any that serves: whoever is to
/// become this program tries that out. `begin` is the worker's part.
///
/// # Errors
/// When any of it fails.
pub(crate) fn rehearse(
    lent: &mut Lent,
    begin: impl FnOnce(&Lent) -> Result<(), RunError>,
) -> Result<(), RunError> {
    let life = Life::begin();
    program::prepare(lent);
    let Some(worker) = clone().map_err(RunError::system("starting the worker"))? else {
        return begin(lent);
    };
    let end = waitpid(Some(worker), WaitOptions::empty()).map_err(std::io::Error::from);
    let end = end.map_err(RunError::system("waiting for the worker"))?;
    let end = end.map(|(_, status)| End::of(status.exit_status(), status.terminating_signal()));
    info!(generation = life.generation, ?end, "tried out");
    match end {
        Some(End::Exit(0)) | None => Ok(()),
        Some(end) => Err(RunError::Dies(end.to_string())),
    }
}

/// Makes this worker the owner of what one that has died had open: of every descriptor from 3 up that is not `kept` for all workers.
/// Dropping one closes it. To be called once, before anything is opened.
///
/// # Errors
/// When /proc is not mounted.
pub(crate) fn inherit(kept: &dyn Fn(RawFd) -> bool) -> io::Result<Vec<OwnedFd>> {
    let left = program::numbers()?.filter(|number| !kept(*number));
    Ok(left
        .filter_map(|number| {
            // SAFETY: only looked at. The one by which /proc was read is closed already.
            fcntl_getfd(unsafe { BorrowedFd::borrow_raw(number) }).ok()?;
            // SAFETY: it is open, and its owner was another process, which is dead; this one owns what is kept and nothing else yet.
            Some(unsafe { OwnedFd::from_raw_fd(number) })
        })
        .collect())
}

/// The file in memory, for the life of the port.
fn state() -> Option<OwnedFd> {
    Memory::file("srsctl-port", STATE)
        .inspect_err(|error| warn!(%error, "no memory to outlive a worker"))
        .ok()
}

/// As [`clone`], more than once: what is open here waits for a worker better than it is closed.
fn clone_patiently() -> io::Result<Option<Pid>> {
    for _ in 1..TRIES {
        match clone() {
            Err(_) => std::thread::sleep(PAUSE),
            cloned => return cloned,
        }
    }
    clone()
}

/// Starts a worker; returns none in the worker itself.
fn clone() -> io::Result<Option<Pid>> {
    const FLAGS: libc::c_int = libc::CLONE_FILES | libc::SIGCHLD;
    // SAFETY: without CLONE_VM and without a stack it is fork(2): the child gets a copy of the memory and goes on here. There is one
    // thread (`Lent::take` makes sure), so no lock is held that nobody in the child would release. What the C library does
    // around fork is for locks of other threads; its note of the thread's id goes stale, which robust and recursive mutexes
    // alone read, and it stays one that no other thread of the child has while the keeper lives.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone, libc::c_long::from(FLAGS), 0_usize, 0_usize, 0_usize, 0_usize)
    };
    match libc::pid_t::try_from(pid) {
        Ok(0) => Ok(None),
        Ok(pid) => Pid::from_raw(pid).map(Some).ok_or_else(io::Error::last_os_error),
        Err(error) => Err(io::Error::other(error)),
    }
}

/// What a worker was ended for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// The end of the port.
    End,
    /// The next worker.
    Replacement,
}

/// Waits for the worker's end, and does what it is told meanwhile. Tells what the worker was asked to end for.
fn await_end(worker: Pid, told: &SigSet) -> io::Result<(End, Option<Asked>)> {
    let mut asked = None;
    loop {
        let signal = match told.wait()? {
            // It may be of a worker before.
            Signal::SIGCHLD => match waitpid(Some(worker), WaitOptions::NOHANG)? {
                Some((_, status)) => {
                    return Ok((End::of(status.exit_status(), status.terminating_signal()), asked));
                }
                None => continue,
            },
            Signal::SIGUSR2 => {
                asked.get_or_insert(Asked::Replacement);
                rustix::process::Signal::KILL
            }
            Signal::SIGHUP => rustix::process::Signal::HUP,
            Signal::SIGUSR1 => rustix::process::Signal::USR1,
            _ => {
                asked = Some(Asked::End);
                rustix::process::Signal::TERM
            }
        };
        // Not waited for yet, so the pid cannot be anybody else's.
        kill_process(worker, signal)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    #[test]
    fn what_another_had_open_is_ours_and_what_is_kept_is_not() {
        let kept = File::open("/dev/null").unwrap();
        // A number that no other test is given meanwhile.
        let given = rustix::io::fcntl_dupfd_cloexec(&kept, 900).unwrap();
        let given = std::os::fd::IntoRawFd::into_raw_fd(given);
        let inherited = inherit(&|number| number != given).unwrap();
        assert_eq!(inherited.iter().map(std::os::fd::AsRawFd::as_raw_fd).collect::<Vec<_>>(), [given]);
        drop(inherited);
        assert!(!std::path::Path::new(&format!("/proc/self/fd/{given}")).exists());
        kept.metadata().unwrap();
        assert_ne!(kept.as_raw_fd(), given);
    }
}
