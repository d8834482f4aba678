//! The command line of `srsctl`: types only.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

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
is not ready; 4 status: cannot tell; 5 another srsctl supervises or is starting this cluster; 130 interrupted.";

#[derive(Debug, Args)]
pub(crate) struct Global {
    /// The cluster's file; without it ./cluster.yaml, else the only cluster that runs
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(crate) file: Option<PathBuf>,
    /// Where state, configs and logs are kept [default: /run/srsctl and /var/lib/srsctl as root, else ~/.local/state/srsctl]
    #[arg(long, global = true, value_name = "DIR", env = "SRSCTL_STATE_DIR")]
    pub(crate) state_dir: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the cluster run as its file says, and keep it running
    Up {
        /// The cluster's file
        #[arg(value_name = "FILE")]
        path: Option<PathBuf>,
        /// Stay in the foreground as the supervisor; the first Ctrl-C stops the cluster, the second at once
        #[arg(long)]
        foreground: bool,
    },
    /// Show every process and every stream
    Status {
        /// One JSON document, srsctl/status/v1
        #[arg(long)]
        json: bool,
    },
    /// Restart one port after the other; each serves again before the next. Players of a port that restarts are disconnected and
    /// have to connect again; encoders too when it is the origin
    Restart {
        /// Which processes
        role: RoleArg,
        /// Only this port
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// Only this host, as written in the cluster's file
        #[arg(long)]
        host: Option<String>,
    },
    /// Stop the cluster; logs, generated configs and the secret stay
    Down {
        /// Remove logs, generated configs and the secret too
        #[arg(long)]
        purge: bool,
    },
    /// Print logs, merged in order of time
    Logs {
        /// Only this role, or the supervisor
        role: Option<LogArg>,
        /// Only this port
        #[arg(value_parser = clap::value_parser!(u16).range(1..))]
        port: Option<u16>,
        /// Lines of each log
        #[arg(short = 'n', long, default_value_t = 100)]
        lines: usize,
        /// Go on with what is written from now on
        #[arg(long)]
        follow: bool,
    },
    /// Print where to publish a stream and where to play it
    Urls {
        /// app/stream, e.g. live/livestream
        stream: String,
    },
    /// Check a cluster file without touching anything
    Check {
        /// The cluster's file
        #[arg(value_name = "FILE")]
        path: Option<PathBuf>,
    },
    /// Play a stream until its first keyframe and say how long it took
    Probe {
        /// rtmp://host[:port]/app/stream
        url: String,
        /// Give up after this many seconds
        #[arg(long, default_value_t = 10)]
        timeout: u64,
    },
    /// Publish an FLV file or the test card in real time, again and again
    #[command(
        override_usage = "srsctl publish FILE.flv rtmp://HOST[:PORT]/APP/STREAM\n       srsctl publish --test-card rtmp://HOST[:PORT]/APP/STREAM"
    )]
    Publish {
        /// Send the built-in moving picture with a clock, and a tone
        #[arg(long)]
        test_card: bool,
        /// The FLV file to send, unless --test-card is given, and where to publish
        #[arg(required = true, num_args = 1..=2, value_name = "FILE.flv> <URL")]
        args: Vec<String>,
    },
    /// Put load on any RTMP server: thousands of players or publishers
    #[command(subcommand)]
    Bench(crate::bench::BenchCommand),
    /// The supervisor itself; `up` starts it
    #[command(hide = true)]
    Agent { path: PathBuf },
    /// One RTMP port; the supervisor starts it
    #[command(hide = true)]
    Worker {
        #[arg(long)]
        config: PathBuf,
    },
    /// The supervised encoder; the supervisor starts it
    #[command(hide = true)]
    Encoder {
        #[arg(long)]
        config: PathBuf,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleArg {
    Origin,
    Edge,
    Encoder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogArg {
    Origin,
    Edge,
    Encoder,
    Supervisor,
}

impl LogArg {
    /// What the name of a log begins with.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Edge => "edge",
            Self::Encoder => "encoder",
            Self::Supervisor => "supervisor",
        }
    }
}

impl From<RoleArg> for cluster::Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Origin => Self::Origin,
            RoleArg::Edge => Self::Edge,
            RoleArg::Encoder => Self::Encoder,
        }
    }
}

/// The addresses of a host, as the system resolves names.
pub(crate) fn resolve(host: &str) -> std::io::Result<Vec<IpAddr>> {
    use std::net::ToSocketAddrs;
    Ok((host, 0).to_socket_addrs()?.map(|a| a.ip()).collect())
}
