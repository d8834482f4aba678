//! Follows the messages of a chunk stream without keeping their payload (RTMP 1.0, section 5.3).
//!
//! A player of a load test has to know when messages end, of which kind they are and which time they carry; the payload
//! itself is passed over where it lies in the read buffer. Written apart from [`rtmp::chunk`], which serves servers: tests
//! hold one against the other.

use rtmp::{flv, message_type};

use crate::stamp;

/// The longest chunk header: basic header 3, message header 11, extended time stamp 4 bytes.
const MAX_HEADER: usize = 18;
/// Value of the 24-bit time field that announces an extended one.
const EXTENDED: u32 = 0xFF_FFFF;
/// Chunk streams with header state. Servers use fewer than 10.
const MAX_LANES: usize = 64;
/// Bytes kept of a command: `onStatus` with its code has below 500.
const COMMAND_HEAD: usize = 1024;
/// Bytes kept of protocol control and user control messages; all are shorter.
const CONTROL_HEAD: usize = 16;
/// A message that begins with a fmt-3 header adds the last delta; behind a fmt-0 header that is its absolute time, which
/// many senders do not mean: a larger one than this (ms) counts as 0.
const MAX_IMPLIED_DELTA: u32 = 10_000;

/// The bytes are no chunk stream any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// A compressed header without an earlier one to refer to.
    #[error("broken RTMP: chunk stream {0} begins with a compressed header")]
    NoHeader(u32),
    /// A new message begins inside another of the same chunk stream.
    #[error("broken RTMP: a message begins inside another one on chunk stream {0}")]
    MidMessage(u32),
    /// More than 64 chunk streams.
    #[error("broken RTMP: more than {MAX_LANES} chunk streams")]
    TooManyChunkStreams,
    /// A chunk size of 0 or beyond 2^31.
    #[error("broken RTMP: chunk size {0}")]
    ChunkSize(u32),
}

/// A message whose last byte has arrived.
#[derive(Debug, PartialEq, Eq)]
pub struct Scanned<'a> {
    /// See [`rtmp::message_type`].
    pub type_id: u8,
    /// Absolute time, milliseconds modulo 2^32.
    pub timestamp: u32,
    /// Bytes of payload; never 0.
    pub length: u32,
    /// The front of the payload: of video enough for its kind and a stamp, of audio its kind, of commands and control all
    /// that matters, of other types nothing.
    pub head: &'a [u8],
}

/// The inbound half of a player's connection, behind the handshake.
#[derive(Debug)]
pub struct Scanner {
    chunk_size: u32,
    lanes: Vec<Lane>,
    /// Front of the input, kept while it is too short for a header.
    held: Held,
    chunk: Option<Chunk>,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    /// Index in [`Scanner::lanes`].
    lane: usize,
    remaining: u32,
}

/// A chunk stream: what compressed headers refer to, and how much of its message has arrived.
#[derive(Debug)]
struct Lane {
    csid: u32,
    type_id: u8,
    extended: bool,
    in_message: bool,
    length: u32,
    arrived: u32,
    timestamp: u32,
    /// Time field as sent: what continuations repeat when it is extended.
    field: u32,
    delta: u32,
    head: Vec<u8>,
}

#[derive(Debug, Default)]
struct Held {
    bytes: [u8; MAX_HEADER],
    len: usize,
}

/// A chunk header and the bytes it takes.
struct Header {
    size: usize,
    csid: u32,
    /// Time field, and length and type unless fmt 2; `None` for fmt 3.
    start: Option<Start>,
}

struct Start {
    absolute: bool,
    field: u32,
    extended: bool,
    body: Option<(u32, u8)>,
}

impl Default for Scanner {
    fn default() -> Self {
        Self {
            chunk_size: rtmp::chunk::DEFAULT_CHUNK_SIZE,
            lanes: Vec::new(),
            held: Held::default(),
            chunk: None,
        }
    }
}

