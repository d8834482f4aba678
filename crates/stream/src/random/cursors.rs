//! One log and several cursors: resets, mutes, pauses, short writes, skips, moves; sources of many keyframes, of few and of none, and
//! of audio alone.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd as _, OwnedFd};

use rtmp::media::Kind;
use rtmp::{chunk, message_type};
use shm::{Id, Memory, Recovery, Store};

use crate::blob::{Blob, Blobs};
use crate::cursor::{Cursor, Flushed, Recipient, State, Wire};
use crate::log::{KEY_WAIT, Log, entries};
use crate::storage::{self, Meter};
use crate::testing::{CHUNK, Chance, decode, flush_all, seeds, store};
use crate::track::Track;

/// Of the log, ms.
const QUEUE_LENGTH: u64 = 3_000;

/// A message as it was appended.
struct Sent {
    offset: u64,
    time: u64,
    track: Track,
    key: bool,
    /// Number of its publication.
    publication: u64,
    /// Whether a reader that waits for a keyframe waits no longer.
    keyless: bool,
}

struct Client {
    cursor: Cursor,
    wire: Vec<u8>,
    /// Whether it gets all there is from its start on: it never muted, paused or skipped.
    is_plain: bool,
    is_paused: bool,
    is_forwarder: bool,
    /// The log's newest time when it was first seen without video.
    without_video: Option<u64>,
    /// What was committed last, and the length of `wire` then.
    committed: (State, usize),
}

/// What a reader is sent, until its process dies.
struct Recorder<'a> {
    wire: &'a mut Vec<u8>,
    committed: &'a mut (State, usize),
    take: &'a mut dyn FnMut() -> usize,
    /// Sends and commits before it dies.
    left: u64,
}

impl Recorder<'_> {
    fn is_dead(&mut self) -> bool {
        self.left = self.left.saturating_sub(1);
        self.left == 0
    }
}

impl Wire for Recorder<'_> {
    fn send(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let budget = (self.take)();
        if budget == 0 || self.is_dead() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let before = self.wire.len();
        self.wire.extend(slices.iter().flat_map(|slice| slice.iter()).take(budget));
        Ok(self.wire.len() - before)
    }

    fn commit(&mut self, state: &State) {
        if !self.is_dead() {
            *self.committed = (state.clone(), self.wire.len());
        }
    }
}

struct World {
    chance: Chance,
    /// What outlives the process.
    file: OwnedFd,
    store: Store,
    record: Id,
    log: Log,
    time: u64,
    sent: Vec<Sent>,
    /// Up to where all media was dropped.
    cleared: u64,
    publication: u64,
    /// One video message in so many is a keyframe; none with 0.
    keys: u64,
    /// Of ten messages so many are video.
    video: u64,
    clients: Vec<Client>,
}

#[test]
fn each_reader_gets_what_it_shall_in_order_and_with_exact_times() {
    for seed in seeds(2_000) {
        let mut world = World::new(seed);
        for _ in 0..400 {
            world.step();
        }
        world.check(seed);
    }
}

#[expect(unsafe_code, reason = "the memory outlives a process")]
fn map(file: &OwnedFd) -> Memory {
    // SAFETY: who had it before is forgotten, and writes no more.
    unsafe { Memory::map(file.as_fd()) }.unwrap()
}

impl Client {
    fn new(cursor: Cursor, is_forwarder: bool) -> Self {
        let committed = (cursor.state().clone(), 0);
        let wire = Vec::new();
        Self { cursor, wire, is_plain: true, is_paused: false, is_forwarder, without_video: None, committed }
    }

    fn commit(&mut self) {
        self.committed = (self.cursor.state().clone(), self.wire.len());
        self.cursor.set_committed();
    }

    /// One that has skipped starts anew.
    fn note_skips(&mut self) {
        if self.cursor.take_skips() > 0 {
            (self.is_plain, self.without_video) = (false, None);
        }
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let time = 1_000 + chance.below(1 << 33);
        let file = Memory::file("stream", 1 << 30).unwrap();
        let store = Store::create(map(&file));
        let record = store.add().unwrap();
        let mut log = Log::new(&store, CHUNK, QUEUE_LENGTH);
        log.reset(time);
        let (sent, clients) = (Vec::new(), Vec::new());
        let (keys, video) =
            ([12, 12, 200, 0][chance.below(4) as usize], [5, 5, 5, 0][chance.below(4) as usize]);
        let (cleared, publication) = (0, 0);
        let this =
            Self { chance, file, store, record, log, time, sent, cleared, publication, keys, video, clients };
        this.commit();
        this
    }

