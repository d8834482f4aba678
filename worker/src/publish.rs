//! An encoder without encoding: an FLV file or the test card, in real time, again and again.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use cluster::Delays;
use cluster::spec::{EncoderSource, EncoderSpec, Role};
use cluster::stats::ProcessStats;
use control::{Inherited, RunError, Seat, Service};
use rtmp::client::{self, Mode, Session};
use rtmp::flv::{FlvError, Reader, Tag, Timeline};
use rtmp::media::{self, Kind};
use rtmp::url::Url;
use rtmp::wire::csid;
use rtmp::{chunk, message_type};
use rtmp_io::{Client, Limit, socket};
use tokio::time::{Instant, sleep, timeout, timeout_at};
use tracing::info;

use crate::hub::count;

/// The built-in picture and tone; `worker/assets/make-test-card.sh` makes it.
static TEST_CARD: &[u8] = include_bytes!("../assets/test-card.flv");
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
/// Larger data is left out, bytes: servers, ours too, close the connection of whoever sends it. It is the index of a long file.
const DATA_MAX: usize = 60 * 1024;
/// Bytes read from the server at once: it says little.
const READ: usize = 4 * 1024;
/// Bytes read from a file at once.
const FILE_READ: usize = 64 * 1024;

/// Why a source cannot be sent.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file cannot be read.
    #[error("cannot read {path}: {source}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file is not FLV.
    #[error(
        "{path} is not an FLV file that can be sent: {source}; make one with: ffmpeg -i INPUT -c copy -f flv OUTPUT.flv"
    )]
    Flv {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: FlvError,
    },
    /// The file holds no audio and no video.
    #[error("{0} holds no complete audio or video tag: nothing can be sent of it")]
    Empty(PathBuf),
}

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
pub enum Progress<'a> {
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
    beats: Cell<u64>,
    /// The server takes the stream now.
    publishing: Cell<bool>,
}

/// Sends `source` to `url` for ever, in real time; reconnects with growing delays.
///
/// # Errors
/// Only when the source itself cannot be sent.
pub async fn publish(
    source: &EncoderSource,
    url: &Url,
    sent: &Sent,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<(), SourceError> {
    check(source)?;
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
        progress(Progress::Retrying(&error, delay));
        sleep(delay).await;
    }
}

/// Makes sure that `source` can be read and holds media.
///
/// # Errors
/// See [`SourceError`].
pub fn check(source: &EncoderSource) -> Result<(), SourceError> {
    let mut tags = Tags::open(source)?;
    while let Some(tag) = tags.next()? {
        if tag.type_id != message_type::DATA {
            return Ok(());
        }
    }
    Err(SourceError::Empty(tags.path))
}

enum Never {}

