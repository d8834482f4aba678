//! What outlives the worker, and when it is written down.
//!
//! Streams, connections and players are objects of a [`Store`]. What changes one of them notes it here ([`Keeping::touch`]), and before
//! anybody outside can hear of the change, all that was noted is written and becomes true at once ([`Keeping::commit`]). What follows from
//! the kernel's counters is not written: how far a player is in the log, and how much of the replies has been sent.

use std::cell::RefCell;
use std::rc::Weak;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};
use shm::{Id, Scratch, Store};

use crate::failpoints;

/// The kinds of objects; those of streams' parts are below.
pub(crate) mod kind {
    pub(crate) const PORT: u32 = 16;
    pub(crate) const CHANNEL: u32 = 17;
    pub(crate) const CONN: u32 = 18;
    pub(crate) const PLAYER: u32 = 19;
    pub(crate) const FORWARD: u32 = 20;
    pub(crate) const LINK: u32 = 21;
}

/// The version of the records, of streams' too. Whoever changes what one of them is made of makes it another: a record of another version is
/// not looked at.
pub const RECORDS: u64 = 1;
/// The oldest version that is read too: the one before, of which there is an image in worker/tests/images.
pub const OLDEST_RECORDS: u64 = 1;

/// Whether records of `version` are read.
pub(crate) fn reads(version: u64) -> bool {
    (OLDEST_RECORDS..=RECORDS).contains(&version)
}

/// Words of the store.
pub(crate) mod word {
    /// The connection whose input is being handled, as [`Id::number`](shm::Id::number); else 0.
    pub(crate) const READS: usize = 0;
    /// The one whose input a worker handles again that another has died of, or may have; else 0.
    pub(crate) const SUSPECT: usize = 1;
    /// [`RECORDS`] of whoever writes them, where they outlive it; else 0.
    pub(crate) const VERSION: usize = 2;
}

/// No count of a record comes near this: from one that is within it may be counted on without overflow.
pub(crate) const FAR: u64 = 1 << 60;

/// Reads a count of a record.
pub(crate) fn near<'de, D: Deserializer<'de>>(record: D) -> Result<u64, D::Error> {
    let count = u64::deserialize(record)?;
    if count <= FAR { Ok(count) } else { Err(serde::de::Error::custom("nothing was counted so far")) }
}

/// Something that outlives the worker.
pub(crate) trait Kept {
    /// Puts what it is now; one that is removed puts nothing.
    fn save(&self, keeping: &Keeping);
}

/// See the [module](self).
pub(crate) struct Keeping {
    pub(crate) store: Store,
    /// What has changed since the last commit.
    changed: RefCell<Vec<Weak<dyn Kept>>>,
    /// Where records are written before they are put.
    record: RefCell<Vec<u8>>,
    /// What is read from any socket.
    pub(crate) buffer: RefCell<Scratch>,
    /// Why nothing outlives this worker, if that is so.
    pub(crate) unkept: Option<String>,
}

impl Keeping {
    /// In a store whose scratch area nobody has yet; `unkept` says why it ends with this worker, if it does.
    pub(crate) fn new(store: Store, unkept: Option<String>) -> Self {
        let buffer =
            store.scratch().unwrap_or_else(|| Store::private(0).scratch().expect("a new store has it"));
        Self {
            store,
            changed: RefCell::default(),
            record: RefCell::default(),
            buffer: RefCell::new(buffer),
            unkept,
        }
    }

    /// `kept` is not what was written any more. Once for each commit.
    pub(crate) fn touch(&self, kept: Weak<dyn Kept>) {
        self.changed.borrow_mut().push(kept);
    }

    /// Whether anything outlives this worker.
    pub(crate) fn outlives(&self) -> bool {
        reads(self.store.word(word::VERSION))
    }

    /// Whether there is something to commit.
    pub(crate) fn has_changes(&self) -> bool {
        !self.changed.borrow().is_empty()
    }

    /// Writes what has changed; from here on it is true, whatever becomes of this process.
    pub(crate) fn commit(&self) {
        let mut changed = std::mem::take(&mut *self.changed.borrow_mut());
        for kept in changed.drain(..).filter_map(|kept| kept.upgrade()) {
            kept.save(self);
            failpoints::pass("commit.between");
        }
        let mut since = self.changed.borrow_mut();
        changed.append(&mut since);
        *since = changed;
        failpoints::pass("commit.put");
        #[cfg(feature = "failpoints")]
        if failpoints::leaves_out_commit() {
            return;
        }
        self.store.commit();
        failpoints::pass("commit.done");
    }

    /// Puts what `write` appends as the object `id`. Where it gives `None` the object cannot go on in another process: it is put as
    /// nothing, which is no record of any kind.
    pub(crate) fn put(&self, id: Option<Id>, kind: u32, write: impl FnOnce(Vec<u8>) -> Option<Vec<u8>>) {
        let Some(id) = id else { return };
        let mut record = std::mem::take(&mut *self.record.borrow_mut());
        record.clear();
        let record = write(record).unwrap_or_default();
        self.put_record(id, kind, &record);
        self.record.replace(record);
    }

    fn put_record(&self, id: Id, kind: u32, record: &[u8]) {
        #[cfg(feature = "failpoints")]
        if failpoints::puts_early() {
            return self.store.put_early(id, kind, record, || failpoints::pass("put"));
        }
        self.store.put(id, kind, record);
        #[cfg(feature = "failpoints")]
        if failpoints::puts_apart() {
            self.store.commit();
        }
        failpoints::pass("put");
    }

    /// The connection `id` is read from, until [`end_read`](Self::end_read).
    pub(crate) fn begin_read(&self, id: Option<Id>) {
        self.store.set_word(word::READS, id.map_or(0, Id::number));
    }

    /// What was read is handled.
    pub(crate) fn end_read(&self) {
        self.store.set_word(word::READS, 0);
    }
}

/// The port as a whole.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(crate) struct PortRecord {
    /// When the port's clock began, on the machine's monotonic clock; none of a port that is new.
    began: Option<Duration>,
    /// Counters, in the order of [`Counters::values`](crate::counters::Counters::values), and behind them what limits have cost, in that of
    /// [`Tally::values`](crate::tally::Tally::values); of another version fewer or more.
    pub(crate) counters: Vec<u64>,
}

impl PortRecord {
    /// Of a port whose clock has reached `age`.
    pub(crate) fn new(age: Duration, counters: Vec<u64>) -> Self {
        Self { began: Some(monotonic().saturating_sub(age)), counters }
    }

    /// What the port's clock has reached by now.
    pub(crate) fn age(&self) -> Duration {
        self.began.map_or(Duration::ZERO, |began| monotonic().saturating_sub(began))
    }
}

fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Record {
        #[serde(deserialize_with = "near")]
        count: u64,
    }

    #[test]
    fn a_record_with_a_count_that_could_overflow_is_none() {
        for (count, is_one) in [(0, true), (FAR, true), (FAR + 1, false), (u64::MAX, false)] {
            let bytes = postcard::to_allocvec(&Record { count }).unwrap();
            assert_eq!(postcard::from_bytes(&bytes).ok(), is_one.then_some(Record { count }));
        }
    }
}
