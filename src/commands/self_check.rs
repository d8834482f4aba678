//! `srsctl self-check`: what a program of this name is, told by itself.

use std::io::Read as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::terminal::print_json;

/// How long a program may take to tell.
const LIMIT: Duration = Duration::from_secs(10);
/// Bytes that are read of what it says.
const SAID_MAX: u64 = 4096;
/// Between two looks at whether it has ended.
const POLL: Duration = Duration::from_millis(10);
/// The document's.
const SCHEMA: &str = "srsctl/self-check/v1";

/// What a program tells of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SelfCheck {
    schema: String,
    /// Its version.
    pub(crate) version: String,
    /// The layout of the memory that outlives its workers.
    layout: u64,
    /// The version of the records there.
    records: u64,
}

impl SelfCheck {
    fn own() -> Self {
        let version = env!("CARGO_PKG_VERSION").to_owned();
        Self { schema: SCHEMA.to_owned(), version, layout: worker::LAYOUT, records: worker::RECORDS }
    }

    /// Whether workers of `other` can go on where those of this program were.
    pub(crate) fn fits(&self, other: &Self) -> bool {
        (self.layout, self.records) == (other.layout, other.records)
    }

    /// Asks the program at `path`.
    ///
    /// # Errors
    /// Why it is no program of this name that runs here, for a person.
    pub(crate) fn of(path: &Path) -> Result<Self, String> {
        let mut child = Command::new(path)
            .arg("--self-check")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .map_err(|error| format!("it cannot be started: {error}"))?;
        let output = child.stdout.take();
        let end = Instant::now() + LIMIT;
        let status = loop {
            match child.try_wait() {
                Ok(Some(status)) => break status,
                Ok(None) if Instant::now() < end => std::thread::sleep(POLL),
                Ok(None) | Err(_) => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(format!("it does not end within {} s of --self-check", LIMIT.as_secs()));
                }
            }
        };
        if !status.success() {
            return Err(format!("its --self-check ends with {status}"));
        }
        let mut said = String::new();
        let read = output.map(|output| output.take(SAID_MAX).read_to_string(&mut said));
        let check: Option<Self> = read.and_then(Result::ok).and_then(|_| serde_json::from_str(&said).ok());
        check
            .filter(|check| check.schema == SCHEMA)
            .ok_or_else(|| "what its --self-check says is not understood".to_owned())
    }
}

/// Tells it.
pub(crate) fn run() -> Result<ExitCode, Failure> {
    print_json(&SelfCheck::own())?;
    Ok(ExitCode::SUCCESS)
}
