//! Accepting connections, flushing players, the worker's own clock.

use std::rc::Rc;
use std::time::Duration;

use cluster::Latency;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, sleep_until};
use tracing::{debug, warn};

use crate::connection;
use crate::hub::{Hub, Lag, count};
use crate::stream::Stream;

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
/// Wait after an accept that failed for want of descriptors or memory: connections stay in the backlog.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);
/// Accepts until the task is dropped; the connections end with it.
pub(crate) async fn accept(hub: Rc<Hub>, listener: Rc<TcpListener>) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(ended) = connections.join_next() => {
                if let Err(error) = ended {
                    warn!(%error, "a connection's task failed");
                }
                continue;
            }
        };
        match accepted {
            Ok((socket, peer)) => {
                if let Err(error) = rtmp_io::socket::set_options(&socket) {
                    // It is gone already.
                    debug!(%peer, %error, "accepted, then failed");
                    continue;
                }
                match hub.admit(socket, peer) {
                    Some(link) => {
                        connections.spawn_local(connection::serve(Rc::clone(&hub), link));
                    }
                    None => debug!(%peer, "refused: all connections are taken"),
                }
            }
            Err(error) => match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
                Some(
                    rustix::io::Errno::MFILE
                    | rustix::io::Errno::NFILE
                    | rustix::io::Errno::NOBUFS
                    | rustix::io::Errno::NOMEM,
                ) => {
                    warn!(%error, "cannot accept; trying again");
                    sleep(ACCEPT_PAUSE).await;
                }
                _ => debug!(%error, "a connection was lost before it was accepted"),
            },
        }
    }
}

/// Sends to the players of every stream that has something for them: at once, or when the configured latency has passed.
pub(crate) async fn flush(hub: Rc<Hub>) {
    let mut next = Instant::now();
    loop {
        hub.flush_wanted.notified().await;
        if next > Instant::now() + TIMER {
            sleep_until(next).await;
        }
        let started = Instant::now();
        let mut busy = Duration::ZERO;
        for stream in hub.take_dirty() {
            busy += flush_stream(&hub, &stream).await;
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

/// One pass over the players of `stream`; the time it kept the thread.
async fn flush_stream(hub: &Hub, stream: &Rc<Stream>) -> Duration {
    stream.dirty.set(false);
    let removals = stream.removals.get();
    let (mut index, mut busy) = (0, Duration::ZERO);
    loop {
        let started = Instant::now();
        let now = hub.now();
        {
            let (log, players) = (stream.log(), stream.players.borrow());
            for player in players.iter().skip(index).take(PLAYERS_PER_TURN) {
                index += 1;
                if !player.is_parked() {
                    player.flush(&log, &hub.counters, now);
                }
                if index.is_multiple_of(PLAYERS_PER_LOOK) && started.elapsed() >= TURN {
                    break;
                }
            }
            busy += started.elapsed();
            if index >= players.len() {
                break;
            }
        }
        yield_now().await;
    }
    if stream.removals.get() != removals {
        // A player may have moved to a place that was passed already.
        hub.mark_dirty(stream);
    }
    busy
}

/// Measures how late the loop gets to what is due.
pub(crate) async fn measure_lag(hub: Rc<Hub>) {
    loop {
        let due = Instant::now() + Lag::PERIOD;
        sleep_until(due).await;
        hub.lag.push(due.elapsed());
    }
}

/// Once a second: deadlines and rates, and the beat by which the supervisor sees that the loop turns.
pub(crate) async fn tick(hub: Rc<Hub>) {
    let mut every = interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        hub.tick();
        count(&hub.counters.beats, 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The share of the time that passes of `busy` take when there is always something to send.
    fn share(busy: Duration) -> f64 {
        let begin = Instant::now();
        let (mut now, mut next, mut sum) = (begin, begin, Duration::ZERO);
        for _ in 0..1_000 {
            now = if next > now + TIMER { next } else { now };
            next = next_pass(Latency::Auto, next, now, busy);
            now += busy;
            sum += busy;
        }
        sum.as_secs_f64() / (now - begin).as_secs_f64()
    }

    #[test]
    fn auto_latency_keeps_short_and_long_passes_to_their_share_up_to_the_longest_wait() {
        for micros in [20, 190, 1_000, 20_000, 60_000] {
            let share = share(Duration::from_micros(micros));
            assert!((0.15..=AUTO_SHARE + 0.01).contains(&share), "{micros} us: {share}");
        }
        assert!(share(Duration::from_millis(100)) > AUTO_SHARE, "350 ms at most");
    }

    #[test]
    fn auto_latency_does_not_wait_on_an_idle_port() {
        let now = Instant::now();
        let next = next_pass(Latency::Auto, now, now, Duration::from_micros(150));
        assert!(next <= now + TIMER);
        // A moment later nothing is left of it.
        let later = now + Duration::from_millis(20);
        assert!(next_pass(Latency::Auto, next, later, Duration::from_micros(150)) <= later + TIMER);
    }
}
