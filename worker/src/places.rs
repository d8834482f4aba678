//! Who makes room when all places are taken: shares matter only then. Pure.
//!
//! Of publishers, whoever is of least use goes first: one that sends next to nothing, then one of an address that has more than its
//! share, the youngest first. A name that has carried a stream for [`KNOWN_AFTER`] is known: it keeps its place and gets it back, so
//! that whoever takes all places while an encoder restarts does not keep it out. Of players, those who wait for a name that has no
//! media go first, the oldest of the address that most of them come from.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use stream::ConnId;

/// A publication is judged by its rate from this age on, ms: encoders begin with metadata, and look for a keyframe.
pub(crate) const JUDGED_AFTER: u64 = 5_000;
/// A publication of fewer bits/s is idle. Silence in AAC is 2 kbit/s.
pub(crate) const IDLE_RATE: u64 = 1_000;
/// Seconds that a name has to have carried more than [`IDLE_RATE`] to be known.
pub(crate) const KNOWN_AFTER: u32 = 60;
/// Names that are known; of more, the one that has carried least is forgotten.
pub(crate) const KNOWN_MAX: usize = 1_024;

/// Whose share it is: an IPv6 customer has a whole /64.
pub(crate) fn source(peer: SocketAddr) -> IpAddr {
    match peer.ip().to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & (u128::MAX << 64))),
        v4 => v4,
    }
}

/// How well a publication has earned its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// It sends next to nothing.
    Idle,
    /// It carries a stream, or is too young to be judged.
    Carrying,
    /// Its name is known.
    Known,
}

/// A publication that has a place.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// See [`source`].
    pub(crate) source: IpAddr,
    pub(crate) standing: Standing,
    /// Of all publications of the port: larger is younger.
    pub(crate) number: u64,
}

/// Which of `places`, all that there are, makes room for a publisher from `source`, whose name `is_known` or not: none, if it has no
/// better right.
pub(crate) fn displaced(places: &[Place], source: IpAddr, is_known: bool) -> Option<usize> {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for place in places {
        *counts.entry(place.source).or_default() += 1;
    }
    let own = *counts.entry(source).or_default();
    let share = (places.len() / counts.len()).max(1);
    let of = |place: &Place| counts.get(&place.source).copied().unwrap_or(0);
    let yields = |place: &Place| {
        let is_over = of(place) > share && own < share;
        match place.standing {
            Standing::Idle => true,
            Standing::Carrying => is_known || is_over,
            Standing::Known => is_known && is_over,
        }
    };
    let worst =
        |(_, place): &(usize, &Place)| (place.standing, usize::MAX - of(place), u64::MAX - place.number);
    places.iter().enumerate().filter(|(_, place)| yields(place)).min_by_key(worst).map(|(index, _)| index)
}

/// A player that waits for a name without media.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Waiting {
    /// See [`source`].
    pub(crate) source: IpAddr,
    /// Smaller is older.
    pub(crate) conn: ConnId,
}

/// Which of `waiting` makes room for a player from `source`. One that `has_media` before it has the better right; one that would
/// wait too has it only against an address from which more wait.
pub(crate) fn gives_way(waiting: &[Waiting], source: IpAddr, has_media: bool) -> Option<usize> {
    let mut counts: HashMap<IpAddr, (usize, (ConnId, usize))> = HashMap::new();
    for (index, one) in waiting.iter().enumerate() {
        let (count, oldest) = counts.entry(one.source).or_insert((0, (one.conn, index)));
        *count += 1;
        *oldest = (*oldest).min((one.conn, index));
    }
    let own = counts.get(&source).map_or(0, |(count, _)| *count);
    let (count, (_, oldest)) =
        counts.into_values().max_by_key(|(count, oldest)| (*count, Reverse(*oldest)))?;
    (has_media || count > own + 1).then_some(oldest)
}

/// Which of the `names` that are waited for, each with those who wait, is given up for a new one: that of the address which waits
/// for most names, the oldest of them.
pub(crate) fn name_given_up<'a, K>(names: impl Iterator<Item = (&'a K, &'a [Waiting])>) -> Option<&'a K> {
    let mut by_source: HashMap<IpAddr, (usize, ConnId, &K)> = HashMap::new();
    for (name, waiting) in names {
        let mut seen = HashSet::new();
        for one in waiting.iter().filter(|one| seen.insert(one.source)) {
            let (count, oldest, key) = by_source.entry(one.source).or_insert((0, one.conn, name));
            *count += 1;
            if one.conn < *oldest {
                (*oldest, *key) = (one.conn, name);
            }
        }
    }
    let most = by_source.into_values().max_by_key(|(count, oldest, _)| (*count, u64::MAX - oldest.0));
    most.map(|(_, _, name)| name)
}

/// Names that have carried a stream for long, and for how many seconds.
#[derive(Debug)]
pub(crate) struct KnownNames<K> {
    carried: HashMap<K, u32>,
}

impl<K> Default for KnownNames<K> {
    fn default() -> Self {
        Self { carried: HashMap::new() }
    }
}

impl<K: Clone + Eq + std::hash::Hash> KnownNames<K> {
    pub(crate) fn has(&self, name: &K) -> bool {
        self.carried.contains_key(name)
    }

