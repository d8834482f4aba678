//! What a player may be sent: each frame once, whole, in order, at its time.

use rtmp::chunk::Message;
use rtmp::message_type::{AUDIO, DATA, VIDEO};

use super::frame::{self, AUDIO_HEADER, Lane, Stamp, VIDEO_HEADER};

/// What a player gets of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gets {
    /// Each frame from the first keyframe on.
    All,
    /// The same, and may go on at a later keyframe: it reads too slowly.
    Skips,
    /// The same, and behind a [pause](Check::handle_resumed) the pictures of the newest group once more, at the time of then.
    Again,
    /// Each frame of audio, and no video.
    Audio,
}

/// Why what came is wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Wrong {
    /// See the message.
    #[error("bytes that are no frame: type {0}, {1} bytes")]
    Bytes(u8, usize),
    /// See the message.
    #[error("{lane:?} {is:?} behind {last:?}")]
    Order {
        /// What came.
        lane: Lane,
        /// Which it says to be.
        is: Stamp,
        /// What came before it.
        last: Option<Stamp>,
    },
    /// See the message.
    #[error("{stamp:?} has the time {is}, and the player's time begins at {base:?}")]
    Time {
        /// What came.
        stamp: Stamp,
        /// The time that it came with.
        is: u32,
        /// That of the stream at which the player's time is 0.
        base: Option<u32>,
    },
    /// A picture in front of the first keyframe.
    #[error("a picture in front of the first keyframe: {0:?}")]
    Keyless(Stamp),
}

/// What a player has had.
#[derive(Debug)]
pub struct Check {
    gets: Gets,
    last: Option<Stamp>,
    has_keyframe: bool,
    /// It has been paused, and has had no sound and no picture since.
    awaits: [bool; 2],
    /// The time of the last frame of sound and of the last picture.
    times: [u32; 2],
    /// The stream's time at which the player's is 0, once it is known.
    base: Option<u32>,
    /// The latest time of a frame that came with 0.
    clamped: u32,
    /// Frames that were right.
    frames: u64,
    skips: u64,
}

impl Check {
    /// Of a player that has had nothing.
    #[must_use]
    pub fn new(gets: Gets) -> Self {
        Self {
            gets,
            last: None,
            has_keyframe: false,
            awaits: [false; 2],
            times: [0; 2],
            base: None,
            clamped: 0,
            frames: 0,
            skips: 0,
        }
    }

    /// It goes on behind a pause.
    pub fn handle_resumed(&mut self) {
        self.awaits = [true; 2];
    }

    /// Frames that were right so far.
    #[must_use]
    pub fn frames(&self) -> u64 {
        self.frames
    }

    /// Times that it went on at a later keyframe.
    #[must_use]
    pub fn skips(&self) -> u64 {
        self.skips
    }

    /// The last frame that it had.
    #[must_use]
    pub fn last(&self) -> Option<Stamp> {
        self.last
    }

    /// Audio, video or data that came.
    ///
    /// # Errors
    /// See [`Wrong`].
    pub fn handle_media(&mut self, message: &Message) -> Result<(), Wrong> {
        let payload = &message.payload[..];
        match message.type_id {
            VIDEO if payload == VIDEO_HEADER => return Ok(()),
            AUDIO if payload == AUDIO_HEADER => return Ok(()),
            // A string: its marker, its length, then it.
            DATA if payload.get(3..).is_some_and(|rest| rest.starts_with(b"onMetaData")) => return Ok(()),
            DATA if payload.get(3..).is_some_and(|rest| rest.starts_with(b"|RtmpSampleAccess")) => {
                return Ok(());
            }
            _ => {}
        }
        let (lane, stamp) = frame::read(message.type_id, payload)
            .map_err(|_| Wrong::Bytes(message.type_id, payload.len()))?;
        if self.gets == Gets::Again && self.last.is_some() {
            self.check_lane(lane, stamp)?;
        } else {
            self.check_order(lane, stamp)?;
        }
        self.check_time(lane, stamp, message.timestamp)?;
        // Behind a pause the pictures are those of before, and the sound is not.
        let (mut last, before) = (stamp, self.last.unwrap_or(stamp));
        match lane {
            Lane::Audio if self.gets == Gets::Again => last.video = before.video,
            Lane::Key | Lane::Inter if self.gets == Gets::Again => last.audio = before.audio,
            Lane::Audio | Lane::Key | Lane::Inter => {}
        }
        self.last = Some(last);
        self.frames += 1;
        Ok(())
    }

