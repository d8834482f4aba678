//! The tasks that watch one process: its end, its readiness and heartbeat, its port.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use cluster::stats::{ProcessStats, StreamStats};
use cluster::status::Health;
use cluster::{Port, UnitId};
use control::packet::{Listener, Packet};
use control::service::EX_SOFTWARE;
use control::{Answer, AskError, Connection, Hello, Reply, Request, VERSION, cause};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::exec::adopt::{self, Found};
use crate::exec::listeners::LocalAddresses;
use crate::exec::names::Names;
use crate::exec::process::Process;
use crate::exec::record::UnitFiles;
use crate::host::files::{FileId, StateError};
use crate::host::last_words::last_words;
use crate::host::oom::OomKills;
use crate::host::procfs::{self, Cpu};
use crate::machine::exit::{Doing, Exit, judge};
use crate::machine::health::{Ladder, judge_name};
use crate::machine::heartbeat::{Heartbeat, Remedy};
use crate::machine::keeper::Keeper;
use crate::machine::state::Event;
use crate::reconcile::kernel::{Input, Instance, Report, What, Worker};

/// Between two RTMP connects of a process that is not ready yet.
const READY_RETRY: Duration = Duration::from_millis(25);
/// How long a request may wait for room on the control socket.
const SEND_LIMIT: Duration = Duration::from_secs(1);
/// How long an RTMP connect may take.
const PROBE_LIMIT: Duration = Duration::from_secs(2);
/// The same of a process that is not ready yet: on a slow machine many start at once.
const FIRST_PROBE_LIMIT: Duration = Duration::from_secs(10);
/// Between two RTMP connects, ± 10 %.
const PROBE_PERIOD: Duration = Duration::from_secs(5);
/// The same while failures are counted.
const PROBE_AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at what the kernel has killed for want of memory.
const OOM_LOOK: Duration = Duration::from_secs(5);

/// What the tasks tell the supervisor's loop.
#[derive(Debug)]
pub(crate) enum Message {
    /// As it is.
    Input(Input),
    /// What another look at an unknown process gave.
    Found(UnitId, Found),
}

/// One process to watch.
#[derive(Clone, Debug)]
pub(crate) struct Watched {
    pub(crate) unit: UnitId,
    pub(crate) instance: Instance,
    pub(crate) process: Arc<Process>,
    pub(crate) files: UnitFiles,
    /// The process's token.
    pub(crate) token: String,
    /// Its port; an encoder has none.
    pub(crate) port: Option<Port>,
    /// What the names of hosts stand for.
    pub(crate) names: Names,
    /// Its log, and how long that was when the process was started, bytes.
    pub(crate) log: (PathBuf, u64),
    pub(crate) messages: mpsc::Sender<Message>,
    /// Asks for a report now.
    pub(crate) refresh: Arc<Notify>,
}

