//! What is published at the origin is what players get at every edge, byte for byte, in real programs' hands.

use std::net::SocketAddr;
use std::path::Path;

use crate::support::clients::{
    self, Client, Recorder, ffmpeg_publisher, gstreamer_publisher, librtmp_publisher,
};
use crate::support::cluster::TestCluster;
use crate::support::flv::{Source, assert_same};
use crate::support::net::url;
use crate::support::raw::{Raw, amf, command, kind, message};
use crate::support::{CARD_MS, SOON, STREAM, card, looped_card, rml, wait_for};

/// Seconds of video that each player records.
const SECONDS: f64 = 5.0;

/// Starts a recording program.
type Start = fn(&Path, &str) -> Recorder;

#[test]
fn ffmpeg_rtmpdump_and_gstreamer_get_the_same_frames_from_each_edge_as_ffmpeg_publishes() {
    let cluster = TestCluster::up_guide();
    let dir = cluster.dir.path();
    let _encoder = ffmpeg_publisher(dir, &url(cluster.net.origin(), STREAM));
    cluster.await_live(STREAM);

    let players: [(&str, Start); 3] =
        [("ffmpeg", Recorder::ffmpeg), ("rtmpdump", Recorder::rtmpdump), ("GStreamer", Recorder::gstreamer)];
    let mut recorders = Vec::new();
    for addr in cluster.net.edges().into_iter().chain([cluster.net.origin()]) {
        for (name, start) in players {
            recorders.push((format!("{name} at {addr}"), start(dir, &url(addr, STREAM))));
        }
    }
    let source = looped_card();
    for (who, recorder) in recorders {
        assert_same(&who, &recorder.record(SECONDS), &source, SECONDS);
    }
    cluster.down();
}

#[test]
fn an_independent_peer_gets_what_an_independent_peer_publishes_from_each_edge() {
    let cluster = TestCluster::up_guide();
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    encoder.await_started();
    cluster.await_live(STREAM);
    expect_the_card_at_every_edge(&cluster);
}

#[test]
fn gstreamers_publisher_is_relayed() {
    expect_relayed(gstreamer_publisher);
}

#[test]
fn librtmps_publisher_is_relayed() {
    expect_relayed(librtmp_publisher);
}

#[test]
fn nginx_rtmp_pushes_to_the_origin_and_pulls_from_an_edge() {
    let cluster = TestCluster::up_guide();
    let nginx = SocketAddr::from((cluster.net.host(8), 1935));
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[2]);
    let applications = format!(
        "application in {{ live on; push rtmp://{origin}/live; }} application out {{ live on; pull rtmp://{edge}/live; }}"
    );
    let _nginx = clients::nginx(cluster.dir.path(), nginx, &applications);
    let _encoder = rml::publish(nginx, "in/livestream", card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[1], STREAM).unwrap();
    assert_same("what nginx pushed", &player.record_after(0, SECONDS), &looped_card(), SECONDS);
    let puller = rml::play(nginx, "out/livestream").unwrap();
    assert_same("what nginx pulled", &puller.record_after(0, SECONDS), &looped_card(), SECONDS);
}

#[test]
fn the_shipped_publisher_is_relayed_over_the_end_of_its_file() {
    let cluster = TestCluster::up_guide();
    let origin = url(cluster.net.origin(), STREAM);
    let mut command = cluster.srsctl(&["publish", "--test-card", &origin]);
    let _encoder = Client::start(cluster.dir.path(), "srsctl-publish", &mut command);
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[3], STREAM).unwrap();
    // Longer than the card: its end and its start have to fit without a gap.
    let recorded = player.record_after(0, f64::from(CARD_MS) / 1000.0 + 3.0);
    assert_same("over the end of the file", &recorded, &looped_card(), 18.0);
}

#[test]
fn a_player_that_comes_before_the_publisher_waits_and_stays_from_one_publish_to_the_next() {
    let cluster = TestCluster::up_guide();
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    player.await_started();
    let card = card();

    let first = rml::publish(cluster.net.origin(), STREAM, card.clone(), None);
    let recorded = player.record_after(0, 3.0);
    assert_same("the first publish", &recorded, &looped_card(), 3.0);
    drop(first);
    cluster_idle(&cluster);

    let mark = player.mark();
    let before = player.tags().last().unwrap().timestamp;
    let _second = rml::publish(cluster.net.origin(), STREAM, card, None);
    let recorded = player.record_after(mark, 3.0);
    assert!(recorded[0].timestamp >= before, "time went back from {before} to {} ms", recorded[0].timestamp);
    // What was still on its way when the first publisher left may come before the second one's start.
    let start = recorded
        .iter()
        .position(|t| t.payload == looped_start())
        .expect("the second publish starts the card anew");
    assert_same("the second publish", &recorded[start..], &looped_card(), 2.5);
    assert_eq!(player.ended(), None);
}

