//! A changed file under a cluster that runs: what changes without anybody noticing, and what asks before it disconnects somebody.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{ChildStderr, Stdio};
use std::sync::mpsc;
use std::thread;

use bench::exact::{Plan, Swarm};
use cluster::status::StreamRow;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::support::cluster::{Done, TestCluster, finish, signal, spawn};
use crate::support::flv::assert_same;
use crate::support::raw::Raw;
use crate::support::rml::Peer;
use crate::support::swarm::{assert_whole, run, run_until, settle};
use crate::support::{CARD_MS, SOON, STREAM, card, looped_card, rml, wait_for};

/// The guide's cluster with a stream, and with players of one edge port that check every byte.
fn with_swarm(players: u32) -> (TestCluster, Swarm) {
    let cluster = TestCluster::up_guide();
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[0]);
    let mut swarm = Swarm::new(Plan { origin, edge, players, seed: 5 }).unwrap();
    swarm.ramp(20).unwrap();
    settle(&mut swarm);
    (cluster, swarm)
}

/// Runs `srsctl` to its end, under the eyes of the swarm.
#[track_caller]
fn under(swarm: &mut Swarm, cluster: &TestCluster, args: &[&str]) -> Done {
    let mut child = spawn(&mut cluster.srsctl(args));
    run_until(swarm, "the command ends", |_| child.try_wait().unwrap().is_some());
    finish(child, SOON)
}

fn json(done: &Done) -> Value {
    serde_json::from_str(&done.stdout).unwrap_or_else(|error| panic!("{error}: {done:?}"))
}

/// What a plan does to the unit that serves `addr`.
fn change_of(plan: &Value, addr: SocketAddr) -> Value {
    let changes = plan["hosts"][0]["changes"].as_array().unwrap();
    let is_of = |change: &&Value| {
        let unit = change["unit"].as_str().unwrap();
        unit.ends_with(&format!("-{}-{}", addr.ip(), addr.port()))
    };
    changes.iter().find(is_of).unwrap_or_else(|| panic!("{addr} is not in {plan:#}")).clone()
}

/// What a command says on stderr, line by line.
fn lines_of(stderr: ChildStderr) -> mpsc::Receiver<String> {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    receiver
}

/// Waits for a line that has `words`, under the eyes of the swarm.
#[track_caller]
fn await_line(swarm: &mut Swarm, lines: &mpsc::Receiver<String>, words: &str) {
    run_until(swarm, words, |_| lines.try_iter().any(|line| line.contains(words)));
}

/// A stream beside those of the swarm, on every port.
fn with_stream(swarm: &mut Swarm, cluster: &TestCluster) -> Peer {
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    let is_live = |row: &StreamRow| row.stream == STREAM && row.publishing && row.video_codec.is_some();
    run_until(swarm, "the stream on every port", |_| {
        let status = cluster.status();
        status.streams.iter().filter(|row| is_live(row)).count() == cluster.net.edges().len() + 1
    });
    encoder
}

