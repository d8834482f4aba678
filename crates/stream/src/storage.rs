//! The bytes of a log: segments that are filled once, from front to back, and never moved.
//!
//! All that is known outside of this file is the offset, so that the bytes may lie elsewhere one day. A message never lies in
//! two segments, so that one reference keeps the rest of a half-sent one alive.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

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
#[derive(Debug, Default)]
pub(crate) struct Storage {
    meter: Meter,
    segments: VecDeque<Rc<Segment>>,
    end: u64,
    /// What the next segment is made of: memory that was just let go costs no page faults.
    spare: Option<Segment>,
}

#[derive(Debug)]
struct Segment {
    base: u64,
    bytes: RefCell<Vec<u8>>,
    counted: Counted,
}

/// Bytes that a meter counts as long as this lives.
#[derive(Debug)]
struct Counted {
    bytes: u64,
    meter: Meter,
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.meter.0.set(self.meter.0.get().saturating_sub(self.bytes));
    }
}

impl Segment {
    fn new(base: u64, capacity: usize, meter: &Meter) -> Self {
        let counted = Counted { bytes: capacity as u64, meter: meter.clone() };
        meter.0.set(meter.0.get() + counted.bytes);
        Self { base, bytes: RefCell::new(Vec::with_capacity(capacity)), counted }
    }

    fn end(&self) -> u64 {
        self.base + self.bytes.borrow().len() as u64
    }

    /// Gives `read` the bytes from one offset to another, as far as they are here.
    fn read<R>(&self, from: u64, to: u64, read: impl FnOnce(&[u8]) -> R) -> R {
        let bytes = self.bytes.borrow();
        read(part(&bytes, self.base, from, to))
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

    /// Gives `read` the bytes.
    pub(crate) fn read<R>(&self, read: impl FnOnce(&[u8]) -> R) -> R {
        self.segment.read(self.from, self.to, read)
    }
}

impl Storage {
    /// Segments are counted by `meter` from now on.
    pub(crate) fn count_in(&mut self, meter: Meter) {
        self.meter = meter;
    }

    /// Bytes of its segments.
    pub(crate) fn size(&self) -> u64 {
        let segments = self.segments.iter().map(|segment| segment.counted.bytes).sum::<u64>();
        segments + self.spare.as_ref().map_or(0, |spare| spare.counted.bytes)
    }

    /// Offset behind the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.end
    }

    /// Appends what `write` adds, `len` bytes as a rule, in one piece; gives its offset.
    pub(crate) fn append(&mut self, len: usize, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        let offset = self.end;
        let fits = |segment: &&Rc<Segment>| {
            let bytes = segment.bytes.borrow();
            bytes.capacity() - bytes.len() >= len
        };
        let segment = match self.segments.back().filter(fits) {
            Some(segment) => Rc::clone(segment),
            None => {
                let size = len.max(SEGMENT);
                let segment = match self.spare.take_if(|_| size == SEGMENT) {
                    Some(spare) => Segment { base: offset, ..spare },
                    None => Segment::new(offset, size, &self.meter),
                };
                let segment = Rc::new(segment);
                self.segments.push_back(Rc::clone(&segment));
                segment
            }
        };
        write(&mut segment.bytes.borrow_mut());
        self.end = segment.end();
        offset
    }

    /// Lets go of the segments that end at `floor` or before.
    pub(crate) fn release(&mut self, floor: u64) {
        while self.segments.front().is_some_and(|segment| segment.end() <= floor) {
            let segment = self.segments.pop_front().and_then(Rc::into_inner);
            if let Some(segment) = segment.filter(|segment| segment.counted.bytes == SEGMENT as u64) {
                segment.bytes.borrow_mut().clear();
                self.spare = Some(segment);
            }
        }
        if self.segments.is_empty() {
            self.spare = None;
        }
    }

    /// The same, and keeps nothing for the next segment.
    pub(crate) fn give_back(&mut self, floor: u64) {
        self.release(floor);
        self.spare = None;
    }

    /// Keeps the bytes of one message, from one offset to another.
    pub(crate) fn hold(&self, from: u64, to: u64) -> Option<Hold> {
        let segment = self.segments.get(self.index(from)?)?;
        (from >= segment.base && to <= segment.end()).then(|| Hold { segment: Rc::clone(segment), from, to })
    }

