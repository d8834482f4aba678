//! What one connection may do, how long it may take, and how it learns of an end.

use std::time::{Duration, Instant};

use crate::support::clients::Recorder;
use crate::support::cluster::TestCluster;
use crate::support::flv::{AUDIO, Tag, VIDEO};
use crate::support::net::url;
use crate::support::raw::{Raw, amf, command, message};
use crate::support::{SOON, STREAM, card, rml, wait_for, wait_until};

/// A client behind its `connect`.
fn connected(addr: std::net::SocketAddr) -> Raw {
    Raw::dial(addr).handshake().connect("live", &[])
}

fn ask(raw: &mut Raw, kind: &str, name: &str, msid: u32) {
    raw.send(&command("createStream", 2.0, &amf::NULL, 0));
    raw.send(&command(kind, 0.0, &[&amf::NULL[..], &amf::string(name)].concat(), msid));
}

/// The name must be text that nothing else on the wire has.
fn frame(name: &str, time: u32, msid: u32) -> Vec<u8> {
    message(4 + msid as u8, time, AUDIO, msid, &[&[0xAF, 1][..], name.as_bytes()].concat())
}

#[test]
fn several_streams_are_published_and_played_over_one_connection_each() {
    let cluster = TestCluster::up_guide();
    let mut publisher = connected(cluster.net.origin());
    ask(&mut publisher, "publish", "high", 1);
    publisher.expect("NetStream.Publish.Start");
    ask(&mut publisher, "publish", "low", 2);
    // A name that is taken is refused on its own message stream.
    ask(&mut publisher, "publish", "high", 3);
    publisher.expect("NetStream.Publish.BadName");
    let mut player = connected(cluster.net.edges()[0]);
    ask(&mut player, "play", "high", 1);
    ask(&mut player, "play", "low", 2);
    let mut time = 0;
    wait_for("both at the player", SOON, || {
        time += 40;
        assert!(publisher.send(&frame(&format!("high-{time}-"), time, 1)), "the publisher was closed");
        assert!(publisher.send(&frame(&format!("low-{time}-"), time, 2)), "the publisher was closed");
        assert!(publisher.fill() && player.fill(), "closed");
        let has = |name: &str| (40..=time).step_by(40).any(|t| player.has(&format!("{name}-{t}-")));
        if has("high") && has("low") { Ok(()) } else { Err(format!("at {time} ms")) }
    });
}

#[test]
fn a_player_that_zaps_and_an_encoder_that_stops_and_starts_keep_their_connection() {
    let cluster = TestCluster::up_guide();
    let mut publisher = connected(cluster.net.origin());
    for (turn, stop) in [&[1, 0][..], &amf::string(""), &amf::NULL].into_iter().enumerate() {
        ask(&mut publisher, "publish", "a", 1);
        publisher.send(&frame(&format!("turn-{turn}"), 0, 1));
        publisher.send(&command("publish", 0.0, &[&amf::NULL[..], stop].concat(), 1));
        publisher.expect("NetStream.Unpublish.Success");
        publisher.forget();
    }
    ask(&mut publisher, "publish", "a", 1);
    publisher.expect("NetStream.Publish.Start");

    let mut player = connected(cluster.net.origin());
    for msid in 1..50 {
        ask(&mut player, "play", &format!("other-{msid}"), msid);
        player.expect("NetStream.Play.Start");
        player.forget();
        player.send(&command("closeStream", 0.0, &amf::NULL, msid));
    }
    ask(&mut player, "play", "a", 50);
    let mut time = 0;
    wait_until("media at the player", SOON, || {
        time += 40;
        assert!(publisher.send(&frame(&format!("last-{time}"), time, 1)), "the publisher was closed");
        assert!(player.fill(), "the player was closed");
        player.has("last-")
    });
}

