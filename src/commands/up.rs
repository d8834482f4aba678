//! `srsctl up`: starts a supervisor in the background, or hands a changed file to the one that runs; on each machine of the cluster.

mod progress;
mod several;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use cluster::Cluster;
use cluster::status::Status;
use control::api::StartupEvent;
use control::start::{Start, StartupLine};
use nix::sys::signal::Signal;
use signal_hook::consts::SIGINT;
use supervisor::{Client, ClientError};
use tokio::signal::ctrl_c;
use tokio::signal::unix::{self, SignalKind};

use self::progress::{not_ready, progress};
use crate::change::{self, Cost, Wish};
use crate::commands::status::machines::SETTLE_TIMEOUT;
use crate::commands::{agent, plan};
use crate::failure::{Failure, code};
use crate::fleet::{Fleet, Reach};
use crate::subject::{Global, Loaded, Subject};
use crate::table::Paper;
use crate::terminal::{complain, print_clean};
use crate::{log, output, starting};

/// How often it looks.
const SETTLE_POLL: Duration = Duration::from_millis(100);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The cluster's file, or the name of one that was up before; - for standard input; or a plan of srsctl plan -o
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// Stay in the foreground as the supervisor; the first Ctrl-C stops the cluster, the second at once
    #[arg(long)]
    foreground: bool,
    /// Show what would be done, and touch nothing: as srsctl plan
    #[arg(long, conflicts_with = "foreground")]
    dry_run: bool,
    #[command(flatten)]
    cost: Cost,
    #[command(flatten)]
    reach: Reach,
}

/// Makes the cluster run as its file says.
pub(crate) async fn run(global: &Global, args: Args) -> Result<ExitCode, Failure> {
    let Args { path, foreground, dry_run, cost, reach } = args;
    let (subject, loaded, planned) = change::to_bring_up(global, path.as_deref())?;
    if foreground {
        return in_foreground(&subject, loaded).await;
    }
    let fleet = Fleet::of_cluster(global, &subject, &loaded.cluster);
    let wish = Wish { cost, rollback: None, planned };
    if dry_run {
        return rehearse((fleet, &reach), &subject, &loaded, &wish).await;
    }
    carry_out((fleet, &reach), &subject, &loaded, &wish).await
}

/// Shows what bringing a file into force would do.
pub(crate) async fn rehearse(
    (fleet, reach): (Option<Fleet>, &Reach),
    subject: &Subject,
    loaded: &Loaded,
    wish: &Wish,
) -> Result<ExitCode, Failure> {
    let plan = match fleet {
        Some(fleet) => plan::several::of_fleet(fleet, loaded, reach).await?,
        None => change::plan(subject, loaded).await?,
    };
    change::unchanged(wish.planned.as_ref(), &change::generations(&plan))?;
    print_clean(&change::table(&plan, wish.cost.yes, Paper::stdout())).map(|_| ExitCode::SUCCESS)
}

/// Brings a file into force, on each machine of the cluster, and waits until all is as it says.
pub(crate) async fn carry_out(
    (fleet, reach): (Option<Fleet>, &Reach),
    subject: &Subject,
    loaded: &Loaded,
    wish: &Wish,
) -> Result<ExitCode, Failure> {
    leave_at_second_interrupt()?;
    if let Some(fleet) = fleet {
        return several::run(fleet, loaded, (reach, wish)).await;
    }
    bring_about(subject, loaded, wish).await?;
    let status = settled_status(&subject.client(), &loaded.cluster).await?;
    print_clean(&format!("\n{}", output::status(&status, Paper::stdout())))?;
    match output::waiting(&status) {
        0 => Ok(ExitCode::SUCCESS),
        waiting => Err(not_ready(waiting)),
    }
}

async fn bring_about(subject: &Subject, loaded: &Loaded, wish: &Wish) -> Result<(), Failure> {
    let changed = |why: &str| {
        let again = "nothing was touched; make a new plan: srsctl plan -o";
        Failure::failed(format!("{why} since the plan was made; {again}"))
    };
    let generation = wish.planned.as_ref().map(|plan| plan.hosts.first().and_then(|host| host.generation));
    let is_supervised = subject.dirs().is_supervised();
    match generation {
        Some(None) if is_supervised => return Err(changed("the cluster was started")),
        Some(Some(_)) if !is_supervised => return Err(changed("the supervisor has ended")),
        Some(_) | None => {}
    }
    if is_supervised && apply(subject, loaded, wish, generation.flatten()).await? {
        return Ok(());
    }
    if wish.planned.is_some() && is_supervised {
        return Err(changed("the supervisor has ended"));
    }
    // What runs on without a supervisor is taken over as it is, and changed then: what that costs, a supervisor knows.
    let Some(in_force) = subject.to_take_over(loaded)? else { return start(subject, loaded).await };
    complain("taking over what runs, with the file in force");
    start(subject, &in_force).await?;
    if apply(subject, loaded, wish, None).await? {
        return Ok(());
    }
    Err(Failure::failed("the supervisor has ended again; its log says why: srsctl logs supervisor"))
}

