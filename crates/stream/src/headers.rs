//! What a decoder needs before the first frame.

use rtmp::chunk;
use rtmp::media::{self, Kind, Scope};
use serde::{Deserialize, Serialize};
use shm::Store;

use crate::blob::{Blob, Blobs};
use crate::track::Track;

/// Metadata, a sequence header or other configuration beyond this is not kept, bytes: each joining reader is sent it.
pub(crate) const HEADER_MAX: usize = 64 * 1024;
/// With what a forwarder adds to it, the next server has to take it in.
const _: () = assert!(HEADER_MAX <= chunk::MAX_DATA);
/// Packets of configuration that are kept for each of video, audio and data; eight video tracks with colours have 16.
pub(crate) const PACKETS_MAX: usize = 64;
/// The same in bytes, of all packets of video, of audio or of data together.
const PACKETS_BYTES: usize = 128 * 1024;

/// Headers in force at one place of the log. Shared: each join point keeps those of its place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Headers {
    /// `onMetaData` as players get it.
    pub(crate) metadata: Option<Blob>,
    packets: Vec<Packet>,
}

/// A packet of configuration, or data from before the first keyframe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Packet {
    pub(crate) track: Track,
    /// As players get it.
    pub(crate) payload: Blob,
    /// What it is about: the next about the same takes its place. `None` of data that came before the first keyframe: it is in force up
    /// to there.
    scope: Option<Scope>,
}

impl Packet {
    /// Whether a server that is sent it must be told to keep it.
    pub(crate) fn is_to_be_kept(&self) -> bool {
        self.track == Track::Data && self.scope.is_some()
    }
}

impl Headers {
    /// Finds the bytes of those that were read from a record; false if they are not there.
    pub(crate) fn resolve(&mut self, blobs: &mut Blobs) -> bool {
        let packets = self.packets.iter_mut().map(|packet| &mut packet.payload);
        packets.chain(&mut self.metadata).all(|blob| blob.resolve(blobs))
    }

    /// What is in force on `track`, in the order in which it came.
    pub(crate) fn of(&self, track: Track) -> impl Iterator<Item = &Packet> {
        self.packets.iter().filter(move |packet| packet.track == track)
    }

    /// Whether a message that was here before brings nothing new: every frame, and headers that are in force.
    pub(crate) fn have(&self, kind: Kind, track: Track, payload: &[u8]) -> bool {
        match kind {
            Kind::AudioHeader | Kind::VideoHeader | Kind::VideoMetadata | Kind::DataHeader => {
                self.holds(track, payload)
            }
            Kind::Keyframe | Kind::Video | Kind::Audio | Kind::Metadata | Kind::Data | Kind::Ignore => true,
        }
    }

    /// Whether `payload` is in force on `track`.
    pub(crate) fn holds(&self, track: Track, payload: &[u8]) -> bool {
        self.of(track).any(|packet| *packet.payload == payload)
    }

    /// What a packet of configuration is about, if it is to be kept. Other data takes the place of what is kept under its name: a server
    /// is told to keep the first of a name only.
    pub(crate) fn scope(&self, kind: Kind, track: Track, payload: &[u8]) -> Option<Scope> {
        match kind {
            Kind::AudioHeader | Kind::VideoHeader | Kind::VideoMetadata | Kind::DataHeader => {
                media::scope(track.type_id(), payload)
            }
            Kind::Data if self.of(Track::Data).any(Packet::is_to_be_kept) => {
                media::scope(track.type_id(), payload).filter(|scope| self.knows(scope))
            }
            Kind::Keyframe | Kind::Video | Kind::Audio | Kind::Metadata | Kind::Data | Kind::Ignore => None,
        }
    }

    /// Whether something about just the same is kept.
    pub(crate) fn knows(&self, scope: &Scope) -> bool {
        self.packets.iter().any(|packet| packet.scope.as_ref() == Some(scope))
    }

