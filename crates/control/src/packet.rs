//! The control socket, both ends: a `SOCK_SEQPACKET` unix socket of mode 0600. One packet is one JSON document, and may
//! carry descriptors beside it.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, sockopt,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::unix;
use crate::watch::watch;

/// Upper bound of one packet, bytes: below the kernel's default for a unix socket, above the report of a stream with 256
/// forward targets.
pub const MAX_PACKET: usize = 160 * 1024;
/// Descriptors beside one packet.
pub const MAX_FDS: usize = 4;

/// Why a packet could not be sent or received.
#[derive(Debug, thiserror::Error)]
pub enum PacketError {
    /// The socket failed: the connection is of no use any more.
    #[error("control socket: {0}")]
    Io(#[from] io::Error),
    /// It has more than [`MAX_PACKET`] bytes or [`MAX_FDS`] descriptors, and was dropped whole.
    #[error("a packet is larger than {MAX_PACKET} bytes or {MAX_FDS} descriptors")]
    TooLong,
    /// It is no document of this protocol.
    #[error("not understood: {0}")]
    Malformed(serde_json::Error),
}

/// A packet that was received.
#[derive(Debug)]
pub struct Packet<T> {
    /// What it says.
    pub message: T,
    /// What came beside it.
    pub fds: Vec<OwnedFd>,
    /// The process that sent it, as the kernel says; told to the end that has connected.
    pub sender: Option<u32>,
}

/// One end of a control connection.
#[derive(Debug)]
pub struct Socket {
    fd: AsyncFd<OwnedFd>,
    buffer: Vec<u8>,
}

impl Socket {
    /// Connects to the control socket at `path`. Does not wait: the kernel accepts or refuses at once.
    ///
    /// # Errors
    /// When nobody listens there, or too many wait.
    pub fn connect(path: &Path) -> io::Result<Self> {
        Self::new(unix::connect_packets(path)?)
    }

    fn new(fd: OwnedFd) -> io::Result<Self> {
        let fd = watch(fd, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self { fd, buffer: vec![0; MAX_PACKET] })
    }

    /// Sends one packet, with duplicates of `fds` beside it. May be dropped at any time: it is sent whole or not at all.
    ///
    /// # Errors
    /// See [`PacketError`].
    pub async fn send<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<(), PacketError> {
        let text = serde_json::to_vec(message).map_err(PacketError::Malformed)?;
        if text.len() > MAX_PACKET || fds.len() > MAX_FDS {
            return Err(PacketError::TooLong);
        }
        Ok(self.fd.async_io(Interest::WRITABLE, |fd| send(fd, &text, fds)).await?)
    }

    /// Receives one packet; none when the other end has closed. May be dropped at any time without loss.
    ///
    /// # Errors
    /// See [`PacketError`]; after all but [`PacketError::Io`] the next packet can be received.
    pub async fn receive<T: DeserializeOwned>(&mut self) -> Result<Option<Packet<T>>, PacketError> {
        let Self { fd, buffer } = self;
        let received = fd.async_io(Interest::READABLE, |fd| receive(fd, buffer)).await?;
        let Received { length, fds, sender, truncated } = received;
        if truncated {
            return Err(PacketError::TooLong);
        }
        let text = buffer.get(..length).unwrap_or_default();
        if text.is_empty() {
            return Ok(None);
        }
        let message = serde_json::from_slice(text).map_err(PacketError::Malformed)?;
        Ok(Some(Packet { message, fds, sender }))
    }

    /// Whether the other end belongs to this user or to root.
    pub(crate) fn is_trusted(&self) -> io::Result<bool> {
        let peer = sockopt::socket_peercred(&self.fd)?;
        Ok(peer.uid == rustix::process::geteuid() || peer.uid.is_root())
    }
}

/// A control socket that waits for connections; non-blocking.
#[derive(Debug)]
pub struct Listener(OwnedFd);

impl Listener {
    /// Binds `path`, in place of a stale socket.
    ///
    /// # Errors
    /// As of bind(2).
    pub fn bind(path: &Path) -> io::Result<Self> {
        unix::listen_packets(path).map(Self)
    }

    /// Of a socket that was bound by another process; gives back what is none.
    pub(crate) fn from_inherited(fd: OwnedFd) -> Result<Self, OwnedFd> {
        let is_one = sockopt::socket_acceptconn(&fd) == Ok(true)
            && sockopt::socket_type(&fd) == Ok(rustix::net::SocketType::SEQPACKET)
            && sockopt::socket_domain(&fd) == Ok(rustix::net::AddressFamily::UNIX);
        // The flag belongs to the open socket, which the supervisor made.
        if is_one && rustix::io::ioctl_fionbio(&fd, true).is_ok() { Ok(Self(fd)) } else { Err(fd) }
    }

    /// Waits for connections in a runtime.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    pub fn watch(self) -> io::Result<Incoming> {
        Ok(Incoming(watch(self.0, Interest::READABLE)?))
    }
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Listener> for OwnedFd {
    fn from(Listener(fd): Listener) -> Self {
        fd
    }
}

/// The connections to a control socket.
#[derive(Debug)]
pub struct Incoming(AsyncFd<OwnedFd>);

impl Incoming {
    /// Waits for the next one.
    ///
    /// # Errors
    /// As of accept(2).
    pub async fn accept(&self) -> io::Result<Socket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let accepted =
            self.0.async_io(Interest::READABLE, |fd| Ok(rustix::net::accept_with(fd, flags)?)).await?;
        Socket::new(accepted)
    }
}

