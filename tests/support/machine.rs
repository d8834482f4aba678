//! A machine of its own for a test: systemd as PID 1, in namespaces, with srsctl's units as they are rendered. It shares the network, so
//! that players of the test reach its ports.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use cluster::status::Status;
use tempfile::TempDir;

use super::cluster::{Done, SRSCTL, copy_of_srsctl, run};
use super::net::Net;
use super::{SOON, wait_for, wait_until};

/// The user of the services.
const USER: &str = "61935";
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

/// Becomes the machine whose files are in the directory `$0`, in the cgroup `$1`.
const BOOT: &str = r#"
set -eu
mount --make-rprivate /
mount -t proc proc /proc
mount -t tmpfs -o mode=755 tmpfs /run
mount --bind "$0/var-lib" /var/lib
mount --bind "$0/passwd" /etc/passwd
mount --bind "$0/group" /etc/group
mount --bind "$0/bin" /usr/local/bin
umount -l /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
export container=srsctl-test SYSTEMD_UNIT_PATH="$0/units"
exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
"#;

/// The same of a machine with nothing but what Debian has, and sshd at the address `$2`: it changes a copy of this one's files.
const BOOT_BARE: &str = r#"
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
root=/mnt/root
for path in bin lib/srsctl; do rm -rf "$root/usr/local/$path"; mkdir -p "$root/usr/local/$path"; done
rm -rf "$root/usr/bin/srsctl" "$root/var/lib/srsctl" "$root/etc/srsctl" "$root/etc/systemd/system"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/home/admin/.ssh" "$root/machine"
grep -q ^sshd: "$root/etc/passwd" || echo "sshd:x:61936:65534::/run/sshd:/usr/sbin/nologin" >> "$root/etc/passwd"
echo "admin:x:61937:61937::/home/admin:/bin/sh" >> "$root/etc/passwd"
echo "admin:*:19000::::::" >> "$root/etc/shadow"
cp "$0/id.pub" "$root/home/admin/.ssh/authorized_keys"
chown -R 61937:61937 "$root/home/admin"
if [ -e "$0/sudoers" ]; then mkdir -p "$root/etc/sudoers.d"; cp "$0/sudoers" "$root/etc/sudoers.d/admin"; fi
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc"
mount --rbind /sys "$root/sys"
umount -l "$root/sys/fs/cgroup"
mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
mount -t tmpfs -o mode=755 tmpfs "$root/run"
mkdir -p "$root/run/sshd"
mount --bind "$0" "$root/machine"
cd "$root"
pivot_root . mnt
umount -l /mnt
export container=srsctl-test SYSTEMD_UNIT_PATH=/etc/systemd/system:/machine/units
exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
"#;

/// A machine with the service of one cluster. What is below /var/lib outlives a reboot.
pub struct Machine {
    /// Its network.
    pub net: Net,
    /// Its files, as this machine has them.
    pub dir: TempDir,
    cgroup: PathBuf,
    init: Option<Child>,
    boot: &'static str,
    /// What runs once it has booted.
    first: String,
}

impl Machine {
    /// A machine that has booted, with these lines in the section [Service] of its unit; nothing where this user is not root.
    pub fn booted(lines: &str) -> Option<Self> {
        if !nix::unistd::geteuid().is_root() {
            eprintln!("skipped: it takes root to be a machine with systemd");
            return None;
        }
        let mut this = Self::new(BOOT);
        this.first = this.unit();
        this.install(lines);
        this.boot();
        Some(this)
    }

