//! `srsctl status`: what runs.

pub(crate) mod machines;

use std::path::PathBuf;
use std::process::ExitCode;

use supervisor::ClientError;
use supervisor::orphans;

use crate::failure::{Failure, code};
use crate::fleet::Fleet;
use crate::output::{self, Document};
use crate::subject::{Global, Subject};
use crate::table::Paper;
use crate::terminal::{complain, print_clean, print_json};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's file or its name
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// One JSON document, srsctl/status/v1
    #[arg(long)]
    pub(crate) json: bool,
}

/// Prints what runs.
pub(crate) async fn run(global: &Global, Args { path, json }: Args) -> Result<ExitCode, Failure> {
    let subject = &Subject::find(global, path.as_deref(), "status")?;
    if let Some(fleet) = Fleet::of(global, subject)? {
        return of_machines(fleet, json).await;
    }
    let status = match subject.client().status().await {
        Ok(status) => status,
        Err(error) => return no_status(subject, json, error),
    };
    let code = output::exit_code(&status).into();
    if json {
        print_json(&Document::from(status))?;
    } else {
        print_clean(&output::status(&status, Paper::stdout()))?;
    }
    if let Some(file) = subject.changed_file() {
        complain(&format!(
            "{} differs from what was last brought into force; srsctl up tells how",
            file.path().display()
        ));
    }
    Ok(code)
}

/// Prints what runs on all machines of a cluster.
async fn of_machines(mut fleet: Fleet, json: bool) -> Result<ExitCode, Failure> {
    fleet.reach(false).await;
    let seen = machines::look(&fleet).await;
    let problems = fleet.problems();
    fleet.close().await;
    let code = seen.exit_code();
    if json {
        print_json(&seen.document())?;
    } else {
        print_clean(&seen.render(Paper::stdout()))?;
        problems.iter().for_each(|problem| complain(problem));
    }
    Ok(code.into())
}

/// Prints what can be told of a cluster whose supervisor does not answer, and says why.
fn no_status(subject: &Subject, json: bool, error: ClientError) -> Result<ExitCode, Failure> {
    let mut remnants = Vec::new();
    let (state, failure) = match error {
        ClientError::NotRunning { .. } => match orphans::living(subject.dirs()) {
            0 => {
                let code = if subject.holders().is_empty() { code::NOT_READY } else { code::CANNOT_TELL };
                ("not-running", Failure::new(code, subject.not_running()))
            }
            living => {
                let left = if living == 1 {
                    "1 process that a killed one left does"
                } else {
                    "processes that a killed one left do"
                };
                let number = if living == 1 { String::new() } else { format!("{living} ") };
                let failure = format!(
                    "cluster {}: no supervisor runs, but {number}{left}; srsctl up takes over what runs, srsctl down stops it",
                    subject.name()
                );
                remnants = orphans::remnants(subject.dirs());
                ("unsupervised", Failure::new(code::CANNOT_TELL, failure))
            }
        },
        error => {
            remnants = orphans::remnants(subject.dirs());
            ("unknown", Failure::new(code::CANNOT_TELL, error))
        }
    };
    let reason = failure.to_string();
    if json {
        print_json(&Document::without_supervisor(subject.dirs(), state, reason, remnants))?;
    } else if !remnants.is_empty() {
        print_clean(&output::remnants(&remnants, Paper::stdout()))?;
    }
    complain(&failure.to_string());
    Ok(failure.code())
}