    fn check_order(&mut self, lane: Lane, is: Stamp) -> Result<(), Wrong> {
        let wrong = Err(Wrong::Order { lane, is, last: self.last });
        let is_video = lane != Lane::Audio;
        if is_video && self.gets == Gets::Audio {
            return wrong;
        }
        if is_video && !self.has_keyframe {
            if lane != Lane::Key {
                return Err(Wrong::Keyless(is));
            }
            self.has_keyframe = true;
            // In front of it there is at most audio.
            let goes_on = self.last.is_none_or(|last| last.video < is.video && last.audio <= is.audio);
            return if goes_on { Ok(()) } else { wrong };
        }
        let Some(last) = self.last else { return Ok(()) };
        let is_next = match (lane, self.has_keyframe) {
            (Lane::Audio, true) => is.audio == last.audio + 1 && is.video == last.video,
            // Without video, how much of that there is is not seen.
            (Lane::Audio, false) => is.audio == last.audio + 1 && is.video >= last.video,
            (Lane::Key | Lane::Inter, _) => is.video == last.video + 1 && is.audio == last.audio,
        };
        if is_next {
            return Ok(());
        }
        let is_later = if is_video { is.video > last.video } else { is.audio > last.audio };
        let is_behind = is.video >= last.video && is.audio >= last.audio && is.time >= last.time;
        if self.gets == Gets::Skips && is_later && is_behind && lane != Lane::Inter {
            self.skips += 1;
            // Behind a skip the next picture is a keyframe again.
            self.has_keyframe = is_video;
            return Ok(());
        }
        wrong
    }

    /// Sound and pictures each for themselves.
    fn check_lane(&mut self, lane: Lane, is: Stamp) -> Result<(), Wrong> {
        let Some(last) = self.last else { return Ok(()) };
        let [sound, picture] = &mut self.awaits;
        let goes_on = match lane {
            Lane::Audio => is.audio == last.audio + 1 || (is.audio > last.audio && *sound),
            Lane::Key => is.video == last.video + 1 || *picture || !self.has_keyframe,
            Lane::Inter => is.video == last.video + 1 && self.has_keyframe,
        };
        if !goes_on {
            return Err(Wrong::Order { lane, is, last: self.last });
        }
        self.has_keyframe |= lane == Lane::Key;
        *if lane == Lane::Audio { sound } else { picture } = false;
        Ok(())
    }

