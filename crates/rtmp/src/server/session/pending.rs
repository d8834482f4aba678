//! Events of a play that are still to come: they are given one by one.

use super::streams::Wants;
use crate::server::{Event, StreamKey};
use serde::{Deserialize, Serialize};

/// See the [module](self). None by default.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Pending {
    msid: u32,
    /// The stream and how much of it, ms.
    play: Option<(StreamKey, Option<u64>)>,
    audio_off: bool,
    video_off: bool,
}

impl Pending {
    /// A play of `stream`, of which the client has said before what it `wants`.
    pub(super) fn play(msid: u32, stream: StreamKey, length: Option<u64>, wants: Wants) -> Self {
        Self { msid, play: Some((stream, length)), audio_off: !wants.audio, video_off: !wants.video }
    }

    /// The next event.
    pub(super) fn pop(&mut self) -> Option<Event> {
        let Self { msid, play, audio_off, video_off } = self;
        let msid = *msid;
        if let Some((stream, length)) = play.take() {
            return Some(Event::Play { msid, stream, length });
        }
        if std::mem::take(audio_off) {
            return Some(Event::ReceiveAudio { msid, on: false });
        }
        std::mem::take(video_off).then_some(Event::ReceiveVideo { msid, on: false })
    }

    /// The message stream of a play that is still to come.
    pub(super) fn asking(&self) -> Option<u32> {
        self.play.as_ref().map(|_| self.msid)
    }
}
