//! From the timestamps of a source to one line of time.
//!
//! Timestamps start anywhere, wrap at 32 bits, and start over or jump where their source does: a file that is played in a loop, a
//! recording with cuts, an encoder that was switched. The line goes on. Audio and video do not start over at the same message, and may
//! be interleaved by seconds, so each lane has its own offset: it goes on with it as long as its own timestamps do. Where they do not, it
//! takes the offset of the other lane if that fits, so that both are in step again; else it opens a new one.

use crate::media::Kind;
use serde::{Deserialize, Serialize};

/// A lane whose next timestamp is at most this much later goes on, ms, whatever its arrival says.
const CONTINUES: i64 = 1_000;
/// Frames out of order step back by at most this much, ms: decoding times never do within a source, but some send the times of
/// display.
const REORDER: i64 = 250;
/// A step back of a lane by more than this is a restart of the source, ms. A smaller one is a correction of one lane, unless the
/// other lane does the same, or it comes again before the lane has come further.
const STEP_BACK: i64 = 1_000;
/// A lane that stands still for longer, while its frames arrive, goes on with their arrival, ms.
const STANDS_STILL: u64 = 1_500;
/// Of a pause between two frames so much counts for that, ms: a stalled network is no source that stands still.
const PAUSE_COUNTS: u64 = 200;
/// No time, timestamp or offset of a line comes near this, ms: 35 million years. A line whose numbers are within it adds them
/// without overflow.
const FAR: u64 = 1 << 60;

/// What has a line of timestamps of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Lane {
    /// Frames of video.
    Video,
    /// Frames of audio.
    Audio,
}

impl Lane {
    /// The lane of a message, if it is a frame. What is none may carry any timestamp.
    #[must_use]
    pub fn of(kind: Kind) -> Option<Self> {
        match kind {
            Kind::Keyframe | Kind::Video => Some(Self::Video),
            Kind::Audio => Some(Self::Audio),
            Kind::VideoHeader
            | Kind::VideoMetadata
            | Kind::AudioHeader
            | Kind::DataHeader
            | Kind::Data
            | Kind::Metadata
            | Kind::Ignore => None,
        }
    }
}

