//! Named values cut out of an object, with all other bytes left as they are: a value that is not understood, or text that is not
//! UTF-8, must reach a player as it was sent.

use super::marker;
use super::read::{MAX_DEPTH, leading_string, short_text};

/// An empty name, and the end of an object.
const END: [u8; 3] = [0, 0, marker::OBJECT_END];

/// `input`, which begins with an object or ECMA array, without the named values that `is_out` tells. `None` where there are none of
/// them, or where it cannot be read.
pub(crate) fn without_fields(input: &[u8], is_out: impl Fn(&[u8]) -> bool) -> Option<Vec<u8>> {
    let (is_array, mut rest) = match *input {
        [marker::OBJECT, ref rest @ ..] => (false, rest),
        [marker::ECMA_ARRAY, _, _, _, _, ref rest @ ..] => (true, rest),
        _ => return None,
    };
    let mut out = input.get(..input.len() - rest.len())?.to_vec();
    let mut cut = 0_u32;
    // An ECMA array may lack its end.
    while !rest.is_empty() && !rest.starts_with(&END) {
        let (name, value) = short_text(rest)?;
        let after = skip(value, 1)?;
        if is_out(name) {
            cut += 1;
        } else {
            out.extend_from_slice(rest.get(..rest.len() - after.len())?);
        }
        rest = after;
    }
    if cut == 0 {
        return None;
    }
    if is_array && let Some(count) = out.get_mut(1..5) {
        // A hint that some readers take at its word.
        let said = count.try_into().map_or(0, u32::from_be_bytes);
        count.copy_from_slice(&said.saturating_sub(cut).to_be_bytes());
    }
    out.extend_from_slice(rest);
    Some(out)
}

/// What follows the value `input` begins with. Recursion is bounded by [`MAX_DEPTH`], work by the length of `input`.
fn skip(input: &[u8], depth: usize) -> Option<&[u8]> {
    if depth > MAX_DEPTH {
        return None;
    }
    let (&first, rest) = input.split_first()?;
    match first {
        marker::NUMBER => rest.get(8..),
        marker::BOOLEAN => rest.get(1..),
        marker::STRING | marker::LONG_STRING => leading_string(input).map(|(_, rest)| rest),
        marker::XML => {
            let (length, rest) = rest.split_first_chunk::<4>()?;
            rest.get(u32::from_be_bytes(*length) as usize..)
        }
        marker::NULL | marker::UNDEFINED | marker::UNSUPPORTED => Some(rest),
        marker::REFERENCE => rest.get(2..),
        marker::DATE => rest.get(10..),
        marker::STRICT_ARRAY => {
            let (count, mut rest) = rest.split_first_chunk::<4>()?;
            for _ in 0..u32::from_be_bytes(*count) {
                rest = skip(rest, depth + 1)?;
            }
            Some(rest)
        }
        marker::OBJECT => skip_fields(rest, depth),
        marker::ECMA_ARRAY => skip_fields(rest.get(4..)?, depth),
        marker::TYPED_OBJECT => skip_fields(short_text(rest)?.1, depth),
        _ => None,
    }
}

fn skip_fields(mut rest: &[u8], depth: usize) -> Option<&[u8]> {
    loop {
        if let Some(behind) = rest.strip_prefix(&END) {
            return Some(behind);
        }
        rest = skip(short_text(rest)?.1, depth + 1)?;
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Value, read_all, write};
    use super::*;

    fn encode(value: &Value) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out, value);
        out
    }

    fn is_out(name: &[u8]) -> bool {
        name == b"duration" || name == b"keyframes"
    }

    #[test]
    fn the_rest_of_an_object_is_left_as_it_was() {
        let index =
            Value::Object(vec![("times".into(), Value::StrictArray(vec![1.0.into(), Value::Date(2.0, 3)]))]);
        let fields = |with: bool| {
            let mut fields = vec![("width".to_owned(), Value::from(640.0))];
            if with {
                fields.push(("duration".into(), 4.0.into()));
                fields.push(("keyframes".into(), index.clone()));
            }
            fields.push(("encoder".into(), "x".into()));
            fields
        };
        for make in [Value::Object, Value::EcmaArray] {
            let cut = without_fields(&encode(&make(fields(true))), is_out).unwrap();
            assert_eq!(cut, encode(&make(fields(false))));
        }
    }

    #[test]
    fn bytes_that_no_reader_understands_stay() {
        let latin1 = b"\x08\0\0\0\x02\0\x01t\x02\0\x01\xe9\0\x08duration\0\0\0\0\0\0\0\0\0";
        assert_eq!(without_fields(latin1, is_out).unwrap(), b"\x08\0\0\0\x01\0\x01t\x02\0\x01\xe9");
        let behind = b"\x03\0\x08duration\x05\0\0\x09\x05tail";
        assert_eq!(without_fields(behind, is_out).unwrap(), b"\x03\0\0\x09\x05tail");
    }

    #[test]
    fn an_index_of_any_length_is_cut_and_none_of_any_depth_is_followed() {
        let times = Value::StrictArray(vec![Value::Null; 60_000]);
        let long = encode(&Value::Object(vec![("keyframes".into(), times), ("a".into(), Value::Null)]));
        assert!(read_all(&long).is_err(), "more values than are read");
        assert_eq!(
            without_fields(&long, is_out).unwrap(),
            encode(&Value::Object(vec![("a".into(), Value::Null)]))
        );
        let deep = [&b"\x03\0\x08duration"[..], &b"\x0a\0\0\0\x01".repeat(10_000)].concat();
        assert_eq!(without_fields(&deep, is_out), None);
    }

    #[test]
    fn what_has_none_of_them_or_is_cut_short_is_left_alone() {
        let whole = encode(&Value::Object(vec![("duration".into(), 4.0.into()), ("a".into(), Value::Null)]));
        for len in 0..whole.len() - 3 {
            let cut = without_fields(&whole[..len], is_out);
            assert!(cut.is_none() || len == 20, "{len} bytes");
        }
        assert_eq!(without_fields(b"\x03\0\x01a\x05\0\0\x09", is_out), None);
        assert_eq!(without_fields(b"\x02\0\x01a", is_out), None);
    }
}
