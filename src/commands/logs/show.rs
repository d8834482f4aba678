//! Lines of several logs on stdout, in order of time.

use super::merge::merge;
use super::tail::Found;
use crate::failure::Failure;
use crate::terminal::print;

/// Prints them; false once nobody reads them.
pub(super) fn show(logs: Found) -> Result<bool, Failure> {
    let width = logs.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    let logs = logs.iter().map(|(name, lines)| (name.as_str(), lines.iter().cloned())).collect();
    let lines = merge(logs).into_iter().map(|(name, line)| format!("{name:width$} | {line}\n"));
    print(&lines.collect::<String>())
}
