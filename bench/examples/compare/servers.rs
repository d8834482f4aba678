//! The servers that are compared: how each is started, published to, played from, and which process is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::{Result, Row};

/// Loopback addresses of the servers this program starts.
const ORIGIN: &str = "127.210.53.1";
const EDGE: &str = "127.210.53.2";
const NGINX: &str = "127.210.53.3";
pub(crate) const SEND_LOOP: &str = "127.210.53.4:1935";
/// Players beyond the row's: those that join while it is measured, and a few.
pub(crate) const SPARE_PLAYERS: u32 = 1000;
const START_TIMEOUT: Duration = Duration::from_secs(15);

/// How long a server holds media back to write it in one go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Merge {
    /// 350 ms, SRS's and srsctl's largest.
    Long,
    /// As little as the server can.
    Least,
    /// As the server comes.
    Usual,
}

impl Merge {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Long => "350 ms",
            Self::Least => "least",
            Self::Usual => "as it comes",
        }
    }
}

#[derive(Clone, Debug)]
pub(crate) enum Server {
    SendLoop {
        merge: Merge,
    },
    /// `snippet` goes into `worker:` of the cluster file.
    Srsctl {
        merge: Merge,
        snippet: &'static str,
    },
    /// It has settings that hold video back (`buffer`, `out_cork`), but every audio message sends all at once.
    Nginx,
    Other(Other),
}

/// A server that runs already.
#[derive(Clone, Debug)]
pub(crate) struct Other {
    pub(crate) name: String,
    pub(crate) url: String,
    pub(crate) pid: u32,
}

impl Server {
    pub(crate) fn all(kinds: &[String], others: &[Other]) -> Vec<Self> {
        let ours = [
            Self::SendLoop { merge: Merge::Long },
            Self::SendLoop { merge: Merge::Least },
            Self::Srsctl { merge: Merge::Long, snippet: "latency: 350ms" },
            Self::Srsctl { merge: Merge::Least, snippet: "latency: 40ms" },
            Self::Srsctl { merge: Merge::Usual, snippet: "" },
            Self::Nginx,
        ];
        let chosen = ours.into_iter().filter(|server| kinds.iter().any(|kind| kind == server.kind()));
        chosen.chain(others.iter().cloned().map(Self::Other)).collect()
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
            Self::SendLoop { merge } | Self::Srsctl { merge, .. } => *merge,
            Self::Nginx => Merge::Least,
            Self::Other(_) => Merge::Usual,
        }
    }

    pub(crate) fn title(&self) -> String {
        format!("{}, {}", self.kind(), self.merge().name())
    }
}

/// `[NAME=]URL,PID` with spaces.
pub(crate) fn others(text: &str) -> Result<Vec<Other>> {
    let wrong = |one: &str| format!("SRS: {one} is not [NAME=]rtmp://HOST[:PORT]/APP/STREAM,PID");
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
            Ok(Other { name: name.to_owned(), url: url.to_owned(), pid })
        })
        .collect()
}

/// A server that runs; dropping it ends what was started.
pub(crate) struct Running {
    /// The process that serves the players.
    pub(crate) pid: u32,
    pub(crate) publish: String,
    pub(crate) play: String,
    /// How to end it.
    end: End,
    /// Configuration, logs and state; removed at the end.
    _directory: Option<TempDir>,
}

enum End {
    Kill(Child),
    Down { srsctl: PathBuf, file: PathBuf, state: PathBuf },
    Leave,
}

/// A directory that is removed when dropped.
struct TempDir(PathBuf);

impl TempDir {
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("srsctl-bench-{}", std::process::id()));
        fs::create_dir_all(&path)?;
        Ok(Self(path))
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        match &mut self.end {
            End::Kill(child) => end(child),
            End::Down { srsctl, file, state } => {
                let _ = Command::new(srsctl)
                    .args([
                        "--state-dir".as_ref(),
                        state.as_os_str(),
                        "-f".as_ref(),
                        file.as_os_str(),
                        "down".as_ref(),
                    ])
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .status();
            }
            End::Leave => {}
        }
    }
}

