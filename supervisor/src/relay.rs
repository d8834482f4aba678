//! The control API at the other end of a session: requests of an operator on another machine, handed on to the supervisor of this one.

use std::convert::Infallible;

use axum::body::Body;
use control::api::Line;
use control::{Code, Error};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::api::MAX_REQUEST;
use crate::client::{Client, ClientError};

/// What a reader may ask besides GET: it changes nothing.
const PLAN: &str = "/v1/plan";

/// Serves one connection until its client closes it. Who may not change anything is refused all but reading.
pub async fn relay(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    client: &Client,
    may_change: bool,
) -> Result<(), String> {
    let service = service_fn(|request| async move {
        Ok::<_, Infallible>(hand_on(request, client, may_change).await.unwrap_or_else(|refusal| refusal))
    });
    let served = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
    served.await.map_err(|error| error.to_string())
}

async fn hand_on(
    request: Request<Incoming>,
    client: &Client,
    may_change: bool,
) -> Result<Response<Body>, Response<Body>> {
    let (parts, body) = request.into_parts();
    let path = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    if !may_change && parts.method != Method::GET && parts.uri.path() != PLAN {
        let why = "this login may look and change nothing: its role is viewer";
        return Err(refusal(StatusCode::FORBIDDEN, Error::new(Code::Refused, why)));
    }
    // Its headers are not handed on: how old it is, is said anew by the clock of this machine.
    let body = Limited::new(body, MAX_REQUEST).collect().await;
    let body = body.map_err(|error| {
        refusal(StatusCode::PAYLOAD_TOO_LARGE, Error::new(Code::TooLong, error.to_string()))
    })?;
    match client.pass(parts.method, &path, body.to_bytes()).await {
        Ok(response) => Ok(response.map(Body::new)),
        Err(error @ ClientError::NotRunning { .. }) => {
            Err(refusal(StatusCode::GONE, Error::new(Code::NotFound, error)))
        }
        Err(error @ ClientError::NoSocket { .. }) => {
            Err(refusal(StatusCode::SERVICE_UNAVAILABLE, Error::new(Code::Busy, error)))
        }
        Err(error) => Err(refusal(StatusCode::BAD_GATEWAY, Error::new(Code::Failed, error))),
    }
}

fn refusal(status: StatusCode, error: Error) -> Response<Body> {
    let mut text = serde_json::to_vec(&Line::Error(error)).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response
}
