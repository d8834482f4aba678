//! Chunks: messages cut into pieces that several streams interleave (RTMP 1.0, section 5.3).

mod header;
mod message;
mod reader;
#[cfg(test)]
mod tests;
mod writer;

pub use header::EXTENDED;
pub use message::{Limits, MAX_DATA, Message, ReadError};
pub use reader::{DEFAULT_CHUNK_SIZE, Reader};
pub use writer::{delta_len, full_len, put_delta, put_full, put_full_header};
