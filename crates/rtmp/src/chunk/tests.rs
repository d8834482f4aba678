//! The reader and the writer of chunks against each other, and against bytes as peers send them.

use super::header::EXTENDED;
use super::*;
use crate::message_type::{ABORT, AGGREGATE, AUDIO, COMMAND, DATA, SET_CHUNK_SIZE, VIDEO};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::HashMap;

fn message(csid: u32, type_id: u8, msid: u32, timestamp: u32, payload: &[u8]) -> Message {
    Message { csid, type_id, msid, timestamp, payload: Bytes::copy_from_slice(payload) }
}

/// Everything `bytes` contains, handed in `step` bytes at a time.
fn read_in_steps(limits: Limits, bytes: &[u8], step: usize) -> Result<Vec<Message>, ReadError> {
    let mut reader = Reader::new(limits);
    let mut messages = Vec::new();
    for mut piece in bytes.chunks(step) {
        while let Some(message) = reader.read(&mut piece)? {
            messages.push(message);
        }
        assert!(piece.is_empty());
    }
    Ok(messages)
}

/// Checked whole and byte by byte: a cut must not change anything.
fn read_all(bytes: &[u8]) -> Result<Vec<Message>, ReadError> {
    let whole = read_in_steps(Limits::default(), bytes, usize::MAX);
    assert_eq!(whole, read_in_steps(Limits::default(), bytes, 1));
    whole
}

fn full(csid: u8, timestamp: u32, type_id: u8, payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    put_full(&mut out, DEFAULT_CHUNK_SIZE, csid, timestamp, type_id, 1, payload);
    out
}

fn times(bytes: &[u8]) -> Vec<u32> {
    read_all(bytes).unwrap().iter().map(|message| message.timestamp).collect()
}

/// A chunk writer that can do what other senders do: every header format, csid width, interleaving.
struct Sender {
    chunk_size: usize,
    echo: bool,
    last: HashMap<u32, (Message, u32)>,
}

impl Sender {
    /// The chunks of `message`, with the most compressed header not below `fmt` that can express it.
    fn chunks(&mut self, fmt: u8, message: &Message) -> Vec<Vec<u8>> {
        let (fmt, delta) = match self.last.get(&message.csid) {
            None => (0, 0),
            Some((last, last_delta)) => {
                let delta = message.timestamp.wrapping_sub(last.timestamp);
                let same = last.payload.len() == message.payload.len() && last.type_id == message.type_id;
                let possible = match () {
                    () if last.msid != message.msid => 0,
                    () if !same => 1,
                    () if *last_delta != delta => 2,
                    () => 3,
                };
                (fmt.min(possible), delta)
            }
        };
        let field = if fmt == 0 { message.timestamp } else { delta };
        let extended = if field >= EXTENDED { field.to_be_bytes().to_vec() } else { Vec::new() };
        let mut head = basic_header(fmt, message.csid);
        if fmt < 3 {
            head.extend(&field.min(EXTENDED).to_be_bytes()[1..]);
        }
        if fmt < 2 {
            head.extend(&(message.payload.len() as u32).to_be_bytes()[1..]);
            head.push(message.type_id);
        }
        if fmt == 0 {
            head.extend(message.msid.to_le_bytes());
        }
        if fmt < 3 || self.echo {
            head.extend(&extended);
        }
        // After fmt 0 the next fmt 3 is ambiguous among senders; u32::MAX keeps this one from using it.
        let delta = if fmt == 0 { u32::MAX } else { delta };
        self.last.insert(message.csid, (message.clone(), delta));
        let mut chunks = Vec::new();
        for part in message.payload.chunks(self.chunk_size) {
            chunks.push([&head[..], part].concat());
            head = basic_header(3, message.csid);
            if self.echo {
                head.extend(&extended);
            }
        }
        chunks
    }
}

fn basic_header(fmt: u8, csid: u32) -> Vec<u8> {
    match csid {
        2..=63 => vec![fmt << 6 | csid as u8],
        64..=319 => vec![fmt << 6, (csid - 64) as u8],
        _ => vec![fmt << 6 | 1, (csid - 64) as u8, ((csid - 64) >> 8) as u8],
    }
}

