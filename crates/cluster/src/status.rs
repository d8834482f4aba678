//! What a supervisor knows of its cluster. `srsctl status --json` prints it as one document, `srsctl/status/v1`, beside `state`
//! (`supervised`; `not-running`; `unsupervised`: workers go on without a supervisor; `unknown`) and `reason`, for a person; where no
//! supervisor answers its fields are the same, null or empty where nothing is known. Changes only add.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::plan::whom;
use crate::spec::{Role, UnitId};
use crate::stats::{ForwardState, ForwardStats, ProcessStats};

/// The name of the document's schema.
pub const SCHEMA: &str = "srsctl/status/v1";

/// A whole cluster as its supervisor sees it now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// [`SCHEMA`].
    pub schema: String,
    /// The cluster's name.
    pub cluster: String,
    /// Process id of the supervisor.
    pub supervisor_pid: u32,
    /// Milliseconds since the supervisor started.
    pub supervisor_uptime_ms: u64,
    /// Absolute path of the cluster file in force.
    pub file: String,
    /// Every process, origin first, then edges in the file's order, then the encoder.
    pub units: Vec<UnitStatus>,
    /// Every stream on every port, in the order of `units`.
    pub streams: Vec<StreamRow>,
    /// What is wrong with the place where logs and state are kept, or with the program that is started, a sentence each: nothing stops
    /// for it.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// What a command has the supervisor do now, since when and who asked, for a person; `None` where nothing is.
    #[serde(default)]
    pub busy: Option<String>,
    /// Absolute path of the program that a start would run now; of a supervisor that is older, `None`.
    #[serde(default)]
    pub next_program: Option<String>,
    /// That file is there no more: a start runs what the supervisor has of it.
    #[serde(default)]
    pub next_program_removed: bool,
}

/// So many ports are named where it is told what they run; of more their number is told.
const NAMED: usize = 3;

/// That some of `all` ports run something, for a person: `edge-a-1935 runs`, `5 ports run`, `all 6 ports run`.
#[must_use]
pub fn who_runs(ports: &[&UnitId], all: usize) -> String {
    let names = || ports.iter().map(|id| id.as_str()).collect::<Vec<_>>().join(", ");
    match ports.len() {
        count if count == all && count > 1 => format!("all {count} ports run"),
        1 => format!("{} runs", names()),
        2..=NAMED => format!("{} run", names()),
        count => format!("{count} ports run"),
    }
}

/// The program that a process runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Program {
    /// Its absolute path; of a file that is there no more, where it was.
    pub path: String,
    /// That file is there no more: it was removed, or another one is in its place.
    pub replaced: bool,
    /// A start would run the same file.
    pub next: bool,
}

/// One supervised process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct UnitStatus {
    /// Its id.
    pub id: UnitId,
    /// Its role.
    pub role: Role,
    /// What others connect to; empty for an encoder.
    pub host: String,
    /// 0 for an encoder.
    pub port: u16,
    /// Where its life cycle stands.
    pub state: UnitState,
    /// Until when, and who is left, while it takes nobody any more since it is out of the file or listens elsewhere in it; `None` of any
    /// other.
    #[serde(default)]
    pub draining: Option<Draining>,
    /// What the probes say.
    pub health: Health,
    /// Why the health is what it is, or what the state waits for; empty when all is well.
    pub note: String,
    /// Process id while there is a process: of a port, once it is known, that of the worker that serves.
    pub pid: Option<u32>,
    /// Process id of the keeper of a port, which starts its workers; `None` while it is not known, and of an encoder.
    #[serde(default)]
    pub keeper_pid: Option<u32>,
    /// Milliseconds since the process started.
    pub uptime_ms: Option<u64>,
    /// Starts after the first that were not asked for, since this supervisor started.
    pub restarts: u32,
    /// Workers that have died and whose connections went on with the next one, since this supervisor started; of a port that it took over,
    /// since the port was started. Apart from `restarts`.
    #[serde(default)]
    pub resumed: u32,
    /// Workers that have made place for another one, which went on with their connections, as a restart asks for. Counted as `resumed` is, and
    /// apart from it.
    #[serde(default)]
    pub renewed: u32,
    /// Times that a worker was followed by one that used nothing of what it left, or that its port was restarted so (`--cold`): whoever was connected had to
    /// connect again, to a port that never closed. Since this supervisor started; of a port that it took over, beside that whether the
    /// worker of then is such a one. Apart from the counts before.
    #[serde(default)]
    pub cold_starts: u32,
    /// Connections that were lost with a process or worker that ended, counted as `resumed` is.
    #[serde(default)]
    pub lost: u64,
    /// The version of what serves, as it says itself.
    #[serde(default)]
    pub version: Option<String>,
    /// The program that it runs, of a port its keeper; `None` where the system does not tell.
    #[serde(default)]
    pub program: Option<Program>,
    /// How the last process ended, or the last worker that the port has outlived, e.g. `killed by SIGKILL 12s ago`; `None` if none has ended.
    pub last_exit: Option<LastExit>,
    /// The newest report of the process; `None` before the first.
    pub stats: Option<ProcessStats>,
    /// Milliseconds since that report was received: what is old is never shown as current.
    pub stats_age_ms: Option<u64>,
    /// Absolute path of the config file it was started with.
    pub config: String,
    /// Absolute path of its log.
    pub log: String,
}

