//! Kills the workers of a cluster under thousands of players that check every byte, and tells what these have noticed. `make survive`
//! runs it; docs/performance.md says what it measures.
//!
//! The real `srsctl` runs an origin and an edge port. Two publishers, one with chunks of 128 bytes and in parts of any size, send frames
//! that say which they are; the players of the edge check that each comes once, whole, in order and at its time, and that every command is
//! answered once ([`bench::exact`]). Some come and go, read slowly, pause, hear only, talk in small chunks. Then the workers are killed, one
//! after the other, at instants by chance: by their keepers, which is no death that counts, now and then twice in a row, and really,
//! with SIGKILL, as seldom as that does not count as dying again and again. Exit code 1 where a connection was lost, a byte was wrong,
//! or something is held that was not before.
//!
//! Environment:
//! - `PLAYERS` (3000), `KILLS` (60), `SEED` (1);
//! - `ROLE`: whose workers are killed, `edge`, `origin` or `both` (the default);
//! - `RAMP`: players that come in a second, first (500);
//! - `CAUSES`: what workers die of besides, and beside what, each once: names with spaces, or `all`: `stop` (frozen), `abort`, `oom` (a control
//!   group short of memory), `disk` (that of the state directory is full), `fds` (a stranger has all places and descriptors), `supervisor`
//!   (dies with both workers), `upgrade` (while players come), `restarts` (50 in a row). Causes that this machine cannot have are told;
//! - `SRSCTL`: the binary (target/release/srsctl);
//! - `POINTS`: of a binary with the feature `failpoints`, where workers die, besides: names with spaces, or `all`;
//! - `MUTATE`: of such a binary, what its workers do wrong: see worker/src/failpoints.rs.

mod causes;
mod cluster;
mod places;
mod points;
mod report;
mod stage;
mod stranger;
mod system;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::exact::{Plan, Random, Swarm};

use crate::causes::Cause;
use crate::cluster::{Cluster, Result, Role};
use crate::report::{Kill, ms};
use crate::stage::Stage;
use crate::system::{held, respawn};

/// Behind a kill at least, and by chance so much more.
const BEHIND: (Duration, Duration) = (Duration::from_millis(1_000), Duration::from_millis(500));
/// How a worker died that was followed by one that died too.
const DOUBLE: &str = "replaced twice";
/// From a kill to another in the middle of the recovery, at most.
const TWICE: Duration = Duration::from_millis(60);
/// Kills of a worker that nobody is connected to.
const RESPAWNS: usize = 15;
/// Until what the kills have cost is over.
const SETTLE: Duration = Duration::from_secs(12);

fn main() -> ExitCode {
    match survive() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn number(name: &str, usual: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            Ok(text.parse().map_err(|_| format!("{name}: {text} is no number"))?)
        }
        Ok(_) | Err(_) => Ok(usual),
    }
}

fn survive() -> Result<bool> {
    let (players, kills, seed) = (number("PLAYERS", 3_000)?, number("KILLS", 60)?, number("SEED", 1)?);
    let ramp = u32::try_from(number("RAMP", 500)?)?;
    let players = u32::try_from(players)?;
    let roles = match std::env::var("ROLE").as_deref() {
        Ok("edge") => &[Role::Edge][..],
        Ok("origin") => &[Role::Origin],
        Ok("both" | "") | Err(_) => &Role::ALL,
        Ok(other) => return Err(format!("ROLE: {other} is none of edge, origin, both").into()),
    };
    let variable = |name: &str| std::env::var(name).unwrap_or_default();
    let srsctl = PathBuf::from(match variable("SRSCTL") {
        path if path.is_empty() => "target/release/srsctl".to_owned(),
        path => path,
    });
    let causes = Cause::named(&variable("CAUSES"))?;
    raise_descriptors()?;
    let directory = std::env::current_dir()?.join("target/survive");
    let small = prepare(&directory, causes.iter().any(|(_, cause)| *cause == Cause::Disk))?;
    let (orders, mutate) = (points::file()?, variable("MUTATE"));
    let mut env = vec![(points::VARIABLE.to_owned(), orders)];
    if !mutate.is_empty() {
        env.push((points::MUTATE.to_owned(), mutate));
    }
    let cluster = Cluster::start(&srsctl, &directory, players, env)?;
    let mut bare = Vec::new();
    for _ in 0..RESPAWNS {
        std::thread::sleep(Duration::from_millis(150));
        bare.push(respawn(&cluster, Role::Edge)?);
    }
    bare.sort_unstable();
    let bare = bare.get(RESPAWNS / 2).copied().unwrap_or_default();
    eprintln!("a worker without connections is followed by the next within {} ms", ms(bare));

    let plan = Plan { origin: Role::Origin.address(), edge: Role::Edge.address(), players, seed };
    let mut stage = Stage::new(cluster, Swarm::new(plan)?, Random::new(seed ^ 0x6b69_6c6c));
    stage.run(Duration::from_secs(3))?;
    eprintln!("{players} players come ...");
    stage.swarm.ramp(ramp)?;
    stage.run(SETTLE / 2)?;
    let (before, began) = (held(&stage.cluster)?, Instant::now());

    let mut done: Vec<Kill> = Vec::new();
    for index in 1..=kills {
        let role = roles.get(stage.random.below(roles.len() as u64) as usize).copied().unwrap_or(Role::Edge);
        let mut how = "";
        let noticed = stage.observe(BEHIND, |stage| {
            how = kill(stage, role)?;
            Ok(())
        })?;
        let counts = stage.swarm.counts();
        eprintln!(
            "{index:3} {:6} {how}: pause {} ms, usual gap {} ms; lost {}, wrong {}",
            role.name(),
            ms(noticed.pause()),
            ms(noticed.usual.quantile(0.5)),
            counts.lost,
            counts.wrong,
        );
        done.push(Kill { role, is_double: how == DOUBLE, noticed });
    }
    let caused = causes::run(&mut stage, roles, &causes, &small)?;
    points::run(&mut stage, roles, &variable("POINTS"))?;
    stage.run(SETTLE)?;
    let (lasted, after) = (began.elapsed(), held(&stage.cluster)?);
    report::print(&stage, (&done, bare), &caused, (&before, &after), lasted)
}

/// Ends a worker at once, in one of three ways; which.
fn kill(stage: &mut Stage, role: Role) -> Result<&'static str> {
    if stage.may_die(role) {
        stage.cluster.kill(role)?;
        return Ok("kill -9");
    }
    stage.cluster.replace(role)?;
    if stage.random.below(6) > 0 {
        return Ok("replaced");
    }
    // The next one is in the middle of its recovery, or has just begun.
    stage.run_about(Duration::ZERO, TWICE)?;
    stage.cluster.replace(role)?;
    Ok(DOUBLE)
}

/// Empties `directory`, where the cluster is to be, and has its state on a small file system of its own if that `is_wanted`; the inner error
/// says why that is none.
fn prepare(directory: &Path, is_wanted: bool) -> Result<std::result::Result<(), String>> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        Ok(()) | Err(_) => {}
    }
    std::fs::create_dir_all(directory)?;
    if !is_wanted {
        return Ok(Err("it was not wanted".to_owned()));
    }
    Ok(places::mount_small(&directory.join("state")).map_err(|error| error.to_string()))
}

/// As many descriptors as this process may have.
fn raise_descriptors() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
