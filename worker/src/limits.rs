//! Who may have a slot among the connections.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;

use stream::ConnId;

/// Names that players may wait for or play at once: each costs memory, and a line of every report.
pub(crate) const NAMES_MAX: usize = 1_024;
/// Connections from the address of a source beyond all others: it may share the address with players.
const SOURCE_EXTRA: usize = 32;

/// The slots of one port. Pure: whoever asks carries the answers out.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    taken: HashMap<ConnId, Slot>,
    /// Those who may be told to make room, by address.
    open: HashMap<IpAddr, BTreeSet<ConnId>>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    address: IpAddr,
    /// It comes from an address that streams come from.
    is_source: bool,
    /// It was told to make room.
    is_evicted: bool,
}

/// The answer to one that came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// It has a slot.
    Taken,
    /// It has the slot of this one, which is to be ended.
    Evicts(ConnId),
    /// There is no slot.
    Refused,
}

impl Slots {
    /// Takes a connection in, or refuses it when even the reserved slots of `capacity` are taken. Then one that has not said what it
    /// wants makes room: the oldest of the address that most such come from, so that a flood of them displaces itself. Never one
    /// from the address of a source: a rush of players must not lock the origin out.
    pub(crate) fn admit(
        &mut self,
        id: ConnId,
        address: IpAddr,
        is_source: bool,
        capacity: usize,
    ) -> Admission {
        let taken = self.taken.len();
        let victim = if taken < capacity { None } else { self.evict() };
        if taken < capacity || victim.is_some() || (is_source && taken < capacity + SOURCE_EXTRA) {
            self.taken.insert(id, Slot { address, is_source, is_evicted: false });
            self.set_open(id, true);
            return victim.map_or(Admission::Taken, Admission::Evicts);
        }
        Admission::Refused
    }

    fn evict(&mut self) -> Option<ConnId> {
        let open =
            self.open.values().max_by_key(|open| (open.len(), open.first().map(|id| u64::MAX - id.0)))?;
        let victim = *open.first()?;
        self.set_open(victim, false);
        self.taken.get_mut(&victim)?.is_evicted = true;
        Some(victim)
    }

    /// Notes whether a connection has yet to say what it wants.
    pub(crate) fn set_open(&mut self, id: ConnId, is_open: bool) {
        let Some(slot) = self.taken.get(&id) else { return };
        if is_open && !slot.is_source && !slot.is_evicted {
            self.open.entry(slot.address).or_default().insert(id);
        } else if let Some(open) = self.open.get_mut(&slot.address) {
            open.remove(&id);
            if open.is_empty() {
                self.open.remove(&slot.address);
            }
        }
    }

    /// It is gone.
    pub(crate) fn release(&mut self, id: ConnId) {
        self.set_open(id, false);
        self.taken.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    #[test]
    fn the_oldest_that_wants_nothing_yet_makes_room() {
        let mut slots = Slots::default();
        for id in 0..3 {
            assert_eq!(slots.admit(ConnId(id), address(1), false, 3), Admission::Taken);
        }
        slots.set_open(ConnId(0), false);
        assert_eq!(slots.admit(ConnId(3), address(1), false, 3), Admission::Evicts(ConnId(1)));
        slots.release(ConnId(1));
        assert_eq!(slots.admit(ConnId(4), address(1), false, 3), Admission::Evicts(ConnId(2)));
        // It has not gone yet, and is not asked twice.
        assert_eq!(slots.admit(ConnId(5), address(1), false, 3), Admission::Evicts(ConnId(3)));
    }

    #[test]
    fn a_flood_of_one_address_makes_room_for_itself() {
        let mut slots = Slots::default();
        slots.admit(ConnId(0), address(1), false, 3);
        for id in 1..1_000 {
            let admission = slots.admit(ConnId(id), address(2), false, 3);
            if id > 2 {
                assert_eq!(admission, Admission::Evicts(ConnId(id - 2)));
                slots.release(ConnId(id - 2));
            }
        }
        assert!(slots.taken.contains_key(&ConnId(0)));
    }

    #[test]
    fn a_source_is_never_evicted_and_always_taken_in() {
        let mut slots = Slots::default();
        for id in 0..2 {
            slots.admit(ConnId(id), address(1), true, 2);
        }
        assert_eq!(slots.admit(ConnId(2), address(1), false, 2), Admission::Refused);
        for id in 3..3 + SOURCE_EXTRA as u64 {
            assert_eq!(slots.admit(ConnId(id), address(1), true, 2), Admission::Taken);
        }
        assert_eq!(slots.admit(ConnId(99), address(1), true, 2), Admission::Refused);
    }

    #[test]
    fn players_that_play_fill_a_port_and_the_next_is_refused() {
        let mut slots = Slots::default();
        for id in 0..2 {
            slots.admit(ConnId(id), address(1), false, 2);
            slots.set_open(ConnId(id), false);
        }
        assert_eq!(slots.admit(ConnId(2), address(1), false, 2), Admission::Refused);
        slots.release(ConnId(0));
        assert_eq!(slots.admit(ConnId(3), address(1), false, 2), Admission::Taken);
        assert!(slots.open.values().all(|open| !open.is_empty()));
    }
}
