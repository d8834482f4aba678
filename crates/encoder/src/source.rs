//! What is sent: the frames of an FLV file, front to back, as a publisher sends them.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use cluster::EncoderSource;
use rtmp::flv::{FlvError, Reader, Tag};
use rtmp::line::Lane;
use rtmp::media::{self, Kind};
use rtmp::message_type;
use rtmp::timeline::{self, Timeline};
use rtmp::wire::csid;

/// The built-in picture and tone; `crates/encoder/assets/make-test-card.sh` makes it.
static TEST_CARD: &[u8] = include_bytes!("../assets/test-card.flv");
/// Larger data is left out, bytes: servers close the connection of whoever sends it.
const DATA_MAX: usize = 60 * 1024;
/// Bytes read from a file at once.
const FILE_READ: usize = 64 * 1024;
/// Tags held at most, to see whether a frame is astray.
const AHEAD_TAGS: usize = 64;
/// No more is held once they have so many bytes.
const AHEAD_BYTES: usize = 4 << 20;
/// A loop lasts at least so long, ms: one picture of 25 a second.
const LOOP_LEAST: u32 = 40;

/// Why a source cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not FLV.
    #[error(
        "{path} is not an FLV file that can be sent: {source}; make one with: ffmpeg -i INPUT -c copy -f flv OUTPUT.flv"
    )]
    Flv {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FlvError,
    },
    /// The file holds no audio and no video.
    #[error("{0} holds no complete audio or video tag: nothing can be sent of it")]
    Empty(PathBuf),
}

/// A message to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Chunk stream; see [`csid`].
    pub csid: u8,
    /// See [`rtmp::message_type`].
    pub type_id: u8,
    /// Milliseconds since the first frame of audio or video.
    pub time: u32,
    /// FLV tag body, never empty; metadata as `@setDataFrame`.
    pub payload: Bytes,
}

/// A source that is being read. It holds no more than one piece of the file, and the few tags behind a frame whose time is doubtful.
pub struct Source {
    path: PathBuf,
    input: Box<dyn Read>,
    reader: Reader,
    /// Tags that were read ahead.
    ahead: VecDeque<Tag>,
    timeline: Timeline,
    length: Length,
}

