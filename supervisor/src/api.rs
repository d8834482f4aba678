//! The control API on agent.sock; its documents are [`control::api`]'s.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::connect_info::{ConnectInfo, Connected};
use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::serve::IncomingStream;
use cluster::events::{By, Events};
use cluster::plan::HostPart;
use cluster::status::Status;
use control::api::{self, Apply, Line, Restart, Upgrade, Upgraded};
use control::start::Secret;
use control::{Code, Error};
use hyper::body::Frame;
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, Sleep, sleep};

use crate::door::Door;

/// Upper bound of a request, bytes: a cluster file at its own limit, escaped.
pub(crate) const MAX_REQUEST: usize = 8 << 20;
/// Progress lines that wait for a slow client.
const LINES: usize = 64;
/// Between two lines of an answer a client waits this long at most.
pub(crate) const LINE_LIMIT: Duration = Duration::from_secs(60);
/// So much time without a line has a line of its own: three of them are lost before a client gives up.
const STILL_AT_IT: Duration = Duration::from_secs(15);
const _: () = assert!(STILL_AT_IT.as_secs() * 4 <= LINE_LIMIT.as_secs());

/// Age beyond which a request is dropped, ms.
const TOO_OLD: u64 = 4_000;

/// What a client asks of the supervisor's loop.
#[derive(Debug)]
pub(crate) struct Asked {
    /// The client, as the kernel says.
    pub(crate) by: Option<By>,
    /// What.
    pub(crate) request: Request,
    /// Where the answer goes.
    pub(crate) reply: Reply,
}

/// A request.
#[derive(Debug)]
pub(crate) enum Request {
    Status,
    /// Those behind this number.
    Events(u64),
    Plan(Apply),
    Apply(Apply),
    Restart(Restart),
    Upgrade(Upgrade),
    Secret(Secret),
    Down,
}

/// Where an answer goes. Nothing here waits: a client that does not read loses lines of progress, never the last.
#[derive(Debug)]
pub(crate) enum Reply {
    Status(oneshot::Sender<Status>),
    Events(oneshot::Sender<Events>),
    Plan(oneshot::Sender<Result<HostPart, Error>>),
    Lines(mpsc::Sender<Line>),
}

impl Reply {
    /// Tells of progress.
    pub(crate) fn say(&self, progress: String) {
        if let Self::Lines(lines) = self
            && lines.capacity() > 2
        {
            let _ = lines.try_send(Line::Progress(progress));
        }
    }

    /// Tells what became of an upgrade.
    pub(crate) fn report(&self, upgraded: Upgraded) {
        if let Self::Lines(lines) = self {
            // There is room for it, and for the last: `say` leaves two places.
            let _ = lines.try_send(Line::Upgraded(upgraded));
        }
    }

    /// Ends a command.
    pub(crate) fn finish(self, outcome: Result<(), Error>) {
        if let Self::Lines(lines) = self {
            let last = outcome.map_or_else(Line::Error, |()| Line::Done {});
            // There is room for it: `say` leaves two places.
            let _ = lines.try_send(last);
        }
    }

    /// Gives events.
    pub(crate) fn tell(self, events: Events) {
        if let Self::Events(reply) = self {
            let _ = reply.send(events);
        }
    }

    /// Gives a plan, or says why there is none.
    pub(crate) fn show_plan(self, plan: Result<HostPart, Error>) {
        if let Self::Plan(reply) = self {
            let _ = reply.send(plan);
        }
    }

    /// Gives the status.
    pub(crate) fn show(self, status: Status) {
        if let Self::Status(reply) = self {
            let _ = reply.send(status);
        }
    }
}

