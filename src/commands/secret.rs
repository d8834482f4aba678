//! `srsctl secret`: by what the edges know the origin.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;
use std::process::ExitCode;

use control::start::Secret;
use supervisor::Client;

use crate::failure::Failure;
use crate::fleet::operation::Operation;
use crate::fleet::{Fleet, Reach};
use crate::subject::{Global, Subject};
use crate::terminal::complain;

#[derive(Debug, clap::Subcommand)]
pub(crate) enum Command {
    /// Replace it on each machine; streams go on, and nobody is disconnected
    Rotate(Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's file or its name
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
}

/// A machine, for a person, and its supervisor.
type Supervisor = (String, Client);

/// Does it.
pub(crate) async fn run(global: &Global, command: Command) -> Result<ExitCode, Failure> {
    let Command::Rotate(Args { path }) = command;
    let subject = Subject::find_to_change(global, path.as_deref(), "secret rotate")?;
    let Some(mut fleet) = Fleet::of(global, &subject)? else {
        let known = std::fs::read_to_string(subject.dirs().secret()).ok();
        return rotate(&[(subject.name().to_owned(), subject.client())], &[known]).await;
    };
    // One that is left out would refuse the origin afterwards.
    fleet.reach_to_change(&Reach::default()).await?;
    let outcome = of_machines(&fleet).await;
    fleet.close().await;
    outcome
}

async fn of_machines(fleet: &Fleet) -> Result<ExitCode, Failure> {
    fleet.take_leases("secret rotate").await?;
    let (mut known, mut supervisors) = (Vec::new(), Vec::new());
    for place in fleet.places() {
        let operation = Operation::Secret { cluster: fleet.name().to_owned() };
        known.push(place.ask::<Option<String>>(&operation, &[]).await?);
        supervisors.push((place.to_string(), fleet.client(place)));
    }
    rotate(&supervisors, &known).await
}

/// First all believe the new one too, then all use it, then nobody believes the old one any more.
async fn rotate(supervisors: &[Supervisor], known: &[Option<String>]) -> Result<ExitCode, Failure> {
    let known: Vec<Secret> =
        known.iter().flatten().filter_map(|text| Secret::try_from(text.clone()).ok()).collect();
    let old: Vec<&str> = known.iter().flat_map(Secret::lines).collect();
    let new = random()?;
    let of = |lines: Vec<&str>| Secret::of(lines).map_err(Failure::failed);
    let steps = [
        ("believes the new one too", of([old.as_slice(), &[new.as_str()]].concat())?),
        ("uses the new one", of([&[new.as_str()], old.as_slice()].concat())?),
        ("has forgotten the old one", of(vec![new.as_str()])?),
    ];
    for (what, secret) in steps {
        for (place, client) in supervisors {
            client.replace_secret(&secret).await.map_err(|error| {
                let failure = Failure::from(error);
                let code = failure.number();
                Failure::new(
                    code,
                    format!("{place}: {failure}\nno stream is cut; go on with the same srsctl secret rotate"),
                )
            })?;
            complain(&format!("{place}: {what}"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// A new one, of the kernel's.
fn random() -> Result<String, Failure> {
    let mut bytes = [0; 32];
    let read = File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    read.map_err(|error| Failure::failed(format!("no random numbers: /dev/urandom: {error}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
