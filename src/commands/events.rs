//! `srsctl events`: what the supervisor did, noticed and was asked to do.

mod rows;
mod several;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::ValueEnum;
use cluster::Role;
use cluster::events::{Event, Events, SCHEMA};
use serde::Serialize;
use supervisor::ClientError;

use self::rows::{Row, Shown};
use self::several::Machines;
use crate::failure::Failure;
use crate::fleet::Fleet;
use crate::subject::{Global, Subject};
use crate::terminal::{complain, is_reader_gone, print_clean, print_json, print_json_line};
use crate::words::Words;

/// Between two looks at events that are followed.
const FOLLOW_POLL: Duration = Duration::from_millis(250);

/// What its help shows: the words are told apart by what they are.
pub(crate) const USAGE: &str = "srsctl events [OPTIONS] [ROLE] [PORT] [FILE]";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A role: origin, edge, encoder or supervisor; a port, for its events alone; the cluster's file or its name
    #[arg(num_args = 0..=3, value_name = "WORD")]
    words: Vec<String>,
    /// Only this host, as written in the cluster's file
    #[arg(long)]
    host: Option<String>,
    /// The newest so many events
    #[arg(short = 'n', long, default_value_t = 100)]
    lines: usize,
    /// Go on with what happens from now on, also under another supervisor
    #[arg(short, long)]
    follow: bool,
    /// One JSON document, srsctl/events/v1; with --follow each event of it on a line of its own
    #[arg(long)]
    pub(crate) json: bool,
    // In place of the one of all commands, whose -f is taken here; its value is found there.
    /// The cluster's file or its name; without it ./cluster.yaml, else the only cluster that runs
    #[arg(id = "file", long = "file", value_name = "FILE")]
    _file: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    Origin,
    Edge,
    Encoder,
    Supervisor,
}

impl RoleArg {
    /// The role of its units; none of the supervisor.
    fn role(self) -> Option<Role> {
        match self {
            Self::Origin => Some(Role::Origin),
            Self::Edge => Some(Role::Edge),
            Self::Encoder => Some(Role::Encoder),
            Self::Supervisor => None,
        }
    }
}

/// Which events are shown.
#[derive(Debug)]
struct Wanted {
    role: Option<RoleArg>,
    port: Option<u16>,
    host: Option<String>,
}

impl Wanted {
    fn fits(&self, event: &Event) -> bool {
        let unit = event.what.unit.as_ref().map(|unit| unit.parts());
        self.role.is_none_or(|role| unit.map(|(role, _, _)| role) == role.role())
            && self.port.is_none_or(|port| unit.is_some_and(|(_, _, of_unit)| of_unit == port))
            && self.host.as_ref().is_none_or(|host| unit.is_some_and(|(_, of_unit, _)| of_unit == host))
    }
}

/// The document of `events --json`.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    cluster: &'a str,
    newest: u64,
    events: Vec<Row>,
}

