//! What publishers send: an FLV file in memory, shared by all of them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use rtmp::message_type;

use crate::stamp;

/// Largest file, bytes of media: it is held in memory.
const MAX_FILE: usize = 1 << 30;

/// Why a file cannot be published.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// See [`encoder::SourceError`].
    #[error(transparent)]
    File(#[from] encoder::SourceError),
    /// Larger than 1 GiB.
    #[error("{0} is larger than 1 GiB; cut a piece of it: ffmpeg -i INPUT -t 60 -c copy OUTPUT.flv")]
    TooLarge(PathBuf),
}

/// The tags of a file, and how long they last.
#[derive(Debug)]
pub struct Source {
    frames: Vec<Template>,
    length: u32,
}

/// A message to send.
#[derive(Clone, Debug)]
pub struct Template {
    /// Chunk stream; see [`rtmp::wire::csid`].
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
        let mut file = encoder::Source::open_file(path)?;
        let (mut frames, mut length_size, mut held) = (Vec::new(), None, 0);
        while let Some(encoder::Frame { csid, type_id, time, payload }) = file.next_frame()? {
            held += payload.len();
            if held > MAX_FILE {
                return Err(SourceError::TooLarge(path.to_owned()));
            }
            if type_id == message_type::VIDEO {
                length_size = stamp::length_size(&payload).or(length_size);
            }
            let length_size = length_size.filter(|_| type_id == message_type::VIDEO);
            frames.push(Template { csid, type_id, time, payload, length_size });
        }
        Ok(Self { frames, length: file.length() })
    }

    /// Front to back.
    pub fn frames(&self) -> &[Template] {
        &self.frames
    }

    /// Milliseconds until it can start over: see [`encoder::Source::length`].
    pub fn length(&self) -> u32 {
        self.length
    }
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
}
