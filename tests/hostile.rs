//! Hostile bytes cost at most the connection that sent them: no worker dies, nobody else's picture stops.

use std::net::SocketAddr;
use std::time::Duration;

use crate::support::cluster::TestCluster;
use crate::support::flv::assert_same;
use crate::support::raw::{Raw, amf, chunk_header, command, kind, message};
use crate::support::{CARD_MS, STREAM, card, looped_card, rml};

/// A connection to attack with: after `connect` to `live`.
fn connected(addr: SocketAddr) -> Raw {
    Raw::dial(addr).handshake().connect("live", &[])
}

/// A connection that has done the handshake alone.
fn shaken(addr: SocketAddr) -> Raw {
    Raw::dial(addr).handshake()
}

/// Announces chunks of `size` bytes.
fn chunk_size(size: u32) -> Vec<u8> {
    message(2, 0, kind::CHUNK_SIZE, 0, &size.to_be_bytes())
}

/// Bytes that look like nothing, the same in each run.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state as u8
    })
    .take(len)
    .collect()
}

type Attack = (&'static str, fn(SocketAddr) -> Vec<Raw>);

/// Before `connect`, or before the handshake. The connections are kept open until all attacks have been made.
const STRANGERS: &[Attack] = &[
    ("nothing at all", |a| vec![Raw::dial(a)]),
    ("half a handshake", |a| one(Raw::dial(a), &[&[3], &[0; 700]])),
    ("another version", |a| one(Raw::dial(a), &[&[6], &[0; 1536]])),
    ("HTTP", |a| one(Raw::dial(a), &[b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])),
    ("TLS", |a| one(Raw::dial(a), &[&[0x16, 3, 1, 2, 0, 1, 0, 1, 0xFC, 3, 3], &noise(1, 600)])),
    ("noise for a handshake", |a| (0..20).flat_map(|i| one(Raw::dial(a), &[&noise(i, 5000)])).collect()),
    ("noise after the handshake", |a| {
        (0..20).flat_map(|i| one(shaken(a), &[&noise(i + 100, 20_000)])).collect()
    }),
    ("deeply nested AMF in connect", |a| {
        let nested = [amf::string("connect"), amf::number(1.0), [0x0A, 0, 0, 0, 1].repeat(12_000)].concat();
        one(shaken(a), &[&message(3, 0, kind::COMMAND, 0, &nested)])
    }),
    ("nested objects in connect", |a| {
        let nested = [amf::string("connect"), amf::number(1.0), [3, 0, 1, b'a'].repeat(15_000)].concat();
        one(shaken(a), &[&message(3, 0, kind::COMMAND, 0, &nested)])
    }),
    ("commands without end before connect", |a| {
        let call = command("createStream", 2.0, &amf::NULL, 0);
        one(shaken(a), &[&call.repeat(20_000)])
    }),
    ("acknowledgements without end before connect", |a| {
        one(shaken(a), &[&message(2, 0, 3, 0, &[0; 4]).repeat(50_000)])
    }),
    ("a large message before connect", |a| {
        one(shaken(a), &[&chunk_size(0x7FFF_FFFF), &chunk_header(4, 0, 0xFF_FFFF, 9, 1), &vec![7; 8 << 20]])
    }),
    ("an array of 4 billion values", |a| {
        let payload = [amf::string("connect"), amf::number(1.0), vec![0x0A, 0xFF, 0xFF, 0xFF, 0xFF]].concat();
        one(shaken(a), &[&message(3, 0, kind::COMMAND, 0, &payload)])
    }),
    ("connect twice", |a| {
        one(connected(a), &[&command("connect", 2.0, &amf::object(&[("app", "live")]), 0)])
    }),
];

/// After `connect`.
const GUESTS: &[Attack] = &[
    ("an empty command", |a| {
        one(connected(a), &[&chunk_header(3, 0, 0, kind::COMMAND, 0), &message(3, 0, kind::COMMAND, 0, &[2])])
    }),
    ("a command of one value", |a| {
        one(connected(a), &[&message(3, 0, kind::COMMAND, 0, &amf::string("play"))])
    }),
    ("a chunk size of 0", |a| {
        one(connected(a), &[&chunk_size(0), &command("createStream", 2.0, &amf::NULL, 0)])
    }),
    ("a chunk size of 2^31", |a| {
        one(connected(a), &[&chunk_size(0x8000_0000), &command("createStream", 2.0, &amf::NULL, 0)])
    }),
    ("a chunk size of 1", |a| one(connected(a), &[&chunk_size(1), &noise(7, 3000)])),
    ("a short control message", |a| {
        one(connected(a), &[&message(2, 0, kind::CHUNK_SIZE, 0, &[1]), &message(2, 0, 4, 0, &[0])])
    }),
    ("a window of 0", |a| {
        one(
            connected(a),
            &[&message(2, 0, kind::WINDOW, 0, &[0; 4]), &command("x", 9.0, &amf::NULL, 0).repeat(500)],
        )
    }),
    ("unknown user control", |a| {
        one(connected(a), &[&message(2, 0, kind::USER_CONTROL, 0, &[0, 26, 0, 0, 0, 1])])
    }),
    ("65 000 chunk streams", |a| {
        let chunks: Vec<u8> = (0..65_000_u32)
            .flat_map(|i| {
                let mut header = chunk_header(1, 0, 200, 9, 1);
                header.splice(1..1, (i as u16).to_le_bytes());
                header.extend([0; 128]);
                header
            })
            .collect();
        one(connected(a), &[&chunks])
    }),
    ("16 MiB on each of 60 chunk streams", |a| {
        let mut raw = connected(a);
        raw.send(&chunk_size(0x7FFF_FFFF));
        for csid in 4..64 {
            if !(raw.send(&chunk_header(csid, 0, 0xFF_FFFF, 9, 1)) && raw.send(&vec![0; 1 << 20])) {
                break;
            }
        }
        vec![raw]
    }),
    ("a message that starts anew in its middle", |a| {
        let long = message(6, 0, 9, 1, &[7; 1000]);
        one(
            connected(a),
            &[&long[..300], &chunk_header(6, 0, 10, 9, 1), &[7; 10], &chunk_header(6, 0, 5, 9, 1)],
        )
    }),
    ("continuation of nothing", |a| one(connected(a), &[&[0xC0 | 40; 500]])),
    ("streams without end", |a| {
        one(connected(a), &[&command("createStream", 2.0, &amf::NULL, 0).repeat(50_000)])
    }),
    ("plays without end", |a| {
        let play = command("play", 4.0, &[&amf::NULL[..], &amf::string("livestream")].concat(), 1);
        one(connected(a), &[&command("createStream", 2.0, &amf::NULL, 0), &play.repeat(5000)])
    }),
    ("pauses without end", |a| {
        let play = command("play", 4.0, &[&amf::NULL[..], &amf::string("livestream")].concat(), 1);
        let pause = |on| command("pause", 0.0, &[&amf::NULL[..], &[1, on], &amf::number(0.0)].concat(), 1);
        let toggles = [pause(1), pause(0)].concat().repeat(20_000);
        one(connected(a), &[&command("createStream", 2.0, &amf::NULL, 0), &play, &toggles])
    }),
    ("plays, pauses and closes without end", |a| {
        let play = command("play", 0.0, &[&amf::NULL[..], &amf::string("livestream")].concat(), 1);
        let pause = command("pause", 0.0, &[&amf::NULL[..], &[1, 1], &amf::number(0.0)].concat(), 1);
        let close = command("closeStream", 0.0, &amf::NULL, 1);
        let cycles = [play, pause, close].concat().repeat(20_000);
        one(connected(a), &[&command("createStream", 2.0, &amf::NULL, 0), &cycles])
    }),
    ("16 million nulls", |a| {
        one(
            connected(a),
            &[
                &chunk_size(0x7FFF_FFFF),
                &chunk_header(3, 0, 0xFF_FFFF, kind::COMMAND, 0),
                &vec![5; 0xFF_FFFF],
            ],
        )
    }),
    ("a player that never reads", |a| {
        let play = command("play", 4.0, &[&amf::NULL[..], &amf::string("livestream")].concat(), 1);
        one(connected(a), &[&command("createStream", 2.0, &amf::NULL, 0), &play])
    }),
    ("a name of 60 000 bytes", |a| {
        let play = command("play", 4.0, &[&amf::NULL[..], &amf::string(&"x".repeat(60_000))].concat(), 1);
        one(connected(a), &[&command("createStream", 2.0, &amf::NULL, 0), &play])
    }),
    ("a name with control characters", |a| {
        let play =
            command("play", 4.0, &[&amf::NULL[..], &amf::string("a\n\u{1b}[31m\0b/../..")].concat(), 1);
        one(connected(a), &[&command("createStream", 2.0, &amf::NULL, 0), &play])
    }),
    ("noise for messages", |a| {
        (0..=255)
            .step_by(3)
            .flat_map(|t| one(connected(a), &[&message(5, 0, t as u8, 1, &noise(u64::from(t as u8), 300))]))
            .collect()
    }),
];

/// While publishing at the origin: what comes out goes on to every edge.
const PUBLISHERS: &[Attack] = &[
    ("@setDataFrame alone", |a| data(a, "p1", &amf::string("@setDataFrame"))),
    ("@setDataFrame with one value", |a| {
        data(a, "p2", &[amf::string("@setDataFrame"), amf::string("onMetaData")].concat())
    }),
    ("metadata in Latin-1", |a| {
        let title = [&[3, 0, 5][..], b"title", &amf::bytes(b"caf\xE9"), &[0, 0, 9]].concat();
        data(a, "p3", &[amf::string("@setDataFrame"), amf::string("onMetaData"), title].concat())
    }),
    ("metadata with a date, a long string, an empty key and no end", |a| {
        let date = [&[0x0B][..], &[0; 10]].concat();
        let long = [&[0x0C, 0, 0, 0, 4][..], b"long"].concat();
        let array =
            [&[8, 0, 0, 0, 2, 0, 1, b'd'][..], &date, &[0, 1, b'l'], &long, &[0, 0, 2, 0, 0]].concat();
        data(a, "p4", &[amf::string("@setDataFrame"), amf::string("onMetaData"), array].concat())
    }),
    ("a data message of 4 bytes", |a| data(a, "p5", &[0, 0, 0, 9])),
    ("nested metadata", |a| {
        data(
            a,
            "p6",
            &[amf::string("@setDataFrame"), amf::string("onMetaData"), [0x0A, 0, 0, 0, 1].repeat(10_000)]
                .concat(),
        )
    }),
    ("empty and tiny frames", |a| {
        let mut raw = connected(a).publish("p7", "NetStream.Publish.Start");
        for payload in [&[][..], &[0x17], &[0x17, 0], &[0x17, 1], &[0xAF], &[0xAF, 0], &[0x80], &[0x96, 0xFF]]
        {
            raw.send(&message(6, 0, 9, 1, payload));
            raw.send(&message(4, 0, 8, 1, payload));
        }
        vec![raw]
    }),
    ("broken aggregates", |a| {
        let mut raw = connected(a).publish("p8", "NetStream.Publish.Start");
        raw.send(&message(4, 0, 22, 1, &noise(5, 400)));
        raw.send(&message(4, 0, 22, 1, &[9, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0, 0, 0, 0]));
        raw.send(&message(4, 0, 22, 1, &[9, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 11].repeat(3000)));
        vec![raw]
    }),
    ("interleaved chunks", |a| {
        let mut raw = connected(a).publish("p9", "NetStream.Publish.Start");
        let key = [&[0x17, 1, 0, 0, 0][..], &[3; 400]].concat();
        raw.send(&chunk_header(6, 0, key.len(), 9, 1));
        raw.send(&key[..128]);
        raw.send(&message(4, 10, 8, 1, &[0xAF, 1, 2, 3]));
        for part in key[128..].chunks(128) {
            raw.send(&[0xC6]);
            raw.send(part);
        }
        vec![raw]
    }),
    ("times that jump about", |a| {
        let mut raw = connected(a).publish("p10", "NetStream.Publish.Start");
        for time in [0, 0xFF_FFFE, 5, 0x7F_FFFF, 0, 0xFF_FFFE, 1] {
            raw.send(&message(6, time, 9, 1, &[0x17, 1, 0, 0, 0, 1, 2, 3]));
            raw.send(&message(4, time / 2, 8, 1, &[0xAF, 1, 2, 3]));
        }
        // Extended times: absolute, then one that is below what needs the extension.
        raw.send(
            &[
                &[6, 0xFF, 0xFF, 0xFF, 0, 0, 8, 9, 1, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFE][..],
                &[0x17, 1, 0, 0, 0, 1, 2, 3],
            ]
            .concat(),
        );
        raw.send(
            &[&[0x46, 0xFF, 0xFF, 0xFF, 0, 0, 8, 9, 0, 0, 0, 1][..], &[0x27, 1, 0, 0, 0, 1, 2, 3]].concat(),
        );
        vec![raw]
    }),
    ("a cut in the middle of a keyframe", |a| {
        let mut raw = connected(a).publish("p11", "NetStream.Publish.Start");
        raw.send(&message(6, 0, 9, 1, &[0x17; 5000])[..3000]);
        drop(raw);
        Vec::new()
    }),
    ("streams beyond the bound, each published", |a| {
        (0..80)
            .map(|i| {
                let mut raw = connected(a);
                raw.send(&command("createStream", 2.0, &amf::NULL, 0));
                let name = amf::string(&format!("many{i}"));
                raw.send(&command(
                    "publish",
                    3.0,
                    &[&amf::NULL[..], &name, &amf::string("live")].concat(),
                    1,
                ));
                raw.expect("NetStream.Publish.");
                raw
            })
            .collect()
    }),
];

/// Sends these bytes.
fn one(mut raw: Raw, parts: &[&[u8]]) -> Vec<Raw> {
    for part in parts {
        // Being closed in the middle is what should happen to most of them.
        if !raw.send(part) {
            break;
        }
    }
    vec![raw]
}

/// Publishes `name` with one data message.
fn data(addr: SocketAddr, name: &str, payload: &[u8]) -> Vec<Raw> {
    let raw = connected(addr).publish(name, "NetStream.Publish.Start");
    one(raw, &[&message(5, 0, kind::DATA, 1, payload), &message(6, 0, 9, 1, &[0x17, 1, 0, 0, 0, 1, 2, 3])])
}

#[test]
fn hostile_bytes_before_connect_cost_at_most_their_own_connection() {
    withstand(STRANGERS, |net| vec![net.origin(), net.edges()[0]]);
}

#[test]
fn hostile_bytes_after_connect_cost_at_most_their_own_connection() {
    withstand(GUESTS, |net| vec![net.origin(), net.edges()[0]]);
}

#[test]
fn hostile_publishers_cost_at_most_their_own_stream_on_the_origin_and_on_the_edges_behind_it() {
    withstand(PUBLISHERS, |net| vec![net.origin()]);
}

#[test]
fn a_connection_that_never_gets_to_connect_is_closed_in_time() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let mut open = [Raw::dial(edge), one(Raw::dial(edge), &[&[3, 0, 0]]).pop().unwrap(), shaken(edge)];
    open.iter_mut().for_each(|raw| raw.expect_closed(Duration::from_secs(30)));
}