#[derive(Debug, Clone)]
struct Plan {
    messages: Vec<(Message, u8)>,
    order: Vec<prop::sample::Index>,
    chunk_size: u32,
    echo: bool,
}

fn plans() -> impl Strategy<Value = Plan> {
    let step = prop_oneof![8 => 0u32..50, 1 => 0xFF_FFF0u32..0x100_0010];
    let csid = prop_oneof![2u32..8, Just(63), Just(64), Just(319), Just(320), Just(65_599)];
    let body = (prop_oneof![1usize..4, 1usize..700], any::<u8>());
    let type_id = prop_oneof![Just(AUDIO), Just(VIDEO), Just(DATA), Just(COMMAND)];
    let message = (csid, type_id, 0u32..2, step, body, 0u8..4);
    let start = prop_oneof![Just(0), Just(0xFF_FFF0u32), any::<u32>()];
    let messages = (prop::collection::vec(message, 1..12), start).prop_map(|(drafts, mut time)| {
        let mut messages = Vec::new();
        for (csid, type_id, msid, step, (len, seed), fmt) in drafts {
            time = u32::wrapping_add(time, step);
            let payload = (0..len).map(|i| seed.wrapping_add(i as u8)).collect::<Vec<_>>();
            messages.push((message_of(csid, type_id, msid, time, payload), fmt));
        }
        messages
    });
    let order = prop::collection::vec(any::<prop::sample::Index>(), 80);
    let chunk_size = prop_oneof![Just(1u32), 2u32..300, Just(60_000), Just(i32::MAX as u32)];
    (messages, order, chunk_size, any::<bool>()).prop_map(|(messages, order, chunk_size, echo)| Plan {
        messages,
        order,
        chunk_size,
        echo,
    })
}

fn message_of(csid: u32, type_id: u8, msid: u32, timestamp: u32, payload: Vec<u8>) -> Message {
    Message { csid, type_id, msid, timestamp, payload: payload.into() }
}

/// The bytes of a plan, its chunk streams interleaved, and the messages in the order of their last chunks.
fn encode(plan: &Plan) -> (Vec<u8>, Vec<Message>) {
    let mut sender = Sender { chunk_size: plan.chunk_size as usize, echo: plan.echo, last: HashMap::new() };
    type Chunks = Vec<(Vec<u8>, Option<Message>)>;
    let mut queues: Vec<(u32, Chunks)> = Vec::new();
    for (message, fmt) in &plan.messages {
        let chunks = sender.chunks(*fmt, message);
        let last = chunks.len() - 1;
        let chunks =
            chunks.into_iter().enumerate().map(|(i, chunk)| (chunk, (i == last).then(|| message.clone())));
        match queues.iter_mut().find(|(csid, _)| *csid == message.csid) {
            Some((_, queue)) => queue.extend(chunks),
            None => queues.push((message.csid, chunks.collect())),
        }
    }
    let mut bytes = Vec::new();
    put_full(&mut bytes, DEFAULT_CHUNK_SIZE, 2, 0, SET_CHUNK_SIZE, 0, &plan.chunk_size.to_be_bytes());
    let mut expected = Vec::new();
    for turn in 0.. {
        queues.retain(|(_, queue)| !queue.is_empty());
        if queues.is_empty() {
            break;
        }
        let pick = plan.order[turn % plan.order.len()].index(queues.len());
        let (chunk, complete) = queues[pick].1.remove(0);
        bytes.extend(chunk);
        expected.extend(complete);
    }
    // Without echoes, a last chunk that looks like the begin of one is only understood by what follows it.
    let end = message(62, AUDIO, 1, 0, b"end");
    bytes.extend(basic_header(0, 62));
    bytes.extend(b"\0\0\0\0\0\x03\x08\x01\0\0\0");
    bytes.extend(end.payload.chunks(plan.chunk_size as usize).collect::<Vec<_>>().join(&0xFE));
    expected.push(end);
    (bytes, expected)
}

