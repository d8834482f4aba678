//! The near end of a session.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf, duplex, split};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::child::Group;
use crate::exchange::Exchange;
use crate::failure::{Kind, Problem, Step};
use crate::frame::{Frame, Reader};
use crate::hello::Hello;
use crate::wire::{Ended, Wire};

/// For so long what is left of one exchange may take before the next begins.
const TURN: Duration = Duration::from_secs(15);
/// Bytes on the way between two ends in one process.
const WITHIN: usize = 64 << 10;
/// For so long `ssh` may take to end after its input did; then it is killed.
const LEAVE: Duration = Duration::from_secs(2);

/// A session with srsctl on another machine. A clone is the same session; with the last one it ends, and its `ssh` is killed.
#[derive(Clone, Debug)]
pub struct Session(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// How the machine is reached, for a person.
    place: String,
    hello: Hello,
    skew_ms: i64,
    /// None once it is being closed.
    outgoing: Mutex<Option<mpsc::Sender<Frame>>>,
    incoming: Arc<tokio::sync::Mutex<mpsc::Receiver<Frame>>>,
    ended: Ended,
    tasks: Mutex<JoinSet<()>>,
    child: Mutex<Option<Group>>,
}

impl Session {
    pub(crate) fn new(place: String, hello: Hello, wire: Wire, child: Option<Group>) -> Self {
        let Wire { incoming, outgoing, ended, tasks } = wire;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let skew = i128::from(hello.clock_ms) - i128::try_from(now).unwrap_or_default();
        Self(Arc::new(Inner {
            place,
            skew_ms: i64::try_from(skew).unwrap_or_default(),
            hello,
            outgoing: Mutex::new(Some(outgoing)),
            incoming: Arc::new(tokio::sync::Mutex::new(incoming)),
            ended,
            tasks: Mutex::new(tasks),
            child: Mutex::new(child),
        }))
    }

