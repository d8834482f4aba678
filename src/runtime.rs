//! The runtime of a command: one thread.

use std::process::ExitCode;

use crate::failure::Failure;

/// Runs a command to its end.
pub(crate) fn block_on(
    command: impl Future<Output = Result<ExitCode, Failure>>,
) -> Result<ExitCode, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|e| Failure::failed(format!("cannot start: {e}")))?;
    let outcome = runtime.block_on(command);
    // Without waiting for threads that still look names up.
    runtime.shutdown_background();
    outcome
}
