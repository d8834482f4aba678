//! What a process said last: whoever ends with an error writes why to its log.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;

/// Bytes of the end of a log that are looked at.
const TAIL: u64 = 4 * 1024;
/// Characters that are repeated.
const MAX_WORDS: usize = 300;

/// The last line of the log at `path` behind its first `from` bytes that is no usual line of a log.
pub(crate) fn last_words(path: &Path, from: u64) -> Option<String> {
    let mut log = File::open(path).ok()?;
    let length = log.metadata().ok()?.len();
    // A log that was put aside meanwhile is shorter than it was.
    let from = if from > length { 0 } else { from };
    log.seek(SeekFrom::Start(from.max(length.saturating_sub(TAIL)))).ok()?;
    let mut tail = Vec::new();
    log.take(TAIL).read_to_end(&mut tail).ok()?;
    let tail = String::from_utf8_lossy(&tail);
    let line = tail.lines().map(str::trim).rfind(|line| !line.is_empty() && !is_usual(line))?;
    let plain = line.chars().map(|it| if it.is_control() { ' ' } else { it });
    Some(plain.take(MAX_WORDS).collect())
}

/// `TIME LEVEL words`, or the hint that follows a panic.
fn is_usual(line: &str) -> bool {
    let level = line.split_ascii_whitespace().nth(1).unwrap_or_default();
    matches!(level, "INFO" | "WARN" | "DEBUG" | "TRACE") || line.starts_with("note: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_line_that_is_no_usual_one_tells_why_a_process_ended() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let said = |text: &str, from| {
            std::fs::write(log.path(), text).unwrap();
            last_words(log.path(), from)
        };
        let usual = "2026-01-01T00:00:00Z  INFO starting id=encoder\n";
        let end = "encoder: cannot read /a.flv: No such file or directory (os error 2)";
        assert_eq!(said(&format!("{usual}{end}\n"), 0).as_deref(), Some(end));
        assert_eq!(said(&format!("{end}\n{usual}\n"), 0).as_deref(), Some(end));
        assert_eq!(said(&format!("{end}\n{usual}"), end.len() as u64), None, "of the process before");
        assert_eq!(said(&format!("{end}\nnote: run with `RUST_BACKTRACE=1`\n"), 0).as_deref(), Some(end));
        assert_eq!(said(&format!("{}\n{end}\u{1b}[2J\n", "x".repeat(9000)), 0), Some(format!("{end} [2J")));
        assert_eq!(said("", 0), None);
        assert_eq!(said(end, 4096).as_deref(), Some(end), "it was put aside, and is new");
        assert_eq!(last_words(Path::new("/no/such/log"), 0), None);
    }
}
