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
    /// Whether what is received is handled on the players' cores, see [`crate::steer`].
    pub(crate) is_steered: bool,
}

impl Row {
    const fn new(name: &'static str, players: u32) -> Self {
        let (stream, streams, slow, queue_length) = (Stream::Guide, 1, [0, 0], 30);
        Self { name, players, stream, streams, slow, queue_length, is_steered: false }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// 768x320, 25 frames/s, 220 kbit/s with AAC: the test card.
    Guide,
    /// 960x540, 600 kbit/s.
    Medium,
    /// 1280x720, 2 Mbit/s.
    Large,
}

/// Publishers of [`Stream::Medium`] and no player.
#[derive(Clone, Copy, Debug)]
pub(crate) struct IngestRow {
    pub(crate) name: &'static str,
    pub(crate) publishers: u32,
    /// Whether each stream is sent on to one other server.
    pub(crate) is_relayed: bool,
}

pub(crate) const INGEST_ROWS: [IngestRow; 2] = [
    IngestRow { name: "ingest", publishers: 60, is_relayed: false },
    IngestRow { name: "relay", publishers: 60, is_relayed: true },
];

/// The steered ones last: there is no way back.
pub(crate) const ROWS: [Row; 13] = [
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
    Row { is_steered: true, ..Row::new("3000steered", 3000) },
    Row { is_steered: true, stream: Stream::Large, ..Row::new("1000x2Msteered", 1000) },
];
/// Rows that are run when none is named.
pub(crate) const USUAL: &str = "500 3000 9000 1000x2M ingest relay 3000steered";
/// Names for several rows.
pub(crate) const SETS: [(&str, &str); 2] =
    [("growth", "100 1000 9000 18000 1000x10 9000x10"), ("slow", "quick slow")];
