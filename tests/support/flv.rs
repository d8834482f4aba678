//! Reads recorded FLV files and compares them with what was published. Shares no code with the product.

use std::fmt;
use std::path::Path;

/// Tag type of audio.
pub const AUDIO: u8 = 8;
/// Tag type of video.
pub const VIDEO: u8 = 9;

/// One FLV tag, or one RTMP message of the same shape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// [`AUDIO`], [`VIDEO`] or 18.
    pub kind: u8,
    /// Milliseconds.
    pub timestamp: u32,
    /// Everything after the tag header.
    pub payload: Vec<u8>,
}

impl Tag {
    /// Codec configuration: AVC or AAC packet type 0.
    pub fn is_header(&self) -> bool {
        match (self.kind, self.payload.as_slice()) {
            (VIDEO, [first, 0, ..]) => first & 0x0F == 7,
            (AUDIO, [first, 0, ..]) => first >> 4 == 10,
            _ => false,
        }
    }

    /// A coded video frame that decoding can start at.
    pub fn is_keyframe(&self) -> bool {
        self.kind == VIDEO && self.is_frame() && self.payload[0] >> 4 == 1
    }

    /// A coded frame: neither configuration, nor AVC end of sequence, nor data, nor empty.
    pub fn is_frame(&self) -> bool {
        let end =
            self.kind == VIDEO && matches!(self.payload.as_slice(), [first, 2, ..] if first & 0x0F == 7);
        (self.kind == AUDIO || self.kind == VIDEO) && self.payload.len() > 2 && !self.is_header() && !end
    }
}

/// The tags of FLV bytes. A tag cut off at the end, as a stopped recorder leaves it, is left out; anything else that is
/// not FLV is an error.
pub fn parse(bytes: &[u8]) -> Result<Vec<Tag>, String> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    let be24 = |b: &[u8]| u32::from_be_bytes([0, b[0], b[1], b[2]]);
    if bytes.len() < 13 {
        return if b"FLV\x01".starts_with(&bytes[..bytes.len().min(4)]) {
            Ok(Vec::new())
        } else {
            Err("not FLV".into())
        };
    }
    if &bytes[..4] != b"FLV\x01" {
        return Err("no FLV signature".into());
    }
    let mut at = 9 + 4;
    let mut tags = Vec::new();
    while let Some(header) = bytes.get(at..at + 11) {
        let size = be24(&header[1..4]) as usize;
        let kind = header[0];
        if ![8, 9, 18].contains(&kind) || header[8..11] != [0, 0, 0] {
            return Err(format!("not a tag at byte {at}: {header:02x?}"));
        }
        let Some(payload) = bytes.get(at + 11..at + 11 + size) else { break };
        let timestamp = be24(&header[4..7]) | u32::from(header[7]) << 24;
        tags.push(Tag { kind, timestamp, payload: payload.to_vec() });
        at += 11 + size;
        if let Some(back) = bytes.get(at..at + 4) {
            let back = u32::from_be_bytes([back[0], back[1], back[2], back[3]]) as usize;
            // rtmpdump 2.4 and rtmp2src both write the tag's whole size; 0 is what live writers may leave.
            if back != 11 + size && back != 0 {
                return Err(format!(
                    "the size behind the tag at byte {at} is {back}, the tag's is {}",
                    11 + size
                ));
            }
        }
        at += 4;
    }
    Ok(tags)
}

/// An FLV file of these tags.
pub fn to_bytes(tags: impl IntoIterator<Item = Tag>) -> Vec<u8> {
    let mut bytes = b"FLV\x01\x05\0\0\0\x09\0\0\0\0".to_vec();
    for Tag { kind, timestamp, payload } in tags {
        bytes.push(kind);
        bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
        let [highest, time @ ..] = timestamp.to_be_bytes();
        bytes.extend(time);
        bytes.extend([highest, 0, 0, 0]);
        bytes.extend(&payload);
        bytes.extend((payload.len() as u32 + 11).to_be_bytes());
    }
    bytes
}