    /// A machine with sshd alone, on the address of the guide's origin, port 2222: the key `id` lets `admin` in, who may use sudo without a
    /// password or not.
    pub fn bare(may_sudo: bool) -> Option<Self> {
        let openssh = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/openssh");
        if !nix::unistd::geteuid().is_root() || !openssh.exists() {
            eprintln!("skipped: a bare machine takes root, and what tests/install-deps.sh unpacks");
            return None;
        }
        let mut this = Self::new(BOOT_BARE);
        this.first = "sshd.service".to_owned();
        this.copy_targets();
        for key in ["id", "host"] {
            run(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(this.path(key)))
                .expect_code(0);
        }
        if may_sudo {
            fs::write(this.path("sudoers"), "admin ALL=(ALL) NOPASSWD: ALL\n").unwrap();
        }
        let config = format!(
            "Port 2222\nListenAddress {}\nHostKey /machine/host\nUsePAM no\nPidFile none\nAuthorizedKeysFile .ssh/authorized_keys\n",
            this.net.host(5)
        );
        fs::write(this.path("sshd_config"), config).unwrap();
        let unit = format!(
            "[Service]\nEnvironment=LD_LIBRARY_PATH={0}/usr/lib/x86_64-linux-gnu\nExecStart={0}/usr/sbin/sshd -D -e -f /machine/sshd_config\n",
            openssh.display()
        );
        let units = this.path("units");
        fs::write(units.join("sshd.service"), unit).unwrap();
        std::os::unix::fs::symlink("../sshd.service", units.join("multi-user.target.wants/sshd.service"))
            .unwrap();
        this.boot();
        Some(this)
    }

    fn new(boot: &'static str) -> Self {
        let net = Net::new();
        let dir = tempfile::Builder::new().prefix("srsctl-test-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        Self { cgroup: own_cgroup(&net.cluster_name()), net, dir, init: None, boot, first: String::new() }
    }

    fn copy_targets(&self) {
        let (system, units) = (Path::new("/lib/systemd/system"), self.path("units"));
        fs::create_dir_all(units.join("multi-user.target.wants")).unwrap();
        let targets = TARGETS.map(|name| format!("{name}.target"));
        for name in targets.iter().map(String::as_str).chain(["systemd-reboot.service"]) {
            fs::copy(system.join(name), units.join(name)).unwrap();
        }
    }

    /// One of its files, as this machine has it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn install(&self, lines: &str) {
        for dir in ["var-lib", "bin"] {
            fs::create_dir_all(self.path(dir)).unwrap();
        }
        for (file, line) in [
            ("passwd", format!("srsctl:x:{USER}:{USER}::/:/bin/sh\n")),
            ("group", format!("srsctl:x:{USER}:\n")),
        ] {
            let text = fs::read_to_string(Path::new("/etc").join(file)).unwrap();
            fs::write(self.path(file), text + &line).unwrap();
        }
        copy_of_srsctl(&self.path("bin/srsctl"));
        fs::write(self.path("bin/cluster.yaml"), self.net.guide()).unwrap();
        let units = self.path("units");
        run(Command::new(SRSCTL)
            .args(["render", "systemd", "--program", "/usr/local/bin/srsctl", "-o"])
            .arg(&units))
        .expect_code(0);
        self.copy_targets();
        fs::create_dir(units.join("srsctl@.service.d")).unwrap();
        fs::write(units.join("srsctl@.service.d/test.conf"), format!("[Service]\n{lines}\n")).unwrap();
        let enabled = units.join("multi-user.target.wants").join(self.unit());
        std::os::unix::fs::symlink("../srsctl@.service", enabled).unwrap();
    }

    /// The service of its cluster.
    pub fn unit(&self) -> String {
        format!("srsctl@{}.service", self.net.cluster_name())
    }

    #[track_caller]
    fn boot(&mut self) {
        let log = fs::File::options().append(true).create(true).open(self.path("log")).unwrap();
        let enter = format!("echo $$ > {}/cgroup.procs; exec \"$0\" \"$@\"", self.cgroup.display());
        let unshare = ["-fp", "--kill-child", "-m", "-u", "-i", "-C", "sh", "-c", self.boot];
        let mut command = Command::new("sh");
        command.args(["-c", &enter, "setpriv", "--pdeathsig", "KILL", "unshare"]).args(unshare);
        command.arg(self.dir.path()).arg(&self.cgroup).stdin(Stdio::null());
        command.stdout(log.try_clone().unwrap()).stderr(log);
        self.init = Some(command.spawn().unwrap());
        wait_until("the machine has booted", SOON, || self.systemctl(&["is-active", &self.first]).code == 0);
    }

