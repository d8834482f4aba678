//! What the system tells of a process, and the cores it may run on.

use std::fs;
use std::process::Command;
use std::time::Duration;

use crate::rows::Result;

/// All threads of process `pid`, and what it starts from now on.
pub(crate) fn pin(pid: u32, cores: &str) -> Result<()> {
    let pinned = Command::new("taskset").args(["-a", "-p", "-c", cores, &pid.to_string()]).output()?;
    if !pinned.status.success() {
        return Err(format!("taskset: {}", String::from_utf8_lossy(&pinned.stderr).trim()).into());
    }
    Ok(())
}

/// CPU time of the process in user and in system mode, clock ticks (proc(5)).
pub(crate) fn ticks(pid: u32) -> Result<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, a name in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|field| field.parse().ok());
    field(11).zip(field(12)).ok_or_else(|| format!("/proc/{pid}/stat cannot be read").into())
}

/// Time the threads of the process could have run and did not.
pub(crate) fn waited(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let nanos = text.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
        sum += nanos.map_or(Duration::ZERO, Duration::from_nanos);
    }
    Ok(sum)
}

pub(crate) fn rss_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("/proc/{pid}/status shows no VmRSS").into())
}
