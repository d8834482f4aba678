//! The processes that `up` and the supervisor start: the supervisor itself, workers, the encoder.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use supervisor::{AgentConfig, AgentError, StartupEvent};
use tracing_subscriber::EnvFilter;

use crate::cli::{Global, resolve};
use crate::failure::{Failure, code};
use crate::locate;

/// What a supervisor in the background tells the `up` that started it, a line of JSON each, on its stdout.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Report {
    /// It comes up.
    Startup(StartupEvent),
    /// It does not, and nothing is left of it.
    Failed {
        /// For a person.
        message: String,
        /// Exit code for `up`.
        code: u8,
    },
}

/// Becomes the supervisor, detached from the terminal that started it.
pub(crate) async fn agent(global: &Global, path: &Path) -> Result<ExitCode, Failure> {
    // Fails only for the leader of a process group, which is detached enough.
    let _ = nix::unistd::setsid();
    // From the moment all checks have passed stdout is the log's; the pipe to `up` closes when the start is over.
    let mut pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).ok().map(File::from);
    let outcome = supervise_in_background(global, path, &mut pipe).await;
    if let (Err(failure), Some(pipe)) = (&outcome, &mut pipe) {
        let _ = tell(pipe, &Report::Failed { message: failure.to_string(), code: failure.number() });
        return Ok(failure.code());
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

async fn supervise_in_background(
    global: &Global,
    path: &Path,
    pipe: &mut Option<File>,
) -> Result<(), Failure> {
    let config = config(global, path, true)?;
    // The state directory must not pin the directory that `up` was called in.
    std::env::set_current_dir("/").map_err(|e| Failure::failed(format!("cannot change to /: {e}")))?;
    log();
    let outcome = supervisor::run(config, |event| {
        let complete = matches!(event, StartupEvent::Complete { .. });
        if let Some(open) = pipe.as_mut() {
            // An `up` that was killed does not stop the cluster.
            let _ = tell(open, &Report::Startup(event));
        }
        if complete {
            *pipe = None;
        }
    });
    outcome.await.map_err(failure)
}

fn tell(pipe: &mut impl Write, report: &Report) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    pipe.write_all(&line)
}

/// The supervisor's config for the cluster file `path`.
pub(crate) fn config(global: &Global, path: &Path, detached: bool) -> Result<AgentConfig, Failure> {
    let loaded = locate::load(path)?;
    let dirs = locate::roots(global)?.cluster(&loaded.cluster.name);
    let binary = supervisor::process::own_binary()
        .map_err(|e| Failure::failed(format!("cannot find srsctl itself: {e}")))?;
    Ok(AgentConfig {
        cluster: loaded.cluster,
        path: loaded.path,
        text: loaded.text,
        dirs,
        binary,
        detached,
        parse: Arc::new(|path, text| {
            let parsed = cluster::file::parse(text.as_bytes().to_vec(), path, &resolve);
            parsed.map(|(cluster, _)| cluster).map_err(|e| e.to_string())
        }),
    })
}

/// An agent's failure as a command's.
pub(crate) fn failure(error: AgentError) -> Failure {
    let code = match &error {
        AgentError::AlreadyRunning { .. } => code::LOCKED,
        AgentError::Interrupted | AgentError::NotStopped(_) | AgentError::Left(_) => code::INTERRUPTED,
        AgentError::Preflight(_)
        | AgentError::State(_)
        | AgentError::Changed(_)
        | AgentError::System { .. } => code::FAILED,
    };
    Failure::new(code, error)
}

/// stderr, where a write that fails is a lost line and nothing else: the disk of the logs may be full, and the subscriber would
/// panic while it complains.
struct Log;

impl Write for Log {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs to stderr; `RUST_LOG` sets what.
pub(crate) fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_writer(|| Log).with_ansi(false).with_target(false);
    // A second subscriber is refused; the first one stays.
    let _ = subscriber.with_env_filter(filter).try_init();
}

/// Serves one port.
pub(crate) fn worker(config: &Path) -> Result<ExitCode, Failure> {
    log();
    worker::run(config).map(|()| ExitCode::SUCCESS).map_err(|e| Failure::new(e.exit_code(), e))
}

/// Publishes what the config says.
pub(crate) fn encoder(config: &Path) -> Result<ExitCode, Failure> {
    log();
    worker::publish::run_encoder(config)
        .map(|()| ExitCode::SUCCESS)
        .map_err(|e| Failure::new(e.exit_code(), e))
}
