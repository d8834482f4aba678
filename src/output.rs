//! A cluster's status as a person reads it: pure functions from [`Status`] to text.

use std::fmt::Write as _;
use std::time::Duration;

use cluster::Role;
use cluster::stats::{ForwardState, ForwardStats};
use cluster::status::{Health, SCHEMA, Status, StreamRow, UnitState, UnitStatus};
use comfy_table::presets::NOTHING;
use comfy_table::{CellAlignment, ContentArrangement, Table};
use supervisor::orphans::Remnant;

/// A report older than this is not shown as current, ms.
const STALE_AFTER: u64 = 3_000;

/// The whole status: two lines for the cluster, a table of processes, of streams, of forwards.
pub(crate) fn status(status: &Status) -> String {
    let mut text = summary(status);
    text.push_str("\n\n");
    text.push_str(&units(status));
    if status.streams.is_empty() {
        text.push_str("\n\nno streams\n");
        return text;
    }
    text.push_str("\n\n");
    text.push_str(&streams(status));
    let forwards: Vec<_> =
        status.streams.iter().flat_map(|row| row.forwards.iter().map(move |f| (row, f))).collect();
    if !forwards.is_empty() {
        text.push_str("\n\n");
        text.push_str(&forward_table(status, &forwards));
    }
    text.push('\n');
    text
}

/// The processes that a killed supervisor left, as far as records and locks tell.
pub(crate) fn remnants(remnants: &[Remnant]) -> String {
    let mut table = new_table(&["HOST", "ROLE", "PORT", "PID", "PROCESS"]);
    for remnant in remnants {
        // role-host-port, or the role alone.
        let mut parts = remnant.id.as_str().splitn(2, '-');
        let role = parts.next().unwrap_or_default();
        let (host, port) = parts.next().and_then(|rest| rest.rsplit_once('-')).unwrap_or(("-", "-"));
        let pid = remnant.pid.map_or_else(none, |pid| pid.to_string());
        table.add_row([host, role, port, &pid, if remnant.is_alive { "alive" } else { "dead" }]);
    }
    narrow(&mut table);
    align_right(&mut table, &[2, 3]);
    finish(table) + "\n"
}

/// The document of `status --json` where no supervisor answers: no figures, but why there are none.
pub(crate) fn no_status(cluster: &str, state: &str, reason: &str) -> serde_json::Value {
    serde_json::json!({
        "schema": SCHEMA, "cluster": cluster, "state": state, "reason": reason, "units": [], "streams": [],
    })
}

fn summary(status: &Status) -> String {
    let word = if exit_code(status) == 0 { "ready" } else { "NOT READY" };
    let mut text = format!("cluster {}  {word}:", status.cluster);
    for role in [Role::Origin, Role::Edge, Role::Encoder] {
        let units: Vec<_> = status.units.iter().filter(|u| u.role == role).collect();
        if !units.is_empty() {
            let ready = units.iter().filter(|unit| is_ready(unit)).count();
            let name = if role == Role::Edge { "edges" } else { role.as_str() };
            let _ = write!(text, " {name} {ready}/{}", units.len());
        }
    }
    let players: u32 = status.units.iter().filter_map(|u| u.stats.as_ref()).map(|s| s.players).sum();
    let _ = write!(
        text,
        "\nplayers {players}  supervisor pid {} up {}",
        status.supervisor_pid,
        duration(status.supervisor_uptime_ms)
    );
    text
}

fn units(status: &Status) -> String {
    let mut table = new_table(&[
        "HOST",
        "ROLE",
        "PORT",
        "STATE",
        "HEALTH",
        "UPTIME",
        "RESTARTS",
        "CONN",
        "PID",
        "LAST EXIT",
    ]);
    let mut notes = String::new();
    for unit in &status.units {
        let exit = unit.last_exit.as_ref();
        table.add_row([
            dash(&unit.host),
            unit.role.to_string(),
            if unit.port == 0 { "-".to_owned() } else { unit.port.to_string() },
            state(unit.state).to_owned(),
            health(unit.health).to_owned(),
            unit.uptime_ms.map_or_else(none, duration),
            unit.restarts.to_string(),
            connections(unit),
            unit.pid.map_or_else(none, |pid| pid.to_string()),
            exit.map_or_else(none, |e| format!("{}, {} ago", e.how, duration(e.ago_ms))),
        ]);
        if !unit.note.is_empty() {
            let _ = write!(notes, "\n{}: {}", unit.id, unit.note);
        }
    }
    narrow(&mut table);
    align_right(&mut table, &[2, 5, 6, 7, 8]);
    finish(table) + &notes
}

