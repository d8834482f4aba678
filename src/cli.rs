//! The command line of `srsctl`: its commands and what they are for. What a command takes is defined beside it.

use clap::{Parser, Subcommand};

use crate::commands::{
    agent, bench, check, down, encoder, logs, probe, publish, restart, status, up, urls, worker,
};
use crate::subject::Global;

/// A small live-streaming cluster from one file: an RTMP origin that forwards every stream to edge ports, supervised.
///
/// Workers outlive the supervisor: if it is killed, streams go on, and the next `srsctl up` takes the workers over.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage or a wrong cluster file; 3 status: something wanted \
is not ready; 4 status: cannot tell; 5 another srsctl supervises or is starting this cluster, or its \
supervisor is busy or ending; 130 interrupted.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the cluster run as its file says, and keep it running
    Up(up::Args),
    /// Show every process and every stream
    Status(status::Args),
    /// Restart one port after the other; each serves again before the next. Players of a port that restarts are disconnected and
    /// have to connect again; encoders too when it is the origin
    Restart(restart::Args),
    /// Stop the cluster; logs, generated configs and the secret stay
    Down(down::Args),
    /// Print logs, merged in order of time
    Logs(logs::Args),
    /// Print where to publish a stream and where to play it
    Urls(urls::Args),
    /// Check a cluster file without touching anything
    Check(check::Args),
    /// Play a stream until its first keyframe and say how long it took
    Probe(probe::Args),
    /// Publish an FLV file or the test card in real time, again and again
    #[command(override_usage = publish::USAGE)]
    Publish(publish::Args),
    /// Put load on any RTMP server: thousands of players or publishers
    #[command(subcommand)]
    Bench(bench::Command),
    /// The supervisor itself; `up` starts it
    #[command(hide = true)]
    Agent(agent::Args),
    /// One RTMP port; the supervisor starts it
    #[command(hide = true)]
    Worker(worker::Args),
    /// The supervised encoder; the supervisor starts it
    #[command(hide = true)]
    Encoder(encoder::Args),
}
