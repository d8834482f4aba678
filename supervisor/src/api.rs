//! The control API on agent.sock: HTTP/1 and JSON.
//!
//! | request | body | answer |
//! | --- | --- | --- |
//! | GET /v1/status | | [`cluster::status::Status`] |
//! | POST /v1/apply | [`Apply`] | lines |
//! | POST /v1/restart | [`Restart`] | lines |
//! | POST /v1/down | | lines |
//!
//! `lines` are JSON documents, one a line: [`Line::Progress`], as many as there is progress to tell, and at the end
//! [`Line::Done`] or [`Line::Failed`]. What was asked goes on when the client goes away.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use cluster::Role;
use cluster::status::Status;
use hyper::body::Frame;
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Upper bound of a request, bytes: a cluster file at its own limit, escaped.
const MAX_REQUEST: usize = 8 << 20;
/// Progress lines that wait for a slow client.
const LINES: usize = 64;
/// For so long the supervisor waits for a client that does not read.
const SLOW_CLIENT: Duration = Duration::from_secs(1);

/// When a request was sent, ms since boot: one that lay in the socket of a stopped supervisor is not carried out after its
/// sender has given up.
pub(crate) const SENT: &str = "x-srsctl-sent-ms";
/// Age beyond which a request is dropped, ms.
const TOO_OLD: u64 = 4_000;

/// Body of POST /v1/apply.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Apply {
    /// Absolute path of the cluster file, for messages and for relative paths in it.
    pub path: std::path::PathBuf,
    /// Its text.
    pub text: String,
}

/// Body of POST /v1/restart: which processes, one after the other.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// Of this role.
    pub role: Role,
    /// On this port; without it, on each.
    #[serde(default)]
    pub port: Option<u16>,
    /// On this host; without it, on each.
    #[serde(default)]
    pub host: Option<String>,
}

/// One line of an answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Line {
    /// Something was done.
    Progress {
        /// What, for a person.
        progress: String,
    },
    /// All was done. Last line.
    Done {
        /// Always true.
        ok: bool,
    },
    /// Not all was done. Last line.
    Failed {
        /// Why, and what to do, for a person.
        error: String,
        /// Nothing was begun, since something else is under way.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        busy: bool,
    },
}

/// What a client asks of the supervisor's loop.
#[derive(Debug)]
pub(crate) enum Command {
    Status(oneshot::Sender<Status>),
    Apply(Apply, Progress),
    Restart(Restart, Progress),
    Down(Progress),
}

/// Where the progress of a command goes.
#[derive(Clone, Debug)]
pub(crate) struct Progress(Option<mpsc::Sender<Line>>);

impl Progress {
    /// To nobody.
    pub(crate) fn none() -> Self {
        Self(None)
    }

    pub(crate) async fn say(&self, progress: impl Into<String>) {
        let progress = progress.into();
        tracing::info!("{progress}");
        self.send(Line::Progress { progress }).await;
    }

    pub(crate) async fn finish(self, outcome: Result<(), String>) {
        let line = match outcome {
            Ok(()) => Line::Done { ok: true },
            Err(error) => {
                tracing::warn!("{error}");
                Line::Failed { error, busy: false }
            }
        };
        self.send(line).await;
    }

    /// Ends what was not even begun.
    pub(crate) async fn refuse_as_busy(self, error: String) {
        tracing::warn!("{error}");
        self.send(Line::Failed { error, busy: true }).await;
    }

    async fn send(&self, line: Line) {
        if let Some(lines) = &self.0 {
            let _ = lines.send_timeout(line, SLOW_CLIENT).await;
        }
    }
}

/// Serves the API until `stop`, and then the answers that are under way.
pub(crate) async fn serve(
    listener: tokio::net::UnixListener,
    commands: mpsc::Sender<Command>,
    stop: oneshot::Receiver<()>,
) {
    let router = axum::Router::new()
        .route("/v1/status", get(status))
        .route("/v1/apply", post(apply))
        .route("/v1/restart", post(restart))
        .route("/v1/down", post(down))
        .layer(axum::middleware::from_fn(refuse_old))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(commands);
    let stopped = async {
        let _ = stop.await;
    };
    if let Err(error) = axum::serve(listener, router).with_graceful_shutdown(stopped).await {
        tracing::error!(%error, "control API ended");
    }
}

/// Drops a request whose sender does not wait any more.
async fn refuse_old(request: Request, next: Next) -> Response {
    let sent: Option<u64> = request.headers().get(SENT).and_then(|sent| sent.to_str().ok()?.parse().ok());
    let age = crate::procfs::uptime_ms().zip(sent).map_or(0, |(now, sent)| now.saturating_sub(sent));
    if age > TOO_OLD {
        let error = format!("the request lay here for {age} ms and is not carried out");
        let error = Line::Failed { error, busy: true };
        return (StatusCode::REQUEST_TIMEOUT, Json(error)).into_response();
    }
    next.run(request).await
}

type Commands = State<mpsc::Sender<Command>>;

async fn status(State(commands): Commands) -> Response {
    let (reply, answer) = oneshot::channel();
    if commands.send(Command::Status(reply)).await.is_err() {
        return ending();
    }
    match answer.await {
        Ok(status) => Json(status).into_response(),
        Err(_) => ending(),
    }
}

async fn apply(State(commands): Commands, Json(body): Json<Apply>) -> Response {
    with_lines(&commands, |progress| Command::Apply(body, progress)).await
}

async fn restart(State(commands): Commands, Json(body): Json<Restart>) -> Response {
    with_lines(&commands, |progress| Command::Restart(body, progress)).await
}

async fn down(State(commands): Commands) -> Response {
    with_lines(&commands, Command::Down).await
}

fn ending() -> Response {
    let error = Line::Failed { error: "the supervisor is ending".to_owned(), busy: true };
    (StatusCode::SERVICE_UNAVAILABLE, Json(error)).into_response()
}

async fn with_lines(commands: &mpsc::Sender<Command>, command: impl FnOnce(Progress) -> Command) -> Response {
    let (sender, receiver) = mpsc::channel(LINES);
    if commands.send(command(Progress(Some(sender)))).await.is_err() {
        return ending();
    }
    ([(header::CONTENT_TYPE, "application/x-ndjson")], Body::new(Lines(receiver))).into_response()
}

/// A body that grows as lines come.
struct Lines(mpsc::Receiver<Line>);

impl axum::body::HttpBody for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| {
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

    #[test]
    fn lines_are_told_apart_by_their_one_key() {
        let lines = [
            (r#"{"progress":"x"}"#, Line::Progress { progress: "x".into() }),
            (r#"{"ok":true}"#, Line::Done { ok: true }),
            (r#"{"error":"y"}"#, Line::Failed { error: "y".into(), busy: false }),
            (r#"{"error":"y","busy":true}"#, Line::Failed { error: "y".into(), busy: true }),
        ];
        for (text, line) in lines {
            assert_eq!(serde_json::to_string(&line).unwrap(), text);
            assert_eq!(serde_json::from_str::<Line>(text).unwrap(), line);
        }
    }

    #[test]
    fn a_restart_may_leave_port_and_host_open() {
        let restart: Restart = serde_json::from_str(r#"{"role":"edge"}"#).unwrap();
        assert_eq!(restart, Restart { role: Role::Edge, port: None, host: None });
    }
}
