//! The guide's three machines and a fourth for the operator, on this one: each has its own network, mounts, processes and name, a real sshd, and
//! the guide's address. All of it ends with the test, however that ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::unistd::geteuid;
use tempfile::TempDir;

use super::cluster::{Done, SRSCTL, finish, run, spawn};
use super::{SOON, wait_for};

/// What a machine of the guide runs: its sshd, with state, logs and home in memory.
const HOST: &str = r#"
set -e
mount --make-rprivate /
hostname "$1"
for dir in /run /var/lib /root /usr/local/bin; do mount -t tmpfs -o mode=755,size=64m tmpfs "$dir"; done
mkdir -p /run/sshd /root/.ssh
chmod 700 /root/.ssh
cp "$2/id_ed25519" "$2/authorized_keys" /root/.ssh/
chmod 600 /root/.ssh/*
mount --bind "$2/passwd" /etc/passwd
ln -s "$3" /usr/local/bin/srsctl
ip link set lo up
while true; do "$4" -D -e -f "$2/sshd-$1" 2> "$2/sshd-$1.log" || true; done
"#;

/// The machines: .5, .6, .7, and .9, where the operator is.
pub struct Hosts {
    /// Keys, configs, and what tests write.
    pub dir: TempDir,
    /// The bridge between them.
    world: Namespace,
    hosts: Vec<(u8, Namespace)>,
}

/// A process that holds namespaces; with it all that is in them ends.
struct Namespace {
    unshare: Child,
    /// The first process in them, as this machine numbers it.
    pid: u32,
}

impl Namespace {
    fn new(kinds: &[&str], program: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        // Whatever becomes of the test.
        command.args(["--pdeathsig", "KILL", "unshare", "--fork", "--kill-child"]).args(kinds).args(program);
        let openssh = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/openssh/usr/lib/x86_64-linux-gnu");
        command.env("LD_LIBRARY_PATH", openssh).stdin(Stdio::null());
        let unshare = command.spawn().unwrap();
        let children = format!("/proc/{0}/task/{0}/children", unshare.id());
        let pid = wait_for("a namespace", SOON, || {
            let children = fs::read_to_string(&children).map_err(|e| e.to_string())?;
            children
                .split_whitespace()
                .next()
                .and_then(|pid| pid.parse().ok())
                .ok_or_else(|| "none yet".to_owned())
        });
        Self { unshare, pid }
    }

    fn enter(&self, kinds: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string()]).args(kinds).arg("--");
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

impl Hosts {
    /// None where this user may not make them; then a line says so.
    pub fn new() -> Option<Self> {
        let sshd = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/openssh/usr/sbin/sshd");
        if !geteuid().is_root() || !sshd.exists() {
            eprintln!("not tested: several machines take root, and what tests/install-deps.sh unpacks");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("srsctl-hosts-").tempdir().unwrap();
        let world = Namespace::new(&["--net", "--pid", "--mount-proc"], &["sleep", "infinity"]);
        let mut this = Self { dir, world, hosts: Vec::new() };
        this.write_keys();
        this.in_world("ip link set lo up; ip link add br0 type bridge; ip link set br0 up");
        for last in [5, 6, 7, 9] {
            let (name, path) = (this.name(last), this.dir.path().to_str().unwrap().to_owned());
            let kinds = ["--net", "--pid", "--mount", "--uts", "--mount-proc"];
            let words = ["sh", "-c", HOST, "sh", &name, &path, SRSCTL, sshd.to_str().unwrap()];
            let host = Namespace::new(&kinds, &words);
            this.in_world(&format!(
                "ip link add v{last} type veth peer name eth0 netns {}; ip link set v{last} master br0; ip link set v{last} up",
                host.pid
            ));
            let up = format!("ip addr add 192.168.1.{last}/24 dev eth0; ip link set eth0 up");
            let mut command = host.enter(&["-n"]);
            run(command.args(["sh", "-ec", &up])).expect_code(0);
            this.hosts.push((last, host));
        }
        for last in [5, 6, 7] {
            wait_for("sshd", SOON, || {
                let mut command = this.at(last, &["sh", "-c", "test -S /dev/null || ss -ltn | grep -q :22"]);
                let done = run(&mut command);
                if done.code == 0 { Ok(()) } else { Err(this.log_of_sshd(last)) }
            });
        }
        Some(this)
    }

    /// The same, with the keys of all machines pinned for the cluster `guide` of the file that is written as guide.yaml.
    pub fn trusted(yaml: &str) -> Option<Self> {
        let this = Self::new()?;
        this.write("guide.yaml", yaml);
        for last in [5, 6, 7] {
            this.trust(last);
        }
        Some(this)
    }

    /// The guide's cluster, with its encoder.
    pub fn guide() -> String {
        let text =
            fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/examples/guide.yaml"));
        text.unwrap()
            .replace("#encoder:", "encoder:")
            .replace("max_connections: 10240", "max_connections: 100")
    }

    fn name(&self, last: u8) -> String {
        match last {
            9 => "laptop".to_owned(),
            _ => format!("host{last}"),
        }
    }

    fn write_keys(&self) {
        let dir = self.dir.path();
        let keygen = |name: &str| {
            let path = dir.join(name);
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path))
                .expect_code(0);
        };
        keygen("id_ed25519");
        fs::copy(dir.join("id_ed25519.pub"), dir.join("authorized_keys")).unwrap();
        fs::write(dir.join("passwd"), "root:x:0:0::/root:/bin/sh\nsshd:x:101:65534::/run/sshd:/usr/sbin/nologin\nnobody:x:65534:65534::/:/usr/sbin/nologin\n").unwrap();
        for last in [5, 6, 7, 9] {
            keygen(&format!("key-{last}"));
            self.configure_sshd(last, &format!("key-{last}"));
        }
    }

    fn configure_sshd(&self, last: u8, key: &str) {
        let dir = self.dir.path().display();
        let text = format!(
            "Port 22\nHostKey {dir}/{key}\nUsePAM no\nStrictModes no\nPermitRootLogin yes\nPidFile none\nAuthorizedKeysFile /root/.ssh/authorized_keys\n"
        );
        fs::write(self.dir.path().join(format!("sshd-{}", self.name(last))), text).unwrap();
    }

    fn log_of_sshd(&self, last: u8) -> String {
        fs::read_to_string(self.dir.path().join(format!("sshd-{}.log", self.name(last)))).unwrap_or_default()
    }

    /// Writes a file that all machines see at the path that is returned.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn in_world(&self, script: &str) {
        run(self.world.enter(&["-n"]).args(["sh", "-ec", script])).expect_code(0);
    }

    /// Cuts a machine off, or connects it again.
    pub fn cut(&self, last: u8, is_cut: bool) {
        self.in_world(&format!("ip link set v{last} {}", if is_cut { "down" } else { "up" }));
    }

    /// A command on a machine.
    pub fn at(&self, last: u8, words: &[&str]) -> Command {
        let (_, host) = self.hosts.iter().find(|(found, _)| *found == last).unwrap();
        let mut command = host.enter(&["-m", "-n", "-p", "-u"]);
        command.args([
            "env",
            "-i",
            "PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME=/root",
            "NO_COLOR=1",
        ]);
        command.args(words);
        command
    }

    /// Runs a shell script on a machine.
    #[track_caller]
    pub fn sh(&self, last: u8, script: &str) -> Done {
        run(&mut self.at(last, &["sh", "-c", script]))
    }

    /// `srsctl` of the operator, in the folder of guide.yaml.
    pub fn srsctl(&self, words: &[&str]) -> Command {
        let file = self.dir.path().join("guide.yaml");
        let mut command = self.at(9, &["srsctl"]);
        command.arg("--file").arg(file).args(words);
        command
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run(&self, words: &[&str]) -> Done {
        finish(spawn(&mut self.srsctl(words)), SOON * 2)
    }

    /// Pins the key of a machine, by its fingerprint.
    #[track_caller]
    pub fn trust(&self, last: u8) {
        let key = self.fingerprint(&format!("key-{last}"));
        self.run(&["host", "trust", &format!("192.168.1.{last}"), "--host-key", &key]).expect_code(0);
    }

    /// The fingerprint of a key file.
    pub fn fingerprint(&self, key: &str) -> String {
        let path = self.dir.path().join(format!("{key}.pub"));
        let done = run(Command::new("ssh-keygen").arg("-lf").arg(path));
        done.stdout.split(' ').nth(1).unwrap().to_owned()
    }

    /// Puts a program in the place of srsctl on a machine.
    pub fn replace_srsctl(&self, last: u8, script: &str) {
        let path = self.write(&format!("srsctl-{last}"), script);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        self.sh(last, &format!("ln -sf {} /usr/local/bin/srsctl", path.display())).expect_code(0);
    }

    /// Has a machine show another key.
    pub fn restart_sshd(&self, last: u8, key: &str) {
        self.configure_sshd(last, key);
        self.sh(last, "kill $(pgrep -o sshd)");
        wait_for("sshd", SOON, || {
            let done = self.sh(last, "ss -ltn | grep -q :22 && pgrep -o sshd");
            if done.code == 0 { Ok(()) } else { Err(self.log_of_sshd(last)) }
        });
    }

    /// The process that a command on a machine is, as this machine numbers it.
    pub fn child_of(&self, command: &Child) -> String {
        let pid = command.id();
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap();
        children.split_whitespace().next().unwrap().to_owned()
    }

    /// The processes of srsctl on a machine, but the operator's own.
    pub fn processes(&self, last: u8) -> Vec<String> {
        let script = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline 2>/dev/null && echo; done";
        let done = self.sh(last, script);
        let is_srsctl = |line: &&str| {
            line.split(' ').next().is_some_and(|word| word.rsplit('/').next() == Some("srsctl"))
        };
        done.stdout.lines().filter(is_srsctl).map(str::to_owned).collect()
    }
}
