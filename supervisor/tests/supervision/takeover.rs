//! Processes that outlive their supervisor: the next one, and `down` without one.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use cluster::Role;
use cluster::status::UnitState;
use control::api::{Restart, StartupEvent};
use nix::sys::signal::Signal;
use supervisor::orphans;

use crate::bench::{Bench, PATIENCE, lives, send};

#[tokio::test]
async fn a_killed_supervisor_costs_no_process_and_the_next_adopts_them_with_their_listeners() {
    let mut bench = Bench::new("1935,1936");
    bench.extra = "encoder=yes".into();
    let supervisor = bench.up();
    let pids = bench.pids().await;
    supervisor.kill();
    assert!(pids.values().all(|pid| lives(*pid)));

    let supervisor = bench.up();
    let adopted =
        supervisor.events.iter().filter(|event| matches!(event, StartupEvent::Adopted { silent: false, .. }));
    assert_eq!(adopted.count(), 4, "{:#?}", supervisor.events);
    assert_eq!(bench.pids().await, pids);

    // The listener is the supervisor's again: the port outlives the adopted process.
    let edge = bench.edge(1936);
    send(pids[&edge], Signal::SIGKILL);
    let end = Instant::now() + PATIENCE;
    while bench.unit(&edge).await.restarts == 0 {
        bench.connect(&edge).unwrap();
        assert!(Instant::now() < end);
    }
    bench.until(&edge, |unit| unit.state == UnitState::Running).await;
    supervisor.end(Signal::SIGTERM);
    assert!(pids.values().all(|pid| !lives(*pid)));
}

#[tokio::test]
async fn down_after_the_supervisor_was_killed_stops_what_it_left() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let pids = bench.pids().await;
    let error = orphans::down(&bench.dirs, |_| {}).await.unwrap_err();
    assert!(matches!(error, orphans::OrphansError::Supervised { .. }));
    supervisor.kill();
    let report = orphans::down(&bench.dirs, |_| {}).await.unwrap();
    assert_eq!(report.stopped, [bench.edge(1935), bench.origin()]);
    assert!(report.left.is_empty());
    assert!(pids.values().all(|pid| !lives(*pid)));
    assert!(!bench.dirs.run().exists());
}

#[tokio::test]
async fn as_long_as_a_worker_runs_its_host_stands_for_what_it_stood_for_whatever_is_on_disk() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let expected: Vec<(String, IpAddr)> = [5, 6]
        .map(|last| format!("{}.{last}", bench.net))
        .map(|host| (host.clone(), host.parse().unwrap()))
        .into();
    let known = || orphans::addresses(&bench.dirs).into_iter().collect::<Vec<_>>();
    assert_eq!(known(), expected);
    supervisor.kill();
    std::fs::remove_dir_all(bench.dirs.lib()).unwrap();
    assert_eq!(known(), expected);
    orphans::down(&bench.dirs, |_| {}).await.unwrap();
    assert_eq!(known(), []);
}

#[tokio::test]
async fn what_cannot_be_proved_is_left_alone_until_it_is_gone() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let edge = bench.edge(1935);
    let pids = bench.pids().await;
    supervisor.kill();
    // As if the lock were held by a process that got another token.
    std::fs::write(bench.dirs.unit(&edge).join("alive.lock"), "0".repeat(32)).unwrap();
    std::fs::write(bench.dirs.unit(&edge).join("record.json"), "{").unwrap();

    let supervisor = bench.up();
    let unknown = |event: &StartupEvent| matches!(event, StartupEvent::Unknown { unit, .. } if *unit == edge);
    assert!(supervisor.events.iter().any(unknown), "{:#?}", supervisor.events);
    assert!(lives(pids[&edge]));
    assert_eq!(bench.unit(&edge).await.state, UnitState::Unknown);
    let restart = Restart { role: Role::Edge, port: None, host: None, cold: true, yes: false };
    assert!(bench.client().restart(&restart, |_| {}).await.is_err());
    assert!(lives(pids[&edge]));

    send(pids[&edge], Signal::SIGKILL);
    bench.until(&edge, |unit| unit.state == UnitState::Running).await;
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn down_says_what_it_left_alone() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let edge = bench.edge(1935);
    let pid = bench.pids().await[&edge];
    supervisor.kill();
    std::fs::write(bench.dirs.unit(&edge).join("alive.lock"), "0".repeat(32)).unwrap();
    std::fs::remove_file(bench.dirs.unit(&edge).join("record.json")).unwrap();
    let report = orphans::down(&bench.dirs, |_| {}).await.unwrap();
    assert_eq!(report.stopped, [bench.origin()]);
    assert_eq!(report.left.len(), 1);
    assert_eq!(report.left[0].0, edge);
    assert!(lives(pid));

    let mut supervisor = bench.up();
    let error = bench.client().down(|_| {}).await.unwrap_err().to_string();
    assert!(error.contains(edge.as_str()) && error.contains("fuser"), "{error}");
    supervisor.child.wait().unwrap();
    assert!(lives(pid));
}

