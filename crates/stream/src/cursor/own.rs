//! What a reader is sent of its own: headers and metadata where it joins, messages with their absolute time, and what barriers ask for.

use bytes::Bytes;
use rtmp::media;

use super::{Cursor, Position, Recipient};
use crate::framing::Framing;
use crate::log::{BarrierKind, Entry, JoinPoint, Log};
use crate::track::{Track, Tracks};

/// How far before its join point a reader's time may start, ms: tracks are interleaved, so the message before a keyframe on
/// another track is a little older; one much older must not make the first frame seem late.
const START_BEFORE: u64 = 1_000;

impl Cursor {
    /// Owes the message at `entry` with its absolute time, from which the next delta on its track counts. What is before the start of
    /// the reader's time is shown at that start.
    pub(super) fn seed(&mut self, log: &Log, entry: &Entry, barrier: u64) {
        self.is_changed = true;
        let (framing, track, msid) = (log.framing(), entry.track, self.state.msid);
        let time = self.timestamp(entry.time.max(self.state.start));
        let end = log.boundary(entry.offset + 1);
        let replaced = framing.absolute(&mut self.state.private, track, time, msid, entry.payload as usize);
        match replaced {
            Some(replaced) => self.hold(log, entry.offset + replaced as u64, end),
            None => framing.message(&mut self.state.private, track, time, msid, &log.payload(entry)),
        }
        let state = &mut self.state;
        if entry.key && !state.muted.has(Track::Video) {
            state.holds_video = None;
        }
        let is_held = track == Track::Video && state.holds_video.is_some();
        state.unseeded.set(track, entry.time < state.start || is_held || state.muted.has(track));
        self.state.place = Position::At { offset: end, barrier };
    }

    /// Does what the barrier at `offset` says; the next one is `barrier`.
    pub(super) fn pass(&mut self, kind: &BarrierKind, log: &Log, offset: u64, barrier: u64) {
        let is_player = self.state.recipient == Recipient::Player;
        match kind {
            BarrierKind::Publication => self.state.holds_video = is_player.then(|| log.key_wait()),
            BarrierKind::Seed(track) => self.state.unseeded.set(*track, true),
            BarrierKind::Metadata(payload) => self.put_metadata(log.framing(), payload),
            BarrierKind::DataHeader if self.state.recipient == Recipient::Forwarder => {
                // In place of the stored message, which is what players get.
                if let Some(entry) = log.entries_from(offset).next() {
                    let payload = media::metadata_for_publish(&log.payload(entry));
                    let (time, msid) = (self.timestamp(entry.time), self.state.msid);
                    log.framing().message(&mut self.state.private, Track::Data, time, msid, &payload);
                    self.state.unseeded.set(Track::Data, false);
                    self.state.place = Position::At { offset: log.boundary(offset + 1), barrier };
                }
            }
            BarrierKind::DataHeader => {}
        }
    }

    /// Moves to `point` and gives the reader the metadata and headers in force there. A header carries the time from which its
    /// track's first delta counts; where there is none, or that time is before the start of this reader's, the track's first
    /// message carries its own. The reader has had everything before `reached`.
    pub(super) fn join(&mut self, point: &JoinPoint, log: &Log, reached: u64) {
        self.is_changed = true;
        let framing = log.framing();
        let earliest = point.time.saturating_sub(START_BEFORE);
        let start = [Track::Video, Track::Audio]
            .iter()
            .filter_map(|track| point.seed_time(*track))
            .filter(|time| *time >= earliest && !point.is_cut && !point.is_unseeded)
            .fold(point.time, u64::min);
        let base = *self.state.base.get_or_insert(start);
        // What was shown at a later time is not followed by an earlier one.
        let start = if point.is_cut { point.time.max(base) } else { base };
        self.state.start = self.state.start.max(start);
        self.state.had = if point.offset < reached { log.end() } else { reached };
        self.state.unseeded = Tracks::default();
        if let Some(metadata) = &point.headers.metadata {
            self.put_metadata(framing, metadata);
        }
        // Data last: what it is about comes before it.
        for track in [Track::Audio, Track::Video, Track::Data] {
            self.put_headers(framing, track, point);
        }
        let state = &mut self.state;
        // A forwarder's target decides itself what it waits for.
        let holds_video = point.holds_video && state.recipient == Recipient::Player;
        state.holds_video = holds_video.then(|| log.key_wait());
        for track in Track::ALL {
            let is_left_out = state.muted.has(track) || (holds_video && track == Track::Video);
            if is_left_out && point.seed_time(track).is_some() {
                state.unseeded.set(track, true);
            }
        }
        state.place = Position::At { offset: point.offset, barrier: point.next_barrier };
    }

    fn put_headers(&mut self, framing: Framing, track: Track, point: &JoinPoint) {
        let (seed, start) = (point.seed_time(track), self.state.start);
        // Data may be old, and a forwarder that sends it again must not make it younger.
        let otherwise = if track == Track::Data { point.last(track) } else { point.time };
        let time = seed.filter(|_| !point.is_unseeded).unwrap_or(otherwise);
        let time = self.timestamp(time.max(start));
        let is_forwarder = self.state.recipient == Recipient::Forwarder;
        let mut has_some = false;
        for packet in point.headers.of(track) {
            has_some = true;
            let (out, msid) = (&mut self.state.private, self.state.msid);
            if is_forwarder && packet.is_to_be_kept() {
                framing.message(out, track, time, msid, &media::metadata_for_publish(&packet.payload));
            } else {
                framing.message(out, track, time, msid, &packet.payload);
            }
        }
        let is_unseeded = |seed| point.is_unseeded || !has_some || seed < start;
        self.state.unseeded.set(track, seed.is_some_and(is_unseeded));
    }

    /// Metadata always carries time 0, as from SRS: ffmpeg takes any other for the start of a text stream.
    fn put_metadata(&mut self, framing: Framing, payload: &Bytes) {
        let (private, msid) = (&mut self.state.private, self.state.msid);
        match self.state.recipient {
            Recipient::Player => framing.message(private, Track::Data, 0, msid, payload),
            Recipient::Forwarder => {
                framing.message(private, Track::Data, 0, msid, &media::metadata_for_publish(payload));
            }
        }
    }

    /// A time of the stream as this reader is told it.
    #[expect(clippy::cast_possible_truncation, reason = "RTMP timestamps are modulo 2^32 (§5.3.1)")]
    fn timestamp(&self, time: u64) -> u32 {
        time.saturating_sub(self.state.base.unwrap_or(0)) as u32
    }
}
