//! FLV files: the same tags RTMP carries (FLV 10.1, annex E.2 to E.4).

use crate::message_type;
use bytes::{Buf, Bytes, BytesMut};

/// Signature, version, flags and offset of the file header, bytes.
const FILE_HEADER: usize = 9;

/// Header of a tag, bytes. Parts of an aggregate message have the same (RTMP 1.0, section 7.1.6).
pub const TAG_HEADER: usize = 11;

/// Length field behind each tag and behind the file header, bytes.
const TRAILER: usize = 4;

/// Largest offset to the first tag that is believed, bytes. Every known writer uses 9.
const MAX_OFFSET: usize = 64 << 10;

/// One audio, video or script data tag.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tag {
    /// 8 audio, 9 video or 18 data: the same as RTMP's message type.
    pub type_id: u8,
    /// Milliseconds.
    pub timestamp: u32,
    /// Body of the tag, below 16 MiB: the format cannot announce more.
    pub payload: Bytes,
}

/// Not a readable FLV file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FlvError {
    /// The signature is missing.
    #[error("not an FLV file: it does not begin with \"FLV\"")]
    Signature,
    /// The offset to the first tag is absurd.
    #[error("damaged FLV header: the first tag would be at byte {0}")]
    Offset(u32),
}

/// Incremental reader: push bytes, pull tags. Holds what was pushed and not yet pulled.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: BytesMut,
    /// Bytes to pass over before the next tag.
    skip: usize,
    has_header: bool,
}

impl Reader {
    /// A reader at the start of a file.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds bytes of the file, in order.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next complete tag of audio, video or script data, or `None` until more was pushed. Those of other types, and encrypted
    /// ones, are passed over: the format has room for more (FLV 10.1, annex E.4.1).
    pub fn next_tag(&mut self) -> Result<Option<Tag>, FlvError> {
        if !self.has_header {
            let signature = self.buffer.get(..self.buffer.len().min(3)).unwrap_or_default();
            if !b"FLV".starts_with(signature) {
                return Err(FlvError::Signature);
            }
            let Some(header) = self.buffer.first_chunk::<FILE_HEADER>() else { return Ok(None) };
            let [.., a, b, c, d] = *header;
            let offset = u32::from_be_bytes([a, b, c, d]);
            if !(FILE_HEADER..=MAX_OFFSET).contains(&(offset as usize)) {
                return Err(FlvError::Offset(offset));
            }
            self.has_header = true;
            self.skip = offset as usize + TRAILER;
        }
        loop {
            let skipped = self.skip.min(self.buffer.len());
            self.buffer.advance(skipped);
            self.skip -= skipped;
            let Some(&[type_id, s2, s1, s0, t2, t1, t0, t3, ..]) = self.buffer.first_chunk::<TAG_HEADER>()
            else {
                return Ok(None);
            };
            let size = u32::from_be_bytes([0, s2, s1, s0]) as usize;
            if !matches!(type_id, message_type::AUDIO | message_type::VIDEO | message_type::DATA) {
                self.skip = TAG_HEADER + size + TRAILER;
                continue;
            }
            if self.buffer.len() < TAG_HEADER + size {
                return Ok(None);
            }
            self.buffer.advance(TAG_HEADER);
            let payload = self.buffer.split_to(size).freeze();
            self.skip = TRAILER;
            let timestamp = u32::from_be_bytes([t3, t2, t1, t0]);
            return Ok(Some(Tag { type_id, timestamp, payload }));
        }
    }

    /// Whether the file may end here: nothing is half read. The length behind the last tag may be missing.
    pub fn is_clean_end(&self) -> bool {
        let nothing_held = self.buffer.is_empty() && self.skip == TRAILER;
        self.has_header && (nothing_held || self.buffer.len() == self.skip)
    }
}

/// Appends the file header, with the flags for audio and video.
pub fn put_header(out: &mut Vec<u8>, audio: bool, video: bool) {
    out.extend_from_slice(b"FLV\x01");
    out.push(u8::from(video) | u8::from(audio) << 2);
    out.extend_from_slice(&[0, 0, 0, FILE_HEADER as u8, 0, 0, 0, 0]);
}

