//! What workers of this program, and of the one before, have left is read and gone on from: images of the memory of an origin and an edge,
//! in the middle of a stream with an encoder, a forward, a player and a message of which half has come.
//!
//! There is one image for each layout and version of records that is read (tests/images). They are what those programs wrote, and
//! are never made again. Whoever changes a record, or the layout, sees the test of what this program wrote fail, and
//!
//! 1. gives a record that changes a `kind` of its own ([`crate::keeping::kind`]), and goes on to read the one before, which becomes the new
//!    one as it is read: objects of both may stand beside each other, since a worker may die in the middle of its recovery. What no
//!    kind can tell apart (a word, the place of something) is a new layout;
//! 2. raises [`RECORDS`](crate::RECORDS) or [`LAYOUT`](crate::LAYOUT) by one, and its oldest (`OLDEST_RECORDS`, `OLDEST_LAYOUT`) to what it was: what is
//!    older than that is read no more, and its image and code go. Where the one before cannot be read either, the oldest is the same as
//!    the newest: then `upgrade` and `restart` say what that costs before they touch anything;
//! 3. makes the new image, `SRSCTL_IMAGES=write cargo test -p worker images`, and commits it with the change.

use std::collections::HashMap;
use std::io::Read as _;
use std::net::{TcpListener as StdListener, TcpStream as Socket};
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use rtmp::chunk::{self, Limits, Reader};
use rtmp::client::{Config, Event, Mode, Session};
use rtmp::message_type::VIDEO;
use rtmp::wire::{CHUNK_SIZE, csid};
use rtmp_io::socket;
use rustix::net::sockopt::socket_cookie;
use shm::Memory;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{LocalSet, spawn_local, yield_now};
use tokio::time::timeout;

use crate::accept::accept;
use crate::conn::machine::Machine;
use crate::conn::record::ConnRecord;
use crate::flush;
use crate::fuzz::{Image, Left, MEMORY, PAGE, adapt, connection, memory, specs};
use crate::hub::Hub;
use crate::keeping::{Keeping, PortRecord, RECORDS, kind, word};
use crate::recovery::{self, Opened};
use crate::tally::Limit;

/// Frames that are whole when the workers die, and all that there are in the end.
const FRAMES: (u8, u8) = (6, 24);
/// Bytes of a frame. Only part of it has come of the one in which the workers die, more than a record has room for.
const FRAME: usize = 3_600;
/// Bytes of the handshake of a server.
const HANDSHAKE: usize = 1 + 2 * 1536;
const LIMIT: Duration = Duration::from_secs(20);

fn file(layout: u64, records: u64) -> PathBuf {
    let name = format!("layout-{layout}-records-{records}.bin");
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/images").join(name)
}

fn frame(number: u8) -> Vec<u8> {
    let kind = if number % 10 == 1 { 0x17 } else { 0x27 };
    let mut payload = vec![number; FRAME];
    payload[..5].copy_from_slice(&[kind, 1, 0, 0, 0]);
    let mut wire = Vec::new();
    chunk::put_full(&mut wire, CHUNK_SIZE, csid::VIDEO, u32::from(number) * 40, VIDEO, 1, &payload);
    wire
}

/// The frames that a player was sent, by their numbers; each has to be whole.
fn frames(heard: &[u8]) -> Vec<u8> {
    let mut input = &heard[HANDSHAKE.min(heard.len())..];
    let mut reader = Reader::new(Limits::default());
    let (mut numbers, mut first) = (Vec::new(), None);
    while let Some(message) = reader.read(&mut input).unwrap() {
        if message.type_id == VIDEO {
            let number = message.payload[5];
            assert!(
                message.payload.len() == FRAME && message.payload[5..].iter().all(|byte| *byte == number)
            );
            let (first, at) = *first.get_or_insert((number, message.timestamp));
            assert_eq!(message.timestamp - at, u32::from(number - first) * 40);
            numbers.push(number);
        }
    }
    numbers
}

/// A port, with its tasks.
async fn run(hub: &Rc<Hub>, listener: TcpListener, servings: Vec<crate::conn::Serving>) {
    let next = flush::go_on(hub, servings.len()).await;
    spawn_local(flush::flush(Rc::clone(hub), next));
    spawn_local(flush::catch_up(Rc::clone(hub)));
    spawn_local(accept(Rc::clone(hub), Rc::new(listener), servings));
}