impl Watched {
    /// Starts the tasks; dropping the set ends them. A process that is `adopted` was ready before.
    pub(crate) fn watch(self, adopted: bool) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let ends = self.clone();
        tasks.spawn(async move {
            let (exit, is_for_memory) = ends.end().await;
            if let (Exit::Code(1..), (log, from)) = (exit, &ends.log)
                && let Some(mut words) = last_words(log, *from)
            {
                if is_for_memory {
                    words.push_str(" of the kernel: out of memory");
                }
                ends.tell(What::LastWords(words)).await;
            }
            ends.tell(What::Event(Event::Exited(exit))).await;
        });
        tasks.spawn(async move {
            let (greeted, is_greeted) = oneshot::channel();
            let heart = if adopted { Heartbeat::of_adopted() } else { Heartbeat::default() };
            tokio::join!(self.heartbeat(heart, greeted), self.probes(adopted, is_greeted));
        });
        tasks
    }

    /// How it ended, and whether a keeper's last worker was killed for want of memory.
    async fn end(&self) -> (Exit, bool) {
        let pid = self.process.identity().pid;
        let mut kills = OomKills::watch(pid);
        let mut tick = tokio::time::interval(OOM_LOOK);
        let exit = loop {
            tokio::select! {
                exit = self.process.wait() => break exit,
                _ = tick.tick() => kills.refresh(),
            }
        };
        match exit {
            Exit::Signal(9) | Exit::Unobserved => (exit_by_kill(&kills, pid, exit), false),
            // So a keeper ends whose workers die again and again.
            Exit::Code(code) if code == i32::from(EX_SOFTWARE) => (exit, kills.is_one(pid) == Some(true)),
            other => (other, false),
        }
    }

    /// What its port is reached by on this machine, whatever names and outer addresses say.
    fn address(&self) -> Option<SocketAddr> {
        self.port.as_ref().map(Port::local_addr)
    }

    /// What is wrong with the name by which players look for it.
    async fn name_trouble(&self, port: &Port) -> Option<(Health, String)> {
        let host = &port.host;
        // An address, or one behind which the port's own is not seen from here.
        if host.name.parse::<IpAddr>().is_ok() || port.source_address() != host.address {
            return None;
        }
        let found = self.names.lookup(&host.name).await;
        judge_name(&host.name, port.listen, found.as_deref(), |at| LocalAddresses::read().contains(at))
    }

    async fn tell(&self, what: What) {
        let input = Input::Process { unit: self.unit.clone(), instance: self.instance, what };
        // The supervisor's loop is gone only when it ends, and this task with it.
        let _ = self.messages.send(Message::Input(input)).await;
    }

    async fn not_ready(&self, told: &mut Option<String>, why: String) {
        if told.as_ref() != Some(&why) {
            self.tell(What::NotReady(why.clone())).await;
            *told = Some(why);
        }
    }

    /// Asks for a report each second, at first who it is. One request is under way at a time: a process that is slow to
    /// answer is not asked again, and one that never answers is frozen.
    async fn heartbeat(&self, mut heart: Heartbeat, greeted: oneshot::Sender<()>) {
        let mut greeted = (!heart.is_greeted()).then_some(greeted);
        let mut told = None;
        let mut tick = tokio::time::interval(Heartbeat::PERIOD);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut serving = Serving::of(self.process.identity().pid);
        let (mut last, mut cpu) = (Instant::now(), serving.cpu());
        let (mut talk, mut loss, mut keeper) = (Talk::default(), Loss::default(), Keeper::default());
        loop {
            tokio::select! {
                // What came in time counts, however late this task gets to see it.
                biased;
                packet = talk.receive() => match packet.and_then(|packet| talk.take(packet, &mut heart)) {
                    Ok(None) => {}
                    Ok(Some(Whole::Hello { hello, sender })) => match sender {
                        Some(pid) if hello.id == self.unit && self.process.has(pid) => {
                            heart.handle_hello();
                            if let Some(worker) = serving.handle_hello(pid, &hello) {
                                cpu = serving.cpu();
                                self.tell(What::Worker(worker)).await;
                            }
                            greeted.take().map(|greeted| greeted.send(()));
                            talk.is_greeted = true;
                            talk.ask(&Request::Stats).await;
                        }
                        _ => {
                            talk = Talk::default();
                            let who = sender.map_or_else(|| "another process".to_owned(), |it| format!("pid {it}"));
                            self.not_ready(&mut told, format!("{who} answers for it as {}", hello.id)).await;
                        }
                    },
                    Ok(Some(Whole::Report { process, streams })) => {
                        serving.kills.refresh();
                        talk.has_reported = true;
                        self.tell(What::Report(Report { at: Instant::now(), process, streams })).await;
                    }
                    // A worker that has died; the next one answers at once.
                    Err(error) if talk.has_reported && error.is_end() => {
                        tracing::debug!(unit = %self.unit, %error, "connecting again");
                        talk = Talk::default();
                        self.connect(&mut talk, &mut heart, &mut told).await;
                    }
                    Err(error) => {
                        tracing::warn!(unit = %self.unit, %error, "no report");
                        talk = Talk::default();
                    }
                },
                _ = tick.tick() => {
                    self.look_after_keeper(&serving, &mut keeper, &mut heart).await;
                    let (elapsed, now) = (last.elapsed(), serving.cpu());
                    last = Instant::now();
                    match heart.handle_sample(elapsed, procfs::own_time(cpu, now, elapsed)) {
                        None => {}
                        Some((Remedy::Replace, why)) if !self.process.workers().is_empty() => {
                            tracing::warn!(unit = %self.unit, pid = serving.pid, why, "its keeper shall replace it");
                            self.process.replace_worker();
                            serving.why_replaced = Some(why);
                        }
                        Some((Remedy::Replace | Remedy::Kill, why)) => {
                            self.tell(What::Event(Event::Frozen { why })).await;
                        }
                    }
                    cpu = now;
                    if talk.is_greeted {
                        self.put_back(&mut talk, &mut loss).await;
                    }
                    self.connect(&mut talk, &mut heart, &mut told).await;
                }
                () = self.refresh.notified(), if talk.is_greeted => talk.ask(&Request::Stats).await,
            }
        }
    }

    /// Wakes a keeper that somebody has stopped, and tells how it was found. A process that serves itself is judged by its heartbeat.
    async fn look_after_keeper(&self, serving: &Serving, keeper: &mut Keeper, heart: &mut Heartbeat) {
        let leader = self.process.identity().pid;
        // Before anybody has said that it serves, this may be a keeper whose worker has died.
        let is_unknown = self.port.is_some() && serving.generation.is_none();
        let is_keeper = || is_unknown || serving.pid != leader || !self.process.workers().is_empty();
        let halt = procfs::halt(leader).filter(|_| is_keeper());
        let found = keeper.next(halt.and_then(|_| self.process.wake()));
        if found != *keeper {
            *keeper = found;
            if found == Keeper::Woken && self.process.workers().is_empty() {
                heart.handle_woken();
            }
            self.tell(What::Keeper(found)).await;
        }
    }

    /// Asks for a report, where there is no connection yet for who is there.
    async fn connect(&self, talk: &mut Talk, heart: &mut Heartbeat, told: &mut Option<String>) {
        if let Err(error) = talk.open(&self.files, self.process.identity().pid) {
            if error.is_missing() {
                heart.handle_missing();
            }
            self.not_ready(told, error.to_string()).await;
        }
        let hello = Request::Hello { version: VERSION };
        talk.ask(if talk.is_greeted { &Request::Stats } else { &hello }).await;
    }

    /// Puts control socket and lock back where somebody removed or replaced them.
    async fn put_back(&self, talk: &mut Talk, loss: &mut Loss) {
        let is_whole = || talk.is_at(&self.files.control()) && self.files.is_held();
        if loss.is_refused || talk.under_way.is_some() || is_whole() {
            return;
        }
        let Some(connection) = &mut talk.connection else { return };
        let unit = &self.unit;
        match self.replace(connection).await {
            Ok(socket) => {
                (talk.socket, loss.told) = (Some(socket), None);
                tracing::warn!(%unit, "control socket or lock was removed or replaced; both are put back");
            }
            Err(error) => {
                loss.is_refused = matches!(error, ReplaceError::Ask(AskError::Refused(_)));
                if !loss.is_refused && matches!(error, ReplaceError::Ask(_)) {
                    *talk = Talk::default();
                }
                let why = error.to_string();
                if loss.told.as_ref() != Some(&why) {
                    tracing::warn!(%unit, why, "control socket or lock was removed or replaced, and is not put back");
                    loss.told = Some(why);
                }
            }
        }
    }

    /// Lends the process another control socket and lock; returns the socket's file.
    async fn replace(&self, connection: &mut Connection) -> Result<FileId, ReplaceError> {
        let path = self.files.control();
        let system = |source| StateError { what: "cannot put back", path: path.clone(), source };
        let lock = self.files.renew_lock(&self.token)?;
        let control = Listener::bind(&path).map_err(system)?;
        let socket = control::unix::hold(&path).map_err(system)?;
        let fds = [control.as_fd(), socket.as_fd(), lock.as_fd()];
        connection.ask_with(&Request::Replace, &fds, SEND_LIMIT).await?;
        FileId::at(&path).ok_or_else(|| system(std::io::ErrorKind::NotFound.into()).into())
    }

    /// Connects as a client does, again and again; a process that has just started is ready with the first success.
    async fn probes(&self, adopted: bool, greeted: oneshot::Receiver<()>) {
        if !adopted {
            // The sender goes only with this task.
            let _ = greeted.await;
            let mut told = None;
            if let Some(address) = self.address() {
                while let Err(error) = crate::probe::connect(address, FIRST_PROBE_LIMIT).await {
                    self.not_ready(&mut told, format!("RTMP connect fails: {error}")).await;
                    tokio::time::sleep(READY_RETRY).await;
                }
            }
            self.tell(What::Event(Event::Ready)).await;
            tokio::time::sleep(PROBE_PERIOD.mul_f64(0.9 + 0.2 * random())).await;
        }
        let Some(port) = &self.port else { return };
        let address = port.local_addr();
        let mut failures = 0;
        loop {
            let started = Instant::now();
            let result = crate::probe::connect(address, PROBE_LIMIT).await;
            failures = if result.is_ok() { 0 } else { failures + 1 };
            // A supervisor that was stopped meanwhile has measured itself.
            if started.elapsed() < PROBE_LIMIT + Heartbeat::LATE {
                self.tell(What::Probe(result.map(drop).map_err(|error| error.to_string()))).await;
            }
            self.tell(What::Name(self.name_trouble(port).await)).await;
            let period = if (1..Ladder::FALL).contains(&failures) { PROBE_AGAIN } else { PROBE_PERIOD };
            tokio::time::sleep(period.mul_f64(0.9 + 0.2 * random())).await;
        }
    }
}

