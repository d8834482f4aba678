//! One RTMP port, in one process on one thread: the shell around [`stream`], which has what is served, and [`rtmp`], which has
//! how it is said.
//!
//! # Theory of operation
//!
//! ```text
//! accept ─▶ conn: driver ⇄ machine ─┬─ Publish ─▶ ingress ─▶ channel: stream ─┬─▶ players, in passes (flush)
//!                                   └─ Play ────▶ egress::play ──▶ cursor ◀───┘─▶ forwarders, at once (egress::forward)
//! ```
//!
//! Everything lives on one thread and is shared by `Rc`: no lock is held because none exists. Long passes yield, so that accepts,
//! ingest and control never wait long. A connection's task owns its socket's readiness; a caught-up player is written to by the flush
//! task, one that was parked (its socket was full) in its turn among those that catch up. A panic costs the connection it met ([`panics`]).
//!
//! The rules (who may publish, who flushes, forwarding) and their reasons stand in this crate's README.md.

mod accept;
mod budget;
mod channel;
mod conn;
mod counters;
mod egress;
mod failpoints;
mod flush;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod housekeeping;
mod hub;
#[cfg(test)]
mod images;
mod ingress;
mod keeper;
mod keeping;
mod limits;
mod memory;
mod panics;
mod places;
mod port;
mod program;
mod proof;
mod recovery;
mod relief;
mod secret;
mod tally;
#[cfg(any(test, feature = "fuzzing"))]
mod testing;

use std::cell::RefCell;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::rc::Rc;

use cluster::WorkerSpec;
use control::fds::{self, FdsError, Lent, Name};
use control::service::{Asked, EX_RENEW};
use control::{Inherited, RunError, Seat};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tracing::{info, warn};

pub use crate::keeping::{OLDEST_RECORDS, RECORDS};
pub use shm::{LAYOUT, OLDEST_LAYOUT};

use crate::hub::Hub;
use crate::keeper::Kept;
use crate::keeping::Keeping;
use crate::port::Port;
use crate::program::Life;
use crate::recovery::{Legacy, Opened};

/// Serves the port of the config file `config` until told to stop; returns the exit code. To be called before a thread or a
/// runtime exists.
///
/// It returns in two processes: in the [keeper] of the port, and in each worker that the keeper starts.
///
/// On `trial` it only shows that it could: see [`keeper::rehearse`].
///
/// # Errors
/// See [`RunError`].
pub fn run(config: &Path, trial: bool) -> Result<u8, RunError> {
    // Never closed: what is lent is the next worker's too.
    let mut lent = ManuallyDrop::new(Lent::take()?);
    if trial {
        return keeper::rehearse(&mut lent, |lent| rehearse(config, lent)).map(|()| 0);
    }
    match keeper::keep(&mut lent)? {
        Kept::Worker(life) => serve(config, lent, life).map(|()| 0),
        Kept::Ended(code) => Ok(code),
    }
}

/// Serves the port as one of its workers.
fn serve(config: &Path, lent: ManuallyDrop<Lent>, life: Life) -> Result<(), RunError> {
    #[cfg(feature = "failpoints")]
    failpoints::order();
    let Life { generation, renewed, cause, is_cold } = life;
    let open = keeper::inherit(&|number| lent.has(number))
        .map_err(RunError::system("looking for what the worker before had open"))?;
    // First, so that it closes what it had for itself: there may be room for no descriptor more.
    let mut opened = recovery::open(lent.get(Name::State), is_cold);
    // Without what was left nothing of them goes on.
    let closed = match &mut opened.legacy {
        Some(legacy) => {
            legacy.find_sockets(open, lent.get(Name::Listener));
            0
        }
        None => {
            let closed = recovery::accepted(&open, lent.get(Name::Listener));
            drop(open);
            closed
        }
    };
    let own = lent.try_clone().map_err(RunError::system("duplicating what is lent"))?;
    let Inherited { listener, control, lock, config: given, secret: kept, socket } = own.try_into()?;
    let listener = listener.ok_or(FdsError::Missing(Name::Listener))?;
    let config = given.as_ref().map_or_else(|| config.to_owned(), fds::path_of);
    let spec = WorkerSpec::from_file(&config)?;
    let text = secret::read(&kept.as_ref().map_or_else(|| spec.secret_file.clone(), fds::path_of))?;
    info!(id = %spec.id, address = %spec.listen, generation, is_cold, "starting");
    if let Err(inexact) = proof::counters_are_exact() {
        opened = Opened::private(inexact.to_string());
    }
    let Opened { store, mut legacy, unkept, forgot } = opened;
    let forgot = forgot.filter(|_| generation > 0);
    let unkept = unkept.map(|why| format!("its death would cost its connections: {why}"));
    if let Some(why) = &unkept {
        warn!("{why}");
    }
    control::block_on(async move {
        let listener = TcpListener::from_std(listener).map_err(RunError::system("preparing the listener"))?;
        let listener = Rc::new(listener);
        let (id, role) = (spec.id.clone(), spec.role);
        let keeping = Rc::new(Keeping::new(store, unkept));
        let port = legacy.as_mut().map(Legacy::port).unwrap_or_default();
        let hub = Hub::with(spec, text, &keeping, port);
        let (servings, lost) = legacy.map(|legacy| legacy.take(&hub)).unwrap_or((Vec::new(), closed));
        let lost = u32::try_from(lost).unwrap_or(u32::MAX);
        let seat = Seat { id, role, control, socket, lock, generation, renewed, cause, forgot, lost };
        let lent = RefCell::new(lent);
        let port = Rc::new(Port { hub: Rc::clone(&hub), listener: Rc::clone(&listener), lent });
        let next = flush::go_on(&hub, servings.len()).await;
        let kept = Rc::clone(&hub);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(housekeeping::tick(Rc::clone(&hub)));
        tasks.spawn_local(housekeeping::measure_lag(Rc::clone(&hub)));
        tasks.spawn_local(flush::flush(Rc::clone(&hub), next));
        tasks.spawn_local(flush::catch_up(Rc::clone(&hub)));
        tasks.spawn_local(accept::accept(hub, listener, servings));
        tokio::select! {
            served = control::serve(seat, port) => match served? {
                Asked::Stop => Ok(()),
                Asked::Renew => make_place(&kept),
            },
            // A port without one of them looks alive and is not: better none, and a new one.
            Some(ended) = tasks.join_next() => Err(RunError::Stuck(ended.err().map(|e| e.to_string()).unwrap_or_default())),
        }
    })
}

/// What a worker begins with: its config, its secret, and a look at what the one before has left.
fn rehearse(config: &Path, lent: &Lent) -> Result<(), RunError> {
    let path = |name| lent.get(name).map(|fd| fds::path_of(&fd));
    let spec = WorkerSpec::from_file(&path(Name::Config).unwrap_or_else(|| config.to_owned()))?;
    secret::read(&path(Name::Secret).unwrap_or_else(|| spec.secret_file.clone()))?;
    let is_read = lent.get(Name::State).is_some_and(recovery::is_readable);
    info!(id = %spec.id, is_read, "on trial");
    Ok(())
}

/// Ends, with all connections as they are: no task is at work, and what is dropped is closed.
fn make_place(hub: &Hub) -> ! {
    hub.save();
    hub.keeping.commit();
    info!("making place for the next worker");
    std::process::exit(EX_RENEW.into())
}
