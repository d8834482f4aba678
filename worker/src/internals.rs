//! The data plane without sockets, for benchmarks. No stable interface.

use rtmp::message_type::VIDEO;

use crate::cursor::{Cursor, Reader};
use crate::log::{Lane, Log};

/// A log and cursors whose sends take everything.
#[derive(Debug)]
pub struct Fanout {
    log: Log,
    cursors: Vec<Cursor>,
    time: u64,
}

impl Fanout {
    /// A stream with `players` cursors.
    #[must_use]
    pub fn new(players: usize) -> Self {
        let cursors = (0..players).map(|_| Cursor::new(Reader::Player, 1, 0)).collect();
        Self { log: Log::new(rtmp::wire::CHUNK_SIZE, 30_000), cursors, time: 0 }
    }

    /// Appends a frame of `size` bytes, 40 ms after the last; each 50th is a keyframe.
    pub fn append(&mut self, size: usize) {
        let key = self.time.is_multiple_of(2_000);
        let mut frame = vec![0; size];
        if let Some(first) = frame.first_mut() {
            *first = if key { 0x17 } else { 0x27 };
        }
        self.log.append(Lane::Video, VIDEO, self.time, key, &frame);
        self.time += 40;
    }

    /// Gives every cursor what there is; returns the bytes taken.
    pub fn pass(&mut self) -> u64 {
        let mut taken = 0;
        for cursor in &mut self.cursors {
            let before = cursor.bytes_sent();
            // Sends that cannot fail.
            let _ = cursor.flush(&self.log, &mut |slices| Ok(slices.iter().map(|s| s.len()).sum()));
            taken += cursor.bytes_sent() - before;
        }
        taken
    }
}
