//! What the supervisors of several machines did, in order of time. Each numbers its events for itself.

use std::collections::{BTreeMap, BTreeSet};
use std::process::ExitCode;

use cluster::Machine;
use cluster::events::{Event, Events};
use remote::Session;
use tokio::task::JoinSet;

use crate::failure::Failure;
use crate::fleet::operation::{Operation, Page};
use crate::fleet::session::not_followed;
use crate::fleet::{Fleet, Place};
use crate::terminal::complain;

/// The machines, and up to which number the events of each are known.
pub(super) struct Machines {
    fleet: Fleet,
    newest: BTreeMap<String, u64>,
    /// Those that have stopped answering.
    lost: BTreeSet<String>,
    /// Of these the sessions that are begun again.
    again: JoinSet<(Machine, Session)>,
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
        let mut this = Self { fleet, newest: BTreeMap::new(), lost: BTreeSet::new(), again: JoinSet::new() };
        let problems = this.fleet.places().iter().filter(|place| place.problem().is_some());
        problems.cloned().collect::<Vec<_>>().into_iter().for_each(|place| this.lose(&place));
        Ok(this)
    }

    /// What happened since, the oldest first. A machine whose session is over is told of, once.
    pub(super) async fn next(&mut self) -> Vec<Event> {
        while let Some(again) = self.again.try_join_next() {
            let Ok((machine, session)) = again else { continue };
            complain(&format!("{machine} answers again"));
            self.lost.remove(&machine.to_string());
            self.fleet.put(&machine, session);
        }
        let mut tasks = JoinSet::new();
        let is_here = |place: &&Place| !self.lost.contains(&place.to_string());
        for place in self.fleet.places().iter().filter(is_here) {
            let (place, cluster) = (place.clone(), self.fleet.name().to_owned());
            let after = self.newest.get(&place.to_string()).copied().unwrap_or(0);
            tasks.spawn(async move {
                let page = page(&place, cluster, after).await;
                (place, page)
            });
        }
        let mut events = Vec::new();
        for (place, page) in tasks.join_all().await {
            let machine = place.to_string();
            let page = match page {
                Ok(page) => page,
                Err(failure) => {
                    complain(&format!("{}; {}", failure.to_string().trim_end(), not_followed(&place)));
                    self.lose(&place);
                    continue;
                }
            };
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

    /// One that does not answer is asked again, beside the others.
    fn lose(&mut self, place: &Place) {
        let (redial, machine) = (self.fleet.redial(), place.machine().clone());
        self.lost.insert(place.to_string());
        self.again.spawn(async move {
            let session = redial.again(&machine).await;
            (machine, session)
        });
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
