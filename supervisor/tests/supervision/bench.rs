//! One cluster, its supervisor, and how to look at them.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::TcpStream;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cluster::status::{Status, UnitStatus};
use cluster::{Role, UnitId};
use control::api::StartupEvent;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use supervisor::{Client, ClusterDirs, StateRoots};

pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// One cluster with its own state directory and its own 127.A.B.0/24.
pub(crate) struct Bench {
    pub(crate) state: tempfile::TempDir,
    pub(crate) net: String,
    pub(crate) edges: String,
    pub(crate) extra: String,
    pub(crate) dirs: ClusterDirs,
}

pub(crate) struct Supervisor {
    pub(crate) child: Child,
    pub(crate) lines: BufReader<ChildStdout>,
    pub(crate) events: Vec<StartupEvent>,
}

impl Bench {
    pub(crate) fn new(edges: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = std::process::id().wrapping_mul(31).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let net = format!("127.{}.{}", 1 + number / 250 % 250, 1 + number % 250);
        let state = tempfile::tempdir().unwrap();
        let dirs = StateRoots::resolve(Some(&state.path().join("state"))).unwrap().cluster("live");
        Self { state, net, edges: edges.to_owned(), extra: String::new(), dirs }
    }

    pub(crate) fn text(&self) -> String {
        format!("net={}\nedges={}\n{}", self.net, self.edges, self.extra)
    }

    /// Makes a process misbehave from its next start on.
    pub(crate) fn fake(&self, id: &UnitId, words: &str) {
        // Whatever the umask: a directory in which others may write is refused.
        let mut conf = std::fs::DirBuilder::new();
        conf.recursive(true).mode(0o700).create(self.dirs.lib().join("conf")).unwrap();
        std::fs::write(self.dirs.config(id).with_extension("fake"), words).unwrap();
    }

    pub(crate) fn command(&self) -> Supervisor {
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
    pub(crate) fn up(&self) -> Supervisor {
        let mut supervisor = self.command();
        supervisor.rest();
        supervisor
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.dirs.clone())
    }

    pub(crate) fn origin(&self) -> UnitId {
        UnitId::worker(Role::Origin, &format!("{}.5", self.net), 1935)
    }

    pub(crate) fn edge(&self, port: u16) -> UnitId {
        UnitId::worker(Role::Edge, &format!("{}.6", self.net), port)
    }

    pub(crate) async fn status(&self) -> Status {
        self.client().status().await.unwrap()
    }

    pub(crate) async fn unit(&self, id: &UnitId) -> UnitStatus {
        self.status().await.units.into_iter().find(|unit| unit.id == *id).unwrap()
    }

    pub(crate) async fn pids(&self) -> BTreeMap<UnitId, u32> {
        self.status().await.units.into_iter().filter_map(|unit| Some((unit.id, unit.pid?))).collect()
    }

    /// Asks for the status of a unit until it is as wanted.
    pub(crate) async fn until(&self, id: &UnitId, wanted: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
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

    pub(crate) fn connect(&self, id: &UnitId) -> std::io::Result<TcpStream> {
        let (host, port) = id.as_str().split_once('-').unwrap().1.rsplit_once('-').unwrap();
        TcpStream::connect((host, port.parse::<u16>().unwrap()))
    }

    pub(crate) fn log(&self, id: &UnitId) -> String {
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
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.lines.read_line(&mut line).unwrap() > 0).then(|| line.trim_end().to_owned())
    }

    /// All that is left to be told of its start.
    pub(crate) fn rest(&mut self) {
        while !matches!(self.events.last(), Some(StartupEvent::Complete { .. })) {
            let line = self.line().unwrap();
            self.events.push(serde_json::from_str(&line).unwrap_or_else(|_| panic!("{line}")));
        }
    }

    pub(crate) fn ready(&self) -> usize {
        self.events.iter().filter(|event| matches!(event, StartupEvent::Ready { .. })).count()
    }

    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub(crate) fn end(mut self, signal: Signal) {
        send(self.child.id(), signal);
        assert!(self.child.wait().unwrap().success());
    }

    /// The error of a supervisor that must not start.
    pub(crate) fn error(mut self) -> String {
        let mut text = String::new();
        while let Some(line) = self.line() {
            text.push_str(&line);
            text.push('\n');
        }
        assert!(!self.child.wait().unwrap().success(), "{text}");
        text.split_once("error: ").unwrap_or_else(|| panic!("{text}")).1.to_owned()
    }
}

pub(crate) fn send(pid: u32, signal: Signal) {
    let _ = kill(Pid::from_raw(pid.try_into().unwrap()), signal);
}

pub(crate) fn lives(pid: u32) -> bool {
    supervisor::start_ticks(pid).is_some()
}

pub(crate) fn files(dir: &Path) -> Vec<PathBuf> {
    std::fs::read_dir(dir).map(|dir| dir.flatten().map(|entry| entry.path()).collect()).unwrap_or_default()
}
