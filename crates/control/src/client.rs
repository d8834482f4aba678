//! The supervisor's end: a request, and its whole answer.

use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use crate::error::Error;
use crate::message::{Hello, Reply, Request, VERSION};
use crate::packet::{Packet, PacketError, Socket};

/// Packets of one answer; a process sends one a stream, and has far fewer.
const MAX_PACKETS: usize = 4096;

/// Why a process did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// The request cannot be sent, or the answer not be understood.
    #[error(transparent)]
    Packet(#[from] PacketError),
    /// No whole answer in time.
    #[error("no answer on its control socket within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The process closed the connection.
    #[error("it closed its control connection")]
    Closed,
    /// The answer is not one to this request.
    #[error("its answer does not fit the request: {0}")]
    Unexpected(String),
    /// It understood and did not do it.
    #[error(transparent)]
    Refused(Error),
}

impl AskError {
    /// Whether the connection has ended: the process has, or has closed it.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Closed | Self::Packet(PacketError::Io(_)))
    }

    /// Whether nobody is at the path: the socket was removed, or is another's that listens no more. That says nothing of the
    /// process.
    #[must_use]
    pub fn is_missing(&self) -> bool {
        use std::io::ErrorKind::{ConnectionRefused, NotADirectory, NotFound};
        matches!(self, Self::Packet(PacketError::Io(error)) if matches!(error.kind(), NotFound | ConnectionRefused | NotADirectory))
    }
}

impl From<std::io::Error> for AskError {
    fn from(error: std::io::Error) -> Self {
        Self::Packet(error.into())
    }
}

/// A whole answer.
#[derive(Debug, Default)]
pub struct Answer {
    /// All packets, up to and with the last.
    pub replies: Vec<Reply>,
    /// The descriptors that came with them.
    pub fds: Vec<OwnedFd>,
    /// The process that sent the last packet, as the kernel says.
    pub sender: Option<u32>,
}

/// A connection to one process. One request at a time.
#[derive(Debug)]
pub struct Connection(Socket);

impl Connection {
    /// Connects to the control socket at `path`. Does not wait: the kernel accepts or refuses at once.
    ///
    /// # Errors
    /// When nobody listens there, or too many wait.
    pub fn open(path: &Path) -> Result<Self, AskError> {
        Ok(Self(Socket::connect(path)?))
    }

