//! `srsctl service run`.

use std::fs::DirBuilder;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use cluster::file::ClusterFile;
use control::api::StartupEvent;
use control::fds;
use control::start::{Secret, Start, StartupLine};
use supervisor::{ClusterDirs, Manager, Order, Service};
use tokio::net::UnixListener;
use tokio::signal::unix::{self, SignalKind};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, Interval, interval, sleep_until};

use crate::commands::agent;
use crate::failure::{Failure, code};
use crate::log;
use crate::runtime::block_on;
use crate::subject::{Global, Loaded, Subject};
use crate::talk::{Answer, Ask, Hearing, Talk};

/// Who may have connected and not said yet what for; more are closed.
const GUESTS: usize = 8;
/// Requests that wait to be taken up.
const ASKED: usize = 8;
/// Between two looks at the socket, and two signs of life while nothing is supervised.
const TICK: Duration = Duration::from_secs(1);
/// Between attempts to bring up what was up before: an address may come later than this service. Doubled each time up to
/// [`RETRY_MAX`].
const RETRY_MIN: Duration = Duration::from_secs(1);
/// See [`RETRY_MIN`].
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Takes what systemd has kept, then waits and supervises in turn until SIGTERM.
pub(super) fn run(global: &Global, name: String) -> Result<ExitCode, Failure> {
    let kept = fds::take_stored().map_err(|e| {
        Failure::failed(format!("the descriptors that systemd has kept cannot be taken: {e}"))
    })?;
    log::start();
    block_on(serve(global, name, kept))
}

async fn serve(global: &Global, name: String, kept: Vec<(String, OwnedFd)>) -> Result<ExitCode, Failure> {
    let dirs = global.roots()?.cluster(&name);
    let on = |kind| unix::signal(kind).map_err(|e| Failure::failed(format!("cannot handle signals: {e}")));
    let mut this = Waiting {
        global: global.clone(),
        door: Door::open(&dirs)?,
        dirs,
        manager: Manager::default(),
        kept,
        terminate: on(SignalKind::terminate())?,
        quit: on(SignalKind::quit())?,
        outputs: Outputs::here(),
    };
    // From here on it can be stopped in order, and nothing was started before.
    this.manager.ready();
    this.go_on().await?;
    Ok(ExitCode::SUCCESS)
}

/// The service while it does not supervise.
struct Waiting {
    global: Global,
    dirs: ClusterDirs,
    door: Door,
    manager: Manager,
    /// The listeners that systemd had from a supervisor that was killed, until the next one has them.
    kept: Vec<(String, OwnedFd)>,
    terminate: unix::Signal,
    quit: unix::Signal,
    outputs: Outputs,
}

/// What there is to do.
enum Task {
    /// To supervise, for whoever asked for it.
    Start(Box<(Subject, Loaded)>, Option<(Talk, Option<Secret>)>),
    /// To bring up what was up before, if anything.
    GoOn,
    /// To end.
    End,
}

/// What became of a supervisor.
enum Ended {
    /// It did not come up; why.
    Failed(Failure),
    /// It has ended.
    Done,
    /// It has left its processes to the next one.
    Left,
}

