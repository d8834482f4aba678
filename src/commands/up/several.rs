//! `up` of a cluster on several machines: all is looked at before anything is touched; then the origin's machine, and when that is ready
//! those of the edges, one after the other. A machine that loses edges goes before the origin that is there already: as long as players
//! are there, their stream has to come. What runs on a machine that the file has no more ends last.

use std::process::ExitCode;
use std::time::Duration;

use cluster::Role;
use cluster::plan::{Action, HostPart};
use control::api::{Apply, StartupEvent};
use control::start::{Secret, Start};
use supervisor::ClientError;
use tokio::signal::ctrl_c;

use super::progress::{not_ready, progress};
use crate::change::{self, Wish};
use crate::commands::down;
use crate::commands::status::machines;
use crate::failure::{Failure, code};
use crate::fleet::operation::{Look, Operation};
use crate::fleet::{Fleet, Place, Reach};
use crate::output;
use crate::subject::Loaded;
use crate::table::Paper;
use crate::terminal::{complain, print_clean};

/// How often a machine that leaves is asked who is left.
const LEFT_POLL: Duration = Duration::from_millis(500);

/// Makes the cluster run as its file says.
pub(super) async fn run(
    mut fleet: Fleet,
    loaded: &Loaded,
    (reach, wish): (&Reach, &Wish),
) -> Result<ExitCode, Failure> {
    fleet.reach_to_change(reach).await?;
    let outcome = bring_up(&fleet, loaded, wish).await;
    fleet.let_go().await;
    let status = match &outcome {
        Ok(()) => Some(machines::settled(&fleet, &loaded.cluster).await),
        Err(_) => None,
    };
    let partly = fleet.partly();
    fleet.close().await;
    outcome?;
    if let Some(seen) = status {
        print_clean(&format!("\n{}", seen.render(Paper::stdout())))?;
        let waiting = output::waiting(seen.status());
        if waiting > 0 {
            return Err(not_ready(waiting));
        }
    }
    partly.map_or(Ok(ExitCode::SUCCESS), Err)
}

async fn bring_up(fleet: &Fleet, loaded: &Loaded, wish: &Wish) -> Result<(), Failure> {
    let (mut secret, work) = prepare(fleet, loaded, wish).await.map_err(|failure| {
        let said = failure.to_string();
        let untouched = "nothing was touched";
        let said = if said.contains(untouched) { said } else { format!("{untouched}: {said}") };
        Failure::new(failure.number(), said)
    })?;
    for (done, Work { place, change }) in work.iter().enumerate() {
        let outcome = match change {
            Some((request, _)) => carry_out(fleet, place, request).await,
            None => {
                let operation = Operation::Start { cluster: fleet.name().to_owned() };
                start(place, &operation, &encoded(loaded, place, secret.as_ref())?).await
            }
        };
        if let Err(failure) = outcome {
            return Err(stopped_at(&work, done, &failure));
        }
        if secret.is_none() {
            // The first has made it.
            secret = own_secret(fleet, place).await?;
        }
    }
    Ok(())
}

/// What is done on one machine.
struct Work<'a> {
    place: &'a Place,
    /// What the supervisor there is asked for, and what that comes to; without, one is started.
    change: Option<(Apply, HostPart)>,
}

impl Work<'_> {
    /// Whether it does this to a port of this role.
    fn has(&self, actions: &[Action], role: Role) -> bool {
        let changes = self.change.iter().flat_map(|(_, part)| &part.changes);
        changes.into_iter().any(|it| actions.contains(&it.action) && it.unit.parts().0 == role)
    }

    fn starts_origin(&self, is_first: bool) -> bool {
        let is_started = self.change.is_none() && is_first;
        is_started || self.has(&[Action::Start, Action::Restart], Role::Origin)
    }
}

