//! Sending to the players that are caught up, in passes.

use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use cluster::Latency;
use tokio::task::yield_now;
use tokio::time::{Instant, sleep_until};
use tracing::error;

use crate::channel::Channel;
use crate::conn::end::Cut;
use crate::egress::player::Player;
use crate::hub::Hub;
use crate::panics::contain;

/// With `latency: auto`, the share of the core that sending may take before flushes come less often. Four such ports, the guide's
/// cluster, then stay within one core, and each has room for joins and ingest.
const AUTO_SHARE: f64 = 0.2;
/// A shorter wait than the timer can keep is left out; with `latency: auto` it adds to the next one.
const TIMER: Duration = Duration::from_millis(1);
/// Players between two looks at everything else the thread has to do, and the time for them: large frames take longer.
const PLAYERS_PER_TURN: usize = 128;
/// Sockets of which the runtime hears in one turn (tokio's default).
const EVENTS: usize = 1_024;
/// See [`PLAYERS_PER_TURN`].
const TURN: Duration = Duration::from_millis(2);

/// Sends what waits for `connections` players that another worker has left, before anything else is done for them; when the next pass is due.
pub(crate) async fn go_on(hub: &Hub, connections: usize) -> Instant {
    // The runtime learns so many a turn which sockets take bytes, and sends to none before.
    for _ in 0..connections.div_ceil(EVENTS) {
        yield_now().await;
    }
    let started = Instant::now();
    let mut parts = VecDeque::new();
    take_dirty(hub, &mut parts);
    let busy = pass(hub, &mut parts, started + Duration::from(Latency::MAX)).await;
    parts.iter().for_each(|part| hub.mark_dirty(&part.channel));
    next_pass(hub.spec.borrow().options.latency, started, started, busy)
}

/// Sends to the players of every channel that has something for them: at once, or when the configured latency has passed, but not before
/// `next`.
pub(crate) async fn flush(hub: Rc<Hub>, mut next: Instant) {
    let mut parts = VecDeque::new();
    loop {
        if parts.is_empty() {
            hub.flush_wanted.notified().await;
        }
        if next > Instant::now() + TIMER {
            sleep_until(next).await;
        }
        let started = Instant::now();
        take_dirty(&hub, &mut parts);
        let busy = pass(&hub, &mut parts, started + Duration::from(Latency::MAX)).await;
        next = next_pass(hub.spec.borrow().options.latency, next, started, busy);
    }
}

/// Sends to the players that were parked and whose sockets take more. They take what they can get, so all of them together get no more
/// than a turn at a time.
pub(crate) async fn catch_up(hub: Rc<Hub>) {
    loop {
        hub.catch_up_wanted.notified().await;
        let mut started = Instant::now();
        while let Some((channel, player)) = hub.next_in_queue() {
            if player.is_parked() && player.conn.is_cut().is_none() {
                let (log, now) = (channel.log(), hub.now());
                flush_player(&player, |player| player.flush(&log, &hub.counters, now));
                // Its task looks whether its socket takes more still.
                player.conn.wake();
            }
            if started.elapsed() >= TURN {
                yield_now().await;
                started = Instant::now();
            }
        }
    }
}

/// When the next pass is due, after one that was due at `due`, began at `started` and kept the thread `busy`.
fn next_pass(latency: Latency, due: Instant, started: Instant, busy: Duration) -> Instant {
    match latency {
        Latency::Fixed(span) => started + Duration::from(span),
        // Counted from when it was due: many passes too short to wait for add up.
        Latency::Auto => {
            let longest = started + Duration::from(Latency::MAX);
            (due.max(started) + busy.mul_f64(1.0 / AUTO_SHARE)).min(longest)
        }
    }
}

/// One channel in a pass.
struct Part {
    channel: Rc<Channel>,
    /// Players that were passed.
    index: usize,
    /// Removals of players before it began.
    removals: u64,
    /// The channel has had something for its players since.
    is_stale: bool,
}

/// Adds what is to be sent to what is left of the last pass, in front of it.
fn take_dirty(hub: &Hub, parts: &mut VecDeque<Part>) {
    for channel in hub.take_dirty() {
        channel.dirty.set(false);
        if let Some(part) = parts.iter_mut().find(|part| Rc::ptr_eq(&part.channel, &channel)) {
            part.is_stale = true;
        } else {
            let removals = channel.removals.get();
            parts.push_front(Part { channel, index: 0, removals, is_stale: false });
        }
    }
}

/// One pass over the players of `parts`, a turn of each in rotation; the time it kept the thread. What is left at its `end` is for the
/// next one: a channel whose players take long to send to does not hold up those that have something new.
async fn pass(hub: &Hub, parts: &mut VecDeque<Part>, end: Instant) -> Duration {
    let (mut busy, mut started) = (Duration::ZERO, Instant::now());
    while let Some(mut part) = parts.pop_front() {
        let is_over = part.turn(hub, started);
        if !is_over {
            parts.push_back(part);
        }
        if !is_over || started.elapsed() >= TURN {
            busy += started.elapsed();
            yield_now().await;
            started = Instant::now();
            if started >= end {
                return busy;
            }
        }
    }
    busy + started.elapsed()
}

