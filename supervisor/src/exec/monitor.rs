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
use control::{Answer, AskError, Connection, Reply, Request, VERSION};
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
use crate::machine::exit::Exit;
use crate::machine::health::{Ladder, judge_name};
use crate::machine::heartbeat::Heartbeat;
use crate::machine::state::Event;
use crate::reconcile::kernel::{Input, Instance, Report, What};

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
            let exit = ends.end().await;
            if let (Exit::Code(1..), (log, from)) = (exit, &ends.log)
                && let Some(words) = last_words(log, *from)
            {
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

    async fn end(&self) -> Exit {
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
            Exit::Signal(9) | Exit::Unobserved => match (kills.is_one(pid), exit) {
                (Some(true), _) => Exit::OutOfMemory,
                (Some(false), Exit::Signal(_)) => Exit::Killed,
                (_, exit) => exit,
            },
            other => other,
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
        let (mut last, mut cpu) = (Instant::now(), self.cpu());
        let (mut talk, mut loss) = (Talk::default(), Loss::default());
        loop {
            tokio::select! {
                // What came in time counts, however late this task gets to see it.
                biased;
                packet = talk.receive() => match packet.and_then(|packet| talk.take(packet, &mut heart)) {
                    Ok(None) => {}
                    Ok(Some(Whole::Hello { id, sender })) => {
                        let pid = self.process.identity().pid;
                        if id == self.unit && sender == Some(pid) {
                            heart.handle_hello();
                            greeted.take().map(|greeted| greeted.send(()));
                            talk.ask(&Request::Stats).await;
                        } else {
                            talk = Talk::default();
                            let who = sender.map_or_else(|| "another process".to_owned(), |it| format!("pid {it}"));
                            self.not_ready(&mut told, format!("{who} answers for it as {id}")).await;
                        }
                    }
                    Ok(Some(Whole::Report { process, streams })) => {
                        self.tell(What::Report(Report { at: Instant::now(), process, streams })).await;
                    }
                    Err(error) => {
                        tracing::warn!(unit = %self.unit, %error, "no report");
                        talk = Talk::default();
                    }
                },
                _ = tick.tick() => {
                    let (elapsed, now) = (last.elapsed(), self.cpu());
                    last = Instant::now();
                    if let Some(why) = heart.handle_sample(elapsed, procfs::own_time(cpu, now, elapsed))
                    {
                        self.tell(What::Event(Event::Frozen { why })).await;
                    }
                    cpu = now;
                    if let Err(error) = talk.open(&self.files, self.process.identity().pid) {
                        if error.is_missing() {
                            heart.handle_missing();
                        }
                        self.not_ready(&mut told, error.to_string()).await;
                    }
                    if heart.is_greeted() {
                        self.put_back(&mut talk, &mut loss).await;
                    }
                    let hello = Request::Hello { version: VERSION };
                    talk.ask(if heart.is_greeted() { &Request::Stats } else { &hello }).await;
                }
                () = self.refresh.notified(), if heart.is_greeted() => talk.ask(&Request::Stats).await,
            }
        }
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

    fn cpu(&self) -> Option<Cpu> {
        Cpu::of(self.process.identity().pid)
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

/// The talk with a process.
#[derive(Default)]
struct Talk {
    connection: Option<Connection>,
    /// The file by which it was opened.
    socket: Option<FileId>,
    /// What has come of the answer that is waited for.
    under_way: Option<Answer>,
}

/// A whole answer.
enum Whole {
    Hello { id: UnitId, sender: Option<u32> },
    Report { process: ProcessStats, streams: Vec<StreamStats> },
}

impl Talk {
    fn open(&mut self, files: &UnitFiles, pid: u32) -> Result<(), AskError> {
        if self.connection.is_none() {
            let (connection, by_file) = adopt::open(&files.control(), Some(pid))?;
            let socket = FileId::at(&files.control()).filter(|_| by_file);
            *self = Self { connection: Some(connection), socket, under_way: None };
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

    /// Waits for a packet; for ever where none is to come.
    async fn receive(&mut self) -> Result<Packet<Reply>, AskError> {
        match (&mut self.connection, &self.under_way) {
            (Some(connection), Some(_)) => connection.receive().await,
            (None, _) | (_, None) => std::future::pending().await,
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
                Reply::Hello(hello) => return Ok(Some(Whole::Hello { id: hello.id, sender })),
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
