//! What a client meets on an RTMP port: connect as one, or play as one.

use std::time::{Duration, Instant};

use rtmp::client::{Config, Event, Mode, Session};
use rtmp::media::{Kind, classify};
use rtmp::url::{Url, UrlError};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// Read at once; a keyframe of a usual stream fits a few times.
const READ_BUFFER: usize = 64 * 1024;
/// The application that [`connect`] names; it plays nothing there.
const PROBE_APP: &str = "srsctl-probe";

/// What [`play`] met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProbeReport {
    /// What was played.
    pub url: String,
    /// Until the TCP connection stood.
    pub tcp: Duration,
    /// Until the RTMP `connect` was accepted.
    pub rtmp: Duration,
    /// Until the first keyframe was there.
    pub keyframe: Duration,
    /// Video codec.
    pub video_codec: Option<String>,
    /// Audio codec, if audio came before the keyframe.
    pub audio_codec: Option<String>,
}

/// Why a probe failed.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// Nothing to connect to.
    #[error("{0}")]
    Url(#[from] UrlError),
    /// No TCP connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// Where.
        address: String,
        /// What the system said.
        source: std::io::Error,
    },
    /// The connection broke.
    #[error("{address} {what}")]
    Broken {
        /// Where.
        address: String,
        /// How.
        what: String,
    },
    /// The server answered no, or what is no RTMP.
    #[error("{address}: {source}")]
    Rtmp {
        /// Where.
        address: String,
        /// What was wrong.
        source: rtmp::client::Error,
    },
    /// The time was up.
    #[error("{address}: {waiting_for} within {} s", (.limit.as_secs_f32() * 10.0).round() / 10.0)]
    TimedOut {
        /// Where.
        address: String,
        /// What had not come.
        waiting_for: String,
        /// The time there was.
        limit: Duration,
    },
}

impl ProbeError {
    /// Whether the server refused because it has all the players it takes.
    #[must_use]
    pub fn is_full(&self) -> bool {
        let Self::Rtmp { source: rtmp::client::Error::Rejected { code, .. }, .. } = self else {
            return false;
        };
        code == "NetStream.Play.Failed"
    }
}

/// Connects to `host:port` and has the RTMP `connect` accepted; returns how long that took.
///
/// # Errors
/// When that does not succeed within `limit`.
pub async fn connect(host: &str, port: u16, limit: Duration) -> Result<Duration, ProbeError> {
    let start = Instant::now();
    let mut client = Client::new(Url {
        host: host.to_owned(),
        port,
        app: PROBE_APP.to_owned(),
        stream: "probe".to_owned(),
    });
    let outcome = tokio::time::timeout(limit, async {
        client.open().await?;
        loop {
            if client.next().await? == Event::Connected {
                return Ok(start.elapsed());
            }
        }
    });
    outcome.await.unwrap_or_else(|_| Err(client.timed_out(limit)))
}

/// Plays `url` until the first keyframe.
///
/// # Errors
/// When none is there within `limit`, and why.
pub async fn play(url: &str, limit: Duration) -> Result<ProbeReport, ProbeError> {
    let url: Url = url.parse()?;
    let mut client = Client::new(url.clone());
    let start = Instant::now();
    let outcome = tokio::time::timeout(limit, async {
        let mut report = ProbeReport {
            url: url.to_string(),
            tcp: Duration::ZERO,
            rtmp: Duration::ZERO,
            keyframe: Duration::ZERO,
            video_codec: None,
            audio_codec: None,
        };
        client.open().await?;
        report.tcp = start.elapsed();
        loop {
            match client.next().await? {
                Event::Connected => report.rtmp = start.elapsed(),
                Event::Media(message) => {
                    let class = classify(message.type_id, &message.payload);
                    match class.kind {
                        Kind::Keyframe => {
                            report.keyframe = start.elapsed();
                            report.video_codec =
                                class.codec.map(|codec| codec.to_string()).or(report.video_codec);
                            return Ok(report);
                        }
                        Kind::VideoHeader => {
                            report.video_codec = class.codec.map(|codec| codec.to_string());
                            "no keyframe".clone_into(&mut client.waiting_for);
                        }
                        Kind::AudioHeader | Kind::Audio => {
                            report.audio_codec = class.codec.map(|codec| codec.to_string());
                            if report.video_codec.is_none() {
                                let codec = report.audio_codec.as_deref().unwrap_or("unknown");
                                client.waiting_for = format!("audio only ({codec}), no keyframe");
                            }
                        }
                        Kind::Video | Kind::VideoMetadata | Kind::Metadata => {
                            "no keyframe".clone_into(&mut client.waiting_for);
                        }
                        Kind::Data | Kind::Ignore => {}
                    }
                }
                Event::Started => {
                    client.waiting_for = format!(
                        "connected, but nothing is published as {}/{}",
                        url.app,
                        without_parameters(&url.stream)
                    );
                }
                Event::Pong { .. } | Event::Ack { .. } | Event::Status { .. } => {}
            }
        }
    });
    outcome.await.unwrap_or_else(|_| Err(client.timed_out(limit)))
}

/// They may hold a secret.
fn without_parameters(stream: &str) -> &str {
    stream.split(['?', '#']).next().unwrap_or_default()
}

/// One connection as a player.
struct Client {
    url: Url,
    stream: Option<(TcpStream, Session)>,
    buffer: Vec<u8>,
    /// The part of `buffer` that the session has not taken yet.
    pending: std::ops::Range<usize>,
    waiting_for: String,
}

impl Client {
    fn new(url: Url) -> Self {
        Self {
            url,
            stream: None,
            buffer: vec![0; READ_BUFFER],
            pending: 0..0,
            waiting_for: "no TCP connection".to_owned(),
        }
    }

