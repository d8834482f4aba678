//! `srsctl upgrade`: the ports run another program, and keep their connections.

mod several;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use cluster::Role;
use control::api::{Upgrade, Upgraded, UpgradedPort};
use serde::Serialize;

use crate::failure::{Failure, code};
use crate::fleet::{Fleet, Reach};
use crate::subject::{Global, Subject};
use crate::terminal::{complain, print_json};

/// The document's.
const SCHEMA: &str = "srsctl/upgrade/v1";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's file or its name
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// The program, of a cluster on several machines as it lies on each; without it the srsctl that runs this command, there
    #[arg(long, value_name = "PATH")]
    bin: Option<PathBuf>,
    /// So many ports have to run it for 11 s before the others do
    #[arg(long, value_name = "PORTS", default_value_t = 1)]
    canary: usize,
    /// Also where connections cannot be kept: whoever is connected has to connect again
    #[arg(short, long)]
    yes: bool,
    /// What became of each port as one JSON document, srsctl/upgrade/v1, also where it failed; progress stays on stderr
    #[arg(long)]
    pub(crate) json: bool,
    #[command(flatten)]
    reach: Reach,
}

/// The document of `upgrade --json`; changes only add.
#[derive(Serialize)]
struct Document<'a> {
    schema: &'static str,
    cluster: &'a str,
    program: &'a Path,
    version: Option<String>,
    /// Whether each port runs it.
    upgraded: bool,
    ports: Vec<Row>,
    /// Why not.
    error: Option<String>,
}

/// A port in it.
#[derive(Serialize)]
struct Row {
    #[serde(flatten)]
    port: UpgradedPort,
    role: Role,
    host: String,
    #[serde(rename = "port")]
    number: u16,
}

impl From<UpgradedPort> for Row {
    fn from(port: UpgradedPort) -> Self {
        let (role, host, number) = port.unit.parts();
        let host = host.to_owned();
        Self { port, role, host, number }
    }
}

/// Has the supervisor do it.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let Args { path, bin, canary, yes, json, reach } = args;
    let subject = Subject::find_to_change(global, path.as_deref(), "upgrade")?;
    if let Some(fleet) = Fleet::of(global, &subject)? {
        let program = bin.as_ref().map(std::path::absolute).transpose().map_err(Failure::failed)?;
        let (upgraded, done) = several::run(fleet, program, (canary, yes), &reach).await;
        return tell(
            &subject,
            bin.as_deref().unwrap_or_else(|| Path::new("srsctl")),
            (json.then_some(upgraded), done),
        );
    }
    let program = match &bin {
        Some(bin) => bin.canonicalize().map_err(|error| format!("{}: {error}", bin.display())),
        None => {
            supervisor::own_binary().map_err(|error| format!("the program that runs this command: {error}"))
        }
    };
    let program = program.map_err(|why| Failure::failed(format!("nothing was touched: {why}")))?;
    let (client, request) = (subject.client(), Upgrade { program: program.clone(), canary, yes });
    let (upgraded, done) = tokio::select! {
        done = client.upgrade(&request, complain) => done,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(
            code::INTERRUPTED,
            "interrupted: the supervisor goes on with the upgrade; see srsctl status",
        )),
    };
    tell(&subject, &program, (upgraded.filter(|_| json), done.map_err(Failure::from)))
}

/// Says what became of it.
fn tell(
    subject: &Subject,
    program: &Path,
    (upgraded, done): (Option<Upgraded>, Result<(), Failure>),
) -> Result<ExitCode, Failure> {
    let Some(Upgraded { version, ports }) = upgraded else {
        return done.map(|()| ExitCode::SUCCESS);
    };
    let error = done.as_ref().err().map(ToString::to_string);
    let (upgraded, ports) = (done.is_ok(), ports.into_iter().map(Row::from).collect());
    let cluster = subject.name();
    print_json(&Document { schema: SCHEMA, cluster, program, version, upgraded, ports, error })?;
    Ok(match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            complain(&failure.to_string());
            failure.code()
        }
    })
}
