//! The rows of the comparison: a stream and its players each.

use std::error::Error;

/// Errors are shown and not looked into.
pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// A stream and its players.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) players: u32,
    pub(crate) stream: Stream,
    /// Streams, of which players take one each in turn.
    pub(crate) streams: u32,
    /// Players beside those that are measured: that read half the bit rate, and that read nothing.
    pub(crate) slow: [u32; 2],
    /// `queue_length` of our worker, seconds.
    pub(crate) queue_length: u32,
}

impl Row {
    const fn new(name: &'static str, players: u32) -> Self {
        Self { name, players, stream: Stream::Guide, streams: 1, slow: [0, 0], queue_length: 30 }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// 768x320, 25 frames/s, 220 kbit/s with AAC: the test card.
    Guide,
    /// 1280x720, 2 Mbit/s.
    Large,
}

pub(crate) const ROWS: [Row; 11] = [
    Row::new("100", 100),
    Row::new("500", 500),
    Row::new("1000", 1000),
    Row::new("3000", 3000),
    Row::new("9000", 9000),
    Row::new("18000", 18_000),
    Row { stream: Stream::Large, ..Row::new("1000x2M", 1000) },
    Row { streams: 10, ..Row::new("1000x10", 1000) },
    Row { streams: 10, ..Row::new("9000x10", 9000) },
    Row { queue_length: 3, ..Row::new("quick", 2670) },
    Row { queue_length: 3, slow: [300, 30], ..Row::new("slow", 2670) },
];
/// Rows that are run when none is named.
pub(crate) const USUAL: &str = "500 3000 9000 1000x2M";
/// Names for several rows.
pub(crate) const SETS: [(&str, &str); 2] =
    [("growth", "100 1000 9000 18000 1000x10 9000x10"), ("slow", "quick slow")];
