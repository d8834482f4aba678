//! One RTMP port, in one process on one thread.
//!
//! # Theory of operation
//!
//! A stream is a log (`log`): each message is written once, as chunks that serve everybody. A player is a cursor
//! (`cursor`) into it, and so is a forwarder. No work is done per player but one `send` per flush.
//!
//! ```text
//! accept ─▶ connection ─▶ rtmp::server::Session ─▶ Publish ─▶ stream: clock ─▶ log ─┬─▶ players, in passes (server::flush)
//!                                              └─▶ Play    ─▶ cursor ◀─────────────┘─▶ forwarders, at once (forward)
//! ```
//!
//! Everything lives on one thread and is shared by `Rc`: no lock is held because none exists. Long passes yield, so that accepts,
//! ingest and control never wait long. A connection's task owns its socket's readiness; a caught-up player is written to by the flush
//! task, a parked one (its socket is full) by its own task.
//!
//! [`run`] and [`publish::run_encoder`] are the two kinds of process a supervisor starts; [`publish::publish`] is the encoder on its own.

mod backoff;
mod clock;
mod connection;
mod control;
mod cursor;
mod fds;
mod forward;
mod hub;
#[doc(hidden)]
pub mod internals;
mod io;
mod link;
mod log;
mod player;
pub mod publish;
mod server;
mod stream;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;

use cluster::control::{Hello, ProcessStats, StreamStats, VERSION};
use cluster::file::FileError;
use cluster::spec::{Role, UnitId, WorkerSpec};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{JoinSet, LocalSet};
use tracing::{info, warn};

use crate::control::{Control, Controlled};
use crate::fds::Lent;
use crate::hub::Hub;

/// Why a supervised process could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The generated config cannot be used: starting again will not help.
    #[error("{0}")]
    Config(String),
    /// A part of the data plane has ended; a bug.
    #[error("a part of the data plane ended: {0}")]
    Stuck(String),
    /// The process was not started by a supervisor, or the system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

impl From<FileError> for RunError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::System(_) => {
                Self::System { what: "reading the config", source: std::io::Error::other(error) }
            }
            FileError::Unreadable(_) | FileError::Invalid(_) => Self::Config(error.to_string()),
        }
    }
}

impl RunError {
    fn system(what: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    /// The process's exit code (sysexits.h): 78 when starting again will not help.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Config(_) => 78,
            Self::System { .. } => 71,
            Self::Stuck(_) => 70,
        }
    }
}

/// Serves the port of the config file `config` until told to stop.
///
/// # Errors
/// See [`RunError`].
pub async fn run(config: &Path) -> Result<(), RunError> {
    let mut lent = Lent::take().map_err(RunError::system("taking the supervisor's descriptors"))?;
    let spec = WorkerSpec::from_file(config)?;
    let secret = read_secret(&spec.secret_file)?;
    let token = lent.token().map_err(RunError::system("reading the token"))?;
    let listener = std::net::TcpListener::from(lent.listener);
    listener.set_nonblocking(true).map_err(RunError::system("preparing the listener"))?;
    let listener = TcpListener::from_std(listener).map_err(RunError::system("preparing the listener"))?;
    let listener = Rc::new(listener);
    info!(id = %spec.id, address = %spec.listen, "starting");

    let hello = hello(spec.id.clone(), spec.role, token);
    let hub = Hub::new(spec, secret);
    let stop = Rc::new(Notify::new());
    let controlled = Rc::new(Port { hub: Rc::clone(&hub), listener: Rc::clone(&listener) });
    let control = Rc::new(Control { hello, controlled, stop: Rc::clone(&stop) });
    LocalSet::new()
        .run_until(async move {
            let mut tasks = JoinSet::new();
            tasks.spawn_local(server::tick(Rc::clone(&hub)));
            tasks.spawn_local(server::measure_lag(Rc::clone(&hub)));
            tasks.spawn_local(server::flush(Rc::clone(&hub)));
            tasks.spawn_local(server::accept(hub, listener));
            tokio::select! {
                served = serve_until_stopped(control, lent.control, &stop) => served,
                // A port without one of them looks alive and is not: better none, and a new one.
                Some(ended) = tasks.join_next() => Err(RunError::Stuck(ended.err().map(|e| e.to_string()).unwrap_or_default())),
            }
        })
        .await
}

/// Answers on the control socket until a request or a signal ends the process.
async fn serve_until_stopped(
    control: Rc<Control>,
    socket: std::os::fd::OwnedFd,
    stop: &Notify,
) -> Result<(), RunError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::system("waiting for signals"))?;
    tokio::select! {
        served = control.serve(socket) => served.map_err(RunError::system("control socket")),
        () = stop.notified() => Ok(()),
        _ = terminate.recv() => {
            warn!("SIGTERM");
            Ok(())
        }
    }
}

fn hello(id: UnitId, role: Role, token: String) -> Hello {
    let build = env!("CARGO_PKG_VERSION").to_owned();
    Hello { version: VERSION, id, role, token, pid: std::process::id(), build }
}

fn read_secret(file: &Path) -> Result<Vec<u8>, RunError> {
    use std::io::ErrorKind;
    let text = std::fs::read_to_string(file).map_err(|e| match e.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied | ErrorKind::InvalidData => {
            RunError::Config(format!("cannot read the secret {}: {e}", file.display()))
        }
        // Too many open files, no memory, a disk that fails: it may work the next time.
        _ => RunError::System { what: "reading the secret", source: e },
    })?;
    let secret = text.trim().as_bytes().to_vec();
    if secret.len() < 32 {
        return Err(RunError::Config(format!("the secret {} is too short", file.display())));
    }
    Ok(secret)
}

/// What the control socket of a worker reaches.
struct Port {
    hub: Rc<Hub>,
    listener: Rc<TcpListener>,
}

impl Controlled for Port {
    fn process_stats(&self) -> ProcessStats {
        self.hub.process_stats()
    }

    fn stream_stats(&self) -> Vec<StreamStats> {
        self.hub.stream_stats()
    }

    fn configure(&self, spec: WorkerSpec) -> Result<(), String> {
        self.hub.configure(spec)
    }

    fn listener(&self) -> Option<BorrowedFd<'_>> {
        Some(self.listener.as_fd())
    }
}