/// A client that has got what it asked for, and all that it was sent.
async fn client(mode: Mode, port: u16) -> (TcpStream, Vec<u8>) {
    let url = format!("rtmp://127.0.0.1:{port}/live/a").parse().unwrap();
    let mut session = Session::new(Config::new(mode, url)).unwrap();
    let socket = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let (mut heard, mut is_started) = (Vec::new(), false);
    loop {
        socket::write_all(&socket, session.output()).await.unwrap();
        if is_started {
            return (socket, heard);
        }
        let mut input = &hear(&socket, &mut heard).await[..];
        while let Some(event) = session.handle_input(&mut input).unwrap() {
            is_started |= event == Event::Started;
        }
    }
}

async fn hear(socket: &TcpStream, heard: &mut Vec<u8>) -> Vec<u8> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        socket.readable().await.unwrap();
        match socket.try_read(&mut buffer) {
            Ok(0) => panic!("the connection has ended"),
            Ok(taken) => {
                heard.extend_from_slice(&buffer[..taken]);
                return buffer[..taken].to_vec();
            }
            Err(_) => {}
        }
    }
}

async fn send(socket: &TcpStream, bytes: &[u8]) {
    socket::write_all(socket, &mut bytes.to_vec()).await.unwrap();
}

/// What two workers of this program leave that die now.
async fn made() -> Image {
    let files = [(), ()].map(|()| Memory::file("image", MEMORY).unwrap());
    let [origin_file, edge_file] = &files;
    let hub = |spec, file: &OwnedFd| {
        let store = recovery::open(Some(file.as_fd()), true).store;
        Hub::with(spec, vec![7; 32], &Rc::new(Keeping::new(store, None)), (None, PortRecord::default()))
    };
    let listeners =
        [TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap()];
    let [origin_port, edge_port] = [0, 1].map(|at: usize| listeners[at].local_addr().unwrap().port());
    let (origin_spec, edge_spec) = specs(edge_port);
    let (origin, edge) = (hub(origin_spec, origin_file), hub(edge_spec, edge_file));
    for (hub, listener) in [&origin, &edge].into_iter().zip(listeners) {
        run(hub, listener, Vec::new()).await;
    }
    let (encoder, _) = client(Mode::Publish, origin_port).await;
    for number in 1..=FRAMES.0 / 2 {
        send(&encoder, &frame(number)).await;
    }
    let (player, mut heard) = client(Mode::Play, edge_port).await;
    // One of which nothing has come yet.
    let _guest = TcpStream::connect(("127.0.0.1", edge_port)).await.unwrap();
    while edge.conns() < 3 {
        yield_now().await;
    }
    for number in FRAMES.0 / 2 + 1..=FRAMES.0 {
        send(&encoder, &frame(number)).await;
    }
    let half = frame(FRAMES.0 + 1);
    let (half, rest) = half.split_at(FRAME * 2 / 3);
    send(&encoder, half).await;
    while frames(&heard).last() != Some(&FRAMES.0) {
        hear(&player, &mut heard).await;
    }
    let publisher = |hub: &Hub| {
        hub.open().into_iter().find(|conn| hub.channels()[0].stream().publisher() == Some(conn.id))
    };
    let (source, forward) = (publisher(&origin).unwrap(), publisher(&edge).unwrap());
    // The encoder's kernel has sent all of it, and the worker has read it.
    while socket::read_so_far(&source.socket).unwrap() != socket::written(&encoder).unwrap() - 1
        || source.read.get() != socket::read_so_far(&source.socket).unwrap()
    {
        yield_now().await;
    }
    let counted = |hub: &Hub| -> Vec<(u64, u64, u64)> {
        let one = |conn: &Rc<crate::conn::handle::Conn>| {
            let count = (socket::written(&conn.socket).unwrap(), socket::read_so_far(&conn.socket).unwrap());
            (conn.object.get().unwrap().number(), count.0, count.1)
        };
        hub.open().iter().map(one).collect()
    };
    let left = |hub: &Hub, file: &OwnedFd| {
        hub.tally.count(Limit::Players, hub.now());
        hub.save();
        hub.keeping.commit();
        Left { pages: pages(file), age: Duration::from_millis(hub.now()), counted: counted(hub) }
    };
    let (mut origin, edge) = (left(&origin, origin_file), left(&edge, edge_file));
    // Both ends of a connection have counted the same; the origin's task alone has its own end.
    let (written, read) =
        (socket::read_so_far(&forward.socket).unwrap(), socket::written(&forward.socket).unwrap());
    origin.counted.push((0, written, read));
    Image { origin, edge, heard, rest: rest.to_vec() }
}