    fn step(&mut self) {
        self.act();
        self.commit();
    }

    /// What the log is now is true from here on.
    fn commit(&self) {
        let (storage, entries) = self.log.places();
        let record = postcard::to_allocvec(&(storage, entries, &self.log)).unwrap();
        assert!(self.store.put(self.record, 2, &record));
        self.store.commit();
    }

    /// The process dies. Another goes on with what was committed, and what the readers have been sent.
    fn die(&mut self) {
        let (recovery, found) = Recovery::open(map(&self.file)).unwrap();
        let mut objects = found.objects;
        let mut blobs = Blobs::take(recovery.store(), &mut objects);
        let [record] = &objects[..] else { panic!("{} objects", objects.len()) };
        type Saved = (storage::Saved, entries::Saved, Log);
        let (storage, entries, log) = postcard::from_bytes::<Saved>(&record.bytes).unwrap();
        let (log, _left) = log
            .restore((storage, entries), (&recovery, &mut blobs, &Meter::default()))
            .expect("it is as it was committed");
        for client in &mut self.clients {
            client.note_skips();
            let (state, at) = client.committed.clone();
            let state: State = postcard::from_bytes(&postcard::to_allocvec(&state).unwrap()).unwrap();
            let more = (client.wire.len() - at) as u64;
            client.cursor = Cursor::resume_at(state, at as u64, more, &log).expect("it was sent that");
            // Before the log moves on.
            client.commit();
        }
        drop(blobs);
        // The old process's handles: what they would do with its memory is not done.
        std::mem::forget(std::mem::replace(&mut self.log, log));
        std::mem::forget(std::mem::replace(&mut self.store, recovery.finish()));
    }

    fn act(&mut self) {
        let client = self.chance.index(self.clients.len());
        match (self.chance.below(100), client) {
            (0..=57, _) => self.append(),
            (58..=60, _) => {
                let metadata = format!("meta{}", self.chance.next());
                self.log.append_metadata(Blob::new(&self.store, metadata.as_bytes()));
            }
            (61, _) => {
                self.time += self.chance.below(20_000);
                self.log.reset(self.time);
                self.begin();
            }
            (62, _) if self.chance.once_in(3) => {
                self.log.clear();
                self.cleared = self.log.end();
                self.begin();
            }
            (62, _) => self.log.pause(),
            (63, _) => self.configure(Kind::VideoHeader, Track::Video, 0x17),
            (64, _) => self.configure(Kind::AudioHeader, Track::Audio, 0xAF),
            (65..=69, _) if self.clients.len() < 6 => {
                let from = self.log.start(self.chance.once_in(2));
                let recipient = if self.chance.once_in(4) { Recipient::Forwarder } else { Recipient::Player };
                let cursor = Cursor::new(recipient, 1, from);
                self.log.begin_at(from);
                self.clients.push(Client::new(cursor, recipient == Recipient::Forwarder));
            }
            (77..=79, _) => {
                let offsets = self.clients.iter().map(|client| client.cursor.offset());
                self.log.release(offsets.min().unwrap_or(u64::MAX));
            }
            (_, None) => {}
            (70, Some(client)) => {
                let track = Track::ALL[self.chance.below(2) as usize];
                let off = self.chance.once_in(2);
                let from = self.log.start(self.chance.once_in(2));
                self.log.begin_at(from);
                self.change(client, |cursor| cursor.mute(track, off, from));
            }
            (71, Some(client)) => {
                self.change(client, Cursor::pause);
                self.clients[client].is_paused = true;
            }
            (72, Some(client)) => {
                let from = self.log.start(self.chance.once_in(2));
                self.log.begin_at(from);
                self.change(client, |cursor| cursor.resume(from));
                self.clients[client].is_paused = false;
            }
            (73, Some(client)) => {
                let mut ping = Vec::new();
                let event = [0, 6, 0, 0, 0, 9];
                chunk::put_full(&mut ping, CHUNK, 2, 0, message_type::USER_CONTROL, 0, &event);
                assert!(self.clients[client].cursor.push_control(&mut ping));
            }
            (74..=76, Some(_)) => self.die(),
            (_, Some(client)) => self.flush(client),
        }
    }

