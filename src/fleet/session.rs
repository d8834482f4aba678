//! The beginning of a session with a machine, and of another one where that is over: for commands that follow what a machine tells.

use std::fmt::Display;
use std::time::Duration;

use cluster::Machine;
use remote::{Problem, Session, Ssh};
use supervisor::StateRoots;

use super::serve::{self, Role};

/// Between two attempts, s.
const RETRY: u64 = 2;

/// One by ssh; with this very machine, within this process.
pub(super) async fn session(
    mut ssh: Ssh,
    roots: StateRoots,
    role: Role,
    machine: &Machine,
) -> Result<Session, Problem> {
    let own = serve::hello();
    let Some(way) = &machine.way else {
        let place = machine.to_string();
        return Session::within(&place, &own, |input, output| async move {
            // What is wrong is told to whoever asks.
            let _ = serve::serve(roots, role, input, output).await;
        })
        .await;
    };
    let words = ["srsctl", "agent", "dial-stdio", "--role", role.as_str()];
    ssh.command = words.map(str::to_owned).to_vec();
    ssh.connect(way, &own).await
}

/// What it takes to begin one.
#[derive(Clone, Debug)]
pub(crate) struct Redial {
    ssh: Ssh,
    roots: StateRoots,
}

impl Redial {
    pub(super) fn new(ssh: Ssh, roots: StateRoots) -> Self {
        Self { ssh, roots }
    }

    /// Another one of a viewer, once it can be had.
    pub(crate) async fn again(&self, machine: &Machine) -> Session {
        loop {
            tokio::time::sleep(Duration::from_secs(RETRY)).await;
            let begun = session(self.ssh.clone(), self.roots.clone(), Role::Viewer, machine).await;
            if let Ok(session) = begun {
                return session;
            }
        }
    }
}

/// What follows of the end of a session for who reads what comes from a machine.
pub(crate) fn not_followed(machine: impl Display) -> String {
    format!("nothing of {machine} is shown until it answers again; it is asked every {RETRY} s")
}