proptest! {
    #[test]
    fn interleaved_messages_of_any_header_format_read_back_at_any_cut(plan in plans(), step in 1usize..300) {
        let (bytes, expected) = encode(&plan);
        prop_assert_eq!(read_in_steps(Limits::default(), &bytes, step), Ok(expected));
    }

    #[test]
    fn any_bytes_give_the_same_at_any_cut(
        bytes in prop::collection::vec(prop_oneof![0u8..4, 0xC0u8..0xC8, any::<u8>()], 0..600),
        step in 1usize..50,
    ) {
        let limits = Limits { message: 200, data: 150, command: 100, chunk_streams: 6, partial: 400 };
        prop_assert_eq!(
            read_in_steps(limits, &bytes, usize::MAX).is_ok(),
            read_in_steps(limits, &bytes, step).is_ok()
        );
        if let Ok(whole) = read_in_steps(limits, &bytes, usize::MAX) {
            prop_assert_eq!(Ok(whole), read_in_steps(limits, &bytes, step));
        }
    }

    #[test]
    fn a_reader_from_a_record_that_reads_again_what_was_read_since_is_where_the_first_one_is(
        plan in plans(),
        cuts in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let (bytes, _) = encode(&plan);
        let mut cuts = [cuts.0.index(bytes.len()), cuts.1.index(bytes.len())];
        cuts.sort_unstable();
        let (mut before, mut since, mut rest) =
            (&bytes[..cuts[0]], &bytes[cuts[0]..cuts[1]], &bytes[cuts[1]..]);
        let mut reader = Reader::new(Limits::default());
        while reader.read(&mut before)?.is_some() {}
        let record = postcard::to_stdvec(&reader).unwrap();
        let partials = reader.partials().collect::<Vec<_>>().concat();
        let mut again: Reader = postcard::from_bytes(&record).unwrap();
        again.check(Limits::default())?;
        prop_assert!(again.restore_partials(&partials));
        for mut journal in since.chunks(100) {
            while again.read(&mut journal)?.is_some() {}
        }
        while reader.read(&mut since)?.is_some() {}
        prop_assert_eq!(postcard::to_stdvec(&again), postcard::to_stdvec(&reader));
        prop_assert!(again.partials().eq(reader.partials()));
        let mut same = rest;
        while let Some(message) = reader.read(&mut rest)? {
            prop_assert_eq!(again.read(&mut same)?, Some(message));
        }
        prop_assert_eq!(again.read(&mut same)?, None);
    }

    #[test]
    fn the_writers_are_read_back_and_the_lengths_are_exact(
        chunk_size in prop_oneof![Just(0u32), 1u32..500, Just(u32::MAX)],
        base in prop_oneof![any::<u32>(), Just(0xFF_FFFF), Just(0xFF_FFFE)],
        delta in 0u32..0xFF_FFFF,
        payload in prop::collection::vec(any::<u8>(), 1..1500),
        csid in 2u8..64,
    ) {
        let mut bytes = Vec::new();
        let announced = chunk_size.clamp(1, i32::MAX as u32);
        put_full(&mut bytes, DEFAULT_CHUNK_SIZE, 2, 0, SET_CHUNK_SIZE, 0, &announced.to_be_bytes());
        let begin = bytes.len();
        put_full(&mut bytes, chunk_size.min(announced), csid, base, VIDEO, 7, &payload);
        let middle = bytes.len();
        put_delta(&mut bytes, chunk_size.min(announced), csid, delta, VIDEO, &payload);
        let end = bytes.len();
        prop_assert_eq!(middle - begin, full_len(announced, base, payload.len()));
        prop_assert_eq!(end - middle, delta_len(announced, payload.len()));
        // Memory that does not grow gets the same.
        let mut fixed = vec![0; end - begin];
        let mut room = &mut fixed[..];
        put_full(&mut room, chunk_size.min(announced), csid, base, VIDEO, 7, &payload);
        put_delta(&mut room, chunk_size.min(announced), csid, delta, VIDEO, &payload);
        prop_assert!(room.is_empty());
        prop_assert_eq!(&fixed, &bytes[begin..]);
        let expected = [base, base.wrapping_add(delta)].map(|time| message(csid.into(), VIDEO, 7, time, &payload));
        prop_assert_eq!(read_in_steps(Limits::default(), &bytes, 97), Ok(expected.to_vec()));
    }
}