    /// Gives `read` the bytes of one message, or none if they are gone.
    pub(crate) fn read<R>(&self, from: u64, to: u64, read: impl FnOnce(&[u8]) -> R) -> R {
        match self.index(from).and_then(|index| self.segments.get(index)) {
            Some(segment) => segment.read(from, to, read),
            None => read(&[]),
        }
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
        let bytes = first.bytes.borrow();
        let head = part(&bytes, first.base, from, to);
        if from + head.len() as u64 == to {
            return Ok((head.len(), send(&[IoSlice::new(head)])?));
        }
        let more: Vec<_> =
            segments.take(SLICES - 1).map(|segment| (segment.base, segment.bytes.borrow())).collect();
        let mut slices = vec![IoSlice::new(head)];
        slices.extend(more.iter().map(|(base, bytes)| IoSlice::new(part(bytes, *base, *base, to))));
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
        self.segments.iter().map(|segment| segment.bytes.borrow().len() as u64).sum()
    }
}

/// The part of `bytes`, which begin at offset `base`, from one offset to another.
fn part(bytes: &[u8], base: u64, from: u64, to: u64) -> &[u8] {
    let index =
        |offset: u64| usize::try_from(offset.saturating_sub(base)).unwrap_or(usize::MAX).min(bytes.len());
    bytes.get(index(from)..index(to)).unwrap_or(&[])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_meter_counts_what_is_held_by_whomever() {
        let (mut storage, meter) = (Storage::default(), Meter::default());
        storage.count_in(meter.clone());
        for _ in 0..4 {
            storage.append(300_000, |out| out.extend([0; 300_000]));
        }
        assert_eq!((meter.bytes(), storage.size()), (1_200_000, 1_200_000));
        let hold = storage.hold(0, 300_000).unwrap();
        assert_eq!(hold.kept(299_999), 0, "the log has it still");
        storage.release(1_200_000);
        assert_eq!((meter.bytes(), storage.size(), hold.kept(1_200_000)), (300_000, 0, 300_000));
        drop(hold);
        assert_eq!(meter.bytes(), 0);
        // What waits to be used again is held too.
        let offsets = [0; 3].map(|_| storage.append(SEGMENT, |out| out.resize(SEGMENT, 7)));
        storage.release(offsets[2]);
        assert_eq!((meter.bytes(), storage.size()), (2 * SEGMENT as u64, 2 * SEGMENT as u64));
        storage.give_back(offsets[2]);
        assert_eq!((meter.bytes(), storage.size()), (SEGMENT as u64, SEGMENT as u64));
    }

    #[test]
    fn a_message_lies_in_one_segment_and_a_hold_outlives_its_release() {
        let mut storage = Storage::default();
        for byte in 0..10_u8 {
            storage.append(100_000, |out| out.extend(std::iter::repeat_n(byte, 100_000)));
        }
        assert_eq!(storage.end(), 1_000_000);
        let hold = storage.hold(350_000, 400_000).unwrap();
        storage.release(1_000_000);
        assert_eq!(storage.held(), 0);
        assert_eq!(storage.end(), 1_000_000);
        hold.read(|bytes| assert!(bytes.len() == 50_000 && bytes.iter().all(|byte| *byte == 3)));
        assert!(storage.hold(350_000, 400_000).is_none());
        storage.read(350_000, 400_000, |bytes| assert!(bytes.is_empty()));
        assert_eq!(storage.append(1, |out| out.push(1)), 1_000_000);
    }

    #[test]
    fn a_segment_is_made_of_one_that_was_let_go_unless_somebody_holds_that() {
        let mut storage = Storage::default();
        let append = |storage: &mut Storage| storage.append(SEGMENT, |out| out.resize(SEGMENT, 7));
        let address = |storage: &Storage, from: u64| storage.read(from, from + 1, |bytes| bytes.as_ptr());
        let first = append(&mut storage);
        let second = append(&mut storage);
        let used = address(&storage, first);
        storage.release(second);
        let third = append(&mut storage);
        assert_eq!(address(&storage, third), used);

        let hold = storage.hold(second, third).unwrap();
        storage.release(third);
        append(&mut storage);
        hold.read(|bytes| assert!(bytes.len() == SEGMENT && bytes.iter().all(|byte| *byte == 7)));
        storage.release(storage.end());
        assert!(storage.spare.is_none(), "nothing is kept for a log without media");
    }

    #[test]
    fn one_send_offers_the_bytes_of_several_segments_in_order() {
        let mut storage = Storage::default();
        let all: Vec<u8> = (0..1_000_000_u32).map(|i| (i / 1_000) as u8).collect();
        for piece in all.chunks(100_000) {
            storage.append(piece.len(), |out| out.extend_from_slice(piece));
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
