//! What `srsctl` and the supervisor exchange on agent.sock: HTTP/1 and JSON.
//!
//! | request | body | answer |
//! | --- | --- | --- |
//! | GET [`STATUS`] | | [`Status`](cluster::status::Status) |
//! | GET [`EVENTS`]`?after=N` | | [`Events`](cluster::events::Events) behind number N, from 0 on all that are kept |
//! | POST [`PLAN`] | [`Apply`] | [`HostPart`](cluster::plan::HostPart): what APPLY would do; nothing is touched |
//! | POST [`APPLY`] | [`Apply`] | lines |
//! | POST [`RESTART`] | [`Restart`] | lines |
//! | POST [`UPGRADE`] | [`Upgrade`] | lines, with one [`Line::Upgraded`] |
//! | POST [`SECRET`] | [`Secret`](crate::start::Secret) | lines |
//! | POST [`DOWN`] | | lines |
//!
//! `lines` are JSON documents, one a line: [`Line::Progress`], as many as there is progress to tell, and at the end
//! [`Line::Done`] or [`Line::Error`]. What could not even be begun is answered by one [`Line::Error`] and the status of its
//! [code](crate::Code::http_status). What was begun goes on when the client goes away.

use std::path::PathBuf;

use cluster::{Role, UnitId};
use serde::{Deserialize, Serialize};

use crate::error::Error;

/// Path of the request for the status.
pub const STATUS: &str = "/v1/status";
/// Path of the request for what happened.
pub const EVENTS: &str = "/v1/events";
/// Path of the request for what bringing a file into force would do.
pub const PLAN: &str = "/v1/plan";
/// Path of the request to bring a file into force.
pub const APPLY: &str = "/v1/apply";
/// Path of the request to restart processes.
pub const RESTART: &str = "/v1/restart";
/// Path of the request to run another program on all ports.
pub const UPGRADE: &str = "/v1/upgrade";
/// Path of the request to replace the secret between origin and edges.
pub const SECRET: &str = "/v1/secret";
/// Path of the request to stop all.
pub const DOWN: &str = "/v1/down";

/// The header that says when a request was sent, ms since boot: one that lay in the socket of a stopped supervisor is not
/// carried out after its sender has given up.
pub const SENT: &str = "x-srsctl-sent-ms";

/// Body of POST [`APPLY`] and [`PLAN`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Apply {
    /// Absolute path of the cluster file, for messages and for relative paths in it.
    pub path: PathBuf,
    /// Its text.
    pub text: String,
    /// The hosts that are this machine; without any, all are.
    #[serde(default)]
    pub hosts: Vec<String>,
    /// Only where the file in force has this number.
    #[serde(default)]
    pub expect_generation: Option<u64>,
    /// Also where players or encoders are disconnected.
    #[serde(default)]
    pub yes: bool,
    /// For so long a port that is taken out keeps those whom it has, ms; without it for 30 s.
    #[serde(default)]
    pub drain_ms: Option<u64>,
    /// The number of the earlier file that it is.
    #[serde(default)]
    pub rollback: Option<u64>,
}

impl Apply {
    /// Of a file of which all hosts are this machine, whatever is in force, as long as nobody is disconnected.
    #[must_use]
    pub fn new(path: PathBuf, text: String) -> Self {
        Self { path, text, ..Self::default() }
    }
}

/// Body of POST [`RESTART`]: which processes, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Of this role.
    pub role: Role,
    /// On this port; without it, on each.
    #[serde(default)]
    pub port: Option<u16>,
    /// On this host; without it, on each.
    #[serde(default)]
    pub host: Option<String>,
    /// Ports are closed and opened anew: whoever is connected has to connect again.
    #[serde(default)]
    pub cold: bool,
    /// Also where that program reads nothing of what runs: whoever is connected has to connect again.
    #[serde(default)]
    pub yes: bool,
}

/// Body of POST [`UPGRADE`]: all ports run this program from now on, one after the other, and keep their connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgrade {
    /// Absolute path of the program.
    pub program: PathBuf,
    /// So many ports have to have run it for the time of its trial before others do.
    pub canary: usize,
    /// See [`Restart::yes`].
    #[serde(default)]
    pub yes: bool,
}

/// What became of an upgrade; part of `srsctl/upgrade/v1`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Upgraded {
    /// The version of the program; `None` where it did not say.
    pub version: Option<String>,
    /// Each port, in the order of the upgrade.
    pub ports: Vec<UpgradedPort>,
}

/// What became of one port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UpgradedPort {
    /// The port.
    pub unit: UnitId,
    /// What became of it.
    pub result: UpgradeResult,
    /// The version that it ran before, as far as that is known.
    pub from: Option<String>,
    /// The version that it runs now, as far as that is known.
    pub to: Option<String>,
    /// Connections that were lost.
    pub lost: u64,
    /// Why it is not upgraded.
    pub why: Option<String>,
    /// Absolute path of the program that it runs now, as far as that is known.
    #[serde(default)]
    pub program: Option<String>,
}

/// See [`UpgradedPort::result`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpgradeResult {
    /// It runs the new program.
    Upgraded,
    /// It has run the new program, and runs the one before again.
    WentBack,
    /// Its process has ended, or does not serve.
    Failed,
    /// It was not touched.
    NotTried,
}

/// One line of an answer: `{"progress":"…"}`, `{"done":{}}` or `{"error":{"code":"busy","message":"…"}}`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Line {
    /// Something was done; what, for a person.
    Progress(String),
    /// What became of each port. Last but one line of an upgrade.
    Upgraded(Upgraded),
    /// All was done. Last line.
    Done {},
    /// Not all was done. Last line.
    Error(Error),
}

/// What a supervisor tells while it starts, in this order: any number of [`Adopted`](Self::Adopted) and
/// [`Unknown`](Self::Unknown), then [`Started`](Self::Started) for each process that says who it is, and [`Ready`](Self::Ready) for each that gets
/// ready, and [`NotReady`](Self::NotReady) for each that is not at the end, then [`Complete`](Self::Complete).
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
    /// A process was started, and has said who it is.
    Started {
        /// The unit.
        unit: UnitId,
        /// What serves: of a port the worker.
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;

    #[test]
    fn lines_read_as_they_are_documented() {
        let busy = Error::new(Code::Busy, "y");
        let lines = [
            (r#"{"progress":"x"}"#, Line::Progress("x".into())),
            (r#"{"done":{}}"#, Line::Done {}),
            (r#"{"error":{"code":"busy","message":"y"}}"#, Line::Error(busy)),
        ];
        for (text, line) in lines {
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
            assert_eq!(serde_json::from_str::<Line>(text).unwrap(), line);
        }
    }

    #[test]
    fn a_restart_may_leave_port_and_host_open() {
        let restart: Restart = serde_json::from_str(r#"{"role":"edge"}"#).unwrap();
        assert_eq!(restart, Restart { role: Role::Edge, port: None, host: None, cold: false, yes: false });
    }
}
