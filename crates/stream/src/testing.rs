//! What the tests of this crate share: chance with a seed, and a client that reads what a cursor sends.

use std::io;
use std::ops::Range;

use rtmp::{chunk, message_type, wire};

use crate::cursor::{Cursor, Flushed};
use crate::log::Log;

/// Chunk size of the logs in tests, bytes.
pub(crate) const CHUNK: u32 = 1_000;

/// Memory for one stream of a test.
pub(crate) fn store() -> shm::Store {
    shm::Store::private(1 << 16)
}

/// Numbers that depend on the seed alone (SplitMix64).
pub(crate) struct Chance(u64);

impl Chance {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub(crate) fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }

    /// True once in `n` times.
    pub(crate) fn once_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// An index of something with `len` elements, if it has any.
    pub(crate) fn index(&mut self, len: usize) -> Option<usize> {
        (len > 0).then(|| self.below(len as u64) as usize)
    }
}

/// The seeds to run: `SRSCTL_SEEDS` from `SRSCTL_SEED` on, else `count` from 1 on.
pub(crate) fn seeds(count: u64) -> Range<u64> {
    let number = |name| std::env::var(name).ok().map(|text| text.parse::<u64>().expect("a number"));
    let first = number("SRSCTL_SEED").unwrap_or(1);
    first..first + number("SRSCTL_SEEDS").unwrap_or(count)
}

/// A reader of what is sent in chunks of `chunk_size`.
pub(crate) fn client(chunk_size: u32) -> chunk::Reader {
    let mut reader = chunk::Reader::new(chunk::Limits::default());
    let mut announced = Vec::new();
    let size = chunk_size.to_be_bytes();
    chunk::put_full(&mut announced, 128, wire::csid::CONTROL, 0, message_type::SET_CHUNK_SIZE, 0, &size);
    assert!(reader.read(&mut &announced[..]).unwrap().is_none());
    reader
}

/// What a client sees: (type, time, payload).
pub(crate) fn decode(mut wire: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
    let mut reader = client(CHUNK);
    let mut seen = Vec::new();
    while let Some(message) = reader.read(&mut wire).unwrap() {
        seen.push((message.type_id, message.timestamp, message.payload.to_vec()));
    }
    seen
}

/// One flush; `take` says how many bytes each send takes.
pub(crate) fn flush_with(
    cursor: &mut Cursor,
    log: &Log,
    take: &mut dyn FnMut() -> usize,
) -> (Vec<u8>, Flushed) {
    let mut out = Vec::new();
    let flushed = cursor
        .flush(log, &mut |slices: &[io::IoSlice<'_>]| {
            let mut budget = take();
            if budget == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
            let mut taken = 0;
            for slice in slices {
                let n = slice.len().min(budget);
                out.extend_from_slice(&slice[..n]);
                budget -= n;
                taken += n;
            }
            Ok(taken)
        })
        .unwrap();
    (out, flushed)
}

/// As a player's own task does: again and again until nothing is left.
pub(crate) fn flush_all(cursor: &mut Cursor, log: &Log) -> (Vec<u8>, Flushed) {
    let mut wire = Vec::new();
    loop {
        let (bytes, flushed) = flush_with(cursor, log, &mut || usize::MAX);
        wire.extend(&bytes);
        if flushed != Flushed::Blocked || bytes.is_empty() {
            return (wire, flushed);
        }
    }
}
