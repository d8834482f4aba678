//! What a decoder needs before the first frame.

use bytes::Bytes;
use rtmp::media::Kind;

/// Metadata and sequence headers beyond this are not kept, bytes: they are sent to every joining reader.
pub(crate) const HEADER_MAX: usize = 64 * 1024;

/// Headers in force at one place of the log. Shared: each join point keeps those of its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Headers {
    /// `onMetaData` as players get it.
    pub(crate) metadata: Option<Bytes>,
    /// Audio sequence header.
    pub(crate) audio: Option<Bytes>,
    /// Video sequence header, then what must follow it (an Enhanced RTMP metadata packet).
    pub(crate) video: Vec<Bytes>,
}

impl Headers {
    /// Whether a message that was here before brings nothing new: every frame, and headers that are in force.
    pub(crate) fn have(&self, kind: Kind, payload: &Bytes) -> bool {
        match kind {
            Kind::AudioHeader => self.audio.as_ref() == Some(payload),
            Kind::VideoHeader => self.video.first() == Some(payload),
            Kind::VideoMetadata => self.video.get(1) == Some(payload),
            Kind::Keyframe | Kind::Video | Kind::Audio | Kind::Metadata | Kind::Data | Kind::Ignore => true,
        }
    }

    /// Keeps `payload`, if it is a header.
    pub(crate) fn keep(&mut self, kind: Kind, payload: &Bytes) {
        match kind {
            Kind::AudioHeader => self.audio = Some(payload.clone()),
            Kind::VideoHeader => self.video = vec![payload.clone()],
            Kind::VideoMetadata => {
                self.video.truncate(1);
                self.video.push(payload.clone());
            }
            Kind::Keyframe | Kind::Video | Kind::Audio | Kind::Metadata | Kind::Data | Kind::Ignore => {}
        }
    }
}
