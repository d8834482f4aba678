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

mod clock;
mod connection;
mod cursor;
mod forward;
mod hub;
#[doc(hidden)]
pub mod internals;
mod link;
mod log;
mod player;
mod server;
mod stream;

use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::rc::Rc;

use cluster::WorkerSpec;
use cluster::stats::{ProcessStats, StreamStats};
use control::fds::{FdsError, Name};
use control::{Error, Inherited, RunError, Seat, Service};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::info;

use crate::hub::Hub;

/// Serves the port of the config file `config` until told to stop. To be called before a thread or a runtime exists.
///
/// # Errors
/// See [`RunError`].
pub fn run(config: &Path) -> Result<(), RunError> {
    let Inherited { listener, control, lock } = Inherited::take()?;
    let listener = listener.ok_or(FdsError::Missing(Name::Listener))?;
    let spec = WorkerSpec::from_file(config)?;
    let secret = read_secret(&spec.secret_file)?;
    info!(id = %spec.id, address = %spec.listen, "starting");
    control::block_on(async move {
        let listener = TcpListener::from_std(listener).map_err(RunError::system("preparing the listener"))?;
        let listener = Rc::new(listener);
        let seat = Seat { id: spec.id.clone(), role: spec.role, control, lock };
        let hub = Hub::new(spec, secret);
        let port = Rc::new(Port { hub: Rc::clone(&hub), listener: Rc::clone(&listener) });
        let mut tasks = JoinSet::new();
        tasks.spawn_local(server::tick(Rc::clone(&hub)));
        tasks.spawn_local(server::measure_lag(Rc::clone(&hub)));
        tasks.spawn_local(server::flush(Rc::clone(&hub)));
        tasks.spawn_local(server::accept(hub, listener));
        tokio::select! {
            served = control::serve(seat, port) => served,
            // A port without one of them looks alive and is not: better none, and a new one.
            Some(ended) = tasks.join_next() => Err(RunError::Stuck(ended.err().map(|e| e.to_string()).unwrap_or_default())),
        }
    })
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

impl Service for Port {
    fn process_stats(&self) -> ProcessStats {
        self.hub.process_stats()
    }

    fn stream_stats(&self) -> Vec<StreamStats> {
        self.hub.stream_stats()
    }

    fn configure(&self, spec: WorkerSpec) -> Result<(), Error> {
        self.hub.configure(spec)
    }

    fn listener(&self) -> Option<BorrowedFd<'_>> {
        Some(self.listener.as_fd())
    }
}
