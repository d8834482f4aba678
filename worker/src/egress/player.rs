//! A connection that plays: its position in the stream's log, and its turn on the socket.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::rc::{Rc, Weak};

use rtmp::server::PlayEnd;
use rtmp_io::socket;
use serde::{Deserialize, Serialize};
use shm::Id;
use stream::{Cursor, Flushed, Log, State, Wire};

use crate::conn::end::Cut;
use crate::conn::handle::Conn;
use crate::counters::Counters;
use crate::failpoints;
use crate::keeping::{Keeping, Kept, kind, near};

/// A player that takes no byte for this long is closed, ms.
const STUCK_AFTER: u64 = 30_000;

/// See the [module](self).
pub(crate) struct Player {
    pub(crate) conn: Rc<Conn>,
    /// Message stream it plays on.
    pub(crate) msid: u32,
    pub(crate) cursor: RefCell<Cursor>,
    /// Since when a flush has not sent everything, ms: the socket is full, or it has had its sends. Its own task flushes it
    /// when the socket can take more.
    parked: Cell<Option<u64>>,
    /// It has had all that it gets.
    has_all: Cell<bool>,
    /// Why there is an end to what it gets.
    end: Cell<PlayEnd>,
    /// It is among those that catch up in turn.
    is_queued: Cell<bool>,
    keeping: Rc<Keeping>,
    me: Weak<Self>,
    /// Its record.
    pub(crate) object: Cell<Option<Id>>,
    is_changed: Cell<bool>,
    /// Its record has private bytes.
    is_bulky: Cell<bool>,
    /// As which [writer](Conn::turn) of its connection it has written last.
    turn: Cell<u64>,
}

/// What a record has of a player.
#[derive(Serialize, Deserialize)]
pub(crate) struct PlayerRecord<S> {
    pub(crate) state: S,
    /// Bytes that its connection had written by then.
    #[serde(deserialize_with = "near")]
    pub(crate) written: u64,
    #[serde(deserialize_with = "near")]
    pub(crate) turn: u64,
    pub(crate) has_all: bool,
    pub(crate) end: PlayEnd,
}

/// The socket of a player, before which what is sent next is written down.
struct Kernel<'a>(&'a Player);

impl Wire for Kernel<'_> {
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let conn = &self.0.conn;
        let sent = socket::try_send(&conn.socket, slices);
        failpoints::pass("send");
        if let Ok(bytes) = sent {
            conn.note_written(bytes);
        }
        sent
    }

    fn commit(&mut self, state: &State) {
        self.0.put(state);
        self.0.keeping.commit();
    }
}

impl Player {
    pub(crate) fn new(conn: Rc<Conn>, msid: u32, cursor: Cursor, keeping: &Rc<Keeping>) -> Rc<Self> {
        Self::with(conn, msid, cursor, keeping, keeping.store.add())
    }

    /// The player of a record, whose cursor is `cursor` by now.
    pub(crate) fn restore<S>(
        (conn, msid, cursor): (Rc<Conn>, u32, Cursor),
        keeping: &Rc<Keeping>,
        (object, record): (Id, &PlayerRecord<S>),
    ) -> Rc<Self> {
        let this = Self::with(conn, msid, cursor, keeping, Some(object));
        this.has_all.set(record.has_all);
        this.end.set(record.end);
        this.turn.set(record.turn);
        this
    }

    fn with(
        conn: Rc<Conn>,
        msid: u32,
        cursor: Cursor,
        keeping: &Rc<Keeping>,
        object: Option<Id>,
    ) -> Rc<Self> {
        let this = Rc::new_cyclic(|me| Self {
            conn,
            msid,
            cursor: RefCell::new(cursor),
            parked: Cell::new(None),
            has_all: Cell::new(false),
            end: Cell::new(PlayEnd::Complete),
            is_queued: Cell::new(false),
            keeping: Rc::clone(keeping),
            me: Weak::clone(me),
            object: Cell::new(object),
            is_changed: Cell::new(false),
            is_bulky: Cell::new(false),
            turn: Cell::new(0),
        });
        this.touch();
        this
    }

    /// Changes its cursor.
    pub(crate) fn change<R>(&self, change: impl FnOnce(&mut Cursor) -> R) -> R {
        self.touch();
        change(&mut self.cursor.borrow_mut())
    }

    /// It is not any more what was written down.
    fn touch(&self) {
        if !self.is_changed.replace(true) {
            self.keeping.touch(self.me.clone());
        }
    }

    /// It writes to its connection's socket from now on.
    pub(crate) fn set_writing(&self) {
        self.conn.set_writer(Some((self.msid, self.me.clone())), &self.keeping);
        self.turn.set(self.conn.turn());
    }

