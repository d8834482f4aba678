//! The entries of a log, and their journal in the memory that outlives the process.

use std::collections::VecDeque;
use std::ops::Deref;

use serde::{Deserialize, Serialize, Serializer};
use shm::{Block, Place, Recovery, Store};

use crate::track::Track;

/// Bytes of an entry in the journal.
const ENTRY: usize = 24;
/// Entries in one block of the journal.
const ENTRIES: usize = 680;

/// One message of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its first byte.
    pub offset: u64,
    /// Stream time, ms.
    pub time: u64,
    /// Bytes of its payload.
    pub payload: u32,
    /// Where it belongs.
    pub track: Track,
    /// Whether decoding can start here.
    pub key: bool,
    /// Whether it is what a decoder needs before all others, no frame.
    pub header: bool,
}

/// See the [module](self). Entries are added behind and taken away in front.
#[derive(Debug)]
pub(crate) struct Entries {
    store: Store,
    queue: VecDeque<Entry>,
    journal: VecDeque<Block>,
    /// Entries at the front of the journal that are none any more.
    gone: usize,
}

/// Entries in a record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    journal: Vec<Place>,
    gone: u32,
}

impl Deref for Entries {
    type Target = VecDeque<Entry>;

    fn deref(&self) -> &VecDeque<Entry> {
        &self.queue
    }
}

/// In place of those that are still to be read.
pub(crate) fn nowhere() -> Entries {
    Entries::new(Store::private(0))
}

impl Entries {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, queue: VecDeque::new(), journal: VecDeque::new(), gone: 0 }
    }

    pub(crate) fn push_back(&mut self, entry: Entry) {
        self.queue.push_back(entry);
        let bytes = encode(&entry);
        let append = |block: &Block| block.append(ENTRY, |out| out.copy_from_slice(&bytes));
        if !self.journal.back().is_some_and(append) {
            let block = self.store.block(ENTRIES * ENTRY);
            append(&block);
            self.journal.push_back(block);
        }
    }

    pub(crate) fn pop_front(&mut self) {
        if self.queue.pop_front().is_some() {
            self.gone += 1;
        }
        if self.gone == ENTRIES {
            self.journal.pop_front();
            self.gone = 0;
        }
    }

    pub(crate) fn clear(&mut self) {
        self.queue.clear();
        self.journal.clear();
        self.gone = 0;
    }
}

impl Serialize for Entries {
    /// As [`Saved`]; an error if a part of it ends with this process.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let journal: Option<Vec<_>> = self.journal.iter().map(Block::place).collect();
        let journal = journal.ok_or_else(|| serde::ser::Error::custom("there was no memory that stays"))?;
        Saved { journal, gone: self.gone as u32 }.serialize(serializer)
    }
}

impl Saved {
    /// What the process before had; `None` if that cannot be right.
    pub(crate) fn restore(self, recovery: &Recovery) -> Option<Entries> {
        let journal: VecDeque<_> =
            self.journal.iter().map(|place| recovery.adopt(*place)).collect::<Option<_>>()?;
        let last = journal.len().saturating_sub(1);
        let is_full = |(index, block): (usize, &Block)| {
            block.capacity() == ENTRIES * ENTRY
                && block.len().is_multiple_of(ENTRY)
                && (index == last || block.len() == ENTRIES * ENTRY)
        };
        let (gone, all) =
            (self.gone as usize, journal.iter().map(|block| block.len() / ENTRY).sum::<usize>());
        let is_right = gone < ENTRIES && gone <= all;
        let all = journal.iter().flat_map(|block: &Block| block.bytes().chunks_exact(ENTRY));
        let queue: VecDeque<_> = all.skip(gone).map(decode).collect::<Option<_>>()?;
        let is_right = is_right && journal.iter().enumerate().all(is_full);
        let in_order = queue.iter().zip(queue.iter().skip(1)).all(|(one, next)| one.offset < next.offset);
        let store = recovery.store().clone();
        (is_right && in_order).then_some(Entries { store, queue, journal, gone })
    }
}

fn encode(entry: &Entry) -> [u8; ENTRY] {
    let Entry { offset, time, payload, track, key, header } = *entry;
    let mut bytes = [0; ENTRY];
    bytes[..8].copy_from_slice(&offset.to_le_bytes());
    bytes[8..16].copy_from_slice(&time.to_le_bytes());
    bytes[16..20].copy_from_slice(&payload.to_le_bytes());
    bytes[20..23].copy_from_slice(&[track.index() as u8, u8::from(key), u8::from(header)]);
    bytes
}

fn decode(bytes: &[u8]) -> Option<Entry> {
    let (offset, rest) = bytes.split_first_chunk()?;
    let (time, rest) = rest.split_first_chunk()?;
    let (payload, rest) = rest.split_first_chunk()?;
    let &[track, key, header, _] = rest else { return None };
    Some(Entry {
        offset: u64::from_le_bytes(*offset),
        time: u64::from_le_bytes(*time),
        payload: u32::from_le_bytes(*payload),
        track: *Track::ALL.get(usize::from(track))?,
        key: key != 0,
        header: header != 0,
    })
}
