//! A stream as a log: every message once, as bytes that serve every player and every forwarder.
//!
//! Readers are [cursors](crate::Cursor). Each needs to be *seeded* on a track (see [`framing`](crate::framing)) before it may
//! read on: the stored messages hold the time since the last one.
//!
//! * An [`Entry`] says what lies at an offset: time, track, size, whether a decoder may start there.
//! * A [`JoinPoint`] is a place where a cursor may start, with all it needs to be seeded there.
//! * A [`Barrier`] is an offset at which every cursor does something of its own before it goes on.

pub(crate) mod entries;
mod join;
mod record;
#[cfg(test)]
mod tests;

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use serde::{Deserialize, Serialize};
use shm::Store;

use self::entries::Entries;
pub use self::entries::Entry;
use crate::blob::{Blob, Blobs};
use crate::clock::FAR;
use crate::framing::Framing;
use crate::headers::Headers;
use crate::storage::{self, Hold, Meter, Storage};
use crate::track::Track;

/// Bytes kept for slow readers whatever their time: 30 s at 17 Mbit/s.
const QUEUE_BYTES: u64 = 64 * 1024 * 1024;
/// A group of pictures up to this is kept, however long ago it began, and offered to joining readers, bytes. The other half of
/// [`QUEUE_BYTES`] is time for those who start with it.
const GOP_BYTES: u64 = 32 * 1024 * 1024;
/// See [`GOP_BYTES`]; messages.
const GOP_MESSAGES: u64 = 60_000;
/// Messages kept for slow readers whatever their size: 120 s at 1000 a second. Tiny ones cost more to find than to keep.
const QUEUE_MESSAGES: usize = 120_000;
/// A track silent for this long is seeded again, ms, so that no delta comes near the 24-bit limit.
const SEED_LIFE: u64 = 10_000;
/// Without a keyframe for this long, ms, video starts without one: a picture that mends itself is better than none.
pub(crate) const KEY_WAIT: u64 = 5_000;
/// A group of pictures in which there is no video for this long, ms, is a picture that stands still: who joins sees it at once, but
/// hears what is near live.
const STILL_AFTER: u64 = 1_000;
/// Messages at the end of the log among which one that is sent again is looked for. A new one of the same time comes right behind the
/// last, so there are no more between them than slices, tracks and data of one time.
const SAME_TIME_MAX: usize = 64;
/// Publications that are over and still offered to those who have had nothing of them.
const PAST_MAX: usize = 32;

/// Up to where a track is known to a reader.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Reached {
    /// Time of the last message, ms.
    last: u64,
    /// Whether every reader that has come this far has been seeded.
    seeded: bool,
}

/// A place where a cursor may start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct JoinPoint {
    /// First byte it reads.
    pub(crate) offset: u64,
    /// Stream time there, ms.
    pub(crate) time: u64,
    /// First barrier that it has still to pass.
    pub(crate) next_barrier: u64,
    /// In force there.
    pub(crate) headers: Rc<Headers>,
    /// Whether video is left out until the next keyframe.
    pub(crate) holds_video: bool,
    /// Whether audio before its time is left out, and video shown at it.
    pub(crate) is_cut: bool,
    /// Whether each track's first message has to carry its own time.
    pub(crate) is_unseeded: bool,
    tracks: [Reached; 3],
    /// Messages appended before it.
    messages: u64,
}

impl JoinPoint {
    /// Finds the headers of one that was read from a record; false if they are not there.
    pub(crate) fn resolve(&mut self, blobs: &mut Blobs) -> bool {
        Rc::make_mut(&mut self.headers).resolve(blobs)
    }

    /// The time from which the track's next delta counts; `None` where a barrier will seed it.
    pub(crate) fn seed_time(&self, track: Track) -> Option<u64> {
        let reached = self.tracks[track.index()];
        reached.seeded.then_some(reached.last)
    }

    /// Time of the track's last message before it, ms; 0 where there was none.
    pub(crate) fn last(&self, track: Track) -> u64 {
        self.tracks[track.index()].last
    }
}