/// Why control socket and lock are not put back.
#[derive(Debug, thiserror::Error)]
enum ReplaceError {
    /// The state directory failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The process did not take them.
    #[error("the process does not take them: {0}")]
    Ask(#[from] AskError),
}

/// What is known of files that somebody removed.
#[derive(Default)]
struct Loss {
    /// It takes no others: it is older than the request.
    is_refused: bool,
    /// Why they are not put back, as it was told.
    told: Option<String>,
}

/// The process that serves: a worker, of an encoder the process itself.
struct Serving {
    pid: u32,
    /// See [`Hello::generation`]; `None` before it is known.
    generation: Option<u32>,
    /// What it failed to do, since its keeper was asked to replace it.
    why_replaced: Option<String>,
    kills: OomKills,
}

impl Serving {
    /// Until a worker has said that it is the one.
    fn of(pid: u32) -> Self {
        Self { pid, generation: None, why_replaced: None, kills: OomKills::watch(pid) }
    }

    /// Process `pid` says who it is; tells what is new of it.
    fn handle_hello(&mut self, pid: u32, hello: &Hello) -> Option<Worker> {
        if (self.pid, self.generation) == (pid, Some(hello.generation)) {
            return None;
        }
        let mut cause = hello.cause.clone().map(|cause| self.explain(cause));
        if let (Some(cause), Some(forgot)) = (&mut cause, &hello.forgot) {
            cause.push_str("; ");
            cause.push_str(forgot);
        }
        (self.pid, self.generation, self.why_replaced) = (pid, Some(hello.generation), None);
        let age = procfs::start_ticks(pid).and_then(procfs::age).unwrap_or_default();
        let Hello { generation, renewed, lost, .. } = *hello;
        let (version, is_cold) = (hello.build.clone(), hello.forgot.is_some());
        Some(Worker { pid, generation, renewed, cause, is_cold, lost, version, age })
    }

