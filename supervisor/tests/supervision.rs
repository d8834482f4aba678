//! A real supervisor process with processes that carry no media: what it starts, restarts, adopts, stops and leaves.
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cluster::status::{Health, Status, UnitState, UnitStatus};
use cluster::{Role, UnitId};
use control::api::{Apply, Restart, StartupEvent};
use control::{Code, Error};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use supervisor::{AliveLock, UnitFiles};
use supervisor::{Client, ClientError, ClusterDirs, StateRoots, orphans};

const PATIENCE: Duration = Duration::from_secs(20);

/// One cluster with its own state directory and its own 127.A.B.0/24.
struct Bench {
    state: tempfile::TempDir,
    net: String,
    edges: String,
    extra: String,
    dirs: ClusterDirs,
}

struct Supervisor {
    child: Child,
    lines: BufReader<ChildStdout>,
    events: Vec<StartupEvent>,
}

impl Bench {
    fn new(edges: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id().wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let net = format!("127.{}.{}", 1 + number / 250 % 250, 1 + number % 250);
        let state = tempfile::tempdir().unwrap();
        let dirs = StateRoots::resolve(Some(&state.path().join("state"))).unwrap().cluster("live");
        Self { state, net, edges: edges.to_owned(), extra: String::new(), dirs }
    }

    fn text(&self) -> String {
        format!("net={}\nedges={}\n{}", self.net, self.edges, self.extra)
    }

    /// Makes a process misbehave from its next start on.
    fn fake(&self, id: &UnitId, words: &str) {
        // Whatever the umask: a directory in which others may write is refused.
        let mut conf = std::fs::DirBuilder::new();
        conf.recursive(true).mode(0o700).create(self.dirs.lib().join("conf")).unwrap();
        std::fs::write(self.dirs.config(id).with_extension("fake"), words).unwrap();
    }

    fn command(&self) -> Supervisor {
        let file = self.state.path().join("cluster.txt");
        std::fs::write(&file, self.text()).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_fake-worker"))
            .arg("supervise")
            .args([self.state.path().join("state"), file])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap());
        Supervisor { child, lines, events: Vec::new() }
    }

    /// A supervisor that has told all of its start.
    fn up(&self) -> Supervisor {
        let mut supervisor = self.command();
        supervisor.rest();
        supervisor
    }

    fn client(&self) -> Client {
        Client::new(self.dirs.clone())
    }

    fn origin(&self) -> UnitId {
        UnitId::worker(Role::Origin, &format!("{}.5", self.net), 1935)
    }

    fn edge(&self, port: u16) -> UnitId {
        UnitId::worker(Role::Edge, &format!("{}.6", self.net), port)
    }

    async fn status(&self) -> Status {
        self.client().status().await.unwrap()
    }

    async fn unit(&self, id: &UnitId) -> UnitStatus {
        self.status().await.units.into_iter().find(|unit| unit.id == *id).unwrap()
    }

    async fn pids(&self) -> BTreeMap<UnitId, u32> {
        self.status().await.units.into_iter().filter_map(|unit| Some((unit.id, unit.pid?))).collect()
    }

    /// Asks for the status of a unit until it is as wanted.
    async fn until(&self, id: &UnitId, wanted: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            let unit = self.unit(id).await;
            if wanted(&unit) {
                return unit;
            }
            assert!(Instant::now() < end, "{unit:#?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn connect(&self, id: &UnitId) -> std::io::Result<TcpStream> {
        let (host, port) = id.as_str().split_once('-').unwrap().1.rsplit_once('-').unwrap();
        TcpStream::connect((host, port.parse::<u16>().unwrap()))
    }

    fn log(&self, id: &UnitId) -> String {
        std::fs::read_to_string(self.dirs.log(id)).unwrap()
    }
}

impl Drop for Bench {
    /// A test that failed must leave no process either.
    fn drop(&mut self) {
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if line.contains(self.state.path().to_str().unwrap()) {
                send(pid, Signal::SIGKILL);
            }
        }
    }
}

