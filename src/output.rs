//! A cluster's status as a person reads it: pure functions from [`Status`] to text.

mod document;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use cluster::stats::ForwardState;
use cluster::status::{Health, Status, StreamRow, UnitState, UnitStatus, who_runs};
use cluster::{Role, UnitId};
use supervisor::orphans::Remnant;

pub(crate) use self::document::{Document, MachineRow};
use crate::table::{Cell, Column, Look, Paper, Table};

/// A report older than this is not shown as current, ms.
const STALE_AFTER: u64 = 3_000;
/// A clock that differs by more than this is told of, ms.
const SKEW_SHOWN: i64 = 1_000;
/// Columns that a stream's name may take in a sentence about forwards.
const NAME_COLUMNS: usize = 40;
/// Columns that a word of a note may take: names of streams stand in them, and paths, most of which fit.
const WORD_COLUMNS: usize = 80;

/// The whole status: two lines for the cluster, a table of processes with what is to be said of them, a table of streams with
/// what is wrong with their forwards.
pub(crate) fn status(status: &Status, paper: Paper) -> String {
    let supervisor =
        format!("supervisor pid {} up {}", status.supervisor_pid, duration(status.supervisor_uptime_ms));
    let summary = summary(status, true, &supervisor, paper);
    let (units, programs) = (units(status, paper), programs(status, paper));
    format!("{summary}\n\n{units}{programs}\n{}", all_streams(status, paper))
}

/// The status of a cluster on several machines: the same, with a line for each machine in place of one for the supervisor.
pub(crate) fn several(status: &Status, rows: &[MachineRow], paper: Paper) -> String {
    let reached = rows.iter().filter(|row| row.state == "supervised").count();
    let all = format!("machines {reached}/{}", rows.len());
    let summary = summary(status, reached == rows.len(), &all, paper);
    let (machines, units) = (machines(rows, paper), units(status, paper));
    format!("{summary}\n\n{machines}\n{units}\n{}", all_streams(status, paper))
}

/// A line for each machine, and what is to be said of it.
fn machines(rows: &[MachineRow], paper: Paper) -> String {
    let mut table = Table::new([
        Column::Yielding("MACHINE"),
        Column::Left("STATE"),
        Column::Right("SUPERVISOR"),
        Column::Right("UP"),
        Column::Left("VERSION"),
        Column::Right("CLOCK"),
    ]);
    let mut notes = String::new();
    for row in rows {
        let look = if row.state == "supervised" { Look::Plain } else { Look::Wrong };
        let skew = row.clock_skew_ms.filter(|skew| skew.abs() > SKEW_SHOWN);
        table.row([
            row.host.as_str().into(),
            Cell::new(row.state, look),
            number(row.supervisor_pid).into(),
            row.supervisor_uptime_ms.map_or_else(none, duration).into(),
            row.version.clone().unwrap_or_else(none).into(),
            match skew {
                Some(skew) => {
                    let sign = if skew > 0 { "+" } else { "-" };
                    Cell::new(format!("{sign}{}", duration(skew.unsigned_abs())), Look::Warning)
                }
                None => none().into(),
            },
        ]);
        if let Some(reason) = &row.reason {
            let known = match row.age_ms {
                Some(age) => format!("what is known of it is {} old", duration(age)),
                None => "nothing is known of it".to_owned(),
            };
            let line = format!("{}: {reason}; {known}", row.host);
            let _ = writeln!(notes, "{}", paper.paint(&sentence(&line), look));
        }
    }
    format!("{}{notes}", table.render(paper))
}

/// The streams, and what is wrong with their forwards.
fn all_streams(status: &Status, paper: Paper) -> String {
    if status.streams.is_empty() {
        return "no streams\n".to_owned();
    }
    format!("{}{}{}", streams(status, paper), forwards(status, paper), beyond(status, paper))
}

/// The processes of a cluster whose supervisor does not answer, or was killed, as far as records and locks tell.
pub(crate) fn remnants(remnants: &[Remnant], paper: Paper) -> String {
    let mut table = Table::new([
        Column::Yielding("HOST"),
        Column::Left("ROLE"),
        Column::Right("PORT"),
        Column::Right("PID"),
        Column::Left("PROCESS"),
    ]);
    for remnant in remnants {
        let (role, host, port) = remnant.id.parts();
        let process = if remnant.is_alive { "alive".into() } else { Cell::new("dead", Look::Wrong) };
        table.row([
            dash(host).into(),
            role.as_str().into(),
            port_number(port).into(),
            number(remnant.pid).into(),
            process,
        ]);
    }
    table.render(paper)
}

