//! One stream: who publishes it, and what is left of it for readers.

use rtmp::chunk::Message;
use rtmp::{media, message_type};
use serde::{Deserialize, Serialize};
use shm::{Recovery, Store};

use crate::blob::Blobs;
use crate::clock::{FAR, Start};
use crate::ingest::{Continuity, Ingest};
use crate::log::{Log, entries};
use crate::stats::Stats;
use crate::storage::{self, Left, Meter};

/// A forwarder that comes back within this time goes on where the last one broke off, ms; after it only one that begins with what is
/// here already.
const BREAK_MAX: u64 = 15_000;

/// A connection, as a number that its owner gives out once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConnId(pub u64);

/// One act of publishing, as a number that is new for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicationId(u64);

/// Who sends a publication, and so whose times it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sender<'a> {
    /// An encoder. A stream that is new starts its clock at `clock`, ms.
    Encoder {
        /// Where edges go on without a jump when the origin's process is replaced: the wall clock.
        clock: u64,
    },
    /// A forwarder of the cluster. Each stream of each process of the origin has a clock of its own with a name of its own: times
    /// of another may be near the last one's and are of another line all the same.
    Forwarder {
        /// The name.
        clock: &'a str,
    },
}

/// How a publication ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ended {
    /// Its publisher said that it is over: the next one is another.
    Finished,
    /// Its connection went away.
    BrokenOff,
}

/// What readers watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Head {
    /// End of the log.
    pub end: u64,
    /// Whether somebody publishes and media has come.
    pub is_live: bool,
}

/// See the [module](self).
#[derive(Debug, Serialize, Deserialize)]
pub struct Stream {
    log: Log,
    ingest: Ingest,
    stats: Stats,
    publication: Option<Publication>,
    /// How many there have been.
    publications: u64,
    /// Since when nobody publishes, ms.
    idle_since: u64,
    /// How the last publication ended.
    ended: Option<Ended>,
    /// Whose clock a forwarded stream is on.
    clock: Option<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Publication {
    id: PublicationId,
    by: ConnId,
    has_media: bool,
}

impl Stream {
    /// A stream that nobody has published yet, in the memory of `store`. Its log has chunks of `chunk_size` bytes and keeps `queue_length` ms.
    #[must_use]
    pub fn new(store: &Store, chunk_size: u32, queue_length: u64, now: u64) -> Self {
        Self {
            log: Log::new(store, chunk_size, queue_length),
            ingest: Ingest::new(),
            stats: Stats::default(),
            publication: None,
            publications: 0,
            idle_since: now,
            ended: None,
            clock: None,
        }
    }

    /// Its log keeps `queue_length` ms from now on.
    pub fn set_queue_length(&mut self, queue_length: u64) {
        self.log.set_queue_length(queue_length);
    }

    /// Appends a record of all that it is, so that it may go on in another process: what it names of its store's memory is that of now.
    /// `None` if a part of it ends with this process, because there was no memory that stays.
    #[must_use]
    pub fn save(&self, record: Vec<u8>) -> Option<Vec<u8>> {
        let (storage, entries) = self.log.places();
        postcard::to_extend(&(storage, entries, self), record).ok()
    }

    /// The stream of which `record` begins with what [`save`](Self::save) has appended, what follows it there, and what only its
    /// readers keep: to be held until they are there. `None` if it cannot be right.
    #[must_use]
    pub fn restore<'a>(
        record: &'a [u8],
        recovery: &Recovery,
        blobs: &mut Blobs,
        meter: &Meter,
    ) -> Option<(Self, &'a [u8], Left)> {
        type Saved = (storage::Saved, entries::Saved, Stream);
        let ((storage, entries, mut stream), rest) = postcard::take_from_bytes::<Saved>(record).ok()?;
        let (log, left) = stream.log.restore((storage, entries), (recovery, blobs, meter))?;
        stream.log = log;
        let is_whole = stream.ingest.resolve(blobs);
        let is_sound = stream.ingest.is_sound(&stream.log) && stream.stats.is_sound();
        let is_known = stream.publication.as_ref().is_none_or(|it| it.id.0 <= stream.publications);
        (is_whole && is_sound && is_known && stream.publications <= FAR).then_some((stream, rest, left))
    }

    /// The name of the clock that a forwarded stream is on.
    #[must_use]
    pub fn clock(&self) -> Option<&str> {
        self.clock.as_deref()
    }

