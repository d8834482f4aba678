//! Sends a source in real time, again and again, over a connection that is opened again when it fails.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use cluster::{Delays, EncoderSource};
use rtmp::chunk;
use rtmp::client::{self, Mode};
use rtmp::url::Url;
use rtmp_io::{Client, Limit, Route, socket};
use tokio::time::{Instant, sleep, timeout, timeout_at};

use crate::source::{Source, SourceError};

/// Look-up of the server's name to Publish.Start at most.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// For so long the server may take no byte.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// First delay between attempts; an origin that was restarted is back within a few of these.
const RETRY_FIRST: Duration = Duration::from_millis(25);
/// Longest delay between attempts.
const RETRY_LONGEST: Duration = Duration::from_secs(3);
/// A connection that took this many messages, a few seconds of them, was a good one: the next attempt is made soon.
const STEADY: u64 = 250;
/// For so long a name that is in use is asked for again: longer than a server keeps one whose publisher was lost.
const REFUSED_FOR: Duration = Duration::from_secs(10);
/// What servers answer for a name in use; some for a wrong one too.
const IN_USE: &str = "NetStream.Publish.BadName";
/// Bytes read from the server at once: it says little.
const READ: usize = 4 * 1024;

/// Why a connection to the server ended.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// See [`SourceError`]; final.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The server cannot be reached, does not let us publish, or the connection was lost.
    #[error(transparent)]
    Connection(#[from] rtmp_io::Error),
    /// The server does not read.
    #[error("the server took no byte for {} s", WRITE_TIMEOUT.as_secs())]
    Stuck,
}

/// What [`publish`] tells whoever runs it.
#[derive(Debug)]
pub enum PublishEvent<'a> {
    /// The server takes the stream.
    Publishing,
    /// The connection failed; it is tried again after the delay.
    Retrying(&'a PublishError, Duration),
    /// The end of the file was reached and it starts over; true if the file ends within a tag.
    Looping(bool),
}

/// Counters of a publication, readable while it runs.
#[derive(Debug, Default)]
pub struct Sent {
    messages: Cell<u64>,
    bytes: Cell<u64>,
    publishing: Cell<bool>,
}

impl Sent {
    /// Media messages.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.messages.get()
    }

    /// Their bytes, without headers.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// Whether the server takes the stream now.
    #[must_use]
    pub fn is_publishing(&self) -> bool {
        self.publishing.get()
    }
}

/// Whether a publication that its server refuses is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persistence {
    /// For ever: somebody watches, and the server may be given another configuration.
    Always,
    /// A name in use for [`REFUSED_FOR`]: the one before may still be on its way out. Anything else that was refused before it
    /// ever published is refused for good.
    WhileItMayHelp,
}

