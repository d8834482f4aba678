//! Which parts of the memory are whose. Kept in private memory alone: who comes after a death learns it from what is in force.
//!
//! Extents of less than a page are cut from [slabs](crate::slabs). Larger ones, and slabs, are pieces of what is free, and are joined to it
//! again; up to [`KEPT`] a few are kept as they are, with their memory, as that costs nothing to use again.

use std::collections::BTreeMap;

use crate::layout::{GRAIN, PAGE};
use crate::slabs::{SLAB, Slabs};

/// Extents up to this, of a page or more, may be kept with their memory, bytes.
const KEPT: u64 = 256 * 1024;
/// Free extents that are kept with their memory, bytes together; those beyond it give it back.
const WARM: u64 = 4 << 20;

/// A part of the memory. Its length is what [`room`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

impl Extent {
    pub(crate) fn end(self) -> u64 {
        self.offset + self.len
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Alloc {
    /// What is free: begin and end of each, in whole pages, no two of them side by side.
    free: BTreeMap<u64, u64>,
    slabs: Slabs,
    /// Free extents as they are, by the [`class`] of their length.
    kept: Vec<Vec<u64>>,
    /// Bytes of those.
    warm: u64,
    /// Given up, and named by what is in force until the next commit.
    leaving: Vec<Extent>,
    /// Nothing is free, whatever is given up, before it is known what is somebody's.
    is_closed: bool,
    used: u64,
}

/// How much room `len` bytes take: a quarter more at most, but a grain at least, and whole pages from one on.
pub(crate) fn room(len: u64) -> u64 {
    let len = len.max(GRAIN);
    let step = (len.checked_next_power_of_two().unwrap_or(1 << 63) / 8).max(GRAIN);
    let step = if len > PAGE { step.max(PAGE) } else { step };
    len.checked_next_multiple_of(step).unwrap_or(u64::MAX)
}

/// Each length that [`room`] gives, up to [`KEPT`], has its own.
fn class(len: u64) -> usize {
    let power = len.next_power_of_two();
    (power.trailing_zeros() as u64 * 8 + len * 8 / power) as usize
}

impl Alloc {
    /// All from `begin` to `end` is free.
    pub(crate) fn new(begin: u64, end: u64) -> Self {
        Self::beside(begin, end, &BTreeMap::new())
    }

    /// Nothing is free, and what is given up is noted for whoever [goes on](Self::go_on_from).
    pub(crate) fn closed() -> Self {
        Self { is_closed: true, ..Self::new(0, 0) }
    }

    /// All from `begin` to `end` is free but for `used`, begin and end of each.
    pub(crate) fn beside(begin: u64, end: u64, used: &BTreeMap<u64, u64>) -> Self {
        let (begin, end) = (begin.next_multiple_of(PAGE), end / PAGE * PAGE);
        let slabs = Slabs::of(used, (begin, end));
        let mut taken: BTreeMap<u64, u64> = slabs.bases().map(|base| (base, base + SLAB)).collect();
        let (mut free, mut from) = (BTreeMap::new(), begin);
        for (&at, &to) in used {
            let is_piece = taken.range(..=at).next_back().is_some_and(|(_, slab)| *slab > at);
            if !is_piece {
                taken.insert(at, to);
            }
        }
        for (at, to) in taken.into_iter().chain([(end, end)]) {
            let (first, last) = (from.next_multiple_of(PAGE), at / PAGE * PAGE);
            if first < last {
                free.insert(first, last);
            }
            from = to;
        }
        Self {
            free,
            slabs,
            kept: vec![Vec::new(); class(KEPT) + 1],
            warm: 0,
            leaving: Vec::new(),
            is_closed: false,
            used: used.iter().map(|(at, to)| to - at).sum(),
        }
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
        let offset = if len < PAGE { self.take_piece(len)? } else { self.take_pages(len)? };
        self.used += len;
        Some(Extent { offset, len })
    }

    fn take_piece(&mut self, len: u64) -> Option<u64> {
        self.slabs.take(len).or_else(|| {
            let base = self.carve(SLAB, SLAB)?;
            self.slabs.add(base, len);
            self.slabs.take(len)
        })
    }

    fn take_pages(&mut self, len: u64) -> Option<u64> {
        let kept = if len <= KEPT { self.kept.get_mut(class(len)).and_then(Vec::pop) } else { None };
        if kept.is_some() {
            self.warm -= len;
        }
        kept.or_else(|| self.carve(len, PAGE))
    }

    /// The first piece of what is free that is large enough and begins at a multiple of `align`: what is taken stays together, and what is
    /// never needed is never touched.
    fn carve(&mut self, len: u64, align: u64) -> Option<u64> {
        let (from, offset, to) = self.free.iter().find_map(|(&from, &to)| {
            let offset = from.next_multiple_of(align);
            (to.saturating_sub(offset) >= len).then_some((from, offset, to))
        })?;
        self.free.remove(&from);
        for (from, to) in [(from, offset), (offset + len, to)] {
            if from < to {
                self.free.insert(from, to);
            }
        }
        Some(offset)
    }

    /// `extent` is given up; from the next commit on it is free.
    pub(crate) fn leave(&mut self, extent: Extent) {
        self.leaving.push(extent);
    }

    /// What `closed` was to give up is given up here.
    pub(crate) fn go_on_from(&mut self, mut closed: Self) {
        self.leaving.append(&mut closed.leaving);
    }

    /// `extent` is free at once: nothing in force names it. What is to be given back to the system.
    pub(crate) fn give(&mut self, extent: Extent) -> Option<Extent> {
        let Extent { offset, len } = extent;
        self.used -= len;
        let back = if len < PAGE {
            Extent { offset: self.slabs.give(offset, len)?, len: SLAB }
        } else if len > KEPT || self.warm + len > WARM {
            extent
        } else {
            self.warm += len;
            if let Some(kept) = self.kept.get_mut(class(len)) {
                kept.push(offset);
            }
            return None;
        };
        self.join(back.offset, back.end());
        Some(back)
    }

    /// After a commit: what was given up is free. What is to be given back to the system is passed to `forget`.
    pub(crate) fn settle(&mut self, mut forget: impl FnMut(Extent)) {
        if self.is_closed || self.leaving.is_empty() {
            return;
        }
        let mut leaving = std::mem::take(&mut self.leaving);
        leaving.drain(..).filter_map(|extent| self.give(extent)).for_each(&mut forget);
        self.leaving = leaving;
    }

    /// Adds what is free, and joins it to its neighbours.
    fn join(&mut self, mut from: u64, mut to: u64) {
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;
    use crate::tests::CASES;

    /// Sizes of all kinds, small ones more often.
    fn size() -> impl Strategy<Value = u64> {
        (0..20_u32).prop_flat_map(|bits| 0..=1_u64 << bits)
    }

    #[derive(Clone, Debug)]
    enum Action {
        Take(u64),
        /// Of those that are taken; whether it was never in force.
        Give(usize, bool),
        Commit,
        Die,
    }

    fn action() -> impl Strategy<Value = Action> {
        prop_oneof![
            8 => size().prop_map(Action::Take),
            6 => any::<(usize, bool)>().prop_map(|(index, is_new)| Action::Give(index, is_new)),
            2 => Just(Action::Commit),
            1 => Just(Action::Die),
        ]
    }

    fn is_nobodys(extent: Extent, owned: &BTreeMap<u64, u64>) -> bool {
        owned.range(..extent.end()).next_back().is_none_or(|(_, to)| *to <= extent.offset)
    }

    #[test]
    fn each_room_up_to_what_is_kept_has_its_class_and_is_little_more_than_what_was_asked_for() {
        let step = if cfg!(miri) { PAGE as usize } else { 1 };
        let rooms: BTreeSet<u64> = (0..=KEPT).step_by(step).map(room).collect();
        let classes: BTreeSet<usize> = rooms.iter().map(|len| class(*len)).collect();
        assert_eq!((rooms.len(), classes.last()), (classes.len(), Some(&class(KEPT))));
        for len in (GRAIN..=KEPT).step_by(step) {
            let room = room(len);
            assert!(
                room >= len && room - len < (len / 4).max(if len > PAGE { PAGE } else { GRAIN }),
                "{len}"
            );
            assert_eq!(super::room(room), room);
            assert!(room.is_multiple_of(if len >= PAGE { PAGE } else { GRAIN }));
        }
        assert_eq!(room(u64::MAX), u64::MAX);
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: CASES, ..ProptestConfig::default() })]

        #[test]
        fn no_two_have_the_same_bytes_and_nothing_is_used_again_before_the_commit(
            actions in proptest::collection::vec(action(), 0..if cfg!(miri) { 40 } else { 200 }),
            end in PAGE..8 << 20,
        ) {
            let begin = 3 * PAGE;
            let mut alloc = Alloc::new(begin, end);
            // Those that have an owner, and those that are left and may be named by what is in force.
            let (mut owned, mut left) = (BTreeMap::new(), BTreeMap::new());
            for action in actions {
                match action {
                    Action::Take(len) => {
                        if let Some(extent) = alloc.take(len) {
                            prop_assert_eq!(extent.len, room(len));
                            prop_assert!(extent.offset >= begin && extent.end() <= end && extent.offset.is_multiple_of(GRAIN));
                            for (at, to) in owned.iter().chain(&left) {
                                prop_assert!(extent.end() <= *at || extent.offset >= *to, "{extent:?} and {at} to {to}");
                            }
                            owned.insert(extent.offset, extent.end());
                        }
                    }
                    Action::Give(index, is_new) => {
                        let key = owned.keys().nth(index % owned.len().max(1)).copied();
                        if let Some((at, to)) = key.and_then(|key| owned.remove_entry(&key)) {
                            let extent = Extent { offset: at, len: to - at };
                            if is_new {
                                let back = alloc.give(extent);
                                prop_assert!(back.is_none_or(|back| is_nobodys(back, &owned) && is_nobodys(back, &left)));
                            } else {
                                alloc.leave(extent);
                                left.insert(at, to);
                            }
                        }
                    }
                    Action::Commit => {
                        left.clear();
                        alloc.settle(|back| assert!(is_nobodys(back, &owned), "{back:?}"));
                    }
                    Action::Die => {
                        left.clear();
                        alloc = Alloc::beside(begin, end, &owned);
                    }
                }
                let used: u64 = owned.iter().chain(&left).map(|(at, to)| to - at).sum();
                prop_assert_eq!(alloc.used(), used);
                prop_assert!(alloc.warm <= WARM);
                let warm: u64 = (1..=KEPT / PAGE).map(|pages| room(pages * PAGE)).collect::<BTreeSet<_>>().iter()
                    .map(|len| alloc.kept[class(*len)].len() as u64 * len).sum();
                prop_assert_eq!(alloc.warm, warm);
                let gaps: Vec<_> = alloc.gaps().map(|gap| (gap.offset, gap.end())).collect();
                prop_assert!(gaps.iter().zip(gaps.iter().skip(1)).all(|(one, next)| one.1 < next.0));
            }
            // All of it is free again, and given back but for what may be kept.
            let all = (end / PAGE * PAGE).saturating_sub(begin);
            owned.into_iter().for_each(|(at, to)| alloc.leave(Extent { offset: at, len: to - at }));
            alloc.settle(|_| ());
            let gaps = alloc.gaps().map(|gap| gap.len).sum::<u64>();
            prop_assert_eq!(alloc.used(), 0);
            prop_assert!(all - gaps <= alloc.warm + PAGE / GRAIN * SLAB, "{all} {gaps} {}", alloc.warm);
            alloc = Alloc::beside(begin, end, &BTreeMap::new());
            prop_assert_eq!(alloc.gaps().map(|gap| gap.len).sum::<u64>(), all);
        }
    }

