//! The status document, and when it is given to those who asked.

use std::path::Path;
use std::time::{Duration, Instant};

use cluster::spec::ProcessSpec;
use cluster::stats::ForwardState;
use cluster::status::{Health, LastExit, SCHEMA, Status, StreamRow, UnitState, UnitStatus};
use cluster::{Role, UnitId};

use super::kernel::Kernel;
use super::member::Member;
use super::reconciler::{Question, Reconciler};
use crate::machine::health::{Facts, Missing, assess};
use crate::machine::state::{State, Stop};

/// For so long `status` waits for processes to report again; one that does not is shown with its last report's age.
pub(super) const REFRESH_LIMIT: Duration = Duration::from_millis(300);
/// The same while one that is ready has never reported: it has just started, or cannot be told.
const FIRST_REPORT_LIMIT: Duration = Duration::from_secs(1);

impl Reconciler {
    /// The whole cluster as it is `now`.
    pub(super) fn status(&self, now: Instant, kernel: &impl Kernel) -> Status {
        let (next_program, is_there) = kernel.next_program();
        Status {
            schema: SCHEMA.to_owned(),
            cluster: self.cluster.name.clone(),
            supervisor_pid: std::process::id(),
            supervisor_uptime_ms: millis(now.saturating_duration_since(self.started)),
            file: self.path.display().to_string(),
            units: self.members.iter().map(|member| self.unit_status(member, now, kernel)).collect(),
            streams: self.members.iter().flat_map(|member| stream_rows(member, now)).collect(),
            warnings: self.warnings.clone(),
            busy: self.queue.busy(now),
            next_program: Some(next_program.display().to_string()),
            next_program_removed: !is_there,
        }
    }

    /// Answers those who asked for the status or a plan, once every ready process has reported since; or `all` of them.
    pub(super) fn answer_status(&mut self, now: Instant, all: bool, kernel: &mut impl Kernel) {
        for question in std::mem::take(&mut self.asked) {
            let Question { client, since, ref new } = question;
            let stale = |member: &&Member| member.report.as_ref().is_none_or(|report| report.at < since);
            let is_due = all || now >= self.answer_due(since) || self.running().find(stale).is_none();
            match new {
                _ if !is_due => self.asked.push(question),
                Some(new) => kernel.show_plan(client, Ok(self.host_part(new, now))),
                None => {
                    let status = self.status(now, kernel);
                    kernel.show(client, status);
                }
            }
        }
    }

    /// When a status that was asked for at `since` is given as it is.
    pub(super) fn answer_due(&self, since: Instant) -> Instant {
        let is_new = self.running().any(|member| member.report.is_none());
        since + if is_new { FIRST_REPORT_LIMIT } else { REFRESH_LIMIT }
    }

    fn running(&self) -> impl Iterator<Item = &Member> {
        self.members.iter().filter(|member| matches!(member.machine.state(), State::Running { .. }))
    }

    fn unit_status(&self, unit: &Member, now: Instant, kernel: &impl Kernel) -> UnitStatus {
        let look = self.dirs.unit(&unit.id).join("alive.lock");
        let (health, note) = self.verdict(unit, &look, now);
        let (host, port) =
            unit.port.as_ref().map_or((String::new(), 0), |port| (port.host.name.clone(), port.port));
        UnitStatus {
            id: unit.id.clone(),
            role: unit.role(),
            host,
            port,
            state: match unit.machine.status() {
                UnitState::Running if unit.departure.is_some() => UnitState::Draining,
                state => state,
            },
            draining: self.draining(unit, now),
            health,
            note,
            pid: unit.live.map(|live| live.serving.map_or(live.pid, |serving| serving.pid)),
            keeper_pid: unit
                .live
                .filter(|live| live.serving.is_some_and(|it| it.pid != live.pid))
                .map(|live| live.pid),
            uptime_ms: unit.live.map(|live| {
                let started = live.serving.map_or(live.started, |serving| serving.started);
                millis(now.saturating_duration_since(started))
            }),
            restarts: unit.machine.restarts(),
            resumed: unit.resumed,
            renewed: unit.renewed,
            cold_starts: unit.cold_starts,
            lost: unit.lost,
            version: unit.version.clone(),
            program: kernel.program(&unit.id),
            last_exit: unit
                .last_end()
                .map(|(at, how)| LastExit { how, ago_ms: millis(now.saturating_duration_since(at)) }),
            stats: unit.report.as_ref().map(|report| report.process.clone()),
            stats_age_ms: unit.report.as_ref().map(|report| millis(now.saturating_duration_since(report.at))),
            config: self.dirs.config(&unit.id).display().to_string(),
            log: self.dirs.log(&unit.id).display().to_string(),
        }
    }

