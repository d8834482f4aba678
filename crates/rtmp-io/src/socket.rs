//! The socket of an RTMP connection: its options, sending, and what its peer has taken.
#![expect(unsafe_code, reason = "what the kernel has counted has no safe form")]

use std::io::{self, IoSlice};
use std::mem::{MaybeUninit, offset_of};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, AsRawFd as _};
use std::time::Duration;

use nix::libc;
use nix::sys::socket::{setsockopt, sockopt};
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, recv, send, sendmsg};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::{TcpSocket, TcpStream};

/// Unsent bytes the kernel keeps for one connection. What is beyond waits where it is shared, skipped or dropped (a worker's log),
/// and a ping of ours waits behind no more than this. Twice a keyframe of a 10 Mbit/s stream; less makes caught-up players wait.
pub const NOTSENT_LOWAT: u32 = 256 * 1024;
/// A peer that has been silent this long is asked by the kernel whether it lives: players of a silent stream send nothing.
pub const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time between further questions.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);
/// Unanswered questions that end a connection.
pub const KEEPALIVE_COUNT: u32 = 3;

/// Sets the options of a connection, accepted or dialled.
///
/// TCP_USER_TIMEOUT is left off on purpose: a reader whose window is smaller than one of the kernel's buffers is served by window
/// probes alone, which count as no progress, so it would be reset although it reads. Whoever owns the connection has a limit of
/// its own for a peer that takes nothing.
///
/// # Errors
/// When the connection is gone already.
pub fn set_options(socket: &TcpStream) -> io::Result<()> {
    // What is sent is whole batches; Nagle would hold the last part back for an acknowledgement.
    socket.set_nodelay(true)?;
    let socket = SockRef::from(socket);
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_IDLE)
        .with_interval(KEEPALIVE_INTERVAL)
        .with_retries(KEEPALIVE_COUNT);
    socket.set_tcp_keepalive(&keepalive)
}

/// Acknowledges what has come at once. The kernel would wait 40 ms for data to send the acknowledgement with, and a peer without
/// NODELAY, as librtmp and ffmpeg are, holds its next small command back until then. The kernel forgets it soon: to be called after
/// each read.
///
/// # Errors
/// When the connection is gone already.
pub fn acknowledge(socket: &TcpStream) -> io::Result<()> {
    Ok(rustix::net::sockopt::set_tcp_quickack(socket, true)?)
}

/// Binds a socket that is going to connect to the address `from` alone: the port is chosen when it connects, so that it may be one that
/// connections to other targets have, or had a moment ago. Else each uses up one of the 28 000 ports for a minute.
///
/// # Errors
/// When the address is not this machine's.
pub fn bind_address(socket: &TcpSocket, from: IpAddr) -> io::Result<()> {
    // A kernel without it serves as many connections as there are ports.
    let _ = setsockopt(socket, sockopt::IpBindAddressNoPort, &true);
    socket.bind(SocketAddr::new(from, 0))
}

/// A non-blocking `send` or `sendmsg`: the one system call per flush and player. `send` spares the kernel what it does
/// for files in `write`.
///
/// # Errors
/// `WouldBlock` when the socket takes nothing now; else the connection is lost.
pub fn try_send(socket: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    socket.try_io(Interest::WRITABLE, || match slices {
        [bytes] => Ok(send(socket, bytes, flags)?),
        many => Ok(sendmsg(socket, many, &mut SendAncillaryBuffer::default(), flags)?),
    })
}

