//! What the limits of this port have cost its peers: counted, told in the log, and part of each report.

use std::cell::{Cell, RefCell};

use cluster::WorkerOptions;
use cluster::stats::LimitStats;
use tracing::warn;

use crate::keeping::FAR;
use crate::limits::NAMES_MAX;

/// What a limit has cost is told in the log at most this often, ms.
const TOLD_EVERY: u64 = 10_000;

/// A limit that peers meet; a new one stands last in [`Limit::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Limit {
    /// All slots are taken.
    Connections,
    /// See [`Sources::has_many_voids`](crate::budget::Sources::has_many_voids).
    ConnectRate,
    /// `max_connections` players.
    Players,
    /// Names that are played or waited for: one was given up.
    Names,
    /// `max_streams` streams.
    Streams,
    /// The same, of a publisher that was there.
    StreamsRoom,
    /// `memory`, of a connection.
    Memory,
    /// The same, of media.
    MemoryMedia,
    /// `max_connections`, of a player that waited.
    PlayersRoom,
    /// See [`Sources::take_publish`](crate::budget::Sources::take_publish).
    PublishRate,
    /// Packets of configuration, and metadata, that a stream keeps.
    Headers,
}

#[derive(Clone, Copy, Debug)]
struct Met {
    limit: Limit,
    count: u64,
    /// The last time, ms.
    last: u64,
    /// How many of them the log has.
    told: u64,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct Tally {
    met: RefCell<Vec<Met>>,
    /// When the log was told, ms.
    told_at: Cell<Option<u64>>,
}

impl Tally {
    /// `limit` has cost a peer something at `now`, ms.
    pub(crate) fn count(&self, limit: Limit, now: u64) {
        self.add(limit, 1, now);
    }

    /// The same, so many times.
    pub(crate) fn add(&self, limit: Limit, count: u64, now: u64) {
        if count == 0 {
            return;
        }
        let mut met = self.met.borrow_mut();
        match met.iter_mut().find(|met| met.limit == limit) {
            Some(met) => (met.count, met.last) = (met.count + count, now),
            None => met.push(Met { limit, count, last: now, told: 0 }),
        }
    }

    /// Publishes, plays and connections that were refused.
    pub(crate) fn refused(&self) -> u64 {
        self.sum(|limit| {
            !matches!(
                limit,
                Limit::StreamsRoom
                    | Limit::PlayersRoom
                    | Limit::Names
                    | Limit::Memory
                    | Limit::MemoryMedia
                    | Limit::Headers
            )
        })
    }

    /// Publishes that were refused.
    pub(crate) fn refused_publishers(&self) -> u64 {
        self.sum(|limit| matches!(limit, Limit::Streams | Limit::PublishRate))
    }

    fn sum(&self, which: impl Fn(Limit) -> bool) -> u64 {
        self.met.borrow().iter().filter(|met| which(met.limit)).map(|met| met.count).sum()
    }

    /// What was met, for a record: of each limit how often, and the last time.
    pub(crate) fn values(&self) -> Vec<u64> {
        let met = self.met.borrow();
        let of = |limit: Limit| {
            met.iter().find(|met| met.limit == limit).map_or([0, 0], |met| [met.count, met.last])
        };
        Limit::ALL.into_iter().flat_map(of).collect()
    }

    /// Goes on at `now` from the `values` of a process before, which has told the log of them.
    pub(crate) fn restore(&self, values: &[u64], now: u64) {
        let mut met = self.met.borrow_mut();
        for (limit, values) in Limit::ALL.into_iter().zip(values.chunks_exact(2)) {
            if let [count, last] = *values
                && count > 0
            {
                let count = count.min(FAR);
                met.push(Met { limit, count, last: last.min(now), told: count });
            }
        }
    }

    /// All that was met, for a report.
    pub(crate) fn stats(&self, options: &WorkerOptions, now: u64) -> Vec<LimitStats> {
        let stats = |met: &Met| LimitStats {
            limit: met.limit.name().to_owned(),
            what: met.limit.what(options),
            count: met.count,
            last_ago_ms: now.saturating_sub(met.last),
        };
        self.met.borrow().iter().map(stats).collect()
    }