/// The status once every worker has reported, each stream is forwarded to each edge and, where the cluster has an encoder, its
/// stream is on every port; or as it is after a while.
async fn settled_status(client: &Client, cluster: &Cluster) -> Result<Status, Failure> {
    let deadline = Instant::now() + SETTLE_TIMEOUT;
    loop {
        let status = client.status().await?;
        if status.is_settled(cluster.encoder.is_some()) || Instant::now() >= deadline {
            return Ok(status);
        }
        tokio::time::sleep(SETTLE_POLL).await;
    }
}

/// The first Ctrl-C is answered in order; whoever presses it again wants out now.
fn leave_at_second_interrupt() -> Result<(), Failure> {
    let pressed = Arc::new(AtomicBool::new(false));
    let exit = i32::from(code::INTERRUPTED);
    signal_hook::flag::register_conditional_shutdown(SIGINT, exit, Arc::clone(&pressed))
        .and_then(|_| signal_hook::flag::register(SIGINT, pressed))
        .map(drop)
        .map_err(|e| Failure::failed(format!("cannot handle Ctrl-C: {e}")))
}

async fn in_foreground(subject: &Subject, loaded: Loaded) -> Result<ExitCode, Failure> {
    log::start();
    let config = agent::config(subject, loaded, None, false)?;
    complain(&format!("cluster {}: Ctrl-C stops it", subject.name()));
    let ended = supervisor::run(config, |event| {
        // The supervisor's log tells the rest.
        if let StartupEvent::Complete { .. } = event {
            complain(&progress(&event));
        }
    });
    ended.await.map(|()| ExitCode::SUCCESS).map_err(|error| agent::failure(&error))
}

/// Shows what the supervisor that runs would do, and has it do that, if the `expected` file is in force; false if none runs any more.
async fn apply(
    subject: &Subject,
    loaded: &Loaded,
    wish: &Wish,
    expected: Option<u64>,
) -> Result<bool, Failure> {
    let client = subject.client();
    let plan = change::plan(subject, loaded).await?;
    let Some(generation) = plan.hosts.first().and_then(|host| host.generation) else { return Ok(false) };
    if expected.is_some() {
        change::unchanged(wish.planned.as_ref(), &change::generations(&plan))?;
    }
    if plan.has_changes() {
        complain(&change::table(&plan, wish.cost.yes, Paper { has_colour: false, ..Paper::stdout() }));
    }
    let request = wish.request(loaded, Some(expected.unwrap_or(generation)));
    tokio::select! {
        applied = client.apply(&request, complain) => match applied {
            Ok(()) => Ok(true),
            Err(ClientError::NotRunning { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        },
        _ = ctrl_c() => Err(Failure::new(
            code::INTERRUPTED,
            "interrupted: the cluster runs on, and its supervisor finishes what it has begun; see srsctl status",
        )),
    }
}

/// Starts a supervisor in the background and waits until all it starts is ready.
async fn start(subject: &Subject, loaded: &Loaded) -> Result<(), Failure> {
    let mut signals = Signals::new()?;
    let start = Start {
        path: loaded.path.clone(),
        text: loaded.text.clone(),
        hosts: loaded.hosts.clone(),
        secret: None,
    };
    let mut lines = starting::start(subject.roots(), subject.dirs(), start).await?;
    loop {
        let line = tokio::select! {
            line = lines.next() => line?,
            () = signals.any(), if !lines.is_interrupted() => {
                complain("interrupted: stopping what was started");
                lines.interrupt();
                continue;
            }
        };
        match line {
            StartupLine::Startup(event) => {
                if !lines.is_interrupted() {
                    complain(&progress(&event));
                }
                match event {
                    StartupEvent::Complete { waiting: 0, .. } => return Ok(()),
                    StartupEvent::Complete { waiting, .. } => return Err(not_ready(waiting)),
                    _ => {}
                }
            }
            StartupLine::Failed { message, code } => return Err(Failure::new(code, message)),
        }
    }
}

/// What ends an `up`: Ctrl-C, a kill, or a terminal that is closed.
struct Signals {
    interrupt: unix::Signal,
    terminate: unix::Signal,
    /// None under nohup.
    hangup: Option<unix::Signal>,
}

impl Signals {
    fn new() -> Result<Self, Failure> {
        let on =
            |kind| unix::signal(kind).map_err(|e| Failure::failed(format!("cannot handle signals: {e}")));
        Ok(Self {
            interrupt: on(SignalKind::interrupt())?,
            terminate: on(SignalKind::terminate())?,
            hangup: if ignores_hangup() { None } else { Some(on(SignalKind::hangup())?) },
        })
    }

    async fn any(&mut self) {
        let hangup = async {
            match &mut self.hangup {
                Some(hangup) => hangup.recv().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = hangup => {}
        }
    }
}

/// Whether this process was started with SIGHUP ignored; a handler would undo that.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    // Bit 0 is signal 1.
    mask.is_some_and(|mask| mask >> (Signal::SIGHUP as u32 - 1) & 1 == 1)
}
