//! Joining where no keyframe says where to start: whoever has something to get does not wait for what another track lacks.

use crate::support::cluster::TestCluster;
use crate::support::raw::{Raw, message};
use crate::support::{SOON, STREAM, rml, wait_for};

const AAC: [u8; 4] = [0xAF, 0, 0x12, 0x10];

fn publish(cluster: &TestCluster) -> Raw {
    let encoder = Raw::dial(cluster.net.origin()).handshake().connect("live", &[]);
    encoder.publish("livestream", "NetStream.Publish.Start")
}

/// Payloads of the frames that `player` has, in order, once there is one that `is_last`.
fn frames(player: &rml::Player, what: &str, is_last: impl Fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    wait_for(what, SOON, || {
        let tags = player.tags();
        let frames: Vec<_> =
            tags.iter().filter(|tag| tag.is_frame()).map(|tag| tag.payload.to_vec()).collect();
        if frames.iter().any(|frame| is_last(frame)) { Ok(frames) } else { Err(format!("{tags:?}")) }
    })
}

#[test]
fn a_player_that_waits_at_an_edge_hears_from_the_first_frame_on_and_sees_without_a_keyframe() {
    let cluster = TestCluster::up_guide();
    let waits = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    waits.await_started();
    let mut encoder = publish(&cluster);
    encoder.send(&message(4, 0, 8, 1, &AAC));
    for i in 0..60 {
        let time = u32::from(i) * 100;
        encoder.send(&message(4, time, 8, 1, &[0xAF, 1, i, 0xEE]));
        encoder.send(&message(6, time, 9, 1, &[0x27, 1, 0, 0, 0, i, 0xEE]));
    }
    let seen = frames(&waits, "the last frame at the edge", |frame| frame == [0x27, 1, 0, 0, 0, 59, 0xEE]);
    let sounds: Vec<_> = seen.iter().filter(|frame| frame[0] == 0xAF).map(|frame| frame[2]).collect();
    assert_eq!(sounds, (0..60).collect::<Vec<_>>());
    let pictures: Vec<_> = seen.iter().filter(|frame| frame[0] == 0x27).map(|frame| frame[5]).collect();
    assert_eq!(pictures, (pictures[0]..60).collect::<Vec<_>>());

    // Now it is known that none comes: at another edge port too nobody waits again.
    let joins = rml::play(cluster.net.edges()[1], STREAM).unwrap();
    let seen = frames(&joins, "a picture for one that joins", |frame| frame[0] == 0x27);
    assert!(seen.iter().any(|frame| frame[0] == 0xAF), "{seen:?}");
    cluster.down();
}

#[test]
fn a_keyframe_whose_frame_type_does_not_say_so_starts_video_at_an_edge() {
    let cluster = TestCluster::up_guide();
    let waits = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    waits.await_started();
    let mut encoder = publish(&cluster);
    encoder.send(&message(6, 0, 9, 1, b"\x80hvc1configuration"));
    let picture = |kind: u8, number: u8| [b"\x83hvc1\0\0\0\x04", &[kind << 1, 1, number, 0xEE][..]].concat();
    for i in 0..20 {
        let kind = if i == 7 { 19 } else { 1 };
        encoder.send(&message(6, u32::from(i) * 40, 9, 1, &picture(kind, i)));
    }
    let mut seen = frames(&waits, "the last picture", |frame| frame.ends_with(&[19, 0xEE]));
    seen.retain(|frame| frame[0] == 0x83);
    assert!(seen[0].ends_with(&[7, 0xEE]), "starts with the IDR picture: {seen:?}");
    assert_eq!(seen.len(), 13);
    cluster.down();
}