fn pages(file: &OwnedFd) -> Vec<(u64, Vec<u8>)> {
    let mut pages = Vec::new();
    for page in 0..MEMORY / PAGE as u64 {
        let mut bytes = vec![0; PAGE];
        rustix::io::pread(file, &mut bytes, page * PAGE as u64).unwrap();
        if bytes.iter().any(|byte| *byte != 0) {
            pages.push((page, bytes));
        }
    }
    pages
}

/// Workers go on from an image, an encoder with the rest of its frame and more; the player is sent every frame, each once.
async fn go_on(image: Image) {
    let listeners = [StdListener::bind("127.0.0.1:0").unwrap(), StdListener::bind("127.0.0.1:0").unwrap()];
    let edge_port = listeners[1].local_addr().unwrap().port();
    let (origin_spec, edge_spec) = specs(edge_port);
    let (link_written, link_read) =
        image.origin.counted.iter().find(|it| it.0 == 0).map(|it| (it.1, it.2)).unwrap();
    // The edge has accepted it; the counts are of the origin's end.
    let (at_edge, at_origin) = connection((link_read, link_written));
    let mut link_ends = [Some(at_origin), Some(at_edge)];
    let (mut others, mut guests) = (HashMap::new(), Vec::new());
    let mut hubs = Vec::new();
    let specs = [origin_spec, edge_spec];
    for (index, ((spec, left), listener)) in
        specs.into_iter().zip([&image.origin, &image.edge]).zip(listeners).enumerate()
    {
        let file = memory(left);
        assert!(recovery::is_readable(file.as_fd()));
        let Opened { store, legacy, .. } = recovery::open(Some(file.as_fd()), false);
        let mut legacy = legacy.expect("it is read");
        let mut open: Vec<OwnedFd> = Vec::new();
        adapt(&mut legacy, left.age, |number, of| {
            let count = left.counted.iter().find(|it| it.0 == number).map(|it| (it.1, it.2));
            let is_forward = of == kind::LINK || index == 1 && count == Some((link_read, link_written));
            let socket = if is_forward {
                link_ends[index].take().expect("one forward")
            } else {
                let (accepted, other) = connection(count.expect("it was counted"));
                if count == Some((0, 0)) {
                    guests.push(other);
                } else {
                    others.insert(index, other);
                }
                accepted
            };
            socket.set_nonblocking(true).unwrap();
            let known = (socket.as_raw_fd(), socket_cookie(&socket).unwrap());
            open.push(socket.into());
            known
        });
        legacy.find_sockets(open, Some(listener.as_fd()));
        let keeping = Rc::new(Keeping::new(store, None));
        let port = legacy.port();
        let hub = Hub::with(spec, vec![7; 32], &keeping, port);
        assert_eq!(hub.tally.refused(), 1, "what limits have cost goes on");
        let (servings, lost) = legacy.take(&hub);
        assert_eq!((servings.len(), lost), ([1, 3][index], 0));
        assert_eq!(keeping.store.word(word::VERSION), RECORDS, "they are this program's from here on");
        listener.set_nonblocking(true).unwrap();
        run(&hub, TcpListener::from_std(listener).unwrap(), servings).await;
        hubs.push((hub, file));
    }
    let into_runtime = |socket: Socket| {
        socket.set_nonblocking(true).unwrap();
        TcpStream::from_std(socket).unwrap()
    };
    let [encoder, player] = [0, 1].map(|index| into_runtime(others.remove(&index).unwrap()));
    let mut heard = image.heard;
    let first = frames(&heard)[0];
    send(&encoder, &image.rest).await;
    for number in FRAMES.0 + 2..=FRAMES.1 {
        send(&encoder, &frame(number)).await;
    }
    while frames(&heard).last() != Some(&FRAMES.1) {
        hear(&player, &mut heard).await;
    }
    assert_eq!(frames(&heard), (first..=FRAMES.1).collect::<Vec<_>>(), "each once, and in order");
}

async fn within_limit(work: impl Future<Output = ()>) {
    timeout(LIMIT, LocalSet::new().run_until(work)).await.expect("nothing more came");
}

