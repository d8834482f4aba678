//! One stream: who publishes it, its log and clock, who plays it, where it is forwarded.

use std::cell::{Cell, Ref, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use bytes::Bytes;
use cluster::stats::StreamStats;
use rtmp::chunk::Message;
use rtmp::media::{self, Class, Kind};
use rtmp::message_type;
use rtmp::server::StreamKey;
use tokio::sync::watch;

use crate::clock::{Clock, Start};
use crate::forward::Forwarder;
use crate::link::{Cut, Link};
use crate::log::{Lane, Log};
use crate::player::Player;

/// Seconds over which the bitrate is averaged.
const RATE_WINDOW: usize = 5;
/// Video before the first keyframe of a publication is left out for at most this long, ms: a source that never marks
/// keyframes is still relayed.
const KEY_WAIT: u64 = 10_000;
/// A publisher of the origin that comes back within this time goes on where it broke off; after it joins start anew, ms.
const BREAK_MAX: u64 = 15_000;
/// Metadata and sequence headers beyond this are not kept, bytes: they are sent to every joining reader.
const HEADER_MAX: usize = 64 * 1024;
/// Metadata changes at most this often in stream time, ms: each change costs every reader a send, and memory until the
/// slowest has it.
const METADATA_EVERY: u64 = 1_000;

/// What forwarders watch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Head {
    /// End of the log.
    pub(crate) end: u64,
    /// Whether the stream is being published.
    pub(crate) publishing: bool,
}

/// See the [module](self). Shared by the connections of one worker, all on one thread.
pub(crate) struct Stream {
    pub(crate) key: StreamKey,
    state: RefCell<State>,
    pub(crate) players: RefCell<Vec<Rc<Player>>>,
    /// Counts removals from `players`, so that a pass over them knows when it may have missed one.
    pub(crate) removals: Cell<u64>,
    pub(crate) forwarders: RefCell<Vec<Forwarder>>,
    head: watch::Sender<Head>,
    /// Whether the flush task knows that there is something to send.
    pub(crate) dirty: Cell<bool>,
}

struct State {
    log: Log,
    clock: Clock,
    publication: Option<Publication>,
    publications: u64,
    /// Since when nobody publishes, ms.
    idle_since: u64,
    /// Metadata that is not in force yet: it came before the first message of the publication, or too soon behind other.
    next_metadata: Option<Bytes>,
    /// Stream time of the last change of metadata, ms.
    metadata_at: u64,
    /// Whose clock a forwarded stream is on.
    sender: Option<String>,
    /// Whether the last publication was ended by its publisher, not broken off.
    ended: bool,
    /// Whether the publication does not go on with the last one's group of pictures.
    is_new: bool,
    /// Up to where each lane was when a forwarder reconnected: what it repeats is left out.
    have: [Option<u64>; 3],
    /// Until when video waits for a keyframe, ms.
    key_wait: Option<u64>,
    stats: Stats,
}

struct Publication {
    id: u64,
    link: Rc<Link>,
}

#[derive(Default)]
struct Stats {
    bytes: u64,
    /// `bytes` at the last seconds, oldest first.
    history: VecDeque<u64>,
    video_frames: u64,
    audio_frames: u64,
    last_frame: Option<u64>,
    last_key: Option<u64>,
    video_codec: Option<String>,
    audio_codec: Option<String>,
}

impl Stream {
    pub(crate) fn new(key: StreamKey, chunk_size: u32, queue_length: u64, now: u64) -> Self {
        Self {
            key,
            state: RefCell::new(State {
                log: Log::new(chunk_size, queue_length),
                clock: Clock::default(),
                publication: None,
                publications: 0,
                idle_since: now,
                next_metadata: None,
                metadata_at: 0,
                sender: None,
                ended: false,
                is_new: true,
                have: [None; 3],
                key_wait: None,
                stats: Stats::default(),
            }),
            players: RefCell::default(),
            removals: Cell::new(0),
            forwarders: RefCell::default(),
            head: watch::Sender::new(Head::default()),
            dirty: Cell::new(false),
        }
    }

