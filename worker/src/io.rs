//! Writes to sockets.

use std::io::{self, IoSlice};

use rustix::net::{SendAncillaryBuffer, SendFlags, send, sendmsg};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A non-blocking `send` or `sendmsg`: the one system call per flush and player. `send` spares the kernel what it does
/// for files in `write`.
pub(crate) fn try_send(socket: &TcpStream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    socket.try_io(Interest::WRITABLE, || match slices {
        [bytes] => Ok(send(socket, bytes, flags)?),
        many => Ok(sendmsg(socket, many, &mut SendAncillaryBuffer::default(), flags)?),
    })
}

/// Sends all of `bytes` and empties it.
pub(crate) async fn write_all(socket: &TcpStream, bytes: &mut Vec<u8>) -> io::Result<()> {
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
