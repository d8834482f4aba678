//! Chunks: messages cut into pieces that several streams interleave (RTMP 1.0, section 5.3).

mod header;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

use bytes::Bytes;

pub use reader::{ReadError, Reader};
pub use writer::{delta_len, put_delta, put_full};

/// Chunk size of both directions until a `SetChunkSize` (RTMP 1.0, section 5.4.1), bytes.
pub const DEFAULT_CHUNK_SIZE: u32 = 128;

/// The value of a 24-bit time field that announces an extended one, and the first time stamp that needs it.
pub(crate) const EXTENDED: u32 = 0xFF_FFFF;

/// One RTMP message, reassembled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// Chunk stream it came on. Says nothing about its kind: senders differ.
    pub csid: u32,
    /// See [`crate::message_type`].
    pub type_id: u8,
    /// Message stream id: 0 for the connection, else a stream made by `createStream`.
    pub msid: u32,
    /// Absolute time, milliseconds modulo 2^32.
    pub timestamp: u32,
    /// Never empty when it comes from [`Reader::read`].
    pub payload: Bytes,
}

/// What one connection may make us hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one audio, video or aggregate message. 8 MiB: a 4K keyframe is below 2 MiB. Too small loses keyframes.
    pub message: usize,
    /// Bytes of one message of any other type. 64 KiB: the largest metadata seen is below 8 KiB.
    pub command: usize,
    /// Chunk streams with their header state. 64: encoders use 3 to 6, with ids up to 33.
    pub chunk_streams: usize,
    /// Bytes of all partial messages together. 16 MiB: two of the largest messages, interleaved.
    pub partial: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { message: 8 << 20, command: 64 << 10, chunk_streams: 64, partial: 16 << 20 }
    }
}
