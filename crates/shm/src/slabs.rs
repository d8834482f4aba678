//! Extents of less than a page, which are cut from slabs.
//!
//! A slab is pieces of one length, and begins at a multiple of [`SLAB`]: so a piece says which slab it is of, also to whoever comes after a
//! death. The first slab that has room is used first, so that others become empty. Of each length one empty slab is kept, as that costs
//! nothing to use again; the others are given back, or what there was once, as when all is written down anew after a death, would be held
//! for ever.

use std::collections::{BTreeMap, BTreeSet};

use crate::layout::{GRAIN, PAGE};

/// Extents of less than a page are cut from so many bytes.
pub(crate) const SLAB: u64 = 16 * 1024;
/// Pieces of a slab at most, in words of a bit for each.
const WORDS: usize = (SLAB / GRAIN / 64) as usize;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Slabs {
    slabs: BTreeMap<u64, Slab>,
    /// By the length of their pieces in grains.
    lengths: Vec<Length>,
}

/// Those of one length.
#[derive(Clone, Debug, Default)]
struct Length {
    /// That have room.
    open: BTreeSet<u64>,
    /// So many of them have nothing else.
    empty: usize,
}

#[derive(Debug)]
struct Slab {
    /// Bytes of a piece.
    len: u64,
    /// The pieces that are nobody's, the first one's bit being the lowest.
    free: [u64; WORDS],
}

impl Slab {
    fn new(len: u64) -> Self {
        let mut this = Self { len, free: [0; WORDS] };
        (0..SLAB / len).for_each(|index| *this.word(index) |= 1 << (index % 64));
        this
    }

    fn word(&mut self, index: u64) -> &mut u64 {
        let last = WORDS - 1;
        &mut self.free[usize::try_from(index / 64).unwrap_or(last).min(last)]
    }

    /// How many pieces are free.
    fn room(&self) -> u64 {
        self.free.iter().map(|word| u64::from(word.count_ones())).sum()
    }

    fn is_empty(&self) -> bool {
        self.room() == SLAB / self.len
    }

    fn first_free(&self) -> Option<u64> {
        let (at, word) = (0..).zip(self.free).find(|(_, word)| *word != 0)?;
        Some(at * 64 + u64::from(word.trailing_zeros()))
    }

    /// Which piece begins at `offset` of the slab.
    fn index(&self, offset: u64, len: u64) -> Option<u64> {
        let index = offset / self.len;
        (len == self.len && offset.is_multiple_of(len) && index < SLAB / len).then_some(index)
    }
}

/// Where the slab of what lies at `offset` would begin.
fn base_of(offset: u64) -> u64 {
    offset / SLAB * SLAB
}

impl Slabs {
    /// None.
    pub(crate) fn new() -> Self {
        Self { slabs: BTreeMap::new(), lengths: vec![Length::default(); (PAGE / GRAIN) as usize] }
    }

    /// Those between `begin` and `end` that `used` has pieces of, begin and end of each. What cannot be a piece, or has others in its slab
    /// that cannot be of the same, is of none. The room that they have is used once one of their pieces is given up: whoever goes on after a
    /// death writes down all anew, and leaves them empty.
    pub(crate) fn of(used: &BTreeMap<u64, u64>, (begin, end): (u64, u64)) -> Self {
        let mut slabs = BTreeMap::new();
        for (&at, &to) in used {
            let (len, base) = (to - at, base_of(at));
            let is_small = len < PAGE && base >= begin && base + SLAB <= end;
            let slab = slabs.entry(base).or_insert_with(|| is_small.then(|| Slab::new(len)));
            let index = slab.as_ref().and_then(|slab| slab.index(at - base, len));
            match slab.as_mut().zip(index) {
                Some((slab, index)) => *slab.word(index) &= !(1 << (index % 64)),
                None => *slab = None,
            }
            // Of those between nobody else has anything.
            if base_of(to - 1) != base {
                slabs.insert(base_of(to - 1), None);
            }
        }
        let slabs = slabs.into_iter().filter_map(|(base, slab)| Some((base, slab?)));
        Self { slabs: slabs.collect(), ..Self::new() }
    }

    /// Where they begin.
    pub(crate) fn bases(&self) -> impl Iterator<Item = u64> {
        self.slabs.keys().copied()
    }

    fn length(&mut self, len: u64) -> &mut Length {
        let last = self.lengths.len() - 1;
        &mut self.lengths[usize::try_from(len / GRAIN).unwrap_or(last).min(last)]
    }

