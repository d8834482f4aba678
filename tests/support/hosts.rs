//! The guide's three machines and a fourth for the operator, on this one: each has its own network, mounts, processes and name, a real sshd, and
//! the guide's address. All of it ends with the test, however that ends.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use tempfile::TempDir;

use super::cluster::{Done, SRSCTL, finish, run, spawn};
use super::namespace::{Namespace, sshd};
use super::pictures::parse_framemd5;
use super::{SOON, wait_for};

/// What a machine of the guide runs: its sshd, with state, logs and home in memory.
const HOST: &str = r#"
set -e
mount --make-rprivate /
hostname "$1"
for dir in /run /var/lib /root /usr/local/bin; do mount -t tmpfs -o mode=755,size=64m tmpfs "$dir"; done
mkdir -p /run/sshd /root/.ssh
chmod 700 /root/.ssh
cp "$2/id_ed25519" "$2/id_ed25519.pub" "$2/authorized_keys" /root/.ssh/
chmod 600 /root/.ssh/*
mount --bind "$2/passwd" /etc/passwd
ln -s "$3" /usr/local/bin/srsctl
while true; do "$4" -D -e -f "$2/sshd-$1" 2> "$2/sshd-$1.log" || true; done
"#;

const EDGES: [&str; 4] = ["192.168.1.6:1935", "192.168.1.6:1936", "192.168.1.7:1935", "192.168.1.7:1936"];

/// The machines: .5, .6, .7, and .9, where the operator is.
pub struct Hosts {
    /// Keys, configs, and what tests write.
    pub dir: TempDir,
    /// The bridge between them.
    world: Namespace,
    hosts: Vec<(u8, Namespace)>,
}

impl Hosts {
    /// None where this user may not make them; then a line says so.
    pub fn new() -> Option<Self> {
        Self::with(&[5, 6, 7, 9])
    }

    /// These of them alone; others may be plugged in.
    pub fn with(numbers: &[u8]) -> Option<Self> {
        let sshd = sshd()?;
        let dir = tempfile::Builder::new().prefix("srsctl-hosts-").tempdir().unwrap();
        let world = Namespace::new(&["--net", "--pid", "--mount-proc"], &["sleep", "infinity"]);
        let mut this = Self { dir, world, hosts: Vec::new() };
        this.write_keys();
        this.in_world("ip link set lo up; ip link add br0 type bridge; ip link set br0 up");
        for last in numbers.iter().copied() {
            let (name, path) = (name(last), this.dir.path().to_str().unwrap().to_owned());
            let kinds = ["--net", "--pid", "--mount", "--uts", "--mount-proc"];
            let words = ["sh", "-c", HOST, "sh", &name, &path, SRSCTL, sshd.to_str().unwrap()];
            let host = Namespace::new(&kinds, &words);
            this.plug(last, &host);
            this.hosts.push((last, host));
        }
        for last in numbers.iter().copied().filter(|last| *last != 9) {
            wait_for("sshd", SOON, || {
                let mut command = this.at(last, &["sh", "-c", "test -S /dev/null || ss -ltn | grep -q :22"]);
                let done = run(&mut command);
                if done.code == 0 { Ok(()) } else { Err(this.log_of_sshd(last)) }
            });
        }
        Some(this)
    }

    /// Connects the network of a machine to the others, by its address in the guide.
    pub fn plug(&self, last: u8, network: &Namespace) {
        self.in_world(&format!(
            "ip link add v{last} type veth peer name eth0 netns {}; ip link set v{last} master br0; ip link set v{last} up",
            network.pid
        ));
        let up = format!("ip link set lo up; ip addr add 192.168.1.{last}/24 dev eth0; ip link set eth0 up");
        run(network.enter(&["-n"]).args(["sh", "-ec", &up])).expect_code(0);
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
        fs::write(self.dir.path().join(format!("sshd-{}", name(last))), text).unwrap();
    }

    fn log_of_sshd(&self, last: u8) -> String {
        fs::read_to_string(self.dir.path().join(format!("sshd-{}.log", name(last)))).unwrap_or_default()
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
        self.use_program(last, &path);
    }

    /// Has a machine run this program as srsctl.
    #[track_caller]
    pub fn use_program(&self, last: u8, path: &Path) {
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

    /// Ends a command on a machine.
    pub fn interrupt(&self, command: &Child) {
        // SIGINT may be ignored, as in a job in the background of a script, and what is started inherits that.
        run(Command::new("kill").args(["-TERM", &self.child_of(command)])).expect_code(0);
    }

    /// A player at the operator's that lists the pictures that it gets as framemd5, until it is interrupted.
    pub fn player(&self, url: &str, list: &Path) -> Child {
        let words = [
            "ffmpeg",
            "-y",
            "-v",
            "error",
            "-i",
            url,
            "-c:v",
            "copy",
            "-an",
            "-flush_packets",
            "1",
            "-f",
            "framemd5",
        ];
        spawn(&mut self.at(9, &[&words[..], &[list.to_str().unwrap()]].concat()))
    }

    /// Fails unless the same pictures come from all four edges of the guide.
    #[track_caller]
    pub fn assert_equal_edges(&self) {
        let recorders = EDGES.map(|edge| {
            let url = format!("rtmp://{edge}/live/livestream");
            let words = [
                "ffmpeg", "-v", "error", "-i", &url, "-t", "4", "-c:v", "copy", "-an", "-f", "framemd5", "-",
            ];
            spawn(&mut self.at(9, &words))
        });
        let recorded = recorders.map(|recorder| {
            let list = finish(recorder, SOON).expect_code(0).stdout;
            let pictures = parse_framemd5(&list).unwrap();
            assert!(pictures.len() > 60, "{} pictures", pictures.len());
            pictures.into_iter().map(|picture| picture.md5).collect::<Vec<_>>()
        });
        // They began at about the same time: from the first that both have on, the same pictures came to both.
        let [first, others @ ..] = &recorded;
        for other in others {
            let place = |list: &[String], sum: &String| list.iter().position(|found| found == sum);
            let begin =
                place(other, &first[0]).map_or_else(|| (place(first, &other[0]).unwrap(), 0), |at| (0, at));
            let pairs = first[begin.0..].iter().zip(&other[begin.1..]);
            let common = pairs.clone().count();
            assert!(common > 40 && pairs.clone().all(|(a, b)| a == b), "{common} pictures in common");
        }
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

fn name(last: u8) -> String {
    match last {
        9 => "laptop".to_owned(),
        _ => format!("host{last}"),
    }
}
