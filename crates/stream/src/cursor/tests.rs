use super::*;
use crate::blob::Blob;
use crate::testing::{CHUNK, decode, flush_all, flush_with, store};
use rtmp::chunk;
use rtmp::media::Kind;
use rtmp::message_type::{DATA, USER_CONTROL, VIDEO};

struct Source {
    log: Log,
    /// (time, track, payload) of every message in the log.
    sent: Vec<(u64, Track, Vec<u8>)>,
}

impl Source {
    fn new() -> Self {
        let mut log = Log::new(&store(), CHUNK, 30_000);
        let headers: [(Kind, Track, &[u8]); 2] = [
            (Kind::AudioHeader, Track::Audio, &[0xAF, 0, 0x12, 0x10]),
            (Kind::VideoHeader, Track::Video, &[0x17, 0, 0, 0, 0, 1]),
        ];
        for (kind, track, payload) in headers {
            let scope = log.headers().scope(kind, track, payload);
            log.update_headers(|headers| headers.keep(&store(), track, scope, payload, false));
        }
        log.append_metadata(Blob::new(&store(), b"\x02\x00\x0AonMetaData\x05"));
        Self { log, sent: Vec::new() }
    }

    fn send(&mut self, track: Track, time: u64, size: usize) {
        let key = track == Track::Video && self.sent.len().is_multiple_of(50);
        let mut payload = vec![(self.sent.len() % 251) as u8; size];
        payload[0] = if key { 0x17 } else { 0x27 };
        payload[1] = 1;
        self.log.append(track, time, key, &payload);
        self.sent.push((time, track, payload));
    }

    fn run(&mut self, from: u64, to: u64) {
        for t in from..to {
            self.send(
                if t % 2 == 0 { Track::Video } else { Track::Audio },
                t * 20,
                40 + (t as usize * 37) % 3_000,
            );
        }
    }
}

fn media(messages: &[(u8, u32, Vec<u8>)]) -> Vec<(u32, Vec<u8>)> {
    messages.iter().filter(|m| m.2.get(1) == Some(&1)).map(|m| (m.1, m.2.clone())).collect()
}

#[test]
fn every_cut_of_the_bytes_gives_the_same_messages() {
    for step in [1, 2, 7, 300, 100_000] {
        let mut source = Source::new();
        source.run(0, 30);
        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        let mut wire = Vec::new();
        for round in 0..3 {
            // One short write, then blocked, again and again, with control bytes pushed in between.
            loop {
                if wire.len().is_multiple_of(97) {
                    let mut ping = Vec::new();
                    let event = [0, 6, 0, 0, 0, 9];
                    chunk::put_full(&mut ping, CHUNK, 2, 0, USER_CONTROL, 0, &event);
                    assert!(cursor.push_control(&mut ping));
                }
                let mut left = 1;
                let (bytes, _) = flush_with(&mut cursor, &source.log, &mut || {
                    left -= 1;
                    if left == 0 { step } else { 0 }
                });
                let had = bytes.len();
                wire.extend(bytes);
                if had < step || wire.len() > 20_000 * (round + 1) {
                    break;
                }
            }
            source.run(30 + 10 * round as u64, 40 + 10 * round as u64);
        }
        let (rest, flushed) = flush_all(&mut cursor, &source.log);
        wire.extend(rest);
        assert_eq!(flushed, Flushed::CaughtUp);
        let seen = decode(&wire);
        let expected: Vec<_> = source.sent.iter().map(|(t, _, p)| (*t as u32, p.clone())).collect();
        assert_eq!(media(&seen), expected, "step {step}");
        assert!(seen.iter().any(|m| m.0 == USER_CONTROL));
    }
}

#[test]
fn cursors_that_share_a_socket_give_each_message_its_own_stream_and_time() {
    for step in [1, 150, 100_000] {
        let mut sources = [Source::new(), Source::new()];
        let mut cursors = [1, 2].map(|msid| Cursor::new(Recipient::Player, msid, 0));
        let mut wire = Vec::new();
        // Alone at first, then together, then alone again.
        for (round, is_shared) in [false, true, true, false].into_iter().enumerate() {
            cursors.iter_mut().for_each(|cursor| cursor.share(is_shared));
            let (from, to) = (20 * round as u64, 20 * (round as u64 + 1));
            sources.iter_mut().for_each(|source| source.run(from, to));
            let players = if is_shared { 0..2 } else { 0..1 };
            let mut is_done = false;
            while !is_done {
                is_done = true;
                for at in players.clone() {
                    if cursors[1 - at].is_half_sent() {
                        is_done = false;
                        continue;
                    }
                    let mut left = 3;
                    let (bytes, flushed) = flush_with(&mut cursors[at], &sources[at].log, &mut || {
                        left = i32::max(left - 1, 0);
                        if left > 0 { step } else { 0 }
                    });
                    wire.extend(bytes);
                    is_done &= flushed == Flushed::CaughtUp;
                }
            }
        }
        let (mut reader, mut input) = (crate::testing::client(CHUNK), &wire[..]);
        let mut seen = [Vec::new(), Vec::new()];
        while let Some(message) = reader.read(&mut input).unwrap() {
            if message.payload.get(1) == Some(&1) {
                seen[message.msid as usize - 1].push((message.timestamp, message.payload.to_vec()));
            }
        }
        let sent = |source: &Source, to: usize| -> Vec<_> {
            source.sent[..to].iter().map(|(time, _, payload)| (*time as u32, payload.clone())).collect()
        };
        assert_eq!(seen[0], sent(&sources[0], 80), "step {step}");
        // The second one is sent nothing in the last round.
        assert_eq!(seen[1], sent(&sources[1], 60), "step {step}");
    }
}

