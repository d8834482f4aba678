//! Memory that is mapped from a file, byte by byte, within its bounds.
//!
//! One process at a time writes to it; that is what its file's owner sees to. Within the process everything is on one thread: nothing here
//! is `Send`.
#![expect(unsafe_code, reason = "memory that others have written before is reached by pointers")]

use std::cell::UnsafeCell;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::AtomicU64;

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::MemfdFlags;

use crate::layout::PAGE;

/// See the [module](self).
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    len: usize,
    keeper: Keeper,
}

/// What keeps the memory there; it never moves.
#[derive(Debug)]
enum Keeper {
    Mapped(MmapRaw),
    Heap(#[expect(dead_code, reason = "frees when it is dropped")] Box<[UnsafeCell<u64>]>),
}

impl Memory {
    /// A file in memory of `len` bytes, of which none are taken before they are written to.
    ///
    /// # Errors
    /// As of memfd_create(2) and ftruncate(2).
    pub fn file(name: &str, len: u64) -> io::Result<OwnedFd> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC)?;
        rustix::fs::ftruncate(&fd, len)?;
        Ok(fd)
    }

    /// All of `file`. What it holds stays until the last process has let go of it.
    ///
    /// # Errors
    /// As of fstat(2) and mmap(2).
    pub fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        let len = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
        if len == 0 {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an empty file"));
        }
        let map = MmapOptions::new().len(len).no_reserve_swap().map_raw(&file)?;
        let base =
            NonNull::new(map.as_mut_ptr()).ok_or_else(|| io::Error::other("mapped at the address 0"))?;
        Ok(Self { base, len, keeper: Keeper::Mapped(map) })
    }

    /// Memory of `len` bytes that ends with this process.
    #[must_use]
    pub fn heap(len: usize) -> Self {
        let words: Box<[UnsafeCell<u64>]> = (0..len.div_ceil(8)).map(|_| UnsafeCell::new(0)).collect();
        let base = words.first().map_or(NonNull::dangling(), |first| NonNull::from(first).cast::<u8>());
        Self { base, len: words.len() * 8, keeper: Keeper::Heap(words) }
    }

    /// Bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len as u64
    }

    /// Where the bytes from `offset` on lie, `len` of them, if there are as many.
    fn at(&self, offset: u64, len: usize) -> Option<NonNull<u8>> {
        let offset = usize::try_from(offset).ok()?;
        if offset.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: the offset is within the memory, or just behind it.
        Some(unsafe { self.base.add(offset) })
    }

    /// The word at `offset`, a multiple of 8.
    pub(crate) fn word(&self, offset: u64) -> Option<&AtomicU64> {
        let at = self.at(offset, 8)?.cast::<AtomicU64>();
        if !at.is_aligned() {
            return None;
        }
        // SAFETY: eight bytes of this memory that live as long as it does, at a multiple of 8; every bit pattern is a number. Words are
        // reached as atomics alone: `write`, `read` and spans are of other parts of the memory (`store` says which), and were they not,
        // one thread cannot race with itself.
        Some(unsafe { at.as_ref() })
    }

    /// Copies `bytes` to `offset`; false if there is no room.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        let Some(at) = self.at(offset, bytes.len()) else { return false };
        // SAFETY: as many bytes of this memory, which `bytes` are no part of: whoever calls writes where nothing is that anybody
        // refers to (`alloc` gives each extent to one owner).
        unsafe { at.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        true
    }

    /// A copy of the `len` bytes from `offset` on, if there are as many.
    pub(crate) fn read(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let at = self.at(offset, len)?;
        let mut bytes = vec![0; len];
        // SAFETY: as many bytes of this memory, all of them initialised, and the copy lies elsewhere.
        unsafe { at.as_ptr().copy_to_nonoverlapping(bytes.as_mut_ptr(), len) };
        Some(bytes)
    }

    /// Gives whole pages within `len` bytes from `offset` on back to the system: they are zero from now on.
    pub(crate) fn forget(&self, offset: u64, len: u64) {
        let (from, to) = (offset.next_multiple_of(PAGE), (offset + len) / PAGE * PAGE);
        let Keeper::Mapped(map) = &self.keeper else { return };
        if from >= to || to > self.len() {
            return;
        }
        if let Some((from, len)) = usize::try_from(from).ok().zip(usize::try_from(to - from).ok()) {
            // SAFETY: whole pages of a mapping of our own that nobody refers to: `alloc` has them back. A page that is gone reads as zeros.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::Remove, from, len) };
        }
    }

    /// The part of the memory that begins at `offset`, `len` bytes, for one owner.
    pub(crate) fn span(&self, offset: u64, len: usize) -> Option<Span> {
        self.at(offset, len).map(|base| Span { base, len })
    }
}

/// A part of a memory, or of the heap, that is its owner's alone. Whoever makes it keeps the memory there.
#[derive(Debug)]
pub(crate) struct Span {
    base: NonNull<u8>,
    len: usize,
}

impl Span {
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// The first `len` bytes, or all.
    ///
    /// The owner does not let anybody [`fill`](Self::fill) what it has given out here.
    pub(crate) fn front(&self, len: usize) -> &[u8] {
        // SAFETY: bytes of memory that the owner keeps there, all initialised; none of them is written to as long as the reference
        // lives, by the owner's promise.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), len.min(self.len)) }
    }

    /// All of it.
    pub(crate) fn whole(&mut self) -> &mut [u8] {
        // SAFETY: bytes of memory that the owner keeps there, all initialised, and nobody else refers to: the owner is borrowed alone.
        unsafe { std::slice::from_raw_parts_mut(self.base.as_ptr(), self.len) }
    }

    /// None.
    pub(crate) fn empty() -> Self {
        Self { base: NonNull::dangling(), len: 0 }
    }

    /// Gives `fill` the `len` bytes from `from` on; `None` where there are not as many.
    ///
    /// The owner has given out none of them by [`front`](Self::front), nor by a call of this that has not returned.
    pub(crate) fn fill<R>(&self, from: usize, len: usize, fill: impl FnOnce(&mut [u8]) -> R) -> Option<R> {
        if from.checked_add(len)? > self.len {
            return None;
        }
        // SAFETY: bytes of memory that the owner keeps there, all initialised; nobody else refers to them, by the owner's promise.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.base.add(from).as_ptr(), len) };
        Some(fill(bytes))
    }
}
