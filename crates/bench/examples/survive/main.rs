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
//! - `SRSCTL`: the binary (target/release/srsctl);
//! - `POINTS`: of a binary with the feature `failpoints`, where workers die, besides: names with spaces, or `all`;
//! - `MUTATE`: of such a binary, what its workers do wrong: see worker/src/failpoints.rs.

mod cluster;
mod points;
mod system;
mod time;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bench::exact::{Gaps, Plan, Random, Swarm};

use crate::cluster::{Cluster, Role};
use crate::system::{Held, held, respawn};
use crate::time::{Result, run};

/// Before a kill: what gaps are usual.
const USUAL: Duration = Duration::from_millis(1_000);
/// Behind it at least, and by chance so much more.
const BEHIND: Duration = Duration::from_millis(1_000);
const MORE: u64 = 500;
/// Two deaths that count are so far apart, so that three are not within a minute.
const DEATHS_APART: Duration = Duration::from_secs(32);
/// Kills of a worker that nobody is connected to.
const RESPAWNS: usize = 15;
/// Until what the kills have cost is over.
const SETTLE: Duration = Duration::from_secs(12);
/// What may be held more than before: those that come and go make it differ.
const DESCRIPTORS_MORE: usize = 150;
const KIB_MORE: u64 = 24 * 1024;

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

/// A kill, and what the players noticed of it.
struct Kill {
    role: Role,
    usual: Gaps,
    noticed: Gaps,
}

impl Kill {
    /// The longest gap of a player beyond the usual one.
    fn pause(&self) -> Duration {
        self.noticed.quantile(1.0).saturating_sub(self.usual.quantile(0.5))
    }
}

fn survive() -> Result<bool> {
    let (players, kills, seed) = (number("PLAYERS", 3_000)?, number("KILLS", 60)?, number("SEED", 1)?);
    let ramp = number("RAMP", 500)?;
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
    raise_descriptors()?;
    let (orders, mutate) = (points::file()?, variable("MUTATE"));
    let mut env = vec![(points::VARIABLE, orders.as_str())];
    if !mutate.is_empty() {
        env.push((points::MUTATE, &mutate));
    }
    let cluster = Cluster::start(&srsctl, players, &env)?;
    let mut bare = Vec::new();
    for _ in 0..RESPAWNS {
        std::thread::sleep(Duration::from_millis(150));
        bare.push(respawn(&cluster, Role::Edge)?);
    }
    bare.sort_unstable();
    let bare = bare.get(RESPAWNS / 2).copied().unwrap_or_default();
    eprintln!("a worker without connections is followed by the next within {} ms", ms(bare));

    let plan = Plan { origin: Role::Origin.address(), edge: Role::Edge.address(), players, seed };
    let mut swarm = Swarm::new(plan)?;
    run(&mut swarm, Duration::from_secs(3))?;
    eprintln!("{players} players come ...");
    swarm.ramp(u32::try_from(ramp)?)?;
    run(&mut swarm, SETTLE / 2)?;
    let before = Role::ALL.map(|role| held(&cluster, role));
    let began = Instant::now();

    let mut random = Random::new(seed ^ 0x6b69_6c6c);
    let mut done: Vec<Kill> = Vec::new();
    let mut deaths = [None::<Instant>; 2];
    for index in 0..kills {
        let role = roles.get(random.below(roles.len() as u64) as usize).copied().unwrap_or(Role::Edge);
        let died = deaths.get_mut(role as usize);
        swarm.take_gaps();
        run(&mut swarm, USUAL + Duration::from_micros(random.below(300_000)))?;
        let usual = swarm.take_gaps();
        let counts = died.filter(|died| died.is_none_or(|at| at.elapsed() > DEATHS_APART));
        let (how, again) = match counts {
            Some(died) => {
                *died = Some(Instant::now());
                cluster.kill(role)?;
                ("kill -9", false)
            }
            None => {
                cluster.replace(role)?;
                ("replaced", random.below(6) == 0)
            }
        };
        if again {
            // The next one is in the middle of its recovery, or has just begun.
            run(&mut swarm, Duration::from_micros(random.below(60_000)))?;
            cluster.replace(role)?;
        }
        run(&mut swarm, BEHIND + Duration::from_millis(random.below(MORE)))?;
        let kill = Kill { role, usual, noticed: swarm.take_gaps() };
        eprintln!(
            "{:3} {:6} {how}{}: pause {} ms, usual gap {} ms; lost {}, wrong {}",
            index + 1,
            role.name(),
            if again { " twice" } else { "" },
            ms(kill.pause()),
            ms(kill.usual.quantile(0.5)),
            swarm.counts().lost,
            swarm.counts().wrong,
        );
        done.push(kill);
    }
    points::run(&cluster, &mut swarm, roles, &variable("POINTS"), &mut random)?;
    run(&mut swarm, SETTLE)?;
    let lasted = began.elapsed();
    let after = Role::ALL.map(|role| held(&cluster, role));
    report(&cluster, &swarm, &done, bare, (before, after), lasted)
}

