//! What both sides of a connection share behind the handshake: reading messages with the duties of a receiver
//! (acknowledge, answer pings), and writing control messages and commands.

use crate::amf0::{self, Value};
use crate::chunk::{self, Limits, Message, ReadError, Reader};
use crate::media::strip_amf3;
use crate::message_type;
use crate::record::{RecordError, ensure};
use crate::wire::{WINDOW, csid};
use serde::{Deserialize, Serialize};

/// Fewest bytes between two acknowledgements: a window of 0 or 1 would make us answer every read.
const MIN_ACK_INTERVAL: u64 = 1024;

/// An output buffer that is empty and larger than this is given back, so that a connection that merely watches costs
/// little. Bytes.
const KEPT_OUTPUT: usize = 256;

/// What may stand behind a full output, bytes: answers to one more message, and to what the caller does with all message streams.
const MAX_REPLIES: usize = 64 << 10;

/// No connection lasts for so many bytes: they are counted without overflow.
const MAX_RECEIVED: u64 = 1 << 60;

/// User control events (RTMP 1.0, section 7.1.7).
pub(crate) mod user_control {
    pub(crate) const STREAM_BEGIN: u16 = 0;
    pub(crate) const STREAM_EOF: u16 = 1;
    pub(crate) const SET_BUFFER_LENGTH: u16 = 3;
    pub(crate) const PING: u16 = 6;
    pub(crate) const PONG: u16 = 7;
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Link {
    pub(crate) reader: Reader,
    pub(crate) output: Output,
    /// Bytes consumed, handshake included.
    received: u64,
    /// Value of `received` at the last acknowledgement.
    acknowledged: u64,
    /// Announced by the peer, bytes.
    window: u32,
}

impl Link {
    pub(crate) fn new(limits: Limits) -> Self {
        Self {
            reader: Reader::new(limits),
            output: Output { bytes: Vec::new(), chunk_size: chunk::DEFAULT_CHUNK_SIZE },
            received: 0,
            acknowledged: 0,
            window: WINDOW,
        }
    }

    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Counts bytes that did not go through [`Link::read`].
    pub(crate) fn count(&mut self, bytes: usize) {
        self.received += bytes as u64;
    }

    /// See [`Reader::take_left_out`].
    pub(crate) fn take_left_out(&mut self) -> Option<ReadError> {
        self.reader.take_left_out()
    }

    /// See [`Reader::is_receiving_media`].
    pub(crate) fn is_receiving_media(&self) -> bool {
        self.reader.is_receiving_media()
    }

    /// See [`Reader::check`]. `max_output` is how many bytes of output may wait.
    pub(crate) fn check(&mut self, limits: Limits, max_output: usize) -> Result<(), RecordError> {
        self.reader.check(limits)?;
        ensure(self.received <= MAX_RECEIVED && self.acknowledged <= self.received, "bytes received")?;
        ensure(self.output.bytes.len() <= max_output + MAX_REPLIES, "output")?;
        ensure((1..=i32::MAX as u32).contains(&self.output.chunk_size), "chunk size of the output")
    }

    /// Bytes on the heap.
    pub(crate) fn held(&self) -> usize {
        self.reader.allocated() + self.output.bytes.capacity()
    }

    /// The next message that is not about the link itself, or `None` when `input` is used up.
    pub(crate) fn read(&mut self, input: &mut &[u8]) -> Result<Option<Message>, ReadError> {
        loop {
            let before = input.len();
            let read = self.reader.read(input);
            self.count(before - input.len());
            let message = read?;
            self.acknowledge();
            match message {
                None => return Ok(None),
                Some(message) => {
                    if !self.obey(&message) {
                        return Ok(Some(message));
                    }
                }
            }
        }
    }

    /// Total received modulo 2^32, twice per window (RTMP 1.0, section 5.4.3).
    fn acknowledge(&mut self) {
        if self.received - self.acknowledged >= u64::from(self.window / 2).max(MIN_ACK_INTERVAL) {
            self.acknowledged = self.received;
            self.output.control(message_type::ACK, &(self.received as u32).to_be_bytes());
        }
    }

