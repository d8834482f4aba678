//! Configuration of many tracks, and data: encoder → origin → forwarder that reconnects → edge, with readers that come at any time.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use rtmp::chunk::{self, Message};
use rtmp::{message_type, wire};

use crate::cursor::{Cursor, Recipient};
use crate::headers::PACKETS_MAX;
use crate::stream::{ConnId, Ended, PublicationId, Sender, Stream};
use crate::testing::{Chance, client, flush_with, seeds, store};

/// What a message is about. Only the last about each counts for a reader that comes later.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum About {
    /// Configuration of video or audio: message type, packet type, track.
    Packet(u8, u8, u8),
    /// Data of this name.
    Data(&'static str),
    Frame,
}

struct Reading {
    cursor: Cursor,
    client: chunk::Reader,
    /// Payloads, in order.
    got: Vec<Bytes>,
    is_at_edge: bool,
}

impl Reading {
    fn new(recipient: Recipient, stream: &Stream, is_at_edge: bool) -> Self {
        let cursor = Cursor::new(recipient, 1, stream.log().start(true));
        Self { cursor, client: client(wire::CHUNK_SIZE), got: Vec::new(), is_at_edge }
    }

    fn read(&mut self, stream: &Stream) -> Vec<Message> {
        let (bytes, _) = flush_with(&mut self.cursor, stream.log(), &mut || usize::MAX);
        let (mut input, mut messages) = (&bytes[..], Vec::new());
        while let Some(message) = self.client.read(&mut input).unwrap() {
            self.got.push(message.payload.clone());
            messages.push(message);
        }
        messages
    }
}

struct World {
    chance: Chance,
    now: u64,
    origin: Stream,
    edge: Stream,
    publication: PublicationId,
    forwarder: Option<(Reading, PublicationId)>,
    reconnects: u64,
    players: Vec<Reading>,
    has_key: bool,
    /// Of what was sent, in order.
    sent: Vec<(About, Bytes)>,
    /// Names of data that are kept.
    kept: HashSet<&'static str>,
}

