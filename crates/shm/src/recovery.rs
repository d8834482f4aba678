//! What an earlier process has left, looked at as a stranger's bytes.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::os::fd::BorrowedFd;

use crate::alloc::{Alloc, Extent, room};
use crate::block::{Block, Place};
use crate::layout::{
    EPOCH_AT, EPOCHS, GRAIN, LAYOUT, LAYOUT_AT, MAGIC, MAGIC_AT, OLDEST_LAYOUT, PLACES_AT, WORDS, WORDS_AT,
};
use crate::memory::Memory;
use crate::store::{Entry, Id, Known, Store, places};

/// Why nothing of an earlier process can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// Nobody has written there, or something else.
    #[error("there is no state")]
    None,
    /// Another version of this program has.
    #[error("its layout is {0}, and this program reads {OLDEST_LAYOUT} to {LAYOUT}")]
    Layout(u64),
    /// More objects than there is room for, or more commits than there can have been.
    #[error("its table cannot be right")]
    Table,
}

/// The layout and the words of what stands in `file`, which others may write to meanwhile: read from it, and not mapped. `None` where
/// nobody has written, or something else.
#[must_use]
pub fn peek(file: BorrowedFd<'_>) -> Option<(u64, [u64; WORDS])> {
    let number = |at: u64| {
        let mut bytes = [0; 8];
        let read = rustix::io::pread(file, &mut bytes, at).ok()?;
        (read == bytes.len()).then(|| u64::from_le_bytes(bytes))
    };
    if number(MAGIC_AT)? != MAGIC {
        return None;
    }
    let mut words = [0; WORDS];
    for (at, word) in (WORDS_AT..).step_by(8).zip(&mut words) {
        *word = number(at)?;
    }
    Some((number(LAYOUT_AT)?, words))
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
        if memory.load(MAGIC_AT) != MAGIC {
            return Err((RecoveryError::None, memory));
        }
        let layout = memory.load(LAYOUT_AT);
        if !(OLDEST_LAYOUT..=LAYOUT).contains(&layout) {
            return Err((RecoveryError::Layout(layout), memory));
        }
        let (most, begin) = places(memory.len());
        let (epoch, count) = (memory.load(EPOCH_AT), memory.load(PLACES_AT));
        let count = u32::try_from(count).ok().filter(|count| u64::from(*count) <= most);
        let Some(count) = count.filter(|_| (1..=EPOCHS).contains(&epoch)) else {
            return Err((RecoveryError::Table, memory));
        };
        let extents = (begin, memory.len());
        let mut used = BTreeMap::new();
        let mut found = Found { objects: Vec::new(), broken: 0 };
        let (mut known, mut unused, mut lost) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..count {
            let (side, entry, is_whole) = in_force(&memory, number, epoch);
            let extent = Extent { offset: entry.offset, len: room(entry.len.into()) };
            let is_object = entry.epoch > 0 && (entry.offset > 0 || !is_whole);
            // Before it is read, so that no byte is read for two.
            let is_its = is_object && is_whole && claim(&mut used, extents, extent);
            let bytes = if is_its { memory.read(entry.offset, entry.len as usize) } else { None };
            let bytes = bytes.filter(|bytes| crc32fast::hash(bytes) == entry.crc);
            if is_object && bytes.is_none() {
                found.broken += 1;
                lost.extend(is_its.then_some(extent.offset));
                // Nor is it what it was before that.
                Entry::scrub(&memory, number, 1 - side);
                Entry::scrub(&memory, number, side);
            }
            let object = bytes.map(|bytes| (extent, Object { id: Id(number), kind: entry.kind, bytes }));
            let now = object.as_ref().map(|(extent, _)| *extent);
            known.push(Known { side, now, next: None, is_owned: now.is_some() });
            match object {
                Some((_, object)) => found.objects.push(object),
                None => unused.push(number),
            }
        }
        for offset in lost {
            used.remove(&offset);
        }
        // Nothing is free before all is known.
        let store = Store::with(memory, Alloc::closed(), known, unused, epoch);
        Ok((Self { store, used: RefCell::new(used), extents }, found))
    }

    /// The block at `place`, which an object in force names; `None` if it cannot be right, or another has it.
    #[must_use]
    pub fn adopt(&self, place: Place) -> Option<Block> {
        let Place { offset, capacity, len } = place;
        let extent = Extent { offset, len: room(u64::from(capacity)) };
        let is_right = len <= capacity;
        if !is_right || !claim(&mut self.used.borrow_mut(), self.extents, extent) {
            return None;
        }
        Block::adopted(&self.store, extent, capacity as usize, len as usize)
    }

    /// The store, for words and the scratch area. What is found may be removed; nothing can be put before it [begins](Self::finish).
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// All that was not adopted is free.
    #[must_use]
    pub fn finish(self) -> Store {
        let (begin, end) = self.extents;
        let alloc = Alloc::beside(begin, end, &self.used.borrow());
        for Extent { offset, len } in alloc.gaps() {
            self.store.0.memory.forget(offset, len);
        }
        let closed = self.store.0.alloc.replace(alloc);
        // What was removed, and blocks that were adopted and dropped meanwhile.
        self.store.0.alloc.borrow_mut().go_on_from(closed);
        self.store
    }
}

/// The entry of `number` that is in force at `epoch`, its side, and whether it is as it was written; one of no epoch where there is none.
/// What a process has written that died before it was in force is none from here on: its epoch is to come.
fn in_force(memory: &Memory, number: u32, epoch: u64) -> (u8, Entry, bool) {
    let sides = [0, 1].map(|side| {
        let (entry, is_whole) = Entry::read(memory, number, side);
        if entry.epoch <= epoch {
            return (side, entry, is_whole);
        }
        Entry::scrub(memory, number, side);
        (side, Entry::default(), true)
    });
    let [first, second] = sides;
    if second.1.epoch > first.1.epoch { second } else { first }
}

/// Makes `extent` somebody's, unless it is or cannot be.
fn claim(used: &mut BTreeMap<u64, u64>, (begin, end): (u64, u64), Extent { offset, len }: Extent) -> bool {
    let is_within = |to: &u64| offset >= begin && *to <= end && offset.is_multiple_of(GRAIN);
    let Some(to) = offset.checked_add(len).filter(is_within) else { return false };
    let is_taken = used.range(..to).next_back().is_some_and(|(_, other)| *other > offset);
    if !is_taken {
        used.insert(offset, to);
    }
    !is_taken
}
