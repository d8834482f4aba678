//! How the forwarding of one stream to one target stands.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use cluster::Target;
use cluster::stats::{ForwardState, ForwardStats};
use tokio::task::AbortHandle;

use super::liveness::Liveness;

/// A connection is kept for so long for the stream's next publication, and what a target has not been given yet where it cannot be
/// reached. The stream itself is forgotten 2 s later.
pub(super) const KEEP: Duration = Duration::from_secs(8);

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

    /// From where on it needs the log at `now`, monotonic ms.
    pub(crate) fn needs(&self, now: u64) -> Option<u64> {
        self.status.needs(now)
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
    /// Offset of the log before which the target has been given all that it gets.
    pub(super) next: Cell<u64>,
    /// Where the publication begins that the target has been given of, and of whose end it has not been told.
    pub(super) open: Cell<Option<u64>>,
    /// Stream time of the last message sent, ms.
    pub(super) reached: Cell<Option<u64>>,
    pub(super) sent: Cell<u64>,
    /// Whether the last attempt failed.
    pub(super) failed: Cell<bool>,
    pub(super) reconnects: Cell<u64>,
    pub(super) last_error: RefCell<Option<String>>,
    /// When it was idle or live last, ms.
    pub(super) well: Cell<u64>,
}

pub(super) enum Phase {
    /// Nobody publishes.
    Idle,
    Connecting,
    Connected(Liveness),
    /// The last attempt failed.
    Backoff,
}

/// Whether [`KEEP`] has passed since `since`, both monotonic ms.
pub(super) fn has_passed(since: u64, now: u64) -> bool {
    u128::from(now.saturating_sub(since)) >= KEEP.as_millis()
}

impl ForwardStatus {
    pub(super) fn new(target: Target) -> Self {
        Self {
            target,
            phase: RefCell::new(Phase::Idle),
            next: Cell::new(0),
            open: Cell::new(None),
            reached: Cell::new(None),
            sent: Cell::new(0),
            failed: Cell::new(false),
            reconnects: Cell::new(0),
            last_error: RefCell::new(None),
            well: Cell::new(0),
        }
    }

    /// Of the publication that begins at `begin` the target gets what lies from `from` on.
    pub(super) fn begin(&self, begin: u64, from: u64) {
        self.open.set(Some(begin));
        self.next.set(from);
    }

    /// What lies before `end` has been given to the target, and its end been told; or need not be any more.
    pub(super) fn settle(&self, end: u64) {
        self.open.set(None);
        self.next.set(end);
    }

    /// For a target that has been away for long nothing is kept: it begins with what there is.
    fn needs(&self, now: u64) -> Option<u64> {
        let is_away = self.failed.get() && has_passed(self.well.get(), now);
        (!is_away).then(|| self.next.get())
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
