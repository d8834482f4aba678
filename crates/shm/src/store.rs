//! Objects that change together. See the [crate](crate).

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use serde::{Deserialize, Serialize};

use crate::alloc::{Alloc, Extent};
use crate::layout::{
    ENTRY, EPOCH_AT, LAYOUT, LAYOUT_AT, MAGIC, MAGIC_AT, OBJECTS, PLACES_AT, SCRATCH, SCRATCH_AT, TABLE_AT,
    WORDS, WORDS_AT,
};
use crate::memory::{Memory, Span};

/// An object, as a number that is its own until it is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Id(pub(crate) u32);

impl Id {
    /// Never 0, so that a word may stand for none.
    #[must_use]
    pub fn number(self) -> u64 {
        u64::from(self.0) + 1
    }
}

/// What an entry of the table says.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Entry {
    pub(crate) epoch: u64,
    /// 0 of an object that is removed.
    pub(crate) offset: u64,
    pub(crate) len: u32,
    pub(crate) crc: u32,
    pub(crate) kind: u32,
}

/// What this process knows of an object.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Known {
    /// The entry that is in force, or was last.
    pub(crate) side: u8,
    pub(crate) now: Option<Extent>,
    /// Put or removed since the last commit.
    pub(crate) next: Option<Option<Extent>>,
}

/// See the [crate](crate). A handle: clones are the same store. Not for two threads.
#[derive(Clone, Debug)]
pub struct Store(pub(crate) Rc<Inner>);

#[derive(Debug)]
pub(crate) struct Inner {
    pub(crate) memory: Memory,
    pub(crate) alloc: RefCell<Alloc>,
    objects: RefCell<Objects>,
    epoch: Cell<u64>,
    has_scratch: Cell<bool>,
    #[cfg(test)]
    pub(crate) steps: crate::tests::Steps,
}

#[derive(Debug, Default)]
struct Objects {
    known: Vec<Known>,
    /// Removed, and that is in force.
    unused: Vec<u32>,
    /// With something to commit.
    staged: Vec<u32>,
}

/// Where the extents begin in a memory of `len` bytes that has room for so many objects.
pub(crate) fn places(len: u64) -> (u64, u64) {
    let objects = (len / 8 / (2 * ENTRY)).min(OBJECTS);
    (objects, (TABLE_AT + objects * 2 * ENTRY).next_multiple_of(4096))
}

impl Store {
    /// An empty store in `memory`, whatever was there.
    #[must_use]
    pub fn create(memory: Memory) -> Self {
        let (_, extents) = places(memory.len());
        memory.forget(extents, memory.len().saturating_sub(extents));
        let alloc = Alloc::new(extents, memory.len());
        let this = Self::with(memory, alloc, Vec::new(), Vec::new(), 1);
        // Whoever recovers meanwhile finds nothing.
        this.0.set(MAGIC_AT, 0);
        this.0.set(LAYOUT_AT, LAYOUT);
        this.0.set(PLACES_AT, 0);
        this.0.set(EPOCH_AT, 1);
        (0..WORDS).for_each(|index| this.set_word(index, 0));
        this.0.set(MAGIC_AT, MAGIC);
        this
    }

    /// An empty store that ends with this process, for objects of `len` bytes together; blocks have memory of their own.
    #[must_use]
    pub fn private(len: usize) -> Self {
        Self::create(Memory::heap(TABLE_AT as usize + len))
    }

    pub(crate) fn with(
        memory: Memory,
        alloc: Alloc,
        known: Vec<Known>,
        unused: Vec<u32>,
        epoch: u64,
    ) -> Self {
        Self(Rc::new(Inner {
            memory,
            alloc: RefCell::new(alloc),
            objects: RefCell::new(Objects { known, unused, staged: Vec::new() }),
            epoch: Cell::new(epoch),
            has_scratch: Cell::new(true),
            #[cfg(test)]
            steps: crate::tests::Steps::default(),
        }))
    }

    /// A new object, of which nothing is there yet; `None` where there is no place for one more.
    #[must_use]
    pub fn add(&self) -> Option<Id> {
        let mut objects = self.0.objects.borrow_mut();
        if let Some(number) = objects.unused.pop() {
            return Some(Id(number));
        }
        let (most, _) = places(self.0.memory.len());
        let number = u32::try_from(objects.known.len()).ok().filter(|number| u64::from(*number) < most)?;
        // It may have been another's whose memory this was before.
        for side in 0..2 {
            self.0.write_entry(number, side, Entry::default());
        }
        objects.known.push(Known::default());
        self.0.set(PLACES_AT, u64::from(number) + 1);
        Some(Id(number))
    }

    /// The object is `bytes` from the next commit on, of a `kind` that whoever recovers it is told. False if there is no memory: then it
    /// is removed instead, as what it was is not true any more.
    pub fn put(&self, id: Id, kind: u32, bytes: &[u8]) -> bool {
        let Ok(len) = u32::try_from(bytes.len()) else {
            self.remove(id);
            return false;
        };
        let Some(extent) = self.0.alloc.borrow_mut().take(u64::from(len)) else {
            self.remove(id);
            return false;
        };
        self.0.step();
        if !self.0.memory.write(extent.offset, bytes) {
            self.remove(id);
            return false;
        }
        self.0.step();
        let entry = Entry { epoch: 0, offset: extent.offset, len, crc: crc32fast::hash(bytes), kind };
        self.stage(id, entry, Some(extent));
        true
    }

