//! Encoder → stream of the origin → forwarder that reconnects → stream of the edge → players. The encoder sends many keyframes, few or
//! none, from the first message on or after some sound, or sound alone.

use std::collections::HashMap;
use std::iter::successors;

use bytes::Bytes;
use rtmp::chunk::{self, Message};
use rtmp::{message_type, wire};

use crate::cursor::{Cursor, Recipient};
use crate::log::Span;
use crate::stream::{ConnId, Ended, PublicationId, Sender, Stream};
use crate::testing::{Chance, client, flush_with, seeds, store};

const QUEUE_LENGTH: u64 = 30_000;

/// A reader of a stream and what it got: number of the frame and time, in order.
struct Reading {
    cursor: Cursor,
    client: chunk::Reader,
    got: Vec<(u64, u32)>,
    /// It was slower than the queue is long.
    has_skipped: bool,
}

impl Reading {
    fn new(recipient: Recipient, stream: &Stream) -> Self {
        let from = match recipient {
            Recipient::Forwarder => {
                let log = stream.log();
                let next = |last: &Span| log.publication_from(last.begin + 1);
                let newest = successors(log.publication_from(0), next).last();
                newest.map_or_else(|| log.start(true), |newest| log.start_of_forward(newest, false))
            }
            Recipient::Player => stream.log().start(true),
        };
        Self {
            cursor: Cursor::new(recipient, 1, from),
            client: client(wire::CHUNK_SIZE),
            got: Vec::new(),
            has_skipped: false,
        }
    }

    /// Reads on; the messages.
    fn read(&mut self, stream: &Stream, take: &mut dyn FnMut() -> usize) -> Vec<Message> {
        let (bytes, _) = flush_with(&mut self.cursor, stream.log(), take);
        self.has_skipped |= self.cursor.take_skips() > 0;
        let (mut input, mut messages) = (&bytes[..], Vec::new());
        while let Some(message) = self.client.read(&mut input).unwrap() {
            self.got.extend(number(&message.payload).map(|number| (number, message.timestamp)));
            messages.push(message);
        }
        messages
    }

    fn read_all(&mut self, stream: &Stream) -> Vec<Message> {
        let mut messages = Vec::new();
        loop {
            let more = self.read(stream, &mut || usize::MAX);
            if more.is_empty() {
                return messages;
            }
            messages.extend(more);
        }
    }
}

/// A break of the forward.
#[derive(Debug)]
struct Break {
    /// Last frame before it, and first one behind it.
    before: u64,
    behind: u64,
}

struct World {
    chance: Chance,
    now: u64,
    origin: Stream,
    edge: Stream,
    conns: u64,
    is_near_wrap: bool,
    publication: Option<PublicationId>,
    /// The encoder's clock, ms.
    encoder: u32,
    last_audio: u32,
    frames: u64,
    /// Of each frame.
    is_video: Vec<bool>,
    /// Of each frame, its publication.
    publication_of: Vec<u64>,
    /// One picture in so many is a keyframe; none with 0.
    keys: u64,
    /// Messages of each publication before its first picture.
    sound_first: u64,
    sent_of_publication: u64,
    publications: u64,
    needs_key: bool,
    forwarder: Option<(Reading, PublicationId)>,
    /// A reader that never leaves, of each process of the origin.
    at_origin: Vec<Reading>,
    /// The same of the edge.
    at_edge: Reading,
    players: Vec<Reading>,
    breaks: Vec<Break>,
    last_forwarded: u64,
}

#[test]
fn what_reaches_a_player_through_reconnecting_forwarders_is_what_was_published() {
    for seed in seeds(1_000) {
        let mut world = World::new(seed);
        for _ in 0..800 {
            world.step();
        }
        world.finish();
        world.check(seed);
    }
}

fn conn(conns: &mut u64) -> ConnId {
    *conns += 1;
    ConnId(*conns)
}