    /// Makes `by` the publisher; gives the publication and the connection that published until now, which the caller ends. Whoever
    /// may not replace it asks [`publisher`](Self::publisher) first.
    pub fn publish(&mut self, by: ConnId, sender: Sender<'_>, now: u64) -> (PublicationId, Option<ConnId>) {
        let start = match sender {
            Sender::Encoder { clock } => Start::At(clock),
            Sender::Forwarder { clock } => {
                let last = self.clock.replace(clock.to_owned());
                let is_other = last.is_some_and(|last| last != clock);
                // The last publication may have ended before its clock was placed.
                let is_unplaced = self.ingest.pending() == Some(Start::OtherClock);
                if is_other || is_unplaced { Start::OtherClock } else { Start::AsSent }
            }
        };
        self.publications += 1;
        let id = PublicationId(self.publications);
        let replaced = self.publication.replace(Publication { id, by, has_media: false });
        let finished = self.ended.take() == Some(Ended::Finished);
        let continuity = match start {
            Start::At(_) | Start::OtherClock => Continuity::New,
            Start::AsSent if replaced.is_some() => Continuity::Same,
            Start::AsSent if finished => Continuity::New,
            Start::AsSent if now.saturating_sub(self.idle_since) > BREAK_MAX => Continuity::IfRepeated,
            Start::AsSent => Continuity::Same,
        };
        self.ingest.begin(start, continuity, &mut self.log);
        (id, replaced.map(|publication| publication.by))
    }

    /// Takes one message of the publication `id`: audio, video, data or an aggregate of them. True if it was media; what comes from a
    /// publication that is over or replaced is none.
    pub fn take(&mut self, id: PublicationId, message: &Message, now: u64) -> bool {
        let Self { log, ingest, stats, publication, .. } = self;
        let Some(publication) = publication.as_mut().filter(|publication| publication.id == id) else {
            return false;
        };
        let mut is_media = false;
        if message.type_id == message_type::AGGREGATE {
            for part in media::split_aggregate(message) {
                is_media |= ingest.take(&part, now, log, stats);
            }
        } else {
            is_media = ingest.take(message, now, log, stats);
        }
        publication.has_media |= is_media;
        is_media
    }

    /// Ends the publication `id`, unless another has replaced it; true if it did.
    pub fn end(&mut self, id: PublicationId, how: Ended, now: u64) -> bool {
        let ended = self.publication.take_if(|publication| publication.id == id);
        let is_current = ended.is_some();
        if let Some(publication) = ended {
            // An attempt that brought nothing leaves the stream as old as it was.
            if publication.has_media {
                self.idle_since = now;
            }
            self.ended = Some(how);
            self.log.pause();
        }
        is_current
    }

    /// Drops all media of a stream that nobody publishes.
    pub fn clear(&mut self) {
        if self.publication.is_none() {
            self.log.clear();
        }
    }

    /// The memory of its log is counted by `meter`; to be called before anything is published.
    pub fn count_in(&mut self, meter: Meter) {
        self.log.count_in(meter);
    }

    /// Drops the oldest media until no more than `most` bytes of memory are held, or the newest message alone.
    pub fn shrink(&mut self, most: u64) {
        self.log.shrink(most);
    }

    /// Takes how many packets of configuration, and metadata, there was no room to keep since the last call.
    pub fn take_left_out(&mut self) -> u64 {
        std::mem::take(&mut self.stats.left_out)
    }

    /// Called once a second; no reader is behind the offset `needed` of the log.
    pub fn tick(&mut self, needed: u64) {
        self.stats.tick();
        self.log.release(needed);
    }

    /// A reader begins at `offset` of the log: what lies behind it is kept for it.
    pub fn begin_reader(&mut self, offset: u64) {
        self.log.begin_at(offset);
    }

    /// The log, for readers.
    #[must_use]
    pub fn log(&self) -> &Log {
        &self.log
    }

    /// What is counted.
    #[must_use]
    pub fn stats(&self) -> &Stats {
        &self.stats
    }

    /// End of the log, and whether it moves.
    #[must_use]
    pub fn head(&self) -> Head {
        let is_live = self.publication.as_ref().is_some_and(|publication| publication.has_media);
        Head { end: self.log.end(), is_live }
    }

    /// Who publishes.
    #[must_use]
    pub fn publisher(&self) -> Option<ConnId> {
        self.publication.as_ref().map(|publication| publication.by)
    }

    /// The act of publishing that goes on.
    #[must_use]
    pub fn publication(&self) -> Option<PublicationId> {
        self.publication.as_ref().map(|publication| publication.id)
    }

    /// Whether anybody ever published it.
    #[must_use]
    pub fn was_published(&self) -> bool {
        self.publications > 0
    }

    /// Since when nobody publishes, ms; `None` while somebody does.
    #[must_use]
    pub fn idle_since(&self) -> Option<u64> {
        self.publication.is_none().then_some(self.idle_since)
    }

    /// Newest time on the stream's clock, ms.
    #[must_use]
    pub fn newest(&self) -> Option<u64> {
        self.ingest.newest()
    }
}