/// Sends `source` to `url` for ever, in real time; reconnects with growing delays.
///
/// # Errors
/// When the source itself cannot be sent, or the server refuses and is not asked again.
pub async fn publish(
    source: &EncoderSource,
    url: &Url,
    persistence: Persistence,
    sent: &Sent,
    progress: &mut dyn FnMut(PublishEvent<'_>),
) -> Result<(), PublishError> {
    Source::check(source)?;
    let mut delays = Delays::new(RETRY_FIRST, RETRY_LONGEST);
    let mut refused_since = None;
    let mut route = Route::default();
    loop {
        let before = sent.messages.get();
        let error = match publish_once(source, url, &mut route, sent, progress).await {
            Ok(never) => match never {},
            Err(error @ PublishError::Source(_)) => return Err(error),
            Err(error) => error,
        };
        sent.publishing.set(false);
        if sent.messages.get() - before >= STEADY {
            delays.reset();
        }
        match refusal(&error) {
            Some(code) if persistence == Persistence::WhileItMayHelp => {
                let since = *refused_since.get_or_insert_with(Instant::now);
                let may_help = code == IN_USE || sent.messages.get() > 0;
                if !may_help || since.elapsed() >= REFUSED_FOR {
                    return Err(error);
                }
            }
            Some(_) | None => refused_since = None,
        }
        let delay = delays.next_delay(rtmp_io::chance());
        progress(PublishEvent::Retrying(&error, delay));
        sleep(delay).await;
    }
}

/// The server's code, if `error` is that it refused.
fn refusal(error: &PublishError) -> Option<&str> {
    match error {
        PublishError::Connection(rtmp_io::Error::Rtmp(client::Error::Rejected { code, .. })) => Some(code),
        PublishError::Connection(_) | PublishError::Source(_) | PublishError::Stuck => None,
    }
}

async fn publish_once(
    source: &EncoderSource,
    url: &Url,
    route: &mut Route,
    sent: &Sent,
    progress: &mut dyn FnMut(PublishEvent<'_>),
) -> Result<Infallible, PublishError> {
    let config = client::Config::new(Mode::Publish, url.clone());
    let mut client = Client::open(config, route, Limit::new(CONNECT_TIMEOUT), |_| {}).await?;
    sent.publishing.set(true);
    progress(PublishEvent::Publishing);
    let mut start = Instant::now();
    let mut offset = 0_u32;
    loop {
        let mut frames = Source::open(source)?;
        while let Some(frame) = frames.next_frame()? {
            wait_until(start + Duration::from_millis(u64::from(frame.time)), &mut client).await?;
            let (size, msid) = (client.session.chunk_size(), client.session.msid());
            let (time, payload) = (offset.wrapping_add(frame.time), &frame.payload);
            chunk::put_full(client.session.output(), size, frame.csid, time, frame.type_id, msid, payload);
            write(&mut client).await?;
            sent.messages.set(sent.messages.get() + 1);
            sent.bytes.set(sent.bytes.get() + payload.len() as u64);
        }
        progress(PublishEvent::Looping(frames.is_cut()));
        let length = frames.length();
        start += Duration::from_millis(u64::from(length));
        offset = offset.wrapping_add(length);
    }
}

/// Answers the server until `due`.
async fn wait_until(due: Instant, client: &mut Client) -> Result<(), PublishError> {
    let mut buffer = [0; READ];
    while let Ok(ready) = timeout_at(due, client.socket.readable()).await {
        ready.map_err(rtmp_io::Error::Lost)?;
        client.read(&mut buffer, |_| {})?;
        write(client).await?;
    }
    Ok(())
}

async fn write(client: &mut Client) -> Result<(), PublishError> {
    // Without a limit a cut network is noticed when TCP gives up, after a quarter of an hour.
    let written = timeout(WRITE_TIMEOUT, socket::write_all(&client.socket, client.session.output())).await;
    match written.map_err(|_| PublishError::Stuck)? {
        Ok(()) => Ok(()),
        Err(lost) => Err(client.why_lost(lost, &mut [0; READ], |_| {}).await.into()),
    }
}

#[cfg(test)]
mod tests {
    use rtmp::server::{Config, Event, Session};
    use tokio::net::TcpListener;

    use super::*;

    /// What a publication at a server comes to that refuses each with `code`; time is the runtime's own.
    async fn refused_with(code: &'static str) -> (PublishError, u32) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("rtmp://{}/live/a", listener.local_addr().unwrap()).parse().unwrap();
        let server = async {
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let mut session = Session::new(Config::default());
                let mut is_refused = false;
                while !is_refused {
                    let mut buffer = [0; 4096];
                    socket.readable().await.unwrap();
                    let Ok(taken) = socket.try_read(&mut buffer) else { continue };
                    let mut input = &buffer[..taken];
                    while let Some(event) = session.handle_input(&mut input).unwrap() {
                        is_refused |= matches!(event, Event::Publish { .. });
                    }
                    if is_refused {
                        session.reject_publish(code, "why");
                    }
                    socket::write_all(&socket, session.output()).await.unwrap();
                }
                // Until it has read the answer.
                let _ = socket.readable().await;
            }
        };
        let mut retries = 0;
        let mut told =
            |event: PublishEvent<'_>| retries += u32::from(matches!(event, PublishEvent::Retrying(..)));
        let sent = Sent::default();
        let publication =
            publish(&EncoderSource::TestCard, &url, Persistence::WhileItMayHelp, &sent, &mut told);
        let error = tokio::select! {
            ended = publication => ended.unwrap_err(),
            () = server => unreachable!("it serves for ever"),
        };
        (error, retries)
    }

    #[tokio::test]
    async fn what_is_refused_for_good_is_not_asked_for_again() {
        let (error, retries) = refused_with("NetStream.Publish.Denied").await;
        assert_eq!((refusal(&error), retries), (Some("NetStream.Publish.Denied"), 0));
    }

    #[tokio::test]
    async fn a_name_in_use_is_asked_for_again_and_not_for_ever() {
        let start = Instant::now();
        let (error, retries) = refused_with(IN_USE).await;
        assert_eq!(refusal(&error), Some(IN_USE));
        assert!(retries > 3 && start.elapsed() >= REFUSED_FOR, "{retries}, {:?}", start.elapsed());
    }
}
