//! What happens to a publisher's message: classify → place → resume → store.

use bytes::Bytes;
use rtmp::chunk::{self, Message};
use rtmp::line::Lane;
use rtmp::media::{self, Class, Kind};
use serde::{Deserialize, Serialize};

use crate::blob::{Blob, Blobs};
use crate::clock::{Clock, FAR, Start};
use crate::headers::{HEADER_MAX, Headers};
use crate::log::{JoinPoint, KEY_WAIT, Log};
use crate::stats::Stats;
use crate::track::Track;

/// Metadata changes at most this often in stream time, ms: each change costs every reader a send, and memory until the
/// slowest has it.
const METADATA_EVERY: u64 = 1_000;

/// What a publication has to do with the last one.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Continuity {
    /// Nothing.
    New,
    /// It goes on with the same pictures, if its first message fits.
    Same,
    /// It goes on with the same pictures if its first message is one that is here already.
    IfRepeated,
}

/// The way of messages into the log.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ingest {
    clock: Clock,
    continuity: Continuity,
    /// Where readers could join before a publication of which it is not known yet whether it goes on.
    set_aside: Option<JoinPoint>,
    /// Whether the publication has brought anything that readers get.
    has_stored: bool,
    /// Up to where each track was when a forwarder reconnected: what it repeats is left out. Of its messages with just that time some
    /// may be new.
    have: [Option<u64>; 3],
    /// Until when data is in front of the publication's first keyframe, ms.
    preamble: Option<u64>,
    /// Metadata that is not in force yet: it came before the first message of the publication, or too soon behind other.
    next_metadata: Option<Blob>,
    /// Stream time of the last change of metadata, ms.
    metadata_at: u64,
    /// The lowest track of Enhanced RTMP that has had frames, of video and audio: its keyframes are where readers join, and its codec
    /// is shown.
    main: [Option<u8>; 3],
}

/// Where a message belongs in the log.
struct Placed {
    time: u64,
    /// It was here before, and brings nothing new.
    is_repeated: bool,
}

impl Ingest {
    pub(crate) fn new() -> Self {
        Self {
            clock: Clock::default(),
            continuity: Continuity::New,
            set_aside: None,
            has_stored: false,
            have: [None; 3],
            preamble: None,
            next_metadata: None,
            metadata_at: 0,
            main: [None; 3],
        }
    }

    /// Finds the bytes of one that was read from a record; false if they are not there.
    pub(crate) fn resolve(&mut self, blobs: &mut Blobs) -> bool {
        self.set_aside.as_mut().is_none_or(|point| point.resolve(blobs))
            && self.next_metadata.as_mut().is_none_or(|metadata| metadata.resolve(blobs))
    }

    /// Whether one that was read from a record can be right, beside `log`.
    pub(crate) fn is_sound(&self, log: &Log) -> bool {
        self.clock.is_sound()
            && self.set_aside.as_ref().is_none_or(|key| log.is_sound_at(key))
            && self.have.iter().flatten().all(|time| *time <= FAR)
            && self.metadata_at <= FAR
    }

    /// A publication begins. Whoever joins before its first message must not get pictures that it does not go on with.
    pub(crate) fn begin(&mut self, start: Start, continuity: Continuity, log: &mut Log) {
        match continuity {
            Continuity::New => {
                log.reset(log.newest());
                self.set_aside = None;
                self.main = [None; 3];
            }
            Continuity::Same => {}
            Continuity::IfRepeated => self.set_aside = log.take_key().or_else(|| self.set_aside.take()),
        }
        self.continuity = continuity;
        self.clock.begin(start);
        self.next_metadata = None;
        self.has_stored = false;
        self.have = [None; 3];
    }

    /// How the publication starts, while it has not had its first message.
    pub(crate) fn pending(&self) -> Option<Start> {
        self.clock.pending()
    }

    /// Newest time on the stream's clock, ms.
    pub(crate) fn newest(&self) -> Option<u64> {
        self.clock.newest()
    }

