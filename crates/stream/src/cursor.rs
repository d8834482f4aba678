//! One reader's position in a [`Log`]: a player or a forwarder.
//!
//! A cursor writes three kinds of bytes and never mixes them within a message: the shared bytes of the log, private
//! bytes (headers, metadata, seeds), and control bytes (acks, pings, onStatus). After a short write it knows exactly
//! which bytes are still owed; a message that is half sent is finished from a reference of its own even when the log has
//! moved on. All that it knows between two calls is plain data: [`State`].

use std::io::{self, IoSlice};

use bytes::Bytes;
use rtmp::media;
use serde::{Deserialize, Serialize};

use crate::framing::Framing;
use crate::log::{BarrierKind, Entry, JoinPoint, Log};
use crate::storage::Hold;
use crate::track::{Track, Tracks};

/// Bytes after which a send ends, with the message that they end in, so that one reader far behind does not hold up the others.
const SEND_MAX: u64 = 256 * 1024;
/// Sends of one flush at most: a reader far behind, or of some tracks only, lets the others have their turn.
const SENDS_MAX: usize = 8;
/// Bytes of one flush, beyond which there is no further send: however much a reader takes, the others have their turn.
const FLUSH_MAX: u64 = 512 * 1024;
/// Control bytes that wait for a message boundary at most: a peer that asks more without reading is cut off.
pub const CONTROL_MAX: usize = 64 * 1024;
/// How far before its join point a reader's time may start, ms: tracks are interleaved, so the message before a keyframe on
/// another track is a little older; one much older must not make the first frame seem late.
const START_BEFORE: u64 = 1_000;

/// Whose cursor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Recipient {
    /// Times start near 0; metadata as `onMetaData`.
    Player,
    /// Times are the stream's clock, modulo 2^32; metadata as `@setDataFrame`.
    Forwarder,
}

/// How a [`Cursor::flush`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// Everything there is for this reader has been taken.
    CaughtUp,
    /// The peer takes no more now, or has had its turn.
    Blocked,
    /// The reader has had all that it gets: see [`Cursor::end_after`] and [`Cursor::end_at`].
    Ended,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
enum Position {
    /// Waits for something to start with, not before `from`, having had everything before `reached`.
    Waiting { from: u64, reached: u64 },
    /// Next shared byte, between two messages, and next barrier.
    At { offset: u64, barrier: u64 },
    /// Paused by its own wish, having read up to this offset.
    Paused(u64),
}

/// All that a cursor knows between two flushes, so that it may go on elsewhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    recipient: Recipient,
    msid: u32,
    place: Position,
    /// Stream time that this reader knows as 0.
    base: Option<u64>,
    /// Stream time before which audio and data are left out, and at which video before it is shown.
    start: u64,
    /// Offset before which it has had everything that it gets, where that is not its place: it is shown the picture again.
    had: u64,
    /// Private bytes, and how many of them are sent. Behind them comes what is held.
    private: Vec<u8>,
    sent: usize,
    /// From and to offset of the rest of a message of the log.
    held: Option<(u64, u64)>,
    control: Vec<u8>,
    /// Tracks this reader has turned off (receiveAudio, receiveVideo).
    muted: Tracks,
    /// Video is left out until the next keyframe, or until this stream time: the reader joined without one.
    holds_video: Option<u64>,
    /// Tracks whose next message has to carry its absolute time: of those that are held or muted each, while there are messages on
    /// them.
    unseeded: Tracks,
    /// Private bytes go out before all that others write to the socket: they may begin inside a message, and have replies.
    goes_first: bool,
    /// Others write to the same socket: see [`Cursor::share`].
    is_shared: bool,
    /// Offset at which it ends.
    end: Option<u64>,
    /// How much of the stream's time it gets, ms.
    length: Option<u64>,
}

/// See the [module](self).
#[derive(Debug)]
pub struct Cursor {
    state: State,
    /// Keeps what [`State::held`] names.
    hold: Option<Hold>,
    /// Messages in shared bytes are not counted one by one; bytes are.
    bytes_sent: u64,
    skips: u64,
}

/// What comes next for a reader that does not get all of the shared bytes as they are.
enum Step {
    /// Shared bytes up to this offset.
    Share(u64),
    /// Nothing up to this offset.
    LeaveOut(u64),
    /// This message, with its absolute time.
    Seed(Entry),
}

