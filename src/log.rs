//! The log of a process of the cluster, on its stderr. Names and words of others stand in it, so each line is cleaned.

use std::io::{self, Write};

use tracing_subscriber::EnvFilter;

/// stderr, where a write that fails is a lost line and nothing else: the disk of the logs may be full, and the subscriber would
/// panic while it complains.
struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let _ = io::stderr().write_all(text::clean_lines(&String::from_utf8_lossy(line)).as_bytes());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Logs to stderr; `RUST_LOG` sets what.
pub(crate) fn start() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt().with_writer(|| Stderr).with_ansi(false).with_target(false);
    // A second subscriber is refused; the first one stays.
    let _ = subscriber.with_env_filter(filter).try_init();
}
