//! What is looked at once a second: logs, unknown processes, streams that an edge lacks.

use std::os::fd::AsFd as _;
use std::time::{Duration, Instant};

use cluster::Role;
use control::{Request, ask_once};

use super::engine::Agent;
use super::monitor::{Signal, What};
use crate::adopt::{self, Found};
use crate::logs;
use crate::machine::health::STALE;
use crate::machine::state::State;

/// How long a process may take to open its new log.
const REOPEN_LIMIT: Duration = Duration::from_secs(5);

/// A stream that an encoder sends to the origin now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LiveStream {
    /// `app/stream`.
    pub(super) name: String,
    /// Without video there is no keyframe to wait for.
    pub(super) has_keyframes: bool,
}

impl Agent {
    pub(super) fn handle_housekeeping(&mut self) {
        while self.helpers.try_join_next().is_some() {}
        let now = Instant::now();
        logs::rotate_own(&self.dirs.agent_log());
        for unit in &mut self.units {
            unit.machine.handle_time(now);
        }
        self.look_for_missing_streams(now);
        self.look_for_unknown();
        self.rotate_logs();
    }

    /// The streams that encoders send to the origin now.
    pub(super) fn live_streams(&self) -> Vec<LiveStream> {
        let origin = self.units.iter().find(|unit| unit.role() == Role::Origin);
        let streams =
            origin.and_then(|origin| origin.fresh_report()).map_or(&[][..], |report| &report.streams);
        streams
            .iter()
            .filter(|stream| stream.publishing)
            .filter(|stream| stream.last_frame_age_ms.is_some_and(|age| Duration::from_millis(age) <= STALE))
            .map(|stream| LiveStream {
                name: stream.stream.clone(),
                has_keyframes: stream.keyframe_age_ms.is_some(),
            })
            .collect()
    }

    fn look_for_missing_streams(&mut self, now: Instant) {
        let live = self.live_streams();
        for unit in self.units.iter_mut().filter(|unit| unit.role() == Role::Edge) {
            let missing = unit.fresh_report().and_then(|report| {
                live.iter().find(|live| {
                    !report.streams.iter().any(|stream| stream.publishing && stream.stream == live.name)
                })
            });
            unit.missing = missing.map(|live| {
                let known = unit.missing.take().filter(|(name, _)| *name == live.name);
                (live.name.clone(), known.map_or(now, |(_, since)| since))
            });
        }
    }

    fn look_for_unknown(&mut self) {
        for unit in &mut self.units {
            if unit.looked_for || !matches!(unit.machine.state(), State::Unknown { .. }) {
                continue;
            }
            unit.looked_for = true;
            let (id, files, boot_id) = (unit.id.clone(), unit.files.clone(), self.boot_id.clone());
            let signals = self.inputs.sender.clone();
            self.helpers.spawn(async move {
                let found = adopt::find(&id, &files, &boot_id).await;
                let found = found.unwrap_or_else(|error| Found::Unknown { why: error.to_string() });
                let _ = signals.send(Signal { unit: id, instance: 0, what: What::Found(found) }).await;
            });
        }
    }

    fn rotate_logs(&mut self) {
        for unit in self.units.iter().filter(|unit| unit.live.is_some() && logs::is_full(&unit.log)) {
            let file = match logs::rotate(&unit.log) {
                Ok(file) => file,
                Err(error) => {
                    tracing::warn!(unit = %unit.id, %error, "log not rotated");
                    continue;
                }
            };
            let (id, control) = (unit.id.clone(), unit.files.control());
            self.helpers.spawn(async move {
                let asked = ask_once(&control, &Request::ReopenLog, Some(file.as_fd()), REOPEN_LIMIT).await;
                if let Err(error) = asked {
                    tracing::warn!(unit = %id, %error, "it goes on writing to its old log");
                }
            });
        }
    }
}
