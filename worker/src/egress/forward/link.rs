//! A connection to a target that publishes: what is sent on it is written down first, so that another process may go on with it.

use std::io::{self, IoSlice};
use std::net::TcpStream as Socket;
use std::os::fd::{AsFd, AsRawFd as _};
use std::rc::Rc;

use rtmp::client::{Config, Session};
use rtmp_io::{Client, socket};
use rustix::net::sockopt::socket_cookie;
use serde::{Deserialize, Serialize};
use shm::Id;
use stream::{Cursor, Flushed, Log, State, Wire};
use tokio::net::TcpStream;

use super::super::status::ForwardStatus;
use crate::channel::Channel;
use crate::failpoints;
use crate::hub::Hub;
use crate::keeping::{Keeping, kind, near};

/// What a record has of such a connection.
#[derive(Serialize, Deserialize)]
pub(crate) struct LinkRecord<S, C> {
    /// See [`ConnRecord`](crate::conn::record::ConnRecord).
    pub(crate) fd: i32,
    pub(crate) cookie: u64,
    /// Its forward.
    pub(crate) forward: Id,
    #[serde(deserialize_with = "near")]
    written: u64,
    #[serde(deserialize_with = "near")]
    read: u64,
    session: S,
    partials: Vec<u8>,
    state: C,
    #[serde(deserialize_with = "near")]
    bytes_sent: u64,
    #[serde(deserialize_with = "near")]
    begin: u64,
    #[serde(deserialize_with = "near")]
    position: u64,
    has_sent: bool,
}

/// A publication that is being forwarded.
pub(super) struct GoesOn {
    /// The record of its connection.
    pub(super) object: Option<Id>,
    /// Bytes written to and read from the connection, before this publication too.
    pub(super) written: u64,
    pub(super) read: u64,
    /// Where the publication begins.
    pub(super) begin: u64,
    pub(super) cursor: Cursor,
    /// Number of the message the cursor has reached.
    pub(super) position: u64,
    /// Whether a message has gone out on this connection.
    pub(super) has_sent: bool,
}

/// A connection that goes on from a process before.
pub(crate) struct Connected {
    pub(super) client: Client,
    pub(super) goes_on: GoesOn,
    /// The key with which it publishes, if there is one.
    pub(super) key: Option<Rc<str>>,
}

pub(super) struct Forwarding<'a> {
    pub(super) hub: &'a Hub,
    pub(super) channel: &'a Channel,
    pub(super) status: &'a ForwardStatus,
    pub(super) client: Client,
    pub(super) begin: u64,
    pub(super) cursor: Cursor,
    pub(super) position: u64,
    pub(super) has_sent: bool,
    link: Link,
}

/// The counts of a connection, and its record, which goes with it.
struct Link {
    object: Option<Id>,
    written: u64,
    read: u64,
    store: shm::Store,
}

impl Drop for Link {
    fn drop(&mut self) {
        if let Some(object) = self.object {
            self.store.remove(object);
        }
    }
}

/// The socket of a forward, before which what is sent next is written down.
struct Kernel<'a> {
    keeping: &'a Keeping,
    client: &'a Client,
    link: &'a mut Link,
    forward: Option<Id>,
    bytes_sent: u64,
    rest: (u64, u64, bool),
}

impl Wire for Kernel<'_> {
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let sent = socket::try_send(&self.client.socket, slices);
        failpoints::pass("send");
        if let Ok(bytes) = sent {
            self.link.written += bytes as u64;
            self.bytes_sent += bytes as u64;
        }
        sent
    }

    fn commit(&mut self, state: &State) {
        let (begin, position, has_sent) = self.rest;
        let Self { keeping, client, link, forward, bytes_sent, .. } = self;
        keeping.put(link.object, kind::LINK, |bytes| {
            let record = LinkRecord {
                fd: client.socket.as_raw_fd(),
                cookie: socket_cookie(&client.socket).ok()?,
                forward: (*forward)?,
                written: link.written,
                read: link.read,
                session: &client.session,
                partials: client.session.reader().partials().collect::<Vec<_>>().concat(),
                state,
                bytes_sent: *bytes_sent,
                begin,
                position,
                has_sent,
            };
            postcard::to_extend(&record, bytes).ok()
        });
        keeping.commit();
    }
}

impl<'a> Forwarding<'a> {
    pub(super) fn new(
        hub: &'a Hub,
        channel: &'a Channel,
        status: &'a ForwardStatus,
        client: Client,
        goes_on: GoesOn,
    ) -> Self {
        let GoesOn { object, written, read, begin, cursor, position, has_sent } = goes_on;
        let link = Link { object, written, read, store: hub.keeping.store.clone() };
        Self { hub, channel, status, client, begin, cursor, position, has_sent, link }
    }

    /// The connection, of which nothing is written down any more.
    pub(super) fn finish(self) -> Client {
        self.client
    }

    pub(super) fn object(&self) -> Option<Id> {
        self.link.object
    }

    /// Sends what there is.
    pub(super) fn send(&mut self, log: &Log) -> io::Result<Flushed> {
        let rest = (self.begin, self.position, self.has_sent);
        let bytes_sent = self.cursor.bytes_sent();
        let Self { hub, status, client, cursor, link, .. } = self;
        let forward = status.object.get();
        let mut kernel = Kernel { keeping: &hub.keeping, client, link, forward, bytes_sent, rest };
        cursor.flush(log, &mut kernel)
    }

    /// So many bytes more have been read and handled.
    pub(super) fn note_read(&mut self, bytes: usize) {
        self.link.read += bytes as u64;
        let rest = (self.begin, self.position, self.has_sent);
        let bytes_sent = self.cursor.bytes_sent();
        let Self { hub, status, client, cursor, link, .. } = self;
        let forward = status.object.get();
        Kernel { keeping: &hub.keeping, client, link, forward, bytes_sent, rest }.commit(cursor.state());
        cursor.set_committed();
    }
}

/// Bytes that a socket that we opened has taken from us: of its kernel's count the handshake of TCP is one.
pub(super) fn written(socket: &impl AsFd) -> Option<u64> {
    socket::written(socket).ok()?.checked_sub(1)
}

impl LinkRecord<Session, State> {
    /// The connection of this record, the object `id`, whose socket is `socket`, to be gone on with by what `config` gives, with `key` if it has
    /// one; `unhandled` is what was read from it and not handled. `None` if it cannot be right.
    pub(crate) fn restore(
        self,
        id: Id,
        socket: Socket,
        (config, key): (Config, Option<Rc<str>>),
        (log, unhandled): (&Log, &[u8]),
    ) -> Option<Connected> {
        let mut session = self.session;
        session.check(config).ok()?;
        if !session.restore_partials(&self.partials) {
            return None;
        }
        let written = written(&socket)?;
        let more = written.checked_sub(self.written)?;
        let cursor = Cursor::resume_at(self.state, self.bytes_sent, more, log).ok()?;
        let read = socket::read_so_far(&socket).ok()?;
        let input = unhandled.get(..usize::try_from(read.checked_sub(self.read)?).ok()?)?;
        let mut rest = input;
        // Echoes are waited for no more.
        while session.handle_input(&mut rest).ok()?.is_some() {}
        socket.set_nonblocking(true).ok()?;
        let client = Client { socket: TcpStream::from_std(socket).ok()?, session };
        let Self { begin, position, has_sent, .. } = self;
        let goes_on = GoesOn { object: Some(id), written, read, begin, cursor, position, has_sent };
        Some(Connected { client, goes_on, key })
    }
}
