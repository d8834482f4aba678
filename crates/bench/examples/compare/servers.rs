//! The servers that are compared: how each is started, published to, played from, and which process is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::processes::rss_kib;
use crate::rows::{IngestRow, Result, Row};

/// Loopback addresses of the servers this program starts.
const ORIGIN: &str = "127.210.53.1";
const EDGE: &str = "127.210.53.2";
const NGINX: &str = "127.210.53.3";
pub(crate) const SEND_LOOP: &str = "127.210.53.4:1935";
/// Of nginx, where it sends streams on to.
const NGINX_TARGET: &str = "127.210.53.5";
/// `queue_length` of our worker by default, seconds.
const QUEUE_LENGTH: u32 = 30;
/// Players beyond the row's: those that join while it is measured, and a few.
pub(crate) const SPARE_PLAYERS: u32 = 1000;
const START_TIMEOUT: Duration = Duration::from_secs(15);
const END_TIMEOUT: Duration = Duration::from_secs(20);

/// How long a server holds media back to write it in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Merge {
    /// 350 ms, SRS's and srsctl's largest.
    Long,
    /// 40 ms, one frame of video.
    Frame,
    /// Not at all: the lowest latency.
    Least,
    /// As the server comes.
    Usual,
}

impl Merge {
    const ALL: [Self; 4] = [Self::Long, Self::Frame, Self::Least, Self::Usual];

    /// As `MERGES` and `SRS` name it.
    fn key(self) -> &'static str {
        match self {
            Self::Long => "350",
            Self::Frame => "40",
            Self::Least => "0",
            Self::Usual => "auto",
        }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Long => "350 ms",
            Self::Frame => "40 ms",
            Self::Least => "0 ms",
            Self::Usual => "as it comes",
        }
    }
}

/// A process of ours, as `srsctl status` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Origin,
    Edge,
}

/// A server that publishers are measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ingester {
    /// Its origin has an edge, always: so the edge is measured where nothing is to be sent on, and the origin where it is.
    Srsctl,
    Nginx,
}

impl Ingester {
    pub(crate) const ALL: [Self; 2] = [Self::Srsctl, Self::Nginx];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Srsctl => "srsctl",
            Self::Nginx => "nginx",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Server {
    SendLoop {
        merge: Merge,
    },
    Srsctl {
        merge: Merge,
    },
    /// It has settings that hold video back (`buffer`, `out_cork`), but every audio message sends all at once.
    Nginx,
    Other(Other),
}

/// A server that runs already.
#[derive(Clone, Debug)]
pub(crate) struct Other {
    pub(crate) name: String,
    pub(crate) merge: Merge,
    pub(crate) url: String,
    pub(crate) pid: u32,
    /// Memory before the first row: what it takes for one it may keep for the next.
    pub(crate) idle_kib: u64,
}

impl Server {
    pub(crate) fn all(kinds: &[String], merges: &[String], others: &[Other]) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for merge in Merge::ALL {
            if !merges.iter().any(|key| key == merge.key()) {
                continue;
            }
            if merge != Merge::Usual {
                all.push(Self::SendLoop { merge });
            }
            all.push(Self::Srsctl { merge });
        }
        all.push(Self::Nginx);
        all.retain(|server| kinds.iter().any(|kind| kind == server.kind()));
        all.extend(others.iter().cloned().map(Self::Other));
        all
    }

    pub(crate) fn kind(&self) -> &str {
        match self {
            Self::SendLoop { .. } => "loop",
            Self::Srsctl { .. } => "srsctl",
            Self::Nginx => "nginx",
            Self::Other(other) => &other.name,
        }
    }

    pub(crate) fn merge(&self) -> Merge {
        match self {
            Self::SendLoop { merge } | Self::Srsctl { merge } => *merge,
            Self::Nginx => Merge::Least,
            Self::Other(other) => other.merge,
        }
    }

    pub(crate) fn title(&self) -> String {
        format!("{}, {}", self.kind(), self.merge().name())
    }
}

