//! The control socket of a supervised process: see [`cluster::control`] for the messages.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use cluster::WorkerSpec;
use cluster::control::{Hello, MAX_PACKET, ProcessStats, Reply, Request, StreamStats};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketFlags, accept_with, recvmsg, sendmsg, sockopt,
};
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, Semaphore};
use tracing::{info, warn};

/// Control connections at once: the supervisor's, one that takes over from it, and some to look.
const CONNECTIONS: usize = 8;

/// Wait after a failed accept.
const ACCEPT_PAUSE: std::time::Duration = std::time::Duration::from_millis(50);

/// What the process behind the socket can do.
pub(crate) trait Controlled {
    fn process_stats(&self) -> ProcessStats;
    fn stream_stats(&self) -> Vec<StreamStats>;
    fn configure(&self, spec: WorkerSpec) -> Result<(), String>;
    fn listener(&self) -> Option<BorrowedFd<'_>>;
}

/// The control socket of one process.
pub(crate) struct Control {
    pub(crate) hello: Hello,
    pub(crate) controlled: Rc<dyn Controlled>,
    /// Notified when the process is asked to stop.
    pub(crate) stop: Rc<Notify>,
}

impl Control {
    /// Serves `listener` until dropped.
    ///
    /// # Errors
    /// When the socket cannot be waited for.
    pub(crate) async fn serve(self: Rc<Self>, listener: OwnedFd) -> io::Result<()> {
        let listener = nonblocking(listener)?;
        let slots = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
        let mut tasks = tokio::task::JoinSet::new();
        loop {
            while tasks.try_join_next().is_some() {}
            let Ok(slot) = std::sync::Arc::clone(&slots).acquire_owned().await else { return Ok(()) };
            let accepted = listener
                .async_io(tokio::io::Interest::READABLE, |fd| {
                    Ok(accept_with(fd, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
                })
                .await;
            match accepted {
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

    async fn converse(&self, socket: OwnedFd) -> io::Result<()> {
        // The socket is 0600 in a 0700 directory; this holds even if someone loosens that.
        let peer = sockopt::socket_peercred(&socket)?;
        if peer.uid != rustix::process::geteuid() && !peer.uid.is_root() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        let socket = crate::fds::watch(socket)?;
        let mut packet = vec![0; MAX_PACKET];
        loop {
            let (len, fd) = receive(&socket, &mut packet).await?;
            if len == 0 {
                return Ok(());
            }
            match serde_json::from_slice(packet.get(..len).unwrap_or(&[])) {
                Ok(request) => self.answer(&socket, request, fd).await?,
                Err(error) => {
                    send(&socket, &Reply::Error { message: format!("not understood: {error}") }, None)
                        .await?;
                }
            }
        }
    }

    async fn answer(
        &self,
        socket: &AsyncFd<OwnedFd>,
        request: Request,
        fd: Option<OwnedFd>,
    ) -> io::Result<()> {
        let last = match request {
            Request::Hello { .. } => Reply::Hello(self.hello.clone()),
            Request::Stats => {
                send(socket, &Reply::Process(self.controlled.process_stats()), None).await?;
                for stream in self.controlled.stream_stats() {
                    send(socket, &fitting(stream)?, None).await?;
                }
                Reply::Done
            }
            Request::Configure { spec } => match self.controlled.configure(*spec) {
                Ok(()) => Reply::Done,
                Err(message) => Reply::Error { message },
            },
            Request::ReopenLog => match fd {
                Some(fd) => reopen_log(&fd)?,
                None => Reply::Error { message: "no descriptor came with the request".to_owned() },
            },
            Request::Listener => match self.controlled.listener() {
                Some(listener) => return send(socket, &Reply::Done, Some(listener)).await,
                None => Reply::Error { message: "this process has no listener".to_owned() },
            },
            Request::Stop => {
                info!("asked to stop");
                let sent = send(socket, &Reply::Done, None).await;
                self.stop.notify_one();
                return sent;
            }
        };
        send(socket, &last, None).await
    }
}

/// The report, without the errors of forwards where it would be too long for a packet.
fn fitting(stats: StreamStats) -> io::Result<Reply> {
    let mut reply = Reply::Stream(stats);
    if serde_json::to_vec(&reply)?.len() > MAX_PACKET
        && let Reply::Stream(stats) = &mut reply
    {
        stats.forwards.iter_mut().for_each(|forward| forward.last_error = None);
    }
    Ok(reply)
}

fn reopen_log(fd: &OwnedFd) -> io::Result<Reply> {
    rustix::stdio::dup2_stdout(fd)?;
    rustix::stdio::dup2_stderr(fd)?;
    info!("log reopened");
    Ok(Reply::Done)
}

fn nonblocking(fd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    crate::fds::watch(fd)
}

/// One packet and the descriptor that came with it; 0 bytes at the end.
async fn receive(socket: &AsyncFd<OwnedFd>, packet: &mut [u8]) -> io::Result<(usize, Option<OwnedFd>)> {
    let interest = tokio::io::Interest::READABLE;
    socket
        .async_io(interest, |fd| {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = RecvAncillaryBuffer::new(&mut space);
            let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
            let received = recvmsg(fd, &mut [IoSliceMut::new(packet)], &mut ancillary, flags)?;
            let mut lent = None;
            for message in ancillary.drain() {
                if let RecvAncillaryMessage::ScmRights(fds) = message {
                    lent = fds.last();
                }
            }
            Ok((received.bytes, lent))
        })
        .await
}

async fn send(socket: &AsyncFd<OwnedFd>, reply: &Reply, fd: Option<BorrowedFd<'_>>) -> io::Result<()> {
    let mut json = serde_json::to_vec(reply)?;
    if json.len() > MAX_PACKET {
        json =
            serde_json::to_vec(&Reply::Error { message: "the answer is too long for a packet".to_owned() })?;
    }
    let interest = tokio::io::Interest::WRITABLE;
    socket
        .async_io(interest, |socket| {
            let lent: Vec<_> = fd.iter().map(AsFd::as_fd).collect();
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            if !lent.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&lent));
            }
            let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
            sendmsg(socket, &[IoSlice::new(&json)], &mut ancillary, flags)?;
            Ok(())
        })
        .await
}
