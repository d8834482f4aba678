//! A system of its own for a test: systemd as PID 1, in namespaces.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::cluster::{Done, run};
use super::namespace::{Namespace, first_child};
use super::{SOON, wait_until};

/// What systemd brings itself, of which a machine with services cannot do without.
const TARGETS: [&str; 10] = [
    "local-fs-pre",
    "local-fs",
    "sysinit",
    "basic",
    "multi-user",
    "network-online",
    "shutdown",
    "umount",
    "final",
    "reboot",
];

/// A machine that has systemd.
pub struct System {
    /// Its files, as this machine has them.
    pub dir: TempDir,
    cgroup: PathBuf,
    /// The script of its start, `$0` of which is `dir`.
    script: &'static str,
    /// What outlives a reboot, if it has a disk and a network of its own.
    ground: Option<Namespace>,
    init: Option<Child>,
    /// What runs once it has booted.
    first: String,
}

impl System {
    /// One that has not booted yet, with systemd's own units in `units`.
    pub fn new(script: &'static str, ground: Option<Namespace>) -> Self {
        let dir = tempfile::Builder::new().prefix("srsctl-test-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let cgroup = own_cgroup(&dir.path().file_name().unwrap().to_string_lossy());
        let this = Self { dir, cgroup, script, ground, init: None, first: String::new() };
        let (system, units) = (Path::new("/lib/systemd/system"), this.path("units"));
        fs::create_dir_all(units.join("multi-user.target.wants")).unwrap();
        let targets = TARGETS.map(|name| format!("{name}.target"));
        for name in targets.iter().map(String::as_str).chain(["systemd-reboot.service"]) {
            fs::copy(system.join(name), units.join(name)).unwrap();
        }
        this
    }

    /// One of its files, as this machine has it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Has a unit start with it: what has booted is known by the last of these.
    pub fn enable(&mut self, unit: &str, file: &str) {
        let wants = self.path("units/multi-user.target.wants");
        std::os::unix::fs::symlink(Path::new("..").join(file), wants.join(unit)).unwrap();
        unit.clone_into(&mut self.first);
    }

    /// Boots it.
    #[track_caller]
    pub fn boot(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.path("log")).unwrap();
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"", self.cgroup.display());
        let mut command = Command::new("sh");
        command.args(["-c", &enter, "setpriv", "--pdeathsig", "KILL"]);
        if let Some(ground) = &self.ground {
            command.args(["nsenter", "-t", &ground.pid.to_string(), "-m", "-n"]);
        }
        let unshare = ["unshare", "-fp", "--kill-child", "-m", "-u", "-i", "-C", "sh", "-c", self.script];
        command.args(unshare).arg(self.dir.path()).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.init = Some(command.spawn().unwrap());
        wait_until("the machine has booted", SOON, || self.systemctl(&["is-active", &self.first]).code == 0);
    }

    /// Shuts it down in order.
    #[track_caller]
    pub fn shut_down(&mut self) {
        self.systemctl(&["reboot"]);
        let mut init = self.init.take().unwrap();
        wait_until("the machine has shut down", SOON, || init.try_wait().unwrap().is_some());
    }

    /// Ends it as a power failure does: nobody in it can do anything.
    pub fn cut_power(&mut self) {
        let mut init = self.init.take().unwrap();
        init.kill().unwrap();
        init.wait().unwrap();
        // The kernel ends what was in it, its PID 1 last.
        wait_until("all in it to be gone", SOON, || is_empty(&self.cgroup));
    }

    /// Shuts it down in order, and boots it again.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.shut_down();
        self.boot();
    }

    /// A command on it, as root.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = self.enter(&["-m", "-n", "-u", "-i", "-p", "-C"]);
        command.arg(program).args(args);
        command.env_remove("SRSCTL_STATE_DIR").env_remove("RUST_LOG").env("NO_COLOR", "1");
        command
    }

    fn enter(&self, kinds: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        // Its PID 1, as it is called here.
        let pid = self.init.as_ref().and_then(|init| first_child(init.id()));
        command.args(["-t", &pid.map(|pid| pid.to_string()).unwrap_or_default()]).args(kinds).arg("--");
        command
    }

    /// Runs a shell script on it, as root.
    #[track_caller]
    pub fn sh(&self, script: &str) -> Done {
        run(&mut self.command("sh", &["-c", script]))
    }

    /// `systemctl` on it.
    pub fn systemctl(&self, args: &[&str]) -> Done {
        run(&mut self.command("systemctl", args))
    }

    /// What systemd says of a unit.
    pub fn property_of(&self, unit: &str, name: &str) -> String {
        self.systemctl(&["show", "--value", "-p", name, unit]).stdout.trim().to_owned()
    }

    /// Sends signals to processes there.
    pub fn kill(&self, signal: &str, pids: &[u32]) {
        let pids: Vec<_> = pids.iter().map(ToString::to_string).collect();
        let words: Vec<_> = [signal, "--"].into_iter().chain(pids.iter().map(String::as_str)).collect();
        run(&mut self.command("kill", &words)).expect_code(0);
    }

    /// The command lines of all processes of srsctl that run there.
    pub fn processes(&self) -> Vec<String> {
        let text = run(&mut self.command("pgrep", &["-ax", "srsctl"])).stdout;
        text.lines().map(str::to_owned).collect()
    }

    /// Puts a process of it into a control group of this machine.
    pub fn move_to(&self, pid: u32, members: &Path) {
        let mut command = self.enter(&["-p"]);
        let script = format!("echo {pid} > {}", members.display());
        run(command.args(["sh", "-ec", &script])).expect_code(0);
    }

    /// What systemd, and what it runs, have told.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("log")).unwrap_or_default()).into_owned()
    }
}

impl Drop for System {
    fn drop(&mut self) {
        if let Some(mut init) = self.init.take() {
            // With it goes its PID 1, and with that all else.
            let _ = init.kill();
            let _ = init.wait();
        }
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "{}", self.log());
        }
        let end = Instant::now() + Duration::from_secs(5);
        while !remove_cgroup(&self.cgroup) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(20));
        }
        // Nobody is left who could have it open; the user's files are not this one's.
        let _ = chown(self.path("var-lib"), Some(0), Some(0));
    }
}

/// A control group below the one that this process is in, for a machine to be the root of.
fn own_cgroup(name: &str) -> PathBuf {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    let of_kind = |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        (words.get(2) == Some(&"cgroup2")).then(|| words.get(1).map(|path| PathBuf::from(*path))).flatten()
    };
    let root = mounts.lines().find_map(of_kind).expect("control groups of version 2 are mounted");
    let own = fs::read_to_string("/proc/self/cgroup").unwrap();
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    let path = root.join(own).join(name);
    fs::create_dir_all(&path).unwrap();
    path
}

/// Whether nobody is in a group, or in those in it.
fn is_empty(path: &Path) -> bool {
    let events = fs::read_to_string(path.join("cgroup.events")).unwrap_or_default();
    events.lines().any(|line| line == "populated 0")
}

/// Removes a group and those in it; false where somebody is in one of them.
fn remove_cgroup(path: &Path) -> bool {
    for entry in fs::read_dir(path).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroup(&entry.path());
        }
    }
    fs::remove_dir(path).is_ok() || !path.exists()
}