impl World {
    fn new(seed: u64) -> Self {
        let mut chance = Chance::new(seed);
        let origin = Stream::new(&store(), wire::CHUNK_SIZE, QUEUE_LENGTH, 0);
        let edge = Stream::new(&store(), wire::CHUNK_SIZE, QUEUE_LENGTH, 0);
        let encoder = chance.next() as u32;
        let keys = [20, 20, 300, 0][chance.below(4) as usize];
        let sound_first = [0, 0, 30, u64::MAX][chance.below(4) as usize];
        Self {
            at_origin: vec![Reading::new(Recipient::Forwarder, &origin)],
            at_edge: Reading::new(Recipient::Forwarder, &edge),
            chance,
            now: 1_000,
            origin,
            edge,
            conns: 0,
            is_near_wrap: seed.is_multiple_of(2),
            publication: None,
            encoder,
            last_audio: encoder,
            frames: 0,
            is_video: Vec::new(),
            publication_of: Vec::new(),
            keys,
            sound_first,
            sent_of_publication: 0,
            publications: 0,
            needs_key: true,
            forwarder: None,
            players: Vec::new(),
            breaks: Vec::new(),
            last_forwarded: 0,
        }
    }

    fn step(&mut self) {
        // Several messages may have one time.
        let passed = if self.chance.once_in(4) { 0 } else { self.chance.below(40) };
        self.now += passed;
        self.encoder = self.encoder.wrapping_add(passed as u32);
        match self.publication {
            Some(publication) => self.send_frame(publication),
            None if self.chance.once_in(8) => self.publish(),
            None => {}
        }
        // Before anything may be lost for it.
        self.read_origin();
        match self.chance.below(120) {
            0 | 1 => self.unpublish(),
            25 if self.chance.once_in(4) => self.replace_origin(),
            2..=4 => self.lose_forwarder(),
            5 if self.chance.once_in(4) => self.now += self.chance.below(20_000),
            6..=20 if self.forwarder.is_none() && self.publication.is_some() => self.connect_forwarder(),
            21..=24 if self.players.len() < 5 => {
                self.players.push(Reading::new(Recipient::Player, &self.edge))
            }
            _ => {}
        }
        if !self.chance.once_in(3) {
            self.forward();
        }
        let chance = &mut self.chance;
        for player in &mut self.players {
            if !chance.once_in(3) {
                let mut sends = 1 + chance.below(3);
                player.read(&self.edge, &mut || {
                    let takes = sends > 0;
                    sends = sends.saturating_sub(1);
                    if takes { 1 + chance.below(500) as usize } else { 0 }
                });
            }
        }
    }

    fn publish(&mut self) {
        let by = conn(&mut self.conns);
        // As the wall clock, near the wrap of 32 bits or not.
        let clock = self.now + if self.is_near_wrap { 0xFFFF_0000 } else { 5_000_000 };
        let (publication, replaced) = self.origin.publish(by, Sender::Encoder { clock }, self.now);
        assert_eq!(replaced, None);
        // An encoder that was started again has another clock.
        if self.chance.once_in(2) {
            self.encoder = self.chance.next() as u32;
        }
        self.last_audio = self.encoder;
        self.publication = Some(publication);
        self.needs_key = self.keys > 0;
        self.sent_of_publication = 0;
        self.publications += 1;
        for (type_id, first) in [(message_type::VIDEO, 0x17), (message_type::AUDIO, 0xAF)] {
            let payload = Bytes::from(vec![first, 0, 0, 0, 0, 1]);
            self.origin.take(publication, &message(type_id, self.encoder, payload), self.now);
        }
    }

