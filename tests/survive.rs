//! The stream survives second encoders, silent publishers, half-dead forwarders and crowds.

use std::time::Duration;

use nix::sys::signal::Signal::SIGKILL;

use crate::support::clients::ffmpeg_publisher;
use crate::support::cluster::{TestCluster, find, signal};
use crate::support::flv::assert_same;
use crate::support::net::url;
use crate::support::raw::Raw;
use crate::support::{CARD_MS, SOON, STREAM, card, looped_card, rml, wait_for};

#[test]
fn a_second_encoder_is_refused_and_the_first_ones_players_see_nothing() {
    let cluster = TestCluster::up_guide();
    let first = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    player.record_after(0, 1.0);

    let mut second = ffmpeg_publisher(cluster.dir.path(), &url(cluster.net.origin(), STREAM));
    assert!(!second.wait_with_deadline(SOON).success(), "the second encoder was let in");
    let third = Raw::dial(cluster.net.origin()).handshake().connect("live", &[]);
    third.publish("livestream", "NetStream.Publish.BadName");

    let mark = player.mark();
    player.record_after(mark, 1.0);
    assert_same("the player", &player.record_after(0, 3.0), &looped_card(), 3.0);
    assert_eq!(first.ended(), None);
}

#[test]
fn an_edge_takes_a_publisher_from_nobody_but_its_origin() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    for source in [cluster.net.host(99), cluster.net.host(5)] {
        let mut stranger = Raw::dial_from(source.into(), edge).handshake().connect("live", &[]);
        stranger.send(&crate::support::raw::command("createStream", 2.0, &[5], 0));
        let publish = [
            &[5][..],
            &crate::support::raw::amf::string("livestream"),
            &crate::support::raw::amf::string("live"),
        ]
        .concat();
        stranger.send(&crate::support::raw::command("publish", 3.0, &publish, 1));
        stranger.expect("NetStream.Publish.");
        stranger.expect_closed(SOON);
    }
    assert!(cluster.status().streams.iter().all(|s| !s.publishing));
}

#[test]
fn a_publisher_that_falls_silent_is_closed_and_the_next_one_reaches_the_players_that_stayed() {
    let cluster = TestCluster::up_guide();
    let silent = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[1], STREAM).unwrap();
    player.record_after(0, 1.0);
    silent.fall_silent();
    silent.await_end();

    let mark = player.mark();
    let _next = ffmpeg_publisher(cluster.dir.path(), &url(cluster.net.origin(), STREAM));
    assert_same("the player that stayed", &player.record_after(mark, 3.0), &looped_card(), 3.0);
    assert_eq!(player.ended(), None);
}

#[test]
fn a_forwarder_that_is_half_dead_gives_way_to_the_origins_next_one_at_once() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let id = cluster.unit(edge).id.to_string();
    let secret = cluster.secret();

    // It proves to be the origin's, publishes, and then nothing comes of it: what a cut cable leaves behind.
    let half_dead = Raw::dial_from(cluster.net.host(5).into(), edge).handshake();
    let tag = rtmp::auth::tag(&secret, &half_dead.s1, &id);
    let half_dead = half_dead.connect("live", &[("srsctlTarget", &id), ("srsctlTag", &tag)]);
    let mut half_dead = half_dead.publish("livestream", "NetStream.Publish.Start");

    let player = rml::play(edge, STREAM).unwrap();
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    assert_same("the player", &player.record_after(0, 3.0), &looped_card(), 3.0);
    half_dead.expect_closed(Duration::from_secs(10));
}

#[test]
fn a_rush_of_players_while_an_edge_restarts_neither_locks_the_origin_out_nor_exceeds_max_connections() {
    const LIMIT: usize = 30;
    let cluster =
        TestCluster::with(|net| net.guide_with(&format!("{{ max_connections: {LIMIT}, gop_cache: true }}")));
    cluster.up();
    let edge = cluster.net.edges()[0];
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);

    let old = cluster.pid(edge);
    signal(old, SIGKILL);
    let players: Vec<_> =
        (0..LIMIT * 2).map(|_| rml::play(edge, STREAM).expect("refused during the restart")).collect();
    cluster.await_successor(edge, old);
    cluster.await_live(STREAM);
    let is_refused =
        |p: &rml::Player| p.ended().is_some() || p.codes().iter().any(|c| c == "NetStream.Play.Failed");
    wait_for("every player to play or be refused", SOON, || {
        let playing = players.iter().filter(|p| p.ended().is_none() && p.mark() > 0).count();
        let refused = players.iter().filter(|p| is_refused(p)).count();
        if playing == LIMIT && playing + refused == players.len() {
            Ok(())
        } else {
            Err(format!("{playing} play, {refused} refused"))
        }
    });
    for player in players.iter().filter(|p| !is_refused(p)) {
        assert_same("a player of the rush", &player.record_after(0, 2.0), &looped_card(), 2.0);
    }
    let stats = find(&cluster.status(), edge).unwrap().stats.expect("a running worker reports");
    assert!(stats.refused >= LIMIT as u64, "{stats:?}");

    drop(players);
    wait_for("places to be free again", SOON, || {
        let player = rml::play(edge, STREAM).map_err(|e| e.to_string())?;
        player.await_started();
        Ok(())
    });
}
