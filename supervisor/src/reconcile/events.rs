//! What is told of decisions and of what happens, as events: pure functions from what changed to words.

use std::path::PathBuf;
use std::time::Instant;

use cluster::events::{By, Happening, Kind};
use cluster::status::Health;
use cluster::{Role, UnitId};
use control::api::{Apply, Restart, Upgrade};
use control::{Error, cause};

use super::kernel::{Command, Program, Worker};
use super::member::{Member, Outlived};
use crate::machine::exit::Last;
use crate::machine::state::State;

/// What the text begins with of what a supervisor did not see itself.
pub(crate) const BEFORE: &str = "before it was taken over";

/// What is told of a keeper that somebody had stopped.
pub(crate) const WOKEN: &str = "its keeper was stopped, and goes on: it was sent SIGCONT";

/// What is told of another process that was stopped when it was taken over.
pub(crate) const WORKER_WOKEN: &str = "it was stopped, and goes on: it was sent SIGCONT";

/// Of the whole cluster.
pub(crate) fn of_cluster(kind: Kind, by: Option<By>, text: impl Into<String>) -> Happening {
    Happening { kind, unit: None, pid: None, by, text: text.into() }
}

/// Of a unit.
pub(crate) fn of_unit(kind: Kind, unit: &UnitId, pid: Option<u32>, text: impl Into<String>) -> Happening {
    Happening { kind, unit: Some(unit.clone()), pid, by: None, text: text.into() }
}

/// What a unit's new state means that was in state `was` before. What a person asked for was told when it was asked.
pub(super) fn of_state(member: &Member, was: &State, now: Instant) -> Option<Happening> {
    let state = member.machine.state();
    let pid = member.live.map(|live| live.pid);
    let tell = |kind, text| Some(of_unit(kind, &member.id, pid, text));
    match state {
        State::Stopped if *was != State::Stopped => tell(Kind::Stopped, String::new()),
        State::Running { .. } if *was == State::Starting => {
            let took = member.live.map(|live| now.saturating_duration_since(live.started).as_secs_f32());
            tell(Kind::Ready, format!("after {:.1} s", took.unwrap_or_default()))
        }
        State::Running { .. } if !matches!(was, State::Running { .. }) => tell(Kind::Adopted, String::new()),
        State::Killing { why, .. } if !matches!(was, State::Killing { .. }) => {
            tell(Kind::Frozen, why.clone())
        }
        State::Backoff { until } if !matches!(was, State::Backoff { .. }) => {
            let (kind, lost) = match member.machine.last_end() {
                Some((_, Last::NotStarted { .. })) => (Kind::NotStarted, 0),
                Some((_, Last::Ended(_))) | None => (Kind::Died, member.lost_last),
            };
            let lost = if lost > 0 { format!("; connections lost: {lost}") } else { String::new() };
            let how = member.last_end().map(|(_, how)| how).unwrap_or_default();
            let how = how.strip_prefix("not started: ").unwrap_or(&how);
            let wait = until.saturating_duration_since(now).as_secs_f32();
            tell(kind, format!("{how}{lost}; starts again in {wait:.1} s"))
        }
        State::Failed { why } if !matches!(was, State::Failed { .. }) => match &member.last_words {
            Some(words) => tell(Kind::GaveUp, format!("{why}: {words}")),
            None => tell(Kind::GaveUp, why.clone()),
        },
        State::Unknown { why } if was != state => tell(Kind::LeftAlone, why.clone()),
        State::Stopped
        | State::Starting
        | State::Running { .. }
        | State::Stopping { .. }
        | State::Killing { .. }
        | State::Backoff { .. }
        | State::Failed { .. }
        | State::Unknown { .. } => None,
    }
}

