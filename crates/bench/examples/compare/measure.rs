//! One cell: a server under one row's players.

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use bench::{Quantiles, Results};
use serde::Serialize;

use crate::processes::{pin, rss_kib, ticks, waited};
use crate::rows::{Result, Row};
use crate::servers::{self, Merge, Role, SEND_LOOP, Server};

/// Behind the last join, until buffers and caches are as they stay.
const SETTLE: Duration = Duration::from_secs(3);
/// How fast players come, and how long is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    /// Joins per second until the row's players are there.
    pub(crate) ramp: u32,
    /// CPU is measured for this long: over 12 s, 0.1 % of a core is one clock tick.
    pub(crate) window: Duration,
}

/// Of the guide's stream, bit/s.
const BITRATE: u32 = 220_000;
/// Players that join while the row's are served, at 100 per second.
const JOINERS: u32 = 500;
/// Beyond the ramp: by then every player is connected, refused, or given up.
const ATTACH_TIMEOUT: Duration = Duration::from_secs(15);
const STREAM_TIMEOUT: Duration = Duration::from_secs(15);
/// From this share of its core on a server has more to do than it can, percent.
const SATURATED: f64 = 95.0;
/// From this share of waiting on something else disturbs the server, percent: a core of its own has below 2.
const DISTURBED: f64 = 10.0;
/// Share of all cores above which the machine is too busy with other things to measure on.
const BUSY: f64 = 0.05;

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Cell {
    pub(crate) row: &'static str,
    pub(crate) players: u32,
    /// Players that the server took.
    pub(crate) connected: u32,
    pub(crate) server: String,
    pub(crate) merge: Merge,
    pub(crate) usage: Usage,
    pub(crate) rss_kib: u64,
    pub(crate) kib_per_connection: f64,
    /// Of those that join beside the row's players.
    pub(crate) first_keyframe_ms: Option<Quantiles>,
    /// Of ordinary clients that do: see `srsctl bench play --nagle`.
    pub(crate) ordinary_keyframe_ms: Option<Quantiles>,
    pub(crate) latency_ms: Option<Quantiles>,
    /// Of our worker's loop, p99 and maximum of the last minute, ms.
    pub(crate) loop_lag_ms: Option<[u64; 2]>,
    /// The row's players, whole run.
    pub(crate) load: Results,
}

/// What a process takes of its core, percent.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Usage {
    pub(crate) user: f64,
    pub(crate) system: f64,
    /// Of the time: it could have run, and its core was taken by something else.
    pub(crate) waited: f64,
}

impl Usage {
    /// Of process `pid`, for as long as `window` from now on.
    pub(crate) fn of(pid: u32, window: Duration) -> Result<Self> {
        let (before, waited_before) = (ticks(pid)?, waited(pid)?);
        let start = Instant::now();
        sleep(window);
        let (after, waited) = (ticks(pid)?, waited(pid)?.saturating_sub(waited_before));
        let seconds = start.elapsed().as_secs_f64();
        let per_second = rustix::param::clock_ticks_per_second() as f64;
        let percent = |ticks: u64| ticks as f64 / per_second / seconds * 100.0;
        Ok(Self {
            user: percent(after.0 - before.0),
            system: percent(after.1 - before.1),
            waited: waited.as_secs_f64() / seconds * 100.0,
        })
    }

    pub(crate) fn cpu(&self) -> f64 {
        self.user + self.system
    }

    pub(crate) fn is_saturated(&self) -> bool {
        self.cpu() >= SATURATED
    }

    /// Whether other processes were on its core: neither its figures nor ratios to them mean much.
    pub(crate) fn is_disturbed(&self) -> bool {
        self.waited >= DISTURBED
    }

    pub(crate) fn is_comparable(&self) -> bool {
        !self.is_saturated() && !self.is_disturbed()
    }
}

/// Cores as `taskset` takes them.
pub(crate) struct Cores {
    pub(crate) server: String,
    pub(crate) others: String,
}

impl Cores {
    /// Pinning needs two cores, and figures need them idle.
    pub(crate) fn of_this_machine() -> Result<Self> {
        let status = fs::read_to_string("/proc/self/status")?;
        let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        let list = list.ok_or("/proc/self/status shows no Cpus_allowed_list")?.trim();
        let (first, rest) = list.split_once(',').unwrap_or((list, ""));
        let (server, others) = match first.split_once('-') {
            Some((low, high)) => {
                let next = low.parse::<u32>()? + 1;
                let range = if next.to_string() == high { high.to_owned() } else { format!("{next}-{high}") };
                (low, if rest.is_empty() { range } else { format!("{range},{rest}") })
            }
            None => (first, rest.to_owned()),
        };
        if others.is_empty() {
            return Err("this machine has one core: server and players would measure each other".into());
        }
        let before = busy_and_all()?;
        sleep(Duration::from_secs(1));
        let after = busy_and_all()?;
        let share = (after.0 - before.0) as f64 / (after.1 - before.1).max(1) as f64;
        if share > BUSY {
            let percent = share * 100.0;
            eprintln!(
                "warning: this machine is {percent:.0} % busy; the figures will be off, see the column `waited`"
            );
        }
        Ok(Self { server: server.to_owned(), others })
    }
}

