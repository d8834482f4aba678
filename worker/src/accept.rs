//! Accepting connections.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rtmp_io::socket;
use rustix::io::Errno;
use rustix::net::sockopt::set_socket_linger;
use tokio::net::TcpListener;
use tokio::task::coop::unconstrained;
use tokio::task::{JoinError, JoinSet, yield_now};
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::conn::{self, Serving};
use crate::failpoints;
use crate::hub::Hub;

/// Wait after an accept that failed for want of descriptors or memory: connections stay in the backlog.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Connections that are accepted in one go; then others have their turn.
const ACCEPTS_PER_TURN: usize = 64;
/// So many accepted without the queue having been empty once: others wait, and a flood is refused.
const CROWD: usize = 128;

/// Serves `taken_over`, and accepts until the task is dropped; the connections end with it.
pub(crate) async fn accept(hub: Rc<Hub>, listener: Rc<TcpListener>, taken_over: Vec<Serving>) {
    let mut connections = JoinSet::new();
    for serving in taken_over {
        connections.spawn_local(conn::serve(serving));
    }
    // Accepted since the queue was empty.
    let mut row = 0_usize;
    loop {
        // Else a turn of the runtime would look like an empty queue.
        let accepted = unconstrained(poll_fn(|cx| {
            if let Poll::Ready(accepted) = listener.poll_accept(cx) {
                return Poll::Ready(Some(accepted));
            }
            row = 0;
            match connections.poll_join_next(cx) {
                Poll::Ready(Some(ended)) => {
                    look_at(ended);
                    Poll::Ready(None)
                }
                Poll::Ready(None) | Poll::Pending => Poll::Pending,
            }
        }))
        .await;
        let Some(accepted) = accepted else { continue };
        row += 1;
        if row.is_multiple_of(ACCEPTS_PER_TURN) {
            while let Some(ended) = connections.try_join_next() {
                look_at(ended);
            }
            yield_now().await;
        }
        match accepted {
            Ok((socket, peer)) if row > CROWD && hub.is_flood(peer) => {
                // A reset leaves nothing behind.
                let _ = set_socket_linger(&socket, Some(Duration::ZERO));
            }
            Ok((socket, peer)) => {
                failpoints::pass("accept");
                if let Err(error) = socket::set_options(&socket) {
                    // It is gone already.
                    debug!(%peer, %error, "accepted, then failed");
                    continue;
                }
                match hub.admit(socket, peer) {
                    Some(conn) => {
                        connections.spawn_local(conn::serve(conn::begin(Rc::clone(&hub), conn)));
                    }
                    None => debug!(%peer, "refused: all connections are taken"),
                }
            }
            Err(error) => match error.raw_os_error().map(Errno::from_raw_os_error) {
                Some(Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM) => {
                    if hub.conn_lines.take(hub.now()) {
                        warn!(%error, "cannot accept; trying again");
                    }
                    sleep(ACCEPT_PAUSE).await;
                }
                _ => debug!(%error, "a connection was lost before it was accepted"),
            },
        }
    }
}

fn look_at(ended: Result<(), JoinError>) {
    if let Err(error) = ended {
        warn!(%error, "a connection's task failed");
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpStream};

    use cluster::Role;
    use tokio::net::TcpSocket;
    use tokio::task::LocalSet;

    use super::*;
    use crate::testing::spec;

    /// How many of `count` connections are taken in and how many refused, when all wait in the queue at once.
    async fn accepted_and_refused(count: u64, stays: bool) -> (u64, u64) {
        let hub = Hub::new(spec(Role::Edge), vec![7; 32]);
        let listener = TcpSocket::new_v4().unwrap();
        listener.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = Rc::new(listener.listen(1_024).unwrap());
        let address: SocketAddr = listener.local_addr().unwrap();
        let comes = |_| Some(TcpStream::connect(address).unwrap()).filter(|_| stays);
        let _crowd: Vec<_> = (0..count).filter_map(comes).collect();
        let accepting = tokio::task::spawn_local(accept(Rc::clone(&hub), listener, Vec::new()));
        let ended = || (hub.counters.accepted.get(), hub.tally.refused());
        while ended().0 + ended().1 < count {
            yield_now().await;
        }
        accepting.abort();
        ended()
    }

    #[tokio::test]
    async fn a_flood_of_connections_that_come_to_nothing_is_refused_and_a_crowd_that_stays_is_not() {
        let test = async {
            let (accepted, refused) = accepted_and_refused(600, false).await;
            assert!((200..600).contains(&accepted), "{accepted} accepted, {refused} refused");
            assert_eq!(accepted_and_refused(300, true).await, (300, 0));
        };
        LocalSet::new().run_until(test).await;
    }
}
