//! When the tags of a file are due.
//!
//! Live recordings begin at any time, and their script data and headers at 0; recordings with cuts have gaps, and appended ones start
//! over. Others have no time at all, or it stands still from somewhere on: their frames go at the pace that is usual.

use crate::flv::Tag;
use crate::line::{Lane, Line};
use crate::media;

/// A gap of a file that is longer is a cut, ms: the file goes on behind it at once. Of frames that are never nearer, so much of it is left:
/// less than what a server waits for a publisher that is silent.
const GAP: i64 = 3_000;
/// A frame whose timestamp is further from the last one of its lane may be astray, ms.
const LEAP: i32 = 250;
/// Times that advance by no more stand still, ms: nothing has frames so near.
const STANDS: i64 = 1;
/// So many frames of a lane may have one time: tracks, parts of a picture, what an encoder took in at once.
const TOGETHER: u32 = 8;
/// Distance of pictures without time, ms: 25 a second.
const PICTURE: u32 = 40;
/// Distance of sound without time, ms: 1024 samples of AAC at 44.1 kHz.
const SOUND: u32 = 23;
/// How long a file of one picture, or one piece of sound, lasts, ms.
const STILL: u32 = 1_000;

/// See the top of this file.
#[derive(Debug, Default)]
pub struct Timeline {
    /// From the first frame of audio or video on.
    line: Option<Line>,
    lanes: [State; 2],
    /// Whether times have advanced at all.
    has_advanced: bool,
    /// What frames without time have added, ms.
    added: i64,
    /// The latest time that was given, ms.
    latest: i64,
}

#[derive(Debug, Default)]
struct State {
    /// The last timestamp that was not astray.
    timestamp: Option<u32>,
    /// The last time on the line, and as it was given, ms.
    times: Option<(i64, i64)>,
    /// Frames since times advanced.
    stood: u32,
}

impl Timeline {
    /// How many frames of a lane behind one that leaps tell whether it is astray.
    pub const AHEAD: usize = 8;

    /// The lane of a frame so far from the last one that [`Self::time`] needs those behind it.
    #[must_use]
    pub fn leaps(&self, tag: &Tag) -> Option<Lane> {
        let lane = lane(tag)?;
        let last = self.lanes[lane as usize].timestamp?;
        (distance(last, tag.timestamp).saturating_abs() > LEAP).then_some(lane)
    }

    /// Milliseconds from the first frame of audio or video to `tag`, without what is no time of the recording; 0 for one that is older or
    /// stands before it. `behind` are the timestamps of the frames of its lane behind it, where it [leaps](Self::leaps).
    pub fn time(&mut self, tag: &Tag, behind: &[u32]) -> u32 {
        let lane = lane(tag);
        if lane.is_some() {
            self.line.get_or_insert_with(|| Line::new(GAP, GAP, tag.timestamp, 0, 0));
        }
        let Some(line) = &mut self.line else { return 0 };
        // A tag comes when it is due: what lies ahead of the newest is ahead of its arrival.
        let newest = line.newest();
        let now = newest.max(0).cast_unsigned();
        let time = match lane {
            Some(lane) => {
                let last = &mut self.lanes[lane as usize].timestamp;
                let timestamp =
                    last.filter(|last| is_astray(*last, tag.timestamp, behind)).unwrap_or(tag.timestamp);
                *last = Some(timestamp);
                let time = line.frame(lane, timestamp, now);
                let advances = line.newest() - newest > STANDS;
                self.pace(lane, time, advances)
            }
            None => line.other(tag.timestamp, now) + self.added,
        };
        u32::try_from(time.max(0)).unwrap_or(u32::MAX)
    }

    /// The time to give to a frame that has `time` on the line.
    fn pace(&mut self, lane: Lane, time: i64, line_advances: bool) -> i64 {
        if line_advances {
            self.has_advanced = true;
            self.lanes.iter_mut().for_each(|lane| lane.stood = 0);
        }
        let state = &mut self.lanes[lane as usize];
        // A lane may lie behind the other one.
        if state.times.is_some_and(|(last, _)| time - last > STANDS) {
            state.stood = 0;
        }
        state.stood = state.stood.saturating_add(1);
        let mut given = time + self.added;
        if let Some((_, last)) = state.times
            && state.stood > TOGETHER
        {
            let due = (last + i64::from(usual(lane))).max(self.latest);
            self.added += (due - given).max(0);
            given = given.max(due);
        }
        state.times = Some((time, given));
        self.latest = self.latest.max(given);
        given
    }

