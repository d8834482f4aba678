//! What /proc tells of processes.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use cluster::events::By;

use crate::machine::keeper::Halt;

/// Of the kernel's boot: differs after a reboot.
///
/// # Errors
/// When /proc is not mounted.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

/// How long ago the machine was booted, as all processes of it see that.
pub(crate) fn since_boot() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    Duration::new(now.tv_sec.try_into().unwrap_or_default(), now.tv_nsec.try_into().unwrap_or_default())
}

/// When a process started, in ticks of 10 ms since boot. With the pid and the boot it names a process for good.
///
/// `None`: there is no such process, or it is a zombie.
#[must_use]
pub fn start_ticks(pid: u32) -> Option<u64> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The session of a process, named by its leader. A process that this program starts leads its own; the workers that it clones
/// are in it.
#[must_use]
pub(crate) fn session(pid: u32) -> Option<u32> {
    parse_session(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// The living processes of the session of `leader`, without itself.
#[must_use]
pub(crate) fn followers(leader: u32) -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| *pid != leader && session(*pid) == Some(leader) && start_ticks(*pid).is_some())
        .collect()
}

/// The short name of a process.
#[must_use]
pub(crate) fn name(pid: u32) -> Option<String> {
    Some(fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim_end().to_owned())
}

/// This process, as one that asks.
pub(crate) fn this_process() -> By {
    let pid = std::process::id();
    By { pid, uid: rustix::process::getuid().as_raw(), login_uid: login_uid(pid) }
}

/// The user who logged in where a process comes from; `None` of a service, and where the kernel keeps no account of it.
#[must_use]
pub(crate) fn login_uid(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/loginuid")).ok()?;
    text.trim().parse().ok().filter(|uid| *uid != u32::MAX)
}

/// The text of the file in memory called `name` that process `pid` has open, if it lets us look.
#[must_use]
pub(crate) fn file_in_memory(pid: u32, name: &str) -> Option<String> {
    fs::read_to_string(path_in_memory(pid, name)?).ok()
}

/// The path of that file.
#[must_use]
pub(crate) fn path_in_memory(pid: u32, name: &str) -> Option<PathBuf> {
    let link = format!("/memfd:{name} (deleted)");
    let mut open = fs::read_dir(format!("/proc/{pid}/fd")).ok()?.flatten().map(|entry| entry.path());
    open.find(|path| fs::read_link(path).is_ok_and(|target| target.as_os_str() == link.as_str()))
}

/// Milliseconds since boot.
#[must_use]
pub(crate) fn uptime_ms() -> Option<u64> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let seconds: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    u64::try_from(Duration::try_from_secs_f64(seconds).ok()?.as_millis()).ok()
}

/// Why a living process does nothing, if it is so.
#[must_use]
pub(crate) fn halt(pid: u32) -> Option<Halt> {
    parse_halt(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

/// What a process has had of a core so far, and what it does now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// Time on a core.
    ran: Duration,
    /// Time that it was kept waiting for one.
    waited: Duration,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It runs, or would if it had a core.
    Runnable,
    /// It waits for a disk, or for memory that was swapped out: no signal reaches it; or a debugger has it.
    Blocked,
    /// It sleeps, or is stopped.
    Idle,
}

impl Cpu {
    /// Of the process `pid`'s first thread; `None` where the kernel does not tell (it is gone, or `CONFIG_SCHED_INFO` is
    /// off).
    pub(crate) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let schedstat = fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
        let mut times =
            schedstat.split_ascii_whitespace().map_while(|ns| ns.parse().ok().map(Duration::from_nanos));
        let state = match stat.rsplit_once(')')?.1.split_ascii_whitespace().next()? {
            "R" => State::Runnable,
            "D" | "t" => State::Blocked,
            _ => State::Idle,
        };
        Some(Self { ran: times.next()?, waited: times.next()?, state })
    }
}

/// How much of the time `elapsed` between two looks a process had for itself: all but what it waited for a core, for a disk or for
/// whoever debugs it. All of it where the kernel does not tell.
pub(crate) fn own_time(before: Option<Cpu>, now: Option<Cpu>, elapsed: Duration) -> Duration {
    let Some((before, now)) = before.zip(now) else { return elapsed };
    match now.state {
        // A wait that is not over yet, or that a quota causes, is not in `waited`.
        State::Runnable => now.ran.saturating_sub(before.ran).min(elapsed),
        State::Blocked => Duration::ZERO,
        State::Idle => elapsed.saturating_sub(now.waited.saturating_sub(before.waited)),
    }
}

