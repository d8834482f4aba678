//! A port that leaves its cluster while players are there, whoever supervises it meanwhile.

use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use cluster::status::{Draining, UnitState, UnitStatus};
use nix::sys::signal::Signal;

use crate::support::cluster::{TestCluster, find, signal};
use crate::support::rml::{Peer, Player};
use crate::support::{CARD_MS, SOON, STREAM, card, rml, wait_for, wait_until};

/// The guide's cluster with a stream, and with a player of the edge port that is taken out of its file.
fn with_a_leaving_port(drain: &str) -> (TestCluster, Peer, SocketAddr, Player) {
    let cluster = TestCluster::up_guide();
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let [_, leaving, ..] = cluster.net.edges();
    let player = rml::play(leaving, STREAM).unwrap();
    player.record_after(0, 0.5);
    cluster.write(&cluster.net.guide().replacen("[1935, 1936]", "[1935]", 1));
    let mut up = begin(&cluster, drain);
    let unit = await_draining(&cluster, leaving);
    let is_left = |it: &Draining| (it.players, it.encoders, it.moves) == (Some(1), Some(0), false);
    assert!(unit.draining.as_ref().is_some_and(is_left), "{unit:?}");
    // A person is told the same, and that all that is wanted is ready.
    let status = cluster.run(&["status"]).expect_code(0);
    let _ = status.expect_words(&[
        "edges 3/3; draining 1",
        " draining ",
        "takes nobody any more, left: 1 player",
    ]);
    signal(cluster.status().supervisor_pid, Signal::SIGKILL);
    assert!(!up.wait().unwrap().success());
    (cluster, encoder, leaving, player)
}

/// `up` that goes on beside the test.
fn begin(cluster: &TestCluster, drain: &str) -> Child {
    let mut up = cluster.srsctl(&["up", "--yes", "--drain", drain]);
    up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
}

#[track_caller]
fn await_draining(cluster: &TestCluster, addr: SocketAddr) -> UnitStatus {
    wait_for("the drain", SOON, || {
        let unit = find(&cluster.try_status()?, addr)?;
        let is_known = unit.draining.as_ref().is_some_and(|it| it.players.is_some_and(|players| players > 0));
        if unit.state == UnitState::Draining && is_known { Ok(unit) } else { Err(format!("{unit:?}")) }
    })
}

fn is_closed(addr: SocketAddr) -> bool {
    TcpStream::connect(addr).is_err()
}

#[test]
fn a_drain_goes_on_under_the_next_supervisor_and_is_taken_back_where_the_file_has_the_port_again() {
    let (cluster, encoder, leaving, player) = with_a_leaving_port("300s");
    let removed = fs::read_to_string(&cluster.file).unwrap();
    cluster.write(&cluster.net.guide());
    cluster.run(&["plan"]).expect_code(0).expect_words(&["it was leaving, and stays", "no supervisor runs"]);
    cluster.write(&removed);
    cluster.run(&["up"]).expect_code(0).expect_words(&["draining"]);
    let unit = await_draining(&cluster, leaving);
    let left = unit.draining.unwrap().left_ms.expect("the consent is remembered");
    assert!((200_000..300_000).contains(&left), "{left}");
    player.await_more(20);
    let refused = rml::play(leaving, STREAM).unwrap();
    refused.await_end();
    assert!(refused.codes().iter().any(|code| code == "NetStream.Play.Failed"), "{:?}", refused.codes());

    cluster.write(&cluster.net.guide());
    let stays = ["it was leaving, and stays", "nobody is disconnected"];
    cluster.run(&["plan"]).expect_code(0).expect_words(&stays);
    cluster.run(&["up"]).expect_code(0).expect_words(&["edges 4/4"]);
    let back = cluster.unit(leaving);
    assert_eq!((back.state, back.draining, back.pid), (UnitState::Running, None, unit.pid));
    rml::play(leaving, STREAM).unwrap().record_after(0, 0.5);
    player.await_more(20);
    assert_eq!((player.ended(), encoder.ended()), (None, None));
    cluster.run(&["plan", "--exit-code"]).expect_code(0);
    cluster.run(&["events"]).expect_code(0).expect_words(&["draining", "there now: 1 player", "kept"]);
    cluster.down();
}

