//! Who gives when a port holds more memory than it may.
//!
//! In this order, until it is enough: connections that neither publish nor play, the largest first; media of streams that have ended;
//! players that stopped in the middle of messages that the log has dropped since; media for slow players, of the streams that have more
//! than their share of half the memory; the connections that hold most. So a stranger pays before a publisher, and a slow player before
//! one that watches.

use std::cmp::Reverse;
use std::rc::Rc;

use cluster::Memory;

use crate::channel::Channel;
use crate::conn::end::Cut;
use crate::conn::handle::Conn;
use crate::egress::player::Player;
use crate::hub::Hub;
use crate::tally::Limit;

/// A connection that holds less is not worth being cut, bytes.
const WORTH: u64 = 64 * 1024;
/// What all logs together are cut down to, one so-manieth of the port's memory.
const LOGS_PART: u64 = 2;

/// Brings what the port holds below its limit, if it is above.
pub(crate) fn relieve(hub: &Hub) {
    if !hub.books.is_over() {
        return;
    }
    let by_size = |is_wanted: &dyn Fn(&Conn) -> bool| {
        let is_worth = |conn: &Rc<Conn>| conn.is_cut().is_none() && conn.holding.bytes() >= WORTH;
        let mut conns: Vec<_> = hub.open().into_iter().filter(|c| is_worth(c) && is_wanted(c)).collect();
        conns.sort_by_key(|conn| Reverse(conn.holding.bytes()));
        conns
    };
    for conn in by_size(&|conn| conn.holding.is_guest()) {
        if !hub.books.is_above_goal_of_guests() {
            break;
        }
        cut(hub, &conn);
    }
    if hub.books.is_over() {
        drop_ended(hub);
    }
    if hub.books.is_over() {
        cut_keepers(hub);
    }
    if hub.books.is_over() {
        shrink_logs(hub);
    }
    if hub.books.is_over() {
        for conn in by_size(&|_| true) {
            if !hub.books.is_above_goal() {
                break;
            }
            cut(hub, &conn);
        }
    }
}

fn cut(hub: &Hub, conn: &Conn) {
    hub.tally.count(Limit::Memory, hub.now());
    conn.cut(Cut::Memory);
    // It is gone as soon as its task has its turn.
    hub.books.close(&conn.holding);
}

fn drop_ended(hub: &Hub) {
    let is_ended = |channel: &Rc<Channel>| channel.is_held() && !channel.is_publishing();
    let mut ended: Vec<_> = hub.channels().into_iter().filter(is_ended).collect();
    ended.sort_by_key(|channel| channel.stream().idle_since());
    for channel in ended {
        if !hub.books.is_above_goal() {
            return;
        }
        hub.tally.count(Limit::MemoryMedia, hub.now());
        channel.clear();
        hub.forget_if_useless(&channel);
    }
}

fn cut_keepers(hub: &Hub) {
    let mut keepers: Vec<(u64, Rc<Player>)> = Vec::new();
    for channel in hub.channels() {
        let (log, players) = (channel.log(), channel.players.borrow());
        let kept = players.iter().map(|player| (player.cursor.borrow().kept(&log), Rc::clone(player)));
        keepers.extend(kept.filter(|(kept, _)| *kept > 0));
    }
    keepers.sort_by_key(|(kept, _)| Reverse(*kept));
    for (_, player) in keepers {
        if !hub.books.is_above_goal() {
            return;
        }
        cut(hub, &player.conn);
        // Its socket is written to no more: nobody needs the rest.
        drop(player.cursor.borrow_mut().take_rest());
    }
}