    /// Another sequence header is in force, which is not in the log.
    fn configure(&mut self, kind: Kind, track: Track, first: u8) {
        let payload = vec![first, 0, self.chance.below(200) as u8];
        let scope = self.log.headers().scope(kind, track, &payload);
        self.log.update_headers(|headers| headers.keep(&self.store, track, scope, &payload, false));
    }

    /// Another publication: whoever waits for a keyframe does so anew.
    fn begin(&mut self) {
        self.publication += 1;
        self.clients.iter_mut().for_each(|client| client.without_video = None);
    }

    fn append(&mut self) {
        let chance = &mut self.chance;
        self.time += match chance.below(40) {
            0 => 11_000,
            1 => 4_000,
            _ => chance.below(60),
        };
        let track = match chance.below(10) {
            n if n < self.video => Track::Video,
            0..=8 => Track::Audio,
            _ => Track::Data,
        };
        let key = track == Track::Video && self.keys > 0 && chance.once_in(self.keys);
        let most = if chance.once_in(10) { 5_000 } else { 300 };
        let mut payload = vec![0xEE; 20 + chance.below(most) as usize];
        payload[..2].copy_from_slice(&[0x27, 1]);
        payload[6..14].copy_from_slice(&(self.sent.len() as u64).to_be_bytes());
        // Tracks are interleaved loosely, each in order.
        let time = (self.time - chance.below(400)).max(self.log.last(track).unwrap_or(0));
        let offset = self.log.end();
        if self.chance.once_in(50) {
            // What was not committed is read again by the next process.
            self.log.append(track, time, key, &payload);
            self.die();
            assert_eq!(self.log.end(), offset);
        }
        self.log.append(track, time, key, &payload);
        let keyless = self.log.is_keyless_after(0);
        self.sent.push(Sent { offset, time, track, key, publication: self.publication, keyless });
        self.check_nothing_is_dropped_too_soon();
    }

    /// A reader that has fallen out of the queue was slower than the queue is long.
    fn check_nothing_is_dropped_too_soon(&self) {
        for client in &self.clients {
            let at = client.cursor.offset();
            if at < self.log.floor() && at >= self.cleared {
                let next = self.sent.partition_point(|sent| sent.offset < at);
                let age = self.log.newest() - self.sent[next].time;
                assert!(age > QUEUE_LENGTH, "{age} ms old, and gone");
            }
        }
    }

    fn change(&mut self, client: usize, change: impl FnOnce(&mut Cursor)) {
        let client = &mut self.clients[client];
        change(&mut client.cursor);
        client.commit();
        client.is_plain = false;
        client.without_video = None;
    }

    fn flush(&mut self, client: usize) {
        let chance = &mut self.chance;
        let (is_whole, mut sends) = (chance.once_in(3), 1 + chance.below(3));
        let left = if chance.once_in(10) { 1 + chance.below(4) } else { u64::MAX };
        let client = &mut self.clients[client];
        let mut take = || {
            if is_whole {
                return usize::MAX;
            }
            let takes = sends > 0;
            sends = sends.saturating_sub(1);
            if takes { 1 + chance.below(2_000) as usize } else { 0 }
        };
        let Client { cursor, wire, committed, .. } = client;
        let mut recorder = Recorder { wire, committed, take: &mut take, left };
        let flushed = cursor.flush(&self.log, &mut recorder).unwrap();
        if recorder.left == 0 {
            self.die();
            return;
        }
        client.note_skips();
        if flushed == Flushed::CaughtUp && self.log.is_live() && !client.is_paused {
            assert!(!client.cursor.is_waiting(), "there is something to get");
            if client.cursor.lacks_video() {
                let since = *client.without_video.get_or_insert_with(|| self.log.newest());
                assert!(!self.log.is_keyless_after(since + KEY_WAIT), "without video since {since}");
            } else {
                client.without_video = None;
            }
        }
    }

    fn check(mut self, seed: u64) {
        let clients = std::mem::take(&mut self.clients);
        for (number, mut client) in clients.into_iter().enumerate() {
            let (rest, _) = flush_all(&mut client.cursor, &self.log);
            client.wire.extend(rest);
            client.is_plain &= client.cursor.take_skips() == 0;
            let who = format!("seed {seed}, reader {number}");
            self.check_client(&who, &client);
        }
    }

