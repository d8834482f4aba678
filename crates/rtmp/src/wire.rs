//! What we write on every connection, whoever we are on it: server, forwarder, encoder, probe, load generator.

/// Size of our chunks, bytes; announced before anything long, never changed on a connection. As SRS; a frame of 60 kB is one
/// chunk. Larger ones are refused by servers in the field.
pub const CHUNK_SIZE: u32 = 60_000;

/// Acknowledgement window, bytes: announced by us, and assumed until the peer announces its own. The value FMS and SRS use.
pub const WINDOW: u32 = 2_500_000;

/// Window announced to a player, bytes. Large, because each acknowledgement of each player wakes the worker.
pub const PLAYER_WINDOW: u32 = 1 << 30;

/// Chunk streams of what we send. The first two and [`COMMAND_DATA`](csid::COMMAND_DATA) carry stateless fmt-0 messages with
/// time stamp 0, which may stand between any two messages; the others carry media.
pub mod csid {
    /// Protocol control (RTMP 1.0, section 5.4).
    pub const CONTROL: u8 = 2;
    /// Commands.
    pub const COMMAND: u8 = 3;
    /// Video.
    pub const VIDEO: u8 = 4;
    /// Audio.
    pub const AUDIO: u8 = 5;
    /// Data that belongs to a command: `|RtmpSampleAccess`.
    pub const COMMAND_DATA: u8 = 6;
    /// Data of the stream: metadata, cue points, text.
    pub const DATA: u8 = 7;
}
