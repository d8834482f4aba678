//! What a worker dies of beside a kill at an instant by chance, and what it dies beside: each under all players.

use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, prlimit};

use crate::cluster::{Cluster, Result, Role};
use crate::places::{Filler, Group};
use crate::report::ms;
use crate::stage::{Done, Noticed, Stage};
use crate::stranger::Stranger;
use crate::system::{descriptors, grown, held};

/// Behind a death at least, and by chance so much more.
const BEHIND: (Duration, Duration) = (Duration::from_millis(1_500), Duration::from_millis(500));
/// Restarts of a port, one after the other.
const RESTARTS: usize = 50;
/// Of the players so many parts come in the middle of an upgrade, in about that time.
const COMING: u32 = 3;
const COME_WITHIN: u32 = 20;
/// From the death of the supervisor to the start of another.
const UNSUPERVISED: Duration = Duration::from_secs(1);
/// Connections a second that make a worker take memory.
const PUSHES: usize = 20;

/// See the [module](self).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cause {
    /// SIGSTOP: the supervisor finds it frozen.
    Stop,
    /// SIGABRT.
    Abort,
    /// The kernel kills it for its control group's want of memory.
    Oom,
    /// SIGKILL and a restart while the disk of the state directory is full.
    Disk,
    /// SIGKILL while a stranger has all places and the port all descriptors that it may have.
    Descriptors,
    /// SIGKILL of both workers and of the supervisor.
    Supervisor,
    /// All ports are given another program while players come.
    Upgrade,
    /// [`RESTARTS`] in a row.
    Restarts,
}

impl Cause {
    const ALL: [(&'static str, Self); 8] = [
        ("stop", Self::Stop),
        ("abort", Self::Abort),
        ("oom", Self::Oom),
        ("disk", Self::Disk),
        ("fds", Self::Descriptors),
        ("supervisor", Self::Supervisor),
        ("upgrade", Self::Upgrade),
        ("restarts", Self::Restarts),
    ];

    /// Those of `names`, with spaces between them, or `all`.
    pub(crate) fn named(names: &str) -> Result<Vec<(&'static str, Self)>> {
        let is_named = |wanted: &str| wanted == "all" || Self::ALL.iter().any(|(name, _)| *name == wanted);
        if let Some(name) = names.split_whitespace().find(|name| !is_named(name)) {
            return Err(format!("CAUSES: there is no {name}").into());
        }
        let wanted = |name: &str| names.split_whitespace().any(|it| it == name || it == "all");
        Ok(Self::ALL.into_iter().filter(|(name, _)| wanted(name)).collect())
    }

    /// Whether it is of the cluster, and not of each port.
    fn is_of_all(self) -> bool {
        matches!(self, Self::Supervisor | Self::Upgrade)
    }

    /// Words of the end in `srsctl status`.
    fn words(self) -> &'static str {
        match self {
            Self::Stop => "frozen",
            Self::Abort => "SIGABRT",
            Self::Oom => "out of memory",
            Self::Descriptors | Self::Supervisor => "SIGKILL",
            Self::Disk | Self::Restarts => "restart",
            Self::Upgrade => "upgrade",
        }
    }
}

