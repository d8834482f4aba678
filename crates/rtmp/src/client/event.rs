//! What comes out of a client's [`Session`](super::Session): events and errors.

use crate::chunk::{Message, ReadError};
use crate::handshake::HandshakeError;

/// Bytes of replies that may wait for the caller. A server that asks without end is cut off here.
pub const MAX_OUTPUT: usize = 256 << 10;

/// What the server did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `connect` was accepted.
    Connected,
    /// `publish` or `play` was accepted.
    Started,
    /// Audio, video, data (type 15 already turned into 18) or an aggregate; [`Mode::Play`](super::Mode::Play) only.
    Media(Message),
    /// Answer to [`Session::ping`](super::Session::ping).
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
