//! Cost of the data plane without sockets: appending a frame to the log, and one pass over caught-up players.

use divan::{Bencher, counter::ItemsCount};
use stream::{Cursor, Log, Recipient, Track};

fn main() {
    divan::main();
}

/// A log and cursors whose sends take everything.
struct Fanout {
    log: Log,
    cursors: Vec<Cursor>,
    time: u64,
}

impl Fanout {
    fn new(players: usize) -> Self {
        let cursors = (0..players).map(|_| Cursor::new(Recipient::Player, 1, 0)).collect();
        Self {
            log: Log::new(&shm::Store::private(1 << 16), rtmp::wire::CHUNK_SIZE, 30_000),
            cursors,
            time: 0,
        }
    }

    /// Appends a frame of `size` bytes, 40 ms after the last; each 50th is a keyframe.
    fn append(&mut self, size: usize) {
        let key = self.time.is_multiple_of(2_000);
        self.log.append(Track::Video, self.time, key, &vec![0x27; size]);
        self.time += 40;
    }

    /// Gives every cursor what there is; returns the bytes taken.
    fn pass(&mut self) -> u64 {
        let mut taken = 0;
        for cursor in &mut self.cursors {
            let before = cursor.bytes_sent();
            let all = |slices: &[std::io::IoSlice<'_>]| slices.iter().map(|slice| slice.len()).sum();
            cursor
                .flush(&self.log, &mut |slices: &[std::io::IoSlice<'_>]| Ok(all(slices)))
                .expect("these sends cannot fail");
            taken += cursor.bytes_sent() - before;
        }
        taken
    }
}

/// One frame of the guide's stream, 900 bytes.
#[divan::bench]
fn append(bencher: Bencher<'_, '_>) {
    let mut fanout = Fanout::new(0);
    bencher.bench_local(move || fanout.append(900));
}

/// One frame to each player; the sends cost nothing here, so this is what is added to the system call.
#[divan::bench(args = [100, 1_000, 9_000])]
fn pass(bencher: Bencher<'_, '_>, players: usize) {
    let mut fanout = Fanout::new(players);
    fanout.append(900);
    fanout.pass();
    bencher.counter(ItemsCount::new(players)).bench_local(move || {
        fanout.append(900);
        fanout.pass()
    });
}
