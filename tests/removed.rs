//! Files that are removed, moved or replaced under a running cluster: what is on disk does not decide over what runs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::status::UnitState;
use nix::sys::signal::Signal::{SIGCONT, SIGKILL, SIGSTOP};

use crate::support::cluster::{TestCluster, run, signal};
use crate::support::flv::assert_same;
use crate::support::{CARD_MS, SOON, STREAM, card, looped_card, rml, wait_for, wait_until};

/// Something that happens to files.
type Damage = (&'static str, fn(&Path, &str));

fn run_of(state: &Path, name: &str) -> PathBuf {
    state.join("run").join(name)
}

fn lib_of(state: &Path, name: &str) -> PathBuf {
    state.join("lib").join(name)
}

/// Removes a directory, into which something may be put back meanwhile.
fn remove(dir: &Path) {
    wait_for("a directory to be removed", SOON, || {
        fs::remove_dir_all(dir).map_err(|error| error.to_string())
    });
}

/// Removes the file of this name of every unit.
fn of_every_unit(state: &Path, name: &str, file: &str) {
    for unit in fs::read_dir(run_of(state, name).join("units")).unwrap() {
        fs::remove_file(unit.unwrap().path().join(file)).unwrap();
    }
}

const DAMAGES: [Damage; 12] = [
    ("the run directory", |state, name| remove(&run_of(state, name))),
    ("the lock", |state, name| fs::remove_file(run_of(state, name).join("lock")).unwrap()),
    ("agent.sock", |state, name| fs::remove_file(run_of(state, name).join("agent.sock")).unwrap()),
    ("the units", |state, name| remove(&run_of(state, name).join("units"))),
    ("each ctl.sock", |state, name| of_every_unit(state, name, "ctl.sock")),
    ("each record", |state, name| of_every_unit(state, name, "record.json")),
    ("each alive.lock", |state, name| of_every_unit(state, name, "alive.lock")),
    ("the lib directory", |state, name| remove(&lib_of(state, name))),
    ("everything", |state, _| remove(state)),
    ("the run directory, moved away", |state, name| {
        fs::rename(run_of(state, name), state.with_extension("run")).unwrap();
    }),
    ("everything, moved away", |state, _| fs::rename(state, state.with_extension("old")).unwrap()),
    ("the run directory, replaced by a copy", |state, name| {
        let run = run_of(state, name);
        let aside = state.with_extension("aside");
        fs::rename(&run, &aside).unwrap();
        // In the place of what may have been put back meanwhile.
        let mut copy = Command::new("cp");
        let copied = copy.args(["-aT", "--remove-destination"]).args([&aside, &run]).status().unwrap();
        assert!(copied.success());
    }),
];

/// Every file of `of` that a running cluster has.
fn await_whole(cluster: &TestCluster) {
    let name = cluster.net.cluster_name();
    let (run, lib) = (run_of(&cluster.state, &name), lib_of(&cluster.state, &name));
    let mut files: Vec<PathBuf> = ["lock", "agent.sock"].map(|file| run.join(file)).into();
    files.extend(["secret", "cluster.yaml", "log/agent.log"].map(|file| lib.join(file)));
    for unit in cluster.pids().keys() {
        files.extend(
            ["ctl.sock", "record.json", "alive.lock"].map(|file| run.join("units").join(unit).join(file)),
        );
        files.extend([format!("log/{unit}.log"), format!("conf/{unit}.yaml")].map(|file| lib.join(file)));
    }
    wait_for("every file to be there again", SOON, || {
        let missing: Vec<_> = files.iter().filter(|file| !file.exists()).collect();
        if missing.is_empty() { Ok(()) } else { Err(format!("{missing:?}")) }
    });
}

#[test]
fn what_is_removed_under_a_running_cluster_is_put_back_and_no_player_notices() {
    let cluster = TestCluster::up_guide();
    let name = cluster.net.cluster_name();
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    player.record_after(0, 1.0);
    let (supervisor, pids) = (cluster.status().supervisor_pid, cluster.pids());
    for (what, damage) in DAMAGES {
        damage(&cluster.state, &name);
        // At once, and without waiting for anything to be put back.
        cluster.run(&["status"]).expect_code(0);
        await_whole(&cluster);
        let status = cluster.status();
        assert_eq!((status.supervisor_pid, cluster.pids()), (supervisor, pids.clone()), "{what}");
        assert!(status.units.iter().all(|unit| unit.state == UnitState::Running), "{what}: {status:#?}");
    }
    assert_same("a player through it all", &player.record_after(0, 4.0), &looped_card(), 4.0);
    // What was put back is as good as what was there.
    signal(supervisor, SIGKILL);
    wait_until("the supervisor to be gone", SOON, || cluster.run(&["status"]).code == 4);
    cluster.up();
    assert_eq!(cluster.pids(), pids);
}

#[test]
fn the_next_supervisor_finds_its_processes_though_their_files_are_gone() {
    let cluster = TestCluster::up_guide();
    let name = cluster.net.cluster_name();
    let pids = cluster.pids();
    for (what, damage) in DAMAGES {
        let supervisor = cluster.status().supervisor_pid;
        // Nothing is put back before it ends.
        signal(supervisor, SIGSTOP);
        damage(&cluster.state, &name);
        signal(supervisor, SIGKILL);
        wait_until("the supervisor to be gone", SOON, || {
            !Path::new(&format!("/proc/{supervisor}/exe")).exists()
        });
        let unsupervised = cluster.run(&["status"]).expect_code(4);
        assert!(unsupervised.text().contains("5 processes"), "{what}: {unsupervised:?}");
        let done = cluster.up();
        assert_eq!(cluster.pids(), pids, "{what}: {done:?}");
        await_whole(&cluster);
    }
    let edge = cluster.net.edges()[0];
    signal(pids[&cluster.unit(edge).id.to_string()], SIGKILL);
    cluster.await_successor(edge, pids[&cluster.unit(edge).id.to_string()]);
}

#[test]
fn down_stops_what_runs_though_its_files_are_gone() {
    for (what, damage) in DAMAGES {
        let cluster = TestCluster::up_guide();
        let supervisor = cluster.status().supervisor_pid;
        signal(supervisor, SIGSTOP);
        damage(&cluster.state, &cluster.net.cluster_name());
        signal(supervisor, SIGKILL);
        wait_until("the supervisor to be gone", SOON, || {
            !Path::new(&format!("/proc/{supervisor}/exe")).exists()
        });
        let done = cluster.run(&["down"]).expect_code(0);
        assert!(done.text().contains("is stopped"), "{what}: {done:?}");
        cluster.assert_nothing_left();
    }
}

#[test]
fn no_second_supervisor_starts_while_the_lock_of_the_first_is_removed() {
    let cluster = TestCluster::up_guide();
    let (supervisor, pids) = (cluster.status().supervisor_pid, cluster.pids());
    signal(supervisor, SIGSTOP);
    remove(&cluster.state);
    let done = cluster.run(&["up", "cluster.yaml", "--foreground"]).expect_code(5);
    assert!(done.text().contains(&supervisor.to_string()), "{done:?}");
    cluster.run(&["down", "--purge"]).expect_code(5);
    signal(supervisor, SIGCONT);
    wait_until("the first one to be reached again", SOON, || cluster.run(&["status"]).code == 0);
    assert_eq!((cluster.status().supervisor_pid, cluster.pids()), (supervisor, pids));
}

#[test]
fn a_cluster_that_its_file_names_anew_or_that_lies_elsewhere_is_said_to_have_the_ports() {
    let cluster = TestCluster::up_guide();
    let (name, pid) = (cluster.net.cluster_name(), cluster.pid(cluster.net.origin()).to_string());
    let supervisor = cluster.status().supervisor_pid;
    let words = ["is not running", &cluster.net.origin().to_string(), &pid, &name, "of user"];
    let elsewhere = cluster.dir.path().join("elsewhere");
    for command in ["status", "down"] {
        let mut other_place = cluster.srsctl(&[command]);
        let done = run(other_place.env("SRSCTL_STATE_DIR", &elsewhere)).expect_words(&words);
        assert_ne!([0, 3].iter().find(|code| **code == done.code), Some(&done.code), "{done:?}");
    }
    let text = fs::read_to_string(&cluster.file).unwrap();
    cluster.write(&text.replacen(&name, "renamed", 1));
    for (command, code) in [("status", 4), ("down", 1)] {
        cluster.run(&[command]).expect_code(code).expect_words(&words).expect_words(&["cluster renamed"]);
    }
    signal(supervisor, SIGKILL);
    let hint = format!("of cluster {name}; stop it with: srsctl down {name}");
    wait_for("the workers to be named as what has the ports", SOON, || {
        let done = cluster.run(&["up", "cluster.yaml"]).expect_code(1);
        if done.text().contains(&hint) { Ok(()) } else { Err(done.text()) }
    });
    cluster.write(&text);
    cluster.up();
    cluster.down();
    cluster.run(&["down"]).expect_code(0);
}

#[test]
fn a_state_directory_that_somebody_else_could_replace_is_refused_by_every_command() {
    let cluster = TestCluster::guide();
    let open = cluster.dir.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o777)).unwrap();
    for args in [
        &["up", "cluster.yaml"][..],
        &["status"],
        &["down"],
        &["restart", "edge"],
        &["logs"],
        &["urls", STREAM],
    ] {
        let mut command = cluster.srsctl(args);
        let done = run(command.env("SRSCTL_STATE_DIR", open.join("state")));
        assert_ne!(done.code, 0, "{args:?}: {done:?}");
        done.expect_words(&["others may write", open.to_str().unwrap()]);
    }
}

#[test]
fn clients_that_leak_connections_keep_no_worker_from_its_restart() {
    let cluster = TestCluster::up_guide();
    let socket = run_of(&cluster.state, &cluster.net.cluster_name()).join("agent.sock");
    let supervisor = cluster.status().supervisor_pid;
    let leaked: Vec<UnixStream> = (0..400).filter_map(|_| UnixStream::connect(&socket).ok()).collect();
    assert!(leaked.len() > 300, "{}", leaked.len());
    let edge = cluster.net.edges()[0];
    let old = cluster.pid(edge);
    signal(old, SIGKILL);
    cluster.await_successor(edge, old);
    let open = fs::read_dir(format!("/proc/{supervisor}/fd")).unwrap().count();
    assert!(open < 200, "{open} descriptors are open");
    cluster.run(&["status"]).expect_code(0);
}
