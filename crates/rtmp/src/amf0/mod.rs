//! AMF0, the encoding of commands and metadata (Action Message Format 0, Adobe 2007).
//!
//! The reader is bounded in depth and number of values, and never allocates from a count on the wire. It is lenient
//! where senders differ: text that is not UTF-8 is kept as well as it can be, an ECMA array may lack its end.

mod cut;
mod marker;
mod read;
mod value;
mod write;

pub(crate) use cut::without_fields;
pub use read::{Amf0Error, MAX_DEPTH, MAX_VALUES, read_all, read_prefix};
pub(crate) use read::{leading_string, short_text};
pub use value::Value;
pub use write::{write, write_str};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn values() -> impl Strategy<Value = Vec<Value>> {
        let leaf = prop_oneof![
            (-1e9f64..1e9).prop_map(Value::Number),
            any::<bool>().prop_map(Value::Boolean),
            "\\PC{0,12}".prop_map(Value::String),
            Just(Value::Null),
            Just(Value::Undefined),
            any::<u16>().prop_map(Value::Reference),
            ((-1e15f64..1e15), any::<i16>()).prop_map(|(time, zone)| Value::Date(time, zone)),
            Just(Value::Unsupported),
            "\\PC{0,12}".prop_map(Value::Xml),
        ];
        let value = leaf.prop_recursive(4, 24, 6, |inner| {
            let fields = || prop::collection::vec(("[a-z]{0,5}", inner.clone()), 0..6);
            prop_oneof![
                fields().prop_map(Value::Object),
                fields().prop_map(Value::EcmaArray),
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::StrictArray),
                ("[a-z]{0,5}", fields()).prop_map(|(class, fields)| Value::TypedObject(class, fields)),
            ]
        });
        prop::collection::vec(value, 0..5)
    }

    fn encode(values: &[Value]) -> Vec<u8> {
        let mut out = Vec::new();
        for value in values {
            write(&mut out, value);
        }
        out
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(values in values()) {
            prop_assert_eq!(read_all(&encode(&values)), Ok(values));
        }

        #[test]
        fn a_prefix_of_the_bytes_gives_a_prefix_of_the_values(values in values(), cut in any::<prop::sample::Index>()) {
            let bytes = encode(&values);
            let (read, _) = read_prefix(&bytes[..cut.index(bytes.len() + 1)]);
            // An ECMA array may lack its end, so the last value may be incomplete.
            prop_assert!(read.len() <= values.len());
            let whole = read.len().saturating_sub(1);
            prop_assert_eq!(&read[..whole], &values[..whole]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(0u8..0x14, 0..200)) {
            let _ = read_all(&bytes);
        }
    }

    #[test]
    fn a_long_string_has_its_own_marker_and_reads_as_a_string() {
        let text = Value::String("x".repeat(70_000));
        let bytes = encode(std::slice::from_ref(&text));
        assert_eq!(bytes[..5], [0x0C, 0, 1, 0x11, 0x70]);
        assert_eq!(read_all(&bytes), Ok(vec![text]));
        assert_eq!(read_all(b"\x0c\0\0\0\x02hi"), Ok(vec![Value::from("hi")]));
    }

    #[test]
    fn text_that_is_not_utf8_is_kept_as_well_as_it_can_be() {
        assert_eq!(read_all(b"\x02\0\x04caf\xe9"), Ok(vec![Value::from("caf\u{fffd}")]));
    }

    #[test]
    fn an_ecma_array_may_lack_its_end_but_not_end_inside_an_entry() {
        let expected = Value::EcmaArray(vec![("a".into(), Value::Null)]);
        assert_eq!(read_all(b"\x08\0\0\0\x01\0\x01a\x05"), Ok(vec![expected.clone()]));
        assert_eq!(read_all(b"\x08\0\0\0\x01\0\x01a\x05\0\0\x09"), Ok(vec![expected]));
        assert_eq!(read_all(b"\x08\0\0\0\x01\0\x01a"), Err(Amf0Error::Truncated));
        assert_eq!(read_all(b"\x03\0\x01a\x05"), Err(Amf0Error::Truncated));
    }

    #[test]
    fn an_empty_property_name_is_no_end_of_an_object() {
        let expected = Value::Object(vec![(String::new(), Value::Boolean(true))]);
        assert_eq!(read_all(b"\x03\0\0\x01\x01\0\0\x09"), Ok(vec![expected]));
    }

    #[test]
    fn nesting_of_50_kb_is_an_error_and_no_stack_overflow() {
        assert_eq!(read_all(&b"\x0a\0\0\0\x01".repeat(10_000)), Err(Amf0Error::TooDeep));
        assert_eq!(read_all(&b"\x03\0\x01a".repeat(12_500)), Err(Amf0Error::TooDeep));
        assert_eq!(read_all(&b"\x08\0\0\0\x01\0\x01a".repeat(6_250)), Err(Amf0Error::TooDeep));
    }

    #[test]
    fn nesting_within_the_limit_is_read() {
        let mut bytes = b"\x0a\0\0\0\x01".repeat(MAX_DEPTH);
        bytes.push(0x05);
        assert!(read_all(&bytes).is_ok());
    }

    #[test]
    fn a_count_on_the_wire_allocates_nothing_and_values_are_bounded() {
        assert_eq!(read_all(b"\x0a\xff\xff\xff\xff\x05"), Err(Amf0Error::Truncated));
        assert_eq!(read_all(&[0x05; MAX_VALUES + 1]), Err(Amf0Error::TooMany));
        assert_eq!(read_all(&[0x05; MAX_VALUES]).map(|values| values.len()), Ok(MAX_VALUES));
    }

    #[test]
    fn values_before_an_unknown_marker_are_kept_by_the_prefix_reader() {
        let (values, error) = read_prefix(b"\x05\x11\x01\x05");
        assert_eq!(values, [Value::Null]);
        assert_eq!(error, Some(Amf0Error::Marker(0x11)));
    }

    #[test]
    fn a_property_name_too_long_for_the_wire_is_cut_between_characters() {
        let long = Value::Object(vec![("é".repeat(40_000), Value::Null)]);
        let read = read_all(&encode(&[long])).unwrap();
        let Value::Object(fields) = &read[0] else { panic!("{read:?}") };
        assert_eq!(fields[0].0.len(), 65_534);
    }
}
