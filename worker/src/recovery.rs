//! What a worker finds that another has left: streams, connections, players, and what was read and not handled.
//!
//! The worker before is dead for certain. Whatever it has left is looked at as a stranger's: a record that cannot be right costs its own
//! connection, and is counted. First, before there is a runtime, all descriptors are found that go on ([`open`], [`Legacy::find_sockets`]); the
//! others are closed. Then streams, connections and players are made again ([`Legacy::take`]).

use std::collections::{HashMap, HashSet};
use std::hash::Hash;
use std::net::TcpStream as Socket;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;

use rtmp::client::Session;
use rtmp_io::socket;
use rustix::net::sockopt::{socket_cookie, socket_domain};
use shm::{Id, LAYOUT, Memory, OLDEST_LAYOUT, Object, Recovery, Store};
use stream::{Blobs, State};
use tokio::net::TcpStream;
use tracing::{info, warn};

use crate::channel::Channel;
use crate::conn::machine::Machine;
use crate::conn::record::{ConnRecord, Left};
use crate::conn::{self, Serving};
use crate::egress::forward::{self, LinkRecord};
use crate::egress::player::PlayerRecord;
use crate::egress::status::ForwardRecord;
use crate::failpoints;
use crate::hub::Hub;
use crate::keeping::{Keeping, PortRecord, RECORDS, kind, reads, word};

/// What it means for those who were connected.
const FORGOT: &str = "the next one forgot all connections";

/// See the [module](self).
pub(crate) struct Legacy {
    recovery: Recovery,
    objects: Vec<Object>,
    /// Of each connection that goes on.
    sockets: Vec<(Id, ConnRecord<Machine>, Socket)>,
    /// Of each forward whose connection goes on, by the forward.
    links: HashMap<Id, (Id, LinkRecord<Session, State>, Socket)>,
    /// Accepted, and not written down yet.
    fresh: Vec<Socket>,
    /// Records that cannot be right.
    broken: usize,
    /// Connections among them.
    lost: usize,
}

/// What [`open`] has found.
pub(crate) struct Opened {
    pub(crate) store: Store,
    /// What another worker has left.
    pub(crate) legacy: Option<Legacy>,
    /// Why the store ends with this worker, if it does.
    pub(crate) unkept: Option<String>,
    /// Why nothing of another worker is used, if there was one.
    pub(crate) forgot: Option<String>,
}

impl Opened {
    fn new(store: Store, legacy: Option<Legacy>) -> Self {
        Self { store, legacy, unkept: None, forgot: None }
    }

    /// Uses nothing of what is there, because of `why`.
    fn cold(memory: Memory, why: String) -> Self {
        Self { forgot: Some(why), ..Self::new(create(memory), None) }
    }

    /// Nothing of this worker outlives it, because of `why`.
    pub(crate) fn private(why: String) -> Self {
        let forgot = Some(format!("{FORGOT}: {why}"));
        Self { unkept: Some(why), forgot, ..Self::new(Store::private(1 << 20), None) }
    }
}

/// The store of this worker, and what is there of another. `file` is the one that the keeper has made for its workers. Opens nothing.
#[expect(unsafe_code, reason = "the memory is another process's too")]
pub(crate) fn open(file: Option<BorrowedFd<'_>>, is_cold: bool) -> Opened {
    let map = || {
        let file = file.ok_or("the system gives no memory that outlives it")?;
        // SAFETY: the keeper never writes to it, and starts a worker when the one before is dead. Of this process nothing else knows it.
        let memory = unsafe { Memory::map(file) };
        memory.map_err(|error| format!("the memory that outlives it cannot be mapped: {error}"))
    };
    let memory = match map() {
        Ok(memory) => memory,
        Err(why) => return Opened::private(why),
    };
    if is_cold {
        return Opened::cold(memory, format!("so soon after others that {FORGOT}"));
    }
    match Recovery::open(memory) {
        Ok((recovery, _)) if !reads(recovery.store().word(word::VERSION)) => {
            warn!("what the worker before has left is of another version; its connections are lost");
            drop(recovery);
            let why = format!("{FORGOT}: what was left is of another version");
            map().map_or_else(Opened::private, |memory| Opened::cold(memory, why))
        }
        Ok((recovery, found)) => {
            // What is put from here on is of this version, and objects of both may stand beside each other.
            recovery.store().set_word(word::VERSION, RECORDS);
            let legacy = Legacy {
                recovery,
                objects: found.objects,
                sockets: Vec::new(),
                links: HashMap::new(),
                fresh: Vec::new(),
                broken: found.broken,
                lost: 0,
            };
            Opened::new(legacy.recovery.store().clone(), Some(legacy))
        }
        Err((shm::RecoveryError::None, memory)) => Opened::new(create(memory), None),
        Err((error, memory)) => {
            warn!(%error, "what the worker before has left cannot be used; its connections are lost");
            Opened::cold(memory, format!("{FORGOT}: what was left cannot be used: {error}"))
        }
    }
}