/// See the [module](self). Plain data; `now` is milliseconds on any clock that the caller keeps to, and never goes back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// A jump ahead by more than this beyond what the arrival explains is closed, ms.
    jump: i64,
    /// What is left of one where the distance of the frames is not known, ms.
    pause: i64,
    lanes: [State; 2],
    /// Offset of the newest frame.
    offset: i64,
    /// Newest time, and when it came.
    newest: (i64, u64),
    /// The last timestamp of a frame, as received and unwrapped.
    input: (u32, i64),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct State {
    /// `None` before its first frame.
    last: Option<Last>,
    /// Distance of its frames, ms, once known.
    distance: Option<i64>,
    /// Whether it has stepped back by little, and has not come further since.
    has_stepped: bool,
    /// Whether little steps back were found to be restarts.
    loops: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Last {
    offset: i64,
    timestamp: u32,
    input: i64,
    /// From the frame before it.
    step: i64,
    time: i64,
    /// When the frame came.
    at: u64,
    /// For how long frames have come since the first one with its time, ms.
    stood: u64,
}

impl Line {
    /// A line on which `timestamp` is `time`, at `now`. See the fields for `jump` and `pause`.
    #[must_use]
    pub fn new(jump: i64, pause: i64, timestamp: u32, time: i64, now: u64) -> Self {
        let input = i64::from(timestamp);
        Self {
            jump,
            pause,
            lanes: [State::default(); 2],
            offset: time - input,
            newest: (time, now),
            input: (timestamp, input),
        }
    }

    /// Whether a line that comes from a record of another process may be used: with any numbers it would overflow.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        let Self { jump, pause, lanes, offset, newest: (newest, at), input: (_, input) } = self;
        let is_near = |number: &i64| number.unsigned_abs() <= FAR;
        let is_sound = |lane: &State| {
            let last = lane.last.as_ref().is_none_or(|last| {
                let Last { offset, timestamp: _, input, step, time, at, stood } = last;
                [offset, input, step, time].into_iter().all(is_near) && *at <= FAR && *stood <= FAR
            });
            last && lane.distance.as_ref().is_none_or(is_near)
        };
        [jump, pause, offset, newest, input].into_iter().all(is_near)
            && *at <= FAR
            && lanes.iter().all(is_sound)
    }

    /// Newest time, ms.
    #[must_use]
    pub fn newest(&self) -> i64 {
        self.newest.0
    }

    /// The time of a frame of `lane`, ms; never before that of the last one on its lane.
    pub fn frame(&mut self, lane: Lane, timestamp: u32, now: u64) -> i64 {
        let index = lane as usize;
        let state = self.lanes[index];
        let (input, last) = match state.last {
            Some(last) => (unwrap((last.timestamp, last.input), timestamp), last),
            None => {
                let input = unwrap(self.input, timestamp);
                let time = input + self.offset;
                let is_near = (time - self.expected(now)).abs() <= self.jump;
                // What came in front of the first frame need not say where that is: a line has nothing before its begin.
                let is_before = time < self.newest.0 && self.lanes.iter().all(|lane| lane.last.is_none());
                let offset = if is_near && !is_before { self.offset } else { self.newest.0 - input };
                let time = input + offset;
                (input, Last { offset, timestamp, input, step: 0, time, at: now, stood: 0 })
            }
        };
        let step = input - last.input;
        let (mut offset, mut is_restart) = (last.offset, false);
        if !(-REORDER..=CONTINUES).contains(&step) {
            offset = self.nearest(input, &last, now);
            let time = input + offset;
            let is_little = step < 0 && time < last.time && time >= last.time - STEP_BACK;
            let has_stepped = self.lanes.iter().any(|lane| lane.has_stepped);
            is_restart = time < last.time - STEP_BACK
                || time > self.expected(now) + self.jump
                || (is_little && (has_stepped || state.loops));
            self.lanes[index].has_stepped |= is_little;
            self.lanes[index].loops |= is_little && is_restart;
        }
        let stood = last.stood + now.saturating_sub(last.at).min(PAUSE_COUNTS);
        let stands_still = input + offset <= last.time && stood > STANDS_STILL;
        if is_restart || stands_still {
            offset = self.restart(index, input, &last, state.has_stepped, now);
        }
        let time = (input + offset).max(last.time);
        let state = &mut self.lanes[index];
        let stood = if time > last.time { 0 } else { stood };
        state.has_stepped &= time <= last.time;
        state.distance = Some(step).filter(|step| (1..=CONTINUES).contains(step)).or(state.distance);
        state.last = Some(Last { offset, timestamp, input, step, time, at: now, stood });
        self.offset = offset;
        self.input = (timestamp, input);
        if time > self.newest.0 {
            self.newest = (time, now);
        }
        time
    }

    /// The time of something else than a frame, ms: where it belongs, if that is near the newest frame, else there. Headers and
    /// data may carry any timestamp, 0 for one.
    #[must_use]
    pub fn other(&self, timestamp: u32, now: u64) -> i64 {
        let time = unwrap(self.input, timestamp) + self.offset;
        let is_near =
            (time - self.newest.0).abs() <= STEP_BACK || (time - self.expected(now)).abs() <= STEP_BACK;
        if is_near { time } else { self.newest.0 }
    }

    fn expected(&self, now: u64) -> i64 {
        self.newest.0 + now.saturating_sub(self.newest.1).cast_signed()
    }

    /// The offset of a lane, its own first, that places `input` nearest to where the lane is expected.
    fn nearest(&self, input: i64, last: &Last, now: u64) -> i64 {
        let expected = last.time + now.saturating_sub(last.at).cast_signed();
        let offsets = self.lanes.iter().filter_map(|lane| lane.last).map(|last| last.offset);
        std::iter::once(last.offset)
            .chain(offsets)
            .min_by_key(|offset| (input + offset - expected).abs())
            .unwrap_or(last.offset)
    }

    /// A new offset, at which `input` of a lane that was at `last`, and stood still or not, goes on behind everything.
    fn restart(&mut self, index: usize, input: i64, last: &Last, stood_still: bool, now: u64) -> i64 {
        let distance = self.lanes[index].distance;
        let mut time = self.newest.0.max(last.time + distance.unwrap_or(self.pause));
        let expected = self.expected(now);
        if stood_still || expected - time > STEP_BACK {
            time = time.max(expected);
        }
        let offset = time - input;
        // Back from one frame that was far ahead: the other lane has not started over, and will not.
        let was_astray = last.step > CONTINUES && (last.step + input - last.input).abs() <= CONTINUES;
        for other in &mut self.lanes {
            let Some(there) = &mut other.last else { continue };
            if other.has_stepped || (was_astray && there.offset == last.offset) {
                there.offset = offset;
                other.has_stepped = false;
            }
        }
        offset
    }
}

/// `timestamp` as a time without wraps, near the one before it.
fn unwrap((before, input): (u32, i64), timestamp: u32) -> i64 {
    input + i64::from(timestamp.wrapping_sub(before).cast_signed())
}

#[cfg(test)]
mod tests {
    use super::Lane::{Audio, Video};
    use super::*;
    use proptest::prelude::*;

    const JUMP: i64 = 10_000;

    fn line() -> Line {
        Line::new(JUMP, 0, 0, 0, 0)
    }

