//! What stands where in the memory. A change of any of it, and of what is meant by a word, is another [`LAYOUT`].

/// What such memory begins with.
pub(crate) const MAGIC: u64 = u64::from_le_bytes(*b"srsctl\0\x01");
/// The layout of what follows.
pub const LAYOUT: u64 = 1;
/// The oldest layout that is read too: the one before, of which there is an image in worker/tests/images.
pub const OLDEST_LAYOUT: u64 = 1;

pub(crate) const MAGIC_AT: u64 = 0;
pub(crate) const LAYOUT_AT: u64 = 8;
pub(crate) const EPOCH_AT: u64 = 16;
/// Commits at most: a million a second for longer than there have been computers. So an epoch has a next one.
pub(crate) const EPOCHS: u64 = 1 << 56;
/// Objects that have a place in the table.
pub(crate) const PLACES_AT: u64 = 24;
pub(crate) const WORDS_AT: u64 = 64;
pub(crate) const SCRATCH_AT: u64 = 4096;
pub(crate) const TABLE_AT: u64 = SCRATCH_AT + SCRATCH as u64;

/// Words that are stored at once, each for itself: see [`Store::set_word`](crate::Store::set_word).
pub const WORDS: usize = 16;
/// Bytes of the scratch area: what is read from a socket at once. The smallest messages of one read take about 2 ms.
pub(crate) const SCRATCH: usize = 32 * 1024;
/// Objects at most.
pub(crate) const OBJECTS: u64 = 1 << 20;
/// Bytes of an entry of the table; each object has two.
pub(crate) const ENTRY: u64 = 32;
/// Extents begin and end at multiples of this, bytes: a cache line.
pub(crate) const GRAIN: u64 = 64;
/// Pages of this many bytes are given back to the system.
pub(crate) const PAGE: u64 = 4096;
