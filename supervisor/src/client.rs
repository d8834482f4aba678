//! Client of the control API, for the command line.

use std::fmt;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use cluster::events::Events;
use cluster::plan::HostPart;
use cluster::status::Status;
use control::Error;
use control::api::{self, Apply, Line, Restart, Upgrade, Upgraded};
use control::start::Secret;
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::LINE_LIMIT;
use crate::exec::process::Process;
use crate::host::dirs::ClusterDirs;

/// For so long a supervisor may take to end after it said that all is done.
const END_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks at whether one that is a service has ended what it did.
const END_POLL: Duration = Duration::from_millis(20);

/// For so long a supervisor may take to take a request up.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// The same of a plan, for which names of hosts are looked up.
const PLAN_LIMIT: Duration = Duration::from_secs(30);

/// The same of one on another machine.
const REMOTE_ANSWER_LIMIT: Duration = Duration::from_secs(20);

/// For so long one that has the lock may have no socket yet, or no more: it looks for survivors, or ends.
const SOCKET_LIMIT: Duration = Duration::from_secs(5);
/// Between two looks for its socket.
const SOCKET_RETRY: Duration = Duration::from_millis(50);

/// Why a supervisor did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// There is none.
    #[error("cluster {cluster} is not supervised: no supervisor runs; start it with: srsctl up")]
    NotRunning {
        /// The cluster's name.
        cluster: String,
    },
    /// Its socket cannot be used.
    #[error("cannot reach the supervisor of cluster {cluster}: {source}")]
    Unreachable {
        /// The cluster's name.
        cluster: String,
        /// What the system said.
        source: io::Error,
    },
    /// It does not take requests up.
    #[error(
        "the supervisor of cluster {cluster}{} does not answer; streams go on. See why: ps -o pid,stat,cmd -p {1}; end it with kill -9 {1}, then srsctl up takes its workers over",
        pid_text(.pid.as_ref()), pid_word(.pid.as_ref())
    )]
    Silent {
        /// The cluster's name.
        cluster: String,
        /// Its process.
        pid: Option<u32>,
    },
    /// It has the lock and no socket.
    #[error(
        "another srsctl{} is starting or stopping cluster {cluster}; try again. Should that never end: kill -9 {}, then srsctl up takes the workers over",
        pid_text(.pid.as_ref()), pid_word(.pid.as_ref())
    )]
    NoSocket {
        /// The cluster's name.
        cluster: String,
        /// Its process.
        pid: Option<u32>,
    },
    /// It does not know what it was asked.
    #[error("the supervisor of cluster {cluster} is older than this srsctl and does not know that: {}", take_over(.pid.as_ref()))]
    Older {
        /// The cluster's name.
        cluster: String,
        /// Its process.
        pid: Option<u32>,
    },
    /// It went away, or answered what cannot be understood.
    #[error("the supervisor of cluster {cluster} broke off: {what}; its log: {log}")]
    Broken {
        /// The cluster's name.
        cluster: String,
        /// How.
        what: String,
        /// The path of the supervisor's log.
        log: String,
    },
    /// It is on another machine, to which there is no way now.
    #[error("{0}")]
    Lost(String),
    /// It did not do it, or not all of it.
    #[error(transparent)]
    Refused(Error),
    /// It did it, and does not end itself.
    #[error("all is stopped, but the supervisor, pid {pid}, does not end")]
    StaysOn {
        /// Its process.
        pid: u32,
    },
}

/// Whether a supervisor that hung up has ended; one of which no process was found has.
async fn has_ended(supervisor: Option<Process>) -> bool {
    match supervisor {
        Some(supervisor) => tokio::time::timeout(END_LIMIT, supervisor.wait()).await.is_ok(),
        None => true,
    }
}

/// How a supervisor is replaced by one of this program, for a person; `pid` is its process.
#[must_use]
pub fn take_over(pid: Option<&u32>) -> String {
    format!(
        "kill -QUIT {}, which leaves the ports running, and then srsctl up, has this one take over",
        pid_word(pid)
    )
}

fn pid_text(pid: Option<&u32>) -> String {
    pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
}

fn pid_word(pid: Option<&u32>) -> String {
    pid.map_or_else(|| "PID".to_owned(), ToString::to_string)
}

