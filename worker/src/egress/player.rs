//! A connection that plays: its position in the stream's log, and its turn on the socket.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use rtmp::server::PlayEnd;
use rtmp_io::socket;
use stream::{Cursor, Flushed, Log};

use crate::conn::end::Cut;
use crate::conn::handle::Conn;
use crate::counters::Counters;

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
}

impl Player {
    pub(crate) fn new(conn: Rc<Conn>, msid: u32, cursor: Cursor) -> Self {
        Self {
            conn,
            msid,
            cursor: RefCell::new(cursor),
            parked: Cell::new(None),
            has_all: Cell::new(false),
            end: Cell::new(PlayEnd::Complete),
            is_queued: Cell::new(false),
        }
    }

    /// Why it gets no more, once it has had all.
    pub(crate) fn ended(&self) -> Option<PlayEnd> {
        self.has_all.get().then(|| self.end.get())
    }

    /// The publication is over at this offset of its log. If it has not had all of an earlier one yet, it gets no more than that.
    pub(crate) fn end_at(&self, offset: u64) {
        if self.end.replace(PlayEnd::Unpublished) != PlayEnd::Unpublished {
            self.cursor.borrow_mut().end_at(offset);
        }
    }

    /// It waits for a name in vain, and is to make room for another.
    pub(crate) fn make_room(&self) {
        self.end.set(PlayEnd::MadeRoom);
        self.has_all.set(true);
        self.conn.wake();
    }

    /// Replies of the session, for the next boundary of messages; false if there are too many of them already.
    pub(crate) fn push_control(&self, replies: &mut Vec<u8>) -> bool {
        let mut cursor = self.cursor.borrow_mut();
        let accepted = cursor.push_control(replies);
        self.note(&cursor);
        accepted
    }

    /// Bytes that go out before all others.
    pub(crate) fn owe(&self, bytes: Vec<u8>) {
        let mut cursor = self.cursor.borrow_mut();
        cursor.owe(bytes);
        self.note(&cursor);
    }

    fn note(&self, cursor: &Cursor) {
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
        let mut cursor = self.cursor.borrow_mut();
        let before = cursor.bytes_sent();
        let flushed = cursor.flush(log, &mut |slices| socket::try_send(&self.conn.socket, slices));
        let taken = cursor.bytes_sent() - before;
        counters.bytes_out.set(counters.bytes_out.get() + taken);
        counters.skips.set(counters.skips.get() + cursor.take_skips());
        self.note(&cursor);
        match flushed {
            Ok(Flushed::CaughtUp) => self.parked.set(None),
            Ok(Flushed::Blocked) => self.park(taken > 0, now),
            Ok(Flushed::Ended) => {
                self.parked.set(None);
                if !self.has_all.replace(true) {
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