#[test]
fn every_reader_gets_the_newest_configuration_of_each_track_wherever_and_whenever_it_joins() {
    for seed in seeds(1_500) {
        let mut world = World::new(seed);
        for _ in 0..150 {
            world.step();
        }
        world.finish(seed);
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut origin = Stream::new(&store(), wire::CHUNK_SIZE, 30_000, 0);
        let edge = Stream::new(&store(), wire::CHUNK_SIZE, 30_000, 0);
        let (publication, _) = origin.publish(ConnId(1), Sender::Encoder { clock: 5_000_000 }, 0);
        // Two are there before the stream begins.
        let players = vec![
            Reading::new(Recipient::Player, &origin, false),
            Reading::new(Recipient::Player, &edge, true),
        ];
        let (chance, sent, kept) = (Chance::new(seed), Vec::new(), HashSet::new());
        let (forwarder, reconnects, has_key) = (None, 0, false);
        Self {
            chance,
            now: 0,
            origin,
            edge,
            publication,
            forwarder,
            reconnects,
            players,
            has_key,
            sent,
            kept,
        }
    }

    fn step(&mut self) {
        // Several messages may have one time.
        if !self.chance.once_in(4) {
            self.now += self.chance.below(40);
        }
        if self.forwarder.is_none() && (self.reconnects == 0 || self.chance.once_in(4)) {
            let (by, clock) = (ConnId(10 + self.reconnects), Sender::Forwarder { clock: "origin" });
            let (publication, _) = self.edge.publish(by, clock, self.now);
            self.forwarder = Some((Reading::new(Recipient::Forwarder, &self.origin, false), publication));
        }
        let had_key = self.has_key;
        self.send();
        if !had_key && self.has_key {
            // Those that were there from the start begin here.
            self.relay();
        }
        match self.chance.below(60) {
            0 => {
                if let Some((_, publication)) = self.forwarder.take() {
                    self.edge.end(publication, Ended::BrokenOff, self.now);
                    self.reconnects += 1;
                }
            }
            1 | 2 => self.players.push(Reading::new(Recipient::Player, &self.origin, false)),
            3 | 4 => self.players.push(Reading::new(Recipient::Player, &self.edge, true)),
            _ => {}
        }
        if !self.chance.once_in(3) {
            self.relay();
        }
    }

    /// One message of the encoder, with a number of its own.
    fn send(&mut self) {
        let number = u32::try_from(self.sent.len()).unwrap().to_be_bytes();
        let track = self.chance.below(3) as u8;
        let bare = |name: &'static str| [&b"\x02\0\x01"[..], name.as_bytes(), &number].concat();
        let (type_id, about, payload) = match self.chance.below(14) {
            0 => match track {
                0 => (message_type::VIDEO, About::Packet(9, 0, 0), [b"\x17\0\0\0\0", &number[..]].concat()),
                _ => (message_type::VIDEO, About::Packet(9, 0, track), multitrack(0x96, 0, track, number)),
            },
            1 => (message_type::VIDEO, About::Packet(9, 4, track), multitrack(0xD6, 4, track, number)),
            2 => (message_type::AUDIO, About::Packet(8, 0, track), multitrack(0x95, 0, track, number)),
            3 => (message_type::AUDIO, About::Packet(8, 4, track), multitrack(0x95, 4, track, number)),
            4 => {
                let name = ["a", "b"][self.chance.below(2) as usize];
                self.kept.insert(name);
                let wrapped = [&b"\x02\0\x0d@setDataFrame"[..], &bare(name)].concat();
                (message_type::DATA, About::Data(name), wrapped)
            }
            5 | 6 => {
                let name = ["a", "b", "c"][track as usize];
                let about = if self.kept.contains(name) { About::Data(name) } else { About::Frame };
                (message_type::DATA, about, bare(name))
            }
            7 | 8 if !self.chance.once_in(4) => {
                self.has_key = true;
                (message_type::VIDEO, About::Frame, [b"\x17\x01\0\0\0", &number[..]].concat())
            }
            9..=11 if self.has_key => {
                (message_type::VIDEO, About::Frame, [b"\x27\x01\0\0\0", &number[..]].concat())
            }
            _ => (message_type::AUDIO, About::Frame, multitrack(0x95, 1, track, number)),
        };
        let payload = Bytes::from(payload);
        self.sent.push((about, rtmp::media::metadata_for_players(&payload)));
        let timestamp = u32::try_from(self.now).unwrap();
        let message = Message { csid: 4, type_id, msid: 1, timestamp, payload };
        assert!(self.origin.take(self.publication, &message, self.now));
    }

    fn relay(&mut self) {
        if let Some((reading, publication)) = &mut self.forwarder {
            for message in reading.read(&self.origin) {
                self.edge.take(*publication, &message, self.now);
            }
        }
        for player in &mut self.players {
            player.read(if player.is_at_edge { &self.edge } else { &self.origin });
        }
    }

    fn finish(mut self, seed: u64) {
        if self.forwarder.is_none() {
            let (publication, _) =
                self.edge.publish(ConnId(99), Sender::Forwarder { clock: "origin" }, self.now);
            self.forwarder = Some((Reading::new(Recipient::Forwarder, &self.origin, false), publication));
        }
        // Whoever waits for a keyframe starts at this one.
        self.has_key = true;
        self.now += 40;
        let payload = Bytes::from_static(b"\x17\x01\0\0\0last");
        self.sent.push((About::Frame, payload.clone()));
        let timestamp = u32::try_from(self.now).unwrap();
        let message = Message { csid: 4, type_id: message_type::VIDEO, msid: 1, timestamp, payload };
        self.origin.take(self.publication, &message, self.now);
        for _ in 0..8 {
            self.relay();
        }
        let mut newest = HashMap::new();
        for (about, payload) in self.sent.iter().filter(|(about, _)| *about != About::Frame) {
            newest.insert(about.clone(), payload.clone());
        }
        let index: HashMap<&Bytes, usize> =
            self.sent.iter().enumerate().map(|(index, (_, payload))| (payload, index)).collect();
        for (number, player) in self.players.iter().enumerate() {
            let who = format!("seed {seed}, player {number}, at the edge: {}", player.is_at_edge);
            let mut has = HashMap::new();
            for payload in &player.got {
                let sent = index.get(payload).unwrap_or_else(|| panic!("{who}: {payload:?} was never sent"));
                let (about, _) = &self.sent[*sent];
                has.insert(about.clone(), payload.clone());
            }
            has.remove(&About::Frame);
            assert_eq!(has, newest, "{who}");
            if self.reconnects == 0 || !player.is_at_edge {
                let different: HashSet<_> = player.got.iter().collect();
                assert_eq!(different.len(), player.got.len(), "{who} got something twice");
            }
        }
        // Those that were there from the start have all data, in order.
        for player in self.players.iter().take(if self.reconnects == 0 { 2 } else { 1 }) {
            let data = |payload: &&Bytes| payload.first() == Some(&2);
            let got: Vec<_> = player.got.iter().filter(data).collect();
            let sent: Vec<_> = self.sent.iter().map(|(_, payload)| payload).filter(data).collect();
            assert_eq!(got, sent, "seed {seed}, at the edge: {}", player.is_at_edge);
        }
    }
}