fn summary(status: &Status, is_whole: bool, who: &str, paper: Paper) -> String {
    let (word, look) =
        if is_whole && exit_code(status) == 0 { ("ready", Look::Plain) } else { ("NOT READY", Look::Wrong) };
    let mut text = format!("cluster {}  {}", status.cluster, paper.paint(word, look));
    let units = status.units.iter().filter(|unit| unit.health == Health::Warning).count();
    match units + status.warnings.len() {
        0 => {}
        1 => text.push_str(&format!(", {}", paper.paint("1 warning", Look::Warning))),
        number => text.push_str(&format!(", {}", paper.paint(&format!("{number} warnings"), Look::Warning))),
    }
    text.push(':');
    for role in [Role::Origin, Role::Edge, Role::Encoder] {
        let units: Vec<_> = status.units.iter().filter(|u| u.role == role && is_wanted(u)).collect();
        if !units.is_empty() {
            let ready = units.iter().filter(|unit| is_ready(unit)).count();
            let name = if role == Role::Edge { "edges" } else { role.as_str() };
            let _ = write!(text, " {name} {ready}/{}", units.len());
        }
    }
    match status.units.iter().filter(|unit| !is_wanted(unit)).count() {
        0 => {}
        draining => text.push_str(&format!("; draining {draining}")),
    }
    let players: u32 = status.units.iter().filter_map(|u| u.stats.as_ref()).map(|s| s.players).sum();
    let _ = write!(text, "\nplayers {players}  {who}");
    if let Some(busy) = &status.busy {
        let _ = write!(text, "\n{}", paper.paint(&format!("the supervisor is busy: {busy}"), Look::Warning));
    }
    for warning in &status.warnings {
        let _ = write!(text, "\n{}", paper.paint(&sentence(&format!("WARNING: {warning}")), Look::Warning));
    }
    text
}

fn units(status: &Status, paper: Paper) -> String {
    let mut table = Table::new([
        Column::Yielding("HOST"),
        Column::Left("ROLE"),
        Column::Right("PORT"),
        Column::Left("STATE"),
        Column::Left("HEALTH"),
        Column::Right("UPTIME"),
        Column::Right("RESTARTS"),
        Column::Right("CONN"),
        Column::Right("PID"),
    ]);
    let mut notes = String::new();
    for unit in &status.units {
        table.row([
            dash(&unit.host).into(),
            unit.role.to_string().into(),
            port_number(unit.port).into(),
            Cell::new(state(unit.state), look_of_state(unit.state)),
            Cell::new(health(unit.health), look_of_health(unit.health)),
            unit.uptime_ms.map_or_else(none, duration).into(),
            unit.restarts.to_string().into(),
            connections(unit).into(),
            number(unit.pid).into(),
        ]);
        if !unit.note.is_empty() {
            let look = look_of_health(unit.health).max(look_of_state(unit.state));
            let _ =
                writeln!(notes, "{}", paper.paint(&sentence(&format!("{}: {}", unit.id, unit.note)), look));
        }
        if unit.resumed > 0 {
            let (id, resumed) = (&unit.id, unit.resumed);
            let text = match resumed {
                1 => format!("{id}: resumed once: the port outlived a worker that died"),
                _ => format!("{id}: resumed {resumed} times: the port outlived workers that died"),
            };
            let _ = writeln!(notes, "{}", paper.paint(&sentence(&text), Look::Plain));
        }
        if unit.renewed > 0 {
            let times = if unit.renewed == 1 { "once".to_owned() } else { format!("{} times", unit.renewed) };
            // What a start anew has cost is not counted here.
            let kept =
                if unit.lost == 0 && unit.restarts == 0 { ", and its connections went on" } else { "" };
            let text = format!("{}: restarted {times}{kept}", unit.id);
            let _ = writeln!(notes, "{}", paper.paint(&sentence(&text), Look::Plain));
        }
        if unit.cold_starts > 0 {
            let times = match unit.cold_starts {
                1 => "once".to_owned(),
                times => format!("{times} times"),
            };
            let text = format!("{}: started cold {times}: all had to connect again", unit.id);
            let _ = writeln!(notes, "{}", paper.paint(&sentence(&text), Look::Plain));
        }
        if unit.lost > 0 {
            let text = format!("{}: connections lost with what ended: {}", unit.id, unit.lost);
            let _ = writeln!(notes, "{}", paper.paint(&sentence(&text), Look::Plain));
        }
        if let Some(exit) = &unit.last_exit {
            let text = format!("{}: last exit: {}, {} ago", unit.id, exit.how, duration(exit.ago_ms));
            let _ = writeln!(notes, "{}", paper.paint(&sentence(&text), Look::Plain));
        }
    }
    table.render(paper) + &notes
}

