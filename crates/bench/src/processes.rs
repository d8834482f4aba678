//! One process or several: descriptors, addresses, and the merging of what each met.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command, Stdio};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, SyncSender};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};

use crate::engine::Engine;
use crate::load::{Load, LoadError, Target, Work};
use crate::play::{Drain, Player, reason};
use crate::publish::Publisher;
use crate::report::{Interim, Results, Tally};
use crate::source::Source;

/// Descriptors that are no clients: standard streams, epoll, files.
const OTHER_DESCRIPTORS: u64 = 64;
/// Part of the range of ephemeral ports that is counted on: others use some.
const PORTS_USABLE: f64 = 0.8;
/// The range where the system does not tell, ports.
const USUAL_PORTS: u32 = 28_232;
/// How often the main process looks whether it is to stop.
const STOP_POLL: Duration = Duration::from_millis(200);
/// Between two reports of progress of all processes.
const PROGRESS_PERIOD: Duration = Duration::from_secs(1);
/// Lines a process may be ahead of the main one.
const LINES_AHEAD: usize = 16;

/// What a process tells the main one, a line each.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Interim(Interim),
    Done(Box<Tally>),
    /// Never sent: nothing comes any more.
    #[serde(skip)]
    Ended,
}

/// Makes the load, in as many processes as it takes, until its end or until `stop`; `progress` hears of it once a second.
///
/// Further processes are this program with the arguments `bench part`, where it has to call [`part`].
///
/// # Errors
/// When the load cannot be made at all; clients that fail are counted in the report.
pub fn run(
    mut load: Load,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Interim),
) -> Result<Results, LoadError> {
    let targets = load.targets()?;
    if let (Work::Publish, Some(file)) = (load.work, &load.file) {
        Source::open(file)?;
    }
    let per_process = descriptors().saturating_sub(OTHER_DESCRIPTORS).max(1);
    let needed = u64::from(load.clients).div_ceil(per_process);
    let processes =
        load.processes.unwrap_or_else(|| u32::try_from(needed).unwrap_or(u32::MAX)).clamp(1, load.clients);
    if load.sources.is_empty() {
        load.sources = loopback_sources(&load, &targets);
    }
    let urls = targets.iter().map(|target| target.url.to_string()).collect();
    let tally = if processes == 1 {
        run_here(&load, stop, progress)?
    } else {
        run_parts(&load, processes, stop, progress)?
    };
    Ok(Results::new(load.work, urls, load.clients.into(), processes.into(), tally))
}

/// One of several processes: reads its load from the first line of stdin, stops at the end of stdin, and writes to
/// stdout what the main process wants to know.
///
/// # Errors
/// As [`run`].
pub fn part() -> Result<(), LoadError> {
    let mut stdin = BufReader::new(io::stdin());
    let mut line = String::new();
    stdin.read_line(&mut line).map_err(LoadError::system("reading the load"))?;
    let load: Load = serde_json::from_str(&line).map_err(LoadError::system("reading the load"))?;
    descriptors();
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&stop);
    thread::spawn(move || {
        let _ = stdin.read_to_end(&mut Vec::new());
        ended.store(true, Ordering::Relaxed);
    });
    let tally = run_here(&load, &stop, &mut |progress| tell(&Line::Interim(*progress)))?;
    tell(&Line::Done(Box::new(tally)));
    Ok(())
}

/// A main process that has gone away is noticed at the end of stdin.
fn tell(line: &Line) {
    if let Ok(mut text) = serde_json::to_string(line) {
        text.push('\n');
        let _ = io::stdout().write_all(text.as_bytes());
    }
}

fn run_here(load: &Load, stop: &AtomicBool, progress: &mut dyn FnMut(&Interim)) -> Result<Tally, LoadError> {
    let targets = load.targets()?;
    let of = |index: u32| {
        targets.get(index as usize % targets.len()).ok_or_else(|| "no address to connect to".to_owned())
    };
    match load.work {
        Work::Play => Engine::run(
            load,
            |index, now| {
                let target = of(index)?;
                let player = Player::new(load, target, index, now).map_err(|e| reason(&e))?;
                Ok((player, target.address))
            },
            stop,
            progress,
        ),
        Work::Publish => {
            let file = load.file.as_deref().ok_or(LoadError::Usage("what to publish? an FLV file"))?;
            let source = Rc::new(Source::open(file)?);
            Engine::run(
                load,
                |index, _| {
                    let target = of(index)?;
                    let publisher = Publisher::new(load, target, index, Rc::clone(&source));
                    Ok((publisher.map_err(|e| reason(&e))?, target.address))
                },
                stop,
                progress,
            )
        }
        Work::Drain => {
            Engine::run(load, |index, _| Ok((Drain::default(), of(index)?.address)), stop, progress)
        }
    }
}