#[tokio::test]
async fn a_worker_that_is_frozen_when_it_is_adopted_is_killed_and_its_port_never_refuses() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let edge = bench.edge(1935);
    let pid = bench.pids().await[&edge];
    // One that is stopped is woken.
    bench.fake(&edge, "hung");
    supervisor.kill();
    let mut supervisor = bench.command();
    while !supervisor.line().unwrap().contains("\"silent\":true") {}
    let end = Instant::now() + PATIENCE;
    while bench.unit(&edge).await.restarts == 0 {
        drop(bench.connect(&edge).unwrap());
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(!lives(pid));
    // Only now it is ready.
    supervisor.rest();
    let ready = |event: &StartupEvent| matches!(event, StartupEvent::Ready { unit, .. } if *unit == edge);
    assert_eq!(supervisor.events.iter().filter(|event| ready(event)).count(), 1);
    assert_eq!(supervisor.events.last(), Some(&StartupEvent::Complete { ready: 2, waiting: 0 }));
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn sigquit_leaves_the_processes_to_the_next_supervisor() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let pids = bench.pids().await;
    supervisor.end(Signal::SIGQUIT);
    assert!(pids.values().all(|pid| lives(*pid)));
    let supervisor = bench.up();
    assert_eq!(bench.pids().await, pids);
    supervisor.end(Signal::SIGINT);
    assert!(pids.values().all(|pid| !lives(*pid)));
    assert!(!bench.dirs.run().exists());
}

#[tokio::test]
async fn sigquit_during_a_start_says_what_it_leaves_and_the_next_supervisor_takes_it_over() {
    let bench = Bench::new("1935,1936");
    bench.fake(&bench.edge(1936), "mute");
    let mut supervisor = bench.command();
    let mut started = BTreeMap::new();
    // The third one never says who it is.
    while started.len() < 2 {
        if let StartupEvent::Started { unit, pid } =
            serde_json::from_str(&supervisor.line().unwrap()).unwrap()
        {
            started.insert(unit, pid);
        }
    }
    send(supervisor.child.id(), Signal::SIGQUIT);
    let error = supervisor.error();
    assert!(error.contains("3 processes run on without a supervisor"), "{error}");
    assert!(error.contains("srsctl up") && error.contains("srsctl down"), "{error}");
    assert!(started.values().all(|pid| lives(*pid)));
    bench.fake(&bench.edge(1936), "");
    let supervisor = bench.up();
    let adopted = |event: &&StartupEvent| matches!(event, StartupEvent::Adopted { .. });
    assert_eq!(supervisor.events.iter().filter(adopted).count(), 3, "{:#?}", supervisor.events);
    let pids = bench.pids().await;
    for id in [bench.origin(), bench.edge(1935)] {
        assert_eq!(pids[&id], started[&id]);
    }
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_start_that_is_interrupted_leaves_what_ran_before_with_its_file() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    let (before, text) = (bench.pids().await, bench.text());
    supervisor.kill();
    bench.edges = "1935,1936".into();
    bench.fake(&bench.edge(1936), "mute");
    let supervisor = bench.command();
    let end = Instant::now() + PATIENCE;
    while !bench.log(&bench.origin()).contains("configured 2 targets") {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    send(supervisor.child.id(), Signal::SIGINT);
    let error = supervisor.error();
    assert!(error.contains("interrupted"), "{error}");
    assert_eq!(bench.dirs.in_force().unwrap().unwrap().1, text);
    assert_eq!(bench.log(&bench.origin()).lines().last(), Some("configured 1 targets"));
    bench.edges = "1935".into();
    let supervisor = bench.up();
    assert_eq!(bench.pids().await, before);
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_file_in_force_that_is_not_valid_any_more_refuses_a_changed_one() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    let (before, text) = (bench.pids().await, bench.text());
    supervisor.kill();
    let in_force = bench.dirs.lib().join("cluster.yaml");
    std::fs::write(&in_force, "edges=1935").unwrap();
    bench.edges = "1935,1936".into();
    let error = bench.command().error();
    assert!(error.contains("not valid any more: no net"), "{error}");
    assert!(before.values().all(|pid| lives(*pid)));
    std::fs::write(&in_force, text).unwrap();
    let supervisor = bench.up();
    assert_eq!(bench.pids().await.len(), 3);
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_port_added_while_no_supervisor_ran_is_forwarded_to_by_the_adopted_origin() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    let before = bench.pids().await;
    supervisor.kill();
    bench.edges = "1935,1936".into();
    let supervisor = bench.up();
    let after = bench.pids().await;
    assert!(before.iter().all(|(id, pid)| after[id] == *pid) && after.len() == 3);
    assert!(bench.log(&bench.origin()).contains("configured 2 targets"));
    supervisor.end(Signal::SIGTERM);
}
