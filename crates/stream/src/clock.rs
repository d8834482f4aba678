//! From a publisher's timestamps to the stream's own clock.
//!
//! A publisher's 32-bit millisecond timestamps wrap, start anywhere, jump when its source loops, and start over when it
//! reconnects. Players must see one line that never runs backwards. The stream's clock is that line, in 64-bit milliseconds. An
//! encoder's timestamps are brought onto it by [`rtmp::line`]; those of a forwarder are on it already.

use rtmp::line::{Lane, Line};
use serde::{Deserialize, Serialize};

/// A jump of the input by more than this beyond what its arrival explains is closed, ms.
const JUMP: i64 = 10_000;

/// No time, offset or count of a stream comes near this: as milliseconds it is 35 million years. A record whose numbers are within it is
/// gone on from without overflow.
pub(crate) const FAR: u64 = 1 << 60;

/// Where the first message of a publication goes on the stream's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Start {
    /// At this time if the stream is new, else at the newest time plus the time passed.
    At(u64),
    /// The sender's clock is the stream's clock, the same as before, and its times are one line already.
    AsSent,
    /// The sender's times are one line already, on another clock than before: at the newest time plus the time passed.
    OtherClock,
}

/// The clock of one stream. Plain data; `now` is monotonic milliseconds and always an argument.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Clock {
    /// Of an encoder's publication, from its first message on.
    line: Option<Line>,
    /// From a forwarder's times to the stream's.
    offset: i64,
    /// The last input of a forwarder, as received and unwrapped.
    input: Option<(u32, i64)>,
    /// Newest time given out, and when.
    newest: Option<(u64, u64)>,
    /// Set until the first message of a publication.
    start: Option<Start>,
}

impl Clock {
    /// The next message is the first of a new publication.
    pub(crate) fn begin(&mut self, start: Start) {
        self.start = Some(start);
        self.input = None;
        self.line = None;
    }

    /// Whether one that was read from a record can be right.
    pub(crate) fn is_sound(&self) -> bool {
        let Self { line, offset, input, newest, start } = self;
        let is_near = |number: i64| number.unsigned_abs() <= FAR;
        let at = if let Some(Start::At(time)) = start { *time } else { 0 };
        let (newest, since) = newest.unwrap_or_default();
        line.as_ref().is_none_or(Line::is_sound)
            && [*offset, input.map_or(0, |(_, input)| input)].into_iter().all(is_near)
            && [at, newest, since].into_iter().all(|number| number <= FAR)
    }

    /// Newest time given out, ms.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.newest.map(|(time, _)| time)
    }

    /// How the publication starts, while it has not had its first message.
    pub(crate) fn pending(&self) -> Option<Start> {
        self.start
    }

    /// Whether the next message is the first of a publication and goes on where the last publication ended, on the sender's
    /// unchanged clock. `None` when it is not the first.
    pub(crate) fn resumes(&self) -> Option<bool> {
        Some(self.start? == Start::AsSent && self.newest.is_some())
    }

    /// The time of a message with this `timestamp`, received at `now`, whose chunk stream was last at `last`. `lane` is that of a frame;
    /// what is none may carry any timestamp.
    pub(crate) fn map(&mut self, lane: Option<Lane>, timestamp: u32, last: Option<u64>, now: u64) -> u64 {
        if let Some(Start::At(time)) = self.start {
            self.start = None;
            let time = match self.newest {
                Some((newest, at)) => expected(newest, at, now),
                None => time.cast_signed(),
            };
            self.line = Some(Line::new(JUMP, 0, timestamp, time, now));
        }
        let time = match (&mut self.line, lane) {
            (Some(line), Some(lane)) => line.frame(lane, timestamp, now),
            (Some(line), None) => line.other(timestamp, now),
            (None, _) => self.unwrap(timestamp, now) + self.offset,
        };
        let time = u64::try_from(time).unwrap_or(0).max(last.unwrap_or(0));
        // What is sent again comes late: when its time was first reached is what counts.
        if self.newest.is_none_or(|(newest, _)| time > newest) {
            self.newest = Some((time, now));
        }
        time
    }

    /// A forwarder's `timestamp` as a time on a line without wraps, and the offset of a first message.
    fn unwrap(&mut self, timestamp: u32, now: u64) -> i64 {
        let input = match (self.start, self.input) {
            (None, Some((previous, unwrapped))) => {
                unwrapped + i64::from(timestamp.wrapping_sub(previous).cast_signed())
            }
            _ => {
                let resumes = self.resumes() == Some(true);
                self.start = None;
                let near = self.newest.map_or(0, |(newest, _)| newest);
                let input = if resumes { self.unwrap_near(timestamp, near) } else { i64::from(timestamp) };
                self.offset = match self.newest {
                    _ if resumes => self.offset,
                    Some((newest, at)) => expected(newest, at, now) - input,
                    None => 0,
                };
                input
            }
        };
        self.input = Some((timestamp, input));
        input
    }

    /// The unwrapped value of `timestamp` whose time is nearest to `near`.
    fn unwrap_near(&self, timestamp: u32, near: u64) -> i64 {
        let anchor = near.cast_signed() - self.offset;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "timestamps are modulo 2^32"
        )]
        let low = anchor as u32;
        anchor + i64::from(timestamp.wrapping_sub(low).cast_signed())
    }
}