#[test]
fn a_new_publication_starts_with_nothing_of_the_one_before() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let stays = rml::play(edge, STREAM).unwrap();
    let first = rml::publish(cluster.net.origin(), STREAM, card(), None);
    stays.record_after(0, 1.0);
    drop(first);
    cluster_idle(&cluster);

    // Accepted, and silent: no edge is told yet, and whoever comes now must not be shown the first publication's pictures.
    let mut second = Raw::dial(cluster.net.origin()).handshake().connect("live", &[]);
    second = second.publish("livestream", "NetStream.Publish.Start");
    wait_for("the origin to be published to", SOON, || {
        let rows = cluster.try_status()?.streams;
        if rows.iter().any(|s| s.publishing && s.host == cluster.net.origin().ip().to_string()) {
            Ok(())
        } else {
            Err(format!("{rows:?}"))
        }
    });
    let player = rml::play(edge, STREAM).unwrap();
    player.await_started();
    // Audio alone this time: after a while without video it is played without a keyframe.
    second.send(&message(4, 0, 8, 1, &[0xAF, 0, 0x12, 0x10]));
    let mut time = 0;
    wait_for("audio of the second publication", SOON, || {
        time += 60;
        second.send(&message(4, time, 8, 1, &[0xAF, 1, 77]));
        let tags = player.tags();
        if tags.iter().any(|tag| tag.payload == [0xAF, 1, 77]) { Ok(()) } else { Err(format!("{tags:?}")) }
    });
    let tags = player.tags();
    let old: Vec<_> = tags
        .iter()
        .filter(|t| t.kind == 9 || !t.payload.starts_with(&[0xAF]) && !t.payload.is_empty())
        .collect();
    assert!(old.is_empty(), "{old:?}");
    assert_eq!(stays.ended(), None);
}

#[test]
fn the_configuration_of_every_track_reaches_players_of_an_edge_early_and_late() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[2];
    let early = rml::play(edge, STREAM).unwrap();
    early.await_started();
    let mut encoder = Raw::dial(cluster.net.origin()).handshake().connect("live", &[]);
    encoder = encoder.publish("livestream", "NetStream.Publish.Start");
    // Colours before the header, then a second picture and a second sound, and where their channels are.
    let configuration: [(u8, &[u8]); 6] = [
        (9, b"\xd4hvc1colours"),
        (9, b"\x90hvc1header"),
        (9, b"\x96\x00avc1\x01second"),
        (8, b"\x90Opusheader"),
        (8, b"\x94Opuschannels"),
        (8, b"\x95\x00mp4a\x01second"),
    ];
    for (kind, payload) in configuration {
        assert!(encoder.send(&message(4, 0, kind, 1, payload)));
    }
    let mut time = 0_u32;
    let mut await_all = |player: &rml::Player| {
        wait_for("the configuration and what follows it", SOON, || {
            time += 40;
            let key = [&b"\x93hvc1"[..], &time.to_be_bytes()].concat();
            encoder.send(&message(4, time, 9, 1, &key));
            let tags = player.tags();
            let got = |payload: &[u8]| tags.iter().any(|tag| tag.payload == payload);
            let has_all = configuration.iter().all(|(_, payload)| got(payload));
            if has_all && tags.iter().any(|tag| tag.payload.starts_with(b"\x93")) {
                Ok(())
            } else {
                Err(format!("{tags:?}"))
            }
        });
    };
    await_all(&early);
    let late = rml::play(edge, STREAM).unwrap();
    await_all(&late);
    // What is too long costs itself alone: what comes behind it arrives.
    let text = [&b"\x02\0\x0aonTextData"[..], &[5; 70_000]].concat();
    assert!(encoder.send(&message(4, 10_000, kind::DATA, 1, &text)));
    let behind = b"\x93hvc1behind";
    assert!(encoder.send(&message(4, 10_000, 9, 1, behind)));
    wait_for("what comes behind a message that is too long", SOON, || {
        let tags = late.tags();
        if tags.iter().any(|tag| tag.payload == behind) { Ok(()) } else { Err(format!("{}", tags.len())) }
    });
}