/// Prints what happened, and goes on if that is wanted.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let Args { words, host, lines, follow, json, _file: _ } = args;
    let Words { role, port, path } = Words::<RoleArg>::read(words)?;
    let wanted = Wanted { role, port, host };
    let subject = Subject::find(global, path.as_deref(), "events")?;
    if let Some(fleet) = Fleet::of(global, &subject)? {
        let machines = Machines::reach(fleet, wanted.host.as_ref()).await?;
        return of_machines(&subject, machines, &wanted, (lines, follow, json)).await;
    }
    let (mut page, mut is_supervised) = read(&subject, 0).await?;
    if page.newest == 0 {
        let none = format!(
            "cluster {} has no events: it was never started, or its state was purged",
            subject.name()
        );
        if !follow {
            return Err(Failure::failed(none));
        }
        complain(&format!("{none}; waiting for one"));
    }
    page.events.retain(|event| wanted.fits(event));
    page.events.drain(..page.events.len().saturating_sub(lines));
    let mut newest = page.newest;
    let mut shown = Shown::default();
    let mut is_read = if follow {
        show(page.events, json, &mut shown)?
    } else if json {
        let events = page.events.into_iter().map(Row::from).collect();
        print_json(&Document { schema: SCHEMA, cluster: subject.name(), newest, events })?
    } else {
        print_clean(&shown.table(page.events))?
    };
    while follow && is_read && !is_reader_gone() {
        tokio::time::sleep(FOLLOW_POLL).await;
        let next = match subject.client().events(newest).await {
            Ok(page) => Ok((page, true)),
            // The last words of one that has just ended are written down; nobody writes behind them.
            Err(ClientError::NotRunning { .. }) if is_supervised => written(&subject, newest),
            Err(_) => continue,
        };
        // What cannot be read now may be readable again later.
        let Ok((mut page, answers)) = next else { continue };
        is_supervised = answers;
        // They begin anew where somebody removed them, and the supervisor with them.
        newest = page.newest;
        page.events.retain(|event| wanted.fits(event));
        is_read = page.events.is_empty() || show(page.events, json, &mut shown)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The same of several machines.
async fn of_machines(
    subject: &Subject,
    mut machines: Machines,
    wanted: &Wanted,
    (lines, follow, json): (usize, bool, bool),
) -> Result<ExitCode, Failure> {
    let fits = |event: &Event| {
        // Those of a supervisor are of the machine that was reached for the host.
        let of_machine =
            Wanted { host: wanted.host.clone().filter(|_| event.what.unit.is_some()), ..*wanted };
        of_machine.fits(event)
    };
    let mut events = machines.next().await;
    events.retain(fits);
    events.drain(..events.len().saturating_sub(lines));
    let mut shown = Shown::default();
    let mut is_read = if json && !follow {
        let events = events.into_iter().map(Row::from).collect();
        // Each machine numbers its events for itself.
        print_json(&Document { schema: SCHEMA, cluster: subject.name(), newest: 0, events })?
    } else {
        show(events, json, &mut shown)?
    };
    while follow && is_read && !is_reader_gone() {
        tokio::time::sleep(FOLLOW_POLL).await;
        let mut events = machines.next().await;
        events.retain(fits);
        is_read = events.is_empty() || show(events, json, &mut shown)?;
    }
    Ok(machines.close().await)
}

/// What happened behind event number `after`; and whether a supervisor tells it.
async fn read(subject: &Subject, after: u64) -> Result<(Events, bool), Failure> {
    match subject.client().events(after).await {
        Ok(page) => Ok((page, true)),
        Err(ClientError::NotRunning { .. }) => written(subject, after),
        Err(error) => Err(error.into()),
    }
}

/// The same as it is written down.
fn written(subject: &Subject, after: u64) -> Result<(Events, bool), Failure> {
    let mut events = subject.dirs().written_events()?;
    let newest = events.last().map_or(0, |event| event.number);
    events.retain(|event| event.number > after);
    let (schema, cluster) = (SCHEMA.to_owned(), subject.name().to_owned());
    Ok((Events { schema, cluster, newest, events }, false))
}

/// Prints what goes on; false once nobody reads it.
fn show(events: Vec<Event>, json: bool, shown: &mut Shown) -> Result<bool, Failure> {
    if !json {
        return print_clean(&shown.table(events));
    }
    for event in events {
        if !print_json_line(&Row::from(event))? {
            return Ok(false);
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::UnitId;
    use cluster::events::{Happening, Kind};

    #[test]
    fn role_port_and_host_choose_the_events() {
        let event = |unit: Option<UnitId>| {
            let what = Happening { kind: Kind::Died, unit, pid: None, by: None, text: String::new() };
            Event { number: 1, at: String::new(), what }
        };
        let edge = event(Some(UnitId::worker(Role::Edge, "127.0.0.6", 1936)));
        let supervisor = event(None);
        let host = Some("127.0.0.6".to_owned());
        for (role, port, host, of_edge, of_supervisor) in [
            (None, None, None, true, true),
            (Some(RoleArg::Edge), None, None, true, false),
            (Some(RoleArg::Edge), Some(1936), host.clone(), true, false),
            (Some(RoleArg::Edge), Some(1935), None, false, false),
            (Some(RoleArg::Origin), None, None, false, false),
            (Some(RoleArg::Supervisor), None, None, false, true),
            (None, None, Some("127.0.0.7".to_owned()), false, false),
            (None, None, host, true, false),
        ] {
            let wanted = Wanted { role, port, host };
            assert_eq!(
                (wanted.fits(&edge), wanted.fits(&supervisor)),
                (of_edge, of_supervisor),
                "{wanted:?}"
            );
        }
    }
}