/// Kills and reaps what is still there when the main process fails.
struct Parts(Vec<Child>);

impl Drop for Parts {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn run_parts(
    load: &Load,
    processes: u32,
    stop: &AtomicBool,
    progress: &mut dyn FnMut(&Interim),
) -> Result<Tally, LoadError> {
    let (lines, heard) = mpsc::sync_channel(LINES_AHEAD);
    let mut parts = Parts(Vec::new());
    for part in 0..processes {
        let child = start_part(&load.part(part, processes), part as usize, lines.clone());
        parts.0.push(child.map_err(LoadError::system("starting a process of the load generator"))?);
    }
    drop(lines);
    let mut latest = vec![Some(Interim::default()); processes as usize];
    let mut tally = Tally::default();
    let mut told = Instant::now();
    loop {
        if stop.load(Ordering::Relaxed) {
            parts.0.iter_mut().for_each(|child| drop(child.stdin.take()));
        }
        match heard.recv_timeout(STOP_POLL) {
            Ok((part, Line::Interim(one))) => {
                latest.iter_mut().skip(part).take(1).for_each(|slot| *slot = Some(one));
            }
            Ok((part, Line::Done(one))) => {
                tally.merge(&one);
                latest.iter_mut().skip(part).take(1).for_each(|slot| *slot = None);
            }
            Ok((part, Line::Ended)) => {
                // Without a tally: what it met is lost, what it had is known.
                if let Some(one) = latest.get_mut(part).and_then(Option::take) {
                    tally.merge(&Tally::of_lost_process(&one));
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(tally),
        }
        if told.elapsed() >= PROGRESS_PERIOD {
            told = Instant::now();
            let mut sum = tally.progress();
            latest.iter().flatten().for_each(|one| sum.add(one));
            progress(&sum);
        }
    }
}

fn start_part(load: &Load, part: usize, lines: SyncSender<(usize, Line)>) -> io::Result<Child> {
    let mut child = Command::new(std::env::current_exe()?)
        .args(["bench", "part"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    if let Some(stdin) = &mut child.stdin {
        let mut text = serde_json::to_string(load)?;
        text.push('\n');
        stdin.write_all(text.as_bytes())?;
    }
    if let Some(stdout) = child.stdout.take() {
        thread::spawn(move || {
            for text in BufReader::new(stdout).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str(&text) else { break };
                if lines.send((part, line)).is_err() {
                    return;
                }
            }
            let _ = lines.send((part, Line::Ended));
        });
    }
    Ok(child)
}

/// Raises the limit of open descriptors as far as it goes, and returns it.
fn descriptors() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let in_force = if setrlimit(Resource::Nofile, raised).is_ok() { limit.maximum } else { limit.current };
    in_force.unwrap_or(u64::MAX)
}

/// Addresses of 127/8 to connect from when one has too few ports for the clients, and the servers are on this machine too.
fn loopback_sources(load: &Load, targets: &[Target]) -> Vec<IpAddr> {
    let is_local = targets.iter().all(|target| target.address.is_ipv4() && target.address.ip().is_loopback());
    let needed = (f64::from(load.clients) / (f64::from(ephemeral_ports()) * PORTS_USABLE)).ceil() as u8;
    if !is_local || needed < 2 {
        return Vec::new();
    }
    // Beside the addresses people use for servers.
    (1..=needed).map(|n| Ipv4Addr::new(127, 255, 0, n).into()).collect()
}

fn ephemeral_ports() -> u32 {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let mut ends = range.split_whitespace().filter_map(|end| end.parse::<u32>().ok());
    match (ends.next(), ends.next()) {
        (Some(first), Some(last)) if last >= first => last - first + 1,
        _ => USUAL_PORTS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sources(clients: u32, url: &str) -> usize {
        let load = Load::new(Work::Play, clients, vec![url.to_owned()]);
        loopback_sources(&load, &load.targets().unwrap()).len()
    }

    #[test]
    fn more_loopback_players_than_ports_come_from_several_addresses() {
        let ports = ephemeral_ports();
        assert_eq!(sources(ports / 2, "rtmp://127.0.0.1/live/s"), 0);
        assert_eq!(sources(ports, "rtmp://127.0.0.1/live/s"), 2);
        assert_eq!(sources(ports, "rtmp://192.0.2.1/live/s"), 0);
    }
}
