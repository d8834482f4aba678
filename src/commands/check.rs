//! `srsctl check`: whether a cluster file is right, without touching anything.

use std::path::PathBuf;
use std::process::ExitCode;

use cluster::Cluster;

use crate::failure::Failure;
use crate::subject::{self, Global};
use crate::terminal::{complain, print};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's file or its name
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
}

/// Checks a file.
pub(crate) fn run(global: &Global, Args { path }: Args) -> Result<ExitCode, Failure> {
    let file = global.required_file(path.as_deref())?;
    let cluster = subject::parse(&file)?;
    // As a start makes them; where the secret lies does not matter here.
    let machines = cluster.machines(supervisor::preflight::here());
    let own = machines.iter().find(|machine| machine.way.is_none());
    let own = own.map(|machine| cluster.clone().only(&machine.hosts));
    let specs =
        |own: &Cluster| -> Vec<_> { own.ports().map(|port| own.worker_spec(port, PathBuf::new())).collect() };
    let problems = own.iter().flat_map(|own| supervisor::preflight::check(own, &specs(own)));
    for problem in problems {
        complain(&format!("{}: srsctl up would refuse it on this machine: {problem}", file.path().display()));
    }
    let (origins, hosts) = (cluster.origins.iter().map(ToString::to_string), cluster::hosts(&cluster.edges));
    print(&format!(
        "{}: ok: cluster {}, origin {}, {} edge ports on {} {}\n",
        file.path().display(),
        cluster.name,
        origins.collect::<Vec<_>>().join(", "),
        cluster.edges.len(),
        hosts.len(),
        if hosts.len() == 1 { "host" } else { "hosts" },
    ))?;
    Ok(ExitCode::SUCCESS)
}