impl Source {
    /// `source` from its begin on.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(source: &EncoderSource) -> Result<Self, SourceError> {
        match source {
            EncoderSource::TestCard => Ok(Self::new(PathBuf::from("test card"), Box::new(TEST_CARD))),
            EncoderSource::File(path) => Self::open_file(path),
        }
    }

    /// The FLV file at `path` from its begin on.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn open_file(path: &Path) -> Result<Self, SourceError> {
        let file = File::open(path).map_err(|source| SourceError::Read { path: path.to_owned(), source })?;
        Ok(Self::new(path.to_owned(), Box::new(file)))
    }

    fn new(path: PathBuf, input: Box<dyn Read>) -> Self {
        Self {
            path,
            input,
            reader: Reader::new(),
            ahead: VecDeque::new(),
            timeline: Timeline::default(),
            length: Length::default(),
        }
    }

    /// Makes sure that `source` can be read and holds media.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn check(source: &EncoderSource) -> Result<(), SourceError> {
        let mut frames = Self::open(source)?;
        while frames.next_frame()?.is_some_and(|frame| frame.type_id == message_type::DATA) {}
        Ok(())
    }

    /// The next frame; `None` at the end.
    ///
    /// # Errors
    /// See [`SourceError`]; [`SourceError::Empty`] at the end of a file without a frame of audio or video.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        while let Some(tag) = self.next_tag()? {
            let (csid, payload) = match tag.type_id {
                message_type::AUDIO => (csid::AUDIO, tag.payload.clone()),
                message_type::VIDEO => (csid::VIDEO, tag.payload.clone()),
                // What is true of the file is not true of what is sent.
                _ if media::classify(tag.type_id, &tag.payload).kind == Kind::Metadata => (
                    csid::DATA,
                    media::metadata_for_publish(&media::metadata_for_players(&tag.payload)).into(),
                ),
                _ => (csid::DATA, tag.payload.clone()),
            };
            let is_data = tag.type_id == message_type::DATA;
            if payload.is_empty() || (is_data && payload.len() > DATA_MAX) {
                continue;
            }
            let behind = match self.timeline.leaps(&tag) {
                Some(lane) => self.look_ahead(lane)?,
                None => Vec::new(),
            };
            let time = self.timeline.time(&tag, &behind);
            self.length.extend(tag.type_id, time);
            return Ok(Some(Frame { csid, type_id: tag.type_id, time, payload }));
        }
        if self.timeline.is_empty() {
            return Err(SourceError::Empty(self.path.clone()));
        }
        Ok(None)
    }

    /// Milliseconds until it can start over, counted from its first frame, when all frames have been read: never so soon that a short
    /// file is sent as fast as the network takes it.
    #[must_use]
    pub fn length(&self) -> u32 {
        self.length.end(self.timeline.rest())
    }

    /// Whether the file, read so far, ends within a tag.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        !self.reader.is_clean_end()
    }

    fn next_tag(&mut self) -> Result<Option<Tag>, SourceError> {
        match self.ahead.pop_front() {
            Some(tag) => Ok(Some(tag)),
            None => self.read_tag(),
        }
    }

    /// The timestamps of the next frames of `lane`, as many as are needed or may be held.
    fn look_ahead(&mut self, lane: Lane) -> Result<Vec<u32>, SourceError> {
        let is_of_lane = |tag: &Tag| timeline::lane(tag) == Some(lane);
        let mut found = self.ahead.iter().filter(|tag| is_of_lane(tag)).count();
        let mut bytes: usize = self.ahead.iter().map(|tag| tag.payload.len()).sum();
        while found < Timeline::AHEAD && self.ahead.len() < AHEAD_TAGS && bytes < AHEAD_BYTES {
            let Some(tag) = self.read_tag()? else { break };
            found += usize::from(is_of_lane(&tag));
            bytes += tag.payload.len();
            self.ahead.push_back(tag);
        }
        Ok(self.ahead.iter().filter(|tag| is_of_lane(tag)).map(|tag| tag.timestamp).collect())
    }

    fn read_tag(&mut self) -> Result<Option<Tag>, SourceError> {
        loop {
            let tag = self.reader.next_tag();
            let tag = tag.map_err(|source| SourceError::Flv { path: self.path.clone(), source })?;
            if tag.is_some() {
                return Ok(tag);
            }
            let mut bytes = [0; FILE_READ];
            let read = self.input.read(&mut bytes);
            match read.map_err(|source| SourceError::Read { path: self.path.clone(), source })? {
                0 => return Ok(None),
                n => self.reader.push(bytes.get(..n).unwrap_or(&[])),
            }
        }
    }
}

/// How long a source lasts: until its last video frame, or audio frame where there is no video, has been shown for as long as the one
/// before it; and no shorter than to its last frame of any kind, so that no time runs backwards when it starts over.
#[derive(Debug, Default)]
struct Length {
    /// Last time and last distance, ms, of video and of audio.
    lanes: [Option<(u32, u32)>; 2],
    /// The latest time of a frame, ms.
    latest: u32,
}

impl Length {
    fn extend(&mut self, type_id: u8, time: u32) {
        self.latest = self.latest.max(time);
        let lane = match type_id {
            message_type::VIDEO => &mut self.lanes[0],
            message_type::AUDIO => &mut self.lanes[1],
            _ => return,
        };
        *lane = match *lane {
            // A header has the time of the frame behind it.
            Some((last, distance)) if time == last => Some((last, distance)),
            Some((last, _)) => Some((time, time.saturating_sub(last))),
            None => Some((time, 0)),
        };
    }

