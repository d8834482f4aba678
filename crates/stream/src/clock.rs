//! From a publisher's timestamps to the stream's own clock.
//!
//! A publisher's 32-bit millisecond timestamps wrap, start anywhere, jump when its source loops, and start over when it
//! reconnects. Players must see one line that never runs backwards. The stream's clock is that line: 64-bit
//! milliseconds, `out = max(last_out[csid], in + offset)`, with one offset for audio, video and data together so that
//! they stay in step.

/// A jump of the input by more than this beyond what its arrival explains opens a new offset, ms.
const JUMP: i64 = 10_000;
/// A step back on one chunk stream by more than this is a restart of the source, ms. Decoding times never step back within a
/// source, so only rounding and reordering must pass.
const STEP_BACK: i64 = 1_000;
/// How long the old offset stays a candidate after a jump, ms: audio and video do not jump at the same message.
const OVERLAP: u64 = 1_000;
/// Where the first message of a publication goes on the stream's clock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Start {
    /// At this time if the stream is new, else at the newest time plus the time passed.
    At(u64),
    /// The sender's clock is the stream's clock, the same as before, and its times are one line already.
    AsSent,
    /// The sender's times are one line already, on another clock than before: at the newest time plus the time passed.
    OtherClock,
}

/// The clock of one stream. Plain data; `now` is monotonic milliseconds and always an argument.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clock {
    offset: i64,
    /// The other offset after a jump, and until when it may be used.
    other: Option<(i64, u64)>,
    /// Newest time given out, and when.
    newest: Option<(u64, u64)>,
    /// The last input, as received and unwrapped.
    input: Option<(u32, i64)>,
    /// Set until the first message of a publication.
    start: Option<Start>,
    /// Whether the input has no jumps that are to be closed.
    is_one_line: bool,
}

