//! A changed file, brought into force while the cluster runs.

use std::time::{Duration, Instant};

use cluster::Role;
use cluster::events::Kind;
use cluster::plan::Action;
use cluster::status::UnitState;
use control::api::{Apply, Restart};
use control::{Code, Error};
use nix::sys::signal::Signal;
use supervisor::{AliveLock, UnitFiles, generations};
use supervisor::{ClientError, orphans};

use crate::bench::{Bench, PATIENCE, lives};

#[tokio::test]
async fn a_change_during_a_change_is_told_what_runs_since_when_and_for_whom() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    bench.edges = "1935,1936".into();
    bench.fake(&bench.edge(1936), "mute");
    let apply = Apply::new("/c.txt".into(), bench.text());
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
    let apply = Apply::new("/c.txt".into(), bench.text());
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
    let same = Apply::new("/c.txt".into(), bench.text());
    bench.client().apply(&same, |line| said.push(line.to_owned())).await.unwrap();
    assert_eq!(said, ["nothing to change"]);

    bench.edges = "1935,1936".into();
    let apply = Apply::new("/c.txt".into(), bench.text());
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
    let apply = Apply::new("/c.txt".into(), bench.text());
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("does not take its new config"), "{error}");
    assert_eq!(bench.log(&bench.origin()).lines().last(), Some("configured 1 targets"));
    assert!(bench.connect(&bench.edge(1936)).is_err());
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_port_that_does_not_say_that_it_took_its_values_is_told_again_until_it_does() {
    let mut bench = Bench::new("1935,1936,1937");
    bench.fake(&bench.origin(), "tells-not");
    let supervisor = bench.up();
    bench.edges = "1935,1936".into();
    let mut said = Vec::new();
    let apply = Apply::new("/c.txt".into(), bench.text());
    bench.client().apply(&apply, |line| said.push(line.to_owned())).await.unwrap();
    let line =
        format!("{} has not said that it took its values; it is told again until it does", bench.origin());
    assert!(said.contains(&line), "{said:?}");
    let told = |bench: &Bench| bench.log(&bench.origin()).matches("configured 2 targets").count();
    let (before, end) = (told(&bench), Instant::now() + PATIENCE);
    while told(&bench) < before + 2 {
        assert!(Instant::now() < end, "{}", bench.log(&bench.origin()));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let events = bench.client().events(0).await.unwrap().events;
    let untold = events.iter().filter(|event| event.what.kind == Kind::NotConfigured).count();
    assert_eq!(untold, 1, "{events:#?}");
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
    let apply = Apply::new("/c.txt".into(), bench.text());
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("cannot write") && error.contains("put back as it was"), "{error}");
    std::fs::remove_dir(config.with_extension("yaml.tmp")).unwrap();
    let restart = Restart { role: Role::Origin, port: None, host: None, cold: true, yes: false };
    bench.client().restart(&restart, |_| {}).await.unwrap();
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_removal_that_cannot_be_written_down_touches_nothing() {
    let mut bench = Bench::new("1935,1936");
    let supervisor = bench.up();
    let (before, text) = (bench.pids().await, bench.text());
    // As a full disk does.
    let taken = bench.dirs.file_in_force().with_extension("yaml.tmp");
    std::fs::create_dir(&taken).unwrap();
    bench.edges = "1936".into();
    let apply = Apply::new("/c.txt".into(), bench.text());
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("nothing was touched") && error.contains("cannot write"), "{error}");
    assert_eq!(bench.pids().await, before);
    assert_eq!(bench.dirs.in_force().unwrap().unwrap().1, text);
    std::fs::remove_dir(&taken).unwrap();
    bench.client().apply(&apply, |_| {}).await.unwrap();
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_removed_port_is_closed_and_forgotten_and_no_other_is_touched() {
    let mut bench = Bench::new("1935,1936");
    let supervisor = bench.up();
    let before = bench.pids().await;
    bench.edges = "1936,1937".into();
    let apply = Apply::new("/c.txt".into(), bench.text());
    let mut said = Vec::new();
    bench.client().apply(&apply, |line| said.push(line.to_owned())).await.unwrap();
    assert!(said.contains(&format!("{} is removed", bench.edge(1935))), "{said:?}");
    let after = bench.pids().await;
    assert_eq!(after.len(), 3);
    assert!([bench.origin(), bench.edge(1936)].iter().all(|id| before[id] == after[id]));
    let removed = bench.edge(1935);
    assert!(!lives(before[&removed]) && bench.connect(&removed).is_err());
    assert!(!bench.dirs.config(&removed).exists() && !bench.dirs.unit(&removed).exists());
    assert!(bench.log(&bench.origin()).ends_with("configured 2 targets\n"), "{}", bench.log(&bench.origin()));
    let origin = std::fs::read_to_string(bench.dirs.config(&bench.origin())).unwrap();
    assert!(!origin.contains(removed.as_str()) && origin.contains(bench.edge(1937).as_str()));
    assert_eq!(bench.dirs.in_force().unwrap().unwrap().1, bench.text());

    // It can be added again.
    bench.edges = "1935,1936,1937".into();
    bench.client().apply(&Apply::new("/c.txt".into(), bench.text()), |_| {}).await.unwrap();
    assert_eq!(bench.unit(&removed).await.state, UnitState::Running);
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn what_a_killed_supervisor_has_not_come_to_is_done_by_the_next_one() {
    let mut bench = Bench::new("1935,1936");
    let supervisor = bench.up();
    let before = bench.pids().await;
    supervisor.kill();
    // As if it had been killed behind the moment in which a file without that port came into force.
    bench.edges = "1936".into();
    let file = bench.state.path().join("cluster.txt");
    bench.dirs.put_in_force(&file, &bench.text(), &[]).unwrap();
    let supervisor = bench.up();
    let after = bench.pids().await;
    assert_eq!(after.keys().collect::<Vec<_>>(), [&bench.edge(1936), &bench.origin()]);
    assert!(after.iter().all(|(id, pid)| before[id] == *pid));
    assert!(!lives(before[&bench.edge(1935)]) && !bench.dirs.unit(&bench.edge(1935)).exists());
    assert!(bench.log(&bench.origin()).ends_with("configured 1 targets\n"));
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn what_was_begun_before_a_file_came_into_force_is_undone_by_the_next_supervisor() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    let (before, text) = (bench.pids().await, bench.text());
    bench.edges = "1935,1936".into();
    bench.fake(&bench.edge(1936), "mute");
    let (client, apply) = (bench.client(), Apply::new("/c.txt".into(), bench.text()));
    let applied = tokio::spawn(async move { client.apply(&apply, |_| {}).await });
    let added = bench.edge(1936);
    let end = Instant::now() + PATIENCE;
    while !bench.dirs.unit(&added).join("record.json").exists() {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    supervisor.kill();
    assert!(applied.await.unwrap().is_err());
    bench.edges = "1935".into();
    assert_eq!(bench.dirs.in_force().unwrap().unwrap().1, text);
    let supervisor = bench.up();
    assert_eq!(bench.pids().await, before);
    assert!(!bench.dirs.unit(&added).exists() && bench.connect(&added).is_err());
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_supervisor_takes_over_with_the_file_in_force_and_not_with_one_that_removes() {
    let mut bench = Bench::new("1935,1936");
    let supervisor = bench.up();
    let before = bench.pids().await;
    supervisor.kill();
    bench.edges = "1936".into();
    let error = bench.command().error();
    assert!(error.contains(&format!("cannot stop {}: removed", bench.edge(1935))), "{error}");
    assert!(before.values().all(|pid| lives(*pid)));
    orphans::down(&bench.dirs, |_| {}).await.unwrap();
}

#[tokio::test]
async fn a_plan_is_carried_out_only_if_the_file_in_force_is_the_one_that_it_was_made_for() {
    let mut bench = Bench::new("1935,1936");
    let supervisor = bench.up();
    let before = bench.pids().await;
    bench.edges = "1936,1937".into();
    let mut apply = Apply::new("/c.txt".into(), bench.text());
    let plan = bench.client().plan(&apply).await.unwrap();
    assert_eq!(plan.generation, Some(1));
    let told: Vec<_> = plan.changes.iter().map(|it| (it.unit.clone(), it.action, it.disconnects())).collect();
    assert_eq!(
        told,
        [
            (bench.origin(), Action::Reconfigure, false),
            (bench.edge(1936), Action::Nothing, false),
            (bench.edge(1937), Action::Start, false),
            (bench.edge(1935), Action::Stop, false),
        ]
    );
    assert_eq!(bench.pids().await, before, "a plan touches nothing");
    apply.expect_generation = Some(2);
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err();
    let ClientError::Refused(Error { code: Code::Changed, message: why }) = &error else { panic!("{error}") };
    assert!(why.contains("made for generation 2 of the file in force, which is 1"), "{why}");
    assert_eq!(bench.pids().await, before);
    apply.expect_generation = Some(1);
    bench.client().apply(&apply, |_| {}).await.unwrap();
    let what: Vec<_> = generations(&bench.dirs).unwrap().into_iter().map(|it| (it.number, it.what)).collect();
    let changed = "1 started, 1 stopped, 1 reconfigured".to_owned();
    assert_eq!(what, [(1, "brought up".to_owned()), (2, changed)]);
    let wrong = Apply::new("/c.txt".into(), "no cluster".into());
    let error = bench.client().plan(&wrong).await.unwrap_err();
    assert!(matches!(&error, ClientError::Refused(Error { code: Code::Invalid, .. })), "{error}");
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn an_added_port_that_does_not_get_ready_is_taken_back() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    let before = bench.pids().await;
    bench.edges = "1935,1936".into();
    for (words, told) in [("exit-78", "exit 78"), ("exit-1", "; it is taken back")] {
        bench.fake(&bench.edge(1936), words);
        let apply = Apply::new("/c.txt".into(), bench.text());
        let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
        assert!(error.contains(told) && !error.contains("tried again"), "{error}");
        assert_eq!(bench.pids().await, before);
        assert!(bench.connect(&bench.edge(1936)).is_err());
        assert!(!bench.dirs.config(&bench.edge(1936)).exists());
    }
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
    let apply = Apply::new("/c.txt".into(), bench.text());
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
