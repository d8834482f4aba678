//! Compares RTMP servers on this machine, in one go and in turn: srsctl, nginx-rtmp, a bare `send` loop, and any other
//! server that runs already. `make bench` runs it; docs/performance.md holds results.
//!
//! For every row (a stream and a number of players) and server: a publisher, the players, 12 s of measuring once all have
//! joined and settled, then 100 more joins per second for the time to first keyframe. The server has core 0 for itself,
//! everything else runs on the others. CPU and memory come from /proc of the process that serves the players.
//!
//! Environment:
//! - `ROWS`: rows to run, `all` or some of `500 3000 9000 1000x2M` with spaces (the default is all);
//! - `SERVERS`: some of `loop srsctl nginx` (the default is all);
//! - `SRS`: servers that run already, `[NAME=]rtmp://HOST[:PORT]/APP/STREAM,PID` with spaces; each is published to and
//!   played from; NAME is shown, as in `SRS-mw350=rtmp://127.0.0.1/live/s,4711`;
//! - `SRSCTL`: the binary (the default is target/release/srsctl).

mod measure;
mod sendloop;
mod servers;
mod table;

use std::env;
use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use crate::measure::Cell;
use crate::servers::Server;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A stream and its players.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) players: u32,
    pub(crate) stream: Stream,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// 768x320, 25 frames/s, 220 kbit/s with AAC: the test card.
    Guide,
    /// 1280x720, 2 Mbit/s.
    Large,
}

const ROWS: [Row; 4] = [
    Row { name: "500", players: 500, stream: Stream::Guide },
    Row { name: "3000", players: 3000, stream: Stream::Guide },
    Row { name: "9000", players: 9000, stream: Stream::Guide },
    Row { name: "1000x2M", players: 1000, stream: Stream::Large },
];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let done = match arguments[..] {
        // What this program starts again, as a process of its own to be measured.
        ["send-loop", address, tick, file] => sendloop::serve(address, tick, Path::new(file)),
        ["drain", address, clients, ramp] => sendloop::drain(address, clients, ramp),
        ["bench", "part"] => bench::part().map_err(Into::into),
        [] => compare(),
        _ => Err(
            "takes no arguments; what it does is set by the environment, see bench/examples/compare/main.rs"
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
    let rows = chosen("ROWS", &ROWS.map(|row| row.name))?;
    let kinds = chosen("SERVERS", &["loop", "srsctl", "nginx"])?;
    let srsctl = env::var("SRSCTL").unwrap_or_else(|_| "target/release/srsctl".to_owned());
    let others = servers::others(&env::var("SRS").unwrap_or_default())?;
    measure::check_machine()?;

    let mut cells: Vec<Cell> = Vec::new();
    for row in ROWS.iter().filter(|row| rows.iter().any(|name| name == row.name)) {
        let file = stream(row.stream, &directory)?;
        for server in Server::all(&kinds, &others) {
            eprintln!("{} players, {} ...", row.name, server.title());
            match measure::cell(row, &server, &file, Path::new(&srsctl)) {
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
    println!("{}", table::markdown(&cells));
    eprintln!("kept in {}", directory.join("compare.{md,json}").display());
    Ok(())
}

fn chosen(variable: &str, known: &[&str]) -> Result<Vec<String>> {
    let text = env::var(variable).unwrap_or_default();
    let names: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    if names.is_empty() || names == ["all"] {
        return Ok(known.iter().map(|&name| name.to_owned()).collect());
    }
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("{variable}: no {name}; there are: {}", known.join(" ")).into()),
        None => Ok(names),
    }
}

/// The file that is published; the large one is made by ffmpeg when it is not there.
fn stream(stream: Stream, directory: &Path) -> Result<PathBuf> {
    if stream == Stream::Guide {
        return Ok(PathBuf::from("worker/assets/test-card.flv"));
    }
    let file = directory.join("2M.flv");
    if !file.exists() {
        let part = directory.join("2M.part.flv");
        eprintln!("making {} ...", file.display());
        // Noise keeps the encoder at its bit rate.
        let made = std::process::Command::new("ffmpeg")
            .args("-hide_banner -loglevel error -nostdin -y -f lavfi -i".split(' '))
            .arg("testsrc2=size=1280x720:rate=25:duration=20,noise=alls=20:allf=t")
            .args("-f lavfi -i sine=frequency=440:sample_rate=48000:duration=20 -pix_fmt yuv420p".split(' '))
            .args(
                "-c:v libx264 -preset ultrafast -bf 0 -g 50 -b:v 1900k -maxrate 1900k -bufsize 1900k"
                    .split(' '),
            )
            .args("-c:a aac -b:a 96k -f flv".split(' '))
            .arg(&part)
            .status()?;
        if !made.success() {
            return Err("ffmpeg could not make the 2 Mbit/s stream".into());
        }
        std::fs::rename(&part, &file)?;
    }
    Ok(file)
}
