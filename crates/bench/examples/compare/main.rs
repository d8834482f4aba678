//! Compares RTMP servers on this machine, in one go and in turn: srsctl, nginx-rtmp, a bare `send` loop, and any other
//! server that runs already. `make bench` runs it; docs/performance.md holds results.
//!
//! For every row (a stream and a number of players) and server: a publisher, the players, 12 s of measuring once all have
//! joined and settled, then 100 more joins per second for the time to first keyframe, of clients as ours and of ordinary
//! ones. The server has a core for itself, everything else runs on the others. CPU and memory come from /proc of the process
//! that serves the players.
//!
//! `ingest` and `relay` are rows of 60 publishers of 600 kbit/s and no player. Rows whose names end in `steered` need root
//! and are made in a network namespace, where all receiving is done by the players' cores (`steer`). With `SRS` it is the one
//! that this program runs in: `unshare --net --mount sh`, where /sys is mounted anew and `lo` up, then the servers and this.
//!
//! Environment:
//! - `ROWS`: rows to run, some of those in `rows` with spaces; the default is `rows::USUAL`. `growth` is
//!   short for `100 1000 9000 18000 1000x10 9000x10`, players and streams; `slow` for `quick slow`: 2670 players that read
//!   all, alone and beside 300 that read half and 30 that read nothing;
//! - `SERVERS`: some of `loop srsctl nginx` (the default is all);
//! - `MERGES`: some of `350 40 0 auto`, how long ours and the loop hold media back, ms (the default is all);
//! - `RAMP`: joins per second until the row's players are there (the default is 500; SRS takes 100);
//! - `SECONDS`: how long is measured (the default is 12);
//! - `SRS`: servers that run already, `[NAME[@350|@40|@0]=]rtmp://HOST[:PORT]/APP/STREAM,PID` with spaces; each is
//!   published to and played from. NAME is shown; the number says how long it holds media back, and so what it is compared
//!   with: `SRS@350=rtmp://127.0.0.1/live/s,4711`;
//! - `SRSCTL`: the binary (the default is target/release/srsctl).

mod ingest;
mod measure;
mod processes;
mod rows;
mod sendloop;
mod servers;
mod steer;
mod table;

