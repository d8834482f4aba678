//! The nouns that every srsctl process shares.
//!
//! * [`file`]: cluster.yaml as written → [`Cluster`], or a [`file::FileError`] that shows the line.
//! * `config`: the generated file that tells one process what it is.
//! * [`spec`]: [`Cluster`] and what one process of it is told, [`WorkerSpec`] and [`EncoderSpec`]; valid by construction.
//! * [`forward`]: what an origin sends beyond the edges: address templates, patterns of streams.
//! * [`Machine`]: where a supervisor runs for the cluster, and how an operator gets there.
//! * [`Delays`]: how long to wait before the next attempt.
//! * [`stats`]: what a process reports.
//! * [`status`], [`events`], [`plan`]: what the command of that name prints with `--json`.
//!
//! No sockets and no clock here. This crate alone names the YAML library.

mod config;
mod delays;
mod destination;
pub mod events;
pub mod file;
pub mod forward;
mod machine;
pub mod memory;
pub mod plan;
pub mod span;
pub mod spec;
pub mod stats;
pub mod status;

pub use delays::Delays;
pub use destination::Destination;
pub use forward::Outbound;
pub use machine::Machine;
pub use memory::Memory;
pub use span::{Latency, Span};
pub use spec::{
    Cluster, Drain, Encoder, EncoderSource, EncoderSpec, EndOfStream, Host, Port, ProcessSpec, Role, Target,
    UnitId, WorkerOptions, WorkerSpec, hosts,
};