async fn publish_once(
    source: &EncoderSource,
    url: &Url,
    sent: &Sent,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Never, PublishError> {
    let config = client::Config::new(Mode::Publish, url.clone());
    let mut client = Client::open(config, None, Limit::new(CONNECT_TIMEOUT), |_| {}).await?;
    sent.publishing.set(true);
    progress(Progress::Publishing);
    let mut start = Instant::now();
    let mut offset = 0_u32;
    loop {
        let mut tags = Tags::open(source)?;
        let mut timeline = Timeline::default();
        let mut length = Length::default();
        while let Some(tag) = tags.next()? {
            let time = timeline.time(&tag);
            length.extend(tag.type_id, time);
            let due = start + Duration::from_millis(u64::from(time));
            wait_until(due, &mut client).await?;
            put(&mut client.session, &tag, offset.wrapping_add(time));
            write(&mut client).await?;
            count(&sent.messages, 1);
            count(&sent.bytes, tag.payload.len() as u64);
        }
        if timeline.is_empty() {
            return Err(SourceError::Empty(tags.path).into());
        }
        progress(Progress::Looping(!tags.reader.is_clean_end()));
        let length = length.end();
        start += Duration::from_millis(u64::from(length));
        offset = offset.wrapping_add(length);
    }
}

/// How long a source lasts: its last video frame, or audio frame where there is no video, lasts as long as the one before it.
#[derive(Debug, Default)]
struct Length {
    /// Last time and last distance, ms, of video and of audio.
    lanes: [Option<(u32, u32)>; 2],
}

impl Length {
    fn extend(&mut self, type_id: u8, time: u32) {
        let lane = match type_id {
            message_type::VIDEO => &mut self.lanes[0],
            message_type::AUDIO => &mut self.lanes[1],
            _ => return,
        };
        *lane = match *lane {
            // A header has the time of the frame behind it.
            Some((last, distance)) if time == last => Some((last, distance)),
            Some((last, _)) => Some((time, time.saturating_sub(last))),
            None => Some((time, 0)),
        };
    }

    /// At least 1 ms, so that a file of one frame is not sent as fast as the network takes it.
    fn end(&self) -> u32 {
        let [video, audio] = self.lanes;
        video.or(audio).map_or(0, |(last, distance)| last.saturating_add(distance)).max(1)
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

fn put(session: &mut Session, tag: &Tag, timestamp: u32) {
    if tag.type_id == message_type::DATA && tag.payload.len() > DATA_MAX {
        return;
    }
    let (csid, payload) = match tag.type_id {
        message_type::AUDIO => (csid::AUDIO, tag.payload.clone()),
        message_type::VIDEO => (csid::VIDEO, tag.payload.clone()),
        _ if media::classify(tag.type_id, &tag.payload).kind == Kind::Metadata => {
            (csid::DATA, Bytes::from(media::metadata_for_publish(&media::metadata_for_players(&tag.payload))))
        }
        _ => (csid::DATA, tag.payload.clone()),
    };
    let (chunk_size, msid) = (session.chunk_size(), session.msid());
    chunk::put_full(session.output(), chunk_size, csid, timestamp, tag.type_id, msid, &payload);
}

/// The tags of a source, front to back.
struct Tags {
    path: PathBuf,
    input: Box<dyn Read>,
    reader: Reader,
}

impl Tags {
    fn open(source: &EncoderSource) -> Result<Self, SourceError> {
        let (path, input): (_, Box<dyn Read>) = match source {
            EncoderSource::TestCard => (PathBuf::from("test card"), Box::new(TEST_CARD)),
            EncoderSource::File(path) => {
                let file =
                    File::open(path).map_err(|source| SourceError::Read { path: path.clone(), source })?;
                (path.clone(), Box::new(file))
            }
        };
        Ok(Self { path, input, reader: Reader::new() })
    }

    fn next(&mut self) -> Result<Option<Tag>, SourceError> {
        loop {
            let tag = self.reader.next_tag();
            let tag = tag.map_err(|source| SourceError::Flv { path: self.path.clone(), source })?;
            if tag.is_some() {
                return Ok(tag);
            }
            let mut bytes = [0; FILE_READ];
            let read = self.input.read(&mut bytes);
            match read.map_err(|source| SourceError::Read { path: self.path.clone(), source })? {
                0 => return Ok(None),
                n => self.reader.push(bytes.get(..n).unwrap_or(&[])),
            }
        }
    }
}

/// Runs the encoder of the config file `config` under a supervisor, until told to stop. To be called before a thread or a
/// runtime exists.
///
/// # Errors
/// See [`RunError`].
pub fn run_encoder(config: &Path) -> Result<(), RunError> {
    let Inherited { listener: _, control, lock } = Inherited::take()?;
    let spec = EncoderSpec::from_file(config)?;
    let url: Url = spec.url.parse().map_err(|e| RunError::Config(format!("{}: {e}", spec.url)))?;
    info!(id = %spec.id, %url, "starting");
    control::block_on(async move {
        let sent = Rc::new(Sent::default());
        let seat = Seat { id: spec.id, role: Role::Encoder, control, lock };
        tokio::task::spawn_local(beat(Rc::clone(&sent)));
        let mut log = |progress: Progress<'_>| log_progress(&progress);
        tokio::select! {
            ended = publish(&spec.source, &url, &sent, &mut log) => {
                ended.map_err(|e| RunError::System { what: "encoder", source: io::Error::other(e) })
            }
            served = control::serve(seat, Rc::new(Encoder { sent: Rc::clone(&sent) })) => served,
        }
    })
}

/// Shows the supervisor that the loop turns, whatever the server does.
async fn beat(sent: Rc<Sent>) {
    loop {
        count(&sent.beats, 1);
        sleep(Duration::from_secs(1)).await;
    }
}

/// Writes `progress` to the log.
pub fn log_progress(progress: &Progress<'_>) {
    match progress {
        Progress::Publishing => info!("publishing"),
        Progress::Retrying(error, delay) => tracing::warn!(%error, ?delay, "not publishing; trying again"),
        Progress::Looping(false) => tracing::debug!("starting over"),
        Progress::Looping(true) => tracing::debug!("the file ends within a tag; starting over"),
    }
}

/// What the control socket of an encoder reaches.
struct Encoder {
    sent: Rc<Sent>,
}

impl Service for Encoder {
    fn process_stats(&self) -> ProcessStats {
        ProcessStats {
            beats: self.sent.beats.get(),
            bytes_out: self.sent.bytes.get(),
            publishers: self.sent.publishing.get().into(),
            ..ProcessStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn it_reports_a_publisher_only_while_the_server_takes_the_stream() {
        use rtmp::server::{Config, Event, Session};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("rtmp://{}/live/a", listener.local_addr().unwrap()).parse().unwrap();
        let encoder = Encoder { sent: Rc::new(Sent::default()) };
        let publishers = || encoder.process_stats().publishers;
        let server = async {
            for is_taken in [false, true, false] {
                let (socket, _) = listener.accept().await.unwrap();
                assert_eq!(publishers(), 0);
                let mut session = Session::new(Config::default());
                while encoder.sent.messages.get() == 0 || !is_taken {
                    let mut buffer = [0; 4096];
                    socket.readable().await.unwrap();
                    let Ok(taken) = socket.try_read(&mut buffer) else { continue };
                    let mut input = &buffer[..taken];
                    let mut is_asked = false;
                    while let Some(event) = session.handle_input(&mut input).unwrap() {
                        is_asked |= matches!(event, Event::Publish { .. });
                    }
                    if is_asked && is_taken {
                        session.accept_publish();
                    } else if is_asked {
                        session.reject_publish("NetStream.Publish.BadName", "taken");
                    }
                    socket::write_all(&socket, session.output()).await.unwrap();
                    if is_asked && !is_taken {
                        break;
                    }
                }
                assert_eq!(publishers(), u32::from(is_taken));
            }
        };
        let mut told = |_: Progress<'_>| {};
        tokio::select! {
            ended = publish(&EncoderSource::TestCard, &url, &encoder.sent, &mut told) => panic!("{ended:?}"),
            () = server => {}
        }
    }

    #[test]
    fn a_source_lasts_until_its_last_frame_has_been_shown() {
        let mut length = Length::default();
        for (type_id, time) in [(9, 0), (8, 0), (9, 0), (8, 0), (9, 40), (8, 21), (9, 80), (8, 43), (8, 102)]
        {
            length.extend(type_id, time);
        }
        assert_eq!(length.end(), 120);
    }

    #[test]
    fn the_test_card_can_be_sent() {
        check(&EncoderSource::TestCard).unwrap();
    }
}
