//! The document of `status --json`.

use cluster::status::{SCHEMA, Status, StreamRow, UnitState, UnitStatus};
use serde::Serialize;
use supervisor::ClusterDirs;
use supervisor::orphans::Remnant;

/// The document of `status --json`, srsctl/status/v1: [`Status`] and what it cannot say of a cluster without a supervisor. It
/// has the same fields in every state; changes only add.
#[derive(Debug, Serialize)]
pub(crate) struct Document {
    schema: String,
    cluster: String,
    /// `supervised`; `not-running`; `unsupervised`: processes go on without a supervisor; `unknown`: it does not answer.
    state: &'static str,
    /// For a person, why there are no figures; null under a supervisor that answers.
    reason: Option<String>,
    supervisor_pid: Option<u32>,
    supervisor_uptime_ms: Option<u64>,
    file: Option<String>,
    units: Vec<UnitStatus>,
    streams: Vec<StreamRow>,
    warnings: Vec<String>,
    busy: Option<String>,
    next_program: Option<String>,
    next_program_removed: bool,
    /// Of a cluster on several machines each of them; then what is said of one supervisor is null.
    machines: Vec<MachineRow>,
}

impl From<Status> for Document {
    fn from(status: Status) -> Self {
        let Status {
            schema,
            cluster,
            supervisor_pid,
            supervisor_uptime_ms,
            file,
            units,
            streams,
            warnings,
            busy,
            next_program,
            next_program_removed,
        } = status;
        Self {
            schema,
            cluster,
            state: "supervised",
            reason: None,
            supervisor_pid: Some(supervisor_pid),
            supervisor_uptime_ms: Some(supervisor_uptime_ms),
            file: Some(file),
            units,
            streams,
            warnings,
            busy,
            next_program,
            next_program_removed,
            machines: Vec::new(),
        }
    }
}

impl Document {
    /// Of a cluster on several machines.
    pub(crate) fn of_machines(status: Status, machines: Vec<MachineRow>) -> Self {
        let states = ["unknown", "unreachable", "not-running"];
        let worst = states.into_iter().find(|state| machines.iter().any(|row| row.state == *state));
        let reason = machines.iter().find_map(|row| Some(format!("{}: {}", row.host, row.reason.as_ref()?)));
        Self {
            // One that cannot be reached may be well.
            state: match worst {
                Some("not-running") => "not-running",
                Some(_) => "unknown",
                None => "supervised",
            },
            reason,
            supervisor_pid: None,
            supervisor_uptime_ms: None,
            machines,
            ..Self::from(status)
        }
    }

    /// Where no supervisor answers.
    pub(crate) fn without_supervisor(
        dirs: &ClusterDirs,
        state: &'static str,
        reason: String,
        remnants: Vec<Remnant>,
    ) -> Self {
        let note = if state == "unknown" { "the supervisor does not answer" } else { "no supervisor runs" };
        Self {
            schema: SCHEMA.to_owned(),
            cluster: dirs.name().to_owned(),
            state,
            reason: Some(reason),
            supervisor_pid: dirs.is_supervised().then(|| dirs.supervisor_pid()).flatten(),
            supervisor_uptime_ms: None,
            file: dirs.in_force().ok().flatten().map(|(path, _)| path.display().to_string()),
            units: remnants.into_iter().map(|remnant| unit_of(remnant, dirs, note)).collect(),
            streams: Vec::new(),
            warnings: Vec::new(),
            busy: None,
            next_program: None,
            next_program_removed: false,
            machines: Vec::new(),
        }
    }
}

/// What records and locks tell of a process that nobody supervises.
fn unit_of(Remnant { id, pid, is_alive }: Remnant, dirs: &ClusterDirs, note: &str) -> UnitStatus {
    let state = if is_alive { UnitState::Unknown } else { UnitState::Stopped };
    UnitStatus {
        note: note.to_owned(),
        pid: pid.filter(|_| is_alive),
        config: dirs.config(&id).display().to_string(),
        log: dirs.log(&id).display().to_string(),
        ..UnitStatus::unheard(id, state)
    }
}

/// A machine in the documents and tables of a status.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct MachineRow {
    /// Its name: the first of its hosts.
    pub(crate) host: String,
    /// All of them.
    pub(crate) hosts: Vec<String>,
    /// `supervised`, `not-running`, `unreachable`; `unknown`: it is reached, and its supervisor does not answer.
    pub(crate) state: &'static str,
    /// Why there are no figures, for a person.
    pub(crate) reason: Option<String>,
    /// How old is what is known of it, where it does not answer.
    pub(crate) age_ms: Option<u64>,
    /// How far its clock is before that of this machine.
    pub(crate) clock_skew_ms: Option<i64>,
    /// Of srsctl there.
    pub(crate) version: Option<String>,
    pub(crate) supervisor_pid: Option<u32>,
    pub(crate) supervisor_uptime_ms: Option<u64>,
}