use std::env;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use crate::measure::{Cell, Pace};
use crate::rows::{INGEST_ROWS, ROWS, Result, SETS, Stream, USUAL};
use crate::servers::{Ingester, Server};

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        // What this program starts again, as a process of its own to be measured.
        ["send-loop", address, tick, players, file] => {
            sendloop::serve(address, tick, players, Path::new(file))
        }
        ["drain", address, clients, ramp] => sendloop::drain(address, clients, ramp),
        ["bench", "part"] => bench::part().map_err(Into::into),
        [] => compare(),
        _ => Err(
            "takes no arguments; what it does is set by the environment, see crates/bench/examples/compare/main.rs"
                .into(),
        ),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn compare() -> Result<()> {
    let directory = PathBuf::from("target/bench");
    std::fs::create_dir_all(&directory)?;
    let rows = env::var("ROWS").unwrap_or_default();
    let rows = SETS.iter().find(|(name, _)| *name == rows).map_or(&*rows, |(_, rows)| rows);
    let known: Vec<_> =
        ROWS.iter().map(|row| row.name).chain(INGEST_ROWS.iter().map(|row| row.name)).collect();
    let rows = chosen("ROWS", rows, USUAL, &known.join(" "))?;
    let is_chosen = |name: &str| rows.iter().any(|row| row == name);
    let variable =
        |name, known: &'static str| chosen(name, &env::var(name).unwrap_or_default(), known, known);
    let kinds = variable("SERVERS", "loop srsctl nginx")?;
    let merges = variable("MERGES", "350 40 0 auto")?;
    let number = |name, usual: u32| match env::var(name).ok().map(|text| text.parse()) {
        None => Ok(usual),
        Some(Ok(number)) if number > 0 => Ok(number),
        Some(_) => Err(format!("{name}: not a number above 0")),
    };
    let pace =
        Pace { ramp: number("RAMP", 500)?, window: Duration::from_secs(number("SECONDS", 12)?.into()) };
    let srsctl = env::var("SRSCTL").unwrap_or_else(|_| "target/release/srsctl".to_owned());
    let others = servers::others(&env::var("SRS").unwrap_or_default())?;
    let cores = measure::Cores::of_this_machine()?;

    let mut intakes = Vec::new();
    for row in INGEST_ROWS.iter().filter(|row| is_chosen(row.name)) {
        let file = stream(Stream::Medium, &directory)?;
        for server in
            Ingester::ALL.into_iter().filter(|server| kinds.iter().any(|kind| kind == server.name()))
        {
            eprintln!("{} publishers, {}, {} ...", row.publishers, row.name, server.name());
            match ingest::intake(row, server, &file, Path::new(&srsctl), &cores, pace) {
                Ok(intake) => {
                    eprintln!("{}", intake.summary());
                    intakes.push(intake);
                }
                Err(error) => eprintln!("  not measured: {error}"),
            }
            std::fs::write(directory.join("ingest.json"), serde_json::to_string_pretty(&intakes)?)?;
        }
    }
    if !intakes.is_empty() {
        println!("{}", ingest::markdown(&intakes));
    }

    let mut cells: Vec<Cell> = Vec::new();
    for row in ROWS.iter().filter(|row| is_chosen(row.name)) {
        let file = stream(row.stream, &directory)?;
        // Servers that run already are where this process is.
        if row.is_steered
            && let Err(error) = steer::steer(&cores.others, !others.is_empty())
        {
            eprintln!("{} players: not measured: {error}", row.name);
            continue;
        }
        for server in Server::all(&kinds, &merges, &others) {
            eprintln!("{} players, {} ...", row.name, server.title());
            match measure::cell(row, &server, &file, Path::new(&srsctl), &cores, pace) {
                Ok(cell) => {
                    eprintln!("{}", table::summary(&cell));
                    cells.push(cell);
                }
                Err(error) => eprintln!("  not measured: {error}"),
            }
            // After every one: an interrupted comparison keeps what it has.
            std::fs::write(directory.join("compare.json"), serde_json::to_string_pretty(&cells)?)?;
            std::fs::write(directory.join("compare.md"), table::markdown(&cells))?;
        }
    }
    if !cells.is_empty() {
        println!("{}", table::markdown(&cells));
    }
    eprintln!("kept in {}", directory.join("{compare.md,compare.json,ingest.json}").display());
    Ok(())
}

fn chosen(variable: &str, text: &str, usual: &str, known: &str) -> Result<Vec<String>> {
    let text = if text.trim().is_empty() { usual } else { text };
    let names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    match names.iter().find(|name| !known.split(' ').any(|known| known == **name)) {
        Some(name) => Err(format!("{variable}: no {name}; there are: {known}").into()),
        None => Ok(names),
    }
}

/// The file that is published; the larger ones are made by ffmpeg when they are not there.
fn stream(stream: Stream, directory: &Path) -> Result<PathBuf> {
    let (name, size, rate, audio_rate) = match stream {
        Stream::Guide => return Ok(PathBuf::from("crates/encoder/assets/test-card.flv")),
        Stream::Medium => ("600k.flv", "960x540", "520k", "64k"),
        Stream::Large => ("2M.flv", "1280x720", "1900k", "96k"),
    };
    let file = directory.join(name);
    if !file.exists() {
        let part = file.with_extension("part.flv");
        eprintln!("making {} ...", file.display());
        // Noise keeps the encoder at its bit rate.
        let made = std::process::Command::new("ffmpeg")
            .args("-hide_banner -loglevel error -nostdin -y -f lavfi -i".split(' '))
            .arg(format!("testsrc2=size={size}:rate=25:duration=20,noise=alls=20:allf=t"))
            .args("-f lavfi -i sine=frequency=440:sample_rate=48000:duration=20 -pix_fmt yuv420p".split(' '))
            .args("-c:v libx264 -preset ultrafast -bf 0 -g 50".split(' '))
            .args(["-b:v", rate, "-maxrate", rate, "-bufsize", rate])
            .args(["-c:a", "aac", "-b:a", audio_rate, "-f", "flv"])
            .arg(&part)
            .status()?;
        if !made.success() {
            return Err(format!("ffmpeg could not make {}", file.display()).into());
        }
        std::fs::rename(&part, &file)?;
    }
    Ok(file)
}
