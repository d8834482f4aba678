//! One TCP connection as the rest of the worker sees it: where it comes from, and how to end it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::task::Waker;

use stream::ConnId;
use tokio::net::TcpStream;

use super::end::Cut;

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) id: ConnId,
    pub(crate) peer: SocketAddr,
    pub(crate) socket: TcpStream,
    cut: Cell<Option<Cut>>,
    /// When it is cut, ms, and why.
    deadline: Cell<Option<(u64, Cut)>>,
    waker: RefCell<Option<Waker>>,
}

impl Conn {
    pub(crate) fn new(id: ConnId, peer: SocketAddr, socket: TcpStream) -> Self {
        Self { id, peer, socket, cut: Cell::new(None), deadline: Cell::new(None), waker: RefCell::new(None) }
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

    pub(crate) fn set_deadline(&self, deadline: Option<(u64, Cut)>) {
        self.deadline.set(deadline);
    }

    /// Cuts the connection if its time is up.
    pub(crate) fn check_deadline(&self, now: u64) {
        if let Some((at, why)) = self.deadline.get()
            && now >= at
        {
            self.cut(why);
        }
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