/// Serves the API until `stop`, and then the answers that are under way.
pub(crate) async fn serve(door: Door, commands: mpsc::Sender<Asked>, stop: oneshot::Receiver<()>) {
    let router = axum::Router::new()
        .route(api::STATUS, get(status))
        .route(api::EVENTS, get(events))
        .route(api::PLAN, post(plan))
        .route(api::APPLY, post(apply))
        .route(api::RESTART, post(restart))
        .route(api::UPGRADE, post(upgrade))
        .route(api::SECRET, post(secret))
        .route(api::DOWN, post(down))
        .layer(axum::middleware::from_fn(refuse_old))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(commands);
    let stopped = async {
        let _ = stop.await;
    };
    let service = router.into_make_service_with_connect_info::<Peer>();
    if let Err(error) = axum::serve(door, service).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "control API ended");
    }
}

/// Drops a request whose sender does not wait any more.
async fn refuse_old(request: axum::extract::Request, next: Next) -> Response {
    let sent: Option<u64> =
        request.headers().get(api::SENT).and_then(|sent| sent.to_str().ok()?.parse().ok());
    let age = crate::host::procfs::uptime_ms().zip(sent).map_or(0, |(now, sent)| now.saturating_sub(sent));
    if age > TOO_OLD {
        let why = format!("the request lay here for {age} ms and is not carried out");
        return refused(Error::new(Code::Stale, why));
    }
    next.run(request).await
}

/// Who is at the other end of a connection.
#[derive(Clone, Copy, Debug)]
struct Peer(Option<By>);

impl Connected<IncomingStream<'_, Door>> for Peer {
    fn connect_info(stream: IncomingStream<'_, Door>) -> Self {
        Self(stream.io().peer())
    }
}

type Commands = State<mpsc::Sender<Asked>>;
type From = ConnectInfo<Peer>;

async fn status(State(commands): Commands, ConnectInfo(Peer(by)): From) -> Response {
    let (reply, answer) = oneshot::channel();
    let asked = Asked { by, request: Request::Status, reply: Reply::Status(reply) };
    if commands.send(asked).await.is_err() {
        return ending();
    }
    match answer.await {
        Ok(status) => Json(status).into_response(),
        Err(_) => ending(),
    }
}

/// The query of GET [`api::EVENTS`].
#[derive(Debug, Deserialize)]
struct Behind {
    #[serde(default)]
    after: u64,
}

async fn events(
    State(commands): Commands,
    ConnectInfo(Peer(by)): From,
    Query(Behind { after }): Query<Behind>,
) -> Response {
    let (reply, answer) = oneshot::channel();
    let asked = Asked { by, request: Request::Events(after), reply: Reply::Events(reply) };
    if commands.send(asked).await.is_err() {
        return ending();
    }
    match answer.await {
        Ok(events) => Json(events).into_response(),
        Err(_) => ending(),
    }
}

async fn plan(State(commands): Commands, ConnectInfo(Peer(by)): From, Json(body): Json<Apply>) -> Response {
    let (reply, answer) = oneshot::channel();
    let asked = Asked { by, request: Request::Plan(body), reply: Reply::Plan(reply) };
    if commands.send(asked).await.is_err() {
        return ending();
    }
    match answer.await {
        Ok(Ok(plan)) => Json(plan).into_response(),
        Ok(Err(error)) => refused(error),
        Err(_) => ending(),
    }
}

async fn apply(State(commands): Commands, peer: From, Json(body): Json<Apply>) -> Response {
    with_lines(&commands, peer, Request::Apply(body)).await
}

async fn restart(State(commands): Commands, peer: From, Json(body): Json<Restart>) -> Response {
    with_lines(&commands, peer, Request::Restart(body)).await
}

async fn upgrade(State(commands): Commands, peer: From, Json(body): Json<Upgrade>) -> Response {
    with_lines(&commands, peer, Request::Upgrade(body)).await
}

async fn secret(State(commands): Commands, peer: From, Json(body): Json<Secret>) -> Response {
    with_lines(&commands, peer, Request::Secret(body)).await
}

async fn down(State(commands): Commands, peer: From) -> Response {
    with_lines(&commands, peer, Request::Down).await
}

fn ending() -> Response {
    refused(Error::new(Code::Ending, "the supervisor is ending"))
}

