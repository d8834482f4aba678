//! Whether this kernel counts exactly what is sent and read: on that rests how a worker goes on where another was. Sandboxes that have a
//! network of their own may count otherwise, or nothing.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use rtmp_io::socket;

/// Bytes that go one way, and of them those that are read.
const SENT: usize = 10_000;
const READ: usize = 3_001;
/// The handshake of TCP is a byte in the count of whoever dials.
const DIALLED: u64 = 1;

/// Why what a worker has sent cannot be told when it is dead.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Inexact {
    /// See the message.
    #[error("the kernel does not count what a connection sends and reads: {0}")]
    Uncounted(io::Error),
    /// See the message.
    #[error("the kernel counts {counted} bytes of a connection where {real} were {what}")]
    Wrong {
        /// Sent or read.
        what: &'static str,
        /// What the kernel says.
        counted: u64,
        /// What was.
        real: u64,
    },
}

/// Sends and reads on a connection within this machine, and compares. Where there can be none, nothing is known, and the kernel is
/// trusted.
///
/// # Errors
/// See [`Inexact`].
pub(crate) fn counters_are_exact() -> Result<(), Inexact> {
    let Ok((dialled, accepted)) = connection() else { return Ok(()) };
    let exchanged = exchange(&dialled, &accepted).and_then(|()| exchange(&accepted, &dialled));
    if exchanged.is_err() {
        return Ok(());
    }
    let expect = |what, counted: io::Result<u64>, real: u64| {
        let counted = counted.map_err(Inexact::Uncounted)?;
        if counted == real { Ok(()) } else { Err(Inexact::Wrong { what, counted, real }) }
    };
    expect("sent", socket::written(&accepted), SENT as u64)?;
    expect("sent", socket::written(&dialled), SENT as u64 + DIALLED)?;
    expect("read", socket::read_so_far(&accepted), READ as u64)?;
    expect("read", socket::read_so_far(&dialled), READ as u64)
}

fn connection() -> io::Result<(TcpStream, TcpStream)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let dialled = TcpStream::connect(listener.local_addr()?)?;
    let accepted = listener.accept()?.0;
    // Else what is sent could wait for ever.
    dialled.set_nonblocking(true)?;
    accepted.set_nonblocking(true)?;
    Ok((dialled, accepted))
}

fn exchange(mut from: &TcpStream, mut to: &TcpStream) -> io::Result<()> {
    from.write_all(&[0; SENT])?;
    to.read_exact(&mut [0; READ])
}

#[cfg(test)]
mod tests {
    use std::net::Shutdown;

    use super::*;

    #[test]
    fn this_kernel_counts_exactly_also_behind_the_end_of_a_connection() {
        counters_are_exact().unwrap();
        let (dialled, accepted) = connection().unwrap();
        exchange(&dialled, &accepted).unwrap();
        dialled.shutdown(Shutdown::Write).unwrap();
        accepted.set_nonblocking(false).unwrap();
        let mut rest = Vec::new();
        (&accepted).read_to_end(&mut rest).unwrap();
        assert_eq!(rest.len(), SENT - READ);
        assert_eq!(socket::written(&accepted).unwrap(), 0);
    }
}
