//! Messages → chunks, appended to a buffer: with an absolute time (fmt 0) or with a delta (fmt 1).
//!
//! A buffer is any [`BufMut`]: a `Vec` grows, at most once for a message; a `&mut [u8]` has to have room for all of it, else the call
//! panics. How much that is, [`full_len`] and [`delta_len`] tell.

use super::header::EXTENDED;
use bytes::{Buf, BufMut};

/// The largest message a chunk header can announce, bytes.
const MAX_MESSAGE: usize = 0xFF_FFFF;

/// A fmt-0 header with a csid of one byte and no extended time stamp, bytes.
const FULL_HEADER: usize = 12;

/// The same of fmt 1, bytes.
const DELTA_HEADER: usize = 8;

/// An extended time stamp, bytes.
const EXTENSION: usize = 4;

/// Appends a fmt-0 message with an absolute `timestamp` (ms), continued by fmt-3 chunks of `chunk_size` bytes.
///
/// From 0xFFFFFF ms on the extended time stamp is written, and repeated in every continuation: FFmpeg and librtmp lose
/// the stream without it. `csid` is 2 to 63, `payload` at most 0xFFFFFF bytes (cut there otherwise).
pub fn put_full(
    out: &mut impl BufMut,
    chunk_size: u32,
    csid: u8,
    timestamp: u32,
    type_id: u8,
    msid: u32,
    payload: &[u8],
) {
    let payload = fitting(payload);
    let mut header = [0; FULL_HEADER + EXTENSION];
    let mut room = &mut header[..];
    put_full_header(&mut room, csid, timestamp, type_id, msid, payload.len());
    let unused = room.len();
    let [.., a, b, c, d] = header;
    // A continuation repeats what the header ends with.
    let continuation = [continuation(csid), a, b, c, d];
    let (header, continuation) = match unused {
        0 => (&header[..], &continuation[..]),
        _ => (&header[..FULL_HEADER], &continuation[..1]),
    };
    out.put(Chunks::new(header, payload, chunk_size, continuation));
}

/// Appends the fmt-0 header of a message whose first chunk the caller puts behind it. For a payload of more than one chunk
/// `timestamp` is below 0xFFFFFF: else each continuation has to repeat it.
pub fn put_full_header(
    out: &mut impl BufMut,
    csid: u8,
    timestamp: u32,
    type_id: u8,
    msid: u32,
    payload_len: usize,
) {
    out.put_u8(csid & 0x3F);
    out.put_slice(&u24(timestamp.min(EXTENDED)));
    out.put_slice(&u24(payload_len.min(MAX_MESSAGE) as u32));
    out.put_u8(type_id);
    out.put_u32_le(msid);
    if timestamp >= EXTENDED {
        out.put_u32(timestamp);
    }
}

/// Appends a fmt-1 message: no absolute time and no message stream id, so the same bytes serve every receiver that was
/// given a fmt-0 message on `csid` before.
///
/// `delta` (ms) is below 0xFFFFFF, so that extended time stamps never occur; larger ones are clamped.
pub fn put_delta(out: &mut impl BufMut, chunk_size: u32, csid: u8, delta: u32, type_id: u8, payload: &[u8]) {
    debug_assert!(delta < EXTENDED, "a delta of {delta} ms needs an extended time stamp");
    let payload = fitting(payload);
    let mut header = [0; DELTA_HEADER];
    let mut room = &mut header[..];
    room.put_u8(0x40 | (csid & 0x3F));
    room.put_slice(&u24(delta.min(EXTENDED - 1)));
    room.put_slice(&u24(payload.len() as u32));
    room.put_u8(type_id);
    out.put(Chunks::new(&header, payload, chunk_size, &[continuation(csid)]));
}

/// Bytes [`put_full`] appends for a payload of `payload_len` bytes.
pub fn full_len(chunk_size: u32, timestamp: u32, payload_len: usize) -> usize {
    let extension = if timestamp >= EXTENDED { EXTENSION } else { 0 };
    FULL_HEADER + extension + total_len(chunk_size, payload_len.min(MAX_MESSAGE), 1 + extension)
}

/// Bytes [`put_delta`] appends for a payload of `payload_len` bytes.
pub fn delta_len(chunk_size: u32, payload_len: usize) -> usize {
    DELTA_HEADER + total_len(chunk_size, payload_len.min(MAX_MESSAGE), 1)
}

/// Payload with the `continuation` bytes between its chunks.
fn total_len(chunk_size: u32, payload_len: usize, continuation: usize) -> usize {
    let chunks = payload_len.div_ceil(chunk_size.max(1) as usize).max(1);
    payload_len + (chunks - 1) * continuation
}

/// A message in chunks. It knows its length, so that a buffer grows once.
struct Chunks<'a> {
    /// Header of the chunk, as far as it is still to come.
    header: &'a [u8],
    /// Payload of all chunks still to come.
    payload: &'a [u8],
    /// Of it, bytes of this chunk; never more than there are.
    left: usize,
    chunk_size: usize,
    /// Header of the chunks behind this one.
    continuation: &'a [u8],
    /// Of everything, bytes.
    remaining: usize,
}

impl<'a> Chunks<'a> {
    fn new(header: &'a [u8], payload: &'a [u8], chunk_size: u32, continuation: &'a [u8]) -> Self {
        let remaining = header.len() + total_len(chunk_size, payload.len(), continuation.len());
        let chunk_size = chunk_size.max(1) as usize;
        Self { header, payload, left: chunk_size.min(payload.len()), chunk_size, continuation, remaining }
    }
}

impl Buf for Chunks<'_> {
    #[inline]
    fn remaining(&self) -> usize {
        self.remaining
    }

    #[inline]
    fn chunk(&self) -> &[u8] {
        if self.header.is_empty() { &self.payload[..self.left] } else { self.header }
    }

    #[inline]
    fn advance(&mut self, mut count: usize) {
        assert!(count <= self.remaining, "{count} of {} bytes", self.remaining);
        self.remaining -= count;
        while count > 0 {
            if self.header.is_empty() {
                let step = count.min(self.left);
                self.payload = &self.payload[step..];
                self.left -= step;
                count -= step;
                if self.left == 0 && !self.payload.is_empty() {
                    self.header = self.continuation;
                    self.left = self.chunk_size.min(self.payload.len());
                }
            } else {
                let step = count.min(self.header.len());
                self.header = &self.header[step..];
                count -= step;
            }
        }
    }
}

fn continuation(csid: u8) -> u8 {
    0xC0 | (csid & 0x3F)
}

/// A longer payload cannot be announced; cutting it keeps the byte stream readable.
fn fitting(payload: &[u8]) -> &[u8] {
    debug_assert!(payload.len() <= MAX_MESSAGE, "a message of {} bytes", payload.len());
    payload.get(..MAX_MESSAGE).unwrap_or(payload)
}

fn u24(value: u32) -> [u8; 3] {
    let [_, a, b, c] = value.to_be_bytes();
    [a, b, c]
}
