//! A changed file, brought into force while the cluster runs.

use std::time::{Duration, Instant};

use cluster::Role;
use cluster::status::UnitState;
use control::api::{Apply, Restart};
use control::{Code, Error};
use nix::sys::signal::Signal;
use supervisor::{AliveLock, UnitFiles};
use supervisor::{ClientError, orphans};

use crate::bench::{Bench, PATIENCE, lives};

#[tokio::test]
async fn a_change_during_a_change_is_told_what_runs_since_when_and_for_whom() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    bench.edges = "1935,1936".into();
    bench.fake(&bench.edge(1936), "mute");
    let apply = Apply { path: "/c.txt".into(), text: bench.text(), ..Apply::default() };
    let client = bench.client();
    let applied = tokio::spawn(async move { client.apply(&apply, |_| {}).await });
    let end = Instant::now() + PATIENCE;
    while bench.status().await.units.len() < 3 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let restart = Restart { role: Role::Edge, port: None, host: None, cold: true, yes: false };
    let error = bench.client().restart(&restart, |_| {}).await.unwrap_err();
    let ClientError::Refused(Error { code: Code::Busy, message: why }) = &error else { panic!("{error}") };
    assert!(why.contains("it applies a changed file (for 0 s"), "{why}");
    assert!(why.contains(&format!("asked by pid {}", std::process::id())), "{why}");
    bench.client().down(|_| {}).await.unwrap();
    let broken_off = applied.await.unwrap().unwrap_err().to_string();
    assert!(broken_off.contains("was told to end"), "{broken_off}");
    drop(supervisor);
}

#[tokio::test]
async fn no_port_is_added_while_the_origin_is_unknown() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    supervisor.kill();
    std::fs::write(bench.dirs.unit(&bench.origin()).join("alive.lock"), "0".repeat(32)).unwrap();
    std::fs::remove_file(bench.dirs.unit(&bench.origin()).join("record.json")).unwrap();
    let supervisor = bench.up();
    bench.edges = "1935,1936".into();
    let apply = Apply { path: "/c.txt".into(), text: bench.text(), ..Apply::default() };
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains(&format!("{} is left alone", bench.origin())), "{error}");
    assert!(bench.connect(&bench.edge(1936)).is_err());
    supervisor.kill();
}

#[tokio::test]
async fn an_added_port_is_started_and_forwarded_to_and_nothing_else_is_touched() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    let before = bench.pids().await;
    let mut said = Vec::new();
    let same = Apply { path: "/c.txt".into(), text: bench.text(), ..Apply::default() };
    bench.client().apply(&same, |line| said.push(line.to_owned())).await.unwrap();
    assert_eq!(said, ["nothing to change"]);

    bench.edges = "1935,1936".into();
    let apply = Apply { path: "/c.txt".into(), text: bench.text(), ..Apply::default() };
    bench.client().apply(&apply, |_| {}).await.unwrap();
    let after = bench.pids().await;
    assert_eq!(after.len(), 3);
    assert!(before.iter().all(|(id, pid)| after[id] == *pid));
    assert!(bench.log(&bench.origin()).contains("configured 2 targets"));
    let config = std::fs::read_to_string(bench.dirs.config(&bench.origin())).unwrap();
    assert!(config.contains(bench.edge(1936).as_str()));
    assert_eq!(bench.dirs.in_force().unwrap(), Some(("/c.txt".into(), bench.text())));

    // The next supervisor finds what the file in force says; it cannot know whether the origin was told.
    supervisor.kill();
    let supervisor = bench.up();
    assert_eq!(bench.pids().await, after);
    assert_eq!(bench.log(&bench.origin()).matches("configured 2 targets").count(), 2);
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn an_origin_that_does_not_say_whether_it_took_its_targets_is_told_the_old_ones() {
    let mut bench = Bench::new("1935");
    bench.fake(&bench.origin(), "tells-not");
    let supervisor = bench.up();
    bench.edges = "1935,1936".into();
    let apply = Apply { path: "/c.txt".into(), text: bench.text(), ..Apply::default() };
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("does not take its new config"), "{error}");
    assert_eq!(bench.log(&bench.origin()).lines().last(), Some("configured 1 targets"));
    assert!(bench.connect(&bench.edge(1936)).is_err());
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn an_origin_whose_config_cannot_be_written_keeps_its_targets() {
    let mut bench = Bench::new("1935");
    let (supervisor, origin) = (bench.up(), bench.origin());
    let config = bench.dirs.config(&origin);
    let before = std::fs::read_to_string(&config).unwrap();
    std::fs::create_dir(config.with_extension("yaml.tmp")).unwrap();
    bench.edges = "1935,1936".into();
    let apply = Apply { path: "/c.txt".into(), text: bench.text(), ..Apply::default() };
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("cannot write"), "{error}");
    std::fs::remove_dir(config.with_extension("yaml.tmp")).unwrap();
    let restart = Restart { role: Role::Origin, port: None, host: None, cold: true, yes: false };
    bench.client().restart(&restart, |_| {}).await.unwrap();
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn any_other_change_is_refused_and_nothing_is_touched() {
    let mut bench = Bench::new("1935,1936");
    let supervisor = bench.up();
    let before = bench.pids().await;
    let text = bench.text();
    bench.edges = "1936,1937".into();
    let apply = Apply { path: "/c.txt".into(), text: bench.text(), ..Apply::default() };
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains(&format!("cannot change {}: removed", bench.edge(1935))), "{error}");
    assert_eq!(bench.pids().await, before);
    assert!(bench.connect(&bench.edge(1937)).is_err());
    assert_eq!(bench.dirs.in_force().unwrap().unwrap().1, text);

    // Neither does a new supervisor that meets the processes of the old file.
    supervisor.kill();
    let error = bench.command().error();
    assert!(error.contains(&format!("cannot change {}: removed", bench.edge(1935))), "{error}");
    assert!(before.values().all(|pid| lives(*pid)));
    orphans::down(&bench.dirs, |_| {}).await.unwrap();
}

#[tokio::test]
async fn an_added_port_that_does_not_get_ready_is_taken_back() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    let before = bench.pids().await;
    bench.edges = "1935,1936".into();
    bench.fake(&bench.edge(1936), "exit-78");
    let apply = Apply { path: "/c.txt".into(), text: bench.text(), ..Apply::default() };
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("exit 78"), "{error}");
    assert_eq!(bench.pids().await, before);
    assert!(bench.connect(&bench.edge(1936)).is_err());
    assert!(!bench.dirs.config(&bench.edge(1936)).exists());
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn an_added_port_whose_lock_a_stranger_holds_is_left_to_it_and_added_later() {
    let mut bench = Bench::new("1935");
    let (supervisor, edge) = (bench.up(), bench.edge(1936));
    let files = UnitFiles::new(bench.dirs.unit(&edge));
    files.create().unwrap();
    let AliveLock::Free(lock) = files.wait_for_lock().unwrap() else { panic!("held") };
    bench.edges = "1935,1936".into();
    let apply = Apply { path: "/c.txt".into(), text: bench.text(), ..Apply::default() };
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("holds its lock"), "{error}");
    assert!(files.alive_lock().exists(), "what is unknown was touched");
    assert!(bench.connect(&edge).is_err());
    drop(lock);
    bench.until(&edge, |unit| unit.state == UnitState::Stopped).await;
    bench.client().apply(&apply, |_| {}).await.unwrap();
    assert_eq!(bench.unit(&edge).await.state, UnitState::Running);
    supervisor.end(Signal::SIGTERM);
}
