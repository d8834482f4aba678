//! Ports are restarted under playing clients.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use bench::exact::{Plan, Swarm};
use cluster::status::UnitStatus;
use nix::sys::signal::Signal::SIGKILL;

use crate::support::clients::Recorder;
use crate::support::cluster::{
    Done, SRSCTL, TestCluster, copy_of_srsctl, find, finish, run, signal, spawn, write_program,
};
use crate::support::flv::assert_same;
use crate::support::net::url;
use crate::support::swarm::{assert_whole, run_until, settle};
use crate::support::{CARD_MS, SOON, STREAM, card, looped_card, rml, wait_for, wait_until};

#[track_caller]
fn assert_renewed(unit: &UnitStatus, times: u32) {
    assert_renewed_by(unit, times, "restart");
}

#[track_caller]
fn assert_renewed_by(unit: &UnitStatus, times: u32, what: &str) {
    assert_eq!((unit.renewed, unit.resumed, unit.restarts), (times, 0, 0), "{unit:#?}");
    assert_eq!(unit.last_exit.as_ref().map(|exit| exit.how.as_str()), Some(what), "{unit:#?}");
}

/// The program that a process runs.
fn program(pid: u32) -> PathBuf {
    fs::read_link(format!("/proc/{pid}/exe")).unwrap()
}