fn streams(status: &Status) -> String {
    let mut table = new_table(&["URL", "SERVER", "PORT", "CONN", "BITRATE", "CODEC", "LAST FRAME"]);
    for row in &status.streams {
        table.add_row([
            row.url.clone(),
            row.host.clone(),
            row.port.to_string(),
            row.connections.to_string(),
            if row.publishing && row.bitrate > 0 { bitrate(row.bitrate) } else { none() },
            codecs(row),
            match row.last_frame_age_ms {
                _ if stale(status, row).is_some() => stale(status, row).unwrap_or_default(),
                Some(age) if row.publishing => format!("{} ago", duration(age)),
                Some(age) => format!("{} ago, not published", duration(age)),
                None if row.publishing => "none yet".to_owned(),
                None => "waiting for a publisher".to_owned(),
            },
        ]);
    }
    narrow(&mut table);
    align_right(&mut table, &[2, 3, 4]);
    finish(table)
}

/// What to show instead of figures that are too old to be true now.
fn stale(status: &Status, row: &StreamRow) -> Option<String> {
    let age = status.units.iter().find(|unit| unit.id == row.unit)?.stats_age_ms?;
    (age > STALE_AFTER).then(|| format!("no report for {}", duration(age)))
}

fn forward_table(status: &Status, forwards: &[(&StreamRow, &ForwardStats)]) -> String {
    let mut table = new_table(&["FORWARD", "TO", "STATE", "LAG", "SENT", "RECONNECTS", "LAST ERROR"]);
    for (row, forward) in forwards {
        table.add_row([
            row.stream.clone(),
            cluster::spec::host_port(&forward.target.host, forward.target.port),
            stale(status, row).unwrap_or_else(|| forward_state(forward.state).to_owned()),
            forward.lag_ms.filter(|_| stale(status, row).is_none()).map_or_else(none, |ms| format!("{ms}ms")),
            forward.sent.to_string(),
            forward.reconnects.to_string(),
            forward.last_error.clone().unwrap_or_else(none),
        ]);
    }
    align_right(&mut table, &[3, 4, 5]);
    finish(table)
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

fn bitrate(bits: u64) -> String {
    match bits {
        0..10_000_000 => format!("{} kbit/s", bits / 1000),
        _ => format!("{}.{} Mbit/s", bits / 1_000_000, bits % 1_000_000 / 100_000),
    }
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
        (Some(stats), Some(age)) => format!("{}? ({} old)", stats.connections, duration(age)),
        _ => none(),
    }
}

/// The word for a unit's state, as in the JSON document.
pub(crate) fn state(state: UnitState) -> &'static str {
    match state {
        UnitState::Stopped => "stopped",
        UnitState::Starting => "starting",
        UnitState::Running => "running",
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

fn new_table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header.to_vec());
    table
}

