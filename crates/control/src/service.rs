//! The process's end: what every supervised process does alike. It says who it is, reports, opens its log again (also by SIGHUP
//! and SIGUSR1), lends its listener back, and ends when it is asked to or by SIGTERM.

#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cluster::file::FileError;
use cluster::stats::{ProcessStats, StreamStats};
use cluster::{Role, UnitId, WorkerSpec};
use rustix::fs::FileType;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinSet};
use tracing::{info, warn};

use crate::error::{Code, Error};
use crate::fds::{FdsError, Lock, Name, locked};
use crate::message::{Hello, Reply, Request, VERSION};
use crate::packet::{Incoming, Listener, Packet, PacketError, Socket};

/// Control connections at once: the supervisor's, one that takes over from it, and some to look. One more takes the place of
/// the one that has asked nothing for longest, so that whoever asks gets in.
const CONNECTIONS: usize = 8;
/// Wait after an accept that failed for want of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Exit code of a process that no supervisor started; this and the others are sysexits.h's.
pub const EX_USAGE: u8 = 64;
/// Exit code of a process that cannot use its config.
pub const EX_CONFIG: u8 = 78;
/// Exit code of a process that met a bug of its own.
pub const EX_SOFTWARE: u8 = 70;
/// Exit code of a process that the system refused something.
pub const EX_OSERR: u8 = 71;
/// Exit code of a worker that makes place for another (EX_TEMPFAIL).
pub const EX_RENEW: u8 = 75;

/// Why an asked process has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It is to serve no longer.
    Stop,
    /// Another goes on in its place.
    Renew,
}

/// Why a supervised process could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No supervisor started it: starting again will not help.
    #[error("this command is started by the supervisor; use: srsctl up ({0})")]
    NotSupervised(#[from] FdsError),
    /// The generated config cannot be used: starting again will not help.
    #[error("{0}")]
    Config(String),
    /// Whoever serves dies again and again.
    #[error("the workers of this port die again and again, the last one so: {0}")]
    Dies(String),
    /// A part of the data plane has ended; a bug.
    #[error("a part of the data plane ended: {0}")]
    Stuck(String),
    /// The system refused something.
    #[error("{what}: {source}")]
    System {
        /// What was attempted.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl RunError {
    /// Of an attempt of `what`.
    pub fn system(what: &'static str) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::System { what, source }
    }

    /// The process's exit code.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotSupervised(_) => EX_USAGE,
            Self::Config(_) => EX_CONFIG,
            Self::System { .. } => EX_OSERR,
            Self::Dies(_) | Self::Stuck(_) => EX_SOFTWARE,
        }
    }
}

impl From<FileError> for RunError {
    fn from(error: FileError) -> Self {
        match error {
            FileError::System(_) => {
                Self::System { what: "reading the config", source: io::Error::other(error) }
            }
            FileError::Unreadable(_) | FileError::Invalid(_) => Self::Config(error.to_string()),
        }
    }
}

/// What is particular to one kind of process.
pub trait Service {
    /// The process as a whole. `beats` must stand still when the work does, even though this is called.
    fn process_stats(&self) -> ProcessStats;

    /// Its streams.
    fn stream_stats(&self) -> Vec<StreamStats> {
        Vec::new()
    }

    /// Takes a new spec while it runs.
    ///
    /// # Errors
    /// [`Code::NeedsRestart`] when it cannot; then nothing has changed.
    fn configure(&self, _spec: WorkerSpec) -> Result<(), Error> {
        Err(Error::new(Code::NeedsRestart, "this process is configured by a restart"))
    }

    /// Another process is to go on in its place, of `program` and with `config`; what must outlive this one is kept.
    ///
    /// # Errors
    /// When no other can; then nothing has changed.
    fn renew(&self, _program: BorrowedFd<'_>, _config: BorrowedFd<'_>) -> Result<(), Error> {
        Err(Error::new(Code::Unsupported, "nothing of this process outlives it"))
    }

