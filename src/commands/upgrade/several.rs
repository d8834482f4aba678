//! `upgrade` on several machines, one after the other: those of edges first, the origin's last.

use std::path::PathBuf;

use control::api::{Upgrade, Upgraded};

use crate::failure::{Failure, code};
use crate::fleet::operation::{Look, Operation};
use crate::fleet::{Fleet, Place, Reach};
use crate::terminal::complain;

/// Has all ports of all machines run `program`, a path there, or srsctl as it is there. What became of each port, and whether all was done.
pub(super) async fn run(
    mut fleet: Fleet,
    program: Option<PathBuf>,
    (canary, yes): (usize, bool),
    reach: &Reach,
) -> (Upgraded, Result<(), Failure>) {
    let mut all = Upgraded::default();
    if let Err(failure) = fleet.reach_to_change(reach).await {
        return (all, Err(failure));
    }
    let mut outcome = upgrade(&fleet, program, (canary, yes), &mut all).await;
    if let (Ok(()), Some(partly)) = (&outcome, fleet.partly()) {
        outcome = Err(partly);
    }
    fleet.close().await;
    (all, outcome)
}

async fn upgrade(
    fleet: &Fleet,
    program: Option<PathBuf>,
    (canary, yes): (usize, bool),
    all: &mut Upgraded,
) -> Result<(), Failure> {
    fleet.take_leases("upgrade").await?;
    let mut requests = Vec::new();
    for place in fleet.places() {
        let look: Look = place.ask(&Operation::Look { cluster: fleet.name().to_owned() }, &[]).await?;
        if !look.is_supervised {
            return Err(
                place.at(&Failure::failed("nothing was touched: no supervisor runs there: srsctl up"))
            );
        }
        let program = program.clone().unwrap_or(look.program);
        // Where the first ports have tried it out, the rest of them need not.
        let canary = if requests.len() + 1 == fleet.places().len() { canary } else { canary.min(1) };
        requests.push((place, Upgrade { program, canary, yes }));
    }
    let mut done: Vec<String> = Vec::new();
    for (place, request) in requests.into_iter().rev() {
        if let Err(failure) = one(fleet, place, &request, all).await {
            let before = done.join(", ");
            let rest = if done.is_empty() { String::new() } else { format!("\n{before} run it") };
            return Err(Failure::new(
                failure.number(),
                format!("{failure}{rest}; no other machine was touched"),
            ));
        }
        done.push(place.to_string());
    }
    Ok(())
}

async fn one(fleet: &Fleet, place: &Place, request: &Upgrade, all: &mut Upgraded) -> Result<(), Failure> {
    let client = fleet.client(place);
    let (upgraded, outcome) = tokio::select! {
        done = client.upgrade(request, |line| complain(&format!("{place}: {line}"))) => done,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(
            code::INTERRUPTED,
            format!("interrupted: the supervisor on {place} goes on with the upgrade; see srsctl status"),
        )),
    };
    if let Some(Upgraded { version, ports }) = upgraded {
        all.version = all.version.take().or(version);
        all.ports.extend(ports);
    }
    outcome.map_err(|error| place.at(&error.into()))
}