    /// A line in the log for all that a limit has cost since the last one.
    pub(crate) fn tell(&self, options: &WorkerOptions, now: u64) {
        let mut met = self.met.borrow_mut();
        let is_due = self.told_at.get().is_none_or(|at| now.saturating_sub(at) >= TOLD_EVERY);
        if !is_due || met.iter().all(|met| met.count == met.told) {
            return;
        }
        self.told_at.set(Some(now));
        for met in met.iter_mut().filter(|met| met.count > met.told) {
            warn!(limit = met.limit.name(), count = met.count - met.told, "{}", met.limit.what(options));
            met.told = met.count;
        }
    }
}

impl Limit {
    /// In the order of records.
    const ALL: [Self; 11] = [
        Self::Connections,
        Self::ConnectRate,
        Self::Players,
        Self::Names,
        Self::Streams,
        Self::StreamsRoom,
        Self::Memory,
        Self::MemoryMedia,
        Self::PlayersRoom,
        Self::PublishRate,
        Self::Headers,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::ConnectRate => "connect_rate",
            Self::Players => "max_connections",
            Self::Names => "names",
            Self::Streams => "max_streams",
            Self::StreamsRoom => "max_streams_room",
            Self::PlayersRoom => "max_connections_room",
            Self::PublishRate => "publish_rate",
            Self::Memory => "memory",
            Self::MemoryMedia => "memory_media",
            Self::Headers => "headers",
        }
    }

    fn what(self, options: &WorkerOptions) -> String {
        let WorkerOptions { max_connections, max_streams, memory, .. } = options;
        match self {
            Self::Connections => {
                "connections refused: all slots are taken (max_connections, max_streams and the reserve)"
                    .into()
            }
            Self::ConnectRate => {
                "connections refused: their address opened and closed too many within 1 s without a publish or play".into()
            }
            Self::Players => format!("players refused: {max_connections} play (max_connections)"),
            Self::Names => {
                format!("names that nobody publishes were given up: {NAMES_MAX} are played or waited for")
            }
            Self::StreamsRoom => format!(
                "publishers made room: {max_streams} streams are being published (max_streams), and they sent next to nothing or had \
                 more than their address's share"
            ),
            Self::PlayersRoom => {
                format!(
                    "waiting players made room: {max_connections} play (max_connections), they had nothing to see"
                )
            }
            Self::Memory => {
                format!(
                    "connections cut: the port's memory was used up (memory: {memory}), and they held much of it"
                )
            }
            Self::MemoryMedia => {
                format!(
                    "times media for slow players were dropped early: the port's memory was used up (memory: {memory})"
                )
            }
            Self::Headers => {
                "packets of configuration or metadata that a stream does not keep: players that join later do not get them".into()
            }
            Self::PublishRate => "publishers refused: their address published too often within 10 s".into(),
            Self::Streams => {
                format!("publishers refused: {max_streams} streams are being published (max_streams)")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_limit_is_counted_apart_with_its_cause_and_its_age() {
        let (tally, options) = (Tally::default(), WorkerOptions::default());
        assert_eq!(tally.stats(&options, 0), []);
        tally.count(Limit::Players, 1_000);
        tally.count(Limit::Streams, 2_000);
        tally.count(Limit::Players, 3_000);
        let found: Vec<_> = tally
            .stats(&options, 5_000)
            .into_iter()
            .map(|limit| (limit.limit, limit.count, limit.last_ago_ms, limit.what))
            .collect();
        let players = "players refused: 10240 play (max_connections)".to_owned();
        let streams = "publishers refused: 64 streams are being published (max_streams)".to_owned();
        assert_eq!(
            found,
            [("max_connections".into(), 2, 2_000, players), ("max_streams".into(), 1, 3_000, streams)]
        );
        assert_eq!((tally.refused(), tally.refused_publishers()), (3, 1));
    }

    #[test]
    fn what_limits_have_cost_goes_on_with_the_next_worker() {
        let (tally, options) = (Tally::default(), WorkerOptions::default());
        tally.add(Limit::Headers, 7, 1_000);
        tally.add(Limit::Connections, 2, 3_000);
        let next = Tally::default();
        next.restore(&tally.values(), 4_000);
        let sorted = |tally: &Tally| {
            let mut stats = tally.stats(&options, 5_000);
            stats.sort_by(|a, b| a.limit.cmp(&b.limit));
            stats
        };
        assert_eq!(sorted(&next), sorted(&tally));
        assert_eq!((next.refused(), next.values()), (2, tally.values()));
        assert!(next.met.borrow().iter().all(|met| met.told == met.count), "the log has them");
        // Of a program that knew fewer limits, and of one that counted what cannot be.
        next.restore(&tally.values()[..2], 4_000);
        let odd = Tally::default();
        odd.restore(&[u64::MAX; 50], 9);
        odd.count(Limit::Players, 10);
        assert!(odd.stats(&options, 10).iter().all(|limit| limit.last_ago_ms <= 1));
    }
}