/// What every cursor does of its own at an offset.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Barrier {
    /// Where.
    pub(crate) offset: u64,
    /// What.
    pub(crate) kind: BarrierKind,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) enum BarrierKind {
    /// The track's next message, the one behind the barrier, seeds it.
    Seed(Track),
    /// New `onMetaData` comes first.
    Metadata(Blob),
    /// The message behind the barrier is data of which a server must be told to keep it.
    DataHeader,
    /// A publication that does not go on with the last one: its video starts with a keyframe.
    Publication,
}

/// One publication, as offsets of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// Where it begins.
    pub begin: u64,
    /// Where it is over; `None` while it goes on.
    pub end: Option<u64>,
}

/// A publication that another has followed, with the places where a reader may start in it.
#[derive(Debug, Serialize, Deserialize)]
struct Past {
    begin: JoinPoint,
    /// Its last keyframe.
    key: Option<JoinPoint>,
    end: u64,
}

impl Past {
    /// What is still there to start with in a log whose oldest message is at `floor`: all of it, or its last group of pictures.
    fn points(&self, floor: u64) -> impl Iterator<Item = &JoinPoint> {
        [Some(&self.begin), self.key.as_ref()]
            .into_iter()
            .flatten()
            .filter(move |point| point.offset >= floor)
    }

    fn span(&self) -> Span {
        Span { begin: self.begin.offset, end: Some(self.end) }
    }
}

/// What a reader gets that joins now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offer {
    /// Nothing yet.
    Nothing,
    /// Audio or data: there has been no video.
    NoVideo,
    /// Audio at once, and video from the next keyframe.
    NoKeyframe,
    /// Audio and video at once, but no keyframe.
    Keyless,
    /// The newest keyframe at once, and all that follows.
    Keyframe,
}

/// The log of one stream.
#[derive(Debug, Serialize, Deserialize)]
pub struct Log {
    framing: Framing,
    /// Media kept for slow readers, ms, beside the newest group of pictures.
    queue_length: u64,
    #[serde(skip, default = "storage::nowhere")]
    storage: Storage,
    #[serde(skip, default = "entries::nowhere")]
    entries: Entries,
    barriers: VecDeque<Barrier>,
    /// Bytes of metadata that they hold.
    barrier_bytes: u64,
    /// Number of barriers dropped from the front: the number of `barriers[0]`.
    first_barrier: u64,
    /// The newest keyframe.
    key: Option<JoinPoint>,
    /// Where the publication begins.
    begin: Option<JoinPoint>,
    /// Those before it that are not gone, oldest first.
    past: VecDeque<Past>,
    headers: Rc<Headers>,
    /// Offset behind the message, or the barrier, with which they last changed.
    headers_end: u64,
    /// Whether the message that changed them is still to be appended.
    headers_changed: bool,
    tracks: [Reached; 3],
    /// Messages appended since ever.
    messages: u64,
    newest: u64,
    /// Time of the last picture.
    last_video: u64,
    /// Whether the publication has had a picture.
    has_video: bool,
    /// Whether the last video message was of a keyframe.
    is_in_keyframe: bool,
    /// Time of the last keyframe, or of the first picture of the publication.
    last_key: u64,
    /// Whether there was no picture for [`STILL_AFTER`] in the newest group.
    stood_still: bool,
    /// Whether something is appended now: else there is no live edge to join at.
    is_live: bool,
    /// Cursors behind this offset have fallen out of the queue.
    floor: u64,
    /// No cursor is behind this offset.
    needed: u64,
}

impl Log {
    /// An empty log in the memory of `store`, whose chunks are of `chunk_size` bytes, and which keeps `queue_length` ms.
    #[must_use]
    pub fn new(store: &Store, chunk_size: u32, queue_length: u64) -> Self {
        Self {
            framing: Framing::new(chunk_size),
            queue_length,
            storage: Storage::new(store.clone()),
            entries: Entries::new(store.clone()),
            barriers: VecDeque::new(),
            barrier_bytes: 0,
            first_barrier: 0,
            key: None,
            begin: None,
            past: VecDeque::new(),
            headers: Rc::default(),
            headers_end: 0,
            headers_changed: false,
            tracks: [Reached::default(); 3],
            messages: 0,
            newest: 0,
            last_video: 0,
            has_video: false,
            is_in_keyframe: false,
            last_key: 0,
            stood_still: false,
            is_live: false,
            floor: 0,
            needed: 0,
        }
    }