/// The machines in the order in which they are changed; the origin's is the first of `work`.
fn in_order(work: Vec<Work<'_>>) -> Vec<Work<'_>> {
    let is_origin_new = work.iter().enumerate().any(|(place, it)| it.starts_origin(place == 0));
    let rank = |(index, it): &(usize, Work<'_>)| match index {
        _ if it.has(&[Action::Stop], Role::Origin) && !it.starts_origin(*index == 0) => 3,
        0 => 1,
        // A drain may go on there of which the plan does not tell.
        _ if !is_origin_new
            && (it.place.is_leaving() || it.has(&[Action::Stop, Action::Restart], Role::Edge)) =>
        {
            0
        }
        _ => 2,
    };
    let mut work: Vec<_> = work.into_iter().enumerate().collect();
    work.sort_by_key(rank);
    work.into_iter().map(|(_, it)| it).collect()
}

/// All that can be known before anything is touched: who else is at it, whether each machine can do what is asked for, and whom it costs.
/// And the secret, where one has it already.
async fn prepare<'a>(
    fleet: &'a Fleet,
    loaded: &Loaded,
    wish: &Wish,
) -> Result<(Option<Secret>, Vec<Work<'a>>), Failure> {
    fleet.take_leases(&format!("up {}", loaded.path.display())).await?;
    let mut looks = Vec::new();
    let mut problems = Vec::new();
    for place in fleet.places() {
        let look: Look = place.ask(&Operation::Look { cluster: fleet.name().to_owned() }, &[]).await?;
        if place.is_leaving() {
            if look.runs() {
                looks.push((place, look));
            }
            continue;
        }
        if !look.runs() {
            let operation = Operation::Rehearse { cluster: fleet.name().to_owned() };
            let found: Vec<String> = place.ask(&operation, &encoded(loaded, place, None)?).await?;
            problems.extend(found.into_iter().map(|problem| format!("{place}: {problem}")));
        }
        looks.push((place, look));
    }
    if !problems.is_empty() {
        return Err(Failure::failed(format!("nothing was touched:\n  {}", problems.join("\n  "))));
    }
    let secret = known_secret(fleet, &looks).await?;
    let mut work = Vec::new();
    for (place, look) in &looks {
        let change = if look.is_supervised { Some(plan(fleet, place, loaded, wish).await?) } else { None };
        work.push(Work { place, change });
    }
    let generation = |it: &Work<'_>| it.change.as_ref()?.1.generation;
    let now: Vec<_> = work.iter().map(|it| (it.place.to_string(), generation(it))).collect();
    change::unchanged(wish.planned.as_ref(), &now)?;
    for (it, (place, look)) in work.iter_mut().zip(&looks) {
        if take_over(fleet, place, look, loaded).await? {
            it.change = Some(plan(fleet, place, loaded, wish).await?);
        } else if it.change.is_none() && place.is_leaving() {
            return Err(place.at(&Failure::failed(format!(
                "it is not in the file any more, and the file in force there is not valid: whom its end costs is not known; end it first, \
                 on it: srsctl down {}",
                fleet.name()
            ))));
        }
    }
    for it in &work {
        let busy = it.change.as_ref().and_then(|(_, part)| part.busy.as_ref());
        fleet.expect_idle(it.place, busy)?;
    }
    consent(&work, wish)?;
    Ok((secret, in_order(work)))
}

