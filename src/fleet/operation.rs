//! What one srsctl asks another one on its machine: the documents that an exchange of a session is opened with, and their answers.

use std::path::PathBuf;

use cluster::events::Events;
use serde::{Deserialize, Serialize};
use supervisor::Holder;

use crate::commands::logs::tail::Wanted;

/// What is to be done there. The answer follows as bytes of the exchange; a refusal ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum Operation {
    /// HTTP with the supervisor, as on its socket.
    Api {
        /// The cluster's name.
        cluster: String,
    },
    /// How the cluster stands there: a [`Look`].
    Look {
        /// The cluster's name.
        cluster: String,
    },
    /// Whether it could be started; the exchange has a [`Start`](control::start::Start). The answer is a list of problems.
    Rehearse {
        /// The cluster's name.
        cluster: String,
    },
    /// To be the one who changes it, as long as the session lasts: a [`Leased`].
    Lease {
        /// The cluster's name.
        cluster: String,
        /// Who asks.
        holder: Holder,
    },
    /// The secret between origin and edges, if it has one.
    Secret {
        /// The cluster's name.
        cluster: String,
    },
    /// A supervisor; the exchange has a line with a [`Start`](control::start::Start), and its end before all is ready interrupts it. The
    /// answer is a line for each [`StartupEvent`](control::api::StartupEvent).
    Start {
        /// The cluster's name.
        cluster: String,
    },
    /// A supervisor for what runs on without one, with the file in force: as [`Operation::Start`], with nothing to be given.
    TakeOver {
        /// The cluster's name.
        cluster: String,
    },
    /// The files that are and were in force, the newest last: a list of [`Generation`](supervisor::Generation).
    History {
        /// The cluster's name.
        cluster: String,
    },
    /// Its end. The answer is lines for a person.
    Down {
        /// The cluster's name.
        cluster: String,
        /// Remove logs, generated configs and the secret too.
        purge: bool,
    },
    /// Its logs. The answer is lines, each a list of logs with their new lines.
    Logs {
        /// The cluster's name.
        cluster: String,
        /// Which.
        wanted: Wanted,
    },
    /// What happened behind event number `after`, told by a supervisor or written down: [`Page`].
    Events {
        /// The cluster's name.
        cluster: String,
        /// Number of the last one that is known.
        after: u64,
    },
}

impl Operation {
    /// The cluster that is meant.
    pub(crate) fn cluster(&self) -> &str {
        match self {
            Self::Api { cluster }
            | Self::Look { cluster }
            | Self::Rehearse { cluster }
            | Self::Lease { cluster, .. }
            | Self::Secret { cluster }
            | Self::Start { cluster }
            | Self::TakeOver { cluster }
            | Self::History { cluster }
            | Self::Down { cluster, .. }
            | Self::Logs { cluster, .. }
            | Self::Events { cluster, .. } => cluster,
        }
    }

    /// Whether it changes nothing and gives nothing away that a viewer may not see. Of [`Operation::Api`] each request is looked at.
    pub(crate) fn is_for_viewers(&self) -> bool {
        match self {
            Self::Api { .. }
            | Self::Look { .. }
            | Self::History { .. }
            | Self::Logs { .. }
            | Self::Events { .. } => true,
            Self::Rehearse { .. }
            | Self::Lease { .. }
            | Self::Secret { .. }
            | Self::Start { .. }
            | Self::TakeOver { .. }
            | Self::Down { .. } => false,
        }
    }
}

/// How a cluster stands on a machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Look {
    /// A supervisor runs.
    pub(crate) is_supervised: bool,
    /// So many of its processes live, supervised or not.
    pub(crate) living: usize,
    /// The text of the file in force, where any of that runs and the text is sound.
    #[serde(default)]
    pub(crate) in_force: Option<String>,
    /// Absolute path of srsctl there.
    pub(crate) program: PathBuf,
}

impl Look {
    /// Whether anything of the cluster runs there.
    pub(crate) fn runs(&self) -> bool {
        self.is_supervised || self.living > 0
    }
}

/// What became of an attempt to take the lease.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leased {
    /// Who else has it, for a person.
    pub(crate) held: Option<String>,
}

/// Events of one machine.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Page {
    /// They.
    pub(crate) events: Events,
    /// A supervisor tells them.
    pub(crate) is_supervised: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_viewer_may_look_and_nothing_else() {
        let cluster = || "live".to_owned();
        assert!(Operation::Look { cluster: cluster() }.is_for_viewers());
        for operation in [
            Operation::Secret { cluster: cluster() },
            Operation::Start { cluster: cluster() },
            Operation::TakeOver { cluster: cluster() },
            Operation::Down { cluster: cluster(), purge: false },
            Operation::Lease { cluster: cluster(), holder: Holder::default() },
        ] {
            assert!(!operation.is_for_viewers(), "{operation:?}");
        }
    }
}
