//! The guide's machines, and the operator's, as namespaces of this one.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

pub(crate) type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The origin's address, and those of the edges.
pub(crate) const HOSTS: [&str; 3] = ["192.168.1.5", "192.168.1.6", "192.168.1.7"];
/// The operator's.
const OPERATOR: &str = "192.168.1.9";
/// What a machine may take to be there, and a stream to be played.
const SOON: Duration = Duration::from_secs(20);

/// What a machine runs; it has what tells it from others in memory: its name, state and keys. $1 is its name, $2 the directory of
/// all machines, $3 srsctl, $4 the sshd.
const MACHINE: &str = r#"
set -e
mount --make-rprivate /
hostname "$1"
for dir in /run /var/lib /root /usr/local/bin; do mount -t tmpfs -o mode=755 tmpfs "$dir"; done
mkdir -p /run/sshd /root/.ssh
chmod 700 /root/.ssh
install -m 600 "$2/id_ed25519" "$2/id_ed25519.pub" /root/.ssh/
install -m 600 "$2/id_ed25519.pub" /root/.ssh/authorized_keys
mount --bind "$2/passwd" /etc/passwd
ln -s "$3" /usr/local/bin/srsctl
ip link set lo up
while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.05; done
ip addr add "$1/24" dev eth0
ip link set eth0 up
sysctl -qw net.ipv4.ip_local_port_range="1024 65535"
exec "$4" -D -e -f "$2/sshd_config" -h "$2/key" 2> "$2/sshd-$1.log"
"#;

const PASSWD: &str = "root:x:0:0::/root:/bin/sh
sshd:x:101:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534::/:/usr/sbin/nologin
";

const SSHD: &str = "UsePAM no
StrictModes no
PermitRootLogin yes
PidFile none
";

/// A process that holds namespaces; with it all that is in them ends.
struct Namespace {
    unshare: Child,
    /// The first process in them, as this machine numbers it.
    pid: u32,
}

impl Namespace {
    fn new(kinds: &[&str], program: &[&str]) -> Result<Self> {
        let openssh = std::env::current_dir()?.join("target/openssh/usr/lib/x86_64-linux-gnu");
        let mut command = Command::new("setpriv");
        // Whatever becomes of this process.
        command.args(["--pdeathsig", "KILL", "unshare", "--fork", "--kill-child"]).args(kinds).args(program);
        let unshare = command.env("LD_LIBRARY_PATH", openssh).stdin(Stdio::null()).spawn()?;
        let mut this = Self { unshare, pid: 0 };
        let children = format!("/proc/{0}/task/{0}/children", this.unshare.id());
        this.pid = until("a namespace", || {
            let children = fs::read_to_string(&children)?;
            Ok(children.split_whitespace().next().ok_or("has no process")?.parse()?)
        })?;
        Ok(this)
    }

    fn enter(&self, kinds: &[&str], words: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string()]).args(kinds).arg("--").args(words);
        command
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        // Both fail only if it has ended.
        let _ = self.unshare.kill();
        let _ = self.unshare.wait();
    }
}

/// All machines.
pub(crate) struct Machines {
    file: PathBuf,
    hosts: Vec<Namespace>,
    operator: Namespace,
    /// The bridge between them.
    _world: Namespace,
}

impl Machines {
    /// Makes them, and has the operator trust them.
    pub(crate) fn new(srsctl: &Path) -> Result<Self> {
        let sshd = std::env::current_dir()?.join("target/openssh/usr/sbin/sshd");
        if !rustix::process::geteuid().is_root() || !sshd.exists() {
            return Err(
                "several machines take root, and what tests/install-deps.sh bench unpacks: make bench-cluster"
                    .into(),
            );
        }
        let dir = std::env::current_dir()?.join("target/cluster");
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        for key in ["id_ed25519", "key"] {
            let path = dir.join(key);
            done(Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path))?;
        }
        fs::write(dir.join("passwd"), PASSWD)?;
        fs::write(dir.join("sshd_config"), SSHD)?;
        let file = dir.join("guide.yaml");
        fs::copy("deploy/examples/guide.yaml", &file)?;

        let world = Namespace::new(&["--net", "--pid", "--mount-proc"], &["sleep", "infinity"])?;
        let sh = |script: &str| done(&mut world.enter(&["-n"], &["sh", "-ec", script]));
        sh("ip link set lo up; ip link add br0 type bridge; ip link set br0 up")?;
        let texts = [&dir, srsctl, &sshd].map(|path| path.to_str());
        let [Some(at), Some(srsctl), Some(sshd)] = texts else {
            return Err("the path of this directory is not UTF-8".into());
        };
        let kinds = ["--net", "--pid", "--mount", "--uts", "--mount-proc"];
        let machine = |address: &str| -> Result<Namespace> {
            let machine = Namespace::new(&kinds, &["sh", "-c", MACHINE, "sh", address, at, srsctl, sshd])?;
            let number = address.rsplit('.').next().unwrap_or_default();
            sh(&format!(
                "ip link add v{number} type veth peer name eth0 netns {}; ip link set v{number} master br0; ip link set v{number} up",
                machine.pid
            ))?;
            Ok(machine)
        };
        let hosts = HOSTS.into_iter().map(machine).collect::<Result<Vec<_>>>()?;
        let operator = machine(OPERATOR)?;
        let this = Self { file, hosts, operator, _world: world };
        let key = done(Command::new("ssh-keygen").arg("-lf").arg(dir.join("key.pub")))?;
        let key = key.split(' ').nth(1).ok_or("ssh-keygen shows no fingerprint")?;
        for host in HOSTS {
            until(host, || this.srsctl(&["host", "trust", host, "--host-key", key]))?;
        }
        Ok(this)
    }

    /// The processes on the three machines, each with the machine's address: as this machine numbers the first.
    pub(crate) fn first_processes(&self) -> impl Iterator<Item = (&'static str, u32)> {
        HOSTS.into_iter().zip(self.hosts.iter().map(|host| host.pid))
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = self.operator.enter(&["-m", "-n", "-p", "-u"], &["env", "-i"]);
        command.args(["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/root", "srsctl"]).args(words);
        command
    }

    /// Has the operator's srsctl do something to the cluster.
    pub(crate) fn srsctl(&self, words: &[&str]) -> Result<()> {
        done(self.command(words).arg("--file").arg(&self.file)).map(drop)
    }

    /// Load from the operator's machine; what it tells is shown, or not.
    pub(crate) fn bench(&self, words: &[&str], is_shown: bool) -> Result<Child> {
        let out = || if is_shown { Stdio::inherit() } else { Stdio::null() };
        let mut command = self.command(&["bench"]);
        Ok(command.args(words).stdin(Stdio::null()).stdout(out()).stderr(out()).spawn()?)
    }

    /// Returns when a stream can be played.
    pub(crate) fn wait_for(&self, url: &str) -> Result<()> {
        until(url, || done(&mut self.command(&["probe", url])).map(drop))
    }
}

/// What it wrote.
fn done(command: &mut Command) -> Result<String> {
    let output = command.stdin(Stdio::null()).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(format!("{command:?}: {}: {}", output.status, said.trim()).into())
}

/// Tries again for a while.
fn until<T>(what: &str, mut attempt: impl FnMut() -> Result<T>) -> Result<T> {
    let end = Instant::now() + SOON;
    loop {
        match attempt() {
            Ok(done) => return Ok(done),
            Err(error) if Instant::now() >= end => return Err(format!("{what}: {error}").into()),
            Err(_) => sleep(Duration::from_millis(50)),
        }
    }
}