/// Clock ticks of all cores: not idle, and all (proc(5), /proc/stat).
fn busy_and_all() -> Result<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat")?;
    let ticks: Vec<u64> = stat
        .lines()
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|word| word.parse().ok())
        .collect();
    let all: u64 = ticks.iter().take(8).sum();
    // The fourth is idle, the fifth waits for disks.
    let idle: u64 = ticks.iter().skip(3).take(2).sum();
    Ok((all - idle, all))
}

/// A process that is ended when dropped.
pub(crate) struct Helper(pub(crate) Child);

impl Drop for Helper {
    fn drop(&mut self) {
        servers::end(&mut self.0);
    }
}

pub(crate) fn cell(
    row: &Row,
    server: &Server,
    file: &Path,
    srsctl: &Path,
    cores: &Cores,
    pace: Pace,
) -> Result<Cell> {
    pin(std::process::id(), &cores.others)?;
    let running = servers::start(server, row, file, srsctl)?;
    pin(running.pid, &cores.server)?;
    let is_rtmp = !matches!(server, Server::SendLoop { .. });
    let play = match row.streams {
        1 => vec![running.play.clone()],
        // As `bench publish` numbers them.
        many => (1..=many).map(|n| format!("{}{n}", running.play)).collect(),
    };
    let _publisher = if is_rtmp {
        let mut command = Command::new(srsctl);
        command.args(["bench", "publish", "--duration", "0", "-c", &row.streams.to_string()]);
        command.arg(file).arg(&running.publish);
        let publisher =
            Helper(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
        play.iter().try_for_each(|url| wait_for_stream(srsctl, url))?;
        Some(publisher)
    } else {
        sleep(Duration::from_millis(500));
        None
    };

    let idle = match server {
        Server::Other(other) => other.idle_kib,
        _ => rss_kib(running.pid)?,
    };
    let mut load = Attached::new(row.players, pace.ramp, &play, is_rtmp, &[], srsctl)?;
    let connected = load.wait(row.players)?;
    let half = (BITRATE / 8 / 2).to_string();
    let mut slow = Vec::new();
    for (players, rate) in row.slow.into_iter().zip([&*half, "0"]).filter(|(players, _)| *players > 0) {
        let reads = ["--read-rate", rate, "--receive-buffer", "16384"];
        let mut attached = Attached::new(players, pace.ramp, &play, is_rtmp, &reads, srsctl)?;
        attached.wait(players)?;
        slow.push(attached);
    }
    // Slow ones are what they are when the queue is full.
    sleep(if slow.is_empty() {
        SETTLE
    } else {
        SETTLE.max(Duration::from_secs(u64::from(row.queue_length) * 4))
    });
    let rss = rss_kib(running.pid)?;
    let usage = Usage::of(running.pid, pace.window)?;
    let joiners = |more| if is_rtmp { join(srsctl, &play, more).map(Some) } else { Ok(None) };
    let (joiners, ordinary) = (joiners(&[])?, joiners(&["--nagle"])?);
    let stats = &servers::status_of(Role::Edge, srsctl, &running)?["stats"];
    let lag = stats["loop_lag_p99_ms"].as_u64().zip(stats["loop_lag_max_ms"].as_u64());
    if !slow.is_empty() {
        eprintln!("  skips {}, stuck players {}", stats["skips"], stats["stuck_players"]);
    }
    let load = load.finish()?;

    Ok(Cell {
        row: row.name,
        players: row.players,
        connected,
        server: server.kind().to_owned(),
        merge: server.merge(),
        usage,
        rss_kib: rss,
        kib_per_connection: rss.saturating_sub(idle) as f64 / f64::from(connected),
        first_keyframe_ms: joiners.and_then(|report| report.first_keyframe_ms),
        ordinary_keyframe_ms: ordinary.and_then(|report| report.first_keyframe_ms),
        latency_ms: load.latency_ms,
        loop_lag_ms: lag.map(|(p99, max)| [p99, max]),
        load,
    })
}

/// The row's players.
struct Attached {
    child: Helper,
    /// Players connected and refused so far.
    counts: Receiver<(u32, u32)>,
    /// For all to begin.
    time: Duration,
    is_rtmp: bool,
}

impl Attached {
    fn new(
        players: u32,
        per_second: u32,
        urls: &[String],
        is_rtmp: bool,
        more: &[&str],
        srsctl: &Path,
    ) -> Result<Self> {
        let time = Duration::from_secs(u64::from(players / per_second));
        let (players, ramp) = (players.to_string(), per_second.to_string());
        let mut command = if is_rtmp {
            let mut command = Command::new(srsctl);
            command.args(["bench", "play", "--json", "--duration", "0", "--ramp", &ramp, "-c", &players]);
            command.args(more).args(urls);
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
        Ok(Self { child: Helper(child), counts, time, is_rtmp })
    }

    /// Waits until the server has taken or refused all `players`; returns how many it took.
    fn wait(&mut self, players: u32) -> Result<u32> {
        let deadline = Instant::now() + self.time + ATTACH_TIMEOUT;
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

    fn finish(mut self) -> Result<Results> {
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
pub(crate) fn wait_for_stream(srsctl: &Path, url: &str) -> Result<()> {
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

fn join(srsctl: &Path, urls: &[String], more: &[&str]) -> Result<Results> {
    let joiners = JOINERS.to_string();
    let output = Command::new(srsctl)
        .args(["bench", "play", "--json", "--ramp", "100/s", "--duration", "3", "-c", &joiners])
        .args(more)
        .args(urls)
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output()?;
    Ok(serde_json::from_slice(&output.stdout)?)
}
