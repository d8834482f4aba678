//! A port whose places are all taken: who is refused is counted and shown, and whoever is of least use makes room.

use std::net::SocketAddr;

use cluster::status::Health;
use nix::sys::signal::Signal;

use crate::support::cluster::{TestCluster, find, signal};
use crate::support::raw::{Raw, amf, chunk_header, command, message};
use crate::support::{CARD_MS, SOON, STREAM, card, rml, wait_for};

const START: &str = "NetStream.Publish.Start";
const BAD_NAME: &str = "NetStream.Publish.BadName";

/// A connection to the origin that publishes `name`.
fn publisher(cluster: &TestCluster, name: &str, status: &str) -> Raw {
    Raw::dial(cluster.net.origin()).handshake().connect("live", &[]).publish(name, status)
}

/// The same from an address of a stranger.
fn stranger(cluster: &TestCluster, name: &str, status: &str) -> Raw {
    let from = cluster.net.host(99).into();
    Raw::dial_from(from, cluster.net.origin()).handshake().connect("live", &[]).publish(name, status)
}

/// Waits until the port says what this limit has cost.
fn await_limit(cluster: &TestCluster, addr: SocketAddr, limit: &str) {
    wait_for(limit, SOON, || {
        let unit = find(&cluster.try_status()?, addr)?;
        let limits = unit.stats.map(|stats| stats.limits).unwrap_or_default();
        if limits.iter().any(|met| met.limit == limit) { Ok(()) } else { Err(format!("{limits:?}")) }
    });
}

#[test]
fn a_publisher_beyond_max_streams_is_told_counted_and_shown_with_the_cause() {
    let cluster = TestCluster::with(|net| net.guide_with("{ max_streams: 2 }"));
    cluster.up();
    let _taken = [1, 2].map(|n| publisher(&cluster, &format!("s{n}"), START));
    publisher(&cluster, "s3", BAD_NAME).expect("max_streams");
    let origin = wait_for("the refusal in status", SOON, || {
        let unit = find(&cluster.try_status()?, cluster.net.origin())?;
        if unit.health == Health::Warning { Ok(unit) } else { Err(format!("{unit:?}")) }
    });
    assert!(
        origin.note.contains("1 publishers refused: 2 streams are being published (max_streams)"),
        "{origin:?}"
    );
    assert_eq!(origin.stats.map(|stats| (stats.refused, stats.refused_publishers)), Some((1, 1)));
    cluster.run(&["status"]).expect_words(&["publishers refused", "max_streams"]);
}

/// Comes to play, and waits to be told that all places are taken.
fn await_refusal(edge: SocketAddr) {
    let player = rml::play(edge, STREAM).unwrap();
    wait_for("a refusal", SOON, || {
        let codes = player.codes();
        if codes.iter().any(|code| code == "NetStream.Play.Failed") {
            Ok(())
        } else {
            Err(format!("{codes:?}"))
        }
    });
}

/// More players than a port has slots when the file allows them no more, those for its origin's address among them.
#[test]
fn a_limit_lowered_below_the_players_there_keeps_them_and_does_not_lock_the_origin_out() {
    const PLAYERS: usize = 120;
    let cluster = TestCluster::with(|net| net.guide_with("{ max_connections: 200, max_streams: 1 }"));
    cluster.up();
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[0]);
    let before = rml::publish(origin, STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let players: Vec<_> = (0..PLAYERS).map(|_| rml::play(edge, STREAM).unwrap()).collect();
    players.iter().for_each(|player| player.await_started());

    cluster.write(&cluster.net.guide_with("{ max_connections: 5, max_streams: 1 }"));
    cluster.run(&["up"]).expect_code(0).expect_words(&["max_connections: 200 → 5"]);
    await_refusal(edge);

    let old = cluster.pid(origin);
    signal(cluster.keeper(origin), Signal::SIGKILL);
    cluster.await_successor(origin, old);
    drop(before);
    let _encoder = rml::publish(origin, STREAM, card(), Some(CARD_MS));
    players.iter().for_each(|player| player.await_more(20));
    assert!(players.iter().all(|player| player.ended().is_none()));
}

#[test]
fn a_stranger_who_has_taken_all_publish_places_gives_one_to_an_encoder() {
    let cluster = TestCluster::with(|net| net.guide_with("{ max_streams: 3 }"));
    cluster.up();
    let mut taken = [1, 2, 3].map(|n| stranger(&cluster, &format!("s{n}"), START));
    stranger(&cluster, "s4", BAD_NAME).expect("max_streams");
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    // The youngest.
    taken[2].expect_closed(SOON);
    await_limit(&cluster, cluster.net.origin(), "max_streams_room");
    cluster.run(&["status"]).expect_words(&["publishers made room", "max_streams"]);
}