impl Supervisor {
    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.lines.read_line(&mut line).unwrap() > 0).then(|| line.trim_end().to_owned())
    }

    /// All that is left to be told of its start.
    fn rest(&mut self) {
        while !matches!(self.events.last(), Some(StartupEvent::Complete { .. })) {
            let line = self.line().unwrap();
            self.events.push(serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")));
        }
    }

    fn ready(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, StartupEvent::Ready { .. })).count()
    }

    fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    fn end(mut self, signal: Signal) {
        send(self.child.id(), signal);
        assert!(self.child.wait().unwrap().success());
    }

    /// The error of a supervisor that must not start.
    fn error(mut self) -> String {
        let mut text = String::new();
        while let Some(line) = self.line() {
            text.push_str(&line);
            text.push('\n');
        }
        assert!(!self.child.wait().unwrap().success(), "{text}");
        text.split_once("error: ").unwrap_or_else(|| panic!("{text}")).1.to_owned()
    }
}

fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.try_into().unwrap()), signal);
}

fn lives(pid: u32) -> bool {
    supervisor::start_ticks(pid).is_some()
}

fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map(|dir| dir.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}

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
    assert_eq!(unit.last_exit.unwrap().how, "killed by SIGKILL, perhaps out of memory");
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
    let restart = Restart { role: Role::Edge, port: None, host: None };
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
async fn a_frozen_worker_is_killed_and_restarted_and_the_note_says_so() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let edge = bench.edge(1935);
    let pid = bench.pids().await[&edge];
    send(pid, Signal::SIGSTOP);
    let unit = bench.until(&edge, |unit| unit.restarts == 1 && unit.state == UnitState::Running).await;
    assert_ne!(unit.pid, Some(pid));
    assert_eq!(unit.last_exit.unwrap().how, "killed by SIGKILL: frozen: no heartbeat for 5 s");
    supervisor.end(Signal::SIGTERM);
}

#[tokio::test]
async fn a_worker_that_is_frozen_when_it_is_adopted_is_killed_and_its_port_never_refuses() {
    let bench = Bench::new("1935");
    let supervisor = bench.up();
    let edge = bench.edge(1935);
    let pid = bench.pids().await[&edge];
    send(pid, Signal::SIGSTOP);
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
    loop {
        match serde_json::from_str(&supervisor.line().unwrap()).unwrap() {
            StartupEvent::Started { unit, pid } => drop(started.insert(unit, pid)),
            StartupEvent::Ready { .. } => break,
            _ => {}
        }
    }
    send(supervisor.child.id(), Signal::SIGQUIT);
    let error = supervisor.error();
    assert!(error.contains("3 processes run on without a supervisor"), "{error}");
    assert!(error.contains("srsctl up") && error.contains("srsctl down"), "{error}");
    assert_eq!(started.len(), 3);
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
async fn a_change_during_a_change_is_told_what_runs_since_when_and_for_whom() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    bench.edges = "1935,1936".into();
    bench.fake(&bench.edge(1936), "mute");
    let apply = Apply { path: "/c.txt".into(), text: bench.text() };
    let client = bench.client();
    let applied = tokio::spawn(async move { client.apply(&apply, |_| {}).await });
    let end = Instant::now() + PATIENCE;
    while bench.status().await.units.len() < 3 {
        assert!(Instant::now() < end);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let restart = Restart { role: Role::Edge, port: None, host: None };
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
    let same = Apply { path: "/c.txt".into(), text: bench.text() };
    let error = bench.client().apply(&same, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains(edge.as_str()) && error.contains("exit 78"), "{error}");
    bench.fake(&edge, "");
    bench.client().apply(&same, |_| {}).await.unwrap();
    assert_eq!(bench.unit(&edge).await.state, UnitState::Running);
    bench.connect(&edge).unwrap();
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
    let restart = Restart { role: Role::Edge, port: None, host: None };
    let error = bench.client().restart(&restart, |_| {}).await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Refused(why) if why.code == Code::Ending && why.message.contains("it is ending")),
        "{error}"
    );
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
    let restart = Restart { role: Role::Edge, port: None, host: None };
    bench.client().restart(&restart, |line| said.push(line.to_owned())).await.unwrap();
    let after = bench.pids().await;
    assert_eq!(before[&bench.origin()], after[&bench.origin()]);
    for port in [1935, 1936] {
        assert_ne!(before[&bench.edge(port)], after[&bench.edge(port)]);
    }
    let position =
        |text: String| said.iter().position(|line| *line == text).unwrap_or_else(|| panic!("{said:?}"));
    let played = position(format!("{} plays live/a", bench.edge(1935)));
    assert!(played < position(format!("restarting {}", bench.edge(1936))));
    assert_eq!(bench.unit(&bench.edge(1935)).await.restarts, 0, "asked for, so not counted");

    let none = Restart { role: Role::Edge, port: Some(9), host: None };
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
    let restart = Restart { role: Role::Edge, port: None, host: None };
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
    let restart = |port| Restart { role: Role::Edge, port: Some(port), host: None };
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
    let restart = Restart { role: Role::Edge, port: None, host: None };
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
async fn no_port_is_added_while_the_origin_is_unknown() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    supervisor.kill();
    std::fs::write(bench.dirs.unit(&bench.origin()).join("alive.lock"), "0".repeat(32)).unwrap();
    std::fs::remove_file(bench.dirs.unit(&bench.origin()).join("record.json")).unwrap();
    let supervisor = bench.up();
    bench.edges = "1935,1936".into();
    let apply = Apply { path: "/c.txt".into(), text: bench.text() };
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains(&format!("{} is left alone", bench.origin())), "{error}");
    assert!(bench.connect(&bench.edge(1936)).is_err());
    supervisor.kill();
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