    /// What a source of 25 pictures and 50 pieces of sound a second sends for `seconds`, in real time: `video` and `audio` say what
    /// timestamp each has that belongs at a time. Gives the times of both, of each piece of sound with that of the picture.
    fn run(seconds: i64, video: impl Fn(i64) -> i64, audio: impl Fn(i64) -> i64) -> Vec<(i64, i64, i64)> {
        let mut line = Line::new(JUMP, 0, video(0) as u32, 0, 0);
        let mut seen = Vec::new();
        for now in (0..seconds * 1_000).step_by(40) {
            let at = now.cast_unsigned();
            let picture = line.frame(Video, video(now) as u32, at);
            let sound = line.frame(Audio, audio(now) as u32, at);
            line.frame(Audio, audio(now + 20) as u32, at + 20);
            seen.push((now, picture, sound));
        }
        seen
    }

    /// Both go on in step, and in all as long as it took.
    fn check(seen: &[(i64, i64, i64)], slack: i64) {
        for (now, picture, sound) in seen {
            assert!((picture - now).abs() <= slack, "{picture} at {now}");
            assert!((sound - now).abs() <= slack, "sound {sound} at {now}");
        }
    }

    #[test]
    fn a_source_that_starts_over_goes_on_in_step_however_far_its_sound_trails() {
        for trailing in [0, 40, 900, 1_500, 3_900] {
            // Of sound of the last round comes some behind the begin of the next.
            let seen = run(30, |t| (t + trailing) % 4_000, |t| t % 4_000);
            for (now, picture, sound) in &seen {
                let apart = picture - sound - trailing;
                assert!(apart.abs() <= 80, "trailing {trailing}: {apart} ms apart at {now}");
                assert!((picture - now).abs() <= 100, "trailing {trailing}: {picture} at {now}");
            }
        }
    }

    #[test]
    fn a_loop_of_any_length_lasts_as_long_as_it_takes() {
        for length in [320, 400, 800, 1_000, 1_040, 2_000, 7_000] {
            check(&run(20, |t| t % length, |t| t % length), 100);
        }
        // Of pictures alone the first round is needed to tell.
        for length in [320, 400, 800, 960, 1_000, 1_040] {
            let mut line = line();
            for now in (0..20_000_i64).step_by(40) {
                let time = line.frame(Video, (now % length) as u32, now.cast_unsigned());
                let is_first = now < 2 * length.max(1_000);
                assert!(is_first || (time - now).abs() <= 100, "{length}: {time} at {now}");
            }
        }
    }

    #[test]
    fn timestamps_that_stand_still_go_on_with_their_arrival() {
        let mut line = line();
        for now in (0..20_000_u64).step_by(40) {
            let time = line.frame(Video, 0, now);
            assert!((time - now.cast_signed()).abs() <= 1_600, "{time} at {now}");
        }
    }

    proptest! {
        #[test]
        fn a_line_goes_on_from_its_record_and_one_that_is_none_never_overflows(
            bytes in prop::collection::vec(prop_oneof![any::<u8>(), Just(0), Just(1), Just(0xFF)], 12..200),
            frames in prop::collection::vec((any::<bool>(), any::<u32>(), 0u64..100_000), 1..50),
        ) {
            let lane = |is_video| if is_video { Video } else { Audio };
            let mut line = line();
            for (is_video, timestamp, now) in &frames {
                let mut restored: Line = postcard::from_bytes(&postcard::to_stdvec(&line).unwrap()).unwrap();
                prop_assert!(restored.is_sound());
                let time = line.frame(lane(*is_video), *timestamp, *now);
                prop_assert_eq!(restored.frame(lane(*is_video), *timestamp, *now), time);
                prop_assert_eq!(restored, line.clone());
            }
            if let Ok(mut line) = postcard::from_bytes::<Line>(&bytes)
                && line.is_sound()
            {
                for (is_video, timestamp, now) in frames {
                    let _ = line.other(timestamp, now);
                    line.frame(lane(is_video), timestamp, now);
                }
            }
        }

        /// Parts of any length, each from any timestamp far from where the last ended; sound trails, and messages come late.
        #[test]
        fn a_source_of_many_parts_stays_in_step(
            parts in prop::collection::vec((60i64..300, 0i64..4), 1..12),
            trailing in 0i64..50,
            late in prop::collection::vec(0u64..300, 7),
        ) {
            // Of each frame of 40 ms, its timestamp.
            let mut sent = Vec::new();
            for (length, start) in parts {
                let start = start * 1_000_000;
                sent.extend((0..length).map(|frame| start + frame * 40));
            }
            let mut line = Line::new(JUMP, 0, sent[0] as u32, 0, 0);
            let mut arrived = 0;
            for (index, timestamp) in sent.iter().enumerate() {
                let at = index as i64 * 40;
                arrived = arrived.max(at.cast_unsigned() + late[index % late.len()]);
                let picture = line.frame(Video, *timestamp as u32, arrived);
                prop_assert!((picture - at).abs() <= 40 * (1 + trailing), "{picture} at {at}");
                if let Some(before) = index.checked_sub(trailing as usize) {
                    let sound = line.frame(Audio, sent[before] as u32, arrived);
                    let apart = picture - sound - trailing * 40;
                    prop_assert!(apart.abs() <= 80, "{apart} ms apart at {at}");
                }
            }
        }
    }