/// All of a publication of these frames on message stream 1, and its end.
fn whole(name: &str, frames: &[String]) -> Vec<u8> {
    let named = |before: &[u8]| [before, &amf::string(name)].concat();
    let mut all = command("createStream", 2.0, &amf::NULL, 0);
    all.extend(command("publish", 3.0, &[named(&amf::NULL), amf::string("live")].concat(), 1));
    for (time, frame) in (0..).step_by(40).zip(frames) {
        all.extend(message(5, time, 8, 1, &[b"\xAF\x01", frame.as_bytes()].concat()));
    }
    all.extend(command("FCUnpublish", 4.0, &named(&amf::NULL), 0));
    all.extend(command("deleteStream", 5.0, &[&amf::NULL[..], &amf::number(1.0)].concat(), 0));
    all
}

#[test]
fn a_publication_that_comes_in_one_write_with_its_end_reaches_each_edge_whole_and_its_end_too() {
    let cluster = TestCluster::with(|net| net.guide_with("{ end_of_stream: close }"));
    cluster.up();
    for number in 0..5 {
        let name = format!("short{number}");
        let mut players: Vec<_> =
            cluster.net.edges().into_iter().map(|edge| Raw::playing(edge, &name)).collect();
        let frames: Vec<_> = (10..40).map(|frame| format!("frame-{frame}")).collect();
        let mut encoder = Raw::dial(cluster.net.origin()).handshake().connect("live", &[]);
        assert!(encoder.send(&whole(&name, &frames)));
        for player in &mut players {
            player.expect_closed(SOON);
            let missing: Vec<_> = frames.iter().filter(|frame| !player.has(frame)).collect();
            assert!(missing.is_empty(), "{name}: {missing:?}");
        }
    }
}

#[test]
fn publications_that_follow_each_other_without_a_pause_all_reach_who_waits_at_an_edge() {
    let cluster = TestCluster::up_guide();
    let mut players: Vec<_> = cluster.net.edges().into_iter().map(|edge| Raw::playing(edge, "a")).collect();
    let mut encoder = Raw::dial(cluster.net.origin()).handshake().connect("live", &[]);
    let all: Vec<_> = (0..8).map(|number| whole("a", &[format!("only-{number}")])).collect();
    assert!(encoder.send(&all.concat()));
    for player in &mut players {
        (0..8).for_each(|number| player.expect(&format!("only-{number}")));
    }
}

/// The card's first keyframe.
fn looped_start() -> Vec<u8> {
    card().into_iter().find(|t| t.is_keyframe()).unwrap().payload
}

fn cluster_idle(cluster: &TestCluster) {
    crate::support::wait_for("the stream to be idle everywhere", crate::support::SOON, || {
        let streams = cluster.try_status()?.streams;
        if streams.iter().all(|s| !s.publishing) { Ok(()) } else { Err(format!("{streams:?}")) }
    });
}

/// Publishes the test card once with `publisher` and compares what an edge gives with the file.
#[track_caller]
fn expect_relayed(publisher: fn(&Path, &str) -> Client) {
    let cluster = TestCluster::up_guide();
    let _encoder = publisher(cluster.dir.path(), &url(cluster.net.origin(), STREAM));
    cluster.await_live(STREAM);
    expect_the_card_at_every_edge(&cluster);
}

/// Records at every edge port and at the origin and compares with the test card and with each other.
#[track_caller]
fn expect_the_card_at_every_edge(cluster: &TestCluster) {
    let ports: Vec<SocketAddr> = cluster.net.edges().into_iter().chain([cluster.net.origin()]).collect();
    let players: Vec<_> = ports.iter().map(|addr| rml::play(*addr, STREAM).unwrap()).collect();
    let recordings: Vec<_> = players.iter().map(|p| p.record_after(0, SECONDS)).collect();
    for (addr, recorded) in ports.iter().zip(&recordings) {
        assert_same(&addr.to_string(), recorded, &looped_card(), SECONDS);
        assert!(
            recorded[0].timestamp < 1000,
            "a player's time starts near 0, not at {} ms",
            recorded[0].timestamp
        );
    }
    // Against the origin's own recording: the same frames at the same distances, whatever the publisher made of the file's times.
    let origin = Source::once(recordings.last().unwrap());
    let late = recordings[0].iter().position(|t| t.is_keyframe() && t.timestamp > 1000).unwrap();
    assert_same("edge against origin", &recordings[0][late..], &origin, 1.0);
}
