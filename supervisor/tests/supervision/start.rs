//! A start and what refuses it; commands; the end.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use cluster::Role;
use cluster::status::{Health, UnitState};
use control::Code;
use control::api::{Apply, Restart, StartupEvent};
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use supervisor::{ClientError, generations};

use crate::bench::{Bench, PATIENCE, files, lives, send};

#[tokio::test]
async fn up_starts_every_process_and_down_leaves_none() {
    let mut bench = Bench::new("1935,1936");
    bench.extra = "encoder=yes".into();
    let mut supervisor = bench.up();
    assert_eq!(supervisor.ready(), 4);
    let status = bench.status().await;
    assert!(status.units.iter().all(|unit| unit.state == UnitState::Running), "{status:#?}");
    assert_eq!(status.units.last().unwrap().role, Role::Encoder);
    let pids = bench.pids().await;

    let mut said = Vec::new();
    bench.client().down(|line| said.push(line.to_owned())).await.unwrap();
    assert!(supervisor.child.wait().unwrap().success());
    assert_eq!(said.first().unwrap(), "encoder is stopped");
    assert_eq!(said.last().unwrap(), &format!("{} is stopped", bench.origin()));
    assert!(pids.values().all(|pid| !lives(*pid)));
    assert!(!bench.dirs.run().exists());
    assert!(bench.dirs.secret().exists() && bench.dirs.config(&bench.origin()).exists());
    assert!(bench.connect(&bench.origin()).is_err(), "the port is closed");
    assert!(matches!(bench.client().status().await, Err(ClientError::NotRunning { .. })));
}