    /// `name` has carried a stream for `seconds` so far.
    pub(crate) fn note(&mut self, name: &K, seconds: u32) {
        if let Some(carried) = self.carried.get_mut(name) {
            *carried = seconds.max(*carried);
            return;
        }
        if seconds < KNOWN_AFTER {
            return;
        }
        if self.carried.len() >= KNOWN_MAX {
            let least = self.carried.iter().min_by_key(|(_, carried)| **carried);
            let Some((least, carried)) = least.map(|(name, carried)| (name.clone(), *carried)) else {
                return;
            };
            if carried > seconds {
                return;
            }
            self.carried.remove(&least);
        }
        self.carried.insert(name.clone(), seconds);
    }

    /// For how many seconds `name` has carried a stream, as far as that is known.
    pub(crate) fn carried(&self, name: &K) -> u32 {
        self.carried.get(name).copied().unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Standing::{Carrying, Idle, Known};

    fn address(n: u8) -> IpAddr {
        IpAddr::from([192, 0, 2, n])
    }

    /// Publications from address `n`, numbered from `first` on.
    fn places(n: u8, standing: Standing, first: u64, count: u64) -> Vec<Place> {
        (first..first + count).map(|number| Place { source: address(n), standing, number }).collect()
    }

    #[test]
    fn one_that_sends_nothing_makes_room_for_anybody_even_of_its_own_address() {
        let all = [places(1, Carrying, 0, 3), places(1, Idle, 3, 1)].concat();
        assert_eq!(displaced(&all, address(1), false), Some(3));
        assert_eq!(displaced(&all, address(2), true), Some(3));
    }

    #[test]
    fn an_address_with_more_than_its_share_gives_its_youngest_to_one_that_has_less() {
        let all = [places(1, Carrying, 0, 60), places(2, Carrying, 60, 4)].concat();
        assert_eq!(displaced(&all, address(3), false), Some(59));
        assert_eq!(displaced(&all, address(2), false), Some(59));
        assert_eq!(displaced(&all, address(1), false), None, "it has its share");
        let even: Vec<_> = (0..64).flat_map(|n| places(n, Carrying, n.into(), 1)).collect();
        assert_eq!(displaced(&even, address(99), false), None, "nobody has more than one");
    }

    #[test]
    fn a_known_name_keeps_its_place_and_gets_it_back() {
        let farm = places(1, Known, 0, 64);
        assert_eq!(displaced(&farm, address(2), false), None, "a stranger displaces no known name");
        assert_eq!(displaced(&farm, address(2), true), Some(63), "a known one has a share");
        assert_eq!(displaced(&farm, address(1), true), None);
        let strangers: Vec<_> = (0..64).flat_map(|n| places(n, Carrying, n.into(), 1)).collect();
        assert_eq!(displaced(&strangers, address(99), true), Some(63), "whoever came last");
    }

    fn waiting(n: u8, first: u64, count: u64) -> Vec<Waiting> {
        (first..first + count).map(|number| Waiting { source: address(n), conn: ConnId(number) }).collect()
    }

    #[test]
    fn who_waits_makes_room_for_who_has_something_to_see_and_the_crowd_for_who_waits_alone() {
        let all = [waiting(1, 0, 1), waiting(2, 1, 100)].concat();
        assert_eq!(gives_way(&all, address(3), true), Some(1), "the oldest of the crowd");
        assert_eq!(gives_way(&all, address(2), true), Some(1));
        assert_eq!(gives_way(&all, address(3), false), Some(1));
        assert_eq!(gives_way(&all, address(2), false), None, "the crowd gains nothing by asking again");
        assert_eq!(gives_way(&[], address(3), true), None);
    }

    #[test]
    fn a_name_is_given_up_by_the_address_that_waits_for_most() {
        let names = [("show", waiting(1, 0, 1)), ("a", waiting(2, 1, 1)), ("b", waiting(2, 2, 1))];
        let found = name_given_up(names.iter().map(|(name, waiting)| (name, &waiting[..])));
        assert_eq!(found, Some(&"a"));
    }

    #[test]
    fn of_known_names_the_one_that_has_carried_least_is_forgotten() {
        let mut known = KnownNames::default();
        known.note(&0, KNOWN_AFTER - 1);
        assert!(!known.has(&0));
        known.note(&0, 1_000_000);
        for name in 1..=KNOWN_MAX {
            known.note(&name, KNOWN_AFTER + name as u32);
        }
        assert!(known.has(&0) && known.has(&KNOWN_MAX) && !known.has(&1));
        assert_eq!((known.carried.len(), known.carried(&0)), (KNOWN_MAX, 1_000_000));
    }

    #[test]
    fn an_ipv6_network_is_one_source() {
        let source = |text: &str| source(text.parse().unwrap());
        assert_eq!(source("[2001:db8::1]:1"), source("[2001:db8::2:3:4:5]:2"));
        assert_ne!(source("[2001:db8::1]:1"), source("[2001:db8:0:1::1]:1"));
        assert_eq!(source("[::ffff:192.0.2.1]:1"), source("192.0.2.1:9"));
    }
}
