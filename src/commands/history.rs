//! `srsctl history`: the cluster files that are and were in force.

use std::path::PathBuf;
use std::process::ExitCode;

use cluster::events::By;
use serde::Serialize;
use supervisor::{Generation, generations};

use crate::failure::Failure;
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
}

impl<'a> Row<'a> {
    fn of(it: &'a Generation) -> Self {
        let Generation { number, at, by, what, path, digest, .. } = it;
        Self { number: *number, at, by: *by, what, file: path.display().to_string(), digest }
    }
}

/// Lists them, the newest last.
pub(crate) async fn run(global: &Global, Args { path, json, text }: Args) -> Result<ExitCode, Failure> {
    let subject = Subject::find(global, path.as_deref(), "history")?;
    let all = generations(subject.dirs())?;
    if let Some(number) = text {
        print(&find(&subject, &all, number)?.text)?;
        return Ok(ExitCode::SUCCESS);
    }
    if json {
        let (in_force, generations) = (all.last().map(|it| it.number), all.iter().map(Row::of).collect());
        let schema = "srsctl/history/v1";
        print_json(&Document { schema, cluster: subject.name(), in_force, generations })?;
        return Ok(ExitCode::SUCCESS);
    }
    if all.is_empty() {
        return Err(Failure::failed(format!(
            "cluster {} was never brought up, or its state was purged",
            subject.name()
        )));
    }
    print_clean(&table(&all, Paper::stdout()))?;
    Ok(ExitCode::SUCCESS)
}

/// The file of this number.
pub(crate) fn find<'a>(
    subject: &Subject,
    all: &'a [Generation],
    number: u64,
) -> Result<&'a Generation, Failure> {
    all.iter().find(|it| it.number == number).ok_or_else(|| {
        let kept: Vec<String> = all.iter().map(|it| it.number.to_string()).collect();
        let kept = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
        Failure::failed(format!("cluster {} has no file {number}; there are: {kept}", subject.name()))
    })
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
