//! Bytes that are appended once and never move.

use std::cell::Cell;

use serde::{Deserialize, Serialize};

use crate::alloc::Extent;
use crate::memory::{Memory, Span};
use crate::store::Store;

/// Where a block lies, for the object that names it: whoever recovers that has its bytes by [`Recovery::adopt`](crate::Recovery::adopt).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Place {
    pub(crate) offset: u64,
    pub(crate) capacity: u32,
    /// Bytes that have been appended.
    pub(crate) len: u32,
}

impl Place {
    /// Bytes that have been appended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Whether nothing has been appended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// See the [module](self). Its memory is free from the commit on that follows its drop.
#[derive(Debug)]
pub struct Block {
    span: Span,
    len: Cell<usize>,
    is_filling: Cell<bool>,
    home: Home,
}

/// Whose memory it is.
#[derive(Debug)]
enum Home {
    Store(Store, Extent),
    /// The store had no room.
    Own(#[expect(dead_code, reason = "frees when it is dropped")] Memory),
}

impl Store {
    /// Memory for `capacity` bytes that are appended to.
    #[must_use]
    pub fn block(&self, capacity: usize) -> Block {
        Block::new(self, capacity)
    }
}

impl Block {
    fn new(store: &Store, capacity: usize) -> Self {
        let extent = store.0.alloc.borrow_mut().take(capacity as u64);
        let span = extent.and_then(|extent| store.0.memory.span(extent.offset, capacity).zip(Some(extent)));
        let (span, home) = match span {
            Some((span, extent)) => (span, Home::Store(store.clone(), extent)),
            None => {
                let memory = Memory::heap(capacity);
                let span = memory.span(0, capacity).unwrap_or_else(Span::empty);
                (span, Home::Own(memory))
            }
        };
        Self { span, len: Cell::new(0), is_filling: Cell::new(false), home }
    }

    /// The block that an earlier process had at `extent`, of which `len` bytes count.
    pub(crate) fn adopted(store: &Store, extent: Extent, capacity: usize, len: usize) -> Option<Self> {
        let span = store.0.memory.span(extent.offset, capacity)?;
        let home = Home::Store(store.clone(), extent);
        Some(Self { span, len: Cell::new(len.min(capacity)), is_filling: Cell::new(false), home })
    }

    /// Bytes that it has room for.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.span.len()
    }

    /// Bytes that have been appended.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len.get()
    }

    /// Whether nothing has been appended.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What has been appended.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        // `append` fills only what lies behind.
        self.span.front(self.len.get())
    }

    /// Appends `len` bytes that `fill` writes; false if there is no room for them.
    pub fn append(&self, len: usize, fill: impl FnOnce(&mut [u8])) -> bool {
        // A `fill` that appends to the same block would have the same bytes.
        if self.is_filling.replace(true) {
            return false;
        }
        let filling = Filling(&self.is_filling);
        let filled = self.span.fill(self.len.get(), len, fill);
        drop(filling);
        if filled.is_some() {
            self.len.set(self.len.get() + len);
        }
        filled.is_some()
    }

    /// Where it lies; `None` where it ends with this process.
    #[must_use]
    pub fn place(&self) -> Option<Place> {
        match &self.home {
            Home::Store(_, extent) => Some(Place {
                offset: extent.offset,
                capacity: u32::try_from(self.capacity()).ok()?,
                len: u32::try_from(self.len()).ok()?,
            }),
            Home::Own(_) => None,
        }
    }
}

/// Until it is dropped, also by a panic.
struct Filling<'a>(&'a Cell<bool>);

impl Drop for Filling<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Home::Store(store, extent) = &self.home {
            store.0.alloc.borrow_mut().leave(*extent);
        }
    }
}
