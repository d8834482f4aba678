//! Namespaces of the kernel, and what is in them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::{SOON, wait_for};

/// Where tests/install-deps.sh unpacks sshd; none where it did not, or where this user is not root, whom namespaces take. A line says so.
pub fn sshd() -> Option<PathBuf> {
    let sshd = openssh().join("usr/sbin/sshd");
    if nix::unistd::geteuid().is_root() && sshd.exists() {
        return Some(sshd);
    }
    eprintln!("not tested: several machines take root, and what tests/install-deps.sh unpacks");
    None
}

/// The libraries of that sshd.
pub fn libraries_of_sshd() -> PathBuf {
    openssh().join("usr/lib/x86_64-linux-gnu")
}

fn openssh() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/openssh")
}

/// A process that holds namespaces; with it all that is in them ends.
pub struct Namespace {
    unshare: Child,
    /// The first process in them, as this machine numbers it.
    pub pid: u32,
}

impl Namespace {
    pub fn new(kinds: &[&str], program: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        // Whatever becomes of the test.
        command.args(["--pdeathsig", "KILL", "unshare", "--fork", "--kill-child"]).args(kinds).args(program);
        command.env("LD_LIBRARY_PATH", libraries_of_sshd()).stdin(Stdio::null());
        let unshare = command.spawn().unwrap();
        let pid =
            wait_for("a namespace", SOON, || first_child(unshare.id()).ok_or_else(|| "none yet".to_owned()));
        Self { unshare, pid }
    }

    /// A command in those of these kinds; its words follow.
    pub fn enter(&self, kinds: &[&str]) -> Command {
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

/// The first child of a process that is alone in having some.
pub fn first_child(pid: u32) -> Option<u32> {
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
    children.split_whitespace().next()?.parse().ok()
}