#[test]
fn a_publication_that_carries_next_to_nothing_makes_room_for_any_other() {
    let cluster = TestCluster::with(|net| net.guide_with("{ max_streams: 1 }"));
    cluster.up();
    let mut idle = publisher(&cluster, "s1", START);
    // From the same address: at first it is refused.
    publisher(&cluster, "s2", BAD_NAME).expect("max_streams");
    let audio = message(5, 0, 8, 1, &[0xAF]);
    let mut refused = 0;
    let _other = wait_for("a place", SOON, || {
        idle.send(&audio);
        let mut raw = Raw::dial(cluster.net.origin()).handshake().connect("live", &[]);
        raw.send(&command("createStream", 2.0, &amf::NULL, 0));
        let name = [&amf::NULL[..], &amf::string("s2"), &amf::string("live")].concat();
        raw.send(&command("publish", 3.0, &name, 1));
        refused += 1;
        if raw.expect_any(&[START, BAD_NAME]) == START {
            Ok(raw)
        } else {
            Err(format!("refused {refused} times"))
        }
    });
    idle.expect_closed(SOON);
}

#[test]
fn players_that_wait_for_nothing_make_room_for_one_that_has_something_to_see() {
    let cluster = TestCluster::with(|net| net.guide_with("{ max_connections: 2 }"));
    cluster.up();
    let edge = cluster.net.edges()[0];
    let mut nobody = [1, 2].map(|n| Raw::playing(edge, &format!("nobody{n}")));
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(edge, STREAM).unwrap();
    player.await_started();
    nobody[0].expect_closed(SOON);
    await_limit(&cluster, edge, "max_connections_room");
}

#[test]
fn whoever_makes_room_is_told_so_and_keeps_what_else_its_connection_does() {
    let cluster = TestCluster::with(|net| net.guide_with("{ max_streams: 2, max_connections: 2 }"));
    cluster.up();
    let origin = cluster.net.origin();
    let mut publishes = stranger(&cluster, "s1", START);
    publishes.send(&command("createStream", 4.0, &amf::NULL, 0));
    let name = [&amf::NULL[..], &amf::string("s2"), &amf::string("live")].concat();
    publishes.send(&command("publish", 5.0, &name, 2));
    publishes.expect(START);
    publishes.send(&message(5, 0, 8, 1, b"\xAF\x01first"));
    let mut plays = Raw::playing(origin, "s1");
    plays.expect("first");
    plays.send(&command("createStream", 4.0, &amf::NULL, 0));
    plays.send(&command("play", 5.0, &[&amf::NULL[..], &amf::string("nobody")].concat(), 2));
    plays.expect("NetStream.Play.Start");

    let _encoder = publisher(&cluster, "other", START);
    publishes.expect("All places are taken");
    let mut newcomer = Raw::playing(origin, "s1");
    plays.expect("All places are taken");
    publishes.send(&message(5, 40, 8, 1, b"\xAF\x01second"));
    newcomer.expect("second");
    plays.expect("second");
}

#[test]
fn an_address_that_publishes_name_after_name_is_refused_and_others_are_not() {
    let cluster = TestCluster::guide();
    cluster.up();
    let mut raw = Raw::dial_from(cluster.net.host(99).into(), cluster.net.origin()).handshake();
    raw = raw.connect("live", &[]);
    let audio = message(5, 0, 8, 1, &[0xAF, 1, 2]);
    for number in 0..500 {
        let name = [&amf::NULL[..], &amf::string(&format!("n{number}")), &amf::string("live")].concat();
        let delete = command("deleteStream", 0.0, &[&amf::NULL[..], &amf::number(1.0)].concat(), 0);
        let all = [
            command("createStream", 2.0, &amf::NULL, 0),
            command("publish", 3.0, &name, 1),
            audio.clone(),
            delete,
        ];
        if !raw.send(&all.concat()) {
            break;
        }
    }
    raw.expect("publishes too often");
    publisher(&cluster, "other", START);
    await_limit(&cluster, cluster.net.origin(), "publish_rate");
}

#[test]
fn strangers_who_send_messages_without_end_are_cut_and_the_memory_goes_back() {
    let cluster = TestCluster::with(|net| net.guide_with("{ memory: 64MiB }"));
    cluster.up();
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let pid = cluster.pid(cluster.net.origin());
    let before = resident(pid);
    let half = vec![7; 7 << 20];
    let strangers: Vec<_> = (0..40)
        .map(|_| {
            let mut raw = Raw::dial(cluster.net.origin()).handshake().connect("live", &[]);
            let header = [
                &message(2, 0, 1, 0, &0x7FFF_FFFF_u32.to_be_bytes())[..],
                &chunk_header(4, 0, 8 << 20, 9, 1),
            ];
            // It may be cut in the middle.
            let _ = raw.send(&header.concat()) && raw.send(&half);
            raw
        })
        .collect();
    await_limit(&cluster, cluster.net.origin(), "memory");
    cluster.run(&["status"]).expect_words(&["connections cut", "memory: 64MiB"]);
    assert!(resident(pid) < before + (64 << 20), "{} bytes, and {before} before", resident(pid));
    drop(strangers);
    wait_for("the memory to go back", SOON, || {
        let now = resident(pid);
        if now < before + (16 << 20) { Ok(()) } else { Err(format!("{now} bytes, and {before} before")) }
    });
    assert_eq!(encoder.ended(), None);
}

/// Bytes of memory of a process.
fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
}
