//! Owns the processes of a cluster on one machine: starts them, keeps them running, knows how they are.
//!
//! # Theory of operation
//!
//! ```text
//!            agent.sock (HTTP/1 + JSON)                 ctl.sock (SOCK_SEQPACKET)
//!   srsctl ────────────────────────────▶ supervisor ◀──────────────────────────────▶ workers, encoder
//!   (client)                                 │  lends listener, lock, log; pidfd
//!                                            ▼
//!                        run/: records, locks, sockets   lib/: file in force, configs, secret, logs
//! ```
//!
//! **One loop.** [`run`] waits for whatever happens (a process ends, answers, is due; a client asks; a signal) and hands
//! it to `reconcile::Reconciler`, which feeds the machine of the unit concerned and takes the running command a step
//! further. What is to be done then goes through one trait, `reconcile::kernel::Kernel`: the decisions have no clock, no
//! chance and no I/O of their own.
//!
//! **A process outlives its supervisor.** It is a session of its own, writes to a file and not to a pipe, and holds the
//! listener itself. The next supervisor finds it by the lock that it inherited (`exec::record`), proves that it is its own
//! (`exec::adopt`) and takes the listener back. What cannot be proved is left alone.
//!
//! **A port outlives its process.** The supervisor binds the listener (`exec::listeners`) and lends it (`exec::process`); when
//! the process dies, players queue until the next one accepts.
//!
//! **All or nothing.** What can be known before anything is touched is checked first ([`preflight`]), and all problems
//! are told at once.
//!
//! **Liveness never depends on another host.** A process is restarted when it ends, or gives no heartbeat (the first within
//! `Heartbeat::START_LIMIT`). What else goes wrong (a port that refuses, a stream that stands still, an origin that is gone)
//! is only shown.
//!
//! The rules of a start, a change, a restart and an adoption, and their reasons, stand in this crate's README.md.

mod api;
mod client;
mod door;
mod exec;
mod host;
mod machine;
pub mod probe;
mod reconcile;
mod relay;

pub use client::{Client, ClientError, Dial, Dialling, Stream, take_over};
pub use exec::orphans;
pub use exec::own::{
    die_of_faults, fail_at_file_limit, keep_descriptors_to_self, own_binary, settle_lookups,
};
pub use exec::record::{AliveLock, UnitFiles};
pub use exec::self_check::SelfCheck;
pub use host::dirs::{ClusterDirs, StateRoots, owner_of_services};
pub use host::files::StateError;
pub use host::history::{Generation, generations};
pub use host::lease::{Holder, Lease, Taken};
pub use host::preflight;
pub use host::procfs::{boot_id, start_ticks};
pub use host::systemd::{Manager, Order, Service};
pub use reconcile::config::{AgentConfig, AgentError, Parse};
pub use reconcile::departure::DRAIN_MAX;
pub use reconcile::plan::compare;
pub use reconcile::run::run;
pub use relay::relay;
