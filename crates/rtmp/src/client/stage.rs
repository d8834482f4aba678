//! How far a connection has come.

use std::fmt;

use super::config::Mode;

/// The answer a [`Session`](super::Session) waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// S0, S1 and S2.
    Handshake,
    /// That to `connect`.
    Connect,
    /// That to `createStream`.
    CreateStream,
    /// That to `publish` or `play`.
    Start(Mode),
    /// None: it publishes or plays.
    Active,
    /// None: the stream was given back.
    Finished,
}

impl fmt::Display for Stage {
    /// Fit to stand behind "no" or "waits for".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Handshake => "RTMP handshake",
            Self::Connect => "answer to connect",
            Self::CreateStream => "answer to createStream",
            Self::Start(Mode::Publish) => "answer to publish",
            Self::Start(Mode::Play) => "answer to play",
            Self::Active => "media",
            Self::Finished => "end of the connection",
        })
    }
}
