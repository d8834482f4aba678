//! Frames: a length of 4 bytes, big-endian, then a kind of 1 byte and what it carries. Pure: bytes in, frames out.

use std::fmt;

/// What the far end writes first; what came before is noise of a login.
pub const MAGIC: &[u8] = b"SRSCTL1\n";
/// Bytes of a frame behind its length, at most.
pub const MAX_FRAME: usize = 4 << 20;
/// Bytes that may come in front of the magic: a message of the day, what rc files print.
pub const MAX_NOISE: usize = 64 << 10;

/// What one end tells the other.
#[derive(Clone, PartialEq, Eq)]
pub enum Frame {
    /// Who it is, JSON: the first of each end.
    Hello(Vec<u8>),
    /// It is there.
    Ping,
    /// The client begins an exchange: what it wants, JSON.
    Open(Vec<u8>),
    /// Bytes of the exchange.
    Data(Vec<u8>),
    /// No bytes of it follow from this end.
    End,
    /// It is not done, or not all of it: why, JSON. The far end's last of an exchange, in place of [`Frame::End`].
    Refused(Vec<u8>),
}

/// Without what it carries: that may be a secret.
impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kind, bytes) = self.parts();
        write!(f, "frame of kind {kind}, {} bytes", bytes.len())
    }
}

impl Frame {
    fn parts(&self) -> (u8, &[u8]) {
        match self {
            Self::Hello(bytes) => (0, bytes),
            Self::Ping => (1, &[]),
            Self::Open(bytes) => (2, bytes),
            Self::Data(bytes) => (3, bytes),
            Self::End => (4, &[]),
            Self::Refused(bytes) => (5, bytes),
        }
    }

    /// As it is sent. One that is too long is cut: whoever makes them keeps to [`MAX_FRAME`].
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let (kind, bytes) = self.parts();
        let bytes = bytes.get(..MAX_FRAME - 1).unwrap_or(bytes);
        let length = u32::try_from(bytes.len() + 1).unwrap_or_default();
        let mut encoded = Vec::with_capacity(bytes.len() + 5);
        encoded.extend_from_slice(&length.to_be_bytes());
        encoded.push(kind);
        encoded.extend_from_slice(bytes);
        encoded
    }

    fn decode(kind: u8, bytes: &[u8]) -> Option<Self> {
        let bare = bytes.is_empty();
        Some(match kind {
            0 => Self::Hello(bytes.to_vec()),
            1 if bare => Self::Ping,
            2 => Self::Open(bytes.to_vec()),
            3 => Self::Data(bytes.to_vec()),
            4 if bare => Self::End,
            5 => Self::Refused(bytes.to_vec()),
            _ => return None,
        })
    }
}

/// Why what came are no frames.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too much came in front of the magic, or the input ended before it.
    #[error("what came is no greeting of srsctl")]
    Noise,
    /// A frame is longer than any.
    #[error("a message of {0} bytes, which is none of srsctl")]
    TooLong(usize),
    /// A frame of a kind that there is not.
    #[error("a message of an unknown kind")]
    Unknown,
}

/// Takes bytes apart.
#[derive(Debug, Default)]
pub struct Reader {
    buffer: Vec<u8>,
    noise: Vec<u8>,
    is_past_magic: bool,
}

impl Reader {
    /// Of an end that sends frames alone.
    #[must_use]
    pub fn without_magic() -> Self {
        Self { is_past_magic: true, ..Self::default() }
    }

    /// Takes in what came.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Whether the magic has come.
    #[must_use]
    pub fn is_past_magic(&self) -> bool {
        self.is_past_magic
    }

    /// What came in front of the magic; all, while it has not come.
    #[must_use]
    pub fn noise(&self) -> &[u8] {
        if self.is_past_magic { &self.noise } else { &self.buffer }
    }

    /// The next frame, once it is whole.
    ///
    /// # Errors
    /// When what came cannot be frames; nothing of what follows can be read then.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, FrameError> {
        if !self.is_past_magic {
            let found = self.buffer.windows(MAGIC.len()).position(|window| window == MAGIC);
            match found {
                Some(at) if at <= MAX_NOISE => {
                    self.noise = self.buffer.drain(..at + MAGIC.len()).take(at).collect();
                    self.is_past_magic = true;
                }
                Some(_) => return Err(FrameError::Noise),
                None if self.buffer.len() > MAX_NOISE + MAGIC.len() => return Err(FrameError::Noise),
                None => return Ok(None),
            }
        }
        let Some((length, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if !(1..=MAX_FRAME).contains(&length) {
            return Err(FrameError::TooLong(length));
        }
        let Some((kind, bytes)) = rest.get(..length).and_then(<[u8]>::split_first) else { return Ok(None) };
        let frame = Frame::decode(*kind, bytes).ok_or(FrameError::Unknown)?;
        self.buffer.drain(..length + 4);
        Ok(Some(frame))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames() -> impl Strategy<Value = Vec<Frame>> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..200);
        let frame = prop_oneof![
            bytes().prop_map(Frame::Hello),
            Just(Frame::Ping),
            bytes().prop_map(Frame::Open),
            bytes().prop_map(Frame::Data),
            Just(Frame::End),
            bytes().prop_map(Frame::Refused),
        ];
        prop::collection::vec(frame, 0..20)
    }

    fn read(reader: &mut Reader) -> Vec<Frame> {
        std::iter::from_fn(|| reader.next_frame().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back_however_it_is_cut(
            frames in frames(), noise in "[a-zA-Z0-9 \n]{0,300}", size in 1..64_usize,
        ) {
            prop_assume!(!noise.contains("SRSCTL1"));
            let mut bytes = [noise.as_bytes(), MAGIC].concat();
            frames.iter().for_each(|frame| bytes.extend(frame.encode()));
            let mut reader = Reader::default();
            let mut found = Vec::new();
            for piece in bytes.chunks(size) {
                reader.push(piece);
                found.extend(read(&mut reader));
            }
            prop_assert_eq!(found, frames);
            prop_assert_eq!(reader.noise(), noise.as_bytes());
        }

        #[test]
        fn no_bytes_make_it_panic_or_keep_more_than_a_frame(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut reader = Reader::without_magic();
            reader.push(&bytes);
            while let Ok(Some(_)) = reader.next_frame() {}
        }
    }

    #[test]
    fn noise_and_frames_are_bounded() {
        let mut reader = Reader::default();
        reader.push(&vec![b'x'; MAX_NOISE]);
        assert_eq!(reader.next_frame(), Ok(None));
        reader.push(&[b'x'; 10]);
        assert_eq!(reader.next_frame(), Err(FrameError::Noise));
        for length in [0, MAX_FRAME + 1, usize::try_from(u32::MAX).unwrap()] {
            let mut reader = Reader::without_magic();
            reader.push(&u32::try_from(length).unwrap().to_be_bytes());
            assert_eq!(reader.next_frame(), Err(FrameError::TooLong(length)));
        }
    }
}
