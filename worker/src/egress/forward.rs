//! Forwarding of one stream to one edge port: a client connection that is one more cursor.
//!
//! A forwarder lives from the first media on and follows the log: each publication in turn, as far as it is there, and its end, also
//! when it was over before the target could be reached. At each connect its target gets metadata, headers, the current GOP and live.
//! It reconnects for ever, keeps its connection for a while between two publications, and has no backlog of its own. Its state is what
//! the target has proved: four times a second it sends a ping that carries the time of the last frame sent before it, and
//! [`liveness`](super::liveness) judges what comes back.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use cluster::stats::ForwardState;
use cluster::{Delays, Target};
use rtmp::auth::Claim;
use rtmp::client::{self, Event, Mode, Stage};
use rtmp::url::Url;
use rtmp_io::{Client, Limit, Route, socket};
use stream::{Cursor, Flushed, Recipient, Span};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

use super::liveness::{DEAD_AFTER, Liveness};
use super::status::{Forward, ForwardStatus, KEEP, Phase, has_passed};
use crate::channel::Channel;
use crate::counters::count;
use crate::hub::Hub;
use crate::panics::{Panic, contain_future};

/// Look-up of the target's name to Publish.Start at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// First delay between attempts: a port whose worker was restarted is back within a few of these.
const RETRY_FIRST: Duration = Duration::from_millis(25);
/// Longest delay, as SRS waits between attempts of a forwarder.
const RETRY_LONGEST: Duration = Duration::from_secs(3);
/// How often a sign of life is asked for.
const PING_EVERY: Duration = Duration::from_millis(250);
/// Bytes read at once while a kept connection publishes again: answers are short.
const START_READ: usize = 4 * 1024;

/// Streams that a flood of names has put off and that are over, of which so many begin to be forwarded each second.
const LATE_STARTS: usize = 4;
/// The same in connections: a stream costs one to every edge port. One stream begins in any case.
const LATE_CONNECTIONS: usize = 64;