/// Whether a worker of this program would go on with what is in `file`, which another may write to meanwhile.
pub(crate) fn is_readable(file: BorrowedFd<'_>) -> bool {
    shm::peek(file).is_some_and(|(layout, words)| {
        (OLDEST_LAYOUT..=LAYOUT).contains(&layout) && words.get(word::VERSION).is_some_and(|it| reads(*it))
    })
}

/// An empty store for this worker and the next.
fn create(memory: Memory) -> Store {
    let store = Store::create(memory);
    store.set_word(word::VERSION, RECORDS);
    store
}

impl Legacy {
    /// Finds the sockets that go on among all that the worker before had `open`, and closes the rest; `listener` is that of the port.
    pub(crate) fn find_sockets(&mut self, open: Vec<OwnedFd>, listener: Option<BorrowedFd<'_>>) {
        let mut open: HashMap<RawFd, OwnedFd> = open.into_iter().map(|fd| (fd.as_raw_fd(), fd)).collect();
        let mut find = |number: RawFd, cookie: u64| {
            let is_its = |fd: &OwnedFd| socket_cookie(fd).is_ok_and(|other| other == cookie);
            // Else it was closed by the worker before, and the number may be that of one that came since.
            open.get(&number).is_some_and(is_its).then(|| open.remove(&number))?.map(Socket::from)
        };
        let records = self.objects.extract_if(.., |object| matches!(object.kind, kind::CONN | kind::LINK));
        let records: Vec<_> = records.collect();
        let (mut conns, mut links) = (Vec::with_capacity(records.len()), Vec::new());
        // One that could not be written down is empty.
        for Object { id, kind, bytes } in records {
            if kind == kind::CONN {
                match postcard::from_bytes::<ConnRecord<Machine>>(&bytes) {
                    Ok(record) => conns.push((id, record)),
                    Err(_) => self.lose(id),
                }
            } else {
                match postcard::from_bytes::<LinkRecord<Session, State>>(&bytes) {
                    Ok(record) => links.push((id, record)),
                    Err(_) => self.give_up(id),
                }
            }
        }
        // A socket is one connection's, and each has a number of its own. Nobody can tell whose it is that two records claim.
        let of_conns = conns.iter().map(|(_, record)| record.cookie);
        let cookies = doubles(of_conns.chain(links.iter().map(|(_, record)| record.cookie)));
        let conns: Vec<_> = conns.into_iter().map(|(id, it)| (id, find(it.fd, it.cookie), it)).collect();
        // Of one that was closed, the number may be another's since.
        let open_ones = conns.iter().filter(|(_, socket, _)| socket.is_some());
        let numbers = doubles(open_ones.map(|(.., record)| record.id));
        let forwards = doubles(links.iter().map(|(_, record)| record.forward));
        self.sockets.reserve(conns.len());
        for (id, socket, record) in conns {
            if cookies.contains(&record.cookie) || socket.is_some() && numbers.contains(&record.id) {
                warn!(peer = %record.peer, "another connection claims its socket or its number; both are lost");
                self.lose(id);
                continue;
            }
            match socket {
                Some(socket) => self.sockets.push((id, record, socket)),
                None => self.recovery.store().remove(id),
            }
        }
        for (id, record) in links {
            let socket = find(record.fd, record.cookie);
            if cookies.contains(&record.cookie) || forwards.contains(&record.forward) {
                warn!("another connection claims the socket or the forward of one; both are lost");
                self.give_up(id);
                continue;
            }
            match socket {
                Some(socket) => drop(self.links.insert(record.forward, (id, record, socket))),
                None => self.recovery.store().remove(id),
            }
        }
        let port = listener.and_then(address);
        let fresh = open.into_values().filter(|fd| socket_domain(fd).is_ok()).map(Socket::from);
        self.fresh = fresh.filter(|fresh| is_fresh(fresh, port)).collect();
    }

