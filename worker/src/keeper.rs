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

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, FromRawFd as _, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use control::fds::{Lent, Name};
use control::service::{EX_CONFIG, EX_OSERR, EX_RENEW, EX_SOFTWARE, EX_USAGE};
use control::{RunError, cause};
use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rustix::io::fcntl_getfd;
use rustix::process::{Pid, WaitOptions, kill_process, waitpid};
use shm::Memory;
use tracing::{info, warn};

use crate::program::{self, Life};

/// Bytes that workers can leave to each other; a sparse file, of which exists what was written.
const STATE: u64 = 16 << 30;
/// Tries to start a worker where the system has no memory or no process left, and the time between two.
const TRIES: u32 = 50;
/// See [`TRIES`].
const PAUSE: Duration = Duration::from_millis(100);
/// A worker that the system refused something this soon would be refused it again.
const REFUSED_EARLY: Duration = Duration::from_secs(1);
/// So many deaths within [`DEATHS_WITHIN`] may be caused by what the workers leave to each other.
const DEATHS: usize = 3;
/// See [`DEATHS`]; a worker that was started cold and dies sooner has another cause.
const DEATHS_WITHIN: Duration = Duration::from_secs(60);

/// So many deaths within [`TRIAL`] are the new program's fault.
const TRIAL_DEATHS: u32 = 2;
/// So long a program is on trial: behind it the one before is not gone back to.
const TRIAL: Duration = Duration::from_secs(10);

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
    let trial = lent.get(Name::Before).is_some().then(|| (Instant::now(), 0));
    let mut deaths = Deaths { trial, ..Deaths::default() };
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

/// How a worker ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Exit(u8),
    Signal(i32),
}

impl End {
    fn of(code: Option<i32>, signal: Option<i32>) -> Self {
        let code = code.map(|code| u8::try_from(code).unwrap_or(EX_SOFTWARE));
        signal.map_or_else(|| Self::Exit(code.unwrap_or(EX_SOFTWARE)), Self::Signal)
    }

    /// As an exit code, in the way of a shell.
    fn code(self) -> u8 {
        match self {
            // Both have ended, and nobody goes on.
            Self::Exit(EX_RENEW) => 0,
            Self::Exit(code) => code,
            Self::Signal(signal) => u8::try_from(128 + signal).unwrap_or(EX_SOFTWARE),
        }
    }
}

/// In the words that the supervisor has for the end of a process.
impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::Exit(code) => write!(f, "exit {code}"),
            Self::Signal(number) => match Signal::try_from(number) {
                Ok(signal) => write!(f, "killed by {signal}"),
                Err(_) => write!(f, "killed by signal {number}"),
            },
        }
    }
}

/// What follows the end of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// The keeper ends too, with this code.
    End(u8),
    /// The keeper ends: this port needs another start than it can give.
    GiveUp,
    Worker {
        is_cold: bool,
    },
    /// The keeper becomes the program that it was given.
    Program,
    /// The keeper becomes the program that it was before.
    Return,
}

/// The deaths of workers, as far as they decide what follows.
#[derive(Debug, Default)]
struct Deaths {
    /// The newest, at most [`DEATHS`].
    recent: VecDeque<Instant>,
    /// The worker that lives was started cold.
    is_cold: bool,
    /// The program is on trial: since when, and how many have died.
    trial: Option<(Instant, u32)>,
}

impl Deaths {
    /// Takes the end at `now` of a worker that lived for `lived`.
    fn handle_end(&mut self, now: Instant, lived: Duration, end: End) -> Next {
        if end == End::Exit(EX_RENEW) {
            return Next::Program;
        }
        if self.is_failed(now, lived, end) {
            return Next::Return;
        }
        match end {
            // The next one would end the same way.
            End::Exit(code @ (0 | EX_USAGE | EX_CONFIG)) => return Next::End(code),
            End::Exit(EX_OSERR) if lived < REFUSED_EARLY => return Next::End(EX_OSERR),
            End::Exit(_) | End::Signal(_) => {}
        }
        if std::mem::take(&mut self.is_cold) && lived < DEATHS_WITHIN {
            return Next::GiveUp;
        }
        self.recent.retain(|death| now.saturating_duration_since(*death) < DEATHS_WITHIN);
        self.recent.push_back(now);
        if self.recent.len() >= DEATHS {
            self.recent.clear();
            self.is_cold = true;
        }
        Next::Worker { is_cold: self.is_cold }
    }

    /// The same of a worker that was to be replaced. That is no death: whoever asks for it decides how often. But one that had made place
    /// already has ended for that, and a program on trial that freezes is as bad as one that dies.
    fn handle_replacement(&mut self, now: Instant, lived: Duration, end: End) -> Next {
        match end {
            End::Exit(EX_RENEW) => Next::Program,
            _ if self.is_failed(now, lived, end) => Next::Return,
            _ => Next::Worker { is_cold: false },
        }
    }

