//! What a [`Session`](super::Session) asks the server for, and how it behaves.

use crate::auth::Claim;
use crate::chunk::Limits;
use crate::url::Url;
use crate::wire;

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
    /// Application and stream to name, parameters as written; `connect` also carries the address of the application.
    pub url: Url,
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
    pub fn new(mode: Mode, url: Url) -> Self {
        Self {
            mode,
            url,
            chunk_size: wire::CHUNK_SIZE,
            limits: Limits::default(),
            auth: None,
            window_ack: wire::WINDOW,
        }
    }
}
