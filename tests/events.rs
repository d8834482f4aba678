//! `srsctl events`: what happened is told with its reason, also when whoever did it is gone.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::Stdio;

use cluster::UnitId;
use cluster::events::{Event, Events, Kind};
use nix::sys::signal::Signal::{SIGKILL, SIGQUIT};

use crate::support::cluster::{TestCluster, find, signal};
use crate::support::{SOON, wait_for, wait_until};

fn file(cluster: &TestCluster) -> PathBuf {
    cluster.state.join("lib").join(cluster.net.cluster_name()).join("events.jsonl")
}

#[track_caller]
fn events(cluster: &TestCluster, args: &[&str]) -> Vec<Event> {
    let args: Vec<&str> = [&["events", "--json"], args].concat();
    let told = cluster.run(&args).expect_code(0).stdout;
    let told: Events = serde_json::from_str(&told).unwrap_or_else(|error| panic!("{error}: {told}"));
    assert!(told.events.is_sorted_by_key(|event| event.number), "{told:#?}");
    told.events
}

/// Waits until such an event is told.
#[track_caller]
fn await_event(cluster: &TestCluster, unit: Option<&UnitId>, kind: Kind) -> Event {
    wait_for(&format!("{kind:?}"), SOON, || {
        let all = events(cluster, &[]);
        let found =
            all.iter().rev().find(|event| event.what.unit.as_ref() == unit && event.what.kind == kind);
        found.cloned().ok_or_else(|| format!("{all:#?}"))
    })
}

#[test]
fn deaths_of_workers_a_cold_start_and_the_end_of_their_keeper_are_told_with_their_reasons() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let (unit, host) = (cluster.unit(edge).id, edge.ip().to_string());
    let _guest = std::net::TcpStream::connect(edge).unwrap();
    wait_until("it to be taken in", SOON, || cluster.unit(edge).stats.is_some_and(|it| it.connections > 0));
    for death in 1..=4 {
        let resumed = wait_for("the port to serve", SOON, || {
            let unit = find(&cluster.try_status()?, edge)?;
            if unit.resumed + unit.cold_starts + 1 == death { Ok(unit) } else { Err(format!("{unit:#?}")) }
        });
        signal(resumed.pid.unwrap(), SIGKILL);
    }
    let _ = await_event(&cluster, Some(&unit), Kind::Died);
    wait_until("it to serve", SOON, || cluster.run(&["status"]).code == 0);
    let told = events(&cluster, &["edge", "1935", "--host", &host]);
    let kinds: Vec<Kind> = told.iter().map(|event| event.what.kind).collect();
    use Kind::{ColdStart, Died, Ready, Resumed, Started};
    assert_eq!(kinds, [Started, Ready, Resumed, Resumed, ColdStart, Died, Started, Ready], "{told:#?}");
    for event in &told[2..=4] {
        assert!(event.what.text.starts_with("killed by SIGKILL that somebody sent"), "{event:?}");
    }
    for (event, is_cold) in told[2..=4].iter().zip([false, false, true]) {
        assert_eq!(
            event.what.text.contains("forgot all connections; connections lost: "),
            is_cold,
            "{told:#?}"
        );
    }
    assert!(told[5].what.text.contains("die again and again"), "{told:#?}");
    assert_eq!(told[7].what.pid, cluster.unit(edge).keeper_pid);
    let shown = cluster.run(&["events", "edge", "1935", "--host", &host, "-n", "4"]).expect_code(0).stdout;
    let lines: Vec<&str> = shown.lines().collect();
    assert!(lines.len() == 5 && lines[0].starts_with("TIME "), "{shown}");
    assert!(lines[1].contains("cold-start") && lines[1].contains("forgot all connections"), "{shown}");
    assert_eq!(events(&cluster, &["origin"]).len(), 2, "nothing of the origin");
    cluster.down();
}

#[test]
fn who_asked_for_what_and_what_became_of_it_is_told_also_when_the_supervisor_is_gone() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.unit(cluster.net.edges()[0]).id;
    cluster.run(&["restart", "edge", "1935"]).expect_code(0);
    let asked = await_event(&cluster, None, Kind::Asked);
    assert_eq!(asked.what.text, "restart edge 1935");
    assert_eq!(asked.what.by.map(|by| by.uid), Some(nix::unistd::getuid().as_raw()), "{asked:?}");
    assert_eq!(await_event(&cluster, Some(&edge), Kind::Renewed).what.text, "restart");
    let done = await_event(&cluster, None, Kind::Done);
    assert!(done.number > asked.number && done.what.text.starts_with("restart edge 1935"), "{done:?}");
    cluster.run(&["restart", "edge", "1"]).expect_code(1);
    assert!(await_event(&cluster, None, Kind::Failed).what.text.contains("there is no edge on port 1"));

    let before = events(&cluster, &[]);
    signal(cluster.status().supervisor_pid, SIGKILL);
    wait_until("the supervisor to be gone", SOON, || cluster.run(&["status"]).code == 4);
    assert_eq!(events(&cluster, &[]), before);
    cluster.up();
    let told = events(&cluster, &["supervisor"]);
    let started = told.iter().rev().find(|event| event.what.kind == Kind::SupervisorStarted).unwrap();
    assert!(started.what.text.ends_with("the one before ended without a word"), "{started:?}");
    let _ = await_event(&cluster, Some(&edge), Kind::Adopted);
    signal(cluster.status().supervisor_pid, SIGQUIT);
    wait_until("the supervisor to be gone", SOON, || cluster.run(&["status"]).code == 4);
    let last = events(&cluster, &["supervisor"]).pop().unwrap();
    assert_eq!(
        (last.what.kind, last.what.text.as_str()),
        (Kind::SupervisorEnded, "5 processes are left to the next one")
    );
    cluster.up();
    cluster.down();
    let kinds: Vec<Kind> = events(&cluster, &[]).iter().map(|event| event.what.kind).collect();
    assert!(kinds.ends_with(&[Kind::Done, Kind::SupervisorEnded]), "{kinds:?}");
    cluster.run(&["down", "--purge", "--yes"]).expect_code(0);
    cluster.run(&["events", "cluster.yaml"]).expect_code(1).expect_words(&["has no events"]);
}

#[test]
fn events_that_are_followed_go_on_under_the_next_supervisor_and_without_their_file() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let id = cluster.unit(edge).id;
    let mut follow = cluster.srsctl(&["events", "-f", "--json", "edge"]);
    let mut follow = follow.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let mut next = |kind: Kind| loop {
        let event: Event = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        if event.what.kind == kind && event.what.unit.as_ref() == Some(&id) {
            return event;
        }
    };
    let ready = next(Kind::Ready);
    fs::remove_file(file(&cluster)).unwrap();
    signal(cluster.pid(edge), SIGKILL);
    let resumed = next(Kind::Resumed);
    assert!(resumed.number > ready.number);
    wait_until("the file to be there again", SOON, || file(&cluster).exists());
    // A directory in its place is no obstacle either.
    fs::remove_file(file(&cluster)).unwrap();
    fs::create_dir(file(&cluster)).unwrap();
    cluster.run(&["restart", "edge", "1935"]).expect_code(0);
    let renewed = next(Kind::Renewed);
    fs::remove_dir(file(&cluster)).unwrap();
    wait_until("the file to be there again", SOON, || file(&cluster).exists());
    signal(cluster.status().supervisor_pid, SIGKILL);
    wait_until("the supervisor to be gone", SOON, || cluster.run(&["status"]).code == 4);
    cluster.up();
    assert!(next(Kind::Adopted).number > renewed.number);
    follow.kill().unwrap();
    follow.wait().unwrap();
}
