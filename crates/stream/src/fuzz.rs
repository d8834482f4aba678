//! Fuzz bodies: any bytes may come in, none may panic, and what a body asserts must hold for all.

use std::io::IoSlice;

use bytes::Bytes;
use rtmp::chunk::Message;
use rtmp::message_type::{AUDIO, DATA, VIDEO};
use shm::{Recovery, Store};

use crate::{Blobs, ConnId, Cursor, Ended, Meter, Recipient, Sender, State, Stream};

/// Bytes of memory for objects and blocks.
const ROOM: usize = 1 << 20;
/// The kind of the stream's record.
const STREAM: u32 = 2;
/// Of the log, ms.
const QUEUE_LENGTH: u64 = 2_000;

/// The data are damages of the records that a process leaves of a stream and of a cursor: a place, how, and with what. Another process
/// goes on with them, or does not.
pub fn stream_record(data: &[u8]) {
    let store = Store::private(ROOM);
    let id = store.add().expect("there is room");
    let (stream, cursor) = played(&store);
    let (damages_of_stream, damages_of_cursor) = data.split_at(data.len() * 3 / 4);
    let record = stream.save(Vec::new()).expect("there is memory");
    assert!(store.put(id, STREAM, &damaged(record, damages_of_stream)));
    store.commit();
    let state = postcard::to_allocvec(cursor.state()).expect("it has room");
    go_on(&shm::fuzz::image(&store), &damaged(state, damages_of_cursor));
}

/// A stream with a bit of everything, and a player of it.
fn played(store: &Store) -> (Stream, Cursor) {
    let mut stream = Stream::new(store, 128, QUEUE_LENGTH, 0);
    for (publication, sender) in
        (1..).zip([Sender::Encoder { clock: 5_000 }, Sender::Forwarder { clock: "a" }])
    {
        let (id, _) = stream.publish(ConnId(publication), sender, publication * 100);
        feed(&mut stream, publication * 100);
        if publication == 1 {
            stream.end(id, Ended::Finished, 200);
        }
    }
    let mut cursor = Cursor::new(Recipient::Player, 1, stream.log().start(true));
    let mut budget = 150;
    let mut some = |slices: &[IoSlice<'_>]| {
        let taken = slices.iter().map(|slice| slice.len()).sum::<usize>().min(budget);
        budget -= taken;
        if taken > 0 { Ok(taken) } else { Err(std::io::ErrorKind::WouldBlock.into()) }
    };
    cursor.flush(stream.log(), &mut some).expect("it only blocks");
    (stream, cursor)
}

/// Headers, metadata, pictures and sound of whoever publishes.
fn feed(stream: &mut Stream, now: u64) {
    let Some(id) = stream.publication() else { return };
    let metadata = b"\x02\0\x0aonMetaData\x08\0\0\0\0\0\0\x09";
    let messages: [(u8, &[u8]); 9] = [
        (DATA, metadata),
        (VIDEO, b"\x17\0\0\0\0header"),
        (AUDIO, b"\xaf\0header"),
        (VIDEO, &[0x17, 1, 0, 0, 0, 7, 7, 7, 7, 7]),
        (AUDIO, b"\xaf\x01sound"),
        (DATA, b"\x02\0\x03cue\x05"),
        (VIDEO, &[0x27; 300]),
        (VIDEO, b"\x17\x01\0\0\0key"),
        (AUDIO, b"\xaf\x01sound"),
    ];
    for (index, (type_id, payload)) in (0..).zip(messages) {
        let payload = Bytes::copy_from_slice(payload);
        let message = Message { csid: 6, type_id, msid: 1, timestamp: index * 40, payload };
        stream.take(id, &message, now + u64::from(index));
    }
}

/// `record` with bytes changed, put in, taken out, or numbers made large.
fn damaged(mut record: Vec<u8>, damages: &[u8]) -> Vec<u8> {
    for damage in damages.chunks_exact(4) {
        let &[low, high, how, byte] = damage else { continue };
        let at = usize::from(u16::from_le_bytes([low, high])) % (record.len() + 1);
        match how % 5 {
            0 | 1 if at < record.len() => record[at] = byte,
            2 => record.insert(at, byte),
            3 if at < record.len() => drop(record.remove(at)),
            _ => {
                // A number near the largest one, in the place of one.
                let end =
                    (at + record[at..].iter().take_while(|byte| **byte > 127).count() + 1).min(record.len());
                let large = [byte | 0x80, 255, 255, 255, 255, 255, 255, 255, 255, 1];
                record.splice(at..end, large);
            }
        }
    }
    record
}

/// Goes on with a stream and its readers, as far as they can be right.
fn go_on(image: &[u8], state: &[u8]) {
    let Ok((recovery, found)) = Recovery::open(shm::fuzz::memory(image)) else { panic!("nobody damaged it") };
    let mut objects = found.objects;
    let mut blobs = Blobs::take(recovery.store(), &mut objects);
    let record = objects.iter().find(|object| object.kind == STREAM).expect("it was put");
    let restored = Stream::restore(&record.bytes, &recovery, &mut blobs, &Meter::default());
    let Some((mut stream, _, left)) = restored else { return };
    let state: Option<State> = postcard::from_bytes(state).ok();
    let resumed = |more| Cursor::resume_at(state.clone()?, 0, more, stream.log()).ok();
    let mut cursors: Vec<_> = [0, 1, 100, 1_000, u64::MAX].into_iter().filter_map(resumed).collect();
    drop((blobs, left));
    let _ = recovery.finish();
    let start = stream.log().start(true);
    cursors.push(Cursor::new(Recipient::Player, 1, 0));
    cursors.push(Cursor::new(Recipient::Forwarder, 1, start));
    for round in 1..=4_u64 {
        for cursor in &mut cursors {
            let mut all = |slices: &[IoSlice<'_>]| Ok(slices.iter().map(|slice| slice.len()).sum());
            // One that is sent nothing is cut.
            let _ = cursor.flush(stream.log(), &mut all);
            let _ = (cursor.offset(), cursor.kept(stream.log()), cursor.half_sent(), cursor.held());
        }
        let _ =
            (stream.log().offer(), stream.log().position(round), stream.stats().bitrate(), stream.newest());
        let _ = stream.log().publication_from(0).map(|it| stream.log().start_of_forward(it, round == 1));
        stream.tick(round * 1_000);
        match round {
            2 => drop(stream.publish(ConnId(9), Sender::Forwarder { clock: "a" }, 20_000)),
            3 => drop(stream.publish(ConnId(10), Sender::Encoder { clock: 0 }, 40_000)),
            _ => {}
        }
        feed(&mut stream, round * 20_000);
        // What this process leaves the next one can go on with.
        assert!(stream.save(Vec::new()).is_some());
        for cursor in &mut cursors {
            cursor.pause();
            cursor.resume(start);
        }
    }
    stream.shrink(1);
    stream.publication().map(|id| stream.end(id, Ended::BrokenOff, 90_000));
    stream.clear();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Chance, seeds};

    #[test]
    fn streams_survive_any_record() {
        for seed in seeds(3_000) {
            let mut chance = Chance::new(seed);
            // Few damages, else no record would be gone on from.
            let bytes = 4 * chance.below(6) as usize;
            let data: Vec<u8> = (0..bytes).map(|_| chance.next() as u8).collect();
            stream_record(&data);
        }
    }
}