    fn put(&self, state: &State) {
        self.is_changed.set(false);
        self.is_bulky.set(state.private() > 0);
        let record = PlayerRecord {
            state,
            written: self.conn.written.get(),
            turn: self.turn.get(),
            has_all: self.has_all.get(),
            end: self.end.get(),
        };
        self.keeping.put(self.object.get(), kind::PLAYER, |bytes| postcard::to_extend(&record, bytes).ok());
    }

    /// Why it gets no more, once it has had all.
    pub(crate) fn ended(&self) -> Option<PlayEnd> {
        self.has_all.get().then(|| self.end.get())
    }

    /// The publication is over at this offset of its log. If it has not had all of an earlier one yet, it gets no more than that.
    pub(crate) fn end_at(&self, offset: u64) {
        if self.end.replace(PlayEnd::Unpublished) != PlayEnd::Unpublished {
            self.change(|cursor| cursor.end_at(offset));
        }
    }

    /// It waits for a name in vain, and is to make room for another.
    pub(crate) fn make_room(&self) {
        self.end.set(PlayEnd::MadeRoom);
        self.has_all.set(true);
        self.touch();
        self.conn.wake();
    }

    /// Replies of the session, for the next boundary of messages; false if there are too many of them already.
    pub(crate) fn push_control(&self, replies: &mut Vec<u8>) -> bool {
        let accepted = self.change(|cursor| cursor.push_control(replies));
        self.note(&self.cursor.borrow());
        accepted
    }

    /// Bytes that go out before all others.
    pub(crate) fn owe(&self, bytes: Vec<u8>) {
        self.change(|cursor| cursor.owe(bytes));
        self.note(&self.cursor.borrow());
    }

    /// What others on its socket have to know of it.
    pub(crate) fn note(&self, cursor: &Cursor) {
        self.conn.outlet.note(self.msid, cursor.is_half_sent(), cursor.has_control());
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.parked.get().is_some()
    }

    /// Whether it waits for its turn to catch up.
    pub(crate) fn is_queued(&self) -> bool {
        self.is_queued.get()
    }

    /// It plays no more: whoever still has it sends nothing.
    pub(crate) fn leave(&self) {
        self.parked.set(None);
        if let Some(object) = self.object.take() {
            self.keeping.store.remove(object);
        }
    }

    /// It waits for its turn from now on, or no more; whether it did before.
    pub(crate) fn set_queued(&self, queued: bool) -> bool {
        self.is_queued.replace(queued)
    }

    /// Sends what there is. A failing socket cuts the connection.
    pub(crate) fn flush(&self, log: &Log, counters: &Counters, now: u64) {
        if self.conn.is_cut().is_some() {
            return;
        }
        if self.conn.outlet.is_taken(self.msid) {
            // It waits for the other, whose own time runs.
            self.park(true, now);
            return;
        }
        if !self.conn.is_writer(Some(self.msid)) {
            self.set_writing();
            self.touch();
        }
        if self.keeping.has_changes() {
            self.keeping.commit();
        }
        let mut cursor = self.cursor.borrow_mut();
        let before = cursor.bytes_sent();
        let flushed = cursor.flush(log, &mut Kernel(self));
        let taken = cursor.bytes_sent() - before;
        counters.bytes_out.set(counters.bytes_out.get() + taken);
        counters.skips.set(counters.skips.get() + cursor.take_skips());
        self.note(&cursor);
        if self.is_bulky.get() && cursor.state().private() == 0 {
            // Headers and metadata that are sent are not kept for thousands.
            self.touch();
        }
        match flushed {
            Ok(Flushed::CaughtUp) => self.parked.set(None),
            Ok(Flushed::Blocked) => self.park(taken > 0, now),
            Ok(Flushed::Ended) => {
                self.parked.set(None);
                if !self.has_all.replace(true) {
                    self.touch();
                    // Its task ends the play.
                    self.conn.wake();
                }
            }
            Err(_) => self.conn.cut(Cut::Lost),
        }
    }

    /// From now on its own task waits for the socket; `has_moved` is a sign of life.
    fn park(&self, has_moved: bool, now: u64) {
        let newly = self.parked.get().is_none();
        if newly || has_moved {
            self.parked.set(Some(now));
        }
        if newly {
            self.conn.wake();
        }
    }

    /// Cuts a player that has taken nothing for too long; true if it did.
    pub(crate) fn check_stuck(&self, now: u64) -> bool {
        let stuck = self.parked.get().is_some_and(|since| now.saturating_sub(since) >= STUCK_AFTER);
        if stuck && self.conn.is_cut().is_none() {
            self.conn.cut(Cut::Stuck);
            return true;
        }
        false
    }
}

impl Kept for Player {
    fn save(&self, _: &Keeping) {
        let mut cursor = self.cursor.borrow_mut();
        self.put(cursor.state());
        cursor.set_committed();
    }
}