    pub(super) fn verdict(&self, unit: &Member, look: &Path, now: Instant) -> (Health, String) {
        match (unit.machine.state(), self.draining(unit, now)) {
            (State::Running { .. }, Some(draining)) => (Health::Passing, draining.to_string()),
            (State::Running { .. }, None) => {
                let max_connections = match &unit.spec {
                    ProcessSpec::Worker(spec) => spec.options.max_connections,
                    ProcessSpec::Encoder(_) => 0,
                };
                let (health, note) = assess(&Facts {
                    role: unit.role(),
                    flapping: unit.machine.is_flapping(),
                    process: unit.report.as_ref().map(|report| &report.process),
                    streams: unit.report.as_ref().map_or(&[], |report| &report.streams),
                    report_age: unit.report.as_ref().map(|report| now.saturating_duration_since(report.at)),
                    max_connections,
                    probe: unit.probe.failure(),
                    missing: unit.missing.as_ref().map(|(stream, since)| Missing {
                        stream,
                        lasts: now.saturating_duration_since(*since),
                        cause: self.cause(&unit.id, stream),
                    }),
                    keeper: unit.live.map(|live| (live.pid, unit.keeper)),
                    name: unit.name.as_ref().map(|(health, why)| (*health, why.as_str())),
                });
                match &unit.not_ready {
                    Some(why) if health == Health::Unknown => (health, format!("{note}: {why}")),
                    Some(_) | None => (health, note),
                }
            }
            (State::Stopped, _) => (Health::Unknown, String::new()),
            (State::Starting, _) => (Health::Unknown, unit.not_ready.clone().unwrap_or_default()),
            (State::Stopping { step: Stop::Asked, .. }, _) => (Health::Unknown, "asked to stop".to_owned()),
            (State::Stopping { step: Stop::Terminated, .. }, _) => {
                (Health::Unknown, "sent SIGTERM".to_owned())
            }
            (State::Stopping { step: Stop::Killed, .. }, _) => (Health::Unknown, "sent SIGKILL".to_owned()),
            (State::Killing { why, .. }, _) => (Health::Critical, format!("sent SIGKILL: {why}")),
            (State::Backoff { until }, _) => {
                let wait = until.saturating_duration_since(now).as_secs_f32();
                let how = unit.last_end().map(|(_, how)| how).unwrap_or_default();
                (Health::Critical, format!("{how}; starts again in {wait:.1} s"))
            }
            (State::Failed { why }, _) => match &unit.last_words {
                Some(words) => (Health::Critical, format!("{why}: {words}")),
                None => (Health::Critical, why.clone()),
            },
            (State::Unknown { why }, _) => {
                (Health::Unknown, format!("left alone: {why}; see who holds it: fuser -v {}", look.display()))
            }
        }
    }

    /// Why an edge does not get a stream, as far as the origin can tell.
    fn cause(&self, edge: &UnitId, stream: &str) -> String {
        let reports =
            self.members.iter().filter(|it| it.role() == Role::Origin).filter_map(|it| it.report.as_ref());
        let mut rows = reports.flat_map(|report| &report.streams).filter(|row| row.stream == *stream);
        let forward = rows.find_map(|row| row.forwards.iter().find(|forward| forward.target.id == *edge));
        let Some(forward) = forward else { return "the origin does not forward it yet".to_owned() };
        match (forward.state, &forward.last_error) {
            (ForwardState::Idle, _) => "the origin does not forward it yet".to_owned(),
            (ForwardState::Live, _) => "the origin reaches this port, and no frame comes".to_owned(),
            (ForwardState::Stalled, _) => "the origin gets no answer from this port".to_owned(),
            (ForwardState::Connecting, None) => "the origin is still connecting to this port".to_owned(),
            (ForwardState::Connecting | ForwardState::Backoff, Some(error)) => {
                format!("the origin does not reach it: {error}")
            }
            (ForwardState::Backoff, None) => "the origin does not reach it".to_owned(),
        }
    }
}

fn stream_rows(unit: &Member, now: Instant) -> Vec<StreamRow> {
    let (Some(port), Some(report)) = (&unit.port, &unit.report) else { return Vec::new() };
    let age = millis(now.saturating_duration_since(report.at));
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
