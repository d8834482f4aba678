//! A cluster run by the real binary, with everything of it in one temporary directory.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use cluster::spec::Role;
use cluster::stats::ForwardState;
use cluster::status::{Status, UnitState, UnitStatus};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::net::Net;
use super::{SOON, wait_for, wait_until};

/// The binary under test.
pub const SRSCTL: &str = env!("CARGO_BIN_EXE_srsctl");

/// Copies the binary under test to `path`.
#[track_caller]
pub fn copy_of_srsctl(path: &Path) {
    made_by(Command::new("cp").arg(SRSCTL).arg(path));
}

/// Writes the binary under test to `path` with another minor version, and gives the version that it says now. The last number stays: where the
/// compiler has made instructions of these bytes, it is not beside the others.
#[track_caller]
pub fn srsctl_of_minor(path: &Path, minor: u8) -> String {
    let [major, own, patch] = env!("CARGO_PKG_VERSION").split('.').collect::<Vec<_>>()[..] else {
        unreachable!()
    };
    assert_eq!(own.len(), 1, "as long as the other");
    let change = format!("strip -o \"$1\" \"$0\" && sed -i 's/{major}\\.{own}\\./{major}.{minor}./g' \"$1\"");
    made_by(Command::new("sh").args(["-ec", &change, SRSCTL]).arg(path));
    format!("{major}.{minor}.{patch}")
}

/// Writes a script that can be run.
#[track_caller]
pub fn write_program(path: &Path, text: &str) {
    made_by(
        Command::new("sh").args(["-c", r#"printf %s "$1" > "$0" && chmod 700 "$0""#]).arg(path).arg(text),
    );
}

/// A program is written by a process of its own: what tests have open for writing, a fork of another test has too, and no program can
/// be run that somebody has open for writing.
#[track_caller]
fn made_by(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}

/// What a command did.
#[derive(Debug)]
pub struct Done {
    /// Exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Done {
    /// Both outputs, for searching a message.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// Fails unless the command ended with `code`.
    #[track_caller]
    pub fn expect_code(self, code: i32) -> Self {
        assert_eq!(
            self.code, code,
            "wanted exit code {code}\nstdout:\n{}\nstderr:\n{}",
            self.stdout, self.stderr
        );
        self
    }

    /// Fails unless each of `words` is in the output, in any case.
    #[track_caller]
    pub fn expect_words(self, words: &[&str]) -> Self {
        let text = self.text().to_lowercase();
        for word in words {
            assert!(text.contains(&word.to_lowercase()), "{word:?} is missing in:\n{}", self.text());
        }
        self
    }
}

/// Runs a command to its end. It, and whoever inherits its outputs, must let go of them: `ssh host srsctl up` hangs otherwise.
#[track_caller]
pub fn run(command: &mut Command) -> Done {
    finish(spawn(command), SOON * 2)
}

/// Starts a command with its outputs held for [`finish`].
#[track_caller]
pub fn spawn(command: &mut Command) -> Child {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().unwrap_or_else(|e| panic!("{command:?}: {e}"))
}

/// Waits for the end of a command that [`spawn`] started.
#[track_caller]
pub fn finish(mut child: Child, limit: Duration) -> Done {
    fn drain(mut from: impl Read + Send + 'static) -> mpsc::Receiver<String> {
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            let mut bytes = Vec::new();
            let _ = from.read_to_end(&mut bytes);
            let _ = sender.send(String::from_utf8_lossy(&bytes).into_owned());
        });
        receiver
    }
    let outputs = (drain(child.stdout.take().unwrap()), drain(child.stderr.take().unwrap()));
    let start = Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if start.elapsed() > limit {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        thread::sleep(Duration::from_millis(10));
    };
    let text = |output: mpsc::Receiver<String>| {
        output
            .recv_timeout(Duration::from_secs(5))
            .expect("a process that the command left behind still holds its output")
    };
    let done = Done {
        code: status.and_then(|s| s.code()).unwrap_or(-1),
        stdout: text(outputs.0),
        stderr: text(outputs.1),
    };
    assert!(status.is_some(), "the command did not end in {limit:?}: {done:#?}");
    done
}

/// A cluster of one test. Dropping it ends every process of it, whatever state it is in; after a test that passed, it
/// asserts that `down` leaves nothing behind.
pub struct TestCluster {
    /// Its network.
    pub net: Net,
    /// Its cluster.yaml.
    pub file: PathBuf,
    /// Its state directory.
    pub state: PathBuf,
    /// Holds the file, the state and what tests record.
    pub dir: TempDir,
}

