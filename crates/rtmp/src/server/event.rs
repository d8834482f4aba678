//! What comes out of a server's [`Session`](super::Session): events and errors.

use super::key::{KeyError, StreamKey};
use crate::chunk::{Message, ReadError};
use crate::handshake::HandshakeError;

/// Bytes a client may send before its `connect` is complete, handshake included. A `connect` with every known property
/// is below 2 KiB.
pub const MAX_BEFORE_CONNECT: u64 = 64 << 10;

/// Message streams open at a time on a connection. Clients use one.
pub const MAX_STREAMS: u32 = 16;

/// Bytes of replies that may wait for the caller. A client that asks without end is cut off here.
pub const MAX_OUTPUT: usize = 256 << 10;

/// What an authenticated forwarder said in its `connect`; see [`crate::auth`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Auth {
    /// Property `srsctlTarget`: the worker it means to reach.
    pub target: String,
    /// Property `srsctlTag`: not verified yet.
    pub tag: String,
    /// Property `srsctlClock`: names the clock of the times it sends; may be empty.
    pub clock: String,
}

/// What the client did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// `connect` was received and has been answered.
    Connected {
        /// As sent or derived from tcUrl; may be empty.
        app: String,
        /// Present when the client claims to be a forwarder of the cluster.
        auth: Option<Auth>,
    },
    /// To be answered by [`accept_publish`](super::Session::accept_publish) or
    /// [`reject_publish`](super::Session::reject_publish) before more input is handed in.
    Publish {
        /// Message stream id.
        msid: u32,
        /// What is to be published.
        stream: StreamKey,
    },
    /// To be answered by [`accept_play`](super::Session::accept_play) or [`reject_play`](super::Session::reject_play) before
    /// more input is handed in.
    Play {
        /// Message stream id.
        msid: u32,
        /// What is to be played.
        stream: StreamKey,
    },
    /// Audio, video, data (type 15 already turned into 18) or an aggregate of the accepted publisher.
    Media(Message),
    /// The publisher ended its stream (FCUnpublish, deleteStream, closeStream); it may publish or play again.
    Unpublish,
    /// The player ended its stream; it may publish or play again.
    StopPlay,
    /// The player paused or resumed; it has been answered.
    Pause(bool),
    /// The player turned audio on or off.
    ReceiveAudio(bool),
    /// The player turned video on or off.
    ReceiveVideo(bool),
    /// Answer to [`Session::ping`](super::Session::ping).
    Pong {
        /// The value sent with the ping.
        timestamp: u32,
    },
}

/// The client broke the protocol or a limit. The output may hold a last reply; flush it if possible, then close.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// See [`HandshakeError`].
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// See [`ReadError`].
    #[error(transparent)]
    Chunk(#[from] ReadError),
    /// See [`MAX_BEFORE_CONNECT`].
    #[error("no connect within the first {MAX_BEFORE_CONNECT} bytes")]
    NoConnect,
    /// A connection connects once.
    #[error("connect was sent twice")]
    ConnectTwice,
    /// See [`MAX_STREAMS`].
    #[error("more than {MAX_STREAMS} message streams")]
    TooManyStreams,
    /// One stream at a time: `publish` or `play` while one is active.
    #[error("publish or play while another stream is active")]
    StreamActive,
    /// See [`KeyError`].
    #[error(transparent)]
    Key(#[from] KeyError),
    /// See [`MAX_OUTPUT`].
    #[error("more than {MAX_OUTPUT} bytes of replies wait")]
    TooMuchOutput,
}