    fn check_client(&self, who: &str, client: &Client) {
        let got: Vec<(usize, u32)> = decode(&client.wire)
            .iter()
            .filter_map(|(_, time, payload)| Some((number(payload)?, *time)))
            .collect();
        let Some(&(first, at)) = got.first() else { return };
        // What is shown later than it was sent has a smaller difference.
        let difference = |id: usize, at: u32| (self.sent[id].time as u32).wrapping_sub(at);
        let near = difference(first, at);
        let differences = got.iter().map(|(id, at)| difference(*id, *at).wrapping_sub(near).cast_signed());
        let base = near.wrapping_add(differences.max().unwrap_or(0).cast_unsigned());
        let mut last = [None; 3];
        for (id, time) in &got {
            let Sent { time: sent, track, key, .. } = self.sent[*id];
            let exact = (sent as u32).wrapping_sub(base);
            // What a decoder cannot miss is shown at the start, if it belongs before it.
            let is_shown_late = track == Track::Video && time.wrapping_sub(exact).cast_signed() > 0;
            assert!(
                *time == exact || is_shown_late,
                "{who}: message {id}, {track:?}, sent at {sent}, came as {time}"
            );
            // The picture may be shown again to whoever goes on after a pause.
            if let Some((before, was)) = last[track as usize].replace((*id, *time)) {
                assert!(before < *id || (key && !client.is_plain), "{who}: {before} before {id}");
                assert!(time.wrapping_sub(was).cast_signed() >= 0, "{who}: {was} before {time}");
            }
        }
        let video = got.iter().find(|(id, _)| self.sent[*id].track == Track::Video);
        if let Some((id, _)) = video {
            let may_start = self.sent[*id].key || self.sent[*id..].iter().any(|sent| sent.keyless);
            assert!(client.is_forwarder || may_start, "{who}: video starts with message {id}, no keyframe");
        }
        if client.is_plain {
            self.check_nothing_is_missing(who, &got, base.wrapping_add(at));
        }
    }

    /// From its start on a plain reader gets everything, but video before the first keyframe of a publication, and what would be before
    /// the time it starts at.
    fn check_nothing_is_missing(&self, who: &str, got: &[(usize, u32)], start: u32) {
        let first = got[0].0;
        let mut next = got.iter().map(|(id, _)| *id).peekable();
        let (mut has_video, mut has, mut publication) = (false, [false; 3], 0);
        for (id, sent) in self.sent.iter().enumerate().skip(first) {
            if sent.publication != publication {
                (publication, has_video) = (sent.publication, false);
            }
            if next.next_if_eq(&id).is_some() {
                has_video |= sent.track == Track::Video;
                has[sent.track.index()] = true;
                continue;
            }
            let is_before_start = (sent.time as u32).wrapping_sub(start).cast_signed() < 0;
            let waits_for_key = sent.track == Track::Video && !has_video;
            assert!(
                waits_for_key || (is_before_start && !has[sent.track.index()]),
                "{who}: message {id}, {:?} at {}, is missing",
                sent.track,
                sent.time
            );
        }
    }
}

/// The number in a payload that was appended; `None` of headers and metadata.
fn number(payload: &[u8]) -> Option<usize> {
    let is_ours = payload.len() >= 20 && payload[14..20] == [0xEE; 6];
    is_ours.then(|| u64::from_be_bytes(payload[6..14].try_into().unwrap()) as usize)
}

#[test]
fn audio_that_begins_a_little_before_a_readers_time_keeps_its_distance_to_video() {
    let mut log = Log::new(&store(), CHUNK, 30_000);
    let mut cursor = Cursor::new(Recipient::Player, 1, 0);
    log.append(Track::Video, 1_000, true, &[0x17, 1, 0, 0, 0, 9]);
    let (mut wire, _) = flush_all(&mut cursor, &log);
    for i in 0..50 {
        log.append(Track::Audio, 900 + i * 20, false, &[0x2F, 1, 2]);
        log.append(Track::Video, 1_020 + i * 20, false, &[0x27, 1, 0, 0, 0, 9]);
    }
    wire.extend(flush_all(&mut cursor, &log).0);
    let seen = decode(&wire);
    let last = |type_id| seen.iter().rfind(|(t, _, _)| *t == type_id).unwrap().1;
    // 1880 and 2000 on the stream's clock.
    assert_eq!(last(message_type::VIDEO) - last(message_type::AUDIO), 120);
    assert_eq!(seen.iter().filter(|(t, _, _)| *t == message_type::AUDIO).count(), 45);
}
