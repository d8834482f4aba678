//! Bytes → values, bounded in depth and in number.

use super::marker;
use super::value::Value;

/// Deepest nesting that is read. Metadata uses 3; each level costs stack.
pub const MAX_DEPTH: usize = 32;

/// Most values read from one message. Metadata with a seek index uses some hundreds; each costs 56 bytes of memory for as
/// little as one on the wire.
pub const MAX_VALUES: usize = 4096;

/// Not readable as AMF0 within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Amf0Error {
    /// A value is longer than the input.
    #[error("AMF0: truncated")]
    Truncated,
    /// A marker nobody sends, or the switch to AMF3.
    #[error("AMF0: unknown marker {0:#04x}")]
    Marker(u8),
    /// See [`MAX_DEPTH`].
    #[error("AMF0: nested deeper than {MAX_DEPTH}")]
    TooDeep,
    /// See [`MAX_VALUES`].
    #[error("AMF0: more than {MAX_VALUES} values")]
    TooMany,
}

/// All values of `input`, which holds nothing else.
pub fn read_all(input: &[u8]) -> Result<Vec<Value>, Amf0Error> {
    match read_prefix(input) {
        (values, None) => Ok(values),
        (_, Some(error)) => Err(error),
    }
}

/// The values of `input` up to the first that cannot be read, and why it could not. For commands, whose first values
/// decide and whose extra arguments may be anything.
pub fn read_prefix(input: &[u8]) -> (Vec<Value>, Option<Amf0Error>) {
    let mut reader = Reader { input, values: 0 };
    let mut values = Vec::new();
    while !reader.input.is_empty() {
        match reader.value(0) {
            Ok(value) => values.push(value),
            Err(error) => return (values, Some(error)),
        }
    }
    (values, None)
}

/// The string `input` begins with, as raw bytes, and what follows it.
pub(crate) fn leading_string(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader { input, values: 0 };
    let text = match reader.u8().ok()? {
        marker::STRING => reader.short_bytes().ok()?,
        marker::LONG_STRING => reader.long_bytes().ok()?,
        _ => return None,
    };
    Some((text, reader.input))
}

/// The text `input` begins with where no marker stands before it, as before the value of a property, and what follows it.
pub(crate) fn short_text(input: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut reader = Reader { input, values: 0 };
    let text = reader.short_bytes().ok()?;
    Some((text, reader.input))
}

struct Reader<'a> {
    input: &'a [u8],
    values: usize,
}

impl<'a> Reader<'a> {
    /// Recursion is bounded by [`MAX_DEPTH`].
    fn value(&mut self, depth: usize) -> Result<Value, Amf0Error> {
        if depth > MAX_DEPTH {
            return Err(Amf0Error::TooDeep);
        }
        self.values += 1;
        if self.values > MAX_VALUES {
            return Err(Amf0Error::TooMany);
        }
        Ok(match self.u8()? {
            marker::NUMBER => Value::Number(self.f64()?),
            marker::BOOLEAN => Value::Boolean(self.u8()? != 0),
            marker::STRING => Value::String(text(self.short_bytes()?)),
            marker::OBJECT => Value::Object(self.fields(depth, false)?),
            marker::NULL => Value::Null,
            marker::UNDEFINED => Value::Undefined,
            marker::REFERENCE => Value::Reference(self.u16()?),
            marker::ECMA_ARRAY => {
                self.u32()?;
                Value::EcmaArray(self.fields(depth, true)?)
            }
            marker::STRICT_ARRAY => {
                let count = self.u32()?;
                let mut items = Vec::new();
                for _ in 0..count {
                    items.push(self.value(depth + 1)?);
                }
                Value::StrictArray(items)
            }
            marker::DATE => Value::Date(self.f64()?, self.u16()?.cast_signed()),
            marker::LONG_STRING => Value::String(text(self.long_bytes()?)),
            marker::UNSUPPORTED => Value::Unsupported,
            marker::XML => Value::Xml(text(self.long_bytes()?)),
            marker::TYPED_OBJECT => {
                let class = text(self.short_bytes()?);
                Value::TypedObject(class, self.fields(depth, false)?)
            }
            other => return Err(Amf0Error::Marker(other)),
        })
    }

    fn fields(&mut self, depth: usize, may_lack_end: bool) -> Result<Vec<(String, Value)>, Amf0Error> {
        let mut fields = Vec::new();
        loop {
            if may_lack_end && self.input.is_empty() {
                return Ok(fields);
            }
            let name = self.short_bytes()?;
            if name.is_empty() && self.input.first() == Some(&marker::OBJECT_END) {
                self.take(1)?;
                return Ok(fields);
            }
            fields.push((text(name), self.value(depth + 1)?));
        }
    }

    fn short_bytes(&mut self) -> Result<&'a [u8], Amf0Error> {
        let len = self.u16()?;
        self.take(len as usize)
    }

    fn long_bytes(&mut self) -> Result<&'a [u8], Amf0Error> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], Amf0Error> {
        let (taken, rest) = self.input.split_at_checked(len).ok_or(Amf0Error::Truncated)?;
        self.input = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Amf0Error> {
        let (taken, rest) = self.input.split_first_chunk::<N>().ok_or(Amf0Error::Truncated)?;
        self.input = rest;
        Ok(*taken)
    }

    fn u8(&mut self) -> Result<u8, Amf0Error> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Amf0Error> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Amf0Error> {
        self.array().map(u32::from_be_bytes)
    }

    fn f64(&mut self) -> Result<f64, Amf0Error> {
        self.array().map(f64::from_be_bytes)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