impl Waiting {
    async fn go_on(&mut self) -> Result<(), Failure> {
        let mut retry = RETRY_MIN;
        let mut task = Task::GoOn;
        loop {
            let (start, client) = match task {
                Task::End => return Ok(()),
                Task::Start(start, client) => (Ok(Some(*start)), client),
                Task::GoOn => (self.before().await, None),
            };
            let ended = match start {
                Ok(None) => Ended::Done,
                Ok(Some((subject, loaded))) => self.supervise(&subject, loaded, client).await,
                Err(failure) => Ended::Failed(failure),
            };
            task = match ended {
                Ended::Left => Task::End,
                Ended::Done => {
                    retry = RETRY_MIN;
                    self.wait(None, "waits for srsctl up").await
                }
                // A start that an `up` has asked for and that failed is that one's to repeat; what was up before is not given up.
                Ended::Failed(_) if !self.dirs.is_wanted() => self.wait(None, "waits for srsctl up").await,
                Ended::Failed(failure) => {
                    let mut why = failure.to_string();
                    if failure.number() == code::LOCKED {
                        let name = self.dirs.name();
                        why = format!(
                            "{why}; to have this service run it: srsctl down {name}, then srsctl up with its file"
                        );
                    }
                    tracing::warn!(error = %why, retry = ?retry, "the cluster does not come up");
                    let first = why.lines().next().unwrap_or_default();
                    let said = format!("tries again, since the cluster does not come up: {first}");
                    let until = Instant::now() + retry;
                    retry = (retry * 2).min(RETRY_MAX);
                    self.wait(Some(until), &said).await
                }
            };
        }
    }

    /// What was up when the service ended the last time. Its hosts are looked up beside the loop, which has to give signs of life.
    async fn before(&self) -> Result<Option<(Subject, Loaded)>, Failure> {
        if !self.dirs.is_wanted() {
            return Ok(None);
        }
        let (global, name) = (self.global.clone(), self.dirs.name().to_owned());
        let found = self.beside(tokio::task::spawn_blocking(move || Subject::to_go_on(&global, &name))).await;
        found.unwrap_or_else(|e| Err(Failure::failed(format!("the file in force cannot be read: {e}"))))
    }