fn refused(error: Error) -> Response {
    let status = StatusCode::from_u16(error.code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    (status, Json(Line::Error(error))).into_response()
}

async fn with_lines(
    commands: &mpsc::Sender<Asked>,
    ConnectInfo(Peer(by)): From,
    request: Request,
) -> Response {
    let (sender, receiver) = mpsc::channel(LINES);
    if commands.send(Asked { by, request, reply: Reply::Lines(sender) }).await.is_err() {
        return ending();
    }
    let lines = Lines::new(receiver, STILL_AT_IT);
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(lines)).into_response()
}

/// A body that grows as lines come, and by one of its own where none has come for long: however long a step takes, the
/// client knows that it is waited for.
struct Lines {
    receiver: mpsc::Receiver<Line>,
    /// The newest progress told.
    newest: String,
    since: Instant,
    every: Duration,
    silence: Pin<Box<Sleep>>,
}

impl Lines {
    fn new(receiver: mpsc::Receiver<Line>, every: Duration) -> Self {
        let newest = "taking it up".to_owned();
        Self { receiver, newest, since: Instant::now(), every, silence: Box::pin(sleep(every)) }
    }

    fn poll_line(&mut self, context: &mut Context<'_>) -> Poll<Option<Line>> {
        let line = match self.receiver.poll_recv(context) {
            Poll::Ready(None) => return Poll::Ready(None),
            Poll::Ready(Some(line)) => {
                if let Line::Progress(progress) = &line {
                    progress.clone_into(&mut self.newest);
                    self.since = Instant::now();
                }
                line
            }
            Poll::Pending => {
                ready!(self.silence.as_mut().poll(context));
                let waited = self.since.elapsed().as_secs();
                Line::Progress(format!("still at it, for {waited} s: {}", self.newest))
            }
        };
        let next = Instant::now() + self.every;
        self.silence.as_mut().reset(next);
        Poll::Ready(Some(line))
    }
}

impl axum::body::HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.get_mut().poll_line(context).map(|line| {
            line.map(|line| {
                let mut text = serde_json::to_vec(&line).unwrap_or_default();
                text.push(b'\n');
                Ok(Frame::data(text.into()))
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_step_that_takes_long_is_told_of_well_within_what_a_client_waits() {
        let (sender, receiver) = mpsc::channel(LINES);
        let mut lines = Lines::new(receiver, STILL_AT_IT);
        let reply = Reply::Lines(sender);
        reply.say("starting edge-h-1".to_owned());
        let mut told = Vec::new();
        let begin = Instant::now();
        let mut last = begin;
        while begin.elapsed() < Duration::from_secs(300) {
            let line = std::future::poll_fn(|context| lines.poll_line(context)).await.unwrap();
            assert!(last.elapsed() <= LINE_LIMIT / 4, "{:?} without a line", last.elapsed());
            last = Instant::now();
            told.push(line);
        }
        let still = |seconds| Line::Progress(format!("still at it, for {seconds} s: starting edge-h-1"));
        assert_eq!(told[1..3], [still(15), still(30)]);
        reply.finish(Ok(()));
        let line = std::future::poll_fn(|context| lines.poll_line(context)).await;
        assert_eq!(line, Some(Line::Done {}));
        assert_eq!(std::future::poll_fn(|context| lines.poll_line(context)).await, None);
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_loses_progress_and_not_the_answer() {
        let (sender, mut receiver) = mpsc::channel(LINES);
        let reply = Reply::Lines(sender);
        for number in 0..LINES * 2 {
            reply.say(number.to_string());
        }
        let error = Error::new(Code::Failed, "x");
        reply.finish(Err(error.clone()));
        let mut lines = Vec::new();
        while let Some(line) = receiver.recv().await {
            lines.push(line);
        }
        assert_eq!(lines.len(), LINES - 1);
        assert_eq!(lines.last(), Some(&Line::Error(error)));
    }
}
