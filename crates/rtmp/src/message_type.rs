//! Message type ids (RTMP 1.0, sections 5.4, 6.2 and 7.1).

/// Protocol control: size of the sender's chunks from the next chunk on, bytes.
pub const SET_CHUNK_SIZE: u8 = 1;
/// Protocol control: the partial message of a chunk stream is given up.
pub const ABORT: u8 = 2;
/// Protocol control: total bytes received, modulo 2^32.
pub const ACK: u8 = 3;
/// User control events: stream begin, ping and others.
pub const USER_CONTROL: u8 = 4;
/// Protocol control: bytes the sender sends before it expects an [`ACK`].
pub const WINDOW_ACK_SIZE: u8 = 5;
/// Protocol control: limit of the peer's output window, bytes.
pub const SET_PEER_BANDWIDTH: u8 = 6;
/// Audio, as the body of an FLV audio tag.
pub const AUDIO: u8 = 8;
/// Video, as the body of an FLV video tag.
pub const VIDEO: u8 = 9;
/// Data in AMF3 (in practice AMF0 behind one zero byte).
pub const DATA_AMF3: u8 = 15;
/// Command in AMF3 (in practice AMF0 behind one zero byte).
pub const COMMAND_AMF3: u8 = 17;
/// Data in AMF0: metadata, cue points, text.
pub const DATA: u8 = 18;
/// Command in AMF0.
pub const COMMAND: u8 = 20;
/// Several FLV tags in one message.
pub const AGGREGATE: u8 = 22;