    /// Takes one message, not an aggregate; true if it was media.
    pub(crate) fn take(&mut self, message: &Message, now: u64, log: &mut Log, stats: &mut Stats) -> bool {
        let Class { kind, codec, track: number } = media::classify(message.type_id, &message.payload);
        let track = match kind {
            Kind::Ignore => return false,
            Kind::Metadata => {
                stats.left_out += u64::from(!self.take_metadata(&message.payload, log));
                return false;
            }
            Kind::DataHeader | Kind::Data => Track::Data,
            Kind::AudioHeader | Kind::Audio => Track::Audio,
            Kind::VideoHeader | Kind::VideoMetadata | Kind::Keyframe | Kind::Video => Track::Video,
        };
        // `@setDataFrame` is a word to a server.
        let data = (track == Track::Data).then(|| media::metadata_for_players(&message.payload));
        let payload = data.as_ref().unwrap_or(&message.payload);
        // In an aggregate, which may be longer: the next server would not take it in.
        if track == Track::Data && payload.len() > chunk::MAX_DATA {
            return false;
        }
        let Placed { time, is_repeated } = self.place(track, kind, (message.timestamp, payload), now, log);
        let is_main = self.is_main(track, number, kind);
        let kind = if kind == Kind::Keyframe && !is_main { Kind::Video } else { kind };
        stats.count_received(track, message.payload.len(), codec.filter(|_| is_main));
        if kind == Kind::Keyframe || self.preamble.is_some_and(|until| now > until) {
            self.preamble = None;
        }
        if !is_repeated {
            // Only before a message: else whoever publishes metadata alone, again and again, would be kept for ever.
            self.put_metadata_in_force(log);
            self.has_stored = true;
            stats.count_stored(track, kind, now);
            stats.left_out += u64::from(!self.store(track, kind, time, (&message.payload, payload), log));
        }
        true
    }

    /// Whether track `number` of Enhanced RTMP is the main one of its kind, as far as is known.
    fn is_main(&mut self, track: Track, number: u8, kind: Kind) -> bool {
        let main = &mut self.main[track.index()];
        let is_main = main.is_none_or(|main| number <= main);
        if is_main && matches!(kind, Kind::Keyframe | Kind::Video | Kind::Audio) {
            *main = Some(number);
        }
        is_main
    }

    /// Its time on the stream's clock. The first message of a publication decides whether it goes on with the last one.
    fn place(
        &mut self,
        track: Track,
        kind: Kind,
        (timestamp, payload): (u32, &Bytes),
        now: u64,
        log: &mut Log,
    ) -> Placed {
        let resumes = self.clock.resumes();
        if track == Track::Data && resumes.is_some() && matches!(self.continuity, Continuity::IfRepeated) {
            // Data may be as old as it likes: audio or video decides.
            return Placed { time: 0, is_repeated: true };
        }
        if resumes == Some(true) {
            self.have = match self.continuity {
                Continuity::New => [None; 3],
                Continuity::Same | Continuity::IfRepeated => Track::ALL.map(|track| log.last(track)),
            };
        }
        let have = self.have[track.index()];
        let last = if have.is_some() { None } else { log.last(track) };
        let time = self.clock.map(Lane::of(kind), timestamp, last, now);
        let repeats = have.is_some_and(|have| time <= have);
        if let Some(resumes) = resumes {
            let goes_on = match self.continuity {
                Continuity::New => false,
                Continuity::Same => resumes,
                Continuity::IfRepeated => resumes && repeats,
            };
            let key = self.set_aside.take();
            if goes_on {
                key.into_iter().for_each(|key| log.put_key_back(key));
            } else {
                self.have = [None; 3];
                self.main = [None; 3];
                log.reset(time);
                self.preamble = Some(now + KEY_WAIT);
            }
        }
        if !repeats {
            self.have[track.index()] = None;
        }
        // What was in force a while ago is sent again, and is not any more.
        let is_older = track == Track::Data && have.is_some_and(|have| time < have);
        // Slices, tracks and data share a time: the break may have been between them.
        let is_new =
            have == Some(time) && !log.headers().holds(track, payload) && !log.repeats(track, time, payload);
        let is_here = is_older || log.headers().have(kind, track, payload);
        Placed { time, is_repeated: repeats && is_here && !is_new }
    }

    /// False if it is too long.
    fn take_metadata(&mut self, payload: &Bytes, log: &mut Log) -> bool {
        let payload = media::metadata_for_players(payload);
        if payload.len() > HEADER_MAX {
            return false;
        }
        self.next_metadata = Some(Blob::new(log.store(), &payload));
        if self.has_stored {
            self.put_metadata_in_force(log);
        }
        true
    }

    fn put_metadata_in_force(&mut self, log: &mut Log) {
        let Some(next) = &self.next_metadata else { return };
        let newest = log.newest();
        let is_due = match &log.headers().metadata {
            None => true,
            Some(old) if old == next => {
                self.next_metadata = None;
                return;
            }
            Some(_) => newest >= self.metadata_at + METADATA_EVERY,
        };
        if is_due && let Some(metadata) = self.next_metadata.take() {
            log.append_metadata(metadata);
            self.metadata_at = newest;
        }
    }

