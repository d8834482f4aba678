//! What a supervisor did, noticed and was asked to do. `srsctl events --json` prints it as one document, `srsctl/events/v1`, with role,
//! host and port beside each unit; changes only add.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::spec::UnitId;

/// The name of the document's schema.
pub const SCHEMA: &str = "srsctl/events/v1";

/// Events of a cluster, the oldest first.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Events {
    /// [`SCHEMA`].
    pub schema: String,
    /// The cluster's name.
    pub cluster: String,
    /// The number of the newest event that there is, whether or not it is among these; 0 of none.
    pub newest: u64,
    /// Those that were asked for, as far as they are kept.
    pub events: Vec<Event>,
}

/// One event.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// One more than that of the one before it, also across supervisors of the cluster.
    pub number: u64,
    /// When, in UTC, as [`timestamp`] has it.
    pub at: String,
    /// What.
    #[serde(flatten)]
    pub what: Happening,
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Happening {
    /// Of which kind.
    #[serde(rename = "event")]
    pub kind: Kind,
    /// To which unit; `None` of the supervisor and of the whole cluster.
    pub unit: Option<UnitId>,
    /// The process that it is about: of a port the one that serves from then on, where there is one.
    pub pid: Option<u32>,
    /// Who asked for it.
    pub by: Option<By>,
    /// What is to be said of it, for a person; empty when the kind says all.
    pub text: String,
}

/// Whoever asked for something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct By {
    /// The process that asked.
    pub pid: u32,
    /// Its user.
    pub uid: u32,
    /// The user who logged in, where that is known: behind sudo it is another one.
    pub login_uid: Option<u32>,
}

/// The kinds of events. Kinds are added and never change their meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A supervisor begins.
    SupervisorStarted,
    /// It ends.
    SupervisorEnded,
    /// A command or a signal is taken up.
    Asked,
    /// What was taken up is done.
    Done,
    /// It is not, or not all of it.
    Failed,
    /// Every start runs another program from now on.
    Program,
    /// A port was added to the cluster.
    Added,
    /// Its addition was undone.
    TakenBack,
    /// A port takes nobody any more: it is taken out of the cluster, or moves.
    Draining,
    /// Nobody is left on such a port, or its time is over and the rest is closed.
    Drained,
    /// Such a port is in the file again, and stays.
    Kept,
    /// A port was taken out of the cluster.
    Removed,
    /// A port has other values while it runs.
    Configured,
    /// A port does not say that it took its values; it is told again until it does.
    NotConfigured,
    /// A process was started.
    Started,
    /// It serves.
    Ready,
    /// A process that an earlier supervisor left was proved to be the unit's, and goes on.
    Adopted,
    /// Something that cannot be proved to be the unit's process has its lock; nothing is done to it.
    LeftAlone,
    /// A worker died, and the next one went on with all its connections.
    Resumed,
    /// A worker died, and the next one used nothing of what was left: all had to connect again.
    ColdStart,
    /// A worker made place for another one, which went on with all connections, as a restart or an upgrade asks for.
    Renewed,
    /// A port went back to the program that it ran before, with all its connections.
    WentBack,
    /// A keeper that somebody had stopped, or a process that was found so when it was taken over, was sent SIGCONT.
    Woken,
    /// A process that showed no sign of life was killed.
    Frozen,
    /// A process ended by itself, of a port with its keeper and all connections; it is started again.
    Died,
    /// A process could not be started; it is tried again.
    NotStarted,
    /// A process is not started again without a change.
    GaveUp,
    /// A process was stopped, as a person wished.
    Stopped,
    /// A unit does not do what it is for.
    Critical,
    /// A unit, or the place where state is kept, needs a look.
    Warning,
    /// What was wrong is over.
    Passing,
    /// One of a newer supervisor.
    #[serde(other)]
    Unknown,
}

impl Kind {
    /// As it is written in the document.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SupervisorStarted => "supervisor-started",
            Self::SupervisorEnded => "supervisor-ended",
            Self::Asked => "asked",
            Self::Done => "done",
            Self::Failed => "failed",
            Self::Program => "program",
            Self::Added => "added",
            Self::TakenBack => "taken-back",
            Self::Draining => "draining",
            Self::Drained => "drained",
            Self::Kept => "kept",
            Self::Removed => "removed",
            Self::Configured => "configured",
            Self::NotConfigured => "not-configured",
            Self::Started => "started",
            Self::Ready => "ready",
            Self::Adopted => "adopted",
            Self::LeftAlone => "left-alone",
            Self::Resumed => "resumed",
            Self::ColdStart => "cold-start",
            Self::Renewed => "renewed",
            Self::WentBack => "went-back",
            Self::Woken => "woken",
            Self::Frozen => "frozen",
            Self::Died => "died",
            Self::NotStarted => "not-started",
            Self::GaveUp => "gave-up",
            Self::Stopped => "stopped",
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Passing => "passing",
            Self::Unknown => "unknown",
        }
    }
}

/// A moment so long after the beginning of 1970 in UTC, as RFC 3339 has it, with milliseconds.
#[must_use]
pub fn timestamp(since_1970: Duration) -> String {
    let (days, second) = (since_1970.as_secs() / 86_400, since_1970.as_secs() % 86_400);
    // In years that begin with March a leap day is the last one, and months have 153 days in five. The era of 400 years begins with
    // 0000-03-01.
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    let ms = since_1970.subsec_millis();
    format!("{year:04}-{month:02}-{of_month:02}T{hour:02}:{minute:02}:{:02}.{ms:03}Z", second % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_written_as_the_calendar_has_them() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199, "2024-02-29T23:59:59.000Z"),
            (1_709_251_200, "2024-03-01T00:00:00.000Z"),
            (1_767_225_599, "2025-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(timestamp(Duration::from_secs(seconds)), text);
        }
        assert_eq!(timestamp(Duration::from_millis(1_795_872_554_123)), "2026-11-28T13:29:14.123Z");
    }

    #[test]
    fn each_day_follows_the_one_before() {
        let mut before = String::new();
        for day in 0..80_000 {
            let text = timestamp(Duration::from_secs(day * 86_400));
            assert!(text > before, "{before} → {text}");
            before = text;
        }
        assert!(before.starts_with("2189-01-1"), "{before}");
    }
}
