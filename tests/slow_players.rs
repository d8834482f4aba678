//! Players that read more slowly than the stream runs.

use std::time::Duration;

use crate::support::cluster::{TestCluster, find};
use crate::support::flv::{Tag, VIDEO};
use crate::support::{SOON, STREAM, rml, wait_for};

/// Frames between two keyframes.
const GOP: u32 = 12;
/// Bytes of a frame: 1 MB/s.
const FRAME: usize = 40_000;

/// 25 frames a second, each unlike all others.
fn stream(seconds: u32) -> Vec<Tag> {
    let header =
        Tag { kind: VIDEO, timestamp: 0, payload: vec![0x17, 0, 0, 0, 0, 1, 0x64, 0, 31, 0xff, 0xe1] };
    let frames = (0..seconds * 25).map(|number| {
        let mut payload = vec![if number % GOP == 0 { 0x17 } else { 0x27 }, 1, 0, 0, 0];
        payload.extend(number.to_be_bytes().repeat(FRAME / 4));
        Tag { kind: VIDEO, timestamp: number * 40, payload }
    });
    [header].into_iter().chain(frames).collect()
}

/// The number of a frame, which must be the source's, byte for byte.
#[track_caller]
fn number(tag: &Tag, source: &[Tag]) -> usize {
    let number = u32::from_be_bytes(tag.payload[5..9].try_into().unwrap()) as usize;
    assert!(source[1 + number].payload == tag.payload, "frame {number} at {} ms is damaged", tag.timestamp);
    number
}

#[test]
fn a_slow_player_skips_from_whole_frame_to_whole_group_and_nobody_else_loses_a_frame() {
    let cluster = TestCluster::with(|net| net.guide_with("{ max_connections: 200, queue_length: 1s }"));
    cluster.up();
    let edge = cluster.net.edges()[0];
    let source = stream(60);
    let _encoder = rml::publish(cluster.net.origin(), STREAM, source.clone(), None);
    cluster.await_live(STREAM);

    // 0.4 MB/s of 1 MB/s.
    let slow = rml::play_slowly(edge, STREAM, Duration::from_millis(40)).unwrap();
    let fast = rml::play(edge, STREAM).unwrap();
    let mut frames = Vec::new();
    wait_for("three skips that the player sees", SOON, || {
        frames = slow.tags().into_iter().filter(Tag::is_frame).collect();
        let numbers: Vec<_> = frames.iter().map(|tag| number(tag, &source)).collect();
        let gaps = numbers.windows(2).filter(|pair| pair[1] != pair[0] + 1).count();
        if gaps >= 3 { Ok(()) } else { Err(format!("{numbers:?}, ended: {:?}", slow.ended())) }
    });
    let offset = source[1 + number(&frames[0], &source)].timestamp - frames[0].timestamp;
    for pair in frames.windows(2) {
        let (before, after) = (number(&pair[0], &source), number(&pair[1], &source));
        assert!(after > before, "frame {after} behind frame {before}");
        assert!(
            after == before + 1 || pair[1].is_keyframe(),
            "frame {after} behind frame {before}: no keyframe"
        );
        assert_eq!(pair[1].timestamp + offset, after as u32 * 40, "time of frame {after}");
    }
    let whole: Vec<_> =
        fast.tags().iter().filter(|tag| tag.is_frame()).map(|tag| number(tag, &source)).collect();
    assert!(whole.windows(2).all(|pair| pair[1] == pair[0] + 1), "{whole:?}");
    let stats = find(&cluster.status(), edge).unwrap().stats.expect("a running worker reports");
    assert!(stats.skips >= 3, "{stats:?}");
}
