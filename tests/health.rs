//! What does not work is said, by the process that it is about, with its cause; and what works is left alone.

use std::fs;
use std::thread;
use std::time::Duration;

use cluster::stats::ForwardState;
use cluster::status::{Health, UnitState, UnitStatus};
use control::Connection;
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};

use crate::support::cluster::{TestCluster, signal};
use crate::support::flv::assert_same;
use crate::support::net::Net;
use crate::support::{CARD_MS, SOON, STREAM, card, card_file, looped_card, rml, wait_for};

/// The guide's cluster with an encoder of its own, and what else is to stand there.
fn with_encoder(net: &Net, source: &str) -> String {
    format!("{}encoder: {{ source: {source}, stream: {STREAM} }}\n", net.guide())
}

/// Waits until a unit is as wanted.
#[track_caller]
fn await_unit(
    cluster: &TestCluster,
    id: &str,
    what: &str,
    wanted: impl Fn(&UnitStatus) -> bool,
) -> UnitStatus {
    wait_for(what, SOON, || {
        let units = cluster.try_status()?.units;
        let unit = units.into_iter().find(|unit| unit.id.as_str().starts_with(id)).ok_or("no such unit")?;
        if wanted(&unit) { Ok(unit) } else { Err(format!("{unit:#?}")) }
    })
}

#[test]
fn a_host_behind_nat_serves_on_its_listen_address_whether_or_not_its_outer_one_is_reached_from_here() {
    let cluster = TestCluster::with(|net| {
        let (origin, edge) = (net.host(5), net.host(6));
        format!(
            "cluster: {}\norigin: {{ host: {origin} }}\nedges:\n  - {{ host: 203.0.113.7, listen: {edge}, ports: [1935] }}\n\
             encoder: {{ source: test-card, stream: {STREAM} }}\n",
            net.cluster_name()
        )
    });
    cluster.up();
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    assert_same("behind NAT", &player.record_after(0, 3.0), &looped_card(), 3.0);
    let unit = await_unit(&cluster, "edge-203", "the edge to pass", |unit| unit.health == Health::Passing);
    assert_eq!((unit.restarts, unit.last_exit), (0, None));
    cluster.run(&["restart", "edge"]).expect_code(0).expect_words(&["plays", STREAM]);
}

#[test]
fn up_says_that_all_is_ready_when_every_forward_is_live() {
    let cluster = TestCluster::with(|net| with_encoder(net, "test-card"));
    cluster.up().expect_words(&["all 6 ready"]);
    let status = cluster.status();
    let rows: Vec<_> = status.streams.iter().filter(|row| row.publishing).collect();
    assert_eq!(rows.len(), 5, "{rows:#?}");
    let forwards: Vec<_> = rows.iter().flat_map(|row| &row.forwards).collect();
    assert!(forwards.len() == 4 && forwards.iter().all(|it| it.state == ForwardState::Live), "{forwards:#?}");
    assert!(status.units.iter().all(|unit| unit.health != Health::Critical), "{:#?}", status.units);
}

#[test]
fn an_encoder_whose_file_is_gone_or_whose_name_is_taken_says_so_and_the_cluster_is_not_ready() {
    let cluster = TestCluster::with(|net| with_encoder(net, "clip.flv"));
    let clip = cluster.dir.path().join("clip.flv");
    fs::copy(card_file(), &clip).unwrap();
    cluster.up();
    fs::rename(&clip, clip.with_extension("away")).unwrap();
    let pid = await_unit(&cluster, "encoder", "the encoder", |unit| unit.pid.is_some()).pid.unwrap();
    signal(pid, SIGKILL);
    let gone = await_unit(&cluster, "encoder", "the file to be missed", |unit| {
        unit.last_exit.as_ref().is_some_and(|exit| exit.how.contains("No such file or directory"))
    });
    assert!(gone.last_exit.unwrap().how.contains(clip.to_str().unwrap()));
    cluster.run(&["status"]).expect_code(3);

    let _other = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    fs::rename(clip.with_extension("away"), &clip).unwrap();
    let kept = await_unit(&cluster, "encoder", "the encoder to be refused", |unit| {
        unit.state == UnitState::Running && unit.health == Health::Critical
    });
    assert!(
        kept.note.contains("not publishing") && kept.note.contains("published by somebody else"),
        "{kept:#?}"
    );
    cluster.run(&["status"]).expect_code(3).expect_words(&["NOT READY"]);
}

