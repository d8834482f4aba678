//! One stream with those who have to do with it: players, forwarders, whoever watches its end.

use std::cell::{Cell, Ref, RefCell, RefMut};
use std::rc::{Rc, Weak};

use rtmp::server::StreamKey;
use serde::{Deserialize, Serialize};
use shm::{Id, Recovery};
use stream::{Blobs, Head, Left, Log, Meter, Stream};
use tokio::sync::watch;

use crate::egress::player::Player;
use crate::egress::status::Forward;
use crate::keeping::{Keeping, Kept, kind, near};

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
    /// The clock of the origin whose place another one took, while both forward the stream.
    pub(crate) outdone: RefCell<Option<String>>,
    /// Whether media have come since its players were last told of an end.
    pub(crate) is_open: Cell<bool>,
    /// When its publication began, ms.
    pub(crate) began: Cell<u64>,
    /// Which publication of the port it is.
    pub(crate) number: Cell<u64>,
    /// Its publication is to end: it makes room for another, or its port is taken out of the cluster.
    pub(crate) is_to_end: Cell<bool>,
    /// Seconds for which the name has carried a stream.
    pub(crate) carried: Cell<u32>,
    /// Whether the flush task knows that there is something to send.
    pub(crate) dirty: Cell<bool>,
    keeping: Rc<Keeping>,
    me: Weak<Self>,
    /// Its record.
    pub(crate) object: Option<Id>,
    is_changed: Cell<bool>,
}

/// What a record has in front of the stream.
#[derive(Serialize, Deserialize)]
pub(crate) struct ChannelRecord {
    pub(crate) key: StreamKey,
    clock: String,
    is_open: bool,
    began: u64,
    #[serde(deserialize_with = "near")]
    number: u64,
    is_to_end: bool,
    carried: u32,
}

impl Channel {
    pub(crate) fn new(key: StreamKey, clock: String, stream: Stream, keeping: &Rc<Keeping>) -> Rc<Self> {
        let this = Self::with(key, clock, stream, keeping, keeping.store.add());
        this.touch();
        this
    }

    fn with(
        key: StreamKey,
        clock: String,
        stream: Stream,
        keeping: &Rc<Keeping>,
        object: Option<Id>,
    ) -> Rc<Self> {
        Rc::new_cyclic(|me| Self {
            key,
            clock,
            stream: RefCell::new(stream),
            players: RefCell::default(),
            removals: Cell::new(0),
            forwards: RefCell::default(),
            head: watch::Sender::new(Head::default()),
            outdone: RefCell::default(),
            is_open: Cell::new(false),
            began: Cell::new(0),
            number: Cell::new(0),
            is_to_end: Cell::new(false),
            carried: Cell::new(0),
            dirty: Cell::new(false),
            keeping: Rc::clone(keeping),
            me: Weak::clone(me),
            object,
            is_changed: Cell::new(false),
        })
    }

    /// The channel of a record, and what only its readers keep; `None` if that cannot be right.
    pub(crate) fn restore(
        object: Id,
        record: &[u8],
        keeping: &Rc<Keeping>,
        (recovery, blobs, meter): (&Recovery, &mut Blobs, &Meter),
    ) -> Option<(Rc<Self>, Left)> {
        let (head, rest) = postcard::take_from_bytes::<ChannelRecord>(record).ok()?;
        let ChannelRecord { key, clock, is_open, began, number, is_to_end, carried } = head;
        let (stream, rest, left) = Stream::restore(rest, recovery, blobs, meter)?;
        if !rest.is_empty() {
            return None;
        }
        let this = Self::with(key, clock, stream, keeping, Some(object));
        this.is_open.set(is_open);
        this.began.set(began);
        this.number.set(number);
        this.is_to_end.set(is_to_end);
        this.carried.set(carried);
        Some((this, left))
    }

    /// Puts those players first that are furthest behind: the worker before had not come to them yet, and they have waited longest.
    pub(crate) fn sort_players(&self) {
        self.players.borrow_mut().sort_by_key(|player| (player.cursor.borrow().offset(), player.conn.id));
    }

    /// It is not any more what was written down.
    pub(crate) fn touch(&self) {
        if !self.is_changed.replace(true) {
            self.keeping.touch(self.me.clone());
        }
    }

    pub(crate) fn stream(&self) -> Ref<'_, Stream> {
        self.stream.borrow()
    }

    pub(crate) fn stream_mut(&self) -> RefMut<'_, Stream> {
        self.touch();
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
        self.stream_mut().begin_reader(offset);
    }

    /// Once a second, at `now`, monotonic ms: the log drops what no reader needs.
    pub(crate) fn tick(&self, now: u64) {
        let (players, forwards) = (self.players.borrow(), self.forwards.borrow());
        let players = players.iter().map(|player| player.cursor.borrow().offset());
        let needed = players.chain(forwards.iter().filter_map(|forward| forward.needs(now))).min();
        self.stream_mut().tick(needed.unwrap_or(u64::MAX));
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
        self.stream_mut().clear();
    }
}

impl Kept for Channel {
    fn save(&self, keeping: &Keeping) {
        self.is_changed.set(false);
        let head = ChannelRecord {
            key: self.key.clone(),
            clock: self.clock.clone(),
            is_open: self.is_open.get(),
            began: self.began.get(),
            number: self.number.get(),
            is_to_end: self.is_to_end.get(),
            carried: self.carried.get(),
        };
        keeping.put(self.object, kind::CHANNEL, |record| {
            self.stream.borrow().save(postcard::to_extend(&head, record).ok()?)
        });
    }
}

impl Drop for Channel {
    fn drop(&mut self) {
        if let Some(object) = self.object {
            self.keeping.store.remove(object);
        }
    }
}