/// What is told of a worker that serves after others: it has outlived so many. That `is_first` of which this
/// supervisor hears is told of all that ended before; `version` is what served until now.
pub(super) fn of_worker(
    unit: &UnitId,
    worker: &Worker,
    outlived: Outlived,
    (is_first, version): (bool, Option<String>),
) -> Option<Happening> {
    let cause = worker.cause.as_deref().unwrap_or_default();
    let words = [Program::OfStart, Program::At(PathBuf::new()), Program::Before].map(|it| it.word());
    let has_made_place = words.iter().any(|word| cause.starts_with(word));
    let kind = match outlived {
        Outlived { resumed: 0, renewed: 0, cold: 0 } => return None,
        Outlived { cold: 1.., .. } => Kind::ColdStart,
        _ if cause.ends_with(cause::WENT_BACK) => Kind::WentBack,
        Outlived { resumed: 0, .. } => Kind::Renewed,
        // Of several the last one says what it is.
        Outlived { renewed: 1.., .. } if has_made_place => Kind::Renewed,
        Outlived { resumed: 1.., .. } => Kind::Resumed,
    };
    let text = match outlived.total() {
        0 | 1 => cause.to_owned(),
        // They ended faster than it was looked.
        ended => format!("{ended} workers ended, the last one so: {cause}"),
    };
    let mut text = if is_first { format!("{BEFORE}: {text}") } else { text };
    if let Some(version) = version.filter(|version| *version != worker.version) {
        text.push_str(&format!("; version {version} → {}", worker.version));
    }
    if worker.lost > 0 {
        text.push_str(&format!("; connections lost: {}", worker.lost));
    }
    Some(of_unit(kind, unit, Some(worker.pid), text))
}

/// What is told of a unit's health when it has changed.
pub(super) fn of_health(member: &Member, health: Health, note: String) -> Option<Happening> {
    let kind = match health {
        Health::Passing => Kind::Passing,
        Health::Warning => Kind::Warning,
        Health::Critical => Kind::Critical,
        Health::Unknown => return None,
    };
    let pid = member.live.map(|live| live.serving.map_or(live.pid, |serving| serving.pid));
    Some(of_unit(kind, &member.id, pid, note))
}

/// A command, as it would be written; `None` of one that only looks.
pub(super) fn name(command: &Command) -> Option<String> {
    match command {
        Command::Status | Command::Plan(_) => None,
        Command::Apply(Apply { rollback: Some(number), .. }) => Some(format!("rollback {number}")),
        Command::Apply(apply) => Some(format!("up {}", apply.path.display())),
        Command::Restart(Restart { role, port, host, cold, .. }) => {
            let port = port.map(|port| format!(" {port}")).unwrap_or_default();
            let host = host.as_ref().map(|host| format!(" --host {host}")).unwrap_or_default();
            let cold = if *cold && *role != Role::Encoder { " --cold" } else { "" };
            Some(format!("restart {role}{port}{host}{cold}"))
        }
        Command::Upgrade(Upgrade { program, canary, .. }) => {
            Some(format!("upgrade --bin {} --canary {canary}", program.display()))
        }
        Command::Down => Some("down".to_owned()),
    }
}

/// The end of what was asked at some moment.
pub(super) fn of_end(
    (name, since): (String, Instant),
    outcome: &Result<(), Error>,
    now: Instant,
) -> Happening {
    match outcome {
        Ok(()) => {
            let took = now.saturating_duration_since(since).as_secs_f32();
            of_cluster(Kind::Done, None, format!("{name}: after {took:.1} s"))
        }
        Err(error) => of_cluster(Kind::Failed, None, format!("{name}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn told(cause: &str, (resumed, renewed, cold): (u32, u32, u32)) -> Option<(Kind, String)> {
        let is_cold = cold > 0;
        let worker = Worker {
            pid: 7,
            generation: 9,
            renewed: 0,
            cause: Some(cause.to_owned()),
            is_cold,
            lost: u32::from(is_cold) * 4,
            version: if cause == "restart" { "2" } else { "0" }.to_owned(),
            age: Duration::ZERO,
        };
        of_worker(
            &UnitId::encoder(),
            &worker,
            Outlived { resumed, renewed, cold },
            (false, Some("0".to_owned())),
        )
        .map(|it| (it.kind, it.text))
    }

    #[test]
    fn what_became_of_connections_is_told_of_each_worker_that_follows_another() {
        let killed = "killed by SIGKILL";
        assert_eq!(told(killed, (0, 0, 0)), None, "the same one");
        assert_eq!(told(killed, (1, 0, 0)), Some((Kind::Resumed, killed.to_owned())));
        let several = "4 workers ended, the last one so: killed by SIGKILL; connections lost: 4".to_owned();
        assert_eq!(told(killed, (2, 1, 1)), Some((Kind::ColdStart, several)));
        assert_eq!(told("restart", (0, 1, 0)), Some((Kind::Renewed, "restart; version 0 → 2".to_owned())));
        let last = "3 workers ended, the last one so: restart; version 0 → 2".to_owned();
        assert_eq!(told("restart", (2, 1, 0)), Some((Kind::Renewed, last)));
        let back = format!("exit 70; {}", cause::WENT_BACK);
        assert_eq!(told(&back, (1, 0, 0)), Some((Kind::WentBack, back)));
    }
}
