//! agent.sock: who comes in, how many at once, and how long one may be still. A client that leaks connections costs itself some
//! of them, and the supervisor no descriptor that a worker's restart needs.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use cluster::events::By;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio::time::{Instant, Sleep, sleep};

use crate::host::procfs;

/// Clients at once. For one more, the one that was still for longest is closed.
const CLIENTS: usize = 32;
/// A client that neither sends nor takes a byte for so long is closed. While a command runs it is sent a line more often.
const STILL_MAX: Duration = Duration::from_secs(30);
/// Wait after an accept that failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The socket, and who came in by it.
#[derive(Debug)]
pub(crate) struct Door {
    listener: UnixListener,
    /// Sockets that take its place, where its file was removed.
    next: mpsc::Receiver<UnixListener>,
    inside: Vec<Weak<Inside>>,
}

#[derive(Debug)]
struct Inside {
    stream: UnixStream,
    /// When it last sent or took a byte.
    moved: Mutex<Instant>,
}

impl Inside {
    fn moved(&self) -> Instant {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn handle_move(&self) {
        *self.moved.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }
}

impl Door {
    /// With `listener` at first, then with what comes from `next`.
    pub(crate) fn new(listener: UnixListener, next: mpsc::Receiver<UnixListener>) -> Self {
        Self { listener, next, inside: Vec::new() }
    }

    /// Lets nobody but the `most` that moved last stay.
    fn make_room(&mut self, most: usize) {
        self.inside.retain(|inside| inside.strong_count() > 0);
        if self.inside.len() <= most {
            return;
        }
        let stillest = self.inside.iter().filter_map(Weak::upgrade).min_by_key(|inside| inside.moved());
        if let Some(stillest) = stillest {
            tracing::info!(
                "too many clients of the control API; the one that was still for longest is closed"
            );
            // Its task sees the end of what it reads.
            let _ = rustix::net::shutdown(&stillest.stream, rustix::net::Shutdown::Both);
            self.inside.retain(|inside| !std::ptr::eq(inside.as_ptr(), Arc::as_ptr(&stillest)));
        }
    }
}

impl axum::serve::Listener for Door {
    type Io = Guest;
    type Addr = ();

    async fn accept(&mut self) -> (Guest, ()) {
        loop {
            let accepted = tokio::select! {
                accepted = self.listener.accept() => accepted,
                Some(next) = self.next.recv() => {
                    self.listener = next;
                    continue;
                }
            };
            match accepted {
                Ok((stream, _)) => {
                    self.make_room(CLIENTS - 1);
                    let inside = Arc::new(Inside { stream, moved: Mutex::new(Instant::now()) });
                    self.inside.push(Arc::downgrade(&inside));
                    return (Guest { inside, still: Box::pin(sleep(STILL_MAX)) }, ());
                }
                Err(error) => {
                    tracing::warn!(%error, "control API: no client can come in");
                    self.make_room(0);
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A client's connection; an error once it was still for too long.
#[derive(Debug)]
pub(crate) struct Guest {
    inside: Arc<Inside>,
    still: Pin<Box<Sleep>>,
}

impl Guest {
    /// Who is at the other end, as the kernel says.
    pub(crate) fn peer(&self) -> Option<By> {
        let peer = self.inside.stream.peer_cred().ok()?;
        let pid = u32::try_from(peer.pid()?).ok()?;
        Some(By { pid, uid: peer.uid(), login_uid: procfs::login_uid(pid) })
    }
}

impl AsyncRead for Guest {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while let Poll::Ready(is_ready) = self.inside.stream.poll_read_ready(context) {
            is_ready?;
            match self.inside.stream.try_read(buffer.initialize_unfilled()) {
                Ok(read) => {
                    buffer.advance(read);
                    self.inside.handle_move();
                    return Poll::Ready(Ok(()));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        loop {
            ready!(self.still.as_mut().poll(context));
            let end = self.inside.moved() + STILL_MAX;
            if end <= Instant::now() {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            self.still.as_mut().reset(end);
        }
    }
}

impl AsyncWrite for Guest {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.inside.stream.poll_write_ready(context))?;
            match self.inside.stream.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => {
                    self.inside.handle_move();
                    return Poll::Ready(written);
                }
            }
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(rustix::net::shutdown(&self.inside.stream, rustix::net::Shutdown::Write)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::serve::Listener as _;
    use tokio::io::AsyncReadExt as _;

    fn door(dir: &std::path::Path) -> (Door, std::path::PathBuf, mpsc::Sender<UnixListener>) {
        let path = dir.join("agent.sock");
        let (sender, next) = mpsc::channel(1);
        (Door::new(UnixListener::bind(&path).unwrap(), next), path, sender)
    }

    #[tokio::test]
    async fn of_too_many_clients_the_one_that_was_still_for_longest_is_closed() {
        let temporary = tempfile::tempdir().unwrap();
        let (mut door, path, _sender) = door(temporary.path());
        let (mut clients, mut guests) = (Vec::new(), Vec::new());
        for _ in 0..CLIENTS {
            clients.push(UnixStream::connect(&path).await.unwrap());
            guests.push(door.accept().await.0);
        }
        guests[0].inside.handle_move();
        let _late = UnixStream::connect(&path).await.unwrap();
        let _guest = door.accept().await;
        assert_eq!(clients[1].read(&mut [0]).await.unwrap(), 0, "the second one is closed");
        assert_eq!(guests[1].read(&mut [0]).await.unwrap(), 0);
        assert!(clients[0].try_read(&mut [0]).is_err(), "the first one has moved since, and is not");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_is_still_is_closed_and_one_that_is_sent_something_is_not() {
        use tokio::io::AsyncWriteExt as _;
        let temporary = tempfile::tempdir().unwrap();
        let (mut door, path, _sender) = door(temporary.path());
        let _client = UnixStream::connect(&path).await.unwrap();
        let (mut guest, ()) = door.accept().await;
        for _ in 0..4 {
            let read = tokio::time::timeout(STILL_MAX * 2 / 3, guest.read_u8()).await;
            assert!(read.is_err(), "{read:?}");
            guest.write_all(b"still at it").await.unwrap();
        }
        let begin = Instant::now();
        assert_eq!(guest.read_u8().await.unwrap_err().kind(), io::ErrorKind::TimedOut);
        assert!(begin.elapsed() <= STILL_MAX + Duration::from_secs(1));
    }

    #[tokio::test]
    async fn a_socket_that_was_removed_is_replaced() {
        let temporary = tempfile::tempdir().unwrap();
        let (mut door, path, sender) = door(temporary.path());
        std::fs::remove_file(&path).unwrap();
        sender.send(UnixListener::bind(&path).unwrap()).await.unwrap();
        let (client, _) = tokio::join!(UnixStream::connect(&path), door.accept());
        client.unwrap();
    }
}