    /// The last frames are shown for `rest` ms at least.
    fn end(&self, rest: u32) -> u32 {
        let [video, audio] = self.lanes;
        let shown = video.or(audio).map_or(0, |(last, distance)| last.saturating_add(distance));
        shown.max(self.latest.saturating_add(rest.max(1))).max(LOOP_LEAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtmp::flv;

    fn length(frames: &[(u8, u32)]) -> u32 {
        let mut length = Length::default();
        frames.iter().for_each(|&(type_id, time)| length.extend(type_id, time));
        length.end(0)
    }

    #[test]
    fn a_source_lasts_until_its_last_frame_has_been_shown() {
        let frames = [(9, 0), (8, 0), (9, 0), (8, 0), (9, 40), (8, 21), (9, 80), (8, 43), (8, 102)];
        assert_eq!(length(&frames), 120);
        assert_eq!(length(&[(8, 0), (8, 0), (8, 23), (8, 46)]), 69);
    }

    #[test]
    fn no_time_runs_backwards_when_it_starts_over() {
        assert_eq!(length(&[(9, 0), (8, 0), (9, 40), (8, 1_000)]), 1_001, "sound longer than the picture");
        assert_eq!(length(&[(9, 0), (9, 2), (9, 4)]), LOOP_LEAST, "few frames");
    }

    #[test]
    fn the_test_card_can_be_sent_and_lasts_sixteen_seconds() {
        Source::check(&EncoderSource::TestCard).unwrap();
        let mut source = Source::open(&EncoderSource::TestCard).unwrap();
        while source.next_frame().unwrap().is_some() {}
        assert_eq!((source.length(), source.is_cut()), (16_000, false));
    }

    #[test]
    fn metadata_says_nothing_of_the_file_and_a_long_index_does_not_cost_the_rest() {
        use rtmp::amf0::{Value, read_all, write};
        let times = Value::StrictArray((0..30_000).map(|time| f64::from(time).into()).collect());
        let fields = [("width", 640.0.into()), ("duration", 60_000.0.into()), ("keyframes", times)];
        let fields = fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let mut metadata = Vec::new();
        write(&mut metadata, &"onMetaData".into());
        write(&mut metadata, &Value::EcmaArray(fields));
        let mut bytes = Vec::new();
        flv::put_header(&mut bytes, true, true);
        for (type_id, payload) in [(18, metadata.into()), (9, Bytes::from_static(b"\x17\x01"))] {
            flv::put_tag(&mut bytes, &flv::Tag { type_id, timestamp: 0, payload });
        }
        let mut source = Source::new("test".into(), Box::new(io::Cursor::new(bytes)));
        let sent = read_all(&source.next_frame().unwrap().unwrap().payload).unwrap();
        let expected = Value::EcmaArray(vec![("width".to_owned(), 640.0.into())]);
        assert_eq!(sent, ["@setDataFrame".into(), "onMetaData".into(), expected]);
    }

    /// When each frame of a file of pictures with these timestamps is sent in the first 10 s, over and over.
    fn sent(timestamps: &[u32]) -> Vec<u32> {
        let mut bytes = Vec::new();
        flv::put_header(&mut bytes, true, true);
        for timestamp in timestamps {
            let payload = Bytes::from_static(b"\x17\x01");
            flv::put_tag(&mut bytes, &Tag { type_id: 9, timestamp: *timestamp, payload });
            flv::put_tag(&mut bytes, &Tag { type_id: 15, timestamp: 0, payload: Bytes::from_static(b"x") });
        }
        let (mut sent, mut start) = (Vec::new(), 0);
        while start < 10_000 {
            let mut source = Source::new("test".into(), Box::new(io::Cursor::new(bytes.clone())));
            while let Some(frame) = source.next_frame().unwrap() {
                sent.push(start + frame.time);
            }
            start += source.length();
        }
        sent.retain(|time| *time < 10_000);
        sent
    }

    #[test]
    fn no_file_is_sent_faster_than_in_real_time() {
        for (timestamps, at_most) in [
            (&[7][..], 10),
            (&[0, 0], 250),
            (&[0; 50], 250),
            (&[5; 1_000], 258),
            (&[0, 1, 2, 3, 4, 5], 250),
            (&[0, 40, 80, 120], 250),
            (&[0, 20_000, 40_000], 4),
        ] {
            let sent = sent(timestamps);
            assert!(
                (at_most - at_most / 5..=at_most).contains(&sent.len()),
                "{}: {sent:?}",
                timestamps.len()
            );
        }
    }

    #[test]
    fn a_frame_with_a_time_of_its_own_delays_no_other() {
        let stamp = |i: u32| i * 40 + if i % 10 == 5 { 3_000 } else { 0 };
        let sent = sent(&(0..250).map(stamp).collect::<Vec<_>>());
        assert_eq!(sent.len(), 250);
        assert!(sent.windows(2).all(|two| two[1] - two[0] <= 80), "{sent:?}");
    }

    #[test]
    fn a_file_without_audio_and_video_is_refused() {
        for tags in [&[][..], &[flv::Tag { type_id: 18, timestamp: 0, payload: Bytes::from_static(b"x") }]] {
            let mut bytes = Vec::new();
            flv::put_header(&mut bytes, true, true);
            tags.iter().for_each(|tag| flv::put_tag(&mut bytes, tag));
            let file = tempfile::NamedTempFile::new().unwrap();
            std::fs::write(file.path(), bytes).unwrap();
            let checked = Source::check(&EncoderSource::File(file.path().to_owned()));
            assert!(matches!(checked, Err(SourceError::Empty(_))), "{checked:?}");
        }
    }
}
