//! What all of the run has in common: the cluster, the players, chance, and when a worker may die again.

use std::process::Child;
use std::time::{Duration, Instant};

use bench::exact::{Gaps, Random, Swarm};

use crate::cluster::{Cluster, Result, Role};

/// Two deaths that count are so far apart, so that three are not within a minute.
const DEATHS_APART: Duration = Duration::from_secs(32);
/// Before a death: what gaps are usual.
const USUAL: Duration = Duration::from_millis(1_000);
/// How often it is looked whether something has happened.
const LOOK: Duration = Duration::from_millis(50);
/// The next worker is there by then, and whatever else is waited for.
const SOON: Duration = Duration::from_secs(45);

/// See the [module](self).
pub(crate) struct Stage {
    pub(crate) cluster: Cluster,
    pub(crate) swarm: Swarm,
    pub(crate) random: Random,
    died: [Option<Instant>; 2],
}

/// What players noticed, and what is usual.
#[derive(Default)]
pub(crate) struct Noticed {
    pub(crate) usual: Gaps,
    pub(crate) gaps: Gaps,
}

impl Noticed {
    /// The longest gap of a player beyond the usual one.
    pub(crate) fn pause(&self) -> Duration {
        self.gaps.quantile(1.0).saturating_sub(self.usual.quantile(0.5))
    }
}

/// A cause, and what came of it.
pub(crate) struct Done {
    pub(crate) cause: &'static str,
    pub(crate) of: &'static str,
    pub(crate) noticed: Noticed,
    /// What `srsctl status` says of the end, or why there was none.
    pub(crate) how: String,
}

impl Stage {
    pub(crate) fn new(cluster: Cluster, swarm: Swarm, random: Random) -> Self {
        Self { cluster, swarm, random, died: [None; 2] }
    }

    /// Lets all players and publishers go on for so long.
    pub(crate) fn run(&mut self, time: Duration) -> Result<()> {
        Ok(self.swarm.run(Instant::now() + time)?)
    }

    /// The same for `time`, and by chance up to `more`.
    pub(crate) fn run_about(&mut self, time: Duration, more: Duration) -> Result<()> {
        let more = self.random.below(more.as_micros() as u64 + 1);
        self.run(time + Duration::from_micros(more))
    }

    /// Whether a worker of `role` may die without that being the third death within a minute; if so, it does now.
    pub(crate) fn may_die(&mut self, role: Role) -> bool {
        let Some(died) = self.died.get_mut(role as usize) else { return false };
        let may = died.is_none_or(|at| at.elapsed() > DEATHS_APART);
        if may {
            *died = Some(Instant::now());
        }
        may
    }

    /// Goes on until it may, and it does now.
    pub(crate) fn await_turn(&mut self, role: Role) -> Result<()> {
        while !self.may_die(role) {
            self.run(LOOK)?;
        }
        Ok(())
    }

    /// Goes on until `probe` gives a value; `what` it is waited for.
    pub(crate) fn await_that<T>(
        &mut self,
        what: &str,
        mut probe: impl FnMut(&Cluster) -> Result<Option<T>>,
    ) -> Result<T> {
        let start = Instant::now();
        loop {
            if let Some(value) = probe(&self.cluster)? {
                return Ok(value);
            }
            if start.elapsed() > SOON {
                return Err(format!("{what} has not happened within {} s", SOON.as_secs()).into());
            }
            self.run(LOOK)?;
        }
    }

    /// Goes on until `command` has ended, well.
    pub(crate) fn await_end(&mut self, what: &str, mut command: Child) -> Result<()> {
        let start = Instant::now();
        let status = loop {
            if let Some(status) = command.try_wait()? {
                break status;
            }
            if start.elapsed() > SOON * 2 {
                command.kill()?;
            }
            self.run(LOOK)?;
        };
        if status.success() { Ok(()) } else { Err(format!("{what}: {status}").into()) }
    }

    /// What the players notice of `act`, and of what follows for `behind` and by chance up to `more`.
    pub(crate) fn observe(
        &mut self,
        (behind, more): (Duration, Duration),
        act: impl FnOnce(&mut Self) -> Result<()>,
    ) -> Result<Noticed> {
        self.swarm.take_gaps();
        self.run_about(USUAL, USUAL / 3)?;
        let usual = self.swarm.take_gaps();
        act(self)?;
        self.run_about(behind, more)?;
        Ok(Noticed { usual, gaps: self.swarm.take_gaps() })
    }
}
