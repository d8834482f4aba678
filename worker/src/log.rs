//! A stream as a log: every message once, as RTMP chunks that serve every player and every forwarder.
//!
//! A message is stored as fmt-1 chunks (RTMP 1.0 §5.3.1.2.2): its header holds a time *delta* and no message stream id, so
//! the same bytes are right for every reader that has been *seeded*, that is, has received a private fmt-0 message on
//! that chunk stream with the time from which the delta counts. Readers are [cursors](crate::cursor::Cursor).
//!
//! * A [`JoinPoint`] is a place where a cursor may start, with all it needs to be seeded there.
//! * A [`Barrier`] is an offset at which every cursor sends private bytes before it goes on.
//!
//! A message never straddles two segments, so one reference keeps the rest of a half-sent message alive.

use std::cell::{Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use rtmp::chunk;
use rtmp::wire::csid;

/// Capacity of a segment, bytes. Small enough that a quiet stream costs little, large enough that a flush rarely meets two.
const SEGMENT: usize = 256 * 1024;
/// Bytes kept for slow readers whatever their time: 30 s at 17 Mbit/s.
const QUEUE_BYTES: u64 = 64 * 1024 * 1024;
/// A group of pictures beyond any of these is not offered to joining readers: it would be a flood, not a start.
const GOP_BYTES: u64 = 32 * 1024 * 1024;
/// See [`GOP_BYTES`]; messages.
const GOP_MESSAGES: u64 = 5_000;
/// Messages kept for slow readers whatever their size: 120 s at 1000 a second. Tiny ones cost more to find than to keep.
const QUEUE_MESSAGES: usize = 120_000;
/// A chunk stream silent for this long is seeded anew, ms, so that no delta comes near the 24-bit limit.
const SEED_LIFE: u64 = 10_000;
/// Without video for this long readers start at the live edge, ms.
const AUDIO_ONLY_AFTER: u64 = 3_000;

/// The three chunk streams of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lane {
    Video,
    Audio,
    Data,
}

impl Lane {
    pub(crate) const ALL: [Self; 3] = [Self::Video, Self::Audio, Self::Data];

    /// The chunk stream id, part of every stored header.
    pub(crate) fn csid(self) -> u8 {
        match self {
            Self::Video => csid::VIDEO,
            Self::Audio => csid::AUDIO,
            Self::Data => csid::DATA,
        }
    }
}

/// What a decoder needs before the first frame. Shared: joins keep the ones in force at their place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers {
    /// `onMetaData` as players get it.
    pub(crate) metadata: Option<Bytes>,
    /// Audio sequence header.
    pub(crate) audio: Option<Bytes>,
    /// Video sequence header, then what must follow it (an Enhanced RTMP metadata packet).
    pub(crate) video: Vec<Bytes>,
}

/// Up to where each lane is known to a reader.
#[derive(Clone, Copy, Debug, Default)]
struct LaneState {
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
    lanes: [LaneState; 3],
    /// Messages appended before it.
    messages: u64,
}

impl JoinPoint {
    /// The time from which the lane's first delta counts; `None` where a barrier will seed it.
    pub(crate) fn seed_time(&self, lane: Lane) -> Option<u64> {
        let state = self.lanes[lane as usize];
        state.seeded.then_some(state.last)
    }
}

/// Private bytes that every cursor sends at an offset.
#[derive(Clone, Debug)]
pub(crate) struct Barrier {
    /// Where.
    pub(crate) offset: u64,
    /// What.
    pub(crate) kind: BarrierKind,
    /// The time it carries, ms.
    pub(crate) time: u64,
}

#[derive(Clone, Debug)]
pub(crate) enum BarrierKind {
    /// The lane's next delta counts from here.
    Seed(Lane),
    /// New `onMetaData`.
    Metadata(Bytes),
}

/// Part of the log, filled once from front to back and never moved.
#[derive(Debug)]
pub(crate) struct Segment {
    base: u64,
    data: RefCell<Vec<u8>>,
}

impl Segment {
    /// Bytes from log offset `from` on; empty if `from` lies outside.
    pub(crate) fn from(&self, from: u64) -> Ref<'_, [u8]> {
        let skip = usize::try_from(from.saturating_sub(self.base)).unwrap_or(usize::MAX);
        Ref::map(self.data.borrow(), |data| data.get(skip..).unwrap_or(&[]))
    }

    fn end(&self) -> u64 {
        self.base + self.data.borrow().len() as u64
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: u64,
    time: u64,
}

