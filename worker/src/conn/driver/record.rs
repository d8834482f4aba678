//! A connection in a record, and a connection that goes on from one.

use std::net::SocketAddr;
use std::rc::Rc;

use rtmp_io::socket;
use serde::{Deserialize, Serialize};
use shm::{Id, Recovery};
use stream::{ConnId, Cursor, PublicationId, State};
use tokio::net::TcpStream;
use tracing::debug;

use super::journal::{Journal, Saved};
use super::{Activity, Driver, Serving};
use crate::channel::Channel;
use crate::conn::by_stream::ByStream;
use crate::conn::handle::Conn;
use crate::conn::machine::Machine;
use crate::egress::play::Playing;
use crate::egress::player::{Player, PlayerRecord};
use crate::hub::Hub;
use crate::ingress::Publisher;
use crate::keeping::{FAR, kind, near};

/// What a record has of a connection.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ConnRecord<M> {
    /// Its socket: the descriptor, and what tells it from another that has the descriptor later.
    pub(crate) fd: i32,
    pub(crate) cookie: u64,
    #[serde(deserialize_with = "near")]
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    was_served: bool,
    /// Bytes written and read by then.
    #[serde(deserialize_with = "near")]
    written: u64,
    #[serde(deserialize_with = "near")]
    read: u64,
    /// Which writer its own task is; none where it is not.
    turn: Option<u64>,
    machine: M,
    partials: Saved,
    streams: Vec<(u32, Did)>,
}

/// What a message stream does, in a record.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Did {
    Publish { channel: Id, publication: (PublicationId, bool) },
    Play { channel: Id, player: Id },
}

/// Why a connection does not go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Broken {
    /// See the message.
    #[error("its record cannot be right")]
    Record,
    /// See the message.
    #[error("its stream is not there")]
    Stream,
    /// See the message.
    #[error("the kernel has counted what it cannot have been sent")]
    Counters,
}

impl Driver {
    /// Writes down the connection as it is now, and what else has changed: from here on others may hear of it.
    pub(super) fn commit(&mut self) {
        self.put();
        self.hub.keeping.commit();
    }

    fn put(&mut self) {
        let Self { hub, conn, machine, streams, journal, .. } = self;
        let did: Option<Vec<_>> =
            streams.iter().map(|(msid, activity)| Some((msid, activity.did()?))).collect();
        hub.keeping.put(conn.object.get(), kind::CONN, |bytes| {
            let record = ConnRecord {
                fd: conn.fd(),
                cookie: conn.cookie,
                id: conn.id.0,
                peer: conn.peer,
                was_served: conn.was_served.get(),
                written: conn.written.get(),
                read: conn.read.get(),
                turn: conn.is_writer(None).then(|| conn.turn()),
                machine: &*machine,
                partials: journal.save(machine.reader()),
                streams: did?,
            };
            postcard::to_extend(&record, bytes).ok()
        });
    }
}

impl Activity {
    fn did(&self) -> Option<Did> {
        Some(match self {
            Self::Publishing(publisher) => {
                Did::Publish { channel: publisher.channel().object?, publication: publisher.saved() }
            }
            Self::Playing(playing) => {
                Did::Play { channel: playing.channel().object?, player: playing.player.object.get()? }
            }
        })
    }
}

/// What a process before has left for a connection.
pub(crate) struct Left<'a> {
    pub(crate) recovery: &'a Recovery,
    pub(crate) channel: &'a dyn Fn(Id) -> Option<Rc<Channel>>,
    /// Takes the player of this number away.
    pub(crate) player: &'a mut dyn FnMut(Id) -> Option<PlayerRecord<State>>,
}

