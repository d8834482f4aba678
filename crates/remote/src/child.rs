//! An `ssh` and what it has started, such as a ProxyCommand: a process group of their own, which ends with its owner.

use std::process::ExitStatus;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process_group};
use tokio::process::Child;
use tokio::time::timeout;

/// Killed when it is dropped.
#[derive(Debug)]
pub(crate) struct Group(Child);

impl Group {
    /// Of a child that leads its group.
    pub(crate) fn new(child: Child) -> Self {
        Self(child)
    }

    /// Waits for its end, for `limit` at most; one that does not end is killed. How it ended, if it did by itself.
    pub(crate) async fn end(mut self, limit: Duration) -> Option<ExitStatus> {
        match timeout(limit, self.0.wait()).await {
            Ok(status) => status.ok(),
            Err(_) => {
                self.kill();
                let _ = self.0.wait().await;
                None
            }
        }
    }

    fn kill(&self) {
        // Not waited for yet: the number is still its own.
        if let Some(pid) = self.0.id().and_then(|pid| Pid::from_raw(pid.cast_signed())) {
            let _ = kill_process_group(pid, Signal::KILL);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
