//! One cell: a server under one row's players.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bench::{Quantiles, Report};
use serde::Serialize;

use crate::servers::{self, Merge, Running, SEND_LOOP, Server};
use crate::{Result, Row};

/// Joins per second until the row's players are there.
const RAMP: u32 = 500;
/// Behind the last join, until buffers and caches are as they stay.
const SETTLE: Duration = Duration::from_secs(3);
/// CPU is measured for this long: 0.1 % of a core is one clock tick.
const WINDOW: Duration = Duration::from_secs(12);
/// Players that join while the row's are served, at 100 per second.
const JOINERS: u32 = 500;
/// Beyond the ramp: by then every player is connected, refused, or given up.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
const STREAM_TIMEOUT: Duration = Duration::from_secs(15);
/// From this share of its core on a server has more to do than it can, percent.
const SATURATED: f64 = 97.0;
/// From this share of waiting on something else disturbs the server, percent: a core of its own has below 2.
const DISTURBED: f64 = 10.0;
/// Processes that want to run, on average, above which the machine is too busy with other things to measure on.
const BUSY: f64 = 0.5;
/// Core of the server; the rest have the others.
const SERVER_CORE: &str = "0";

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) row: &'static str,
    pub(crate) players: u32,
    /// Players that the server took.
    pub(crate) connected: u32,
    pub(crate) server: String,
    pub(crate) merge: Merge,
    /// Percent of one core.
    pub(crate) user: f64,
    pub(crate) system: f64,
    /// Percent of the time that it could have run and its core was taken by something else.
    pub(crate) waited: f64,
    pub(crate) is_saturated: bool,
    /// Other processes were on its core: neither its figures nor ratios to them mean much.
    pub(crate) is_disturbed: bool,
    pub(crate) rss_kib: u64,
    pub(crate) kib_per_connection: f64,
    /// Of those that join beside the row's players.
    pub(crate) first_keyframe_ms: Option<Quantiles>,
    pub(crate) latency_ms: Option<Quantiles>,
    /// The row's players, whole run.
    pub(crate) load: Report,
}

impl Cell {
    pub(crate) fn is_comparable(&self) -> bool {
        !self.is_saturated && !self.is_disturbed
    }

    pub(crate) fn cpu(&self) -> f64 {
        self.user + self.system
    }
}

/// Pinning needs two cores, and figures need them idle.
pub(crate) fn check_machine() -> Result<()> {
    if cores() < 2 {
        return Err("this machine has one core: server and players would measure each other".into());
    }
    let load = fs::read_to_string("/proc/loadavg")?;
    let load: f64 = load.split_whitespace().next().and_then(|load| load.parse().ok()).unwrap_or(0.0);
    if load > BUSY {
        eprintln!(
            "warning: this machine is busy (load {load}); the figures will be off, see the column `waited`"
        );
    }
    Ok(())
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}

/// A process that is ended when dropped.
struct Helper(Child);

impl Drop for Helper {
    fn drop(&mut self) {
        servers::end(&mut self.0);
    }
}