#[tokio::test]
async fn what_a_worker_of_this_program_leaves_is_gone_on_from() {
    within_limit(async {
        let image = made().await;
        if std::env::var_os("SRSCTL_IMAGES").is_some() {
            let bytes = postcard::to_allocvec(&image).unwrap();
            std::fs::write(file(crate::LAYOUT, RECORDS), bytes).unwrap();
        }
        go_on(image).await;
    })
    .await;
}

#[tokio::test]
async fn what_workers_of_each_version_have_left_that_is_read_is_gone_on_from() {
    for layout in crate::OLDEST_LAYOUT..=crate::LAYOUT {
        for records in crate::OLDEST_RECORDS..=RECORDS {
            let path = file(layout, records);
            let bytes = std::fs::read(&path).unwrap_or_else(|error| {
                panic!("{}: {error}; see above how an image is made", path.display())
            });
            within_limit(go_on(postcard::from_bytes(&bytes).unwrap())).await;
        }
    }
}

#[tokio::test]
async fn what_is_of_an_unknown_version_is_not_looked_at_and_the_port_begins_anew() {
    let bytes = std::fs::read(file(crate::LAYOUT, RECORDS)).unwrap();
    let image: Image = postcard::from_bytes(&bytes).unwrap();
    // Where the layout stands, and the word of the records' version.
    for (at, version) in
        [(8, crate::LAYOUT + 1), (8, crate::OLDEST_LAYOUT - 1), (64 + 8 * word::VERSION, RECORDS + 1)]
    {
        let mut left = image.edge.clone();
        left.pages[0].1[at..at + 8].copy_from_slice(&version.to_le_bytes());
        let file = memory(&left);
        assert!(!recovery::is_readable(file.as_fd()));
        let Opened { store, legacy, forgot, .. } = recovery::open(Some(file.as_fd()), false);
        assert!(legacy.is_none());
        let forgot = forgot.unwrap();
        assert!(forgot.contains("forgot all connections: what was left "), "{forgot}");
        assert_eq!(store.word(word::VERSION), RECORDS);
        assert!(recovery::is_readable(file.as_fd()), "of the next worker");
    }
}

#[tokio::test]
async fn two_records_of_one_socket_or_of_one_number_cost_their_connections_and_no_other() {
    let bytes = std::fs::read(file(crate::LAYOUT, RECORDS)).unwrap();
    let Left { age, counted, .. } = &postcard::from_bytes::<Image>(&bytes).unwrap().edge;
    let left = postcard::from_bytes::<Image>(&bytes).unwrap().edge;
    for of_one_socket in [true, false] {
        let file = memory(&left);
        let Opened { store, legacy, .. } = recovery::open(Some(file.as_fd()), false);
        let mut legacy = legacy.unwrap();
        let (mut open, mut others, mut first) = (Vec::new(), Vec::new(), None);
        adapt(&mut legacy, *age, |number, _| {
            let count = counted.iter().find(|it| it.0 == number).map(|it| (it.1, it.2)).unwrap();
            if let (true, Some(first)) = (of_one_socket && count != (0, 0), first) {
                return first;
            }
            let (accepted, other) = connection(count);
            accepted.set_nonblocking(true).unwrap();
            let known = (accepted.as_raw_fd(), socket_cookie(&accepted).unwrap());
            open.push(OwnedFd::from(accepted));
            if count != (0, 0) {
                others.push(other);
                first.get_or_insert(known);
            }
            known
        });
        for object in legacy.objects().iter_mut().filter(|object| object.kind == kind::CONN) {
            let number = object.id.number();
            let mut record: ConnRecord<Machine> = postcard::from_bytes(&object.bytes).unwrap();
            if !of_one_socket && counted.iter().any(|it| it.0 == number && (it.1, it.2) != (0, 0)) {
                record.id = 77;
            }
            object.bytes = postcard::to_allocvec(&record).unwrap();
        }
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        legacy.find_sockets(open, Some(listener.as_fd()));
        within_limit(async move {
            let port = legacy.port();
            let hub = Hub::with(specs(1).1, vec![7; 32], &Rc::new(Keeping::new(store, None)), port);
            let (servings, lost) = legacy.take(&hub);
            assert_eq!((servings.len(), hub.conns(), lost), (1, 1, 2), "of one socket: {of_one_socket}");
        })
        .await;
        for mut other in others {
            assert!(!matches!(other.read(&mut [0]), Ok(1..)), "it is closed");
        }
    }
}