/// Reads what is there, one `buffer` at most; 0 bytes are the end of the connection.
///
/// A read that leaves room in `buffer` has emptied the socket, so it counts as not ready any more, without a second read to hear
/// it from the kernel. Whatever comes behind it, an end too, makes it ready again (epoll(7), edge-triggered).
///
/// # Errors
/// `WouldBlock` when nothing is there; else the connection is lost.
pub fn try_read(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut short = None;
    let read = socket.try_io(Interest::READABLE, || {
        let (taken, _) = recv(socket, &mut *buffer, RecvFlags::DONTWAIT)?;
        if (1..buffer.len()).contains(&taken) {
            short = Some(taken);
            // This is how the runtime learns it.
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(taken)
    });
    short.map_or(read, Ok)
}

/// Sends all of `bytes` and empties it.
///
/// # Errors
/// When the connection is lost.
pub async fn write_all(socket: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
    let mut sent = 0;
    while let Some(rest) = bytes.get(sent..).filter(|rest| !rest.is_empty()) {
        match socket.try_write(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(taken) => sent += taken,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => socket.writable().await?,
            Err(e) => return Err(e),
        }
    }
    bytes.clear();
    Ok(())
}

/// Bytes that the socket has taken from us and the peer's kernel has not acknowledged, sent or not (SIOCOUTQ, tcp(7)).
///
/// # Errors
/// When the system does not say.
pub fn unacknowledged(socket: &TcpStream) -> io::Result<u64> {
    let mut bytes = 0;
    // SAFETY: the descriptor is open as long as `socket` is borrowed, and the request writes one int.
    unsafe { ioctl::outq(socket.as_raw_fd(), &raw mut bytes) }?;
    Ok(u64::try_from(bytes).unwrap_or(0))
}

/// Bytes that the socket, which accepted its connection, has ever taken from us: those that the peer has acknowledged (TCP_INFO) and those that
/// it has not (SIOCOUTQ). Exact while nobody writes: where some wait, both are read again until no acknowledgement has come between them.
///
/// # Errors
/// When the system does not say.
pub fn written(socket: &impl AsFd) -> io::Result<u64> {
    let mut before = None;
    loop {
        let mut waiting = 0;
        // SAFETY: the descriptor is open as long as `socket` is borrowed, and the request writes one int.
        unsafe { ioctl::outq(socket.as_fd().as_raw_fd(), &raw mut waiting) }?;
        let after = info(socket)?.tcpi_bytes_acked;
        if waiting == 0 || before == Some(after) {
            return Ok(after + u64::try_from(waiting).unwrap_or(0));
        }
        before = Some(after);
    }
}

/// Bytes that have ever been read from the socket: those that have come (TCP_INFO) without those that wait (SIOCINQ). Exact likewise.
///
/// The kernel counts the end of what the peer sends (FIN) as a byte that has come, and not as one that waits. Of a connection that is over in
/// both directions it does not tell whether there was one; nearly always there was.
///
/// # Errors
/// When the system does not say.
pub fn read_so_far(socket: &impl AsFd) -> io::Result<u64> {
    loop {
        let before = info(socket)?.tcpi_bytes_received;
        let mut bytes = 0;
        // SAFETY: as above.
        unsafe { ioctl::inq(socket.as_fd().as_raw_fd(), &raw mut bytes) }?;
        let after = info(socket)?;
        if after.tcpi_bytes_received == before {
            let end = u64::from(HAS_END.contains(&after.tcpi_state));
            return Ok(before.saturating_sub(u64::try_from(bytes).unwrap_or(0)).saturating_sub(end));
        }
    }
}

/// States of TCP in which the peer has said that it sends no more (include/net/tcp_states.h): TIME_WAIT, CLOSE, CLOSE_WAIT, LAST_ACK, CLOSING.
const HAS_END: [u8; 5] = [6, 7, 8, 9, 11];

fn info(socket: &impl AsFd) -> io::Result<libc::tcp_info> {
    let mut info = MaybeUninit::<libc::tcp_info>::zeroed();
    let mut len = size_of::<libc::tcp_info>() as libc::socklen_t;
    // SAFETY: the descriptor is open as long as `socket` is borrowed; the kernel writes `len` bytes at most, and how many into `len`.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // Older kernels have shorter ones.
    let needed = offset_of!(libc::tcp_info, tcpi_bytes_received) + size_of::<u64>();
    if (len as usize) < needed {
        return Err(io::ErrorKind::Unsupported.into());
    }
    // SAFETY: numbers, all of them 0 or written by the kernel.
    Ok(unsafe { info.assume_init() })
}

mod ioctl {
    nix::ioctl_read_bad! {
        /// SIOCINQ, which has the number of FIONREAD.
        inq, nix::libc::FIONREAD, nix::libc::c_int
    }
    nix::ioctl_read_bad! {
        /// SIOCOUTQ, which has the number of TIOCOUTQ on every architecture.
        outq, nix::libc::TIOCOUTQ, nix::libc::c_int
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{Shutdown, TcpStream as Peer};

    use tokio::net::TcpListener;

    use super::*;

    /// A socket and its peer, whose bytes are there as soon as they are written.
    async fn pair() -> (TcpStream, Peer) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = Peer::connect(listener.local_addr().unwrap()).unwrap();
        peer.set_nodelay(true).unwrap();
        (listener.accept().await.unwrap().0, peer)
    }

    /// What the next read gives when the runtime says that there is something.
    async fn next(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            socket.readable().await?;
            match try_read(socket, buffer) {
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    fn is_blocked(read: io::Result<usize>) -> bool {
        read.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    #[tokio::test]
    async fn a_short_read_asks_the_kernel_no_second_time_and_what_comes_behind_it_is_not_lost() {
        let (socket, mut peer) = pair().await;
        let mut buffer = [0; 8];
        for round in 0..100 {
            peer.write_all(b"first").unwrap();
            if round % 2 == 1 {
                // In front of the read or behind it: each is another edge.
                socket.readable().await.unwrap();
                peer.write_all(b"&").unwrap();
            }
            let taken = next(&socket, &mut buffer).await.unwrap();
            assert_eq!(buffer[..taken], b"first&"[..5 + round % 2]);
            peer.write_all(b"second").unwrap();
            assert!(is_blocked(try_read(&socket, &mut buffer)), "it was not asked");
            let taken = next(&socket, &mut buffer).await.unwrap();
            assert_eq!(&buffer[..taken], b"second");
        }
    }

    #[tokio::test]
    async fn a_read_that_fills_the_buffer_may_be_followed_by_another_at_once() {
        let (socket, mut peer) = pair().await;
        peer.write_all(b"12345678").unwrap();
        let mut buffer = [0; 4];
        assert_eq!(next(&socket, &mut buffer).await.unwrap(), 4);
        assert_eq!(try_read(&socket, &mut buffer).unwrap(), 4);
        assert_eq!(&buffer, b"5678");
        assert!(is_blocked(try_read(&socket, &mut buffer)));
    }

    #[tokio::test]
    async fn the_peers_end_is_no_byte_that_was_read() {
        for is_closed in [false, true] {
            let (socket, mut peer) = pair().await;
            let mut buffer = [0; 8];
            assert_eq!(read_so_far(&socket).unwrap(), 0);
            peer.write_all(b"firstlast").unwrap();
            assert_eq!(next(&socket, &mut buffer[..5]).await.unwrap(), 5);
            assert_eq!(read_so_far(&socket).unwrap(), 5);
            let _peer = if is_closed {
                drop(peer);
                None
            } else {
                peer.shutdown(Shutdown::Write).unwrap();
                Some(peer)
            };
            assert_eq!(read_so_far(&socket).unwrap(), 5, "with bytes that wait");
            assert_eq!(next(&socket, &mut buffer).await.unwrap(), 4);
            assert_eq!(read_so_far(&socket).unwrap(), 9);
            assert_eq!(next(&socket, &mut buffer).await.unwrap(), 0);
            assert_eq!(read_so_far(&socket).unwrap(), 9, "with the end read");
            if is_closed {
                // It is answered with a reset.
                socket.try_write(b"x").unwrap();
                socket.ready(tokio::io::Interest::READABLE).await.unwrap();
                assert_eq!(read_so_far(&socket).unwrap(), 9, "behind a reset");
                assert_eq!(written(&socket).unwrap(), 1);
            }
        }
    }

    #[tokio::test]
    async fn an_end_that_comes_with_the_last_bytes_or_behind_them_is_seen() {
        for ends_first in [true, false] {
            let (socket, mut peer) = pair().await;
            let mut buffer = [0; 8];
            peer.write_all(b"last").unwrap();
            if ends_first {
                peer.shutdown(Shutdown::Write).unwrap();
            }
            assert_eq!(next(&socket, &mut buffer).await.unwrap(), 4);
            if !ends_first {
                peer.shutdown(Shutdown::Write).unwrap();
            }
            assert_eq!(next(&socket, &mut buffer).await.unwrap(), 0);
        }
    }
}