    /// The log, for readers.
    pub(crate) fn log(&self) -> Ref<'_, Log> {
        Ref::map(self.state.borrow(), |state| &state.log)
    }

    /// Changes of the log's end and of publishing.
    pub(crate) fn watch(&self) -> watch::Receiver<Head> {
        self.head.subscribe()
    }

    pub(crate) fn was_published(&self) -> bool {
        self.state.borrow().publications > 0
    }

    pub(crate) fn is_publishing(&self) -> bool {
        self.state.borrow().publication.is_some()
    }

    /// How long nobody has published, nor played, ms; `None` while somebody does.
    pub(crate) fn idle_for(&self, now: u64) -> Option<u64> {
        let state = self.state.borrow();
        (state.publication.is_none() && self.players.borrow().is_empty())
            .then(|| now.saturating_sub(state.idle_since))
    }

    /// Makes `link`, a forwarder that sends the times of `clock`, the publisher. Those of another clock, the origin's next
    /// process, may be near the last one's and are others all the same.
    pub(crate) fn publish_forwarded(self: &Rc<Self>, link: Rc<Link>, clock: &str) -> Publisher {
        let sender = self.state.borrow_mut().sender.replace(clock.to_owned());
        let is_other = sender.is_some_and(|sender| sender != clock);
        // Not the first publication: it goes on at the newest time, whatever start is given.
        self.publish(link, if is_other { Start::At(0) } else { Start::AsSent })
    }

    /// Makes `link` the publisher. One that publishes already is cut: whoever may not replace it asks
    /// [`is_publishing`](Self::is_publishing) first.
    pub(crate) fn publish(self: &Rc<Self>, link: Rc<Link>, start: Start) -> Publisher {
        let mut state = self.state.borrow_mut();
        state.publications += 1;
        let id = state.publications;
        let idle = link.now().saturating_sub(state.idle_since);
        let old = state.publication.replace(Publication { id, link });
        let ended = std::mem::take(&mut state.ended);
        state.is_new = match start {
            Start::At(_) => true,
            Start::AsSent => old.is_none() && (ended || idle > BREAK_MAX),
        };
        if let Some(old) = old {
            old.link.cut(Cut::Replaced);
        }
        if state.is_new {
            // Whoever joins before the first message must not get the last publication's pictures.
            let newest = state.log.newest();
            state.log.reset(newest);
        }
        state.clock.begin(start);
        state.next_metadata = None;
        state.have = [None; 3];
        drop(state);
        self.announce();
        Publisher { stream: Rc::clone(self), id }
    }

    /// Tells forwarders where the log ends now.
    fn announce(&self) {
        let head = {
            let state = self.state.borrow();
            Head { end: state.log.end(), publishing: state.publication.is_some() }
        };
        self.head.send_if_modified(|old| std::mem::replace(old, head) != head);
    }

    /// Once a second: bookkeeping of rates.
    pub(crate) fn tick(&self) {
        let stats = &mut self.state.borrow_mut().stats;
        let bytes = stats.bytes;
        stats.history.push_back(bytes);
        if stats.history.len() > RATE_WINDOW + 1 {
            stats.history.pop_front();
        }
    }

    /// What the supervisor is told.
    pub(crate) fn stats(&self, now: u64) -> StreamStats {
        let state = self.state.borrow();
        let stats = &state.stats;
        let seconds = stats.history.len().saturating_sub(1) as u64;
        let received = stats.history.back().zip(stats.history.front()).map_or(0, |(b, a)| b - a);
        StreamStats {
            stream: self.key.to_string(),
            publishing: state.publication.is_some(),
            publisher: state.publication.as_ref().map(|p| p.link.peer.to_string()),
            players: u32::try_from(self.players.borrow().len()).unwrap_or(u32::MAX),
            bitrate: (received * 8).checked_div(seconds).unwrap_or(0),
            video_codec: stats.video_codec.clone(),
            audio_codec: stats.audio_codec.clone(),
            last_frame_age_ms: stats.last_frame.map(|at| now.saturating_sub(at)),
            keyframe_age_ms: stats.last_key.map(|at| now.saturating_sub(at)),
            newest_ms: state.clock.newest(),
            video_frames: stats.video_frames,
            audio_frames: stats.audio_frames,
            forwards: self.forwarders.borrow().iter().map(|f| f.stats(self.newest_of(&state), now)).collect(),
        }
    }

    fn newest_of(&self, state: &State) -> Option<u64> {
        state.publication.as_ref().and_then(|_| state.clock.newest())
    }
}

/// The right to publish a stream; dropping it ends the publication, unless another has replaced it.
pub(crate) struct Publisher {
    stream: Rc<Stream>,
    id: u64,
}

impl Publisher {
    pub(crate) fn stream(&self) -> &Rc<Stream> {
        &self.stream
    }

    /// Takes one message: audio, video, data or an aggregate of them. True if it was media.
    pub(crate) fn ingest(&self, message: Message, now: u64) -> bool {
        let mut state = self.stream.state.borrow_mut();
        if state.publication.as_ref().is_none_or(|p| p.id != self.id) {
            return false;
        }
        if message.type_id != message_type::AGGREGATE {
            return state.take(&message, now);
        }
        let mut media = false;
        for part in media::split_aggregate(&message) {
            media |= state.take(&part, now);
        }
        media
    }

    /// What was taken becomes visible to forwarders.
    pub(crate) fn commit(&self) {
        self.stream.announce();
    }

