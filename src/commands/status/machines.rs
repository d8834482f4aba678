//! The status of a cluster on several machines: what each supervisor says, as one, and a line for each machine. What is known of one that
//! cannot be reached is what it said last, and how long ago that was.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use cluster::Cluster;
use cluster::status::{SCHEMA, Status, UnitState, UnitStatus};
use serde::{Deserialize, Serialize};
use supervisor::ClientError;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::failure::code;
use crate::fleet::operation::{Look, Operation};
use crate::fleet::serve::clock_ms;
use crate::fleet::{Fleet, Place};
use crate::output::{self, MachineRow};
use crate::table::Paper;

/// How long the first reports, the encoder's first frames and forwards may take before `up` shows what there is.
pub(crate) const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// How often it looks.
const SETTLE_POLL: Duration = Duration::from_millis(200);
/// Bytes that are read of what was known, at most.
const MAX_SEEN: u64 = 32 << 20;

/// What is known of all machines.
#[derive(Debug)]
pub(crate) struct Seen {
    status: Status,
    rows: Vec<MachineRow>,
}

/// What a machine said last.
#[derive(Serialize, Deserialize)]
struct Known {
    at_ms: u64,
    status: Status,
}

impl Seen {
    /// What all supervisors that answer say, as one.
    pub(crate) fn status(&self) -> &Status {
        &self.status
    }

    /// For a person.
    pub(crate) fn render(&self, paper: Paper) -> String {
        output::several(&self.status, &self.rows, paper)
    }

    /// For programs.
    pub(crate) fn document(self) -> output::Document {
        output::Document::of_machines(self.status, self.rows)
    }

    /// What `status` ends with.
    pub(crate) fn exit_code(&self) -> u8 {
        if self.rows.iter().any(|row| matches!(row.state, "unreachable" | "unsupervised")) {
            return code::CANNOT_TELL;
        }
        if self.rows.iter().any(|row| row.state != "supervised") {
            return code::NOT_READY;
        }
        output::exit_code(&self.status)
    }
}

/// Asks all machines of a fleet that was reached.
pub(crate) async fn look(fleet: &Fleet) -> Seen {
    let mut tasks = JoinSet::new();
    for (index, place) in fleet.places().iter().enumerate() {
        let (client, place, name) = (fleet.client(place), place.clone(), fleet.name().to_owned());
        tasks.spawn(async move {
            let said = match place.problem() {
                Some(problem) => Err(Silent::Unreachable(problem.cause())),
                None => match client.status().await {
                    Ok(status) => Ok(status),
                    Err(ClientError::NotRunning { .. }) => Err(without_supervisor(&place, name).await),
                    Err(error) => Err(Silent::Unknown(error.to_string())),
                },
            };
            (index, said)
        });
    }
    let mut said = tasks.join_all().await;
    said.sort_by_key(|(index, _)| *index);
    let name = fleet.name().to_owned();
    let mut status = Status {
        schema: SCHEMA.to_owned(),
        cluster: name,
        supervisor_pid: 0,
        supervisor_uptime_ms: 0,
        file: String::new(),
        units: Vec::new(),
        streams: Vec::new(),
        warnings: Vec::new(),
        busy: None,
        next_program: None,
        next_program_removed: false,
    };
    let mut rows = Vec::new();
    for (place, (_, said)) in fleet.places().iter().zip(said) {
        if place.is_leaving() {
            if said == Err(Silent::NotRunning) {
                continue;
            }
            status
                .warnings
                .push(format!("{place} is not in the file any more, and srsctl up ends what runs there"));
        }
        rows.push(row(fleet, place, said, &mut status));
    }
    Seen { status, rows }
}

/// Why no supervisor of a machine tells of it.
#[derive(Debug, PartialEq, Eq)]
enum Silent {
    /// Nothing of the cluster runs there.
    NotRunning,
    /// Processes go on without one.
    Unsupervised(String),
    /// There is no way to it.
    Unreachable(String),
    /// It does not answer.
    Unknown(String),
}

