//! `srsctl plan`: what `up` would do, and whom that would disconnect. Nothing is touched.

pub(crate) mod several;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cluster::plan::Plan;

use crate::change;
use crate::failure::{Failure, code};
use crate::fleet::{Fleet, Reach};
use crate::subject::Global;
use crate::table::Paper;
use crate::terminal::{complain, print_clean, print_json};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's file, or the name of one that was up before; - for standard input
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// One JSON document, srsctl/plan/v1
    #[arg(long)]
    pub(crate) json: bool,
    /// Write the plan there (- for standard output), with the text of the file: srsctl up PLAN carries out exactly that, if nothing has changed in between
    #[arg(short, long, value_name = "PLAN")]
    output: Option<PathBuf>,
    /// End with 7 if there are changes
    #[arg(long)]
    exit_code: bool,
    #[command(flatten)]
    reach: Reach,
}

/// Shows it.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let Args { path, json, output, exit_code, reach } = args;
    let (subject, loaded, written) = change::to_bring_up(global, path.as_deref())?;
    let plan = match Fleet::of_cluster(global, &subject, &loaded.cluster) {
        Some(fleet) => several::of_fleet(fleet, &loaded, &reach).await?,
        None => change::plan(&subject, &loaded).await?,
    };
    change::unchanged(written.as_ref(), &change::generations(&plan))?;
    if let Some(output) = output {
        let whole = Plan { text: Some(loaded.text), ..plan.clone() };
        if output == Path::new("-") {
            print_json(&whole)?;
            return Ok(ended(&plan, exit_code));
        }
        change::write(&whole, &output)?;
        complain(&format!("carry it out with: srsctl up {}", change::shell_word(&output)));
    }
    show(&plan, json)?;
    Ok(ended(&plan, exit_code))
}

fn ended(plan: &Plan, exit_code: bool) -> ExitCode {
    if exit_code && plan.has_changes() { code::CHANGES.into() } else { ExitCode::SUCCESS }
}

/// Prints a plan.
fn show(plan: &Plan, json: bool) -> Result<bool, Failure> {
    if json { print_json(plan) } else { print_clean(&change::table(plan, false, Paper::stdout())) }
}
