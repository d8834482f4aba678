//! Cost of taking a publisher's bytes apart, and of putting them together again: on the path of every frame.

use divan::{Bencher, counter::BytesCount};
use rtmp::chunk::{Limits, Reader, delta_len, put_delta, put_full};
use rtmp::message_type::VIDEO;

fn main() {
    divan::main();
}

/// A second of a 2 Mbit/s stream: 25 messages of 10 kB.
fn second(chunk_size: u32) -> Vec<u8> {
    let mut wire = Vec::new();
    put_full(&mut wire, 128, 2, 0, rtmp::message_type::SET_CHUNK_SIZE, 0, &chunk_size.to_be_bytes());
    for frame in 0..25 {
        put_full(&mut wire, chunk_size, 4, frame * 40, VIDEO, 1, &[0x27; 10_000]);
    }
    wire
}

/// A reader as it is put in the record of a connection, in the middle of a frame: on the path of every read that a process may not live to
/// tell of.
#[divan::bench]
fn record(bencher: Bencher<'_, '_>) {
    let mut reader = Reader::new(Limits::default());
    let wire = second(60_000);
    let mut input = &wire[..wire.len() - 1];
    while let Ok(Some(_)) = reader.read(&mut input) {}
    let mut room = [0; 4096];
    bencher
        .bench_local(|| postcard::to_slice(divan::black_box(&reader), &mut room).map(|record| record.len()));
}

/// Whole reads of 64 KiB, as from a socket.
#[divan::bench(args = [128, 4_096, 60_000])]
fn reader(bencher: Bencher<'_, '_>, chunk_size: u32) {
    let wire = second(chunk_size);
    bencher.counter(BytesCount::new(wire.len())).bench(|| {
        let mut reader = Reader::new(Limits::default());
        let mut messages = 0;
        for part in wire.chunks(64 * 1024) {
            let mut input = part;
            while let Ok(Some(message)) = reader.read(&mut input) {
                messages += message.payload.len();
            }
        }
        messages
    });
}

/// A frame of 10 kB, as a log stores it: into a buffer that has room.
#[divan::bench(args = [128, 4_096, 60_000])]
fn writer(bencher: Bencher<'_, '_>, chunk_size: u32) {
    let payload = [0x27; 10_000];
    let mut wire = Vec::with_capacity(delta_len(chunk_size, payload.len()));
    bencher.counter(BytesCount::new(payload.len())).bench_local(|| {
        wire.clear();
        put_delta(&mut wire, chunk_size, 4, 40, VIDEO, divan::black_box(&payload));
        wire.len()
    });
}