/// The tags of an FLV file; panics where it is not FLV.
pub fn read(path: &Path) -> Vec<Tag> {
    let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    parse(&bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// Index of the first keyframe at or after `from`.
pub fn first_keyframe(tags: &[Tag], from: usize) -> Option<usize> {
    (from..tags.len()).find(|&i| tags[i].is_keyframe())
}

/// Milliseconds of video from the first keyframe on.
pub fn seconds_of_video(tags: &[Tag]) -> f64 {
    let Some(start) = first_keyframe(tags, 0) else { return 0.0 };
    let last = tags[start..].iter().rfind(|t| t.kind == VIDEO && t.is_frame()).map_or(0, |t| t.timestamp);
    f64::from(last.saturating_sub(tags[start].timestamp)) / 1000.0
}

/// What was published: a list of frames, endless when it is sent in a loop.
pub struct Source {
    headers: [Option<Vec<u8>>; 2],
    audio: Vec<Tag>,
    video: Vec<Tag>,
    /// Milliseconds by which each round is later than the one before; `None`: sent once.
    period: Option<u32>,
}

impl Source {
    /// A file that is sent again and again, each round `period` ms after the one before.
    pub fn looped(tags: &[Tag], period: u32) -> Self {
        Self::new(tags, Some(period))
    }

    /// What was sent once, e.g. a recording made elsewhere.
    pub fn once(tags: &[Tag]) -> Self {
        Self::new(tags, None)
    }

    fn new(tags: &[Tag], period: Option<u32>) -> Self {
        let header = |kind| tags.iter().find(|t| t.kind == kind && t.is_header()).map(|t| t.payload.clone());
        let frames = |kind| tags.iter().filter(|t| t.kind == kind && t.is_frame()).cloned().collect();
        Self { headers: [header(AUDIO), header(VIDEO)], audio: frames(AUDIO), video: frames(VIDEO), period }
    }

    /// Frame `i` of the endless list with its source time.
    fn frame(&self, kind: u8, i: usize) -> Option<(i64, &[u8])> {
        let list = if kind == AUDIO { &self.audio } else { &self.video };
        let round = i.checked_div(list.len())?;
        if round > 0 && self.period.is_none() {
            return None;
        }
        let tag = &list[i % list.len()];
        Some((i64::from(tag.timestamp) + round as i64 * i64::from(self.period.unwrap_or(0)), &tag.payload))
    }

    fn header(&self, kind: u8) -> Option<&[u8]> {
        self.headers[usize::from(kind == VIDEO)].as_deref()
    }
}

/// What a recording that equals its source had.
#[derive(Debug, PartialEq, Eq)]
pub struct Overlap {
    /// Video frames compared.
    pub video: usize,
    /// Audio frames compared.
    pub audio: usize,
    /// Source time minus recorded time, ms: the same for every frame.
    pub offset: i64,
}

/// The first thing in which a recording differs from its source.
#[derive(Debug)]
pub struct Difference(String);

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Audio a recording may lack after its first keyframe, ms: a join starts behind the keyframe, which may have been
/// written after audio of a slightly later time.
const AUDIO_START_SLACK: i64 = 100;

/// Compares a recording with its source: from the recorded first keyframe on, each audio and each video payload equals
/// the source's, in order, none missing or repeated, and source time minus recorded time is one constant, the same for
/// audio and video. Order is compared for each kind by itself, since muxers sort frames of equal time as they like.
///
/// # Errors
/// The first difference, for a person.
pub fn compare(recorded: &[Tag], source: &Source) -> Result<Overlap, Difference> {
    let fail = |text: String| Err(Difference(text));
    let Some(start) = first_keyframe(recorded, 0) else {
        return fail(format!("no keyframe among {} recorded tags", recorded.len()));
    };
    for tag in recorded.iter().filter(|t| t.is_header()) {
        if source.header(tag.kind) != Some(tag.payload.as_slice()) {
            return fail(format!(
                "the header of type {} at {} ms is not the source's",
                tag.kind, tag.timestamp
            ));
        }
    }
    let recorded = &recorded[start..];
    let key = &recorded[0];
    let Some(first) = source.video.iter().position(|t| t.payload == key.payload) else {
        return fail(format!("the keyframe at {} ms is not in the source", key.timestamp));
    };
    let offset = i64::from(source.video[first].timestamp) - i64::from(key.timestamp);

    let video = lock_step(recorded, source, VIDEO, first, offset)?;
    let mut audio = 0;
    if let Some(heard) = recorded.iter().find(|t| t.kind == AUDIO && t.is_frame()) {
        let time = i64::from(heard.timestamp) + offset;
        let key_time = i64::from(key.timestamp) + offset;
        if time > key_time + AUDIO_START_SLACK {
            return fail(format!("audio starts {} ms after the first keyframe", time - key_time));
        }
        // Audio that was sent just before the keyframe may be of the round before it.
        let (time, offset) = match source.period {
            Some(period) if time < i64::from(source.audio[0].timestamp) => {
                (time + i64::from(period), offset + i64::from(period))
            }
            _ => (time, offset),
        };
        let at = (0..).map_while(|i| Some((i, source.frame(AUDIO, i)?.0))).find(|&(_, t)| t >= time);
        let Some((first, found)) = at else {
            return fail(format!("audio at {} ms lies beyond the source", heard.timestamp));
        };
        if found != time {
            return fail(format!(
                "audio at {} ms: the source has none at {time} ms, the next is at {found} ms",
                heard.timestamp
            ));
        }
        audio = lock_step(recorded, source, AUDIO, first, offset)?;
    } else if !source.audio.is_empty() && seconds_of_video(recorded) > 0.5 {
        return fail("no audio was recorded".into());
    }
    Ok(Overlap { video, audio, offset })
}

/// Compares all recorded frames of `kind` with the source's from `first` on; their number.
fn lock_step(
    recorded: &[Tag],
    source: &Source,
    kind: u8,
    first: usize,
    offset: i64,
) -> Result<usize, Difference> {
    let name = if kind == AUDIO { "audio" } else { "video" };
    let mut count = 0;
    for tag in recorded.iter().filter(|t| t.kind == kind && t.is_frame()) {
        let at = format!("{name} frame {count} at {} ms", tag.timestamp);
        // A recording may run on after its reference was stopped.
        let Some((time, payload)) = source.frame(kind, first + count) else { break };
        if payload != tag.payload {
            let expected = (first + count) as i64;
            let elsewhere = (1..source.audio.len() as i64).flat_map(|by| [by, -by]).find(|by| {
                usize::try_from(expected + by)
                    .is_ok_and(|i| source.frame(kind, i).is_some_and(|(_, p)| p == tag.payload))
            });
            return Err(Difference(match elsewhere {
                Some(by) => format!("{at} is the source's frame {by:+} from the expected one"),
                None => format!(
                    "{at}: payload differs from the source's ({} bytes, not {})",
                    tag.payload.len(),
                    payload.len()
                ),
            }));
        }
        if i64::from(tag.timestamp) + offset != time {
            let off = i64::from(tag.timestamp) + offset - time;
            return Err(Difference(format!("{at}: time is off by {off} ms")));
        }
        count += 1;
    }
    Ok(count)
}

/// [`compare`], for a recording that has at least `seconds` of video; panics with `who` at a difference.
pub fn assert_same(who: &str, recorded: &[Tag], source: &Source, seconds: f64) -> Overlap {
    let overlap = compare(recorded, source).unwrap_or_else(|e| panic!("{who}: {e}"));
    let frames = (seconds * 25.0) as usize;
    assert!(overlap.video >= frames, "{who}: only {overlap:?}, {frames} video frames wanted");
    // The test card has 46.875 audio frames a second.
    assert!(overlap.audio >= (seconds * 44.0) as usize - 8, "{who}: only {overlap:?} for {seconds} s");
    overlap
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2 s of 25 fps video with a keyframe each second, and 50 audio frames a second; sent in a loop of 2 s.
    fn card() -> Vec<Tag> {
        let mut tags = vec![
            Tag { kind: VIDEO, timestamp: 0, payload: vec![0x17, 0, 0, 0, 0, 1] },
            Tag { kind: AUDIO, timestamp: 0, payload: vec![0xAF, 0, 0x12, 0x10] },
        ];
        for i in 0..100u32 {
            if i % 2 == 0 {
                let first = if i % 50 == 0 { 0x17 } else { 0x27 };
                tags.push(Tag { kind: VIDEO, timestamp: i * 20, payload: vec![first, 1, 0, 0, 0, i as u8] });
            }
            tags.push(Tag { kind: AUDIO, timestamp: i * 20, payload: vec![0xAF, 1, i as u8] });
        }
        tags
    }

    /// What a faithful player records that joins in the middle: from the second keyframe, over the loop's end.
    fn recording() -> Vec<Tag> {
        let card = card();
        let mut out = card[..2].to_vec();
        for round in 0..3 {
            for tag in card[2..].iter().filter(|t| round > 0 || t.timestamp >= 1000) {
                out.push(Tag { timestamp: tag.timestamp + round * 2000 - 1000, ..tag.clone() });
            }
        }
        out
    }

    fn differs(tags: &[Tag]) -> String {
        compare(tags, &Source::looped(&card(), 2000)).expect_err("the comparison must fail").to_string()
    }

    fn index(kind: u8, nth: usize) -> usize {
        recording().iter().enumerate().filter(|(_, t)| t.kind == kind && t.is_frame()).nth(nth).unwrap().0
    }

    #[test]
    fn a_faithful_recording_is_equal_over_the_loops_end() {
        let overlap = compare(&recording(), &Source::looped(&card(), 2000)).unwrap();
        assert_eq!(overlap, Overlap { video: 125, audio: 250, offset: 1000 });
    }

    #[test]
    fn a_dropped_frame_is_found() {
        for (kind, nth) in [(VIDEO, 7), (VIDEO, 100), (AUDIO, 9), (AUDIO, 120)] {
            let mut tags = recording();
            tags.remove(index(kind, nth));
            assert!(differs(&tags).contains("+1 from"), "{}", differs(&tags));
        }
    }

    #[test]
    fn a_repeated_frame_is_found() {
        for (kind, nth) in [(VIDEO, 7), (AUDIO, 9)] {
            let mut tags = recording();
            let again = tags[index(kind, nth)].clone();
            tags.insert(index(kind, nth), again);
            assert!(differs(&tags).contains("-1 from"), "{}", differs(&tags));
        }
    }

    #[test]
    fn a_changed_byte_is_found() {
        for kind in [VIDEO, AUDIO] {
            let mut tags = recording();
            let at = index(kind, 30);
            *tags[at].payload.last_mut().unwrap() ^= 0x80;
            assert!(differs(&tags).contains("payload differs"), "{}", differs(&tags));
        }
    }

    #[test]
    fn one_shifted_time_is_found() {
        for kind in [VIDEO, AUDIO] {
            let mut tags = recording();
            let at = index(kind, 30);
            tags[at].timestamp += 1;
            assert!(differs(&tags).contains("off by 1 ms"), "{}", differs(&tags));
        }
    }

    #[test]
    fn audio_that_is_shifted_as_a_whole_is_found() {
        for shift in [1, 20, 40] {
            let mut tags = recording();
            tags.iter_mut().filter(|t| t.kind == AUDIO).for_each(|t| t.timestamp += shift);
            assert!(!differs(&tags).is_empty());
        }
    }

    #[test]
    fn a_late_start_of_the_audio_is_found() {
        let mut tags = recording();
        let mut left = 8;
        tags.retain(|t| {
            !(t.kind == AUDIO && t.is_frame() && left > 0 && {
                left -= 1;
                true
            })
        });
        assert!(differs(&tags).contains("audio starts"), "{}", differs(&tags));
    }

    #[test]
    fn a_changed_header_is_found() {
        let mut tags = recording();
        tags[1].payload[2] ^= 1;
        assert!(differs(&tags).contains("header"));
    }

    #[test]
    fn a_half_written_last_tag_is_left_out() {
        let tags =
            [40, 0x0102_0304].map(|timestamp| Tag { kind: VIDEO, timestamp, payload: vec![0x17, 1, 7] });
        let mut bytes = to_bytes(tags.clone());
        assert_eq!(parse(&bytes).unwrap(), tags);
        assert_eq!(parse(&bytes[..bytes.len() - 5]).unwrap().len(), 1);
        bytes[13] = 77;
        assert!(parse(&bytes).is_err());
    }
}
