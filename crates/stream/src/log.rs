//! A stream as a log: every message once, as bytes that serve every player and every forwarder.
//!
//! Readers are [cursors](crate::Cursor). Each needs to be *seeded* on a track (see [`framing`](crate::framing)) before it may
//! read on: the stored messages hold the time since the last one.
//!
//! * An [`Entry`] says what lies at an offset: time, track, size, whether a decoder may start there.
//! * A [`JoinPoint`] is a place where a cursor may start, with all it needs to be seeded there.
//! * A [`Barrier`] is an offset at which every cursor does something of its own before it goes on.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::rc::Rc;

use bytes::Bytes;

use crate::framing::Framing;
use crate::headers::Headers;
use crate::storage::{Hold, Meter, Storage};
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
/// How far before the newest message a reader starts that does not start with a keyframe, ms. So old may the beginning of a
/// publication be for one that waited for it.
const NEAR_LIVE: u64 = 2_000;
/// See [`NEAR_LIVE`]; messages.
const NEAR_LIVE_MESSAGES: usize = 2_000;
/// A group of pictures in which there is no video for this long, ms, is a picture that stands still: who joins sees it at once, but
/// hears what is near live.
const STILL_AFTER: u64 = 1_000;
/// Messages at the end of the log among which one that is sent again is looked for. A new one of the same time comes right behind the
/// last, so there are no more between them than slices, tracks and data of one time.
const SAME_TIME_MAX: usize = 64;
/// Publications that are over and still offered to those who have had nothing of them.
const PAST_MAX: usize = 32;

/// Up to where a track is known to a reader.
#[derive(Clone, Copy, Debug, Default)]
struct Reached {
    /// Time of the last message, ms.
    last: u64,
    /// Whether every reader that has come this far has been seeded.
    seeded: bool,
}

/// A place where a cursor may start.
#[derive(Clone, Debug)]
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
#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    /// Where.
    pub(crate) offset: u64,
    /// What.
    pub(crate) kind: BarrierKind,
}

#[derive(Clone, Debug)]
pub(crate) enum BarrierKind {
    /// The track's next message, the one behind the barrier, seeds it.
    Seed(Track),
    /// New `onMetaData` comes first.
    Metadata(Bytes),
    /// The message behind the barrier is data of which a server must be told to keep it.
    DataHeader,
    /// A publication that does not go on with the last one: its video starts with a keyframe.
    Publication,
}