impl Cursor {
    /// A cursor that starts not before `offset`, with what there is or else what comes first; it sends on message stream `msid`.
    #[must_use]
    pub fn new(recipient: Recipient, msid: u32, offset: u64) -> Self {
        let state = State {
            recipient,
            msid,
            place: Position::Waiting { from: offset, reached: 0 },
            base: (recipient == Recipient::Forwarder).then_some(0),
            start: 0,
            had: 0,
            private: Vec::new(),
            sent: 0,
            held: None,
            control: Vec::new(),
            muted: Tracks::default(),
            holds_video: None,
            unseeded: Tracks::default(),
            goes_first: false,
            is_shared: false,
            end: None,
            length: None,
        };
        Self { state, hold: None, bytes_sent: 0, skips: 0 }
    }

    /// The cursor that `state` was taken from, on the same log; `None` if what it holds is gone.
    #[must_use]
    pub fn from_state(state: State, log: &Log) -> Option<Self> {
        let hold = match state.held {
            Some((from, to)) => Some(log.hold(from, to)?),
            None => None,
        };
        Some(Self { state, hold, bytes_sent: 0, skips: 0 })
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Stops reading; what is half sent is still finished.
    pub fn pause(&mut self) {
        let reached = match self.state.place {
            Position::Waiting { from, reached } => from.max(reached),
            Position::At { offset, .. } | Position::Paused(offset) => offset.max(self.state.had),
        };
        self.state.place = Position::Paused(reached);
    }

    /// Goes on behind what it has had, with what a player gets that starts at `from` now: so time never runs backwards.
    pub fn resume(&mut self, from: u64) {
        if let Position::Paused(reached) = self.state.place {
            self.state.place = Position::Waiting { from, reached };
        }
    }

    /// Turns a track off or on. Audio goes on with its next message. Video goes on with what a player gets that starts at `from` now.
    pub fn mute(&mut self, track: Track, off: bool, from: u64) {
        let was = self.state.muted.has(track);
        self.state.muted.set(track, off);
        // What is left out breaks its line of differences.
        if was || off {
            self.state.unseeded.set(track, true);
        }
        if let Position::At { offset, .. } = self.state.place
            && was
            && !off
            && track == Track::Video
        {
            self.state.place = Position::Waiting { from, reached: offset.max(self.state.had) };
        }
    }

    /// Whether other cursors write to the same socket between this one's messages. Deltas of time and the message stream of a
    /// chunk stream are then those of another, so each message carries its own.
    pub fn share(&mut self, is_shared: bool) {
        if self.state.is_shared && !is_shared {
            for track in [Track::Audio, Track::Video, Track::Data] {
                self.state.unseeded.set(track, true);
            }
        }
        self.state.is_shared = is_shared;
    }

    /// The reader gets `length` ms of the stream's time.
    pub fn end_after(&mut self, length: u64) {
        self.state.length = Some(length);
    }

    /// The reader gets what lies before `offset`, or if it still waits for its start nothing.
    pub fn end_at(&mut self, offset: u64) {
        self.state.end = Some(offset);
    }

    /// Bytes to be sent at the next message boundary; false if there are too many of them already.
    #[must_use]
    pub fn push_control(&mut self, bytes: &mut Vec<u8>) -> bool {
        self.state.control.append(bytes);
        self.state.control.len() <= CONTROL_MAX
    }

    /// Bytes sent so far, all kinds.
    #[must_use]
    pub fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// The log offset up to which everything has been handed over or is owed next; of one that waits, where it may begin.
    #[must_use]
    pub fn offset(&self) -> u64 {
        match self.state.place {
            Position::Waiting { from: offset, .. }
            | Position::At { offset, .. }
            | Position::Paused(offset) => offset,
        }
    }

    /// Whether it waits for something to start with.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        matches!(self.state.place, Position::Waiting { .. })
    }

    /// Whether video is left out until there is a keyframe to start it with.
    #[must_use]
    pub fn lacks_video(&self) -> bool {
        self.state.holds_video.is_some()
    }

    /// Takes the number of skips since the last call.
    pub fn take_skips(&mut self) -> u64 {
        std::mem::take(&mut self.skips)
    }

    /// Bytes that go out before all others, as the rest of a message is; only for a cursor that is not half sent itself.
    pub fn owe(&mut self, mut bytes: Vec<u8>) {
        self.state.goes_first |= !bytes.is_empty();
        bytes.append(&mut self.state.private);
        (self.state.private, self.state.sent) = (bytes, 0);
    }

    /// Whether it may be in the middle of a message, so that nobody else may write to the socket.
    #[must_use]
    pub fn is_half_sent(&self) -> bool {
        let state = &self.state;
        state.goes_first || state.sent > 0 || (state.private.is_empty() && self.hold.is_some())
    }

    /// Whether control bytes wait.
    #[must_use]
    pub fn has_control(&self) -> bool {
        !self.state.control.is_empty()
    }

