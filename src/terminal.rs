//! What a person and a pipe get to see: stdout is data, stderr is everything else.

use std::io::{self, Write as _};

/// Writes a line to stderr; nobody is there to be told when that fails.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Writes to stdout; false once the reader has gone away (`| head`), which is no error.
pub(crate) fn print(text: &str) -> bool {
    io::stdout().write_all(text.as_bytes()).is_ok()
}