/// A line for each program that ports run and a start would not run, and how they all run that.
fn programs(status: &Status, paper: Paper) -> String {
    let ports: Vec<&UnitStatus> = status.units.iter().filter(|unit| unit.role != Role::Encoder).collect();
    let mut others: BTreeMap<(&str, bool, Option<&str>), Vec<&UnitId>> = BTreeMap::new();
    for unit in &ports {
        if let Some(program) = unit.program.as_ref().filter(|program| !program.next) {
            let program = (program.path.as_str(), program.replaced, unit.version.as_deref());
            others.entry(program).or_default().push(&unit.id);
        }
    }
    let (Some(next), false) = (&status.next_program, others.is_empty()) else { return String::new() };
    let mut text = String::new();
    let mut line = |line: String| {
        let _ = writeln!(text, "{}", paper.paint(&sentence(&line), Look::Warning));
    };
    for ((path, replaced, version), units) in others {
        let who = who_runs(&units, ports.len());
        let version = version.map(|version| format!(" {version}")).unwrap_or_default();
        let replaced = if replaced { ", which has been replaced or removed since" } else { "" };
        line(format!("{who} srsctl{version} from {path}{replaced}"));
    }
    if status.busy.is_some() {
        // What is under way may be just that.
        return text;
    }
    let as_next = ports.iter().filter(|unit| unit.program.as_ref().is_some_and(|program| program.next));
    let as_next: Vec<&UnitStatus> = as_next.copied().collect();
    let who = match (as_next.as_slice(), as_next.first().and_then(|unit| unit.version.as_deref())) {
        ([], _) | (_, None) => format!("a start runs {next}"),
        ([_], Some(version)) => format!("a start, as the other port, runs srsctl {version} from {next}"),
        (others, Some(version)) => {
            format!("a start, as the other {} ports, runs srsctl {version} from {next}", others.len())
        }
    };
    if status.next_program_removed {
        line(format!("{who}, whose file has been removed"));
        return text;
    }
    line(format!("{who}: srsctl upgrade --bin {next} has all ports run it"));
    text
}

/// `text` on one line, and no word of it longer than a line of a terminal.
fn sentence(text: &str) -> String {
    text.split(' ').map(|word| text::fit(word, WORD_COLUMNS)).collect::<Vec<_>>().join(" ")
}

fn streams(status: &Status, paper: Paper) -> String {
    let mut table = Table::new([
        Column::Yielding("URL"),
        Column::Right("CONN"),
        Column::Right("KBIT/S"),
        Column::Left("CODEC"),
        Column::Right("FWD"),
        Column::Left("LAST FRAME"),
    ]);
    for row in &status.streams {
        table.row([
            row.url.as_str().into(),
            row.connections.to_string().into(),
            if row.publishing && row.bitrate > 0 { (row.bitrate / 1000).to_string() } else { none() }.into(),
            codecs(row).into(),
            forwarded(status, row),
            last_frame(status, row),
        ]);
    }
    table.render(paper)
}

/// At how many of its edge ports a stream arrives.
fn forwarded(status: &Status, row: &StreamRow) -> Cell {
    let all = row.to_edges().count();
    if all == 0 || !row.publishing || stale(status, row).is_some() {
        return none().into();
    }
    let live = row.to_edges().filter(|forward| forward.state == ForwardState::Live).count();
    Cell::new(format!("{live}/{all}"), if live == all { Look::Plain } else { Look::Wrong })
}

