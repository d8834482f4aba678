//! Load for any RTMP server: thousands of real players or publishers from one thread, and what they met.
//!
//! # Theory of operation
//!
//! ```text
//! run ─┬─ one process:      Engine: epoll ─▶ Player / Publisher ─▶ Tally ─┐
//!      └─ several of them:  `part` ─▶ Engine … (stdin, stdout)            ├─ merge ─▶ Results
//!                           `part` ─▶ Engine …                     Tally ─┘
//! ```
//!
//! A player is a real client ([`rtmp::client::Session`]) until its play is accepted. A [`scan::Scanner`] that has followed
//! the same bytes from the first chunk on then takes over: it knows where messages end, and media is passed over in the one
//! read buffer that all clients share. So a client costs one `read` per burst of the server and some 300 bytes. With
//! [`Load::nagle`] it writes as ffmpeg and librtmp do until then (`pieces`).
//!
//! Publishers hold one copy of the file together, and put the time of sending into each H.264 frame (`stamp`): players
//! of this crate read it again, on the same host or, as far as the clocks agree, on another.

mod engine;
pub mod exact;
mod histogram;
mod load;
mod pieces;
mod play;
mod processes;
mod publish;
mod report;
pub mod scan;
mod source;
mod stamp;

pub use histogram::Histogram;
pub use load::{Load, LoadError, Work};
pub use processes::{part, run};
pub use report::{Bitrate, Interim, Quantiles, Results, Tally};
pub use source::{Source, SourceError, Template};
