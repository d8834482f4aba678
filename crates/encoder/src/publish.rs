//! Sends a source in real time, again and again, over a connection that is opened again when it fails.

use std::cell::Cell;
use std::convert::Infallible;
use std::time::Duration;

use cluster::{Delays, EncoderSource};
use rtmp::chunk;
use rtmp::client::{self, Mode};
use rtmp::url::Url;
use rtmp_io::{Client, Limit, socket};
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

/// Sends `source` to `url` for ever, in real time; reconnects with growing delays.
///
/// # Errors
/// Only when the source itself cannot be sent.
pub async fn publish(
    source: &EncoderSource,
    url: &Url,
    sent: &Sent,
    progress: &mut dyn FnMut(PublishEvent<'_>),
) -> Result<(), SourceError> {
    Source::check(source)?;
    let mut delays = Delays::new(RETRY_FIRST, RETRY_LONGEST);
    loop {
        let before = sent.messages.get();
        let error = match publish_once(source, url, sent, progress).await {
            Ok(never) => match never {},
            Err(PublishError::Source(error)) => return Err(error),
            Err(error) => error,
        };
        sent.publishing.set(false);
        if sent.messages.get() - before >= STEADY {
            delays.reset();
        }
        let delay = delays.next_delay(rtmp_io::chance());
        progress(PublishEvent::Retrying(&error, delay));
        sleep(delay).await;
    }
}

async fn publish_once(
    source: &EncoderSource,
    url: &Url,
    sent: &Sent,
    progress: &mut dyn FnMut(PublishEvent<'_>),
) -> Result<Infallible, PublishError> {
    let config = client::Config::new(Mode::Publish, url.clone());
    let mut client = Client::open(config, None, Limit::new(CONNECT_TIMEOUT), |_| {}).await?;
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
    Ok(written.map_err(|_| PublishError::Stuck)?.map_err(rtmp_io::Error::Lost)?)
}
