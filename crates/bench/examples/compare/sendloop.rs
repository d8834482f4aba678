//! What no server can undercut: the bytes of a stream, sent to every socket at every tick, without RTMP.

use std::io::Write as _;
use std::net::TcpListener;
use std::os::fd::AsFd as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bench::{Load, Source, Work};
use rustix::net::{SendFlags, send};

use crate::rows::Result;

/// Serves `file` on `address` to whoever connects, `players` of them, every `tick` ms, until it is killed. A `tick` of 0
/// is every message at its time.
pub(crate) fn serve(address: &str, tick: &str, players: &str, file: &Path) -> Result<()> {
    let tick = Duration::from_millis(tick.parse()?);
    let source = Source::open(file)?;
    // As a server's log: one delta message behind the other. `ends` are the times and places behind each.
    let (mut bytes, mut ends, mut last) = (Vec::new(), Vec::new(), 0);
    for frame in source.frames() {
        let delta = frame.time.saturating_sub(last);
        last = frame.time;
        rtmp::chunk::put_delta(
            &mut bytes,
            rtmp::wire::CHUNK_SIZE,
            frame.csid,
            delta,
            frame.type_id,
            &frame.payload,
        );
        ends.push((u64::from(frame.time), bytes.len()));
    }
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    if limit.maximum.is_some_and(|limit| limit < players.parse::<u64>().unwrap_or(u64::MAX) + 16) {
        return Err(format!("the limit of open files is below {players} players").into());
    }
    let raised = rustix::process::Rlimit { current: limit.maximum, maximum: limit.maximum };
    rustix::process::setrlimit(rustix::process::Resource::Nofile, raised)?;
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    let mut sockets = Vec::new();
    let (start, mut round, mut sent) = (Instant::now(), 0, 0);
    let mut next = start + tick;
    loop {
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        next = if tick.is_zero() {
            Instant::now() + until_next(&ends, start.elapsed(), source.length())
        } else {
            next + tick
        };
        while let Ok((socket, _)) = listener.accept() {
            socket.set_nodelay(true)?;
            sockets.push(socket);
        }
        let now = start.elapsed().as_millis() as u64;
        let length = u64::from(source.length());
        let flush = |from: usize, until: u64, sockets: &mut Vec<std::net::TcpStream>| {
            let end = ends.iter().take_while(|(time, _)| *time <= until).last().map_or(0, |(_, end)| *end);
            let slice = bytes.get(from..end).unwrap_or_default();
            if !slice.is_empty() {
                // A full socket misses a slice: this is no server.
                sockets.retain(|socket| {
                    match send(socket.as_fd(), slice, SendFlags::DONTWAIT | SendFlags::NOSIGNAL) {
                        Ok(_) => true,
                        Err(error) => error == rustix::io::Errno::AGAIN,
                    }
                });
            }
            end.max(from)
        };
        if now / length > round {
            flush(sent, length, &mut sockets);
            (round, sent) = (now / length, 0);
        }
        sent = flush(sent, now % length, &mut sockets);
    }
}

/// Time from `now` until the next message is due.
fn until_next(ends: &[(u64, usize)], now: Duration, length: u32) -> Duration {
    let (now, length) = (now.as_millis() as u64, u64::from(length));
    let next = ends.iter().map(|(time, _)| *time).find(|time| *time > now % length).unwrap_or(length);
    Duration::from_millis(next - now % length)
}

/// Connects `clients` to `address`, reads what comes until SIGINT, and reports as `srsctl bench --json` does.
pub(crate) fn drain(address: &str, clients: &str, ramp: &str) -> Result<()> {
    let mut load = Load::new(Work::Drain, clients.parse()?, vec![format!("rtmp://{address}/send/loop")]);
    load.ramp = ramp.parse()?;
    load.duration = 0;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    // The runner closes stdin; a terminal's Ctrl-C ends both.
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        stopped.store(true, Ordering::Relaxed);
    });
    let report = bench::run(load, &stop, &mut |progress| {
        let _ = writeln!(std::io::stderr(), "{} connected", progress.accepted);
    })?;
    println!("{}", serde_json::to_string(&report)?);
    Ok(())
}
