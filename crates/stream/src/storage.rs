//! The bytes of a log: segments that are filled once, from front to back, and never moved, in memory that outlives the process.
//!
//! All that is known outside of this file is the offset. A message never lies in two segments, so that one reference keeps the rest of a
//! half-sent one alive.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::{Rc, Weak};

use serde::{Deserialize, Serialize, Serializer};
use shm::{Block, Place, Recovery, Store};

use crate::clock::FAR;

/// Capacity of a segment, bytes. Small enough that a quiet stream costs little, large enough that a flush rarely meets two.
pub(crate) const SEGMENT: usize = 256 * 1024;
/// Segments that one send covers at most; a flush meets two, a catching-up reader a few.
const SLICES: usize = 4;

/// Counts the bytes of all segments that were made for it and are still held, by a storage or by a reader.
#[derive(Clone, Debug, Default)]
pub struct Meter(Rc<Cell<u64>>);

impl Meter {
    /// How many there are.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.0.get()
    }
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Storage {
    store: Store,
    meter: Meter,
    segments: VecDeque<Rc<Segment>>,
    /// Let go of, and held by a reader.
    left: Vec<Weak<Segment>>,
    end: u64,
}

#[derive(Debug)]
struct Segment {
    base: u64,
    block: Block,
    counted: Counted,
}

/// Bytes that a meter counts as long as this lives.
#[derive(Debug)]
struct Counted {
    bytes: u64,
    meter: Meter,
}

impl Counted {
    fn new(bytes: u64, meter: &Meter) -> Self {
        meter.0.set(meter.0.get() + bytes);
        Self { bytes, meter: meter.clone() }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.meter.0.set(self.meter.0.get().saturating_sub(self.bytes));
    }
}

impl Segment {
    fn new(base: u64, block: Block, meter: &Meter) -> Self {
        let counted = Counted::new(block.capacity() as u64, meter);
        Self { base, block, counted }
    }

    fn end(&self) -> u64 {
        self.base + self.block.len() as u64
    }

    /// The bytes from one offset to another, as far as they are here.
    fn part(&self, from: u64, to: u64) -> &[u8] {
        let bytes = self.block.bytes();
        let index = |offset: u64| {
            usize::try_from(offset.saturating_sub(self.base)).unwrap_or(usize::MAX).min(bytes.len())
        };
        bytes.get(index(from)..index(to)).unwrap_or(&[])
    }

    fn named(&self) -> Option<Named> {
        Some(Named { base: self.base, place: self.block.place()? })
    }
}

/// Bytes that are kept although the storage may have dropped them.
#[derive(Debug)]
pub(crate) struct Hold {
    segment: Rc<Segment>,
    /// First byte, and the one behind the last.
    pub(crate) from: u64,
    pub(crate) to: u64,
}

impl Hold {
    /// Bytes that would be free without it: those of its segment, if the log has dropped that, being at `floor`.
    pub(crate) fn kept(&self, floor: u64) -> u64 {
        if self.segment.end() <= floor { self.segment.counted.bytes } else { 0 }
    }

    /// The bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.segment.part(self.from, self.to)
    }
}

/// A segment in a record.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Named {
    base: u64,
    place: Place,
}

/// A storage in a record.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Saved {
    segments: Vec<Named>,
    left: Vec<Named>,
    end: u64,
}

impl Serialize for Storage {
    /// As [`Saved`]; an error if a part of it ends with this process.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let segments: Option<Vec<_>> = self.segments.iter().map(|segment| segment.named()).collect();
        let left = self.left.iter().filter_map(Weak::upgrade).filter_map(|segment| segment.named());
        let segments = segments.ok_or_else(|| serde::ser::Error::custom("there was no memory that stays"))?;
        Saved { segments, left: left.collect(), end: self.end }.serialize(serializer)
    }
}