    /// The publisher says that its publication is over: the next one is another.
    pub(crate) fn finish(self) {
        let mut state = self.stream.state.borrow_mut();
        if state.publication.as_ref().is_some_and(|p| p.id == self.id) {
            state.ended = true;
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let mut state = self.stream.state.borrow_mut();
        if state.publication.as_ref().is_some_and(|p| p.id == self.id) {
            state.idle_since = state.publication.take().map_or(0, |p| p.link.now());
            drop(state);
            self.stream.announce();
        }
    }
}

impl State {
    fn take(&mut self, message: &Message, now: u64) -> bool {
        let Class { kind, codec } = media::classify(message.type_id, &message.payload);
        let lane = match kind {
            Kind::Ignore => return false,
            Kind::Metadata => {
                self.take_metadata(&message.payload);
                return false;
            }
            Kind::Data => Lane::Data,
            Kind::AudioHeader | Kind::Audio => Lane::Audio,
            Kind::VideoHeader | Kind::VideoMetadata | Kind::Keyframe | Kind::Video => Lane::Video,
        };
        self.stats.bytes += message.payload.len() as u64;
        match lane {
            Lane::Video => {
                self.stats.video_frames += 1;
                self.stats.video_codec = codec.map(|c| c.to_string());
            }
            Lane::Audio => {
                self.stats.audio_frames += 1;
                self.stats.audio_codec = codec.map(|c| c.to_string());
            }
            Lane::Data => {}
        }
        let resumes = self.clock.resumes(message.timestamp, now);
        let goes_on = resumes.map(|resumes| resumes && !self.is_new);
        if goes_on == Some(true) {
            self.have = Lane::ALL.map(|lane| self.log.last(lane));
        }
        let have = self.have[lane as usize];
        let last = if have.is_some() { None } else { self.log.last(lane) };
        let time = self.clock.map(message.timestamp, last, now);
        if goes_on == Some(false) {
            self.log.reset(time);
            self.key_wait = Some(now + KEY_WAIT);
        }
        self.put_metadata_in_force();
        if let Some(have) = have {
            if time <= have {
                if self.has_header(kind, &message.payload) {
                    return true;
                }
            } else {
                self.have[lane as usize] = None;
            }
        }
        if kind == Kind::Keyframe {
            self.key_wait = None;
        } else if self.key_wait.is_some_and(|until| now > until) {
            self.key_wait = None;
            self.log.give_up_on_keys();
        }
        if kind == Kind::Video && self.key_wait.is_some() {
            return true;
        }
        // Counted here, so that what is left out is not reported as live.
        if lane != Lane::Data {
            self.stats.last_frame = Some(now);
        }
        if kind == Kind::Keyframe {
            self.stats.last_key = Some(now);
        }
        self.keep_header(kind, &message.payload);
        let time = time.max(self.log.last(lane).unwrap_or(0));
        // AMF3 data is stored as AMF0 data: the reader of the connection has taken the difference away.
        let type_id = match lane {
            Lane::Video => message_type::VIDEO,
            Lane::Audio => message_type::AUDIO,
            Lane::Data => message_type::DATA,
        };
        let payload = match lane {
            Lane::Data => &media::metadata_for_players(&message.payload),
            Lane::Audio | Lane::Video => &message.payload,
        };
        self.log.append(lane, type_id, time, kind == Kind::Keyframe, payload);
        true
    }

    /// Whether a message that repeats the past brings nothing new: every frame, and headers that are in force.
    fn has_header(&self, kind: Kind, payload: &Bytes) -> bool {
        let headers = self.log.headers();
        match kind {
            Kind::AudioHeader => headers.audio.as_ref() == Some(payload),
            Kind::VideoHeader => headers.video.first() == Some(payload),
            Kind::VideoMetadata => headers.video.get(1) == Some(payload),
            Kind::Keyframe | Kind::Video | Kind::Audio | Kind::Metadata | Kind::Data | Kind::Ignore => true,
        }
    }

    fn keep_header(&mut self, kind: Kind, payload: &Bytes) {
        if payload.len() > HEADER_MAX || self.has_header(kind, payload) {
            return;
        }
        match kind {
            Kind::AudioHeader => self.log.update_headers(|h| h.audio = Some(payload.clone())),
            Kind::VideoHeader => self.log.update_headers(|h| h.video = vec![payload.clone()]),
            Kind::VideoMetadata => self.log.update_headers(|h| {
                h.video.truncate(1);
                h.video.push(payload.clone());
            }),
            Kind::Keyframe | Kind::Video | Kind::Audio | Kind::Metadata | Kind::Data | Kind::Ignore => {}
        }
    }

    fn take_metadata(&mut self, payload: &Bytes) {
        if payload.len() > HEADER_MAX {
            return;
        }
        // A copy: a part of an aggregate would keep all of it.
        self.next_metadata = Some(Bytes::copy_from_slice(&media::metadata_for_players(payload)));
        if !self.clock.is_beginning() {
            self.put_metadata_in_force();
        }
    }

    fn put_metadata_in_force(&mut self) {
        let Some(next) = &self.next_metadata else { return };
        let newest = self.log.newest();
        let is_due = match &self.log.headers().metadata {
            None => true,
            Some(old) if old == next => {
                self.next_metadata = None;
                return;
            }
            Some(_) => newest >= self.metadata_at + METADATA_EVERY,
        };
        if is_due && let Some(metadata) = self.next_metadata.take() {
            self.log.append_metadata(metadata);
            self.metadata_at = newest;
        }
    }
}