    /// Appends a message, and keeps it where it is a header: before it, so that whoever joins at a later keyframe has it. So are data
    /// that come before the first keyframe, up to there. The message is given as it was sent, and as players get it. False if there was no
    /// room to keep configuration.
    fn store(
        &self,
        track: Track,
        kind: Kind,
        time: u64,
        (sent, payload): (&Bytes, &Bytes),
        log: &mut Log,
    ) -> bool {
        let time = time.max(log.last(track).unwrap_or(0));
        let scope = log.headers().scope(kind, track, sent);
        let is_known = scope.as_ref().is_some_and(|scope| log.headers().knows(scope));
        let is_preamble = track == Track::Data && self.preamble.is_some();
        let is_kept =
            (scope.is_some() && !log.headers().holds(track, payload)) || (scope.is_none() && is_preamble);
        let is_header = matches!(kind, Kind::AudioHeader | Kind::VideoHeader | Kind::VideoMetadata);
        let is_configuration = is_header || scope.is_some();
        let store = log.store().clone();
        let has_room = !is_kept
            || (payload.len() <= HEADER_MAX
                && log.update_headers(|headers| {
                    headers.keep(&store, track, scope.clone(), payload, is_preamble)
                }))
            || !is_configuration;
        // The next server is told once: it keeps what comes later under the same name.
        let is_announced =
            kind == Kind::DataHeader && !is_known && scope.is_some_and(|scope| log.headers().knows(&scope));
        if is_announced {
            log.append_data_header(time, payload);
        } else if is_configuration {
            log.append_header(track, time, payload);
        } else {
            log.append(track, time, kind == Kind::Keyframe, payload);
        }
        if self.preamble.is_none() && log.headers().has_preamble() {
            log.update_headers(Headers::end_preamble);
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use rtmp::message_type;

    use super::HEADER_MAX;
    use crate::cursor::{Cursor, Recipient};
    use crate::headers::PACKETS_MAX;
    use crate::stream::{ConnId, Sender, Stream};
    use crate::testing::{CHUNK, decode, flush_all, store};

    /// Whoever joins behind 65 frames of each of `tracks` begins with this track and frame; a track has keyframes from the given frame on,
    /// each 25.
    fn joins_at(tracks: &[(u8, u8)]) -> (u8, u8) {
        let mut stream = Stream::new(&store(), CHUNK, 10_000, 0);
        let (id, _) = stream.publish(ConnId(1), Sender::Encoder { clock: 0 }, 0);
        for frame in 0..65 {
            for &(track, first) in tracks {
                let is_key = frame >= first && (frame - first).is_multiple_of(25);
                let unit = [if is_key { 0x26 } else { 2 }, 1, frame];
                let payload = [&b"\x86\x03hvc1"[..], &[track, 0, 0, 0, 3], &unit].concat().into();
                let timestamp = u32::from(frame) * 40;
                let message =
                    super::Message { csid: 6, type_id: message_type::VIDEO, msid: 1, timestamp, payload };
                assert!(stream.take(id, &message, timestamp.into()));
            }
        }
        let mut cursor = Cursor::new(Recipient::Player, 1, stream.log().start(true));
        let (wire, _) = flush_all(&mut cursor, stream.log());
        let seen = decode(&wire);
        let (_, _, payload) = seen.iter().find(|(type_id, ..)| *type_id == message_type::VIDEO).unwrap();
        (payload[6], *payload.last().unwrap())
    }

    #[test]
    fn configuration_that_there_is_no_room_for_is_counted() {
        let mut stream = Stream::new(&store(), CHUNK, 10_000, 0);
        let (id, _) = stream.publish(ConnId(1), Sender::Encoder { clock: 0 }, 0);
        let mut take = |payload: Vec<u8>| {
            let (type_id, payload) = (message_type::VIDEO, payload.into());
            stream.take(id, &super::Message { csid: 6, type_id, msid: 1, timestamp: 0, payload }, 0);
            stream.take_left_out()
        };
        let header = |track: usize| [&b"\x96\0avc1"[..], &[track as u8, 7]].concat();
        assert!((0..PACKETS_MAX).all(|track| take(header(track)) == 0));
        assert_eq!(take(header(PACKETS_MAX)), 1);
        assert_eq!(take(header(0)), 0, "it is there already");
        assert_eq!(take([header(1), vec![0; HEADER_MAX]].concat()), 1, "it is too long");
    }

    #[test]
    fn readers_join_at_the_keyframes_of_the_lowest_track_with_pictures() {
        assert_eq!(joins_at(&[(0, 0), (1, 10)]), (0, 50));
        assert_eq!(joins_at(&[(1, 10), (0, 0)]), (0, 50));
        assert_eq!(joins_at(&[(1, 0)]), (1, 50));
        assert_eq!(joins_at(&[(7, 10), (3, 0)]), (3, 50));
    }
}
