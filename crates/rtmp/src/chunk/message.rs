//! A message, what bounds it, and what breaks it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

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
    /// Never empty when it comes from [`Reader::read`](super::Reader::read).
    pub payload: Bytes,
}

/// Data beyond this is not taken in, bytes, counted as a player gets it; the largest metadata seen is below 8 KiB.
pub const MAX_DATA: usize = 64 << 10;

/// What one connection may make us hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of one audio, video or aggregate message. 8 MiB: a 4K keyframe is below 2 MiB. Too small loses keyframes. A longer one is left
    /// out.
    pub message: usize,
    /// Bytes of one data message: [`MAX_DATA`], and what a publisher adds to it (`@setDataFrame`, and one byte where it is AMF3). What a
    /// server takes in it passes on in this form, so no smaller limit may stand behind it. A longer one is left out.
    pub data: usize,
    /// Bytes of one message of any other type. 64 KiB: the longest `connect` is below 2 KiB. A longer one is left out, but a protocol
    /// control message (types 1 to 6) ends the connection.
    pub command: usize,
    /// Chunk streams with their header state. 64: encoders use 3 to 6, with ids up to 33.
    pub chunk_streams: usize,
    /// Bytes of all partial messages together. 16 MiB: two of the largest messages, interleaved.
    pub partial: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 8 << 20,
            data: MAX_DATA + 64,
            command: 64 << 10,
            chunk_streams: 64,
            partial: 16 << 20,
        }
    }
}

/// A peer broke the chunk layer; the connection cannot go on.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum ReadError {
    /// A compressed header needs an earlier message on its chunk stream.
    #[error("chunk stream {csid} begins with a fmt-{fmt} header")]
    NoHeader {
        /// Chunk stream.
        csid: u32,
        /// Header format, 2 or 3.
        fmt: u8,
    },
    /// The message before has not ended.
    #[error("chunk stream {csid}: a new message begins inside another one")]
    MidMessage {
        /// Chunk stream.
        csid: u32,
    },
    /// See [`Limits`]. It costs the message only, but of protocol control: see [`Reader::take_left_out`](super::Reader::take_left_out).
    #[error("a message of type {type_id} announces {length} bytes, the limit is {limit}")]
    TooLong {
        /// Message type.
        type_id: u8,
        /// Announced length, bytes.
        length: usize,
        /// Limit in force, bytes.
        limit: usize,
    },
    /// See [`Limits::chunk_streams`].
    #[error("more than {0} chunk streams")]
    TooManyChunkStreams(usize),
    /// See [`Limits::partial`].
    #[error("more than {0} bytes in unfinished messages")]
    TooMuchPartial(usize),
    /// `SetChunkSize` of 0, or with bit 31 set (RTMP 1.0, section 5.4.1).
    #[error("chunk size {0} is outside 1..2^31")]
    ChunkSize(u32),
    /// A protocol control message shorter than its field.
    #[error("protocol control message {0} is shorter than 4 bytes")]
    ShortControl(u8),
}