impl Saved {
    /// What the process before had; `None` if that cannot be right. Segments that it had let go of are here until the readers that hold
    /// them have been asked.
    pub(crate) fn restore(self, recovery: &Recovery, meter: &Meter) -> Option<(Storage, Left)> {
        let adopt = |named: &Named| {
            // Not to be counted beyond its end.
            let base = Some(named.base).filter(|base| *base <= FAR)?;
            Some(Rc::new(Segment::new(base, recovery.adopt(named.place)?, meter)))
        };
        let segments: VecDeque<_> = self.segments.iter().map(adopt).collect::<Option<_>>()?;
        let is_whole = segments.iter().zip(segments.iter().skip(1)).all(|(one, next)| one.end() == next.base);
        let is_at_end = segments.back().is_none_or(|last| last.end() == self.end);
        let left: Vec<_> = self.left.iter().filter_map(adopt).collect();
        let storage = Storage {
            store: recovery.store().clone(),
            meter: meter.clone(),
            segments,
            left: left.iter().map(Rc::downgrade).collect(),
            end: self.end,
        };
        (is_whole && is_at_end && self.end <= FAR).then_some((storage, Left(left)))
    }
}

/// Keeps what only readers hold, until they do.
#[derive(Debug, Default)]
pub struct Left(#[expect(dead_code, reason = "held until it is dropped")] Vec<Rc<Segment>>);

/// In place of one that is still to be read.
pub(crate) fn nowhere() -> Storage {
    Storage::new(Store::private(0))
}

impl Storage {
    pub(crate) fn new(store: Store) -> Self {
        Self { store, meter: Meter::default(), segments: VecDeque::new(), left: Vec::new(), end: 0 }
    }

    pub(crate) fn store(&self) -> &Store {
        &self.store
    }

    /// Segments are counted by `meter` from now on.
    pub(crate) fn count_in(&mut self, meter: Meter) {
        self.meter = meter;
    }

    /// Bytes of its segments.
    pub(crate) fn size(&self) -> u64 {
        self.segments.iter().map(|segment| segment.counted.bytes).sum()
    }

    /// Offset behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Appends `len` bytes that `write` fills, in one piece; gives their offset.
    pub(crate) fn append(&mut self, len: usize, write: impl FnOnce(&mut [u8])) -> u64 {
        let offset = self.end;
        let has_room =
            self.segments.back().is_some_and(|last| last.block.capacity() - last.block.len() >= len);
        if !has_room {
            let block = self.store.block(len.max(SEGMENT));
            self.segments.push_back(Rc::new(Segment::new(offset, block, &self.meter)));
        }
        if let Some(segment) = self.segments.back()
            && segment.block.append(len, write)
        {
            self.end = segment.end();
        }
        offset
    }

    /// Lets go of the segments that end at `floor` or before.
    pub(crate) fn release(&mut self, floor: u64) {
        while self.segments.front().is_some_and(|segment| segment.end() <= floor)
            && let Some(segment) = self.segments.pop_front()
        {
            self.left.retain(|left| left.strong_count() > 0);
            if Rc::strong_count(&segment) > 1 {
                self.left.push(Rc::downgrade(&segment));
            }
        }
    }

    /// Keeps the bytes of one message, from one offset to another.
    pub(crate) fn hold(&self, from: u64, to: u64) -> Option<Hold> {
        let has = |segment: &Rc<Segment>| from >= segment.base && to <= segment.end();
        let there =
            self.index(from).and_then(|index| self.segments.get(index)).filter(|segment| has(segment));
        let left = || self.left.iter().filter_map(Weak::upgrade).find(has);
        let segment = there.cloned().or_else(left)?;
        (from <= to).then_some(Hold { segment, from, to })
    }

    /// The bytes of one message, or none if they are gone.
    pub(crate) fn read(&self, from: u64, to: u64) -> &[u8] {
        let segment = self.index(from).and_then(|index| self.segments.get(index));
        segment.map_or(&[], |segment| segment.part(from, to))
    }

    /// Offers the bytes from `from` to `to`, or as many as one send covers, to `send`: (bytes offered, bytes taken).
    pub(crate) fn send(
        &self,
        from: u64,
        to: u64,
        send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<(usize, usize)> {
        let Some(index) = self.index(from) else { return Ok((0, 0)) };
        let mut segments = self.segments.range(index..);
        let Some(first) = segments.next() else { return Ok((0, 0)) };
        let head = first.part(from, to);
        if from + head.len() as u64 == to {
            return Ok((head.len(), send(&[IoSlice::new(head)])?));
        }
        let mut slices = vec![IoSlice::new(head)];
        slices.extend(segments.take(SLICES - 1).map(|segment| IoSlice::new(segment.part(segment.base, to))));
        slices.retain(|slice| !slice.is_empty());
        let offered = slices.iter().map(|slice| slice.len()).sum();
        Ok((offered, send(&slices)?))
    }

    /// The segment that holds `offset`, if it is still there.
    fn index(&self, offset: u64) -> Option<usize> {
        self.segments.partition_point(|segment| segment.base <= offset).checked_sub(1)
    }

    /// Bytes of memory held.
    #[cfg(test)]
    pub(crate) fn held(&self) -> u64 {
        self.segments.iter().map(|segment| segment.block.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store;

    fn storage() -> Storage {
        Storage::new(store())
    }

    #[test]
    fn a_meter_counts_what_is_held_by_whomever() {
        let (mut storage, meter) = (storage(), Meter::default());
        storage.count_in(meter.clone());
        for _ in 0..4 {
            storage.append(300_000, |out| out.fill(0));
        }
        assert_eq!((meter.bytes(), storage.size()), (1_200_000, 1_200_000));
        let hold = storage.hold(0, 300_000).unwrap();
        assert_eq!(hold.kept(299_999), 0, "the log has it still");
        storage.release(1_200_000);
        assert_eq!((meter.bytes(), storage.size(), hold.kept(1_200_000)), (300_000, 0, 300_000));
        drop(hold);
        assert_eq!(meter.bytes(), 0);
    }

    #[test]
    fn a_message_lies_in_one_segment_and_a_hold_outlives_its_release() {
        let mut storage = storage();
        for byte in 0..10_u8 {
            storage.append(100_000, |out| out.fill(byte));
        }
        assert_eq!(storage.end(), 1_000_000);
        let hold = storage.hold(350_000, 400_000).unwrap();
        storage.release(1_000_000);
        assert_eq!(storage.held(), 0);
        assert_eq!(storage.end(), 1_000_000);
        let is_right =
            |hold: &Hold| hold.bytes().len() == 50_000 && hold.bytes().iter().all(|byte| *byte == 3);
        assert!(is_right(&hold));
        assert!(is_right(&storage.hold(350_000, 400_000).unwrap()), "somebody has it");
        drop(hold);
        assert!(storage.hold(350_000, 400_000).is_none());
        assert!(storage.read(350_000, 400_000).is_empty());
        assert_eq!(storage.append(1, |out| out.fill(1)), 1_000_000);
    }

    #[test]
    fn one_send_offers_the_bytes_of_several_segments_in_order() {
        let mut storage = storage();
        let all: Vec<u8> = (0..1_000_000_u32).map(|i| (i / 1_000) as u8).collect();
        for piece in all.chunks(100_000) {
            storage.append(piece.len(), |out| out.copy_from_slice(piece));
        }
        let (from, to) = (150_000, 950_000);
        let (mut at, mut got) = (from, Vec::new());
        while at < to {
            let mut offered = 0;
            let (wanted, taken) = storage
                .send(at, to, &mut |slices| {
                    assert!(slices.len() <= SLICES);
                    for slice in slices {
                        got.extend_from_slice(slice);
                        offered += slice.len();
                    }
                    Ok(offered)
                })
                .unwrap();
            assert!(wanted == taken && taken > 0);
            at += taken as u64;
        }
        assert_eq!(got, all[150_000..950_000]);
    }
}