#[test]
fn a_full_message_has_the_layout_of_the_specification() {
    assert_eq!(full(5, 0x01_0203, AUDIO, b"ab"), b"\x05\x01\x02\x03\0\0\x02\x08\x01\0\0\0ab");
    let long = full(4, 0x0100_0000, VIDEO, &[0x55; 130]);
    assert_eq!(long[..16], *b"\x04\xff\xff\xff\0\0\x82\x09\x01\0\0\0\x01\0\0\0");
    assert_eq!(long[16 + 128..], *b"\xc4\x01\0\0\0\x55\x55");
}

#[test]
fn a_delta_message_has_neither_time_base_nor_stream() {
    let mut out = Vec::new();
    put_delta(&mut out, 2, 7, 40, DATA, b"abc");
    assert_eq!(out, b"\x47\0\0\x28\0\0\x03\x12ab\xc7c");
    assert_eq!(delta_len(2, 0), 8);
}

#[test]
fn an_audio_chunk_between_two_video_chunks_belongs_to_its_own_message() {
    let video = full(6, 40, VIDEO, &[1; 200]);
    let bytes = [&video[..12 + 128], &full(4, 33, AUDIO, b"a"), &video[12 + 128..]].concat();
    let expected = vec![message(4, AUDIO, 1, 33, b"a"), message(6, VIDEO, 1, 40, &[1; 200])];
    assert_eq!(read_all(&bytes), Ok(expected));
}

#[test]
fn a_new_header_inside_a_message_is_an_error() {
    let long = full(6, 40, VIDEO, &[1; 300]);
    for next in
        [full(6, 40, VIDEO, &[1; 10]), full(6, 41, VIDEO, &[1; 300]), b"\x46\0\0\0\0\x01\x2c\x09".to_vec()]
    {
        let bytes = [&long[..12 + 128], &next].concat();
        assert_eq!(read_all(&bytes), Err(ReadError::MidMessage { csid: 6 }));
    }
}

#[test]
fn an_extended_time_stamp_is_read_with_and_without_its_echo() {
    let with = full(6, 0x0123_4567, VIDEO, &[9; 300]);
    let head = 16 + 128 + 1;
    let bare = [&with[..head], &[9; 128], b"\xc6", &[9; 44]].concat();
    let expected = vec![message(6, VIDEO, 1, 0x0123_4567, &[9; 300])];
    assert_eq!(read_all(&with), Ok(expected.clone()));
    assert_eq!(read_all(&bare), Ok(expected));
}

#[test]
fn payload_that_begins_like_the_time_stamp_but_differs_is_payload() {
    // One byte of the last chunk agrees with the time stamp; the next message follows at once.
    let mut payload = vec![9; 129];
    payload[128] = 0x01;
    let mut bytes = full(6, 0x0123_4567, VIDEO, &payload);
    bytes.drain(16 + 128 + 1..16 + 128 + 5);
    bytes.extend(full(4, 1, AUDIO, b"a"));
    assert_eq!(read_all(&bytes).unwrap().len(), 2);
}

#[test]
fn an_extended_field_of_a_delta_header_is_a_delta() {
    let bytes = [&full(6, 5, VIDEO, b"a")[..], b"\x46\xff\xff\xff\0\0\x01\x09\x01\0\0\0b"].concat();
    assert_eq!(times(&bytes), [5, 5 + 0x0100_0000]);
    let bytes = [&full(6, 5, VIDEO, b"a")[..], b"\x86\xff\xff\xff\0\0\0\x07b"].concat();
    assert_eq!(times(&bytes), [5, 12], "an extended field may hold a small value");
}