    /// Where the memory ends that was ever used, with `live` bytes in extents of changing `sizes` over `rounds`.
    fn reached(live: u64, rounds: usize, size: impl Fn(usize) -> u64) -> u64 {
        let mut alloc = Alloc::new(0, 1 << 40);
        let (mut owned, mut high) = (std::collections::VecDeque::new(), 0);
        for round in 0..rounds {
            let extent = alloc.take(size(round)).unwrap();
            high = high.max(extent.end());
            // Not in the order in which they came.
            if round % 3 == 0 {
                owned.push_front(extent)
            } else {
                owned.push_back(extent)
            }
            while alloc.used() > live {
                alloc.leave(owned.pop_front().unwrap());
                alloc.settle(|_| ());
            }
            if round % (rounds / 4) == 0 {
                let used = owned.iter().map(|extent| (extent.offset, extent.end())).collect();
                alloc = Alloc::beside(0, 1 << 40, &used);
            }
        }
        high
    }

    #[test]
    fn however_sizes_change_what_is_used_again_is_enough() {
        let rounds = if cfg!(miri) { 100 } else { 100_000 };
        let noise = |round: usize| (round as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let live = 16 << 20;
        // Of all sizes; first small ones, then larger and larger; segments of media with what is small between them.
        let any = reached(live, rounds, |round| noise(round) % (1 << (noise(round + 1) % 20)));
        let growing = reached(live, rounds, |round| 1_000 + round as u64 * 4 + noise(round) % 5_000);
        let media =
            reached(
                live,
                rounds,
                |round| if round % 9 == 0 { 256 << 10 } else { 200 + noise(round) % 2_000 },
            );
        for high in [any, growing, media] {
            assert!(high <= 3 * live, "{any} {growing} {media}");
        }
    }
}