    fn send_frame(&mut self, publication: PublicationId) {
        let has_pictures = self.sent_of_publication >= self.sound_first;
        let is_video = has_pictures && (self.needs_key || self.chance.once_in(2));
        let key = is_video && (self.needs_key || (self.keys > 0 && self.chance.once_in(self.keys)));
        self.needs_key &= !has_pictures;
        self.sent_of_publication += 1;
        self.publication_of.push(self.publications);
        let mut payload = vec![0xEE; 30];
        payload[0] = match (is_video, key) {
            (true, true) => 0x17,
            (true, false) => 0x27,
            (false, _) => 0xAF,
        };
        payload[1] = 1;
        payload[6..14].copy_from_slice(&self.frames.to_be_bytes());
        let timestamp = if is_video {
            self.encoder
        } else {
            // Audio trails by some milliseconds, in order.
            let trailing = self.encoder.wrapping_sub(self.chance.below(30) as u32);
            if trailing.wrapping_sub(self.last_audio).cast_signed() < 0 { self.last_audio } else { trailing }
        };
        if !is_video {
            self.last_audio = timestamp;
        }
        self.frames += 1;
        self.is_video.push(is_video);
        let type_id = if is_video { message_type::VIDEO } else { message_type::AUDIO };
        assert!(self.origin.take(publication, &message(type_id, timestamp, payload.into()), self.now));
    }

    fn unpublish(&mut self) {
        let Some(publication) = self.publication.take() else { return };
        let finished = self.chance.once_in(2);
        let how = if finished { Ended::Finished } else { Ended::BrokenOff };
        assert!(self.origin.end(publication, how, self.now));
        // A forwarder sends what is left and says that it is over, whatever the encoder did.
        self.forward();
        if let Some((_, at_edge)) = self.forwarder.take() {
            self.at_edge.read_all(&self.edge);
            assert!(self.edge.end(at_edge, Ended::Finished, self.now));
        }
    }

    fn read_origin(&mut self) {
        self.at_origin
            .iter_mut()
            .next_back()
            .into_iter()
            .for_each(|reading| drop(reading.read_all(&self.origin)));
    }

    /// The origin's process dies and another takes its place.
    fn replace_origin(&mut self) {
        self.lose_forwarder();
        self.publication = None;
        self.origin = Stream::new(&store(), wire::CHUNK_SIZE, QUEUE_LENGTH, self.now);
        self.at_origin.push(Reading::new(Recipient::Forwarder, &self.origin));
    }

    fn lose_forwarder(&mut self) {
        if let Some((_, publication)) = self.forwarder.take() {
            // The edge may learn of it late: then the next one replaces it.
            if self.chance.once_in(2) {
                self.edge.end(publication, Ended::BrokenOff, self.now);
            }
        }
    }

    fn connect_forwarder(&mut self) {
        let by = conn(&mut self.conns);
        let clock = self.at_origin.len().to_string();
        let (publication, _) = self.edge.publish(by, Sender::Forwarder { clock: &clock }, self.now);
        let reading = Reading::new(Recipient::Forwarder, &self.origin);
        self.forwarder = Some((reading, publication));
        self.breaks.push(Break { before: self.last_forwarded, behind: u64::MAX });
    }

    /// The edge takes what the forwarder has for it.
    fn forward(&mut self) {
        // A connection that breaks before anything went over it.
        if self.chance.once_in(50)
            && self.forwarder.as_ref().is_some_and(|(reading, _)| reading.got.is_empty())
        {
            self.lose_forwarder();
        }
        let Some((reading, publication)) = &mut self.forwarder else { return };
        for message in reading.read_all(&self.origin) {
            self.edge.take(*publication, &message, self.now);
        }
        if let (Some((first, _)), Some((last, _))) = (reading.got.first(), reading.got.last()) {
            // One that sent nothing was no end of the break.
            self.breaks
                .iter_mut()
                .rev()
                .take_while(|it| it.behind == u64::MAX)
                .for_each(|it| it.behind = *first);
            self.last_forwarded = self.last_forwarded.max(*last);
        }
        self.at_edge.read_all(&self.edge);
    }

    /// All that is under way arrives.
    fn finish(&mut self) {
        self.read_origin();
        self.forward();
        for player in &mut self.players {
            player.read_all(&self.edge);
        }
    }

