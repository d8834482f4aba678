//! `srsctl host trust`: which key a machine has to show.

use std::io::{self, BufRead as _, IsTerminal as _, Read as _};
use std::process::ExitCode;

use cluster::{Destination, Machine};
use remote::known_hosts;
use supervisor::preflight;

use crate::failure::Failure;
use crate::fleet;
use crate::subject::{Global, Subject};
use crate::terminal::complain;

/// Bytes read of an answer.
const ANSWER_MAX: u64 = 80;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// A host of the cluster's file, as written there; without it, each machine of the cluster whose key is not pinned yet
    #[arg(value_name = "HOST")]
    host: Option<String>,
    /// The key's fingerprint as it is known from elsewhere, SHA256:…: nothing is asked, and no other key is pinned
    #[arg(long, value_name = "FINGERPRINT", requires = "host")]
    host_key: Option<String>,
    /// In place of another key that is pinned: the machine was installed anew
    #[arg(long, requires = "host")]
    replace: bool,
}

/// Pins what is shown, once it is known to be right.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let subject = Subject::find(global, None, "host trust HOST")?;
    let cluster = subject.cluster()?;
    let machines = cluster.machines(preflight::here());
    let is_meant = |machine: &&Machine| match &args.host {
        Some(host) => {
            let is_way =
                machine.way.as_ref().is_some_and(|way| way.to_string() == *host || way.host == *host);
            machine.hosts.contains(host) || is_way
        }
        None => machine.way.is_some(),
    };
    let meant: Vec<&Machine> = machines.iter().filter(is_meant).collect();
    if meant.is_empty() {
        let hosts: Vec<&str> = machines.iter().flat_map(|it| &it.hosts).map(String::as_str).collect();
        return Err(Failure::usage(match &args.host {
            Some(host) => format!("{host} is no host of cluster {}: {}", subject.name(), hosts.join(", ")),
            None => format!("all hosts of cluster {} are this machine", subject.name()),
        }));
    }
    let mut failures = Vec::new();
    for machine in meant {
        let Some(way) = &machine.way else {
            return Err(Failure::usage(format!("{machine} is this machine: no ssh is needed")));
        };
        if let Err(failure) = trust(global, &subject, way, &args).await {
            failures.push(failure);
        }
    }
    match failures.into_iter().reduce(|all, next| Failure::new(all.number(), format!("{all}\n{next}"))) {
        Some(failure) => Err(failure),
        None => Ok(ExitCode::SUCCESS),
    }
}

async fn trust(global: &Global, subject: &Subject, way: &Destination, args: &Args) -> Result<(), Failure> {
    let ssh = fleet::ssh(global, subject.dirs());
    let file = &ssh.known_hosts;
    let unusable = |error: io::Error| Failure::failed(format!("{}: {error}", file.display()));
    let pinned = known_hosts::pinned(file, way).await.map_err(unusable)?;
    let shown = known_hosts::shown(&ssh, way).await.map_err(Failure::failed)?;
    let (kind, fingerprint) = (&shown.kind, &shown.fingerprint);
    if let Some(wanted) = &args.host_key
        && wanted != fingerprint
    {
        return Err(Failure::failed(format!(
            "{way} shows another {kind} key, {fingerprint}: nothing is pinned. Is that the right machine, and is nobody in between?"
        )));
    }
    match &pinned {
        Some(pinned) if pinned.fingerprint == *fingerprint => {
            complain(&format!("{way}: its {kind} key {fingerprint} is pinned already"));
            return Ok(());
        }
        Some(pinned) if !args.replace => {
            return Err(Failure::failed(format!(
                "{way} shows {fingerprint}, and {} is pinned: it was installed anew, or somebody is in between. Compare on its own console \
                 (ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub), and then: the same with --replace",
                pinned.fingerprint
            )));
        }
        Some(_) | None => {}
    }
    if args.host_key.is_none() {
        ask(way, kind, fingerprint)?;
    }
    known_hosts::pin(file, way, &shown).map_err(unusable)?;
    complain(&format!("{way}: its {kind} key {fingerprint} is pinned for cluster {}", subject.name()));
    Ok(())
}

fn ask(way: &Destination, kind: &str, fingerprint: &str) -> Result<(), Failure> {
    if !io::stdin().is_terminal() {
        return Err(Failure::usage(format!(
            "{way} shows the {kind} key {fingerprint}, and nobody is there to compare it; where it is known to be right: \
             srsctl host trust {} --host-key {fingerprint}",
            way.host
        )));
    }
    complain(&format!(
        "{way} shows the {kind} key {fingerprint}\n\
         Its own console tells the right one: ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub\nIs it the same? [y/N]"
    ));
    let mut answer = String::new();
    let read = io::stdin().lock().take(ANSWER_MAX).read_line(&mut answer);
    let is_yes = read.is_ok() && matches!(answer.trim(), "y" | "Y" | "yes" | "Yes" | "YES");
    if is_yes { Ok(()) } else { Err(Failure::failed(format!("{way}: nothing is pinned"))) }
}
