//! The header of a chunk (RTMP 1.0, section 5.3.1), read from bytes that may end anywhere.

use super::message::ReadError;
use crate::record::{RecordError, ensure};
use serde::{Deserialize, Serialize, Serializer};

/// The value of a 24-bit time field that announces an extended one, and the first time stamp that needs it.
pub const EXTENDED: u32 = 0xFF_FFFF;

/// The longest chunk header: 3 bytes csid, 11 bytes message header, 4 bytes extended time stamp.
const MAX_HEADER: usize = 18;

/// The largest id of a chunk stream that a header can name.
pub(super) const MAX_CSID: u32 = 64 + 255 + 256 * 255;

/// A parsed chunk header.
pub(super) struct Header {
    /// Bytes it takes.
    pub(super) len: usize,
    pub(super) csid: u32,
    pub(super) kind: Kind,
}

pub(super) enum Kind {
    /// fmt 0, 1 or 2: starts a message.
    Start { fmt: u8, field: u32, extended: bool, length: Option<(u32, u8)>, msid: Option<u32> },
    /// fmt 3: goes on with the message of a stream, or starts one like the last.
    Continue { stream: usize },
}

/// What an earlier chunk said about a chunk stream.
pub(super) struct Known {
    pub(super) index: usize,
    /// The extended time field fmt-3 chunks are to repeat.
    pub(super) echo: Option<u32>,
}

/// `None`: `bytes` ends inside the header. The same bytes, longer, never give a different answer.
pub(super) fn parse(bytes: &[u8], known: impl Fn(u32) -> Option<Known>) -> Result<Option<Header>, ReadError> {
    parse_at(&mut Cursor { bytes, at: 0 }, known).transpose()
}

fn parse_at(
    cursor: &mut Cursor<'_>,
    known: impl Fn(u32) -> Option<Known>,
) -> Option<Result<Header, ReadError>> {
    let first = cursor.u8()?;
    let fmt = first >> 6;
    let csid = match first & 0x3F {
        0 => 64 + u32::from(cursor.u8()?),
        1 => 64 + u32::from(cursor.u8()?) + 256 * u32::from(cursor.u8()?),
        csid => u32::from(csid),
    };
    let known = known(csid);
    if fmt == 3 {
        let Some(Known { index, echo }) = known else { return Some(Err(ReadError::NoHeader { csid, fmt })) };
        if let Some(echo) = echo {
            cursor.skip_echo(echo)?;
        }
        return Some(Ok(Header { len: cursor.at, csid, kind: Kind::Continue { stream: index } }));
    }
    // librtmp sends its first ping reply as fmt 1; fmt 2 would leave length and type unknown.
    if fmt == 2 && known.is_none() {
        return Some(Err(ReadError::NoHeader { csid, fmt }));
    }
    let short = cursor.u24()?;
    let length = if fmt < 2 { Some((cursor.u24()?, cursor.u8()?)) } else { None };
    let msid = if fmt == 0 { Some(cursor.u32()?.swap_bytes()) } else { None };
    let extended = short == EXTENDED;
    let field = if extended { cursor.u32()? } else { short };
    Some(Ok(Header { len: cursor.at, csid, kind: Kind::Start { fmt, field, extended, length, msid } }))
}

/// Front of the input, kept while it is too short for a header.
#[derive(Debug, Default, Deserialize)]
#[serde(try_from = "Vec<u8>")]
pub(super) struct Held {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

impl Held {
    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    pub(super) fn push(&mut self, byte: u8) {
        // A header is complete at `MAX_HEADER` bytes at the latest, so there is always room.
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }

    pub(super) fn skip(&mut self, count: usize) {
        let count = count.min(self.len);
        self.bytes.copy_within(count..self.len, 0);
        self.len -= count;
    }
}

impl Serialize for Held {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.as_slice().serialize(serializer)
    }
}

impl TryFrom<Vec<u8>> for Held {
    type Error = RecordError;

    fn try_from(bytes: Vec<u8>) -> Result<Self, RecordError> {
        ensure(bytes.len() <= MAX_HEADER, "front of a chunk header")?;
        let mut held = Self::default();
        bytes.into_iter().for_each(|byte| held.push(byte));
        Ok(held)
    }
}

struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Cursor<'_> {
    fn u8(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    fn u24(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes([0, self.u8()?, self.u8()?, self.u8()?]))
    }

    fn u32(&mut self) -> Option<u32> {
        Some(u32::from_be_bytes([self.u8()?, self.u8()?, self.u8()?, self.u8()?]))
    }

    /// Skips the extended time stamp of a fmt-3 chunk if it is there: older librtmp (OBS before 30.1) leaves it out, so
    /// only the expected value counts as one. `None` while the bytes agree but are too few.
    fn skip_echo(&mut self, expected: u32) -> Option<()> {
        let rest = self.bytes.get(self.at..)?;
        let expected = expected.to_be_bytes();
        let seen = rest.len().min(expected.len());
        if rest.get(..seen)? != expected.get(..seen)? {
            return Some(());
        }
        if seen < expected.len() {
            return None;
        }
        self.at += expected.len();
        Some(())
    }
}
