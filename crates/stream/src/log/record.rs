//! A log in a record: see [`Stream::save`](crate::Stream::save).

use std::rc::Rc;

use shm::Recovery;

use super::entries::{self, Entries, Entry};
use super::{Barrier, BarrierKind, FAR, JoinPoint, Log, PAST_MAX};
use crate::blob::Blobs;
use crate::storage::{self, Left, Meter, Storage};

impl Log {
    /// What of it a record has beside the log itself.
    pub(crate) fn places(&self) -> (&Storage, &Entries) {
        (&self.storage, &self.entries)
    }

    /// Makes a log that was read from a record whole; `None` if it cannot be right.
    pub(crate) fn restore(
        mut self,
        (storage, entries): (storage::Saved, entries::Saved),
        (recovery, blobs, meter): (&Recovery, &mut Blobs, &Meter),
    ) -> Option<(Self, Left)> {
        let left;
        (self.storage, left) = storage.restore(recovery, meter)?;
        self.entries = entries.restore(recovery)?;
        let points = [&mut self.key, &mut self.begin].into_iter().flatten();
        let past = self.past.iter_mut().flat_map(|past| [Some(&mut past.begin), past.key.as_mut()]).flatten();
        let mut are_whole = points.chain(past).all(|point| point.resolve(blobs));
        are_whole &= Rc::make_mut(&mut self.headers).resolve(blobs);
        for barrier in &mut self.barriers {
            if let BarrierKind::Metadata(payload) = &mut barrier.kind {
                are_whole &= payload.resolve(blobs);
            }
        }
        (are_whole && self.is_sound()).then_some((self, left))
    }

    /// Whether its parts agree with one another.
    fn is_sound(&self) -> bool {
        let end = self.end();
        let bytes = |barrier: &Barrier| match &barrier.kind {
            BarrierKind::Metadata(payload) => payload.len() as u64,
            _ => 0,
        };
        let are_sorted =
            self.barriers.iter().zip(self.barriers.iter().skip(1)).all(|(a, b)| a.offset <= b.offset);
        let points = [&self.key, &self.begin].into_iter().flatten();
        // Where each message ends is where the next one begins.
        let next = self.entries.iter().skip(1).map(|entry| entry.offset).chain([end]);
        let is_whole = |(entry, next): (&Entry, u64)| {
            let len = self.framing.stored_len(entry.payload as usize) as u64;
            entry.offset.checked_add(len) == Some(next) && entry.time <= self.newest
        };
        self.framing.is_sound()
            && self.entries.iter().zip(next).all(is_whole)
            && [self.newest, self.messages, self.first_barrier, self.last_key, self.last_video]
                .iter()
                .all(|number| *number <= FAR)
            && self.entries.front().map_or(end, |first| first.offset) == self.floor
            && self.entries.len() as u64 <= self.messages
            && are_sorted
            && self.barriers.iter().all(|barrier| self.boundary(barrier.offset) == barrier.offset)
            && self.barriers.iter().map(bytes).sum::<u64>() == self.barrier_bytes
            && self.tracks.iter().all(|reached| reached.last <= self.newest)
            && points.into_iter().all(|point| self.is_sound_at(point))
            && self.past.len() <= PAST_MAX
            && self.past.iter().all(|past| {
                let key = past.key.as_ref();
                past.end <= end
                    && [Some(&past.begin), key].into_iter().flatten().all(|point| {
                        self.is_sound_at(point)
                            && point.offset <= past.end
                            && point.offset >= past.begin.offset
                    })
            })
            && self.headers_end <= end
    }

    /// Whether a reader could begin at `point`.
    pub(crate) fn is_sound_at(&self, point: &JoinPoint) -> bool {
        let times = point.tracks.iter().map(|reached| reached.last).chain([point.time]);
        point.offset <= self.end()
            && point.messages <= self.messages
            && times.into_iter().all(|time| time <= FAR)
            && (point.offset < self.floor || self.comes_next(point.next_barrier, point.offset))
    }

    /// Whether a reader may be at `offset`, between two messages, where the barrier with the number `barrier` is the next one that it meets.
    pub(crate) fn comes_next(&self, barrier: u64, offset: u64) -> bool {
        let (first, all) = (self.first_barrier, self.barriers.len() as u64);
        (first..=first + all).contains(&barrier)
            && self.boundary(offset) == offset
            && self.barrier_at(barrier).is_none_or(|next| next.offset >= offset)
    }
}
