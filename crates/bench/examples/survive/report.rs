//! What the run has shown, as tables.

use std::time::Duration;

use crate::cluster::{Cluster, Result, Role};
use crate::stage::{Done, Noticed, Stage};
use crate::system::{Held, grown};

/// Lines of a log that are told.
const LINES: usize = 20;

/// A kill at an instant by chance.
pub(crate) struct Kill {
    pub(crate) role: Role,
    /// The next worker was killed as well, in the middle of its recovery or just behind it.
    pub(crate) is_double: bool,
    pub(crate) noticed: Noticed,
}

/// Prints what there was of the cluster's `kills` and of `done`; whether all of it is well. `bare` is how long a worker without a connection
/// takes to be followed by the next one.
pub(crate) fn print(
    stage: &Stage,
    (kills, bare): (&[Kill], Duration),
    done: &[Done],
    (before, after): (&[Held], &[Held]),
    lasted: Duration,
) -> Result<bool> {
    print_pauses(kills, bare);
    if !done.is_empty() {
        println!("\n| cause | of | pause ms | usual gap ms | what status says of it |");
        println!("| --- | --- | ---: | ---: | --- |");
    }
    for Done { cause, of, noticed, how } in done {
        let (pause, usual) = (ms(noticed.pause()), ms(noticed.usual.quantile(0.5)));
        println!("| {cause} | {of} | {pause} | {usual} | {how} |");
    }
    println!("\n| process | RSS KiB | outliving KiB | descriptors | threads | CPU |");
    println!("| --- | ---: | ---: | ---: | ---: | ---: |");
    for (before, after) in before.iter().zip(after) {
        println!(
            "| {} | {} → {} | {} → {} | {} → {} | {} → {} | {:.1} % |",
            before.name,
            before.rss,
            after.rss,
            before.state,
            after.state,
            before.descriptors,
            after.descriptors,
            before.threads,
            after.threads,
            after.cpu.saturating_sub(before.cpu).as_secs_f64() * 100.0 / lasted.as_secs_f64(),
        );
    }
    let mut problems = grown(before, after);
    for role in Role::ALL {
        problems.extend(problems_of(&stage.cluster, role)?);
    }
    let counts = stage.swarm.counts();
    println!(
        "\n{} connections, {} frames checked ({:?} published), {} skips of slow ones, {} lost, {} wrong",
        counts.connections,
        counts.frames,
        stage.swarm.published(),
        counts.skips,
        counts.lost,
        counts.wrong
    );
    counts.reasons.iter().for_each(|(reason, count)| println!("{count} × {reason}"));
    problems.iter().for_each(|problem| println!("{problem}"));
    Ok(problems.is_empty() && counts.lost == 0 && counts.wrong == 0)
}

/// Prints how often a port's worker died, and what its log or its status tells of it that should not be.
fn problems_of(cluster: &Cluster, role: Role) -> Result<Vec<String>> {
    let unit = cluster.status(role)?;
    let (resumed, renewed, restarts) = (&unit["resumed"], &unit["renewed"], &unit["restarts"]);
    println!("{}: resumed {resumed}, renewed {renewed}, restarts {restarts}", role.name());
    let restarts = (*restarts != 0).then(|| format!("{}: the port was started anew", role.name()));
    let complaints = cluster.complaints(role)?.into_iter().take(LINES);
    Ok(restarts.into_iter().chain(complaints.map(|line| format!("{}: {line}", role.name()))).collect())
}

fn print_pauses(kills: &[Kill], bare: Duration) {
    println!(
        "| worker | kills | pause of the player that waits longest, p50 / p99 / max ms | ÷ bare respawn | of all players |"
    );
    println!("| --- | ---: | ---: | ---: | ---: |");
    for (role, is_double) in Role::ALL.into_iter().flat_map(|role| [(role, false), (role, true)]) {
        let of_these = || kills.iter().filter(move |kill| (kill.role, kill.is_double) == (role, is_double));
        let mut pauses: Vec<_> = of_these().map(|kill| kill.noticed.pause()).collect();
        pauses.sort_unstable();
        let Some(longest) = pauses.last() else { continue };
        let at = |part: f64| {
            let index = (pauses.len().saturating_sub(1) as f64 * part).ceil() as usize;
            pauses.get(index).copied().unwrap_or_default()
        };
        let mut all = Vec::new();
        for Kill { noticed, .. } in of_these() {
            let usual = noticed.usual.quantile(0.5);
            all.extend(noticed.gaps.all().iter().map(|gap| gap.saturating_sub(usual)));
        }
        all.sort_unstable();
        let of_all = |part: f64| {
            all.get((all.len().saturating_sub(1) as f64 * part) as usize).copied().unwrap_or_default()
        };
        println!(
            "| {}{} | {} | {} / {} / {} | {:.1} / {:.1} | {} / {} / {} |",
            role.name(),
            if is_double { ", two in a row" } else { "" },
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
}

pub(crate) fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}