/// `[NAME[@MERGE]=]URL,PID` with spaces.
pub(crate) fn others(text: &str) -> Result<Vec<Other>> {
    let wrong =
        |one: &str| format!("SRS: {one} is not [NAME[@350|@40|@0]=]rtmp://HOST[:PORT]/APP/STREAM,PID");
    text.split_whitespace()
        .map(|one| {
            let (rest, pid) = one.rsplit_once(',').ok_or_else(|| wrong(one))?;
            let (name, url) = match rest.find("rtmp://") {
                Some(0) => ("srs", rest),
                Some(at) => (
                    rest.get(..at).unwrap_or_default().trim_end_matches('='),
                    rest.get(at..).unwrap_or_default(),
                ),
                None => return Err(wrong(one).into()),
            };
            let pid = pid.parse().map_err(|_| wrong(one))?;
            let (name, merge) = match name.split_once('@') {
                Some((name, key)) => {
                    (name, Merge::ALL.into_iter().find(|merge| merge.key() == key).ok_or_else(|| wrong(one))?)
                }
                None => (name, Merge::Usual),
            };
            let idle_kib = rss_kib(pid).map_err(|_| format!("SRS: no process {pid}"))?;
            Ok(Other { name: name.to_owned(), merge, url: url.to_owned(), pid, idle_kib })
        })
        .collect()
}

/// A server that runs; dropping it ends what was started.
pub(crate) struct Running {
    /// The process that serves the players.
    pub(crate) pid: u32,
    pub(crate) publish: String,
    pub(crate) play: String,
    /// What was started, itself or its master first.
    children: Vec<Child>,
    /// For `srsctl status`.
    pub(crate) state: Option<PathBuf>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.children.iter_mut().for_each(end);
    }
}

/// An empty directory for configuration, logs and state.
fn directory() -> Result<PathBuf> {
    let path = std::env::current_dir()?.join("target/bench/run");
    match fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    fs::create_dir_all(&path)?;
    Ok(path)
}