#[tokio::test]
async fn a_second_supervisor_is_refused_and_the_first_goes_on() {
    let bench = Bench::new("1935");
    let first = bench.up();
    let pids = bench.pids().await;
    let error = bench.command().error();
    assert!(error.contains(&format!("runs already (pid {})", first.child.id())), "{error}");
    assert_eq!(bench.pids().await, pids);
    first.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_process_gets_the_descriptors_of_the_table_and_no_other() {
    let mut bench = Bench::new("1935");
    bench.extra = "max=4000".into();
    let supervisor = bench.up();
    let log = bench.log(&bench.edge(1935));
    let numbers = log.lines().next().unwrap().strip_prefix("descriptors ").unwrap();
    let (numbers, limit) = numbers.split_once(" limit ").unwrap();
    let mut numbers: Vec<u32> = numbers.split(' ').map(|number| number.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers[..3], [0, 1, 2]);
    assert_eq!(
        numbers.len(),
        10,
        "listener, control, lock, config, secret and the directory that is read: {numbers:?}"
    );
    let limit: u64 = limit.strip_prefix("Some(").unwrap().strip_suffix(')').unwrap().parse().unwrap();
    assert!(limit >= 4000, "{limit}");
    let pid = bench.pids().await[&bench.edge(1935)];
    let session = nix::unistd::getsid(Some(Pid::from_raw(pid.try_into().unwrap()))).unwrap();
    assert_eq!(session.as_raw(), i32::try_from(pid).unwrap());
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_worker_that_refuses_its_config_is_not_tried_again() {
    let bench = Bench::new("1935,1936");
    let edge = bench.edge(1936);
    bench.fake(&edge, "exit-78");
    let supervisor = bench.up();
    assert_eq!(supervisor.events.last(), Some(&StartupEvent::Complete { ready: 2, waiting: 1 }));
    let unit = bench.unit(&edge).await;
    assert_eq!((unit.state, unit.health, unit.restarts), (UnitState::Failed, Health::Critical, 0));
    assert!(bench.connect(&edge).is_err(), "nobody is kept waiting");
    // Asked for while it is as wrong as before, and corrected.
    let same = Apply::new("/c.txt".into(), bench.text());
    let error = bench.client().apply(&same, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains(edge.as_str()) && error.contains("exit 78"), "{error}");
    bench.fake(&edge, "");
    bench.client().apply(&same, |_| {}).await.unwrap();
    assert_eq!(bench.unit(&edge).await.state, UnitState::Running);
    bench.connect(&edge).unwrap();
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_worker_that_cannot_be_asked_is_terminated() {
    let bench = Bench::new("1935");
    let edge = bench.edge(1935);
    let supervisor = bench.up();
    std::fs::remove_file(bench.dirs.unit(&edge).join("ctl.sock")).unwrap();
    let begin = Instant::now();
    supervisor.end(Signal::SIGTERM);
    assert!(begin.elapsed() < Duration::from_secs(4), "SIGTERM at once, without waiting for an answer");
}

#[tokio::test]
async fn a_supervisor_that_is_ending_refuses_commands_as_busy() {
    let bench = Bench::new("1935");
    let edge = bench.edge(1935);
    bench.fake(&edge, "deaf");
    let supervisor = bench.up();
    send(supervisor.child.id(), Signal::SIGTERM);
    bench.until(&edge, |unit| unit.state == UnitState::Stopping).await;
    let restart = Restart { role: Role::Edge, port: None, host: None, cold: true, yes: false };
    let error = bench.client().restart(&restart, |_| {}).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(why) if why.code == Code::Ending && why.message.contains("it is ending")),
        "{error}"
    );
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_detached_supervisor_writes_to_its_log() {
    let mut bench = Bench::new("1935");
    bench.extra = "detached".into();
    let mut supervisor = bench.command();
    assert_eq!(supervisor.line(), None, "its output is closed as far as the caller sees");
    let end = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(bench.dirs.agent_log()).unwrap().contains("\"complete\"") {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    supervisor.end(Signal::SIGTERM);
}

#[test]
fn a_taken_port_is_told_with_its_owner_and_leaves_nothing_behind() {
    let bench = Bench::new("1935,1936");
    let _other = std::net::TcpListener::bind(format!("{}.6:1936", bench.net)).unwrap();
    let error = bench.command().error();
    assert!(error.contains(&format!("(pid {})", std::process::id())), "{error}");
    assert!(bench.connect(&bench.origin()).is_err());
    assert_eq!(files(&bench.state.path().join("state")), Vec::<PathBuf>::new());
}

#[test]
fn a_state_directory_that_cannot_be_is_told() {
    let bench = Bench::new("1935");
    std::fs::write(bench.state.path().join("state"), "").unwrap();
    let error = bench.command().error();
    assert!(error.contains("cannot create state directory") && error.contains("--state-dir"), "{error}");
}

#[test]
fn too_few_descriptors_are_told_before_anything_is_started() {
    let mut bench = Bench::new("1935");
    bench.extra = "max=2000000".into();
    let error = bench.command().error();
    assert!(error.contains("file descriptors (max_connections 2000000"), "{error}");
    assert!(!bench.state.path().join("state").exists());
}

#[tokio::test]
async fn a_signal_during_the_start_leaves_nothing_half_started() {
    let bench = Bench::new("1935,1936");
    bench.fake(&bench.edge(1936), "mute");
    let mut supervisor = bench.command();
    while !supervisor.line().unwrap().contains("ready") {}
    send(supervisor.child.id(), Signal::SIGINT);
    let error = supervisor.error();
    assert!(error.contains("interrupted"), "{error}");
    assert!(!bench.dirs.run().exists());
    assert!(bench.connect(&bench.origin()).is_err());
    // It has never served anybody.
    assert_eq!(bench.dirs.in_force().unwrap(), None);
    assert_eq!(generations(&bench.dirs).unwrap(), []);
}

#[tokio::test]
async fn a_full_log_is_rotated_and_the_process_writes_to_the_new_one() {
    let bench = Bench::new("1935");
    let edge = bench.edge(1935);
    let supervisor = bench.up();
    let pid = bench.pids().await[&edge];
    let log = bench.dirs.log(&edge);
    std::fs::OpenOptions::new().write(true).open(&log).unwrap().set_len(11 << 20).unwrap();
    let end = Instant::now() + PATIENCE;
    while std::fs::read_link(format!("/proc/{pid}/fd/1")).unwrap() != log
        || !log.with_extension("log.1").exists()
    {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    supervisor.end(Signal::SIGTERM);
}
