//! What the supervisors of several machines did, in order of time. Each numbers its events for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use cluster::events::{Event, Events};
use tokio::task::JoinSet;

use crate::failure::Failure;
use crate::fleet::operation::{Operation, Page};
use crate::fleet::{Fleet, Place, not_followed};
use crate::terminal::complain;

/// The machines, and up to which number the events of each are known.
pub(super) struct Machines {
    fleet: Fleet,
    newest: BTreeMap<String, u64>,
    /// Those that have stopped answering.
    lost: BTreeSet<String>,
}

impl Machines {
    /// Reaches them: all, or that of `host`.
    pub(super) async fn reach(mut fleet: Fleet, host: Option<&String>) -> Result<Self, Failure> {
        if let Some(host) = host {
            fleet.limit_to(std::slice::from_ref(host))?;
        }
        fleet.reach(false).await;
        for problem in fleet.problems() {
            complain(&problem);
        }
        Ok(Self { fleet, newest: BTreeMap::new(), lost: BTreeSet::new() })
    }

    /// What happened since, the oldest first. A machine whose session is over is told of, once.
    pub(super) async fn next(&mut self) -> Vec<Event> {
        let mut tasks = JoinSet::new();
        for place in self.fleet.places().iter().filter(|place| place.problem().is_none()) {
            let (place, cluster) = (place.clone(), self.fleet.name().to_owned());
            let after = self.newest.get(&place.to_string()).copied().unwrap_or(0);
            tasks.spawn(async move { (place.to_string(), page(&place, cluster, after).await) });
        }
        let mut events = Vec::new();
        for (machine, page) in tasks.join_all().await {
            let page = match page {
                Ok(page) => page,
                Err(failure) => {
                    if self.lost.insert(machine.clone()) {
                        complain(&format!("{}; {}", failure.to_string().trim_end(), not_followed(&machine)));
                    }
                    continue;
                }
            };
            self.lost.remove(&machine);
            self.newest.insert(machine.clone(), page.newest);
            events.extend(page.events.into_iter().map(|mut event| {
                if event.what.unit.is_none() {
                    event.what.text = format!("{machine}: {}", event.what.text);
                }
                event
            }));
        }
        // Times of one form: their order is that of the texts.
        events.sort_by(|a, b| a.at.cmp(&b.at));
        events
    }

    /// Ends the sessions.
    pub(super) async fn close(self) -> ExitCode {
        self.fleet.close().await;
        ExitCode::SUCCESS
    }
}

async fn page(place: &Place, cluster: String, after: u64) -> Result<Events, Failure> {
    let page: Page = place.ask(&Operation::Events { cluster, after }, &[]).await?;
    Ok(page.events)
}
