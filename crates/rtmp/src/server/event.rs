//! What comes out of a server's [`Session`](super::Session): events and errors.

use super::key::{KeyError, StreamKey};
use serde::{Deserialize, Serialize};

use crate::chunk::{Message, ReadError};
use crate::handshake::HandshakeError;

/// Bytes a client may send before its `connect` is complete, handshake included. A `connect` with every known property
/// is below 2 KiB.
pub const MAX_BEFORE_CONNECT: u64 = 64 << 10;

/// Message streams of a connection that publish or play at a time. Players use one; encoders that send several bitrates over
/// one connection, one for each.
pub const MAX_ACTIVE: usize = 32;

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
        /// What is to be published. What the message stream did until now is over.
        stream: StreamKey,
    },
    /// To be answered by [`accept_play`](super::Session::accept_play) or [`reject_play`](super::Session::reject_play) before
    /// more input is handed in.
    Play {
        /// Message stream id.
        msid: u32,
        /// What is to be played. What the message stream did until now is over.
        stream: StreamKey,
        /// How much of it, ms of its time; `None`: all there is.
        length: Option<u64>,
    },
    /// A publish or play was refused already, and told: its name is none, or too many streams are active.
    Refused,
    /// Audio, video, data (type 15 already turned into 18) or an aggregate; its message stream is one that publishes.
    Media(Message),
    /// A publisher ended its stream (publish(false), FCUnpublish, deleteStream, closeStream); it may publish or play again.
    Unpublish {
        /// Message stream id.
        msid: u32,
    },
    /// A player ended its stream (play(false), deleteStream, closeStream); it may publish or play again.
    StopPlay {
        /// Message stream id.
        msid: u32,
    },
    /// A player paused or resumed; it has been answered.
    Pause {
        /// Message stream id.
        msid: u32,
        /// Paused, or resumed.
        on: bool,
    },
    /// A player turned audio on or off.
    ReceiveAudio {
        /// Message stream id.
        msid: u32,
        /// On, or off.
        on: bool,
    },
    /// A player turned video on or off.
    ReceiveVideo {
        /// Message stream id.
        msid: u32,
        /// On, or off.
        on: bool,
    },
    /// Answer to [`Session::ping`](super::Session::ping).
    Pong {
        /// The value sent with the ping.
        timestamp: u32,
    },
}

/// Why a player gets no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum PlayEnd {
    /// It has had as much as it asked for.
    Complete,
    /// The publication is over.
    Unpublished,
    /// All places are taken, and another has more right to one.
    MadeRoom,
}

/// Why a publication is ended that its client goes on with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PublishEnd {
    /// Nothing was sent for too long.
    Idle,
    /// All places are taken, and another has more right to one.
    MadeRoom,
    /// It is denied from now on: why.
    Denied(&'static str),
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
    /// The app of its `connect` is none; see [`KeyError`].
    #[error(transparent)]
    Key(#[from] KeyError),
    /// See [`MAX_OUTPUT`].
    #[error("more than {MAX_OUTPUT} bytes of replies wait")]
    TooMuchOutput,
}
