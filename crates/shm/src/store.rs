//! Objects that change together. See the [crate](crate).
//!
//! # The order of stores
//!
//! Nobody reads along: a process comes only after the one before is dead, which the kernel has seen. A processor that is interrupted has
//! done all instructions up to one and none behind it, so a death finds this thread between two of its instructions, as a handler of
//! signals would, and all that has to be kept in order is the compiler. [`Memory::store`] is a release, so that whatever the code stores
//! before it is there before it; a [`compiler_fence`] keeps what must not be there before.

use std::cell::{Cell, RefCell};
use std::ops::{Deref, DerefMut};
use std::rc::Rc;
use std::sync::atomic::{Ordering, compiler_fence};

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
    /// Somebody has its [`Id`].
    pub(crate) is_owned: bool,
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
        this.0.memory.store(MAGIC_AT, 0);
        this.0.memory.store(LAYOUT_AT, LAYOUT);
        this.0.memory.store(PLACES_AT, 0);
        this.0.memory.store(EPOCH_AT, 1);
        (0..WORDS).for_each(|index| this.set_word(index, 0));
        this.0.memory.store(MAGIC_AT, MAGIC);
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
        }))
    }

    /// A new object, of which nothing is there yet; `None` where there is no place for one more.
    #[must_use]
    pub fn add(&self) -> Option<Id> {
        let mut objects = self.0.objects.borrow_mut();
        let Objects { known, unused, .. } = &mut *objects;
        if let Some(number) = unused.pop() {
            if let Some(known) = known.get_mut(number as usize) {
                known.is_owned = true;
            }
            return Some(Id(number));
        }
        let (most, _) = places(self.0.memory.len());
        let number = u32::try_from(known.len()).ok().filter(|number| u64::from(*number) < most)?;
        // The place may have entries of a store that was here before. Nobody reads them until it counts.
        for side in 0..2 {
            Entry::default().write(&self.0.memory, number, side);
        }
        known.push(Known { is_owned: true, ..Known::default() });
        self.0.memory.store(PLACES_AT, u64::from(number) + 1);
        Some(Id(number))
    }

    /// The object is `bytes` from the next commit on, of a `kind` that whoever recovers it is told. False if there is no memory: then
    /// nothing of it is there from the next commit on, as what it was is not true any more. Its number stays its own.
    pub fn put(&self, id: Id, kind: u32, bytes: &[u8]) -> bool {
        let is_owned = self.0.objects.borrow().known.get(id.0 as usize).is_some_and(|known| known.is_owned);
        let len = u32::try_from(bytes.len()).ok().filter(|_| is_owned);
        let extent = len.and_then(|len| self.0.alloc.borrow_mut().take(len.into()));
        let Some((len, extent)) = len.zip(extent) else {
            self.stage(id, Entry::default(), None);
            return false;
        };
        self.0.memory.write(extent.offset, bytes);
        let entry = Entry { epoch: 0, offset: extent.offset, len, crc: crc32fast::hash(bytes), kind };
        self.stage(id, entry, Some(extent));
        true
    }

    /// [`put`](Self::put) and [`commit`](Self::commit) in the wrong order: the object is in force, `meanwhile` is called, and then its bytes are
    /// written. So it can be seen whether anybody notices.
    #[cfg(any(test, feature = "failpoints"))]
    pub fn put_early(&self, id: Id, kind: u32, bytes: &[u8], meanwhile: impl FnOnce()) {
        let Some(extent) = self.0.alloc.borrow_mut().take(bytes.len() as u64) else { return };
        let crc = crc32fast::hash(bytes);
        let entry = Entry { epoch: 0, offset: extent.offset, len: bytes.len() as u32, crc, kind };
        self.stage(id, entry, Some(extent));
        self.commit();
        meanwhile();
        self.0.memory.write(extent.offset, bytes);
    }

    /// The object is gone from the next commit on, and then its number is another's. What has been removed already stays as it is.
    pub fn remove(&self, id: Id) {
        self.stage(id, Entry::default(), None);
        if let Some(known) = self.0.objects.borrow_mut().known.get_mut(id.0 as usize) {
            known.is_owned = false;
        }
    }

    fn stage(&self, id: Id, entry: Entry, extent: Option<Extent>) {
        let mut objects = self.0.objects.borrow_mut();
        let Objects { known, staged, .. } = &mut *objects;
        let Some(known) = known.get_mut(id.0 as usize).filter(|known| known.is_owned) else { return };
        match known.next.replace(extent) {
            None => staged.push(id.0),
            // Never in force.
            Some(replaced) => self.0.give(replaced),
        }
        Entry { epoch: self.0.epoch.get() + 1, ..entry }.write(&self.0.memory, id.0, 1 - known.side);
    }

    /// Makes true what was put and removed since the last commit, all of it at once. Where that is nothing, what was given up stays, as it
    /// may be named still.
    pub fn commit(&self) {
        let mut objects = self.0.objects.borrow_mut();
        let Objects { known, unused, staged } = &mut *objects;
        if staged.is_empty() {
            return;
        }
        let epoch = self.0.epoch.get() + 1;
        self.0.epoch.set(epoch);
        self.0.memory.store(EPOCH_AT, epoch);
        // What was in force may be written over from here on, and not before.
        compiler_fence(Ordering::SeqCst);
        let mut alloc = self.0.alloc.borrow_mut();
        for number in staged.drain(..) {
            let Some(known) = known.get_mut(number as usize) else { continue };
            let Some(next) = known.next.take() else { continue };
            if let Some(before) = std::mem::replace(&mut known.now, next) {
                alloc.leave(before);
            }
            known.side = 1 - known.side;
            if !known.is_owned {
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
        self.0.memory.load(WORDS_AT + 8 * (index % WORDS) as u64)
    }

    /// Stores word `index` of [`WORDS`], at once and whatever is committed: before the commits that follow, and behind those before.
    pub fn set_word(&self, index: usize, value: u64) {
        self.0.memory.store(WORDS_AT + 8 * (index % WORDS) as u64, value);
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
    /// Its words, of which the last one has what says that the others are its.
    fn words(self, number: u32) -> [u64; 4] {
        let Self { epoch, offset, len, crc, kind } = self;
        let (pair, kind) = (u64::from(len) << 32 | u64::from(crc), u64::from(kind));
        let mut bytes = [0; 32];
        for (at, word) in bytes.chunks_exact_mut(8).zip([epoch, offset, pair, kind << 32 | u64::from(number)])
        {
            at.copy_from_slice(&word.to_le_bytes());
        }
        [epoch, offset, pair, u64::from(crc32fast::hash(&bytes)) << 32 | kind]
    }

    /// The epoch is the first of its words: until the others are there the entry is of a later epoch than the store's, or of none.
    fn write(self, memory: &Memory, number: u32, side: u8) {
        let at = entry_at(number, side);
        for (index, word) in (0..).zip(self.words(number)) {
            memory.store(at + 8 * index, word);
        }
    }

    /// The entry, and whether it is as it was written.
    pub(crate) fn read(memory: &Memory, number: u32, side: u8) -> (Self, bool) {
        let at = entry_at(number, side);
        let words = [0, 1, 2, 3].map(|index| memory.load(at + 8 * index));
        let [epoch, offset, pair, kind] = words;
        let entry = Self { epoch, offset, len: (pair >> 32) as u32, crc: pair as u32, kind: kind as u32 };
        (entry, entry.words(number) == words)
    }

    /// The entry is none from here on.
    pub(crate) fn scrub(memory: &Memory, number: u32, side: u8) {
        memory.store(entry_at(number, side), 0);
    }
}

/// Makes an entry of `image` one that is as it would be written, with what it says of the bytes there as far as they are there.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn forge(
    image: &mut [u8],
    (number, side): (u32, u8),
    (epoch, offset, len, kind): (u64, u64, u32, u32),
) {
    let bytes = usize::try_from(offset).ok().and_then(|offset| image.get(offset..)?.get(..len as usize));
    let crc = bytes.map_or(0, crc32fast::hash);
    let words = Entry { epoch, offset, len, crc, kind }.words(number);
    for (at, word) in (entry_at(number, side) as usize..).step_by(8).zip(words) {
        if let Some(at) = image.get_mut(at..at + 8) {
            at.copy_from_slice(&word.to_le_bytes());
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
        // Nobody fills it.
        self.span.front(self.span.len())
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.span.whole()
    }
}
