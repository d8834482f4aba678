//! Why a connection ends.

use std::io;

use rtmp::server;

/// Why a connection is ended by somebody other than its own task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    /// See the message.
    #[error("did not publish or play in time")]
    Idle,
    /// See the message.
    #[error("the publisher fell silent")]
    Silent,
    /// See the message.
    #[error("another connection of the origin took over")]
    Replaced,
    /// See the message.
    #[error("made room: all connections are taken and this one neither published nor played")]
    Evicted,
    /// See the message.
    #[error("the port's memory is used up, and it held much of it")]
    Memory,
    /// See the message.
    #[error("the player took no byte for 30 s")]
    Stuck,
    /// See the message.
    #[error("was refused, or its stream is over, and it did not close")]
    Lingered,
    /// See the message.
    #[error("connection lost")]
    Lost,
    /// A panic; the log has it.
    #[error("it met a bug")]
    Bug,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum End {
    #[error("closed by the peer")]
    Closed,
    #[error("{0}")]
    Cut(Cut),
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Protocol(#[from] server::Error),
    #[error("asks without reading the answers")]
    Flood,
}

impl End {
    /// Whether the peer is at fault.
    pub(crate) fn is_peer_error(&self) -> bool {
        match self {
            Self::Protocol(_)
            | Self::Flood
            | Self::Cut(Cut::Idle | Cut::Silent | Cut::Stuck | Cut::Memory) => true,
            Self::Closed
            | Self::Io(_)
            | Self::Cut(Cut::Replaced | Cut::Evicted | Cut::Lingered | Cut::Lost | Cut::Bug) => false,
        }
    }
}
