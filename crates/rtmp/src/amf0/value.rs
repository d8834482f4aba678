//! A value of AMF0, and how to look into it.

/// A value; the comments give its marker on the wire.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// 0x00
    Number(f64),
    /// 0x01
    Boolean(bool),
    /// 0x02, or 0x0C (long) from 64 KiB on.
    String(String),
    /// 0x03, properties in order.
    Object(Vec<(String, Value)>),
    /// 0x05
    Null,
    /// 0x06
    Undefined,
    /// 0x07, index of an earlier object; not resolved.
    Reference(u16),
    /// 0x08, an associative array, entries in order.
    EcmaArray(Vec<(String, Value)>),
    /// 0x0A
    StrictArray(Vec<Value>),
    /// 0x0B, milliseconds since 1970 in UTC and the reserved time zone, minutes.
    Date(f64, i16),
    /// 0x0D
    Unsupported,
    /// 0x0F
    Xml(String),
    /// 0x10, class name and properties.
    TypedObject(String, Vec<(String, Value)>),
}

impl Value {
    /// Text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// Value of a number.
    pub fn as_number(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// Value of a boolean; a number counts as one, since some clients send 0 and 1.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Boolean(value) => Some(*value),
            Self::Number(number) => Some(*number != 0.0),
            _ => None,
        }
    }

    /// Property `name` of an object of any kind or of an ECMA array.
    pub fn field(&self, name: &str) -> Option<&Value> {
        match self {
            Self::Object(fields) | Self::EcmaArray(fields) | Self::TypedObject(_, fields) => {
                fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
            }
            _ => None,
        }
    }
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::String(text.to_owned())
    }
}

impl From<f64> for Value {
    fn from(number: f64) -> Self {
        Self::Number(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Boolean(value)
    }
}
