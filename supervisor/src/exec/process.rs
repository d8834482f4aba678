//! Processes: spawned with exactly the descriptors that are lent to them ([`control::fds`]), watched and signalled by
//! pidfd, children or not.
//!
//! Beside `own` the one file of this crate with `unsafe`: the code between fork and exec has no safe form.
#![allow(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use control::fds::{self, Lent};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, Resource, Rlimit, Signal, WaitId, WaitIdOptions};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::exec::own::{keep_descriptors_to_self, own_binary, settle_signals, unmarked};
use crate::exec::record::Identity;
use crate::host::files::FileId;
use crate::host::procfs;
use crate::host::systemd::VARIABLES;
use crate::machine::exit::Exit;
use crate::machine::keeper::Halt;

/// The program that runs here, whatever became of its file.
const OWN_IMAGE: &str = "/proc/self/exe";

/// A block of memory of so many bytes or more goes back to the system when it is freed.
const LARGE_BLOCK: &str = "131072";

/// What a new process is given.
#[derive(Debug)]
pub(crate) struct Given<'a> {
    /// `worker` or `encoder`.
    pub(crate) subcommand: &'a str,
    /// The program, where it is another than every start runs.
    pub(crate) program: Option<&'a OwnedFd>,
    /// Its config file.
    pub(crate) config: &'a Path,
    /// Descriptors 1 and 2.
    pub(crate) log: File,
    /// All its other descriptors.
    pub(crate) lent: Lent,
    /// It must be able to open this many.
    pub(crate) descriptors: u64,
}

/// Why there is no process.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {}: {source}", .binary.display())]
pub(crate) struct SpawnError {
    /// What was to be run.
    pub(crate) binary: PathBuf,
    /// What the system said.
    pub(crate) source: io::Error,
}

/// Starts processes of one binary.
#[derive(Debug)]
pub(crate) struct Spawner {
    binary: PathBuf,
    /// As this process was given it; its own is raised.
    soft_limit: Option<u64>,
}

