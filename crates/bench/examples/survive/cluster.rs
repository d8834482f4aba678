//! A cluster of one origin and one edge of the real `srsctl`, with loopback addresses and a state directory of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::time::Result;

const ORIGIN: Ipv4Addr = Ipv4Addr::new(127, 210, 54, 1);
const EDGE: Ipv4Addr = Ipv4Addr::new(127, 210, 54, 2);
const PORT: u16 = 1935;
/// Places beyond the players, for those that come while others go.
const SPARE: u32 = 1_000;
const START: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_secs(20);

/// A port of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Origin,
    Edge,
}

impl Role {
    pub(crate) const ALL: [Self; 2] = [Self::Edge, Self::Origin];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Edge => "edge",
        }
    }

    pub(crate) fn address(self) -> SocketAddr {
        let host = if self == Self::Origin { ORIGIN } else { EDGE };
        SocketAddr::from((host, PORT))
    }
}

/// Runs until it is dropped.
pub(crate) struct Cluster {
    srsctl: PathBuf,
    directory: PathBuf,
    supervisor: Child,
    keepers: [Pid; 2],
}

impl Cluster {
    pub(crate) fn start(srsctl: &Path, players: u32, env: &[(&str, &str)]) -> Result<Self> {
        let directory = std::env::current_dir()?.join("target/survive");
        match fs::remove_dir_all(&directory) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
            Ok(()) | Err(_) => {}
        }
        fs::create_dir_all(&directory)?;
        let file = directory.join("cluster.yaml");
        let places = players + SPARE;
        fs::write(
            &file,
            format!(
                "cluster: survive\norigin: {{ host: {ORIGIN}, port: {PORT} }}\nedges: [{{ host: {EDGE}, ports: [{PORT}] }}]\n\
                 worker: {{ max_connections: {places}, queue_length: 10s }}\n"
            ),
        )?;
        let supervisor = Command::new(srsctl)
            .arg("--state-dir")
            .arg(directory.join("state"))
            .arg("up")
            .arg(&file)
            .arg("--foreground")
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(directory.join("up.log"))?)
            .spawn()?;
        let nobody = Pid::INIT;
        let mut this = Self { srsctl: srsctl.to_owned(), directory, supervisor, keepers: [nobody; 2] };
        let deadline = Instant::now() + START;
        for role in Role::ALL {
            let keeper = loop {
                let unit = this.status(role)?;
                let pid = unit["keeper_pid"].as_i64().filter(|_| unit["state"] == "running");
                if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid as i32)) {
                    break pid;
                }
                let has_ended = this.supervisor.try_wait()?.is_some();
                if has_ended || Instant::now() > deadline {
                    let said = fs::read_to_string(this.directory.join("up.log")).unwrap_or_default();
                    return Err(format!("srsctl up is not ready: {}", said.trim()).into());
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            if let Some(place) = this.keepers.get_mut(role as usize) {
                *place = keeper;
            }
        }
        Ok(this)
    }

    pub(crate) fn keeper(&self, role: Role) -> Pid {
        self.keepers.get(role as usize).copied().unwrap_or(Pid::INIT)
    }

    /// The worker that lives; none between two.
    pub(crate) fn worker(&self, role: Role) -> Option<Pid> {
        let keeper = self.keeper(role).as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{keeper}/task/{keeper}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok().and_then(Pid::from_raw)
    }

    /// Has the keeper kill the worker, whichever that is.
    pub(crate) fn replace(&self, role: Role) -> Result<()> {
        Ok(kill_process(self.keeper(role), Signal::USR2)?)
    }

    /// Kills the worker; none where none lives.
    pub(crate) fn kill(&self, role: Role) -> Result<()> {
        if let Some(worker) = self.worker(role) {
            kill_process(worker, Signal::KILL)?;
        }
        Ok(())
    }

    /// What `srsctl status --json` says of a port, or null.
    pub(crate) fn status(&self, role: Role) -> Result<serde_json::Value> {
        let output = Command::new(&self.srsctl)
            .arg("--state-dir")
            .arg(self.directory.join("state"))
            .arg("-f")
            .arg(self.directory.join("cluster.yaml"))
            .args(["status", "--json"])
            .stdin(Stdio::null())
            .output()?;
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
        let units = status["units"].as_array().cloned().unwrap_or_default();
        Ok(units.into_iter().find(|unit| unit["role"] == role.name()).unwrap_or_default())
    }

    /// Lines of a port's log that tell of what was lost in a death.
    pub(crate) fn complaints(&self, role: Role) -> Result<Vec<String>> {
        let unit = self.status(role)?;
        let log = fs::read_to_string(unit["log"].as_str().unwrap_or_default())?;
        let is_complaint = |line: &str| {
            ["does not go on", "is lost", "; it is ended", "cannot be used", "is_cold=true", "panic"]
                .iter()
                .any(|words| line.contains(words))
                || line.split_once("broken=").is_some_and(|(_, rest)| !rest.starts_with('0'))
        };
        Ok(log.lines().filter(|line| is_complaint(line)).map(str::to_owned).collect())
    }

    /// A file of its own directory.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.join(name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(self.supervisor.id() as i32) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let deadline = Instant::now() + END;
        while Instant::now() < deadline {
            if matches!(self.supervisor.try_wait(), Ok(Some(_))) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        let _ = self.supervisor.kill();
        let _ = self.supervisor.wait();
    }
}
