//! The other side of a connection, for tests.

use crate::amf0::{self, Value};
use crate::chunk::{self, Limits, Message, Reader};
use crate::message_type;
use crate::{client, server};

pub(crate) const HANDSHAKE: usize = 1 + 2 * 1536;

/// C0, C1 and C2 of a client with the simple handshake.
pub(crate) fn simple_handshake() -> Vec<u8> {
    let mut bytes = vec![0; HANDSHAKE];
    bytes[0] = 3;
    bytes
}

/// Reads what a session sends, and shows it as one line per message.
pub(crate) struct Ear {
    reader: Reader,
    /// Bytes of the handshake still to be passed over.
    handshake: usize,
}

impl Ear {
    pub(crate) fn new() -> Self {
        Self { reader: Reader::new(Limits::default()), handshake: HANDSHAKE }
    }

    pub(crate) fn messages(&mut self, output: &mut Vec<u8>) -> Vec<Message> {
        let bytes = std::mem::take(output);
        let skip = self.handshake.min(bytes.len());
        self.handshake -= skip;
        let mut input = &bytes[skip..];
        let mut messages = Vec::new();
        // `SetChunkSize` is obeyed inside the reader; tests see it where its bytes are.
        while !input.is_empty() {
            if let Some(size) = set_chunk_size(input) {
                messages.push(Message {
                    csid: 2,
                    type_id: message_type::SET_CHUNK_SIZE,
                    msid: 0,
                    timestamp: 0,
                    payload: size.to_be_bytes().to_vec().into(),
                });
                let (mut one, rest) = input.split_at(16);
                assert_eq!(self.reader.read(&mut one), Ok(None));
                input = rest;
                continue;
            }
            let message = self.reader.read(&mut input).unwrap();
            messages.push(message.expect("the output ends inside a message"));
        }
        messages
    }

    pub(crate) fn lines(&mut self, output: &mut Vec<u8>) -> Vec<String> {
        self.messages(output).iter().map(line).collect()
    }
}

fn set_chunk_size(input: &[u8]) -> Option<u32> {
    let size = input.strip_prefix(b"\x02\0\0\0\0\0\x04\x01\0\0\0\0")?;
    size.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

fn line(message: &Message) -> String {
    assert_eq!(message.timestamp, 0);
    let number = || message.payload.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
    let control = match message.type_id {
        message_type::SET_CHUNK_SIZE => format!("SetChunkSize {}", number()),
        message_type::ACK => format!("Ack {}", number()),
        message_type::WINDOW_ACK_SIZE => format!("WindowAckSize {}", number()),
        message_type::SET_PEER_BANDWIDTH => format!("SetPeerBandwidth {} {}", number(), message.payload[4]),
        message_type::USER_CONTROL => {
            let (event, value) = crate::link::user_control(message).unwrap();
            format!("UserControl {event} {value}")
        }
        type_id => {
            assert_eq!(message.csid, if type_id == message_type::COMMAND { 3 } else { 6 });
            let values: Vec<_> = amf0::read_all(&message.payload).unwrap().iter().map(show).collect();
            return format!("{}: {}", message.msid, values.join(" "));
        }
    };
    assert_eq!((message.csid, message.msid), (2, 0));
    control
}

fn show(value: &Value) -> String {
    match value {
        Value::Number(number) => number.to_string(),
        Value::Boolean(value) => value.to_string(),
        Value::String(text) => text.clone(),
        Value::Null => "null".into(),
        Value::Undefined => "undefined".into(),
        object => match object.field("code") {
            Some(code) => {
                let level = object.field("level").and_then(Value::as_str).unwrap_or("-");
                format!("{level}/{}", code.as_str().unwrap())
            }
            None => "{}".into(),
        },
    }
}

/// A message in chunks of 128 bytes.
pub(crate) fn message(csid: u8, type_id: u8, msid: u32, timestamp: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    chunk::put_full(&mut out, chunk::DEFAULT_CHUNK_SIZE, csid, timestamp, type_id, msid, payload);
    out
}

pub(crate) fn values(values: &[Value]) -> Vec<u8> {
    let mut out = Vec::new();
    values.iter().for_each(|value| amf0::write(&mut out, value));
    out
}

pub(crate) fn command(csid: u8, msid: u32, name: &str, transaction: f64, arguments: &[Value]) -> Vec<u8> {
    let payload = [values(&[name.into(), transaction.into()]), values(arguments)].concat();
    message(csid, message_type::COMMAND, msid, 0, &payload)
}

pub(crate) fn control(type_id: u8, value: u32) -> Vec<u8> {
    message(2, type_id, 0, 0, &value.to_be_bytes())
}

pub(crate) fn user_control(event: u16, rest: &[u8]) -> Vec<u8> {
    message(2, message_type::USER_CONTROL, 0, 0, &[&event.to_be_bytes(), rest].concat())
}

/// The session, by way of a record, in another process.
pub(crate) fn moved_server(session: &server::Session) -> server::Session {
    let record = postcard::to_stdvec(session).unwrap();
    let mut moved: server::Session = postcard::from_bytes(&record).unwrap();
    moved.check(server::Config::default()).unwrap();
    assert!(moved.restore_partials(&partials(session.reader())));
    assert_eq!(postcard::to_stdvec(&moved).unwrap(), record);
    moved
}

/// The same, where there is a record of it.
pub(crate) fn moved_client(session: &client::Session, config: client::Config) -> Option<client::Session> {
    let record = postcard::to_stdvec(session).ok()?;
    let mut moved: client::Session = postcard::from_bytes(&record).unwrap();
    moved.check(config).unwrap();
    assert!(moved.restore_partials(&partials(session.reader())));
    assert_eq!(postcard::to_stdvec(&moved).unwrap(), record);
    Some(moved)
}

fn partials(reader: &Reader) -> Vec<u8> {
    reader.partials().collect::<Vec<_>>().concat()
}
