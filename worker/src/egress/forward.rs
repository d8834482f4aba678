//! Forwarding of one stream to one target, an edge port or [beyond](super::outbound): a client connection that is one more cursor.
//!
//! A forwarder lives from the first media on and follows the log: each publication in turn, as far as it is there, and its end, also
//! when it was over before the target could be reached. At each connect its target gets metadata, headers, the current GOP and live.
//! It reconnects for ever, keeps its connection for a while between two publications, and has no backlog of its own. Its state is what
//! the target has proved: four times a second it sends a ping that carries the time of the last frame sent before it, and
//! [`liveness`](super::liveness) judges what comes back.

mod link;
#[cfg(test)]
mod tests;

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use cluster::stats::ForwardState;
use cluster::{Delays, Target};
use rtmp::auth::Claim;
use rtmp::client::{self, Event, Mode, Stage};
use rtmp::url::Url;
use rtmp_io::{Client, Limit, Route, socket};
use shm::Id;
use stream::{Cursor, Flushed, Recipient, Span};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{info, warn};

pub(crate) use self::link::{Connected, LinkRecord};
use self::link::{Forwarding, GoesOn};
use super::liveness::{DEAD_AFTER, Liveness};
use super::outbound::{self, Destination, Way};
use super::status::{Forward, ForwardRecord, ForwardStatus, KEEP, Phase, has_passed};
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
    #[error(transparent)]
    Key(#[from] outbound::KeyError),
    #[error("no sign of life from the target for {} s", DEAD_AFTER / 1_000)]
    Dead,
    #[error(transparent)]
    Bug(#[from] Panic),
}

/// One forwarder a target: starts those that are missing, ends those that are no longer wanted.
pub(crate) fn sync(hub: &Rc<Hub>, channel: &Rc<Channel>) {
    let destinations = outbound::destinations(&hub.spec.borrow(), &channel.key);
    let mut forwards = channel.forwards.borrow_mut();
    forwards.retain(|forward| destinations.contains(forward.destination()));
    for destination in destinations {
        if !forwards.iter().any(|forward| *forward.destination() == destination) {
            let status = ForwardStatus::new(destination, &channel.key, &hub.keeping, channel.object);
            forwards.push(start(hub, channel, status, None));
        }
    }
}

/// Where the forward of a record goes, unless it is not wanted any more.
pub(crate) fn destination(hub: &Hub, channel: &Channel, record: &ForwardRecord) -> Option<Destination> {
    let mut all = outbound::destinations(&hub.spec.borrow(), &channel.key).into_iter();
    all.find(|destination| destination.record_id() == record.target)
}

/// The forward of a record, to where it goes, with its connection if that goes on. False if it is not wanted any more.
pub(crate) fn restore(
    hub: &Rc<Hub>,
    channel: &Rc<Channel>,
    (id, record): (Id, &ForwardRecord),
    wanted: Option<(Destination, Option<Connected>)>,
) -> bool {
    let Some((destination, connected)) = wanted else { return false };
    let status = ForwardStatus::restore(destination, &channel.key, &hub.keeping, (id, record));
    if connected.is_none() && status.open.get().is_some() {
        // As where a connection is lost.
        status.failed.set(true);
        status.next.set(status.next.get().min(channel.log().start(true)));
    }
    channel.forwards.borrow_mut().push(start(hub, channel, status, connected));
    true
}

/// Once a second: starts what a flood of names has put off. All streams that are live, and of those that are over a few that ended first.
pub(crate) fn start_late(hub: &Rc<Hub>) {
    let targets = {
        let spec = hub.spec.borrow();
        spec.forward.len() + spec.outbound.len()
    };
    let is_put_off = |channel: &Rc<Channel>| {
        let started = channel.forwards.borrow().len();
        // Not each stream goes to each target.
        started < targets
            && !channel.log().is_empty()
            && started < outbound::count(&hub.spec.borrow(), &channel.key)
    };
    let put_off = hub.channels().into_iter().filter(is_put_off);
    let (live, mut over): (Vec<_>, Vec<_>) = put_off.partition(|channel| channel.stream().head().is_live);
    over.sort_by_key(|channel| channel.stream().idle_since());
    let late = (LATE_CONNECTIONS / targets.max(1)).clamp(1, LATE_STARTS);
    for channel in live.iter().chain(over.iter().take(late)) {
        sync(hub, channel);
    }
}

fn start(
    hub: &Rc<Hub>,
    channel: &Rc<Channel>,
    status: Rc<ForwardStatus>,
    connected: Option<Connected>,
) -> Forward {
    let run = run(Rc::clone(hub), Rc::clone(channel), Rc::clone(&status), connected);
    Forward::new(status, tokio::task::spawn_local(run).abort_handle())
}

async fn run(
    hub: Rc<Hub>,
    channel: Rc<Channel>,
    status: Rc<ForwardStatus>,
    mut connected: Option<Connected>,
) {
    let mut delays = status.destination.delays((RETRY_FIRST, RETRY_LONGEST));
    let mut dialer = Dialer::new(&hub, &status.destination);
    if let Some(connected) = &connected {
        status.key.replace(connected.key.clone());
    }
    let mut head = channel.watch();
    loop {
        status.phase.replace(Phase::Idle);
        if connected.is_none() && is_over_for_long(&hub, &channel) {
            status.settle(channel.log().end());
        }
        let goes_on = status.failed.get() && due(&channel, &status).is_some();
        if connected.is_none() && head.wait_for(|_| due(&channel, &status).is_some()).await.is_err() {
            return;
        }
        if !goes_on {
            status.well.set(hub.now());
        }
        status.phase.replace(Phase::Connecting);
        let connected = connected.take();
        let forwarded =
            contain_future(forward(&hub, &channel, &status, &mut dialer, &mut delays, connected)).await;
        let outcome = forwarded.unwrap_or_else(|panic| Err(panic.into()));
        status.failed.set(outcome.is_err());
        status.touch();
        match outcome {
            Ok(()) => delays.reset(),
            Err(error) => {
                if status.open.get().is_some() {
                    // The next connection goes on with the newest group of pictures.
                    status.next.set(status.next.get().min(channel.log().start(true)));
                }
                status.phase.replace(Phase::Backoff);
                let text = match &error {
                    ForwardError::Connection(error) => status.fail(error),
                    ForwardError::Key(_) | ForwardError::Dead | ForwardError::Bug(_) => {
                        status.code.replace(None);
                        error.to_string()
                    }
                };
                let is_new = status.last_error.borrow().as_ref() != Some(&text);
                if is_new && hub.forward_lines.take(hub.now()) {
                    warn!(stream = %channel.key, target = %status.target.id, error = text, "forward failed");
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
    dialer: &mut Dialer,
    delays: &mut Delays,
    connected: Option<Connected>,
) -> Result<(), ForwardError> {
    let (mut client, mut goes_on) = match connected {
        Some(Connected { client, goes_on, .. }) => (client, Some(goes_on)),
        None => {
            let client = dialer.open(hub, channel, status).await?;
            if status.failed.get() {
                count(&status.reconnects, 1);
            }
            (client, None)
        }
    };
    loop {
        let Some(span) = due(channel, status) else { return Ok(()) };
        client = publication(hub, channel, status, delays, (client, goes_on.take()), span).await?;
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
                let taken = client.read(&mut hub.keeping.buffer.borrow_mut(), |_| {})?;
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
    (client, goes_on): (Client, Option<GoesOn>),
    span: Span,
) -> Result<Client, ForwardError> {
    status.phase.replace(Phase::Connected(match &status.destination {
        Destination::Edge(_) => Liveness::new(),
        Destination::Out(_) => Liveness::lenient(),
    }));
    let goes_on = goes_on.unwrap_or_else(|| {
        if hub.forward_lines.take(hub.now()) {
            info!(stream = %channel.key, target = %status.target.id, "forwarding");
        }
        // All of a publication that is over or has only begun, else metadata, headers and the current GOP, whatever players of the origin get.
        let from = channel.log().start_of_forward(span, !status.failed.get());
        channel.begin_reader(from);
        status.begin(span.begin, from);
        GoesOn {
            object: hub.keeping.store.add(),
            written: link::written(&client.socket).unwrap_or(0),
            read: socket::read_so_far(&client.socket).unwrap_or(0),
            begin: span.begin,
            cursor: Cursor::new(Recipient::Forwarder, client.session.msid(), from),
            position: channel.log().position(from).0,
            has_sent: false,
        }
    });
    let mut forwarding = Forwarding::new(hub, channel, status, client, goes_on);
    match forwarding.run(delays).await {
        Ok(()) => Ok(forwarding.finish()),
        Err(ForwardError::Connection(rtmp_io::Error::Lost(lost))) => {
            let mut client = forwarding.finish();
            Err(client.why_lost(lost, &mut vec![0; START_READ], |_| {}).await.into())
        }
        Err(error) => Err(error),
    }
}

/// How a target is reached, kept from one connection to the next.
enum Dialer {
    Edge(Route),
    Out(Way),
}

impl Dialer {
    fn new(hub: &Hub, destination: &Destination) -> Self {
        match destination {
            // By the worker's own address the target keeps a slot for us.
            Destination::Edge(target) => {
                Self::Edge(Route::new(Some(hub.spec.borrow().listen.ip()), target.address))
            }
            Destination::Out(_) => Self::Out(Way::default()),
        }
    }

    async fn open(
        &mut self,
        hub: &Hub,
        channel: &Channel,
        status: &ForwardStatus,
    ) -> Result<Client, ForwardError> {
        match (self, &status.destination) {
            (Self::Out(way), Destination::Out(outbound)) => {
                let use_key = |key| drop(status.key.replace(key));
                way.open(&hub.lookups, (&channel.key, outbound), use_key).await.map_err(|error| match error {
                    outbound::OpenError::Key(error) => error.into(),
                    outbound::OpenError::Connection(error) => error.into(),
                })
            }
            (Self::Edge(route), _) => {
                let request = request(hub, channel, &status.target);
                Ok(Client::open(request, route, Limit::new(CONNECT_TIMEOUT), |_| {}).await?)
            }
            (Self::Out(_), Destination::Edge(_)) => Err(rtmp_io::Error::NoAddress.into()),
        }
    }
}

/// What a connection that goes on was asked for, and the key in it; `None` where that cannot be told any more.
pub(crate) fn request_again(
    hub: &Hub,
    channel: &Channel,
    destination: &Destination,
) -> Option<(client::Config, Option<Rc<str>>)> {
    match destination {
        Destination::Edge(target) => Some((request(hub, channel, target), None)),
        Destination::Out(outbound) => {
            let key = outbound::key_of(outbound).ok()?;
            Some((outbound::request(&channel.key, outbound, key.as_deref()), key))
        }
    }
}

/// To publish the stream at the edge `target`, with the proof that we may.
fn request(hub: &Hub, channel: &Channel, target: &Target) -> client::Config {
    let url = Url {
        host: target.host.clone(),
        port: target.port,
        app: channel.key.app().to_owned(),
        stream: channel.key.name().to_owned(),
    };
    let claim = Claim {
        secret: hub.secret.used(),
        target: target.id.as_str().to_owned(),
        clock: channel.clock.clone(),
    };
    client::Config { auth: Some(claim), ..client::Config::new(Mode::Publish, url) }
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
        let flushed = self.send(&log).map_err(rtmp_io::Error::Lost)?;
        let sent = self.cursor.bytes_sent() - before;
        count(&self.hub.counters.bytes_out, sent);
        count(&self.status.bytes, sent);
        self.status.next.set(self.cursor.offset());
        let (position, reached) = log.position(self.cursor.offset());
        self.status.reached.set(reached);
        let skips = self.cursor.take_skips();
        count(&self.hub.counters.skips, skips);
        count(&self.status.dropped, skips);
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
        hub.keeping.begin_read(self.object());
        let read = self.client.read(&mut hub.keeping.buffer.borrow_mut(), handle);
        let taken = read.as_ref().copied().unwrap_or(0);
        if taken > 0 {
            count(&hub.counters.bytes_in, taken as u64);
            self.note_read(taken);
        }
        hub.keeping.end_read();
        read.map(|_| ())
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
