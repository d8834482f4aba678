//! Programs that are run to learn of them: once, for so long at most, and nothing is left of them.

use std::io::{self, Read as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

/// Between two looks at whether it has ended.
const POLL: Duration = Duration::from_millis(1);
/// Bytes that are read of what it says.
const SAID_MAX: usize = 4096;

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// Its exit code, or what killed it.
    pub status: ExitStatus,
    /// What it wrote to its output, where that is a pipe: the first 4 KiB.
    pub said: Vec<u8>,
}

/// Runs `command` in a process group of its own until it ends; `None` when that takes longer than `limit`. In any case all of the group
/// is killed then: what it has started would go on with what it was lent, and keep its output open.
///
/// # Errors
/// When it cannot be started, or the system does not tell of it.
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Option<Ended>> {
    let mut child = command.process_group(0).spawn()?;
    let end = Instant::now() + limit;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    // Not reaped: until then nobody else can have its number, nor a group of that name.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    let ended = loop {
        match waitid(WaitId::Pid(pid), options) {
            Ok(None) if Instant::now() < end => std::thread::sleep(POLL),
            Ok(ended) => break Ok(ended.is_some()),
            Err(error) => break Err(error),
        }
    };
    let _ = kill_process_group(pid, Signal::KILL);
    let status = child.wait()?;
    if !ended? {
        return Ok(None);
    }
    let mut said = Vec::new();
    if let Some(output) = child.stdout.take() {
        // Whoever has left the group may have it open still: all that the program itself has said is there.
        rustix::io::ioctl_fionbio(&output, true)?;
        match output.take(SAID_MAX as u64).read_to_end(&mut said) {
            Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
            Ok(_) | Err(_) => {}
        }
    }
    Ok(Some(Ended { status, said }))
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use super::*;

    fn run_script(script: &str, limit: Duration) -> Option<Ended> {
        let mut command = Command::new("sh");
        run(command.args(["-c", script]).stdin(Stdio::null()).stdout(Stdio::piped()), limit).unwrap()
    }

    fn lives(pid: &str) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        stat.is_ok_and(|stat| !stat.rsplit(')').next().unwrap().trim_start().starts_with('Z'))
    }

    /// The kernel may take a moment to end what was killed and is nobody's child here.
    fn await_end(pid: &str) {
        let end = Instant::now() + Duration::from_secs(20);
        while lives(pid) {
            assert!(Instant::now() < end, "{pid} lives");
            std::thread::yield_now();
        }
    }

    #[test]
    fn what_a_program_leaves_in_the_background_is_killed_and_nobody_waits_for_its_hold_of_the_pipe() {
        let ended = run_script("sleep 1000 & echo $!; exit 3", Duration::from_secs(20)).unwrap();
        assert_eq!(ended.status.code(), Some(3));
        await_end(std::str::from_utf8(&ended.said).unwrap().trim());
        // Out of the group: it lives, and is not waited for.
        let ended = run_script("setsid sleep 1000 & echo $!", Duration::from_secs(20)).unwrap();
        let said = String::from_utf8(ended.said).unwrap();
        let _ = Command::new("kill").arg(said.trim()).status();
        await_end(said.trim());
    }

    #[test]
    fn a_program_that_hangs_is_killed_with_all_that_it_started() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let script = format!("sleep 1000 & echo $! > {}; wait", file.path().display());
        assert!(run_script(&script, Duration::from_millis(300)).is_none());
        let said = std::fs::read_to_string(file.path()).unwrap();
        assert_ne!(said, "", "it was not there yet");
        await_end(said.trim());
    }

    #[test]
    fn no_more_is_read_than_a_program_of_ours_says() {
        let ended = run_script("head -c 9000 /dev/zero", Duration::from_secs(20)).unwrap();
        assert_eq!((ended.status.code(), ended.said.len()), (Some(0), SAID_MAX));
    }
}
