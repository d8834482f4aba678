//! What the processes of a machine take, as the system tells.

use std::fs;
use std::time::Duration;

use crate::machines::{Machines, Result};

/// Of one machine.
pub(crate) struct Usage {
    pub(crate) name: &'static str,
    /// TCP connections that stand.
    pub(crate) connections: usize,
    /// CPU time so far of all that srsctl runs there, and of what of that has ended.
    pub(crate) cpu: Duration,
    /// Memory of all that srsctl runs there; what several share is counted once.
    pub(crate) memory_kib: u64,
}

/// Of all machines of the cluster.
pub(crate) fn of_all(machines: &Machines) -> Result<Vec<Usage>> {
    machines.first_processes().map(|(name, pid)| of(name, pid)).collect()
}

fn of(name: &'static str, first: u32) -> Result<Usage> {
    let space = fs::read_link(format!("/proc/{first}/ns/pid"))?;
    let (mut ticks, mut memory_kib) = (0, 0);
    for entry in fs::read_dir("/proc")?.flatten() {
        let dir = entry.path();
        // Others end meanwhile.
        let is_there = fs::read_link(dir.join("ns/pid")).is_ok_and(|other| other == space);
        let is_srsctl = fs::read_to_string(dir.join("comm")).is_ok_and(|name| name.starts_with("srsctl"));
        if !is_there || !is_srsctl {
            continue;
        }
        let (Ok(stat), Ok(memory)) =
            (fs::read_to_string(dir.join("stat")), fs::read_to_string(dir.join("smaps_rollup")))
        else {
            continue;
        };
        let fields: Vec<&str> =
            stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
        // proc(5): utime, stime, and of children that were waited for.
        ticks += fields.iter().skip(11).take(4).filter_map(|field| field.parse::<u64>().ok()).sum::<u64>();
        let pss = memory.lines().find_map(|line| line.strip_prefix("Pss:"));
        let pss = pss.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse::<u64>().ok());
        memory_kib += pss.unwrap_or(0);
    }
    let sockets = fs::read_to_string(format!("/proc/{first}/net/tcp"))?;
    // 01: ESTABLISHED.
    let stands = |line: &&str| line.split_whitespace().nth(3) == Some("01");
    let seconds = ticks as f64 / rustix::param::clock_ticks_per_second() as f64;
    Ok(Usage {
        name,
        connections: sockets.lines().filter(stands).count(),
        cpu: Duration::from_secs_f64(seconds),
        memory_kib,
    })
}