#[test]
fn values_of_a_port_change_while_it_runs_and_nobody_notices_nor_does_the_next_worker_forget_them() {
    let (cluster, mut swarm) = with_swarm(40);
    let _encoder = with_stream(&mut swarm, &cluster);
    let pids = cluster.pids();
    let edge = cluster.net.edges()[0];
    let options = "{ max_connections: 60, gop_cache: false, latency: 100ms, queue_length: 10s, end_of_stream: close, \
                   publish_firstpkt_timeout: 15s, publish_normal_timeout: 6s, max_streams: 32, memory: 256MiB }";
    cluster.write(&cluster.net.guide_with(options));
    let plan = json(&cluster.run(&["plan", "--json", "--exit-code"]).expect_code(7));
    let change = change_of(&plan, edge);
    assert_eq!((&change["action"], &change["players"]), (&"reconfigure".into(), &0.into()), "{change}");
    for why in [
        "max_connections: 200 → 60",
        "gop_cache: true → false",
        "latency: auto → 100ms",
        "queue_length: 30s → 10s",
    ] {
        assert!(change["why"].as_array().unwrap().contains(&why.into()), "{why}: {change}");
    }
    under(&mut swarm, &cluster, &["up"])
        .expect_code(0)
        .expect_words(&["5 reconfigured", "has its new values"]);
    assert_eq!(cluster.pids(), pids);
    let status = cluster.unit(edge);
    assert_eq!(status.stats.unwrap().memory_limit_bytes, 256 << 20);
    let more: Vec<Peer> = (0..25).map(|_| rml::play(edge, STREAM).unwrap()).collect();
    let is_refused = |player: &Peer| player.codes().iter().any(|code| code == "NetStream.Play.Failed");
    run_until(&mut swarm, "all to be answered", |_| {
        more.iter().all(|player| is_refused(player) || !player.tags().is_empty())
    });
    assert_eq!(more.iter().filter(|player| is_refused(player)).count(), 5, "60 play");
    drop(more);
    run(&mut swarm, 500);
    assert_whole(&swarm);

    // A worker that is killed leaves them to the next one.
    signal(cluster.pid(edge), Signal::SIGKILL);
    run_until(&mut swarm, "the next worker", |_| cluster.unit(edge).resumed == 1);
    settle(&mut swarm);
    assert_whole(&swarm);
    let config = fs::read_to_string(cluster.unit(edge).config).unwrap();
    for line in
        ["max_connections: 60", "gop_cache: false", "latency: 100ms", "queue_length: 10s", "memory: 256MiB"]
    {
        assert!(config.contains(line), "{line}: {config}");
    }
    assert_eq!(cluster.unit(edge).stats.unwrap().memory_limit_bytes, 256 << 20);
    cluster.run(&["plan", "--exit-code"]).expect_code(0).expect_words(&["nothing to change"]);
}

#[test]
fn a_removed_port_drains_and_is_closed_and_players_of_the_others_do_not_notice() {
    let (cluster, mut swarm) = with_swarm(30);
    let [_, removed, ..] = cluster.net.edges();
    let encoder = with_stream(&mut swarm, &cluster);
    let player = rml::play(removed, STREAM).unwrap();
    run_until(&mut swarm, "a player", |_| player.mark() > 0);
    let (guide, before) = (cluster.net.guide(), cluster.pids());
    cluster.write(&guide.replacen("[1935, 1936]", "[1935]", 1));
    let plan = json(&cluster.run(&["plan", "--json"]).expect_code(0));
    let change = change_of(&plan, removed);
    assert_eq!((&change["action"], &change["players"]), (&"stop".into(), &1.into()), "{change}");
    assert_eq!(change["streams"], Value::from(vec![STREAM]));

    // Nobody is disconnected without a word.
    let done = under(&mut swarm, &cluster, &["up"]).expect_code(6);
    done.expect_words(&["nothing was touched", "1 player (live/livestream)", "--yes"]);
    cluster.run(&["up", "--dry-run"]).expect_code(0).expect_words(&["1 stopped", "needs --yes"]);
    assert_eq!(cluster.pids(), before);

    let mut up = cluster.srsctl(&["up", "--yes", "--drain", "3s"]);
    let mut up = up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = lines_of(up.stderr.take().unwrap());
    await_line(&mut swarm, &lines, "takes nobody any more; who is there has 3 s to go");
    // Who is there goes on, and who comes is told.
    let refused = rml::play(removed, STREAM).unwrap();
    run_until(&mut swarm, "a refusal", |_| {
        refused.codes().iter().any(|code| code == "NetStream.Play.Failed")
    });
    let mark = player.mark();
    run_until(&mut swarm, "more for the player", |_| player.mark() > mark + 20);
    assert_eq!(player.ended(), None);
    await_line(&mut swarm, &lines, ": 1 player");
    run_until(&mut swarm, "the change ends", |_| up.try_wait().unwrap().is_some());
    assert!(up.wait().unwrap().success());
    player.await_end();
    assert!(
        player.codes().iter().any(|code| code == "NetStream.Play.UnpublishNotify"),
        "{:?}",
        player.codes()
    );
    assert_same("the player, until it was told", &player.record_after(0, 1.0), &looped_card(), 1.0);
    settle(&mut swarm);
    assert_whole(&swarm);
    assert!(TcpStream::connect(removed).is_err());
    let after = cluster.pids();
    assert_eq!(after.len() + 1, before.len());
    assert!(after.iter().all(|(id, pid)| before[id] == *pid), "{before:?} → {after:?}");
    let unit = format!("edge-{}-{}", removed.ip(), removed.port());
    let conf = fs::read_to_string(cluster.unit(cluster.net.origin()).config).unwrap();
    assert!(!conf.contains(&unit), "it is still forwarded to: {conf}");
    for left in [
        format!("lib/{}/conf/{unit}.yaml", cluster.net.cluster_name()),
        format!("run/{}/units/{unit}", cluster.net.cluster_name()),
    ] {
        assert!(!cluster.state.join(&left).exists(), "{left}");
    }
    cluster.run(&["events"]).expect_code(0).expect_words(&["removed"]);

    // It comes back as an addition, with what is live.
    cluster.write(&guide);
    under(&mut swarm, &cluster, &["up"]).expect_code(0);
    let back = rml::play(removed, STREAM).unwrap();
    run_until(&mut swarm, "what is live there", |_| back.mark() > 20);
    assert_eq!(encoder.ended(), None);
    settle(&mut swarm);
    assert_whole(&swarm);
    cluster.down();
}

