//! What a program of this name is, as it tells itself: `srsctl --self-check`.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use cluster::UnitId;
use control::trial;
use serde::{Deserialize, Serialize};

use crate::reconcile::kernel::Examined;

/// How long a program may take to tell.
const LIMIT: Duration = Duration::from_secs(10);
/// The document's.
const SCHEMA: &str = "srsctl/self-check/v1";

/// What a program tells of itself; changes only add.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelfCheck {
    schema: String,
    /// Its version.
    pub version: String,
    /// The layout of the memory that outlives its workers.
    layout: u64,
    /// The oldest one that they read; of a program that does not say, the same.
    oldest_layout: Option<u64>,
    /// The version of the records there.
    records: u64,
    /// The oldest one that they read; of a program that does not say, the same.
    oldest_records: Option<u64>,
}

impl SelfCheck {
    /// Of a program of `version` whose workers write the last of `layouts` and of versions of `records`, and read all of them.
    #[must_use]
    pub fn new(version: &str, layouts: (u64, u64), records: (u64, u64)) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            version: version.to_owned(),
            layout: layouts.1,
            oldest_layout: Some(layouts.0),
            records: records.1,
            oldest_records: Some(records.0),
        }
    }

    /// Whether workers of this program go on where those of `other` were.
    #[must_use]
    fn reads(&self, other: &Self) -> bool {
        let has = |oldest: Option<u64>, newest, found| (oldest.unwrap_or(newest)..=newest).contains(&found);
        has(self.oldest_layout, self.layout, other.layout)
            && has(self.oldest_records, self.records, other.records)
    }

    /// Asks the program at `path`, which has so long to tell. Nothing is left of it.
    ///
    /// # Errors
    /// Why it is no program of this name that runs here, for a person.
    fn of(path: &Path, limit: Duration) -> Result<Self, String> {
        let mut command = Command::new(path);
        command.arg("--self-check").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let ended =
            trial::run(&mut command, limit).map_err(|error| format!("it cannot be started: {error}"))?;
        let ended = ended
            .ok_or_else(|| format!("it does not end within {} s of --self-check", limit.as_secs_f32()))?;
        if !ended.status.success() {
            return Err(format!("its --self-check ends with {}", ended.status));
        }
        serde_json::from_slice(&ended.said)
            .ok()
            .filter(|check: &Self| check.schema == SCHEMA)
            .ok_or_else(|| "what its --self-check says is not understood".to_owned())
    }
}

/// What the program at `path` would make of ports, each with its keeper. Runs it, and what they run: takes as long as these do.
///
/// # Errors
/// Why it cannot be used, for a person.
pub(crate) fn examine(path: &Path, keepers: Vec<(UnitId, u32)>) -> Result<Examined, String> {
    let file = |path: &Path| std::fs::metadata(path).ok().map(|it| (it.dev(), it.ino()));
    let new = SelfCheck::of(path, LIMIT)?;
    // Most ports run the same one, and often it is this.
    let mut known = HashMap::from([(file(path), Some(new.clone()))]);
    let mut examined = Examined { version: new.version.clone(), ..Examined::default() };
    for (unit, keeper) in keepers {
        // What runs there, whatever became of its file.
        let runs = PathBuf::from(format!("/proc/{keeper}/exe"));
        let runs = known.entry(file(&runs)).or_insert_with(|| SelfCheck::of(&runs, LIMIT).ok());
        if !runs.as_ref().is_some_and(|runs| new.reads(runs)) {
            examined.unread.push(unit.clone());
        }
        if !runs.as_ref().is_some_and(|runs| runs.reads(&new)) {
            examined.unreadable.push(unit.clone());
        }
        examined.before.extend(runs.as_ref().map(|runs| (unit, runs.version.clone())));
    }
    Ok(examined)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_or_leaves_something_behind_holds_nothing_up() {
        let temporary = tempfile::tempdir().unwrap();
        let said = serde_json::to_string(&SelfCheck::new("1.0", (1, 1), (1, 1))).unwrap();
        for (name, script, ms, wanted) in [
            ("leaves", format!("sleep 1000 & echo '{said}'"), 20_000, Ok("1.0".to_owned())),
            (
                "hangs",
                "sleep 1000 & wait".to_owned(),
                500,
                Err("it does not end within 0.5 s of --self-check".to_owned()),
            ),
        ] {
            let path = temporary.path().join(name);
            // Another process writes it: what this one has open for writing, another test's fork has too.
            let write = r#"printf '#!/bin/sh\n%s\n' "$1" > "$0" && chmod 700 "$0""#;
            assert!(
                Command::new("sh").args(["-c", write]).arg(&path).arg(script).status().unwrap().success()
            );
            let told = SelfCheck::of(&path, Duration::from_millis(ms)).map(|check| check.version);
            assert_eq!(told, wanted, "{name}");
        }
    }

    #[test]
    fn a_program_reads_what_it_says_and_one_that_says_nothing_reads_its_own() {
        let program = |layouts, records| SelfCheck::new("1.0", layouts, records);
        let (old, new, newest) = (program((1, 1), (1, 1)), program((1, 2), (1, 2)), program((2, 3), (2, 3)));
        assert!(old.reads(&old) && new.reads(&new));
        assert!(new.reads(&old) && !old.reads(&new));
        assert!(newest.reads(&new) && !newest.reads(&old) && !new.reads(&newest));
        assert!(!program((1, 2), (2, 2)).reads(&old) && !program((2, 2), (1, 2)).reads(&old));
        let text = r#"{"schema":"srsctl/self-check/v1","version":"0.1.0","layout":1,"records":1}"#;
        let first: SelfCheck = serde_json::from_str(text).unwrap();
        assert!(new.reads(&first) && first.reads(&old) && !first.reads(&new));
    }
}
