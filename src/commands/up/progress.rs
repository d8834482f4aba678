//! What is told of a start, for a person.

use control::api::StartupEvent;

use crate::failure::Failure;

/// That a start is over, and not all is ready.
pub(super) fn not_ready(waiting: usize) -> Failure {
    Failure::failed(format!(
        "{waiting} not ready; the supervisor keeps trying: see srsctl status and srsctl logs"
    ))
}

/// One thing that a supervisor tells while it starts.
pub(super) fn progress(event: &StartupEvent) -> String {
    match event {
        StartupEvent::Adopted { unit, pid, silent: false } => {
            format!("{}: runs already, pid {pid}, taken over", unit)
        }
        StartupEvent::Adopted { unit, pid, silent: true } => {
            format!("{}: pid {pid} taken over, but it does not answer", unit)
        }
        StartupEvent::Unknown { unit, why } => format!("{}: left alone: {why}", unit),
        StartupEvent::Started { unit, pid } => format!("{}: started, pid {pid}", unit),
        StartupEvent::Ready { unit, after_ms } => format!("{}: ready after {after_ms} ms", unit),
        StartupEvent::NotReady { unit, why } => format!("{}: not ready: {why}", unit),
        StartupEvent::Complete { ready, waiting: 0 } => format!("all {ready} ready"),
        StartupEvent::Complete { ready, waiting } => format!("{ready} ready, {waiting} not"),
    }
}
