//! RTMP with I/O: what every connection of ours asks of the kernel, and connections that we open.
//!
//! # Theory of operation
//!
//! [`socket`] has the options of every connection, accepted or dialled, and the system calls that move its bytes. [`Client`]
//! is a connection that we open: a socket beside a [`rtmp::client::Session`], both in the open. It knows how to get from a
//! name to the server's consent; when to read and what to write then is the business of whoever opened it: a forwarder
//! writes from a log, the encoder from a file, a probe only reads.

mod client;
pub mod socket;

pub use client::{Client, Error, Limit, Route, Step};

/// A number in 0..1 for the jitter of a delay; without the kernel's generator there is no jitter, and nothing worse.
#[must_use]
pub fn chance() -> f64 {
    f64::from(getrandom::u32().unwrap_or(u32::MAX)) / f64::from(u32::MAX)
}