#[test]
fn who_is_left_when_a_drain_is_over_is_closed_under_the_next_supervisor_with_the_consent_that_was_given() {
    let (cluster, encoder, leaving, player) = with_a_leaving_port("15s");
    cluster.run(&["up"]).expect_code(0);
    player.await_end();
    assert!(
        player.codes().iter().any(|code| code == "NetStream.Play.UnpublishNotify"),
        "{:?}",
        player.codes()
    );
    wait_until("the port is closed", SOON, || is_closed(leaving));
    wait_until("it is forgotten", SOON, || cluster.status().units.len() == 4);
    assert_eq!(encoder.ended(), None);
    let conf = fs::read_to_string(cluster.unit(cluster.net.origin()).config).unwrap();
    assert!(!conf.contains(&format!("edge-{}-{}", leaving.ip(), leaving.port())), "{conf}");
    cluster.run(&["events"]).expect_code(0).expect_words(&["drained", "closed: 1 player", "removed"]);
    cluster.run(&["plan", "--exit-code"]).expect_code(0);
    cluster.down();
}

#[test]
fn without_a_record_of_consent_nobody_is_cut_until_somebody_says_so() {
    let (cluster, _encoder, leaving, player) = with_a_leaving_port("60s");
    let record = format!("run/{}/units/edge-{}-{}", cluster.net.cluster_name(), leaving.ip(), leaving.port());
    fs::remove_file(cluster.state.join(record).join("departure.json")).unwrap();
    cluster.run(&["up"]).expect_code(0).expect_words(&["when nobody is, or by srsctl up --yes"]);
    assert_eq!(await_draining(&cluster, leaving).draining.unwrap().left_ms, None);
    player.await_more(20);
    let asked = cluster.run(&["up"]).expect_code(6);
    let _ = asked.expect_words(&["nothing was touched", "stop edge-", "1 player (live/livestream)", "--yes"]);
    assert_eq!(player.ended(), None);
    cluster.run(&["up", "--yes", "--drain", "0s"]).expect_code(0).expect_words(&["is removed"]);
    player.await_end();
    assert!(is_closed(leaving));
    cluster.down();
}

#[test]
fn an_origin_that_moves_takes_the_clusters_own_encoder_along_and_nobody_is_asked_or_waited_for() {
    let cluster = TestCluster::guide();
    let guide = format!("{}encoder: {{ source: test-card, stream: {STREAM} }}\n", cluster.net.guide());
    cluster.write(&guide);
    cluster.up();
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    player.record_after(0, 0.5);
    cluster.write(&guide.replace("port: 1935", "port: 1940"));
    cluster.run(&["plan"]).expect_code(0).expect_words(&["nobody is disconnected"]);
    let begin = Instant::now();
    cluster.run(&["up", "--drain", "600s"]).expect_code(0).expect_words(&["1 started", "1 stopped"]);
    assert!(begin.elapsed() < Duration::from_secs(40), "it waits for the encoder");
    assert!(is_closed(cluster.net.origin()));
    wait_for("the stream at the new origin", SOON, || {
        let status = cluster.try_status()?;
        let row = status.streams.iter().find(|row| row.port == 1940 && row.publishing);
        row.map(|_| ()).ok_or_else(|| "not yet".to_owned())
    });
    player.await_more(40);
    assert_eq!(player.ended(), None);
    // Another encoder is asked for.
    let other = rml::publish((cluster.net.host(5), 1940).into(), "live/other", card(), Some(CARD_MS));
    cluster.await_live("live/other");
    cluster.write(&guide);
    cluster.run(&["up"]).expect_code(6).expect_words(&["1 encoder (live/other)"]);
    assert_eq!(other.ended(), None);
    cluster.down();
}

#[test]
fn an_origin_that_leaves_and_the_one_in_its_place_do_not_take_a_stream_from_each_other() {
    let cluster = TestCluster::up_guide();
    let old = cluster.net.origin();
    let first = rml::publish(old, STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let new = SocketAddr::new(old.ip(), 1934);
    cluster.write(&cluster.net.guide().replacen(&old.port().to_string(), "1934", 1));
    let mut up = begin(&cluster, "5s");
    wait_for("the drain", SOON, || {
        let unit = find(&cluster.try_status()?, old)?;
        if unit.state == UnitState::Draining { Ok(()) } else { Err(format!("{unit:?}")) }
    });
    let second = rml::publish(new, STREAM, card(), Some(CARD_MS));
    assert!(up.wait().unwrap().success());
    let logs = cluster.run(&["logs", "edge", "-n", "1000"]).expect_code(0).text();
    let taken = logs.matches("another connection of the origin took over").count();
    assert_eq!(taken, cluster.net.edges().len(), "once on each edge: {logs}");
    cluster.await_live(STREAM);
    drop((first, second));
}
