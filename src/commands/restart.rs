//! `srsctl restart`: ports start again, one after the other, on each machine.

mod several;

use std::process::ExitCode;

use clap::ValueEnum;
use cluster::Role;
use cluster::status::{Status, UnitStatus};
use control::api::Restart;

use crate::failure::{Failure, code};
use crate::fleet::{Fleet, Reach};
use crate::subject::{Global, Subject};
use crate::terminal::complain;
use crate::words::Words;

/// What its help shows: the words are told apart by what they are.
pub(crate) const USAGE: &str = "srsctl restart [OPTIONS] <ROLE> [PORT] [FILE]";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A role: origin, edge or encoder; a port, for its processes alone; the cluster's file or its name
    #[arg(required = true, num_args = 1..=3, value_name = "WORD")]
    words: Vec<String>,
    /// Only this host, as written in the cluster's file
    #[arg(long)]
    host: Option<String>,
    /// Close each port and open it anew: whoever is connected has to connect again
    #[arg(long)]
    cold: bool,
    /// Also where connections cannot be kept, since a program that was replaced reads nothing of what runs: whoever is connected has to
    /// connect again
    #[arg(short, long)]
    yes: bool,
    #[command(flatten)]
    reach: Reach,
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
pub(crate) async fn run(
    global: &Global,
    Args { words, host, cold, yes, reach }: Args,
) -> Result<ExitCode, Failure> {
    let Words { role, port, path } = Words::<RoleArg>::read(words)?;
    let role =
        role.ok_or_else(|| Failure::usage(format!("which processes? {}", Words::<RoleArg>::expected())))?;
    let subject = Subject::find_to_change(global, path.as_deref(), "restart ROLE")?;
    if let Some(fleet) = Fleet::of(global, &subject)? {
        let request = Restart { role: role.into(), port, host, cold, yes };
        return several::run(fleet, &subject.cluster()?, &request, &reach).await;
    }
    if !(cold || yes) && role != RoleArg::Encoder {
        refuse_cost(&subject.client().status().await?, role.into(), port, host.as_deref())?;
    }
    let (client, request) = (subject.client(), Restart { role: role.into(), port, host, cold, yes });
    tokio::select! {
        done = client.restart(&request, complain) => done?,
        _ = tokio::signal::ctrl_c() => return Err(Failure::new(
            code::INTERRUPTED,
            "interrupted: the supervisor finishes the restart; see srsctl status",
        )),
    }
    Ok(ExitCode::SUCCESS)
}

/// A supervisor that does not say which program it starts knows of no port that outlives its worker, and asks nobody before it restarts one.
fn refuse_cost(status: &Status, role: Role, port: Option<u16>, host: Option<&str>) -> Result<(), Failure> {
    let fits = |unit: &&UnitStatus| {
        unit.role == role
            && port.is_none_or(|port| unit.port == port)
            && host.is_none_or(|host| unit.host == host)
    };
    let cost = status.units.iter().filter(fits).map(|unit| {
        let (players, publishers) = unit.stats.as_ref().map_or((0, 0), |it| (it.players, it.publishers));
        // Those of an edge are the origin's.
        let encoders = if role == Role::Origin { publishers } else { 0 };
        format!("\n  {}: {players} players, {encoders} encoders", unit.id)
    });
    let cost: String = cost.collect();
    if status.next_program.is_some() || cost.is_empty() {
        return Ok(());
    }
    let instead = supervisor::take_over(Some(&status.supervisor_pid));
    let why = format!(
        "nothing was touched: the supervisor is older than this srsctl, and its restart costs all connections:{cost}\n\
         if that shall be: the same with --yes; else {instead}"
    );
    Err(Failure::new(code::CONSENT, why))
}
