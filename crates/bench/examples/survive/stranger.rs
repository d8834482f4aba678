//! An address of which connections come that say nothing.

use std::io::ErrorKind;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};

use socket2::{Domain, Protocol, Socket, Type};

use crate::cluster::Result;

const ADDRESS: Ipv4Addr = Ipv4Addr::new(127, 210, 54, 99);

/// See the [module](self).
pub(crate) struct Stranger {
    address: SocketAddr,
    connections: Vec<TcpStream>,
}

impl Stranger {
    /// One that connects to `address`.
    pub(crate) fn new(address: SocketAddr) -> Self {
        Self { address, connections: Vec::new() }
    }

    /// Those that it has had last.
    pub(crate) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Has so many connections open, as far as the port lets it.
    pub(crate) fn connect(&mut self, connections: usize) -> Result<()> {
        self.connections
            .retain(|it| matches!(it.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock));
        while self.connections.len() < connections {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.bind(&SocketAddr::from((ADDRESS, 0)).into())?;
            socket.connect(&self.address.into())?;
            socket.set_nonblocking(true)?;
            self.connections.push(socket.into());
        }
        Ok(())
    }
}
