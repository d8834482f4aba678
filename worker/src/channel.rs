//! One stream with those who have to do with it: players, forwarders, whoever watches its end.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::Rc;

use rtmp::server::StreamKey;
use stream::{Head, Log, Stream};
use tokio::sync::watch;

use crate::egress::player::Player;
use crate::egress::status::Forward;

/// See the [module](self). Shared by the connections of one worker, all on one thread.
pub(crate) struct Channel {
    pub(crate) key: StreamKey,
    /// Names the stream's clock to the edges: another channel of the same key has another.
    pub(crate) clock: String,
    stream: RefCell<Stream>,
    pub(crate) players: RefCell<Vec<Rc<Player>>>,
    /// Counts removals from `players`, so that a pass over them knows when it may have missed one.
    pub(crate) removals: Cell<u64>,
    pub(crate) forwards: RefCell<Vec<Forward>>,
    head: watch::Sender<Head>,
    /// Whether media have come since its players were last told of an end.
    pub(crate) is_open: Cell<bool>,
    /// When its publication began, ms.
    pub(crate) began: Cell<u64>,
    /// Which publication of the port it is.
    pub(crate) number: Cell<u64>,
    /// Its publication is to make room for another.
    pub(crate) makes_room: Cell<bool>,
    /// Seconds for which the name has carried a stream.
    pub(crate) carried: Cell<u32>,
    /// Whether the flush task knows that there is something to send.
    pub(crate) dirty: Cell<bool>,
}

impl Channel {
    pub(crate) fn new(key: StreamKey, clock: String, stream: Stream) -> Self {
        Self {
            key,
            clock,
            stream: RefCell::new(stream),
            players: RefCell::default(),
            removals: Cell::new(0),
            forwards: RefCell::default(),
            head: watch::Sender::new(Head::default()),
            is_open: Cell::new(false),
            began: Cell::new(0),
            number: Cell::new(0),
            makes_room: Cell::new(false),
            carried: Cell::new(0),
            dirty: Cell::new(false),
        }
    }

    pub(crate) fn stream(&self) -> Ref<'_, Stream> {
        self.stream.borrow()
    }

    pub(crate) fn stream_mut(&self) -> RefMut<'_, Stream> {
        self.stream.borrow_mut()
    }

    /// The log, for readers.
    pub(crate) fn log(&self) -> Ref<'_, Log> {
        Ref::map(self.stream.borrow(), Stream::log)
    }

    /// Changes of the log's end, and whether it moves.
    pub(crate) fn watch(&self) -> watch::Receiver<Head> {
        let head = self.head.subscribe();
        self.announce();
        head
    }

    /// Tells forwarders where the log ends now, if there are any.
    pub(crate) fn announce(&self) {
        if self.head.receiver_count() == 0 {
            return;
        }
        let head = self.stream.borrow().head();
        self.head.send_if_modified(|old| std::mem::replace(old, head) != head);
    }

    /// A reader begins at `offset` of the log.
    pub(crate) fn begin_reader(&self, offset: u64) {
        self.stream.borrow_mut().begin_reader(offset);
    }

    /// Once a second, at `now`, monotonic ms: the log drops what no reader needs.
    pub(crate) fn tick(&self, now: u64) {
        let (players, forwards) = (self.players.borrow(), self.forwards.borrow());
        let players = players.iter().map(|player| player.cursor.borrow().offset());
        let needed = players.chain(forwards.iter().filter_map(|forward| forward.needs(now))).min();
        self.stream.borrow_mut().tick(needed.unwrap_or(u64::MAX));
    }

    pub(crate) fn is_publishing(&self) -> bool {
        self.stream.borrow().publisher().is_some()
    }

    /// Whether it costs more than its name: it is published, or media are left of when it was.
    pub(crate) fn is_held(&self) -> bool {
        let stream = self.stream.borrow();
        stream.publisher().is_some() || !stream.log().is_empty()
    }

    /// Since when nobody publishes nor plays, ms.
    pub(crate) fn idle_since(&self) -> Option<u64> {
        self.stream.borrow().idle_since().filter(|_| self.players.borrow().is_empty())
    }

    /// Lets go of media and forwarders of a stream that nobody publishes.
    pub(crate) fn clear(&self) {
        self.forwards.borrow_mut().clear();
        self.stream.borrow_mut().clear();
    }
}
