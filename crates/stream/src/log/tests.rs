use rtmp::media::Kind;

use super::join::NEAR_LIVE;
use super::*;
use crate::storage::SEGMENT;
use crate::testing::store;

const QUEUE_LENGTH: u64 = 30_000;

fn log() -> Log {
    Log::new(&store(), 60_000, QUEUE_LENGTH)
}

fn video(log: &mut Log, time: u64, key: bool) {
    log.append(Track::Video, time, key, &[if key { 0x17 } else { 0x27 }, 1, 0, 0, 0, 9]);
}

fn audio(log: &mut Log, time: u64) {
    log.append(Track::Audio, time, false, &[0xAF, 1, 2]);
}

#[test]
fn the_first_message_of_a_track_is_behind_a_seed() {
    let mut log = log();
    video(&mut log, 5_000, true);
    let barrier = log.barrier_at(0).unwrap();
    assert_eq!(barrier.offset, 0);
    assert!(matches!(barrier.kind, BarrierKind::Seed(Track::Video)));
    // The message itself then has delta 0.
    assert_eq!(log.storage.read(0, 4), [0x44, 0, 0, 0]);
}

#[test]
fn a_track_that_was_silent_is_seeded_anew_and_no_delta_is_long() {
    let mut log = log();
    video(&mut log, 0, true);
    audio(&mut log, 10);
    for i in 1..=300 {
        video(&mut log, i * 40, false);
    }
    assert!(log.key.as_ref().unwrap().seed_time(Track::Audio).is_none_or(|t| t == 10));
    audio(&mut log, 11_990);
    let barrier = log.barrier_at(2).unwrap();
    assert!(matches!(barrier.kind, BarrierKind::Seed(Track::Audio)));
    assert_eq!(log.entries_from(barrier.offset).next().unwrap().time, 11_990);
}

#[test]
fn an_entry_tells_where_a_message_lies_and_what_it_is() {
    let mut log = log();
    video(&mut log, 7, true);
    audio(&mut log, 9);
    let entries: Vec<_> = log.entries_from(0).copied().collect();
    let [key, sound] = entries[..] else { panic!("{entries:?}") };
    assert_eq!((key.time, key.payload, key.track, key.key), (7, 6, Track::Video, true));
    assert_eq!((sound.time, sound.payload, sound.track, sound.key), (9, 3, Track::Audio, false));
    assert_eq!(log.payload(&key), [0x17, 1, 0, 0, 0, 9]);
    assert_eq!(log.payload(&sound), [0xAF, 1, 2]);
}

#[test]
fn what_no_reader_needs_is_kept_no_longer_than_until_the_next_keyframe() {
    let mut log = log();
    let append = |log: &mut Log, frames: std::ops::Range<u64>| {
        frames.for_each(|i| video(log, i * 40, i.is_multiple_of(50)));
    };
    append(&mut log, 0..120);
    assert_eq!(log.entries.len(), 120, "somebody may read");
    log.release(u64::MAX);
    append(&mut log, 120..121);
    // The group from 100 on, and the message before it.
    assert_eq!(log.entries.front().map(|entry| entry.time), Some(99 * 40));
    assert_eq!(joined(&log).time, 100 * 40);

    let slow = joined(&log).offset;
    log.begin_at(slow);
    append(&mut log, 121..400);
    assert_eq!(log.entries_from(slow).next().map(|entry| entry.time), Some(100 * 40));
    assert_eq!(log.position(slow), (100, Some(99 * 40)));
    let reached = log.entries_from(0).nth(200).unwrap().offset;
    log.release(reached);
    append(&mut log, 400..401);
    assert_eq!(log.entries.front().map(|entry| entry.time), Some((99 + 199) * 40));
}

#[test]
fn without_a_keyframe_all_of_the_queue_is_kept() {
    let mut log = log();
    log.release(u64::MAX);
    (0..100).for_each(|i| audio(&mut log, i * 20));
    assert_eq!(log.entries.len(), 100);
}