impl Part {
    /// Flushes what is left of a turn that began at `started`; true when all players are passed.
    fn turn(&mut self, hub: &Hub, started: Instant) -> bool {
        let Self { channel, index, removals, is_stale } = self;
        {
            let (log, players, now) = (channel.log(), channel.players.borrow(), hub.now());
            let one = |player: &Player| player.flush(&log, &hub.counters, now);
            *index += turn(players.get(*index..).unwrap_or(&[]), started, one);
            if *index < players.len() {
                return false;
            }
        }
        if *is_stale || channel.removals.get() != *removals {
            // A player may have moved to a place that was passed already.
            hub.mark_dirty(channel);
        }
        true
    }
}

/// Flushes the first of `players` for one turn's time; how many were passed. A panic costs the player it met.
fn turn(players: &[Rc<Player>], started: Instant, flush: impl Fn(&Player)) -> usize {
    for (index, player) in players.iter().take(PLAYERS_PER_TURN).enumerate() {
        if !player.is_parked() {
            flush_player(player, &flush);
        }
        if started.elapsed() >= TURN {
            return index + 1;
        }
    }
    players.len().min(PLAYERS_PER_TURN)
}

/// A panic costs the player it meets.
fn flush_player(player: &Player, flush: impl Fn(&Player)) {
    if let Err(panic) = contain(|| flush(player)) {
        error!(peer = %player.conn.peer, error = %panic, "a player is given up");
        player.conn.cut(Cut::Bug);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use cluster::Role;
    use rtmp::server::StreamKey;
    use shm::Store;
    use stream::{ConnId, Cursor, Recipient};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::conn::handle::Conn;
    use crate::keeping::Keeping;
    use crate::testing::spec;

    #[tokio::test]
    async fn a_panic_in_a_pass_costs_the_player_it_met() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let keeping = Rc::new(Keeping::new(Store::private(1 << 16), None));
        let mut players = Vec::new();
        for id in 0..3 {
            let socket = TcpStream::connect(peer).await.unwrap();
            let conn = Rc::new(Conn::new(ConnId(id), peer, socket));
            players.push(Player::new(conn, 1, Cursor::new(Recipient::Player, 1, 0), &keeping));
        }
        let flushed = RefCell::new(Vec::new());
        // The turn is never over: to tell of a panic takes longer than one.
        let passed = turn(&players, Instant::now() + Duration::from_secs(60), |player| {
            assert_ne!(player.conn.id, ConnId(1), "this one has a bug");
            flushed.borrow_mut().push(player.conn.id);
        });
        assert_eq!(passed, 3);
        assert_eq!(flushed.take(), [ConnId(0), ConnId(2)]);
        let cuts: Vec<_> = players.iter().map(|player| player.conn.is_cut()).collect();
        assert_eq!(cuts, [None, Some(Cut::Bug), None]);
    }

    #[tokio::test]
    async fn those_that_a_pass_had_not_come_to_are_the_first_of_the_next_worker() {
        let hub = Hub::new(spec(Role::Edge), vec![7; 32]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let channel = hub.channel(&StreamKey::parse("live", "a").unwrap(), usize::MAX).unwrap();
        for (id, offset) in [(4, 20), (3, 20), (1, 30), (2, 10)] {
            let conn = Rc::new(Conn::new(ConnId(id), peer, TcpStream::connect(peer).await.unwrap()));
            let cursor = Cursor::new(Recipient::Player, 1, offset);
            channel.players.borrow_mut().push(Player::new(conn, 1, cursor, &hub.keeping));
        }
        channel.sort_players();
        let order: Vec<_> = channel.players.borrow().iter().map(|player| player.conn.id.0).collect();
        assert_eq!(order, [2, 3, 4, 1]);
    }

    #[tokio::test]
    async fn a_channel_that_takes_long_does_not_hold_up_another() {
        let hub = Hub::new(spec(Role::Edge), vec![7; 32]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let conn = Rc::new(Conn::new(ConnId(0), peer, TcpStream::connect(peer).await.unwrap()));
        let channel = |name: &str, players: usize| {
            let key = StreamKey::parse("live", name).unwrap();
            let channel = hub.channel(&key, usize::MAX).unwrap();
            let cursor = || Cursor::new(Recipient::Player, 1, 0);
            let player = || Player::new(Rc::clone(&conn), 1, cursor(), &hub.keeping);
            channel.players.borrow_mut().extend((0..players).map(|_| player()));
            channel
        };
        let (large, small) = (channel("large", PLAYERS_PER_TURN + 1), channel("small", 1));
        let names = |parts: &VecDeque<Part>| -> Vec<_> {
            parts.iter().map(|part| (part.channel.key.to_string(), part.index, part.is_stale)).collect()
        };
        let mut parts = VecDeque::new();
        hub.mark_dirty(&large);
        take_dirty(&hub, &mut parts);
        pass(&hub, &mut parts, Instant::now()).await;
        let [(_, index, false)] = names(&parts)[..] else { panic!("{:?}", names(&parts)) };
        assert!((1..=PLAYERS_PER_TURN).contains(&index), "{index}");

        hub.mark_dirty(&large);
        hub.mark_dirty(&small);
        take_dirty(&hub, &mut parts);
        assert_eq!(
            names(&parts),
            [("live/small".to_owned(), 0, false), ("live/large".to_owned(), index, true)]
        );
        pass(&hub, &mut parts, Instant::now() + Duration::from(Latency::MAX)).await;
        assert!(parts.is_empty());
        assert!(large.dirty.get() && !small.dirty.get(), "its first players have something again");
    }
}