/// A connection to a supervisor.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that is being made; or why there is none.
pub type Dialling<'a> = Pin<Box<dyn Future<Output = Result<Box<dyn Stream>, String>> + Send + 'a>>;

/// A way to a supervisor other than its socket on this machine.
pub trait Dial: fmt::Debug + Send + Sync {
    /// Connects; says why not.
    fn dial(&self) -> Dialling<'_>;
}

/// A client of one cluster's supervisor. One connection a call.
#[derive(Clone, Debug)]
pub struct Client {
    dirs: ClusterDirs,
    way: Option<Arc<dyn Dial>>,
}

impl Client {
    /// Of the supervisor that runs in `dirs`; nothing is connected yet.
    #[must_use]
    pub fn new(dirs: ClusterDirs) -> Self {
        Self { dirs, way: None }
    }

    /// Of the supervisor of the cluster of `dirs` at the other end of `way`.
    #[must_use]
    pub fn over(dirs: ClusterDirs, way: Arc<dyn Dial>) -> Self {
        Self { dirs, way: Some(way) }
    }

    /// Sends a request as it is, and gives the answer as it comes.
    pub(crate) async fn pass(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, ClientError> {
        self.send(method, path, body).await.map(|(response, _)| response)
    }

    /// The whole cluster as it is now.
    ///
    /// # Errors
    /// When the supervisor does not run or breaks off.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.document(Method::GET, api::STATUS, Bytes::new()).await
    }

    /// What happened behind event number `after`, as far as it is kept.
    ///
    /// # Errors
    /// When the supervisor does not run, breaks off, or is older than events.
    pub async fn events(&self, after: u64) -> Result<Events, ClientError> {
        self.document(Method::GET, &format!("{}?after={after}", api::EVENTS), Bytes::new()).await
    }