    /// Waits for something to do, at most until the time at which what was up before is to be tried again.
    async fn wait(&mut self, until: Option<Instant>, status: &str) -> Task {
        if until.is_none() {
            // Of a cluster that is down no port stays open.
            for (name, _) in self.kept.drain(..) {
                self.manager.give_up_named(&name);
            }
        }
        self.manager.show(status);
        loop {
            let again = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = again => return Task::GoOn,
                _ = self.terminate.recv() => return Task::End,
                _ = self.quit.recv() => return Task::End,
                heard = self.door.next() => match heard {
                    Heard::Nothing => self.manager.live(),
                    Heard::Asked(Ask::Interrupt {}, _) => {}
                    Heard::Asked(Ask::Stop {}, mut client) => {
                        let answer = self.stop_orphans().await;
                        let _ = client.telling.say(&answer).await;
                        if let Answer::Stopped {} = answer {
                            // It is told to end next; until then nothing is to come up.
                            return Box::pin(self.wait(None, "has stopped all")).await;
                        }
                    }
                    Heard::Asked(Ask::Start(Start { path, text, hosts, secret }), mut client) => match self.load(path, text).await {
                        Ok((subject, loaded)) => {
                            let start = (subject, Loaded { hosts, ..loaded });
                            return Task::Start(Box::new(start), Some((client, secret)));
                        }
                        Err(failure) => drop(client.telling.say(&failed(&failure)).await),
                    },
                },
            }
        }
    }

    async fn load(&self, path: PathBuf, text: String) -> Result<(Subject, Loaded), Failure> {
        let global = self.global.clone();
        let load = move || Subject::of_loaded(&global, ClusterFile::new(path, text));
        let loaded = self.beside(tokio::task::spawn_blocking(load)).await;
        let (subject, loaded) =
            loaded.unwrap_or_else(|e| Err(Failure::failed(format!("the file cannot be read: {e}"))))?;
        if subject.name() != self.dirs.name() {
            let (other, own) = (subject.name(), self.dirs.name());
            return Err(Failure::usage(format!(
                "this is the service of cluster {own}, the file is of {other}"
            )));
        }
        Ok((subject, loaded))
    }

    /// Waits for what takes its time, and gives signs of life meanwhile: this loop goes on.
    async fn beside<T>(&self, work: impl Future<Output = T>) -> T {
        let (mut work, mut tick) = (pin!(work), interval(TICK));
        loop {
            tokio::select! {
                done = &mut work => return done,
                _ = tick.tick() => self.manager.live(),
            }
        }
    }

    async fn stop_orphans(&self) -> Answer {
        let stop = supervisor::orphans::stop_all(&self.dirs, |line| tracing::info!("{line}"));
        match self.beside(stop).await {
            Ok(stopped) => match stopped.left.first() {
                None => Answer::Stopped {},
                Some((id, why, _)) => Answer::NotStopped(format!("{id}: left alone: {why}")),
            },
            Err(error) => Answer::NotStopped(error.to_string()),
        }
    }

    /// Is the supervisor.
    async fn supervise(
        &mut self,
        subject: &Subject,
        loaded: Loaded,
        client: Option<(Talk, Option<Secret>)>,
    ) -> Ended {
        let Self { door, manager, kept, .. } = self;
        let (orders, receiver) = mpsc::channel(1);
        let duplicates: io::Result<Vec<_>> =
            kept.iter().map(|(name, fd)| Ok((name.clone(), fd.try_clone()?))).collect();
        let service =
            Service { manager: manager.clone(), kept: duplicates.unwrap_or_default(), orders: receiver };
        let (client, secret) = client.map_or((None, None), |(client, secret)| (Some(client), secret));
        let config = match agent::config(subject, loaded, secret, true) {
            Ok(config) => supervisor::AgentConfig { service: Some(service), ..config },
            Err(failure) => return Ended::Failed(failure),
        };
        let (mut telling, hearing) = match client {
            Some(Talk { hearing, telling }) => (Some(telling), Some(hearing)),
            None => (None, None),
        };
        let mut stoppers = Vec::new();
        let ended = {
            let run = supervisor::run(config, |event| {
                // The supervisor has them now.
                kept.clear();
                let is_complete = matches!(event, StartupEvent::Complete { .. });
                let line = StartupLine::Startup(event);
                // An `up` that was killed does not stop the cluster.
                telling = telling.take().filter(|client| client.try_say(&line) && !is_complete);
            });
            let (mut run, mut interrupted) = (pin!(run), pin!(interrupted(hearing)));
            let mut is_interrupted = false;
            loop {
                tokio::select! {
                    ended = &mut run => break ended,
                    () = &mut interrupted, if !is_interrupted => {
                        is_interrupted = true;
                        let _ = orders.try_send(Order::Stop);
                    }
                    heard = door.next() => match heard {
                        Heard::Nothing | Heard::Asked(Ask::Interrupt {}, _) => {}
                        Heard::Asked(Ask::Stop {}, client) => {
                            let _ = orders.try_send(Order::Stop);
                            stoppers.push(client);
                        }
                        Heard::Asked(Ask::Start(_), mut client) => {
                            let why = format!("a supervisor of cluster {} runs already", subject.name());
                            let _ = client.telling.say(&failed(&Failure::new(code::LOCKED, why))).await;
                        }
                    },
                }
            }
        };
        self.outputs.restore();
        if let (Err(error), Some(telling)) = (&ended, &mut telling) {
            let _ = telling.say(&failed(&agent::failure(error))).await;
        }
        if !stoppers.is_empty() {
            // A start that is broken off leaves what it has taken over.
            let answer = self.stop_orphans().await;
            for mut client in stoppers {
                let _ = client.telling.say(&answer).await;
            }
            return Ended::Done;
        }
        let is_left = tokio::select! {
            biased;
            _ = self.terminate.recv() => true,
            _ = self.quit.recv() => true,
            () = std::future::ready(()) => false,
        };
        match ended {
            _ if is_left => Ended::Left,
            Ok(()) => Ended::Done,
            Err(error) => Ended::Failed(agent::failure(&error)),
        }
    }
}

/// Comes back when who has asked for a start has it broken off.
async fn interrupted(client: Option<Hearing>) {
    if let Some(mut client) = client
        && matches!(client.next().await, Ok(Some(Ask::Interrupt {})))
    {
        return;
    }
    std::future::pending().await
}

fn failed(failure: &Failure) -> StartupLine {
    StartupLine::Failed { message: failure.to_string(), code: failure.number() }
}

