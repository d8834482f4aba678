//! The process's end: what every supervised process does alike. It says who it is, reports, opens its log anew, lends its
//! listener back, and ends when it is asked to or by SIGTERM.

use std::fmt;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cluster::file::FileError;
use cluster::stats::{ProcessStats, StreamStats};
use cluster::{Role, UnitId, WorkerSpec};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinSet, LocalSet};
use tracing::{info, warn};

use crate::error::{Code, Error};
use crate::fds::{FdsError, Lock};
use crate::message::{Hello, Reply, Request, VERSION};
use crate::packet::{Listener, Packet, PacketError, Socket};

/// Control connections at once: the supervisor's, one that takes over from it, and some to look.
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

/// Why a supervised process could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No supervisor started it: starting again will not help.
    #[error("this command is started by the supervisor; use: srsctl up ({0})")]
    NotSupervised(#[from] FdsError),
    /// The generated config cannot be used: starting again will not help.
    #[error("{0}")]
    Config(String),
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
            Self::Stuck(_) => EX_SOFTWARE,
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

    /// Its RTMP listener, if it has one.
    fn listener(&self) -> Option<BorrowedFd<'_>> {
        None
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
    pub lock: Lock,
}

/// Runs `work` to its end on a runtime of one thread, in a [`LocalSet`].
///
/// # Errors
/// When there is no runtime, and those of `work`.
pub fn block_on(work: impl Future<Output = Result<(), RunError>>) -> Result<(), RunError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(RunError::system("starting the runtime"))?;
    let outcome = LocalSet::new().block_on(&runtime, work);
    // Without waiting for threads that still look names up.
    runtime.shutdown_background();
    outcome
}

/// Answers on the control socket until a request or SIGTERM ends the process. Needs a [`LocalSet`].
///
/// # Errors
/// When the system does not let it wait for connections or signals.
pub async fn serve(seat: Seat, service: Rc<dyn Service>) -> Result<(), RunError> {
    let Seat { id, role, control, lock } = seat;
    let mut terminate = signal(SignalKind::terminate()).map_err(RunError::system("waiting for signals"))?;
    let hello = Hello {
        version: VERSION,
        id,
        role,
        token: lock.token().to_owned(),
        pid: std::process::id(),
        build: env!("CARGO_PKG_VERSION").to_owned(),
    };
    let server = Rc::new(Server { hello, service, stop: Notify::new() });
    tokio::select! {
        served = Rc::clone(&server).accept(control) => served.map_err(RunError::system("control socket")),
        () = server.stop.notified() => Ok(()),
        _ = terminate.recv() => {
            warn!("SIGTERM");
            Ok(())
        }
    }
}

struct Server {
    hello: Hello,
    service: Rc<dyn Service>,
    stop: Notify,
}

impl Server {
    async fn accept(self: Rc<Self>, listener: Listener) -> io::Result<()> {
        let incoming = listener.watch()?;
        let slots = Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
            match incoming.accept().await {
                Ok(socket) => {
                    let this = Rc::clone(&self);
                    tasks.spawn_local(async move {
                        if let Err(error) = this.converse(socket).await {
                            warn!(%error, "control connection failed");
                        }
                        drop(slot);
                    });
                }
                Err(error) => {
                    warn!(%error, "control socket");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn converse(&self, mut socket: Socket) -> Result<(), PacketError> {
        // The socket is 0600 in a 0700 directory; this holds even if someone loosens that.
        if !socket.is_trusted()? {
            return Err(io::Error::from(io::ErrorKind::PermissionDenied).into());
        }
        loop {
            match socket.receive().await {
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
            Request::ReopenLog => reopen_log(packet.fds.last()),
            Request::Listener => match self.service.listener() {
                Some(listener) => return socket.send(&Reply::Done, &[listener]).await,
                None => Err(Error::new(Code::Unsupported, "this process has no listener")),
            },
            Request::Stop => {
                info!("asked to stop");
                let sent = socket.send(&Reply::Done, &[]).await;
                self.stop.notify_one();
                return sent;
            }
            Request::Unknown => Err(Error::new(Code::Unsupported, "this process is older than the request")),
        };
        socket.send(&done.map_or_else(Reply::Error, |()| Reply::Done), &[]).await
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