#[test]
fn a_position_counts_the_messages_before_it_and_has_the_time_of_the_last() {
    let mut log = log();
    assert_eq!(log.position(0), (0, None));
    for i in 0..2_000 {
        video(&mut log, i * 40, i % 50 == 0);
    }
    let kept: Vec<_> = log.entries_from(0).copied().collect();
    assert!(kept.len() < 2_000, "the queue is shorter");
    for entry in &kept[1..] {
        assert_eq!(log.position(entry.offset), (entry.time / 40, Some(entry.time - 40)));
    }
    assert_eq!(log.position(log.end()), (2_000, Some(1_999 * 40)));
    log.clear();
    assert_eq!(log.position(log.end()), (2_000, None));
}

#[test]
fn a_joining_reader_starts_at_the_newest_keyframe_with_what_was_in_force_there() {
    let (mut log, store) = (log(), store());
    let header = |h: &mut Headers, payload: &'static [u8]| {
        let scope = h.scope(Kind::VideoHeader, Track::Video, payload);
        h.keep(&store, Track::Video, scope, payload, false);
    };
    log.update_headers(|h| header(h, b"\x17\x00old"));
    video(&mut log, 0, true);
    video(&mut log, 40, false);
    log.update_headers(|h| header(h, b"\x17\x00new"));
    let point = log.join_after(log.start(true), 0).unwrap();
    assert_eq!(point.offset, 0);
    let payloads: Vec<_> = point.headers.of(Track::Video).map(|packet| &packet.payload[..]).collect();
    assert_eq!(payloads, [&b"\x17\x00old"[..]]);
    assert_eq!(log.start(false), log.end());
    video(&mut log, 80, true);
    assert_eq!(log.join_after(1, 0).unwrap().time, 80);
}

fn joined(log: &Log) -> JoinPoint {
    log.join_after(log.start(true), 0).unwrap()
}

#[test]
fn a_keyframe_of_several_messages_begins_with_the_first() {
    let mut log = log();
    for picture in 0..3 {
        let first = log.end();
        for slice in 0..4 {
            video(&mut log, picture * 40, true);
            if slice == 1 {
                audio(&mut log, picture * 40);
            }
            assert_eq!(joined(&log).offset, first);
        }
    }
    // Keyframes at one time with pictures between them are as many.
    video(&mut log, 80, false);
    let second = log.end();
    video(&mut log, 80, true);
    assert_eq!(joined(&log).offset, second);
}

#[test]
fn keyframes_at_one_time_without_end_are_joined_all_the_same() {
    let mut log = log();
    for _ in 0..3 * GOP_MESSAGES {
        video(&mut log, 40, true);
        assert_eq!(log.offer(), Offer::Keyframe);
    }
}

#[test]
fn a_group_of_pictures_is_kept_and_offered_up_to_its_bounds_however_old_it_is() {
    let mut log = log();
    video(&mut log, 0, true);
    for i in 1..GOP_MESSAGES {
        video(&mut log, i * 40, false);
    }
    assert_eq!((joined(&log).offset, log.floor()), (0, 0));
    video(&mut log, GOP_MESSAGES * 40, false);
    assert!(joined(&log).offset > log.floor(), "near live");
    let oldest = log.entries[0].time;
    assert!(log.newest - oldest <= QUEUE_LENGTH, "then it is dropped as all that is old");
}

#[test]
fn a_source_of_one_keyframe_is_joined_without_one_once_its_group_is_too_large() {
    let mut log = log();
    let frame = vec![0x27; 100_000];
    log.append(Track::Video, 0, true, &frame);
    let fits = GOP_BYTES / 100_100;
    (1..fits).for_each(|i| log.append(Track::Video, i * 40, false, &frame));
    assert_eq!(log.offer(), Offer::Keyframe);
    (fits..fits + 10).for_each(|i| log.append(Track::Video, i * 40, false, &frame));
    assert_eq!(log.offer(), Offer::Keyless);
    assert!(!joined(&log).holds_video && log.newest - joined(&log).time <= NEAR_LIVE);
}

#[test]
fn without_video_readers_start_near_live() {
    let mut log = log();
    for i in 0..150 {
        audio(&mut log, i * 23);
    }
    let point = joined(&log);
    assert!((1_400..=1_450).contains(&point.time) && point.holds_video, "{}", point.time);
    assert_eq!(log.join_after(log.start(false), 0).unwrap().offset, log.end());
    video(&mut log, 3_500, true);
    assert_eq!(joined(&log).time, 3_500);
}

