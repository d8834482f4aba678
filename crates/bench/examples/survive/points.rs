//! Deaths at chosen points of the code, of a worker that was built with the feature `failpoints`.

use std::fs;
use std::time::{Duration, Instant};

use crate::cluster::{Result, Role};
use crate::stage::Stage;

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
pub(crate) fn run(stage: &mut Stage, roles: &[Role], names: &str) -> Result<()> {
    if let Some(name) =
        names.split_whitespace().find(|name| *name != "all" && !POINTS.iter().any(|(it, _)| it == name))
    {
        return Err(format!("POINTS: there is no {name}").into());
    }
    let orders = stage.cluster.path("die");
    let died = stage.cluster.path("die.done");
    let (mut reached, mut missed) = (0, Vec::new());
    for (name, counts) in
        POINTS.iter().filter(|(name, _)| names.split_whitespace().any(|it| it == *name || it == "all"))
    {
        for (count, &role) in counts.iter().flat_map(|count| roles.iter().map(move |role| (count, role))) {
            let _ = fs::remove_file(&died);
            fs::write(&orders, format!("{name}:{count}"))?;
            stage.run_about(Duration::from_millis(300), Duration::from_millis(300))?;
            // The next worker has the orders.
            stage.cluster.replace(role)?;
            let begun = Instant::now();
            while !died.exists() && begun.elapsed() < REACHED {
                stage.run(Duration::from_millis(100))?;
            }
            let is_reached = died.exists();
            stage.run(Duration::from_secs(1))?;
            if orders.exists() {
                return Err("the worker knows no points: build srsctl with --features failpoints".into());
            }
            let point = format!("{name}:{count} of {}", role.name());
            let counts = stage.swarm.counts();
            let how = if is_reached { "died" } else { "was not reached" };
            eprintln!("{point} {how}; lost {}, wrong {}", counts.lost, counts.wrong);
            if is_reached { reached += 1 } else { missed.push(point) }
        }
    }
    if reached + missed.len() > 0 {
        println!("{reached} points were reached; not: {}", missed.join(", "));
    }
    Ok(())
}
