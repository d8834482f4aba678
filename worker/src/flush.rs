//! Sending to the players that are caught up, in passes.

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
/// Players between two looks at the clock.
const PLAYERS_PER_LOOK: usize = 16;
/// See [`PLAYERS_PER_TURN`].
const TURN: Duration = Duration::from_millis(2);

/// Sends to the players of every channel that has something for them: at once, or when the configured latency has passed.
pub(crate) async fn flush(hub: Rc<Hub>) {
    let mut next = Instant::now();
    loop {
        hub.flush_wanted.notified().await;
        if next > Instant::now() + TIMER {
            sleep_until(next).await;
        }
        let started = Instant::now();
        let mut busy = Duration::ZERO;
        for channel in hub.take_dirty() {
            busy += flush_channel(&hub, &channel).await;
        }
        next = next_pass(hub.spec.borrow().options.latency, next, started, busy);
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

/// One pass over the players of `channel`; the time it kept the thread.
async fn flush_channel(hub: &Hub, channel: &Rc<Channel>) -> Duration {
    channel.dirty.set(false);
    let removals = channel.removals.get();
    let (mut index, mut busy) = (0, Duration::ZERO);
    loop {
        let started = Instant::now();
        let now = hub.now();
        {
            let (log, players) = (channel.log(), channel.players.borrow());
            let one = |player: &Player| player.flush(&log, &hub.counters, now);
            index += turn(players.get(index..).unwrap_or(&[]), started, one);
            busy += started.elapsed();
            if index >= players.len() {
                break;
            }
        }
        yield_now().await;
    }
    if channel.removals.get() != removals {
        // A player may have moved to a place that was passed already.
        hub.mark_dirty(channel);
    }
    busy
}

/// Flushes the first of `players` for one turn's time; how many were passed. A panic costs the player it met.
fn turn(players: &[Rc<Player>], started: Instant, flush: impl Fn(&Player)) -> usize {
    for (index, player) in players.iter().take(PLAYERS_PER_TURN).enumerate() {
        if !player.is_parked()
            && let Err(panic) = contain(|| flush(player))
        {
            error!(peer = %player.conn.peer, error = %panic, "a player is given up");
            player.conn.cut(Cut::Bug);
        }
        if (index + 1).is_multiple_of(PLAYERS_PER_LOOK) && started.elapsed() >= TURN {
            return index + 1;
        }
    }
    players.len().min(PLAYERS_PER_TURN)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use stream::{ConnId, Cursor, Recipient};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::conn::handle::Conn;

    #[tokio::test]
    async fn a_panic_in_a_pass_costs_the_player_it_met() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let peer = listener.local_addr().unwrap();
        let mut players = Vec::new();
        for id in 0..3 {
            let socket = TcpStream::connect(peer).await.unwrap();
            let conn = Rc::new(Conn::new(ConnId(id), peer, socket));
            players.push(Rc::new(Player::new(conn, 1, Cursor::new(Recipient::Player, 1, 0))));
        }
        let flushed = RefCell::new(Vec::new());
        let passed = turn(&players, Instant::now(), |player| {
            assert_ne!(player.conn.id, ConnId(1), "this one has a bug");
            flushed.borrow_mut().push(player.conn.id);
        });
        assert_eq!(passed, 3);
        assert_eq!(flushed.take(), [ConnId(0), ConnId(2)]);
        let cuts: Vec<_> = players.iter().map(|player| player.conn.is_cut()).collect();
        assert_eq!(cuts, [None, Some(Cut::Bug), None]);
    }
}
