//! Where readers of a log begin: players and forwarders, those that come now and those that wait already.

use super::{GOP_BYTES, GOP_MESSAGES, JoinPoint, KEY_WAIT, Log, Offer, Past, STILL_AFTER, Span};

/// How far before the newest message a reader starts that does not start with a keyframe, ms. So old may the beginning of a
/// publication be for one that waited for it.
pub(super) const NEAR_LIVE: u64 = 2_000;
/// See [`NEAR_LIVE`]; messages.
const NEAR_LIVE_MESSAGES: usize = 2_000;

impl Log {
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
    pub(super) fn current(&self) -> Option<Span> {
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
    pub(super) fn offered(&self) -> Option<&JoinPoint> {
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
}