    /// What the keeper says of the end of this one, and what is known beside that.
    fn explain(&self, cause: String) -> String {
        let killed = Exit::Signal(9).to_string();
        let exit = match (&self.why_replaced, cause == killed) {
            // It has died of the signal, or before that came.
            (Some(why), is_killed) if is_killed || cause == cause::REPLACED => {
                return format!("{killed}: {why}");
            }
            // One of which nothing was known yet may have ended long ago.
            (None, true) if self.generation.is_some() => exit_by_kill(&self.kills, self.pid, Exit::Signal(9)),
            (_, _) => return cause,
        };
        judge(exit, Doing::Work).to_string()
    }

    fn cpu(&self) -> Option<Cpu> {
        Cpu::of(self.pid)
    }
}

/// What is known of `exit`, by SIGKILL or not observed, of process `pid`.
fn exit_by_kill(kills: &OomKills, pid: u32, exit: Exit) -> Exit {
    match (kills.is_one(pid), exit) {
        (Some(true), _) => Exit::OutOfMemory,
        (Some(false), Exit::Signal(_)) => Exit::Killed,
        (_, exit) => exit,
    }
}

/// The talk with a process.
#[derive(Default)]
struct Talk {
    connection: Option<Connection>,
    /// It has said who it is on this connection.
    is_greeted: bool,
    /// It has reported on this connection.
    has_reported: bool,
    /// The file by which it was opened.
    socket: Option<FileId>,
    /// What has come of the answer that is waited for.
    under_way: Option<Answer>,
}

/// A whole answer.
enum Whole {
    Hello { hello: Hello, sender: Option<u32> },
    Report { process: ProcessStats, streams: Vec<StreamStats> },
}

impl Talk {
    fn open(&mut self, files: &UnitFiles, pid: u32) -> Result<(), AskError> {
        if self.connection.is_none() {
            let (connection, by_file) = adopt::open(&files.control(), Some(pid))?;
            let socket = FileId::at(&files.control()).filter(|_| by_file);
            *self = Self { connection: Some(connection), socket, ..Self::default() };
        }
        Ok(())
    }

