//! The plan of a cluster on several machines: a part for each.

use cluster::file::ClusterFile;
use cluster::plan::{HostPart, Plan, SCHEMA, digest};
use control::api::Apply;

use crate::change;
use crate::failure::Failure;
use crate::fleet::operation::{Look, Operation};
use crate::fleet::{Fleet, Place};
use crate::subject::{Loaded, parse};

/// What bringing a file into force would do on each machine.
///
/// # Errors
/// When one cannot be reached, or refuses the file.
pub(crate) async fn of_fleet(mut fleet: Fleet, loaded: &Loaded) -> Result<Plan, Failure> {
    fleet.reach(false).await;
    let outcome = parts(&fleet, loaded).await;
    let name = fleet.name().to_owned();
    fleet.close().await;
    Ok(Plan {
        schema: SCHEMA.to_owned(),
        cluster: name,
        file: loaded.path.display().to_string(),
        digest: digest(&loaded.text),
        text: None,
        hosts: outcome?,
    })
}

async fn parts(fleet: &Fleet, loaded: &Loaded) -> Result<Vec<HostPart>, Failure> {
    let problems = fleet.problems();
    if !problems.is_empty() {
        return Err(Failure::failed(problems.join("\n")));
    }
    let mut parts = Vec::new();
    for place in fleet.places() {
        let look: Look = place.ask(&Operation::Look { cluster: fleet.name().to_owned() }, &[]).await?;
        if !place.is_leaving() || look.runs() {
            parts.push(HostPart { machine: place.to_string(), ..part(fleet, place, look, loaded).await? });
        }
    }
    Ok(parts)
}

async fn part(fleet: &Fleet, place: &Place, look: Look, loaded: &Loaded) -> Result<HostPart, Failure> {
    let hosts = place.hosts().to_vec();
    if look.is_supervised {
        let request = Apply { hosts, ..Apply::new(loaded.path.clone(), loaded.text.clone()) };
        return fleet.client(place).plan(&request).await.map_err(|error| place.at(&error.into()));
    }
    // What goes on without a supervisor is taken over, and changed then.
    let current = look.in_force.map(|text| ClusterFile::new(loaded.path.clone(), text));
    let current = current.and_then(|file| parse(&file).ok()).map(|cluster| cluster.only(&hosts));
    let changes = change::unasked(current.as_ref(), &loaded.cluster.clone().only(&hosts));
    Ok(HostPart { machine: place.to_string(), generation: None, busy: None, changes })
}
