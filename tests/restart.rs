//! Ports are restarted under playing clients.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use bench::exact::{Plan, Swarm};
use cluster::status::UnitStatus;
use nix::sys::signal::Signal::SIGKILL;

use crate::support::clients::Recorder;
use crate::support::cluster::{SRSCTL, TestCluster, find, finish, run, signal, spawn};
use crate::support::flv::assert_same;
use crate::support::net::url;
use crate::support::swarm::{assert_whole, run_until, settle};
use crate::support::{CARD_MS, SOON, STREAM, card, looped_card, rml, wait_for, wait_until};

#[track_caller]
fn assert_renewed(unit: &UnitStatus, times: u32) {
    assert_eq!((unit.renewed, unit.resumed, unit.restarts), (times, 0, 0), "{unit:#?}");
    assert_eq!(unit.last_exit.as_ref().map(|exit| exit.how.as_str()), Some("restart"), "{unit:#?}");
}

/// The program that a process runs.
fn program(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

/// A cluster of a program of its own, which may be replaced.
fn up_with_own_program() -> (TestCluster, PathBuf) {
    let cluster = TestCluster::guide();
    let own = cluster.dir.path().join("srsctl");
    fs::copy(SRSCTL, &own).unwrap();
    let up = cluster.srsctl(&["up", "cluster.yaml"]);
    let mut command = Command::new(&own);
    command.args(up.get_args()).current_dir(cluster.dir.path());
    up.get_envs().for_each(|(name, value)| match value {
        Some(value) => drop(command.env(name, value)),
        None => drop(command.env_remove(name)),
    });
    run(&mut command).expect_code(0);
    (cluster, own)
}

/// The guide's cluster, its encoder, and a player of its first edge that has begun.
fn with_a_player() -> (TestCluster, rml::Peer, rml::Peer) {
    let cluster = TestCluster::up_guide();
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    player.await_started();
    (cluster, encoder, player)
}

#[test]
fn restarts_of_an_edge_and_of_the_origin_are_noticed_by_no_player_and_by_no_encoder() {
    let cluster = TestCluster::up_guide();
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[0]);
    let encoder = rml::publish(origin, STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(edge, STREAM).unwrap();
    let recorded = Recorder::ffmpeg(cluster.dir.path(), &url(edge, STREAM));
    player.record_after(0, 1.0);
    let before = [cluster.unit(edge), cluster.unit(origin)];
    let _ =
        cluster.run(&["restart", "edge", "1935"]).expect_code(0).expect_words(&["is ready", "plays", STREAM]);
    let _ = cluster.run(&["restart", "origin"]).expect_code(0).expect_words(&["is ready", "plays", STREAM]);
    let mark = player.mark();
    player.record_after(mark, 2.0);
    assert_same("the player", &player.record_after(0, 5.0), &looped_card(), 5.0);
    assert_same("ffmpeg", &recorded.record(3.0), &looped_card(), 3.0);
    assert_eq!((player.ended(), encoder.ended()), (None, None));
    for (before, addr) in before.iter().zip([edge, origin]) {
        let after = cluster.unit(addr);
        assert_renewed(&after, 1);
        assert_ne!(after.pid, before.pid);
        assert_eq!(after.keeper_pid, before.keeper_pid);
    }
    let next = rml::play(edge, STREAM).unwrap();
    assert_same("a player that came later", &next.record_after(0, 2.0), &looped_card(), 2.0);
    let _ = cluster.run(&["status"]).expect_code(0).expect_words(&["restarted once", "last exit: restart"]);
    cluster.down();
}

#[test]
fn a_cold_restart_disconnects_the_players_of_its_port_and_starts_another_keeper() {
    let (cluster, encoder, player) = with_a_player();
    let edge = cluster.net.edges()[0];
    let before = cluster.keeper(edge);
    let told = cluster.run(&["restart", "edge", "1935", "--cold"]).expect_code(0);
    told.expect_words(&["its players are disconnected"]);
    player.await_end();
    assert_ne!(cluster.keeper(edge), before);
    assert_eq!((cluster.unit(edge).renewed, encoder.ended()), (0, None));
}

#[test]
fn ten_restarts_in_a_row_leave_no_descriptor_and_no_memory() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let players: Vec<_> = (0..5).map(|_| rml::play(edge, STREAM).unwrap()).collect();
    players.iter().for_each(rml::Peer::await_started);
    let keeper = cluster.keeper(edge);
    let open = || fs::read_dir(format!("/proc/{keeper}/fd")).unwrap().flatten().map(|entry| entry.path());
    let shared = || {
        let is_state = |path: &PathBuf| {
            fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("memfd:srsctl-port"))
        };
        fs::metadata(open().find(is_state).expect("the state of the port")).unwrap().blocks() * 512
    };
    let host = edge.ip().to_string();
    let restart = || drop(cluster.run(&["restart", "edge", "1935", "--host", &host]).expect_code(0));
    restart();
    let (fds, memory) = (open().count(), shared());
    (0..9).for_each(|_| restart());
    wait_for("as many descriptors as before", SOON, || {
        let now = open().count();
        if now <= fds + 2 { Ok(()) } else { Err(format!("{fds} → {now}")) }
    });
    wait_for("as much memory as before", SOON, || {
        let now = shared();
        if now <= memory + (4 << 20) { Ok(()) } else { Err(format!("{memory} → {now} bytes")) }
    });
    for (number, player) in players.iter().enumerate() {
        assert_same(&format!("player {number}"), &player.record_after(0, 5.0), &looped_card(), 5.0);
        assert_eq!(player.ended(), None);
    }
    assert_renewed(&cluster.unit(edge), 10);
    assert_eq!(cluster.keeper(edge), keeper);
    cluster.down();
}

