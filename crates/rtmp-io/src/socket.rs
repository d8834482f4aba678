//! The socket of an RTMP connection: its options, sending, and what its peer has taken.
#![expect(unsafe_code, reason = "SIOCOUTQ has no safe form")]

use std::io::{self, IoSlice};
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use socket2::{SockRef, TcpKeepalive};
use tokio::io::Interest;
use tokio::net::TcpStream;

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

mod ioctl {
    nix::ioctl_read_bad! {
        /// SIOCOUTQ, which has the number of TIOCOUTQ on every architecture.
        outq, nix::libc::TIOCOUTQ, nix::libc::c_int
    }
}
