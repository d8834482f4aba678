//! Who pays for receiving. On the loopback device the sender's own system call delivers a packet as far as the receiver's
//! socket, and so the server's core pays for what is the players' kernel's work where they are other machines. Receive packet
//! steering (`rps_cpus`) hands it to other cores. It is a setting of the whole device, so it is made in a network namespace.

use std::fs;
use std::process::{Command, Stdio};

use nix::sched::{CloneFlags, unshare};

use crate::processes::pin;
use crate::rows::Result;

/// Of the loopback device, which has one queue.
const STEERING: &str = "/sys/class/net/lo/queues/rx-0/rps_cpus";

/// From now on what this process and those that it starts receive is handled on `cores`; in a network namespace of its own, where
/// it stays, unless it `is_in_one` already.
pub(crate) fn steer(cores: &str, is_in_one: bool) -> Result<()> {
    pin(std::process::id(), cores)?;
    let status = fs::read_to_string("/proc/self/status")?;
    // As a mask, in the form that it is written in.
    let mask = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed:"));
    let mask = mask.ok_or("/proc/self/status shows no Cpus_allowed")?.trim();
    if !is_in_one {
        unshare(CloneFlags::CLONE_NEWNET | CloneFlags::CLONE_NEWNS)?;
        run("mount", &["--make-rprivate", "/"])?;
        run("mount", &["-t", "sysfs", "sysfs", "/sys"])?;
        run("ip", &["link", "set", "lo", "up"])?;
    }
    fs::write(STEERING, mask).map_err(|e| format!("{STEERING}: {e}"))?;
    Ok(())
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|e| format!("{program}: {e}"))?;
    if !output.status.success() {
        return Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(())
}