fn expected(newest: u64, at: u64, now: u64) -> i64 {
    (newest + now.saturating_sub(at)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIDEO: Option<Lane> = Some(Lane::Video);
    const AUDIO: Option<Lane> = Some(Lane::Audio);

    fn started(start: Start) -> Clock {
        let mut clock = Clock::default();
        clock.begin(start);
        clock
    }

    #[test]
    fn keeps_the_distances_of_the_input() {
        let mut clock = started(Start::At(1_000_000));
        assert_eq!(clock.map(VIDEO, 500, None, 0), 1_000_000);
        assert_eq!(clock.map(VIDEO, 540, Some(1_000_000), 40), 1_000_040);
        assert_eq!(clock.map(AUDIO, 533, None, 41), 1_000_033);
    }

    #[test]
    fn crosses_the_32_bit_wrap() {
        let mut clock = started(Start::AsSent);
        let first = clock.map(VIDEO, u32::MAX - 19, None, 0);
        assert_eq!(clock.map(VIDEO, 20, Some(first), 40) - first, 40);
    }

    #[test]
    fn a_header_that_always_has_time_0_does_not_bend_the_line() {
        let mut clock = started(Start::At(0));
        let mut last = clock.map(None, 0, None, 0);
        for t in (40..60_000).step_by(40) {
            if t % 2_000 == 0 {
                let header = clock.map(None, 0, Some(last), t);
                assert_eq!(header, last);
            }
            last = clock.map(VIDEO, u32::try_from(t).unwrap(), Some(last), t);
            assert_eq!(last, t);
        }
    }

    #[test]
    fn a_new_publication_goes_on_after_the_time_that_passed() {
        let mut clock = started(Start::At(0));
        let t = clock.map(VIDEO, 90_000, None, 0);
        clock.begin(Start::At(77));
        assert_eq!(clock.map(VIDEO, 0, Some(t), 5_000), 5_000);
    }

    #[test]
    fn a_forwarder_that_reconnects_keeps_its_clock() {
        let mut clock = started(Start::AsSent);
        let t = clock.map(VIDEO, 4_000_000_000, None, 0);
        let t = clock.map(VIDEO, 4_000_002_000, Some(t), 2_000);
        assert_eq!(t, 4_000_002_000);
        clock.begin(Start::AsSent);
        assert_eq!(clock.resumes(), Some(true));
        // The GOP that was sent before is placed where it was; the caller drops what it has.
        assert_eq!(clock.map(VIDEO, 4_000_001_000, None, 3_000), 4_000_001_000);
        assert_eq!(clock.map(VIDEO, 4_000_002_960, Some(t), 3_010), 4_000_002_960);
    }

    #[test]
    fn the_times_of_a_forwarder_are_taken_as_they_are() {
        let mut clock = started(Start::AsSent);
        let t = clock.map(VIDEO, 1_000, None, 0);
        // What looks like a jump is a pause of the encoder: the last message came late, or twice.
        assert_eq!(clock.map(VIDEO, 31_000, Some(t), 40), 31_000);
    }

    #[test]
    fn a_forwarder_with_another_clock_goes_on_after_the_time_that_passed() {
        let mut clock = started(Start::AsSent);
        let t = clock.map(VIDEO, 4_000_000_000, None, 0);
        clock.begin(Start::OtherClock);
        assert_eq!(clock.resumes(), Some(false));
        assert_eq!(clock.map(VIDEO, 1_000, Some(t), 3_000), t + 3_000);
    }

    #[test]
    fn never_runs_backwards_on_a_chunk_stream() {
        let mut clock = started(Start::At(0));
        let t = clock.map(VIDEO, 1_000, None, 0);
        assert_eq!(clock.map(VIDEO, 600, Some(t), 10), t);
    }
}
