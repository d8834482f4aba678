//! Memory that is mapped from a file, byte by byte, within its bounds.
//!
//! All of this crate's `unsafe` is here. Raw pointers reach the memory; references into it are made in two places, [`Memory::word`] and
//! [`Span`], and never refer to the same bytes unless they are shared and nobody writes. Whose bytes are whose says `alloc` to the crate.
//! Nothing here is `Send`: within a process everything is on one thread.
#![expect(unsafe_code, reason = "memory that others have written before is reached by pointers")]

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw, UncheckedAdvice};
use rustix::fs::{MemfdFlags, SealFlags};

use crate::layout::PAGE;

/// See the [module](self).
#[derive(Debug)]
pub struct Memory {
    base: NonNull<u8>,
    len: usize,
    keeper: Keeper,
    #[cfg(test)]
    pub(crate) steps: crate::tests::Steps,
}

/// What keeps the memory there; it never moves.
#[derive(Debug)]
enum Keeper {
    Mapped(MmapRaw),
    Heap(#[expect(dead_code, reason = "frees when it is dropped")] Heap),
}

/// An allocation that nothing but the memory's pointer refers to: a `Box` would claim to be alone with it each time it is moved.
#[derive(Debug)]
struct Heap(NonNull<[u64]>);

impl Drop for Heap {
    fn drop(&mut self) {
        // SAFETY: `Memory::heap` has leaked this box, and it is given back once. Whoever has pointers to it has the memory too, or reads no
        // more by them.
        drop(unsafe { Box::from_raw(self.0.as_ptr()) });
    }
}

impl Memory {
    /// A file in memory of `len` bytes, of which none are taken before they are written to, and which stays as long as it is: it is sealed.
    ///
    /// # Errors
    /// As of memfd_create(2), ftruncate(2) and fcntl(2).
    pub fn file(name: &str, len: u64) -> io::Result<OwnedFd> {
        let fd = rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        rustix::fs::ftruncate(&fd, len)?;
        rustix::fs::fcntl_add_seals(&fd, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
        Ok(fd)
    }

    /// All of `file`, which is one of [`Memory::file`]. What it holds stays until the last process has let go of it.
    ///
    /// # Safety
    /// As long as this lives, and what was made of it, nobody else writes to the file, be it by another mapping, write(2) or another
    /// process. Its bytes may be any.
    ///
    /// # Errors
    /// As of fcntl(2), fstat(2) and mmap(2). `InvalidInput` where the file is empty, or might be cut while it is mapped.
    pub unsafe fn map(file: BorrowedFd<'_>) -> io::Result<Self> {
        // A page that is cut off is a SIGBUS for whoever reads it.
        let is_sealed = rustix::fs::fcntl_get_seals(file)?.contains(SealFlags::SHRINK);
        let len = usize::try_from(rustix::fs::fstat(file)?.st_size).unwrap_or(0);
        if !is_sealed || len == 0 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a sealed file with something in it",
            ));
        }
        let map = MmapOptions::new().len(len).no_reserve_swap().map_raw(&file)?;
        let base =
            NonNull::new(map.as_mut_ptr()).ok_or_else(|| io::Error::other("mapped at the address 0"))?;
        Ok(Self::kept(base, len, Keeper::Mapped(map)))
    }

    /// Memory of `len` bytes, or a few more, that ends with this process.
    #[must_use]
    pub fn heap(len: usize) -> Self {
        let words = NonNull::from(Box::leak(vec![0_u64; len.div_ceil(8)].into_boxed_slice()));
        Self::kept(words.cast(), words.len() * 8, Keeper::Heap(Heap(words)))
    }

    fn kept(base: NonNull<u8>, len: usize, keeper: Keeper) -> Self {
        Self {
            base,
            len,
            keeper,
            #[cfg(test)]
            steps: crate::tests::Steps::default(),
        }
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
        // SAFETY: the offset is within the one allocation or mapping that `base` is the beginning of, or just behind it; neither is longer
        // than `isize::MAX`.
        Some(unsafe { self.base.add(offset) })
    }

    /// The word at `offset`, a multiple of 8 within the layout's own part of the memory, where no [`Span`] is.
    fn word(&self, offset: u64) -> Option<&AtomicU64> {
        let at = self.at(offset, 8)?.cast::<AtomicU64>();
        if !at.is_aligned() {
            return None;
        }
        // SAFETY: eight initialised bytes of this memory, which lives as long as the reference, at a multiple of 8; every bit pattern is a
        // number. Others that refer to them are atomics too. `write`, `read` and `forget` reach them by no reference, and on one thread
        // nothing races.
        Some(unsafe { at.as_ref() })
    }

    /// The number at `offset`, see [`word`](Self::word); 0 where there is none.
    pub(crate) fn load(&self, offset: u64) -> u64 {
        self.word(offset).map_or(0, |word| word.load(Ordering::Acquire))
    }

    /// Stores a number at `offset`, see [`word`](Self::word), at once: of a process that dies all that was stored before is there if this
    /// is. What is stored behind it by other means may be there first.
    pub(crate) fn store(&self, offset: u64, value: u64) {
        #[cfg(test)]
        self.steps.pass(self);
        if let Some(word) = self.word(offset) {
            word.store(value, Ordering::Release);
        }
    }

    /// Copies `bytes` to `offset`, where no [`Span`] is; false if there is no room.
    pub(crate) fn write(&self, offset: u64, bytes: &[u8]) -> bool {
        #[cfg(test)]
        self.write_in_steps(offset, bytes);
        let Some(at) = self.at(offset, bytes.len()) else { return false };
        // SAFETY: as many bytes of this memory. `bytes` are no part of them: a reference to bytes of this memory is a span's, and `alloc`
        // gives each extent to one owner.
        unsafe { at.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) };
        true
    }

    /// A copy of the `len` bytes from `offset` on, if there are as many, and nobody has them by [`Span::fill`] or [`Span::whole`].
    pub(crate) fn read(&self, offset: u64, len: usize) -> Option<Vec<u8>> {
        let at = self.at(offset, len)?;
        let mut bytes = vec![0; len];
        // SAFETY: as many bytes of this memory, all of them initialised, and the copy lies elsewhere.
        unsafe { at.as_ptr().copy_to_nonoverlapping(bytes.as_mut_ptr(), len) };
        Some(bytes)
    }

    /// Gives whole pages within `len` bytes from `offset` on back to the system, if it takes them: they may be anything from now on.
    pub(crate) fn forget(&self, offset: u64, len: u64) {
        let (from, to) = (offset.next_multiple_of(PAGE), offset.saturating_add(len) / PAGE * PAGE);
        if from >= to || to > self.len() {
            return;
        }
        #[cfg(test)]
        self.poison(from, to);
        let Keeper::Mapped(map) = &self.keeper else { return };
        if let Some((from, len)) = usize::try_from(from).ok().zip(usize::try_from(to - from).ok()) {
            // SAFETY: whole pages of a shared mapping of our own that nobody refers to: `alloc` has them back. A page that is gone reads
            // as zeros.
            let _ = unsafe { map.unchecked_advise_range(UncheckedAdvice::Remove, from, len) };
        }
    }

    /// The part of the memory that begins at `offset`, `len` bytes, for one owner, who keeps the memory there.
    pub(crate) fn span(&self, offset: u64, len: usize) -> Option<Span> {
        self.at(offset, len).map(|base| Span { base, len })
    }

    /// A process may die in the middle of `bytes`: copies the first half of them.
    #[cfg(test)]
    fn write_in_steps(&self, offset: u64, bytes: &[u8]) {
        self.steps.pass(self);
        if let Some(at) = self.at(offset, bytes.len()) {
            // SAFETY: as in `write`.
            unsafe { at.as_ptr().copy_from_nonoverlapping(bytes.as_ptr(), bytes.len() / 2) };
            self.steps.pass(self);
        }
    }

    /// What is given back is nobody's: makes it what nobody has put there.
    #[cfg(test)]
    pub(crate) fn poison(&self, from: u64, to: u64) {
        if let Some(at) = self.at(from, (to - from) as usize)
            && matches!(self.keeper, Keeper::Heap(_))
        {
            // SAFETY: as many bytes of this memory, to which nobody refers.
            unsafe { at.as_ptr().write_bytes(0xdb, (to - from) as usize) };
        }
    }
}

/// A part of a memory that is its owner's alone: no other span has any of its bytes, nor does [`Memory::write`] reach them. The owner keeps
/// the memory there.
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
    /// As long as they are borrowed the owner does not let anybody [`fill`](Self::fill) them.
    pub(crate) fn front(&self, len: usize) -> &[u8] {
        // SAFETY: bytes of a memory that the owner keeps there, all initialised, which nobody writes to as long as the reference lives:
        // `whole` takes the span alone, and `fill` is the owner's promise. The rest of the span may be written to meanwhile: the
        // reference is made from the memory's pointer, to these bytes alone.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr(), len.min(self.len)) }
    }

    /// All of it.
    pub(crate) fn whole(&mut self) -> &mut [u8] {
        // SAFETY: bytes of a memory that the owner keeps there, all initialised. The span is borrowed alone, and no other has them.
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
        // SAFETY: bytes of a memory that the owner keeps there, all initialised. Nobody else refers to them, by the owner's promise: what
        // `front` has given out are other bytes, by a reference of their own.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.base.add(from).as_ptr(), len) };
        Some(fill(bytes))
    }
}
