//! The logs of several machines.

use std::collections::{BTreeMap, VecDeque};
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::mpsc;

use super::show::show;
use super::tail::{Found, Wanted};
use crate::failure::Failure;
use crate::fleet::operation::Operation;
use crate::fleet::session::{Redial, not_followed};
use crate::fleet::{Fleet, Place};
use crate::terminal::{complain, is_reader_gone};

/// Batches of lines that wait to be shown.
const BATCHES: usize = 16;
/// Lines of each log that are asked for where a session was begun again, to find the last one that was shown.
const CATCH_UP: usize = 1000;
/// So long lines of one machine wait for those of others, which may be older.
const GATHER: Duration = Duration::from_millis(300);

/// Prints the last lines of each log of all machines, and goes on if that is wanted.
pub(super) async fn run(mut fleet: Fleet, wanted: &Wanted) -> Result<ExitCode, Failure> {
    if let Some(host) = &wanted.host {
        fleet.limit_to(std::slice::from_ref(host))?;
    }
    fleet.reach(false).await;
    for problem in fleet.problems() {
        complain(&problem);
    }
    let (sender, mut batches) = mpsc::channel::<Result<Found, Failure>>(BATCHES);
    let mut tasks = tokio::task::JoinSet::new();
    for place in fleet.places() {
        let (place, cluster, sender) = (place.clone(), fleet.name().to_owned(), sender.clone());
        let (redial, wanted) = (fleet.redial(), wanted.clone());
        tasks.spawn(async move { follow((place, redial), cluster, wanted, &sender).await });
    }
    drop(sender);
    let (mut is_read, mut is_any) = (true, false);
    while is_read && !is_reader_gone() {
        let mut found = Vec::new();
        let Some(first) = batches.recv().await else { break };
        found.push(first);
        let end = tokio::time::Instant::now() + GATHER;
        while let Ok(Some(next)) = tokio::time::timeout_at(end, batches.recv()).await {
            found.push(next);
        }
        let mut lines: Found = Vec::new();
        for batch in found {
            match batch {
                Ok(batch) => {
                    for (name, new) in batch {
                        match lines.iter_mut().find(|(known, _)| *known == name) {
                            Some((_, known)) => known.extend(new),
                            None => lines.push((name, new)),
                        }
                    }
                }
                Err(failure) => complain(&failure.to_string()),
            }
        }
        is_any |= !lines.is_empty();
        is_read = show(lines)?;
    }
    tasks.shutdown().await;
    fleet.close().await;
    if !is_any {
        return Err(Failure::failed("no machine has such a log"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Hands on the lines of one machine; where they are followed, also when it comes back.
async fn follow(
    (mut place, redial): (Place, Redial),
    cluster: String,
    mut wanted: Wanted,
    batches: &mpsc::Sender<Result<Found, Failure>>,
) {
    let mut shown = Shown { last: BTreeMap::new(), is_all_new: wanted.lines > 0 };
    let mut is_again = false;
    loop {
        let operation = Operation::Logs { cluster: cluster.clone(), wanted: wanted.clone() };
        let Err(failure) = read(&place, &operation, (&mut shown, is_again), batches).await else { return };
        if !wanted.follow {
            // What cannot be reached is told of already.
            if place.problem().is_none() {
                let _ = batches.send(Err(failure)).await;
            }
            return;
        }
        let why = if place.problem().is_some() {
            String::new()
        } else {
            format!("{}; ", failure.to_string().trim_end())
        };
        let said = Failure::failed(format!("{why}{}", not_followed(&place)));
        if batches.send(Err(said)).await.is_err() {
            return;
        }
        let session = redial.again(place.machine()).await;
        place = place.with(session);
        complain(&format!("{place} answers again"));
        (is_again, wanted.lines) = (true, wanted.lines.max(CATCH_UP));
    }
}

async fn read(
    place: &Place,
    operation: &Operation,
    (shown, mut is_again): (&mut Shown, bool),
    batches: &mpsc::Sender<Result<Found, Failure>>,
) -> Result<(), Failure> {
    let mut lines = place.lines(operation, b"").await?;
    while let Some(line) = lines.next().await? {
        let Ok(mut batch) = serde_json::from_str::<Found>(&line) else { continue };
        for (name, new) in &mut batch {
            // Each machine has one; the names of others say where they are.
            if name == "supervisor" {
                *name = format!("supervisor {place}");
            }
            shown.take(name, new, is_again);
        }
        is_again = false;
        if batches.send(Ok(batch)).await.is_err() {
            break;
        }
    }
    Ok(())
}

/// What is shown of one machine's logs already.
struct Shown {
    /// The last line of each.
    last: BTreeMap<String, String>,
    /// All lines are new of a log of which none was shown.
    is_all_new: bool,
}

impl Shown {
    /// Leaves out of the last lines of a log those that were shown before, where a session was begun again.
    fn take(&mut self, name: &str, lines: &mut VecDeque<String>, is_again: bool) {
        if is_again {
            let known = match self.last.get(name) {
                Some(last) => lines.iter().rposition(|line| line == last).map_or(0, |place| place + 1),
                None if self.is_all_new => 0,
                None => lines.len(),
            };
            lines.drain(..known);
        }
        if let Some(last) = lines.back() {
            self.last.insert(name.to_owned(), last.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_goes_on_behind_the_last_line_that_was_shown() {
        let of = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<VecDeque<_>>();
        let mut shown = Shown { last: BTreeMap::new(), is_all_new: true };
        let mut take = |name: &str, lines: &[&str], is_again| {
            let mut lines = of(lines);
            shown.take(name, &mut lines, is_again);
            Vec::from(lines)
        };
        assert_eq!(take("a", &["1", "2"], false), ["1", "2"]);
        assert_eq!(take("a", &["2", "2"], false), ["2", "2"], "the same may happen twice");
        assert_eq!(take("a", &["1", "2", "2", "2", "3"], true), ["3"]);
        assert_eq!(take("a", &["7", "8"], true), ["7", "8"], "more came than were asked for");
        assert_eq!(take("b", &["1"], true), ["1"]);
        let mut shown = Shown { last: BTreeMap::new(), is_all_new: false };
        let mut lines = of(&["old"]);
        shown.take("a", &mut lines, true);
        assert!(lines.is_empty(), "only new ones were asked for");
    }
}
