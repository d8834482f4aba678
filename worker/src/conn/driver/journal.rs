//! The bytes of messages that have not come whole, where the next worker finds them.
//!
//! Few are part of the connection's record. Many, as of a keyframe that comes in many reads, are not written again for each read: they
//! are kept as what was read since some point, and the reader of that point, which reads them again.

use rtmp::chunk::{Limits, Reader};
use serde::{Deserialize, Serialize};
use shm::{Block, Place, Recovery, Store};

/// So many bytes of unfinished messages are written with each record.
const INLINE: usize = 2 * 1024;
/// Capacity of one block of what was read, bytes.
const BLOCK: usize = 64 * 1024;
/// What was read is kept up to this many bytes beyond twice those of the unfinished messages; then it begins anew.
const SLACK: usize = 64 * 1024;

/// See the [module](self). Empty where the unfinished messages are part of the record.
#[derive(Debug, Default)]
pub(super) struct Journal {
    /// As a record: the reader where this begins.
    reader: Vec<u8>,
    /// How many of the bytes are those of its unfinished messages.
    partials: usize,
    blocks: Vec<Block>,
    len: usize,
}

/// A journal in a record.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Saved {
    Inline(Vec<u8>),
    Journal {
        reader: Vec<u8>,
        partials: usize,
        blocks: Vec<Place>,
    },
    /// There was no memory that stays.
    Lost,
}

impl Journal {
    /// `input` was read, and left `reader` where it is.
    pub(super) fn note(&mut self, store: &Store, reader: &Reader, input: &[u8]) {
        let bytes = reader.partial_bytes();
        if bytes <= INLINE {
            if !self.blocks.is_empty() {
                *self = Self::default();
            }
        } else if self.blocks.is_empty() || self.len > 2 * bytes + SLACK {
            let record = postcard::to_allocvec(reader).unwrap_or_default();
            *self = Self { reader: record, partials: bytes, ..Self::default() };
            reader.partials().for_each(|partial| self.append(store, partial));
        } else {
            self.append(store, input);
        }
    }

    fn append(&mut self, store: &Store, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            let room = self.blocks.last().map_or(0, |block| block.capacity() - block.len());
            if room == 0 {
                self.blocks.push(store.block(BLOCK));
                continue;
            }
            let (front, rest) = bytes.split_at(room.min(bytes.len()));
            if let Some(block) = self.blocks.last() {
                block.append(front.len(), |out| out.copy_from_slice(front));
            }
            bytes = rest;
        }
    }

    /// For a record beside `reader`.
    pub(super) fn save(&self, reader: &Reader) -> Saved {
        if self.blocks.is_empty() {
            return Saved::Inline(reader.partials().collect::<Vec<_>>().concat());
        }
        let blocks: Option<Vec<_>> = self.blocks.iter().map(Block::place).collect();
        blocks.map_or(Saved::Lost, |blocks| Saved::Journal {
            reader: self.reader.clone(),
            partials: self.partials,
            blocks,
        })
    }
}

impl Saved {
    /// The bytes of the unfinished messages; `None` if that cannot be right.
    pub(super) fn restore(&self, recovery: &Recovery) -> Option<Vec<u8>> {
        let (reader, partials, blocks) = match self {
            Self::Inline(bytes) => return Some(bytes.clone()),
            Self::Journal { reader, partials, blocks } => (reader, *partials, blocks),
            Self::Lost => return None,
        };
        let blocks: Vec<_> = blocks.iter().map(|place| recovery.adopt(*place)).collect::<Option<_>>()?;
        let bytes = blocks.iter().map(Block::bytes).collect::<Vec<_>>().concat();
        let (front, mut rest) = bytes.split_at_checked(partials)?;
        let mut reader: Reader = postcard::from_bytes(reader).ok()?;
        reader.check(Limits::default()).ok()?;
        if !reader.restore_partials(front) {
            return None;
        }
        while reader.read(&mut rest).ok()?.is_some() {}
        Some(reader.partials().collect::<Vec<_>>().concat())
    }
}

#[cfg(test)]
mod tests {
    use rtmp::chunk;
    use rtmp::message_type::VIDEO;

    use super::*;

    fn partials(reader: &Reader) -> Vec<u8> {
        reader.partials().collect::<Vec<_>>().concat()
    }

    #[test]
    fn unfinished_messages_are_found_again_however_they_came_and_take_bounded_memory() {
        let (store, mut reader) = (Store::private(4 << 20), Reader::new(Limits::default()));
        let mut wire = Vec::new();
        for (number, size) in [(0_u8, 300_000), (1, 100), (2, 3_000), (3, 500_000)] {
            let payload = vec![number; size];
            chunk::put_full(&mut wire, 128, 6, 0, VIDEO, 1, &payload);
        }
        let (mut journal, mut at, mut step) = (Journal::default(), 0, 1);
        let (mut inline, mut journals) = (0, 0);
        while at < wire.len() {
            let input = &wire[at..(at + step).min(wire.len())];
            let mut rest = input;
            while reader.read(&mut rest).unwrap().is_some() {}
            journal.note(&store, &reader, input);
            (at, step) = (at + input.len(), step * 7 % 20_011);
            let saved = postcard::to_allocvec(&journal.save(&reader)).unwrap();
            let saved: Saved = postcard::from_bytes(&saved).unwrap();
            match &saved {
                Saved::Inline(bytes) => {
                    inline += 1;
                    assert_eq!(*bytes, partials(&reader));
                }
                Saved::Journal { .. } => {
                    journals += 1;
                    assert!(journal.len <= 2 * reader.partial_bytes() + SLACK + 20_011);
                    let blocks: Vec<_> = journal.blocks.iter().map(|block| block.bytes().to_vec()).collect();
                    let bytes = blocks.concat();
                    let mut again: Reader = postcard::from_bytes(&journal.reader).unwrap();
                    again.check(Limits::default()).unwrap();
                    assert!(again.restore_partials(&bytes[..journal.partials]));
                    let mut rest = &bytes[journal.partials..];
                    while again.read(&mut rest).unwrap().is_some() {}
                    assert_eq!(partials(&again), partials(&reader));
                }
                Saved::Lost => panic!("there is memory"),
            }
        }
        assert!(inline > 0 && journals > 10, "{inline} {journals}");
    }
}