#[test]
fn what_has_the_time_of_the_last_message_before_a_break_and_came_behind_it_is_not_lost() {
    let mut origin = Stream::new(&store(), wire::CHUNK_SIZE, 30_000, 0);
    let mut edge = Stream::new(&store(), wire::CHUNK_SIZE, 30_000, 0);
    let (publication, _) = origin.publish(ConnId(1), Sender::Encoder { clock: 5_000_000 }, 0);
    let mut player = Reading::new(Recipient::Player, &edge, true);
    // Two slices of a keyframe and of a picture, sound of two tracks, two names of data: one of each before the break.
    let both: [(u8, [&[u8]; 2]); 4] = [
        (message_type::VIDEO, [b"\x17\x01\0\0\0slice 1", b"\x17\x01\0\0\0slice 2"]),
        (message_type::AUDIO, [b"\x95\x01mp4a\0one", b"\x95\x01mp4a\x01two"]),
        (message_type::DATA, [b"\x02\0\x01a", b"\x02\0\x01b"]),
        (message_type::VIDEO, [b"\x27\x01\0\0\0slice 3", b"\x27\x01\0\0\0slice 4"]),
    ];
    for (now, (type_id, pair)) in (0..).step_by(20).zip(both) {
        for payload in pair {
            let (forwarded, _) = edge.publish(ConnId(2), Sender::Forwarder { clock: "origin" }, now);
            let payload = Bytes::from_static(payload);
            let message = Message { csid: 4, type_id, msid: 1, timestamp: now as u32, payload };
            assert!(origin.take(publication, &message, now));
            for message in Reading::new(Recipient::Forwarder, &origin, false).read(&origin) {
                edge.take(forwarded, &message, now);
            }
            edge.end(forwarded, Ended::BrokenOff, now);
        }
    }
    player.read(&edge);
    let sent: Vec<_> = both.iter().flat_map(|(_, pair)| pair).collect();
    assert_eq!(player.got, sent);
}

fn multitrack(first: u8, packet_type: u8, track: u8, number: [u8; 4]) -> Vec<u8> {
    let codec = if first == 0x95 { b"mp4a" } else { b"avc1" };
    [&[first, packet_type], &codec[..], &[track], &number].concat()
}

#[test]
fn the_longest_metadata_and_data_reach_players_of_an_edge() {
    let mut origin = Stream::new(&store(), wire::CHUNK_SIZE, 30_000, 0);
    let mut edge = Stream::new(&store(), wire::CHUNK_SIZE, 30_000, 0);
    let (publication, _) = origin.publish(ConnId(1), Sender::Encoder { clock: 5_000_000 }, 0);
    let (forwarded, _) = edge.publish(ConnId(2), Sender::Forwarder { clock: "origin" }, 0);
    let filled = |begin: &[u8]| {
        let mut payload = begin.to_vec();
        payload.resize(chunk::MAX_DATA, 0x05);
        Bytes::from(payload)
    };
    // Null values, in a string each would be read as many.
    let metadata = filled(b"\x02\0\x0aonMetaData\x0c\0\0\xff\xee");
    let data = filled(b"\x02\0\x01a\x0c\0\0\xff\xf7");
    let wrapped = Bytes::from([&b"\x02\0\x0d@setDataFrame"[..], &data].concat());
    let key = Bytes::from_static(b"\x17\x01\0\0\0key");
    // One byte more fits an aggregate, and no message of its own.
    let longer = [&data[..], b"\x05"].concat();
    let [_, s2, s1, s0] = u32::try_from(longer.len()).unwrap().to_be_bytes();
    let header = [message_type::DATA, s2, s1, s0, 0, 0, 0, 0, 0, 0, 0];
    let aggregate = Bytes::from([&header[..], &longer, &[0; 4]].concat());
    for (type_id, payload) in [
        (message_type::DATA, &metadata),
        (message_type::DATA, &wrapped),
        (message_type::AGGREGATE, &aggregate),
        (message_type::VIDEO, &key),
    ] {
        let message = Message { csid: 4, type_id, msid: 1, timestamp: 0, payload: payload.clone() };
        origin.take(publication, &message, 0);
    }
    let mut forwarder = Reading::new(Recipient::Forwarder, &origin, false);
    for message in forwarder.read(&origin) {
        edge.take(forwarded, &message, 0);
    }
    let mut player = Reading::new(Recipient::Player, &edge, true);
    player.read(&edge);
    assert!([metadata, data, key].iter().all(|sent| player.got.contains(sent)));
    assert!(!player.got.iter().any(|got| got.len() > chunk::MAX_DATA), "no server would take it in");
}

#[test]
fn names_without_end_cost_readers_no_more_sends_than_there_are_places() {
    let mut origin = Stream::new(&store(), wire::CHUNK_SIZE, 30_000, 0);
    let (publication, _) = origin.publish(ConnId(1), Sender::Encoder { clock: 5_000_000 }, 0);
    for number in 0..10_000_u32 {
        let payload = [&b"\x02\0\x0d@setDataFrame\x02\0\x04"[..], &number.to_be_bytes()].concat();
        let message =
            Message { csid: 4, type_id: message_type::DATA, msid: 1, timestamp: 0, payload: payload.into() };
        assert!(origin.take(publication, &message, 0));
    }
    let barriers = (0..).take_while(|number| origin.log().barrier_at(*number).is_some()).count();
    assert_eq!(barriers, PACKETS_MAX + 1, "one to seed the track");
}