pub(crate) fn cell(row: &Row, server: &Server, file: &Path, srsctl: &Path) -> Result<Cell> {
    pin(std::process::id(), &other_cores())?;
    let running = servers::start(server, row, file, srsctl)?;
    pin(running.pid, SERVER_CORE)?;
    let is_rtmp = !matches!(server, Server::SendLoop { .. });
    let _publisher = if is_rtmp {
        let mut command = Command::new(srsctl);
        command.args(["bench", "publish", "--duration", "0"]).arg(file).arg(&running.publish);
        let publisher =
            Helper(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        wait_for_stream(srsctl, &running.play)?;
        Some(publisher)
    } else {
        sleep(Duration::from_millis(500));
        None
    };

    let idle = rss_kib(running.pid)?;
    let mut load = Attached::new(row, &running, is_rtmp, srsctl)?;
    let connected = load.wait(row.players)?;
    sleep(SETTLE);
    let rss = rss_kib(running.pid)?;
    let (before, waited_before) = (ticks(running.pid)?, waited(running.pid)?);
    let start = Instant::now();
    sleep(WINDOW);
    let (after, waited) = (ticks(running.pid)?, waited(running.pid)?.saturating_sub(waited_before));
    let seconds = start.elapsed().as_secs_f64();
    let joiners = if is_rtmp { Some(join(srsctl, &running.play)?) } else { None };
    let load = load.finish()?;

    let per_second = rustix::param::clock_ticks_per_second() as f64;
    let percent = |ticks: u64| ticks as f64 / per_second / seconds * 100.0;
    let (user, system) = (percent(after.0 - before.0), percent(after.1 - before.1));
    let waited = waited.as_secs_f64() / seconds * 100.0;
    Ok(Cell {
        row: row.name,
        players: row.players,
        connected,
        server: server.kind().to_owned(),
        merge: server.merge(),
        user,
        system,
        waited,
        is_saturated: user + system >= SATURATED,
        is_disturbed: waited >= DISTURBED,
        rss_kib: rss,
        kib_per_connection: rss.saturating_sub(idle) as f64 / f64::from(connected),
        first_keyframe_ms: joiners.and_then(|report| report.first_keyframe_ms),
        latency_ms: load.latency_ms,
        load,
    })
}

/// The row's players.
struct Attached {
    child: Helper,
    /// Players connected and refused so far.
    counts: Receiver<(u32, u32)>,
    is_rtmp: bool,
}

impl Attached {
    fn new(row: &Row, running: &Running, is_rtmp: bool, srsctl: &Path) -> Result<Self> {
        let (players, ramp) = (row.players.to_string(), RAMP.to_string());
        let mut command = if is_rtmp {
            let mut command = Command::new(srsctl);
            command.args([
                "bench",
                "play",
                "--json",
                "--duration",
                "0",
                "--ramp",
                &ramp,
                "-c",
                &players,
                &running.play,
            ]);
            command
        } else {
            let mut command = Command::new(std::env::current_exe()?);
            command.args(["drain", SEND_LOOP, &players, &ramp]);
            command
        };
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let (sender, counts) = mpsc::channel();
        if let Some(stderr) = child.stderr.take() {
            std::thread::spawn(move || {
                for line in BufReader::new(stderr).lines().map_while(std::result::Result::ok) {
                    let words: Vec<_> = line.split_whitespace().collect();
                    let count = |name| {
                        let pair = words.windows(2).find(|pair| pair.last() == Some(&name))?;
                        pair.first()?.parse().ok()
                    };
                    if let Some(connected) = count("connected") {
                        let _ = sender.send((connected, count("refused").unwrap_or(0)));
                    }
                }
            });
        }
        Ok(Self { child: Helper(child), counts, is_rtmp })
    }

    /// Waits until the server has taken or refused all `players`; returns how many it took.
    fn wait(&mut self, players: u32) -> Result<u32> {
        let deadline = Instant::now() + Duration::from_secs(u64::from(players / RAMP)) + ATTACH_TIMEOUT;
        let mut connected = 0;
        loop {
            match self.counts.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(counts) => {
                    connected = counts.0;
                    if counts.0 + counts.1 >= players {
                        break;
                    }
                }
                Err(RecvTimeoutError::Timeout) => break,
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the players ended: {}", self.output()?.trim()).into());
                }
            }
        }
        if connected == 0 { Err("the server took no player".into()) } else { Ok(connected) }
    }

    fn finish(mut self) -> Result<Report> {
        drop(self.child.0.stdin.take());
        if self.is_rtmp
            && let Some(pid) = rustix::process::Pid::from_raw(self.child.0.id() as i32)
        {
            rustix::process::kill_process(pid, rustix::process::Signal::INT)?;
        }
        Ok(serde_json::from_str(&self.output()?)?)
    }

    fn output(&mut self) -> Result<String> {
        let mut text = String::new();
        if let Some(stdout) = &mut self.child.0.stdout {
            stdout.read_to_string(&mut text)?;
        }
        Ok(text)
    }
}

/// Plays once until there is a keyframe.
fn wait_for_stream(srsctl: &Path, url: &str) -> Result<()> {
    let deadline = Instant::now() + STREAM_TIMEOUT;
    loop {
        let probe =
            Command::new(srsctl).args(["probe", "--timeout", "3", url]).stdin(Stdio::null()).output()?;
        if probe.status.success() {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(format!("no stream: {}", String::from_utf8_lossy(&probe.stderr).trim()).into());
        }
        sleep(Duration::from_millis(200));
    }
}

fn join(srsctl: &Path, url: &str) -> Result<Report> {
    let joiners = JOINERS.to_string();
    let output = Command::new(srsctl)
        .args(["bench", "play", "--json", "--ramp", "100/s", "--duration", "3", "-c", &joiners, url])
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn other_cores() -> String {
    format!("1-{}", cores().max(2) - 1)
}

/// All threads of process `pid`, and what it starts from now on.
fn pin(pid: u32, cores: &str) -> Result<()> {
    let pinned = Command::new("taskset").args(["-a", "-p", "-c", cores, &pid.to_string()]).output()?;
    if !pinned.status.success() {
        return Err(format!("taskset: {}", String::from_utf8_lossy(&pinned.stderr).trim()).into());
    }
    Ok(())
}

/// CPU time of the process in user and in system mode, clock ticks (proc(5)).
fn ticks(pid: u32) -> Result<(u64, u64)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field, a name in brackets, may hold anything.
    let fields: Vec<&str> = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().collect();
    let field = |index: usize| fields.get(index).and_then(|field| field.parse().ok());
    field(11).zip(field(12)).ok_or_else(|| format!("/proc/{pid}/stat cannot be read").into())
}

/// Time the threads of the process could have run and did not.
fn waited(pid: u32) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let nanos = text.split_whitespace().nth(1).and_then(|nanos| nanos.parse().ok());
        sum += nanos.map_or(Duration::ZERO, Duration::from_nanos);
    }
    Ok(sum)
}

fn rss_kib(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().next()).and_then(|number| number.parse().ok());
    number.ok_or_else(|| format!("/proc/{pid}/status shows no VmRSS").into())
}