/// SIGTERM, so that a master takes its workers along; SIGKILL when that is not heard.
pub(crate) fn end(child: &mut Child) {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let deadline = Instant::now() + END_TIMEOUT;
    while Instant::now() < deadline {
        if matches!(child.try_wait(), Ok(Some(_))) {
            return;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
}

/// Starts `server` for `row`.
pub(crate) fn start(server: &Server, row: &Row, file: &Path, srsctl: &Path) -> Result<Running> {
    let players = row.players + row.slow.iter().sum::<u32>() + SPARE_PLAYERS;
    match server {
        Server::SendLoop { merge } => {
            if row.streams > 1 {
                return Err("the send loop has one stream".into());
            }
            let child = Command::new(std::env::current_exe()?)
                .args(["send-loop", SEND_LOOP, merge.key(), &players.to_string()])
                .arg(file)
                .stdin(Stdio::null())
                .spawn()?;
            let (pid, url) = (child.id(), String::new());
            Ok(Running { pid, publish: url.clone(), play: url, children: vec![child], state: None })
        }
        Server::Srsctl { merge } => start_srsctl(srsctl, Role::Edge, *merge, row.queue_length, players),
        Server::Nginx => start_nginx(players, false),
        Server::Other(other) => Ok(Running {
            pid: other.pid,
            publish: other.url.clone(),
            play: other.url.clone(),
            children: Vec::new(),
            state: None,
        }),
    }
}

/// Starts `server` for `row`.
pub(crate) fn start_ingester(server: Ingester, row: &IngestRow, srsctl: &Path) -> Result<Running> {
    match server {
        Ingester::Srsctl => {
            let role = if row.is_relayed { Role::Origin } else { Role::Edge };
            start_srsctl(srsctl, role, Merge::Usual, QUEUE_LENGTH, SPARE_PLAYERS)
        }
        Ingester::Nginx => start_nginx(SPARE_PLAYERS, row.is_relayed),
    }
}

/// In the foreground, so that Ctrl-C ends it too. The process of `role` is the one that is measured.
fn start_srsctl(srsctl: &Path, role: Role, merge: Merge, queue_length: u32, players: u32) -> Result<Running> {
    let directory = directory()?;
    let (file, state) = (directory.join("cluster.yaml"), directory.join("state"));
    let latency = if merge == Merge::Usual { "auto".to_owned() } else { format!("{}ms", merge.key()) };
    fs::write(
        &file,
        format!(
            "cluster: bench\norigin: {{ host: {ORIGIN}, port: 1935 }}\nedges: [{{ host: {EDGE}, ports: [1935] }}]\n\
             worker: {{ max_connections: {players}, latency: {latency}, queue_length: {queue_length}s }}\n"
        ),
    )?;
    let child = Command::new(srsctl)
        .arg("--state-dir")
        .arg(&state)
        .arg("up")
        .arg(&file)
        .arg("--foreground")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(fs::File::create(directory.join("up.log"))?)
        .spawn()?;
    let mut running = Running {
        pid: 0,
        publish: format!("rtmp://{ORIGIN}/live/s"),
        play: format!("rtmp://{EDGE}/live/s"),
        children: vec![child],
        state: Some(state),
    };
    let deadline = Instant::now() + START_TIMEOUT;
    while running.pid == 0 {
        let unit = status_of(role, srsctl, &running)?;
        let is_ready = unit["state"] == "running";
        running.pid = unit["pid"].as_u64().filter(|_| is_ready).unwrap_or(0) as u32;
        ended(&mut running, deadline, "srsctl up", &directory.join("up.log"))?;
    }
    Ok(running)
}

/// What `srsctl status --json` says of the process of `role`, or null.
pub(crate) fn status_of(role: Role, srsctl: &Path, running: &Running) -> Result<serde_json::Value> {
    let Some(state) = &running.state else { return Ok(serde_json::Value::Null) };
    let output = Command::new(srsctl)
        .arg("--state-dir")
        .arg(state)
        .arg("-f")
        .arg(state.with_file_name("cluster.yaml"))
        .args(["status", "--json"])
        .stdin(Stdio::null())
        .output()?;
    let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let units = status["units"].as_array().cloned().unwrap_or_default();
    let role = match role {
        Role::Origin => "origin",
        Role::Edge => "edge",
    };
    Ok(units.into_iter().find(|unit| unit["role"] == role).unwrap_or_default())
}

/// Fails when what was started has ended, or is not there in time; else waits a moment.
fn ended(running: &mut Running, deadline: Instant, what: &str, log: &Path) -> Result<()> {
    let said = || fs::read_to_string(log).unwrap_or_default();
    if let Some(Some(status)) = running.children.first_mut().map(Child::try_wait).transpose()? {
        return Err(format!("{what} ended with {status}: {}", said().trim()).into());
    }
    if Instant::now() > deadline {
        return Err(format!("{what} is not ready: {}", said().trim()).into());
    }
    std::thread::sleep(Duration::from_millis(20));
    Ok(())
}

/// nginx and its module: as unpacked by tests/install-deps.sh, else as installed.
fn nginx() -> Result<(PathBuf, PathBuf)> {
    let unpacked = std::env::current_dir()?.join("target/nginx-rtmp");
    let module = |root: &Path| root.join("usr/lib/nginx/modules/ngx_rtmp_module.so");
    let places = [unpacked, PathBuf::from("/")].map(|root| (root.join("usr/sbin/nginx"), module(&root)));
    let found = places.into_iter().find(|(nginx, module)| nginx.exists() && module.exists());
    found.ok_or_else(|| "nginx-rtmp is missing; tests/install-deps.sh bench gets it".into())
}

/// Streams are sent on, if they are, to an nginx of its own.
fn start_nginx(players: u32, is_relayed: bool) -> Result<Running> {
    let directory = directory()?;
    let url = format!("rtmp://{NGINX}/live/s");
    let mut running = Running { pid: 0, publish: url.clone(), play: url, children: Vec::new(), state: None };
    let push = if is_relayed { format!("push rtmp://{NGINX_TARGET}/live;") } else { String::new() };
    running.children.push(spawn_nginx(&directory, "nginx", NGINX, &push, players)?);
    if is_relayed {
        running.children.push(spawn_nginx(&directory, "target", NGINX_TARGET, "", players)?);
    }
    let master = running.children.first().map_or(0, Child::id);
    let deadline = Instant::now() + START_TIMEOUT;
    while running.pid == 0 {
        let children =
            fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
        running.pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        ended(&mut running, deadline, "nginx", &directory.join("nginx.log"))?;
    }
    Ok(running)
}

fn spawn_nginx(directory: &Path, name: &str, address: &str, push: &str, players: u32) -> Result<Child> {
    let (nginx, module) = nginx()?;
    let path = directory.display();
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let connections = players + 64;
    let file = directory.join(name).with_extension("conf");
    fs::write(
        &file,
        format!(
            "load_module {};\n{user}\ndaemon off;\nworker_processes 1;\nworker_rlimit_nofile {connections};\n\
             pid {path}/{name}.pid;\nerror_log {path}/{name}.log warn;\nevents {{ worker_connections {connections}; }}\n\
             rtmp {{ access_log off; server {{ listen {address}:1935; chunk_size 60000; application live {{ live on; wait_key on; {push} }} }} }}\n",
            module.display()
        ),
    )?;
    let mut command = Command::new(&nginx);
    command.arg("-p").arg(directory).arg("-c").arg(file);
    command.arg("-e").arg(directory.join(name).with_extension("log"));
    let spawned = command.stdin(Stdio::null()).spawn();
    Ok(spawned.map_err(|e| format!("{}: {e}", nginx.display()))?)
}
