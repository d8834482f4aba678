//! One TCP connection as the rest of the worker sees it: where it comes from, and how to end it.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, RawFd};
use std::rc::Weak;
use std::task::Waker;

use rustix::net::sockopt::socket_cookie;
use shm::Id;
use stream::ConnId;
use tokio::net::TcpStream;

use super::end::Cut;
use super::outlet::Outlet;
use crate::keeping::{Keeping, Kept};
use crate::memory::Holding;
use crate::places;

/// See the [module](self).
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) peer: SocketAddr,
    /// Whose share it uses; see [`places`].
    pub(crate) source: IpAddr,
    /// It has published or played.
    pub(crate) was_served: Cell<bool>,
    /// What it holds of the port's memory.
    pub(crate) holding: Holding,
    pub(crate) socket: TcpStream,
    /// Tells its socket from all others of this kernel (SO_COOKIE).
    pub(crate) cookie: u64,
    /// Its record.
    pub(crate) object: Cell<Option<Id>>,
    /// Bytes that its socket has taken, and that were read from it.
    pub(crate) written: Cell<u64>,
    pub(crate) read: Cell<u64>,
    /// Who has written last: the player on this message stream, or else its own task.
    writer: RefCell<Option<(u32, Weak<dyn Kept>)>>,
    /// How often the writer has changed.
    turn: Cell<u64>,
    cut: Cell<Option<Cut>>,
    /// When its task is to look at the time, ms.
    deadline: Cell<Option<u64>>,
    /// That time has come.
    is_due: Cell<bool>,
    /// Whose turn it is to write to the socket, where several of its message streams play.
    pub(crate) outlet: Outlet,
    waker: RefCell<Option<Waker>>,
}

impl Conn {
    pub(crate) fn new(id: ConnId, peer: SocketAddr, socket: TcpStream) -> Self {
        Self {
            id,
            peer,
            source: places::source(peer),
            was_served: Cell::new(false),
            holding: Holding::default(),
            cookie: socket_cookie(&socket).unwrap_or(0),
            socket,
            object: Cell::new(None),
            written: Cell::new(0),
            read: Cell::new(0),
            writer: RefCell::new(None),
            turn: Cell::new(0),
            cut: Cell::new(None),
            deadline: Cell::new(None),
            is_due: Cell::new(false),
            outlet: Outlet::default(),
            waker: RefCell::new(None),
        }
    }

    /// Its socket's descriptor.
    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Which writer the present one is.
    pub(crate) fn turn(&self) -> u64 {
        self.turn.get()
    }

    /// As it was in the process before.
    pub(crate) fn set_turn(&self, turn: u64) {
        self.turn.set(turn);
    }

    /// Whether the player on `msid`, or the connection's own task, has written last.
    pub(crate) fn is_writer(&self, msid: Option<u32>) -> bool {
        self.writer.borrow().as_ref().map(|(writer, _)| *writer) == msid
    }

    /// From now on this one writes. Where the last one was a player, what it has sent is written down: it follows from the kernel's
    /// counters no more.
    pub(crate) fn set_writer(&self, writer: Option<(u32, Weak<dyn Kept>)>, keeping: &Keeping) {
        let before = self.writer.replace(writer);
        if let Some(before) = before.and_then(|(_, before)| before.upgrade()) {
            before.save(keeping);
        }
        self.turn.set(self.turn.get() + 1);
    }

    /// The socket has taken `bytes` more.
    pub(crate) fn note_written(&self, bytes: usize) {
        self.written.set(self.written.get() + bytes as u64);
    }

    /// Ends the connection; its task learns of it at once. The first reason stands.
    pub(crate) fn cut(&self, why: Cut) {
        if self.cut.get().is_none() {
            self.cut.set(Some(why));
        }
        self.wake();
    }

    pub(crate) fn is_cut(&self) -> Option<Cut> {
        self.cut.get()
    }

    pub(crate) fn set_deadline(&self, deadline: Option<u64>) {
        self.deadline.set(deadline);
    }

    /// Lets its task look at the time, if that is due.
    pub(crate) fn check_deadline(&self, now: u64) {
        if self.deadline.get().is_some_and(|at| now >= at) {
            self.is_due.set(true);
            self.wake();
        }
    }

    /// Whether the task is to look at the time; once for each time.
    pub(crate) fn take_due(&self) -> bool {
        self.is_due.take()
    }

    /// Runs the connection's task again.
    pub(crate) fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whom [`wake`](Self::wake) wakes.
    pub(crate) fn set_waker(&self, waker: &Waker) {
        let mut slot = self.waker.borrow_mut();
        if slot.as_ref().is_none_or(|w| !w.will_wake(waker)) {
            *slot = Some(waker.clone());
        }
    }
}
