//! The status document.

use std::time::{Duration, Instant};

use cluster::Role;
use cluster::spec::ProcessSpec;
use cluster::status::{Health, LastExit, SCHEMA, Status, StreamRow, UnitStatus};

use super::engine::Agent;
use super::supervised::Supervised;
use crate::machine::health::{Facts, assess};
use crate::machine::state::{State, Stop};

impl Agent {
    /// The whole cluster as it is now.
    pub(super) fn status(&self) -> Status {
        let now = Instant::now();
        Status {
            schema: SCHEMA.to_owned(),
            cluster: self.cluster.name.clone(),
            supervisor_pid: std::process::id(),
            supervisor_uptime_ms: millis(now - self.started),
            file: self.path.display().to_string(),
            units: self.units.iter().map(|unit| unit_status(unit, now)).collect(),
            streams: self.units.iter().flat_map(|unit| stream_rows(unit, now)).collect(),
        }
    }
}

fn unit_status(unit: &Supervised, now: Instant) -> UnitStatus {
    let (health, note) = verdict(unit, now);
    let (host, port) =
        unit.port.as_ref().map_or((String::new(), 0), |port| (port.host.name.clone(), port.port));
    UnitStatus {
        id: unit.id.clone(),
        role: unit.role(),
        host,
        port,
        state: unit.machine.status(),
        health,
        note,
        pid: unit.pid(),
        uptime_ms: unit.live.as_ref().map(|live| millis(now - live.started)),
        restarts: unit.machine.restarts(),
        last_exit: unit.machine.last_end().map(|(at, how)| LastExit {
            how: how.to_string(),
            ago_ms: millis(now.saturating_duration_since(*at)),
        }),
        stats: unit.report.as_ref().map(|report| report.process.clone()),
        stats_age_ms: unit.report.as_ref().map(|report| millis(now - report.at)),
        config: unit.config.display().to_string(),
        log: unit.log.display().to_string(),
    }
}

fn verdict(unit: &Supervised, now: Instant) -> (Health, String) {
    match unit.machine.state() {
        State::Running { .. } => {
            let max_connections = match &unit.spec {
                ProcessSpec::Worker(spec) => spec.options.max_connections,
                ProcessSpec::Encoder(_) => 0,
            };
            assess(&Facts {
                role: unit.role(),
                flapping: unit.machine.is_flapping(),
                process: unit.report.as_ref().map(|report| &report.process),
                streams: unit.report.as_ref().map_or(&[], |report| &report.streams),
                report_age: unit.report.as_ref().map(|report| now - report.at),
                max_connections,
                probe: unit.probe.failure(),
                missing: unit.missing.as_ref().map(|(name, since)| (name.as_str(), now - *since)),
            })
        }
        State::Stopped => (Health::Unknown, String::new()),
        State::Starting { .. } => (Health::Unknown, unit.not_ready.clone().unwrap_or_default()),
        State::Stopping { step: Stop::Asked, .. } => (Health::Unknown, "asked to stop".to_owned()),
        State::Stopping { step: Stop::Terminated, .. } => (Health::Unknown, "sent SIGTERM".to_owned()),
        State::Stopping { step: Stop::Killed, .. } => (Health::Unknown, "sent SIGKILL".to_owned()),
        State::Killing { why, .. } => (Health::Critical, format!("sent SIGKILL: {why}")),
        State::Backoff { until } => {
            let wait = until.saturating_duration_since(now).as_secs_f32();
            let how = unit.machine.last_end().map_or_else(String::new, |(_, how)| how.to_string());
            (Health::Critical, format!("{how}; starts again in {wait:.1} s"))
        }
        State::Failed { why } => (Health::Critical, why.clone()),
        State::Unknown { why } => {
            let look = unit.files.alive_lock();
            (Health::Unknown, format!("left alone: {why}; see who holds it: fuser -v {}", look.display()))
        }
    }
}

fn stream_rows(unit: &Supervised, now: Instant) -> Vec<StreamRow> {
    let (Some(port), Some(report)) = (&unit.port, &unit.report) else { return Vec::new() };
    let age = millis(now - report.at);
    let rows = report.streams.iter().map(|stream| StreamRow {
        unit: unit.id.clone(),
        url: port.url(&stream.stream),
        host: port.host.name.clone(),
        port: port.port,
        stream: stream.stream.clone(),
        publishing: stream.publishing,
        connections: stream.players,
        bitrate: stream.bitrate,
        video_codec: stream.video_codec.clone(),
        audio_codec: stream.audio_codec.clone(),
        last_frame_age_ms: stream.last_frame_age_ms.map(|then| then.saturating_add(age)),
        forwards: if unit.role() == Role::Origin { stream.forwards.clone() } else { Vec::new() },
    });
    rows.collect()
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