/// For how long a process that started at `ticks` has run.
#[must_use]
pub(crate) fn age(ticks: u64) -> Option<Duration> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let now: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    let per_second = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK).ok()??;
    Duration::try_from_secs_f64(now - ticks as f64 / per_second as f64).ok()
}

/// Field 3 of proc_pid_stat(5).
fn parse_halt(stat: &str) -> Option<Halt> {
    match stat.rsplit_once(')')?.1.split_ascii_whitespace().next()? {
        "T" => Some(Halt::Stopped),
        "t" => Some(Halt::Traced),
        _ => None,
    }
}

/// Field 22 of proc_pid_stat(5); field 3 is the state. The name, field 2, may hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<u64> {
    let mut fields = stat.rsplit_once(')')?.1.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// Field 6.
fn parse_session(stat: &str) -> Option<u32> {
    stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_and_spaces_does_not_shift_the_fields() {
        let stat = "7 (a) R 1 (b)) S 1 7 8 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9";
        assert_eq!((parse_stat(stat), parse_session(stat)), (Some(4711), Some(8)));
    }

    #[test]
    fn a_zombie_and_broken_text_have_no_start() {
        assert_eq!(parse_stat("7 (a) Z 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 9 9"), None);
        for broken in ["", "7", "7 (a", "7 (a) S", "7 (a) S 1 2 3"] {
            assert_eq!(parse_stat(broken), None);
        }
        for broken in ["", "7", "7 (a", "7 (a) S 1 7", "7 (a) S 1 7 x"] {
            assert_eq!(parse_session(broken), None);
        }
    }

    #[test]
    fn a_process_that_is_stopped_and_one_that_a_debugger_has_are_told_apart_from_those_that_go_on() {
        let halts =
            ["T", "t", "S", "R", "D", "Z", ""].map(|state| parse_halt(&format!("7 (T (t)) {state} 1 7 8")));
        assert_eq!(halts, [Some(Halt::Stopped), Some(Halt::Traced), None, None, None, None, None]);
    }

    #[test]
    fn what_a_process_waited_for_a_core_or_a_disk_was_not_its_own() {
        let second = Duration::from_secs(1);
        let cpu = |ran, waited, state| {
            Some(Cpu { ran: Duration::from_millis(ran), waited: Duration::from_millis(waited), state })
        };
        let before = cpu(100, 100, State::Idle);
        for (now, own) in [
            (cpu(110, 100, State::Idle), 1000),
            (cpu(110, 900, State::Idle), 200),
            (cpu(120, 100, State::Runnable), 20),
            (cpu(1100, 100, State::Runnable), 1000),
            (cpu(110, 100, State::Blocked), 0),
            (None, 1000),
        ] {
            assert_eq!(own_time(before, now, second), Duration::from_millis(own), "{now:?}");
        }
        assert_eq!(own_time(None, before, second), second);
    }

    #[test]
    fn a_process_that_runs_is_seen_to_and_one_that_sleeps_not_to() {
        // Processes of their own: the first thread of this one wakes for each test that ends.
        for (script, is_busy) in [("while :; do :; done", true), ("exec sleep 60", false)] {
            let mut child = std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
            let end = std::time::Instant::now() + Duration::from_secs(20);
            let mut before = None;
            let is_seen = loop {
                let now = Cpu::of(child.id()).unwrap();
                let first = *before.get_or_insert(now);
                let ran = now.ran.saturating_sub(first.ran) >= Duration::from_millis(50);
                match now.state {
                    State::Runnable if is_busy && ran => break true,
                    State::Idle if !is_busy => break true,
                    _ if std::time::Instant::now() > end => break false,
                    _ => std::thread::yield_now(),
                }
            };
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(is_seen, "{script}");
        }
    }

    #[test]
    fn a_file_in_memory_is_found_by_its_name_and_read_from_its_start() {
        let name = format!("srsctl-test-{}", std::process::id());
        let file = control::fds::in_memory(&name, b"text").unwrap();
        assert_eq!(file_in_memory(std::process::id(), &name).as_deref(), Some("text"));
        drop(file);
        assert_eq!(file_in_memory(std::process::id(), &name), None);
    }

    #[test]
    fn this_process_has_a_start_an_age_and_a_name() {
        let ticks = start_ticks(std::process::id()).unwrap();
        assert!(age(ticks).unwrap() < Duration::from_secs(24 * 3600));
        assert!(name(std::process::id()).is_some());
        assert_eq!(boot_id().unwrap().len(), 36);
    }
}
