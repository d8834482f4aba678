//! A reader in a record: see [`crate::record`].

use super::{Reader, Stream, is_control, length_limit};
use crate::chunk::header::MAX_CSID;
use crate::chunk::{Limits, ReadError};
use crate::record::{RecordError, ensure};

/// The longest message that a chunk header announces, bytes.
const LONGEST: u32 = 0xFF_FFFF;

impl Reader {
    /// Bytes of the unfinished messages, of each chunk stream that has some; in a record are their lengths only.
    pub fn partials(&self) -> impl Iterator<Item = &[u8]> {
        self.streams.iter().map(|stream| &stream.partial[..]).filter(|partial| !partial.is_empty())
    }

    /// How many bytes [`Self::partials`] has, and [`Self::restore_partials`] takes.
    pub fn partial_bytes(&self) -> usize {
        self.streams.iter().map(Stream::kept).sum()
    }

    /// Takes `limits` for its own and tells whether a reader that comes from a record may go on within them.
    pub fn check(&mut self, limits: Limits) -> Result<(), RecordError> {
        ensure((1..=i32::MAX as u32).contains(&self.chunk_size), "chunk size")?;
        ensure(matches!(self.left_out, None | Some(ReadError::TooLong { .. })), "message left out")?;
        ensure(self.streams.len() <= limits.chunk_streams, "number of chunk streams")?;
        for (index, stream) in self.streams.iter().enumerate() {
            stream.check(&limits)?;
            let mut before = self.streams.iter().take(index);
            ensure(before.all(|other| other.csid != stream.csid), "two chunk streams with one id")?;
        }
        // No overflow: both numbers are bounded by now.
        ensure(self.partial_bytes() <= limits.partial, "bytes of unfinished messages")?;
        if let Some(chunk) = self.chunk {
            let stream = self.streams.get(chunk.stream).filter(|stream| stream.in_message);
            let left = stream.map_or(0, |stream| stream.length as usize - stream.received);
            let most = left.min(self.chunk_size as usize);
            ensure((1..=most).contains(&chunk.remaining), "chunk under way")?;
            ensure(self.held.is_empty(), "chunk header inside a chunk")?;
        }
        self.limits = limits;
        Ok(())
    }

    /// Gives a reader that was [checked](Self::check) the bytes of its unfinished messages, one behind the other in the order of
    /// [`Self::partials`]. False if they are not as many as there were: then the reader cannot go on.
    #[must_use]
    pub fn restore_partials(&mut self, bytes: &[u8]) -> bool {
        if bytes.len() != self.partial_bytes() {
            return false;
        }
        let mut rest = bytes;
        for stream in &mut self.streams {
            let Some((partial, behind)) = rest.split_at_checked(stream.kept()) else { return false };
            stream.partial = partial.to_vec();
            rest = behind;
        }
        self.buffered = bytes.len();
        true
    }
}

impl Stream {
    /// Bytes of the message in progress that are kept.
    fn kept(&self) -> usize {
        if self.is_left_out { 0 } else { self.received }
    }

    fn check(&self, limits: &Limits) -> Result<(), RecordError> {
        ensure((2..=MAX_CSID).contains(&self.csid), "id of a chunk stream")?;
        let is_within = self.length as usize <= length_limit(limits, self.type_id);
        ensure(self.length <= LONGEST && (is_within || self.is_left_out), "length of a message")?;
        ensure(!self.is_left_out || !is_control(self.type_id), "control message left out")?;
        let most = if self.in_message { (self.length as usize).saturating_sub(1) } else { 0 };
        ensure(self.received <= most, "bytes of a message")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chunk::header::Held;
    use crate::chunk::put_full;
    use crate::message_type::{SET_CHUNK_SIZE, VIDEO};

    /// In a chunk of chunk stream 6 with 100 bytes left; chunk stream 4 has 128 bytes of a message.
    fn reader() -> Reader {
        let mut reader = Reader::new(Limits::default());
        let [mut first, mut second] = [Vec::new(), Vec::new()];
        put_full(&mut first, 128, 4, 0, VIDEO, 1, &[4; 300]);
        put_full(&mut second, 128, 6, 0, VIDEO, 1, &[6; 300]);
        for mut bytes in [&first[..12 + 128], &second[..12 + 28]] {
            assert_eq!(reader.read(&mut bytes), Ok(None));
        }
        reader
    }

    fn restored(reader: &Reader) -> Reader {
        postcard::from_bytes(&postcard::to_stdvec(reader).unwrap()).unwrap()
    }

    #[test]
    fn a_record_has_all_but_the_bytes_of_unfinished_messages() {
        let reader = reader();
        let record = postcard::to_stdvec(&reader).unwrap();
        assert!(record.len() < 128, "{} bytes", record.len());
        let mut again = restored(&reader);
        assert_eq!(again.check(Limits::default()), Ok(()));
        let partials = reader.partials().collect::<Vec<_>>().concat();
        assert_eq!(partials, [&[4; 128][..], &[6; 28]].concat());
        assert_eq!((again.partial_bytes(), reader.partial_bytes()), (156, 156));
        assert!(!again.restore_partials(&partials[1..]));
        assert!(!again.restore_partials(&[&partials[..], &[0]].concat()));
        assert!(again.restore_partials(&partials));
        assert!(again.partials().eq(reader.partials()));
    }

    #[test]
    fn a_record_that_no_reader_leaves_is_an_error() {
        let damages: [fn(&mut Reader); 17] = [
            |reader| reader.chunk_size = 0,
            |reader| reader.chunk_size = 1 << 31,
            |reader| reader.chunk_size = 99,
            |reader| reader.held.push(4),
            |reader| reader.left_out = Some(ReadError::TooManyChunkStreams(1)),
            |reader| reader.streams[0].csid = 6,
            |reader| reader.streams[0].csid = 1,
            |reader| reader.streams[0].csid = 65_600,
            |reader| reader.streams[0].length = 1 << 24,
            |reader| reader.streams[0].length = 8 << 20 | 1,
            |reader| reader.streams[0].received = 300,
            |reader| reader.streams[0].in_message = false,
            |reader| (reader.streams[0].type_id, reader.streams[0].is_left_out) = (SET_CHUNK_SIZE, true),
            |reader| reader.chunk.as_mut().unwrap().stream = 2,
            |reader| reader.chunk.as_mut().unwrap().remaining = 0,
            |reader| reader.chunk.as_mut().unwrap().remaining = 129,
            |reader| (reader.streams[1].in_message, reader.streams[1].received) = (false, 0),
        ];
        for (index, damage) in damages.iter().enumerate() {
            let mut damaged = reader();
            damage(&mut damaged);
            assert!(restored(&damaged).check(Limits::default()).is_err(), "{index}");
        }
    }

    #[test]
    fn the_front_of_a_header_is_no_longer_than_a_header() {
        for (len, is_right) in [(0, true), (18, true), (19, false)] {
            let record = postcard::to_stdvec(&vec![0_u8; len]).unwrap();
            assert_eq!(postcard::from_bytes::<Held>(&record).is_ok(), is_right, "{len}");
        }
    }

    #[test]
    fn a_record_must_fit_the_limits_of_whoever_goes_on() {
        for limits in [
            Limits { message: 299, ..Limits::default() },
            Limits { chunk_streams: 1, ..Limits::default() },
            Limits { partial: 155, ..Limits::default() },
        ] {
            assert!(restored(&reader()).check(limits).is_err());
        }
        let exact = Limits { message: 300, chunk_streams: 2, partial: 156, ..Limits::default() };
        assert_eq!(restored(&reader()).check(exact), Ok(()));
    }
}