fn shrink_logs(hub: &Hub) {
    let mut held: Vec<_> = hub.channels().into_iter().filter(|channel| channel.is_held()).collect();
    let streams = u64::try_from(held.len()).unwrap_or(u64::MAX).max(1);
    let share = (hub.books.limit() / LOGS_PART / streams).max(Memory::OF_A_STREAM << 20);
    held.sort_by_key(|channel| Reverse(channel.log().memory()));
    for channel in held {
        if !hub.books.is_above_goal() || channel.log().memory() <= share {
            return;
        }
        hub.tally.count(Limit::MemoryMedia, hub.now());
        channel.stream_mut().shrink(share);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::net::SocketAddr;

    use cluster::{Role, WorkerOptions, WorkerSpec};
    use rtmp::chunk::Message;
    use rtmp::server::StreamKey;
    use tokio::net::{TcpListener, TcpStream};
    use tokio::task::LocalSet;

    use super::*;
    use crate::egress::play::play;
    use crate::ingress::{Publisher, publish};
    use crate::testing::spec;

    const KIB: u64 = 1024;

    /// A port of so many MiB.
    fn origin(mib: u32) -> Rc<Hub> {
        let options = WorkerOptions { memory: Memory::Fixed(mib), ..WorkerOptions::default() };
        Hub::new(WorkerSpec { options, ..spec(Role::Origin) }, vec![7; 32])
    }

    async fn conn(hub: &Hub) -> Rc<Conn> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: SocketAddr = listener.local_addr().unwrap();
        hub.admit(TcpStream::connect(address).await.unwrap(), address).unwrap()
    }

    fn key(name: &str) -> StreamKey {
        StreamKey::parse("live", name).unwrap()
    }

    /// Publishes `count` frames of 100 KiB.
    fn frames(publisher: &Publisher, count: u32) {
        for frame in 0..count {
            let mut payload = vec![0; 100 * 1024];
            payload[..2].copy_from_slice(if frame % 5 == 0 { &[0x17, 1] } else { &[0x27, 1] });
            let message =
                Message { csid: 4, type_id: 9, msid: 1, timestamp: frame * 40, payload: payload.into() };
            assert!(publisher.take(&message, u64::from(frame) * 40));
        }
    }

    #[tokio::test]
    async fn guests_pay_first_and_the_largest_of_them_before_the_others() {
        let hub = origin(1);
        let (small, large, publisher) = (conn(&hub).await, conn(&hub).await, conn(&hub).await);
        hub.books.note_session(&small.holding, 100 * KIB, false);
        hub.books.note_session(&publisher.holding, 300 * KIB, true);
        relieve(&hub);
        assert_eq!(small.is_cut(), None);
        hub.books.note_session(&large.holding, 200 * KIB, false);
        relieve(&hub);
        let cuts = [&small, &large, &publisher].map(|conn| conn.is_cut());
        assert_eq!(cuts, [None, Some(Cut::Memory), None]);
        assert_eq!(hub.books.used(), 400 * KIB);
        // When nobody else is left, those that hold most.
        hub.books.note_session(&publisher.holding, 2_000 * KIB, true);
        relieve(&hub);
        assert_eq!(publisher.is_cut(), Some(Cut::Memory));
        hub.release(small.id);
        assert_eq!(hub.books.used(), 0);
        let limits = hub.tally.stats(&hub.spec.borrow().options, hub.now());
        assert!(
            limits.iter().any(|met| met.limit == "memory" && met.what.contains("memory: 1MiB")),
            "{limits:?}"
        );
    }

    #[tokio::test]
    async fn media_of_ended_streams_go_first_and_then_those_of_streams_over_their_share() {
        let test = async {
            let hub = origin(4);
            let conn = conn(&hub).await;
            let ended = publish(&hub, &key("ended"), None, &conn).unwrap();
            frames(&ended, 10);
            ended.finish();
            let live = publish(&hub, &key("live"), None, &conn).unwrap();
            let small = publish(&hub, &key("small"), None, &conn).unwrap();
            frames(&small, 1);
            frames(&live, 50);
            relieve(&hub);
            assert!(hub.find(&key("ended")).is_none());
            assert!(hub.books.used() <= hub.books.limit(), "{}", hub.books.used());
            let memory = |name| hub.find(&key(name)).unwrap().log().memory();
            assert!(memory("live") <= 1_024 * KIB && memory("live") >= 500 * KIB, "{}", memory("live"));
            assert!(memory("small") > 0 && conn.is_cut().is_none());
        };
        LocalSet::new().run_until(test).await;
    }

    #[tokio::test]
    async fn a_player_that_stops_in_a_message_that_the_log_has_dropped_is_cut() {
        let test = async {
            let hub = origin(1);
            let [encoder, stops, watches] = [conn(&hub).await, conn(&hub).await, conn(&hub).await];
            let publisher = publish(&hub, &key("a"), None, &encoder).unwrap();
            frames(&publisher, 3);
            let [stops, watches] =
                [stops, watches].map(|conn| play(&hub, &key("a"), 1, None, &conn).unwrap());
            let room = RefCell::new(160_000);
            let send = &mut |slices: &[std::io::IoSlice<'_>]| {
                let taken = slices.iter().map(|slice| slice.len()).sum::<usize>().min(*room.borrow());
                *room.borrow_mut() -= taken;
                Ok(taken)
            };
            let channel = hub.find(&key("a")).unwrap();
            stops.player.cursor.borrow_mut().flush(&channel.log(), send).unwrap();
            frames(&publisher, 20);
            channel.stream_mut().shrink(600 * KIB);
            assert!(stops.player.cursor.borrow().kept(&channel.log()) > 0);
            let kept = hub.books.media.bytes() - channel.log().memory();
            assert!(kept > 0);
            frames(&publisher, 5);
            relieve(&hub);
            assert_eq!(stops.player.conn.is_cut(), Some(Cut::Memory));
            assert_eq!(watches.player.conn.is_cut(), None);
            assert_eq!(hub.books.media.bytes(), channel.log().memory(), "nothing is kept any more");
        };
        LocalSet::new().run_until(test).await;
    }
}
