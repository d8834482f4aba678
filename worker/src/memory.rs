//! What a port holds of the memory that it may use.

use std::cell::Cell;

use cluster::Memory;
use stream::Meter;

/// What connections that neither publish nor play may hold together, one so-manieth of the port's memory: an honest one needs little.
const GUESTS_PART: u64 = 8;
/// When there was too much, it is brought below this many eighths of what may be held, so that the next byte is not too many again.
const GOAL_EIGHTHS: u64 = 7;

/// The books of one port. Media are counted where they are made and dropped, the rest as each connection reports it.
#[derive(Debug)]
pub(crate) struct Books {
    /// Of the machine, bytes.
    machine: u64,
    /// What may be held, bytes.
    limit: Cell<u64>,
    /// Logs, and what readers keep of them.
    pub(crate) media: Meter,
    /// Of connections that neither publish nor play.
    guests: Cell<u64>,
    /// Of all others.
    others: Cell<u64>,
}

/// What one connection holds, bytes.
#[derive(Debug, Default)]
pub(crate) struct Holding {
    /// Messages that are not complete, replies.
    session: Cell<u64>,
    /// What its cursors have for it alone.
    cursors: Cell<u64>,
    /// It publishes or plays.
    has_role: Cell<bool>,
}

impl Holding {
    pub(crate) fn bytes(&self) -> u64 {
        self.session.get() + self.cursors.get()
    }

    pub(crate) fn is_guest(&self) -> bool {
        !self.has_role.get()
    }
}

impl Books {
    pub(crate) fn new(memory: Memory) -> Self {
        let machine = cluster::memory::of_machine();
        let limit = Cell::new(memory.bytes(machine));
        Self { machine, limit, media: Meter::default(), guests: Cell::new(0), others: Cell::new(0) }
    }

    pub(crate) fn set_limit(&self, memory: Memory) {
        self.limit.set(memory.bytes(self.machine));
    }

    /// Bytes that may be held.
    pub(crate) fn limit(&self) -> u64 {
        self.limit.get()
    }

    /// Bytes that are held.
    pub(crate) fn used(&self) -> u64 {
        self.media.bytes() + self.guests.get() + self.others.get()
    }

    pub(crate) fn is_over(&self) -> bool {
        self.used() > self.limit() || self.guests.get() > self.limit() / GUESTS_PART
    }

    /// Whether guests still hold too much, once they did or all did.
    pub(crate) fn is_above_goal_of_guests(&self) -> bool {
        self.is_above_goal() || self.guests.get() > self.limit() / GUESTS_PART / 8 * GOAL_EIGHTHS
    }

    /// Whether there is still too much, once there was.
    pub(crate) fn is_above_goal(&self) -> bool {
        self.used() > self.limit() / 8 * GOAL_EIGHTHS
    }

    /// A connection, which publishes or plays if it `has_role`, holds so many bytes outside of its cursors.
    pub(crate) fn note_session(&self, holding: &Holding, bytes: u64, has_role: bool) {
        self.change(holding, |holding| {
            holding.session.set(bytes);
            holding.has_role.set(has_role);
        });
    }

    /// The cursors of a connection are counted anew.
    pub(crate) fn forget_cursors(&self, holding: &Holding) {
        if holding.cursors.get() > 0 {
            self.change(holding, |holding| holding.cursors.set(0));
        }
    }

    /// A cursor of the connection holds so many bytes.
    pub(crate) fn add_cursor(&self, holding: &Holding, bytes: u64) {
        if bytes > 0 {
            self.change(holding, |holding| holding.cursors.set(holding.cursors.get() + bytes));
        }
    }

    /// A connection is gone, or as good as: it counts no more.
    pub(crate) fn close(&self, holding: &Holding) {
        self.change(holding, |holding| {
            holding.session.set(0);
            holding.cursors.set(0);
        });
    }

    fn change(&self, holding: &Holding, change: impl FnOnce(&Holding)) {
        let account = |holding: &Holding| if holding.is_guest() { &self.guests } else { &self.others };
        let old = account(holding);
        old.set(old.get().saturating_sub(holding.bytes()));
        change(holding);
        let new = account(holding);
        new.set(new.get() + holding.bytes());
    }
}
