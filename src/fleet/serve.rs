//! What srsctl does here for one on another machine, or for this very process: [`Operation`]s, one after the other, of one session.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::ValueEnum;
use cluster::events::{Events, SCHEMA};
use cluster::file::{ClusterFile, is_cluster_name};
use control::api::StartupEvent;
use control::start::{Start, StartupLine};
use remote::{Exchange, Hello, PROTO, Refused};
use serde::Serialize;
use supervisor::{Client, ClientError, ClusterDirs, Lease, StateRoots, Taken, orphans, preflight};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::sync::mpsc;

use super::operation::{Leased, Look, Operation, Page};
use crate::commands::logs::tail::{Tail, Wanted};
use crate::failure::Failure;
use crate::{starting, stopping, subject};

/// Bytes of a [`Start`] at most: a cluster file at its own limit, escaped.
const MAX_START: u64 = 8 << 20;
/// Lines that wait to be sent; of more, some are lost, but never the outcome.
const LINES: usize = 64;
/// Between two looks at logs that are followed.
const FOLLOW_POLL: Duration = Duration::from_millis(250);

/// What a login may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// All.
    Operator,
    /// To look: status, events, plans, logs.
    Viewer,
}

impl Role {
    /// As on a command line.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Operator => "operator",
            Self::Viewer => "viewer",
        }
    }
}

/// Who this end is.
pub(crate) fn hello() -> Hello {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").ok().map(|name| name.trim().to_owned());
    Hello {
        proto: PROTO,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot_id: supervisor::boot_id().unwrap_or_default(),
        host: host.unwrap_or_else(|| "localhost".to_owned()),
        clock_ms: clock_ms(),
    }
}

/// This machine's clock, ms since 1970.
pub(crate) fn clock_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// Serves one session until its client is gone.
pub(crate) async fn serve(
    roots: StateRoots,
    role: Role,
    input: impl AsyncRead + Unpin + Send + 'static,
    output: impl AsyncWrite + Unpin + Send + 'static,
) -> std::io::Result<()> {
    let server = Arc::new(Server { roots, role, leases: Mutex::default() });
    let handle = |opened: Vec<u8>, exchange, _: &Hello| {
        let server = Arc::clone(&server);
        async move { server.handle(&opened, exchange).await.map_err(|it| Refused::new(it.number(), it)) }
    };
    remote::serve(input, output, &hello(), handle).await
}

struct Server {
    roots: StateRoots,
    role: Role,
    /// Held as long as the session lasts.
    leases: Mutex<Vec<Lease>>,
}

impl Server {
    async fn handle(&self, opened: &[u8], exchange: Exchange) -> Result<(), Failure> {
        let operation: Operation = serde_json::from_slice(opened).map_err(|_| {
            let version = env!("CARGO_PKG_VERSION");
            Failure::failed(format!(
                "srsctl {version} is there, which does not know that: install the same on both"
            ))
        })?;
        if self.role == Role::Viewer && !operation.is_for_viewers() {
            return Err(Failure::failed(
                "this login may look and change nothing: its role is viewer; one with a key that is an operator's there may",
            ));
        }
        if !is_cluster_name(operation.cluster()) {
            return Err(Failure::usage("no cluster is called so"));
        }
        let dirs = self.roots.cluster(operation.cluster());
        match operation {
            Operation::Api { .. } => {
                let may_change = self.role == Role::Operator;
                supervisor::relay(exchange, &Client::new(dirs), may_change).await.map_err(Failure::failed)
            }
            Operation::Look { .. } => {
                let program = supervisor::own_binary().map_err(Failure::failed)?;
                let (is_supervised, living) = (dirs.is_supervised(), orphans::living(&dirs));
                let runs = is_supervised || living > 0;
                let in_force = dirs.in_force()?.filter(|_| runs);
                let file = in_force.map(|(path, text)| ClusterFile::new(path, text));
                let sound = file.filter(|file| subject::parse_in(file, &self.roots).is_ok());
                let in_force = sound.map(|file| file.text().to_owned());
                answer(exchange, &Look { is_supervised, living, in_force, program }).await
            }
            Operation::Rehearse { .. } => self.rehearse(&dirs, exchange).await,
            Operation::Lease { mut holder, .. } => {
                holder.since_ms = clock_ms();
                let held = match Lease::take(&dirs, &holder)? {
                    Taken::Ours(lease) => {
                        self.leases.lock().unwrap_or_else(PoisonError::into_inner).push(lease);
                        None
                    }
                    Taken::Held(holder) => Some(holder.tell(clock_ms())),
                };
                answer(exchange, &Leased { held }).await
            }
            Operation::Secret { .. } => {
                let secret = std::fs::read_to_string(dirs.secret()).ok();
                answer(exchange, &secret).await
            }
            Operation::Start { .. } => self.start(&dirs, exchange).await,
            Operation::TakeOver { .. } => self.take_over(&dirs, exchange).await,
            Operation::History { .. } => answer(exchange, &supervisor::generations(&dirs)?).await,
            Operation::Down { purge, .. } => {
                with_lines(exchange, async |lines| {
                    let say = |line: &str| drop(lines.try_send(line.replace('\n', " ")));
                    if !stopping::stop(&dirs, say).await? {
                        let _ = lines.try_send(format!("cluster {} is not running there", dirs.name()));
                    }
                    if purge { stopping::purge(&dirs) } else { Ok(()) }
                })
                .await
            }
            Operation::Logs { wanted, .. } => logs(&dirs, wanted, exchange).await,
            Operation::Events { after, .. } => {
                let (schema, cluster) = (SCHEMA.to_owned(), dirs.name().to_owned());
                let page = match Client::new(dirs.clone()).events(after).await {
                    Ok(events) => Page { events, is_supervised: true },
                    Err(ClientError::NotRunning { .. }) => {
                        let mut events = dirs.written_events()?;
                        let newest = events.last().map_or(0, |event| event.number);
                        events.retain(|event| event.number > after);
                        Page { events: Events { schema, cluster, newest, events }, is_supervised: false }
                    }
                    Err(error) => return Err(error.into()),
                };
                answer(exchange, &page).await
            }
        }
    }

