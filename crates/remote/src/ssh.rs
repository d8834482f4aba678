//! The system's `ssh`, a child of ours that is killed and reaped with its session.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use cluster::Destination;
use tokio::io::{AsyncReadExt as _, BufReader};
use tokio::process::{Child, ChildStderr, Command};
use tokio::time::{Instant, timeout, timeout_at};

use crate::child::Group;
use crate::failure::{Kind, Problem, Said, Step, explain};
use crate::frame::{Frame, MAX_NOISE, Reader};
use crate::hello::{Hello, PROTO};
use crate::session::Session;
use crate::wire::Wire;

/// For so long ssh tries to connect, s.
const CONNECT_SECONDS: u32 = 5;
/// For so long the way to srsctl there may take: a connection, a login, and what its shell does first.
const LOGIN: Duration = Duration::from_secs(20);
/// For so long srsctl there may take to say who it is.
const GREETING: Duration = Duration::from_secs(5);
/// For so long an `ssh` whose output has ended may take to end.
pub(crate) const LAST_WORDS: Duration = Duration::from_secs(2);

/// How machines are reached.
#[derive(Clone, Debug)]
pub struct Ssh {
    /// In place of the user's ssh config.
    pub config: Option<PathBuf>,
    /// The host keys that are pinned; no other is believed.
    pub known_hosts: PathBuf,
    /// What runs there, word by word; none of them has anything that a shell would take for more than a word.
    pub command: Vec<String>,
}

impl Ssh {
    /// `ssh` with what every use of it has in common.
    pub(crate) fn command(&self, way: &Destination, known_hosts: &std::path::Path) -> Command {
        let mut command = Command::new("ssh");
        if let Some(config) = &self.config {
            command.arg("-F").arg(config);
        }
        let options = [
            "BatchMode=yes",
            "ServerAliveInterval=5",
            "ServerAliveCountMax=2",
            "ForwardAgent=no",
            "ForwardX11=no",
            "ClearAllForwardings=yes",
            "ControlMaster=no",
            "ControlPath=none",
            "PermitLocalCommand=no",
            "UpdateHostKeys=no",
            "HashKnownHosts=no",
            "GlobalKnownHostsFile=/dev/null",
            "LogLevel=INFO",
        ];
        command.args(["-T", "-o", &format!("ConnectTimeout={CONNECT_SECONDS}")]);
        command.args(options.iter().flat_map(|option| ["-o", option]));
        let mut file = OsString::from("UserKnownHostsFile=");
        file.push(quoted(known_hosts));
        command.arg("-o").arg(file).args(["-o", &format!("HostKeyAlias={}", alias(way))]);
        if let Some(user) = &way.user {
            command.args(["-l", user]);
        }
        if let Some(port) = way.port {
            command.args(["-p", &port.to_string()]);
        }
        // A Ctrl-C is ours to answer: the session ends in order.
        command.process_group(0).kill_on_drop(true);
        command
    }

    /// Connects, logs in, has srsctl run there, and learns who it is; `own` is who asks.
    ///
    /// # Errors
    /// [`Problem`] says at which step it failed, why, and what to do.
    pub async fn connect(&self, way: &Destination, own: &Hello) -> Result<Session, Problem> {
        let place = way.to_string();
        let problem = |step, kind, why: String| Problem::new(&place, step, kind, why);
        let mut command = self.command(way, &self.known_hosts);
        command.args(["-o", "StrictHostKeyChecking=yes", "--", &way.host]).args(&self.command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(&place, &mut command)?;
        let (Some(stdin), Some(mut stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(problem(Step::Start, Kind::Other, "ssh has no pipes".to_owned()));
        };
        let child = Group::new(child);
        let said = Arc::new(Mutex::new(Vec::new()));
        let listener = tokio::spawn(listen(stderr, Arc::clone(&said)));
        let deadline = Instant::now() + LOGIN;
        let mut reader = Reader::default();
        let mut buffer = vec![0; 4 << 10];
        let first = loop {
            match reader.next_frame() {
                Ok(Some(frame)) => break frame,
                Ok(None) => {}
                Err(_) => {
                    let noise = String::from_utf8_lossy(reader.noise()).into_owned();
                    return Err(problem(Step::Login, Kind::Noise, noise));
                }
            }
            let is_greeted = reader.is_past_magic();
            let end = if is_greeted { deadline.max(Instant::now() + GREETING) } else { deadline };
            let read = timeout_at(end, stdout.read(&mut buffer)).await;
            match read {
                Ok(Ok(length @ 1..)) => reader.push(buffer.get(..length).unwrap_or_default()),
                Ok(Ok(0) | Err(_)) => {
                    let status = child.end(LAST_WORDS).await;
                    let _ = timeout(LAST_WORDS, listener).await;
                    return Err(explain(&place, status, &words(&said, &reader)));
                }
                Err(_) => {
                    let step = if is_greeted { Step::Greeting } else { Step::Login };
                    let Said { errors, noise } = words(&said, &reader);
                    return Err(problem(step, Kind::Silent, format!("{errors}{noise}")));
                }
            }
        };
        let hello = match first {
            Frame::Hello(hello) => serde_json::from_slice::<Hello>(&hello)
                .map_err(|error| problem(Step::Greeting, Kind::Broken, error.to_string()))?,
            _ => return Err(problem(Step::Greeting, Kind::Broken, "it does not say who it is".to_owned())),
        };
        if hello.proto != PROTO {
            let why = format!("srsctl {} runs there, and this is {}", hello.version, own.version);
            return Err(problem(Step::Greeting, Kind::OtherVersion, why));
        }
        let wire = Wire::new(BufReader::new(stdout), stdin, reader);
        let own = serde_json::to_vec(own).map_err(|e| problem(Step::Greeting, Kind::Other, e.to_string()))?;
        let _ = wire.outgoing.send(Frame::Hello(own)).await;
        Ok(Session::new(place, hello, wire, Some(child)))
    }
}

/// Starts `ssh`, on the way to `place`.
pub(crate) fn spawn(place: &str, command: &mut Command) -> Result<Child, Problem> {
    command.spawn().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => Problem::new(place, Step::Start, Kind::NoSsh, String::new()),
        _ => Problem::new(place, Step::Start, Kind::Other, error.to_string()),
    })
}

/// By what name the key of a machine is pinned.
pub(crate) fn alias(way: &Destination) -> String {
    Destination { user: None, ..way.clone() }.to_string()
}

/// A path as a value of an option: quoted, and without what ssh would expand.
fn quoted(path: &std::path::Path) -> String {
    let path = path.to_string_lossy().replace('%', "%%").replace('\\', "\\\\").replace('"', "\\\"");
    format!("\"{path}\"")
}

/// Keeps the first of what is said on stderr, and lets the rest pass.
async fn listen(mut stderr: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = vec![0; 4 << 10];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        let room = MAX_NOISE.saturating_sub(said.len());
        said.extend_from_slice(buffer.get(..length.min(room)).unwrap_or_default());
    }
}

fn words(said: &Mutex<Vec<u8>>, reader: &Reader) -> Said {
    let errors = said.lock().unwrap_or_else(PoisonError::into_inner);
    Said {
        errors: String::from_utf8_lossy(&errors).into_owned(),
        noise: String::from_utf8_lossy(reader.noise()).into_owned(),
    }
}