#[test]
fn a_reader_with_a_length_or_an_end_gets_what_is_before_it() {
    let mut source = Source::new();
    source.run(0, 100);
    let mut cursor = Cursor::new(Recipient::Player, 1, 0);
    cursor.end_after(500);
    let (wire, flushed) = flush_all(&mut cursor, &source.log);
    assert_eq!(flushed, Flushed::Ended);
    let last = media(&decode(&wire)).last().unwrap().0;
    assert!((480..500).contains(&last), "{last}");

    let mut cursor = Cursor::new(Recipient::Player, 1, 0);
    cursor.end_after(u64::MAX);
    let (wire, flushed) = flush_all(&mut cursor, &source.log);
    assert_eq!(flushed, Flushed::CaughtUp, "so much never comes");
    assert!(media(&decode(&wire)).last().unwrap().0 > 500);

    let mut cursor = Cursor::new(Recipient::Player, 1, 0);
    let (mut wire, flushed) = flush_all(&mut cursor, &source.log);
    assert_eq!(flushed, Flushed::CaughtUp);
    source.run(100, 110);
    cursor.end_at(source.log.end());
    source.run(110, 120);
    let (rest, flushed) = flush_all(&mut cursor, &source.log);
    wire.extend(rest);
    assert_eq!(flushed, Flushed::Ended);
    assert_eq!(media(&decode(&wire)).last().unwrap().1, source.sent[109].2);

    for change in [Cursor::pause as fn(&mut Cursor), |_| {}] {
        let mut waits = Cursor::new(Recipient::Player, 1, source.log.end());
        change(&mut waits);
        waits.end_at(source.log.end());
        assert_eq!(flush_all(&mut waits, &source.log).1, Flushed::Ended);
    }
}

#[test]
fn every_send_that_is_taken_whole_ends_with_a_message() {
    for size in [30_000, 300_000] {
        let mut source = Source::new();
        source.run(0, 10);
        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        flush_all(&mut cursor, &source.log);
        let mut at = cursor.offset();
        for t in 10..30 {
            source.send(Track::Video, t * 20, size);
        }
        let mut sends = Vec::new();
        let mut send = |slices: &[IoSlice<'_>]| {
            sends.push(slices.iter().map(|slice| slice.len() as u64).sum::<u64>());
            Ok(*sends.last().unwrap() as usize)
        };
        while cursor.flush(&source.log, &mut send).unwrap() == Flushed::Blocked {}
        for sent in &sends {
            at += sent;
            assert_eq!(source.log.boundary(at), at, "{sends:?}");
        }
        assert_eq!(at, source.log.end());
        let fewest = (20 * size as u64).div_ceil(SEND_MAX) as usize;
        assert!(sends.len() <= fewest, "{} sends, {fewest} would do", sends.len());
    }
}

#[test]
fn a_reader_may_join_at_every_message_and_gets_exact_times() {
    let mut source = Source::new();
    source.run(0, 200);
    for at in 0..6 {
        source.run(200 + at * 7, 207 + at * 7);
        let mut cursor = Cursor::new(Recipient::Player, 3, 0);
        let point = source.log.join_after(source.log.start(true), 0).unwrap();
        let (wire, _) = flush_all(&mut cursor, &source.log);
        let seen = decode(&wire);
        assert_eq!(seen[0].0, DATA);
        assert_eq!(seen[1].2, [0xAF, 0, 0x12, 0x10]);
        assert_eq!(seen[2].2, [0x17, 0, 0, 0, 0, 1]);
        let got = media(&seen);
        let want: Vec<_> = source.sent.iter().filter(|m| m.0 >= point.time).collect();
        let base = want[0].0 - u64::from(got[0].0);
        assert!(got[0].0 <= 40, "starts near 0");
        let want: Vec<_> = want.iter().map(|(t, _, p)| ((t - base) as u32, p.clone())).collect();
        assert_eq!(got, want);
    }
}