    async fn document<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T, ClientError> {
        let response = self.send(method, path, body).await?.0;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(self.older());
        }
        let is_refused = !response.status().is_success();
        let body = response.into_body().collect().await.map_err(|error| self.broken(error))?.to_bytes();
        match serde_json::from_slice(&body) {
            Ok(Line::Error(error)) if is_refused => Err(ClientError::Refused(error)),
            Ok(_) | Err(_) => serde_json::from_slice(&body).map_err(|error| self.broken(error)),
        }
    }

    /// What bringing a changed cluster file into force would do.
    ///
    /// # Errors
    /// When the file is wrong, or the supervisor does not run, breaks off, or is older than plans.
    pub async fn plan(&self, apply: &Apply) -> Result<HostPart, ClientError> {
        let body = serde_json::to_vec(apply).map_err(|error| self.broken(error))?;
        self.document(Method::POST, api::PLAN, body.into()).await
    }

    /// Brings a changed cluster file into force.
    ///
    /// # Errors
    /// [`ClientError::Refused`] says why not; whether something was touched says its code.
    pub async fn apply(&self, apply: &Apply, progress: impl FnMut(&str)) -> Result<(), ClientError> {
        self.lines(api::APPLY, apply, progress).await.map(drop)
    }

    /// Restarts processes one after the other.
    ///
    /// # Errors
    /// [`ClientError::Refused`] names the one that did not come back; those behind it were not touched.
    pub async fn restart(&self, restart: &Restart, progress: impl FnMut(&str)) -> Result<(), ClientError> {
        self.lines(api::RESTART, restart, progress).await.map(drop)
    }

    /// Has all ports run another program, one after the other; tells what became of each, if it came to that.
    ///
    /// # Errors
    /// [`ClientError::Refused`] when one went back to the program before, or does not serve: then all did that could.
    pub async fn upgrade(
        &self,
        upgrade: &Upgrade,
        progress: impl FnMut(&str),
    ) -> (Option<Upgraded>, Result<(), ClientError>) {
        let mut upgraded = None;
        let done = self.lines_and_report(api::UPGRADE, upgrade, progress, &mut upgraded).await;
        (upgraded, done.map(drop))
    }

    /// Replaces the secret between origin and edges; nobody is disconnected.
    ///
    /// # Errors
    /// [`ClientError::Refused`] names the ports that did not take it; those that did have it.
    pub async fn replace_secret(&self, secret: &Secret) -> Result<(), ClientError> {
        self.lines(api::SECRET, secret, |_| {}).await.map(drop)
    }

    /// Stops all processes and the supervisor, and returns when it has ended.
    ///
    /// # Errors
    /// [`ClientError::Refused`] names what was left alone because it is not provably the cluster's.
    pub async fn down(&self, progress: impl FnMut(&str)) -> Result<(), ClientError> {
        let supervisor = self.lines(api::DOWN, &(), progress).await?;
        let Some(supervisor) = supervisor else { return Ok(()) };
        let is_service = self.dirs.service_socket().exists();
        let ends = async {
            // A service only waits again.
            while !is_service || self.dirs.is_supervised() {
                if tokio::time::timeout(END_POLL, supervisor.wait()).await.is_ok() {
                    return;
                }
            }
        };
        if tokio::time::timeout(END_LIMIT, ends).await.is_err() {
            let pid = supervisor.identity().pid;
            return Err(ClientError::StaysOn { pid });
        }
        Ok(())
    }

    /// Returns the supervisor's process, if it still lived when it was asked.
    async fn lines(
        &self,
        path: &str,
        body: &impl Serialize,
        progress: impl FnMut(&str),
    ) -> Result<Option<Process>, ClientError> {
        self.lines_and_report(path, body, progress, &mut None).await
    }

    async fn lines_and_report(
        &self,
        path: &str,
        body: &impl Serialize,
        mut progress: impl FnMut(&str),
        upgraded: &mut Option<Upgraded>,
    ) -> Result<Option<Process>, ClientError> {
        let body = serde_json::to_vec(body).map_err(|error| self.broken(error))?;
        let (response, supervisor) = self.send(Method::POST, path, body.into()).await?;
        if response.status() == StatusCode::NOT_FOUND {
            return Err(self.older());
        }
        let ok = response.status().is_success();
        let mut body = response.into_body();
        let mut text = Vec::new();
        loop {
            while let Some(end) = text.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = text.drain(..=end).collect();
                match serde_json::from_slice(&line).map_err(|error| self.broken(error))? {
                    Line::Progress(said) => progress(&said),
                    Line::Upgraded(report) => *upgraded = Some(report),
                    Line::Done {} => return Ok(supervisor),
                    Line::Error(error) => return Err(ClientError::Refused(error)),
                }
            }
            let Ok(frame) = tokio::time::timeout(LINE_LIMIT, body.frame()).await else {
                return Err(self.silent());
            };
            match frame {
                Some(Ok(frame)) => text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data)),
                Some(Err(error)) => return Err(self.broken(error)),
                None if !ok => {
                    let said = String::from_utf8_lossy(&text).into_owned();
                    return Err(match serde_json::from_slice(&text) {
                        Ok(Line::Error(error)) => ClientError::Refused(error),
                        Ok(_) | Err(_) => self.broken(said),
                    });
                }
                None => return Err(self.broken("it ended before all was done")),
            }
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<(Response<Incoming>, Option<Process>), ClientError> {
        let (stream, supervisor): (Box<dyn Stream>, _) = match &self.way {
            Some(way) => (way.dial().await.map_err(ClientError::Lost)?, None),
            None => {
                let stream = self.connect().await?;
                let peer = rustix::net::sockopt::socket_peercred(&stream).ok();
                let supervisor = peer
                    .and_then(|peer| u32::try_from(peer.pid.as_raw_nonzero().get()).ok())
                    .and_then(|pid| Process::adopt(pid).ok());
                let stream = tokio::net::UnixStream::from_std(stream);
                (Box::new(stream.map_err(|source| self.unreachable(source))?), supervisor)
            }
        };
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
            .await
            .map_err(|error| self.broken(error))?;
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "srsctl")
            .header(hyper::header::CONTENT_TYPE, "application/json")
            .header(api::SENT, crate::host::procfs::uptime_ms().unwrap_or_default())
            .body(Full::new(body))
            .map_err(|error| self.broken(error))?;
        let limit = match path {
            api::PLAN => PLAN_LIMIT,
            _ if self.way.is_some() => REMOTE_ANSWER_LIMIT,
            _ => ANSWER_LIMIT,
        };
        let answer = tokio::time::timeout(limit, sender.send_request(request)).await;
        match answer.map_err(|_| self.silent())? {
            Ok(response) if self.way.is_some() && response.status() == StatusCode::GONE => {
                Err(ClientError::NotRunning { cluster: self.dirs.name().to_owned() })
            }
            Ok(response) => Ok((response, supervisor)),
            Err(error) if self.way.is_some() => Err(self.broken(error)),
            // It was just dying when it was asked.
            Err(_) if has_ended(supervisor).await => {
                Err(ClientError::NotRunning { cluster: self.dirs.name().to_owned() })
            }
            Err(error) => Err(self.broken(error)),
        }
    }

    async fn connect(&self) -> Result<std::os::unix::net::UnixStream, ClientError> {
        let end = Instant::now() + SOCKET_LIMIT;
        loop {
            match control::unix::connect_stream(&self.dirs.agent_socket()) {
                Ok(stream) => return Ok(stream),
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused) => {
                }
                Err(error) => return Err(self.unreachable(error)),
            }
            let cluster = self.dirs.name().to_owned();
            if !self.dirs.is_supervised() {
                return Err(ClientError::NotRunning { cluster });
            }
            if Instant::now() >= end {
                return Err(ClientError::NoSocket { cluster, pid: self.dirs.supervisor_pid() });
            }
            tokio::time::sleep(SOCKET_RETRY).await;
        }
    }

    fn unreachable(&self, source: io::Error) -> ClientError {
        ClientError::Unreachable { cluster: self.dirs.name().to_owned(), source }
    }

    fn silent(&self) -> ClientError {
        ClientError::Silent { cluster: self.dirs.name().to_owned(), pid: self.dirs.supervisor_pid() }
    }

    fn older(&self) -> ClientError {
        ClientError::Older { cluster: self.dirs.name().to_owned(), pid: self.dirs.supervisor_pid() }
    }

    fn broken(&self, what: impl std::fmt::Display) -> ClientError {
        ClientError::Broken {
            cluster: self.dirs.name().to_owned(),
            what: what.to_string(),
            log: self.dirs.agent_log().display().to_string(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::dirs::StateRoots;

    #[tokio::test]
    async fn without_a_supervisor_the_error_says_how_to_start_one() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = StateRoots::resolve(Some(temporary.path())).unwrap().cluster("live");
        for _ in 0..2 {
            let error = Client::new(dirs.clone()).status().await.unwrap_err().to_string();
            assert_eq!(error, "cluster live is not supervised: no supervisor runs; start it with: srsctl up");
            dirs.create().unwrap().keep();
            drop(control::unix::listen_stream(&dirs.agent_socket(), 0o660).unwrap());
        }
    }

    #[tokio::test]
    async fn a_supervisor_that_does_not_give_its_status_is_quoted() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let temporary = tempfile::tempdir().unwrap();
        let dirs = StateRoots::resolve(Some(temporary.path())).unwrap().cluster("live");
        dirs.create().unwrap().keep();
        let socket = control::unix::listen_stream(&dirs.agent_socket(), 0o660).unwrap();
        let listener = tokio::net::UnixListener::from_std(socket).unwrap();
        let answer = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
            let error = control::Error::new(control::Code::Stale, "the request lay here for 5000 ms");
            let body = serde_json::to_string(&Line::Error(error)).unwrap();
            let head = format!("HTTP/1.1 503 x\r\ncontent-length: {}\r\n\r\n", body.len());
            stream.write_all((head + &body).as_bytes()).await.unwrap();
            stream
        };
        let client = Client::new(dirs.clone());
        let (status, _stream) = tokio::join!(client.status(), answer);
        assert!(status.unwrap_err().to_string().contains("the request lay here for 5000 ms"));
    }

    #[tokio::test]
    async fn one_that_has_the_lock_and_no_socket_is_waited_for() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = StateRoots::resolve(Some(temporary.path())).unwrap().cluster("live");
        dirs.create().unwrap().keep();
        let client = Client::new(dirs.clone());
        let lock = dirs.lock().unwrap().unwrap();
        // The first look is before the lock is free.
        let (status, ()) = tokio::join!(client.status(), async { drop(lock) });
        assert!(matches!(status, Err(ClientError::NotRunning { .. })), "{status:?}");
    }
}
