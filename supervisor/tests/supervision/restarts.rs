//! Processes that die, freeze or are restarted.

use std::path::Path;
use std::time::{Duration, Instant};

use cluster::Role;
use cluster::status::{Health, UnitState};
use control::api::Restart;
use nix::sys::signal::Signal;

use crate::bench::{Bench, PATIENCE, files, send};

#[tokio::test]
async fn a_killed_worker_is_restarted_and_its_port_never_refuses() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let edge = bench.edge(1935);
    let pid = bench.pids().await[&edge];
    send(pid, Signal::SIGKILL);
    let end = Instant::now() + PATIENCE;
    while bench.unit(&edge).await.restarts == 0 {
        bench.connect(&edge).unwrap();
        assert!(Instant::now() < end);
    }
    let unit = bench.until(&edge, |unit| unit.state == UnitState::Running).await;
    assert_ne!(unit.pid, Some(pid));
    let how = unit.last_exit.unwrap().how;
    // Where the control group counts what the kernel kills, it is known that it was not the kernel.
    let known = ["killed by SIGKILL that somebody sent", "killed by SIGKILL, perhaps out of memory"];
    assert!(known.map(|known| format!("its keeper was {known}")).contains(&how), "{how}");
    assert_eq!(bench.unit(&bench.origin()).await.restarts, 0);
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn workers_that_die_together_do_not_start_together() {
    let bench = Bench::new("1935,1936,1937,1938,1939");
    let supervisor = bench.up();
    let before = bench.pids().await;
    before.values().for_each(|pid| send(*pid, Signal::SIGKILL));
    let mut starts = Vec::new();
    for id in before.keys() {
        let unit = bench.until(id, |unit| unit.restarts == 1 && unit.state == UnitState::Running).await;
        starts.push(supervisor::start_ticks(unit.pid.unwrap()).unwrap());
    }
    starts.sort_unstable();
    // Ticks of 10 ms, rounded down.
    assert!(starts.windows(2).all(|pair| pair[1] - pair[0] >= 9), "{starts:?}");
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_frozen_worker_is_killed_and_restarted_and_the_note_says_so() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let edge = bench.edge(1935);
    let pid = bench.pids().await[&edge];
    send(pid, Signal::SIGSTOP);
    let unit = bench.until(&edge, |unit| unit.restarts == 1 && unit.state == UnitState::Running).await;
    assert_ne!(unit.pid, Some(pid));
    assert_eq!(unit.last_exit.unwrap().how, "killed by SIGKILL: frozen: no heartbeat for 3 s");
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_worker_whose_loop_stands_still_is_restarted_though_it_answers() {
    let bench = Bench::new("1935");
    let edge = bench.edge(1935);
    bench.fake(&edge, "stuck");
    let supervisor = bench.up();
    let unit = bench.until(&edge, |unit| unit.restarts == 1).await;
    assert!(unit.last_exit.unwrap().how.contains("its data loop stood still"));
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_supervisor_that_was_stopped_for_long_restarts_nothing() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let pids = bench.pids().await;
    send(supervisor.child.id(), Signal::SIGSTOP);
    tokio::time::sleep(Duration::from_secs(8)).await;
    send(supervisor.child.id(), Signal::SIGCONT);
    bench.until(&bench.edge(1935), |unit| unit.stats_age_ms.is_some_and(|age| age < 1000)).await;
    assert_eq!(bench.pids().await, pids);
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_worker_that_keeps_dying_is_flagged_and_comes_back_when_its_cause_is_gone() {
    let bench = Bench::new("1935");
    let edge = bench.edge(1935);
    let supervisor = bench.up();
    bench.fake(&edge, "exit-1");
    send(bench.pids().await[&edge], Signal::SIGKILL);
    let unit = bench.until(&edge, |unit| unit.state == UnitState::Flapping).await;
    assert!(unit.restarts >= 4, "{unit:?}");
    bench.fake(&edge, "");
    bench.until(&edge, |unit| unit.state == UnitState::Running && unit.health == Health::Warning).await;
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_restart_changes_the_processes_that_fit_one_after_the_other() {
    let bench = Bench::new("1935,1936");
    bench.fake(&bench.origin(), "stream");
    let supervisor = bench.up();
    bench.until(&bench.origin(), |unit| unit.stats.is_some()).await;
    let before = bench.pids().await;
    let mut said = Vec::new();
    let restart = Restart { role: Role::Edge, port: None, host: None, cold: true, yes: false };
    bench.client().restart(&restart, |line| said.push(line.to_owned())).await.unwrap();
    let after = bench.pids().await;
    assert_eq!(before[&bench.origin()], after[&bench.origin()]);
    for port in [1935, 1936] {
        assert_ne!(before[&bench.edge(port)], after[&bench.edge(port)]);
    }
    let position =
        |text: String| said.iter().position(|line| *line == text).unwrap_or_else(|| panic!("{said:?}"));
    let played = position(format!("{} plays live/a", bench.edge(1935)));
    let next = format!("restarting {}: its players are disconnected and must reconnect", bench.edge(1936));
    assert!(played < position(next));
    assert_eq!(bench.unit(&bench.edge(1935)).await.restarts, 0, "asked for, so not counted");

    let none = Restart { role: Role::Edge, port: Some(9), host: None, cold: true, yes: false };
    let error = bench.client().restart(&none, |_| {}).await.unwrap_err().to_string();
    assert!(error.starts_with("there is no edge on port 9; there are: origin-"), "{error}");
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_rolling_restart_stops_at_an_edge_that_does_not_play() {
    let bench = Bench::new("1935,1936");
    bench.fake(&bench.origin(), "stream");
    let supervisor = bench.up();
    bench.fake(&bench.edge(1935), "blind");
    bench.until(&bench.origin(), |unit| unit.stats.is_some()).await;
    let before = bench.pids().await;
    let restart = Restart { role: Role::Edge, port: None, host: None, cold: true, yes: false };
    let error = bench.client().restart(&restart, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains(&format!("not restarted: {}", bench.edge(1936))), "{error}");
    assert_eq!(bench.pids().await[&bench.edge(1936)], before[&bench.edge(1936)]);
    let unit = bench.until(&bench.edge(1936), |unit| unit.health == Health::Critical).await;
    assert_eq!(unit.restarts, 0, "a stream that an edge lacks restarts nothing");
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_full_edge_plays_only_what_it_has() {
    let bench = Bench::new("1935,1936");
    bench.fake(&bench.origin(), "stream");
    bench.fake(&bench.edge(1935), "full stream");
    bench.fake(&bench.edge(1936), "full");
    let supervisor = bench.up();
    bench.until(&bench.origin(), |unit| unit.stats.is_some()).await;
    let restart = |port| Restart { role: Role::Edge, port: Some(port), host: None, cold: true, yes: false };
    bench.client().restart(&restart(1935), |_| {}).await.unwrap();
    let error = bench.client().restart(&restart(1936), |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("does not play live/a"), "{error}");
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_stream_that_ends_during_a_rolling_restart_does_not_stop_it() {
    let bench = Bench::new("1935,1936");
    let origin = bench.origin();
    bench.fake(&origin, "stream");
    let supervisor = bench.up();
    bench.fake(&bench.edge(1935), "blind");
    bench.until(&origin, |unit| unit.stats.is_some()).await;
    let before = bench.pids().await;
    let restart = Restart { role: Role::Edge, port: None, host: None, cold: true, yes: false };
    let ended = |line: &str| {
        if line.contains("is ready after") {
            bench.fake(&origin, "");
        }
    };
    bench.client().restart(&restart, ended).await.unwrap();
    assert_ne!(bench.pids().await[&bench.edge(1936)], before[&bench.edge(1936)]);
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn restarts_leak_no_descriptor() {
    let bench = Bench::new("1935");
    let edge = bench.edge(1935);
    let supervisor = bench.up();
    let open = || files(Path::new(&format!("/proc/{}/fd", supervisor.child.id()))).len();
    let restart = Restart { role: Role::Edge, port: None, host: None, cold: true, yes: false };
    bench.client().restart(&restart, |_| {}).await.unwrap();
    bench.until(&edge, |unit| unit.stats.is_some()).await;
    let before = open();
    for _ in 0..10 {
        bench.client().restart(&restart, |_| {}).await.unwrap();
    }
    bench.until(&edge, |unit| unit.stats.is_some()).await;
    assert!(open() <= before + 2, "{before} → {}", open());
    supervisor.end(Signal::SIGTERM);
}
