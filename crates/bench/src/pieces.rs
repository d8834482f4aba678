//! The writes of an ordinary client. ffmpeg and librtmp leave Nagle's algorithm on and write each part of the handshake and
//! each command by itself: the kernel then holds the second of two small ones back until the first is acknowledged.

use crate::scan::Scanner;

/// C2, and C0 with C1 (RTMP 1.0, section 5.2), bytes; the last is written first.
const HANDSHAKE: [usize; 2] = [1536, 1 + 1536];

/// Where one write ends and the next begins.
#[derive(Debug)]
pub(crate) struct Pieces {
    handshake: Vec<usize>,
    scanner: Scanner,
}

impl Pieces {
    pub(crate) fn new() -> Self {
        Self { handshake: HANDSHAKE.into(), scanner: Scanner::default() }
    }

    /// How many bytes of `output`, which begins where the last piece ended and holds whole ones, are the next.
    pub(crate) fn next(&mut self, output: &[u8]) -> usize {
        if let Some(length) = self.handshake.pop() {
            return length.min(output.len());
        }
        let mut rest = output;
        match self.scanner.next(&mut rest) {
            Ok(Some(_)) => output.len() - rest.len(),
            Ok(None) | Err(_) => output.len(),
        }
    }
}

#[cfg(test)]
mod tests {
    use rtmp::chunk;
    use rtmp::message_type::{COMMAND, SET_CHUNK_SIZE, WINDOW_ACK_SIZE};

    use super::*;

    #[test]
    fn each_part_of_the_handshake_and_each_message_is_a_write() {
        let mut output = vec![3; 1537];
        let mut pieces = Pieces::new();
        assert_eq!(pieces.next(&output), 1537);
        output = vec![0; 1536];
        let mut lengths = vec![1536];
        // The second command is in chunks of the size that the message before it sets.
        let messages: [(u8, u32, Vec<u8>); 4] = [
            (COMMAND, 128, vec![2; 300]),
            (SET_CHUNK_SIZE, 128, 1_000_u32.to_be_bytes().into()),
            (WINDOW_ACK_SIZE, 1_000, vec![0; 4]),
            (COMMAND, 1_000, vec![2; 300]),
        ];
        for (type_id, chunk_size, payload) in messages {
            let before = output.len();
            chunk::put_full(&mut output, chunk_size, 3, 0, type_id, 0, &payload);
            lengths.push(output.len() - before);
        }
        let mut at = 0;
        let found: Vec<_> = std::iter::from_fn(|| {
            let rest = output.get(at..).filter(|rest| !rest.is_empty())?;
            let length = pieces.next(rest);
            at += length;
            Some(length)
        })
        .collect();
        assert_eq!(found, lengths);
    }
}