    fn obey(&mut self, message: &Message) -> bool {
        match message.type_id {
            message_type::WINDOW_ACK_SIZE => {
                let window = message.payload.first_chunk().map(|bytes| u32::from_be_bytes(*bytes));
                self.window = window.filter(|&window| window > 0).unwrap_or(self.window);
                true
            }
            message_type::USER_CONTROL => match user_control(message) {
                Some((user_control::PING, timestamp)) => {
                    self.output.user_control(user_control::PONG, timestamp);
                    true
                }
                _ => false,
            },
            _ => false,
        }
    }
}

/// Event and first value of a user control message; `None` when it is too short for both.
pub(crate) fn user_control(message: &Message) -> Option<(u16, u32)> {
    let &[e1, e0, a, b, c, d] = message.payload.first_chunk::<6>()?;
    Some((u16::from_be_bytes([e1, e0]), u32::from_be_bytes([a, b, c, d])))
}

/// A command message, as far as it could be read.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: String,
    /// Transaction id; 0 when no answer is expected.
    pub(crate) transaction: f64,
    /// Command object first, arguments behind it.
    pub(crate) values: Vec<Value>,
}

impl Command {
    /// `None` when not even the name is readable.
    pub(crate) fn read(message: &Message) -> Option<Self> {
        let (values, _) = amf0::read_prefix(&strip_amf3(&message.payload));
        let mut values = values.into_iter();
        let Some(Value::String(name)) = values.next() else { return None };
        let transaction = values.next().and_then(|value| value.as_number()).unwrap_or_default();
        Some(Self { name, transaction, values: values.collect() })
    }

    /// Value `index`: 0 is the command object.
    pub(crate) fn value(&self, index: usize) -> Option<&Value> {
        self.values.get(index)
    }
}

/// Data in AMF3 as the same in AMF0.
pub(crate) fn without_amf3(mut message: Message) -> Message {
    if message.type_id == message_type::DATA_AMF3 {
        message.type_id = message_type::DATA;
        message.payload = strip_amf3(&message.payload);
    }
    message
}

/// Bytes to be sent. Every message is written whole, fmt 0, time stamp 0.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Output {
    pub(crate) bytes: Vec<u8>,
    pub(crate) chunk_size: u32,
}

impl Output {
    /// Announces the chunk size and uses it from here on.
    pub(crate) fn set_chunk_size(&mut self, chunk_size: u32) {
        self.control(message_type::SET_CHUNK_SIZE, &chunk_size.to_be_bytes());
        self.chunk_size = chunk_size;
    }

    pub(crate) fn control(&mut self, type_id: u8, payload: &[u8]) {
        chunk::put_full(&mut self.bytes, self.chunk_size, csid::CONTROL, 0, type_id, 0, payload);
    }

    pub(crate) fn user_control(&mut self, event: u16, value: u32) {
        let [e1, e0] = event.to_be_bytes();
        let [a, b, c, d] = value.to_be_bytes();
        self.control(message_type::USER_CONTROL, &[e1, e0, a, b, c, d]);
    }

    pub(crate) fn command(&mut self, msid: u32, name: &str, transaction: f64, values: &[Value]) {
        let mut payload = Vec::new();
        amf0::write_str(&mut payload, name);
        amf0::write(&mut payload, &Value::Number(transaction));
        values.iter().for_each(|value| amf0::write(&mut payload, value));
        chunk::put_full(
            &mut self.bytes,
            self.chunk_size,
            csid::COMMAND,
            0,
            message_type::COMMAND,
            msid,
            &payload,
        );
    }

    pub(crate) fn data(&mut self, msid: u32, values: &[Value]) {
        let mut payload = Vec::new();
        values.iter().for_each(|value| amf0::write(&mut payload, value));
        chunk::put_full(
            &mut self.bytes,
            self.chunk_size,
            csid::COMMAND_DATA,
            0,
            message_type::DATA,
            msid,
            &payload,
        );
    }

    /// Gives the memory of a past burst of replies back.
    pub(crate) fn shrink(&mut self) {
        if self.bytes.is_empty() && self.bytes.capacity() > KEPT_OUTPUT {
            self.bytes = Vec::new();
        }
    }
}

/// An AMF0 object of named values.
pub(crate) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    Value::Object(fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