/// The log of one stream.
#[derive(Debug)]
pub(crate) struct Log {
    chunk_size: u32,
    /// Media kept for slow readers, ms; a longer GOP is not offered to joining ones.
    queue_length: u64,
    segments: VecDeque<Rc<Segment>>,
    entries: VecDeque<Entry>,
    barriers: VecDeque<Barrier>,
    /// Number of barriers dropped from the front: the number of `barriers[0]`.
    first_barrier: u64,
    /// The newest keyframe.
    key: Option<JoinPoint>,
    headers: Rc<Headers>,
    lanes: [LaneState; 3],
    messages: u64,
    newest: u64,
    /// Time of the last video message, or of the first message of the publication.
    last_video: u64,
    /// Whether the publication has had video.
    has_video: bool,
    /// See [`Log::give_up_on_keys`].
    keyless: bool,
    /// Cursors behind this offset have fallen out of the queue.
    floor: u64,
}

impl Log {
    /// An empty log whose chunks are of `chunk_size` bytes, and which keeps `queue_length` ms.
    pub(crate) fn new(chunk_size: u32, queue_length: u64) -> Self {
        Self {
            chunk_size,
            queue_length,
            segments: VecDeque::new(),
            entries: VecDeque::new(),
            barriers: VecDeque::new(),
            first_barrier: 0,
            key: None,
            headers: Rc::default(),
            lanes: [LaneState::default(); 3],
            messages: 0,
            newest: 0,
            last_video: 0,
            has_video: false,
            keyless: false,
            floor: 0,
        }
    }

    /// Chunk size of everything in the log, bytes.
    pub(crate) fn chunk_size(&self) -> u32 {
        self.chunk_size
    }

    /// Offset after the last byte.
    pub(crate) fn end(&self) -> u64 {
        self.segments.back().map_or(0, |s| s.end())
    }

    /// Offset that a cursor must not be behind.
    pub(crate) fn floor(&self) -> u64 {
        self.floor
    }

    /// Time of the last message on `lane`, ms, if there was one since the last reset.
    pub(crate) fn last(&self, lane: Lane) -> Option<u64> {
        let state = self.lanes[lane as usize];
        (state.last > 0 || state.seeded).then_some(state.last)
    }

    /// Headers and metadata in force at the end.
    pub(crate) fn headers(&self) -> &Headers {
        &self.headers
    }

    /// Changes the headers in force; what is already in the log is not affected.
    pub(crate) fn update_headers(&mut self, change: impl FnOnce(&mut Headers)) {
        change(Rc::make_mut(&mut self.headers));
    }

    /// A new publication that does not go on where the last one ended: no header, no join point and no seed of the old one counts.
    pub(crate) fn reset(&mut self, time: u64) {
        self.key = None;
        self.headers = Rc::default();
        for lane in &mut self.lanes {
            lane.seeded = false;
        }
        self.last_video = time;
        (self.has_video, self.keyless) = (false, false);
    }

    /// The source marks no keyframe: until there is one, readers start at the live edge.
    pub(crate) fn give_up_on_keys(&mut self) {
        self.keyless = self.key.is_none();
    }

    /// Time of the newest message, ms.
    pub(crate) fn newest(&self) -> u64 {
        self.newest
    }

    /// New metadata is in force from here on, for every reader.
    pub(crate) fn append_metadata(&mut self, payload: Bytes) {
        let time = self.newest;
        self.update_headers(|h| h.metadata = Some(payload.clone()));
        self.barrier(BarrierKind::Metadata(payload), time);
        self.lanes[Lane::Data as usize] = LaneState { last: time, seeded: false };
    }