impl Clock {
    /// The next message is the first of a new publication.
    pub(crate) fn begin(&mut self, start: Start) {
        self.start = Some(start);
        self.input = None;
        self.other = None;
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

    /// The time of a message with this `timestamp`, received at `now`, whose chunk stream was last at `last`.
    pub(crate) fn map(&mut self, timestamp: u32, last: Option<u64>, now: u64) -> u64 {
        let input = self.unwrap(timestamp, now);
        let time = self.place(input, last, now);
        let time = u64::try_from(time).unwrap_or(0).max(last.unwrap_or(0));
        // What is sent again comes late: when its time was first reached is what counts.
        if self.newest.is_none_or(|(newest, _)| time > newest) {
            self.newest = Some((time, now));
        }
        time
    }

    /// `timestamp` as a time on a line without wraps, and the offset of a first message.
    fn unwrap(&mut self, timestamp: u32, now: u64) -> i64 {
        let input = match (self.start, self.input) {
            (None, Some((previous, unwrapped))) => {
                unwrapped + i64::from(timestamp.wrapping_sub(previous).cast_signed())
            }
            (start, _) => {
                let resumes = self.resumes() == Some(true);
                self.start = None;
                self.is_one_line = matches!(start, Some(Start::AsSent | Start::OtherClock));
                let near = self.newest.map_or(0, |(newest, _)| newest);
                let input = if resumes { self.unwrap_near(timestamp, near) } else { i64::from(timestamp) };
                self.offset = match (start, self.newest) {
                    _ if resumes => self.offset,
                    (_, Some((newest, at))) => expected(newest, at, now) - input,
                    (Some(Start::At(time)), None) => time.cast_signed() - input,
                    (Some(Start::AsSent | Start::OtherClock) | None, None) => 0,
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

    fn place(&mut self, input: i64, last: Option<u64>, now: u64) -> i64 {
        let Some((newest, at)) = self.newest.filter(|_| !self.is_one_line) else {
            return input + self.offset;
        };
        let expected = expected(newest, at, now);
        let mut time = input + self.offset;
        if let Some((other, until)) = self.other {
            if now > until {
                self.other = None;
            } else if ((input + other) - expected).abs() < (time - expected).abs() {
                // The one used last stays: a stray message, such as a header that always has time 0, must not win.
                self.other = Some((self.offset, until));
                self.offset = other;
                time = input + other;
            }
        }
        let back = last.is_some_and(|last| time < last.cast_signed() - STEP_BACK);
        if back || time > expected + JUMP {
            self.other = Some((self.offset, now + OVERLAP));
            self.offset = newest.cast_signed() - input;
            return newest.cast_signed();
        }
        time
    }
}

fn expected(newest: u64, at: u64, now: u64) -> i64 {
    (newest + now.saturating_sub(at)).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn started(start: Start) -> Clock {
        let mut clock = Clock::default();
        clock.begin(start);
        clock
    }

    #[test]
    fn keeps_the_distances_of_the_input() {
        let mut clock = started(Start::At(1_000_000));
        assert_eq!(clock.map(500, None, 0), 1_000_000);
        assert_eq!(clock.map(540, Some(1_000_000), 40), 1_000_040);
        assert_eq!(clock.map(533, None, 41), 1_000_033);
    }

    #[test]
    fn crosses_the_32_bit_wrap() {
        let mut clock = started(Start::AsSent);
        let first = clock.map(u32::MAX - 19, None, 0);
        assert_eq!(clock.map(20, Some(first), 40) - first, 40);
    }

    #[test]
    fn a_source_that_starts_over_goes_on_at_the_newest_time() {
        let mut clock = started(Start::At(0));
        clock.map(0, None, 0);
        let video = clock.map(8_000, Some(0), 8_000);
        let audio = clock.map(7_990, Some(0), 8_000);
        let again = clock.map(0, Some(video), 8_040);
        assert_eq!(again, video);
        // Audio has not started over yet, then does.
        assert_eq!(clock.map(8_010, Some(audio), 8_045), audio + 20);
        assert_eq!(clock.map(10, Some(audio + 20), 8_050), again + 10);
    }

    #[test]
    fn a_jump_ahead_is_closed_but_a_pause_is_kept() {
        let mut clock = started(Start::At(0));
        let t = clock.map(0, None, 0);
        let t = clock.map(3_600_000, Some(t), 40);
        assert_eq!(t, 0);
        assert_eq!(clock.map(3_660_000, Some(t), 60_040), 60_000);
    }

    #[test]
    fn headers_that_always_have_time_0_do_not_bend_the_line() {
        let mut clock = started(Start::At(0));
        let mut last = clock.map(0, None, 0);
        for t in (40..60_000).step_by(40) {
            if t % 2_000 == 0 {
                last = clock.map(0, Some(last), t);
            }
            let frame = clock.map(u32::try_from(t).unwrap(), Some(last), t);
            assert_eq!(frame, t);
            last = frame;
        }
    }

    #[test]
    fn a_step_back_and_then_far_ahead_within_a_second_stays_near_the_arrival() {
        let mut clock = started(Start::At(0));
        let t = clock.map(100_000, None, 0);
        let t = clock.map(0, Some(t), 40);
        let t = clock.map(2_000_000, Some(t), 80);
        assert!(t <= 10_080, "{t}");
    }

    #[test]
    fn a_new_publication_goes_on_after_the_time_that_passed() {
        let mut clock = started(Start::At(0));
        let t = clock.map(90_000, None, 0);
        clock.begin(Start::At(77));
        assert_eq!(clock.map(0, Some(t), 5_000), 5_000);
    }

    #[test]
    fn a_forwarder_that_reconnects_keeps_its_clock() {
        let mut clock = started(Start::AsSent);
        let t = clock.map(4_000_000_000, None, 0);
        let t = clock.map(4_000_002_000, Some(t), 2_000);
        assert_eq!(t, 4_000_002_000);
        clock.begin(Start::AsSent);
        assert_eq!(clock.resumes(), Some(true));
        // The GOP that was sent before is placed where it was; the caller drops what it has.
        assert_eq!(clock.map(4_000_001_000, None, 3_000), 4_000_001_000);
        assert_eq!(clock.map(4_000_002_960, Some(t), 3_010), 4_000_002_960);
    }

    #[test]
    fn the_times_of_a_forwarder_are_taken_as_they_are() {
        let mut clock = started(Start::AsSent);
        let t = clock.map(1_000, None, 0);
        // What looks like a jump is a pause of the encoder: the last message came late, or twice.
        assert_eq!(clock.map(31_000, Some(t), 40), 31_000);
    }

    #[test]
    fn a_forwarder_with_another_clock_goes_on_after_the_time_that_passed() {
        let mut clock = started(Start::AsSent);
        let t = clock.map(4_000_000_000, None, 0);
        clock.begin(Start::OtherClock);
        assert_eq!(clock.resumes(), Some(false));
        assert_eq!(clock.map(1_000, Some(t), 3_000), t + 3_000);
    }

    #[test]
    fn never_runs_backwards_on_a_chunk_stream() {
        let mut clock = started(Start::At(0));
        let t = clock.map(1_000, None, 0);
        assert_eq!(clock.map(600, Some(t), 10), t);
    }
}
