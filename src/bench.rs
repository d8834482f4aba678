//! `srsctl bench`: load for any RTMP server.

use std::io::IsTerminal as _;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use bench::{Load, LoadError, Progress, Work};
use clap::{Args, Subcommand};
use signal_hook::consts::{SIGINT, SIGTERM};

use crate::commands::print;
use crate::failure::{Failure, code};

#[derive(Debug, Subcommand)]
pub(crate) enum BenchCommand {
    /// Play a stream many times and say how well it came
    ///
    /// Works with any RTMP server. Latency is known for streams that `srsctl bench publish` sends.
    /// Exit code 0 when every player had a keyframe, and media without a pause until the end.
    Play {
        #[command(flatten)]
        load: LoadArgs,
        /// rtmp://HOST[:PORT]/APP/STREAM; players take several in turn
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

#[derive(Debug, Args)]
pub(crate) struct LoadArgs {
    /// How many
    #[arg(short = 'c', long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    clients: u32,
    /// Connections begun per second, as 100 or 100/s
    #[arg(long, default_value = "100/s", value_parser = ramp)]
    ramp: f64,
    /// Seconds to go on once all have been begun; 0: until Ctrl-C
    #[arg(long, default_value_t = 60)]
    duration: u64,
    /// One JSON document, srsctl/bench/v1
    #[arg(long)]
    json: bool,
    /// Addresses of this machine to connect from, in turn; one has ports for some 28000 connections to one server port
    /// [default: what the system chooses; for a server on 127/8 as many of 127.255.0.x as it takes]
    #[arg(long, value_delimiter = ',', value_name = "IP,...")]
    source_addresses: Vec<IpAddr>,
    /// Bytes per second that each player reads once it plays, 0 for none: slow players [default: all that comes]
    #[arg(long, value_name = "BYTES")]
    read_rate: Option<u64>,
    /// Receive buffer of each client's socket [default: what the system chooses]
    #[arg(long, value_name = "BYTES")]
    receive_buffer: Option<usize>,
    /// Processes that share the clients [default: as many as the limit of open descriptors requires]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    processes: Option<u32>,
}

/// Makes the load and reports.
pub(crate) fn bench(command: BenchCommand) -> Result<ExitCode, Failure> {
    let (args, work, urls, file) = match command {
        BenchCommand::Play { load, urls } => (load, Work::Play, urls, None),
        BenchCommand::Publish { load, file, url } => (load, Work::Publish, vec![url], Some(file)),
        BenchCommand::Part => {
            // Ctrl-C in a terminal reaches this process too; the main one ends it through stdin.
            stop_at_signals()?;
            return bench::part().map(|()| ExitCode::SUCCESS).map_err(failure);
        }
    };
    let LoadArgs { clients, ramp, duration, json, source_addresses, read_rate, receive_buffer, processes } =
        args;
    let mut load = Load::new(work, clients, urls);
    load.file = file;
    load.ramp = ramp;
    load.duration = duration;
    load.sources = source_addresses;
    load.read_rate = read_rate;
    load.receive_buffer = receive_buffer;
    load.processes = processes;

    let stop = stop_at_signals()?;
    let mut line = ProgressLine::new();
    let report = bench::run(load, &stop, &mut |progress| line.show(progress)).map_err(failure)?;
    line.end();
    if json {
        print(&format!("{}\n", serde_json::to_string_pretty(&report).map_err(Failure::failed)?));
    } else {
        print(&report.to_string());
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
    before: Progress,
    is_terminal: bool,
}

impl ProgressLine {
    fn new() -> Self {
        Self { before: Progress::default(), is_terminal: std::io::stderr().is_terminal() }
    }

    fn show(&mut self, progress: &Progress) {
        let line = progress.line(&self.before);
        self.before = *progress;
        if self.is_terminal {
            eprint!("\r\x1b[K{line}");
        } else {
            eprintln!("{line}");
        }
    }

    fn end(&self) {
        if self.is_terminal {
            eprint!("\r\x1b[K");
        }
    }
}

fn ramp(text: &str) -> Result<f64, String> {
    let number = text.strip_suffix("/s").unwrap_or(text).parse::<f64>();
    number.ok().filter(|n| *n > 0.0 && n.is_finite()).ok_or_else(|| "not a rate such as 100/s".to_owned())
}

fn failure(error: LoadError) -> Failure {
    match error {
        LoadError::Url { .. } | LoadError::Usage(_) => Failure::usage(error),
        error => Failure::failed(error),
    }
}