/// The connection of `record`, the object `id`, whose socket is `socket`.
pub(crate) fn restore(
    hub: &Rc<Hub>,
    (id, record): (Id, ConnRecord<Machine>),
    socket: TcpStream,
    left: Left<'_>,
) -> Result<Serving, Broken> {
    let Left { recovery, channel, player } = left;
    let ConnRecord { peer, was_served, read, turn, mut machine, partials, streams, .. } = record;
    let partials = partials.restore(recovery).ok_or(Broken::Record)?;
    if !machine.restore(&partials) {
        return Err(Broken::Record);
    }
    let written = socket::written(&socket).map_err(|_| Broken::Counters)?;
    let conn = Rc::new(Conn::new(ConnId(record.id), peer, socket));
    conn.object.set(Some(id));
    conn.was_served.set(was_served);
    conn.written.set(written);
    conn.read.set(read);

    // Whoever wrote last has been sent what its record does not say; all others are as it says.
    let mut did = Vec::new();
    for (msid, did_) in streams {
        let (Did::Publish { channel: id, .. } | Did::Play { channel: id, .. }) = did_;
        let channel = channel(id).ok_or(Broken::Stream)?;
        did.push((
            msid,
            channel,
            match did_ {
                Did::Publish { publication, .. } => Ok(publication),
                Did::Play { player: id, .. } => Err((id, player(id).ok_or(Broken::Record)?)),
            },
        ));
    }
    let turns = did
        .iter()
        .filter_map(|(msid, _, did)| did.as_ref().err().map(|(_, p)| (p.turn, p.written, Some(*msid))));
    let own = turn.map(|turn| (turn, record.written, None));
    let (turn, before, writer) = turns
        .chain(own)
        .max_by_key(|(turn, ..)| *turn)
        .filter(|(turn, ..)| *turn <= FAR)
        .ok_or(Broken::Record)?;
    let more = written.checked_sub(before).ok_or(Broken::Counters)?;
    conn.set_turn(turn);
    if writer.is_none() {
        let most = machine.output().len() as u64;
        // An end that was sent has been counted.
        if more > most && !machine.is_closing() {
            return Err(Broken::Counters);
        }
        machine.handle_sent(usize::try_from(more.min(most)).unwrap_or(0));
    }
    let mut activities = ByStream::default();
    let mut players = Vec::new();
    for (msid, channel, did) in did {
        match did {
            Ok(publication) => {
                let publisher = Publisher::restore(hub, channel, &conn, publication);
                activities.insert(msid, Activity::Publishing(publisher));
            }
            Err((id, record)) => {
                let more = if writer == Some(msid) { more } else { 0 };
                let cursor = Cursor::resume_at(record.state.clone(), 0, more, &channel.log());
                let cursor = cursor.map_err(|_| Broken::Counters)?;
                let player = Player::restore((Rc::clone(&conn), msid, cursor), &hub.keeping, (id, &record));
                players.push((Rc::clone(&player), writer == Some(msid)));
                activities.insert(msid, Activity::Playing(Playing::new(hub, channel, player)));
            }
        }
    }
    for (player, is_writer) in players {
        player.note(&player.cursor.borrow());
        if is_writer {
            player.set_writing();
        }
    }
    hub.take_over(&conn);
    debug!(%peer, "taken over");
    Ok(Serving(Driver {
        hub: Rc::clone(hub),
        conn,
        machine,
        streams: activities,
        journal: Journal::default(),
        is_changed: true,
        is_deaf: false,
    }))
}

impl Serving {
    /// Goes on: the connection is put as it is, to be committed.
    pub(crate) fn go_on(&mut self) {
        let driver = &mut self.0;
        driver.conn.set_deadline(driver.machine.deadline());
        let held = driver.machine.held() as u64;
        driver.hub.books.note_session(&driver.conn.holding, held, !driver.streams.is_empty());
        driver.put();
    }

    /// The record of the connection.
    pub(crate) fn object(&self) -> Option<Id> {
        self.0.conn.object.get()
    }

    /// How many bytes the worker before has read and not handled; they stand at the beginning of the buffer.
    pub(crate) fn unhandled(&self) -> u64 {
        let read = socket::read_so_far(&self.0.conn.socket);
        read.map_or(0, |read| read.saturating_sub(self.0.conn.read.get()))
    }

    /// Handles so many bytes of the buffer, which were read from this connection.
    pub(crate) fn handle(&mut self, bytes: usize) {
        if let Err(end) = self.0.handle_read(bytes) {
            // Its task meets the same again: the connection is at its end.
            debug!(peer = %self.0.conn.peer, %end, "ends after it was taken over");
            self.0.conn.cut(crate::conn::end::Cut::Lost);
        }
    }

    /// It is what the worker before was busy with when it died, more than once.
    pub(crate) fn give_up(&self) {
        self.0.conn.cut(crate::conn::end::Cut::Bug);
    }
}
