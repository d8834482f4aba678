//! Deaths at chosen points of the code, of a worker that was built with the feature `failpoints`.

use std::fs;
use std::time::Duration;

use bench::exact::{Random, Swarm};

use crate::cluster::{Cluster, Role};
use crate::time::{Result, run as run_for};

/// Names the file with a worker's orders; see worker/src/failpoints.rs.
pub(crate) const VARIABLE: &str = "SRSCTL_TEST_DIE";
/// Says what workers do wrong.
pub(crate) const MUTATE: &str = "SRSCTL_TEST_MUTATE";
/// All points, and how often they are passed before the death: those of a recovery once.
const POINTS: [(&str, &[u32]); 11] = [
    ("put", &[1, 2, 30, 31, 200, 201, 202, 203]),
    ("commit.between", &[1, 20, 700]),
    ("commit.put", &[1, 2, 25, 400, 3_000]),
    ("commit.done", &[1, 2, 25, 400, 3_000]),
    ("read", &[1, 10, 300]),
    ("read.handled", &[1, 10, 300]),
    ("send", &[1, 50, 5_000]),
    ("accept", &[1, 5]),
    ("recovery.made", &[1]),
    ("recovery.finished", &[1]),
    ("recovery.committed", &[1]),
];
/// So long a worker has to come to its point.
const REACHED: Duration = Duration::from_secs(6);

/// The file with a worker's orders.
pub(crate) fn file() -> Result<String> {
    let path = std::env::current_dir()?.join("target/survive/die");
    Ok(path.to_str().ok_or("the path of this directory is no text")?.to_owned())
}

/// Lets workers die at the points of `names`.
pub(crate) fn run(
    cluster: &Cluster,
    swarm: &mut Swarm,
    roles: &[Role],
    names: &str,
    random: &mut Random,
) -> Result<()> {
    if let Some(name) =
        names.split_whitespace().find(|name| *name != "all" && !POINTS.iter().any(|(it, _)| it == name))
    {
        return Err(format!("POINTS: there is no {name}").into());
    }
    let orders = cluster.path("die");
    let died = cluster.path("die.done");
    for (name, counts) in
        POINTS.iter().filter(|(name, _)| names.split_whitespace().any(|it| it == *name || it == "all"))
    {
        for (count, &role) in counts.iter().flat_map(|count| roles.iter().map(move |role| (count, role))) {
            let _ = fs::remove_file(&died);
            fs::write(&orders, format!("{name}:{count}"))?;
            run_for(swarm, Duration::from_millis(300 + random.below(300)))?;
            // The next worker has the orders.
            cluster.replace(role)?;
            let mut waited = Duration::ZERO;
            while !died.exists() && waited < REACHED {
                run_for(swarm, Duration::from_millis(100))?;
                waited += Duration::from_millis(100);
            }
            let is_reached = died.exists();
            run_for(swarm, Duration::from_secs(1))?;
            if orders.exists() {
                return Err("the worker knows no points: build srsctl with --features failpoints".into());
            }
            let counts = swarm.counts();
            let how = if is_reached { "died" } else { "was not reached" };
            eprintln!(
                "{name}:{count} of {} {how}; lost {}, wrong {}",
                role.name(),
                counts.lost,
                counts.wrong
            );
        }
    }
    Ok(())
}
