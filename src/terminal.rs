//! What a person and a pipe get to see: stdout is data, stderr is everything else. Nothing that somebody else chose reaches a
//! terminal as it is: what is printed here is cleaned, and JSON has it escaped.

use std::io::{self, IsTerminal as _, Write as _};

use serde::Serialize;

use crate::failure::Failure;

/// Writes a line to stderr; nobody is there to be told when that fails.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{}", text::clean_lines(text));
}

/// Writes to stdout, cleaned; false once the reader has gone away (`| head`), which is no error.
///
/// # Errors
/// When it cannot be written otherwise, as on a full disk, or where there is no stdout.
pub(crate) fn print(text: &str) -> Result<bool, Failure> {
    print_clean(&text::clean_lines(text))
}

/// As [`print`], for what has been cleaned piece by piece and may have colours between them.
///
/// # Errors
/// As of [`print`].
pub(crate) fn print_clean(text: &str) -> Result<bool, Failure> {
    let mut stdout = io::stdout().lock();
    let written = if control::fds::is_stdout_missing() && !text.is_empty() {
        Err(rustix::io::Errno::BADF.into())
    } else {
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    };
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(Failure::failed(format!("cannot write to standard output: {error}"))),
    }
}

/// Writes one JSON document to stdout. A program reads the texts in it as they are, and a terminal shows none that it obeys.
///
/// # Errors
/// As of [`print`].
pub(crate) fn print_json(document: &impl Serialize) -> Result<bool, Failure> {
    let document = serde_json::to_string_pretty(document).map_err(Failure::failed)?;
    print_clean(&(escaped(&document) + "\n"))
}

/// As [`print_json`], on one line.
///
/// # Errors
/// As of [`print`].
pub(crate) fn print_json_line(document: &impl Serialize) -> Result<bool, Failure> {
    let document = serde_json::to_string(document).map_err(Failure::failed)?;
    print_clean(&(escaped(&document) + "\n"))
}

/// JSON with each character that is not shown as an escape: outside of texts there is none but line feeds.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || text::clean_char(c) == c {
            escaped.push(c);
        } else {
            let units =
                c.encode_utf16(&mut [0; 2]).iter().map(|unit| format!("\\u{unit:04x}")).collect::<String>();
            escaped.push_str(&units);
        }
    }
    escaped
}

/// Whether whoever reads stdout has gone away, without a word to write.
pub(crate) fn is_reader_gone() -> bool {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let stdout = rustix::stdio::stdout();
    let mut looked_at = [PollFd::new(&stdout, PollFlags::empty())];
    poll(&mut looked_at, Some(&Timespec::default()))
        .is_ok_and(|_| looked_at[0].revents().contains(PollFlags::ERR))
}

/// Whether stdout is a terminal that is to show colours; <https://no-color.org>.
pub(crate) fn has_colour() -> bool {
    let forbids = |name: &str, is_no: fn(&str) -> bool| std::env::var(name).is_ok_and(|value| is_no(&value));
    io::stdout().is_terminal()
        && !forbids("NO_COLOR", |value| !value.is_empty())
        && !forbids("TERM", |value| value == "dumb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_keeps_a_text_and_shows_nothing_that_a_terminal_obeys() {
        let hostile = "a\u{1b}[31m\u{9b}\u{202e}\u{2028}\u{200b}\u{e0041}\"ü直";
        let shown = escaped(&serde_json::to_string_pretty(&[hostile]).unwrap());
        assert!(shown.chars().all(|c| c == '\n' || text::clean_char(c) == c), "{shown}");
        assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap()[0], hostile);
    }
}