#[test]
fn near_live_is_not_before_the_last_header() {
    let mut log = log();
    for i in 0..50 {
        audio(&mut log, i * 23);
    }
    log.update_headers(|headers| headers.metadata = None);
    log.append_header(Track::Audio, 1_150, &[0xAF, 0, 1]);
    let end = log.end();
    audio(&mut log, 1_173);
    assert_eq!(joined(&log).offset, end);
}

fn start_of_forward(log: &Log, is_first: bool) -> u64 {
    log.start_of_forward(log.current().unwrap(), is_first)
}

#[test]
fn publications_that_are_over_are_offered_one_after_the_other_while_they_are_there() {
    let mut log = log();
    let mut begins = Vec::new();
    for number in 0..3 {
        log.reset(number * 1_000);
        begins.push(log.end());
        video(&mut log, number * 1_000, true);
        video(&mut log, number * 1_000 + 40, false);
        log.pause();
    }
    let spans: Vec<_> =
        std::iter::successors(log.publication_from(0), |last| log.publication_from(last.begin + 1)).collect();
    let ends = [begins[1], begins[2], log.end()].map(Some);
    let expected: Vec<_> = begins.iter().zip(ends).map(|(begin, end)| Span { begin: *begin, end }).collect();
    assert_eq!(spans, expected);
    // Who waited for the first gets it, and a forwarder each.
    assert_eq!(log.join_after(0, 0).unwrap().offset, 0);
    for span in &spans {
        let from = log.start_of_forward(*span, false);
        assert_eq!((from, log.join_after(from, 0).unwrap().offset), (span.begin, span.begin));
    }
    // The begin of one that was long is gone: its last keyframe is left.
    log.reset(3_000);
    for second in 3..60 {
        video(&mut log, second * 1_000, true);
    }
    let [_, Span { begin: long, .. }] = [log.publication_from(0), log.current()].map(Option::unwrap);
    let key = log.key.as_ref().unwrap().offset;
    log.pause();
    log.reset(60_000);
    video(&mut log, 60_000, false);
    let span = log.publication_at(long).unwrap();
    assert!(long < log.floor() && log.publication_at(0).is_none());
    assert_eq!(log.start_of_forward(span, true), key);
    assert_eq!(log.join_after(key, 0).unwrap().offset, key);
}

#[test]
fn publications_without_number_are_not_kept() {
    let mut log = log();
    for number in 0..10 * PAST_MAX as u64 {
        log.reset(number);
        video(&mut log, number, true);
    }
    assert_eq!(log.past.len(), PAST_MAX);
}

#[test]
fn who_waits_starts_where_the_publication_begins() {
    let mut log = log();
    audio(&mut log, 5);
    let from = log.end();
    log.reset(1_000);
    assert!(log.join_after(from, 0).is_none(), "nothing has come");
    log.append_header(Track::Audio, 1_000, &[0xAF, 0, 1]);
    audio(&mut log, 1_020);
    let begin = log.join_after(from, 0).unwrap();
    assert_eq!((begin.offset, begin.time, begin.holds_video), (from, 1_000, true));
    assert_eq!(start_of_forward(&log, false), from);
    // Whoever comes late to it gets the keyframe.
    video(&mut log, 1_040, true);
    for i in 0..200 {
        audio(&mut log, 1_040 + i * 20);
    }
    assert_eq!(log.join_after(from - 1, 0).unwrap().time, 1_040);
    assert_eq!(start_of_forward(&log, false), log.key.as_ref().unwrap().offset);
    // A beginning faster than its time is still the beginning for who waited there.
    assert_eq!(log.join_after(from, 0).unwrap().time, 1_000);
    assert_eq!(start_of_forward(&log, true), from);
}

#[test]
fn a_publication_that_is_over_has_no_live_edge() {
    let mut log = log();
    for i in 0..150 {
        audio(&mut log, i * 23);
    }
    log.pause();
    assert!(log.join_after(0, 0).is_none());
    audio(&mut log, 3_500);
    assert!(log.join_after(0, 0).is_some());
}