    /// From now on `file` has the secret between origin and edges, for this process and whoever serves after it. Connections stay.
    ///
    /// # Errors
    /// When it cannot be used or kept; then nothing has changed.
    fn take_secret(&self, _file: BorrowedFd<'_>) -> Result<(), Error> {
        Err(Error::new(Code::Unsupported, "this process has no secret"))
    }

    /// Its RTMP listener, if it has one.
    fn listener(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    /// This has taken the place of what was lent under `name`: whoever serves after this process needs it.
    ///
    /// # Errors
    /// When it cannot be kept.
    fn keep(&self, _name: Name, _fd: BorrowedFd<'_>) -> io::Result<()> {
        Ok(())
    }
}

/// Who a supervised process is, and how it is reached.
#[derive(Debug)]
pub struct Seat {
    /// Its unit.
    pub id: UnitId,
    /// Its role.
    pub role: Role,
    /// See [`Inherited`](crate::fds::Inherited).
    pub control: Listener,
    /// See [`Inherited`](crate::fds::Inherited).
    pub socket: Option<OwnedFd>,
    /// See [`Inherited`](crate::fds::Inherited).
    pub lock: Lock,
    /// See [`Hello::generation`].
    pub generation: u32,
    /// See [`Hello::renewed`].
    pub renewed: u32,
    /// See [`Hello::cause`].
    pub cause: Option<String>,
    /// See [`Hello::forgot`].
    pub forgot: Option<String>,
    /// See [`Hello::lost`].
    pub lost: u32,
}

/// Runs `work` to its end on a runtime of one thread, which takes tasks that cannot leave it.
///
/// # Errors
/// When there is no runtime, and those of `work`.
pub fn block_on(work: impl Future<Output = Result<(), RunError>>) -> Result<(), RunError> {
    // No `LocalSet`: it wakes `work`, which watches a lot, whenever any task is to run.
    let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default());
    let runtime = runtime.map_err(RunError::system("starting the runtime"))?;
    let outcome = runtime.block_on(work);
    // Without waiting for threads that still look names up.
    runtime.shutdown_background();
    outcome
}

/// Answers on the control socket until a request or SIGTERM ends the process. Needs a runtime that takes local tasks.
///
/// # Errors
/// When the system does not let it wait for connections or signals.
pub async fn serve(seat: Seat, service: Rc<dyn Service>) -> Result<Asked, RunError> {
    let Seat { id, role, control, socket, lock, generation, renewed, cause, forgot, lost } = seat;
    let listen = |kind| signal(kind).map_err(RunError::system("waiting for signals"));
    let mut terminate = listen(SignalKind::terminate())?;
    let (mut hangup, mut user) = (listen(SignalKind::hangup())?, listen(SignalKind::user_defined1())?);
    let hello = Hello {
        version: VERSION,
        id,
        role,
        token: lock.token().to_owned(),
        pid: std::process::id(),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        generation,
        renewed,
        cause,
        forgot,
        lost,
    };
    let log = RefCell::new(log_path());
    let held = RefCell::new((lock, socket));
    let server = Rc::new(Server {
        hello,
        service,
        log,
        held,
        next: Cell::new(None),
        replaced: Notify::new(),
        asked: Cell::new(Asked::Stop),
        end: Notify::new(),
    });
    let mut accept = pin!(Rc::clone(&server).accept(control));
    loop {
        tokio::select! {
            served = &mut accept => return served.map(|()| Asked::Stop).map_err(RunError::system("control socket")),
            () = server.end.notified() => return Ok(server.asked.get()),
            _ = terminate.recv() => {
                warn!("SIGTERM");
                return Ok(Asked::Stop);
            }
            _ = hangup.recv() => server.reopen_own_log(),
            _ = user.recv() => server.reopen_own_log(),
        }
    }
}

/// A control connection.
struct Talk {
    /// When its client last asked something, or came.
    asked: Rc<Cell<Instant>>,
    task: AbortHandle,
}