#[test]
fn a_program_that_was_replaced_on_disk_is_the_one_that_runs_after_a_restart() {
    let (cluster, own) = up_with_own_program();
    let edge = cluster.net.edges()[0];
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(edge, STREAM).unwrap();
    player.await_started();
    let new = own.with_extension("new");
    fs::copy(SRSCTL, &new).unwrap();
    fs::rename(&new, &own).unwrap();
    assert!(program(cluster.keeper(edge)).to_string_lossy().ends_with("(deleted)"));
    cluster.run(&["restart", "edge", "1935"]).expect_code(0);
    let unit = cluster.unit(edge);
    for pid in [unit.pid.unwrap(), unit.keeper_pid.unwrap()] {
        assert_eq!(program(pid), own);
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap().trim(), "srsctl");
    }
    assert_renewed(&unit, 1);
    assert_same("the player", &player.record_after(0, 3.0), &looped_card(), 3.0);
    assert_eq!(player.ended(), None);
}

#[test]
fn a_program_that_cannot_be_started_leaves_the_one_that_runs_in_its_place_and_the_restart_says_so() {
    let (cluster, own) = up_with_own_program();
    let edge = cluster.net.edges()[0];
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(edge, STREAM).unwrap();
    player.await_started();
    fs::set_permissions(&own, fs::Permissions::from_mode(0o600)).unwrap();
    let _ = cluster
        .run(&["restart", "edge", "1935", "--host", &edge.ip().to_string()])
        .expect_code(1)
        .expect_words(&["the program cannot be started, so the one that ran goes on", "is ready"]);
    let unit = cluster.unit(edge);
    assert_eq!((unit.renewed, unit.resumed, unit.restarts), (1, 0, 0), "{unit:#?}");
    assert_eq!(program(unit.pid.unwrap()), own);
    assert_same("the player", &player.record_after(0, 3.0), &looped_card(), 3.0);
    assert_eq!(player.ended(), None);
    fs::set_permissions(&own, fs::Permissions::from_mode(0o700)).unwrap();
    cluster.run(&["restart", "edge"]).expect_code(0);
    wait_until("it to be well", SOON, || cluster.run(&["status"]).code == 0);
    assert!(Path::new(&own).exists());
}

/// A program of `script`, which knows where the real one is.
fn script(cluster: &TestCluster, name: &str, script: &str) -> PathBuf {
    let path = cluster.dir.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).unwrap();
    path
}

