//! Client side of a connection: handshake, `connect`, `createStream`, `publish` or `play`.

mod session;
#[cfg(test)]
mod tests;

use crate::auth::Claim;
use crate::chunk::{Limits, Message, ReadError};
use crate::handshake::HandshakeError;
use crate::url::Url;
use crate::wire;

pub use session::Session;

/// Bytes of replies that may wait for the caller. A server that asks without end is cut off here.
pub const MAX_OUTPUT: usize = 256 << 10;

/// What the connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Send a stream.
    Publish,
    /// Receive a stream.
    Play,
}

/// What to ask the server for.
#[derive(Debug, Clone)]
pub struct Config {
    /// Publish or play.
    pub mode: Mode,
    /// Application, as `live`.
    pub app: String,
    /// Stream name; parameters are sent as written.
    pub stream: String,
    /// Address of the application, as `rtmp://host/live`.
    pub tc_url: String,
    /// Outbound chunk size, bytes, 1 to 2^31-1; announced when the server has answered `connect`.
    pub chunk_size: u32,
    /// What the server may make us hold.
    pub limits: Limits,
    /// When the server is a worker of the cluster; see [`crate::auth`].
    pub auth: Option<Claim>,
    /// Window announced to the server, bytes: it acknowledges what it received at least twice per window.
    pub window_ack: u32,
}

impl Config {
    /// To publish or play `url` with the chunk size and window of [`wire`], without a proof.
    #[must_use]
    pub fn new(mode: Mode, url: &Url) -> Self {
        Self {
            mode,
            app: url.app.clone(),
            stream: url.stream.clone(),
            tc_url: url.tc_url(),
            chunk_size: wire::CHUNK_SIZE,
            limits: Limits::default(),
            auth: None,
            window_ack: wire::WINDOW,
        }
    }
}

/// What the server did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `connect` was accepted.
    Connected,
    /// `publish` or `play` was accepted.
    Started,
    /// Audio, video, data (type 15 already turned into 18) or an aggregate; [`Mode::Play`] only.
    Media(Message),
    /// Answer to [`Session::ping`].
    Pong {
        /// The value sent with the ping.
        timestamp: u32,
    },
    /// The server acknowledged bytes.
    Ack {
        /// As sent: in general the total modulo 2^32, from some servers the bytes since the last one.
        sequence: u32,
    },
    /// An `onStatus` that is neither an error nor the start.
    Status {
        /// `status` or `warning`.
        level: String,
        /// As `NetStream.Play.UnpublishNotify`.
        code: String,
        /// For a person; may be empty.
        description: String,
    },
}

/// The connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// See [`HandshakeError`].
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// See [`ReadError`].
    #[error(transparent)]
    Chunk(#[from] ReadError),
    /// The server refused: `_error`, an `onStatus` of level error, or a redirect (named in the description).
    #[error("the server refused: {code} ({description})")]
    Rejected {
        /// As `NetStream.Publish.BadName`; empty when the server gave none.
        code: String,
        /// For a person; may be empty.
        description: String,
    },
    /// The answer to `createStream` names no stream.
    #[error("the server answered createStream without a stream id")]
    NoStreamId,
    /// See [`MAX_OUTPUT`].
    #[error("more than {MAX_OUTPUT} bytes of replies wait")]
    TooMuchOutput,
}
