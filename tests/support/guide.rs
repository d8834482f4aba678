//! The guide's three hosts as they are before srsctl comes to them: each has systemd as PID 1, sshd, a user `admin`, and nothing else; a disk
//! and a network of its own, which outlive a reboot. The operator is on a fourth.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use super::SOON;
use super::cluster::{Done, SRSCTL, finish, run, spawn};
use super::hosts::Hosts;
use super::namespace::{Namespace, libraries_of_sshd, sshd};
use super::system::System;

/// Makes the disk, below /mnt/root: this machine's files without anything of srsctl, `$1` of room, and what is in the directory `$0`.
const DISK: &str = r#"
set -eu
mount --make-rprivate /
mount -t tmpfs -o mode=755,size="$1" tmpfs /mnt
mkdir /mnt/upper /mnt/work /mnt/root
mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
root=/mnt/root
for path in bin lib/srsctl; do rm -rf "$root/usr/local/$path"; mkdir -p "$root/usr/local/$path"; done
rm -rf "$root/usr/bin/srsctl" "$root/var/lib/srsctl" "$root/etc/srsctl" "$root/etc/systemd/system" "$root/usr/lib/systemd/system"
cp -r "$0/units" "$root/usr/lib/systemd/system"
mkdir -p "$root/etc/systemd/system/multi-user.target.wants" "$root/home/admin/.ssh" "$root/machine"
grep -q ^sshd: "$root/etc/passwd" || echo "sshd:x:61936:65534::/run/sshd:/usr/sbin/nologin" >> "$root/etc/passwd"
echo "admin:x:61937:61937::/home/admin:/bin/sh" >> "$root/etc/passwd"
echo "admin:*:19000::::::" >> "$root/etc/shadow"
cp "$0/id.pub" "$root/home/admin/.ssh/authorized_keys"
chown -R 61937:61937 "$root/home/admin"
if [ -e "$0/sudoers" ]; then mkdir -p "$root/etc/sudoers.d"; cp "$0/sudoers" "$root/etc/sudoers.d/admin"; fi
"#;

/// Boots from it.
const BOOT: &str = r#"
set -eu
mount --make-rprivate /
hostname "$(cat "$0/hostname")"
root=/mnt/root
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
export container=srsctl-test
exec /lib/systemd/systemd --system --unit=multi-user.target --log-target=console --show-status=no
"#;

/// Where versions are on a host.
pub const VERSIONS: &str = "/usr/local/lib/srsctl";

/// Some of the guide's hosts, and the operator's laptop.
pub struct Guide {
    /// The laptop, whose key lets `admin` in everywhere. It has srsctl.
    pub laptop: Hosts,
    hosts: Vec<(u8, System)>,
}

impl Guide {
    /// Hosts that have booted, whose `admin` may use sudo without a password or not; nothing where this user may not make them.
    pub fn bare(numbers: &[u8], may_sudo: bool) -> Option<Self> {
        let sshd = sshd()?;
        let laptop = Hosts::with(&[9])?;
        let mut this = Self { laptop, hosts: Vec::new() };
        this.use_program("srsctl", "");
        for last in numbers {
            let host = this.host_of(*last, may_sudo, &sshd);
            this.hosts.push((*last, host));
        }
        Some(this)
    }

    fn host_of(&self, last: u8, may_sudo: bool, sshd: &Path) -> System {
        let ground = Namespace::new(&["--mount", "--net"], &["sleep", "infinity"]);
        self.laptop.plug(last, &ground);
        let mut prepare = ground.enter(&["-m"]);
        let mut this = System::new(BOOT, Some(ground));
        for (from, to) in [("id_ed25519.pub".to_owned(), "id.pub"), (format!("key-{last}"), "key")] {
            fs::copy(self.laptop.dir.path().join(from), this.path(to)).unwrap();
        }
        fs::write(this.path("hostname"), format!("host{last}")).unwrap();
        if may_sudo {
            fs::write(this.path("sudoers"), "admin ALL=(ALL) NOPASSWD: ALL\n").unwrap();
        }
        let config =
            "HostKey /machine/key\nUsePAM no\nPidFile none\nAuthorizedKeysFile .ssh/authorized_keys\n";
        fs::write(this.path("sshd_config"), config).unwrap();
        let unit = format!(
            "[Service]\nEnvironment=LD_LIBRARY_PATH={}\nExecStart={} -D -e -f /machine/sshd_config\n",
            libraries_of_sshd().display(),
            sshd.display()
        );
        fs::write(this.path("units/sshd.service"), unit).unwrap();
        this.enable("sshd.service", "sshd.service");
        run(prepare.args(["sh", "-c", DISK]).arg(this.dir.path()).arg("400m")).expect_code(0);
        this.boot();
        this
    }

    /// A host.
    pub fn host(&self, last: u8) -> &System {
        &self.hosts.iter().find(|(found, _)| *found == last).unwrap().1
    }

    /// A host, to be booted.
    pub fn host_mut(&mut self, last: u8) -> &mut System {
        &mut self.hosts.iter_mut().find(|(found, _)| *found == last).unwrap().1
    }

    /// Has the operator use another program from now on: srsctl with something behind it, which makes it another one by its SHA-256 alone.
    pub fn use_program(&self, name: &str, behind: &str) -> PathBuf {
        let path = self.laptop.dir.path().join(name);
        // Without what a debugger reads, a fifth of it has to be sent.
        let make = r#"strip -o "$1" "$0" && printf %s "$2" >> "$1""#;
        run(Command::new("sh").args(["-ec", make, SRSCTL]).arg(&path).arg(behind)).expect_code(0);
        self.laptop.use_program(9, &path);
        path
    }

    /// A command line of the operator, in the folder of guide.yaml.
    pub fn line(&self, line: &str) -> Child {
        let line = format!("cd {} && exec {line}", self.laptop.dir.path().display());
        spawn(&mut self.laptop.at(9, &["sh", "-c", &line]))
    }

    /// Runs it to its end.
    #[track_caller]
    pub fn run_line(&self, line: &str) -> Done {
        finish(self.line(line), SOON * 2)
    }
}
