//! Bytes of a connection → messages: follows chunk headers and `SetChunkSize`, within [`Limits`].

mod record;

use super::header::{self, Header, Held, Kind, Known};
use super::message::{Limits, Message, ReadError};
use crate::message_type;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Chunk size of both directions until a `SetChunkSize` (RTMP 1.0, section 5.4.1), bytes.
pub const DEFAULT_CHUNK_SIZE: u32 = 128;

/// First allocation for a message, bytes. The announced length is only a claim; more is allocated as bytes arrive.
const FIRST_ALLOCATION: usize = 16 << 10;

/// A fmt-3 chunk that starts a message repeats the last delta; after a fmt-0 chunk the specification names that chunk's
/// absolute time as the delta. Senders that mean "same time" exist as well, so a jump of more than this (ms) is read as 0.
const MAX_IMPLIED_DELTA: u32 = 10_000;

/// Inbound half of a connection: reassembles messages from any cut of the byte stream.
///
/// ```text
///            header complete                    chunk complete, message not
/// [header] ──────────────────▶ [payload of a chunk] ──────────────▶ [header]
///                                      │ message complete
///                                      └──────────▶ [header], message returned
/// ```
///
/// It can be put in a [record](crate::record), and depends on nothing beside it: one that was saved, with its partial messages, and
/// reads again what was read since, is where the first one is.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reader {
    #[serde(skip)]
    limits: Limits,
    chunk_size: u32,
    streams: Vec<Stream>,
    /// Bytes of all partial messages.
    #[serde(skip)]
    buffered: usize,
    /// Front of the input, kept because a header was incomplete.
    held: Held,
    /// The chunk whose payload is being read.
    chunk: Option<Chunk>,
    /// Why the last message was left out that was too long.
    left_out: Option<ReadError>,
}