type AllHeld = [Result<Held>; 2];

fn report(
    cluster: &Cluster,
    swarm: &Swarm,
    done: &[Kill],
    bare: Duration,
    (before, after): (AllHeld, AllHeld),
    lasted: Duration,
) -> Result<bool> {
    let counts = swarm.counts();
    let mut is_good = counts.lost == 0 && counts.wrong == 0;
    println!(
        "| worker | kills | pause of the player that waits longest, p50 / p99 / max ms | ÷ bare respawn | of all players |"
    );
    println!("| --- | ---: | ---: | ---: | ---: |");
    for role in Role::ALL {
        let mut pauses: Vec<_> = done.iter().filter(|kill| kill.role == role).map(Kill::pause).collect();
        pauses.sort_unstable();
        let Some(longest) = pauses.last() else { continue };
        let at = |part: f64| {
            pauses
                .get((pauses.len().saturating_sub(1) as f64 * part).ceil() as usize)
                .copied()
                .unwrap_or_default()
        };
        let mut all = Vec::new();
        for kill in done.iter().filter(|kill| kill.role == role) {
            let usual = kill.usual.quantile(0.5);
            all.extend(kill.noticed.all().iter().map(|gap| gap.saturating_sub(usual)));
        }
        all.sort_unstable();
        let of_all = |part: f64| {
            all.get((all.len().saturating_sub(1) as f64 * part) as usize).copied().unwrap_or_default()
        };
        println!(
            "| {} | {} | {} / {} / {} | {:.1} / {:.1} | {} / {} / {} |",
            role.name(),
            pauses.len(),
            ms(at(0.5)),
            ms(at(0.99)),
            ms(*longest),
            at(0.5).as_secs_f64() / bare.as_secs_f64(),
            at(0.99).as_secs_f64() / bare.as_secs_f64(),
            ms(of_all(0.5)),
            ms(of_all(0.99)),
            ms(of_all(1.0)),
        );
    }
    println!("\n| worker | RSS KiB | outliving KiB | descriptors | threads | CPU | resumed | restarts |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |");
    for ((role, before), after) in Role::ALL.into_iter().zip(before).zip(after) {
        let (before, after) = (before?, after?);
        let unit = cluster.status(role)?;
        println!(
            "| {} | {} → {} | {} → {} | {} → {} | {} → {} | {:.1} % | {} | {} |",
            role.name(),
            before.rss,
            after.rss,
            before.state,
            after.state,
            before.descriptors,
            after.descriptors,
            before.threads,
            after.threads,
            (after.cpu - before.cpu).as_secs_f64() * 100.0 / lasted.as_secs_f64(),
            unit["resumed"],
            unit["restarts"],
        );
        let holds_more = after.descriptors > before.descriptors + DESCRIPTORS_MORE
            || after.threads > before.threads
            || after.rss > before.rss * 3 / 2 + KIB_MORE
            || after.state > before.state * 3 / 2 + KIB_MORE;
        if holds_more {
            println!("{}: holds more than before", role.name());
        }
        is_good &= !holds_more && unit["restarts"] == 0;
        let complaints = cluster.complaints(role)?;
        is_good &= complaints.is_empty();
        complaints.iter().take(20).for_each(|line| println!("{}: {line}", role.name()));
    }
    println!(
        "\n{} connections, {} frames checked ({:?} published), {} skips of slow ones, {} lost, {} wrong",
        counts.connections,
        counts.frames,
        swarm.published(),
        counts.skips,
        counts.lost,
        counts.wrong
    );
    counts.reasons.iter().for_each(|(reason, count)| println!("{count} × {reason}"));
    Ok(is_good)
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// As many descriptors as this process may have.
fn raise_descriptors() -> Result<()> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    Ok(setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?)
}
