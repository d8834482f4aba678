//! One reader's place in a [`Log`]: a player or a forwarder.
//!
//! A cursor writes three kinds of bytes and never mixes them within a message: the shared bytes of the log, private
//! bytes (seeds, metadata, barriers), and control bytes (acks, pings, onStatus). After a short write it knows exactly
//! which bytes are still owed; a message that is half sent is finished from a reference of its own even when the log has
//! moved on. Between calls the struct is plain data but for that reference.

use std::io::{self, IoSlice};
use std::rc::Rc;

use bytes::Bytes;
use rtmp::{chunk, media, message_type};

use crate::log::{BarrierKind, JoinPoint, Lane, Log, Segment};

/// Bytes of one send at most, so that one reader far behind does not hold up the others.
const SEND_MAX: usize = 256 * 1024;
/// Segments that one send covers at most; a flush meets two, a catching-up reader a few.
const SLICES: usize = 4;
/// Sends of one flush at most: a reader that gets message by message, or far behind, lets the others have their turn.
const SENDS_MAX: usize = 8;
/// Control bytes that wait for a message boundary at most: a peer that asks more without reading is cut off.
pub(crate) const CONTROL_MAX: usize = 64 * 1024;

/// Whose cursor it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reader {
    /// Times start near 0; metadata as `onMetaData`.
    Player,
    /// Times are the stream's clock, modulo 2^32; metadata as `@setDataFrame`.
    Forwarder,
}

/// How a [`Cursor::flush`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Everything there is for this reader has been taken.
    CaughtUp,
    /// The peer takes no more now, or has had its turn.
    Blocked,
}

/// Where a reader is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Waits for the first keyframe at or after this offset.
    Waiting(u64),
    /// Next shared byte, and next barrier.
    At { offset: u64, barrier: u64 },
    /// Paused by its own wish, having read up to this offset.
    Paused(u64),
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Cursor {
    reader: Reader,
    msid: u32,
    place: Place,
    /// Stream time that this reader knows as 0.
    base: Option<u64>,
    /// The rest of a message of the log, half sent: from and to offset.
    tail: Option<(Rc<Segment>, u64, u64)>,
    /// Private bytes, and how many of them are sent.
    private: Vec<u8>,
    sent: usize,
    control: Vec<u8>,
    /// Lanes this reader has turned off (receiveAudio, receiveVideo).
    muted: [bool; 3],
    /// Video is left out until the next keyframe: the reader joined without one.
    holds_video: bool,
    /// Messages in shared bytes are not counted one by one; bytes are.
    bytes_sent: u64,
    skips: u64,
}

impl Cursor {
    /// A cursor that starts at the newest keyframe at or after `offset`, or waits for one; it sends on message stream `msid`.
    pub(crate) fn new(reader: Reader, msid: u32, offset: u64) -> Self {
        Self {
            reader,
            msid,
            place: Place::Waiting(offset),
            base: (reader == Reader::Forwarder).then_some(0),
            tail: None,
            private: Vec::new(),
            sent: 0,
            control: Vec::new(),
            muted: [false; 3],
            holds_video: false,
            bytes_sent: 0,
            skips: 0,
        }
    }

    /// Moves to `point` and seeds the reader there.
    fn join(&mut self, point: &JoinPoint, chunk_size: u32) {
        self.seed(point, chunk_size);
        self.holds_video = point.holds_video;
        self.place = Place::At { offset: point.offset, barrier: point.next_barrier };
    }

    /// Stops reading; what is half sent is still finished.
    pub(crate) fn pause(&mut self) {
        self.place = Place::Paused(self.offset());
    }

    /// Goes on at a keyframe later than the place it paused at, so that time never runs backwards.
    pub(crate) fn resume(&mut self) {
        if let Place::Paused(offset) = self.place {
            self.place = Place::Waiting(offset);
        }
    }

    /// Turns a lane off or on; on again, the reader starts anew at the next keyframe.
    pub(crate) fn mute(&mut self, lane: Lane, off: bool) {
        let was = std::mem::replace(&mut self.muted[lane as usize], off);
        if let Place::At { offset, .. } = self.place
            && was
            && !off
        {
            self.place = Place::Waiting(offset);
        }
    }

    /// Bytes to be sent at the next message boundary; false if there are too many of them already.
    #[must_use]
    pub(crate) fn push_control(&mut self, bytes: &mut Vec<u8>) -> bool {
        self.control.append(bytes);
        self.control.len() <= CONTROL_MAX
    }

    /// Bytes sent so far, all kinds.
    pub(crate) fn bytes_sent(&self) -> u64 {
        self.bytes_sent
    }