    /// Whether this end shows that a program on trial is of no use.
    fn is_failed(&mut self, now: Instant, lived: Duration, end: End) -> bool {
        let Some((since, died)) = &mut self.trial else { return false };
        if now.saturating_duration_since(*since) >= TRIAL {
            self.trial = None;
            return false;
        }
        let failed = match end {
            End::Exit(0) => return false,
            // The next one would end the same way.
            End::Exit(EX_USAGE | EX_CONFIG) => true,
            End::Exit(EX_OSERR) => lived < REFUSED_EARLY,
            End::Exit(_) | End::Signal(_) => false,
        };
        *died += 1;
        let failed = failed || *died >= TRIAL_DEATHS;
        if failed {
            self.trial = None;
        }
        failed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::fd::AsRawFd as _;

    const SECOND: Duration = Duration::from_secs(1);
    const KILLED: End = End::Signal(9);

    fn after(deaths: &mut Deaths, start: Instant, at: u32, lived: u32) -> Next {
        deaths.handle_end(start + SECOND * at, SECOND * lived, KILLED)
    }

    #[test]
    fn an_end_that_would_come_again_is_the_keepers_too_and_any_other_is_a_death() {
        for (end, lived, next) in [
            (End::Exit(0), 9, Next::End(0)),
            (End::Exit(64), 9, Next::End(64)),
            (End::Exit(78), 9, Next::End(78)),
            (End::Exit(71), 0, Next::End(71)),
            (End::Exit(71), 1, Next::Worker { is_cold: false }),
            (End::Exit(70), 0, Next::Worker { is_cold: false }),
            (End::Exit(101), 0, Next::Worker { is_cold: false }),
            (KILLED, 0, Next::Worker { is_cold: false }),
        ] {
            let is = Deaths::default().handle_end(Instant::now(), SECOND * lived, end);
            assert_eq!(is, next, "{end:?} after {lived} s");
        }
    }

    #[test]
    fn three_deaths_in_a_minute_start_cold_and_one_more_within_a_minute_ends_the_keeper() {
        let (mut deaths, start) = (Deaths::default(), Instant::now());
        assert_eq!(after(&mut deaths, start, 0, 0), Next::Worker { is_cold: false });
        assert_eq!(after(&mut deaths, start, 30, 30), Next::Worker { is_cold: false });
        assert_eq!(after(&mut deaths, start, 59, 29), Next::Worker { is_cold: true });
        assert_eq!(after(&mut deaths, start, 118, 59), Next::GiveUp);
    }

    #[test]
    fn a_cold_start_that_lived_for_a_minute_and_deaths_far_apart_are_nothing_special() {
        let (mut deaths, start) = (Deaths::default(), Instant::now());
        for at in 0..3 {
            after(&mut deaths, start, at, 1);
        }
        assert_eq!(after(&mut deaths, start, 62, 60), Next::Worker { is_cold: false });
        for death in 5..50 {
            assert_eq!(after(&mut deaths, start, death * 30, 30), Next::Worker { is_cold: false });
        }
    }

    #[test]
    fn two_deaths_within_10_s_or_one_refusal_send_a_program_on_trial_back_once() {
        let start = Instant::now();
        let mut on_trial = Deaths { trial: Some((start, 0)), ..Deaths::default() };
        assert_eq!(on_trial.handle_end(start, SECOND, End::Exit(EX_RENEW)), Next::Program);
        assert_eq!(after(&mut on_trial, start, 1, 1), Next::Worker { is_cold: false });
        assert_eq!(after(&mut on_trial, start, 9, 8), Next::Return);
        assert_eq!(
            after(&mut on_trial, start, 9, 0),
            Next::Worker { is_cold: false },
            "it is not there any more"
        );
        let mut proven = Deaths { trial: Some((start, 0)), ..Deaths::default() };
        assert_eq!(after(&mut proven, start, 9, 9), Next::Worker { is_cold: false });
        assert_eq!(after(&mut proven, start, 10, 1), Next::Worker { is_cold: false });
        for code in [EX_USAGE, EX_CONFIG, EX_OSERR] {
            let mut refuses = Deaths { trial: Some((start, 0)), ..Deaths::default() };
            assert_eq!(refuses.handle_end(start, Duration::ZERO, End::Exit(code)), Next::Return);
        }
        let mut ends = Deaths { trial: Some((start, 0)), ..Deaths::default() };
        assert_eq!(ends.handle_end(start, Duration::ZERO, End::Exit(0)), Next::End(0));
    }

    #[test]
    fn a_replacement_is_no_death_and_hides_neither_a_renewal_nor_a_program_that_freezes() {
        let start = Instant::now();
        let mut proven = Deaths::default();
        for at in 0..9 {
            let next = proven.handle_replacement(start + SECOND * at, SECOND, KILLED);
            assert_eq!(next, Next::Worker { is_cold: false });
        }
        assert_eq!(proven.handle_replacement(start, SECOND, End::Exit(EX_RENEW)), Next::Program);
        let mut on_trial = Deaths { trial: Some((start, 0)), ..Deaths::default() };
        let frozen = |deaths: &mut Deaths, at| deaths.handle_replacement(start + SECOND * at, SECOND, KILLED);
        assert_eq!(frozen(&mut on_trial, 4), Next::Worker { is_cold: false });
        assert_eq!(frozen(&mut on_trial, 8), Next::Return);
    }

    #[test]
    fn ends_are_told_in_words_and_as_codes() {
        let told = |code, signal| {
            let end = End::of(code, signal);
            (end.to_string(), end.code())
        };
        assert_eq!(told(Some(70), None), ("exit 70".to_owned(), 70));
        assert_eq!(told(None, Some(15)), ("killed by SIGTERM".to_owned(), 143));
        assert_eq!(End::Exit(EX_RENEW).code(), 0, "nobody goes on");
        assert_eq!(told(None, Some(34)), ("killed by signal 34".to_owned(), 162));
    }

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