    /// Appends a message. `time` must not be before [`last`](Self::last) of the lane.
    pub(crate) fn append(&mut self, lane: Lane, type_id: u8, time: u64, key: bool, payload: &[u8]) {
        self.newest = self.newest.max(time);
        for state in &mut self.lanes {
            state.seeded &= self.newest - state.last <= SEED_LIFE;
        }
        if !self.lanes[lane as usize].seeded {
            self.barrier(BarrierKind::Seed(lane), time);
            self.lanes[lane as usize] = LaneState { last: time, seeded: true };
        }
        if self.messages == 0 {
            self.last_video = time;
        }
        if key {
            // A join seeds no data lane: else old data would decide where a reader's time starts. The next data message does.
            self.lanes[Lane::Data as usize].seeded = false;
            self.key = Some(self.live_point(time));
            self.keyless = false;
        }
        if lane == Lane::Video {
            self.last_video = time;
            self.has_video = true;
        }
        let state = &mut self.lanes[lane as usize];
        // Seeds are renewed after 10 s, so a delta is far below the 24 bits it has.
        let delta = u32::try_from(time.saturating_sub(state.last)).unwrap_or(0);
        state.last = state.last.max(time);
        if self.is_live_edge() {
            // As above: a reader may start anywhere.
            self.lanes[Lane::Data as usize].seeded = false;
        }

        let offset = self.end();
        self.entries.push_back(Entry { offset, time });
        self.messages += 1;
        let size = chunk::delta_len(self.chunk_size, payload.len());
        let chunk_size = self.chunk_size;
        let mut data = self.segment_for(size).data.borrow_mut();
        chunk::put_delta(&mut data, chunk_size, lane.csid(), delta, type_id, payload);
        drop(data);
        self.trim();
    }

    /// Where a reader that comes now starts, or `None`: then it waits for [`key_after`](Self::key_after) the end.
    pub(crate) fn join(&self, gop_cache: bool) -> Option<JoinPoint> {
        self.key.as_ref().filter(|key| gop_cache && self.offers(key)).cloned().or_else(|| self.live_edge())
    }

    /// The newest keyframe at or after `offset`; without video, the live edge.
    pub(crate) fn key_after(&self, offset: u64) -> Option<JoinPoint> {
        self.key
            .as_ref()
            .filter(|key| key.offset >= offset && self.offers(key))
            .cloned()
            .or_else(|| self.live_edge())
    }

    /// The newest keyframe, if it is not before `offset`.
    pub(crate) fn key_from(&self, offset: u64) -> Option<&JoinPoint> {
        self.key.as_ref().filter(|key| key.offset >= offset)
    }

    /// The barrier with number `number`, if it exists yet. Barriers that have been dropped are given as `None` too: cursors that had not
    /// passed them are behind the [`floor`](Self::floor).
    pub(crate) fn barrier_at(&self, number: u64) -> Option<&Barrier> {
        let index = usize::try_from(number.checked_sub(self.first_barrier)?).ok()?;
        self.barriers.get(index)
    }

    /// The segment that holds `offset`, if it is still there.
    pub(crate) fn segment(&self, offset: u64) -> Option<&Rc<Segment>> {
        let index = self.segments.partition_point(|s| s.base <= offset).checked_sub(1)?;
        self.segments.get(index)
    }

    /// The segments from the one that holds `offset` on.
    pub(crate) fn segments_from(&self, offset: u64) -> impl Iterator<Item = &Rc<Segment>> {
        let index = self.segments.partition_point(|s| s.base <= offset).saturating_sub(1);
        self.segments.range(index.min(self.segments.len())..)
    }

    /// First message boundary at or after `offset`.
    pub(crate) fn boundary(&self, offset: u64) -> u64 {
        let index = self.entries.partition_point(|e| e.offset < offset);
        self.entries.get(index).map_or_else(|| self.end(), |e| e.offset)
    }

    /// How many messages lie before `offset`, and the time of the last of them, ms.
    pub(crate) fn position(&self, offset: u64) -> (u64, Option<u64>) {
        let index = self.entries.partition_point(|e| e.offset < offset);
        let time = index.checked_sub(1).and_then(|i| self.entries.get(i)).map(|e| e.time);
        (self.messages - (self.entries.len() - index) as u64, time)
    }

    /// Bytes of memory held by media.
    #[cfg(test)]
    fn bytes(&self) -> u64 {
        self.segments.iter().map(|s| s.data.borrow().len() as u64).sum()
    }

    /// Whether readers start where there is no keyframe: without video for a while, or without keyframes at all.
    fn is_live_edge(&self) -> bool {
        self.messages > 0 && (self.keyless || self.newest.saturating_sub(self.last_video) > AUDIO_ONLY_AFTER)
    }