    /// Its PID 1, as it is called here.
    fn pid(&self) -> Option<u32> {
        let init = self.init.as_ref()?.id();
        let children = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).ok()?;
        children.split_whitespace().next()?.parse().ok()
    }

    /// A command on it, as root.
    pub fn command(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        let pid = self.pid().map(|pid| pid.to_string()).unwrap_or_default();
        command.args(["-t", &pid, "-m", "-u", "-i", "-p", "-C", "--", program]).args(args);
        command.env_remove("SRSCTL_STATE_DIR").env_remove("RUST_LOG").env("NO_COLOR", "1");
        command
    }

    /// `systemctl` on it.
    pub fn systemctl(&self, args: &[&str]) -> Done {
        run(&mut self.command("systemctl", args))
    }

    /// What systemd says of its service.
    pub fn property(&self, name: &str) -> String {
        self.systemctl(&["show", "--value", "-p", name, &self.unit()]).stdout.trim().to_owned()
    }

    /// The supervisor's process, as it is called there; 0 while there is none.
    pub fn main_pid(&self) -> u32 {
        self.property("MainPID").parse().unwrap_or(0)
    }

    /// `srsctl` on it, as the user of the services, without any flag that says where the state is.
    pub fn srsctl(&self, args: &[&str]) -> Done {
        let user = ["--reuid", USER, "--regid", USER, "--clear-groups", "/usr/local/bin/srsctl"];
        run(&mut self.command("setpriv", &[&user[..], args].concat()))
    }

    /// `srsctl up` of its cluster.
    #[track_caller]
    pub fn up(&self) {
        self.srsctl(&["up", "/usr/local/bin/cluster.yaml"]).expect_code(0);
    }

    /// `srsctl status --json` of its cluster.
    pub fn status(&self) -> Result<Status, String> {
        let done = self.srsctl(&["status", "--json", &self.net.cluster_name()]);
        serde_json::from_str(&done.stdout).map_err(|e| format!("{e}: {done:?}"))
    }

    /// The processes of its ports, once a supervisor says that all are ready.
    #[track_caller]
    pub fn await_ready(&self) -> Vec<Option<u32>> {
        wait_for("all ports are ready", SOON, || {
            let status = self.status()?;
            let ready = status.units.iter().filter(|unit| unit.state == cluster::status::UnitState::Running);
            if ready.count() == 5 {
                Ok(status.units.iter().flat_map(|unit| [unit.pid, unit.keeper_pid]).collect())
            } else {
                Err(format!("{status:?}"))
            }
        })
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

    /// What its supervisors have told of what happened.
    pub fn events(&self) -> String {
        let name = self.net.cluster_name();
        fs::read_to_string(self.path("var-lib/srsctl").join(name).join("events.jsonl")).unwrap_or_default()
    }

    /// Shuts it down in order, and boots it again.
    #[track_caller]
    pub fn reboot(&mut self) {
        self.systemctl(&["reboot"]);
        let mut init = self.init.take().unwrap();
        wait_until("the machine has shut down", SOON, || init.try_wait().unwrap().is_some());
        self.boot();
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Some(mut init) = self.init.take() {
            // With it goes its PID 1, and with that all else.
            let _ = init.kill();
            let _ = init.wait();
        }
        if std::thread::panicking() {
            let log = fs::read_to_string(self.path("log")).unwrap_or_default();
            let _ = writeln!(std::io::stderr(), "{log}");
        }
        let end = std::time::Instant::now() + Duration::from_secs(5);
        while !remove_cgroup(&self.cgroup) && std::time::Instant::now() < end {
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
    let path = root.join(own).join(format!("srsctl-test-{name}"));
    fs::create_dir_all(&path).unwrap();
    path
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
