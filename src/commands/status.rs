//! `srsctl status`: what runs.

use std::process::ExitCode;

use supervisor::ClientError;
use supervisor::orphans;

use crate::failure::{Failure, code};
use crate::output;
use crate::subject::Subject;
use crate::terminal::{complain, print, print_json};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON document, srsctl/status/v1
    #[arg(long)]
    json: bool,
}

/// Prints what runs.
pub(crate) async fn run(subject: &Subject, Args { json }: Args) -> Result<ExitCode, Failure> {
    let status = match subject.client().status().await {
        Ok(status) => status,
        Err(error) => return Err(no_status(subject, json, error)?),
    };
    if json {
        print_json(&status)?;
    } else {
        print(&output::status(&status))?;
    }
    if let Some(file) = subject.changed_file() {
        complain(&format!(
            "{} differs from what was last brought into force; srsctl up tells how",
            file.path().display()
        ));
    }
    Ok(output::exit_code(&status).into())
}

/// Prints what can be told of a cluster whose supervisor does not answer, and says why.
fn no_status(subject: &Subject, json: bool, error: ClientError) -> Result<Failure, Failure> {
    let (state, failure) = match error {
        ClientError::NotRunning { .. } => match orphans::living(subject.dirs()) {
            0 => ("not-running", Failure::new(code::NOT_READY, subject.not_running())),
            living => {
                let failure = format!(
                    "cluster {}: no supervisor runs, but {living} processes that a killed one left do; \
                     srsctl up takes them over, srsctl down stops them",
                    subject.name()
                );
                if !json {
                    print(&output::remnants(&orphans::remnants(subject.dirs())))?;
                }
                ("unsupervised", Failure::new(code::CANNOT_TELL, failure))
            }
        },
        error => ("unknown", Failure::new(code::CANNOT_TELL, error)),
    };
    if json {
        print_json(&output::no_status(subject.name(), state, &failure.to_string()))?;
    }
    Ok(failure)
}