    /// Keeps `queue_length` ms from now on; what is beyond that goes with the next trim.
    pub(crate) fn set_queue_length(&mut self, queue_length: u64) {
        self.queue_length = queue_length;
    }

    /// Offset after the last byte.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.storage.end()
    }

    /// Whether it holds no media.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many messages lie before `offset`, and the time of the last of them, ms.
    #[must_use]
    pub fn position(&self, offset: u64) -> (u64, Option<u64>) {
        if offset == self.end() {
            // As a rule: who asks has caught up.
            return (self.messages, self.entries.back().map(|entry| entry.time));
        }
        let index = self.entries.partition_point(|entry| entry.offset < offset);
        let time = index.checked_sub(1).and_then(|before| self.entries.get(before)).map(|entry| entry.time);
        (self.messages - (self.entries.len() - index) as u64, time)
    }

    /// Appends a frame or data. `time` must not be before that of the last message on the track.
    pub fn append(&mut self, track: Track, time: u64, key: bool, payload: &[u8]) {
        self.seed(track, time);
        // Slices of one picture may each be a message of their own: it begins with the first.
        let goes_on = self.is_in_keyframe && self.last_video == time;
        let here = key.then(|| self.live_point(time));
        if track == Track::Video {
            if !self.has_video && !key {
                self.last_key = time;
            }
            self.stood_still |= !key && self.has_video && time.saturating_sub(self.last_video) >= STILL_AFTER;
            self.last_video = time;
            self.has_video = true;
            self.is_in_keyframe = key;
        }
        self.put(track, time, payload, |entry| entry.key = key);
        if let Some(here) = here
            && !(goes_on && self.offered().is_some())
        {
            self.key = Some(here);
            self.last_key = time;
            self.stood_still = false;
        }
        self.trim();
    }

    /// Appends a header; the same goes for its `time`.
    pub(crate) fn append_header(&mut self, track: Track, time: u64, payload: &[u8]) {
        self.seed(track, time);
        self.put(track, time, payload, |entry| entry.header = true);
        self.trim();
    }

    /// A message comes on `track`: where the track is new or was silent, every reader is seeded there.
    fn seed(&mut self, track: Track, time: u64) {
        self.is_live = true;
        self.newest = self.newest.max(time);
        for reached in &mut self.tracks {
            reached.seeded &= self.newest - reached.last <= SEED_LIFE;
        }
        if !self.tracks[track.index()].seeded {
            self.barriers.push_back(Barrier { offset: self.end(), kind: BarrierKind::Seed(track) });
            self.tracks[track.index()] = Reached { last: time, seeded: true };
        }
    }

    fn put(&mut self, track: Track, time: u64, payload: &[u8], mark: impl FnOnce(&mut Entry)) {
        let reached = &mut self.tracks[track.index()];
        // Seeds are renewed after 10 s, so a delta is far below the 24 bits it has.
        let delta = u32::try_from(time.saturating_sub(reached.last)).unwrap_or(0);
        reached.last = reached.last.max(time);

        let framing = self.framing;
        let offset = self.storage.append(framing.stored_len(payload.len()), |mut out| {
            framing.store(&mut out, track, delta, payload)
        });
        let payload = u32::try_from(payload.len()).unwrap_or(u32::MAX);
        let mut entry = Entry { offset, time, payload, track, key: false, header: false };
        mark(&mut entry);
        self.entries.push_back(entry);
        self.messages += 1;
        if std::mem::take(&mut self.headers_changed) {
            self.headers_end = self.end();
        }
    }

    /// Appends data of which forwarders tell the server to keep it.
    pub(crate) fn append_data_header(&mut self, time: u64, payload: &[u8]) {
        self.seed(Track::Data, time);
        self.barriers.push_back(Barrier { offset: self.end(), kind: BarrierKind::DataHeader });
        self.put(Track::Data, time, payload, |entry| entry.header = true);
        self.trim();
    }

    /// New metadata is in force from here on, for every reader.
    pub(crate) fn append_metadata(&mut self, payload: Blob) {
        self.update_headers(|headers| headers.metadata = Some(payload.clone()));
        self.barrier_bytes += payload.len() as u64;
        self.barriers.push_back(Barrier { offset: self.end(), kind: BarrierKind::Metadata(payload) });
        self.tracks[Track::Data.index()].seeded = false;
        self.headers_end = self.end();
        self.headers_changed = false;
    }

    pub(crate) fn framing(&self) -> Framing {
        self.framing
    }

    /// Offset that a cursor must not be behind.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// Time of the last message on `track`, ms, if there was one.
    pub(crate) fn last(&self, track: Track) -> Option<u64> {
        let reached = self.tracks[track.index()];
        (reached.last > 0 || reached.seeded).then_some(reached.last)
    }

    /// Whether a message with the time of the last one on its track is here already; so is one of which nothing near the end has that
    /// time.
    pub(crate) fn repeats(&self, track: Track, time: u64, payload: &[u8]) -> bool {
        let near = self.entries.iter().rev().take(SAME_TIME_MAX);
        let mut others = near.filter(|entry| entry.track == track && entry.time == time).peekable();
        others.peek().is_none()
            || others.any(|entry| entry.payload as usize == payload.len() && self.payload(entry) == payload)
    }

    /// Time of the newest message, ms.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// Headers and metadata in force at the end.
    pub(crate) fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Whether something has been appended since the publication began: else there is no live edge.
    #[cfg(test)]
    pub(crate) fn is_live(&self) -> bool {
        self.is_live
    }

    /// Changes the headers in force; what is already in the log is not affected.
    pub(crate) fn update_headers<R>(&mut self, change: impl FnOnce(&mut Headers) -> R) -> R {
        self.headers_changed = true;
        change(Rc::make_mut(&mut self.headers))
    }

    /// A new publication that does not go on where the last one ended: no header, no join point and no seed of the old one counts,
    /// and readers that are there wait for a keyframe.
    pub(crate) fn reset(&mut self, time: u64) {
        let key = self.key.take();
        if let Some(begin) = self.begin.take().filter(|begin| begin.offset < self.end()) {
            self.past.push_back(Past { begin, key, end: self.end() });
        }
        if self.past.len() > PAST_MAX {
            self.past.pop_front();
        }
        self.headers = Rc::default();
        self.headers_changed = false;
        for reached in &mut self.tracks {
            reached.seeded = false;
        }
        (self.has_video, self.is_in_keyframe) = (false, false);
        (self.is_live, self.stood_still) = (false, false);
        let end = self.end();
        let is_told = self
            .barriers
            .back()
            .is_some_and(|last| last.offset == end && matches!(last.kind, BarrierKind::Publication));
        if !is_told && self.messages > 0 {
            self.barriers.push_back(Barrier { offset: end, kind: BarrierKind::Publication });
        }
        self.begin = Some(JoinPoint { holds_video: true, ..self.live_point(time) });
    }

    /// Takes away the keyframe that joining readers start at; it may be [put back](Self::put_key_back).
    pub(crate) fn take_key(&mut self) -> Option<JoinPoint> {
        self.key.take()
    }

    /// Readers may start at `key` again, if it is still there.
    pub(crate) fn put_key_back(&mut self, key: JoinPoint) {
        self.key = Some(key).filter(|key| key.offset >= self.floor);
    }

    /// The publication is over: until something is appended, nobody joins without a keyframe.
    pub(crate) fn pause(&mut self) {
        self.is_live = false;
    }

    /// Drops all media; times and offsets go on from here.
    pub(crate) fn clear(&mut self) {
        self.reset(self.newest);
        self.entries.clear();
        self.past.clear();
        self.trim();
    }

    /// No cursor is behind `needed`, nor will one begin there without [`begin_at`](Self::begin_at): what lies before it goes as soon
    /// as a keyframe lies behind it.
    pub(crate) fn release(&mut self, needed: u64) {
        self.needed = needed;
    }

    /// A cursor begins at `offset`.
    pub(crate) fn begin_at(&mut self, offset: u64) {
        self.needed = self.needed.min(offset);
    }

    /// The barrier with number `number`, if it exists yet. Barriers that have been dropped are given as `None` too: cursors that had not
    /// passed them are behind the [`floor`](Self::floor).
    pub(crate) fn barrier_at(&self, number: u64) -> Option<&Barrier> {
        let index = usize::try_from(number.checked_sub(self.first_barrier)?).ok()?;
        self.barriers.get(index)
    }

    /// The messages from `offset` on, which lies between two messages.
    pub(crate) fn entries_from(&self, offset: u64) -> impl Iterator<Item = &Entry> {
        let index = self.entries.partition_point(|entry| entry.offset < offset);
        self.entries.range(index..)
    }

    /// First message boundary at or after `offset`.
    pub(crate) fn boundary(&self, offset: u64) -> u64 {
        self.entries_from(offset).next().map_or_else(|| self.end(), |entry| entry.offset)
    }

    /// The payload of the message at `entry`.
    pub(crate) fn payload(&self, entry: &Entry) -> Vec<u8> {
        let to = self.boundary(entry.offset + 1);
        self.framing.payload(self.storage.read(entry.offset, to))
    }

    /// Keeps what lies from one offset to another, a part of one message.
    pub(crate) fn hold(&self, from: u64, to: u64) -> Option<Hold> {
        self.storage.hold(from, to)
    }

    /// Offers the bytes from one offset to another to `send`: (bytes offered, bytes taken).
    pub(crate) fn send(
        &self,
        from: u64,
        to: u64,
        send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<(usize, usize)> {
        self.storage.send(from, to, send)
    }

    fn live_point(&self, time: u64) -> JoinPoint {
        JoinPoint {
            offset: self.end(),
            time,
            next_barrier: self.first_barrier + self.barriers.len() as u64,
            headers: Rc::clone(&self.headers),
            holds_video: false,
            is_cut: false,
            is_unseeded: false,
            tracks: self.tracks,
            messages: self.messages,
        }
    }

    pub(crate) fn count_in(&mut self, meter: Meter) {
        self.storage.count_in(meter);
    }

    /// Its memory.
    pub(crate) fn store(&self) -> &Store {
        self.storage.store()
    }

    /// Bytes of memory of its media.
    #[must_use]
    pub fn memory(&self) -> u64 {
        self.storage.size()
    }

    /// See [`Stream::shrink`](crate::Stream::shrink).
    pub(crate) fn shrink(&mut self, most: u64) {
        while self.storage.size() > most && self.entries.len() > 1 {
            self.entries.pop_front();
            self.drop_before_floor();
            self.storage.release(self.floor);
        }
    }

    /// Drops what no reader needs, and what is older than the queue in time, but for the group of pictures to start with, or beyond it
    /// in bytes, those of metadata counted.
    fn trim(&mut self) {
        // Readers join at the newest keyframe.
        let needed = self.key.as_ref().map_or(0, |key| key.offset.min(self.needed));
        let oldest_time = self.newest.saturating_sub(self.queue_length);
        let group = self.offered().map_or(u64::MAX, |key| key.offset);
        self.drop_before_floor();
        while let Some(entry) = self.entries.front() {
            let held = self.end() - entry.offset + self.barrier_bytes;
            let is_wanted = entry.time >= oldest_time || entry.offset >= group;
            let fits = self.entries.len() <= QUEUE_MESSAGES && is_wanted && held <= QUEUE_BYTES;
            // The message before the first that is needed stays: it says up to which time a reader is.
            let is_needed = self.entries.get(1).is_none_or(|next| next.offset >= needed);
            if self.entries.len() <= 1 || (fits && is_needed) {
                break;
            }
            self.entries.pop_front();
            self.drop_before_floor();
        }
        self.storage.release(self.floor);
    }

    /// The oldest entry is the floor: what lies before it goes.
    fn drop_before_floor(&mut self) {
        self.floor = self.entries.front().map_or_else(|| self.end(), |entry| entry.offset);
        let floor = self.floor;
        self.key.take_if(|key| key.offset < floor);
        while self.past.front().is_some_and(|past| past.end <= floor) {
            self.past.pop_front();
        }
        while self.barriers.front().is_some_and(|barrier| barrier.offset < floor)
            && let Some(barrier) = self.barriers.pop_front()
        {
            self.first_barrier += 1;
            if let BarrierKind::Metadata(payload) = barrier.kind {
                self.barrier_bytes -= payload.len() as u64;
            }
        }
    }
}