#[test]
fn a_process_that_stands_still_again_and_again_is_said_to() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let pid = cluster.pid(edge);
    for _ in 0..4 {
        signal(pid, SIGSTOP);
        thread::sleep(Duration::from_millis(1_200));
        signal(pid, SIGCONT);
        thread::sleep(Duration::from_millis(100));
    }
    let id = format!("edge-{}-{}", edge.ip(), edge.port());
    let unit = await_unit(&cluster, &id, "the edge to be warned of", |unit| unit.health == Health::Warning);
    assert!(unit.note.contains("it stood still for"), "{unit:#?}");
    assert_eq!(unit.pid, Some(pid));
}

#[test]
fn clients_that_keep_control_connections_open_cost_no_worker_its_life_at_the_next_takeover() {
    let cluster = TestCluster::up_guide();
    let pids = cluster.pids();
    let units = cluster.state.join("run").join(cluster.net.cluster_name());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let held: Vec<Connection> = runtime.block_on(async {
        let mut held = Vec::new();
        for socket in control_sockets(&units) {
            held.extend((0..24).filter_map(|_| Connection::open(&socket).ok()));
        }
        held
    });
    assert!(held.len() >= 5 * 8, "{} connections", held.len());
    signal(cluster.status().supervisor_pid, SIGKILL);
    cluster.up();
    assert_eq!(cluster.pids(), pids);
    // Longer than a process may be silent.
    wait_for("the new supervisor to have watched for a while", SOON, || {
        let status = cluster.try_status()?;
        if status.supervisor_uptime_ms > 8_000 { Ok(()) } else { Err(format!("{status:#?}")) }
    });
    let status = cluster.status();
    assert!(status.units.iter().all(|unit| unit.last_exit.is_none()), "{:#?}", status.units);
    assert_eq!(cluster.pids(), pids);
}

fn control_sockets(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(control_sockets(&path));
        } else if path.file_name().is_some_and(|name| name == "ctl.sock") {
            found.push(path);
        }
    }
    found
}

#[test]
fn a_worker_that_is_replaced_leaves_the_reason_in_the_log_as_a_warning_and_in_the_status() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let old = cluster.pid(edge);
    signal(old, SIGSTOP);
    cluster.await_successor(edge, old);
    let how = cluster.unit(edge).last_exit.unwrap().how;
    assert!(how.contains("frozen: no heartbeat"), "{how}");
    let log = cluster.run(&["logs", "supervisor"]).expect_code(0).text();
    let warned = |words: &str| log.lines().any(|line| line.contains(" WARN ") && line.contains(words));
    assert!(
        warned("its keeper shall replace it")
            && warned("resumed")
            && warned("killed by SIGKILL: frozen: no heartbeat"),
        "{log}"
    );
}

#[test]
fn a_secret_file_that_is_replaced_costs_no_stream_or_is_named_as_the_cause() {
    let cluster = TestCluster::with(|net| with_encoder(net, "test-card"));
    cluster.up();
    let config = fs::read_to_string(&cluster.status().units[0].config).unwrap();
    let secret = config.lines().find_map(|line| line.strip_prefix("secret_file: ")).unwrap();
    let edge = cluster.net.edges()[0];
    let old = cluster.pid(edge);
    fs::write(secret.trim_matches('"'), "f".repeat(64)).unwrap();
    signal(cluster.keeper(edge), SIGKILL);
    cluster.await_successor(edge, old);
    wait_for("the stream at the edge, or why it is not there", SOON, || {
        let status = cluster.try_status()?;
        let unit = crate::support::cluster::find(&status, edge)?;
        let mut rows = status.streams.iter().filter(|row| row.unit == unit.id && row.stream == STREAM);
        let is_there = rows.any(|row| row.publishing && row.last_frame_age_ms.is_some_and(|age| age < 1_000));
        let is_named = unit.health == Health::Critical && unit.note.contains("another secret");
        if is_there || is_named { Ok(()) } else { Err(format!("{unit:#?}")) }
    });
}