#[test]
fn time_stamps_wrap_at_32_bits() {
    let bytes = [&full(6, u32::MAX, VIDEO, b"a")[..], b"\x46\0\0\x02\0\0\x01\x09b"].concat();
    assert_eq!(times(&bytes), [u32::MAX, 1]);
}

#[test]
fn a_message_that_starts_with_fmt_3_repeats_the_last_delta() {
    let bytes = [&full(4, 1000, AUDIO, b"a")[..], b"\x44\0\0\x17\0\0\x01\x08b\xc4c\xc4d"].concat();
    assert_eq!(times(&bytes), [1000, 1023, 1046, 1069]);
}

#[test]
fn after_fmt_0_its_time_is_the_delta_unless_that_is_a_jump() {
    assert_eq!(times(&[&full(4, 23, AUDIO, b"a")[..], b"\xc4b\xc4c"].concat()), [23, 46, 69]);
    assert_eq!(times(&[&full(4, 10_001, AUDIO, b"a")[..], b"\xc4b\xc4c"].concat()), [10_001; 3]);
}

#[test]
fn the_first_ping_reply_of_librtmp_is_accepted_as_fmt_1() {
    let expected = message(2, 4, 0, 7, b"\0\x07\0\0\0\x09");
    assert_eq!(read_all(b"\x42\0\0\x07\0\0\x06\x04\0\x07\0\0\0\x09"), Ok(vec![expected]));
}

#[test]
fn a_chunk_stream_cannot_begin_with_fmt_2_or_3() {
    assert_eq!(read_all(b"\x85\0\0\0"), Err(ReadError::NoHeader { csid: 5, fmt: 2 }));
    assert_eq!(read_all(b"\xc0\x01"), Err(ReadError::NoHeader { csid: 65, fmt: 3 }));
}

#[test]
fn chunk_streams_are_bounded_far_below_their_65599_ids() {
    let mut bytes = Vec::new();
    for csid in 64..65_600u32 {
        bytes.extend(basic_header(0, csid));
        bytes.extend(b"\0\0\0\0\0\x01\x08\0\0\0\0a");
    }
    assert_eq!(read_in_steps(Limits::default(), &bytes, 4096), Err(ReadError::TooManyChunkStreams(64)));
}

#[test]
fn the_chunk_size_counts_from_the_next_chunk_on_even_inside_a_message() {
    let mut bytes = full(6, 0, VIDEO, &[1; 400])[..12 + 128].to_vec();
    put_full(&mut bytes, 128, 2, 0, SET_CHUNK_SIZE, 0, &200u32.to_be_bytes());
    bytes.extend([&[0xC6][..], &[1; 200], &[0xC6], &[1; 72]].concat());
    assert_eq!(read_all(&bytes), Ok(vec![message(6, VIDEO, 1, 0, &[1; 400])]));
}

#[test]
fn a_chunk_size_of_0_or_beyond_31_bits_is_an_error() {
    let set = |size: u32| full(2, 0, SET_CHUNK_SIZE, &size.to_be_bytes());
    assert_eq!(read_all(&set(0)), Err(ReadError::ChunkSize(0)));
    assert_eq!(read_all(&set(1 << 31)), Err(ReadError::ChunkSize(1 << 31)));
    assert_eq!(read_all(&set(u32::MAX)), Err(ReadError::ChunkSize(u32::MAX)));
    assert_eq!(read_all(&set((1 << 31) - 1)), Ok(vec![]));
    assert_eq!(read_all(&full(2, 0, SET_CHUNK_SIZE, b"\0\0\x01")), Err(ReadError::ShortControl(1)));
}

#[test]
fn an_abort_drops_the_partial_message_and_nothing_else() {
    let mut bytes = full(6, 40, VIDEO, &[1; 300])[..12 + 128].to_vec();
    bytes.extend(full(2, 0, ABORT, &6u32.to_be_bytes()));
    bytes.extend(full(2, 0, ABORT, &99u32.to_be_bytes()));
    bytes.extend(full(6, 80, VIDEO, b"next"));
    assert_eq!(read_all(&bytes), Ok(vec![message(6, VIDEO, 1, 80, b"next")]));
}

