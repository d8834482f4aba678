//! `srsctl history`: the cluster files that are and were in force, on each machine of the cluster.

pub(crate) mod absent;
pub(crate) mod several;

use std::path::PathBuf;
use std::process::ExitCode;

use cluster::events::By;
use serde::Serialize;
use supervisor::{Generation, generations};

use self::absent::no_such;
use self::several::Entry;
use crate::failure::Failure;
use crate::fleet::Fleet;
use crate::people::{user_name, who};
use crate::subject::{Global, Subject};
use crate::table::{Cell, Column, Look, Paper, Table};
use crate::terminal::{print, print_clean, print_json};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's file or its name
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// One JSON document, srsctl/history/v1
    #[arg(long)]
    pub(crate) json: bool,
    /// Print the text of this file
    #[arg(long, value_name = "NUMBER", conflicts_with = "json")]
    text: Option<u64>,
    /// Only of this host, as written in the cluster's file
    #[arg(long)]
    host: Option<String>,
}

/// The document of `history --json`; changes only add.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    cluster: &'a str,
    in_force: Option<u64>,
    generations: Vec<Row<'a>>,
}

/// One file.
#[derive(Serialize)]
struct Row<'a> {
    number: u64,
    at: &'a str,
    by: Option<By>,
    what: &'a str,
    file: String,
    digest: &'a str,
    /// Where it is or was; none of a cluster that is on this machine alone.
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    machines: &'a [String],
    /// Whether it is in force there; only of several machines, which need not have the same.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_force: Option<bool>,
}

impl<'a> Row<'a> {
    fn of(it: &'a Generation) -> Self {
        let Generation { number, at, by, what, path, digest, .. } = it;
        let (number, by, file) = (*number, *by, path.display().to_string());
        Self { number, at, by, what, file, digest, machines: &[], in_force: None }
    }

    fn of_machines(it: &'a Entry) -> Self {
        let (machines, in_force) = (it.machines.as_slice(), Some(it.is_in_force));
        Self { machines, in_force, ..Self::of(&it.generation) }
    }
}

/// Lists them, the newest last.
pub(crate) async fn run(global: &Global, Args { path, json, text, host }: Args) -> Result<ExitCode, Failure> {
    let subject = Subject::find(global, path.as_deref(), "history")?;
    if let Some(mut fleet) = Fleet::of(global, &subject)? {
        fleet.limit_to(host.as_slice())?;
        return show(&several::read(fleet).await?, json, text);
    }
    subject.expect_host(host.as_ref())?;
    let all = generations(subject.dirs())?;
    if let Some(number) = text {
        print(&find(subject.name(), &all, number)?.text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if json {
        let (in_force, generations) = (all.last().map(|it| it.number), all.iter().map(Row::of).collect());
        let schema = "srsctl/history/v1";
        print_json(&Document { schema, cluster: subject.name(), in_force, generations })?;
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() {
        return Err(never_up(subject.name()));
    }
    print_clean(&table(&all, Paper::whole()))?;
    Ok(ExitCode::SUCCESS)
}

/// Those of several machines.
fn show(all: &several::Histories, json: bool, text: Option<u64>) -> Result<ExitCode, Failure> {
    if let Some(number) = text {
        print(&all.find(number)?.text)?;
        return Ok(ExitCode::SUCCESS);
    }
    let entries = all.entries();
    if json {
        // One number where all have the same.
        let mut newest = entries.iter().filter(|it| it.is_in_force).map(|it| it.generation.number);
        let in_force = newest.next().filter(|number| newest.all(|other| other == *number));
        let generations = entries.iter().map(Row::of_machines).collect();
        print_json(&Document { schema: "srsctl/history/v1", cluster: &all.cluster, in_force, generations })?;
        return Ok(ExitCode::SUCCESS);
    }
    if entries.is_empty() {
        return Err(never_up(&all.cluster));
    }
    print_clean(&several::table(&entries, all.machines(), Paper::whole()))?;
    Ok(ExitCode::SUCCESS)
}

fn never_up(cluster: &str) -> Failure {
    Failure::failed(format!("cluster {cluster} was never brought up, or its state was purged"))
}

/// The file of this number.
pub(crate) fn find<'a>(cluster: &str, all: &'a [Generation], number: u64) -> Result<&'a Generation, Failure> {
    all.iter().find(|it| it.number == number).ok_or_else(|| no_such(cluster, all, number))
}

fn table(all: &[Generation], paper: Paper) -> String {
    let mut table = Table::new([
        Column::Right("NUMBER"),
        Column::Left("WHEN"),
        Column::Yielding("WHO"),
        Column::Left("STATE"),
        Column::Open("WHAT"),
    ]);
    for (place, it) in all.iter().enumerate() {
        let is_in_force = place + 1 == all.len();
        table.row([
            it.number.to_string().into(),
            it.at.as_str().into(),
            it.by.map_or_else(|| "-".to_owned(), |by| who(by, &user_name)).into(),
            Cell::new(if is_in_force { "in force" } else { "-" }, Look::Plain),
            it.what.as_str().into(),
        ]);
    }
    table.render(paper)
}
