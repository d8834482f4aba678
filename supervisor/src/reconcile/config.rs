//! What a supervisor is started with, and why it may not start.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use cluster::Cluster;
use control::start::Secret;

use crate::host::dirs::ClusterDirs;
use crate::host::files::StateError;
use crate::host::preflight::Problem;
use crate::host::systemd::Service;

/// Parses a whole cluster file: path and text in, cluster or a message for a person out.
pub type Parse = Arc<dyn Fn(&Path, &str) -> Result<Cluster, String> + Send + Sync>;

/// What a supervisor is started with.
pub struct AgentConfig {
    /// The cluster, as this machine sees it.
    pub cluster: Cluster,
    /// Absolute path of its file.
    pub path: PathBuf,
    /// The file's text.
    pub text: String,
    /// The hosts of it that are this machine; without any, all are.
    pub hosts: Vec<String>,
    /// The secret between origin and edges, where other machines have it too. What runs already keeps the one that it has.
    pub secret: Option<Secret>,
    /// Where its state lives.
    pub dirs: ClusterDirs,
    /// The program that is run as `worker` and `encoder`; see [`crate::exec::own::own_binary`].
    pub binary: PathBuf,
    /// From the moment all checks have passed, standard output and standard error go to [`ClusterDirs::agent_log`].
    pub detached: bool,
    /// For files that come later, and for the one in force after a crash.
    pub parse: Parse,
    /// The service that this supervisor is. Then SIGTERM leaves its processes to the next one: the service manager sends it before a
    /// restart too, and [`Order::Stop`](crate::Order::Stop) comes before an end.
    pub service: Option<Service>,
}

impl std::fmt::Debug for AgentConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AgentConfig").field("cluster", &self.cluster.name).field("path", &self.path).finish()
    }
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
    #[error("{}", list("processes of this cluster run already, and the file in force is another one; nothing was touched:", .0))]
    Changed(Vec<String>),
    /// Told to stop before all was ready; what had been started was stopped again.
    #[error("interrupted; what had been started is stopped again")]
    Interrupted,
    /// Told to stop before all was ready, and not all could be stopped again.
    #[error("interrupted; {0}")]
    NotStopped(String),
    /// Told by SIGQUIT to leave the processes, before all was ready.
    #[error("{}", left(*.0))]
    Left(usize),
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

fn left(processes: usize) -> String {
    let them = match processes {
        0 => return "left by SIGQUIT before a process ran".to_owned(),
        1 => "1 process runs".to_owned(),
        more => format!("{more} processes run"),
    };
    format!(
        "left by SIGQUIT; {them} on without a supervisor: srsctl up takes over what runs, srsctl down stops it"
    )
}