/// Appends `tag`; a payload beyond 0xFFFFFF bytes is cut there, the format cannot announce more.
pub fn put_tag(out: &mut Vec<u8>, tag: &Tag) {
    let payload = tag.payload.get(..0xFF_FFFF).unwrap_or(&tag.payload);
    let [_, s2, s1, s0] = (payload.len() as u32).to_be_bytes();
    let [t3, t2, t1, t0] = tag.timestamp.to_be_bytes();
    out.extend_from_slice(&[tag.type_id, s2, s1, s0, t2, t1, t0, t3, 0, 0, 0]);
    out.extend_from_slice(payload);
    out.extend_from_slice(&((TAG_HEADER + payload.len()) as u32).to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn tags() -> impl Strategy<Value = Vec<Tag>> {
        let tag = (
            prop_oneof![Just(8u8), Just(9), Just(18)],
            any::<u32>(),
            prop::collection::vec(any::<u8>(), 0..60),
        );
        let tag =
            tag.prop_map(|(type_id, timestamp, payload)| Tag { type_id, timestamp, payload: payload.into() });
        prop::collection::vec(tag, 0..8)
    }

    fn file(tags: &[Tag]) -> Vec<u8> {
        let mut out = Vec::new();
        put_header(&mut out, true, true);
        for tag in tags {
            put_tag(&mut out, tag);
        }
        out
    }

    proptest! {
        #[test]
        fn any_cut_of_a_written_file_reads_back(tags in tags(), step in 1usize..40) {
            let mut reader = Reader::new();
            let mut read = Vec::new();
            for bytes in file(&tags).chunks(step) {
                reader.push(bytes);
                while let Some(tag) = reader.next_tag().unwrap() {
                    read.push(tag);
                }
            }
            prop_assert_eq!(read, tags);
            prop_assert!(reader.is_clean_end());
        }
    }

    #[test]
    fn a_truncated_file_is_no_clean_end_wherever_a_tag_is_cut() {
        let tag = Tag { type_id: 9, timestamp: 0x0102_0304, payload: Bytes::from_static(b"abc") };
        let file = file(&[tag]);
        for len in 0..=file.len() {
            let mut reader = Reader::new();
            reader.push(&file[..len]);
            let whole = reader.next_tag().unwrap().is_some();
            let clean = matches!(len, 9 | 13 | 27 | 31);
            assert_eq!(reader.is_clean_end(), clean, "{len} bytes");
            assert_eq!(whole, len >= 27, "{len} bytes");
        }
    }

    #[test]
    fn tags_of_other_types_are_passed_over_however_they_are_cut() {
        let tag = |type_id, payload: &'static [u8]| Tag {
            type_id,
            timestamp: 7,
            payload: Bytes::from_static(payload),
        };
        let known = [tag(8, b"\xaf\x01"), tag(9, b"\x17\x01")];
        let [sound, picture] = known.clone();
        let file =
            file(&[tag(15, b"abc"), sound, tag(99, b""), tag(0x28, &[0; 90]), picture, tag(0, b"end")]);
        for step in 1..file.len() {
            let mut reader = Reader::new();
            let mut read = Vec::new();
            for bytes in file.chunks(step) {
                reader.push(bytes);
                while let Some(tag) = reader.next_tag().unwrap() {
                    read.push(tag);
                }
                assert!(reader.buffer.len() < TAG_HEADER + 2 + step, "what is passed over is not held");
            }
            assert_eq!((&read[..], reader.is_clean_end()), (&known[..], true), "{step}");
        }
        let mut reader = Reader::new();
        reader.push(&file[..file.len() - TRAILER - 1]);
        while reader.next_tag().unwrap().is_some() {}
        assert!(!reader.is_clean_end(), "cut within the last");
    }

    #[test]
    fn what_is_not_flv_is_refused_at_once() {
        let mut reader = Reader::new();
        reader.push(b"GI");
        assert_eq!(reader.next_tag(), Err(FlvError::Signature));
        let mut reader = Reader::new();
        reader.push(b"FLV\x01\x05\xff\xff\xff\xff");
        assert_eq!(reader.next_tag(), Err(FlvError::Offset(u32::MAX)));
    }
}