    /// For how long the last frames are shown at least, where their times do not tell, ms; else 0.
    #[must_use]
    pub fn rest(&self) -> u32 {
        let is_one = |state: &State| state.stood <= 1;
        if !self.has_advanced && self.lanes.iter().all(is_one) {
            return STILL;
        }
        [Lane::Video, Lane::Audio]
            .into_iter()
            .map(|lane| (lane, self.lanes[lane as usize].stood))
            .filter(|(_, stood)| !self.has_advanced || *stood > TOGETHER)
            .map(|(lane, stood)| stood.min(TOGETHER) * usual(lane))
            .max()
            .unwrap_or(0)
    }

    /// Whether there was no frame.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.line.is_none()
    }
}

/// The lane of a tag that is a frame.
#[must_use]
pub fn lane(tag: &Tag) -> Option<Lane> {
    Lane::of(media::classify(tag.type_id, &tag.payload).kind)
}

/// The distance of frames that have no time, ms.
fn usual(lane: Lane) -> u32 {
    match lane {
        Lane::Video => PICTURE,
        Lane::Audio => SOUND,
    }
}

fn distance(from: u32, to: u32) -> i32 {
    to.wrapping_sub(from).cast_signed()
}

/// Whether a frame leaps away from `last` and one of those behind it leaps back: neither a cut nor a new beginning does.
fn is_astray(last: u32, timestamp: u32, behind: &[u32]) -> bool {
    let leap = distance(last, timestamp);
    let mut before = timestamp;
    leap.saturating_abs() > LEAP
        && behind.iter().take(Timeline::AHEAD).any(|timestamp| {
            let back = distance(std::mem::replace(&mut before, *timestamp), *timestamp);
            back.signum() != leap.signum() && back.saturating_abs() > leap.saturating_abs() / 2
        })
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn times_count_from_the_first_media_whatever_stands_before_it() {
        let mut timeline = Timeline::default();
        let times =
            [(18, 0), (8, 3_600_000), (18, 0), (8, 3_599_990), (8, 3_600_020)].map(|(type_id, timestamp)| {
                timeline.time(&Tag { type_id, timestamp, payload: Bytes::from_static(&[0x2f, 1]) }, &[])
            });
        assert_eq!(times, [0, 0, 0, 0, 20]);
        let header = Tag { type_id: 9, timestamp: 0, payload: Bytes::from_static(&[0x17, 0, 0, 0, 0]) };
        assert_eq!(timeline.time(&header, &[]), 20);
    }

    /// The times of a file of pictures `step` ms apart and sound, whose timestamps are shifted from the one with that number on.
    fn times(step: u32, shifts: &[(usize, i64)]) -> Vec<u32> {
        let mut timeline = Timeline::default();
        let shift = |i: usize| shifts.iter().rfind(|(from, _)| i >= *from).map_or(0, |(_, shift)| *shift);
        let tag = |type_id, timestamp: i64, payload: &'static [u8]| {
            let timestamp = u32::try_from(timestamp).unwrap();
            Tag { type_id, timestamp, payload: Bytes::from_static(payload) }
        };
        let mut times = Vec::new();
        for i in 0..200 {
            let at = i as i64 * i64::from(step) + 50_000;
            times.push(timeline.time(&tag(9, at + shift(i), b"\x27\x01"), &[]));
            // Sound trails by three.
            let sound = timeline.time(&tag(8, at + shift(i.saturating_sub(3)), b"\xaf\x01"), &[]);
            assert!(sound.abs_diff(times[i]) <= 2 * step, "{sound} beside {}", times[i]);
        }
        times
    }

    #[test]
    fn a_recording_with_cuts_or_of_several_parts_is_one_line() {
        for shifts in [&[(100, 12_000)][..], &[(100, -4_000)], &[(50, 3_600_000), (100, 100), (150, -49_000)]]
        {
            let times = times(40, shifts);
            assert!(times.windows(2).all(|two| (20..=90).contains(&(two[1] - two[0]))), "{times:?}");
        }
        // Pictures that stand for long stay for long.
        let times = times(2_500, &[]);
        assert!(times.windows(2).all(|two| two[1] - two[0] == 2_500));
    }

    #[test]
    fn of_pictures_that_stand_longer_than_a_server_waits_some_time_is_left() {
        let mut timeline = Timeline::default();
        let times: Vec<_> = (0..4)
            .map(|i| {
                let payload = Bytes::from_static(b"\x17\x01");
                timeline.time(&Tag { type_id: 9, timestamp: i * 20_000, payload }, &[])
            })
            .collect();
        assert_eq!(times, [0, 3_000, 6_000, 9_000]);
    }

    fn frame(type_id: u8, timestamp: u32) -> Tag {
        let payload = if type_id == 9 { &b"\x27\x01"[..] } else { b"\xaf\x01" };
        Tag { type_id, timestamp, payload: Bytes::from_static(payload) }
    }

    #[test]
    fn frames_without_time_go_at_the_usual_pace() {
        for stands_at in [|_| 7, |i: u32| i] {
            let mut timeline = Timeline::default();
            let times: Vec<_> = (0..100).map(|i| timeline.time(&frame(9, stands_at(i)), &[])).collect();
            assert!(times[8..].windows(2).all(|two| two[1] - two[0] == 40), "{times:?}");
            assert_eq!(times[99] + timeline.rest(), times[7] + 4_000, "25 a second in all");
        }
        let mut sound = Timeline::default();
        let last = (0..100).map(|_| sound.time(&frame(8, 5), &[])).last();
        assert_eq!((last, sound.rest()), (Some(92 * 23), 8 * 23));
        // Both: in step, and as fast as the slower one is.
        let mut both = Timeline::default();
        for i in 0..100 {
            let (picture, sound) = (both.time(&frame(9, 0), &[]), both.time(&frame(8, 0), &[]));
            assert!((i * 40 - 8 * 40..=i * 40).contains(&i64::from(picture)), "{picture} of {i}");
            assert!(sound.abs_diff(picture) <= 40, "{sound} beside {picture}");
        }
    }

    #[test]
    fn times_that_stop_and_go_on_are_one_line() {
        let mut timeline = Timeline::default();
        let stamps = (0..50).map(|i| i * 40).chain([1_960; 50]).chain((50..100).map(|i| i * 40));
        let times: Vec<_> = stamps.map(|timestamp| timeline.time(&frame(9, timestamp), &[])).collect();
        assert!(times.windows(2).all(|two| two[1] - two[0] <= 40), "{times:?}");
        assert!((140 * 40..=150 * 40).contains(&times[149]), "{times:?}");
        assert_eq!(timeline.rest(), 0);
    }

    #[test]
    fn what_shares_a_time_rightly_is_not_slowed() {
        let mut timeline = Timeline::default();
        // Eight tracks of pictures, then all the sound of a file that is not interleaved.
        for i in 0..50 {
            assert!((0..8).all(|_| timeline.time(&frame(9, i * 16), &[]) == i * 16));
        }
        for i in 0..50 {
            assert_eq!(timeline.time(&frame(8, i * 16), &[]), i * 16);
        }
        assert_eq!(timeline.rest(), 0);
    }

    #[test]
    fn one_picture_lasts_a_second_and_few_without_time_as_long_as_they_would() {
        for (frames, rest) in [(&[9][..], 1_000), (&[9, 8], 1_000), (&[9, 9, 9], 120), (&[8, 8, 9], 46)] {
            let mut timeline = Timeline::default();
            frames.iter().for_each(|type_id| assert_eq!(timeline.time(&frame(*type_id, 77), &[]), 0));
            assert_eq!(timeline.rest(), rest, "{frames:?}");
        }
    }

    #[test]
    fn a_frame_that_is_astray_costs_no_pause() {
        for astray in [3_000, -3_000, 300, -900, 100_000] {
            let stamp = |i: i64| (500_000 + i * 40 + if i % 10 == 5 { astray } else { 0 }) as u32;
            let mut timeline = Timeline::default();
            for i in 0..100 {
                let tag = frame(9, stamp(i));
                let behind: Vec<_> = (i + 1..i + 9).map(stamp).collect();
                let behind = timeline.leaps(&tag).map_or(&[][..], |_| &behind);
                let time = i64::from(timeline.time(&tag, behind));
                assert!((time - i * 40).abs() <= 40, "{astray}: {time} of {i}");
            }
        }
    }

    #[test]
    fn a_cut_and_a_new_beginning_are_not_taken_for_astray() {
        for (last, timestamp, behind) in [
            (1_000, 9_000, &[9_040, 9_080, 9_120][..]),
            (60_000, 0, &[40, 80, 120]),
            (360, 0, &[40, 80, 120, 160, 200, 240, 280]),
            (1_000, 2_000, &[3_000, 4_000]),
            (1_000, 4_000, &[]),
        ] {
            assert!(!is_astray(last, timestamp, behind), "{last} {timestamp}");
        }
    }
}