    fn check(&self, seed: u64) {
        // Of each frame the origin's process and the time there.
        let mut origin: HashMap<u64, (usize, u32)> = HashMap::new();
        for (process, reading) in self.at_origin.iter().enumerate() {
            check_order(&format!("seed {seed}, origin {process}"), &reading.got);
            origin.extend(reading.got.iter().map(|(frame, time)| (*frame, (process, *time))));
        }
        assert_eq!(origin.len() as u64, self.frames, "seed {seed}: the origin's own readers miss frames");
        let edge: HashMap<u64, u32> = self.at_edge.got.iter().copied().collect();
        check_order(&format!("seed {seed}, edge"), &self.at_edge.got);
        // On the first clock the edge's times are the origin's, on each later one they keep their distances.
        let mut shifts = HashMap::from([(0, 0)]);
        for (frame, time) in &self.at_edge.got {
            let (process, at_origin) = origin[frame];
            let shift = *shifts.entry(process).or_insert_with(|| time.wrapping_sub(at_origin));
            assert_eq!(*time, at_origin.wrapping_add(shift), "seed {seed}: frame {frame} at the edge");
        }
        for pair in self.at_edge.got.windows(2) {
            for missing in pair[0].0 + 1..pair[1].0 {
                let is_excused = |it: &Break| it.before < missing && missing < it.behind;
                assert!(
                    self.breaks.iter().any(is_excused),
                    "seed {seed}: frame {missing} is missing at the edge; breaks: {:?}",
                    self.breaks
                );
            }
        }
        for (number, player) in self.players.iter().enumerate() {
            let who = format!("seed {seed}, player {number}");
            check_order(&who, &player.got);
            let Some(&(first, first_time)) = player.got.first() else { continue };
            // What is shown later than it was sent, at the start of the reader's time, has a smaller difference.
            let near = edge[&first].wrapping_sub(first_time);
            let difference = |(frame, time): &(u64, u32)| edge[frame].wrapping_sub(*time).wrapping_sub(near);
            let differences = player.got.iter().map(|got| difference(got).cast_signed());
            let base = near.wrapping_add(differences.max().unwrap_or(0).cast_unsigned());
            for (frame, time) in &player.got {
                let late = time.wrapping_sub(edge[frame].wrapping_sub(base)).cast_signed();
                let is_shown_at_start = self.is_video[*frame as usize] && *time == 0 && late > 0;
                assert!(late == 0 || is_shown_at_start, "{who}: frame {frame} {late} ms late");
            }
            let got: Vec<u64> = player.got.iter().map(|(frame, _)| *frame).collect();
            let mut there: Vec<u64> =
                self.at_edge.got.iter().map(|(frame, _)| *frame).filter(|frame| *frame >= first).collect();
            // Audio that would be before the start of its time is left out.
            there.retain(|frame| {
                self.is_video[*frame as usize] || edge[frame].wrapping_sub(base).cast_signed() >= 0
            });
            // Video waits for a keyframe at the beginning of a publication; where there are few, also behind a long break.
            let mut first_video: HashMap<u64, u64> = HashMap::new();
            for frame in got.iter().filter(|frame| self.is_video[**frame as usize]) {
                first_video.entry(self.publication_of[*frame as usize]).or_insert(*frame);
            }
            there.retain(|frame| {
                let first = first_video.get(&self.publication_of[*frame as usize]);
                let is_due = first.is_some_and(|first| frame >= first) && self.keys == 20;
                let is_due = !player.has_skipped && (!self.is_video[*frame as usize] || is_due);
                is_due || got.binary_search(frame).is_ok()
            });
            assert_eq!(got, there, "{who} against what the edge had");
        }
    }
}

fn check_order(who: &str, got: &[(u64, u32)]) {
    for pair in got.windows(2) {
        assert!(pair[0].0 < pair[1].0, "{who}: {} before {}", pair[0].0, pair[1].0);
    }
}

fn message(type_id: u8, timestamp: u32, payload: Bytes) -> Message {
    Message { csid: 4, type_id, msid: 1, timestamp, payload }
}

/// The number in a frame; `None` of headers.
fn number(payload: &[u8]) -> Option<u64> {
    let is_frame = payload.len() == 30 && payload[14..20] == [0xEE; 6];
    is_frame.then(|| u64::from_be_bytes(payload[6..14].try_into().unwrap()))
}