/// State of a chunk stream: what compressed headers refer to, and the message in progress.
#[derive(Debug, Serialize, Deserialize)]
struct Stream {
    csid: u32,
    type_id: u8,
    /// The header's time field was 0xFFFFFF: an extended one follows, in fmt-3 chunks too if the sender keeps to the rule.
    extended: bool,
    in_message: bool,
    msid: u32,
    length: u32,
    timestamp: u32,
    /// Last time field as sent, absolute or delta: what a fmt-3 chunk echoes.
    field: u32,
    /// What a fmt-3 chunk that starts a message adds.
    delta: u32,
    /// Bytes of the message in progress; none if it is left out.
    #[serde(skip)]
    partial: Vec<u8>,
    /// Bytes of the message in progress that have come, whether they are kept or not.
    received: usize,
    /// The message in progress is too long: it is passed over.
    is_left_out: bool,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Chunk {
    /// Index in [`Reader::streams`]; streams are never removed.
    stream: usize,
    remaining: usize,
}

impl Reader {
    /// A reader at the start of a chunk stream, right behind the handshake.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            chunk_size: DEFAULT_CHUNK_SIZE,
            streams: Vec::new(),
            buffered: 0,
            held: Held::default(),
            chunk: None,
            left_out: None,
        }
    }

    /// Consumes from the front of `input`; returns at the first complete message, leaving the rest in `input`, or `None`
    /// when `input` is used up.
    ///
    /// `SetChunkSize` and `Abort` are obeyed and not returned; messages without payload are dropped, and those that are too long, but
    /// for protocol control messages.
    pub fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, ReadError> {
        loop {
            let Some(chunk) = self.chunk else {
                match self.read_header(input)? {
                    Some(header) => self.start_chunk(header)?,
                    None => return Ok(None),
                }
                continue;
            };
            if !self.read_payload(chunk, input)? {
                return Ok(None);
            }
            self.chunk = None;
            if let Some(message) = self.finish_message(chunk.stream)
                && let Some(message) = self.obey(message)?
            {
                return Ok(Some(message));
            }
        }
    }

    /// Takes why a message was left out since the last call: [`ReadError::TooLong`]. Of several the last is told.
    pub fn take_left_out(&mut self) -> Option<ReadError> {
        self.left_out.take()
    }

    /// Whether a message of audio or video is under way: its header has come, and not yet its last byte.
    pub fn is_receiving_media(&self) -> bool {
        self.streams.iter().any(|stream| stream.in_message && !stream.is_left_out && is_media(stream.type_id))
    }

    /// Bytes allocated for partial messages and header state.
    pub(crate) fn allocated(&self) -> usize {
        let partial: usize = self.streams.iter().map(|stream| stream.partial.capacity()).sum();
        partial + self.streams.capacity() * size_of::<Stream>()
    }

    /// The next chunk header, or `None` when the input is too short; its bytes are then held.
    fn read_header(&mut self, input: &mut &[u8]) -> Result<Option<Header>, ReadError> {
        if self.held.is_empty() {
            if let Some(header) = self.parse_header(input)? {
                *input = input.get(header.len..).unwrap_or_default();
                return Ok(Some(header));
            }
        } else if let Some(header) = self.parse_header(self.held.as_slice())? {
            self.held.skip(header.len);
            return Ok(Some(header));
        }
        // Byte by byte, so that nothing behind the header is held but what decides about an echoed time stamp.
        while let Some((&byte, rest)) = input.split_first() {
            self.held.push(byte);
            *input = rest;
            if let Some(header) = self.parse_header(self.held.as_slice())? {
                self.held.skip(header.len);
                return Ok(Some(header));
            }
        }
        Ok(None)
    }

    fn parse_header(&self, bytes: &[u8]) -> Result<Option<Header>, ReadError> {
        header::parse(bytes, |csid| {
            let (index, stream) = self.streams.iter().enumerate().find(|(_, stream)| stream.csid == csid)?;
            Some(Known { index, echo: stream.extended.then_some(stream.field) })
        })
    }

    /// Brings the chunk stream's state up to the header and makes its chunk the current one.
    fn start_chunk(&mut self, header: Header) -> Result<(), ReadError> {
        let index = match header.kind {
            Kind::Continue { stream } => stream,
            Kind::Start { .. } => self.stream_index(header.csid)?,
        };
        let Some(stream) = self.streams.get_mut(index) else { return Ok(()) };
        match header.kind {
            Kind::Continue { .. } if stream.in_message => {}
            Kind::Continue { .. } => {
                stream.timestamp = stream.timestamp.wrapping_add(stream.delta);
                stream.in_message = true;
            }
            Kind::Start { .. } if stream.in_message => {
                return Err(ReadError::MidMessage { csid: header.csid });
            }
            Kind::Start { fmt, field, extended, length, msid } => {
                stream.extended = extended;
                stream.field = field;
                if fmt == 0 {
                    stream.timestamp = field;
                    stream.delta = if field > MAX_IMPLIED_DELTA { 0 } else { field };
                } else {
                    stream.timestamp = stream.timestamp.wrapping_add(field);
                    stream.delta = field;
                }
                if let Some((length, type_id)) = length {
                    stream.length = length;
                    stream.type_id = type_id;
                }
                if let Some(msid) = msid {
                    stream.msid = msid;
                }
                let limit = length_limit(&self.limits, stream.type_id);
                let length = stream.length as usize;
                stream.is_left_out = length > limit;
                if stream.is_left_out {
                    let error = ReadError::TooLong { type_id: stream.type_id, length, limit };
                    if is_control(stream.type_id) {
                        return Err(error);
                    }
                    self.left_out = Some(error);
                }
                stream.in_message = true;
            }
        }
        let remaining = (stream.length as usize - stream.received).min(self.chunk_size as usize);
        self.chunk = Some(Chunk { stream: index, remaining });
        Ok(())
    }

    fn stream_index(&mut self, csid: u32) -> Result<usize, ReadError> {
        if let Some(index) = self.streams.iter().position(|stream| stream.csid == csid) {
            return Ok(index);
        }
        if self.streams.len() >= self.limits.chunk_streams {
            return Err(ReadError::TooManyChunkStreams(self.limits.chunk_streams));
        }
        self.streams.push(Stream::new(csid));
        Ok(self.streams.len() - 1)
    }

    /// Moves payload of `chunk` into its message; `true` when the chunk is complete.
    fn read_payload(&mut self, chunk: Chunk, input: &mut &[u8]) -> Result<bool, ReadError> {
        let Some(stream) = self.streams.get_mut(chunk.stream) else { return Ok(true) };
        let mut remaining = chunk.remaining;
        if !self.held.is_empty() {
            let held = self.held.as_slice();
            let taken = held.get(..remaining).unwrap_or(held);
            self.buffered += stream.append(taken);
            remaining -= taken.len();
            let taken = taken.len();
            self.held.skip(taken);
        }
        let (taken, rest) = input.split_at(remaining.min(input.len()));
        *input = rest;
        self.buffered += stream.append(taken);
        remaining -= taken.len();
        if self.buffered > self.limits.partial {
            return Err(ReadError::TooMuchPartial(self.limits.partial));
        }
        self.chunk = Some(Chunk { remaining, ..chunk });
        Ok(remaining == 0)
    }

    /// The message of a stream whose chunk is complete, unless more chunks are to come, or it is empty or left out.
    fn finish_message(&mut self, index: usize) -> Option<Message> {
        let stream = self.streams.get_mut(index)?;
        if stream.received < stream.length as usize {
            return None;
        }
        stream.in_message = false;
        stream.received = 0;
        let payload = std::mem::take(&mut stream.partial);
        self.buffered -= payload.len();
        if payload.is_empty() {
            return None;
        }
        Some(Message {
            csid: stream.csid,
            type_id: stream.type_id,
            msid: stream.msid,
            timestamp: stream.timestamp,
            payload: Bytes::from(payload),
        })
    }

    /// Obeys messages about the chunk layer itself, passes others on.
    fn obey(&mut self, message: Message) -> Result<Option<Message>, ReadError> {
        if !matches!(message.type_id, message_type::SET_CHUNK_SIZE | message_type::ABORT) {
            return Ok(Some(message));
        }
        let Some(value) = message.payload.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes)) else {
            return Err(ReadError::ShortControl(message.type_id));
        };
        if message.type_id == message_type::ABORT {
            if let Some(stream) = self.streams.iter_mut().find(|stream| stream.csid == value) {
                self.buffered -= stream.partial.len();
                stream.partial = Vec::new();
                stream.received = 0;
                stream.in_message = false;
            }
        } else if value == 0 || value > i32::MAX as u32 {
            return Err(ReadError::ChunkSize(value));
        } else {
            self.chunk_size = value;
        }
        Ok(None)
    }
}

