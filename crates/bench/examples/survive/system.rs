//! What a port holds, as the system tells.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::cluster::{Cluster, Role};
use crate::time::Result;

/// What a port holds.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Held {
    /// Memory of the worker that is in use, KiB, that which outlives it too.
    pub(crate) rss: u64,
    /// Of the memory that outlives it, KiB.
    pub(crate) state: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// CPU time of all its workers so far.
    pub(crate) cpu: Duration,
}

/// What the port of `role` holds now.
pub(crate) fn held(cluster: &Cluster, role: Role) -> Result<Held> {
    let worker = cluster.worker(role).ok_or("no worker lives")?;
    let of = |pid: Pid, name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
    let status = fs::read_to_string(of(worker, "status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    let mut state = 0;
    let mut descriptors = 0;
    for entry in fs::read_dir(of(worker, "fd"))?.flatten() {
        descriptors += 1;
        let is_state =
            fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("srsctl-port"));
        if is_state {
            state = fs::metadata(entry.path())?.st_blocks() / 2;
        }
    }
    Ok(Held {
        rss: rss.unwrap_or(0),
        state,
        descriptors,
        threads: fs::read_dir(of(worker, "task"))?.count(),
        cpu: cpu(worker, [11, 12])? + cpu(cluster.keeper(role), [13, 14])?,
    })
}

/// Two fields of /proc/PID/stat behind the name, clock ticks (proc(5)), together.
fn cpu(pid: Pid, fields: [usize; 2]) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero()))?;
    let all: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let ticks = fields.iter().filter_map(|field| all.get(*field)?.parse::<u64>().ok()).sum::<u64>();
    Ok(Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64))
}

/// From the kill of a worker without a connection to the answer of the next one to a handshake.
pub(crate) fn respawn(cluster: &Cluster, role: Role) -> Result<Duration> {
    let before = Instant::now();
    cluster.replace(role)?;
    let answered = answer(role.address())?;
    Ok(answered - before)
}

/// When S0 comes.
fn answer(address: SocketAddr) -> Result<Instant> {
    let mut socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut hello = vec![0; 1537];
    hello.splice(0..1, [3]);
    socket.write_all(&hello)?;
    socket.read_exact(&mut [0])?;
    Ok(Instant::now())
}
