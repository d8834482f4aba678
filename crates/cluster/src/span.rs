//! Lengths of time as people write them: `250ms`, `3s`.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A length of time in whole milliseconds; written `250ms` or `3s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Span(u32);

impl Span {
    /// `ms` milliseconds.
    #[must_use]
    pub const fn from_millis(ms: u32) -> Self {
        Self(ms)
    }

    /// The length in milliseconds.
    #[must_use]
    pub const fn as_millis(self) -> u32 {
        self.0
    }
}

impl From<Span> for Duration {
    fn from(span: Span) -> Self {
        Self::from_millis(span.0.into())
    }
}

/// Not a length of time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a length of time such as 250ms or 3s")]
pub struct SpanError;

impl FromStr for Span {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        let (number, unit) = match text.strip_suffix("ms") {
            Some(number) => (number, 1),
            None => (text.strip_suffix('s').ok_or(SpanError)?, 1000),
        };
        let digits = !number.is_empty() && number.bytes().all(|b| b.is_ascii_digit());
        let number: u32 = number.parse().map_err(|_| SpanError)?;
        number.checked_mul(unit).filter(|_| digits).map(Self).ok_or(SpanError)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            ms if ms > 0 && ms.is_multiple_of(1000) => write!(f, "{}s", ms / 1000),
            ms => write!(f, "{ms}ms"),
        }
    }
}

impl TryFrom<String> for Span {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

impl From<Span> for String {
    fn from(span: Span) -> Self {
        span.to_string()
    }
}

/// How long media may wait so that one send carries more of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Latency {
    /// At once while the port is idle; wider by itself, up to [`Latency::MAX`], so that sending stays a bounded share of the core.
    #[default]
    Auto,
    /// This long, whatever the load.
    Fixed(Span),
}

impl Latency {
    /// The widest: what SRS waits by default.
    pub const MAX: Span = Span::from_millis(350);
}

impl FromStr for Latency {
    type Err = SpanError;

    fn from_str(text: &str) -> Result<Self, SpanError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        text.parse().ok().filter(|span| *span <= Self::MAX).map(Self::Fixed).ok_or(SpanError)
    }
}

impl fmt::Display for Latency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.write_str("auto"),
            Self::Fixed(span) => span.fmt(f),
        }
    }
}

impl TryFrom<String> for Latency {
    type Error = SpanError;

    fn try_from(text: String) -> Result<Self, SpanError> {
        text.parse()
    }
}

impl From<Latency> for String {
    fn from(latency: Latency) -> Self {
        latency.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_as_they_are_written() {
        for (text, ms) in [("0ms", 0), ("40ms", 40), ("3s", 3_000), ("1500ms", 1_500)] {
            let span: Span = text.parse().unwrap();
            assert_eq!((span.as_millis(), span.to_string()), (ms, text.to_owned()));
        }
        assert_eq!("1000ms".parse::<Span>().unwrap().to_string(), "1s");
    }

    #[test]
    fn what_is_no_span_is_refused() {
        for text in ["", "ms", "s", "40", "-1s", "+1s", "1.5s", "4294967296ms", "4294968s", "40 ms", "1m"] {
            assert_eq!(text.parse::<Span>(), Err(SpanError), "{text:?}");
        }
    }

    #[test]
    fn a_latency_is_auto_or_at_most_350_ms() {
        assert_eq!("auto".parse(), Ok(Latency::Auto));
        assert_eq!("350ms".parse(), Ok(Latency::Fixed(Span::from_millis(350))));
        assert_eq!("351ms".parse::<Latency>(), Err(SpanError));
    }
}