#[test]
fn a_whole_host_without_players_is_taken_out_at_once_and_without_consent() {
    let (cluster, mut swarm) = with_swarm(20);
    let second = format!("  - {{ host: {}, ports: [1935, 1936] }}\n", cluster.net.host(7));
    cluster.write(&cluster.net.guide().replace(&second, ""));
    let begin = std::time::Instant::now();
    under(&mut swarm, &cluster, &["up"]).expect_code(0).expect_words(&["2 stopped", "is removed"]);
    assert!(begin.elapsed().as_secs() < 25, "it waits for nobody");
    settle(&mut swarm);
    assert_whole(&swarm);
    assert_eq!(cluster.pids().len(), 3);
    cluster.down();
}

#[test]
fn the_encoder_is_added_changed_and_removed_and_players_of_other_streams_do_not_notice() {
    let (cluster, mut swarm) = with_swarm(20);
    let (guide, edge) = (cluster.net.guide(), cluster.net.edges()[1]);
    let pids = cluster.pids();
    cluster.write(&format!("{guide}encoder: {{ source: test-card, stream: live/card }}\n"));
    under(&mut swarm, &cluster, &["up"]).expect_code(0).expect_words(&["1 started"]);
    let player = rml::play(edge, "live/card").unwrap();
    assert_same("the card", &player.record_after(0, 1.0), &looped_card(), 1.0);
    cluster.write(&format!("{guide}encoder: {{ source: test-card, stream: live/other }}\n"));
    under(&mut swarm, &cluster, &["up"]).expect_code(0).expect_words(&["1 restarted"]);
    let other = rml::play(edge, "live/other").unwrap();
    other.record_after(0, 1.0);
    cluster.write(&guide);
    under(&mut swarm, &cluster, &["up"])
        .expect_code(0)
        .expect_words(&["1 stopped", "nobody is disconnected"]);
    assert_eq!((cluster.pids(), player.ended()), (pids, None));
    // A file that cannot be sent is refused, and nothing was touched.
    cluster.write(&format!("{guide}encoder: {{ source: none.flv, stream: live/card }}\n"));
    let done = under(&mut swarm, &cluster, &["up"]);
    assert!([1, 2].contains(&done.code), "{done:?}");
    settle(&mut swarm);
    assert_whole(&swarm);
    cluster.write(&guide);
    cluster.run(&["plan", "--exit-code"]).expect_code(0);
    cluster.down();
}

#[test]
fn an_encoder_that_is_left_when_an_origin_is_taken_out_hears_what_those_hear_who_come_meanwhile() {
    const TOLD: &str = "this origin is taken out of its cluster; publish to another one";
    let cluster = TestCluster::up_guide();
    let publishing =
        |name, status| Raw::dial(cluster.net.origin()).handshake().connect("live", &[]).publish(name, status);
    let mut left = publishing("left", "NetStream.Publish.Start");
    let unit = cluster.unit(cluster.net.origin());
    cluster.write(&cluster.net.guide().replace("port: 1935", "port: 1940"));
    let mut up = cluster.srsctl(&["up", "--yes", "--drain", "2s"]);
    let mut up = up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = lines_of(up.stderr.take().unwrap());
    wait_for("the drain", SOON, || {
        lines
            .try_iter()
            .find(|line| line.contains("takes nobody any more"))
            .ok_or_else(|| "not yet".to_owned())
    });
    publishing("new", "NetStream.Publish.Denied").expect(TOLD);
    left.expect("NetStream.Publish.Denied");
    left.expect(TOLD);
    assert!(!left.has("All places are taken"));
    left.expect_closed(SOON);
    assert!(up.wait().unwrap().success());
    let log = fs::read_to_string(&unit.log).unwrap();
    let line = log.lines().find(|line| line.contains("unpublished") && line.contains("live/left")).unwrap();
    assert!(line.contains("taken_out=true") && line.contains("makes_room=false"), "{line}");
    cluster.down();
}