    fn live_edge(&self) -> Option<JoinPoint> {
        self.is_live_edge().then(|| JoinPoint {
            // Video that goes on after a pause does so in the middle of a group.
            holds_video: self.has_video && !self.keyless,
            ..self.live_point(self.newest)
        })
    }

    fn offers(&self, key: &JoinPoint) -> bool {
        key.offset >= self.floor
            && self.end() - key.offset <= GOP_BYTES
            && self.messages - key.messages <= GOP_MESSAGES
            && self.newest.saturating_sub(key.time) <= self.queue_length
    }

    fn live_point(&self, time: u64) -> JoinPoint {
        JoinPoint {
            offset: self.end(),
            time,
            next_barrier: self.first_barrier + self.barriers.len() as u64,
            headers: Rc::clone(&self.headers),
            holds_video: false,
            lanes: self.lanes,
            messages: self.messages,
        }
    }

    fn barrier(&mut self, kind: BarrierKind, time: u64) {
        self.barriers.push_back(Barrier { offset: self.end(), kind, time });
    }

    fn segment_for(&mut self, size: usize) -> &Rc<Segment> {
        let fits = self.segments.back().is_some_and(|s| {
            let data = s.data.borrow();
            data.capacity() - data.len() >= size
        });
        if !fits {
            let segment =
                Segment { base: self.end(), data: RefCell::new(Vec::with_capacity(size.max(SEGMENT))) };
            self.segments.push_back(Rc::new(segment));
        }
        self.segments.back().expect("a segment was just made sure of")
    }