    fn is_at(&self, path: &Path) -> bool {
        self.socket.is_some() && self.socket == FileId::at(path)
    }

    /// Asks, unless an answer is waited for.
    async fn ask(&mut self, request: &Request) {
        if self.under_way.is_none()
            && let Some(open) = &self.connection
        {
            match tokio::time::timeout(SEND_LIMIT, open.send(request, None)).await {
                Ok(Ok(())) => self.under_way = Some(Answer::default()),
                Ok(Err(_)) | Err(_) => self.connection = None,
            }
        }
    }

    /// Waits for a packet or the end of the connection; for ever where there is none.
    async fn receive(&mut self) -> Result<Packet<Reply>, AskError> {
        match &mut self.connection {
            Some(connection) => connection.receive().await,
            None => std::future::pending().await,
        }
    }

    /// Takes a packet in; gives the answer when it is whole.
    fn take(&mut self, packet: Packet<Reply>, heart: &mut Heartbeat) -> Result<Option<Whole>, AskError> {
        match &packet.message {
            Reply::Process(stats) => heart.handle_beats(stats.beats),
            Reply::Stream(_) | Reply::Done | Reply::Unknown => heart.handle_packet(),
            Reply::Hello(_) | Reply::Error(_) => {}
        }
        let mut answer = self.under_way.take().unwrap_or_default();
        if !answer.add(packet)? {
            self.under_way = Some(answer);
            return Ok(None);
        }
        let sender = answer.sender;
        let (mut process, mut streams) = (None, Vec::new());
        for reply in answer.replies {
            match reply {
                Reply::Hello(hello) => return Ok(Some(Whole::Hello { hello, sender })),
                Reply::Process(stats) => process = Some(stats),
                Reply::Stream(stats) => streams.push(stats),
                Reply::Done | Reply::Error(_) | Reply::Unknown => {}
            }
        }
        Ok(process.map(|process| Whole::Report { process, streams }))
    }
}

/// In 0..1. Jitter needs no more than that it differs.
pub(crate) fn random() -> f64 {
    getrandom::u32().map_or(0.5, |number| f64::from(number) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hello(generation: u32, cause: &str) -> Hello {
        Hello {
            version: VERSION,
            id: UnitId::encoder(),
            role: cluster::Role::Edge,
            token: String::new(),
            pid: 0,
            build: String::new(),
            generation,
            renewed: 0,
            cause: Some(cause.to_owned()),
            forgot: (generation > 2).then(|| "so soon that the next one forgot all".to_owned()),
            lost: 0,
        }
    }

    #[test]
    fn the_end_of_a_worker_is_told_with_what_is_known_beside_the_keepers_words() {
        let mut serving = Serving::of(1);
        let mut cause = |generation, cause| serving.handle_hello(7, &hello(generation, cause))?.cause;
        assert_eq!(
            cause(0, "killed by SIGKILL").unwrap(),
            "killed by SIGKILL",
            "before this supervisor looked"
        );
        assert_eq!(cause(0, "killed by SIGKILL"), None, "the same one");
        let killed = cause(1, "killed by SIGKILL").unwrap();
        assert!(
            killed.starts_with("killed by SIGKILL ") || killed.starts_with("killed by SIGKILL,"),
            "{killed}"
        );
        assert_eq!(cause(2, "exit 101").unwrap(), "exit 101");
        assert!(cause(3, "exit 101").unwrap().starts_with("exit 101; so soon"));
        for (said, told) in [
            ("killed by SIGKILL", "killed by SIGKILL: frozen"),
            (cause::REPLACED, "killed by SIGKILL: frozen"),
            ("exit 70", "exit 70"),
        ] {
            serving.why_replaced = Some("frozen".into());
            let generation = serving.generation.unwrap();
            let hello = Hello { forgot: None, ..hello(generation + 1, said) };
            assert_eq!(serving.handle_hello(7, &hello).unwrap().cause.unwrap(), told);
            assert_eq!(serving.why_replaced, None);
        }
        let hello = Hello { forgot: None, ..hello(9, cause::REPLACED) };
        let told = serving.handle_hello(7, &hello).unwrap().cause.unwrap();
        assert_eq!(told, cause::REPLACED, "somebody else had it done");
    }
}
