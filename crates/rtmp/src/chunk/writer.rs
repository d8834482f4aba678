//! Messages → chunks, appended to a buffer: with an absolute time (fmt 0) or with a delta (fmt 1).

use super::header::EXTENDED;

/// The largest message a chunk header can announce, bytes.
const MAX_MESSAGE: usize = 0xFF_FFFF;

/// Appends a fmt-0 message with an absolute `timestamp` (ms), continued by fmt-3 chunks of `chunk_size` bytes.
///
/// From 0xFFFFFF ms on the extended time stamp is written, and repeated in every continuation: FFmpeg and librtmp lose
/// the stream without it. `csid` is 2 to 63, `payload` at most 0xFFFFFF bytes (cut there otherwise).
pub fn put_full(
    out: &mut Vec<u8>,
    chunk_size: u32,
    csid: u8,
    timestamp: u32,
    type_id: u8,
    msid: u32,
    payload: &[u8],
) {
    let payload = fitting(payload);
    let extended = (timestamp >= EXTENDED).then_some(timestamp);
    out.reserve(16 + total_len(chunk_size, payload.len(), if extended.is_some() { 5 } else { 1 }));
    put_full_header(out, csid, timestamp, type_id, msid, payload.len());
    put_chunks(out, chunk_size, csid, extended, payload);
}

/// Appends the fmt-0 header of a message whose first chunk the caller puts behind it. For a payload of more than one chunk
/// `timestamp` is below 0xFFFFFF: else each continuation has to repeat it.
pub fn put_full_header(
    out: &mut Vec<u8>,
    csid: u8,
    timestamp: u32,
    type_id: u8,
    msid: u32,
    payload_len: usize,
) {
    out.push(csid & 0x3F);
    out.extend_from_slice(&u24(timestamp.min(EXTENDED)));
    out.extend_from_slice(&u24(payload_len.min(MAX_MESSAGE) as u32));
    out.push(type_id);
    out.extend_from_slice(&msid.to_le_bytes());
    if timestamp >= EXTENDED {
        out.extend_from_slice(&timestamp.to_be_bytes());
    }
}

/// Appends a fmt-1 message: no absolute time and no message stream id, so the same bytes serve every receiver that was
/// given a fmt-0 message on `csid` before.
///
/// `delta` (ms) is below 0xFFFFFF, so that extended time stamps never occur; larger ones are clamped.
pub fn put_delta(out: &mut Vec<u8>, chunk_size: u32, csid: u8, delta: u32, type_id: u8, payload: &[u8]) {
    debug_assert!(delta < EXTENDED, "a delta of {delta} ms needs an extended time stamp");
    let payload = fitting(payload);
    out.reserve(delta_len(chunk_size, payload.len()));
    out.push(0x40 | (csid & 0x3F));
    out.extend_from_slice(&u24(delta.min(EXTENDED - 1)));
    out.extend_from_slice(&u24(payload.len() as u32));
    out.push(type_id);
    put_chunks(out, chunk_size, csid, None, payload);
}

/// Bytes [`put_delta`] appends for a payload of `payload_len` bytes.
pub fn delta_len(chunk_size: u32, payload_len: usize) -> usize {
    8 + total_len(chunk_size, payload_len.min(MAX_MESSAGE), 1)
}

/// Payload with the separators of `separator` bytes between its chunks.
fn total_len(chunk_size: u32, payload_len: usize, separator: usize) -> usize {
    let chunks = payload_len.div_ceil(chunk_size.max(1) as usize).max(1);
    payload_len + (chunks - 1) * separator
}

fn put_chunks(out: &mut Vec<u8>, chunk_size: u32, csid: u8, extended: Option<u32>, payload: &[u8]) {
    for (index, chunk) in payload.chunks(chunk_size.max(1) as usize).enumerate() {
        if index > 0 {
            out.push(0xC0 | (csid & 0x3F));
            if let Some(extended) = extended {
                out.extend_from_slice(&extended.to_be_bytes());
            }
        }
        out.extend_from_slice(chunk);
    }
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