    /// What is being reached: the URL that is played, or the port alone.
    fn address(&self) -> String {
        let Url { host, port, app, stream } = &self.url;
        let address = cluster::spec::host_port(host, *port);
        if app == PROBE_APP {
            address
        } else {
            format!("rtmp://{address}/{app}/{}", without_parameters(stream))
        }
    }

    fn timed_out(&self, limit: Duration) -> ProbeError {
        ProbeError::TimedOut { address: self.address(), waiting_for: self.waiting_for.clone(), limit }
    }

    fn broken(&self, what: impl Into<String>) -> ProbeError {
        ProbeError::Broken { address: self.address(), what: what.into() }
    }

    async fn open(&mut self) -> Result<(), ProbeError> {
        let stream = TcpStream::connect((self.url.host.as_str(), self.url.port))
            .await
            .map_err(|source| ProbeError::Connect { address: self.address(), source })?;
        let session = Session::new(Config::new(Mode::Play, &self.url))
            .map_err(|source| ProbeError::Rtmp { address: self.address(), source })?;
        self.stream = Some((stream, session));
        "no RTMP handshake".clone_into(&mut self.waiting_for);
        Ok(())
    }

    async fn next(&mut self) -> Result<Event, ProbeError> {
        loop {
            let Some((stream, session)) = &mut self.stream else {
                return Err(self.broken("is not connected"));
            };
            let mut input = self.buffer.get(self.pending.clone()).unwrap_or_default();
            let event = session.handle_input(&mut input);
            self.pending.start = self.pending.end - input.len();
            let output = std::mem::take(session.output());
            if !output.is_empty()
                && let Err(error) = stream.write_all(&output).await
            {
                return Err(self.broken(format!("broke the connection: {error}")));
            }
            match event {
                Ok(Some(event)) => {
                    if event == Event::Connected {
                        "play is not answered".clone_into(&mut self.waiting_for);
                    }
                    return Ok(event);
                }
                Ok(None) => {}
                Err(source) => return Err(ProbeError::Rtmp { address: self.address(), source }),
            }
            match stream.read(&mut self.buffer).await {
                Ok(0) => return Err(self.broken("closed the connection")),
                Ok(length) => self.pending = 0..length,
                Err(error) => return Err(self.broken(format!("broke the connection: {error}"))),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    const SHORT: Duration = Duration::from_millis(200);

    async fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        (listener, port)
    }

    #[tokio::test]
    async fn a_closed_port_a_silent_one_and_one_that_hangs_up_are_told_apart() {
        let (closed, port) = listener().await;
        drop(closed);
        assert!(matches!(connect("127.0.0.1", port, SHORT).await, Err(ProbeError::Connect { .. })));

        let (_silent, port) = listener().await;
        let error = connect("127.0.0.1", port, SHORT).await.unwrap_err().to_string();
        assert_eq!(error, format!("127.0.0.1:{port}: no RTMP handshake within 0.2 s"));

        let (hangs_up, port) = listener().await;
        let server = async { drop(hangs_up.accept().await) };
        let (probed, ()) = tokio::join!(connect("127.0.0.1", port, SHORT), server);
        assert!(matches!(probed, Err(ProbeError::Broken { .. })), "{probed:?}");
    }

    #[tokio::test]
    async fn what_is_no_rtmp_address_is_not_connected_to() {
        assert!(matches!(play("http://127.0.0.1/live/a", SHORT).await, Err(ProbeError::Url(_))));
    }

    #[tokio::test]
    async fn play_reports_the_codecs_and_when_the_first_keyframe_came() {
        use rtmp::server::{Event, Session};
        let (listener, port) = listener().await;
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut session = Session::new(rtmp::server::Config::default());
            let mut buffer = [0; 4096];
            loop {
                let length = stream.read(&mut buffer).await.unwrap();
                if length == 0 {
                    return;
                }
                let mut input = &buffer[..length];
                while let Some(event) = session.handle_input(&mut input).unwrap() {
                    if let Event::Play { msid, .. } = event {
                        session.accept_play();
                        let chunk_size = session.chunk_size();
                        // AAC header, AVC header, AVC inter frame, AVC keyframe (FLV 10.1, E.4.2 and E.4.3).
                        let messages: [(u8, u8, &[u8]); 4] = [
                            (5, 8, &[0xaf, 0, 0x12, 0x10]),
                            (4, 9, &[0x17, 0, 0, 0, 0, 1]),
                            (4, 9, &[0x27, 1, 0, 0, 0, 0, 0, 0, 1, 0x41]),
                            (4, 9, &[0x17, 1, 0, 0, 0, 0, 0, 0, 1, 0x65]),
                        ];
                        for (csid, type_id, payload) in messages {
                            rtmp::chunk::put_full(
                                session.output(),
                                chunk_size,
                                csid,
                                0,
                                type_id,
                                msid,
                                payload,
                            );
                        }
                    }
                }
                let output = std::mem::take(session.output());
                stream.write_all(&output).await.unwrap();
            }
        };
        let url = format!("rtmp://127.0.0.1:{port}/live/a");
        let report = tokio::select! {
            report = play(&url, Duration::from_secs(5)) => report.unwrap(),
            () = server => panic!("the probe hung up"),
        };
        assert_eq!(report.url, url);
        assert_eq!(
            (report.video_codec.as_deref(), report.audio_codec.as_deref()),
            (Some("h264"), Some("aac"))
        );
        assert!(report.tcp <= report.rtmp && report.rtmp <= report.keyframe);
    }
}