    /// What was found, to be made another.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn objects(&mut self) -> &mut [Object] {
        &mut self.objects
    }

    fn give_up(&mut self, object: Id) {
        self.broken += 1;
        self.recovery.store().remove(object);
    }

    /// The same of a connection's record.
    fn lose(&mut self, object: Id) {
        self.lost += 1;
        self.give_up(object);
    }

    /// The record of the port as a whole.
    pub(crate) fn port(&mut self) -> (Option<Id>, PortRecord) {
        let index = self.objects.iter().position(|object| object.kind == kind::PORT);
        let object = index.map(|index| self.objects.remove(index));
        let id = object.as_ref().map(|object| object.id);
        let record = object.and_then(|object| postcard::from_bytes(&object.bytes).ok());
        (id, record.unwrap_or_default())
    }

    /// Makes it all again, in `hub`; the connections that are to be served, and how many are lost.
    pub(crate) fn take(mut self, hub: &Rc<Hub>) -> (Vec<Serving>, usize) {
        let store = hub.keeping.store.clone();
        let mut blobs = Blobs::take(&store, &mut self.objects);
        // Nearly all that is left are players.
        let mut players = HashMap::with_capacity(self.objects.len());
        let (mut channels, mut forwards) = (HashMap::new(), Vec::new());
        let mut kept = Vec::new();
        for Object { id, kind, bytes } in std::mem::take(&mut self.objects) {
            match kind {
                kind::CHANNEL => {
                    let with = (&self.recovery, &mut blobs, &hub.books.media);
                    match Channel::restore(id, &bytes, &hub.keeping, with) {
                        // Of two streams of a name, the second is none.
                        Some((channel, _)) if hub.find(&channel.key).is_some() => self.broken += 1,
                        Some((channel, left)) => {
                            hub.take_over_stream(&channel);
                            channels.insert(id, channel);
                            kept.push(left);
                        }
                        None => self.give_up(id),
                    }
                }
                kind::PLAYER => match postcard::from_bytes::<PlayerRecord<_>>(&bytes) {
                    Ok(record) => {
                        players.insert(id, record);
                    }
                    Err(_) => self.give_up(id),
                },
                kind::FORWARD => match postcard::from_bytes::<ForwardRecord>(&bytes) {
                    Ok(record) => forwards.push((id, record)),
                    Err(_) => self.give_up(id),
                },
                _ => store.remove(id),
            }
        }
        let mut servings = Vec::with_capacity(self.sockets.len());
        for (id, record, socket) in std::mem::take(&mut self.sockets) {
            let left = Left {
                recovery: &self.recovery,
                channel: &|id| channels.get(&id).cloned(),
                player: &mut |id| players.remove(&id),
            };
            // It was accepted as one that never blocks.
            let socket = TcpStream::from_std(socket).map_err(Box::<dyn std::error::Error>::from);
            match socket.and_then(|socket| Ok(conn::record::restore(hub, (id, record), socket, left)?)) {
                Ok(serving) => servings.push(serving),
                Err(error) => {
                    warn!(%error, "a connection does not go on");
                    self.lose(id);
                }
            }
        }
        players.into_keys().for_each(|id| store.remove(id));
        for channel in channels.values() {
            channel.touch();
        }
        drop((blobs, kept));
        let Self { recovery, fresh, broken, mut lost, mut links, .. } = self;
        failpoints::pass("recovery.made");
        // The port has the same store.
        let _ = recovery.finish();
        failpoints::pass("recovery.finished");
        for serving in &mut servings {
            serving.go_on();
        }
        hub.save();
        hub.keeping.commit();
        failpoints::pass("recovery.committed");
        let suspect = Suspect::find(&hub.keeping);
        for (id, record) in &forwards {
            let channel = channels.get(&record.channel);
            let link = links.remove(id);
            let goes_on =
                channel.is_some_and(|channel| restore_forward(hub, channel, (*id, record), link, &suspect));
            if !goes_on {
                store.remove(*id);
            }
        }
        links.into_values().for_each(|(id, ..)| store.remove(id));
        lost += suspect.handle(&hub.keeping, &mut servings);
        let fresh = fresh.into_iter().filter_map(|socket| TcpStream::from_std(socket).ok());
        servings.extend(fresh.filter_map(|socket| {
            let peer = socket.peer_addr().ok()?;
            socket::set_options(&socket).ok()?;
            Some(conn::begin(Rc::clone(hub), hub.admit(socket, peer)?))
        }));
        end_orphans(hub);
        hub.keeping.commit();
        for channel in channels.values() {
            channel.sort_players();
            // What waits for a player is not always followed by more.
            hub.mark_dirty(channel);
        }
        info!(
            connections = servings.len(),
            streams = channels.len(),
            broken,
            lost,
            "goes on where the worker before was"
        );
        (servings, lost)
    }
}

