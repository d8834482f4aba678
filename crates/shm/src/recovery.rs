//! What an earlier process has left, looked at as a stranger's bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;

use crate::alloc::{Alloc, Extent, room};
use crate::block::{Block, Place};
use crate::layout::{EPOCH_AT, LAYOUT, LAYOUT_AT, MAGIC, MAGIC_AT, PLACES_AT};
use crate::memory::Memory;
use crate::store::{Entry, Id, Known, Store, places};

/// Why nothing of an earlier process can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// Nobody has written there, or something else.
    #[error("there is no state")]
    None,
    /// Another version of this program has.
    #[error("its layout is {0}, and this program reads {LAYOUT}")]
    Layout(u64),
    /// More objects than there is room for.
    #[error("its table cannot be right")]
    Table,
}

/// An object that is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Object {
    /// Its number, which it keeps.
    pub id: Id,
    /// As it was put.
    pub kind: u32,
    /// As they were put.
    pub bytes: Vec<u8>,
}

/// What there is.
#[derive(Debug)]
pub struct Found {
    /// In the order of their numbers.
    pub objects: Vec<Object>,
    /// Objects that cannot be right, and are none any more.
    pub broken: usize,
}

/// A store while it is found out what of its memory is whose: blocks are adopted, and then it [begins](Self::finish).
#[derive(Debug)]
pub struct Recovery {
    store: Store,
    used: RefCell<BTreeMap<u64, u64>>,
    extents: (u64, u64),
}

impl Recovery {
    /// Looks at `memory`.
    ///
    /// # Errors
    /// See [`RecoveryError`]; the memory comes back, so that a store may be [created](Store::create) there.
    pub fn open(memory: Memory) -> Result<(Self, Found), (RecoveryError, Memory)> {
        let word =
            |offset| memory.word(offset).map_or(0, |word| word.load(std::sync::atomic::Ordering::Acquire));
        if word(MAGIC_AT) != MAGIC {
            return Err((RecoveryError::None, memory));
        }
        let layout = word(LAYOUT_AT);
        if layout != LAYOUT {
            return Err((RecoveryError::Layout(layout), memory));
        }
        let (most, begin) = places(memory.len());
        let (epoch, count) = (word(EPOCH_AT), word(PLACES_AT));
        let Some(count) = u32::try_from(count).ok().filter(|count| u64::from(*count) <= most) else {
            return Err((RecoveryError::Table, memory));
        };
        let extents = (begin, memory.len());
        let mut used = BTreeMap::new();
        let mut found = Found { objects: Vec::new(), broken: 0 };
        let (mut known, mut unused) = (Vec::new(), Vec::new());
        for number in 0..count {
            let mut sides = [0, 1].map(|side| Entry::read(&memory, number, side));
            for (side, entry) in (0..).zip(&mut sides) {
                if entry.epoch > epoch {
                    Entry::scrub(&memory, number, side);
                    entry.epoch = 0;
                }
            }
            let side = u8::from(sides[1].epoch > sides[0].epoch);
            let entry = sides[usize::from(side)];
            let read = read(&memory, entry).filter(|(extent, _)| claim(&mut used, extents, *extent));
            found.broken += usize::from(read.is_none() && entry.offset != 0);
            if read.is_none() {
                unused.push(number);
            }
            known.push(Known { side, now: read.as_ref().map(|(extent, _)| *extent), next: None });
            if let Some((_, bytes)) = read {
                found.objects.push(Object { id: Id(number), kind: entry.kind, bytes });
            }
        }
        // Nothing is free before all is known.
        let store = Store::with(memory, Alloc::new(0, 0), known, unused, epoch.max(1));
        Ok((Self { store, used: RefCell::new(used), extents }, found))
    }

    /// The block at `place`, which an object in force names; `None` if it cannot be right, or another has it.
    #[must_use]
    pub fn adopt(&self, place: Place) -> Option<Block> {
        let Place { offset, capacity, len } = place;
        let extent = Extent { offset, len: room(u64::from(capacity)) };
        let is_right = len <= capacity && offset.is_multiple_of(64);
        if !is_right || !claim(&mut self.used.borrow_mut(), self.extents, extent) {
            return None;
        }
        Block::adopted(&self.store, extent, capacity as usize, len as usize)
    }

    /// The store, for words and the scratch area; nothing can be put before it begins.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// All that was not adopted is free.
    #[must_use]
    pub fn finish(self) -> Store {
        let (begin, end) = self.extents;
        let mut alloc = Alloc::beside(begin, end, &self.used.borrow());
        for Extent { offset, len } in alloc.gaps() {
            self.store.0.memory.forget(offset, len);
        }
        // Blocks that were adopted and given up meanwhile.
        alloc.take_over(&mut self.store.0.alloc.borrow_mut());
        self.store.0.alloc.replace(alloc);
        self.store
    }
}

fn read(memory: &Memory, entry: Entry) -> Option<(Extent, Vec<u8>)> {
    if entry.epoch == 0 || entry.offset == 0 || !entry.offset.is_multiple_of(64) {
        return None;
    }
    let bytes = memory.read(entry.offset, entry.len as usize)?;
    let extent = Extent { offset: entry.offset, len: room(u64::from(entry.len)) };
    (crc32fast::hash(&bytes) == entry.crc).then_some((extent, bytes))
}

/// Makes `extent` somebody's, unless it is or cannot be.
fn claim(used: &mut BTreeMap<u64, u64>, (begin, end): (u64, u64), Extent { offset, len }: Extent) -> bool {
    let Some(to) = offset.checked_add(len).filter(|to| offset >= begin && *to <= end) else { return false };
    let is_taken = used.range(..to).next_back().is_some_and(|(_, other)| *other > offset);
    if !is_taken {
        used.insert(offset, to);
    }
    !is_taken
}