/// A cluster of a program of its own, which may be replaced.
fn up_with_own_program() -> (TestCluster, PathBuf) {
    let cluster = TestCluster::guide();
    let own = cluster.dir.path().join("srsctl");
    copy_of_srsctl(&own);
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
    copy_of_srsctl(&new);
    fs::rename(&new, &own).unwrap();
    assert!(program(cluster.keeper(edge)).to_string_lossy().ends_with("(deleted)"));
    let own = own.canonicalize().unwrap();
    let told = cluster.run(&["status"]).stdout;
    assert!(told.contains("all 5 ports run srsctl") && told.contains("replaced or removed since"), "{told}");
    cluster.run(&["restart", "edge", "1935"]).expect_code(0);
    let status = cluster.status();
    assert_eq!(status.next_program.as_deref(), own.to_str());
    for unit in &status.units {
        let program = unit.program.as_ref().unwrap();
        assert_eq!((program.next, program.replaced), (unit.renewed == 1, unit.renewed == 0), "{unit:#?}");
        assert_eq!(Some(program.path.as_str()), own.to_str());
    }
    let told = cluster.run(&["status"]).stdout;
    assert!(
        told.contains("which has been replaced or removed since")
            && told.contains("a start, as the other 2 ports, runs"),
        "{told}"
    );
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
fn a_restart_into_a_program_that_cannot_be_started_or_reads_nothing_of_what_runs_touches_nothing() {
    let (cluster, own) = up_with_own_program();
    let (edge, host) = (cluster.net.edges()[0], cluster.net.edges()[0].ip().to_string());
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(edge, STREAM).unwrap();
    player.await_started();
    let before = cluster.pids();
    let restart =
        |more: &[&str]| cluster.run(&[&["restart", "edge", "1935", "--host", &host], more].concat());
    let real = own.with_extension("real");
    fs::rename(&own, &real).unwrap();
    script(&cluster, "srsctl", "exit 3");
    let _ = restart(&[]).expect_code(1).expect_words(&["nothing was touched", "exit status: 3"]);
    // Another version, which is to read what its own workers leave.
    let other = r#"{"schema":"srsctl/self-check/v1","version":"9","layout":9,"records":9}"#;
    let as_other = format!(r#"[ "$1" = --self-check ] && exec echo '{other}'; exec {} "$@""#, real.display());
    script(&cluster, "srsctl", &as_other);
    let refused = restart(&[]).expect_code(6);
    let _ = refused.expect_words(&[
        "nothing was touched",
        "version 9 reads nothing",
        ": 1 player\n",
        "--yes",
        "--cold",
    ]);
    assert_eq!(cluster.pids(), before);
    assert_eq!(player.ended(), None);
    // With leave it is done, and whatever it says of itself it reads what runs.
    restart(&["--yes"]).expect_code(0);
    assert_ne!(cluster.pids(), before);
    assert_same("the player", &player.record_after(0, 3.0), &looped_card(), 3.0);
    assert_eq!(player.ended(), None);
    wait_until("it to be well", SOON, || cluster.run(&["status"]).code == 0);
}

#[test]
fn a_restart_that_has_cost_the_connections_says_so_and_fails_and_touches_no_other_port() {
    let (cluster, own) = up_with_own_program();
    let (edge, other) = (cluster.net.edges()[0], cluster.net.edges()[1]);
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(edge, STREAM).unwrap();
    player.await_started();
    let before = cluster.unit(other);
    let real = own.with_extension("real");
    fs::rename(&own, &real).unwrap();
    // On trial it is as it should be, and as a keeper that goes on it dies.
    let dies = format!(
        r#"case "$*" in *--trial*) ;; worker*) [ -n "$SRSCTL_LIFE" ] && kill -KILL $$ ;; esac; exec {} "$@""#,
        real.display()
    );
    script(&cluster, "srsctl", &dies);
    let done = cluster.run(&["restart", "edge", "--host", &edge.ip().to_string()]).expect_code(1);
    let _ = done.expect_words(&[
        &format!("edge-{}-1935 is started anew", edge.ip()),
        "has to connect again",
        "its keeper was killed by SIGKILL",
        &format!("not restarted: {}", before.id),
    ]);
    let other = cluster.unit(other);
    assert_eq!((other.pid, other.keeper_pid), (before.pid, before.keeper_pid));
    wait_until("the player to be told", SOON, || player.ended().is_some());
    wait_until("it to serve", SOON, || cluster.run(&["status"]).code == 0);
    let unit = cluster.unit(edge);
    assert!(unit.restarts >= 1 && unit.lost >= 1 && unit.renewed == 0, "{unit:#?}");
}

/// What became of an upgrade.
#[track_caller]
fn report(done: &Done) -> serde_json::Value {
    let report: serde_json::Value =
        serde_json::from_str(&done.stdout).unwrap_or_else(|_| panic!("{done:#?}"));
    assert_eq!(report["schema"], "srsctl/upgrade/v1", "{report:#}");
    report
}

/// A program of `script`.
fn script(cluster: &TestCluster, name: &str, script: &str) -> PathBuf {
    let path = cluster.dir.path().join(name);
    write_program(&path, &format!("#!/bin/sh\n{script}\n"));
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
    copy_of_srsctl(&new);
    let mut upgrade = cluster.srsctl(&["upgrade", "--json", "--bin", new.to_str().unwrap()]);
    let mut upgrade = spawn(&mut upgrade);
    swarm.ramp(15).unwrap();
    run_until(&mut swarm, "the upgrade ends", |_| upgrade.try_wait().unwrap().is_some());
    settle(&mut swarm);
    assert_whole(&swarm);
    let done = finish(upgrade, SOON).expect_code(0);
    let report = report(&done);
    let version = env!("CARGO_PKG_VERSION");
    assert_eq!((&report["upgraded"], &report["version"]), (&true.into(), &version.into()), "{report:#}");
    for port in report["ports"].as_array().unwrap() {
        let told = ["result", "from", "to", "lost", "why"].map(|name| port[name].clone());
        let expected = ["upgraded".into(), version.into(), version.into(), 0.into(), serde_json::Value::Null];
        assert_eq!(told, expected, "{port:#}");
    }
    let now = format!(
        "all 5 ports run srsctl {version} from {} now, and so does every start",
        new.canonicalize().unwrap().display()
    );
    let _ = done.expect_words(&["is version", "waiting 11 s", "upgrading edge", &now]);
    assert!(!cluster.run(&["status"]).stdout.contains("srsctl"), "every start runs it too");
    for unit in cluster.status().units {
        assert_renewed_by(&unit, 1, "upgrade");
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
    copy_of_srsctl(&new);
    let keeper = cluster.keeper(edge);
    let old = program(keeper);
    let mut upgrade = cluster.srsctl(&["upgrade", "--json", "--bin", new.to_str().unwrap()]);
    let upgrade = spawn(&mut upgrade);
    wait_until("the new program", SOON, || program(keeper) == new.canonicalize().unwrap());
    for death in 1..=2 {
        let renewed = wait_for("a worker to die", SOON, || {
            let unit = find(&cluster.try_status()?, edge)?;
            if unit.renewed == 1 && unit.resumed == death - 1 { Ok(unit) } else { Err(format!("{unit:#?}")) }
        });
        signal(renewed.pid.unwrap(), SIGKILL);
    }
    let done = finish(upgrade, SOON).expect_code(1);
    let report = report(&done);
    let results: Vec<&str> =
        report["ports"].as_array().unwrap().iter().map(|it| it["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["went-back", "not-tried", "not-tried", "not-tried", "not-tried"], "{report:#}");
    assert!(
        report["ports"][0]["why"].as_str().unwrap().ends_with("the program before goes on"),
        "{report:#}"
    );
    assert_eq!((&report["upgraded"], &report["ports"][0]["lost"]), (&false.into(), &0.into()), "{report:#}");
    assert_eq!(report["ports"][0]["program"], old.to_str().unwrap(), "{report:#}");
    let _ = done.expect_words(&["all 5 ports run srsctl", old.to_str().unwrap()]);
    let unit = cluster.unit(edge);
    assert_eq!((unit.renewed, unit.resumed, unit.restarts, unit.lost), (1, 2, 0, 0), "{unit:#?}");
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
    for (name, text, why, code) in [
        ("exits", "exit 3", "its --self-check ends with exit status: 3", 1),
        ("dies", "kill -9 $$", "its --self-check ends with signal: 9", 1),
        ("says-nothing", "exit 0", "what its --self-check says is not understood", 1),
        ("other-layout", other, "1 player", 6),
    ] {
        let bin = script(&cluster, name, text);
        let done = cluster.run(&["upgrade", "--json", "--bin", bin.to_str().unwrap()]).expect_code(code);
        assert!(report(&done)["ports"].as_array().unwrap().iter().all(|port| port["result"] == "not-tried"));
        let _ = done.expect_words(&["nothing was touched", why]);
    }
    let missing = cluster.dir.path().join("missing");
    let done = cluster.run(&["upgrade", "--bin", missing.to_str().unwrap()]).expect_code(1);
    let _ = done.expect_words(&["nothing was touched", missing.to_str().unwrap(), "No such file"]);
    assert_eq!(cluster.pids(), before);
    assert_same("the player", &player.record_after(0, 3.0), &looped_card(), 3.0);
    assert_eq!(player.ended(), None);
}

#[test]
fn a_program_that_would_die_before_it_has_a_worker_is_found_out_and_costs_no_connection() {
    let (cluster, encoder, player) = with_a_player();
    let edge = cluster.net.edges()[0];
    // It is what it says, until it is a keeper.
    let text = format!(r#"[ "$1" = --self-check ] && exec {SRSCTL} "$@"; echo no such luck >&2; exit 70"#);
    let new = script(&cluster, "new-srsctl", &text);
    let keeper = cluster.keeper(edge);
    let done = cluster.run(&["upgrade", "--json", "--bin", new.to_str().unwrap()]).expect_code(1);
    let report = report(&done);
    let first = &report["ports"][0];
    assert_eq!((&first["result"], &first["lost"]), (&"went-back".into(), &0.into()), "{report:#}");
    let why = first["why"].as_str().unwrap();
    assert!(
        why.starts_with("upgrade; ") && why.contains("on trial it ends with exit status: 70"),
        "{report:#}"
    );
    assert!(why.ends_with("its last words: no such luck"), "{report:#}");
    let unit = cluster.unit(edge);
    assert_eq!(
        (unit.keeper_pid, unit.renewed, unit.restarts, unit.lost),
        (Some(keeper), 1, 0, 0),
        "{unit:#?}"
    );
    assert_eq!(program(keeper), Path::new(SRSCTL));
    assert_same("the player", &player.record_after(0, 3.0), &looped_card(), 3.0);
    assert_eq!((player.ended(), encoder.ended()), (None, None));
    cluster.down();
}

#[test]
fn what_a_program_leaves_in_the_background_is_ended_with_it_and_the_port_is_served_again() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let left = cluster.dir.path().join("left");
    // It is what it says, also on trial. Then it starts something that has all that the port has open, and ends.
    let text = format!(
        r#"case "$*" in *--self-check* | *--trial*) exec {SRSCTL} "$@" ;; esac; sleep 1000 & echo $! >> {}; exit 3"#,
        left.display()
    );
    let new = script(&cluster, "new-srsctl", &text);
    let done = cluster.run(&["upgrade", "--canary", "0", "--bin", new.to_str().unwrap()]).expect_code(1);
    let _ = done.expect_words(&["the upgrade stops", "its process ended: exit 3"]);
    wait_until("the port to be served", SOON, || cluster.run(&["status"]).code == 0);
    let unit = cluster.unit(edge);
    assert_eq!((unit.restarts, program(unit.keeper_pid.unwrap()).as_path()), (1, Path::new(SRSCTL)));
    let left: u32 = fs::read_to_string(left).unwrap().trim().parse().unwrap();
    assert_eq!(supervisor::start_ticks(left), None);
    cluster.down();
}

#[test]
fn what_a_program_on_trial_leaves_in_a_session_of_its_own_has_nothing_by_which_the_port_is_started() {
    let (cluster, encoder, player) = with_a_player();
    let edge = cluster.net.edges()[0];
    let left = cluster.dir.path().join("left");
    let text = format!(
        r#"case "$*" in *--trial*) setsid sh -c 'ls -l /proc/$$/fd; exec sleep 1000' > {left} & echo $! > {left}.pid; until grep -q . {left}; do :; done;; esac; exec {SRSCTL} "$@""#,
        left = left.display()
    );
    let new = script(&cluster, "new-srsctl", &text);
    let _ = cluster.run(&["upgrade", "--canary", "0", "--bin", new.to_str().unwrap()]);
    let open = fs::read_to_string(&left).unwrap();
    assert!(open.contains("srsctl-config") && !open.contains("socket:") && !open.contains("lock"), "{open}");
    assert_eq!((player.ended(), encoder.ended(), cluster.unit(edge).lost), (None, None, 0));
    let sleeper = fs::read_to_string(left.with_extension("pid")).unwrap().trim().parse().unwrap();
    signal(sleeper, SIGKILL);
}

#[test]
fn a_program_that_starts_something_beside_it_is_not_taken_for_frozen_behind_an_upgrade() {
    let (cluster, encoder, player) = with_a_player();
    let edge = cluster.net.edges()[0];
    let text =
        format!(r#"case "$*" in *--self-check* | *--trial*) ;; *) sleep 1000 & ;; esac; exec {SRSCTL} "$@""#);
    let new = script(&cluster, "new-srsctl", &text);
    // What runs in the end is srsctl, and not the script.
    let _ = cluster.run(&["upgrade", "--bin", new.to_str().unwrap()]).expect_code(1);
    let unit = wait_for("it to report", SOON, || {
        let unit = find(&cluster.try_status()?, edge)?;
        if unit.stats.is_some() { Ok(unit) } else { Err(format!("{unit:#?}")) }
    });
    assert_eq!((unit.restarts, unit.resumed, unit.lost), (0, 0, 0), "{unit:#?}");
    assert_same("the player", &player.record_after(0, 8.0), &looped_card(), 8.0);
    assert_eq!((player.ended(), encoder.ended()), (None, None));
}

#[test]
fn an_upgrade_that_fails_on_its_last_port_gives_the_others_back_what_they_ran() {
    let (cluster, encoder, player) = with_a_player();
    let (edge, origin) = (cluster.net.edges()[0], cluster.net.origin());
    let new = cluster.dir.path().join("new-srsctl");
    copy_of_srsctl(&new);
    let mut upgrade = cluster.srsctl(&["upgrade", "--json", "--canary", "0", "--bin", new.to_str().unwrap()]);
    let upgrade = spawn(&mut upgrade);
    wait_until("the last port to run it", SOON, || {
        program(cluster.keeper(origin)) == new.canonicalize().unwrap()
    });
    for death in 1..=2 {
        let unit = wait_for("a worker to die", SOON, || {
            let unit = find(&cluster.try_status()?, origin)?;
            if unit.renewed == 1 && unit.resumed == death - 1 { Ok(unit) } else { Err(format!("{unit:#?}")) }
        });
        signal(unit.pid.unwrap(), SIGKILL);
    }
    let done = finish(upgrade, SOON).expect_code(1);
    let report = report(&done);
    let ports = report["ports"].as_array().unwrap();
    for port in ports {
        assert_eq!((&port["result"], &port["lost"]), (&"went-back".into(), &0.into()), "{report:#}");
        assert_eq!(port["why"].is_null(), port["role"] == "edge", "{report:#}");
    }
    assert_eq!(ports.len(), 5);
    let _ = done.expect_words(&["the upgrade stops", "are given back", "runs the program before again"]);
    for unit in cluster.status().units {
        assert_eq!(program(unit.keeper_pid.unwrap()), Path::new(SRSCTL), "{unit:#?}");
    }
    let unit = cluster.unit(edge);
    assert_eq!((unit.renewed, unit.resumed, unit.restarts, unit.lost), (2, 0, 0, 0), "{unit:#?}");
    assert_renewed_by(&unit, 2, "upgrade taken back");
    assert_same("the player", &player.record_after(0, 5.0), &looped_card(), 5.0);
    assert_eq!((player.ended(), encoder.ended()), (None, None));
    cluster.down();
}
