//! What this process settles for itself before it does anything else: where it looks names up, what it hands on, what signals mean to it.
//!
//! Beside `process` the one file of this crate with `unsafe`: signals and descriptors of a whole process have no safe form.
#![allow(unsafe_code)]

use std::io;
use std::os::fd::{BorrowedFd, RawFd};
use std::path::PathBuf;

use nix::libc;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal as Number, sigaction};

/// Has a static program look users and hosts up in the files of the system and at its name servers, whatever nsswitch.conf says: what that
/// names else are libraries of another build of the C library, and some of them crash within this one. To be called first of all.
pub fn settle_lookups() {
    #[cfg(all(target_feature = "crt-static", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn __nss_configure_lookup(
                database: *const libc::c_char,
                services: *const libc::c_char,
            ) -> libc::c_int;
        }
        for (database, services) in [(c"hosts", c"files dns"), (c"passwd", c"files"), (c"group", c"files")] {
            // SAFETY: both are strings that live as long as the program, and no other thread is there yet that looks anything up.
            unsafe { __nss_configure_lookup(database.as_ptr(), services.as_ptr()) };
        }
    }
}

/// The path of this program, to start others of the same build.
///
/// # Errors
/// When /proc does not tell.
pub fn own_binary() -> io::Result<PathBuf> {
    Ok(unmarked(std::env::current_exe()?))
}

/// The path of a program as /proc tells it, without the mark of one that was replaced or removed since: its successor has that name.
pub(crate) fn unmarked(path: PathBuf) -> PathBuf {
    match path.to_str().and_then(|text| text.strip_suffix(" (deleted)")) {
        Some(name) if !path.exists() => PathBuf::from(name),
        Some(_) | None => path,
    }
}

/// Has every descriptor from 3 up closed at exec, also those that this process was started with: a pipe of whoever called must
/// not stay open in processes that outlive it.
///
/// # Errors
/// When /proc is not mounted.
pub fn keep_descriptors_to_self() -> io::Result<()> {
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let Some(number) = entry?.file_name().to_str().and_then(|name| name.parse::<RawFd>().ok()) else {
            continue;
        };
        if number > 2 {
            // SAFETY: the descriptor is only borrowed for one fcntl. Were it closed meanwhile, that gives EBADF; were it
            // reused, the flag is what all descriptors of this program have anyway.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            let _ = rustix::io::fcntl_setfd(borrowed, rustix::io::FdFlags::CLOEXEC);
        }
    }
    Ok(())
}

/// Has signals mean to this process what they mean to any of the cluster, whatever blocked or ignored them where it was started:
/// none is blocked, those that were ignored are not, except SIGPIPE. Those that ask for new logs are ignored until somebody
/// listens: nothing ends by them. What would end a process and means nothing here is ignored for good: timers that nobody sets, signals
/// of I/O, of power and of a terminal's job control that nobody asked for, all real-time signals, the soft limit of processor time (at the hard one the system
/// ends a process anyway) and that of a file's size, where a write then fails as on a full disk. Left to the system are those that
/// ask for an end and those of a fault, whose core dump is wanted.
///
/// Makes system calls alone and allocates nothing, so that it may be called between fork and exec.
pub(crate) fn settle_signals() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for number in Number::iterator() {
        let wanted = match number {
            Number::SIGKILL | Number::SIGSTOP | Number::SIGPIPE => continue,
            Number::SIGHUP | Number::SIGUSR1 | Number::SIGUSR2 => ignore,
            Number::SIGALRM
            | Number::SIGVTALRM
            | Number::SIGPROF
            | Number::SIGIO
            | Number::SIGSTKFLT
            | Number::SIGPWR
            | Number::SIGTSTP
            | Number::SIGTTIN
            | Number::SIGTTOU
            | Number::SIGXCPU
            | Number::SIGXFSZ => ignore,
            _ => default,
        };
        // SAFETY: neither disposition is a handler that could run.
        let before = unsafe { sigaction(number, &wanted) };
        if let Ok(before) = before
            && !matches!(before.handler(), SigHandler::SigIgn | SigHandler::SigDfl)
            && !FAULTS.contains(&number)
        {
            // SAFETY: it was this program's own handler a moment ago, with the same flags and mask.
            let _ = unsafe { sigaction(number, &before) };
        }
    }
    for number in libc::SIGRTMIN()..=libc::SIGRTMAX() {
        // SAFETY: no handler is set, and nobody here has one for these.
        unsafe { libc::signal(number, libc::SIG_IGN) };
    }
    let _ = SigSet::empty().thread_set_mask();
}

/// Signals of a fault for which the standard library has a handler. For the overflow of a stack it says so and aborts; one that somebody
/// sends, or a fault that does not come again, it lets pass the first time, and the second one ends the process.
const FAULTS: [Number; 2] = [Number::SIGSEGV, Number::SIGBUS];

/// Has signals of a fault end this process at once, whoever sends them, by that signal: a process whose memory is not what it thinks
/// must not go on.
pub fn die_of_faults() {
    let default = SigAction::new(SigHandler::SigDfl, SaFlags::empty(), SigSet::empty());
    for number in FAULTS {
        // SAFETY: it is no handler that could run.
        let _ = unsafe { sigaction(number, &default) };
    }
}

/// Has a write beyond the limit of a file's size (`ulimit -f`) fail, where the system would end this process by SIGXFSZ.
pub fn fail_at_file_limit() {
    let ignore = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    // SAFETY: it is no handler that could run.
    let _ = unsafe { sigaction(Number::SIGXFSZ, &ignore) };
}
