//! How the forwarding of one stream to one target stands.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use cluster::Target;
use cluster::stats::{ForwardState, ForwardStats};
use tokio::task::AbortHandle;

use super::liveness::Liveness;

/// A forwarder as its stream has it: what it reports, and its task, which ends with it.
pub(crate) struct Forward {
    status: Rc<ForwardStatus>,
    task: AbortHandle,
}

impl Forward {
    pub(super) fn new(status: Rc<ForwardStatus>, task: AbortHandle) -> Self {
        Self { status, task }
    }

    pub(super) fn target(&self) -> &Target {
        &self.status.target
    }

    /// Where it reads the log, while it is connected.
    pub(crate) fn offset(&self) -> Option<u64> {
        self.status.offset.get()
    }

    /// The publication is over at this offset of its log.
    pub(crate) fn end_at(&self, offset: u64) {
        if self.status.end.get().is_none() {
            self.status.end.set(Some(offset));
        }
    }

    /// `newest` is the stream's newest time while it is published.
    pub(crate) fn stats(&self, newest: Option<u64>, now: u64) -> ForwardStats {
        self.status.stats(newest, now)
    }
}

impl Drop for Forward {
    fn drop(&mut self) {
        self.task.abort();
    }
}

pub(super) struct ForwardStatus {
    pub(super) target: Target,
    pub(super) phase: RefCell<Phase>,
    /// Where it reads the log, while it is connected.
    pub(super) offset: Cell<Option<u64>>,
    /// Stream time of the last message sent, ms.
    pub(super) reached: Cell<Option<u64>>,
    pub(super) sent: Cell<u64>,
    /// Whether the last attempt failed.
    pub(super) failed: Cell<bool>,
    pub(super) reconnects: Cell<u64>,
    pub(super) last_error: RefCell<Option<String>>,
    /// When it was idle or live last, ms.
    pub(super) well: Cell<u64>,
    /// Whether the target has been given of a publication, and not been told that it is over.
    pub(super) is_open: Cell<bool>,
    /// Where that publication, or without one the next that the target may be given, is over, once it is: another may have begun behind it.
    pub(super) end: Cell<Option<u64>>,
}

pub(super) enum Phase {
    /// Nobody publishes.
    Idle,
    Connecting,
    Connected(Liveness),
    /// The last attempt failed.
    Backoff,
}

impl ForwardStatus {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            phase: RefCell::new(Phase::Idle),
            offset: Cell::new(None),
            reached: Cell::new(None),
            sent: Cell::new(0),
            failed: Cell::new(false),
            reconnects: Cell::new(0),
            last_error: RefCell::new(None),
            well: Cell::new(0),
            is_open: Cell::new(false),
            end: Cell::new(None),
        }
    }

    /// Whether the target has still to be told of an end.
    pub(super) fn owes_end(&self) -> bool {
        self.is_open.get() && self.end.get().is_some()
    }

    /// It has been told, or need not be any more.
    pub(super) fn forget_end(&self) {
        self.is_open.set(false);
        self.end.set(None);
    }

    /// Lets the connection's [`Liveness`] know something.
    pub(super) fn judge(&self, tell: impl FnOnce(&mut Liveness)) {
        if let Phase::Connected(liveness) = &mut *self.phase.borrow_mut() {
            tell(liveness);
        }
    }

    fn stats(&self, newest: Option<u64>, now: u64) -> ForwardStats {
        let (state, lag_ms) = match &*self.phase.borrow() {
            Phase::Idle => (ForwardState::Idle, None),
            Phase::Connecting => (ForwardState::Connecting, None),
            Phase::Backoff => (ForwardState::Backoff, None),
            Phase::Connected(liveness) => {
                let unsent = |newest: u64| newest.saturating_sub(self.reached.get().unwrap_or(newest));
                (liveness.state(now), newest.and_then(|newest| liveness.lag(now, unsent(newest))))
            }
        };
        ForwardStats {
            target: self.target.clone(),
            state,
            lag_ms,
            sent: self.sent.get(),
            reconnects: self.reconnects.get(),
            last_error: self.last_error.borrow().clone(),
            waiting_ms: match state {
                ForwardState::Live | ForwardState::Idle => None,
                ForwardState::Connecting | ForwardState::Stalled | ForwardState::Backoff => {
                    Some(now.saturating_sub(self.well.get()))
                }
            },
        }
    }
}