/// SIGTERM, so that a master takes its workers along; SIGKILL when that is not heard.
pub(crate) fn end(child: &mut Child) {
    if let Some(pid) = rustix::process::Pid::from_raw(child.id() as i32) {
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
    let deadline = Instant::now() + Duration::from_secs(3);
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
    let players = row.players + SPARE_PLAYERS;
    match server {
        Server::SendLoop { merge } => {
            let tick = if *merge == Merge::Long { "350" } else { "40" };
            let child = Command::new(std::env::current_exe()?)
                .args(["send-loop", SEND_LOOP, tick])
                .arg(file)
                .stdin(Stdio::null())
                .spawn()?;
            let pid = child.id();
            let url = String::new();
            Ok(Running { pid, publish: url.clone(), play: url, end: End::Kill(child), _directory: None })
        }
        Server::Srsctl { snippet, .. } => start_srsctl(srsctl, snippet, players),
        Server::Nginx => start_nginx(players),
        Server::Other(other) => Ok(Running {
            pid: other.pid,
            publish: other.url.clone(),
            play: other.url.clone(),
            end: End::Leave,
            _directory: None,
        }),
    }
}

fn start_srsctl(srsctl: &Path, snippet: &str, players: u32) -> Result<Running> {
    let directory = TempDir::new()?;
    let file = directory.0.join("cluster.yaml");
    let state = directory.0.join("state");
    fs::write(
        &file,
        format!(
            "cluster: bench\norigin: {{ host: {ORIGIN}, port: 1935 }}\nedges: [{{ host: {EDGE}, ports: [1935] }}]\n\
             worker: {{ max_connections: {players}{}{snippet} }}\n",
            if snippet.is_empty() { "" } else { ", " }
        ),
    )?;
    let run = |what: &str| {
        Command::new(srsctl)
            .args(["--state-dir".as_ref(), state.as_os_str(), "-f".as_ref(), file.as_os_str()])
            .args(what.split(' '))
            .stdin(Stdio::null())
            .output()
    };
    let up = run("up")?;
    if !up.status.success() {
        return Err(format!("srsctl up: {}", String::from_utf8_lossy(&up.stderr).trim()).into());
    }
    let end = End::Down { srsctl: srsctl.to_owned(), file: file.clone(), state: state.clone() };
    let mut running = Running {
        pid: 0,
        publish: format!("rtmp://{ORIGIN}/live/s"),
        play: format!("rtmp://{EDGE}/live/s"),
        end,
        _directory: Some(directory),
    };
    let status: serde_json::Value = serde_json::from_slice(&run("status --json")?.stdout)?;
    let edge = status["units"].as_array().and_then(|units| units.iter().find(|unit| unit["role"] == "edge"));
    let pid =
        edge.and_then(|edge| edge["pid"].as_u64()).ok_or("srsctl status shows no process of the edge")?;
    running.pid = pid as u32;
    Ok(running)
}

fn start_nginx(players: u32) -> Result<Running> {
    let directory = TempDir::new()?;
    let path = directory.0.display();
    let module = ["/usr/lib/nginx/modules", "/usr/lib64/nginx/modules"]
        .map(|directory| Path::new(directory).join("ngx_rtmp_module.so"))
        .into_iter()
        .find(|module| module.exists())
        .ok_or("nginx-rtmp is missing: apt-get install libnginx-mod-rtmp, which also starts a web server")?;
    let user = if rustix::process::geteuid().is_root() { "user root;" } else { "" };
    let connections = players + 64;
    fs::write(
        directory.0.join("nginx.conf"),
        format!(
            "load_module {};\n{user}\ndaemon off;\nworker_processes 1;\nworker_rlimit_nofile {connections};\n\
             pid {path}/nginx.pid;\nerror_log {path}/error.log warn;\nevents {{ worker_connections {connections}; }}\n\
             rtmp {{ access_log off; server {{ listen {NGINX}:1935; chunk_size 60000; application live {{ live on; wait_key on; }} }} }}\n",
            module.display()
        ),
    )?;
    let child = Command::new("nginx")
        .args([
            "-p",
            &path.to_string(),
            "-c",
            &format!("{path}/nginx.conf"),
            "-e",
            &format!("{path}/error.log"),
        ])
        .stdin(Stdio::null())
        .spawn()
        .map_err(|e| format!("nginx: {e}; apt-get install libnginx-mod-rtmp"))?;
    let master = child.id();
    let url = format!("rtmp://{NGINX}/live/s");
    let mut running = Running {
        pid: 0,
        publish: url.clone(),
        play: url,
        end: End::Kill(child),
        _directory: Some(directory),
    };
    let deadline = Instant::now() + START_TIMEOUT;
    while running.pid == 0 {
        let children =
            fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
        running.pid = children.split_whitespace().next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        if Instant::now() > deadline {
            return Err("nginx started no worker process".into());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(running)
}