struct Received {
    length: usize,
    fds: Vec<OwnedFd>,
    sender: Option<u32>,
    truncated: bool,
}

fn send(fd: &OwnedFd, text: &[u8], beside: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    if !beside.is_empty() {
        ancillary.push(SendAncillaryMessage::ScmRights(beside));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    rustix::net::sendmsg(fd, &[IoSlice::new(text)], &mut ancillary, flags)?;
    Ok(())
}

fn receive(fd: &OwnedFd, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS), ScmCredentials(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = rustix::net::recvmsg(fd, &mut [IoSliceMut::new(buffer)], &mut ancillary, flags)?;
    let (mut fds, mut sender) = (Vec::new(), None);
    for message in ancillary.drain() {
        match message {
            RecvAncillaryMessage::ScmRights(rights) => fds.extend(rights),
            RecvAncillaryMessage::ScmCredentials(credentials) => {
                sender = u32::try_from(credentials.pid.as_raw_nonzero().get()).ok();
            }
            _ => {}
        }
    }
    // The space for credentials takes descriptors where none are sent.
    let truncated =
        received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || fds.len() > MAX_FDS;
    Ok(Received { length: received.bytes, fds, sender, truncated })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;

    /// The end that has connected, and the end that has accepted.
    async fn pair() -> (Socket, Socket, tempfile::TempDir) {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("ctl.sock");
        let incoming = Listener::bind(&path).unwrap().watch().unwrap();
        let client = Socket::connect(&path).unwrap();
        (client, incoming.accept().await.unwrap(), temporary)
    }

    #[tokio::test]
    async fn a_packet_comes_whole_with_its_sender_and_descriptors_that_close_at_exec() {
        let (mut client, server, _temporary) = pair().await;
        let file = tempfile::tempfile().unwrap();
        server.send(&"hello", &[file.as_fd(), file.as_fd()]).await.unwrap();
        let packet = client.receive::<String>().await.unwrap().unwrap();
        assert_eq!(packet.message, "hello");
        assert_eq!(packet.sender, Some(std::process::id()));
        assert_eq!(packet.fds.len(), 2);
        for fd in packet.fds {
            assert_ne!(fd.as_raw_fd(), file.as_raw_fd());
            assert_eq!(rustix::io::fcntl_getfd(&fd), Ok(rustix::io::FdFlags::CLOEXEC));
        }
    }

    #[tokio::test]
    async fn the_longest_packet_passes_and_a_longer_one_is_not_sent() {
        let (client, mut server, _temporary) = pair().await;
        let longest = "x".repeat(MAX_PACKET - 2);
        client.send(&longest, &[]).await.unwrap();
        assert_eq!(server.receive::<String>().await.unwrap().unwrap().message, longest);
        let sent = client.send(&"x".repeat(MAX_PACKET - 1), &[]).await;
        assert!(matches!(sent, Err(PacketError::TooLong)), "{sent:?}");
        let file = tempfile::tempfile().unwrap();
        let sent = client.send(&"x", &[file.as_fd(); MAX_FDS + 1]).await;
        assert!(matches!(sent, Err(PacketError::TooLong)), "{sent:?}");
    }

    #[tokio::test]
    async fn a_packet_beyond_the_bounds_is_dropped_whole_and_the_next_is_received() {
        let (client, mut server, _temporary) = pair().await;
        let long = format!("\"{}\"", "x".repeat(MAX_PACKET));
        send(client.fd.get_ref(), long.as_bytes(), &[]).unwrap();
        let received = server.receive::<String>().await;
        assert!(matches!(received, Err(PacketError::TooLong)), "{received:?}");

        let (held, lent) = rustix::pipe::pipe().unwrap();
        let many = vec![lent.as_fd(); MAX_FDS + 4];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS + 4))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        assert!(ancillary.push(SendAncillaryMessage::ScmRights(&many)));
        let text = [IoSlice::new(b"\"x\"")];
        rustix::net::sendmsg(&client.fd, &text, &mut ancillary, SendFlags::NOSIGNAL).unwrap();
        let received = server.receive::<String>().await;
        assert!(matches!(received, Err(PacketError::TooLong)), "{received:?}");
        drop(lent);
        assert_eq!(rustix::io::read(&held, &mut [0; 1]), Ok(0), "a descriptor of the packet is still open");

        client.send(&"next", &[]).await.unwrap();
        assert_eq!(server.receive::<String>().await.unwrap().unwrap().message, "next");
    }

    #[tokio::test]
    async fn what_is_no_document_is_told_and_the_next_is_received() {
        let (client, mut server, _temporary) = pair().await;
        send(client.fd.get_ref(), b"\xff{", &[]).unwrap();
        client.send(&"next", &[]).await.unwrap();
        let received = server.receive::<String>().await;
        assert!(matches!(received, Err(PacketError::Malformed(_))), "{received:?}");
        assert_eq!(server.receive::<String>().await.unwrap().unwrap().message, "next");
        drop(client);
        assert!(server.receive::<String>().await.unwrap().is_none(), "the other end has closed");
    }
}