    /// Keeps `payload`, as far as the bounds allow: behind what is kept, but for what it takes the place of. Before the first keyframe
    /// (`is_preamble`) that stays as well where it is data: whoever begins there gets all of it. False if there was no room.
    pub(crate) fn keep(
        &mut self,
        store: &Store,
        track: Track,
        scope: Option<Scope>,
        payload: &[u8],
        is_preamble: bool,
    ) -> bool {
        self.packets.retain_mut(|packet| {
            let gives_way = packet.track == track
                && packet
                    .scope
                    .as_mut()
                    .zip(scope.as_ref())
                    .is_some_and(|(scope, later)| scope.give_way(later));
            if gives_way && is_preamble && track == Track::Data {
                packet.scope = None;
                return true;
            }
            !gives_way
        });
        if scope.is_some() && !self.has_room(track, payload) {
            self.packets.retain(|packet| packet.track != track || packet.scope.is_some());
        }
        let fits = self.has_room(track, payload);
        if fits {
            self.packets.push(Packet { track, payload: Blob::new(store, payload), scope });
        }
        fits
    }

    fn has_room(&self, track: Track, payload: &[u8]) -> bool {
        let bytes: usize = self.of(track).map(|packet| packet.payload.len()).sum();
        self.of(track).count() < PACKETS_MAX && bytes + payload.len() <= PACKETS_BYTES
    }

    /// Whether data from before the first keyframe is in force.
    pub(crate) fn has_preamble(&self) -> bool {
        self.packets.iter().any(|packet| packet.scope.is_none())
    }

    /// It is not any more.
    pub(crate) fn end_preamble(&mut self) {
        self.packets.retain(|packet| packet.scope.is_some());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::store;

    fn keep(headers: &mut Headers, kind: Kind, track: Track, payload: &'static [u8]) {
        let scope = headers.scope(kind, track, payload);
        headers.keep(&store(), track, scope, payload, false);
    }

    #[test]
    fn colours_before_and_behind_a_header_stay_with_it_in_order() {
        let mut headers = Headers::default();
        keep(&mut headers, Kind::VideoMetadata, Track::Video, b"\xd4hvc1colours");
        keep(&mut headers, Kind::VideoHeader, Track::Video, b"\x90hvc1header");
        keep(&mut headers, Kind::VideoMetadata, Track::Video, b"\x96\x04hvc1\x01colours of track 1");
        let kept: Vec<_> = headers.of(Track::Video).map(|packet| packet.payload.slice(..1)).collect();
        assert_eq!(kept, [&b"\xd4"[..], b"\x90", b"\x96"]);
    }

    #[test]
    fn what_is_kept_is_bounded_and_other_tracks_have_their_place_all_the_same() {
        let (mut headers, store) = (Headers::default(), store());
        for number in 0..10_000_u32 {
            headers.keep(&store, Track::Data, None, &number.to_be_bytes(), true);
        }
        assert_eq!(headers.of(Track::Data).count(), PACKETS_MAX);
        for id in 0..9 {
            let payload = [b"\x96\0avc1", &[id][..], &[0; 60_000]].concat();
            let scope = headers.scope(Kind::VideoHeader, Track::Video, &payload);
            headers.keep(&store, Track::Video, scope, &payload, true);
        }
        assert_eq!(headers.of(Track::Video).count(), 2);
        let announced = b"\x02\0\x0d@setDataFrame\x02\0\x01a";
        let scope = headers.scope(Kind::DataHeader, Track::Data, announced);
        headers.keep(&store, Track::Data, scope, announced, true);
        headers.end_preamble();
        assert_eq!(headers.of(Track::Data).count(), 1, "what is to be kept goes before what is not");
    }

    #[test]
    fn data_takes_the_place_of_what_is_kept_under_its_name_and_no_other_data_is_kept() {
        let mut headers = Headers::default();
        keep(&mut headers, Kind::DataHeader, Track::Data, b"\x02\0\x01a\x05");
        let other = headers.scope(Kind::Data, Track::Data, b"\x02\0\x01b");
        assert_eq!(other, None);
        keep(&mut headers, Kind::Data, Track::Data, b"\x02\0\x01a\x06");
        let kept: Vec<_> = headers.of(Track::Data).map(|packet| &packet.payload[..]).collect();
        assert_eq!(kept, [&b"\x02\0\x01a\x06"[..]]);
    }
}
