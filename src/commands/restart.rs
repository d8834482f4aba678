//! `srsctl restart`: ports start again, one after the other.

use std::process::ExitCode;

use clap::ValueEnum;
use cluster::Role;
use control::api::Restart;

use crate::failure::{Failure, code};
use crate::subject::Subject;
use crate::terminal::complain;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Which processes
    role: RoleArg,
    /// Only this port
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Only this host, as written in the cluster's file
    #[arg(long)]
    host: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum RoleArg {
    Origin,
    Edge,
    Encoder,
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Origin => Self::Origin,
            RoleArg::Edge => Self::Edge,
            RoleArg::Encoder => Self::Encoder,
        }
    }
}

/// Restarts what is asked for and waits for it.
pub(crate) async fn run(subject: &Subject, Args { role, port, host }: Args) -> Result<ExitCode, Failure> {
    let (client, request) = (subject.client(), Restart { role: role.into(), port, host });
    tokio::select! {
        done = client.restart(&request, complain) => done?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(
            code::INTERRUPTED,
            "interrupted: the supervisor finishes the restart; see srsctl status",
        )),
    }
    Ok(ExitCode::SUCCESS)
}
