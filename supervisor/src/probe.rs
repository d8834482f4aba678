//! What a client meets on an RTMP port: connect as one, or play as one.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rtmp::client::{Config, Event, Mode};
use rtmp::media::{Kind, classify};
use rtmp::url::{Url, UrlError};
use rtmp_io::{Client, Limit, Route};
use serde::{Deserialize, Serialize};

/// Bytes read at once; a keyframe of a usual stream fits a few times.
const READ_BUFFER: usize = 64 * 1024;
/// A stream whose audio has come for so long without a word of video has none: servers let a player wait for a keyframe for 5 s.
const AUDIO_ALONE: Duration = Duration::from_secs(6);
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
    /// Until the first keyframe was there; `None` of a stream that has audio alone.
    pub keyframe: Option<Duration>,
    /// Until the first audio was there, if it came before the keyframe.
    pub audio: Option<Duration>,
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
    /// No connection, one that broke, a server that answers no, or what is no RTMP.
    #[error("{address}: {source}")]
    Connection {
        /// Where.
        address: String,
        /// What was wrong.
        source: rtmp_io::Error,
    },
    /// It plays, but no keyframe came in time.
    #[error("{address}: {lacks} within {} s", (.limit.as_secs_f32() * 10.0).round() / 10.0)]
    TimedOut {
        /// Where.
        address: String,
        /// What had not come.
        lacks: String,
        /// The time there was.
        limit: Duration,
    },
}

impl ProbeError {
    /// Whether the server refused because it has all the players it takes.
    #[must_use]
    pub(crate) fn is_full(&self) -> bool {
        use rtmp::client::Error::Rejected;
        let Self::Connection { source: rtmp_io::Error::Rtmp(Rejected { code, .. }), .. } = self else {
            return false;
        };
        code == "NetStream.Play.Failed"
    }
}

/// Connects to `address` and has the RTMP `connect` accepted; returns how long that took.
///
/// # Errors
/// When that does not succeed within `limit`.
pub(crate) async fn connect(address: SocketAddr, limit: Duration) -> Result<Duration, ProbeError> {
    let start = Instant::now();
    let (host, port) = (address.ip().to_string(), address.port());
    let url = Url { host, port, app: PROBE_APP.to_owned(), stream: "probe".to_owned() };
    let limit = Limit::new(limit);
    let connected = async {
        let mut client = Client::dial(Config::new(Mode::Play, url), &mut Route::default(), limit).await?;
        client.run_until(limit, &mut vec![0; READ_BUFFER], |event| event == Event::Connected).await
    };
    connected.await.map_err(|source| ProbeError::Connection { address: address.to_string(), source })?;
    Ok(start.elapsed())
}

/// Plays `url` until the first keyframe, or until it is clear that there is audio alone.
///
/// # Errors
/// When none is there within `limit`, and why.
pub async fn play(url: &str, limit: Duration) -> Result<ProbeReport, ProbeError> {
    let url: Url = url.parse()?;
    let start = Instant::now();
    let mut watched = Watched::new(&url);
    let played = async {
        let limit = Limit::new(limit);
        let mut client =
            Client::dial(Config::new(Mode::Play, url.clone()), &mut Route::default(), limit).await?;
        watched.report.tcp = start.elapsed();
        let handle = |event| watched.handle(event, start.elapsed());
        client.run_until(limit, &mut vec![0; READ_BUFFER], handle).await
    };
    let played = played.await;
    let Url { host, port, app, stream } = &url;
    let address = || {
        let authority = cluster::spec::host_port(host, *port);
        format!("rtmp://{authority}/{app}/{}", without_parameters(stream))
    };
    match (played, watched.lacks()) {
        (Ok(()), _) => Ok(watched.report),
        (Err(rtmp_io::Error::TimedOut { .. }), Some(lacks)) => {
            Err(ProbeError::TimedOut { address: address(), lacks, limit })
        }
        (Err(source), _) => Err(ProbeError::Connection { address: address(), source }),
    }
}

/// What has come of a stream so far.
struct Watched {
    name: String,
    report: ProbeReport,
    has_started: bool,
    /// Messages that came, headers not counted.
    audio: u64,
    video: u64,
}

impl Watched {
    fn new(url: &Url) -> Self {
        Self {
            name: format!("{}/{}", url.app, without_parameters(&url.stream)),
            report: ProbeReport {
                url: url.to_string(),
                tcp: Duration::ZERO,
                rtmp: Duration::ZERO,
                keyframe: None,
                audio: None,
                video_codec: None,
                audio_codec: None,
            },
            has_started: false,
            audio: 0,
            video: 0,
        }
    }

    /// What has not come although play was accepted, and what has.
    fn lacks(&self) -> Option<String> {
        let of = |codec: &Option<String>| codec.clone().unwrap_or_else(|| "unknown".to_owned());
        let ProbeReport { video_codec, audio_codec, .. } = &self.report;
        let (audio, video) = (self.audio, self.video);
        let has_video = video > 0 || video_codec.is_some();
        let has_audio = audio > 0 || audio_codec.is_some();
        Some(match (has_video, has_audio) {
            _ if !self.has_started => return None,
            (false, false) => format!("connected, but nothing is published as {}", self.name),
            (false, true) => format!("audio only ({}, {}), no keyframe", of(audio_codec), messages(audio)),
            (true, false) => {
                format!("video ({}, {}), no audio and no keyframe", of(video_codec), messages(video))
            }
            (true, true) => format!(
                "video ({}, {}) and audio ({}, {}), no keyframe",
                of(video_codec),
                messages(video),
                of(audio_codec),
                messages(audio)
            ),
        })
    }