    /// Takes the control bytes that wait; for a cursor that is not half sent all that must still be sent.
    pub fn take_control(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.state.control)
    }

    /// How many bytes are left of a message that is half sent.
    #[must_use]
    pub fn half_sent(&self) -> usize {
        self.state.held.map_or(0, |(from, to)| usize::try_from(to - from).unwrap_or(usize::MAX))
    }

    /// Bytes of memory that are its own: private bytes and replies that wait.
    #[must_use]
    pub fn held(&self) -> usize {
        self.state.private.capacity() + self.state.control.capacity()
    }

    /// Bytes of memory that only readers like this one keep: those of a half-sent message that `log` has dropped.
    #[must_use]
    pub fn kept(&self, log: &Log) -> u64 {
        self.hold.as_ref().map_or(0, |hold| hold.kept(log.floor()))
    }

    /// Takes the bytes that must still be sent before anything else may be: private bytes, the rest of what is half sent, control
    /// bytes.
    pub fn take_rest(&mut self) -> Vec<u8> {
        let state = &mut self.state;
        let mut rest = state.private.split_off(state.sent.min(state.private.len()));
        (state.private, state.sent, state.held) = (Vec::new(), 0, None);
        state.goes_first = false;
        if let Some(hold) = self.hold.take() {
            hold.read(|bytes| rest.extend_from_slice(bytes));
        }
        rest.append(&mut state.control);
        rest
    }

    /// Sends all it can through `send`, which behaves as a non-blocking `writev`.
    ///
    /// # Errors
    /// Those of `send`, but for `WouldBlock`.
    pub fn flush(
        &mut self,
        log: &Log,
        send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Flushed> {
        let mut send = |slices: &[IoSlice<'_>]| offer(send, slices);
        let mut sends = 0;
        let began = self.bytes_sent;
        loop {
            if !self.send_owed(&mut send)? {
                return Ok(Flushed::Blocked);
            }
            if !self.state.control.is_empty() {
                std::mem::swap(&mut self.state.private, &mut self.state.control);
                self.state.goes_first = true;
                continue;
            }
            let (offset, barrier) = match self.state.place {
                Position::Paused(_) if self.state.end.is_some() => return Ok(Flushed::Ended),
                Position::Paused(_) => return Ok(Flushed::CaughtUp),
                Position::Waiting { from, reached } => match log.join_after(from, reached) {
                    Some(point) if !self.ends_at(point.offset) => {
                        self.join(&point, log, reached);
                        continue;
                    }
                    _ if self.state.end.is_some() => return Ok(Flushed::Ended),
                    _ => return Ok(Flushed::CaughtUp),
                },
                Position::At { offset, barrier } => (offset, barrier),
            };
            // Barriers there belong to what comes next.
            if self.ends_at(offset.max(log.floor())) {
                return Ok(Flushed::Ended);
            }
            if offset < log.floor() {
                self.skip(offset, log);
                continue;
            }
            if self.state.holds_video.is_some_and(|until| log.is_keyless_after(until)) {
                self.state.holds_video = None;
            }
            let mut limit = log.end();
            if let Some(next) = log.barrier_at(barrier) {
                if next.offset == offset {
                    self.state.place = Position::At { offset, barrier: barrier + 1 };
                    self.pass(&next.kind, log, offset, barrier + 1);
                    continue;
                }
                limit = next.offset;
            }
            if let Some(end) = self.ends_before(log, offset, limit) {
                if end <= offset {
                    return Ok(Flushed::Ended);
                }
                limit = end;
            }
            if offset == limit {
                return Ok(Flushed::CaughtUp);
            }
            if !self.gets_all() {
                match self.step(log, offset, limit) {
                    Step::Share(to) => limit = to,
                    Step::LeaveOut(to) => {
                        self.state.place = Position::At { offset: to, barrier };
                        continue;
                    }
                    Step::Seed(_) if sends == SENDS_MAX => return Ok(Flushed::Blocked),
                    Step::Seed(entry) => {
                        sends += 1;
                        self.seed(log, &entry, barrier);
                        continue;
                    }
                }
            }
            if sends == SENDS_MAX || self.bytes_sent - began >= FLUSH_MAX {
                return Ok(Flushed::Blocked);
            }
            sends += 1;
            // A send that ended inside a message would cost one more for the rest of it alone.
            let to =
                if limit - offset > SEND_MAX { log.boundary(offset + SEND_MAX).min(limit) } else { limit };
            let (offered, taken) = log.send(offset, to, &mut send)?;
            let reached = offset + taken as u64;
            self.bytes_sent += taken as u64;
            self.state.place = Position::At { offset: reached, barrier };
            // A short write ends anywhere.
            self.finish_message(log, reached, barrier);
            if taken < offered {
                return Ok(Flushed::Blocked);
            }
        }
    }

    /// Sends private bytes and the half-sent message; false if the peer takes no more.
    fn send_owed(&mut self, send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<bool> {
        let state = &mut self.state;
        while let Some(rest) = state.private.get(state.sent..).filter(|rest| !rest.is_empty()) {
            let offered = rest.len();
            let taken = send(&[IoSlice::new(rest)])?;
            self.bytes_sent += taken as u64;
            state.sent += taken;
            if taken < offered {
                return Ok(false);
            }
        }
        // A watching player keeps no buffer.
        (state.private, state.sent, state.goes_first) = (Vec::new(), 0, false);
        if let Some(hold) = &mut self.hold {
            let taken = hold.read(|bytes| send(&[IoSlice::new(bytes)]))?;
            self.bytes_sent += taken as u64;
            hold.from += taken as u64;
            if hold.from < hold.to {
                state.held = Some((hold.from, hold.to));
                return Ok(false);
            }
            (self.hold, state.held) = (None, None);
        }
        Ok(true)
    }

    /// If `reached` is inside a message, keeps its rest and moves behind it.
    fn finish_message(&mut self, log: &Log, reached: u64, barrier: u64) {
        if reached == log.end() {
            return;
        }
        let boundary = log.boundary(reached);
        if boundary > reached {
            self.hold(log, reached, boundary);
            self.state.place = Position::At { offset: boundary, barrier };
        }
    }

    fn hold(&mut self, log: &Log, from: u64, to: u64) {
        self.hold = log.hold(from, to);
        self.state.held = self.hold.as_ref().map(|hold| (hold.from, hold.to));
    }

    /// Too far behind: on to the newest keyframe, forward only.
    fn skip(&mut self, offset: u64, log: &Log) {
        self.skips += 1;
        let reached = offset.max(self.state.had);
        match log.join_after(offset, reached) {
            Some(point) if !self.ends_at(point.offset) => self.join(&point, log, reached),
            _ => self.state.place = Position::Waiting { from: log.end(), reached },
        }
    }

    /// Whether it gets nothing from `offset` on.
    fn ends_at(&self, offset: u64) -> bool {
        self.state.end.is_some_and(|end| end <= offset)
    }

    /// The offset at which the reader ends, if that is not behind `limit`.
    fn ends_before(&self, log: &Log, offset: u64, limit: u64) -> Option<u64> {
        let State { end, length, base, .. } = &self.state;
        let by_time = base.zip(*length).and_then(|(base, length)| {
            let mut entries = log.entries_from(offset).take_while(|entry| entry.offset < limit);
            entries.find(|entry| entry.time >= base.saturating_add(length)).map(|entry| entry.offset)
        });
        let by_offset = end.filter(|end| *end <= limit);
        by_time.into_iter().chain(by_offset).min()
    }

    /// Whether the shared bytes are right for this reader as they are.
    fn gets_all(&self) -> bool {
        let state = &self.state;
        !state.is_shared && state.unseeded.is_empty()
    }

    /// What comes next at `offset`, before `limit`.
    fn step(&self, log: &Log, offset: u64, limit: u64) -> Step {
        let mut entries = log.entries_from(offset).take_while(|entry| entry.offset < limit);
        let Some(first) = entries.next() else { return Step::Share(limit) };
        let out = self.leaves_out(first);
        let is_seed = |entry: &Entry| self.state.is_shared || self.state.unseeded.has(entry.track);
        if !out && is_seed(first) {
            return Step::Seed(*first);
        }
        let ends = |entry: &&Entry| self.leaves_out(entry) != out || (!out && is_seed(entry));
        let end = entries.find(ends).map_or(limit, |entry| entry.offset);
        if out { Step::LeaveOut(end) } else { Step::Share(end) }
    }

    /// Whether the reader does not get this message: it does not want it, or it would be before the start of its time. Video
    /// would be missed by a decoder, and a header by all that comes behind it.
    fn leaves_out(&self, entry: &Entry) -> bool {
        let state = &self.state;
        let is_video = entry.track == Track::Video;
        let is_before_start = state.unseeded.has(entry.track) && !is_video && entry.time < state.start;
        let is_held = state.holds_video.is_some() && is_video && !entry.key;
        !entry.header && (state.muted.has(entry.track) || is_held || is_before_start)
    }

    /// Owes the message at `entry` with its absolute time, from which the next delta on its track counts. What is before the start of
    /// the reader's time is shown at that start.
    fn seed(&mut self, log: &Log, entry: &Entry, barrier: u64) {
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
    fn pass(&mut self, kind: &BarrierKind, log: &Log, offset: u64, barrier: u64) {
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
    fn join(&mut self, point: &JoinPoint, log: &Log, reached: u64) {
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

/// `send` again where it was interrupted; 0 bytes where it would block.
fn offer(
    send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    slices: &[IoSlice<'_>],
) -> io::Result<usize> {
    loop {
        match send(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => return Ok(taken),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{CHUNK, decode, flush_all, flush_with};
    use rtmp::chunk;
    use rtmp::media::Kind;
    use rtmp::message_type::{DATA, USER_CONTROL, VIDEO};

    struct Source {
        log: Log,
        /// (time, track, payload) of every message in the log.
        sent: Vec<(u64, Track, Vec<u8>)>,
    }

    impl Source {
        fn new() -> Self {
            let mut log = Log::new(CHUNK, 30_000);
            let headers: [(Kind, Track, &[u8]); 2] = [
                (Kind::AudioHeader, Track::Audio, &[0xAF, 0, 0x12, 0x10]),
                (Kind::VideoHeader, Track::Video, &[0x17, 0, 0, 0, 0, 1]),
            ];
            for (kind, track, payload) in headers {
                let scope = log.headers().scope(kind, track, payload);
                log.update_headers(|headers| headers.keep(track, scope, &Bytes::from_static(payload), false));
            }
            log.append_metadata(Bytes::from_static(b"\x02\x00\x0AonMetaData\x05"));
            Self { log, sent: Vec::new() }
        }

        fn send(&mut self, track: Track, time: u64, size: usize) {
            let key = track == Track::Video && self.sent.len().is_multiple_of(50);
            let mut payload = vec![(self.sent.len() % 251) as u8; size];
            payload[0] = if key { 0x17 } else { 0x27 };
            payload[1] = 1;
            self.log.append(track, time, key, &payload);
            self.sent.push((time, track, payload));
        }

        fn run(&mut self, from: u64, to: u64) {
            for t in from..to {
                self.send(
                    if t % 2 == 0 { Track::Video } else { Track::Audio },
                    t * 20,
                    40 + (t as usize * 37) % 3_000,
                );
            }
        }
    }

    fn media(messages: &[(u8, u32, Vec<u8>)]) -> Vec<(u32, Vec<u8>)> {
        messages.iter().filter(|m| m.2.get(1) == Some(&1)).map(|m| (m.1, m.2.clone())).collect()
    }

    #[test]
    fn every_cut_of_the_bytes_gives_the_same_messages() {
        for step in [1, 2, 7, 300, 100_000] {
            let mut source = Source::new();
            source.run(0, 30);
            let mut cursor = Cursor::new(Recipient::Player, 1, 0);
            let mut wire = Vec::new();
            for round in 0..3 {
                // One short write, then blocked, again and again, with control bytes pushed in between.
                loop {
                    if wire.len().is_multiple_of(97) {
                        let mut ping = Vec::new();
                        let event = [0, 6, 0, 0, 0, 9];
                        chunk::put_full(&mut ping, CHUNK, 2, 0, USER_CONTROL, 0, &event);
                        assert!(cursor.push_control(&mut ping));
                    }
                    let mut left = 1;
                    let (bytes, _) = flush_with(&mut cursor, &source.log, &mut || {
                        left -= 1;
                        if left == 0 { step } else { 0 }
                    });
                    let had = bytes.len();
                    wire.extend(bytes);
                    if had < step || wire.len() > 20_000 * (round + 1) {
                        break;
                    }
                }
                source.run(30 + 10 * round as u64, 40 + 10 * round as u64);
            }
            let (rest, flushed) = flush_all(&mut cursor, &source.log);
            wire.extend(rest);
            assert_eq!(flushed, Flushed::CaughtUp);
            let seen = decode(&wire);
            let expected: Vec<_> = source.sent.iter().map(|(t, _, p)| (*t as u32, p.clone())).collect();
            assert_eq!(media(&seen), expected, "step {step}");
            assert!(seen.iter().any(|m| m.0 == USER_CONTROL));
        }
    }

    #[test]
    fn cursors_that_share_a_socket_give_each_message_its_own_stream_and_time() {
        for step in [1, 150, 100_000] {
            let mut sources = [Source::new(), Source::new()];
            let mut cursors = [1, 2].map(|msid| Cursor::new(Recipient::Player, msid, 0));
            let mut wire = Vec::new();
            // Alone at first, then together, then alone again.
            for (round, is_shared) in [false, true, true, false].into_iter().enumerate() {
                cursors.iter_mut().for_each(|cursor| cursor.share(is_shared));
                let (from, to) = (20 * round as u64, 20 * (round as u64 + 1));
                sources.iter_mut().for_each(|source| source.run(from, to));
                let players = if is_shared { 0..2 } else { 0..1 };
                let mut is_done = false;
                while !is_done {
                    is_done = true;
                    for at in players.clone() {
                        if cursors[1 - at].is_half_sent() {
                            is_done = false;
                            continue;
                        }
                        let mut left = 3;
                        let (bytes, flushed) = flush_with(&mut cursors[at], &sources[at].log, &mut || {
                            left = i32::max(left - 1, 0);
                            if left > 0 { step } else { 0 }
                        });
                        wire.extend(bytes);
                        is_done &= flushed == Flushed::CaughtUp;
                    }
                }
            }
            let (mut reader, mut input) = (crate::testing::client(CHUNK), &wire[..]);
            let mut seen = [Vec::new(), Vec::new()];
            while let Some(message) = reader.read(&mut input).unwrap() {
                if message.payload.get(1) == Some(&1) {
                    seen[message.msid as usize - 1].push((message.timestamp, message.payload.to_vec()));
                }
            }
            let sent = |source: &Source, to: usize| -> Vec<_> {
                source.sent[..to].iter().map(|(time, _, payload)| (*time as u32, payload.clone())).collect()
            };
            assert_eq!(seen[0], sent(&sources[0], 80), "step {step}");
            // The second one is sent nothing in the last round.
            assert_eq!(seen[1], sent(&sources[1], 60), "step {step}");
        }
    }

    #[test]
    fn a_reader_with_a_length_or_an_end_gets_what_is_before_it() {
        let mut source = Source::new();
        source.run(0, 100);
        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        cursor.end_after(500);
        let (wire, flushed) = flush_all(&mut cursor, &source.log);
        assert_eq!(flushed, Flushed::Ended);
        let last = media(&decode(&wire)).last().unwrap().0;
        assert!((480..500).contains(&last), "{last}");

        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        cursor.end_after(u64::MAX);
        let (wire, flushed) = flush_all(&mut cursor, &source.log);
        assert_eq!(flushed, Flushed::CaughtUp, "so much never comes");
        assert!(media(&decode(&wire)).last().unwrap().0 > 500);

        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        let (mut wire, flushed) = flush_all(&mut cursor, &source.log);
        assert_eq!(flushed, Flushed::CaughtUp);
        source.run(100, 110);
        cursor.end_at(source.log.end());
        source.run(110, 120);
        let (rest, flushed) = flush_all(&mut cursor, &source.log);
        wire.extend(rest);
        assert_eq!(flushed, Flushed::Ended);
        assert_eq!(media(&decode(&wire)).last().unwrap().1, source.sent[109].2);

        for change in [Cursor::pause as fn(&mut Cursor), |_| {}] {
            let mut waits = Cursor::new(Recipient::Player, 1, source.log.end());
            change(&mut waits);
            waits.end_at(source.log.end());
            assert_eq!(flush_all(&mut waits, &source.log).1, Flushed::Ended);
        }
    }

    #[test]
    fn every_send_that_is_taken_whole_ends_with_a_message() {
        for size in [30_000, 300_000] {
            let mut source = Source::new();
            source.run(0, 10);
            let mut cursor = Cursor::new(Recipient::Player, 1, 0);
            flush_all(&mut cursor, &source.log);
            let mut at = cursor.offset();
            for t in 10..30 {
                source.send(Track::Video, t * 20, size);
            }
            let mut sends = Vec::new();
            let mut send = |slices: &[IoSlice<'_>]| {
                sends.push(slices.iter().map(|slice| slice.len() as u64).sum::<u64>());
                Ok(*sends.last().unwrap() as usize)
            };
            while cursor.flush(&source.log, &mut send).unwrap() == Flushed::Blocked {}
            for sent in &sends {
                at += sent;
                assert_eq!(source.log.boundary(at), at, "{sends:?}");
            }
            assert_eq!(at, source.log.end());
            let fewest = (20 * size as u64).div_ceil(SEND_MAX) as usize;
            assert!(sends.len() <= fewest, "{} sends, {fewest} would do", sends.len());
        }
    }

    #[test]
    fn a_reader_may_join_at_every_message_and_gets_exact_times() {
        let mut source = Source::new();
        source.run(0, 200);
        for at in 0..6 {
            source.run(200 + at * 7, 207 + at * 7);
            let mut cursor = Cursor::new(Recipient::Player, 3, 0);
            let point = source.log.join_after(source.log.start(true), 0).unwrap();
            let (wire, _) = flush_all(&mut cursor, &source.log);
            let seen = decode(&wire);
            assert_eq!(seen[0].0, DATA);
            assert_eq!(seen[1].2, [0xAF, 0, 0x12, 0x10]);
            assert_eq!(seen[2].2, [0x17, 0, 0, 0, 0, 1]);
            let got = media(&seen);
            let want: Vec<_> = source.sent.iter().filter(|m| m.0 >= point.time).collect();
            let base = want[0].0 - u64::from(got[0].0);
            assert!(got[0].0 <= 40, "starts near 0");
            let want: Vec<_> = want.iter().map(|(t, _, p)| ((t - base) as u32, p.clone())).collect();
            assert_eq!(got, want);
        }
    }

    #[test]
    fn times_beyond_24_bits_and_across_32_bits_are_exact_for_a_forwarder() {
        for start in [0xFF_FFF0_u64, 0xFFFF_FFF0] {
            let mut source = Source::new();
            for t in 0..20 {
                source.send(Track::Video, start + t * 40, 2_500);
            }
            let mut cursor = Cursor::new(Recipient::Forwarder, 1, 0);
            let (wire, _) = flush_all(&mut cursor, &source.log);
            let seen = decode(&wire);
            assert!(seen[0].2.starts_with(b"\x02\x00\x0D@setDataFrame"));
            let want: Vec<_> = source.sent.iter().map(|(t, _, p)| (*t as u32, p.clone())).collect();
            assert_eq!(media(&seen), want);
        }
    }

    #[test]
    fn a_player_that_waited_starts_at_the_first_keyframe() {
        let mut source = Source::new();
        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        let (wire, flushed) = flush_all(&mut cursor, &source.log);
        assert!(wire.is_empty() && flushed == Flushed::CaughtUp && cursor.is_waiting());
        source.run(0, 4);
        let (wire, _) = flush_all(&mut cursor, &source.log);
        assert_eq!(media(&decode(&wire)).len(), 4);
    }

    #[test]
    fn a_slow_reader_finishes_its_message_and_goes_on_at_a_later_keyframe() {
        let mut source = Source::new();
        source.run(0, 10);
        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        let mut wire = Vec::new();
        for _ in 0..5 {
            let mut sends = [0, 150];
            let mut left = sends.len();
            let (bytes, flushed) = flush_with(&mut cursor, &source.log, &mut || {
                left = left.saturating_sub(1);
                std::mem::take(&mut sends[left])
            });
            wire.extend(bytes);
            assert_eq!(flushed, Flushed::Blocked);
        }
        source.run(10, 4_000);
        let (rest, _) = flush_all(&mut cursor, &source.log);
        wire.extend(rest);
        assert_eq!(cursor.take_skips(), 1);
        let got = media(&decode(&wire));
        let index = |(time, payload): &(u32, Vec<u8>)| {
            let found = source.sent.iter().position(|(t, _, p)| *t as u32 == *time && p == payload);
            found.unwrap_or_else(|| panic!("{time} {:?} {}", &payload[..2], payload.len()))
        };
        let indexes: Vec<_> = got.iter().map(index).collect();
        let gap = indexes.windows(2).position(|w| w[1] != w[0] + 1).unwrap();
        assert!(indexes[gap + 1].is_multiple_of(50), "goes on at a keyframe");
        assert_eq!(indexes.windows(2).filter(|w| w[1] != w[0] + 1).count(), 1);
        assert_eq!(*indexes.last().unwrap(), source.sent.len() - 1);
    }

    #[test]
    fn a_paused_player_goes_on_at_once_with_the_picture_of_now() {
        for gop_cache in [true, false] {
            let mut source = Source::new();
            source.run(0, 60);
            let mut cursor = Cursor::new(Recipient::Player, 1, 0);
            let (mut wire, _) = flush_all(&mut cursor, &source.log);
            cursor.pause();
            source.run(60, 80);
            assert!(flush_all(&mut cursor, &source.log).0.is_empty());
            cursor.resume(source.log.start(gop_cache));
            let before = media(&decode(&wire)).len();
            wire.extend(flush_all(&mut cursor, &source.log).0);
            source.run(80, 90);
            wire.extend(flush_all(&mut cursor, &source.log).0);
            let seen = decode(&wire);
            assert!(media(&seen).is_sorted_by_key(|(time, _)| *time));
            let got = media(&seen).split_off(before);
            if gop_cache {
                // The group since 50 again, all of it at the time of now; sound from now on.
                assert_eq!(got[0].1, source.sent[50].2);
                assert!(got.iter().take(15).all(|(time, _)| *time == got[0].0), "{}", got[0].0);
                assert_eq!(got.len(), 15 + 10);
            } else {
                assert_eq!(got.len(), 5, "sound, and video from the next keyframe on");
            }
            // It had joined at 50, with the audio before that.
            assert_eq!(got.last().unwrap().0, (89 - 48) * 20);
        }
    }

    #[test]
    fn video_that_is_held_starts_without_a_keyframe_after_a_while() {
        let mut source = Source::new();
        source.log.reset(0);
        source.send(Track::Audio, 0, 60);
        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        let mut wire = flush_all(&mut cursor, &source.log).0;
        for i in 1..400 {
            let track = if i % 2 == 0 { Track::Video } else { Track::Audio };
            let time = i * 20;
            source.log.append(track, time, false, &[if i % 2 == 0 { 0x27 } else { 0xAF }, 1, i as u8]);
            wire.extend(flush_all(&mut cursor, &source.log).0);
        }
        let seen = decode(&wire);
        let audio = seen.iter().filter(|m| m.0 == rtmp::message_type::AUDIO && m.2[1] == 1).count();
        assert_eq!(audio, 201, "no sound waits for it");
        let first = seen.iter().find(|m| m.0 == VIDEO && m.2[1] == 1).unwrap();
        // The first picture came at 40.
        assert!((5_040..=5_120).contains(&first.1), "{}", first.1);
        assert!(!cursor.lacks_video());
    }

    #[test]
    fn a_header_passes_while_video_is_held_and_audio_is_muted() {
        let mut source = Source::new();
        source.log.reset(0);
        source.log.append(Track::Audio, 0, false, &[0xAF, 1, 0]);
        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        cursor.mute(Track::Audio, true, 0);
        let mut wire = flush_all(&mut cursor, &source.log).0;
        source.log.append_header(Track::Video, 10, &[0x17, 0, 7]);
        source.log.append(Track::Video, 10, false, &[0x27, 1, 7]);
        source.log.append_header(Track::Audio, 20, &[0xAF, 0, 7]);
        source.log.append(Track::Audio, 20, false, &[0xAF, 1, 7]);
        wire.extend(flush_all(&mut cursor, &source.log).0);
        cursor.mute(Track::Audio, false, source.log.end());
        source.log.append(Track::Video, 50, true, &[0x17, 1, 8]);
        source.log.append(Track::Audio, 60, false, &[0xAF, 1, 8]);
        wire.extend(flush_all(&mut cursor, &source.log).0);
        let seen: Vec<_> = decode(&wire).into_iter().filter(|m| m.0 != DATA).map(|m| (m.1, m.2)).collect();
        let want =
            [(10, vec![0x17, 0, 7]), (20, vec![0xAF, 0, 7]), (50, vec![0x17, 1, 8]), (60, vec![0xAF, 1, 8])];
        assert_eq!(seen, want);
    }

    #[test]
    fn a_reader_of_a_new_publication_gets_its_sound_at_once_and_its_video_from_a_keyframe_on() {
        let mut source = Source::new();
        source.run(0, 20);
        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        flush_all(&mut cursor, &source.log);
        source.log.reset(1_000);
        for i in 0..10 {
            source.log.append(Track::Video, 1_000 + i * 40, i == 5, &[0x27, 1, i as u8]);
            source.log.append(Track::Audio, 1_000 + i * 40, false, &[0xAF, 1, i as u8]);
        }
        let seen = decode(&flush_all(&mut cursor, &source.log).0);
        let video: Vec<_> = seen.iter().filter(|m| m.0 == VIDEO).map(|m| m.2[2]).collect();
        assert_eq!(video, [5, 6, 7, 8, 9]);
        assert_eq!(seen.len(), 5 + 10);
    }

    #[test]
    fn a_picture_that_stands_still_is_shown_at_the_start_of_near_live_sound() {
        let mut source = Source::new();
        source.send(Track::Video, 0, 60);
        source.send(Track::Video, 40, 60);
        (0..1_000).for_each(|i| source.send(Track::Audio, 40 + i * 20, 60));
        for recipient in [Recipient::Player, Recipient::Forwarder] {
            let mut cursor = Cursor::new(recipient, 1, source.log.start(true));
            let seen = media(&decode(&flush_all(&mut cursor, &source.log).0));
            let start = if recipient == Recipient::Player { 0 } else { 20_020 - 2_000 };
            assert_eq!(seen[0], (start, source.sent[0].2.clone()));
            assert_eq!(seen[1], (start, source.sent[1].2.clone()));
            assert_eq!(seen[2].0, start);
            assert_eq!(seen.len(), 2 + 101);
        }
    }

    #[test]
    fn a_muted_track_is_left_out_and_comes_back_whole() {
        let mut source = Source::new();
        source.run(0, 20);
        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        cursor.mute(Track::Audio, true, 0);
        let (mut wire, _) = flush_all(&mut cursor, &source.log);
        assert_eq!(media(&decode(&wire)).len(), 10);
        cursor.mute(Track::Audio, false, source.log.start(true));
        source.run(20, 60);
        wire.extend(flush_all(&mut cursor, &source.log).0);
        let got = media(&decode(&wire));
        assert_eq!(got.len(), 10 + 40, "audio goes on at once");
        assert_eq!(got.last().unwrap().0, 59 * 20);
    }
}
