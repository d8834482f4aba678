//! The logs of several machines.

use std::collections::VecDeque;
use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::mpsc;

use super::show::show;
use super::tail::{Found, Wanted};
use crate::failure::Failure;
use crate::fleet::operation::Operation;
use crate::fleet::{Fleet, Place, not_followed};
use crate::terminal::{complain, is_reader_gone};

/// Batches of lines that wait to be shown.
const BATCHES: usize = 16;
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
    let operation = Operation::Logs { cluster: fleet.name().to_owned(), wanted: wanted.clone() };
    let (sender, mut batches) = mpsc::channel::<Result<Found, Failure>>(BATCHES);
    let mut tasks = tokio::task::JoinSet::new();
    for place in fleet.places() {
        let (place, operation, sender) = (place.clone(), operation.clone(), sender.clone());
        tasks.spawn(async move { follow(&place, &operation, &sender).await });
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

async fn follow(place: &Place, operation: &Operation, batches: &mpsc::Sender<Result<Found, Failure>>) {
    let outcome = async {
        let mut lines = place.lines(operation, b"").await?;
        while let Some(line) = lines.next().await? {
            let Ok(mut batch) = serde_json::from_str::<Vec<(String, VecDeque<String>)>>(&line) else {
                continue;
            };
            for (name, _) in &mut batch {
                // Each machine has one; the names of others say where they are.
                if name == "supervisor" {
                    *name = format!("supervisor {place}");
                }
            }
            if batches.send(Ok(batch)).await.is_err() {
                break;
            }
        }
        Ok(())
    };
    if let Err(failure) = outcome.await {
        let failure: Failure = failure;
        let said = format!("{}; {}", failure.to_string().trim_end(), not_followed(&place.to_string()));
        let _ = batches.send(Err(Failure::failed(said))).await;
    }
}