fn last_frame(status: &Status, row: &StreamRow) -> Cell {
    match row.last_frame_age_ms {
        _ if stale(status, row).is_some() => Cell::new(stale(status, row).unwrap_or_default(), Look::Warning),
        Some(age) if row.publishing => format!("{} ago", duration(age)).into(),
        Some(age) => format!("ended {} ago", duration(age)).into(),
        None if row.publishing => Cell::new("none yet", Look::Warning),
        None => "no publisher".into(),
    }
}

/// What to show instead of figures that are too old to be true now.
fn stale(status: &Status, row: &StreamRow) -> Option<String> {
    let age = status.units.iter().find(|unit| unit.id == row.unit)?.stats_age_ms?;
    (age > STALE_AFTER).then(|| format!("no report for {}", duration(age)))
}

/// A line for each edge port that a stream does not reach: an edge that is gone is one cause for all streams.
fn forwards(status: &Status, paper: Paper) -> String {
    let mut failing: BTreeMap<String, Vec<(&StreamRow, &cluster::stats::ForwardStats)>> = BTreeMap::new();
    for row in status.streams.iter().filter(|row| row.publishing && stale(status, row).is_none()) {
        for forward in row.to_edges().filter(|forward| forward.state != ForwardState::Live) {
            let target = cluster::spec::host_port(&forward.target.host, forward.target.port);
            failing.entry(target).or_default().push((row, forward));
        }
    }
    let mut text = String::new();
    for (target, forwards) in failing {
        let Some((row, forward)) = forwards.first() else { continue };
        let others = match forwards.len() - 1 {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let why = forward.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
        let (state, stream) = (forward_state(forward.state), text::fit(&row.stream, NAME_COLUMNS));
        let line = format!("forward to {target}: {state}: {stream}{others}{why}");
        let is_new = forwards.iter().all(|(_, forward)| forward.state == ForwardState::Connecting);
        let look = if is_new { Look::Warning } else { Look::Wrong };
        let _ = writeln!(text, "{}", paper.paint(&line, look));
    }
    text
}

/// A line for each target beyond the edges and state: which streams are in it, how far behind, and why.
fn beyond(status: &Status, paper: Paper) -> String {
    let mut found: BTreeMap<(&str, &str), Vec<(&StreamRow, &cluster::stats::ForwardStats)>> = BTreeMap::new();
    for row in status.streams.iter().filter(|row| row.publishing && stale(status, row).is_none()) {
        for (name, forward) in row.beyond() {
            found.entry((name, forward_state(forward.state))).or_default().push((row, forward));
        }
    }
    let mut text = String::new();
    for ((name, state), forwards) in found {
        let Some((row, forward)) = forwards.first() else { continue };
        let others = match forwards.len() - 1 {
            0 => String::new(),
            n => format!(" and {n} more"),
        };
        let is_well = matches!(forward.state, ForwardState::Live | ForwardState::Idle);
        let is_new =
            forwards.iter().all(|(_, it)| it.state == ForwardState::Connecting && it.last_error.is_none());
        let slowest = forwards.iter().filter_map(|(_, forward)| forward.lag_ms).max();
        let more = match (&forward.last_error, slowest) {
            (Some(error), _) if !is_well => format!(": {error}"),
            (_, Some(lag)) if is_well => format!(", {} behind", duration(lag)),
            _ => String::new(),
        };
        let (url, stream) = (forward.url.as_deref().unwrap_or("-"), text::fit(&row.stream, NAME_COLUMNS));
        let line = format!("forward to {name} ({url}): {state}: {stream}{others}{more}");
        let look = if is_well || is_new { Look::Plain } else { Look::Warning };
        let _ = writeln!(text, "{}", paper.paint(&sentence(&line), look));
    }
    text
}

/// Where to publish and where to play `stream`.
pub(crate) fn urls(cluster: &cluster::Cluster, stream: &str) -> String {
    let mut text = String::new();
    for origin in &cluster.origins {
        let _ = writeln!(text, "publish  {}", origin.url(stream));
    }
    for edge in &cluster.edges {
        let _ = writeln!(text, "play     {}", edge.url(stream));
    }
    text
}

/// `12s`, `3m04s`, `5h12m`, `3d04h`.
pub(crate) fn duration(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0 => format!("{ms}ms"),
        1..60 => format!("{s}s"),
        60..3_600 => format!("{}m{:02}s", s / 60, s % 60),
        3_600..86_400 => format!("{}h{:02}m", s / 3_600, s % 3_600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3_600),
    }
}