#[test]
fn who_has_connected_may_wait_before_it_says_what_it_wants() {
    let cluster = TestCluster::up_guide();
    let mut waiting = connected(cluster.net.origin());
    let mut publisher = connected(cluster.net.origin()).publish("a", "NetStream.Publish.Start");
    publisher.send(&command("FCUnpublish", 4.0, &[&amf::NULL[..], &amf::string("a")].concat(), 0));
    publisher.expect("NetStream.Unpublish.Success");
    publisher.forget();
    // One that does not even connect is what is closed after 10 s.
    Raw::dial(cluster.net.origin()).handshake().expect_closed(SOON);
    ask(&mut waiting, "play", "a", 1);
    waiting.expect("NetStream.Play.Start");
    ask(&mut publisher, "publish", "a", 1);
    publisher.expect("NetStream.Publish.Start");
}

#[test]
fn a_picture_that_stands_still_stays_published_and_a_client_that_is_gone_does_not() {
    let options = "{ publish_normal_timeout: 1s, gop_cache: true }";
    let cluster = TestCluster::with(|net| net.guide_with(options));
    cluster.up();
    let video: Vec<_> = card().into_iter().filter(|tag| tag.kind == VIDEO).collect();
    let key = video.iter().find(|tag| tag.is_keyframe()).unwrap();
    let at = |timestamp| Tag { timestamp, ..key.clone() };
    let still = vec![video[0].clone(), at(0), at(4_000), at(8_000)];
    let publisher = rml::publish(cluster.net.origin(), STREAM, still, None);
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    wait_for("the last picture", SOON, || {
        assert_eq!(publisher.ended(), None);
        let pictures = player.tags().iter().filter(|tag| tag.is_keyframe()).count();
        if pictures == 3 { Ok(()) } else { Err(format!("{pictures} of 3")) }
    });
    publisher.fall_silent();
    publisher.await_end();
}

#[test]
fn recorders_end_with_the_stream_where_the_file_says_so() {
    let cluster = TestCluster::with(|net| net.guide_with("{ end_of_stream: close }"));
    cluster.up();
    let (dir, edge) = (cluster.dir.path(), url(cluster.net.edges()[0], STREAM));
    let publisher = rml::publish(cluster.net.origin(), STREAM, card(), None);
    cluster.await_live(STREAM);
    let mut recorders = [
        Recorder::ffmpeg(dir, &edge),
        Recorder::ffmpeg(dir, &url(cluster.net.origin(), STREAM)),
        Recorder::rtmpdump(dir, &edge),
    ];
    recorders.iter_mut().for_each(|recorder| recorder.await_seconds(1.0));
    let other = rml::play(cluster.net.edges()[1], "live/other").unwrap();
    other.await_started();
    drop(publisher);
    for recorder in &mut recorders {
        recorder.client.wait_with_deadline(SOON);
    }
    assert_eq!(other.ended(), None, "a player of another stream");
}

#[test]
fn a_play_with_a_length_gets_that_much() {
    let cluster = TestCluster::up_guide();
    let _publisher = rml::publish(cluster.net.origin(), STREAM, card(), Some(crate::support::CARD_MS));
    cluster.await_live(STREAM);
    let mut player = connected(cluster.net.edges()[0]);
    let play = |length: f64| {
        let (start, length) = (amf::number(-2_000.0), amf::number(length));
        command("play", 0.0, &[&amf::NULL[..], &amf::string("livestream"), &start, &length].concat(), 1)
    };
    for length in [1_000.0, 1.0] {
        player.send(&play(length));
        player.expect("NetStream.Play.Start");
        player.expect("NetStream.Play.Complete");
        player.expect("NetStream.Play.Stop");
        player.forget();
    }
}

#[test]
fn small_commands_of_a_client_that_does_not_hurry_are_answered_at_once() {
    let cluster = TestCluster::up_guide();
    // The kernel holds `connect` back until the end of the handshake is acknowledged.
    let quickest = (0..5)
        .map(|_| {
            let shaken = Raw::dial(cluster.net.origin()).handshake();
            let start = Instant::now();
            shaken.connect("live", &[]);
            start.elapsed()
        })
        .min();
    assert!(quickest < Some(Duration::from_millis(30)), "{quickest:?}");
}