#[test]
fn an_origin_that_moves_asks_for_its_encoders_and_keeps_the_players_of_the_edges() {
    let cluster = TestCluster::up_guide();
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    player.record_after(0, 1.0);
    cluster.write(&cluster.net.guide().replace("port: 1935", "port: 1940"));
    cluster.run(&["up"]).expect_code(6).expect_words(&["1 encoder (live/livestream)"]);
    cluster.run(&["up", "--yes", "--drain", "0s"]).expect_code(0).expect_words(&["1 started", "1 stopped"]);
    encoder.await_end();
    assert!(TcpStream::connect(cluster.net.origin()).is_err());
    let _again = rml::publish((cluster.net.host(5), 1940).into(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    player.await_more(20);
    assert_eq!(player.ended(), None);
    cluster.down();
}

#[test]
fn who_is_closed_at_the_end_of_a_stream_is_counted_where_the_encoder_or_the_origin_changes() {
    let cluster = TestCluster::guide();
    let guide = cluster.net.guide_with("{ end_of_stream: close }");
    let with = |stream: &str| format!("{guide}encoder: {{ source: test-card, stream: {stream} }}\n");
    cluster.write(&with("live/card"));
    cluster.up();
    let [first, second, ..] = cluster.net.edges();
    let players = [first, second, second].map(|edge| rml::play(edge, "live/card").unwrap());
    players.iter().for_each(|player| drop(player.record_after(0, 0.5)));
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let other = rml::play(first, STREAM).unwrap();
    other.record_after(0, 0.5);

    cluster.write(&with("live/other"));
    let plan = json(&cluster.run(&["plan", "--json"]).expect_code(0));
    let changes = plan["hosts"][0]["changes"].as_array().unwrap();
    let change = changes.iter().find(|change| change["unit"] == "encoder").unwrap();
    assert_eq!((&change["action"], &change["players"]), (&"restart".into(), &3.into()), "{plan:#}");
    assert_eq!(change["streams"], Value::from(vec!["live/card"]));
    cluster.run(&["up"]).expect_code(6).expect_words(&["restart encoder: 3 players (live/card)"]);
    cluster.write(&guide);
    cluster.run(&["up"]).expect_code(6).expect_words(&["stop encoder: 3 players (live/card)"]);
    // With the origin all streams end.
    cluster.write(&with("live/card").replace("port: 1935", "port: 1940"));
    let done = cluster.run(&["up"]).expect_code(6);
    done.expect_words(&["restart encoder: 3 players (live/card)", "1 player, 1 encoder (live/livestream)"]);
    assert!(players.iter().chain([&other]).all(|player| player.ended().is_none()));
    cluster.write(&guide);
    cluster.run(&["up", "--yes"]).expect_code(0);
    players.iter().for_each(|player| drop(player.await_end()));
    assert_eq!((encoder.ended(), other.ended()), (None, None));
    cluster.run(&["plan", "--exit-code"]).expect_code(0);
    cluster.down();
}

#[test]
fn a_port_that_listens_elsewhere_is_moved_and_the_others_do_not_notice() {
    let (cluster, mut swarm) = with_swarm(20);
    let host = cluster.net.host(7);
    let moved = format!("{{ host: {host}, ports: [1935, 1936] }}");
    let to = cluster.net.host(8);
    cluster.write(
        &cluster
            .net
            .guide()
            .replace(&moved, &format!("{{ host: {host}, listen: {to}, ports: [1935, 1936] }}")),
    );
    under(&mut swarm, &cluster, &["up"]).expect_code(0).expect_words(&["2 restarted"]);
    assert!(TcpStream::connect((host, 1935)).is_err());
    rml::play((to, 1935).into(), swarm_stream()).unwrap().await_started();
    settle(&mut swarm);
    assert_whole(&swarm);
    cluster.down();
}

/// Any name: who plays it waits.
fn swarm_stream() -> &'static str {
    "live/nothing"
}

#[test]
fn what_was_in_force_is_listed_and_comes_back_through_the_same_plan() {
    let (cluster, mut swarm) = with_swarm(20);
    let (guide, edge) = (cluster.net.guide(), cluster.net.edges()[1]);
    cluster.write(&guide.replacen("[1935, 1936]", "[1935]", 1));
    under(&mut swarm, &cluster, &["up"]).expect_code(0);
    cluster.write(&guide.replace("max_connections: 200", "max_connections: 300"));
    under(&mut swarm, &cluster, &["up"]).expect_code(0);
    let history = json(&cluster.run(&["history", "--json"]).expect_code(0));
    let numbers: Vec<_> =
        history["generations"].as_array().unwrap().iter().map(|it| it["number"].clone()).collect();
    assert_eq!(
        (&history["in_force"], numbers),
        (&3.into(), vec![1.into(), 2.into(), 3.into()]),
        "{history:#}"
    );
    assert_eq!(cluster.run(&["history", "--text", "1"]).expect_code(0).stdout, guide);

    // Back to the one without the port, on which somebody plays by now.
    let player = rml::play(edge, STREAM).unwrap();
    player.await_started();
    under(&mut swarm, &cluster, &["rollback"]).expect_code(6).expect_words(&["1 player"]);
    cluster.run(&["rollback", "1", "--dry-run"]).expect_code(0).expect_words(&["max_connections: 300 → 200"]);
    let done = under(&mut swarm, &cluster, &["rollback", "--yes", "--drain", "0s"]).expect_code(0);
    done.expect_words(&["1 stopped", "still has another text"]);
    player.await_end();
    assert!(TcpStream::connect(edge).is_err());
    under(&mut swarm, &cluster, &["rollback", "1"]).expect_code(0).expect_words(&["1 started"]);
    let history = cluster.run(&["history"]).expect_code(0);
    assert!(history.stdout.lines().last().unwrap().contains("rollback to 1"), "{history:?}");
    assert!(
        history.stdout.contains("(pid ") && !history.stdout.contains('…'),
        "who asked is whole: {history:?}"
    );
    cluster.run(&["rollback", "77"]).expect_code(1).expect_words(&["no file 77", "1, 2, 3, 4, 5"]);
    cluster.write(&guide);
    cluster.run(&["plan", "--exit-code"]).expect_code(0);
    settle(&mut swarm);
    assert_whole(&swarm);
    cluster.down();
}

#[test]
fn a_plan_that_was_written_is_carried_out_only_if_nothing_has_changed_since() {
    let cluster = TestCluster::guide();
    let done = cluster.run(&["plan", "cluster.yaml"]).expect_code(0);
    done.expect_words(&["5 started", "no supervisor runs"]);
    assert!(!cluster.state.exists(), "a plan touches nothing");
    cluster.run(&["plan", "-o", "first.json"]).expect_code(0);
    cluster.run(&["up", "first.json"]).expect_code(0);
    cluster
        .run(&["up", "first.json"])
        .expect_code(1)
        .expect_words(&["the cluster was started since the plan was made"]);

    let guide = cluster.net.guide();
    cluster.write(&guide.replace("gop_cache: true", "gop_cache: false"));
    // A plan replaces nothing but a plan.
    let done = cluster.run(&["plan", "-o", "cluster.yaml"]).expect_code(2);
    done.expect_words(&["cluster.yaml: there is a file already, and it is no plan", "name another one"]);
    assert!(fs::read_to_string(&cluster.file).unwrap().contains("gop_cache: false"));
    cluster.run(&["plan", "-o", "first.json"]).expect_code(0);
    let done = cluster.run(&["plan", "-o", "-", "--exit-code"]).expect_code(7);
    assert!(json(&done)["text"].as_str().unwrap().contains("gop_cache: false"));
    assert!(!cluster.dir.path().join("-").exists());
    cluster.run(&["plan", "-o", "second.json", "--exit-code"]).expect_code(7);
    // The file does not matter any more.
    cluster.write(&guide.replace("max_connections: 200", "max_connections: 100"));
    cluster.run(&["plan", "-o", "third.json"]).expect_code(0);
    cluster.run(&["up", "second.json"]).expect_code(0).expect_words(&["5 reconfigured"]);
    for args in [&["up", "third.json"][..], &["up", "--dry-run", "third.json"], &["plan", "third.json"]] {
        let done = cluster.run(args).expect_code(1);
        assert!(!format!("{done:?}").contains("ACTION"), "no table of what is not done: {done:?}");
        done.expect_words(&["nothing was touched", "made for generation 1 of the file in force, which is 2"]);
    }
    let broken = fs::read_to_string(cluster.dir.path().join("third.json")).unwrap();
    fs::write(
        cluster.dir.path().join("third.json"),
        broken.replace("max_connections: 100", "max_connections: 99"),
    )
    .unwrap();
    cluster.run(&["up", "third.json"]).expect_code(2).expect_words(&["not the one that it was made of"]);
    let history = json(&cluster.run(&["history", "--json"]));
    assert_eq!(history["in_force"], 2);
    cluster.down();
}

#[test]
fn a_wrong_file_replaces_no_file_in_force() {
    let cluster = TestCluster::up_guide();
    let (pids, guide) = (cluster.pids(), cluster.net.guide());
    for wrong in [
        guide.replace("1936]", "1936"),
        guide.replace("max_connections: 200", "max_connections: 0"),
        String::new(),
    ] {
        cluster.write(&wrong);
        cluster.run(&["plan", "cluster.yaml"]).expect_code(2);
        cluster.run(&["up", "cluster.yaml"]).expect_code(2);
        assert_eq!(cluster.pids(), pids);
    }
    let history = json(&cluster.run(&["history", "--json"]));
    assert_eq!(history["in_force"], 1);
    cluster.write(&guide);
    cluster.run(&["up"]).expect_code(0).expect_words(&["nothing to change"]);
}

#[test]
fn a_supervisor_that_is_killed_in_the_middle_of_a_change_costs_no_player_of_the_ports_that_stay() {
    let (cluster, mut swarm) = with_swarm(30);
    let [_, removed, ..] = cluster.net.edges();
    let player = rml::play(removed, STREAM).unwrap();
    player.await_started();
    let supervisor = cluster.status().supervisor_pid;
    let (guide, before) = (cluster.net.guide(), cluster.pids());
    cluster.write(
        &guide
            .replacen("[1935, 1936]", "[1935, 1937]", 1)
            .replace("max_connections: 200", "max_connections: 90"),
    );
    let mut up = cluster.srsctl(&["up", "--yes", "--drain", "600s"]);
    let mut up = up.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let lines = lines_of(up.stderr.take().unwrap());
    await_line(&mut swarm, &lines, "takes nobody any more");
    // Who looks meanwhile is told that this is not all.
    let busy = "it applies a changed file";
    under(&mut swarm, &cluster, &["plan"]).expect_code(0).expect_words(&[
        "nobody else is disconnected",
        "the supervisor is busy",
        busy,
        "when that is done",
    ]);
    let plan = json(&under(&mut swarm, &cluster, &["plan", "--json"]).expect_code(0));
    assert!(plan["hosts"][0]["busy"].as_str().unwrap().contains(busy), "{plan:#}");
    signal(supervisor, Signal::SIGKILL);
    run_until(&mut swarm, "up ends", |_| up.try_wait().unwrap().is_some());
    assert!(!up.wait().unwrap().success());
    // The new file is in force; what it does not name goes on leaving, and who is there has time.
    under(&mut swarm, &cluster, &["up"]).expect_code(0);
    assert_eq!(player.ended(), None);
    drop(player);
    run_until(&mut swarm, "the port to be closed", |_| TcpStream::connect(removed).is_err());
    run_until(&mut swarm, "it to be forgotten", |_| cluster.pids().len() == before.len());
    let after = cluster.pids();
    assert_eq!(after.len(), before.len());
    assert!(before.iter().filter(|(id, _)| after.contains_key(*id)).all(|(id, pid)| after[id] == *pid));
    cluster.run(&["plan", "--exit-code"]).expect_code(0);
    settle(&mut swarm);
    assert_whole(&swarm);
    // The other way round, without a supervisor in between.
    signal(cluster.status().supervisor_pid, Signal::SIGKILL);
    cluster.write(&guide);
    under(&mut swarm, &cluster, &["up"])
        .expect_code(0)
        .expect_words(&["taking over what runs", "1 started, 1 stopped"]);
    settle(&mut swarm);
    assert_whole(&swarm);
    cluster.down();
}