impl Status {
    /// Whether all has come that comes behind a start: the first report of each worker, each stream at each edge and, where the cluster has an
    /// encoder, its stream on every port.
    #[must_use]
    pub fn is_settled(&self, has_encoder: bool) -> bool {
        let has_reported = self.units.iter().all(|unit| unit.stats.is_some());
        let mut publishing = self.streams.iter().filter(|row| row.publishing);
        let live = publishing.clone().filter(|row| row.video_codec.is_some()).count();
        let is_forwarded = publishing.all(|row| row.to_edges().all(|it| it.state == ForwardState::Live));
        let ports = self.units.iter().filter(|unit| unit.port != 0).count();
        has_reported && is_forwarded && (!has_encoder || live >= ports)
    }
}

impl UnitStatus {
    /// Of a unit of which nothing is told but where it stands.
    #[must_use]
    pub fn unheard(id: UnitId, state: UnitState) -> Self {
        let (role, host, port) = id.parts();
        Self {
            role,
            host: host.to_owned(),
            port,
            state,
            draining: None,
            health: Health::Unknown,
            note: String::new(),
            pid: None,
            keeper_pid: None,
            uptime_ms: None,
            restarts: 0,
            resumed: 0,
            renewed: 0,
            cold_starts: 0,
            lost: 0,
            version: None,
            program: None,
            last_exit: None,
            stats: None,
            stats_age_ms: None,
            config: String::new(),
            log: String::new(),
            id,
        }
    }
}

/// A port that takes nobody any more, and who is left there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Draining {
    /// Milliseconds until whoever is left is told and closed; `None`: it goes on until nobody is left, since nobody has consented to
    /// more.
    pub left_ms: Option<u64>,
    /// Players that are left; `None` while it has not said so.
    pub players: Option<u32>,
    /// Encoders that are left, without that of the cluster, which goes where the origin goes.
    pub encoders: Option<u32>,
    /// It is started elsewhere then; else it is removed.
    pub moves: bool,
}

/// For a person.
impl fmt::Display for Draining {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whom = match (self.players, self.encoders) {
            (Some(0), Some(0)) => "nobody is left".to_owned(),
            (players, encoders) => format!("left: {}", whom(players, encoders)),
        };
        let then = if self.moves { "it moves" } else { "it is closed" };
        match self.left_ms {
            Some(ms) => write!(f, "takes nobody any more, {whom}; {then} in {} s", ms.div_ceil(1_000)),
            None => write!(f, "takes nobody any more, {whom}; {then} when nobody is, or by srsctl up --yes"),
        }
    }
}

/// How a process ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastExit {
    /// `exit 1`, `killed by SIGKILL`, `ended while no supervisor ran`, ….
    pub how: String,
    /// Milliseconds since.
    pub ago_ms: u64,
}

/// Where a unit's life cycle stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UnitState {
    /// Not wanted, no process.
    Stopped,
    /// Process spawned, not ready yet.
    Starting,
    /// Ready: answers on its control socket and took an RTMP connect.
    Running,
    /// Runs, and takes nobody any more: it leaves the cluster, or moves. [`UnitStatus::draining`] says more.
    Draining,
    /// Told to stop, not gone yet.
    Stopping,
    /// Died; waiting before the next start.
    Backoff,
    /// Dies again and again; still being restarted, slowly.
    Flapping,
    /// Will not be started again without a change: bad config or missing binary.
    Failed,
    /// A process holds this unit's lock that cannot be proved to be ours: nothing is done to it. Of a cluster on several machines also:
    /// its machine, or the supervisor there, does not answer. Or a state of a newer supervisor.
    #[serde(other)]
    Unknown,
}

/// What the probes say of a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Health {
    /// All rungs pass.
    Passing,
    /// Serves, but something needs a look: a stale stream, a full port, a forward that is not live.
    Warning,
    /// Does not do what it exists for: an edge lacks a live stream, an encoder cannot publish, players cannot reach the port.
    Critical,
    /// Nothing is known yet, or any more.
    Unknown,
}

/// One stream on one port: the guide's table "URL, server, port, connections", and what it lacks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StreamRow {
    /// The unit that serves it.
    pub unit: UnitId,
    /// Play URL on this port.
    pub url: String,
    /// The server.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// `app/stream`.
    pub stream: String,
    /// Whether it is being published now.
    pub publishing: bool,
    /// Players of it.
    pub connections: u32,
    /// bits/s.
    #[serde(rename = "bitrate_bps")]
    pub bitrate: u64,
    /// Video codec, once known.
    pub video_codec: Option<String>,
    /// Audio codec, once known.
    pub audio_codec: Option<String>,
    /// Milliseconds since its last frame, as of now.
    pub last_frame_age_ms: Option<u64>,
    /// One entry a forward target; empty on an edge.
    pub forwards: Vec<ForwardStats>,
}

impl StreamRow {
    /// The forwards to edges of the cluster.
    pub fn to_edges(&self) -> impl Iterator<Item = &ForwardStats> {
        self.forwards.iter().filter(|forward| forward.outbound().is_none())
    }

    /// The forwards beyond the edges, with the names of their targets.
    pub fn beyond(&self) -> impl Iterator<Item = (&str, &ForwardStats)> {
        self.forwards.iter().filter_map(|forward| Some((forward.outbound()?, forward)))
    }
}
