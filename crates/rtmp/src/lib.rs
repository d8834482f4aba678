//! RTMP without I/O.
//!
//! Bytes go in by `handle_input` or `read`, events come out, and what is to be sent is appended to an output the caller
//! drains. Nothing here owns a socket, a clock or a task, so every state of a connection can be reached by a test, and a
//! connection is plain data that can move between processes: see [`record`].
//!
//! ```text
//! bytes ─▶ handshake ─▶ chunk::Reader ─▶ Message ─┬─▶ amf0 ─▶ server::Session / client::Session ─▶ Event
//!                                                 └─▶ media (what a payload is, not what it shows)
//! ```
//!
//! **Trust.** Every inbound byte is hostile until it was parsed here. Each reader has limits with a name and a unit
//! ([`chunk::Limits`], the constants of [`amf0`], [`server`] and [`client`]); passing one is an error that costs that
//! connection and nothing else. No input can make this crate panic, recurse without bound, or allocate from a length a
//! peer merely announced.
//!
//! **On the way out** chunk streams, chunk size and windows are those of [`wire`], on every connection.
//!
//! Sources: Adobe's RTMP specification 1.0, AMF0 specification, FLV 10.1 annex E, Enhanced RTMP v1 and v2.

pub mod amf0;
pub mod auth;
pub mod chunk;
pub mod client;
pub mod flv;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod handshake;
pub mod line;
mod link;
pub mod media;
pub mod message_type;
pub mod record;
pub mod server;
#[cfg(test)]
mod testing;
pub mod timeline;
pub mod url;
pub mod wire;

pub use handshake::HandshakeError;
