//! The end of a cluster on several machines: edges first, then the origin.

use std::process::ExitCode;

use crate::failure::Failure;
use crate::fleet::operation::Operation;
use crate::fleet::{Fleet, Place, Reach};
use crate::terminal::complain;

/// Stops what runs on each machine, one after the other.
pub(super) async fn run(mut fleet: Fleet, reach: &Reach, purge: bool) -> Result<ExitCode, Failure> {
    fleet.reach_to_change(reach).await?;
    let outcome = stop(&fleet, purge).await;
    let partly = fleet.partly();
    fleet.close().await;
    outcome?;
    partly.map_or(Ok(ExitCode::SUCCESS), Err)
}

async fn stop(fleet: &Fleet, purge: bool) -> Result<(), Failure> {
    fleet.take_leases("down").await?;
    let mut failures = Vec::new();
    for place in fleet.places().iter().rev() {
        if let Err(failure) = stop_at(fleet, place, purge).await {
            // What is left of the rest is stopped all the same.
            failures.push(failure.to_string());
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(Failure::failed(failures.join("\n"))) }
}

/// Ends what runs on one machine.
///
/// # Errors
/// When something does not end.
pub(crate) async fn stop_at(fleet: &Fleet, place: &Place, purge: bool) -> Result<(), Failure> {
    let operation = Operation::Down { cluster: fleet.name().to_owned(), purge };
    let mut lines = place.lines(&operation, &[]).await?;
    while let Some(line) = lines.next().await? {
        complain(&format!("{place}: {line}"));
    }
    Ok(())
}
