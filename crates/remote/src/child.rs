//! An `ssh` and what it has started, such as a ProxyCommand: a process group of their own, which ends with its owner.

use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use tokio::process::Child;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;

/// Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Group(Child);

impl Group {
    /// Of a child that leads its group.
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    /// Waits for its end, for `limit` at most; one that does not end is killed. How it ended, if it did by itself. What it has started, and
    /// leaves, is killed either way: a ProxyCommand whose link hangs outlives its `ssh`.
    pub(crate) async fn end(mut self, limit: Duration) -> Option<ExitStatus> {
        let has_ended = timeout(limit, self.ended()).await.is_ok();
        self.kill();
        let status = self.0.wait().await.ok();
        status.filter(|_| has_ended)
    }

    /// Returns when it has ended; it is not waited for, so that the number of its group stays its own.
    async fn ended(&self) {
        let Some(pid) = self.pid() else { return };
        let Ok(mut children) = signal(SignalKind::child()) else { return std::future::pending().await };
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
        while let Ok(None) = waitid(WaitId::Pid(pid), options) {
            children.recv().await;
        }
    }

    fn kill(&self) {
        // Not waited for yet: the number is still its own.
        if let Some(pid) = self.pid() {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }

    /// None once it was waited for.
    fn pid(&self) -> Option<Pid> {
        self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed()))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}

#[cfg(test)]
mod tests {
    use std::process::Stdio;

    use tokio::io::AsyncReadExt as _;
    use tokio::process::Command;

    use super::*;

    #[tokio::test]
    async fn what_it_has_started_ends_with_it_also_when_it_ends_by_itself() {
        for (script, limit, code) in [
            ("sleep 1000 & exit 3", Duration::from_secs(20), Some(3)),
            ("sleep 1000 & sleep 1000", Duration::from_millis(50), None),
        ] {
            let mut command = Command::new("sh");
            command.args(["-c", script]).stdout(Stdio::piped()).process_group(0).kill_on_drop(true);
            let mut child = command.spawn().unwrap();
            let mut output = child.stdout.take().unwrap();
            let status = Group::new(child).end(limit).await;
            assert_eq!(status.and_then(|status| status.code()), code);
            // All that could write to it have ended.
            let rest = timeout(Duration::from_secs(20), output.read(&mut [0])).await;
            assert_eq!(rest.unwrap().unwrap(), 0);
        }
    }
}