/// Why a connection to a target ended.
#[derive(Debug, thiserror::Error)]
enum ForwardError {
    #[error(transparent)]
    Connection(#[from] rtmp_io::Error),
    #[error("no sign of life from the target for {} s", DEAD_AFTER / 1_000)]
    Dead,
    #[error(transparent)]
    Bug(#[from] Panic),
}

/// One forwarder a target: starts those that are missing, ends those that are no longer wanted.
pub(crate) fn sync(hub: &Rc<Hub>, channel: &Rc<Channel>) {
    let targets = hub.spec.borrow().forward.clone();
    let mut forwards = channel.forwards.borrow_mut();
    forwards.retain(|forward| targets.contains(forward.target()));
    for target in targets {
        if !forwards.iter().any(|forward| *forward.target() == target) {
            forwards.push(start(hub, channel, target));
        }
    }
}

/// Once a second: starts what a flood of names has put off. All streams that are live, and of those that are over a few that ended first.
pub(crate) fn start_late(hub: &Rc<Hub>) {
    let targets = hub.spec.borrow().forward.len();
    let is_put_off =
        |channel: &Rc<Channel>| channel.forwards.borrow().len() < targets && !channel.log().is_empty();
    let put_off = hub.channels().into_iter().filter(is_put_off);
    let (live, mut over): (Vec<_>, Vec<_>) = put_off.partition(|channel| channel.stream().head().is_live);
    over.sort_by_key(|channel| channel.stream().idle_since());
    let late = (LATE_CONNECTIONS / targets.max(1)).clamp(1, LATE_STARTS);
    for channel in live.iter().chain(over.iter().take(late)) {
        sync(hub, channel);
    }
}

fn start(hub: &Rc<Hub>, channel: &Rc<Channel>, target: Target) -> Forward {
    let status = Rc::new(ForwardStatus::new(target));
    let task = tokio::task::spawn_local(run(Rc::clone(hub), Rc::clone(channel), Rc::clone(&status)));
    Forward::new(status, task.abort_handle())
}

async fn run(hub: Rc<Hub>, channel: Rc<Channel>, status: Rc<ForwardStatus>) {
    let mut delays = Delays::new(RETRY_FIRST, RETRY_LONGEST);
    // By the worker's own address the target keeps a slot for us.
    let mut route = Route::new(Some(hub.spec.borrow().listen.ip()), status.target.address);
    let mut head = channel.watch();
    loop {
        status.phase.replace(Phase::Idle);
        if is_over_for_long(&hub, &channel) {
            status.settle(channel.log().end());
        }
        let goes_on = status.failed.get() && due(&channel, &status).is_some();
        if head.wait_for(|_| due(&channel, &status).is_some()).await.is_err() {
            return;
        }
        if !goes_on {
            status.well.set(hub.now());
        }
        status.phase.replace(Phase::Connecting);
        let forwarded = contain_future(forward(&hub, &channel, &status, &mut route, &mut delays)).await;
        let outcome = forwarded.unwrap_or_else(|panic| Err(panic.into()));
        status.failed.set(outcome.is_err());
        match outcome {
            Ok(()) => delays.reset(),
            Err(error) => {
                if status.open.get().is_some() {
                    // The next connection goes on with the newest group of pictures.
                    status.next.set(status.next.get().min(channel.log().start(true)));
                }
                status.phase.replace(Phase::Backoff);
                let text = error.to_string();
                let is_new = status.last_error.borrow().as_ref() != Some(&text);
                if is_new && hub.forward_lines.take(hub.now()) {
                    warn!(stream = %channel.key, target = %status.target.id, %error, "forward failed");
                }
                status.last_error.replace(Some(text));
                tokio::time::sleep(delays.next_delay(rtmp_io::chance())).await;
            }
        }
    }
}

/// The publication that the target is to be given of next, or told the end of.
fn due(channel: &Channel, status: &ForwardStatus) -> Option<Span> {
    let log = channel.log();
    match status.open.get() {
        // Nothing may be left of it but its end.
        Some(begin) => Some(log.publication_at(begin).unwrap_or(Span { begin, end: Some(begin) })),
        None => log.publication_from(status.next.get()),
    }
}

/// Whether nobody has published for [`KEEP`]: a target that has not been reached since learns of the end by itself.
fn is_over_for_long(hub: &Hub, channel: &Channel) -> bool {
    let idle_since = channel.stream().idle_since();
    idle_since.is_some_and(|since| has_passed(since, hub.now()))
}

/// One connection: publication after publication, until none has come for [`KEEP`].
async fn forward(
    hub: &Hub,
    channel: &Channel,
    status: &ForwardStatus,
    route: &mut Route,
    delays: &mut Delays,
) -> Result<(), ForwardError> {
    let request = request(hub, channel, &status.target);
    let mut client = Client::open(request, route, Limit::new(CONNECT_TIMEOUT), |_| {}).await?;
    if status.failed.get() {
        count(&status.reconnects, 1);
    }
    while let Some(span) = due(channel, status) {
        client = publication(hub, channel, status, delays, client, span).await?;
        status.failed.set(false);
        status.phase.replace(Phase::Idle);
        match keep(hub, channel, status, &mut client).await {
            Ok(true) => {}
            Ok(false) => return Ok(()),
            Err(lost) if socket::unacknowledged(&client.socket).is_ok_and(|bytes| bytes > 0) => {
                // It may not have heard of the end. It knows what it has.
                status.begin(span.begin, channel.log().start_of_forward(span, true));
                return Err(lost.into());
            }
            Err(_) => return Ok(()),
        }
        status.phase.replace(Phase::Connecting);
        client.session.restart();
        let is_started = |event: Event| event == Event::Started;
        client.run_until(Limit::new(CONNECT_TIMEOUT), &mut vec![0; START_READ], is_started).await?;
    }
    Ok(())
}

/// Waits for the next publication; false when there is none in time.
async fn keep(
    hub: &Hub,
    channel: &Channel,
    status: &ForwardStatus,
    client: &mut Client,
) -> Result<bool, rtmp_io::Error> {
    use rtmp_io::Error::Lost;
    let mut head = channel.watch();
    let mut next = pin!(timeout(KEEP, head.wait_for(|_| due(channel, status).is_some())));
    loop {
        tokio::select! {
            next = &mut next => return Ok(next.is_ok_and(|next| next.is_ok())),
            ready = client.socket.readable() => {
                ready.map_err(Lost)?;
                let taken = client.read(&mut hub.buffer.borrow_mut(), |_| {})?;
                count(&hub.counters.bytes_in, taken as u64);
                socket::write_all(&client.socket, client.session.output()).await.map_err(Lost)?;
            }
        }
    }
}

/// Forwards one publication to its end on a connection that publishes, and gives the connection back.
async fn publication(
    hub: &Hub,
    channel: &Channel,
    status: &ForwardStatus,
    delays: &mut Delays,
    client: Client,
    span: Span,
) -> Result<Client, ForwardError> {
    if hub.forward_lines.take(hub.now()) {
        info!(stream = %channel.key, target = %status.target.id, "forwarding");
    }
    status.phase.replace(Phase::Connected(Liveness::new()));
    // All of a publication that is over or has only begun, else metadata, headers and the current GOP, whatever players of the origin get.
    let from = channel.log().start_of_forward(span, !status.failed.get());
    channel.begin_reader(from);
    status.begin(span.begin, from);
    let mut forwarding = Forwarding {
        hub,
        channel,
        status,
        begin: span.begin,
        cursor: Cursor::new(Recipient::Forwarder, client.session.msid(), from),
        position: channel.log().position(from).0,
        has_sent: false,
        client,
    };
    match forwarding.run(delays).await {
        Ok(()) => Ok(forwarding.client),
        Err(ForwardError::Connection(rtmp_io::Error::Lost(lost))) => {
            Err(forwarding.client.why_lost(lost, &mut vec![0; START_READ], |_| {}).await.into())
        }
        Err(error) => Err(error),
    }
}

/// To publish the stream at `target`, with the proof that we may.
fn request(hub: &Hub, channel: &Channel, target: &Target) -> client::Config {
    let url = Url {
        host: target.host.clone(),
        port: target.port,
        app: channel.key.app().to_owned(),
        stream: channel.key.name().to_owned(),
    };
    let claim = Claim {
        secret: hub.secret.clone(),
        target: target.id.as_str().to_owned(),
        clock: channel.clock.clone(),
    };
    client::Config { auth: Some(claim), ..client::Config::new(Mode::Publish, url) }
}

struct Forwarding<'a> {
    hub: &'a Hub,
    channel: &'a Channel,
    status: &'a ForwardStatus,
    client: Client,
    /// Where the publication begins.
    begin: u64,
    cursor: Cursor,
    /// Number of the message the cursor has reached.
    position: u64,
    /// Whether a message has gone out on this connection.
    has_sent: bool,
}

impl Forwarding<'_> {
    /// Forwards the publication, and says that it is over.
    async fn run(&mut self, delays: &mut Delays) -> Result<(), ForwardError> {
        let mut head = self.channel.watch();
        let mut ping = interval(PING_EVERY);
        ping.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            head.borrow_and_update();
            let blocked = match self.flush()? {
                Flushed::Ended if self.client.session.stage() == Stage::Finished => return self.settle(),
                Flushed::Ended => {
                    self.client.session.finish();
                    continue;
                }
                Flushed::Blocked => true,
                Flushed::CaughtUp => false,
            };
            tokio::select! {
                // Its task ends with the channel.
                _ = head.changed() => {}
                ready = self.client.socket.readable() => {
                    ready.map_err(rtmp_io::Error::Lost)?;
                    self.read()?;
                }
                ready = self.client.socket.writable(), if blocked => ready.map_err(rtmp_io::Error::Lost)?,
                _ = ping.tick() => if self.check(blocked)? == ForwardState::Live { delays.reset() },
            }
        }
    }

    /// Sends what there is of the publication.
    fn flush(&mut self) -> Result<Flushed, rtmp_io::Error> {
        let log = self.channel.log();
        // The next publication may have begun before this task has its turn, or all of this one be gone.
        let end = log.publication_at(self.begin).map_or(Some(self.begin), |publication| publication.end);
        if let Some(end) = end {
            self.cursor.end_at(end);
        }
        // The bound is for peers that only ask; ours asks little.
        let _ = self.cursor.push_control(self.client.session.output());
        let before = self.cursor.bytes_sent();
        let to = &self.client.socket;
        let flushed = self.cursor.flush(&log, &mut |slices| socket::try_send(to, slices));
        let flushed = flushed.map_err(rtmp_io::Error::Lost)?;
        count(&self.hub.counters.bytes_out, self.cursor.bytes_sent() - before);
        self.status.next.set(self.cursor.offset());
        let (position, reached) = log.position(self.cursor.offset());
        self.status.reached.set(reached);
        let skips = self.cursor.take_skips();
        count(&self.hub.counters.skips, skips);
        if skips == 0 {
            let sent = position.saturating_sub(self.position);
            self.has_sent |= sent > 0;
            count(&self.status.sent, sent);
        }
        self.position = position;
        if flushed == Flushed::CaughtUp {
            let sent = self.cursor.bytes_sent();
            self.status.judge(|liveness| liveness.handle_sent(sent));
        }
        Ok(flushed)
    }

    fn read(&mut self) -> Result<(), rtmp_io::Error> {
        let (hub, status) = (self.hub, self.status);
        let handle = |event| {
            if let Event::Pong { timestamp } = event {
                status.judge(|liveness| liveness.handle_echo(hub.now(), timestamp));
            }
        };
        let taken = self.client.read(&mut hub.buffer.borrow_mut(), handle)?;
        count(&hub.counters.bytes_in, taken as u64);
        Ok(())
    }

    /// Four times a second: looks for signs of life and asks for the next.
    fn check(&mut self, blocked: bool) -> Result<ForwardState, ForwardError> {
        // A sign of life may wait to be read, however long we did not get to it.
        self.read()?;
        let now = self.hub.now();
        // Until a frame has gone out on this connection there is nothing to be acknowledged.
        let time = self.channel.log().position(self.cursor.offset()).1.filter(|_| self.has_sent);
        let unacknowledged = socket::unacknowledged(&self.client.socket).map_err(rtmp_io::Error::Lost)?;
        let acknowledged = self.cursor.bytes_sent().saturating_sub(unacknowledged);
        let Phase::Connected(liveness) = &mut *self.status.phase.borrow_mut() else {
            return Ok(ForwardState::Connecting);
        };
        liveness.handle_acknowledged(now, acknowledged, blocked);
        if liveness.is_dead(now) {
            return Err(ForwardError::Dead);
        }
        if let Some(time) = time.filter(|_| liveness.wants_ping()) {
            liveness.handle_ping(now, time);
            #[expect(clippy::cast_possible_truncation, reason = "a ping carries 32 bits")]
            self.client.session.ping(time as u32);
        }
        let state = liveness.state(now);
        if state == ForwardState::Live {
            self.status.well.set(now);
        }
        Ok(state)
    }

    /// All of the publication has been sent, and its end.
    fn settle(&mut self) -> Result<(), ForwardError> {
        // What is written to a target that has closed reaches nobody.
        self.read()?;
        let end = self.channel.log().publication_at(self.begin).and_then(|publication| publication.end);
        self.status.settle(end.unwrap_or(self.begin));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use cluster::stats::ForwardStats;
    use cluster::{Role, UnitId, WorkerSpec};
    use rtmp::chunk::Message;
    use rtmp::message_type::VIDEO;
    use rtmp::server::{self, Session, StreamKey};
    use rtmp::wire::csid;
    use tokio::net::{TcpListener, TcpSocket, TcpStream};
    use tokio::task::LocalSet;

    use super::*;
    use crate::conn::handle::Conn;
    use crate::ingress::{Publisher, publish};
    use crate::testing::spec;

    /// Frames of the group that is there when the target is connected to, and the bytes of each: together what a slow target needs more
    /// than `DEAD_AFTER` for, and what a kernel would take at once.
    const GROUP: (usize, usize) = (40, 100_000);
    /// What the target reads every 100 ms, and what its kernel keeps for it, bytes.
    const PACE: usize = 64 * 1024;

    fn origin(target: SocketAddr) -> WorkerSpec {
        let target = Target {
            id: UnitId::worker(Role::Edge, "target", 1935),
            host: target.ip().to_string(),
            port: target.port(),
            address: None,
        };
        WorkerSpec { forward: vec![target], ..spec(Role::Origin) }
    }

    /// Reads slowly as a target until the whole group is there.
    async fn read_slowly(socket: TcpStream) {
        let mut session = Session::new(server::Config::default());
        let mut buffer = vec![0; PACE];
        let mut pace = interval(Duration::from_millis(100));
        let mut missing = GROUP.0 * GROUP.1;
        while missing > 0 {
            pace.tick().await;
            socket.readable().await.unwrap();
            let Ok(taken) = socket.try_read(&mut buffer) else { continue };
            assert!(taken > 0, "given up {missing} bytes before the end");
            let mut input = &buffer[..taken];
            while let Some(event) = session.handle_input(&mut input).unwrap() {
                match event {
                    server::Event::Publish { .. } => session.accept_publish(),
                    server::Event::Media(message) => missing -= message.payload.len(),
                    _ => {}
                }
            }
            socket::write_all(&socket, session.output()).await.unwrap();
        }
    }

    /// A target that consents to everything.
    struct Consenting {
        socket: TcpStream,
        session: Session,
        unread: Vec<u8>,
    }

    impl Consenting {
        async fn next(&mut self) -> server::Event {
            loop {
                let mut input = &self.unread[..];
                let event = self.session.handle_input(&mut input).unwrap();
                let taken = self.unread.len() - input.len();
                self.unread.drain(..taken);
                if matches!(event, Some(server::Event::Publish { .. })) {
                    self.session.accept_publish();
                }
                socket::write_all(&self.socket, self.session.output()).await.unwrap();
                if let Some(event) = event {
                    return event;
                }
                self.socket.readable().await.unwrap();
                let mut buffer = [0; 4096];
                match self.socket.try_read(&mut buffer) {
                    Ok(0) => panic!("the connection was not kept"),
                    Ok(taken) => self.unread.extend_from_slice(&buffer[..taken]),
                    Err(_) => {}
                }
            }
        }

        async fn until(&mut self, is_wanted: impl Fn(&server::Event) -> bool) {
            while !is_wanted(&self.next().await) {}
        }
    }

    #[tokio::test]
    async fn a_connection_is_kept_for_the_streams_next_publication() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = Hub::new(origin(target.local_addr().unwrap()), vec![7; 32]);
        let encoder = TcpStream::connect(target.local_addr().unwrap()).await.unwrap();
        let conn = hub.admit(encoder, target.local_addr().unwrap()).unwrap();
        let _encoder = target.accept().await.unwrap();
        let test = async {
            let mut consenting = None;
            for timestamp in [0, 1_000, 2_000] {
                let publisher = publish(&hub, &StreamKey::parse("live", "a").unwrap(), None, &conn).unwrap();
                let payload = vec![0x17, 1, 0, 0, 0, 7].into();
                assert!(
                    publisher
                        .take(&Message { csid: 4, type_id: VIDEO, msid: 1, timestamp, payload }, hub.now())
                );
                publisher.commit();
                if consenting.is_none() {
                    let (socket, _) = target.accept().await.unwrap();
                    let session = Session::new(server::Config::default());
                    consenting = Some(Consenting { socket, session, unread: Vec::new() });
                }
                let target = consenting.as_mut().unwrap();
                target.until(|event| matches!(event, server::Event::Publish { .. })).await;
                target.until(|event| matches!(event, server::Event::Media(_))).await;
                publisher.finish();
                target.until(|event| matches!(event, server::Event::Unpublish { .. })).await;
            }
        };
        timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
    }

    /// A publication of one frame, `number`.
    fn publish_frame(hub: &Rc<Hub>, conn: &Rc<Conn>, number: u8) -> Publisher {
        let publisher = publish(hub, &StreamKey::parse("live", "a").unwrap(), None, conn).unwrap();
        let payload = vec![0x17, 1, 0, 0, 0, number].into();
        let timestamp = u32::from(number) * 1_000;
        assert!(publisher.take(&Message { csid: 4, type_id: VIDEO, msid: 1, timestamp, payload }, hub.now()));
        publisher.commit();
        publisher
    }

    async fn accept(target: &TcpListener) -> Consenting {
        let (socket, _) = target.accept().await.unwrap();
        Consenting { socket, session: Session::new(server::Config::default()), unread: Vec::new() }
    }

    /// What a target is told of publications until `number` have ended: begin, number of each frame, end.
    async fn seen_until_ends(target: &mut Consenting, number: usize) -> Vec<String> {
        let mut seen = Vec::new();
        while seen.iter().filter(|what| *what == "end").count() < number {
            match target.next().await {
                server::Event::Publish { .. } => seen.push("begin".to_owned()),
                server::Event::Media(message) => seen.push(message.payload[5].to_string()),
                server::Event::Unpublish { .. } => seen.push("end".to_owned()),
                _ => {}
            }
        }
        seen
    }

    #[tokio::test]
    async fn publications_that_follow_each_other_at_once_are_told_apart() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = Hub::new(origin(target.local_addr().unwrap()), vec![7; 32]);
        let encoder = TcpStream::connect(target.local_addr().unwrap()).await.unwrap();
        let conn = hub.admit(encoder, target.local_addr().unwrap()).unwrap();
        let _encoder = target.accept().await.unwrap();
        let test = async {
            let publisher = publish_frame(&hub, &conn, 1);
            let mut target = accept(&target).await;
            target.until(|event| matches!(event, server::Event::Media(_))).await;
            // The next has media before the forwarder has its turn.
            publisher.finish();
            let publisher = publish_frame(&hub, &conn, 2);
            assert_eq!(seen_until_ends(&mut target, 1).await, ["end"]);
            target.until(|event| matches!(event, server::Event::Media(_))).await;
            publisher.finish();
            publish_frame(&hub, &conn, 3).finish();
            publish_frame(&hub, &conn, 4).finish();
            let rest = ["end", "begin", "3", "end", "begin", "4", "end"];
            assert_eq!(seen_until_ends(&mut target, 3).await, rest);
        };
        timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
    }

    /// Until a forwarder of the stream is as `is_wanted` says.
    async fn until_forward(hub: &Hub, is_wanted: impl Fn(&ForwardStats) -> bool) {
        let key = StreamKey::parse("live", "a").unwrap();
        while !hub.find(&key).unwrap().forwards.borrow().iter().any(|f| is_wanted(&f.stats(None, 0))) {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn publications_that_are_over_before_the_target_can_be_reached_arrive_whole() {
        // Nobody listens yet.
        let target = TcpSocket::new_v4().unwrap();
        target.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let hub = Hub::new(origin(target.local_addr().unwrap()), vec![7; 32]);
        let encoder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(encoder.local_addr().unwrap()).await.unwrap();
        let conn = hub.admit(socket, encoder.local_addr().unwrap()).unwrap();
        let test = async {
            // Before the forwarder has its first turn, and while it waits to try again.
            publish_frame(&hub, &conn, 1).finish();
            publish_frame(&hub, &conn, 2).finish();
            until_forward(&hub, |forward| forward.last_error.is_some()).await;
            hub.tick();
            publish_frame(&hub, &conn, 3).finish();
            let last = publish_frame(&hub, &conn, 4);
            hub.tick();
            let target = target.listen(8).unwrap();
            let mut target = accept(&target).await;
            let expected = ["begin", "1", "end", "begin", "2", "end", "begin", "3", "end"];
            assert_eq!(seen_until_ends(&mut target, 3).await, expected);
            last.finish();
            assert_eq!(seen_until_ends(&mut target, 1).await, ["begin", "4", "end"]);
        };
        timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
    }

    #[tokio::test]
    async fn of_a_publication_that_is_gone_the_end_alone_is_told_and_those_behind_it_follow() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = Hub::new(origin(target.local_addr().unwrap()), vec![7; 32]);
        let encoder = TcpStream::connect(target.local_addr().unwrap()).await.unwrap();
        let conn = hub.admit(encoder, target.local_addr().unwrap()).unwrap();
        let _encoder = target.accept().await.unwrap();
        let test = async {
            let publisher = publish_frame(&hub, &conn, 1);
            let mut first = accept(&target).await;
            first.until(|event| matches!(event, server::Event::Media(_))).await;
            drop(first);
            until_forward(&hub, |forward| forward.state == ForwardState::Backoff).await;
            publisher.finish();
            // More than the log keeps apart.
            (2..90).for_each(|number| publish_frame(&hub, &conn, number).finish());
            // Its keyframe is not its begin.
            let last = publish(&hub, &StreamKey::parse("live", "a").unwrap(), None, &conn).unwrap();
            for (number, frame) in [(90, 0x27), (91, 0x17)] {
                let payload = vec![frame, 1, 0, 0, 0, number].into();
                let timestamp = u32::from(number) * 1_000;
                let message = Message { csid: 4, type_id: VIDEO, msid: 1, timestamp, payload };
                assert!(last.take(&message, hub.now()));
            }
            last.commit();
            let mut again = accept(&target).await;
            assert_eq!(seen_until_ends(&mut again, 1).await, ["begin", "end"]);
            let mut seen = Vec::new();
            while seen.last() != Some(&91) {
                if let server::Event::Media(message) = again.next().await {
                    seen.push(message.payload[5]);
                }
            }
            assert!(seen.len() < 60 && seen.is_sorted() && seen.contains(&89), "{seen:?}");
        };
        timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
    }

    #[tokio::test]
    async fn an_end_that_was_lost_with_its_connection_is_told_again() {
        let small = TcpSocket::new_v4().unwrap();
        small.set_recv_buffer_size(16 * 1024).unwrap();
        small.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let target = small.listen(8).unwrap();
        let hub = Hub::new(origin(target.local_addr().unwrap()), vec![7; 32]);
        let encoder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(encoder.local_addr().unwrap()).await.unwrap();
        let conn = hub.admit(socket, encoder.local_addr().unwrap()).unwrap();
        let test =
            async {
                let publisher = publish_frame(&hub, &conn, 1);
                // More than the target takes without reading.
                let payload = [&[0x27, 1, 0, 0, 0, 2][..], &[7; 200_000]].concat().into();
                assert!(publisher.take(
                    &Message { csid: 4, type_id: VIDEO, msid: 1, timestamp: 1_040, payload },
                    hub.now()
                ));
                publisher.finish();
                let mut first = accept(&target).await;
                first.until(|event| matches!(event, server::Event::Publish { .. })).await;
                until_forward(&hub, |forward| forward.state == ForwardState::Idle).await;
                drop(first);
                let mut again = accept(&target).await;
                assert_eq!(seen_until_ends(&mut again, 1).await, ["begin", "1", "2", "end"]);
            };
        timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
    }

    #[tokio::test]
    async fn an_end_that_came_while_the_target_was_away_is_told_when_it_is_back() {
        let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let hub = Hub::new(origin(target.local_addr().unwrap()), vec![7; 32]);
        let encoder = TcpStream::connect(target.local_addr().unwrap()).await.unwrap();
        let conn = hub.admit(encoder, target.local_addr().unwrap()).unwrap();
        let _encoder = target.accept().await.unwrap();
        let test = async {
            // Alone, and with another publication behind it.
            for is_followed in [false, true] {
                let publisher = publish_frame(&hub, &conn, 1);
                let mut first = accept(&target).await;
                first.until(|event| matches!(event, server::Event::Media(_))).await;
                drop(first);
                until_forward(&hub, |forward| forward.state == ForwardState::Backoff).await;
                publisher.finish();
                let next = is_followed.then(|| publish_frame(&hub, &conn, 2));
                let mut again = accept(&target).await;
                assert_eq!(seen_until_ends(&mut again, 1).await, ["begin", "1", "end"]);
                drop(next);
                if is_followed {
                    assert_eq!(seen_until_ends(&mut again, 1).await, ["begin", "2", "end"]);
                }
            }
        };
        timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
    }

    #[tokio::test]
    async fn a_target_that_takes_a_large_group_slowly_is_not_given_up() {
        let small = TcpSocket::new_v4().unwrap();
        small.set_recv_buffer_size(PACE as u32).unwrap();
        small.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let target = small.listen(1).unwrap();

        let hub = Hub::new(origin(target.local_addr().unwrap()), vec![7; 32]);
        let encoder = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let socket = TcpStream::connect(encoder.local_addr().unwrap()).await.unwrap();
        let conn = hub.admit(socket, encoder.local_addr().unwrap()).unwrap();
        let publish_and_read = async {
            let publisher = publish(&hub, &StreamKey::parse("live", "a").unwrap(), None, &conn).unwrap();
            for frame in 0..GROUP.0 {
                let mut payload = vec![0; GROUP.1];
                payload[..2].copy_from_slice(if frame == 0 { &[0x17, 1] } else { &[0x27, 1] });
                let timestamp = frame as u32 * 40;
                let csid = csid::VIDEO.into();
                let message = Message { csid, type_id: VIDEO, msid: 1, timestamp, payload: payload.into() };
                assert!(publisher.take(&message, hub.now()));
            }
            publisher.commit();
            let (socket, _) = target.accept().await.unwrap();
            read_slowly(socket).await;
        };
        LocalSet::new().run_until(publish_and_read).await;
    }
}