/// Where it has stopped, and how it goes on.
fn stopped_at(work: &[Work<'_>], done: usize, failure: &Failure) -> Failure {
    let names = |work: &[Work<'_>]| work.iter().map(|it| it.place.to_string()).collect::<Vec<_>>().join(", ");
    let (before, rest) = work.split_at(done.min(work.len()));
    let mut said = failure.to_string();
    if !before.is_empty() {
        said.push_str(&format!("\n{} run as the file says", names(before)));
    }
    if rest.len() > 1 {
        said.push_str(&format!("\nnot touched: {}", names(rest.get(1..).unwrap_or_default())));
    }
    said.push_str("\nthe same srsctl up goes on from here");
    Failure::new(failure.number(), said)
}

fn start_document(loaded: &Loaded, place: &Place, secret: Option<&Secret>) -> Start {
    Start {
        path: loaded.path.clone(),
        text: loaded.text.clone(),
        hosts: place.hosts().to_vec(),
        secret: secret.cloned(),
    }
}

fn encoded(loaded: &Loaded, place: &Place, secret: Option<&Secret>) -> Result<Vec<u8>, Failure> {
    let mut text = serde_json::to_vec(&start_document(loaded, place, secret)).map_err(Failure::failed)?;
    text.push(b'\n');
    Ok(text)
}

async fn own_secret(fleet: &Fleet, place: &Place) -> Result<Option<Secret>, Failure> {
    let operation = Operation::Secret { cluster: fleet.name().to_owned() };
    let text: Option<String> = place.ask(&operation, &[]).await?;
    // What is no secret is as none.
    Ok(text.and_then(|text| Secret::try_from(text).ok()))
}

/// The secret that the machines have: of those where something runs, else of any.
async fn known_secret(fleet: &Fleet, looks: &[(&Place, Look)]) -> Result<Option<Secret>, Failure> {
    let (mut running, mut resting): (Option<(Secret, &Place)>, Option<Secret>) = (None, None);
    for (place, look) in looks.iter().filter(|(place, _)| !place.is_leaving()) {
        let Some(secret) = own_secret(fleet, place).await? else { continue };
        if look.living == 0 {
            resting.get_or_insert(secret);
            continue;
        }
        match &running {
            Some((other, at)) if *other != secret => {
                return Err(Failure::failed(format!(
                    "nothing was touched: {at} and {place} have different secrets, so edges there refuse the origin; \
                     give all the same one: srsctl secret rotate"
                )));
            }
            Some(_) => {}
            None => running = Some((secret, place)),
        }
    }
    Ok(running.map(|(secret, _)| secret).or(resting))
}

/// What the supervisor there is to do, and what that is.
async fn plan(
    fleet: &Fleet,
    place: &Place,
    loaded: &Loaded,
    wish: &Wish,
) -> Result<(Apply, HostPart), Failure> {
    let mut request = Apply { hosts: place.hosts().to_vec(), ..wish.request(loaded, None) };
    let part = fleet.client(place).plan(&request).await.map_err(|error| place.at(&error.into()))?;
    // Carried out is what was planned, or nothing.
    request.expect_generation = part.generation;
    Ok((request, part))
}

/// That nobody is disconnected on any machine, or that this shall be.
fn consent(work: &[Work<'_>], wish: &Wish) -> Result<(), Failure> {
    let changes = work.iter().filter_map(|it| it.change.as_ref()).flat_map(|(_, part)| &part.changes);
    let costs = changes.filter(|change| change.disconnects());
    let costs: String =
        costs.map(|it| format!("\n  {} {}: disconnects {}", it.action, it.unit, it.whom())).collect();
    if wish.cost.yes || costs.is_empty() {
        return Ok(());
    }
    let why = format!(
        "nothing was touched, since that would disconnect:{costs}\nif that shall be: the same with --yes"
    );
    Err(Failure::new(code::CONSENT, why))
}

/// Has the supervisor there carry it out; it ends where nothing is left for it.
async fn carry_out(fleet: &Fleet, place: &Place, request: &Apply) -> Result<(), Failure> {
    change(fleet, place, request).await?;
    if place.is_leaving() {
        await_left(fleet, place).await?;
        down::several::stop_at(fleet, place, false).await?;
    }
    Ok(())
}

/// Waits until nobody is left on the ports there: a drain that an earlier supervisor began goes on by itself.
async fn await_left(fleet: &Fleet, place: &Place) -> Result<(), Failure> {
    let client = fleet.client(place);
    let mut is_told = false;
    loop {
        let status = client.status().await.map_err(|error| place.at(&error.into()))?;
        let Some(draining) = status.units.iter().find_map(|unit| unit.draining.as_ref()) else {
            return Ok(());
        };
        if !is_told {
            is_told = true;
            complain(&format!("{place}: {draining}"));
        }
        tokio::select! {
            () = tokio::time::sleep(LEFT_POLL) => {}
            _ = ctrl_c() => return Err(Failure::new(
                code::INTERRUPTED,
                format!("interrupted: the supervisor on {place} finishes what it has begun; the same srsctl up goes on from here"),
            )),
        }
    }
}

async fn change(fleet: &Fleet, place: &Place, request: &Apply) -> Result<(), Failure> {
    let client = fleet.client(place);
    tokio::select! {
        applied = client.apply(request, |line| complain(&format!("{place}: {line}"))) => {
            applied.map_err(|error| match error {
                ClientError::Broken { .. } | ClientError::Lost(_) => Failure::failed(format!(
                    "{place}: the connection broke; the supervisor there finishes what it has begun; see srsctl status"
                )),
                error => place.at(&error.into()),
            })
        }
        _ = ctrl_c() => Err(Failure::new(
            code::INTERRUPTED,
            format!("interrupted: the cluster runs on, and the supervisor on {place} finishes what it has begun"),
        )),
    }
}

/// What runs on there without a supervisor is taken over as it is, where another file is in force: what a change of it costs, a supervisor
/// knows. Nobody is disconnected. False where there is nothing to take over.
async fn take_over(fleet: &Fleet, place: &Place, look: &Look, loaded: &Loaded) -> Result<bool, Failure> {
    let is_other = look.in_force.as_ref().is_some_and(|text| place.is_leaving() || *text != loaded.text);
    if look.is_supervised || !is_other {
        return Ok(false);
    }
    complain(&format!("{place}: taking over what runs, with the file in force"));
    start(place, &Operation::TakeOver { cluster: fleet.name().to_owned() }, &[]).await?;
    Ok(true)
}

/// Has a supervisor started there, and waits until all it starts is ready.
async fn start(place: &Place, operation: &Operation, given: &[u8]) -> Result<(), Failure> {
    let mut lines = place.lines(operation, given).await?;
    let mut is_interrupted = false;
    loop {
        let line = tokio::select! {
            line = lines.next() => line?,
            _ = ctrl_c(), if !is_interrupted => {
                complain(&format!("interrupted: stopping what was started on {place}"));
                is_interrupted = true;
                lines.stop().await;
                continue;
            }
        };
        let Some(line) = line else {
            return Err(Failure::failed(format!("{place}: the supervisor has not told that all is ready")));
        };
        let Ok(event) = serde_json::from_str::<StartupEvent>(&line) else { continue };
        if !is_interrupted && !matches!(event, StartupEvent::Complete { .. }) {
            complain(&progress(&event));
        }
        match event {
            StartupEvent::Complete { ready, waiting: 0 } => {
                complain(&format!("{place}: all {ready} ready"));
                return Ok(());
            }
            StartupEvent::Complete { waiting, .. } => {
                return Err(place.at(&not_ready(waiting)));
            }
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster::UnitId;
    use cluster::file::ClusterFile;
    use cluster::plan::Change;

    use super::*;

    const FILE: &str = "cluster: live\norigin: { host: 10.0.0.5 }\nedges:\n  - { host: 10.0.0.6, ports: [1935] }\n  \
                        - { host: 10.0.0.7, ports: [1935] }\n  - { host: 10.0.0.8, ports: [1935] }\n";

    /// A machine, whether it leaves, and what is done to which port; without any it is started.
    type Given<'a> = (&'a str, bool, &'a [(Action, Role)]);

    /// In which order machines are changed.
    fn ordered(machines: &[Given<'_>]) -> Vec<String> {
        let file = ClusterFile::new("c.yaml".into(), FILE.to_owned());
        let cluster = file.cluster(&|_| unreachable!()).unwrap();
        let all = cluster.machines(|_| false);
        let place = |name: &str, is_leaving| {
            let machine = all.iter().find(|machine| machine.hosts == [name]).unwrap().clone();
            Place::new(machine, &cluster, is_leaving)
        };
        let places: Vec<Place> =
            machines.iter().map(|(name, is_leaving, _)| place(name, *is_leaving)).collect();
        let work = places.iter().zip(machines).map(|(place, (name, _, changes))| {
            let change = |(action, role): &(Action, Role)| {
                Change::new(UnitId::worker(*role, name, 1935), *action, Vec::new())
            };
            let changes: Vec<Change> = changes.iter().map(change).collect();
            let part = HostPart {
                machine: place.to_string(),
                generation: Some(1),
                busy: None,
                changes: changes.clone(),
            };
            let apply = Apply::new("c.yaml".into(), String::new());
            Work { place, change: (!changes.is_empty()).then_some((apply, part)) }
        });
        in_order(work.collect()).iter().map(|it| it.place.to_string()).collect()
    }

    #[test]
    fn the_origin_goes_before_edges_but_behind_those_that_lose_what_it_feeds() {
        use Action::{Nothing, Reconfigure, Start, Stop};
        let (edge, origin) = (Role::Edge, Role::Origin);
        let all = ordered(&[("10.0.0.5", false, &[]), ("10.0.0.6", false, &[]), ("10.0.0.7", false, &[])]);
        assert_eq!(all, ["10.0.0.5", "10.0.0.6", "10.0.0.7"], "all are started");
        let removed = ordered(&[
            ("10.0.0.5", false, &[(Reconfigure, origin)]),
            ("10.0.0.6", false, &[(Nothing, edge)]),
            ("10.0.0.7", false, &[(Stop, edge)]),
            ("10.0.0.8", true, &[(Stop, edge)]),
        ]);
        assert_eq!(removed, ["10.0.0.7", "10.0.0.8", "10.0.0.5", "10.0.0.6"]);
        let added = ordered(&[
            ("10.0.0.5", false, &[(Reconfigure, origin)]),
            ("10.0.0.6", false, &[]),
            ("10.0.0.7", false, &[(Start, edge)]),
        ]);
        assert_eq!(added, ["10.0.0.5", "10.0.0.6", "10.0.0.7"]);
        let moved = ordered(&[
            ("10.0.0.8", false, &[]),
            ("10.0.0.6", false, &[(Reconfigure, edge), (Stop, edge)]),
            ("10.0.0.7", false, &[(Reconfigure, edge)]),
            ("10.0.0.5", true, &[(Stop, origin)]),
        ]);
        assert_eq!(moved, ["10.0.0.8", "10.0.0.6", "10.0.0.7", "10.0.0.5"], "the old origin goes last");
        let on_one = ordered(&[
            ("10.0.0.5", false, &[(Start, origin), (Stop, origin)]),
            ("10.0.0.6", false, &[(Reconfigure, edge)]),
        ]);
        assert_eq!(on_one, ["10.0.0.5", "10.0.0.6"]);
    }
}