    async fn rehearse(&self, dirs: &ClusterDirs, mut exchange: Exchange) -> Result<(), Failure> {
        let mut text = Vec::new();
        (&mut exchange).take(MAX_START).read_to_end(&mut text).await.map_err(Failure::failed)?;
        let start: Start = serde_json::from_slice(&text).map_err(Failure::failed)?;
        let (roots, dirs) = (self.roots.clone(), dirs.clone());
        // Looks names up, and reads the encoder's file.
        let problems = tokio::task::spawn_blocking(move || {
            let file = ClusterFile::new(start.path, start.text);
            match subject::parse_in(&file, &roots) {
                Ok(cluster) => {
                    let problems = preflight::rehearse(&cluster.only(&start.hosts), &dirs);
                    problems.iter().map(ToString::to_string).collect::<Vec<_>>()
                }
                Err(error) => vec![error.to_string()],
            }
        });
        answer(exchange, &problems.await.map_err(Failure::failed)?).await
    }

    async fn start(&self, dirs: &ClusterDirs, exchange: Exchange) -> Result<(), Failure> {
        let (input, output) = tokio::io::split(exchange);
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        (&mut input).take(MAX_START).read_until(b'\n', &mut line).await.map_err(Failure::failed)?;
        let mut start: Start = serde_json::from_slice(&line).map_err(Failure::failed)?;
        if !start.path.is_file() {
            // It is on the operator's machine; what is in force here is what can be looked at.
            start.path = dirs.file_in_force();
        }
        self.bring_up(dirs, start, (input, output)).await
    }

    async fn take_over(&self, dirs: &ClusterDirs, exchange: Exchange) -> Result<(), Failure> {
        let none = || Failure::failed("no file is in force there");
        let (path, text) = dirs.in_force()?.ok_or_else(none)?;
        let start = Start { path, text, hosts: dirs.hosts_in_force()?, secret: None };
        self.bring_up(dirs, start, tokio::io::split(exchange)).await
    }

    /// Starts a supervisor, and tells what it tells.
    async fn bring_up(
        &self,
        dirs: &ClusterDirs,
        start: Start,
        (mut input, mut output): (impl AsyncRead + Unpin, impl AsyncWrite + Unpin),
    ) -> Result<(), Failure> {
        let mut lines = Interrupted(starting::start(&self.roots, dirs, start).await?);
        let mut end = [0];
        loop {
            let line = tokio::select! {
                line = lines.0.next() => line?,
                // The operator has interrupted it, or is gone.
                _ = input.read(&mut end), if !lines.0.is_interrupted() => {
                    lines.0.interrupt();
                    continue;
                }
            };
            match line {
                StartupLine::Startup(event) => {
                    let mut text = serde_json::to_vec(&event).map_err(Failure::failed)?;
                    text.push(b'\n');
                    let _ = output.write_all(&text).await;
                    if matches!(event, StartupEvent::Complete { .. }) {
                        lines.0.complete();
                        return Ok(());
                    }
                }
                StartupLine::Failed { message, code } => return Err(Failure::new(code, message)),
            }
        }
    }
}

/// A start whose operator is gone does not go on.
struct Interrupted(starting::StartupLines);

impl Drop for Interrupted {
    fn drop(&mut self) {
        if !self.0.is_complete() {
            self.0.interrupt();
        }
    }
}

async fn answer(mut exchange: Exchange, document: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_vec(document).map_err(Failure::failed)?;
    exchange.write_all(&text).await.map_err(Failure::failed)
}

/// Sends lines while `work` makes them.
async fn with_lines(
    mut exchange: Exchange,
    work: impl AsyncFnOnce(&mpsc::Sender<String>) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (sender, mut lines) = mpsc::channel::<String>(LINES);
    let works = async move { work(&sender).await };
    let sends = async {
        while let Some(line) = lines.recv().await {
            let _ = exchange.write_all(format!("{line}\n").as_bytes()).await;
        }
    };
    tokio::join!(works, sends).0
}

async fn logs(dirs: &ClusterDirs, wanted: Wanted, mut exchange: Exchange) -> Result<(), Failure> {
    let follow = wanted.follow;
    let mut tail = Tail::new(dirs.lib().join("log"), wanted);
    let mut found = tail.last_lines()?;
    loop {
        found.retain(|(_, lines)| !lines.is_empty());
        if !found.is_empty() {
            let mut text = serde_json::to_vec(&found).map_err(Failure::failed)?;
            text.push(b'\n');
            exchange.write_all(&text).await.map_err(Failure::failed)?;
        }
        if !follow {
            return Ok(());
        }
        tokio::time::sleep(FOLLOW_POLL).await;
        found = tail.new_lines();
    }
}
