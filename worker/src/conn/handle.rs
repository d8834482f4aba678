//! One TCP connection as the rest of the worker sees it: where it comes from, and how to end it.

use std::cell::{Cell, RefCell};
use std::net::{IpAddr, SocketAddr};
use std::task::Waker;

use stream::ConnId;
use tokio::net::TcpStream;

use super::end::Cut;
use super::outlet::Outlet;
use crate::memory::Holding;
use crate::places;

/// See the [module](self).
#[derive(Debug)]
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
            socket,
            cut: Cell::new(None),
            deadline: Cell::new(None),
            is_due: Cell::new(false),
            outlet: Outlet::default(),
            waker: RefCell::new(None),
        }
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