#[test]
fn memory_is_bounded_in_time_and_in_bytes() {
    let mut log = log();
    let frame = vec![0x27; 100_000];
    for i in 0..2_000 {
        log.append(Track::Video, i * 40, i % 50 == 0, &frame);
        assert!(log.storage.held() <= QUEUE_BYTES + 2 * SEGMENT as u64);
    }
    for i in 2_000..20_000 {
        log.append(Track::Video, i * 40, i % 50 == 0, &[0x27; 100]);
    }
    assert!(log.newest - log.entries[0].time <= log.queue_length);
    assert!(log.entries.len() <= 800, "{}", log.entries.len());
    // Time that stands still keeps nothing for ever either.
    for _ in 0..QUEUE_MESSAGES + 10 {
        log.append(Track::Video, 800_000, true, &[0x12]);
    }
    assert_eq!(log.entries.len(), QUEUE_MESSAGES);
}

#[test]
fn metadata_counts_as_what_is_kept_for_slow_readers() {
    let mut log = log();
    for i in 0..3_000 {
        log.append_metadata(Blob::new(&store(), &vec![0; 64 * 1024 - i]));
        audio(&mut log, 5);
        assert!(log.barrier_bytes <= QUEUE_BYTES + 64 * 1024);
    }
    assert!(log.barriers.len() < 1_200);
    log.clear();
    assert_eq!((log.barriers.len(), log.barrier_bytes), (1, 0), "the next publication is another");
}

#[test]
fn a_cleared_log_holds_nothing_and_goes_on_where_it_was() {
    let mut log = log();
    video(&mut log, 5, true);
    let end = log.end();
    log.clear();
    assert_eq!((log.storage.held(), log.end(), log.floor(), log.newest()), (0, end, end, 5));
    assert!(log.join_after(0, 0).is_none());
    video(&mut log, 45, true);
    assert_eq!(joined(&log).offset, end);
}

#[test]
fn a_picture_that_stands_still_is_joined_at_once_and_near_live() {
    let mut log = log();
    video(&mut log, 0, true);
    video(&mut log, 40, false);
    for i in 0..300 {
        audio(&mut log, i * 20);
    }
    for gop_cache in [true, false] {
        let point = log.join_after(log.start(gop_cache), 0).unwrap();
        assert_eq!((point.offset, point.time, point.is_cut), (0, log.newest - NEAR_LIVE, true));
    }
    // One more picture, and it stands still again.
    video(&mut log, 6_000, false);
    assert!(joined(&log).is_cut);
    video(&mut log, 6_040, true);
    assert!(!joined(&log).is_cut);
}

#[test]
fn a_source_without_keyframes_is_joined_without_one_after_a_while() {
    let mut log = log();
    log.reset(0);
    (0..=KEY_WAIT / 40).for_each(|i| video(&mut log, i * 40, false));
    assert!(joined(&log).holds_video);
    assert_eq!(log.offer(), Offer::NoKeyframe);
    video(&mut log, KEY_WAIT + 40, false);
    assert!(!joined(&log).holds_video);
    video(&mut log, KEY_WAIT + 80, true);
    assert_eq!(joined(&log).time, KEY_WAIT + 80);
}

#[test]
fn an_offer_says_what_the_source_has_for_whoever_joins() {
    let mut log = log();
    assert_eq!(log.offer(), Offer::Nothing);
    audio(&mut log, 0);
    assert_eq!(log.offer(), Offer::NoVideo);
    video(&mut log, 20, false);
    assert_eq!(log.offer(), Offer::NoKeyframe);
    video(&mut log, 20 + KEY_WAIT + 1, false);
    assert_eq!(log.offer(), Offer::Keyless);
    video(&mut log, 40 + KEY_WAIT, true);
    assert_eq!(log.offer(), Offer::Keyframe);
}

#[test]
fn data_costs_no_barrier_but_the_first() {
    let mut log = log();
    for i in 0..500 {
        video(&mut log, i * 40, i % 50 == 0);
        log.append(Track::Data, i * 40, false, b"data");
    }
    let seeds = |b: &&Barrier| matches!(b.kind, BarrierKind::Seed(Track::Data));
    assert_eq!(log.barriers.iter().filter(seeds).count(), 1);
}
