//! The supervisor of one cluster on this machine: one loop that feeds what happens into the units' machines and does
//! what they say. Commands of the control API are straight-line code that turns the loop while it waits.

mod change;
mod engine;
mod housekeeping;
mod monitor;
mod start;
mod supervised;
mod view;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::{Cluster, UnitId};
use serde::{Deserialize, Serialize};

use crate::dirs::ClusterDirs;
use crate::files::StateError;
use crate::plan::Action;
use crate::preflight::Problem;

pub(crate) use start::recorded;

/// Parses a cluster file: path and text in, cluster or a message for a person out.
pub type Parse = Arc<dyn Fn(&Path, &str) -> Result<Cluster, String> + Send + Sync>;

/// What a supervisor is started with.
pub struct AgentConfig {
    /// The cluster.
    pub cluster: Cluster,
    /// Absolute path of its file.
    pub path: PathBuf,
    /// The file's text.
    pub text: String,
    /// Where its state lives.
    pub dirs: ClusterDirs,
    /// The program that is run as `worker` and `encoder`; see [`crate::process::own_binary`].
    pub binary: PathBuf,
    /// From the moment all checks have passed, standard output and standard error go to [`ClusterDirs::agent_log`].
    pub detached: bool,
    /// For files that come later, and for the one in force after a crash.
    pub parse: Parse,
}

impl std::fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentConfig").field("cluster", &self.cluster.name).field("path", &self.path).finish()
    }
}

/// What a supervisor tells while it starts, in this order: any number of [`Adopted`](Self::Adopted),
/// [`Unknown`](Self::Unknown) and [`Started`](Self::Started), then [`Ready`](Self::Ready) for each process that gets
/// ready and [`NotReady`](Self::NotReady) for each that is not at the end, then [`Complete`](Self::Complete).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum StartupEvent {
    /// A process that a killed supervisor left was proved to be its own; it goes on as it is.
    Adopted {
        /// The unit.
        unit: UnitId,
        /// Its process.
        pid: u32,
        /// It does not answer; it is killed and restarted if it stays so, and counts as ready only when it has reported.
        silent: bool,
    },
    /// Something holds the unit's lock that cannot be proved to be its process; it is left alone.
    Unknown {
        /// The unit.
        unit: UnitId,
        /// What could not be proved.
        why: String,
    },
    /// A process was started.
    Started {
        /// The unit.
        unit: UnitId,
        /// Its process.
        pid: u32,
    },
    /// A process is ready.
    Ready {
        /// The unit.
        unit: UnitId,
        /// Since the supervisor started.
        after_ms: u64,
    },
    /// A process is not ready, and the wait for it is over; it is still being tried unless the reason is final.
    NotReady {
        /// The unit.
        unit: UnitId,
        /// Why.
        why: String,
    },
    /// All that could be waited for has been.
    Complete {
        /// Processes that are ready.
        ready: usize,
        /// Processes that are not.
        waiting: usize,
    },
}

/// Why a supervisor did not start, or ended other than by being told to. Nothing was left half-started.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// There is one already.
    #[error("a supervisor of cluster {cluster} runs already{}", .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    AlreadyRunning {
        /// The cluster's name.
        cluster: String,
        /// The other supervisor.
        pid: Option<u32>,
    },
    /// What would go wrong, all of it; nothing was touched.
    #[error("{}", list("cannot start:", .0))]
    Preflight(Vec<Problem>),
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// Processes of an earlier supervisor run, and the file asks for other ones; nothing was touched.
    #[error("{}", list("processes of this cluster run already, and the file has changes that only `srsctl down` and `srsctl up` can make:", .0))]
    Changed(Vec<Action>),
    /// Told to stop before all was ready; what had been started was stopped again.
    #[error("interrupted; what had been started is stopped again")]
    Interrupted,
    /// The system does not give what a supervisor needs.
    #[error("{what}: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: std::io::Error,
    },
}

fn list(head: &str, items: &[impl std::fmt::Display]) -> String {
    match items {
        [only] => format!("{head} {only}"),
        many => many.iter().fold(head.to_owned(), |text, item| format!("{text}\n  {item}")),
    }
}

/// Supervises a cluster until told to end: by SIGTERM, SIGINT or `down`, which stop its processes, or by SIGQUIT,
/// which leaves them to the next supervisor. Needs a tokio runtime with one thread, I/O and time.
///
/// # Errors
/// When it cannot start; then nothing was left half-started.
pub async fn run(config: AgentConfig, startup: impl FnMut(StartupEvent)) -> Result<(), AgentError> {
    // Boxed: it lives as long as the supervisor, and callers poll it among other things.
    Box::pin(start::run(config, startup)).await
}

/// In 0..1. Jitter needs no more than that it differs.
fn random() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}