/// Those of `keys` that are there more than once.
fn doubles<K: Copy + Eq + Hash>(keys: impl Iterator<Item = K>) -> HashSet<K> {
    let (mut seen, mut twice) = (HashSet::new(), HashSet::new());
    twice.extend(keys.filter(|key| !seen.insert(*key)));
    twice
}

/// Makes a forward again, and its connection, if there is one that can go on.
fn restore_forward(
    hub: &Rc<Hub>,
    channel: &Rc<Channel>,
    (id, record): (Id, &ForwardRecord),
    link: Option<(Id, LinkRecord<Session, State>, Socket)>,
    suspect: &Suspect,
) -> bool {
    let destination = forward::destination(hub, channel, record);
    let connected = link.zip(destination.as_ref()).and_then(|((link, record, socket), destination)| {
        let buffer = hub.keeping.buffer.borrow();
        let unhandled = if suspect.is_handled(link) { &buffer[..] } else { &[] };
        let request = forward::request_again(hub, channel, destination);
        let connected = request.and_then(|(config, key)| {
            record.restore(link, socket, (config, key), (&channel.log(), unhandled))
        });
        if connected.is_none() {
            hub.keeping.store.remove(link);
            warn!(target = %destination.target().id, "the connection of a forward does not go on");
        }
        connected
    });
    forward::restore(hub, channel, (id, record), destination.map(|destination| (destination, connected)))
}

/// The connection that the worker before was busy with when it died.
struct Suspect {
    busy: u64,
    /// The one before that as well.
    was_before: bool,
}

impl Suspect {
    fn find(keeping: &Keeping) -> Self {
        let busy = keeping.store.word(word::READS);
        let was_before = busy != 0 && keeping.store.word(word::SUSPECT) == busy;
        keeping.store.set_word(word::SUSPECT, busy);
        Self { busy, was_before }
    }

    fn is_busy(&self, id: Option<Id>) -> bool {
        id.is_some_and(|id| id.number() == self.busy)
    }

    /// Whether what was read from it and not handled is handled now.
    fn is_handled(&self, id: Id) -> bool {
        self.is_busy(Some(id)) && !self.was_before
    }

    /// What was read and not handled is handled before anything else is read. What one worker died of and the next one again is not: its
    /// connection is ended. How many are.
    fn handle(self, keeping: &Keeping, servings: &mut [Serving]) -> usize {
        let mut ended = 0;
        // No other was being read from.
        for serving in servings.iter_mut().filter(|serving| self.is_busy(serving.object())) {
            let unhandled = serving.unhandled();
            if self.was_before {
                warn!("two workers died of what this connection sent; it is ended");
                serving.give_up();
                ended += 1;
            } else if unhandled > 0 {
                let bytes = usize::try_from(unhandled).unwrap_or(usize::MAX);
                if bytes <= keeping.buffer.borrow().len() {
                    serving.handle(bytes);
                } else {
                    warn!(unhandled, "what a connection sent is lost; it is ended");
                    serving.give_up();
                    ended += 1;
                }
            }
        }
        keeping.end_read();
        // It has done no harm.
        keeping.store.set_word(word::SUSPECT, 0);
        ended
    }
}

/// Streams whose publisher does not go on.
fn end_orphans(hub: &Rc<Hub>) {
    for channel in hub.channels() {
        let publisher = channel.stream().publisher();
        if publisher.is_some_and(|id| hub.peer(id).is_none()) {
            crate::ingress::end_orphan(hub, &channel);
        }
    }
}

/// How many of the descriptors that the worker before had `open` are connections that `listener` has accepted.
pub(crate) fn accepted(open: &[OwnedFd], listener: Option<BorrowedFd<'_>>) -> usize {
    let Some(port) = listener.and_then(address).map(|at| at.port()) else { return 0 };
    let is_accepted = |fd: &&OwnedFd| {
        address(fd.as_fd()).is_some_and(|own| own.port() == port) && rustix::net::getpeername(fd).is_ok()
    };
    open.iter().filter(is_accepted).count()
}

/// Where a socket is bound.
fn address(socket: BorrowedFd<'_>) -> Option<std::net::SocketAddr> {
    rustix::net::getsockname(socket).ok()?.try_into().ok()
}

/// Whether nobody has read from or written to a connection that the port has accepted.
fn is_fresh(socket: &Socket, port: Option<std::net::SocketAddr>) -> bool {
    let is_ours = socket.local_addr().ok().map(|at| at.port()) == port.map(|port| port.port());
    let untouched = |bytes: std::io::Result<u64>| bytes.is_ok_and(|bytes| bytes == 0);
    is_ours
        && socket.peer_addr().is_ok()
        && untouched(socket::read_so_far(socket))
        && untouched(socket::written(socket))
}