    /// Sends a request, with a descriptor beside it.
    ///
    /// # Errors
    /// When the process is gone, or the request does not fit a packet.
    pub async fn send(&self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<(), AskError> {
        Ok(self.0.send(request, fd.as_slice()).await?)
    }

    /// Receives one packet of the answer. May be dropped at any time without loss.
    ///
    /// # Errors
    /// When the process is gone or sends what is no reply.
    pub async fn receive(&mut self) -> Result<Packet<Reply>, AskError> {
        self.0.receive().await?.ok_or(AskError::Closed)
    }

    /// Sends a request and receives the whole answer, within `limit`.
    ///
    /// # Errors
    /// When that does not succeed; after all but [`AskError::Refused`] the connection is of no use any more.
    pub async fn ask(
        &mut self,
        request: &Request,
        fd: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Answer, AskError> {
        self.ask_with(request, fd.as_slice(), limit).await
    }

    /// As [`Connection::ask`], with several descriptors beside the request.
    ///
    /// # Errors
    /// See [`Connection::ask`].
    pub async fn ask_with(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
        limit: Duration,
    ) -> Result<Answer, AskError> {
        tokio::time::timeout(limit, async {
            self.0.send(request, fds).await?;
            let mut answer = Answer::default();
            loop {
                let packet = self.receive().await?;
                if answer.add(packet)? {
                    return Ok(answer);
                }
            }
        })
        .await
        .unwrap_or(Err(AskError::TimedOut(limit)))
    }

    /// Asks who the process is; returns also who sent the answer.
    ///
    /// # Errors
    /// See [`Connection::ask`].
    pub async fn hello(&mut self, limit: Duration) -> Result<(Hello, Option<u32>), AskError> {
        let answer = self.ask(&Request::Hello { version: VERSION }, None, limit).await?;
        match answer.replies.into_iter().next() {
            Some(Reply::Hello(hello)) => Ok((hello, answer.sender)),
            other => Err(AskError::Unexpected(format!("{other:?} to hello"))),
        }
    }
}

impl Answer {
    /// Adds a packet; tells whether the answer is whole.
    ///
    /// # Errors
    /// When the packet is a refusal, or one too many.
    pub fn add(&mut self, packet: Packet<Reply>) -> Result<bool, AskError> {
        self.sender = packet.sender;
        self.fds.extend(packet.fds);
        if let Reply::Error(error) = packet.message {
            return Err(AskError::Refused(error));
        }
        if self.replies.len() == MAX_PACKETS {
            return Err(AskError::Unexpected(format!("more than {MAX_PACKETS} packets")));
        }
        let last = packet.message.is_last();
        self.replies.push(packet.message);
        Ok(last)
    }
}

/// Sends one request on a connection of its own and receives the whole answer, within `limit`.
///
/// # Errors
/// See [`Connection::ask`].
pub async fn ask_once(
    path: &Path,
    request: &Request,
    fd: Option<BorrowedFd<'_>>,
    limit: Duration,
) -> Result<Answer, AskError> {
    Connection::open(path)?.ask(request, fd, limit).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Code;
    use crate::packet::Listener;
    use serde_json::json;

    const LIMIT: Duration = Duration::from_secs(20);

    /// Asks a process that answers one request with `replies` and then closes, or stays if `stays`.
    async fn ask(replies: &[serde_json::Value], stays: bool, limit: Duration) -> Result<Answer, AskError> {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("ctl.sock");
        let incoming = Listener::bind(&path).unwrap().watch().unwrap();
        let process = async {
            let mut socket = incoming.accept().await.unwrap();
            socket.receive::<Request>().await.unwrap().unwrap();
            for reply in replies {
                socket.send(reply, &[]).await.unwrap();
            }
            if stays {
                std::future::pending::<()>().await;
            }
        };
        let mut connection = Connection::open(&path).unwrap();
        let asking = connection.ask(&Request::Stats, None, limit);
        tokio::pin!(asking);
        tokio::select! {
            answer = &mut asking => return answer,
            () = process => {}
        }
        asking.await
    }

    #[tokio::test]
    async fn an_answer_is_whole_with_its_last_packet_and_unknown_ones_are_passed_over() {
        let replies = [
            json!({"type": "process"}),
            json!({"type": "hub"}),
            json!({"type": "done"}),
            json!({"type": "done"}),
        ];
        let answer = ask(&replies, true, LIMIT).await.unwrap();
        assert_eq!(answer.replies, [Reply::Process(Default::default()), Reply::Unknown, Reply::Done]);
    }

    #[tokio::test]
    async fn a_process_that_closes_midway_has_not_answered() {
        let answer = ask(&[json!({"type": "process"})], false, LIMIT).await;
        assert!(matches!(answer, Err(AskError::Closed)), "{answer:?}");
    }

    #[tokio::test]
    async fn a_process_that_stops_midway_is_waited_for_no_longer_than_the_limit() {
        let answer = ask(&[json!({"type": "process"})], true, Duration::from_millis(20)).await;
        assert!(matches!(answer, Err(AskError::TimedOut(_))), "{answer:?}");
    }

    #[tokio::test]
    async fn a_refusal_with_a_code_of_a_newer_process_is_a_refusal() {
        let answer = ask(&[json!({"type": "error", "code": "melted", "message": "m"})], true, LIMIT).await;
        assert!(
            matches!(&answer, Err(AskError::Refused(error)) if *error == Error::new(Code::Unknown, "m")),
            "{answer:?}"
        );
    }

    #[tokio::test]
    async fn an_answer_without_end_is_none() {
        let replies = vec![json!({"type": "hub"}); MAX_PACKETS + 1];
        let answer = ask(&replies, true, LIMIT).await;
        assert!(matches!(answer, Err(AskError::Unexpected(_))), "{answer:?}");
    }
}
