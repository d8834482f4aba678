//! `restart` on several machines, one after the other.

use std::process::ExitCode;

use cluster::Cluster;
use control::api::Restart;

use crate::failure::{Failure, code};
use crate::fleet::{Fleet, Place, Reach};
use crate::terminal::complain;

/// Restarts what is asked for on each machine that has such ports; the next one follows when all of them serve again.
pub(super) async fn run(
    mut fleet: Fleet,
    cluster: &Cluster,
    request: &Restart,
    reach: &Reach,
) -> Result<ExitCode, Failure> {
    if let Some(host) = &request.host {
        fleet.limit_to(std::slice::from_ref(host))?;
    }
    fleet.reach_to_change(reach).await?;
    let outcome = restart(&fleet, cluster, request).await;
    let partly = fleet.partly();
    fleet.close().await;
    outcome?;
    partly.map_or(Ok(ExitCode::SUCCESS), Err)
}

async fn restart(fleet: &Fleet, cluster: &Cluster, request: &Restart) -> Result<(), Failure> {
    fleet.take_leases(&format!("restart {}", request.role)).await?;
    for place in fleet.places().iter().filter(|place| has(place, cluster, request)) {
        let status = fleet.client(place).status().await.map_err(|error| {
            let said = place.at(&error.into());
            Failure::new(said.number(), format!("nothing was touched: {said}"))
        })?;
        fleet.expect_idle(place, status.busy.as_ref())?;
    }
    let mut is_any = false;
    for place in fleet.places().iter().filter(|place| has(place, cluster, request)) {
        is_any = true;
        let client = fleet.client(place);
        tokio::select! {
            done = client.restart(request, |line| complain(&format!("{place}: {line}"))) => {
                done.map_err(|error| place.at(&error.into()))?;
            }
            _ = tokio::signal::ctrl_c() => return Err(Failure::new(
                code::INTERRUPTED,
                format!("interrupted: the supervisor on {place} finishes the restart; see srsctl status"),
            )),
        }
    }
    if is_any { Ok(()) } else { Err(Failure::failed("there is no such process on these machines")) }
}

/// Whether a machine has what is to be restarted.
fn has(place: &Place, cluster: &Cluster, Restart { role, port, host, .. }: &Restart) -> bool {
    let own = cluster.clone().only(place.hosts());
    let is_encoder = own.encoder_spec().is_some() && *role == cluster::Role::Encoder;
    is_encoder
        || own.ports().any(|it| {
            it.role == *role
                && port.is_none_or(|port| it.port == port)
                && host.as_ref().is_none_or(|host| it.host.name == *host)
        })
}
