//! What a bound amounts to: a number and its unit, as the code means it and as docs/limits.md writes it.

use std::fmt;

/// What a number counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    Millisecond,
    Byte,
    /// Anything else: messages, connections.
    One,
}

/// A number, or a range of numbers where the two differ.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Amount {
    pub(crate) unit: Unit,
    pub(crate) from: f64,
    pub(crate) to: f64,
}

/// Names of units, and how much each is. A name that is not here is what is counted.
const NAMES: [(&str, Unit, f64); 9] = [
    ("ms", Unit::Millisecond, 1.0),
    ("s", Unit::Millisecond, 1_000.0),
    ("min", Unit::Millisecond, 60_000.0),
    ("bytes", Unit::Byte, 1.0),
    ("kB", Unit::Byte, 1e3),
    ("MB", Unit::Byte, 1e6),
    ("KiB", Unit::Byte, 1024.0),
    ("MiB", Unit::Byte, 1_048_576.0),
    ("GiB", Unit::Byte, 1_073_741_824.0),
];

impl Unit {
    /// The unit that a comment gives its number: its word "ms" or "bytes", unless a number stands before it: then it tells of
    /// something else.
    pub(crate) fn of_comment(comment: &str) -> Self {
        let words = || comment.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        let mut units = std::iter::once("").chain(words()).zip(words()).filter_map(|(before, word)| {
            let is_of_another = before.ends_with(|c: char| c.is_ascii_digit());
            match word {
                "ms" if !is_of_another => Some(Self::Millisecond),
                "bytes" | "Bytes" if !is_of_another => Some(Self::Byte),
                _ => None,
            }
        });
        units.next().unwrap_or(Self::One)
    }
}

impl Amount {
    /// Reads `30 s`, `2.5 MB`, `5 000 messages`, `1 s to 120 s`.
    pub(crate) fn parse(text: &str) -> Option<Self> {
        let (from, to) = text.split_once(" to ").unwrap_or((text, text));
        let ((unit, from), (other, to)) = (parse_one(from)?, parse_one(to)?);
        (unit == other).then_some(Self { unit, from, to })
    }
}

fn parse_one(text: &str) -> Option<(Unit, f64)> {
    let mut words = text.split(' ').peekable();
    let mut number = words.next()?.to_owned();
    while let Some(group) = words.next_if(|word| word.starts_with(|c: char| c.is_ascii_digit())) {
        if group.len() != 3 {
            return None;
        }
        number.push_str(group);
    }
    let number: f64 = number.parse().ok()?;
    let name = words.collect::<Vec<_>>().join(" ");
    let unit = NAMES.iter().find(|(known, ..)| *known == name);
    Some(unit.map_or((Unit::One, number), |(_, unit, times)| (*unit, number * times)))
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let one = |number: f64| {
            let of_unit = NAMES.iter().filter(|(_, unit, _)| *unit == self.unit);
            // The largest unit of which it is a whole number.
            let whole = of_unit.filter(|(name, _, times)| *name != "min" && number % times == 0.0);
            match whole.max_by(|a, b| a.2.total_cmp(&b.2)) {
                Some((name, _, times)) => format!("{} {name}", number / times),
                None => number.to_string(),
            }
        };
        f.write_str(&one(self.from))?;
        if self.from != self.to {
            write!(f, " to {}", one(self.to))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_read_as_people_write_them() {
        let amount = |unit, from, to| Some(Amount { unit, from, to });
        for (text, expected) in [
            ("30 s", amount(Unit::Millisecond, 30_000.0, 30_000.0)),
            ("0.2 s", amount(Unit::Millisecond, 200.0, 200.0)),
            ("64 MiB", amount(Unit::Byte, 67_108_864.0, 67_108_864.0)),
            ("2.5 MB", amount(Unit::Byte, 2_500_000.0, 2_500_000.0)),
            ("1 000 000", amount(Unit::One, 1e6, 1e6)),
            ("5 000 messages", amount(Unit::One, 5_000.0, 5_000.0)),
            ("0.2 of a core", amount(Unit::One, 0.2, 0.2)),
            ("1 s to 2 min", amount(Unit::Millisecond, 1_000.0, 120_000.0)),
            ("1 s to 64 KiB", None),
            ("1 0000", None),
            ("auto", None),
            ("", None),
        ] {
            assert_eq!(Amount::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn amounts_are_shown_in_the_largest_unit_that_fits() {
        for text in ["30 s", "250 ms", "64 MiB", "60 kB", "1001 bytes", "120000", "0.2", "1 s to 120 s"] {
            assert_eq!(Amount::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_comment_gives_the_unit_of_its_own_number_only() {
        for (comment, expected) in [
            ("A player that takes no byte for this long is closed, ms.", Unit::Millisecond),
            ("A longer jump (ms) counts as 0.", Unit::Millisecond),
            ("Bytes read at once. The smallest messages of one read take about 2 ms.", Unit::Byte),
            ("Most values of one message; each costs 56 bytes.", Unit::One),
            ("Milliseconds are not written so.", Unit::One),
            ("Names that wait.", Unit::One),
        ] {
            assert_eq!(Unit::of_comment(comment), expected, "{comment}");
        }
    }
}
