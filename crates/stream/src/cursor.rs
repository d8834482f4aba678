//! One reader's position in a [`Log`]: a player or a forwarder.
//!
//! A cursor writes three kinds of bytes and never mixes them within a message: the shared bytes of the log, private
//! bytes (headers, metadata, seeds), and control bytes (acks, pings, onStatus). After a short write it knows exactly
//! which bytes are still owed; a message that is half sent is finished from a reference of its own even when the log has
//! moved on. All that it knows between two calls is plain data: [`State`].

mod own;
mod resume;
#[cfg(test)]
mod tests;

use std::io::{self, IoSlice};

use serde::{Deserialize, Serialize};

use crate::log::{Entry, Log};
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

/// What a cursor sends through.
pub trait Wire {
    /// Behaves as a non-blocking `writev`.
    ///
    /// # Errors
    /// As of writev(2).
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// What comes next on this wire follows from `state` from now on, and no more from what it was told last and the bytes sent since. Told
    /// before any of it is sent.
    fn commit(&mut self, state: &State);
}

/// A wire whose reader ends with this process.
impl<F: FnMut(&[IoSlice<'_>]) -> io::Result<usize>> Wire for F {
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self(slices)
    }

    fn commit(&mut self, _: &State) {}
}

/// Why a cursor cannot be where it is said to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Impossible;

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

impl State {
    /// Private bytes in it, sent or not.
    #[must_use]
    pub fn private(&self) -> usize {
        self.private.len()
    }
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
    /// The state is no more what was committed last, moved on by the bytes sent since.
    is_changed: bool,
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
        Self { state, hold: None, bytes_sent: 0, skips: 0, is_changed: true }
    }

    /// Where it is.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Stops reading; what is half sent is still finished.
    pub fn pause(&mut self) {
        self.is_changed = true;
        let reached = match self.state.place {
            Position::Waiting { from, reached } => from.max(reached),
            Position::At { offset, .. } | Position::Paused(offset) => offset.max(self.state.had),
        };
        self.state.place = Position::Paused(reached);
    }

    /// Goes on behind what it has had, with what a player gets that starts at `from` now: so time never runs backwards.
    pub fn resume(&mut self, from: u64) {
        if let Position::Paused(reached) = self.state.place {
            self.is_changed = true;
            self.state.place = Position::Waiting { from, reached };
        }
    }

    /// Turns a track off or on. Audio goes on with its next message. Video goes on with what a player gets that starts at `from` now.
    pub fn mute(&mut self, track: Track, off: bool, from: u64) {
        self.is_changed = true;
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
        self.is_changed |= self.state.is_shared != is_shared;
        self.state.is_shared = is_shared;
    }

    /// The reader gets `length` ms of the stream's time.
    pub fn end_after(&mut self, length: u64) {
        self.is_changed = true;
        self.state.length = Some(length);
    }

    /// The reader gets what lies before `offset`, or if it still waits for its start nothing.
    pub fn end_at(&mut self, offset: u64) {
        self.is_changed = true;
        self.state.end = Some(offset);
    }

    /// Bytes to be sent at the next message boundary; false if there are too many of them already.
    #[must_use]
    pub fn push_control(&mut self, bytes: &mut Vec<u8>) -> bool {
        self.is_changed |= !bytes.is_empty();
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
        self.is_changed = true;
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
        self.is_changed |= !self.state.control.is_empty();
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
        self.is_changed = true;
        let state = &mut self.state;
        let mut rest = state.private.split_off(state.sent.min(state.private.len()));
        (state.private, state.sent, state.held) = (Vec::new(), 0, None);
        state.goes_first = false;
        if let Some(hold) = self.hold.take() {
            rest.extend_from_slice(hold.bytes());
        }
        rest.append(&mut state.control);
        rest
    }

    /// Sends all it can through `wire`, and commits what is not plain from there.
    ///
    /// # Errors
    /// Those of [`Wire::send`], but for `WouldBlock`.
    pub fn flush(&mut self, log: &Log, wire: &mut dyn Wire) -> io::Result<Flushed> {
        let flushed = self.send_all(log, wire);
        self.commit(wire);
        flushed
    }

    fn commit(&mut self, wire: &mut dyn Wire) {
        if std::mem::take(&mut self.is_changed) {
            wire.commit(&self.state);
        }
    }

    fn send_all(&mut self, log: &Log, wire: &mut dyn Wire) -> io::Result<Flushed> {
        let mut sends = 0;
        let began = self.bytes_sent;
        loop {
            if !self.send_owed(wire)? {
                return Ok(Flushed::Blocked);
            }
            if !self.state.control.is_empty() {
                self.is_changed = true;
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
                self.is_changed = true;
                self.state.holds_video = None;
            }
            let mut limit = log.end();
            if let Some(next) = log.barrier_at(barrier) {
                if next.offset == offset {
                    self.is_changed = true;
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
                        self.is_changed = true;
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
            self.commit(wire);
            let (offered, taken) = log.send(offset, to, &mut |slices| offer(wire, slices))?;
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
    fn send_owed(&mut self, wire: &mut dyn Wire) -> io::Result<bool> {
        while self.state.sent < self.state.private.len() {
            self.commit(wire);
            let rest = self.state.private.get(self.state.sent..).unwrap_or(&[]);
            let offered = rest.len();
            let taken = offer(wire, &[IoSlice::new(rest)])?;
            self.bytes_sent += taken as u64;
            self.state.sent += taken;
            if taken < offered {
                return Ok(false);
            }
        }
        self.forget_private();
        if self.hold.is_some() {
            self.commit(wire);
        }
        if let Some(hold) = &mut self.hold {
            let taken = offer(wire, &[IoSlice::new(hold.bytes())])?;
            self.bytes_sent += taken as u64;
            hold.from += taken as u64;
            self.note_hold();
        }
        Ok(self.hold.is_none())
    }

    /// All private bytes are sent. A watching player keeps no buffer.
    fn forget_private(&mut self) {
        let state = &mut self.state;
        (state.private, state.sent, state.goes_first) = (Vec::new(), 0, false);
    }

    /// More of what is held has been sent.
    fn note_hold(&mut self) {
        self.hold.take_if(|hold| hold.from >= hold.to);
        self.state.held = self.hold.as_ref().map(|hold| (hold.from, hold.to));
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

    /// Where the message ends is known no more once the log has moved on.
    fn hold(&mut self, log: &Log, from: u64, to: u64) {
        self.is_changed = true;
        self.hold = log.hold(from, to);
        self.state.held = self.hold.as_ref().map(|hold| (hold.from, hold.to));
    }

    /// Too far behind: on to the newest keyframe, forward only.
    fn skip(&mut self, offset: u64, log: &Log) {
        self.is_changed = true;
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
}

/// Sends again where that was interrupted; 0 bytes where it would block.
fn offer(wire: &mut dyn Wire, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    loop {
        match wire.send(slices) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => return Ok(taken),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}
