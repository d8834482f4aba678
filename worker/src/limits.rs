//! Who may have a slot among the connections.

use std::collections::BTreeMap;

use stream::ConnId;

/// Names that players may wait for or play at once: each costs memory, and a line of every report.
pub(crate) const NAMES_MAX: usize = 1_024;
/// Connections from the address of a source beyond all others: it may share the address with players.
const SOURCE_EXTRA: usize = 32;

/// The slots of one port. Pure: whoever asks carries the answers out.
#[derive(Debug, Default)]
pub(crate) struct Slots {
    taken: BTreeMap<ConnId, Slot>,
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    /// It comes from an address that streams come from.
    is_source: bool,
    /// It has not said yet what it wants, or has stopped it.
    is_open: bool,
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
    /// Takes a connection in, or refuses it when even the reserved slots of `capacity` are taken. Then the oldest connection
    /// that has not said what it wants makes room, but never one from the address of a source: a rush of players must not
    /// lock the origin out.
    pub(crate) fn admit(&mut self, id: ConnId, is_source: bool, capacity: usize) -> Admission {
        let slot = Slot { is_source, is_open: true, is_evicted: false };
        if self.taken.len() < capacity {
            self.taken.insert(id, slot);
            return Admission::Taken;
        }
        let taken = self.taken.len();
        let is_victim = |slot: &Slot| slot.is_open && !slot.is_source && !slot.is_evicted;
        if let Some((victim, victims_slot)) = self.taken.iter_mut().find(|(_, slot)| is_victim(slot)) {
            victims_slot.is_evicted = true;
            let victim = *victim;
            self.taken.insert(id, slot);
            return Admission::Evicts(victim);
        }
        if is_source && taken < capacity + SOURCE_EXTRA {
            self.taken.insert(id, slot);
            return Admission::Taken;
        }
        Admission::Refused
    }

    /// Notes whether a connection has yet to say what it wants.
    pub(crate) fn set_open(&mut self, id: ConnId, is_open: bool) {
        if let Some(slot) = self.taken.get_mut(&id) {
            slot.is_open = is_open;
        }
    }

    /// It is gone.
    pub(crate) fn release(&mut self, id: ConnId) {
        self.taken.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_that_wants_nothing_yet_makes_room() {
        let mut slots = Slots::default();
        for id in 0..3 {
            assert_eq!(slots.admit(ConnId(id), false, 3), Admission::Taken);
        }
        slots.set_open(ConnId(0), false);
        assert_eq!(slots.admit(ConnId(3), false, 3), Admission::Evicts(ConnId(1)));
        slots.release(ConnId(1));
        assert_eq!(slots.admit(ConnId(4), false, 3), Admission::Evicts(ConnId(2)));
        // It has not gone yet, and is not asked twice.
        assert_eq!(slots.admit(ConnId(5), false, 3), Admission::Evicts(ConnId(3)));
    }

    #[test]
    fn a_source_is_never_evicted_and_always_taken_in() {
        let mut slots = Slots::default();
        for id in 0..2 {
            slots.admit(ConnId(id), true, 2);
        }
        assert_eq!(slots.admit(ConnId(2), false, 2), Admission::Refused);
        for id in 3..3 + SOURCE_EXTRA as u64 {
            assert_eq!(slots.admit(ConnId(id), true, 2), Admission::Taken);
        }
        assert_eq!(slots.admit(ConnId(99), true, 2), Admission::Refused);
    }

    #[test]
    fn players_that_play_fill_a_port_and_the_next_is_refused() {
        let mut slots = Slots::default();
        for id in 0..2 {
            slots.admit(ConnId(id), false, 2);
            slots.set_open(ConnId(id), false);
        }
        assert_eq!(slots.admit(ConnId(2), false, 2), Admission::Refused);
        slots.release(ConnId(0));
        assert_eq!(slots.admit(ConnId(3), false, 2), Admission::Taken);
    }
}
