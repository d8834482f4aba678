//! How the run goes on.

use std::time::{Duration, Instant};

use bench::exact::Swarm;

pub(crate) type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Lets all players and publishers go on for so long.
pub(crate) fn run(swarm: &mut Swarm, time: Duration) -> Result<()> {
    Ok(swarm.run(Instant::now() + time)?)
}
