//! One TCP connection as the rest of the worker sees it: where it comes from, and how to end it.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::task::Waker;
use std::time::Instant;

use tokio::net::TcpStream;

/// Why a connection is ended from outside its own task.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Cut {
    /// See the message.
    #[error("did not publish or play in time")]
    Idle,
    /// See the message.
    #[error("the publisher fell silent")]
    Silent,
    /// See the message.
    #[error("another connection of the origin took over")]
    Replaced,
    /// See the message.
    #[error("made room: all connections are taken and this one neither published nor played")]
    Evicted,
    /// See the message.
    #[error("the player took no byte for 30 s")]
    Stuck,
    /// See the message.
    #[error("was refused and did not close")]
    Lingered,
    /// See the message.
    #[error("connection lost")]
    Lost,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Link {
    /// Number of the connection in this process.
    pub(crate) id: u64,
    pub(crate) peer: SocketAddr,
    pub(crate) socket: TcpStream,
    epoch: Instant,
    cut: Cell<Option<Cut>>,
    /// When it is cut, ms, and why.
    deadline: Cell<Option<(u64, Cut)>>,
    waker: RefCell<Option<Waker>>,
}

impl Link {
    pub(crate) fn new(id: u64, peer: SocketAddr, socket: TcpStream, epoch: Instant) -> Self {
        Self {
            id,
            peer,
            socket,
            epoch,
            cut: Cell::new(None),
            deadline: Cell::new(None),
            waker: RefCell::new(None),
        }
    }

    /// Monotonic milliseconds of this process.
    pub(crate) fn now(&self) -> u64 {
        millis(self.epoch)
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

/// Milliseconds since `epoch`.
pub(crate) fn millis(epoch: Instant) -> u64 {
    u64::try_from(epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
}