impl Spawner {
    /// For `binary`. From here on, every descriptor of this process from 3 up is closed at exec.
    ///
    /// # Errors
    /// When descriptors run out, /proc is not mounted, or the kernel has no pidfd.
    pub(crate) fn new(binary: PathBuf) -> io::Result<Self> {
        keep_descriptors_to_self()?;
        // Without it no process could be watched; better known before one is started.
        rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())
            .map_err(|error| io::Error::other(format!("pidfd_open: {error}; Linux 5.3 or newer has it")))?;
        // A supervisor of many ports needs more descriptors than the usual 1024.
        let limit = rustix::process::getrlimit(Resource::Nofile);
        rustix::process::setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, ..limit })?;
        Ok(Self { binary, soft_limit: limit.current })
    }

    /// Has every start run `binary` from now on.
    pub(crate) fn install(&mut self, binary: PathBuf) {
        self.binary = binary;
    }

    /// What would be started now, for a keeper to become: its binary or, where that is away, the program that runs here.
    ///
    /// # Errors
    /// When there is neither.
    pub(crate) fn program(&self) -> io::Result<OwnedFd> {
        Self::open(&self.program_path())
    }

    /// The path of what every start runs where that is there; else of what runs here, and so of what is started instead.
    pub(crate) fn next_path(&self) -> PathBuf {
        if self.is_away() {
            own_binary().unwrap_or_else(|_| self.binary.clone())
        } else {
            self.binary.clone()
        }
    }

    /// That every start runs another program than it should, for a person.
    pub(crate) fn lack(&self) -> Option<String> {
        let next = self.next_path();
        let instead = if next.exists() {
            next.display().to_string()
        } else {
            "what the supervisor runs, whose file is away too".to_owned()
        };
        self.is_away()
            .then(|| format!("the program {} is away: a start runs {instead}", self.binary.display()))
    }

    fn is_away(&self) -> bool {
        Self::open(&self.binary).is_err()
    }

    /// The file that a start would run.
    pub(crate) fn next(&self) -> Option<FileId> {
        FileId::behind(&self.binary).or_else(|| FileId::behind(Path::new(OWN_IMAGE)))
    }

    /// The path of what a start would run.
    pub(crate) fn program_path(&self) -> PathBuf {
        match Self::open(&self.binary) {
            Ok(_) => self.binary.clone(),
            Err(error) => {
                tracing::warn!(binary = %self.binary.display(), %error, "the program that runs here is started instead");
                PathBuf::from(OWN_IMAGE)
            }
        }
    }

    /// The program at `path`, to be run.
    ///
    /// # Errors
    /// As of open(2).
    pub(crate) fn open(path: &Path) -> io::Result<OwnedFd> {
        Ok(rustix::fs::open(path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?)
    }

    /// Starts a process in a session of its own. Must be called in a tokio runtime.
    ///
    /// A binary that is away, or cannot be run yet, while a package is replaced is stood in for by the one that runs here.
    ///
    /// # Errors
    /// When there is no process afterwards.
    pub(crate) fn spawn(&self, given: Given<'_>) -> Result<Process, SpawnError> {
        let Given { subcommand, program, config, log, lent, descriptors } = given;
        let fail = |source| SpawnError { binary: self.binary.clone(), source };
        let limit = fd_limit_for(self.soft_limit, descriptors);
        let lent = Arc::new(lent);
        let start = |binary: &Path| {
            let mut command = Command::new(binary);
            command
                .arg0(&self.binary)
                .args([subcommand, "--config"])
                .arg(config)
                .env(fds::VARIABLE, lent.variable())
                // mallopt(3): left alone, the C library keeps ever larger blocks for later instead of giving them back, and with
                // them the memory of an attack that is over.
                .env("MALLOC_MMAP_THRESHOLD_", LARGE_BLOCK)
                .current_dir("/")
                .stdin(Stdio::null())
                .stdout(log.try_clone()?)
                .stderr(log.try_clone()?);
            for variable in VARIABLES {
                command.env_remove(variable);
            }
            let lent = Arc::clone(&lent);
            // SAFETY: the closure runs between fork and exec; it makes system calls only, allocates nothing and takes no
            // lock.
            unsafe {
                command.pre_exec(move || {
                    rustix::process::setsid()?;
                    settle_signals();
                    rustix::process::setrlimit(Resource::Nofile, limit)?;
                    lent.pass_on()
                });
            }
            command.spawn()
        };
        let is_away = |error: &io::Error| {
            let number = error.raw_os_error().map(Errno::from_raw_os_error);
            matches!(
                number,
                Some(Errno::NOENT | Errno::NOTDIR | Errno::ACCESS | Errno::NOEXEC | Errno::TXTBSY)
            )
        };
        // As this process has it: the numbers of descriptors are others between fork and exec.
        let own = program
            .map(|program| PathBuf::from(format!("/proc/{}/fd/{}", std::process::id(), program.as_raw_fd())));
        let mut child = match start(own.as_deref().unwrap_or(&self.binary)) {
            Err(error) if own.is_none() && is_away(&error) => {
                tracing::warn!(binary = %self.binary.display(), %error, "the program that runs here is started instead");
                start(Path::new(OWN_IMAGE)).map_err(|_| fail(error))?
            }
            started => started.map_err(fail)?,
        };
        // Not waited for yet, so the pid cannot be anybody else's.
        Process::open(child.id(), true).map_err(|error| {
            // Nobody could watch it, and it would hold port and lock for ever.
            let _ = child.kill();
            let _ = child.wait();
            fail(error)
        })
    }
}

/// The limit under which `needed` descriptors can be open, and no fewer than `soft`.
fn fd_limit_for(soft: Option<u64>, needed: u64) -> Rlimit {
    let maximum = rustix::process::getrlimit(Resource::Nofile).maximum;
    Rlimit { current: soft.map(|soft| soft.max(needed)), maximum: maximum.map(|hard| hard.max(needed)) }
}

/// A process, held by its pidfd: signals reach it or nobody. Of a port it is the keeper, which has the worker that serves in its
/// session.
#[derive(Debug)]
pub(crate) struct Process {
    identity: Identity,
    pidfd: AsyncFd<OwnedFd>,
    child: bool,
}