/// `0.4 ms`, `12 ms`.
pub(crate) fn delay(delay: Duration) -> String {
    let ms = delay.as_secs_f64() * 1000.0;
    if ms < 10.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

fn codecs(row: &StreamRow) -> String {
    let codecs: Vec<_> =
        [&row.video_codec, &row.audio_codec].into_iter().flatten().map(String::as_str).collect();
    dash(&codecs.join("+"))
}

fn connections(unit: &UnitStatus) -> String {
    match (&unit.stats, unit.stats_age_ms) {
        (Some(_), _) if unit.role == Role::Encoder => none(),
        (Some(stats), Some(age)) if age <= STALE_AFTER => stats.connections.to_string(),
        (Some(stats), Some(_)) => format!("{}?", stats.connections),
        _ => none(),
    }
}

/// The word for a unit's state, as in the JSON document.
pub(crate) fn state(state: UnitState) -> &'static str {
    match state {
        UnitState::Stopped => "stopped",
        UnitState::Starting => "starting",
        UnitState::Running => "running",
        UnitState::Draining => "draining",
        UnitState::Stopping => "stopping",
        UnitState::Backoff => "backoff",
        UnitState::Flapping => "flapping",
        UnitState::Failed => "failed",
        UnitState::Unknown => "unknown",
    }
}

fn health(health: Health) -> &'static str {
    match health {
        Health::Passing => "passing",
        Health::Warning => "warning",
        Health::Critical => "critical",
        Health::Unknown => "-",
    }
}

fn forward_state(state: ForwardState) -> &'static str {
    match state {
        ForwardState::Connecting => "connecting",
        ForwardState::Live => "live",
        ForwardState::Stalled => "stalled",
        ForwardState::Backoff => "backoff",
        ForwardState::Idle => "idle",
    }
}

fn look_of_state(state: UnitState) -> Look {
    match state {
        UnitState::Running | UnitState::Stopped => Look::Plain,
        UnitState::Starting | UnitState::Draining | UnitState::Stopping => Look::Warning,
        UnitState::Backoff | UnitState::Flapping | UnitState::Failed | UnitState::Unknown => Look::Wrong,
    }
}

fn look_of_health(health: Health) -> Look {
    match health {
        Health::Passing | Health::Unknown => Look::Plain,
        Health::Warning => Look::Warning,
        Health::Critical => Look::Wrong,
    }
}

fn port_number(port: u16) -> String {
    if port == 0 { none() } else { port.to_string() }
}

fn number(number: Option<u32>) -> String {
    number.map_or_else(none, |number| number.to_string())
}

fn none() -> String {
    "-".to_owned()
}

fn dash(text: &str) -> String {
    if text.is_empty() { none() } else { text.to_owned() }
}

/// How well the cluster stands, as an exit code: 0 all wanted is ready, 3 something is not, 4 something cannot be told.
pub(crate) fn exit_code(status: &Status) -> u8 {
    // A process that is said to run and has never answered may be frozen.
    let is_unknown = |unit: &UnitStatus| {
        unit.state == UnitState::Unknown || unit.state == UnitState::Running && unit.health == Health::Unknown
    };
    if status.units.iter().any(is_unknown) {
        return 4;
    }
    u8::from(waiting(status) > 0) * 3
}

/// How many of those that are wanted are not ready.
pub(crate) fn waiting(status: &Status) -> usize {
    status.units.iter().filter(|unit| is_wanted(unit) && !is_ready(unit)).count()
}

/// Whether a unit is to go on: it is not being taken out of the cluster.
pub(crate) fn is_wanted(unit: &UnitStatus) -> bool {
    unit.draining.as_ref().is_none_or(|draining| draining.moves)
}

/// Whether a unit does what it exists for.
fn is_ready(unit: &UnitStatus) -> bool {
    unit.state == UnitState::Running && unit.health != Health::Critical
}

#[cfg(test)]
mod tests;