struct Server {
    hello: Hello,
    service: Rc<dyn Service>,
    /// The log as it was named when it was given to this process; none where it is no file.
    log: RefCell<Option<PathBuf>>,
    /// What others know this process by, as long as it lives.
    held: RefCell<(Lock, Option<OwnedFd>)>,
    /// The control socket that is to be answered on instead.
    next: Cell<Option<Incoming>>,
    replaced: Notify,
    /// What [`Server::end`] is for.
    asked: Cell<Asked>,
    end: Notify,
}

/// The file that standard error goes to.
fn log_path() -> Option<PathBuf> {
    let is_file = rustix::fs::fstat(rustix::stdio::stderr())
        .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile);
    let link = std::fs::read_link("/proc/self/fd/2").ok().filter(|_| is_file)?;
    // One that was removed is made again.
    Some(
        link.to_str()
            .and_then(|text| text.strip_suffix(" (deleted)"))
            .map_or_else(|| link.clone(), PathBuf::from),
    )
}

impl Server {
    async fn accept(self: Rc<Self>, listener: Listener) -> io::Result<()> {
        let mut incoming = listener.watch()?;
        let mut tasks = JoinSet::new();
        let mut talks: Vec<Talk> = Vec::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = incoming.accept() => accepted,
                () = self.replaced.notified() => {
                    incoming = self.next.take().unwrap_or(incoming);
                    continue;
                }
            };
            match accepted {
                Ok(socket) => {
                    talks.retain(|talk| !talk.task.is_finished());
                    if talks.len() >= CONNECTIONS
                        && let Some(idle) = talks.iter().enumerate().min_by_key(|(_, talk)| talk.asked.get())
                    {
                        talks.remove(idle.0).task.abort();
                    }
                    let (this, asked) = (Rc::clone(&self), Rc::new(Cell::new(Instant::now())));
                    let talk = Rc::clone(&asked);
                    let task = tasks.spawn_local(async move {
                        if let Err(error) = this.converse(socket, &talk).await {
                            warn!(%error, "control connection failed");
                        }
                    });
                    talks.push(Talk { asked, task });
                }
                Err(error) => {
                    warn!(%error, "control socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn converse(&self, mut socket: Socket, asked: &Cell<Instant>) -> Result<(), PacketError> {
        // The socket is 0600 in a 0700 directory; this holds even if someone loosens that.
        if !socket.is_trusted()? {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
        }
        loop {
            let received = socket.receive().await;
            asked.set(Instant::now());
            match received {
                Ok(Some(packet)) => self.answer(&socket, packet).await?,
                Ok(None) => return Ok(()),
                Err(PacketError::Io(error)) => return Err(error.into()),
                Err(error @ PacketError::TooLong) => refuse(&socket, Code::TooLong, error).await?,
                Err(error @ PacketError::Malformed(_)) => refuse(&socket, Code::Malformed, error).await?,
            }
        }
    }

    async fn answer(&self, socket: &Socket, packet: Packet<Request>) -> Result<(), PacketError> {
        let done = match packet.message {
            Request::Hello { .. } => return socket.send(&Reply::Hello(self.hello.clone()), &[]).await,
            Request::Stats => match self.report(socket).await {
                Ok(()) => Ok(()),
                Err(error @ PacketError::TooLong) => Err(Error::new(Code::TooLong, error)),
                Err(error) => return Err(error),
            },
            Request::Configure { spec } => self.service.configure(*spec),
            Request::ReopenLog => reopen_log(packet.fds.last()).inspect(|()| {
                self.log.replace(log_path());
            }),
            Request::Listener => match self.service.listener() {
                Some(listener) => return socket.send(&Reply::Done, &[listener]).await,
                None => Err(Error::new(Code::Unsupported, "this process has no listener")),
            },
            Request::Secret => match packet.fds.as_slice() {
                [file] => self.service.take_secret(file.as_fd()),
                _ => Err(Error::new(Code::Malformed, "not one descriptor came with the request")),
            },
            Request::Replace => self.replace(packet.fds),
            Request::Renew => match self.renew(&packet.fds) {
                Ok(()) => return self.end(socket, Asked::Renew).await,
                Err(error) => Err(error),
            },
            Request::Stop => {
                info!("asked to stop");
                return self.end(socket, Asked::Stop).await;
            }
            Request::Unknown => Err(Error::new(Code::Unsupported, "this process is older than the request")),
        };
        socket.send(&done.map_or_else(Reply::Error, |()| Reply::Done), &[]).await
    }

    /// Says that it will, and ends.
    async fn end(&self, socket: &Socket, asked: Asked) -> Result<(), PacketError> {
        let sent = socket.send(&Reply::Done, &[]).await;
        self.asked.set(asked);
        self.end.notify_one();
        sent
    }

    fn renew(&self, fds: &[OwnedFd]) -> Result<(), Error> {
        let [program, config] = fds else {
            return Err(Error::new(Code::Malformed, "not two descriptors came with the request"));
        };
        self.service.renew(program.as_fd(), config.as_fd())
    }

    fn replace(&self, fds: Vec<OwnedFd>) -> Result<(), Error> {
        let malformed = |why: &str| Error::new(Code::Malformed, why);
        let [control, socket, lock] = <[OwnedFd; 3]>::try_from(fds)
            .map_err(|_| malformed("not three descriptors came with the request"))?;
        let control =
            Listener::from_inherited(control).map_err(|_| malformed("the first is no control socket"))?;
        let lock = locked(lock).map_err(malformed)?;
        if lock.token() != self.hello.token {
            return Err(malformed("the lock has another token"));
        }
        let lent =
            [(Name::Control, control.as_fd()), (Name::Socket, socket.as_fd()), (Name::Lock, lock.as_fd())];
        for (name, fd) in lent {
            self.service.keep(name, fd).map_err(|error| Error::new(Code::Failed, error))?;
        }
        self.next.set(Some(control.watch().map_err(|error| Error::new(Code::Failed, error))?));
        self.held.replace((lock, Some(socket)));
        self.replaced.notify_one();
        info!("control socket and lock replaced");
        Ok(())
    }

    /// Opens the log anew under the name that it had, for whoever moved it.
    fn reopen_own_log(&self) {
        let Some(path) = self.log.borrow().clone() else { return };
        let opened = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
        match opened
            .map_err(|error| Error::new(Code::Failed, error))
            .and_then(|log| reopen_log(Some(&log.into())))
        {
            Ok(()) => {}
            Err(error) => warn!(path = %path.display(), %error, "log not reopened"),
        }
    }

    async fn report(&self, socket: &Socket) -> Result<(), PacketError> {
        socket.send(&Reply::Process(self.service.process_stats()), &[]).await?;
        for stream in self.service.stream_stats() {
            match socket.send(&Reply::Stream(stream.clone()), &[]).await {
                Err(PacketError::TooLong) => {
                    socket.send(&Reply::Stream(without_errors(stream)), &[]).await?;
                }
                sent => sent?,
            }
        }
        Ok(())
    }
}

/// The errors of forwards are what can make a report too long.
fn without_errors(mut stream: StreamStats) -> StreamStats {
    stream.forwards.iter_mut().for_each(|forward| forward.last_error = None);
    stream
}

async fn refuse(socket: &Socket, code: Code, why: impl fmt::Display) -> Result<(), PacketError> {
    socket.send(&Reply::Error(Error::new(code, why)), &[]).await
}

fn reopen_log(log: Option<&OwnedFd>) -> Result<(), Error> {
    let log = log.ok_or_else(|| Error::new(Code::Malformed, "no descriptor came with the request"))?;
    rustix::stdio::dup2_stdout(log)
        .and_then(|()| rustix::stdio::dup2_stderr(log))
        .map_err(|error| Error::new(Code::Failed, format!("cannot write to the new log: {error}")))?;
    info!("log reopened");
    Ok(())
}
