//! Values → bytes.

use super::marker;
use super::value::Value;

/// Appends `value`. Property and class names beyond 65535 bytes are cut: the wire cannot carry them.
pub fn write(out: &mut Vec<u8>, value: &Value) {
    match value {
        Value::Number(number) => {
            out.push(marker::NUMBER);
            out.extend_from_slice(&number.to_be_bytes());
        }
        Value::Boolean(value) => out.extend_from_slice(&[marker::BOOLEAN, u8::from(*value)]),
        Value::String(text) => write_str(out, text),
        Value::Object(fields) => {
            out.push(marker::OBJECT);
            put_fields(out, fields);
        }
        Value::Null => out.push(marker::NULL),
        Value::Undefined => out.push(marker::UNDEFINED),
        Value::Reference(index) => {
            out.push(marker::REFERENCE);
            out.extend_from_slice(&index.to_be_bytes());
        }
        Value::EcmaArray(fields) => {
            out.push(marker::ECMA_ARRAY);
            put_len(out, fields.len());
            put_fields(out, fields);
        }
        Value::StrictArray(items) => {
            out.push(marker::STRICT_ARRAY);
            put_len(out, items.len());
            for item in items {
                write(out, item);
            }
        }
        Value::Date(time, zone) => {
            out.push(marker::DATE);
            out.extend_from_slice(&time.to_be_bytes());
            out.extend_from_slice(&zone.to_be_bytes());
        }
        Value::Unsupported => out.push(marker::UNSUPPORTED),
        Value::Xml(text) => {
            out.push(marker::XML);
            put_len(out, text.len());
            out.extend_from_slice(text.as_bytes());
        }
        Value::TypedObject(class, fields) => {
            out.push(marker::TYPED_OBJECT);
            put_name(out, class);
            put_fields(out, fields);
        }
    }
}

/// Appends a string: the same as [`write()`] of a [`Value::String`].
pub fn write_str(out: &mut Vec<u8>, text: &str) {
    if let Ok(len) = u16::try_from(text.len()) {
        out.push(marker::STRING);
        out.extend_from_slice(&len.to_be_bytes());
    } else {
        out.push(marker::LONG_STRING);
        put_len(out, text.len());
    }
    out.extend_from_slice(text.as_bytes());
}

fn put_fields(out: &mut Vec<u8>, fields: &[(String, Value)]) {
    for (name, value) in fields {
        put_name(out, name);
        write(out, value);
    }
    out.extend_from_slice(&[0, 0, marker::OBJECT_END]);
}

fn put_name(out: &mut Vec<u8>, name: &str) {
    let mut len = name.len().min(u16::MAX.into());
    while !name.is_char_boundary(len) {
        len -= 1;
    }
    out.extend_from_slice(&(len as u16).to_be_bytes());
    out.extend(name.bytes().take(len));
}

/// A value of 4 GiB cannot come from a message, whose length has 24 bits.
fn put_len(out: &mut Vec<u8>, len: usize) {
    out.extend_from_slice(&(len as u32).to_be_bytes());
}