impl Scanner {
    /// Consumes from the front of `input` up to the end of a message; `None` when `input` is used up.
    ///
    /// `SetChunkSize` and `Abort` are obeyed, and returned like all others.
    ///
    /// # Errors
    /// When the bytes are no chunk stream; nothing that follows could be told.
    pub fn next(&mut self, input: &mut &[u8]) -> Result<Option<Scanned<'_>>, ScanError> {
        let lane = loop {
            let chunk = match self.chunk {
                Some(chunk) => chunk,
                None => match self.next_header(input)? {
                    Some(header) => self.start_chunk(&header)?,
                    None => return Ok(None),
                },
            };
            if !self.pass(chunk, input) {
                return Ok(None);
            }
            self.chunk = None;
            if self.finish_message(chunk.lane)? {
                break chunk.lane;
            }
        };
        Ok(self.lanes.get(lane).map(|lane| Scanned {
            type_id: lane.type_id,
            timestamp: lane.timestamp,
            length: lane.length,
            head: &lane.head,
        }))
    }

    fn next_header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, ScanError> {
        if self.held.len == 0 {
            if let Some(header) = self.parse(input)? {
                *input = input.get(header.size..).unwrap_or_default();
                return Ok(Some(header));
            }
        } else if let Some(header) = self.parse(self.held.as_slice())? {
            self.held.drop_front(header.size);
            return Ok(Some(header));
        }
        while let Some((&byte, rest)) = input.split_first() {
            *input = rest;
            self.held.push(byte);
            if let Some(header) = self.parse(self.held.as_slice())? {
                self.held.drop_front(header.size);
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    /// `None`: too short.
    fn parse(&self, bytes: &[u8]) -> Result<Option<Header>, ScanError> {
        let Some((&first, rest)) = bytes.split_first() else { return Ok(None) };
        let (fmt, short) = (first >> 6, first & 0x3F);
        let (basic, csid) = match (short, rest) {
            (0, &[a, ..]) => (2, 64 + u32::from(a)),
            (1, &[a, b, ..]) => (3, 64 + u32::from(a) + 256 * u32::from(b)),
            (0 | 1, _) => return Ok(None),
            _ => (1, u32::from(short)),
        };
        let known = self.lanes.iter().find(|lane| lane.csid == csid);
        // librtmp sends its first ping reply as fmt 1.
        if fmt > 1 && known.is_none() {
            return Err(ScanError::NoHeader(csid));
        }
        let rest = bytes.get(basic..).unwrap_or_default();
        let Some(message_header) = [11, 7, 3, 0].get(usize::from(fmt)).copied() else { return Ok(None) };
        if fmt == 3 {
            let echo = known.filter(|lane| lane.extended).map(|lane| lane.field.to_be_bytes());
            let size = match echo {
                // Some senders leave it out: only the expected bytes count as one.
                Some(echo) if rest.starts_with(&echo) => basic + echo.len(),
                Some(echo) if echo.starts_with(rest) => return Ok(None),
                _ => basic,
            };
            return Ok(Some(Header { size, csid, start: None }));
        }
        let (Some(field), true) = (u24(rest), rest.len() >= message_header) else { return Ok(None) };
        let body = rest.get(3..).and_then(u24).zip(rest.get(6).copied()).filter(|_| fmt < 2);
        let extended = field == EXTENDED;
        let mut size = basic + message_header;
        let mut start = Start { absolute: fmt == 0, field, extended, body };
        if extended {
            let Some(&field) = rest.get(message_header..).and_then(|rest| rest.first_chunk()) else {
                return Ok(None);
            };
            start.field = u32::from_be_bytes(field);
            size += 4;
        }
        Ok(Some(Header { size, csid, start: Some(start) }))
    }

    fn start_chunk(&mut self, header: &Header) -> Result<Chunk, ScanError> {
        let index = match self.lanes.iter().position(|lane| lane.csid == header.csid) {
            Some(index) => index,
            None if self.lanes.len() == MAX_LANES => return Err(ScanError::TooManyChunkStreams),
            None => {
                self.lanes.push(Lane::new(header.csid));
                self.lanes.len() - 1
            }
        };
        let chunk_size = self.chunk_size;
        let remaining = match self.lanes.get_mut(index) {
            Some(lane) => lane.start_chunk(header)?.min(chunk_size),
            None => 0,
        };
        Ok(Chunk { lane: index, remaining })
    }

    /// Passes over the payload of `chunk`; `true` at its end.
    fn pass(&mut self, mut chunk: Chunk, input: &mut &[u8]) -> bool {
        let Some(lane) = self.lanes.get_mut(chunk.lane) else { return true };
        let held = self.held.as_slice();
        let held = held.get(..chunk.remaining as usize).unwrap_or(held);
        chunk.remaining -= lane.pass(held);
        let taken = held.len();
        self.held.drop_front(taken);
        let (payload, rest) = input.split_at(input.len().min(chunk.remaining as usize));
        chunk.remaining -= lane.pass(payload);
        *input = rest;
        self.chunk = Some(chunk);
        chunk.remaining == 0
    }

    /// `true` when the message of `lane` is complete and has a payload.
    fn finish_message(&mut self, lane: usize) -> Result<bool, ScanError> {
        let Some(lane) = self.lanes.get_mut(lane) else { return Ok(false) };
        if lane.arrived < lane.length {
            return Ok(false);
        }
        lane.in_message = false;
        if lane.length == 0 {
            return Ok(false);
        }
        let value = lane.head.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
        match (lane.type_id, value) {
            (message_type::SET_CHUNK_SIZE, Some(size)) => {
                if size == 0 || size > i32::MAX as u32 {
                    return Err(ScanError::ChunkSize(size));
                }
                self.chunk_size = size;
            }
            (message_type::ABORT, Some(csid)) => {
                if let Some(lane) = self.lanes.iter_mut().find(|lane| lane.csid == csid) {
                    lane.in_message = false;
                }
            }
            _ => {}
        }
        Ok(true)
    }
}

impl Lane {
    fn new(csid: u32) -> Self {
        Self {
            csid,
            type_id: 0,
            extended: false,
            in_message: false,
            length: 0,
            arrived: 0,
            timestamp: 0,
            field: 0,
            delta: 0,
            head: Vec::new(),
        }
    }

    /// Bytes the message still lacks.
    fn start_chunk(&mut self, header: &Header) -> Result<u32, ScanError> {
        match (&header.start, self.in_message) {
            (None, true) => return Ok(self.length - self.arrived),
            (Some(_), true) => return Err(ScanError::MidMessage(self.csid)),
            (None, false) => {}
            (Some(start), false) => {
                self.field = start.field;
                self.extended = start.extended;
                if let Some((length, type_id)) = start.body {
                    self.length = length;
                    self.type_id = type_id;
                }
                self.delta = start.field;
                if start.absolute {
                    self.timestamp = 0;
                }
            }
        }
        self.timestamp = self.timestamp.wrapping_add(self.delta);
        if header.start.as_ref().is_some_and(|start| start.absolute) && self.delta > MAX_IMPLIED_DELTA {
            self.delta = 0;
        }
        self.in_message = true;
        self.arrived = 0;
        self.head.clear();
        Ok(self.length)
    }

    /// Counts `payload`, keeps what belongs to the head; returns its length.
    fn pass(&mut self, payload: &[u8]) -> u32 {
        let room = head_size(self.type_id) - self.head.len().min(head_size(self.type_id));
        if room > 0 {
            self.head.extend_from_slice(payload.get(..room).unwrap_or(payload));
        }
        // A chunk's payload never passes the announced length, which has 24 bits.
        self.arrived += payload.len() as u32;
        payload.len() as u32
    }
}

impl Held {
    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }

    /// There is room: 18 bytes always hold a header.
    fn push(&mut self, byte: u8) {
        if let Some(slot) = self.bytes.get_mut(self.len) {
            *slot = byte;
            self.len += 1;
        }
    }

    fn drop_front(&mut self, count: usize) {
        let count = count.min(self.len);
        self.bytes.copy_within(count..self.len, 0);
        self.len -= count;
    }
}

fn head_size(type_id: u8) -> usize {
    match type_id {
        message_type::VIDEO => stamp::HEAD,
        message_type::COMMAND | message_type::COMMAND_AMF3 => COMMAND_HEAD,
        message_type::AGGREGATE => flv::TAG_HEADER + stamp::HEAD,
        message_type::DATA | message_type::DATA_AMF3 => 0,
        _ => CONTROL_HEAD,
    }
}

fn u24(bytes: &[u8]) -> Option<u32> {
    bytes.first_chunk().map(|&[a, b, c]| u32::from_be_bytes([0, a, b, c]))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rtmp::chunk::{self, Limits, Reader};

    type Seen = (u8, u32, u32, Vec<u8>);

    fn scan(scanner: &mut Scanner, mut input: &[u8], seen: &mut Vec<Seen>) -> Result<(), ScanError> {
        while let Some(message) = scanner.next(&mut input)? {
            seen.push((message.type_id, message.timestamp, message.length, message.head.to_vec()));
        }
        assert!(input.is_empty());
        Ok(())
    }

    fn scan_all(bytes: &[u8], cut: usize) -> Vec<Seen> {
        let (mut scanner, mut seen) = (Scanner::default(), Vec::new());
        bytes.chunks(cut).for_each(|part| scan(&mut scanner, part, &mut seen).unwrap());
        seen
    }

    /// What `rtmp`'s own reader makes of the same bytes.
    fn read_all(mut bytes: &[u8]) -> Vec<Seen> {
        let (mut reader, mut seen) = (Reader::new(Limits::default()), Vec::new());
        while let Some(message) = reader.read(&mut bytes).unwrap() {
            let head = message.payload[..message.payload.len().min(head_size(message.type_id))].to_vec();
            seen.push((message.type_id, message.timestamp, message.payload.len() as u32, head));
        }
        seen
    }

    fn set_chunk_size(size: u32) -> Vec<u8> {
        let mut out = Vec::new();
        chunk::put_full(&mut out, 128, 2, 0, message_type::SET_CHUNK_SIZE, 0, &size.to_be_bytes());
        out
    }

    #[derive(Debug, Clone)]
    struct Written {
        csid: u8,
        delta: Option<u32>,
        timestamp: u32,
        type_id: u8,
        payload: Vec<u8>,
    }

    fn written() -> impl Strategy<Value = Written> {
        let timestamp = prop_oneof![0..100_000u32, EXTENDED - 2..EXTENDED + 2, any::<u32>()];
        let type_id = prop_oneof![Just(8u8), Just(9), Just(18), Just(20)];
        let payload =
            prop_oneof![prop::collection::vec(any::<u8>(), 0..40), prop::collection::vec(0u8..4, 100..400)];
        (4u8..7, prop::option::of(0..2000u32), timestamp, type_id, payload).prop_map(
            |(csid, delta, timestamp, type_id, payload)| Written { csid, delta, timestamp, type_id, payload },
        )
    }

    proptest! {
        #[test]
        fn any_cut_of_any_chunk_size_reads_like_the_reader(
            messages in prop::collection::vec(written(), 1..12),
            chunk_size in prop_oneof![1..9u32, Just(128), Just(4096), Just(60_000)],
            cut in prop_oneof![1..8usize, Just(100), Just(100_000)],
        ) {
            let mut bytes = set_chunk_size(chunk_size);
            let mut started = [false; 8];
            for Written { csid, delta, timestamp, type_id, payload } in &messages {
                let known = std::mem::replace(&mut started[usize::from(*csid)], true);
                match delta.filter(|_| known) {
                    Some(delta) => chunk::put_delta(&mut bytes, chunk_size, *csid, delta, *type_id, payload),
                    None => chunk::put_full(&mut bytes, chunk_size, *csid, *timestamp, *type_id, 1, payload),
                }
            }
            let seen = scan_all(&bytes, cut);
            prop_assert_eq!(&seen[0], &(1, 0, 4, chunk_size.to_be_bytes().to_vec()));
            prop_assert_eq!(&seen[1..], &read_all(&bytes)[..]);
        }

        #[test]
        fn no_input_makes_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), cut in 1usize..50) {
            let (mut scanner, mut seen) = (Scanner::default(), Vec::new());
            for part in bytes.chunks(cut) {
                let mut input = part;
                while let Ok(Some(message)) = scanner.next(&mut input) {
                    seen.push(message.length);
                }
            }
        }
    }

    #[test]
    fn all_four_header_formats_carry_time_and_length_on() {
        let bytes = [
            &b"\x04\0\0\x64\0\0\x02\x09\x01\0\0\0ab"[..],
            b"\x44\0\0\x28\0\0\x01\x09c",
            b"\x84\0\0\x14d",
            b"\xC4e",
        ]
        .concat();
        let times: Vec<_> =
            scan_all(&bytes, 1).into_iter().map(|(_, time, length, _)| (time, length)).collect();
        assert_eq!(times, [(100, 2), (140, 1), (160, 1), (180, 1)]);
    }

    #[test]
    fn messages_on_different_chunk_streams_may_interleave() {
        let mut bytes = set_chunk_size(2);
        bytes.extend_from_slice(b"\x06\0\0\x0A\0\0\x03\x09\x01\0\0\0ab");
        bytes.extend_from_slice(b"\x05\0\0\x0B\0\0\x01\x08\x01\0\0\0x");
        bytes.extend_from_slice(b"\xC6c");
        let seen = scan_all(&bytes, 3);
        assert_eq!(seen[1..], [(8, 11, 1, b"x".to_vec()), (9, 10, 3, b"abc".to_vec())]);
    }

    #[test]
    fn a_continuation_may_lack_the_extended_time() {
        let mut bytes = set_chunk_size(2);
        bytes.extend_from_slice(b"\x06\xFF\xFF\xFF\0\0\x03\x09\x01\0\0\0\x01\0\0\0ab\xC6c");
        bytes.extend_from_slice(b"\x05\0\0\x0B\0\0\x01\x08\x01\0\0\0x");
        for cut in 1..20 {
            let seen = scan_all(&bytes, cut);
            assert_eq!(seen[1..], [(9, 0x0100_0000, 3, b"abc".to_vec()), (8, 11, 1, b"x".to_vec())], "{cut}");
        }
    }

    #[test]
    fn chunk_stream_ids_have_one_to_three_bytes() {
        let bytes =
            b"\x00\x05\0\0\x01\0\0\x01\x08\0\0\0\0x\xC0\x05y\x01\x05\x01\0\0\x01\0\0\x01\x08\0\0\0\0z";
        assert_eq!(scan_all(bytes, 1).len(), 3);
    }

    #[test]
    fn what_is_no_chunk_stream_is_an_error() {
        let error = |bytes: &[u8]| scan(&mut Scanner::default(), bytes, &mut Vec::new()).unwrap_err();
        assert_eq!(error(b"\xC4"), ScanError::NoHeader(4));
        assert_eq!(error(b"\x84\0\0\0"), ScanError::NoHeader(4));
        assert_eq!(error(&set_chunk_size(0)), ScanError::ChunkSize(0));
        let mut mid = set_chunk_size(1);
        mid.extend_from_slice(b"\x04\0\0\0\0\0\x02\x08\0\0\0\0a\x04\0\0\0\0\0\x02\x08\0\0\0\0a");
        assert_eq!(error(&mid), ScanError::MidMessage(4));
    }
}
