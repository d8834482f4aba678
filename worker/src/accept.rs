//! Accepting connections.

use std::rc::Rc;
use std::time::Duration;

use rtmp_io::socket;
use rustix::io::Errno;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::sleep;
use tracing::{debug, warn};

use crate::conn;
use crate::hub::Hub;

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
                if let Err(error) = socket::set_options(&socket) {
                    // It is gone already.
                    debug!(%peer, %error, "accepted, then failed");
                    continue;
                }
                match hub.admit(socket, peer) {
                    Some(conn) => {
                        connections.spawn_local(conn::serve(Rc::clone(&hub), conn));
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
