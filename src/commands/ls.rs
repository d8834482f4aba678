//! `srsctl ls`: the clusters of this user on this machine.

use std::path::PathBuf;
use std::process::ExitCode;

use cluster::Role;
use cluster::file::ClusterFile;
use serde::Serialize;
use supervisor::{Client, ClusterDirs, orphans};

use crate::failure::Failure;
use crate::output;
use crate::subject::Global;
use crate::table::{Cell, Column, Look, Paper, Table};
use crate::terminal::{complain, print_clean, print_json};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// One JSON document, srsctl/clusters/v1
    #[arg(long)]
    pub(crate) json: bool,
}

/// How a cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum State {
    /// All that is wanted is ready.
    Ready,
    /// Supervised, and something is not ready.
    NotReady,
    /// Its supervisor does not answer.
    Unknown,
    /// Processes go on without a supervisor.
    Unsupervised,
    /// Nothing of it runs.
    NotRunning,
}

impl State {
    /// The word for it, as in the JSON document.
    fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not-ready",
            Self::Unknown => "unknown",
            Self::Unsupervised => "unsupervised",
            Self::NotRunning => "not-running",
        }
    }

    fn look(self) -> Look {
        match self {
            Self::Ready | Self::NotRunning => Look::Plain,
            Self::NotReady | Self::Unknown | Self::Unsupervised => Look::Wrong,
        }
    }
}

/// A port as the file has it.
#[derive(Debug, Serialize)]
struct Place {
    role: Role,
    host: String,
    port: u16,
}

/// One cluster.
#[derive(Debug, Serialize)]
struct Row {
    cluster: String,
    state: State,
    /// While one runs.
    supervisor_pid: Option<u32>,
    /// Empty where its file in force cannot be read.
    ports: Vec<Place>,
    /// Where its file in force came from.
    file: Option<PathBuf>,
}

/// The document of `ls --json`; changes only add.
#[derive(Debug, Serialize)]
struct Document {
    schema: &'static str,
    clusters: Vec<Row>,
}

/// Lists them.
pub(crate) async fn run(global: &Global, Args { json }: Args) -> Result<ExitCode, Failure> {
    let roots = global.roots()?;
    let mut clusters = Vec::new();
    for name in roots.known() {
        clusters.push(look(roots.cluster(&name)).await);
    }
    if json {
        print_json(&Document { schema: "srsctl/clusters/v1", clusters })?;
    } else if clusters.is_empty() {
        complain("no cluster of this user is known on this machine; start one: srsctl up FILE");
    } else {
        print_clean(&table(&clusters, Paper::stdout()))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn look(dirs: ClusterDirs) -> Row {
    let in_force = dirs.in_force().ok().flatten().map(|(path, text)| ClusterFile::new(path, text));
    let (state, supervisor_pid) = if dirs.is_supervised() {
        let state = match Client::new(dirs.clone()).status().await {
            Ok(status) if output::exit_code(&status) == 0 => State::Ready,
            Ok(_) => State::NotReady,
            Err(_) => State::Unknown,
        };
        (state, dirs.supervisor_pid())
    } else if orphans::living(&dirs) > 0 {
        (State::Unsupervised, None)
    } else {
        (State::NotRunning, None)
    };
    let ports = in_force.as_ref().map(ClusterFile::ports).unwrap_or_default();
    Row {
        cluster: dirs.name().to_owned(),
        state,
        supervisor_pid,
        ports: ports.into_iter().map(|(role, host, port)| Place { role, host, port }).collect(),
        file: in_force.map(|file| file.path().to_owned()),
    }
}

fn table(clusters: &[Row], paper: Paper) -> String {
    let mut table = Table::new([
        Column::Left("CLUSTER"),
        Column::Left("STATE"),
        Column::Right("SUPERVISOR"),
        Column::Left("PORTS"),
        Column::Yielding("FILE"),
    ]);
    for Row { cluster, state, supervisor_pid, ports, file } in clusters {
        let mut numbers: Vec<_> = ports.iter().map(|place| place.port).collect();
        numbers.sort_unstable();
        numbers.dedup();
        let numbers: Vec<_> = numbers.iter().map(ToString::to_string).collect();
        table.row([
            cluster.as_str().into(),
            Cell::new(state.as_str(), state.look()),
            supervisor_pid.map_or_else(|| "-".to_owned(), |pid| format!("pid {pid}")).into(),
            if ports.is_empty() { "-".to_owned() } else { numbers.join(",") }.into(),
            file.as_ref().map_or_else(|| "-".to_owned(), |file| file.display().to_string()).into(),
        ]);
    }
    table.render(paper)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clusters_are_a_table() {
        let place = |role, host: &str, port| Place { role, host: host.to_owned(), port };
        let running = Row {
            cluster: "live".into(),
            state: State::Ready,
            supervisor_pid: Some(4711),
            ports: vec![place(Role::Origin, "127.0.0.5", 1935), place(Role::Edge, "127.0.0.6", 1936)],
            file: Some("/srv/live/cluster.yaml".into()),
        };
        let stopped = Row {
            cluster: "test".into(),
            state: State::NotRunning,
            supervisor_pid: None,
            ports: Vec::new(),
            file: None,
        };
        snapbox::assert_data_eq!(
            table(&[running, stopped], Paper::PLAIN),
            snapbox::str![[r#"
CLUSTER STATE       SUPERVISOR PORTS     FILE
live    ready         pid 4711 1935,1936 /srv/live/cluster.yaml
test    not-running          - -         -

"#]]
        );
    }
}