#[test]
fn times_beyond_24_bits_and_across_32_bits_are_exact_for_a_forwarder() {
    for start in [0xFF_FFF0_u64, 0xFFFF_FFF0] {
        let mut source = Source::new();
        for t in 0..20 {
            source.send(Track::Video, start + t * 40, 2_500);
        }
        let mut cursor = Cursor::new(Recipient::Forwarder, 1, 0);
        let (wire, _) = flush_all(&mut cursor, &source.log);
        let seen = decode(&wire);
        assert!(seen[0].2.starts_with(b"\x02\x00\x0D@setDataFrame"));
        let want: Vec<_> = source.sent.iter().map(|(t, _, p)| (*t as u32, p.clone())).collect();
        assert_eq!(media(&seen), want);
    }
}

#[test]
fn a_player_that_waited_starts_at_the_first_keyframe() {
    let mut source = Source::new();
    let mut cursor = Cursor::new(Recipient::Player, 1, 0);
    let (wire, flushed) = flush_all(&mut cursor, &source.log);
    assert!(wire.is_empty() && flushed == Flushed::CaughtUp && cursor.is_waiting());
    source.run(0, 4);
    let (wire, _) = flush_all(&mut cursor, &source.log);
    assert_eq!(media(&decode(&wire)).len(), 4);
}

#[test]
fn a_slow_reader_finishes_its_message_and_goes_on_at_a_later_keyframe() {
    let mut source = Source::new();
    source.run(0, 10);
    let mut cursor = Cursor::new(Recipient::Player, 1, 0);
    let mut wire = Vec::new();
    for _ in 0..5 {
        let mut sends = [0, 150];
        let mut left = sends.len();
        let (bytes, flushed) = flush_with(&mut cursor, &source.log, &mut || {
            left = left.saturating_sub(1);
            std::mem::take(&mut sends[left])
        });
        wire.extend(bytes);
        assert_eq!(flushed, Flushed::Blocked);
    }
    source.run(10, 4_000);
    let (rest, _) = flush_all(&mut cursor, &source.log);
    wire.extend(rest);
    assert_eq!(cursor.take_skips(), 1);
    let got = media(&decode(&wire));
    let index = |(time, payload): &(u32, Vec<u8>)| {
        let found = source.sent.iter().position(|(t, _, p)| *t as u32 == *time && p == payload);
        found.unwrap_or_else(|| panic!("{time} {:?} {}", &payload[..2], payload.len()))
    };
    let indexes: Vec<_> = got.iter().map(index).collect();
    let gap = indexes.windows(2).position(|w| w[1] != w[0] + 1).unwrap();
    assert!(indexes[gap + 1].is_multiple_of(50), "goes on at a keyframe");
    assert_eq!(indexes.windows(2).filter(|w| w[1] != w[0] + 1).count(), 1);
    assert_eq!(*indexes.last().unwrap(), source.sent.len() - 1);
}

#[test]
fn a_paused_player_goes_on_at_once_with_the_picture_of_now() {
    for gop_cache in [true, false] {
        let mut source = Source::new();
        source.run(0, 60);
        let mut cursor = Cursor::new(Recipient::Player, 1, 0);
        let (mut wire, _) = flush_all(&mut cursor, &source.log);
        cursor.pause();
        source.run(60, 80);
        assert!(flush_all(&mut cursor, &source.log).0.is_empty());
        cursor.resume(source.log.start(gop_cache));
        let before = media(&decode(&wire)).len();
        wire.extend(flush_all(&mut cursor, &source.log).0);
        source.run(80, 90);
        wire.extend(flush_all(&mut cursor, &source.log).0);
        let seen = decode(&wire);
        assert!(media(&seen).is_sorted_by_key(|(time, _)| *time));
        let got = media(&seen).split_off(before);
        if gop_cache {
            // The group since 50 again, all of it at the time of now; sound from now on.
            assert_eq!(got[0].1, source.sent[50].2);
            assert!(got.iter().take(15).all(|(time, _)| *time == got[0].0), "{}", got[0].0);
            assert_eq!(got.len(), 15 + 10);
        } else {
            assert_eq!(got.len(), 5, "sound, and video from the next keyframe on");
        }
        // It had joined at 50, with the audio before that.
        assert_eq!(got.last().unwrap().0, (89 - 48) * 20);
    }
}

