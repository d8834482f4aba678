//! The command line of `srsctl`: its commands and what they are for. What a command takes is defined beside it.

use clap::error::{ContextKind, ContextValue};
use clap::{Parser, Subcommand};

use crate::commands::{
    agent, bench, check, down, encoder, events, history, host, logs, ls, plan, probe, publish, render,
    restart, rollback, secret, service, status, up, upgrade, urls, worker,
};
use crate::subject::Global;

/// A small live-streaming cluster from one file: an RTMP origin that forwards every stream to edge ports, supervised.
///
/// Workers outlive the supervisor: if it is killed, streams go on, and the next `srsctl up` takes the workers over.
#[derive(Debug, Parser)]
#[command(version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 done; 1 failed; 2 wrong usage or a wrong cluster file; 3 status: something wanted \
is not ready; 4 status: cannot tell; 5 another srsctl supervises or is starting this cluster, or its \
supervisor is busy or ending, or somebody else changes it; 6 nothing was touched, since it would disconnect players: --yes; or done without machines \
that --skip-unreachable left out; 7 plan --exit-code: there are changes; 130 interrupted.";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make the cluster run as its file says, and keep it running
    Up(up::Args),
    /// Show what up would do, to which process and why, and how many players and encoders that would disconnect
    Plan(plan::Args),
    /// List the cluster files that were in force: when, who brought them, and what they changed
    History(history::Args),
    /// Bring an earlier cluster file into force again
    #[command(override_usage = rollback::USAGE)]
    Rollback(rollback::Args),
    /// Show every process and every stream
    Status(status::Args),
    /// Restart one port after the other; each serves again before the next. Nobody who is connected notices, unless it is --cold. A
    /// program that was replaced meanwhile is the one that runs then
    #[command(override_usage = restart::USAGE)]
    Restart(restart::Args),
    /// Run another program on all ports, one after the other; nobody who is connected notices. A port on which it fails goes back to the one
    /// before, and so do those before it. The supervisor goes on as it is: to replace it too, send it SIGQUIT, which leaves the ports
    /// running, and have the new program take them over by srsctl up
    Upgrade(upgrade::Args),
    /// Stop the cluster; logs, generated configs and the secret stay
    Down(down::Args),
    /// Print logs, merged in order of time
    #[command(override_usage = logs::USAGE)]
    Logs(logs::Args),
    /// Show what the supervisor did, noticed and was asked to do, the newest last
    #[command(override_usage = events::USAGE)]
    Events(events::Args),
    /// List the clusters of this user on this machine
    Ls(ls::Args),
    /// Print where to publish a stream and where to play it
    Urls(urls::Args),
    /// Check a cluster file without touching anything
    Check(check::Args),
    /// Play a stream until its first keyframe and say how long it took
    Probe(probe::Args),
    /// Publish an FLV file or the test card in real time, again and again
    #[command(override_usage = publish::USAGE)]
    Publish(publish::Args),
    /// Put load on any RTMP server: thousands of players or publishers
    #[command(subcommand)]
    Bench(bench::Command),
    /// Print what other programs need of srsctl: units of systemd, manual pages, completions of shells
    #[command(subcommand)]
    Render(render::Command),
    /// What systemd runs of a cluster
    #[command(hide = true)]
    Service(service::Args),
    /// Replace what the edges know the origin by
    #[command(subcommand)]
    Secret(secret::Command),
    /// Prepare the other machines of a cluster
    #[command(subcommand)]
    Host(host::Command),
    /// The supervisor itself; `up` starts it
    #[command(hide = true)]
    Agent(agent::Args),
    /// What this program is, as JSON
    #[command(hide = true, long_flag = "self-check")]
    SelfCheck,
    /// One RTMP port; the supervisor starts it
    #[command(hide = true)]
    Worker(worker::Args),
    /// The supervised encoder; the supervisor starts it
    #[command(hide = true)]
    Encoder(encoder::Args),
}

impl Command {
    /// Whether stdout is to have JSON alone.
    pub(crate) fn wants_json(&self) -> bool {
        match self {
            Self::Plan(args) => args.json,
            Self::History(args) => args.json,
            Self::Status(args) => args.json,
            Self::Ls(args) => args.json,
            Self::Events(args) => args.json,
            Self::Upgrade(args) => args.json,
            Self::Bench(command) => command.wants_json(),
            Self::Up(_)
            | Self::Rollback(_)
            | Self::Restart(_)
            | Self::SelfCheck
            | Self::Down(_)
            | Self::Logs(_)
            | Self::Urls(_)
            | Self::Check(_)
            | Self::Probe(_)
            | Self::Publish(_)
            | Self::Host(_)
            | Self::Render(_)
            | Self::Service(_)
            | Self::Secret(_)
            | Self::Agent(_)
            | Self::Worker(_)
            | Self::Encoder(_) => false,
        }
    }
}

/// What other tools call a command, and how it is asked for here.
const ELSEWHERE: [(&[&str], &str); 16] = [
    (
        &["start", "run", "apply", "serve", "server"],
        "srsctl up FILE starts a cluster, and starts what is missing of one that runs",
    ),
    (&["stop", "kill", "quit", "shutdown"], "srsctl down stops a cluster"),
    (&["reload", "reconfigure", "update"], "srsctl up FILE brings a changed file into force"),
    (
        &["rm", "remove", "delete", "clean", "purge"],
        "srsctl down --purge stops a cluster and removes its logs, generated configs and secret",
    ),
    (&["config", "conf"], "srsctl check FILE checks a cluster file, srsctl up FILE brings it into force"),
    (&["version"], "srsctl --version prints the version"),
    (&["ps", "top", "info", "show"], "srsctl status shows every process and every stream"),
    (&["event", "audit"], "srsctl events shows what the supervisor did and noticed"),
    (&["diff", "preview"], "srsctl plan FILE shows what a changed file would do"),
    (&["undo", "revert"], "srsctl rollback brings the file into force that was so before"),
    (&["log", "tail", "journal"], "srsctl logs prints the logs, srsctl logs -f goes on with them"),
    (&["list", "clusters"], "srsctl ls lists the clusters of this user on this machine"),
    (&["url"], "srsctl urls APP/STREAM prints where to publish and where to play"),
    (&["test", "validate", "lint", "configtest"], "srsctl check FILE tells what is wrong with a file"),
    (&["play"], "srsctl probe URL plays a stream until its first keyframe"),
    (&["push"], "srsctl publish FILE.flv URL publishes a file"),
];

/// Has the error of a command that there is not say which one does what was asked for.
pub(crate) fn hint(error: &mut clap::Error) {
    let Some(ContextValue::String(asked)) = error.get(ContextKind::InvalidSubcommand) else { return };
    let known = ELSEWHERE.iter().find(|(words, _)| words.contains(&asked.as_str()));
    if let Some((_, hint)) = known {
        error.remove(ContextKind::SuggestedSubcommand);
        error.insert(ContextKind::Suggested, ContextValue::StyledStrs(vec![(*hint).into()]));
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn what_is_hinted_at_is_no_command() {
        let commands = Cli::command();
        for word in ELSEWHERE.iter().flat_map(|(words, _)| words.iter()) {
            assert!(commands.find_subcommand(word).is_none(), "{word}");
        }
    }
}