    /// The object is gone from the next commit on, and its number another's.
    pub fn remove(&self, id: Id) {
        self.stage(id, Entry::default(), None);
    }

    fn stage(&self, id: Id, entry: Entry, extent: Option<Extent>) {
        let mut objects = self.0.objects.borrow_mut();
        let Objects { known, staged, .. } = &mut *objects;
        let Some(known) = known.get_mut(id.0 as usize) else { return };
        match known.next.replace(extent) {
            None => staged.push(id.0),
            // Never in force.
            Some(replaced) => self.0.give(replaced),
        }
        self.0.write_entry(id.0, 1 - known.side, Entry { epoch: self.0.epoch.get() + 1, ..entry });
    }

    /// Makes true what was put and removed since the last commit, all of it at once.
    pub fn commit(&self) {
        let mut objects = self.0.objects.borrow_mut();
        let Objects { known, unused, staged } = &mut *objects;
        if staged.is_empty() {
            // What was given up may be named still.
            return;
        }
        let epoch = self.0.epoch.get() + 1;
        self.0.epoch.set(epoch);
        self.0.set(EPOCH_AT, epoch);
        let mut alloc = self.0.alloc.borrow_mut();
        for number in staged.drain(..) {
            let Some(known) = known.get_mut(number as usize) else { continue };
            let Some(next) = known.next.take() else { continue };
            if let Some(before) = std::mem::replace(&mut known.now, next) {
                alloc.leave(before);
            }
            known.side = 1 - known.side;
            if next.is_none() {
                unused.push(number);
            }
        }
        alloc.settle(|Extent { offset, len }| self.0.memory.forget(offset, len));
    }

    /// Bytes of memory that objects and blocks take.
    #[must_use]
    pub fn used(&self) -> u64 {
        self.0.alloc.borrow().used()
    }

    /// Word `index` of [`WORDS`], as it was stored last, also by an earlier process.
    #[must_use]
    pub fn word(&self, index: usize) -> u64 {
        self.0.get(WORDS_AT + 8 * (index % WORDS) as u64)
    }

    /// Stores word `index` of [`WORDS`], at once and whatever is committed.
    pub fn set_word(&self, index: usize, value: u64) {
        self.0.set(WORDS_AT + 8 * (index % WORDS) as u64, value);
    }

    /// The scratch area, which keeps its bytes for whoever comes next; once.
    #[must_use]
    pub fn scratch(&self) -> Option<Scratch> {
        let has_scratch = self.0.has_scratch.replace(false);
        let span = self.0.memory.span(SCRATCH_AT, SCRATCH).filter(|_| has_scratch)?;
        Some(Scratch { span, _store: self.clone() })
    }
}

impl Inner {
    /// Before a store that whoever recovers could see.
    fn step(&self) {
        #[cfg(test)]
        self.steps.pass(&self.memory);
    }

    fn get(&self, offset: u64) -> u64 {
        self.memory.word(offset).map_or(0, |word| word.load(Ordering::Relaxed))
    }

    /// What was stored before is there first.
    fn set(&self, offset: u64, value: u64) {
        self.step();
        if let Some(word) = self.memory.word(offset) {
            // Bytes are copied by plain stores: they stay in front of this one, and those that follow behind it.
            fence(Ordering::Release);
            word.store(value, Ordering::Release);
            fence(Ordering::SeqCst);
        }
    }

    fn write_entry(&self, number: u32, side: u8, entry: Entry) {
        for (offset, word) in entry.words(number, side) {
            self.step();
            if let Some(at) = self.memory.word(offset) {
                at.store(word, Ordering::Relaxed);
            }
        }
    }

    /// What was never in force is free at once.
    fn give(&self, extent: Option<Extent>) {
        let back = extent.and_then(|extent| self.alloc.borrow_mut().give(extent));
        if let Some(Extent { offset, len }) = back {
            self.memory.forget(offset, len);
        }
    }
}

fn entry_at(number: u32, side: u8) -> u64 {
    TABLE_AT + (u64::from(number) * 2 + u64::from(side)) * ENTRY
}

impl Entry {
    /// Its words and where they stand. The epoch is the first: until the others are there it is of a later epoch than the store's.
    fn words(self, number: u32, side: u8) -> [(u64, u64); 4] {
        let at = entry_at(number, side);
        let Self { epoch, offset, len, crc, kind } = self;
        let pair = u64::from(len) << 32 | u64::from(crc);
        [(at, epoch), (at + 8, offset), (at + 16, pair), (at + 24, u64::from(kind))]
    }

    pub(crate) fn read(memory: &Memory, number: u32, side: u8) -> Self {
        let at = entry_at(number, side);
        let word =
            |offset| memory.word(at + offset).map_or(0, |word: &AtomicU64| word.load(Ordering::Acquire));
        let pair = word(16);
        Self {
            epoch: word(0),
            offset: word(8),
            len: (pair >> 32) as u32,
            crc: pair as u32,
            kind: word(24) as u32,
        }
    }

    /// The entry is of an epoch that never was in force: it is none.
    pub(crate) fn scrub(memory: &Memory, number: u32, side: u8) {
        if let Some(epoch) = memory.word(entry_at(number, side)) {
            epoch.store(0, Ordering::Relaxed);
        }
    }
}

/// See [`Store::scratch`].
#[derive(Debug)]
pub struct Scratch {
    span: Span,
    _store: Store,
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        // It is only written to by whoever has it alone.
        self.span.front(self.span.len())
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.span.whole()
    }
}
