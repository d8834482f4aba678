//! `srsctl self-check`: what this program is. [`SelfCheck`] says who asks, and why.

use std::process::ExitCode;

use supervisor::SelfCheck;

use crate::failure::Failure;
use crate::terminal::print_json;

/// Tells it.
pub(crate) fn run() -> Result<ExitCode, Failure> {
    let layouts = (worker::OLDEST_LAYOUT, worker::LAYOUT);
    let records = (worker::OLDEST_RECORDS, worker::RECORDS);
    print_json(&SelfCheck::new(env!("CARGO_PKG_VERSION"), layouts, records))?;
    Ok(ExitCode::SUCCESS)
}
