//! A publisher of stamped frames: 25 pictures a second with a keyframe each two seconds, and sound.

use std::time::{Duration, Instant};

use rtmp::client::{Config, Event, Mode, Session};
use rtmp::message_type::DATA;
use rtmp::url::Url;
use rtmp::wire::csid;
use rtmp::{amf0, chunk, message_type};

use super::frame::{self, AUDIO_HEADER, Lane, Stamp, VIDEO_HEADER};
use super::random::Random;

/// Between two pictures, ms.
const PICTURE: u32 = 40;
/// Between two frames of audio, ms.
const SOUND: u32 = 23;
/// Pictures from one keyframe to the next.
const GROUP: u32 = 50;
/// Bytes that may wait for the server.
const MAX_BACKLOG: usize = 8 << 20;
/// The largest keyframe, a picture and a frame of audio at most, bytes.
const SIZES: [u64; 3] = [24_000, 1_000, 200];

/// See the [module](self).
#[derive(Debug)]
pub(super) struct Publisher {
    session: Session,
    /// When its time began.
    start: Option<Instant>,
    video: u32,
    audio: u32,
    /// It writes as much at once at most, in parts of any size.
    pub(super) part: Option<u64>,
    pub(super) sent: u64,
    acknowledged: u32,
    frame: Vec<u8>,
}

impl Publisher {
    pub(super) fn new(url: Url, chunk_size: u32, part: Option<u64>) -> Result<Self, String> {
        let config = Config { chunk_size, window_ack: 100_000, ..Config::new(Mode::Publish, url) };
        let session = Session::new(config).map_err(|error| error.to_string())?;
        Ok(Self {
            session,
            start: None,
            video: 0,
            audio: 0,
            part,
            sent: 0,
            acknowledged: 0,
            frame: Vec::new(),
        })
    }

    pub(super) fn handle_connected(&mut self, output: &mut Vec<u8>) {
        output.append(self.session.output());
    }

    pub(super) fn is_publishing(&self) -> bool {
        self.start.is_some()
    }

    /// The newest frame.
    pub(super) fn stamp(&self) -> (u32, u32) {
        (self.video, self.audio)
    }

    pub(super) fn handle_input(
        &mut self,
        mut input: &[u8],
        now: Instant,
        output: &mut Vec<u8>,
    ) -> Result<(), String> {
        while let Some(event) = self.session.handle_input(&mut input).map_err(|error| error.to_string())? {
            match event {
                Event::Started if self.start.is_some() => return Err("publish was accepted twice".to_owned()),
                Event::Started => {
                    self.start = Some(now);
                    output.append(self.session.output());
                    self.put_headers(output);
                }
                // As of RTMP 1.0, section 5.4.3; nobody can have more than was sent, or less than before.
                Event::Ack { sequence } => {
                    if u64::from(sequence) > self.sent || sequence < self.acknowledged {
                        let (sent, before) = (self.sent, self.acknowledged);
                        return Err(format!("{sequence} bytes acknowledged of {sent}, before {before}"));
                    }
                    self.acknowledged = sequence;
                }
                Event::Status { code, .. } => return Err(format!("{code} came, and nothing was asked")),
                Event::Connected | Event::Media(_) | Event::Pong { .. } => {}
            }
        }
        output.append(self.session.output());
        Ok(())
    }

    fn put_headers(&mut self, output: &mut Vec<u8>) {
        let mut metadata = Vec::new();
        let values = amf0::Value::Object(vec![("framerate".to_owned(), 25.0.into())]);
        for value in ["@setDataFrame".into(), "onMetaData".into(), values] {
            amf0::write(&mut metadata, &value);
        }
        let (size, msid) = (self.session.chunk_size(), self.session.msid());
        chunk::put_full(output, size, csid::DATA, 0, DATA, msid, &metadata);
        chunk::put_full(output, size, csid::AUDIO, 0, message_type::AUDIO, msid, AUDIO_HEADER);
        chunk::put_full(output, size, csid::VIDEO, 0, message_type::VIDEO, msid, VIDEO_HEADER);
    }

    /// When the next frame is due.
    pub(super) fn due(&self) -> Option<Instant> {
        let next = (self.video * PICTURE).min(self.audio * SOUND);
        Some(self.start? + Duration::from_millis(next.into()))
    }

    /// Sends the frames that are due.
    pub(super) fn act(
        &mut self,
        now: Instant,
        random: &mut Random,
        output: &mut Vec<u8>,
    ) -> Result<(), String> {
        while self.due().is_some_and(|due| due <= now) {
            let (picture, sound) = (self.video * PICTURE, self.audio * SOUND);
            let is_picture = picture <= sound;
            let (lane, [most, ..], time) = match is_picture {
                true if self.video.is_multiple_of(GROUP) => (Lane::Key, SIZES, picture),
                true => (Lane::Inter, [SIZES[1]; 3], picture),
                false => (Lane::Audio, [SIZES[2]; 3], sound),
            };
            *if is_picture { &mut self.video } else { &mut self.audio } += 1;
            let stamp = Stamp { video: self.video, audio: self.audio, time };
            frame::put(&mut self.frame, lane, stamp, random.below(most) as usize);
            let (size, msid) = (self.session.chunk_size(), self.session.msid());
            let csid = if is_picture { csid::VIDEO } else { csid::AUDIO };
            chunk::put_full(output, size, csid, time, lane.type_id(), msid, &self.frame);
        }
        if output.len() > MAX_BACKLOG {
            return Err(format!("the server does not read: {} bytes wait", output.len()));
        }
        Ok(())
    }
}