    /// The log offset up to which everything has been handed over or is owed next.
    pub(crate) fn offset(&self) -> u64 {
        match self.place {
            Place::Waiting(offset) | Place::At { offset, .. } | Place::Paused(offset) => offset,
        }
    }

    /// Takes the number of skips since the last call.
    pub(crate) fn take_skips(&mut self) -> u64 {
        std::mem::take(&mut self.skips)
    }

    /// Whether it waits for a keyframe.
    #[cfg(test)]
    fn is_waiting(&self) -> bool {
        matches!(self.place, Place::Waiting(_))
    }

    /// Bytes that go out before all others; only for a cursor that has none yet.
    pub(crate) fn owe(&mut self, bytes: Vec<u8>) {
        (self.private, self.sent) = (bytes, 0);
    }

    /// How many bytes are left of a message that is half sent.
    pub(crate) fn half_sent(&self) -> usize {
        self.tail.as_ref().map_or(0, |(_, from, to)| usize::try_from(to - from).unwrap_or(usize::MAX))
    }

    /// Takes the bytes that must still be sent before anything else may be: the rest of what is half sent, private and control
    /// bytes.
    pub(crate) fn take_rest(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        if let Some((segment, from, to)) = self.tail.take() {
            rest.extend_from_slice(part(&segment.from(from), from, to));
        }
        rest.extend_from_slice(self.private.get(self.sent..).unwrap_or(&[]));
        (self.private, self.sent) = (Vec::new(), 0);
        rest.append(&mut self.control);
        rest
    }

