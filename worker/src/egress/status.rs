//! How the forwarding of one stream to one target stands.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::time::Duration;

use cluster::stats::{ForwardState, ForwardStats};
use cluster::{Target, UnitId};
use rtmp::server::StreamKey;
use serde::{Deserialize, Serialize};
use shm::Id;
use tokio::task::AbortHandle;

use super::liveness::Liveness;
use super::outbound::{self, Destination};
use crate::keeping::{Keeping, Kept, kind, near};

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

    pub(super) fn destination(&self) -> &Destination {
        &self.status.destination
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
        if let Some(object) = self.status.object.take() {
            self.status.keeping.store.remove(object);
        }
    }
}

impl Kept for ForwardStatus {
    fn save(&self, keeping: &Keeping) {
        self.is_changed.set(false);
        keeping.put(self.object.get(), kind::FORWARD, |bytes| {
            let record = ForwardRecord {
                channel: self.channel?,
                target: self.destination.record_id(),
                next: self.next.get(),
                open: self.open.get(),
                sent: self.sent.get(),
                failed: self.failed.get(),
                reconnects: self.reconnects.get(),
                well: self.well.get(),
            };
            postcard::to_extend(&record, bytes).ok()
        });
    }
}

pub(super) struct ForwardStatus {
    pub(super) destination: Destination,
    /// As it is called.
    pub(super) target: Target,
    /// Where beyond the edges the stream is published, for a person.
    url: Option<String>,
    /// The key of the newest connection, so that it can be kept out of what is told.
    pub(super) key: RefCell<Option<Rc<str>>>,
    /// The RTMP status of the last refusal beyond the edges.
    pub(super) code: RefCell<Option<String>>,
    pub(super) bytes: Cell<u64>,
    /// How often a slow target was given the newest group in place of what lay before it.
    pub(super) dropped: Cell<u64>,
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
    keeping: Rc<Keeping>,
    me: Weak<Self>,
    /// Its record.
    pub(super) object: Cell<Option<Id>>,
    /// The record of its stream.
    channel: Option<Id>,
    is_changed: Cell<bool>,
}

/// What a record has of a forward. What its connection has sent is in the record of that.
#[derive(Serialize, Deserialize)]
pub(crate) struct ForwardRecord {
    /// Its stream.
    pub(crate) channel: Id,
    pub(crate) target: UnitId,
    #[serde(deserialize_with = "near")]
    next: u64,
    open: Option<u64>,
    #[serde(deserialize_with = "near")]
    sent: u64,
    failed: bool,
    #[serde(deserialize_with = "near")]
    reconnects: u64,
    #[serde(deserialize_with = "near")]
    well: u64,
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
    pub(super) fn new(
        destination: Destination,
        key: &StreamKey,
        keeping: &Rc<Keeping>,
        channel: Option<Id>,
    ) -> Rc<Self> {
        let this = Self::with((destination, key), keeping, (keeping.store.add(), channel));
        this.touch();
        this
    }

    /// The forward of a record.
    pub(super) fn restore(
        destination: Destination,
        key: &StreamKey,
        keeping: &Rc<Keeping>,
        (id, record): (Id, &ForwardRecord),
    ) -> Rc<Self> {
        let this = Self::with((destination, key), keeping, (Some(id), Some(record.channel)));
        this.next.set(record.next);
        this.open.set(record.open);
        this.sent.set(record.sent);
        this.failed.set(record.failed);
        this.reconnects.set(record.reconnects);
        this.well.set(record.well);
        this.touch();
        this
    }

    fn with(
        (destination, key): (Destination, &StreamKey),
        keeping: &Rc<Keeping>,
        (object, channel): (Option<Id>, Option<Id>),
    ) -> Rc<Self> {
        let url = match &destination {
            Destination::Edge(_) => None,
            Destination::Out(outbound) => Some(outbound.to.shown(key.app(), key.name())),
        };
        Rc::new_cyclic(|me| Self {
            target: destination.target(),
            destination,
            url,
            key: RefCell::new(None),
            code: RefCell::new(None),
            bytes: Cell::new(0),
            dropped: Cell::new(0),
            phase: RefCell::new(Phase::Idle),
            next: Cell::new(0),
            open: Cell::new(None),
            reached: Cell::new(None),
            sent: Cell::new(0),
            failed: Cell::new(false),
            reconnects: Cell::new(0),
            last_error: RefCell::new(None),
            well: Cell::new(0),
            keeping: Rc::clone(keeping),
            me: Weak::clone(me),
            object: Cell::new(object),
            channel,
            is_changed: Cell::new(false),
        })
    }

    /// It is not any more what was written down.
    pub(super) fn touch(&self) {
        if !self.is_changed.replace(true) {
            self.keeping.touch(self.me.clone());
        }
    }

    /// Of the publication that begins at `begin` the target gets what lies from `from` on.
    pub(super) fn begin(&self, begin: u64, from: u64) {
        self.open.set(Some(begin));
        self.next.set(from);
        self.touch();
    }

    /// What lies before `end` has been given to the target, and its end been told; or need not be any more.
    pub(super) fn settle(&self, end: u64) {
        self.open.set(None);
        self.next.set(end);
        self.touch();
    }

    /// Takes note of what a connection or an attempt failed with, and gives what may be told of it.
    pub(super) fn fail(&self, error: &rtmp_io::Error) -> String {
        match self.destination {
            Destination::Edge(_) => error.to_string(),
            Destination::Out(_) => {
                let (text, code) = outbound::told(error, self.key.borrow().as_deref());
                self.code.replace(code);
                text
            }
        }
    }

    /// For a target that has been away for long nothing is kept: it begins with what there is. Nor for one beyond the edges, which is nobody's
    /// to hold the port's memory: it has what those who join have.
    fn needs(&self, now: u64) -> Option<u64> {
        if matches!(self.destination, Destination::Out(_)) {
            return None;
        }
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
            url: self.url.clone(),
            code: self.code.borrow().clone(),
            bytes: if self.url.is_some() { self.bytes.get() } else { 0 },
            dropped: if self.url.is_some() { self.dropped.get() } else { 0 },
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
