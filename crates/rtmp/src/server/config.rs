//! How a [`Session`](super::Session) behaves: its chunk size and its limits.

use crate::chunk::Limits;
use crate::wire;

/// How a [`Session`](super::Session) behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Outbound chunk size, bytes, 1 to 2^31-1; announced when `connect` arrives, never changed afterwards.
    pub chunk_size: u32,
    /// What the client may make us hold.
    pub limits: Limits,
}

impl Default for Config {
    fn default() -> Self {
        Self { chunk_size: wire::CHUNK_SIZE, limits: Limits::default() }
    }
}