#[test]
fn a_publisher_cannot_make_workers_grow_beyond_their_log() {
    /// Bytes that a worker may have in memory: the log's 64 MiB and half as much again.
    const MAX: u64 = 96 << 20;
    let cluster = TestCluster::up_guide();
    let mut raw = connected(cluster.net.origin()).publish("livestream", "NetStream.Publish.Start");
    assert!(raw.send(&chunk_size(0x10_0000)));
    let part = |csid, type_id, payload: &[u8]| {
        [&chunk_header(csid, 0, payload.len(), type_id, 1)[..], payload].concat()
    };
    assert!(raw.send(&part(6, 9, &[0x17, 1, 0, 0, 0, 1, 2, 3])));
    // A sequence header of 900 kB, which each joining player would get.
    assert!(raw.send(&part(6, 9, &[&[0x17, 0, 0, 0, 0][..], &vec![7; 900_000]].concat())));
    // Time stands still, and the metadata changes each time: 120 MB of it.
    for n in 0..2000_u32 {
        let title = format!("{n:08}").repeat(7_500);
        let object = [&[3, 0, 5][..], b"title", &amf::string(&title), &[0, 0, 9]].concat();
        let metadata = [amf::string("@setDataFrame"), amf::string("onMetaData"), object].concat();
        assert!(raw.send(&part(5, kind::DATA, &metadata)), "metadata {n}");
    }
    // A million keyframes of one byte.
    assert!(raw.send(&part(6, 9, &[0x12])));
    for _ in 0..100 {
        assert!(raw.send(&[0xC6, 0x12].repeat(10_000)));
    }
    // All of it has been read when the keyframe behind it comes out at an edge.
    let last = [&[0x17, 1, 0, 0, 0][..], &[0xEE; 100]].concat();
    assert!(raw.send(&part(6, 9, &last)));
    let player = rml::play(cluster.net.edges()[3], STREAM).unwrap();
    crate::support::wait_for("the last keyframe at an edge", crate::support::SOON, || {
        let tags = player.tags();
        if tags.iter().any(|tag| tag.payload == last) {
            Ok(())
        } else {
            let seen: Vec<_> =
                tags.iter().rev().take(3).map(|t| (t.kind, t.timestamp, t.payload.len())).collect();
            Err(format!("{} tags, the last are {seen:?}; ended: {:?}", tags.len(), player.ended()))
        }
    });
    for (id, pid) in cluster.pids() {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: u64 = peak.trim().trim_end_matches(" kB").parse().unwrap();
        assert!(peak * 1024 < MAX, "{id} had {} MiB", peak / 1024);
    }
}

