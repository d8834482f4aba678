//! Client of the control socket that each process listens on; the messages are [`cluster::control`]'s.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use cluster::control::{Hello, MAX_PACKET, Reply, Request};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// Packets of one answer; a process sends one a stream, and has far fewer.
const MAX_PACKETS: usize = 4096;

/// Why a process did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The socket cannot be used.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// No whole answer in time; the connection is of no use any more.
    #[error("no answer on its control socket within {} s", .0.as_secs_f32())]
    TimedOut(Duration),
    /// The process closed the connection.
    #[error("it closed its control connection")]
    Closed,
    /// The answer is not what the protocol says.
    #[error("it answered what cannot be understood: {0}")]
    Malformed(String),
    /// It understood and did not do it.
    #[error("{0}")]
    Refused(String),
}

/// One packet received.
#[derive(Debug)]
pub struct Packet {
    /// What it says.
    pub reply: Reply,
    /// What came beside it.
    pub fds: Vec<OwnedFd>,
    /// The process that sent it, as the kernel says.
    pub sender: Option<u32>,
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
pub struct Connection {
    socket: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl Connection {
    /// Connects to the control socket at `path`. Does not wait: the kernel accepts or refuses at once.
    ///
    /// # Errors
    /// When nobody listens there, or too many wait.
    pub fn open(path: &Path) -> Result<Self, ControlError> {
        let socket = crate::sock::connect_control(path)?;
        let interest = Interest::READABLE | Interest::WRITABLE;
        Ok(Self { socket: crate::process::watch(socket, interest)?, buffer: Vec::new() })
    }

    /// Sends a request, with a descriptor beside it.
    ///
    /// # Errors
    /// When the process is gone.
    pub async fn send(&self, request: &Request, fd: Option<BorrowedFd<'_>>) -> Result<(), ControlError> {
        let text = serde_json::to_vec(request).map_err(|error| ControlError::Malformed(error.to_string()))?;
        if text.len() > MAX_PACKET {
            let refused = format!("the request has {} bytes, a packet holds {MAX_PACKET}", text.len());
            return Err(ControlError::Refused(refused));
        }
        loop {
            let mut guard = self.socket.writable().await?;
            let sent = guard.try_io(|socket| Ok(send_packet(socket.get_ref(), &text, fd)?));
            if let Ok(outcome) = sent {
                return Ok(outcome?);
            }
        }
    }

    /// Receives one packet. May be dropped at any time without loss.
    ///
    /// # Errors
    /// When the process is gone or sends what is no reply.
    pub async fn receive(&mut self) -> Result<Packet, ControlError> {
        self.buffer.resize(MAX_PACKET, 0);
        loop {
            let mut guard = self.socket.readable().await?;
            let Ok(received) = guard.try_io(|socket| receive_packet(socket.get_ref(), &mut self.buffer))
            else {
                continue;
            };
            let (length, fds, sender) = received?;
            let text = self.buffer.get(..length).unwrap_or_default();
            if text.is_empty() {
                return Err(ControlError::Closed);
            }
            let reply =
                serde_json::from_slice(text).map_err(|error| ControlError::Malformed(error.to_string()))?;
            return Ok(Packet { reply, fds, sender });
        }
    }

    /// Sends a request and receives the whole answer, within `limit`.
    ///
    /// # Errors
    /// When that does not succeed; after all but [`ControlError::Refused`] the connection is of no use any more.
    pub async fn ask(
        &mut self,
        request: &Request,
        fd: Option<BorrowedFd<'_>>,
        limit: Duration,
    ) -> Result<Answer, ControlError> {
        tokio::time::timeout(limit, async {
            self.send(request, fd).await?;
            let mut answer = Answer::default();
            loop {
                let packet = self.receive().await?;
                if answer.add(packet)? {
                    return Ok(answer);
                }
            }
        })
        .await
        .unwrap_or(Err(ControlError::TimedOut(limit)))
    }

    /// Asks who the process is; returns also who sent the answer.
    ///
    /// # Errors
    /// See [`Connection::ask`].
    pub async fn hello(&mut self, limit: Duration) -> Result<(Hello, Option<u32>), ControlError> {
        let request = Request::Hello { version: cluster::control::VERSION };
        let answer = self.ask(&request, None, limit).await?;
        match answer.replies.into_iter().next() {
            Some(Reply::Hello(hello)) => Ok((hello, answer.sender)),
            other => Err(ControlError::Malformed(format!("{other:?} to hello"))),
        }
    }
}

impl Answer {
    /// Adds a packet; tells whether the answer is whole.
    ///
    /// # Errors
    /// When the packet is a refusal, or one too many.
    pub fn add(&mut self, packet: Packet) -> Result<bool, ControlError> {
        self.sender = packet.sender;
        self.fds.extend(packet.fds);
        if let Reply::Error { message } = packet.reply {
            return Err(ControlError::Refused(message));
        }
        if self.replies.len() == MAX_PACKETS {
            return Err(ControlError::Malformed(format!("more than {MAX_PACKETS} packets")));
        }
        let last = packet.reply.is_last();
        self.replies.push(packet.reply);
        Ok(last)
    }
}

fn send_packet(socket: &OwnedFd, text: &[u8], fd: Option<BorrowedFd<'_>>) -> rustix::io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(&fds));
    }
    rustix::net::sendmsg(socket, &[IoSlice::new(text)], &mut beside, SendFlags::NOSIGNAL)?;
    Ok(())
}

fn receive_packet(socket: &OwnedFd, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>, Option<u32>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(4), ScmCredentials(1))];
    let mut beside = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::net::recvmsg(
        socket.as_fd(),
        &mut [IoSliceMut::new(buffer)],
        &mut beside,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let (mut fds, mut sender) = (Vec::new(), None);
    for message in beside.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
            RecvAncillaryMessage::ScmCredentials(credentials) => {
                sender = u32::try_from(credentials.pid.as_raw_nonzero().get()).ok();
            }
            _ => {}
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "a packet larger than the protocol allows"));
    }
    Ok((received.bytes, fds, sender))
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
) -> Result<Answer, ControlError> {
    Connection::open(path)?.ask(request, fd, limit).await
}