impl Process {
    /// The living process `pid`, which some other process started. What it is must be proved after this call: from
    /// here on the pid cannot become another's unnoticed.
    ///
    /// # Errors
    /// When there is no such process.
    pub(crate) fn adopt(pid: u32) -> io::Result<Self> {
        Self::open(pid, false)
    }

    fn open(pid: u32, child: bool) -> io::Result<Self> {
        let raw = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
        let pidfd = rustix::process::pidfd_open(raw, PidfdFlags::empty())?;
        // A child that is a zombie already has no start any more, and needs none: it is about to be reaped.
        let start_ticks = match procfs::start_ticks(pid) {
            Some(ticks) => ticks,
            None if child => 0,
            None => return Err(Errno::SRCH.into()),
        };
        let pidfd = control::watch(pidfd, Interest::READABLE)?;
        Ok(Self { identity: Identity { pid, start_ticks }, pidfd, child })
    }

    /// Who it is.
    #[must_use]
    pub(crate) fn identity(&self) -> Identity {
        self.identity
    }

    /// Waits for its end, ends what it leaves of its session, and reaps it if it is a child.
    pub(crate) async fn wait(&self) -> Exit {
        self.has_ended().await;
        // Before it is reaped: until then nobody else can get its number, and so a session of that name.
        end_session(self.identity).await;
        self.reap()
    }

    async fn has_ended(&self) {
        // An error here is of the runtime, not of the process; the state of the process is asked when it is reaped.
        let _ = self.pidfd.readable().await;
    }

    fn reap(&self) -> Exit {
        if !self.child {
            return Exit::Unobserved;
        }
        match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(code), _) => Exit::Code(code),
                (None, Some(signal)) => Exit::Signal(signal),
                (None, None) => Exit::Unobserved,
            },
            Ok(None) | Err(_) => Exit::Unobserved,
        }
    }

    /// The others of its session: of a keeper the worker. What they call themselves says nothing.
    pub(crate) fn workers(&self) -> Vec<u32> {
        session_of(self.identity)
    }

    /// Whether `pid` is this process, or a worker of this keeper.
    pub(crate) fn has(&self, pid: u32) -> bool {
        procfs::session(pid).is_some_and(|leader| leader == self.identity.pid) || pid == self.identity.pid
    }

    /// Why it does nothing, if it is so. One that is stopped goes on from here.
    pub(crate) fn wake(&self) -> Option<Halt> {
        let halt = procfs::halt(self.identity.pid);
        if halt == Some(Halt::Stopped) {
            self.signal(Signal::CONT);
        }
        halt
    }

    /// Has a keeper replace its worker.
    pub(crate) fn replace_worker(&self) {
        self.signal(Signal::USR2);
    }

    /// The program that it runs, whatever became of its file.
    ///
    /// # Errors
    /// As of open(2).
    pub(crate) fn program(&self) -> io::Result<OwnedFd> {
        Spawner::open(Path::new(&format!("/proc/{}/exe", self.identity.pid)))
    }

    /// Whether it runs the program that is at `path` now.
    pub(crate) fn is_running(&self, path: &Path) -> bool {
        self.runs().is_some_and(|(_, file)| FileId::behind(path) == Some(file))
    }

    /// The program that it runs: where that is or was, and which file.
    pub(crate) fn runs(&self) -> Option<(PathBuf, FileId)> {
        let program = PathBuf::from(format!("/proc/{}/exe", self.identity.pid));
        Some((unmarked(std::fs::read_link(&program).ok()?), FileId::behind(&program)?))
    }

    /// Asks it to end.
    pub(crate) fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it.
    pub(crate) fn kill(&self) {
        self.signal(Signal::KILL);
    }

    /// Sends it; tells whether it reached a process.
    fn signal(&self, signal: Signal) -> bool {
        // ESRCH: it has ended, which `wait` tells. EPERM: it is not ours, which adoption rules out.
        let sent = rustix::process::pidfd_send_signal(self.pidfd.get_ref(), signal);
        if let Err(error) = &sent {
            tracing::debug!(pid = self.identity.pid, ?signal, %error, "signal not sent");
        }
        sent.is_ok()
    }

    /// Takes a duplicate of its descriptor `number`, without its help; the system may forbid that.
    ///
    /// # Errors
    /// As of pidfd_getfd(2).
    pub(crate) fn duplicate_fd(&self, number: RawFd) -> io::Result<OwnedFd> {
        Ok(rustix::process::pidfd_getfd(self.pidfd.get_ref(), number, PidfdGetfdFlags::empty())?)
    }

    /// Lets it, and the worker of a keeper, open at least `needed` descriptors.
    ///
    /// # Errors
    /// When its hard limit is lower and this user may not raise it.
    pub(crate) fn raise_fd_limit(&self, needed: u64) -> io::Result<()> {
        for pid in std::iter::once(self.identity.pid).chain(self.workers()) {
            let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(Errno::SRCH)?;
            let limit = fd_limit_for(Some(0), needed);
            let before = rustix::process::prlimit(Some(pid), Resource::Nofile, limit)?;
            if before.current.is_none_or(|soft| soft > needed) {
                rustix::process::prlimit(Some(pid), Resource::Nofile, before)?;
            }
        }
        Ok(())
    }
}