#[test]
fn an_upgrade_gives_every_port_the_program_and_costs_nobody_anything_who_is_there_or_comes() {
    let cluster = TestCluster::up_guide();
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[0]);
    let encoder = rml::publish(origin, STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(edge, STREAM).unwrap();
    player.await_started();
    let mut swarm = Swarm::new(Plan { origin, edge, players: 150, seed: 3 }).unwrap();
    let new = cluster.dir.path().join("new-srsctl");
    fs::copy(SRSCTL, &new).unwrap();
    let mut upgrade = cluster.srsctl(&["upgrade", "--bin", new.to_str().unwrap()]);
    let mut upgrade = spawn(&mut upgrade);
    swarm.ramp(15).unwrap();
    run_until(&mut swarm, "the upgrade ends", |_| upgrade.try_wait().unwrap().is_some());
    settle(&mut swarm);
    assert_whole(&swarm);
    let _ = finish(upgrade, SOON).expect_code(0).expect_words(&["is version", "waiting 11 s"]);
    for unit in cluster.status().units {
        assert_renewed(&unit, 1);
        assert_eq!(program(unit.keeper_pid.unwrap()), new.canonicalize().unwrap());
        assert_eq!(program(unit.pid.unwrap()), new.canonicalize().unwrap());
    }
    assert_same("the player", &player.record_after(0, 10.0), &looped_card(), 10.0);
    assert_eq!((player.ended(), encoder.ended()), (None, None));
    // A restart leaves it there, and so does a start.
    cluster.run(&["restart", "edge", "1935"]).expect_code(0);
    cluster.run(&["restart", "edge", "1936", "--cold"]).expect_code(0);
    for addr in cluster.net.edges() {
        assert_eq!(program(cluster.keeper(addr)), new.canonicalize().unwrap(), "{addr}");
    }
    cluster.down();
}

#[test]
fn a_port_whose_workers_die_behind_an_upgrade_goes_back_and_the_upgrade_fails_there() {
    let (cluster, encoder, player) = with_a_player();
    let edge = cluster.net.edges()[0];
    let new = cluster.dir.path().join("new-srsctl");
    fs::copy(SRSCTL, &new).unwrap();
    let keeper = cluster.keeper(edge);
    let old = program(keeper);
    let mut upgrade = cluster.srsctl(&["upgrade", "--bin", new.to_str().unwrap()]);
    let upgrade = spawn(&mut upgrade);
    wait_until("the new program", SOON, || program(keeper) == new.canonicalize().unwrap());
    for death in 1..=2 {
        let renewed = wait_for("a worker to die", SOON, || {
            let unit = find(&cluster.try_status()?, edge)?;
            if unit.renewed == 1 && unit.resumed == death - 1 { Ok(unit) } else { Err(format!("{unit:#?}")) }
        });
        signal(renewed.pid.unwrap(), SIGKILL);
    }
    let _ = finish(upgrade, SOON)
        .expect_code(1)
        .expect_words(&["the upgrade stops", "the program before goes on"]);
    let unit = cluster.unit(edge);
    assert_eq!((unit.renewed, unit.resumed, unit.restarts), (1, 2, 0), "{unit:#?}");
    for unit in cluster.status().units {
        assert_eq!(program(unit.keeper_pid.unwrap()), old);
    }
    assert_same("the player", &player.record_after(0, 5.0), &looped_card(), 5.0);
    assert_eq!((player.ended(), encoder.ended()), (None, None));
    cluster.down();
}

#[test]
fn a_program_that_is_none_is_refused_before_anything_is_touched() {
    let (cluster, _encoder, player) = with_a_player();
    let before = cluster.pids();
    let other = r#"echo '{"schema":"srsctl/self-check/v1","version":"9","layout":9,"records":9}'"#;
    for (name, text, why) in [
        ("exits", "exit 3", "its --self-check ends with exit status: 3"),
        ("dies", "kill -9 $$", "its --self-check ends with signal: 9"),
        ("says-nothing", "exit 0", "what its --self-check says is not understood"),
        ("other-layout", other, "1 players, 0 encoders"),
    ] {
        let bin = script(&cluster, name, text);
        let done = cluster.run(&["upgrade", "--bin", bin.to_str().unwrap()]).expect_code(1);
        let _ = done.expect_words(&["nothing was touched", why]);
    }
    let missing = cluster.dir.path().join("missing");
    cluster.run(&["upgrade", "--bin", missing.to_str().unwrap()]).expect_code(1);
    assert_eq!(cluster.pids(), before);
    assert_same("the player", &player.record_after(0, 3.0), &looped_card(), 3.0);
    assert_eq!(player.ended(), None);
}