fn align_right(table: &mut Table, columns: &[usize]) {
    for &column in columns {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Leaves one column between two, so that a usual cluster fits a terminal.
fn narrow(table: &mut Table) {
    for column in table.column_iter_mut() {
        column.set_padding((0, 1));
    }
}

/// Without padding at both ends of the lines.
fn finish(table: Table) -> String {
    let lines: Vec<_> =
        table.lines().map(|line| line.strip_prefix(' ').unwrap_or(&line).trim_end().to_owned()).collect();
    lines.join("\n")
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
    u8::from(!status.units.iter().all(is_ready)) * 3
}

fn is_ready(unit: &UnitStatus) -> bool {
    unit.state == UnitState::Running && unit.health != Health::Critical
}

#[cfg(test)]
mod tests {
    use cluster::UnitId;

    use super::*;

    fn guide(state: &str) -> Status {
        let unit = |id: &str, role: &str, host: &str| {
            serde_json::json!({
                "id": id, "role": role, "host": host, "port": 1935, "state": state, "health": "passing", "note": "",
                "pid": 1_234_567, "uptime_ms": 754_000, "restarts": 0, "last_exit": null, "stats": null,
                "stats_age_ms": null, "config": "", "log": "",
            })
        };
        let forward = serde_json::json!({
            "target": { "id": "edge-192.168.1.6-1935", "host": "192.168.1.6", "port": 1935 },
            "state": "live", "lag_ms": 12, "sent": 100, "reconnects": 1, "last_error": "connection refused",
        });
        let stream = serde_json::json!({
            "unit": "edge", "url": "rtmp://192.168.1.6:1935/live/livestream", "host": "192.168.1.6", "port": 1935,
            "stream": "live/livestream", "publishing": true, "connections": 10_240, "bitrate": 9_285_000,
            "video_codec": "h264", "audio_codec": "aac", "last_frame_age_ms": 40, "forwards": [forward],
        });
        let document = serde_json::json!({
            "schema": "srsctl/status/v1", "cluster": "live", "supervisor_pid": 1_234_567,
            "supervisor_uptime_ms": 754_000, "file": "",
            "units": [unit("origin", "origin", "127.0.0.5"), unit("edge", "edge", "127.0.0.6")],
            "streams": [stream],
        });
        serde_json::from_value(document).unwrap()
    }

    #[test]
    fn the_guides_processes_fit_80_columns_and_its_streams_100() {
        let text = status(&guide("running"));
        let mut parts = text.split("\n\n");
        for (part, columns) in [("header", 80), ("processes", 80), ("streams", 100)] {
            for line in parts.next().unwrap().lines() {
                assert!(line.len() <= columns, "{part}: {} columns: {line}", line.len());
            }
        }
    }

    #[test]
    fn a_status_is_a_summary_and_tables() {
        snapbox::assert_data_eq!(
            status(&guide("running")),
            snapbox::str![[r#"
cluster live  ready: origin 1/1 edges 1/1
players 0  supervisor pid 1234567 up 12m34s

HOST      ROLE   PORT STATE   HEALTH  UPTIME RESTARTS CONN     PID LAST EXIT
127.0.0.5 origin 1935 running passing 12m34s        0    - 1234567 -
127.0.0.6 edge   1935 running passing 12m34s        0    - 1234567 -

URL                                     SERVER      PORT  CONN     BITRATE CODEC    LAST FRAME
rtmp://192.168.1.6:1935/live/livestream 192.168.1.6 1935 10240 9285 kbit/s h264+aac 40ms ago

FORWARD          TO                STATE   LAG  SENT  RECONNECTS  LAST ERROR
live/livestream  192.168.1.6:1935  live   12ms   100           1  connection refused

"#]]
        );
    }

    #[test]
    fn the_first_line_says_whether_all_is_ready() {
        assert!(status(&guide("running")).starts_with("cluster live  ready: origin 1/1 edges 1/1\n"));
        assert!(status(&guide("backoff")).starts_with("cluster live  NOT READY: origin 0/1 edges 0/1\n"));
    }

    #[test]
    fn what_a_killed_supervisor_left_is_a_table() {
        let left = [
            Remnant { id: UnitId::worker(Role::Origin, "127.0.0.5", 1935), pid: Some(11), is_alive: true },
            Remnant { id: UnitId::encoder(), pid: None, is_alive: false },
        ];
        snapbox::assert_data_eq!(
            remnants(&left),
            snapbox::str![[r#"
HOST      ROLE    PORT PID PROCESS
127.0.0.5 origin  1935  11 alive
-         encoder    -   - dead

"#]]
        );
    }

    #[test]
    fn a_short_delay_has_a_decimal() {
        let shown = [400, 9_940, 12_300].map(|us| delay(Duration::from_micros(us)));
        assert_eq!(shown, ["0.4 ms", "9.9 ms", "12 ms"]);
    }
}