/// Has all of `causes` happen to the ports of `roles`; `small` says why there is no file system that could be filled, where that is so.
pub(crate) fn run(
    stage: &mut Stage,
    roles: &[Role],
    causes: &[(&'static str, Cause)],
    small: &std::result::Result<(), String>,
) -> Result<Vec<Done>> {
    let mut all = Vec::new();
    for &(name, cause) in causes {
        for &role in if cause.is_of_all() { &roles[..1] } else { roles } {
            let of = if cause.is_of_all() { "both" } else { role.name() };
            let lacking = match cause {
                Cause::Disk => small.clone().err(),
                Cause::Oom => Group::new().err().map(|error| error.to_string()),
                _ => None,
            };
            let done = match lacking {
                Some(why) => {
                    Done { cause: name, of, noticed: Noticed::default(), how: format!("not done: {why}") }
                }
                None => {
                    let before = ends(&stage.cluster.status(role)?);
                    let noticed = happen(stage, cause, role)?;
                    let how = await_told(stage, cause, role, before)?;
                    Done { cause: name, of, noticed, how }
                }
            };
            let counts = stage.swarm.counts();
            eprintln!(
                "{name} of {of}: pause {} ms, usual gap {} ms; lost {}, wrong {}; {}",
                ms(done.noticed.pause()),
                ms(done.noticed.usual.quantile(0.5)),
                counts.lost,
                counts.wrong,
                done.how
            );
            all.push(done);
        }
    }
    Ok(all)
}

fn happen(stage: &mut Stage, cause: Cause, role: Role) -> Result<Noticed> {
    match cause {
        Cause::Stop => stage.observe(BEHIND, |stage| {
            await_next(stage, role, |stage| stage.cluster.signal(role, Signal::STOP))
        }),
        Cause::Abort => {
            stage.await_turn(role)?;
            stage.observe(BEHIND, |stage| {
                await_next(stage, role, |stage| stage.cluster.signal(role, Signal::ABORT))
            })
        }
        Cause::Oom => {
            stage.await_turn(role)?;
            stage.observe(BEHIND, |stage| run_out_of_memory(stage, role))
        }
        Cause::Disk => {
            stage.await_turn(role)?;
            let _filler = Filler::fill(&stage.cluster.path("state"))?;
            stage.observe(BEHIND, |stage| {
                await_next(stage, role, |stage| stage.cluster.kill(role))?;
                restart(stage, role)
            })
        }
        Cause::Descriptors => {
            stage.await_turn(role)?;
            stage.observe(BEHIND, |stage| run_out_of_descriptors(stage, role))
        }
        Cause::Supervisor => {
            for role in Role::ALL {
                stage.await_turn(role)?;
            }
            let noticed = stage.observe(BEHIND, |stage| {
                stage.cluster.kill_all_but_keepers()?;
                stage.run(UNSUPERVISED)?;
                stage.cluster.start_supervisor()
            })?;
            for role in Role::ALL {
                let keeper = i64::from(stage.cluster.keeper(role).as_raw_nonzero().get());
                stage.await_that("that the next supervisor takes over", |cluster| {
                    let unit = cluster.status(role)?;
                    Ok((unit["state"] == "running" && unit["keeper_pid"] == keeper).then_some(()))
                })?;
            }
            Ok(noticed)
        }
        Cause::Upgrade => {
            let players = stage.swarm.players();
            stage.swarm.leave(players / COMING);
            stage.observe(BEHIND, |stage| {
                let program = stage.cluster.copy_of_binary()?;
                let upgrade = stage.cluster.srsctl(&["upgrade", "--bin", &program, "--yes"]).spawn()?;
                stage.swarm.ramp((players / COMING / COME_WITHIN).max(1))?;
                stage.await_end("srsctl upgrade", upgrade)
            })
        }
        Cause::Restarts => {
            restart(stage, role)?;
            let before = held(&stage.cluster)?;
            let noticed =
                stage.observe(BEHIND, |stage| (0..RESTARTS).try_for_each(|_| restart(stage, role)))?;
            let after = held(&stage.cluster)?;
            for (before, after) in before.iter().zip(&after) {
                eprintln!(
                    "{RESTARTS} restarts, {}: RSS {} → {} KiB, outliving {} → {} KiB, descriptors {} → {}, threads {} → {}",
                    before.name,
                    before.rss,
                    after.rss,
                    before.state,
                    after.state,
                    before.descriptors,
                    after.descriptors,
                    before.threads,
                    after.threads
                );
            }
            match grown(&before, &after).into_iter().next() {
                Some(problem) => Err(problem.into()),
                None => Ok(noticed),
            }
        }
    }
}

/// Goes on until another worker than the one that lives serves `role`, for what `act` does.
fn await_next(stage: &mut Stage, role: Role, act: impl FnOnce(&mut Stage) -> Result<()>) -> Result<()> {
    let before = stage.cluster.worker(role);
    act(stage)?;
    let is_next = |cluster: &Cluster| cluster.worker(role).is_some() && cluster.worker(role) != before;
    stage.await_that("the next worker", |cluster| Ok(is_next(cluster).then_some(())))
}

fn restart(stage: &mut Stage, role: Role) -> Result<()> {
    let restart = stage.cluster.srsctl(&["restart", role.name()]).spawn()?;
    stage.await_end("srsctl restart", restart)
}

/// What it has is charged to where it was; whatever it takes from now on is not to be had.
fn run_out_of_memory(stage: &mut Stage, role: Role) -> Result<()> {
    let group = Group::new()?;
    let worker = stage.cluster.worker(role).ok_or("no worker lives")?;
    let mut stranger = Stranger::new(role.address());
    let mut connections = 0;
    group.add(worker)?;
    stage.await_that("the kernel's kill", |cluster| {
        connections += PUSHES;
        stranger.connect(connections)?;
        Ok((cluster.worker(role) != Some(worker)).then_some(()))
    })?;
    stage.await_that("the next worker", |cluster| Ok(cluster.worker(role)))?;
    Ok(())
}

fn run_out_of_descriptors(stage: &mut Stage, role: Role) -> Result<()> {
    let (keeper, needed) = (stage.cluster.keeper(role), stage.cluster.descriptors_needed(role));
    let before = limit(keeper, Some(needed))?;
    let mut stranger = Stranger::new(role.address());
    let connections = stage.cluster.connections() as usize;
    // As many as there is room for, or nearly: those of the swarm come and go.
    let worker = stage.await_that("that all places are taken", |cluster| {
        let worker = cluster.worker(role).ok_or("no worker lives")?;
        limit(worker, Some(needed))?;
        let open = descriptors(worker)?;
        stranger.connect(stranger.connections() + connections.saturating_sub(open))?;
        Ok((open >= connections).then_some(worker))
    })?;
    let open = descriptors(worker)?;
    eprintln!("{}: {open} descriptors are open of {needed}", role.name());
    await_next(stage, role, |stage| stage.cluster.kill(role))?;
    stranger.connect(stranger.connections())?;
    stage.run(BEHIND.0)?;
    for pid in [Some(keeper), stage.cluster.worker(role)].into_iter().flatten() {
        limit(pid, before)?;
    }
    Ok(())
}

/// Lets the process open so many descriptors; how many it was before. The hard limit of all is that of this process.
fn limit(pid: Pid, descriptors: Option<u64>) -> Result<Option<u64>> {
    let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
    Ok(prlimit(Some(pid), Resource::Nofile, Rlimit { current: descriptors, maximum })?.current)
}

/// Deaths that a port has outlived, and restarts.
fn ends(unit: &serde_json::Value) -> (u64, u64) {
    let count = |name: &str| unit[name].as_u64().unwrap_or(0);
    (count("resumed"), count("renewed"))
}

/// Waits until `srsctl status` says of the end what it should, which is one more than `before`.
fn await_told(stage: &mut Stage, cause: Cause, role: Role, before: (u64, u64)) -> Result<String> {
    let what = format!("that status says: {}", cause.words());
    let is_restart = matches!(cause, Cause::Disk | Cause::Upgrade | Cause::Restarts);
    let is_death = !matches!(cause, Cause::Upgrade | Cause::Restarts);
    stage.await_that(&what, |cluster| {
        let unit = cluster.status(role)?;
        let how = unit["last_exit"]["how"].as_str().unwrap_or_default();
        let (resumed, renewed) = ends(&unit);
        let is_told = how.contains(cause.words())
            && (resumed > before.0 || !is_death)
            && (renewed > before.1 || !is_restart);
        Ok(is_told.then(|| how.to_owned()))
    })
}
