//! What is done to have a cluster run as a file says. `srsctl plan --json` prints it as one document, `srsctl/plan/v1`; changes only
//! add. `srsctl plan -o` writes it with the text of the file, so that `srsctl up` can carry it out later.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::spec::UnitId;

/// The name of the document's schema.
pub const SCHEMA: &str = "srsctl/plan/v1";

/// What is done on all machines.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Plan {
    /// [`SCHEMA`].
    pub schema: String,
    /// The cluster's name.
    pub cluster: String,
    /// Absolute path of the cluster file.
    pub file: String,
    /// [`digest`] of its text.
    pub digest: String,
    /// Its text, where the plan is to be carried out later.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// What is done on each machine, in the order in which they are changed.
    pub hosts: Vec<HostPart>,
}

impl Plan {
    /// All changes, with those that change nothing.
    pub fn changes(&self) -> impl Iterator<Item = &Change> {
        self.hosts.iter().flat_map(|host| &host.changes)
    }

    /// Whether anything is done.
    #[must_use]
    pub fn has_changes(&self) -> bool {
        self.changes().any(|change| change.action != Action::Nothing)
    }
}

/// What is done on one machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostPart {
    /// The machine, as its operator gets there.
    pub machine: String,
    /// The number of the file in force that it is compared with; none where no supervisor runs.
    pub generation: Option<u64>,
    /// What a command has the supervisor do, for a person. The changes are those against the file in force when that is done, and whom it
    /// disconnects is not counted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub busy: Option<String>,
    /// Each process, with those to which nothing is done.
    pub changes: Vec<Change>,
}

impl HostPart {
    /// What the machine is called that a person is on.
    pub const HERE: &str = "localhost";
}

/// What is done to one process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The process.
    pub unit: UnitId,
    /// What is done to it.
    pub action: Action,
    /// Why, a reason each; where a value changes, `NAME: OLD → NEW`.
    pub why: Vec<String>,
    /// Players that are disconnected. None: it cannot be told.
    pub players: Option<u32>,
    /// Encoders that are disconnected. None: it cannot be told.
    pub encoders: Option<u32>,
    /// The streams that these play or publish.
    pub streams: Vec<String>,
}

impl Change {
    /// One that disconnects nobody.
    #[must_use]
    pub fn new(unit: UnitId, action: Action, why: Vec<String>) -> Self {
        Self { unit, action, why, players: Some(0), encoders: Some(0), streams: Vec::new() }
    }

    /// Whether somebody is disconnected, or may be.
    #[must_use]
    pub fn disconnects(&self) -> bool {
        (self.players, self.encoders) != (Some(0), Some(0))
    }

    /// Who is disconnected, for a person; empty if nobody is.
    #[must_use]
    pub fn whom(&self) -> String {
        let mut said = whom(self.players, self.encoders);
        if !said.is_empty() && !self.streams.is_empty() {
            let _ = write!(said, " ({})", self.streams.join(", "));
        }
        said
    }
}

/// So many players and encoders, for a person; empty if there is nobody. None: it cannot be told how many.
#[must_use]
pub fn whom(players: Option<u32>, encoders: Option<u32>) -> String {
    let some = |number: Option<u32>, one: &str, many: &str| match number {
        Some(0) => None,
        Some(1) => Some(format!("1 {one}")),
        Some(more) => Some(format!("{more} {many}")),
        None => Some(format!("{many}, nobody can tell how many")),
    };
    if (players, encoders) == (None, None) {
        return "players and encoders, nobody can tell how many".to_owned();
    }
    let (players, encoders) = (some(players, "player", "players"), some(encoders, "encoder", "encoders"));
    players.into_iter().chain(encoders).collect::<Vec<_>>().join(", ")
}

/// See [`Change::action`]. Actions are added and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Action {
    /// It is started.
    Start,
    /// It is stopped, and its port closed.
    Stop,
    /// It is stopped and started again.
    Restart,
    /// It takes new values as it runs; no connection is dropped.
    Reconfigure,
    /// It goes on as it is.
    Nothing,
    /// One of a newer supervisor.
    #[serde(other)]
    Unknown,
}

impl Action {
    /// The word for it, as in the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reconfigure => "reconfigure",
            Self::Nothing => "nothing",
            Self::Unknown => "unknown",
        }
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// How many processes are started, stopped, restarted and reconfigured, for a person.
#[must_use]
pub fn summary<'a>(changes: impl IntoIterator<Item = &'a Change>) -> String {
    let mut counts = [0; 4];
    let words = ["started", "stopped", "restarted", "reconfigured"];
    for change in changes {
        let place = match change.action {
            Action::Start => 0,
            Action::Stop => 1,
            Action::Restart => 2,
            Action::Reconfigure => 3,
            Action::Nothing | Action::Unknown => continue,
        };
        counts[place] += 1;
    }
    let told = counts.into_iter().zip(words).filter(|(count, _)| *count > 0);
    let told: Vec<String> = told.map(|(count, word)| format!("{count} {word}")).collect();
    if told.is_empty() { "no process changed".to_owned() } else { told.join(", ") }
}

/// SHA-256 of a text, in hexadecimal digits.
#[must_use]
pub fn digest(text: &str) -> String {
    Sha256::digest(text.as_bytes()).iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(players: Option<u32>, encoders: Option<u32>, streams: &[&str]) -> Change {
        let streams = streams.iter().map(|it| (*it).to_owned()).collect();
        Change { players, encoders, streams, ..Change::new(UnitId::encoder(), Action::Stop, Vec::new()) }
    }

    #[test]
    fn who_is_disconnected_is_said_with_number_and_streams() {
        assert_eq!(change(Some(0), Some(0), &["live/a"]).whom(), "");
        assert_eq!(change(Some(1), Some(0), &[]).whom(), "1 player");
        assert_eq!(
            change(Some(12), Some(1), &["live/a", "live/b"]).whom(),
            "12 players, 1 encoder (live/a, live/b)"
        );
        assert_eq!(change(None, Some(0), &[]).whom(), "players, nobody can tell how many");
        assert!(change(None, Some(0), &[]).disconnects() && !change(Some(0), Some(0), &[]).disconnects());
    }

    #[test]
    fn a_digest_is_the_one_that_sha256sum_prints() {
        assert_eq!(digest("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn an_action_of_a_newer_supervisor_is_one_that_we_do_not_know() {
        assert_eq!(action("start"), Action::Start);
        assert_eq!(action("melt"), Action::Unknown);
    }

    fn action(text: &str) -> Action {
        serde_saphyr::from_str(text).unwrap()
    }
}