/// Whether processes go on where no supervisor runs.
async fn without_supervisor(place: &Place, cluster: String) -> Silent {
    let look = place.ask::<Look>(&Operation::Look { cluster }, &[]).await;
    let living = look.map_or(0, |look| look.living);
    let them = match living {
        0 => return Silent::NotRunning,
        1 => "1 process goes on".to_owned(),
        living => format!("{living} processes go on"),
    };
    Silent::Unsupervised(format!("no supervisor runs, but {them}; srsctl up takes over what runs"))
}

/// Adds what a machine said to the whole.
fn row(fleet: &Fleet, place: &Place, said: Result<Status, Silent>, whole: &mut Status) -> MachineRow {
    let mut row = MachineRow {
        host: place.to_string(),
        hosts: place.hosts().to_vec(),
        state: "supervised",
        reason: None,
        age_ms: None,
        clock_skew_ms: place.skew_ms(),
        version: place.hello().map(|hello| hello.version.clone()),
        supervisor_pid: None,
        supervisor_uptime_ms: None,
    };
    let file = seen_file(fleet, place);
    match said {
        Ok(status) => {
            let known = Known { at_ms: clock_ms(), status };
            if let (Some(file), Ok(text)) = (&file, serde_json::to_vec(&known)) {
                keep(file, &text);
            }
            let status = known.status;
            row.supervisor_pid = Some(status.supervisor_pid);
            row.supervisor_uptime_ms = Some(status.supervisor_uptime_ms);
            if whole.file.is_empty() {
                whole.file = status.file;
            }
            whole.units.extend(status.units);
            whole.streams.extend(status.streams);
            whole.warnings.extend(status.warnings.iter().map(|warning| format!("{place}: {warning}")));
            let busy = status.busy.map(|busy| format!("{place}: {busy}"));
            whole.busy = whole.busy.take().or(busy);
        }
        Err(silent) => {
            let (state, why) = match silent {
                Silent::NotRunning => {
                    row.state = "not-running";
                    whole.units.extend(unheard(place, UnitState::Stopped));
                    return row;
                }
                Silent::Unsupervised(why) => ("unsupervised", why),
                Silent::Unreachable(why) => ("unreachable", why),
                Silent::Unknown(why) => ("unknown", why),
            };
            row.state = state;
            whole.units.extend(unheard(place, UnitState::Unknown));
            let known = file.and_then(|file| read(&file));
            let told = known.as_ref().map(|known| {
                let all = known.status.units.iter().filter(|unit| output::is_wanted(unit)).count();
                let ready = all - output::waiting(&known.status);
                format!("; {ready} of {all} were ready then")
            });
            row.age_ms = known.map(|known| clock_ms().saturating_sub(known.at_ms));
            row.reason = Some(format!("{why}{}", told.unwrap_or_default()));
        }
    }
    row
}

/// The ports of a machine that does not tell of them: they are the cluster's all the same.
fn unheard(place: &Place, state: UnitState) -> impl Iterator<Item = UnitStatus> {
    place.ports().iter().map(move |id| UnitStatus::unheard(id.clone(), state))
}

/// Where is kept what a machine said last; of this machine nothing is.
fn seen_file(fleet: &Fleet, place: &Place) -> Option<PathBuf> {
    place.is_elsewhere().then(|| fleet.lib().join("seen").join(format!("{place}.json")))
}

/// A reader is told all the same where it cannot be kept.
fn keep(file: &PathBuf, text: &[u8]) {
    use std::os::unix::fs::DirBuilderExt as _;
    let Some(directory) = file.parent() else { return };
    let _ = fs::DirBuilder::new().recursive(true).mode(0o700).create(directory);
    let beside = file.with_extension("tmp");
    let _ = fs::write(&beside, text).and_then(|()| fs::rename(&beside, file));
}

fn read(file: &PathBuf) -> Option<Known> {
    fs::metadata(file).ok().filter(|found| found.len() <= MAX_SEEN)?;
    serde_json::from_slice(&fs::read(file).ok()?).ok()
}

/// The same once every worker has reported, each stream is forwarded to each edge and, where the cluster has an encoder, its stream is on
/// every port; or as it is after a while.
pub(crate) async fn settled(fleet: &Fleet, cluster: &Cluster) -> Seen {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let seen = look(fleet).await;
        if seen.status.is_settled(cluster.encoder.is_some()) || Instant::now() >= deadline {
            return seen;
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
}