    #[test]
    fn a_stall_of_the_network_between_messages_of_one_picture_bends_nothing() {
        let mut line = line();
        for t in (0..10_000_u64).step_by(40) {
            for slice in 0..20 {
                let now = if t < 4_000 || (t == 4_000 && slice < 10) { t } else { t + 5_000 };
                assert_eq!(line.frame(Video, t as u32, now), t.cast_signed());
            }
            line.frame(Audio, t as u32, if t < 4_000 { t } else { t + 5_000 });
        }
    }

    #[test]
    fn frames_out_of_order_and_a_correction_of_one_lane_bend_nothing() {
        // Times of display in the order of decoding.
        let displayed = |t: i64| 160 + t / 160 * 160 + [0, -80, -120, -40][(t % 160 / 40) as usize];
        check(&run(20, displayed, |t| t), 300);
        // Sound that ran ahead by 600 ms is put right.
        let seen = run(20, |t| t, |t| if (2_000..8_000).contains(&t) { t + 600 } else { t });
        check(&seen[250..], 40);
    }

    #[test]
    fn one_frame_far_off_leaves_both_lanes_in_step() {
        for far in [-900, -5_000, -100_000, 2_000, 8_000, 100_000] {
            let seen = run(20, |t| 200_000 + t + if t == 4_000 { far } else { 0 }, |t| 200_000 + t);
            for (now, picture, sound) in &seen[300..] {
                assert!((picture - sound).abs() <= 100, "{far}: {picture}, {sound} at {now}");
            }
        }
    }

    #[test]
    fn a_gap_of_the_source_is_closed_and_a_pause_is_kept() {
        check(
            &run(20, |t| if t < 4_000 { t } else { t + 60_000 }, |t| if t < 5_000 { t } else { t + 60_000 }),
            80,
        );
        let mut line = line();
        line.frame(Video, 0, 0);
        assert_eq!(line.frame(Video, 60_000, 60_000), 60_000);
    }

    #[test]
    fn lanes_with_clocks_of_their_own_stay_in_step() {
        check(&run(20, |t| 1_000_000 + t, |t| t), 80);
        check(&run(20, |t| t, |t| 4_000_000_000 + t), 80);
    }

    #[test]
    fn a_stall_of_the_network_in_front_of_a_restart_bends_nothing() {
        let mut line = line();
        let arrival = |t: i64| if (3_000..4_600).contains(&t) { 4_600 } else { t };
        for t in (0..10_000_i64).step_by(20) {
            let now = arrival(t).cast_unsigned();
            let picture = line.frame(Video, (t % 4_000) as u32, now);
            let sound = line.frame(Audio, ((t - 300).max(0) % 4_000) as u32, now);
            assert!(t < 5_000 || (picture - sound - 300).abs() <= 60, "{picture}, {sound} at {t}");
        }
    }

    #[test]
    fn what_is_no_frame_lies_near_the_newest_frame() {
        let mut line = line();
        for t in (0..60_000_u32).step_by(40) {
            line.frame(Video, t, t.into());
        }
        assert_eq!(line.other(0, 60_000), 59_960);
        assert_eq!(line.other(59_500, 60_000), 59_500);
        assert_eq!(line.other(60_100, 60_000), 60_100);
        assert_eq!(line.other(4_000_000, 60_000), 59_960);
    }

    #[test]
    fn a_header_at_0_in_front_of_frames_near_the_wrap_leaves_them_their_distances() {
        let mut line = Line::new(JUMP, 0, 0, 7_000, 0);
        assert_eq!(line.other(0, 0), 7_000);
        for t in (0..6_000_u32).step_by(40) {
            let timestamp = (u32::MAX - 2_999).wrapping_add(t);
            let frame = line.frame(Video, timestamp, t.into());
            assert_eq!((frame, line.frame(Audio, timestamp, t.into())), (7_000 + i64::from(t), frame));
        }
    }

    #[test]
    fn times_cross_the_wrap_of_32_bits_and_never_run_backwards() {
        let mut line = Line::new(JUMP, 0, u32::MAX - 19, 7, 0);
        assert_eq!(line.frame(Video, u32::MAX - 19, 0), 7);
        assert_eq!(line.frame(Audio, 20, 40), 47);
        assert_eq!(line.frame(Video, 20, 40), 47);
        assert_eq!(line.frame(Video, 0, 40), 47);
    }
}
