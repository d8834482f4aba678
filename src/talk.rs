//! What `srsctl` says to the service of a cluster (`srsctl service run`), at the socket that is there as long as the service is.
//!
//! A request is a line of JSON, an [`Ask`]. A start is answered by the lines with which a supervisor in the background tells how
//! it comes up; it may be followed by [`Ask::Interrupt`]. A stop is answered by one [`Answer`]. What was begun goes on
//! when whoever asked goes away.

use std::io;
use std::time::Duration;

use control::start::Start;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use supervisor::ClusterDirs;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

/// The longest line, bytes: a cluster file whose every character is escaped, and some more.
const LINE_MAX: u64 = 8 << 20;
/// How long who asks may take to say it, and who answers to take it in: both are on this machine.
const SAY_LIMIT: Duration = Duration::from_secs(10);

/// What the service is asked for.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ask {
    /// To supervise a cluster.
    Start(Start),
    /// To break off the start that this connection has asked for.
    Interrupt {},
    /// To stop all processes; the cluster comes up again with the machine.
    Stop {},
}

/// What a stop has come to.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Answer {
    /// Nothing of the cluster runs.
    Stopped {},
    /// Something does; why, for a person.
    NotStopped(String),
}

/// A connection between `srsctl` and the service, at either end.
#[derive(Debug)]
pub(crate) struct Talk {
    pub(crate) hearing: Hearing,
    pub(crate) telling: Telling,
}

/// What the other end says.
#[derive(Debug)]
pub(crate) struct Hearing {
    from: BufReader<OwnedReadHalf>,
    /// What is there of the next line.
    line: Vec<u8>,
}

/// What it is told.
#[derive(Debug)]
pub(crate) struct Telling(OwnedWriteHalf);

impl Talk {
    /// With who has come in at the socket.
    pub(crate) fn new(stream: UnixStream) -> Self {
        let (from, to) = stream.into_split();
        Self { hearing: Hearing { from: BufReader::new(from), line: Vec::new() }, telling: Telling(to) }
    }

    /// To the service of a cluster; nothing where there is none.
    ///
    /// # Errors
    /// When it is there and does not take anybody.
    pub(crate) fn open(dirs: &ClusterDirs) -> io::Result<Option<Self>> {
        match control::unix::connect_stream(&dirs.service_socket()).and_then(UnixStream::from_std) {
            Ok(stream) => Ok(Some(Self::new(stream))),
            Err(error) => match error.kind() {
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => Ok(None),
                _ => Err(error),
            },
        }
    }
}

impl Hearing {
    /// The next line; nothing at the end. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When it is too long, or is not understood.
    pub(crate) async fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        let room = LINE_MAX.saturating_sub(self.line.len() as u64);
        (&mut self.from).take(room).read_until(b'\n', &mut self.line).await?;
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            return Ok(None);
        }
        if line.last() != Some(&b'\n') {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is too long, or cut off"));
        }
        Ok(Some(serde_json::from_slice(&line)?))
    }

    /// The first line of who has just come in.
    ///
    /// # Errors
    /// As of [`Hearing::next`], and when it does not come soon.
    pub(crate) async fn first<T: DeserializeOwned>(&mut self) -> io::Result<Option<T>> {
        tokio::time::timeout(SAY_LIMIT, self.next()).await?
    }
}

impl Telling {
    /// Says a line.
    ///
    /// # Errors
    /// When the other end does not take it.
    pub(crate) async fn say(&mut self, line: &impl Serialize) -> io::Result<()> {
        tokio::time::timeout(SAY_LIMIT, self.0.write_all(&written(line)?)).await?
    }

    /// Says a line without waiting; false: the other end does not read.
    pub(crate) fn try_say(&self, line: &impl Serialize) -> bool {
        // All lines of a start have room in the socket's buffer.
        written(line).is_ok_and(|text| self.0.try_write(&text).is_ok_and(|length| length == text.len()))
    }

    /// The user at the other end, as the kernel says.
    pub(crate) fn user(&self) -> Option<u32> {
        Some(self.0.as_ref().peer_cred().ok()?.uid())
    }
}

fn written(line: &impl Serialize) -> io::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(line)?;
    text.push(b'\n');
    Ok(text)
}