#[tokio::test]
async fn an_added_port_is_started_and_forwarded_to_and_nothing_else_is_touched() {
    let mut bench = Bench::new("1935");
    let supervisor = bench.up();
    let before = bench.pids().await;
    let mut said = Vec::new();
    let same = Apply { path: "/c.txt".into(), text: bench.text() };
    bench.client().apply(&same, |line| said.push(line.to_owned())).await.unwrap();
    assert_eq!(said, ["nothing to change"]);

    bench.edges = "1935,1936".into();
    let apply = Apply { path: "/c.txt".into(), text: bench.text() };
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
    let apply = Apply { path: "/c.txt".into(), text: bench.text() };
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("does not take its new forward targets"), "{error}");
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
    let apply = Apply { path: "/c.txt".into(), text: bench.text() };
    let error = bench.client().apply(&apply, |_| {}).await.unwrap_err().to_string();
    assert!(error.contains("cannot write"), "{error}");
    std::fs::remove_dir(config.with_extension("yaml.tmp")).unwrap();
    let restart = Restart { role: Role::Origin, port: None, host: None };
    bench.client().restart(&restart, |_| {}).await.unwrap();
    assert_eq!(std::fs::read_to_string(&config).unwrap(), before);
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

#[tokio::test]
async fn any_other_change_is_refused_and_nothing_is_touched() {
    let mut bench = Bench::new("1935,1936");
    let supervisor = bench.up();
    let before = bench.pids().await;
    let text = bench.text();
    bench.edges = "1936,1937".into();
    let apply = Apply { path: "/c.txt".into(), text: bench.text() };
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
    let apply = Apply { path: "/c.txt".into(), text: bench.text() };
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
    let apply = Apply { path: "/c.txt".into(), text: bench.text() };
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

#[tokio::test]
async fn restarts_leak_no_descriptor() {
    let bench = Bench::new("1935");
    let edge = bench.edge(1935);
    let supervisor = bench.up();
    let open = || files(Path::new(&format!("/proc/{}/fd", supervisor.child.id()))).len();
    let restart = Restart { role: Role::Edge, port: None, host: None };
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