    /// Takes what came `at` that time after the begin; true at a keyframe, and when audio has come for so long that there is no video.
    fn handle(&mut self, event: Event, at: Duration) -> bool {
        let message = match event {
            Event::Connected => {
                self.report.rtmp = at;
                return false;
            }
            Event::Started => {
                self.has_started = true;
                return false;
            }
            Event::Pong { .. } | Event::Ack { .. } | Event::Status { .. } => return false,
            Event::Media(message) => message,
        };
        let class = classify(message.type_id, &message.payload);
        let codec = class.codec.map(|codec| codec.to_string());
        match class.kind {
            Kind::Keyframe => {
                self.report.keyframe = Some(at);
                self.report.video_codec = codec.or_else(|| self.report.video_codec.take());
                return true;
            }
            Kind::VideoHeader => {
                self.report.video_codec = codec.or_else(|| self.report.video_codec.take());
            }
            Kind::AudioHeader => {
                self.report.audio_codec = codec.or_else(|| self.report.audio_codec.take());
            }
            Kind::Audio => {
                self.audio += 1;
                self.report.audio_codec = codec.or_else(|| self.report.audio_codec.take());
                let since = *self.report.audio.get_or_insert(at);
                let has_video = self.video > 0 || self.report.video_codec.is_some();
                return !has_video && at.saturating_sub(since) >= AUDIO_ALONE;
            }
            Kind::Video => {
                self.video += 1;
                self.report.video_codec = codec.or_else(|| self.report.video_codec.take());
            }
            Kind::VideoMetadata | Kind::Metadata | Kind::DataHeader | Kind::Data | Kind::Ignore => {}
        }
        false
    }
}

fn messages(number: u64) -> String {
    if number == 1 { "1 message".to_owned() } else { format!("{number} messages") }
}

/// They may hold a secret.
fn without_parameters(stream: &str) -> &str {
    stream.split('?').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
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
        assert!(matches!(failure(port).await, rtmp_io::Error::Connect { .. }));

        let (_silent, port) = listener().await;
        let error = connect(([127, 0, 0, 1], port).into(), SHORT).await.unwrap_err().to_string();
        assert_eq!(error, format!("127.0.0.1:{port}: no RTMP handshake within 0.2 s"));

        let (hangs_up, port) = listener().await;
        let server = async { drop(hangs_up.accept().await) };
        let (probed, ()) = tokio::join!(failure(port), server);
        assert!(matches!(probed, rtmp_io::Error::Closed | rtmp_io::Error::Lost(_)), "{probed:?}");
    }

    async fn failure(port: u16) -> rtmp_io::Error {
        match connect(([127, 0, 0, 1], port).into(), SHORT).await {
            Err(ProbeError::Connection { source, .. }) => source,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn what_is_no_rtmp_address_is_not_connected_to() {
        assert!(matches!(play("http://127.0.0.1/live/a", SHORT).await, Err(ProbeError::Url(_))));
    }

    #[test]
    fn a_probe_without_a_keyframe_says_what_it_saw() {
        let mut watched = Watched::new(&"rtmp://h/live/a?key=secret".parse().unwrap());
        let mut see = |event| {
            assert!(!watched.handle(event, Duration::ZERO));
            watched.lacks().unwrap_or_default()
        };
        let media = |type_id, payload: &'static [u8]| {
            let payload = payload.into();
            Event::Media(rtmp::chunk::Message { csid: 4, type_id, msid: 1, timestamp: 0, payload })
        };
        assert_eq!(see(Event::Connected), "");
        assert_eq!(see(Event::Started), "connected, but nothing is published as live/a");
        assert_eq!(see(media(8, &[0xaf, 0, 0x12])), "audio only (aac, 0 messages), no keyframe");
        assert_eq!(see(media(8, &[0xaf, 1, 0x21])), "audio only (aac, 1 message), no keyframe");
        let both = "video (h264, 1 message) and audio (aac, 1 message), no keyframe";
        assert_eq!(see(media(9, &[0x27, 1, 0, 0, 0, 0, 0, 0, 1, 0x41])), both);
    }

    #[test]
    fn a_stream_of_audio_alone_is_one_that_plays_and_one_whose_video_is_announced_is_waited_for() {
        let url = "rtmp://127.0.0.1/live/a".parse().unwrap();
        let media = |type_id, payload: &'static [u8]| {
            let message =
                rtmp::chunk::Message { csid: 4, timestamp: 0, type_id, msid: 1, payload: payload.into() };
            Event::Media(message)
        };
        for (is_announced, ends) in [(false, true), (true, false)] {
            let mut watched = Watched::new(&url);
            if is_announced {
                watched.handle(media(9, &[0x17, 0, 0, 0, 0, 1]), Duration::ZERO);
            }
            let mut sound = |at: u64| watched.handle(media(8, &[0xaf, 1, 0x21]), Duration::from_secs(at));
            assert!(!sound(1) && !sound(6));
            assert_eq!(sound(7), ends);
            assert_eq!(watched.report.audio, Some(Duration::from_secs(1)));
        }
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
        assert!(report.tcp <= report.rtmp && Some(report.rtmp) <= report.keyframe);
    }
}