    /// A piece of `len` bytes; `None` where no slab has one.
    pub(crate) fn take(&mut self, len: u64) -> Option<u64> {
        let base = *self.length(len).open.first()?;
        let slab = self.slabs.get_mut(&base)?;
        let index = slab.first_free()?;
        let was_empty = slab.is_empty();
        *slab.word(index) &= !(1 << (index % 64));
        let is_full = slab.room() == 0;
        let length = self.length(len);
        length.empty -= usize::from(was_empty);
        if is_full {
            length.open.remove(&base);
        }
        Some(base + index * len)
    }

    /// A slab for pieces of `len` bytes at `base`, a multiple of [`SLAB`].
    pub(crate) fn add(&mut self, base: u64, len: u64) {
        self.slabs.insert(base, Slab::new(len));
        let length = self.length(len);
        length.open.insert(base);
        length.empty += 1;
    }

    /// The piece of `len` bytes at `offset` is free. Gives where the slab begins that is to be given back for it. One that is of no slab
    /// stays as it is, for whoever comes after the next death.
    pub(crate) fn give(&mut self, offset: u64, len: u64) -> Option<u64> {
        let base = base_of(offset);
        let slab = self.slabs.get_mut(&base)?;
        let index = slab.index(offset - base, len)?;
        *slab.word(index) |= 1 << (index % 64);
        let is_empty = slab.is_empty();
        let length = self.length(len);
        length.open.insert(base);
        if !is_empty {
            return None;
        }
        if length.empty == 0 {
            length.empty = 1;
            return None;
        }
        length.open.remove(&base);
        self.slabs.remove(&base);
        Some(base)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_slabs_of_a_length_that_are_empty_all_but_one_are_given_back() {
        let (mut slabs, pieces) = (Slabs::new(), SLAB / 320);
        let mut taken = Vec::new();
        for base in [3, 1, 2].map(|slab| slab * SLAB) {
            slabs.add(base, 320);
            taken.extend((0..pieces).map(|_| slabs.take(320).unwrap()));
            assert_eq!((slabs.take(320), slabs.take(384)), (None, None));
        }
        assert_eq!(taken[pieces as usize], SLAB, "the first piece of the second");
        let back: Vec<_> = taken.iter().rev().filter_map(|piece| slabs.give(*piece, 320)).collect();
        assert_eq!(back, [SLAB, 3 * SLAB]);
        // The one that is left is used again, and given back no more than it was.
        for _ in 0..3 {
            assert_eq!(slabs.take(320), Some(2 * SLAB));
            assert_eq!(slabs.give(2 * SLAB, 320), None);
        }
    }

    #[test]
    fn the_first_slab_that_has_room_is_used_first() {
        let mut slabs = Slabs::new();
        let pieces = SLAB / 1_024;
        for slab in 0..3 {
            slabs.add(slab * SLAB, 1_024);
            (0..pieces).for_each(|_| assert!(slabs.take(1_024).is_some()));
        }
        for piece in [2 * SLAB + 1_024, SLAB + 2_048, 3_072, 1_024] {
            assert_eq!(slabs.give(piece, 1_024), None);
        }
        let taken: Vec<_> = (0..5).map(|_| slabs.take(1_024)).collect();
        assert_eq!(taken, [Some(1_024), Some(3_072), Some(SLAB + 2_048), Some(2 * SLAB + 1_024), None]);
    }

    #[test]
    fn whoever_comes_after_a_death_finds_slabs_and_leaves_alone_what_cannot_be_one() {
        let at = |slab: u64, from: u64, len: u64| (slab * SLAB + from, slab * SLAB + from + len);
        let used = BTreeMap::from([
            at(1, 640, 640),
            at(1, 25 * 640 - 640, 640),
            // Two lengths; off its grid; into the next one; of a page; behind the last that fits.
            at(2, 0, 640),
            at(2, 1_280, 320),
            at(3, 64, 640),
            at(4, SLAB - 64, 128),
            at(5, 128, 128),
            at(6, 0, PAGE),
            at(6, PAGE, 64),
            at(7, 0, 64),
        ]);
        let mut slabs = Slabs::of(&used, (SLAB, 8 * SLAB - 1));
        assert_eq!(slabs.bases().collect::<Vec<_>>(), [SLAB]);
        for (from, to) in used.range(2 * SLAB..) {
            assert_eq!(slabs.give(*from, to - from), None);
        }
        assert_eq!((slabs.take(128), slabs.take(640)), (None, None), "before one is given up");
        assert_eq!(slabs.give(SLAB + 640, 640), None);
        let taken: Vec<_> = std::iter::from_fn(|| slabs.take(640)).collect();
        assert_eq!((taken.len() as u64, taken.first()), (SLAB / 640 - 1, Some(&SLAB)));
        assert!(!taken.contains(&(SLAB + 24 * 640)), "it is somebody's");
    }
}
