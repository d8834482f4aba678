//! The guide's cluster on the guide's three machines, with all its players at once. `make bench-cluster` runs it; docs/performance.md holds
//! results.
//!
//! The machines are namespaces of this one, with the guide's addresses, a bridge between them, and a real sshd each; the fourth is the
//! operator's, which has the encoder and the players too ([`machines`]). `srsctl up deploy/examples/guide.yaml` is called there, and nothing
//! else is done by hand. Exit code 1 where a player did not get its stream without a pause.
//!
//! Environment:
//! - `PLAYERS`: on each of the four edge ports (3000);
//! - `RAMP`: players that come in a second (500);
//! - `SECONDS`: how long they are measured, once all are there (60);
//! - `SRSCTL`: the binary (target/release/srsctl).

mod machines;
mod usage;

use std::path::PathBuf;
use std::process::{Child, ExitCode};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::machines::{HOSTS, Machines, Result};
use crate::usage::Usage;

const STREAM: &str = "live/livestream";
/// From the last join to the first measurement.
const SETTLE: Duration = Duration::from_secs(5);
/// For how long the load generator goes on behind the second, so that all play during both.
const MARGIN: u64 = 5;

fn main() -> ExitCode {
    match bench() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn number(name: &str, usual: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => match text.parse() {
            Ok(number) if number > 0 => Ok(number),
            Ok(_) | Err(_) => Err(format!("{name}: {text} is not a number above 0").into()),
        },
        Ok(_) | Err(_) => Ok(usual),
    }
}

fn bench() -> Result<bool> {
    let (players, ramp, seconds) = (number("PLAYERS", 3_000)?, number("RAMP", 500)?, number("SECONDS", 60)?);
    let srsctl = std::env::var("SRSCTL").ok().filter(|path| !path.is_empty());
    let srsctl = PathBuf::from(srsctl.unwrap_or_else(|| "target/release/srsctl".to_owned()))
        .canonicalize()
        .map_err(|e| format!("SRSCTL: {e}; build it first: cargo build --release"))?;
    let machines = Machines::new(&srsctl)?;
    let begun = Instant::now();
    machines.srsctl(&["up"])?;
    eprintln!("srsctl up took {:.1} s", begun.elapsed().as_secs_f64());

    let file = std::env::current_dir()?.join("crates/encoder/assets/test-card.flv");
    let file = file.to_str().ok_or("the path of this directory is not UTF-8")?;
    let to_origin = format!("rtmp://{}/{STREAM}", HOSTS[0]);
    let mut encoder = Ended(machines.bench(&["publish", file, &to_origin, "--duration", "0"], false)?);
    let edges: Vec<String> = HOSTS[1..]
        .iter()
        .flat_map(|host| [1935, 1936].map(|port| format!("rtmp://{host}:{port}/{STREAM}")))
        .collect();
    for url in &edges {
        machines.wait_for(url)?;
    }

    let all = players * edges.len() as u64;
    let settle = Duration::from_secs(all.div_ceil(ramp)) + SETTLE;
    let duration = SETTLE.as_secs() + seconds + MARGIN;
    eprintln!("{all} players come, {ramp} a second ...");
    let (clients, ramp, duration) = (all.to_string(), ramp.to_string(), duration.to_string());
    let mut words = vec!["play", "--clients", &clients, "--ramp", &ramp, "--duration", &duration];
    words.extend(edges.iter().map(String::as_str));
    let mut load = Ended(machines.bench(&words, true)?);
    sleep(settle);
    let before = usage::of_all(&machines)?;
    let since = Instant::now();
    sleep(Duration::from_secs(seconds));
    let after = usage::of_all(&machines)?;
    let lasted = since.elapsed();
    let is_good = load.0.wait()?.success();
    if let Some(ended) = encoder.0.try_wait()? {
        return Err(format!("the encoder ended: {ended}").into());
    }
    print(&before, &after, lasted);
    machines.srsctl(&["down"])?;
    Ok(is_good)
}

fn print(before: &[Usage], after: &[Usage], lasted: Duration) {
    println!("\n| machine | connections | CPU | memory MiB |\n| --- | ---: | ---: | ---: |");
    let (mut cpu, mut memory) = (0.0, 0);
    for (before, after) in before.iter().zip(after) {
        let percent = (after.cpu - before.cpu).as_secs_f64() / lasted.as_secs_f64() * 100.0;
        println!("| {} | {} | {percent:.1} % | {} |", after.name, after.connections, after.memory_kib >> 10);
        (cpu, memory) = (cpu + percent, memory + after.memory_kib);
    }
    println!("| all three | | {cpu:.1} % | {} |", memory >> 10);
    println!("\nCPU of one core, over {} s, of all processes that srsctl started there.", lasted.as_secs());
}

/// A process that ends with this one.
struct Ended(Child);

impl Drop for Ended {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