    /// Sends all it can through `send`, which behaves as a non-blocking `writev`.
    ///
    /// # Errors
    /// Those of `send`, but for `WouldBlock`.
    pub(crate) fn flush(
        &mut self,
        log: &Log,
        send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<Flushed> {
        let mut sends = 0;
        loop {
            if !self.send_owed(send)? {
                return Ok(Flushed::Blocked);
            }
            if !self.control.is_empty() {
                std::mem::swap(&mut self.private, &mut self.control);
                continue;
            }
            let (offset, barrier) = match self.place {
                Place::Paused(_) => return Ok(Flushed::CaughtUp),
                Place::Waiting(from) => match log.key_after(from) {
                    Some(point) => {
                        self.join(&point, log.chunk_size());
                        continue;
                    }
                    None => return Ok(Flushed::CaughtUp),
                },
                Place::At { offset, barrier } => (offset, barrier),
            };
            if offset < log.floor() {
                self.skip(offset, log);
                continue;
            }
            let mut limit = log.end();
            if let Some(next) = log.barrier_at(barrier) {
                if next.offset == offset {
                    self.pass(&next.kind, next.time, log.chunk_size());
                    self.place = Place::At { offset, barrier: barrier + 1 };
                    continue;
                }
                limit = next.offset;
            }
            if offset == limit {
                return Ok(Flushed::CaughtUp);
            }
            if self.holds_video
                && let Some(key) = log.key_from(offset)
            {
                if key.offset == offset {
                    self.join(key, log.chunk_size());
                    continue;
                }
                limit = limit.min(key.offset);
            }
            if self.holds_video || self.muted != [false; 3] {
                let leaves_out = self.leaves_out(log, offset);
                limit = self.run_end(log, offset, limit);
                if leaves_out {
                    self.place = Place::At { offset: limit, barrier };
                    continue;
                }
            }
            if sends == SENDS_MAX {
                return Ok(Flushed::Blocked);
            }
            sends += 1;
            let (wanted, taken) = send_range(log, offset, limit, send)?;
            let reached = offset + taken as u64;
            self.bytes_sent += taken as u64;
            self.place = Place::At { offset: reached, barrier };
            // A short write ends anywhere, and so does one bounded by SEND_MAX.
            self.hold(log, reached);
            if taken < wanted {
                return Ok(Flushed::Blocked);
            }
        }
    }

    /// Sends the half-sent message and the private bytes; false if the peer takes no more.
    fn send_owed(&mut self, send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>) -> io::Result<bool> {
        if let Some((segment, from, to)) = self.tail.take() {
            let taken = {
                let bytes = segment.from(from);
                offer(send, &[IoSlice::new(part(&bytes, from, to))])?
            };
            self.bytes_sent += taken as u64;
            let from = from + taken as u64;
            if from < to {
                self.tail = Some((segment, from, to));
                return Ok(false);
            }
        }
        while let Some(rest) = self.private.get(self.sent..).filter(|rest| !rest.is_empty()) {
            let wanted = rest.len();
            let taken = offer(send, &[IoSlice::new(rest)])?;
            self.bytes_sent += taken as u64;
            self.sent += taken;
            if taken < wanted {
                return Ok(false);
            }
        }
        // A watching player keeps no buffer.
        self.private = Vec::new();
        self.sent = 0;
        Ok(true)
    }

    /// If `reached` is inside a message, keeps its rest and moves behind it.
    fn hold(&mut self, log: &Log, reached: u64) {
        if reached == log.end() {
            return;
        }
        let boundary = log.boundary(reached);
        if boundary == reached {
            return;
        }
        if let (Some(segment), Place::At { barrier, .. }) = (log.segment(reached), self.place) {
            self.tail = Some((Rc::clone(segment), reached, boundary));
            self.place = Place::At { offset: boundary, barrier };
        }
    }

    /// Too far behind: on to the newest keyframe, forward only.
    fn skip(&mut self, offset: u64, log: &Log) {
        self.skips += 1;
        match log.key_after(offset) {
            Some(point) => self.join(&point, log.chunk_size()),
            None => self.place = Place::Waiting(log.end()),
        }
    }

    /// Whether the reader does not get the message at `offset`.
    fn leaves_out(&self, log: &Log, offset: u64) -> bool {
        let first = log.segment(offset).and_then(|s| s.from(offset).first().copied());
        let lane = Lane::ALL.into_iter().find(|lane| first == Some(0x40 | lane.csid()));
        lane.is_some_and(|lane| self.muted[lane as usize] || (self.holds_video && lane == Lane::Video))
    }

    /// End of the messages from `offset` on, `limit` at most, that the reader gets or does not get as the first.
    fn run_end(&self, log: &Log, offset: u64, limit: u64) -> u64 {
        let leaves_out = self.leaves_out(log, offset);
        let mut end = offset;
        while end < limit && self.leaves_out(log, end) == leaves_out {
            end = log.boundary(end + 1);
        }
        end.min(limit)
    }

    fn pass(&mut self, barrier: &BarrierKind, time: u64, chunk_size: u32) {
        match barrier {
            BarrierKind::Seed(lane) => {
                let base = *self.base.get_or_insert(time);
                self.put(chunk_size, *lane, time, base, message_type::AUDIO, &[]);
            }
            BarrierKind::Metadata(payload) => self.put_metadata(chunk_size, payload),
        }
    }

    /// Headers in force, each as a fmt-0 message with the time from which its lane's first delta counts. A lane without
    /// headers gets an empty audio message, which every client passes over.
    fn seed(&mut self, point: &JoinPoint, chunk_size: u32) {
        let times = Lane::ALL.map(|lane| point.seed_time(lane));
        let earliest = times.iter().flatten().copied().min().unwrap_or(point.time);
        let base = *self.base.get_or_insert(earliest);
        let headers = &point.headers;
        let time = |lane: Lane| times[lane as usize].unwrap_or(point.time);

        if let Some(metadata) = &headers.metadata {
            self.put_metadata(chunk_size, metadata);
        }
        if let Some(audio) = &headers.audio {
            self.put(chunk_size, Lane::Audio, time(Lane::Audio), base, message_type::AUDIO, audio);
        } else if let Some(time) = times[Lane::Audio as usize] {
            self.put(chunk_size, Lane::Audio, time, base, message_type::AUDIO, &[]);
        }
        if headers.video.is_empty()
            && let Some(time) = times[Lane::Video as usize]
        {
            self.put(chunk_size, Lane::Video, time, base, message_type::AUDIO, &[]);
        }
        for video in &headers.video {
            self.put(chunk_size, Lane::Video, time(Lane::Video), base, message_type::VIDEO, video);
        }
    }

    /// Metadata always carries time 0, as from SRS: ffmpeg takes any other for the start of a text stream.
    fn put_metadata(&mut self, chunk_size: u32, payload: &Bytes) {
        match self.reader {
            Reader::Player => self.put(chunk_size, Lane::Data, 0, 0, message_type::DATA, payload),
            Reader::Forwarder => {
                let payload = media::metadata_for_publish(payload);
                self.put(chunk_size, Lane::Data, 0, 0, message_type::DATA, &payload);
            }
        }
    }

    fn put(&mut self, chunk_size: u32, lane: Lane, time: u64, base: u64, type_id: u8, payload: &[u8]) {
        #[expect(clippy::cast_possible_truncation, reason = "RTMP timestamps are modulo 2^32 (§5.3.1)")]
        let timestamp = time.saturating_sub(base) as u32;
        chunk::put_full(&mut self.private, chunk_size, lane.csid(), timestamp, type_id, self.msid, payload);
    }
}

/// Offers the log's bytes from `offset` to `limit`, bounded: (bytes offered, bytes taken).
fn send_range(
    log: &Log,
    offset: u64,
    limit: u64,
    send: &mut dyn FnMut(&[IoSlice<'_>]) -> io::Result<usize>,
) -> io::Result<(usize, usize)> {
    let limit = limit.min(offset + SEND_MAX as u64);
    let mut segments = log.segments_from(offset);
    let Some(first) = segments.next() else { return Ok((0, 0)) };
    let first = first.from(offset);
    let head = part(&first, offset, limit);
    if offset + head.len() as u64 == limit {
        let taken = offer(send, &[IoSlice::new(head)])?;
        return Ok((head.len(), taken));
    }
    let mut at = offset + head.len() as u64;
    let mut more = Vec::with_capacity(SLICES - 1);
    for segment in segments.take(SLICES - 1) {
        let bytes = segment.from(at);
        let from = at;
        at += part(&bytes, from, limit).len() as u64;
        if at > from {
            more.push((bytes, from));
        }
    }
    let mut slices = vec![IoSlice::new(head)];
    slices.extend(more.iter().map(|(bytes, from)| IoSlice::new(part(bytes, *from, limit))));
    let wanted = slices.iter().map(|s| s.len()).sum();
    Ok((wanted, offer(send, &slices)?))
}

/// The first `to - from` of `bytes`, or all there are.
fn part(bytes: &[u8], from: u64, to: u64) -> &[u8] {
    let len = usize::try_from(to.saturating_sub(from)).unwrap_or(usize::MAX);
    &bytes[..bytes.len().min(len)]
}

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
    use rtmp::message_type::{AUDIO, DATA, VIDEO};

    /// What a client sees: (type, time, payload), decoded by the chunk reader.
    fn decode(bytes: &[u8]) -> Vec<(u8, u32, Vec<u8>)> {
        let mut reader = chunk::Reader::new(chunk::Limits::default());
        let mut wire = Vec::new();
        chunk::put_full(&mut wire, 128, 2, 0, message_type::SET_CHUNK_SIZE, 0, &CHUNK.to_be_bytes());
        wire.extend_from_slice(bytes);
        let mut input = &wire[..];
        let mut seen = Vec::new();
        while let Some(m) = reader.read(&mut input).unwrap() {
            seen.push((m.type_id, m.timestamp, m.payload.to_vec()));
        }
        seen
    }

    const CHUNK: u32 = 1_000;

    struct Source {
        log: Log,
        /// (time, lane, payload) of every message in the log.
        sent: Vec<(u64, Lane, Vec<u8>)>,
    }

    impl Source {
        fn new() -> Self {
            let mut log = Log::new(CHUNK, 30_000);
            log.update_headers(|h| {
                h.audio = Some(Bytes::from_static(&[0xAF, 0, 0x12, 0x10]));
                h.video = vec![Bytes::from_static(&[0x17, 0, 0, 0, 0, 1])];
            });
            log.append_metadata(Bytes::from_static(b"\x02\x00\x0AonMetaData\x05"));
            Self { log, sent: Vec::new() }
        }

        fn send(&mut self, lane: Lane, time: u64, size: usize) {
            let key = lane == Lane::Video && self.sent.len().is_multiple_of(50);
            let mut payload = vec![(self.sent.len() % 251) as u8; size];
            payload[0] = if key { 0x17 } else { 0x27 };
            payload[1] = 1;
            let type_id = if lane == Lane::Video { VIDEO } else { AUDIO };
            self.log.append(lane, type_id, time, key, &payload);
            self.sent.push((time, lane, payload));
        }

        fn run(&mut self, from: u64, to: u64) {
            for t in from..to {
                self.send(
                    if t % 2 == 0 { Lane::Video } else { Lane::Audio },
                    t * 20,
                    40 + (t as usize * 37) % 3_000,
                );
            }
        }
    }

    fn flush_with(cursor: &mut Cursor, log: &Log, take: &mut dyn FnMut() -> usize) -> (Vec<u8>, Flushed) {
        let mut out = Vec::new();
        let flushed = cursor
            .flush(log, &mut |slices| {
                let mut budget = take();
                if budget == 0 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                let mut taken = 0;
                for slice in slices {
                    let n = slice.len().min(budget);
                    out.extend_from_slice(&slice[..n]);
                    budget -= n;
                    taken += n;
                }
                Ok(taken)
            })
            .unwrap();
        (out, flushed)
    }

    /// As a player's own task does: again and again until nothing is left.
    fn flush_all(cursor: &mut Cursor, log: &Log) -> (Vec<u8>, Flushed) {
        let mut wire = Vec::new();
        loop {
            let (bytes, flushed) = flush_with(cursor, log, &mut || usize::MAX);
            wire.extend(&bytes);
            if flushed == Flushed::CaughtUp || bytes.is_empty() {
                return (wire, flushed);
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
            let mut cursor = Cursor::new(Reader::Player, 1, 0);
            let mut wire = Vec::new();
            for round in 0..3 {
                // One short write, then blocked, again and again, with control bytes pushed in between.
                loop {
                    if wire.len().is_multiple_of(97) {
                        let mut ping = Vec::new();
                        let event = [0, 6, 0, 0, 0, 9];
                        chunk::put_full(&mut ping, CHUNK, 2, 0, message_type::USER_CONTROL, 0, &event);
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
            assert!(seen.iter().any(|m| m.0 == message_type::USER_CONTROL));
        }
    }

    #[test]
    fn a_reader_may_join_at_every_message_and_gets_exact_times() {
        let mut source = Source::new();
        source.run(0, 200);
        for at in 0..6 {
            source.run(200 + at * 7, 207 + at * 7);
            let mut cursor = Cursor::new(Reader::Player, 3, 0);
            let point = source.log.join(true).unwrap();
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
                source.send(Lane::Video, start + t * 40, 2_500);
            }
            let mut cursor = Cursor::new(Reader::Forwarder, 1, 0);
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
        let mut cursor = Cursor::new(Reader::Player, 1, 0);
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
        let mut cursor = Cursor::new(Reader::Player, 1, 0);
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
    fn a_paused_player_goes_on_at_a_later_keyframe() {
        let mut source = Source::new();
        source.run(0, 60);
        let mut cursor = Cursor::new(Reader::Player, 1, 0);
        let (mut wire, _) = flush_all(&mut cursor, &source.log);
        cursor.pause();
        source.run(60, 90);
        assert!(flush_all(&mut cursor, &source.log).0.is_empty());
        cursor.resume();
        assert!(flush_all(&mut cursor, &source.log).0.is_empty(), "no keyframe since");
        source.run(90, 110);
        wire.extend(flush_all(&mut cursor, &source.log).0);
        let times: Vec<_> = media(&decode(&wire)).iter().map(|m| m.0).collect();
        assert!(times.is_sorted());
        assert_eq!(times.len(), 10 + 10);
    }

    #[test]
    fn a_reader_that_joins_while_video_pauses_gets_audio_and_no_video_before_a_keyframe() {
        let mut source = Source::new();
        source.run(0, 20);
        // 4 s of audio; then video goes on within its group, before the next keyframe comes.
        (0..200).for_each(|i| source.send(Lane::Audio, 400 + i * 20, 60));
        let at = source.sent.len();
        let mut cursor = Cursor::new(Reader::Player, 1, source.log.end());
        let (mut wire, flushed) = flush_all(&mut cursor, &source.log);
        assert_eq!(flushed, Flushed::CaughtUp);
        source.run(220, 240);
        wire.extend(flush_all(&mut cursor, &source.log).0);
        assert_eq!(media(&decode(&wire)).len(), 10, "the audio of the last 20 messages");
        source.run(240, 280);
        wire.extend(flush_all(&mut cursor, &source.log).0);
        let key = (at..).find(|n| source.sent[*n].1 == Lane::Video && source.sent[*n].2[0] == 0x17).unwrap();
        let seen = decode(&wire);
        let video: Vec<_> = seen.iter().filter(|m| m.0 == VIDEO && m.2[1] == 1).collect();
        assert!(video[0].2 == source.sent[key].2, "the first video is the keyframe");
        assert_eq!(video.len(), source.sent[key..].iter().filter(|m| m.1 == Lane::Video).count());
        assert!(media(&seen).is_sorted_by_key(|(time, _)| *time));
    }

    #[test]
    fn a_muted_lane_is_left_out_and_comes_back_whole() {
        let mut source = Source::new();
        source.run(0, 20);
        let mut cursor = Cursor::new(Reader::Player, 1, 0);
        cursor.mute(Lane::Audio, true);
        let (mut wire, _) = flush_all(&mut cursor, &source.log);
        assert_eq!(media(&decode(&wire)).len(), 10);
        cursor.mute(Lane::Audio, false);
        source.run(20, 60);
        wire.extend(flush_all(&mut cursor, &source.log).0);
        let got = media(&decode(&wire));
        assert_eq!(got.len(), 10 + 10);
        assert_eq!(got.last().unwrap().0, 59 * 20);
    }
}
