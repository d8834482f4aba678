//! A cluster of one origin and one edge of the real `srsctl`, with loopback addresses and a state directory of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

const ORIGIN: Ipv4Addr = Ipv4Addr::new(127, 210, 54, 1);
const EDGE: Ipv4Addr = Ipv4Addr::new(127, 210, 54, 2);
const PORT: u16 = 1935;
/// Places beyond the players, for those that come while others go.
const SPARE: u32 = 1_000;
/// What a port reserves by default beside its places: for streams, for those that have not said what they want, for itself.
const STREAMS: u64 = 64;
const RESERVE: u64 = 64;
const OWN: u64 = 64;
const START: Duration = Duration::from_secs(20);
const END: Duration = Duration::from_secs(20);

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

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
    env: Vec<(String, String)>,
    /// The places for players of a port.
    places: u32,
    supervisor: Child,
    keepers: [Pid; 2],
}

impl Cluster {
    /// Starts it in `directory`, which is there and empty but for its state, with `env`.
    pub(crate) fn start(
        srsctl: &Path,
        directory: &Path,
        players: u32,
        env: Vec<(String, String)>,
    ) -> Result<Self> {
        let places = players + SPARE;
        let file = directory.join("cluster.yaml");
        fs::write(
            &file,
            format!(
                "cluster: survive\norigin: {{ host: {ORIGIN}, port: {PORT} }}\nedges: [{{ host: {EDGE}, ports: [{PORT}] }}]\n\
                 worker: {{ max_connections: {places}, queue_length: 10s }}\n"
            ),
        )?;
        let supervisor = up(srsctl, directory, &env)?;
        let keepers = [Pid::INIT; 2];
        let mut this = Self {
            srsctl: srsctl.to_owned(),
            directory: directory.to_owned(),
            env,
            places,
            supervisor,
            keepers,
        };
        this.await_ready()?;
        Ok(this)
    }

    /// Waits until both ports are served, and notes by whom.
    fn await_ready(&mut self) -> Result<()> {
        let deadline = Instant::now() + START;
        for role in Role::ALL {
            let keeper = loop {
                let unit = self.status(role)?;
                let pid = unit["keeper_pid"].as_i64().filter(|_| unit["state"] == "running");
                if let Some(pid) = pid.and_then(|pid| Pid::from_raw(pid as i32)) {
                    break pid;
                }
                let has_ended = self.supervisor.try_wait()?.is_some();
                if has_ended || Instant::now() > deadline {
                    let said = fs::read_to_string(self.directory.join("up.log")).unwrap_or_default();
                    return Err(format!("srsctl up is not ready: {}", said.trim()).into());
                }
                std::thread::sleep(Duration::from_millis(50));
            };
            if let Some(place) = self.keepers.get_mut(role as usize) {
                *place = keeper;
            }
        }
        Ok(())
    }

    pub(crate) fn supervisor(&self) -> Pid {
        Pid::from_child(&self.supervisor)
    }

    /// Kills the supervisor, and both workers with it.
    pub(crate) fn kill_all_but_keepers(&mut self) -> Result<()> {
        self.supervisor.kill()?;
        for role in Role::ALL {
            self.kill(role)?;
        }
        self.supervisor.wait()?;
        Ok(())
    }

    /// Starts another supervisor, which finds what runs.
    pub(crate) fn start_supervisor(&mut self) -> Result<()> {
        self.supervisor = up(&self.srsctl, &self.directory, &self.env)?;
        Ok(())
    }

    /// The descriptors that `srsctl up` wants a port of `role` to be allowed: its places, its streams, the reserve, forwards, the rest.
    pub(crate) fn descriptors_needed(&self, role: Role) -> u64 {
        let forwards = if role == Role::Origin { STREAMS } else { 0 };
        u64::from(self.places) + STREAMS + RESERVE + forwards + OWN
    }

    /// The connections that a port takes in.
    pub(crate) fn connections(&self) -> u64 {
        u64::from(self.places) + STREAMS + RESERVE
    }

    /// Of the port's first process, which stays the same.
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
        self.signal(role, Signal::KILL)
    }

    /// Sends a signal to the worker, if one lives.
    pub(crate) fn signal(&self, role: Role, signal: Signal) -> Result<()> {
        if let Some(worker) = self.worker(role) {
            kill_process(worker, signal)?;
        }
        Ok(())
    }

    /// `srsctl` for this cluster.
    pub(crate) fn srsctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.srsctl);
        command.arg("--state-dir").arg(self.directory.join("state"));
        command.arg("-f").arg(self.directory.join("cluster.yaml")).args(args);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// A copy of the binary.
    pub(crate) fn copy_of_binary(&self) -> Result<String> {
        let copy = self.path("srsctl-new");
        fs::copy(&self.srsctl, &copy)?;
        Ok(copy.to_str().ok_or("the path of this directory is no text")?.to_owned())
    }

    /// What `srsctl status --json` says of a port, or null.
    pub(crate) fn status(&self, role: Role) -> Result<serde_json::Value> {
        let output = self.srsctl(&["status", "--json"]).stdout(Stdio::piped()).output()?;
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

fn up(srsctl: &Path, directory: &Path, env: &[(String, String)]) -> Result<Child> {
    let log = fs::OpenOptions::new().create(true).append(true).open(directory.join("up.log"))?;
    let mut command = Command::new(srsctl);
    command.arg("--state-dir").arg(directory.join("state")).arg("up").arg(directory.join("cluster.yaml"));
    command.arg("--foreground").envs(env.iter().map(|(name, value)| (name, value)));
    Ok(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn()?)
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // What there is of the state may be gone with this process.
        let logs = fs::read_dir(self.path("state/lib/survive/log")).into_iter().flatten().flatten();
        for log in logs {
            let _ = fs::copy(log.path(), self.directory.join(log.file_name()));
        }
        let _ = kill_process(self.supervisor(), Signal::TERM);
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