#[test]
fn video_that_is_held_starts_without_a_keyframe_after_a_while() {
    let mut source = Source::new();
    source.log.reset(0);
    source.send(Track::Audio, 0, 60);
    let mut cursor = Cursor::new(Recipient::Player, 1, 0);
    let mut wire = flush_all(&mut cursor, &source.log).0;
    for i in 1..400 {
        let track = if i % 2 == 0 { Track::Video } else { Track::Audio };
        let time = i * 20;
        source.log.append(track, time, false, &[if i % 2 == 0 { 0x27 } else { 0xAF }, 1, i as u8]);
        wire.extend(flush_all(&mut cursor, &source.log).0);
    }
    let seen = decode(&wire);
    let audio = seen.iter().filter(|m| m.0 == rtmp::message_type::AUDIO && m.2[1] == 1).count();
    assert_eq!(audio, 201, "no sound waits for it");
    let first = seen.iter().find(|m| m.0 == VIDEO && m.2[1] == 1).unwrap();
    // The first picture came at 40.
    assert!((5_040..=5_120).contains(&first.1), "{}", first.1);
    assert!(!cursor.lacks_video());
}

#[test]
fn a_header_passes_while_video_is_held_and_audio_is_muted() {
    let mut source = Source::new();
    source.log.reset(0);
    source.log.append(Track::Audio, 0, false, &[0xAF, 1, 0]);
    let mut cursor = Cursor::new(Recipient::Player, 1, 0);
    cursor.mute(Track::Audio, true, 0);
    let mut wire = flush_all(&mut cursor, &source.log).0;
    source.log.append_header(Track::Video, 10, &[0x17, 0, 7]);
    source.log.append(Track::Video, 10, false, &[0x27, 1, 7]);
    source.log.append_header(Track::Audio, 20, &[0xAF, 0, 7]);
    source.log.append(Track::Audio, 20, false, &[0xAF, 1, 7]);
    wire.extend(flush_all(&mut cursor, &source.log).0);
    cursor.mute(Track::Audio, false, source.log.end());
    source.log.append(Track::Video, 50, true, &[0x17, 1, 8]);
    source.log.append(Track::Audio, 60, false, &[0xAF, 1, 8]);
    wire.extend(flush_all(&mut cursor, &source.log).0);
    let seen: Vec<_> = decode(&wire).into_iter().filter(|m| m.0 != DATA).map(|m| (m.1, m.2)).collect();
    let want =
        [(10, vec![0x17, 0, 7]), (20, vec![0xAF, 0, 7]), (50, vec![0x17, 1, 8]), (60, vec![0xAF, 1, 8])];
    assert_eq!(seen, want);
}

#[test]
fn a_reader_of_a_new_publication_gets_its_sound_at_once_and_its_video_from_a_keyframe_on() {
    let mut source = Source::new();
    source.run(0, 20);
    let mut cursor = Cursor::new(Recipient::Player, 1, 0);
    flush_all(&mut cursor, &source.log);
    source.log.reset(1_000);
    for i in 0..10 {
        source.log.append(Track::Video, 1_000 + i * 40, i == 5, &[0x27, 1, i as u8]);
        source.log.append(Track::Audio, 1_000 + i * 40, false, &[0xAF, 1, i as u8]);
    }
    let seen = decode(&flush_all(&mut cursor, &source.log).0);
    let video: Vec<_> = seen.iter().filter(|m| m.0 == VIDEO).map(|m| m.2[2]).collect();
    assert_eq!(video, [5, 6, 7, 8, 9]);
    assert_eq!(seen.len(), 5 + 10);
}

#[test]
fn a_picture_that_stands_still_is_shown_at_the_start_of_near_live_sound() {
    let mut source = Source::new();
    source.send(Track::Video, 0, 60);
    source.send(Track::Video, 40, 60);
    (0..1_000).for_each(|i| source.send(Track::Audio, 40 + i * 20, 60));
    for recipient in [Recipient::Player, Recipient::Forwarder] {
        let mut cursor = Cursor::new(recipient, 1, source.log.start(true));
        let seen = media(&decode(&flush_all(&mut cursor, &source.log).0));
        let start = if recipient == Recipient::Player { 0 } else { 20_020 - 2_000 };
        assert_eq!(seen[0], (start, source.sent[0].2.clone()));
        assert_eq!(seen[1], (start, source.sent[1].2.clone()));
        assert_eq!(seen[2].0, start);
        assert_eq!(seen.len(), 2 + 101);
    }
}

#[test]
fn a_muted_track_is_left_out_and_comes_back_whole() {
    let mut source = Source::new();
    source.run(0, 20);
    let mut cursor = Cursor::new(Recipient::Player, 1, 0);
    cursor.mute(Track::Audio, true, 0);
    let (mut wire, _) = flush_all(&mut cursor, &source.log);
    assert_eq!(media(&decode(&wire)).len(), 10);
    cursor.mute(Track::Audio, false, source.log.start(true));
    source.run(20, 60);
    wire.extend(flush_all(&mut cursor, &source.log).0);
    let got = media(&decode(&wire));
    assert_eq!(got.len(), 10 + 40, "audio goes on at once");
    assert_eq!(got.last().unwrap().0, 59 * 20);
}
