//! What the processes of the cluster hold, as the system tells.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::linux::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use rustix::process::Pid;

use crate::cluster::{Cluster, Result, Role};

/// What a process may hold more than before, and of memory a quarter besides: those that come and go make it differ.
const DESCRIPTORS_MORE: usize = 40;
const KIB_MORE: u64 = 4 * 1024;

/// What a process holds.
#[derive(Clone, Debug, Default)]
pub(crate) struct Held {
    /// What it is.
    pub(crate) name: String,
    /// Memory that is in use, KiB, of a worker that which outlives it too.
    pub(crate) rss: u64,
    /// Of the memory that outlives a worker, KiB.
    pub(crate) state: u64,
    pub(crate) descriptors: usize,
    pub(crate) threads: usize,
    /// CPU time, of a keeper that of all its workers so far.
    pub(crate) cpu: Duration,
}

/// What all processes of the cluster hold now.
pub(crate) fn held(cluster: &Cluster) -> Result<Vec<Held>> {
    let mut all = Vec::new();
    for role in Role::ALL {
        let worker = cluster.worker(role).ok_or("no worker lives")?;
        all.push(of(format!("{}: worker", role.name()), worker, [11, 12])?);
        all.push(of(format!("{}: keeper", role.name()), cluster.keeper(role), [13, 14])?);
    }
    all.push(of("supervisor".to_owned(), cluster.supervisor(), [11, 12])?);
    Ok(all)
}

/// Lines of what is held more now than before.
pub(crate) fn grown(before: &[Held], now: &[Held]) -> Vec<String> {
    let pairs = before.iter().zip(now);
    let more = |before: u64, now: u64| now > before * 5 / 4 + KIB_MORE;
    let grown = pairs.filter(|(before, now)| {
        more(before.rss, now.rss)
            || more(before.state, now.state)
            || now.descriptors > before.descriptors + DESCRIPTORS_MORE
            || now.threads > before.threads
    });
    grown.map(|(before, now)| format!("holds more than before: {before:?} → {now:?}")).collect()
}

/// `ticks` are the fields of CPU time in /proc/PID/stat, behind the name.
fn of(name: String, pid: Pid, ticks: [usize; 2]) -> Result<Held> {
    let path = |name: &str| format!("/proc/{}/{name}", pid.as_raw_nonzero());
    let status = fs::read_to_string(path("status"))?;
    let rss = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let rss = rss.and_then(|line| line.split_whitespace().next()).and_then(|kib| kib.parse().ok());
    let mut held = Held {
        name,
        rss: rss.unwrap_or(0),
        threads: fs::read_dir(path("task"))?.count(),
        cpu: cpu(pid, ticks)?,
        ..Held::default()
    };
    for entry in fs::read_dir(path("fd"))?.flatten() {
        held.descriptors += 1;
        let is_state =
            fs::read_link(entry.path()).is_ok_and(|to| to.to_string_lossy().contains("srsctl-port"));
        if is_state {
            held.state = fs::metadata(entry.path())?.st_blocks() / 2;
        }
    }
    Ok(held)
}

/// How many descriptors a process has open.
pub(crate) fn descriptors(pid: Pid) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero()))?.count())
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