/// One message of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its first byte.
    pub offset: u64,
    /// Stream time, ms.
    pub time: u64,
    /// Bytes of its payload.
    pub payload: u32,
    /// Where it belongs.
    pub track: Track,
    /// Whether decoding can start here.
    pub key: bool,
    /// Whether it is what a decoder needs before all others, no frame.
    pub header: bool,
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
#[derive(Debug)]
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
#[derive(Debug)]
pub struct Log {
    framing: Framing,
    /// Media kept for slow readers, ms, beside the newest group of pictures.
    queue_length: u64,
    storage: Storage,
    entries: VecDeque<Entry>,
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
    /// An empty log whose chunks are of `chunk_size` bytes, and which keeps `queue_length` ms.
    #[must_use]
    pub fn new(chunk_size: u32, queue_length: u64) -> Self {
        Self {
            framing: Framing::new(chunk_size),
            queue_length,
            storage: Storage::default(),
            entries: VecDeque::new(),
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

    /// Offset where a player that comes now begins: at the newest keyframe, else near the end. Without `gop_cache` at the end, but for
    /// a picture that stands still.
    #[must_use]
    pub fn start(&self, gop_cache: bool) -> u64 {
        let key = self.offered().filter(|key| gop_cache || self.is_still(key));
        let near = || gop_cache.then(|| self.live_edge(0)).flatten();
        key.map(|key| key.offset).or_else(|| near().map(|point| point.offset)).unwrap_or_else(|| self.end())
    }

    /// Where a forwarder begins with a publication: one that is over it passes on whole, or the last group of pictures of what is left of
    /// it; one that goes on whole if it has only begun, or if this `is_first`, not a later connection, else as a player would. Of one that
    /// is gone there is nothing behind its begin.
    #[must_use]
    pub fn start_of_forward(&self, publication: Span, is_first: bool) -> u64 {
        let Span { begin, .. } = publication;
        if let Some(past) = self.past.iter().find(|past| past.begin.offset == begin) {
            return past.points(self.floor).next().map_or(past.end, |point| point.offset);
        }
        if self.current().is_none_or(|current| current.begin != begin) {
            return begin;
        }
        let is_whole = |begin: &&JoinPoint| is_first || !self.is_live || self.is_near_live(begin.time);
        self.begun().filter(is_whole).map_or_else(|| self.start(true), |begin| begin.offset)
    }

    /// The first publication that begins at `offset` or behind it and of which there is something to read.
    #[must_use]
    pub fn publication_from(&self, offset: u64) -> Option<Span> {
        let readable = self.past.iter().filter(|past| past.points(self.floor).next().is_some());
        let mut all = readable.map(Past::span).chain(self.current());
        all.find(|publication| publication.begin >= offset)
    }

    /// The publication that begins at `begin`, if anything of it is left.
    #[must_use]
    pub fn publication_at(&self, begin: u64) -> Option<Span> {
        let mut all = self.past.iter().map(Past::span).chain(self.current());
        all.find(|publication| publication.begin == begin)
    }

    /// The newest publication, if it has had media.
    fn current(&self) -> Option<Span> {
        let begin = self.begin.as_ref().map_or(0, |begin| begin.offset);
        let end = (!self.is_live).then_some(self.end());
        (!self.is_empty() && begin < self.end()).then_some(Span { begin, end })
    }

    /// What a reader gets that joins now, with `gop_cache`.
    #[must_use]
    pub fn offer(&self) -> Offer {
        match self.join_after(self.start(true), 0) {
            None => Offer::Nothing,
            Some(_) if !self.has_video => Offer::NoVideo,
            Some(_) if self.is_keyless() => Offer::Keyless,
            Some(point) if point.holds_video => Offer::NoKeyframe,
            Some(_) => Offer::Keyframe,
        }
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
        let offset = self
            .storage
            .append(framing.stored_len(payload.len()), |out| framing.store(out, track, delta, payload));
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
    pub(crate) fn append_metadata(&mut self, payload: Bytes) {
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

    /// Where a reader starts that has had everything before `reached` and wants nothing before `from`; `None` where there is nothing
    /// to start with. A keyframe before `reached` shows it the picture again: what it hears goes on behind the newest message.
    ///
    /// * One that waited for a publication starts where it begins, also when that is over.
    /// * Else it starts at the newest keyframe, whatever its age; where the picture stands still, audio starts near live.
    /// * Else it starts near live, without video before the next keyframe.
    pub(crate) fn join_after(&self, from: u64, reached: u64) -> Option<JoinPoint> {
        let at = from.max(reached);
        let waited_for =
            |begin: &JoinPoint| begin.offset == at || (begin.offset > at && self.is_near_live(begin.time));
        let is_wanted = |past: &Past, point: &JoinPoint| {
            point.offset == at || (point.offset == past.begin.offset && waited_for(point))
        };
        let mut past = self.past.iter();
        let past = past.find_map(|past| past.points(self.floor).find(|point| is_wanted(past, point)));
        let begin = past.or_else(|| self.begun().filter(|begin| waited_for(begin)));
        let key = self.offered().filter(|key| key.offset >= from && (key.offset >= reached || self.is_live));
        let key = key.map(|key| {
            if key.offset < reached {
                JoinPoint { time: self.newest + 1, is_cut: true, ..key.clone() }
            } else if self.is_still(key) {
                JoinPoint { time: self.newest - NEAR_LIVE, is_cut: true, ..key.clone() }
            } else {
                key.clone()
            }
        });
        begin.cloned().or(key).or_else(|| self.live_edge(at))
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

    /// Whether video starts without a keyframe: there has been none for a while, or its group has grown too large to start with.
    pub(crate) fn is_keyless(&self) -> bool {
        self.has_video && self.offered().is_none() && self.newest.saturating_sub(self.last_key) > KEY_WAIT
    }

    /// Whether there has been no keyframe for a while for a reader that waits for one until `until`, in stream time.
    pub(crate) fn is_keyless_after(&self, until: u64) -> bool {
        let is_over = self.newest > until && self.newest.saturating_sub(self.last_key) > KEY_WAIT;
        self.is_keyless() || (self.has_video && is_over)
    }

    /// Until when, in stream time, a reader that is here now waits for a keyframe, ms.
    pub(crate) fn key_wait(&self) -> u64 {
        self.newest + KEY_WAIT
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
        self.storage.read(entry.offset, to, |stored| self.framing.payload(stored))
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

    /// Near the end, not before `from`, and not before the last change of headers.
    fn live_edge(&self, from: u64) -> Option<JoinPoint> {
        if !self.is_live {
            return None;
        }
        let since = self.newest.saturating_sub(NEAR_LIVE);
        let begin = self.begin.as_ref().map_or(0, |begin| begin.offset);
        let from = from.max(begin).max(self.headers_end);
        let near = self.entries.iter().rev().take(NEAR_LIVE_MESSAGES);
        let near = near.take_while(|entry| entry.offset >= from && entry.time >= since);
        let first = near.fold(None, |first: Option<(u64, u64)>, entry| {
            Some((entry.offset, first.map_or(entry.time, |(_, time)| time.min(entry.time))))
        });
        let end = JoinPoint { holds_video: !self.is_keyless(), ..self.live_point(self.newest) };
        let Some((offset, time)) = first else { return Some(end) };
        let before = self.barriers.partition_point(|barrier| barrier.offset < offset);
        let next_barrier = self.first_barrier + before as u64;
        Some(JoinPoint { offset, time, next_barrier, is_unseeded: true, ..end })
    }

    /// The newest keyframe, if its group is one to start with.
    fn offered(&self) -> Option<&JoinPoint> {
        self.key.as_ref().filter(|key| {
            key.offset >= self.floor
                && self.end() - key.offset <= GOP_BYTES
                && self.messages - key.messages <= GOP_MESSAGES
        })
    }

    /// Whether the picture has stood still since `key`, and that began before what is near live.
    fn is_still(&self, key: &JoinPoint) -> bool {
        let stands_still = self.stood_still || self.newest.saturating_sub(self.last_video) >= STILL_AFTER;
        stands_still && self.newest.saturating_sub(key.time) > 2 * NEAR_LIVE
    }

    /// The beginning of the publication, if something has come and all of it is still there.
    fn begun(&self) -> Option<&JoinPoint> {
        self.begin.as_ref().filter(|begin| (self.floor..self.end()).contains(&begin.offset))
    }

    fn is_near_live(&self, time: u64) -> bool {
        self.newest.saturating_sub(time) <= NEAR_LIVE
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
            self.storage.give_back(self.floor);
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

#[cfg(test)]
mod tests {
    use rtmp::media::Kind;

    use super::*;
    use crate::storage::SEGMENT;

    const QUEUE_LENGTH: u64 = 30_000;

    fn log() -> Log {
        Log::new(60_000, QUEUE_LENGTH)
    }

    fn video(log: &mut Log, time: u64, key: bool) {
        log.append(Track::Video, time, key, &[if key { 0x17 } else { 0x27 }, 1, 0, 0, 0, 9]);
    }

    fn audio(log: &mut Log, time: u64) {
        log.append(Track::Audio, time, false, &[0xAF, 1, 2]);
    }

    #[test]
    fn the_first_message_of_a_track_is_behind_a_seed() {
        let mut log = log();
        video(&mut log, 5_000, true);
        let barrier = log.barrier_at(0).unwrap();
        assert_eq!(barrier.offset, 0);
        assert!(matches!(barrier.kind, BarrierKind::Seed(Track::Video)));
        // The message itself then has delta 0.
        log.storage.read(0, 4, |stored| assert_eq!(stored, [0x44, 0, 0, 0]));
    }

    #[test]
    fn a_track_that_was_silent_is_seeded_anew_and_no_delta_is_long() {
        let mut log = log();
        video(&mut log, 0, true);
        audio(&mut log, 10);
        for i in 1..=300 {
            video(&mut log, i * 40, false);
        }
        assert!(log.key.as_ref().unwrap().seed_time(Track::Audio).is_none_or(|t| t == 10));
        audio(&mut log, 11_990);
        let barrier = log.barrier_at(2).unwrap();
        assert!(matches!(barrier.kind, BarrierKind::Seed(Track::Audio)));
        assert_eq!(log.entries_from(barrier.offset).next().unwrap().time, 11_990);
    }

    #[test]
    fn an_entry_tells_where_a_message_lies_and_what_it_is() {
        let mut log = log();
        video(&mut log, 7, true);
        audio(&mut log, 9);
        let entries: Vec<_> = log.entries_from(0).copied().collect();
        let [key, sound] = entries[..] else { panic!("{entries:?}") };
        assert_eq!((key.time, key.payload, key.track, key.key), (7, 6, Track::Video, true));
        assert_eq!((sound.time, sound.payload, sound.track, sound.key), (9, 3, Track::Audio, false));
        assert_eq!(log.payload(&key), [0x17, 1, 0, 0, 0, 9]);
        assert_eq!(log.payload(&sound), [0xAF, 1, 2]);
    }

    #[test]
    fn what_no_reader_needs_is_kept_no_longer_than_until_the_next_keyframe() {
        let mut log = log();
        let append = |log: &mut Log, frames: std::ops::Range<u64>| {
            frames.for_each(|i| video(log, i * 40, i.is_multiple_of(50)));
        };
        append(&mut log, 0..120);
        assert_eq!(log.entries.len(), 120, "somebody may read");
        log.release(u64::MAX);
        append(&mut log, 120..121);
        // The group from 100 on, and the message before it.
        assert_eq!(log.entries.front().map(|entry| entry.time), Some(99 * 40));
        assert_eq!(joined(&log).time, 100 * 40);

        let slow = joined(&log).offset;
        log.begin_at(slow);
        append(&mut log, 121..400);
        assert_eq!(log.entries_from(slow).next().map(|entry| entry.time), Some(100 * 40));
        assert_eq!(log.position(slow), (100, Some(99 * 40)));
        let reached = log.entries_from(0).nth(200).unwrap().offset;
        log.release(reached);
        append(&mut log, 400..401);
        assert_eq!(log.entries.front().map(|entry| entry.time), Some((99 + 199) * 40));
    }

    #[test]
    fn without_a_keyframe_all_of_the_queue_is_kept() {
        let mut log = log();
        log.release(u64::MAX);
        (0..100).for_each(|i| audio(&mut log, i * 20));
        assert_eq!(log.entries.len(), 100);
    }

    #[test]
    fn a_position_counts_the_messages_before_it_and_has_the_time_of_the_last() {
        let mut log = log();
        assert_eq!(log.position(0), (0, None));
        for i in 0..2_000 {
            video(&mut log, i * 40, i % 50 == 0);
        }
        let kept: Vec<_> = log.entries_from(0).copied().collect();
        assert!(kept.len() < 2_000, "the queue is shorter");
        for entry in &kept[1..] {
            assert_eq!(log.position(entry.offset), (entry.time / 40, Some(entry.time - 40)));
        }
        assert_eq!(log.position(log.end()), (2_000, Some(1_999 * 40)));
        log.clear();
        assert_eq!(log.position(log.end()), (2_000, None));
    }

    #[test]
    fn a_joining_reader_starts_at_the_newest_keyframe_with_what_was_in_force_there() {
        let mut log = log();
        let header = |h: &mut Headers, payload: &'static [u8]| {
            let scope = h.scope(Kind::VideoHeader, Track::Video, payload);
            h.keep(Track::Video, scope, &Bytes::from_static(payload), false);
        };
        log.update_headers(|h| header(h, b"\x17\x00old"));
        video(&mut log, 0, true);
        video(&mut log, 40, false);
        log.update_headers(|h| header(h, b"\x17\x00new"));
        let point = log.join_after(log.start(true), 0).unwrap();
        assert_eq!(point.offset, 0);
        let payloads: Vec<_> = point.headers.of(Track::Video).map(|packet| &packet.payload).collect();
        assert_eq!(payloads, [&b"\x17\x00old"[..]]);
        assert_eq!(log.start(false), log.end());
        video(&mut log, 80, true);
        assert_eq!(log.join_after(1, 0).unwrap().time, 80);
    }

    fn joined(log: &Log) -> JoinPoint {
        log.join_after(log.start(true), 0).unwrap()
    }

    #[test]
    fn a_keyframe_of_several_messages_begins_with_the_first() {
        let mut log = log();
        for picture in 0..3 {
            let first = log.end();
            for slice in 0..4 {
                video(&mut log, picture * 40, true);
                if slice == 1 {
                    audio(&mut log, picture * 40);
                }
                assert_eq!(joined(&log).offset, first);
            }
        }
        // Keyframes at one time with pictures between them are as many.
        video(&mut log, 80, false);
        let second = log.end();
        video(&mut log, 80, true);
        assert_eq!(joined(&log).offset, second);
    }

    #[test]
    fn keyframes_at_one_time_without_end_are_joined_all_the_same() {
        let mut log = log();
        for _ in 0..3 * GOP_MESSAGES {
            video(&mut log, 40, true);
            assert_eq!(log.offer(), Offer::Keyframe);
        }
    }

    #[test]
    fn a_group_of_pictures_is_kept_and_offered_up_to_its_bounds_however_old_it_is() {
        let mut log = log();
        video(&mut log, 0, true);
        for i in 1..GOP_MESSAGES {
            video(&mut log, i * 40, false);
        }
        assert_eq!((joined(&log).offset, log.floor()), (0, 0));
        video(&mut log, GOP_MESSAGES * 40, false);
        assert!(joined(&log).offset > log.floor(), "near live");
        let oldest = log.entries[0].time;
        assert!(log.newest - oldest <= QUEUE_LENGTH, "then it is dropped as all that is old");
    }

    #[test]
    fn a_source_of_one_keyframe_is_joined_without_one_once_its_group_is_too_large() {
        let mut log = log();
        let frame = vec![0x27; 100_000];
        log.append(Track::Video, 0, true, &frame);
        let fits = GOP_BYTES / 100_100;
        (1..fits).for_each(|i| log.append(Track::Video, i * 40, false, &frame));
        assert_eq!(log.offer(), Offer::Keyframe);
        (fits..fits + 10).for_each(|i| log.append(Track::Video, i * 40, false, &frame));
        assert_eq!(log.offer(), Offer::Keyless);
        assert!(!joined(&log).holds_video && log.newest - joined(&log).time <= NEAR_LIVE);
    }

    #[test]
    fn without_video_readers_start_near_live() {
        let mut log = log();
        for i in 0..150 {
            audio(&mut log, i * 23);
        }
        let point = joined(&log);
        assert!((1_400..=1_450).contains(&point.time) && point.holds_video, "{}", point.time);
        assert_eq!(log.join_after(log.start(false), 0).unwrap().offset, log.end());
        video(&mut log, 3_500, true);
        assert_eq!(joined(&log).time, 3_500);
    }

    #[test]
    fn near_live_is_not_before_the_last_header() {
        let mut log = log();
        for i in 0..50 {
            audio(&mut log, i * 23);
        }
        log.update_headers(|headers| headers.metadata = None);
        log.append_header(Track::Audio, 1_150, &[0xAF, 0, 1]);
        let end = log.end();
        audio(&mut log, 1_173);
        assert_eq!(joined(&log).offset, end);
    }

    fn start_of_forward(log: &Log, is_first: bool) -> u64 {
        log.start_of_forward(log.current().unwrap(), is_first)
    }

    #[test]
    fn publications_that_are_over_are_offered_one_after_the_other_while_they_are_there() {
        let mut log = log();
        let mut begins = Vec::new();
        for number in 0..3 {
            log.reset(number * 1_000);
            begins.push(log.end());
            video(&mut log, number * 1_000, true);
            video(&mut log, number * 1_000 + 40, false);
            log.pause();
        }
        let spans: Vec<_> =
            std::iter::successors(log.publication_from(0), |last| log.publication_from(last.begin + 1))
                .collect();
        let ends = [begins[1], begins[2], log.end()].map(Some);
        let expected: Vec<_> =
            begins.iter().zip(ends).map(|(begin, end)| Span { begin: *begin, end }).collect();
        assert_eq!(spans, expected);
        // Who waited for the first gets it, and a forwarder each.
        assert_eq!(log.join_after(0, 0).unwrap().offset, 0);
        for span in &spans {
            let from = log.start_of_forward(*span, false);
            assert_eq!((from, log.join_after(from, 0).unwrap().offset), (span.begin, span.begin));
        }
        // The begin of one that was long is gone: its last keyframe is left.
        log.reset(3_000);
        for second in 3..60 {
            video(&mut log, second * 1_000, true);
        }
        let [_, Span { begin: long, .. }] = [log.publication_from(0), log.current()].map(Option::unwrap);
        let key = log.key.as_ref().unwrap().offset;
        log.pause();
        log.reset(60_000);
        video(&mut log, 60_000, false);
        let span = log.publication_at(long).unwrap();
        assert!(long < log.floor() && log.publication_at(0).is_none());
        assert_eq!(log.start_of_forward(span, true), key);
        assert_eq!(log.join_after(key, 0).unwrap().offset, key);
    }

    #[test]
    fn publications_without_number_are_not_kept() {
        let mut log = log();
        for number in 0..10 * PAST_MAX as u64 {
            log.reset(number);
            video(&mut log, number, true);
        }
        assert_eq!(log.past.len(), PAST_MAX);
    }

    #[test]
    fn who_waits_starts_where_the_publication_begins() {
        let mut log = log();
        audio(&mut log, 5);
        let from = log.end();
        log.reset(1_000);
        assert!(log.join_after(from, 0).is_none(), "nothing has come");
        log.append_header(Track::Audio, 1_000, &[0xAF, 0, 1]);
        audio(&mut log, 1_020);
        let begin = log.join_after(from, 0).unwrap();
        assert_eq!((begin.offset, begin.time, begin.holds_video), (from, 1_000, true));
        assert_eq!(start_of_forward(&log, false), from);
        // Whoever comes late to it gets the keyframe.
        video(&mut log, 1_040, true);
        for i in 0..200 {
            audio(&mut log, 1_040 + i * 20);
        }
        assert_eq!(log.join_after(from - 1, 0).unwrap().time, 1_040);
        assert_eq!(start_of_forward(&log, false), log.key.as_ref().unwrap().offset);
        // A beginning faster than its time is still the beginning for who waited there.
        assert_eq!(log.join_after(from, 0).unwrap().time, 1_000);
        assert_eq!(start_of_forward(&log, true), from);
    }

    #[test]
    fn a_publication_that_is_over_has_no_live_edge() {
        let mut log = log();
        for i in 0..150 {
            audio(&mut log, i * 23);
        }
        log.pause();
        assert!(log.join_after(0, 0).is_none());
        audio(&mut log, 3_500);
        assert!(log.join_after(0, 0).is_some());
    }

    #[test]
    fn memory_is_bounded_in_time_and_in_bytes() {
        let mut log = log();
        let frame = vec![0x27; 100_000];
        for i in 0..2_000 {
            log.append(Track::Video, i * 40, i % 50 == 0, &frame);
            assert!(log.storage.held() <= QUEUE_BYTES + 2 * SEGMENT as u64);
        }
        for i in 2_000..20_000 {
            log.append(Track::Video, i * 40, i % 50 == 0, &[0x27; 100]);
        }
        assert!(log.newest - log.entries[0].time <= log.queue_length);
        assert!(log.entries.len() <= 800, "{}", log.entries.len());
        // Time that stands still keeps nothing for ever either.
        for _ in 0..QUEUE_MESSAGES + 10 {
            log.append(Track::Video, 800_000, true, &[0x12]);
        }
        assert_eq!(log.entries.len(), QUEUE_MESSAGES);
    }

    #[test]
    fn metadata_counts_as_what_is_kept_for_slow_readers() {
        let mut log = log();
        for i in 0..3_000 {
            log.append_metadata(Bytes::from(vec![0; 64 * 1024 - i]));
            audio(&mut log, 5);
            assert!(log.barrier_bytes <= QUEUE_BYTES + 64 * 1024);
        }
        assert!(log.barriers.len() < 1_200);
        log.clear();
        assert_eq!((log.barriers.len(), log.barrier_bytes), (1, 0), "the next publication is another");
    }

    #[test]
    fn a_cleared_log_holds_nothing_and_goes_on_where_it_was() {
        let mut log = log();
        video(&mut log, 5, true);
        let end = log.end();
        log.clear();
        assert_eq!((log.storage.held(), log.end(), log.floor(), log.newest()), (0, end, end, 5));
        assert!(log.join_after(0, 0).is_none());
        video(&mut log, 45, true);
        assert_eq!(joined(&log).offset, end);
    }

    #[test]
    fn a_picture_that_stands_still_is_joined_at_once_and_near_live() {
        let mut log = log();
        video(&mut log, 0, true);
        video(&mut log, 40, false);
        for i in 0..300 {
            audio(&mut log, i * 20);
        }
        for gop_cache in [true, false] {
            let point = log.join_after(log.start(gop_cache), 0).unwrap();
            assert_eq!((point.offset, point.time, point.is_cut), (0, log.newest - NEAR_LIVE, true));
        }
        // One more picture, and it stands still again.
        video(&mut log, 6_000, false);
        assert!(joined(&log).is_cut);
        video(&mut log, 6_040, true);
        assert!(!joined(&log).is_cut);
    }

    #[test]
    fn a_source_without_keyframes_is_joined_without_one_after_a_while() {
        let mut log = log();
        log.reset(0);
        (0..=KEY_WAIT / 40).for_each(|i| video(&mut log, i * 40, false));
        assert!(joined(&log).holds_video);
        assert_eq!(log.offer(), Offer::NoKeyframe);
        video(&mut log, KEY_WAIT + 40, false);
        assert!(!joined(&log).holds_video);
        video(&mut log, KEY_WAIT + 80, true);
        assert_eq!(joined(&log).time, KEY_WAIT + 80);
    }

    #[test]
    fn an_offer_says_what_the_source_has_for_whoever_joins() {
        let mut log = log();
        assert_eq!(log.offer(), Offer::Nothing);
        audio(&mut log, 0);
        assert_eq!(log.offer(), Offer::NoVideo);
        video(&mut log, 20, false);
        assert_eq!(log.offer(), Offer::NoKeyframe);
        video(&mut log, 20 + KEY_WAIT + 1, false);
        assert_eq!(log.offer(), Offer::Keyless);
        video(&mut log, 40 + KEY_WAIT, true);
        assert_eq!(log.offer(), Offer::Keyframe);
    }

    #[test]
    fn data_costs_no_barrier_but_the_first() {
        let mut log = log();
        for i in 0..500 {
            video(&mut log, i * 40, i % 50 == 0);
            log.append(Track::Data, i * 40, false, b"data");
        }
        let seeds = |b: &&Barrier| matches!(b.kind, BarrierKind::Seed(Track::Data));
        assert_eq!(log.barriers.iter().filter(seeds).count(), 1);
    }
}