    /// Drops what is older than the queue in time or beyond it in bytes.
    fn trim(&mut self) {
        let oldest_time = self.newest.saturating_sub(self.queue_length);
        let oldest_offset = self.end().saturating_sub(QUEUE_BYTES);
        while let Some(entry) = self.entries.front() {
            let fits = self.entries.len() <= QUEUE_MESSAGES
                && entry.time >= oldest_time
                && entry.offset >= oldest_offset;
            if self.entries.len() <= 1 || fits {
                break;
            }
            self.entries.pop_front();
        }
        self.floor = self.entries.front().map_or_else(|| self.end(), |e| e.offset);
        let floor = self.floor;
        self.key.take_if(|key| key.offset < floor);
        while self.barriers.front().is_some_and(|b| b.offset < floor) {
            self.barriers.pop_front();
            self.first_barrier += 1;
        }
        while self.segments.len() > 1 && self.segments.front().is_some_and(|s| s.end() <= floor) {
            self.segments.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtmp::message_type::{AUDIO, VIDEO};

    const QUEUE_LENGTH: u64 = 30_000;

    fn video(log: &mut Log, time: u64, key: bool) {
        log.append(Lane::Video, VIDEO, time, key, &[if key { 0x17 } else { 0x27 }, 1, 0, 0, 0, 9]);
    }

    #[test]
    fn the_first_message_of_a_lane_is_behind_a_seed() {
        let mut log = Log::new(60_000, QUEUE_LENGTH);
        video(&mut log, 5_000, true);
        let barrier = log.barrier_at(0).unwrap();
        assert_eq!((barrier.offset, barrier.time), (0, 5_000));
        assert!(matches!(barrier.kind, BarrierKind::Seed(Lane::Video)));
        // The message itself then has delta 0.
        assert_eq!(log.segment(0).unwrap().from(0)[..4], [0x44, 0, 0, 0]);
    }

    #[test]
    fn a_lane_that_was_silent_is_seeded_anew_and_no_delta_is_long() {
        let mut log = Log::new(60_000, QUEUE_LENGTH);
        video(&mut log, 0, true);
        log.append(Lane::Audio, AUDIO, 10, false, &[0xAF, 1, 2]);
        for i in 1..=300 {
            video(&mut log, i * 40, false);
        }
        assert!(log.join(true).unwrap().seed_time(Lane::Audio).is_none_or(|t| t == 10));
        log.append(Lane::Audio, AUDIO, 11_990, false, &[0xAF, 1, 2]);
        let barrier = log.barrier_at(2).unwrap();
        assert!(matches!(barrier.kind, BarrierKind::Seed(Lane::Audio)));
        assert_eq!(barrier.time, 11_990);
    }

    #[test]
    fn a_joining_reader_starts_at_the_newest_keyframe_with_what_was_in_force_there() {
        let mut log = Log::new(60_000, QUEUE_LENGTH);
        log.update_headers(|h| h.video = vec![Bytes::from_static(b"old")]);
        video(&mut log, 0, true);
        video(&mut log, 40, false);
        log.update_headers(|h| h.video = vec![Bytes::from_static(b"new")]);
        let point = log.join(true).unwrap();
        assert_eq!(point.offset, 0);
        assert_eq!(point.headers.video, [Bytes::from_static(b"old")]);
        assert!(log.join(false).is_none());
        video(&mut log, 80, true);
        assert_eq!(log.key_after(1).unwrap().time, 80);
    }

    #[test]
    fn a_gop_without_end_is_not_offered() {
        let mut log = Log::new(60_000, QUEUE_LENGTH);
        video(&mut log, 0, true);
        for i in 1..GOP_MESSAGES {
            video(&mut log, i, false);
        }
        assert!(log.join(true).is_some());
        video(&mut log, GOP_MESSAGES, false);
        assert!(log.join(true).is_none());
    }

    #[test]
    fn without_video_readers_start_at_the_live_edge() {
        let mut log = Log::new(60_000, QUEUE_LENGTH);
        for i in 0..150 {
            log.append(Lane::Audio, AUDIO, i * 23, false, &[0xAF, 1, 2]);
        }
        assert_eq!(log.join(true).unwrap().offset, log.end());
        video(&mut log, 3_500, true);
        assert_eq!(log.join(true).unwrap().time, 3_500);
    }

    #[test]
    fn memory_is_bounded_in_time_and_in_bytes() {
        let mut log = Log::new(60_000, QUEUE_LENGTH);
        let frame = vec![0x27; 100_000];
        for i in 0..2_000 {
            log.append(Lane::Video, VIDEO, i * 40, i % 50 == 0, &frame);
            assert!(log.bytes() <= QUEUE_BYTES + 2 * SEGMENT as u64);
        }
        for i in 2_000..20_000 {
            log.append(Lane::Video, VIDEO, i * 40, i % 50 == 0, &[0x27; 100]);
        }
        assert!(log.newest - log.entries[0].time <= log.queue_length);
        assert!(log.entries.len() <= 800, "{}", log.entries.len());
        // Time that stands still keeps nothing for ever either.
        for _ in 0..QUEUE_MESSAGES + 10 {
            log.append(Lane::Video, VIDEO, 800_000, true, &[0x12]);
        }
        assert_eq!(log.entries.len(), QUEUE_MESSAGES);
    }

    #[test]
    fn without_video_for_a_while_a_keyframe_that_is_there_is_offered_all_the_same() {
        let mut log = Log::new(60_000, QUEUE_LENGTH);
        video(&mut log, 0, true);
        for i in 0..300 {
            log.append(Lane::Audio, AUDIO, i * 20, false, &[0xAF, 1, 2]);
        }
        assert_eq!(log.join(true).unwrap().offset, 0);
        let live = log.join(false).unwrap();
        assert!(live.offset == log.end() && live.holds_video);
    }

    #[test]
    fn a_source_without_keyframes_is_joined_at_the_live_edge() {
        let mut log = Log::new(60_000, QUEUE_LENGTH);
        video(&mut log, 0, false);
        assert!(log.join(true).is_none());
        log.give_up_on_keys();
        let live = log.join(true).unwrap();
        assert!(live.offset == log.end() && !live.holds_video);
        video(&mut log, 40, true);
        assert_eq!(log.join(true).unwrap().time, 40);
    }

    #[test]
    fn data_costs_one_barrier_a_group_and_none_decides_where_a_reader_starts() {
        let mut log = Log::new(60_000, QUEUE_LENGTH);
        for i in 0..500 {
            video(&mut log, i * 40, i % 50 == 0);
            log.append(Lane::Data, rtmp::message_type::DATA, i * 40, false, b"data");
        }
        assert!(log.join(true).unwrap().seed_time(Lane::Data).is_none());
        let seeds = |b: &&Barrier| matches!(b.kind, BarrierKind::Seed(Lane::Data));
        assert_eq!(log.barriers.iter().filter(seeds).count(), 10);
    }
}
