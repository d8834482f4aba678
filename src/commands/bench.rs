//! `srsctl bench`: load for any RTMP server.

use std::io::{self, IsTerminal as _, Write as _};
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bench::{Interim, Load, LoadError, Work};
use clap::{Args, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::failure::{Failure, code};
use crate::terminal::{print, print_json};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Play a stream many times and say how well it came
    ///
    /// Works with any RTMP server. Latency is known for streams that `srsctl bench publish` sends.
    /// Exit code 0 when every player had a keyframe, and media without a pause until the end.
    Play {
        #[command(flatten)]
        load: LoadArgs,
        /// Bytes per second that each player reads once it plays, 0 for none: slow players [default: all that comes]
        #[arg(long, value_name = "BYTES")]
        read_rate: Option<u64>,
        /// Receive buffer of each player's socket [default: what the system chooses]
        #[arg(long, value_name = "BYTES")]
        receive_buffer: Option<usize>,
        /// Players write their commands one by one and leave Nagle's algorithm on, as ffmpeg and librtmp do: their first keyframe
        /// waits for the server's acknowledgements
        #[arg(long)]
        nagle: bool,
        /// rtmp://HOST[:PORT]/APP/STREAM; players take several in turn, as the shell's live/s{1..10}
        #[arg(required = true)]
        urls: Vec<String>,
    },
    /// Publish an FLV file many times in real time, again and again
    ///
    /// With more than one publisher the stream names get numbers: live/s becomes live/s1, live/s2 and so on.
    Publish {
        #[command(flatten)]
        load: LoadArgs,
        /// Sent by every publisher
        file: PathBuf,
        /// rtmp://HOST[:PORT]/APP/STREAM
        url: String,
    },
    /// One of several processes of the load generator; `play` and `publish` start it
    #[command(hide = true)]
    Part,
}

impl Command {
    /// Whether stdout is to have JSON alone.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Play { load, .. } | Self::Publish { load, .. } => load.json,
            Self::Part => false,
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// How many
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Connections begun per second, as 100 or 100/s
    #[arg(long, default_value = "100/s", value_parser = ramp)]
    ramp: f64,
    /// Seconds to go on once all have been begun, as 60 or 60s; 0: until Ctrl-C
    #[arg(long, default_value = "60", value_parser = seconds)]
    duration: u32,
    /// One JSON document, srsctl/bench/v1
    #[arg(long)]
    json: bool,
    /// Addresses of this machine to connect from, in turn; one has ports for some 28000 connections to one server port
    /// [default: what the system chooses; for a server on 127/8 as many of 127.255.0.x as it takes]
    #[arg(long, value_delimiter = ',', value_name = "IP,...")]
    source_addresses: Vec<IpAddr>,
    /// Processes that share the clients [default: as many as the limit of open descriptors requires]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    processes: Option<u32>,
}

/// Makes the load and reports.
pub(crate) fn run(command: Command) -> Result<ExitCode, Failure> {
    let (args, mut load) = match command {
        Command::Play { load: args, read_rate, receive_buffer, nagle, urls } => {
            let mut load = Load::new(Work::Play, args.clients, urls);
            (load.read_rate, load.receive_buffer, load.nagle) = (read_rate, receive_buffer, nagle);
            (args, load)
        }
        Command::Publish { load: args, file, url } => {
            let mut load = Load::new(Work::Publish, args.clients, vec![url]);
            load.file = Some(file);
            (args, load)
        }
        Command::Part => {
            // Ctrl-C in a terminal reaches this process too; the main one ends it through stdin.
            stop_at_signals()?;
            return bench::part().map(|()| ExitCode::SUCCESS).map_err(failure);
        }
    };
    let LoadArgs { clients: _, ramp, duration, json, source_addresses, processes } = args;
    load.ramp = ramp;
    load.duration = duration;
    load.sources = source_addresses;
    load.processes = processes;

    let stop = stop_at_signals()?;
    let mut line = ProgressLine::new();
    let report = bench::run(load, &stop, &mut |progress| line.show(progress)).map_err(failure)?;
    line.end();
    if json {
        print_json(&report)?;
    } else {
        print(&report.to_string())?;
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { code::FAILED.into() })
}

/// Set by the first signal; the second Ctrl-C ends the process at once.
fn stop_at_signals() -> Result<Arc<AtomicBool>, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let code = i32::from(code::INTERRUPTED);
    signal_hook::flag::register_conditional_shutdown(SIGINT, code, Arc::clone(&stop))
        .and_then(|_| signal_hook::flag::register(SIGINT, Arc::clone(&stop)))
        .and_then(|_| signal_hook::flag::register(SIGTERM, Arc::clone(&stop)))
        .map_err(|e| Failure::failed(format!("cannot catch signals: {e}")))?;
    Ok(stop)
}

/// One line a second on stderr, written over in a terminal.
struct ProgressLine {
    before: Interim,
    is_terminal: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self { before: Interim::default(), is_terminal: io::stderr().is_terminal() }
    }

    fn show(&mut self, progress: &Interim) {
        let line = progress.line(&self.before);
        self.before = *progress;
        // Nobody may be reading; the report counts.
        let _ = if self.is_terminal {
            write!(io::stderr(), "\r\x1b[K{line}")
        } else {
            writeln!(io::stderr(), "{line}")
        };
    }

    fn end(&self) {
        if self.is_terminal {
            let _ = write!(io::stderr(), "\r\x1b[K");
        }
    }
}

fn ramp(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>();
    number
        .ok()
        .filter(|n| (0.001..=1e6).contains(n))
        .ok_or_else(|| "not a rate from 0.001/s to 1000000/s, such as 100/s".to_owned())
}

fn seconds(text: &str) -> Result<u32, String> {
    let number = text.strip_suffix('s').unwrap_or(text).parse();
    number.map_err(|_| "not a number of seconds such as 60 or 60s".to_owned())
}

fn failure(error: LoadError) -> Failure {
    match error {
        LoadError::Url { .. } | LoadError::Usage(_) => Failure::usage(error),
        error => Failure::failed(error),
    }
}