    /// One with this process itself: `serve` is the far end, given its input and output.
    ///
    /// # Errors
    /// When the far end does not say who it is.
    pub async fn within<F: Future<Output = ()> + Send + 'static>(
        place: &str,
        own: &Hello,
        serve: impl FnOnce(ReadHalf<DuplexStream>, WriteHalf<DuplexStream>) -> F,
    ) -> Result<Self, Problem> {
        let (near, far) = duplex(WITHIN);
        let (input, output) = split(far);
        let server = serve(input, output);
        let (input, output) = split(near);
        let mut wire = Wire::new(input, output, Reader::default());
        wire.tasks.spawn(server);
        let broken = |why: String| Problem::new(place, Step::Greeting, Kind::Broken, why);
        let Some(Frame::Hello(hello)) = wire.incoming.recv().await else {
            return Err(broken(wire.ended.why().unwrap_or_default()));
        };
        let hello = serde_json::from_slice(&hello).map_err(|error| broken(error.to_string()))?;
        let own = serde_json::to_vec(own).map_err(|error| broken(error.to_string()))?;
        let _ = wire.outgoing.send(Frame::Hello(own)).await;
        Ok(Self::new(place.to_owned(), hello, wire, None))
    }

    /// Who is there.
    #[must_use]
    pub fn hello(&self) -> &Hello {
        &self.0.hello
    }

    /// How far its clock was before ours when it said who it is, ms: what the way took makes it less. To be shown, never to decide by.
    #[must_use]
    pub fn skew_ms(&self) -> i64 {
        self.0.skew_ms
    }

    /// Begins an exchange, once the one before is over.
    ///
    /// # Errors
    /// When the session is over, or the exchange before does not end.
    pub async fn open(&self, what: &impl Serialize) -> Result<Exchange, Problem> {
        let problem = |why: String| Problem::new(&self.0.place, Step::Ask, Kind::Broken, why);
        let what = serde_json::to_vec(what).map_err(|error| problem(error.to_string()))?;
        let over = || problem(self.0.ended.why().unwrap_or_else(|| "the session has ended".to_owned()));
        let turn = timeout(TURN, Arc::clone(&self.0.incoming).lock_owned()).await;
        let mut incoming = turn.map_err(|_| problem("what was asked before does not end".to_owned()))?;
        if incoming.is_closed() {
            return Err(over());
        }
        let outgoing = self.0.outgoing.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let outgoing = outgoing.ok_or_else(over)?;
        outgoing.send(Frame::Open(what)).await.map_err(|_| over())?;
        let (exchange, pump) = Exchange::new();
        let ended = self.0.ended.clone();
        let mut tasks = self.0.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let is_whole = pump.run(&mut incoming, &outgoing, &ended, async { Frame::End }).await;
            if !is_whole {
                incoming.close();
            }
        });
        Ok(exchange)
    }

    /// Ends the session, and waits until `ssh` has ended: by itself, or killed.
    pub async fn close(self) {
        drop(self.0.outgoing.lock().unwrap_or_else(PoisonError::into_inner).take());
        let child = self.0.child.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(child) = child {
            child.end(LEAVE).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;
    use crate::exchange::Refused;
    use crate::hello::PROTO;
    use crate::serve;

    fn hello() -> Hello {
        Hello { proto: PROTO, version: "0.1.0".into(), boot_id: "b".into(), host: "h".into(), clock_ms: 7 }
    }

    /// Echoes what is sent, and refuses what is opened as `no`.
    async fn echo(opened: Vec<u8>, mut exchange: Exchange) -> Result<(), Refused> {
        if opened == b"\"no\"" {
            return Err(Refused::new(6, "no"));
        }
        let mut bytes = Vec::new();
        exchange.read_to_end(&mut bytes).await.map_err(|error| Refused::new(1, error))?;
        exchange.write_all(&bytes).await.map_err(|error| Refused::new(1, error))
    }

    async fn session() -> (Session, tokio::task::JoinHandle<std::io::Result<()>>) {
        let (near, far) = tokio::io::duplex(4 << 10);
        let (input, output) = split(far);
        let server = tokio::spawn(async move {
            serve(input, output, &hello(), |opened, exchange, client| {
                assert_eq!(client, &hello());
                echo(opened, exchange)
            })
            .await
        });
        let (input, output) = split(near);
        let mut wire = Wire::new(input, output, Reader::default());
        let Some(Frame::Hello(_)) = wire.incoming.recv().await else { panic!("no hello") };
        wire.outgoing.send(Frame::Hello(serde_json::to_vec(&hello()).unwrap())).await.unwrap();
        (Session::new("h".into(), hello(), wire, None), server)
    }

    #[tokio::test]
    async fn one_exchange_follows_the_other_whatever_became_of_it() {
        let (session, server) = session().await;
        for round in 0..3_u8 {
            let sent = vec![round; 300 << 10];
            let (mut read, mut write) = split(session.open(&"echo").await.unwrap());
            let writes = async {
                write.write_all(&sent).await.unwrap();
                write.shutdown().await.unwrap();
            };
            let mut echoed = Vec::new();
            let ((), read) = tokio::join!(writes, read.read_to_end(&mut echoed));
            read.unwrap();
            assert!(echoed == sent);
            // One that is dropped with all of it unread.
            let mut dropped = session.open(&"echo").await.unwrap();
            dropped.write_all(&sent).await.unwrap();
            drop(dropped);
            let mut refused = session.open(&"no").await.unwrap();
            assert_eq!(refused.read(&mut [0]).await.unwrap(), 0);
            assert_eq!(refused.refused(), Some(Refused::new(6, "no")));
        }
        session.close().await;
        server.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn what_waits_for_an_end_that_is_gone_is_told() {
        let (session, server) = session().await;
        let mut exchange = session.open(&"echo").await.unwrap();
        server.abort();
        assert_eq!(exchange.read(&mut [0]).await.unwrap(), 0);
        let why = exchange.refused().unwrap().message;
        assert!(why.contains("broken off"), "{why}");
        assert!(session.open(&"echo").await.unwrap_err().to_string().contains("the session has ended"));
    }
}
