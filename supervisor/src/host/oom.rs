//! Whether the kernel ended a process for want of memory. It tells by SIGKILL alone; who sent it is in the kernel's log, which
//! not every user may read, and in the counters of the process's control group.

use std::fs::{self, File, OpenOptions};
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::procfs;

/// A line of the kernel's log that is older says nothing of an end that was just seen.
const RECENT: Duration = Duration::from_secs(10);
/// Bytes of one record of the kernel's log at most; its limit is below.
const RECORD: usize = 8 * 1024;
/// Records that are looked through at most: more than the largest log has.
const RECORDS: usize = 100_000;

/// The kills for want of memory in the control group of one process.
#[derive(Debug)]
pub(crate) struct OomKills {
    counter: Option<PathBuf>,
    count: u64,
}

impl OomKills {
    /// Of the living process `pid`; counted from now on.
    pub(crate) fn watch(pid: u32) -> Self {
        let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        let counter = counter(&groups, Path::new("/sys/fs/cgroup"));
        let count = read(counter.as_deref());
        Self { counter, count }
    }

    /// Forgets those of others that there were so far. To be called now and then.
    pub(crate) fn refresh(&mut self) {
        self.count = read(self.counter.as_deref());
    }

    /// Whether the process `pid`, which has just ended, was one of them; `None` where nobody counts them.
    pub(crate) fn is_one(&self, pid: u32) -> Option<bool> {
        if read(self.counter.as_deref()) > self.count || is_logged(pid) {
            return Some(true);
        }
        self.counter.as_ref().map(|_| false)
    }
}

/// The file that counts them, of the groups that /proc/PID/cgroup names (cgroups(7)).
fn counter(groups: &str, root: &Path) -> Option<PathBuf> {
    groups.lines().find_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, group) = (fields.next()?, fields.next()?.trim_start_matches('/'));
        let file = match controllers {
            "" => root.join(group).join("memory.events"),
            _ if controllers.split(',').any(|it| it == "memory") => {
                root.join("memory").join(group).join("memory.oom_control")
            }
            _ => return None,
        };
        file.exists().then_some(file)
    })
}

fn read(counter: Option<&Path>) -> u64 {
    let text = counter.and_then(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse().ok());
    count.unwrap_or(0)
}

/// Whether the kernel's log says so.
fn is_logged(pid: u32) -> bool {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().try_into().unwrap_or(0);
    let Ok(mut log) = OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg") else {
        return false;
    };
    let uptime = procfs::uptime_ms().map(Duration::from_millis).unwrap_or_default();
    let mut record = vec![0; RECORD];
    for _ in 0..RECORDS {
        match next(&mut log, &mut record) {
            Some(text) if says(&text, pid, uptime) => return true,
            Some(_) => {}
            None => return false,
        }
    }
    false
}

/// One record a read (Documentation/ABI/testing/dev-kmsg); none at the end. An overwritten one is passed over.
fn next(log: &mut File, record: &mut [u8]) -> Option<String> {
    match log.read(record) {
        Ok(0) => None,
        Ok(length) => Some(String::from_utf8_lossy(record.get(..length)?).into_owned()),
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Some(String::new()),
        Err(_) => None,
    }
}

/// `priority,number,microseconds,…;text`.
fn says(record: &str, pid: u32, uptime: Duration) -> bool {
    let Some((head, text)) = record.split_once(';') else { return false };
    let at = head.split(',').nth(2).and_then(|at| at.parse().ok()).map(Duration::from_micros);
    let is_recent = at.is_some_and(|at| uptime.saturating_sub(at) <= RECENT);
    is_recent
        && text.to_ascii_lowercase().contains("memory")
        && text.contains(&format!("Killed process {pid} "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_log_names_a_process_that_it_killed_for_memory_just_now() {
        let uptime = Duration::from_secs(100);
        let line =
            "3,900,98000000,-;Memory cgroup out of memory: Killed process 4711 (srsctl) total-vm:1kB\n";
        assert!(says(line, 4711, uptime));
        assert!(!says(line, 471, uptime), "another process");
        assert!(!says(line, 4711, uptime * 2), "long ago");
        for other in ["", "x", "3,900,98000000,-;Killed process", "3,900,9800000,-;usb 1-1: 4711"] {
            assert!(!says(other, 4711, uptime), "{other}");
        }
    }

    #[test]
    fn the_kills_of_a_control_group_are_counted_in_both_hierarchies() {
        let root = tempfile::tempdir().unwrap();
        let file = |path: &str| {
            let file = root.path().join(path);
            fs::create_dir_all(file.parent().unwrap()).unwrap();
            fs::write(&file, "low 0\noom 7\noom_kill 3\n").unwrap();
            file
        };
        let second = file("system.slice/live/memory.events");
        assert_eq!(counter("0::/system.slice/live\n", root.path()), Some(second.clone()));
        let first = file("memory/live/memory.oom_control");
        assert_eq!(counter("5:cpu,cpuacct:/x\n4:memory:/live\n0::/nowhere\n", root.path()), Some(first));
        assert_eq!(counter("0::/nowhere\n", root.path()), None);
        let mut kills = OomKills { counter: Some(second.clone()), count: 0 };
        kills.refresh();
        assert_eq!(kills.is_one(0), Some(false));
        fs::write(&second, "oom_kill 4\n").unwrap();
        assert_eq!(kills.is_one(0), Some(true));
        assert_eq!(OomKills { counter: None, count: 0 }.is_one(0), None);
        assert_eq!(read(None), 0);
    }
}
