//! A connection that plays: its position in the stream's log, and its turn on the socket.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

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
    pub(crate) cursor: RefCell<Cursor>,
    /// Since when a flush has not sent everything, ms: the socket is full, or it has had its sends. Its own task flushes it
    /// when the socket can take more.
    parked: Cell<Option<u64>>,
}

impl Player {
    pub(crate) fn new(conn: Rc<Conn>, cursor: Cursor) -> Self {
        Self { conn, cursor: RefCell::new(cursor), parked: Cell::new(None) }
    }

    pub(crate) fn is_parked(&self) -> bool {
        self.parked.get().is_some()
    }

    /// Sends what there is. A failing socket cuts the connection.
    pub(crate) fn flush(&self, log: &Log, counters: &Counters, now: u64) {
        let mut cursor = self.cursor.borrow_mut();
        let before = cursor.bytes_sent();
        let flushed = cursor.flush(log, &mut |slices| socket::try_send(&self.conn.socket, slices));
        let taken = cursor.bytes_sent() - before;
        counters.bytes_out.set(counters.bytes_out.get() + taken);
        counters.skips.set(counters.skips.get() + cursor.take_skips());
        match flushed {
            Ok(Flushed::CaughtUp) => self.parked.set(None),
            Ok(Flushed::Blocked) => {
                let newly = self.parked.get().is_none();
                if newly || taken > 0 {
                    self.parked.set(Some(now));
                }
                if newly {
                    // Its task must wait for the socket from now on.
                    self.conn.wake();
                }
            }
            Err(_) => self.conn.cut(Cut::Lost),
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