/// The longest message of a type that is taken in, bytes.
fn length_limit(limits: &Limits, type_id: u8) -> usize {
    match type_id {
        type_id if is_media(type_id) => limits.message,
        message_type::DATA | message_type::DATA_AMF3 => limits.data,
        _ => limits.command,
    }
}

fn is_media(type_id: u8) -> bool {
    matches!(type_id, message_type::AUDIO | message_type::VIDEO | message_type::AGGREGATE)
}

/// Whether a message is about the connection itself: without it the rest may not be understood (RTMP 1.0, sections 5.4 and 6.2).
fn is_control(type_id: u8) -> bool {
    matches!(type_id, message_type::SET_CHUNK_SIZE..=message_type::SET_PEER_BANDWIDTH)
}

impl Stream {
    fn new(csid: u32) -> Self {
        Self {
            csid,
            type_id: 0,
            extended: false,
            in_message: false,
            msid: 0,
            length: 0,
            timestamp: 0,
            field: 0,
            delta: 0,
            partial: Vec::new(),
            received: 0,
            is_left_out: false,
        }
    }

    /// Keeps bytes of the message in progress, if it is not left out; how many. Allocates by what has arrived, doubling, and never past
    /// the announced length.
    fn append(&mut self, bytes: &[u8]) -> usize {
        self.received += bytes.len();
        if self.is_left_out {
            return 0;
        }
        let needed = self.partial.len() + bytes.len();
        if needed > self.partial.capacity() {
            let target =
                needed.max(self.partial.capacity() * 2).max(FIRST_ALLOCATION).min(self.length as usize);
            self.partial.reserve_exact(target.max(needed) - self.partial.len());
        }
        self.partial.extend_from_slice(bytes);
        bytes.len()
    }
}
