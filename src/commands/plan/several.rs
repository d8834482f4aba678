//! The plan of a cluster on several machines: a part for each.

use cluster::UnitId;
use cluster::file::ClusterFile;
use cluster::plan::{Action, Change, HostPart, Plan, SCHEMA, digest};
use control::api::Apply;

use crate::change;
use crate::failure::Failure;
use crate::fleet::operation::{Look, Operation};
use crate::fleet::{Fleet, Place, Reach};
use crate::subject::{Loaded, parse};

/// What bringing a file into force would do on each machine.
///
/// # Errors
/// When one cannot be reached, or refuses the file.
pub(crate) async fn of_fleet(mut fleet: Fleet, loaded: &Loaded, reach: &Reach) -> Result<Plan, Failure> {
    fleet.reach_to_look(reach).await?;
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
    let mut changes = change::unasked(current.as_ref(), &loaded.cluster.clone().only(&hosts));
    if place.is_leaving() && changes.is_empty() {
        // Its file has left them already: a drain goes on there, of which only a supervisor knows.
        let gone = |id: &UnitId| {
            let why = "removed from the file; it drains without a supervisor".to_owned();
            Change { players: None, ..Change::new(id.clone(), Action::Stop, vec![why]) }
        };
        changes = place.ports().iter().map(gone).collect();
    }
    Ok(HostPart { machine: place.to_string(), generation: None, busy: None, changes })
}
