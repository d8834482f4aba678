//! What publishers send: an FLV file in memory, shared by all of them.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use rtmp::flv::{FlvError, Reader, Timeline};
use rtmp::media::{self, Kind};
use rtmp::message_type;
use rtmp::wire::csid;

use crate::stamp;

/// Largest file, bytes: it is held in memory.
const MAX_FILE: u64 = 1 << 30;

/// Why a file cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Larger than 1 GiB.
    #[error("{0} is larger than 1 GiB; cut a piece of it: ffmpeg -i INPUT -t 60 -c copy OUTPUT.flv")]
    TooLarge(PathBuf),
    /// It is not FLV.
    #[error(
        "{path} is not an FLV file that can be sent: {source}; make one with: ffmpeg -i INPUT -c copy -f flv OUTPUT.flv"
    )]
    Flv {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: FlvError,
    },
    /// It has no audio and no video.
    #[error("{0} holds no complete audio or video tag: nothing can be sent of it")]
    Empty(PathBuf),
}

/// The tags of a file, and how long they last.
#[derive(Debug)]
pub struct Source {
    frames: Vec<Frame>,
    length: u32,
}

/// A message to send.
#[derive(Clone, Debug)]
pub struct Frame {
    /// Chunk stream; see [`csid`].
    pub csid: u8,
    /// See [`rtmp::message_type`].
    pub type_id: u8,
    /// Milliseconds since the start of the file.
    pub time: u32,
    /// FLV tag body; metadata as `@setDataFrame`.
    pub payload: Bytes,
    /// Bytes of its NAL lengths when a stamp can go in.
    pub(crate) length_size: Option<usize>,
}

impl Source {
    /// Reads the FLV file at `path`.
    ///
    /// # Errors
    /// See [`SourceError`].
    pub fn open(path: &Path) -> Result<Self, SourceError> {
        let read_error = |source| SourceError::Read { path: path.to_owned(), source };
        let mut bytes = Vec::new();
        let file = std::fs::File::open(path).map_err(read_error)?;
        file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(read_error)?;
        if bytes.len() as u64 > MAX_FILE {
            return Err(SourceError::TooLarge(path.to_owned()));
        }
        let frames = frames(&bytes).map_err(|source| SourceError::Flv { path: path.to_owned(), source })?;
        if frames.iter().all(|frame| frame.type_id == message_type::DATA) {
            return Err(SourceError::Empty(path.to_owned()));
        }
        let length = length(&frames);
        Ok(Self { frames, length })
    }

    /// Front to back.
    pub fn frames(&self) -> &[Frame] {
        &self.frames
    }

    /// Milliseconds until it can start over: the last frame lasts as long as the one before it; at least 1.
    pub fn length(&self) -> u32 {
        self.length
    }
}

fn frames(bytes: &[u8]) -> Result<Vec<Frame>, FlvError> {
    let mut reader = Reader::new();
    reader.push(bytes);
    let (mut frames, mut timeline, mut length_size) = (Vec::new(), Timeline::default(), None);
    while let Some(tag) = reader.next_tag()? {
        if tag.payload.is_empty() {
            continue;
        }
        let time = timeline.time(&tag);
        let (csid, payload) = match tag.type_id {
            message_type::VIDEO => {
                length_size = stamp::length_size(&tag.payload).or(length_size);
                (csid::VIDEO, tag.payload)
            }
            message_type::AUDIO => (csid::AUDIO, tag.payload),
            _ if media::classify(tag.type_id, &tag.payload).kind == Kind::Metadata => {
                (csid::DATA, media::metadata_for_publish(&media::metadata_for_players(&tag.payload)).into())
            }
            _ => (csid::DATA, tag.payload),
        };
        let length_size = length_size.filter(|_| tag.type_id == message_type::VIDEO);
        frames.push(Frame { csid, type_id: tag.type_id, time, payload, length_size });
    }
    Ok(frames)
}

fn length(frames: &[Frame]) -> u32 {
    let end = |type_id| {
        let mut times = frames.iter().rev().filter(|frame| frame.type_id == type_id).map(|frame| frame.time);
        let last = times.next()?;
        // A header has the time of the frame behind it.
        let before = times.find(|&time| time != last).unwrap_or(last);
        Some(last.saturating_add(last.saturating_sub(before)))
    };
    end(message_type::AUDIO).max(end(message_type::VIDEO)).unwrap_or(0).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rtmp::flv::{self, Tag};

    fn file(tags: &[(u8, u32, &'static [u8])]) -> tempfile::NamedTempFile {
        let mut out = Vec::new();
        flv::put_header(&mut out, true, true);
        for &(type_id, timestamp, payload) in tags {
            flv::put_tag(&mut out, &Tag { type_id, timestamp, payload: Bytes::from_static(payload) });
        }
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), out).unwrap();
        file
    }

    const HEADER: &[u8] = &[0x17, 0, 0, 0, 0, 1, 0x64, 0, 31, 0xff, 0xe1];

    #[test]
    fn times_begin_at_zero_and_the_last_frame_lasts_like_the_one_before() {
        let file =
            file(&[(9, 500, HEADER), (9, 500, &[0x17, 1]), (8, 510, &[0xaf, 1]), (9, 540, &[0x27, 1])]);
        let source = Source::open(file.path()).unwrap();
        assert_eq!(source.frames().iter().map(|f| f.time).collect::<Vec<_>>(), [0, 0, 10, 40]);
        assert_eq!(source.length(), 80);
        assert_eq!(
            source.frames().iter().map(|f| f.length_size).collect::<Vec<_>>(),
            [Some(4), Some(4), None, Some(4)]
        );
    }

    #[test]
    fn a_file_without_audio_and_video_is_refused() {
        assert!(matches!(Source::open(file(&[]).path()), Err(SourceError::Empty(_))));
        assert!(matches!(Source::open(file(&[(18, 0, b"x")]).path()), Err(SourceError::Empty(_))));
    }
}