#[test]
fn messages_without_payload_are_dropped_but_set_the_time() {
    let bytes = [&full(4, 1000, AUDIO, b"")[..], b"\x44\0\0\x05\0\0\x01\x08b"].concat();
    assert_eq!(times(&bytes), [1005]);
}

#[test]
fn the_length_limit_depends_on_the_type() {
    let limits = Limits { message: 20, data: 15, command: 10, ..Limits::default() };
    let types =
        [(AUDIO, 20), (VIDEO, 20), (AGGREGATE, 20), (DATA, 15), (COMMAND, 10), (99, 10), (5, 10), (6, 10)];
    for (type_id, limit) in types {
        let bytes = |len| full(6, 0, type_id, &vec![0; len]);
        assert_eq!(read_in_steps(limits, &bytes(limit), 7).unwrap().len(), 1);
        let read = read_in_steps(limits, &bytes(limit + 1), 7);
        let error = ReadError::TooLong { type_id, length: limit + 1, limit };
        assert_eq!(read, if type_id < 7 { Err(error) } else { Ok(vec![]) }, "{type_id}");
    }
}

#[test]
fn messages_that_are_too_long_cost_that_message_and_no_memory() {
    let limits = Limits { message: 400, data: 300, command: 200, partial: 500, ..Limits::default() };
    for type_id in [AUDIO, VIDEO, AGGREGATE, DATA, 15, COMMAND, 17, 16, 19, 99, 0] {
        let long = full(6, 40, type_id, &[1; 2_000]);
        // Another message between its chunks, one behind it that refers to it, and one that is aborted.
        let mut bytes = [&long[..12 + 128], &full(4, 33, AUDIO, b"a"), &long[12 + 128..]].concat();
        put_delta(&mut bytes, 128, 6, 5, VIDEO, b"next");
        bytes.extend(&full(6, 50, type_id, &[1; 2_000])[..12 + 128]);
        bytes.extend(full(2, 0, ABORT, &6u32.to_be_bytes()));
        bytes.extend(full(6, 60, VIDEO, b"last"));
        let expected = vec![
            message(4, AUDIO, 1, 33, b"a"),
            message(6, VIDEO, 1, 45, b"next"),
            message(6, VIDEO, 1, 60, b"last"),
        ];
        for step in [1, 7, 100, usize::MAX] {
            assert_eq!(read_in_steps(limits, &bytes, step), Ok(expected.clone()));
        }
        let mut reader = Reader::new(limits);
        assert_eq!(reader.read(&mut &long[..]), Ok(None));
        let limit = match type_id {
            AUDIO | VIDEO | AGGREGATE => 400,
            DATA | 15 => 300,
            _ => 200,
        };
        assert_eq!(reader.take_left_out(), Some(ReadError::TooLong { type_id, length: 2_000, limit }));
        assert_eq!(reader.take_left_out(), None);
        assert!(reader.allocated() <= 16 << 10, "{} bytes", reader.allocated());
    }
}

#[test]
fn the_sum_of_partial_messages_is_bounded_and_released() {
    let limits = Limits { partial: 300, ..Limits::default() };
    let first = full(6, 0, VIDEO, &[1; 200]);
    let one_at_a_time = first.repeat(5);
    assert_eq!(read_in_steps(limits, &one_at_a_time, 50).unwrap().len(), 5);
    let halves: Vec<u8> =
        (3..6).flat_map(|csid| full(csid, 0, VIDEO, &[1; 200])[..12 + 128].to_vec()).collect();
    assert_eq!(read_in_steps(limits, &halves, 50), Err(ReadError::TooMuchPartial(300)));
}

#[test]
fn an_announced_length_allocates_nothing_before_bytes_arrive() {
    let mut reader = Reader::new(Limits::default());
    let mut input = &b"\x06\0\0\0\x7f\xff\xff\x09\x01\0\0\0abc"[..];
    assert_eq!(reader.read(&mut input), Ok(None));
    assert!(reader.allocated() <= 64 << 10, "{} bytes", reader.allocated());
}