impl TestCluster {
    /// The guide's cluster, written and not started.
    pub fn guide() -> Self {
        Self::with(Net::guide)
    }

    /// A cluster with the file that `yaml` makes for its network, not started.
    pub fn with(yaml: impl FnOnce(&Net) -> String) -> Self {
        let dir = tempfile::Builder::new().prefix("srsctl-test-").tempdir().unwrap();
        let net = Net::new();
        let this = Self { file: dir.path().join("cluster.yaml"), state: dir.path().join("state"), net, dir };
        this.write(&yaml(&this.net));
        this
    }

    /// The guide's cluster, up.
    pub fn up_guide() -> Self {
        let this = Self::guide();
        this.up();
        this
    }

    /// Replaces cluster.yaml.
    pub fn write(&self, yaml: &str) {
        fs::write(&self.file, yaml).unwrap();
    }

    /// `srsctl` for this cluster: in its directory, with its state directory, without the user's environment.
    pub fn srsctl(&self, args: &[&str]) -> Command {
        let mut command = Command::new(SRSCTL);
        command.args(args).current_dir(self.dir.path());
        command.env_remove("RUST_LOG").env("SRSCTL_STATE_DIR", &self.state).env("NO_COLOR", "1");
        command
    }

    /// Runs `srsctl` to its end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Done {
        run(&mut self.srsctl(args))
    }

    /// `srsctl up`, which must succeed.
    #[track_caller]
    pub fn up(&self) -> Done {
        self.run(&["up", "cluster.yaml"]).expect_code(0)
    }

    /// `srsctl down`, which must succeed and leave nothing behind.
    #[track_caller]
    pub fn down(&self) {
        self.run(&["down"]).expect_code(0);
        self.assert_nothing_left();
    }

    /// `srsctl status --json`, whatever its exit code says.
    pub fn try_status(&self) -> Result<Status, String> {
        let done = self.run(&["status", "--json"]);
        serde_json::from_str(&done.stdout).map_err(|e| format!("status --json: {e}; {done:?}"))
    }

    /// `srsctl status --json`.
    #[track_caller]
    pub fn status(&self) -> Status {
        self.try_status().unwrap_or_else(|e| panic!("{e}"))
    }

    /// The unit that serves `addr`.
    #[track_caller]
    pub fn unit(&self, addr: SocketAddr) -> UnitStatus {
        find(&self.status(), addr).unwrap()
    }

    /// The process id of the worker that serves `addr`.
    #[track_caller]
    pub fn pid(&self, addr: SocketAddr) -> u32 {
        self.unit(addr).pid.unwrap_or_else(|| panic!("no process serves {addr}"))
    }

    /// The process id of the keeper of the port `addr`: its death costs the worker too, and the supervisor starts both anew.
    #[track_caller]
    pub fn keeper(&self, addr: SocketAddr) -> u32 {
        self.unit(addr).keeper_pid.unwrap_or_else(|| panic!("no keeper has {addr}"))
    }

    /// Process ids of all workers by address.
    #[track_caller]
    pub fn pids(&self) -> BTreeMap<String, u32> {
        let units = self.status().units;
        units.iter().filter_map(|u| Some((u.id.to_string(), u.pid?))).collect()
    }

    /// Waits until another process than `old` serves `addr`, ready; its id.
    #[track_caller]
    pub fn await_successor(&self, addr: SocketAddr, old: u32) -> u32 {
        wait_for(&format!("a new worker on {addr}"), SOON, || {
            let unit = find(&self.try_status()?, addr)?;
            match unit.pid {
                Some(pid) if pid != old && unit.state == UnitState::Running => Ok(pid),
                _ => Err(format!("{unit:?}")),
            }
        })
    }

    /// Waits until every edge port has frames of `stream` and the origin reports its forwards as live.
    #[track_caller]
    pub fn await_live(&self, stream: &str) {
        wait_for(&format!("{stream} live on every port"), SOON, || {
            let status = self.try_status()?;
            for unit in status.units.iter().filter(|u| u.role != Role::Encoder) {
                let row = status.streams.iter().find(|r| r.unit == unit.id && r.stream == stream);
                let row = row.ok_or_else(|| format!("{} does not have it", unit.id))?;
                let fresh = row.last_frame_age_ms.is_some_and(|age| age < 2000);
                let forwarded = row.to_edges().all(|f| f.state == ForwardState::Live);
                if !(row.publishing && fresh && forwarded) {
                    return Err(format!("{row:?}"));
                }
            }
            Ok(())
        });
    }

    /// The secret between origin and edges, as the workers read it.
    pub fn secret(&self) -> Vec<u8> {
        let config = fs::read_to_string(&self.status().units[0].config).unwrap();
        let line = config
            .lines()
            .find(|l| l.contains("secret_file"))
            .expect("a generated config names its secret file");
        let path = line.split_once(':').unwrap().1.trim().trim_matches([',', '"', '\'']);
        fs::read_to_string(path).unwrap().trim().as_bytes().to_vec()
    }

    /// Processes that name this cluster's directory in their arguments or have a file open in its state directory.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let dir = self.dir.path().to_str().unwrap();
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
            // A zombie has no arguments and no open files.
            let args = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let args = String::from_utf8_lossy(&args).replace('\0', " ");
            let is_ours = args.contains("srsctl") && args.contains(dir)
                || args.contains("srsctl") && open_files(&entry.path()).any(|f| f.starts_with(&self.state));
            if is_ours && pid != std::process::id() as i32 {
                found.push((pid, args.trim().to_owned()));
            }
        }
        found
    }

    /// Fails if a process, a socket, a half-written file or a taken port is left.
    #[track_caller]
    pub fn assert_nothing_left(&self) {
        // A process that was killed may still be on its way out.
        wait_until("every process to be gone", Duration::from_secs(5), || self.processes().is_empty());
        let mut left = Vec::new();
        walk(&self.state, &mut |path, kind| {
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if kind.is_socket() || kind.is_fifo() || name.contains(".tmp") || name.ends_with('~') {
                left.push(path.to_owned());
            }
        });
        assert!(left.is_empty(), "left behind: {left:?}");
        for addr in self.net.edges().into_iter().chain([self.net.origin()]) {
            assert!(TcpStream::connect(addr).is_err(), "{addr} still listens");
        }
    }

    /// Prints every log of the state directory, its end.
    fn print_logs(&self) {
        walk(&self.state, &mut |path, kind| {
            if kind.is_file() && path.to_string_lossy().contains("log") {
                let text = String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
                let from = text.lines().count().saturating_sub(60);
                eprintln!("--- {}", path.display());
                text.lines().skip(from).for_each(|line| eprintln!("{line}"));
            }
        });
        match self.try_status() {
            Ok(status) => eprintln!("--- status\n{status:#?}"),
            Err(e) => eprintln!("--- {e}"),
        }
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        let failed = thread::panicking();
        if failed {
            self.print_logs();
        }
        let down = (!self.processes().is_empty())
            .then(|| self.srsctl(&["down"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn());
        if let Some(Ok(mut child)) = down {
            let start = Instant::now();
            while child.try_wait().is_ok_and(|s| s.is_none()) && start.elapsed() < Duration::from_secs(20) {
                thread::sleep(Duration::from_millis(20));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        let gone = Instant::now() + Duration::from_secs(3);
        let mut left = self.processes();
        while !left.is_empty() && Instant::now() < gone {
            thread::sleep(Duration::from_millis(50));
            left = self.processes();
        }
        // More than one round: a supervisor that is still there restarts what is killed.
        for _ in 0..20 {
            let now = self.processes();
            if now.is_empty() {
                break;
            }
            for (pid, _) in now {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            thread::sleep(Duration::from_millis(50));
        }
        if !failed {
            assert!(left.is_empty(), "processes left after `down`: {left:#?}");
            self.assert_nothing_left();
        }
    }
}

/// The unit of a status that serves `addr`.
pub fn find(status: &Status, addr: SocketAddr) -> Result<UnitStatus, String> {
    let unit = status.units.iter().find(|u| u.host == addr.ip().to_string() && u.port == addr.port());
    unit.cloned().ok_or_else(|| format!("{addr} is not in the status"))
}

/// Sends a signal to a process of the cluster.
pub fn signal(pid: u32, signal: Signal) {
    kill(Pid::from_raw(pid as i32), signal).unwrap_or_else(|e| panic!("{signal} to {pid}: {e}"));
}

fn open_files(proc_entry: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(proc_entry.join("fd")).into_iter().flatten().flatten();
    entries.filter_map(|e| fs::read_link(e.path()).ok())
}

fn walk(dir: &Path, visit: &mut impl FnMut(&Path, fs::FileType)) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let kind = entry.file_type().unwrap();
        visit(&entry.path(), kind);
        if kind.is_dir() {
            walk(&entry.path(), visit);
        }
    }
}