    /// A player's time begins near its first frame; what is before its begin comes at 0, all else as far apart as it was sent.
    fn check_time(&mut self, lane: Lane, stamp: Stamp, is: u32) -> Result<(), Wrong> {
        let wrong = Err(Wrong::Time { stamp, is, base: self.base });
        let [sound, picture] = &mut self.times;
        let last = std::mem::replace(if lane == Lane::Audio { sound } else { picture }, is);
        if is < last {
            return wrong;
        }
        match self.base {
            Some(base) if stamp.time.saturating_sub(base) == is => {}
            Some(base)
                if self.gets == Gets::Again
                    && lane != Lane::Audio
                    && is > stamp.time.saturating_sub(base) => {}
            Some(_) => return wrong,
            None if is == 0 => self.clamped = self.clamped.max(stamp.time),
            None => match stamp.time.checked_sub(is) {
                Some(base) if base >= self.clamped => self.base = Some(base),
                _ => return wrong,
            },
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Frames of a stream: two of audio behind each of video, a keyframe each five.
    fn stream() -> Vec<(Lane, Stamp)> {
        let mut frames = Vec::new();
        for video in 1..=20 {
            let lane = if video % 5 == 1 { Lane::Key } else { Lane::Inter };
            let time = video * 40;
            frames.push((lane, Stamp { video, audio: 2 * video - 2, time }));
            for audio in [2 * video - 1, 2 * video] {
                frames.push((Lane::Audio, Stamp { video, audio, time: time + 13 * (audio % 2) }));
            }
        }
        frames.sort_by_key(|(_, stamp)| (stamp.video, stamp.audio));
        frames.iter_mut().for_each(|(_, stamp)| stamp.time = 40 * stamp.video + stamp.audio % 2);
        let mut time = 0;
        for (_, stamp) in &mut frames {
            time = stamp.time.max(time);
            stamp.time = time;
        }
        frames
    }

    fn check(gets: Gets, frames: &[(Lane, Stamp)], base: u32) -> Result<Check, Wrong> {
        let mut check = Check::new(gets);
        let mut payload = Vec::new();
        for &(lane, stamp) in frames {
            frame::put(&mut payload, lane, stamp, 60);
            let timestamp = stamp.time.saturating_sub(base);
            let payload = payload.clone().into();
            check.handle_media(&Message { csid: 4, type_id: lane.type_id(), msid: 1, timestamp, payload })?;
        }
        Ok(check)
    }

    /// From the second keyframe on.
    fn joined() -> (Vec<(Lane, Stamp)>, u32) {
        let frames = stream().split_off(15);
        let base = frames[0].1.time;
        (frames, base)
    }

    #[test]
    fn a_stream_from_a_keyframe_on_is_right() {
        let (frames, base) = joined();
        let all = check(Gets::All, &frames, base).unwrap();
        assert_eq!((all.frames(), all.skips()), (frames.len() as u64, 0));
        let audio: Vec<_> = frames.into_iter().filter(|(lane, _)| *lane == Lane::Audio).collect();
        check(Gets::Audio, &audio, base).unwrap();
    }

    #[test]
    fn a_frame_that_is_missing_or_comes_twice_or_in_the_place_of_the_next_is_wrong() {
        let (frames, base) = joined();
        for at in 1..frames.len() - 1 {
            let mut missing = frames.clone();
            missing.remove(at);
            let mut twice = frames.clone();
            twice.insert(at, frames[at]);
            let mut swapped = frames.clone();
            swapped.swap(at, at + 1);
            for (what, other) in [("missing", missing), ("twice", twice), ("swapped", swapped)] {
                let is = check(Gets::All, &other, base);
                assert!(matches!(is, Err(Wrong::Order { .. })), "{what} {at}: {is:?}");
            }
        }
    }

    #[test]
    fn who_skips_goes_on_at_a_keyframe_and_never_backwards() {
        let (frames, base) = joined();
        let key = frames.iter().rposition(|(lane, _)| *lane == Lane::Key).unwrap();
        let skipped = |from: usize, to: usize| [&frames[..from], &frames[to..]].concat();
        assert_eq!(check(Gets::Skips, &skipped(3, key), base).unwrap().skips(), 1);
        check(Gets::All, &skipped(3, key), base).unwrap_err();
        check(Gets::Skips, &skipped(3, key + 3), base).unwrap_err();
        check(Gets::Skips, &[&frames[..], &frames[key..]].concat(), base).unwrap_err();
    }

    #[test]
    fn who_has_paused_sees_the_newest_group_again_and_hears_nothing_twice() {
        let (frames, base) = joined();
        let mut check = Check::new(Gets::Again);
        let mut payload = Vec::new();
        let mut handle = |check: &mut Check, (lane, stamp): (Lane, Stamp), time: u32| {
            frame::put(&mut payload, lane, stamp, 60);
            let timestamp = time.max(stamp.time) - base;
            let payload = payload.clone().into();
            check.handle_media(&Message { csid: 4, type_id: lane.type_id(), msid: 1, timestamp, payload })
        };
        let now = frames[26].1.time;
        frames[..27].iter().for_each(|frame| handle(&mut check, *frame, 0).unwrap());
        handle(&mut check, frames[15], now).unwrap_err();
        check.handle_resumed();
        let again = frames[15..27].iter().filter(|(lane, _)| *lane != Lane::Audio);
        again.for_each(|frame| handle(&mut check, *frame, now).unwrap());
        frames[27..].iter().for_each(|frame| handle(&mut check, *frame, 0).unwrap());
        check.handle_resumed();
        let sound = frames.iter().rfind(|(lane, _)| *lane == Lane::Audio).unwrap();
        handle(&mut check, *sound, 0).unwrap_err();
    }

    #[test]
    fn a_stream_that_begins_without_a_keyframe_or_at_other_times_is_wrong() {
        let (frames, base) = joined();
        assert!(matches!(check(Gets::All, &frames[3..], base), Err(Wrong::Keyless(_))));
        check(Gets::Audio, &frames, base).unwrap_err();
        let mut check = Check::new(Gets::All);
        check.check_time(Lane::Inter, frames[3].1, frames[3].1.time - base).unwrap();
        check.check_time(Lane::Inter, frames[6].1, frames[6].1.time - base + 1).unwrap_err();
    }
}
