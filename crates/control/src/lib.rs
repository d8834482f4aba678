//! What the processes of srsctl say to each other.
//!
//! ```text
//!   srsctl ──agent.sock: HTTP/1, JSON──▶ supervisor ──ctl.sock: SOCK_SEQPACKET, JSON──▶ worker, encoder
//!                                            └──────at its start: descriptors, by name──────▶
//! ```
//!
//! * [`message`]: [`Request`] and [`Reply`], between the supervisor and a process that it runs.
//! * [`packet`]: the socket that carries them, both ends.
//! * [`client`]: the supervisor asks, [`service`]: the process answers. What every supervised process does alike is there.
//! * [`fds`]: the descriptors that a process is started with.
//! * [`api`]: what `srsctl` and the supervisor exchange.
//! * [`start`]: what a new supervisor is told, and what it tells.
//! * [`error`]: why something was not done, on either way.
//! * [`trial`]: a program that is run to learn of it.
//! * [`unix`]: unix sockets below directories of any depth.
//!
//! What is reported is [`cluster::stats`]'s. A process is started as `worker --config FILE` or `encoder --config FILE`.

pub mod api;
pub mod client;
pub mod error;
pub mod fds;
pub mod message;
pub mod packet;
pub mod service;
pub mod start;
pub mod trial;
pub mod unix;
mod watch;

pub use client::{Answer, AskError, Connection, ask_once};
pub use error::{Code, Error};
pub use fds::Inherited;
pub use message::{Hello, Reply, Request, VERSION, cause};
pub use service::{RunError, Seat, Service, block_on, serve};
pub use watch::watch;