/// Makes the attacks on each of `targets` under a playing stream; every worker must live, and the stream be whole.
fn withstand(attacks: &[Attack], targets: fn(&crate::support::net::Net) -> Vec<SocketAddr>) {
    let cluster = TestCluster::up_guide();
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let edges = cluster.net.edges();
    let players = [edges[0], edges[3]].map(|addr| rml::play(addr, STREAM).unwrap());
    players.iter().for_each(|p| drop(p.record_after(0, 1.0)));
    let pids = cluster.pids();

    let mut open = Vec::new();
    for target in targets(&cluster.net) {
        for (name, attack) in attacks {
            eprintln!("{name}, at {target}");
            open.extend(attack(target));
            // The newest player tells at once which attack it was.
            assert_eq!(players.iter().find_map(rml::Peer::ended), None, "after {name}");
        }
    }
    for player in &players {
        let mark = player.mark();
        player.record_after(mark, 2.0);
        assert_same("a player through it all", &player.record_after(0, 3.0), &looped_card(), 3.0);
    }
    let next = rml::play(edges[0], STREAM).unwrap();
    assert_same("a player after it all", &next.record_after(0, 2.0), &looped_card(), 2.0);
    assert_eq!(cluster.pids(), pids, "a worker was restarted");
    assert_eq!(encoder.ended(), None);
    drop(open);
    cluster.down();
}