/// What has come in.
enum Heard {
    /// Nothing for a while.
    Nothing,
    /// Somebody asks.
    Asked(Ask, Talk),
}

/// The socket of the service, put back where somebody removes it, and who has come in by it.
struct Door {
    path: PathBuf,
    listener: UnixListener,
    /// Device and inode of its file.
    file: Option<(u64, u64)>,
    guests: JoinSet<()>,
    sender: mpsc::Sender<(Ask, Talk)>,
    asked: mpsc::Receiver<(Ask, Talk)>,
    tick: Interval,
}

impl Door {
    fn open(dirs: &ClusterDirs) -> Result<Self, Failure> {
        let path = dirs.service_socket();
        let fail = |e: io::Error| Failure::failed(format!("cannot listen on {}: {e}", path.display()));
        if let Some(directory) = path.parent() {
            // Under systemd it is there.
            DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(fail)?;
        }
        let listener = listen(&path).map_err(fail)?;
        let (sender, asked) = mpsc::channel(ASKED);
        Ok(Self {
            listener,
            file: file_at(&path),
            path,
            guests: JoinSet::new(),
            sender,
            asked,
            tick: interval(TICK),
        })
    }

    async fn next(&mut self) -> Heard {
        loop {
            tokio::select! {
                Some((ask, talk)) = self.asked.recv() => return Heard::Asked(ask, talk),
                Some(_) = self.guests.join_next() => {}
                accepted = self.listener.accept(), if self.guests.len() < GUESTS => {
                    // No descriptor is left; the next tick comes before the next attempt.
                    let Ok((stream, _)) = accepted else {
                        self.tick.tick().await;
                        return Heard::Nothing;
                    };
                    self.take_in(Talk::new(stream));
                }
                _ = self.tick.tick() => {
                    self.tend();
                    return Heard::Nothing;
                }
            }
        }
    }

    /// Hears what somebody has come for: this user, or root.
    fn take_in(&mut self, mut talk: Talk) {
        let own = rustix::process::geteuid().as_raw();
        if talk.telling.user().is_none_or(|user| user != own && user != 0) {
            return;
        }
        let asked = self.sender.clone();
        self.guests.spawn(async move {
            match talk.hearing.first().await {
                Ok(Some(ask)) => drop(asked.send((ask, talk)).await),
                Ok(None) => {}
                Err(error) => tracing::info!(%error, "somebody came in and was not understood"),
            }
        });
    }

    fn tend(&mut self) {
        if self.file.is_some() && self.file == file_at(&self.path) {
            return;
        }
        match listen(&self.path) {
            Ok(listener) => {
                tracing::warn!("the socket of the service was removed; it is put back");
                (self.listener, self.file) = (listener, file_at(&self.path));
            }
            Err(error) => {
                tracing::debug!(%error, "the socket of the service was removed and cannot be put back")
            }
        }
    }
}

fn listen(path: &Path) -> io::Result<UnixListener> {
    control::unix::listen_stream(path, 0o600).and_then(UnixListener::from_std)
}

fn file_at(path: &Path) -> Option<(u64, u64)> {
    let metadata = std::fs::symlink_metadata(path).ok()?;
    Some((metadata.dev(), metadata.ino()))
}

/// Where this process writes to, which a supervisor changes to its log.
struct Outputs(io::Result<(OwnedFd, OwnedFd)>);

impl Outputs {
    fn here() -> Self {
        let duplicate = |fd: BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 3);
        let both = duplicate(rustix::stdio::stdout())
            .and_then(|stdout| Ok((stdout, duplicate(rustix::stdio::stderr())?)));
        Self(both.map_err(io::Error::from))
    }

    fn restore(&self) {
        if let Ok((stdout, stderr)) = &self.0 {
            let _ = rustix::stdio::dup2_stdout(stdout);
            let _ = rustix::stdio::dup2_stderr(stderr);
        }
    }
}
