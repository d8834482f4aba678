//! A stream as a value: what is published is written once into a log, and everybody who reads it is a cursor.
//!
//! # Theory of operation
//!
//! ```text
//! message ─▶ ingest: classify ─▶ place (clock) ─▶ resume ─▶ store ─▶ log ─┬─▶ cursor of a player
//!                                                                        └─▶ cursor of a forwarder
//! ```
//!
//! [`Stream`] takes the messages of whoever publishes it, puts them on one line of time (`clock`) and appends them to
//! its [`Log`]. The log holds each message once, as bytes that are right for every reader (`framing`); a [`Cursor`] is
//! one reader's place in it and sends those bytes as they are, with private bytes where it joins.
//!
//! Nothing here knows a socket, a task or the time of day: bytes go out through a function that the caller gives, `now` is
//! monotonic milliseconds and always an argument, and a connection is a number ([`ConnId`]). So each state can be reached
//! by a test, and `random` drives thousands of histories through the same code that serves players.
//!
//! The rules (seeds, barriers, join point, time) and their reasons stand in this crate's README.md.

mod blob;
mod clock;
mod cursor;
mod framing;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod headers;
mod ingest;
mod log;
#[cfg(test)]
mod random;
mod stats;
mod storage;
mod stream;
#[cfg(test)]
mod testing;
mod track;

pub use blob::Blobs;
pub use cursor::{CONTROL_MAX, Cursor, Flushed, Impossible, Recipient, State, Wire};
pub use log::{Entry, Log, Offer, Span};
pub use stats::Stats;
pub use storage::{Left, Meter};
pub use stream::{ConnId, Ended, Head, PublicationId, Sender, Stream};
pub use track::Track;
