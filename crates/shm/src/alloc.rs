//! Which parts of the memory are whose. Kept in private memory alone: who comes after a death learns it from what is in force.

use std::collections::{BTreeMap, VecDeque};

use crate::layout::PAGE;

/// Extents begin and end at multiples of this, bytes: a cache line.
const GRAIN: u64 = 64;
/// Extents up to this are kept by size for the next of the same size, bytes; larger ones are pieces of what is free.
const KEPT: u64 = 256 * 1024;
/// Extents of less than a page are cut from so many bytes.
const SLAB: u64 = 16 * 1024;
/// Bytes of kept extents, of a page or more, that have memory; those beyond it give it back.
const WARM: u64 = 4 << 20;

/// A part of the memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// Free extents of one size.
#[derive(Debug, Default)]
struct Kept {
    extents: VecDeque<u64>,
    /// How many at the end have memory.
    warm: usize,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Alloc {
    /// What is free and larger than [`KEPT`], or was never used: begin and end.
    free: BTreeMap<u64, u64>,
    /// Free extents up to [`KEPT`] by their length; the last ones have memory.
    kept: BTreeMap<u64, Kept>,
    /// Bytes of those that have memory, if they are of a page or more.
    warm: u64,
    /// Given up, and named by what is in force until the next commit.
    leaving: Vec<Extent>,
    used: u64,
}

/// How much room `len` bytes take: a quarter more at most.
pub(crate) fn room(len: u64) -> u64 {
    let len = len.max(GRAIN);
    let step = (len.next_power_of_two() / 8).max(GRAIN);
    let step = if len > PAGE { step.max(PAGE) } else { step };
    len.next_multiple_of(step)
}

impl Alloc {
    /// All from `begin` to `end` is free.
    pub(crate) fn new(begin: u64, end: u64) -> Self {
        let begin = begin.next_multiple_of(PAGE);
        let mut free = BTreeMap::new();
        if begin < end {
            free.insert(begin, end / PAGE * PAGE);
        }
        Self { free, kept: BTreeMap::new(), warm: 0, leaving: Vec::new(), used: 0 }
    }

    /// All from `begin` to `end` is free but for `used`, begin and end of each. Less than a page between two is lost until the next death.
    pub(crate) fn beside(begin: u64, end: u64, used: &BTreeMap<u64, u64>) -> Self {
        let mut this = Self::new(begin, end);
        let Some((mut from, end)) = this.free.pop_first() else { return this };
        for (&begin, &end) in used {
            if from < begin / PAGE * PAGE {
                this.free.insert(from, begin / PAGE * PAGE);
            }
            from = from.max(end.next_multiple_of(PAGE));
            this.used += end - begin;
        }
        if from < end {
            this.free.insert(from, end);
        }
        this
    }

    /// Bytes that are somebody's.
    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    /// What is free, but for what is kept by size.
    pub(crate) fn gaps(&self) -> impl Iterator<Item = Extent> {
        self.free.iter().map(|(&offset, &end)| Extent { offset, len: end - offset })
    }

    /// Room for `len` bytes.
    pub(crate) fn take(&mut self, len: u64) -> Option<Extent> {
        let len = room(len);
        let kept = self.kept.get_mut(&len);
        let offset = match kept.and_then(|kept| Some((kept.extents.pop_back()?, kept))) {
            Some((offset, kept)) => {
                if len >= PAGE && kept.warm > 0 {
                    kept.warm -= 1;
                    self.warm -= len;
                }
                offset
            }
            None => self.carve(len)?,
        };
        self.used += len;
        Some(Extent { offset, len })
    }

    fn carve(&mut self, len: u64) -> Option<u64> {
        // Small ones of one size share pages.
        let piece = if len < PAGE { SLAB } else { len };
        let (offset, end) =
            self.free.iter().map(|(from, to)| (*from, *to)).find(|(from, to)| to - from >= piece)?;
        self.free.remove(&offset);
        if offset + piece < end {
            self.free.insert(offset + piece, end);
        }
        if len < PAGE {
            let kept = self.kept.entry(len).or_default();
            let all = (0..piece / len).map(|index| offset + index * len);
            kept.extents.extend(all.rev());
            return kept.extents.pop_back();
        }
        Some(offset)
    }

    /// `extent` is given up; from the next commit on it is free.
    pub(crate) fn leave(&mut self, extent: Extent) {
        self.leaving.push(extent);
    }

    /// What `before` was to give up is given up here.
    pub(crate) fn take_over(&mut self, before: &mut Self) {
        self.leaving.append(&mut before.leaving);
    }

    /// `extent` is free at once: nothing in force names it. What is to be given back to the system.
    pub(crate) fn give(&mut self, Extent { offset, len }: Extent) -> Option<Extent> {
        self.used = self.used.saturating_sub(len);
        if len > KEPT {
            self.insert(offset, offset + len);
            return Some(Extent { offset, len });
        }
        let kept = self.kept.entry(len).or_default();
        if len < PAGE {
            kept.extents.push_back(offset);
            return None;
        }
        if self.warm + len <= WARM {
            kept.extents.push_back(offset);
            kept.warm += 1;
            self.warm += len;
            return None;
        }
        // In front of those that have memory.
        kept.extents.push_front(offset);
        Some(Extent { offset, len })
    }

    /// After a commit: what was given up is free. What is to be given back to the system is passed to `forget`.
    pub(crate) fn settle(&mut self, mut forget: impl FnMut(Extent)) {
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.drain(..).filter_map(|extent| self.give(extent)).for_each(&mut forget);
        self.leaving = leaving;
    }

    /// Adds what is free, and joins it to its neighbours.
    fn insert(&mut self, mut from: u64, mut to: u64) {
        if let Some((&before, &end)) = self.free.range(..from).next_back()
            && end == from
        {
            self.free.remove(&before);
            from = before;
        }
        if let Some(end) = self.free.remove(&to) {
            to = end;
        }
        self.free.insert(from, to);
    }
}