/// The living processes of the session that `leader` leads or has led, without itself.
fn session_of(leader: Identity) -> Vec<u32> {
    // The system gives a number to another process only when nobody of the session of this name lives.
    let is_another = procfs::start_ticks(leader.pid).is_some_and(|ticks| ticks != leader.start_ticks);
    if is_another { Vec::new() } else { procfs::followers(leader.pid) }
}

/// Ends all that lives of the session of `leader`, which has ended.
///
/// Each process that we start leads a session of its own, and nobody gets into one but by a fork of whoever is in it. So all that is
/// there comes from that process and has what was lent to it, listener and lock among it: as long as one of them lives the port can
/// neither be served nor be started again. Command lines and names decide nothing, since a program chooses them: a worker and what
/// a script has left in the background are the same here. A process that has made a session of its own is not found; the lock that it
/// holds has the unit left alone, and says so.
pub(crate) async fn end_session(leader: Identity) {
    let mut spared = Vec::new();
    loop {
        let mut ended = Vec::new();
        for pid in session_of(leader) {
            if spared.contains(&pid) {
                continue;
            }
            // It becomes a child of a supervisor that is the first process of a container.
            let Ok(process) = Process::open(pid, true) else { continue };
            // Only now the pid cannot become another's unnoticed.
            if procfs::session(pid) != Some(leader.pid) {
                continue;
            }
            tracing::warn!(pid, leader = leader.pid, "what led its session has ended: it is killed");
            if process.signal(Signal::KILL) {
                ended.push(process);
            } else {
                // It has become another user's.
                spared.push(pid);
            }
        }
        if ended.is_empty() {
            return;
        }
        for process in ended {
            process.has_ended().await;
            process.reap();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `script` as a process would be run; its arguments are `worker --config FILE`.
    fn spawn(dir: &Path, script: Option<(&str, &str)>) -> Result<Process, SpawnError> {
        let binary = dir.join("binary");
        if let Some((script, mode)) = script {
            // Another process writes it: what this one has open for writing, another test's fork has too, and it cannot be run then.
            let write = r#"printf %s "$1" > "$0" && chmod "$2" "$0""#;
            let written =
                Command::new("sh").args(["-c", write]).arg(&binary).args([script, mode]).status().unwrap();
            assert!(written.success());
        }
        Spawner::new(binary).unwrap().spawn(Given {
            subcommand: "worker",
            program: None,
            config: Path::new("/nowhere"),
            log: File::create(dir.join("log")).unwrap(),
            lent: Lent::default(),
            descriptors: 16,
        })
    }

    #[tokio::test]
    async fn a_keeper_that_dies_takes_its_worker_with_it_and_one_that_ends_does_not_look_for_any() {
        let temporary = tempfile::tempdir().unwrap();
        // A subshell is a fork as a worker is: what it was started with is the same.
        let script = "#!/bin/sh\n(while sleep 0.1; do :; done) &\nwait\n";
        let keeper = spawn(temporary.path(), Some((script, "700"))).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while keeper.workers().is_empty() {
            assert!(std::time::Instant::now() < end);
            tokio::task::yield_now().await;
        }
        let worker = keeper.workers()[0];
        assert!(keeper.has(worker) && keeper.has(keeper.identity().pid) && !keeper.has(std::process::id()));
        keeper.kill();
        assert_eq!(keeper.wait().await, Exit::Signal(9));
        assert_eq!((keeper.workers(), procfs::start_ticks(worker)), (Vec::new(), None));
    }

    #[tokio::test]
    async fn a_process_that_ends_by_itself_leaves_nothing_of_its_session_whatever_that_is() {
        let temporary = tempfile::tempdir().unwrap();
        // What is left is another program, and ends neither by SIGHUP nor by SIGTERM.
        let script = "#!/bin/sh\ntrap '' HUP TERM\nsleep 1000 &\necho $!\nexit 3\n";
        let process = spawn(temporary.path(), Some((script, "700"))).unwrap();
        assert_eq!(process.wait().await, Exit::Code(3));
        let said = std::fs::read_to_string(temporary.path().join("log")).unwrap();
        let left: u32 = said.lines().last().unwrap().parse().unwrap();
        assert_eq!((process.workers(), procfs::start_ticks(left)), (Vec::new(), None), "{said}");
    }

    #[tokio::test]
    async fn a_session_of_the_same_number_as_one_that_is_over_is_left_alone() {
        let temporary = tempfile::tempdir().unwrap();
        let script = "#!/bin/sh\nsleep 1000 &\nwait\n";
        let process = spawn(temporary.path(), Some((script, "700"))).unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(20);
        while process.workers().is_empty() {
            assert!(std::time::Instant::now() < end);
            tokio::task::yield_now().await;
        }
        let Identity { pid, start_ticks } = process.identity();
        end_session(Identity { pid, start_ticks: start_ticks - 1 }).await;
        assert_eq!(process.workers().len(), 1);
        process.kill();
        process.wait().await;
        assert!(process.workers().is_empty());
    }

    #[tokio::test]
    async fn an_exit_code_and_a_signal_are_told_apart() {
        let temporary = tempfile::tempdir().unwrap();
        let process = spawn(temporary.path(), Some(("#!/bin/sh\necho $1 $2 $3; exit 7\n", "700"))).unwrap();
        assert_eq!(process.wait().await, Exit::Code(7));
        assert_eq!(
            std::fs::read_to_string(temporary.path().join("log")).unwrap(),
            "worker --config /nowhere\n"
        );
        let process = spawn(temporary.path(), Some(("#!/bin/sh\nexec sleep 60\n", "700"))).unwrap();
        // That of the shell, or of what the shell has become.
        let (path, file) = process.runs().unwrap();
        assert_eq!(FileId::behind(&path), Some(file));
        process.kill();
        assert_eq!(process.wait().await, Exit::Signal(9));
    }

    #[tokio::test]
    async fn a_binary_that_is_away_or_cannot_be_run_is_stood_in_for_by_the_one_that_runs() {
        let temporary = tempfile::tempdir().unwrap();
        for script in [None, Some(("#!/bin/sh\n", "600"))] {
            // This program is the tests', which understand no `--config`.
            spawn(temporary.path(), script).unwrap().wait().await;
            let said = std::fs::read_to_string(temporary.path().join("log")).unwrap();
            assert!(said.contains("config"), "{said}");
        }
    }

    #[tokio::test]
    async fn the_end_of_a_process_that_is_no_child_is_seen_too() {
        let temporary = tempfile::tempdir().unwrap();
        let child = spawn(temporary.path(), Some(("#!/bin/sh\nexec sleep 60\n", "700"))).unwrap();
        let adopted = Process::adopt(child.identity().pid).unwrap();
        assert_eq!(adopted.identity(), child.identity());
        adopted.kill();
        assert_eq!(adopted.wait().await, Exit::Unobserved);
        assert_eq!(child.wait().await, Exit::Signal(9));
        assert!(Process::adopt(child.identity().pid).is_err());
    }
}
