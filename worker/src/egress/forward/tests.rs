use std::net::SocketAddr;

use cluster::stats::ForwardStats;
use cluster::{Role, UnitId, WorkerSpec};
use rtmp::chunk::Message;
use rtmp::message_type::VIDEO;
use rtmp::server::{self, Session, StreamKey};
use rtmp::wire::csid;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::LocalSet;

use super::*;
use crate::conn::handle::Conn;
use crate::ingress::{Publisher, publish};
use crate::testing::spec;

/// Frames of the group that is there when the target is connected to, and the bytes of each: together what a slow target needs more
/// than `DEAD_AFTER` for, and what a kernel would take at once.
const GROUP: (usize, usize) = (40, 100_000);
/// What the target reads every 100 ms, and what its kernel keeps for it, bytes.
const PACE: usize = 64 * 1024;

fn origin(target: SocketAddr) -> WorkerSpec {
    let target = Target {
        id: UnitId::worker(Role::Edge, "target", 1935),
        host: target.ip().to_string(),
        port: target.port(),
        address: None,
    };
    WorkerSpec { forward: vec![target], ..spec(Role::Origin) }
}

/// Reads slowly as a target until the whole group is there.
async fn read_slowly(socket: TcpStream) {
    let mut session = Session::new(server::Config::default());
    let mut buffer = vec![0; PACE];
    let mut pace = interval(Duration::from_millis(100));
    let mut missing = GROUP.0 * GROUP.1;
    while missing > 0 {
        pace.tick().await;
        socket.readable().await.unwrap();
        let Ok(taken) = socket.try_read(&mut buffer) else { continue };
        assert!(taken > 0, "given up {missing} bytes before the end");
        let mut input = &buffer[..taken];
        while let Some(event) = session.handle_input(&mut input).unwrap() {
            match event {
                server::Event::Publish { .. } => session.accept_publish(),
                server::Event::Media(message) => missing -= message.payload.len(),
                _ => {}
            }
        }
        socket::write_all(&socket, session.output()).await.unwrap();
    }
}

/// A target that consents to everything.
struct Consenting {
    socket: TcpStream,
    session: Session,
    unread: Vec<u8>,
}

impl Consenting {
    async fn next(&mut self) -> server::Event {
        loop {
            let mut input = &self.unread[..];
            let event = self.session.handle_input(&mut input).unwrap();
            let taken = self.unread.len() - input.len();
            self.unread.drain(..taken);
            if matches!(event, Some(server::Event::Publish { .. })) {
                self.session.accept_publish();
            }
            socket::write_all(&self.socket, self.session.output()).await.unwrap();
            if let Some(event) = event {
                return event;
            }
            self.socket.readable().await.unwrap();
            let mut buffer = [0; 4096];
            match self.socket.try_read(&mut buffer) {
                Ok(0) => panic!("the connection was not kept"),
                Ok(taken) => self.unread.extend_from_slice(&buffer[..taken]),
                Err(_) => {}
            }
        }
    }

    async fn until(&mut self, is_wanted: impl Fn(&server::Event) -> bool) {
        while !is_wanted(&self.next().await) {}
    }
}

#[tokio::test]
async fn a_connection_is_kept_for_the_streams_next_publication() {
    let (target, hub, conn, _encoder) = forwarding().await;
    let test = async {
        let mut consenting = None;
        for timestamp in [0, 1_000, 2_000] {
            let publisher = publish(&hub, &StreamKey::parse("live", "a").unwrap(), None, &conn).unwrap();
            let payload = vec![0x17, 1, 0, 0, 0, 7].into();
            assert!(
                publisher.take(&Message { csid: 4, type_id: VIDEO, msid: 1, timestamp, payload }, hub.now())
            );
            publisher.commit();
            if consenting.is_none() {
                let (socket, _) = target.accept().await.unwrap();
                let session = Session::new(server::Config::default());
                consenting = Some(Consenting { socket, session, unread: Vec::new() });
            }
            let target = consenting.as_mut().unwrap();
            target.until(|event| matches!(event, server::Event::Publish { .. })).await;
            target.until(|event| matches!(event, server::Event::Media(_))).await;
            publisher.finish();
            target.until(|event| matches!(event, server::Event::Unpublish { .. })).await;
        }
    };
    timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
}

/// A publication of one frame, `number`.
fn publish_frame(hub: &Rc<Hub>, conn: &Rc<Conn>, number: u8) -> Publisher {
    let publisher = publish(hub, &StreamKey::parse("live", "a").unwrap(), None, conn).unwrap();
    let payload = vec![0x17, 1, 0, 0, 0, number].into();
    let timestamp = u32::from(number) * 1_000;
    assert!(publisher.take(&Message { csid: 4, type_id: VIDEO, msid: 1, timestamp, payload }, hub.now()));
    publisher.commit();
    publisher
}

async fn accept(target: &TcpListener) -> Consenting {
    let (socket, _) = target.accept().await.unwrap();
    Consenting { socket, session: Session::new(server::Config::default()), unread: Vec::new() }
}

/// What a target is told of publications until `number` have ended: begin, number of each frame, end.
async fn seen_until_ends(target: &mut Consenting, number: usize) -> Vec<String> {
    let mut seen = Vec::new();
    while seen.iter().filter(|what| *what == "end").count() < number {
        match target.next().await {
            server::Event::Publish { .. } => seen.push("begin".to_owned()),
            server::Event::Media(message) => seen.push(message.payload[5].to_string()),
            server::Event::Unpublish { .. } => seen.push("end".to_owned()),
            _ => {}
        }
    }
    seen
}

/// A target, an origin that forwards to it, and the origin's connection of an encoder with its other end.
async fn forwarding() -> (TcpListener, Rc<Hub>, Rc<Conn>, TcpStream) {
    let target = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = target.local_addr().unwrap();
    let hub = Hub::new(origin(address), vec![7; 32]);
    let conn = hub.admit(TcpStream::connect(address).await.unwrap(), address).unwrap();
    let encoder = target.accept().await.unwrap().0;
    (target, hub, conn, encoder)
}

#[tokio::test]
async fn publications_that_follow_each_other_at_once_are_told_apart() {
    let (target, hub, conn, _encoder) = forwarding().await;
    let test = async {
        let publisher = publish_frame(&hub, &conn, 1);
        let mut target = accept(&target).await;
        target.until(|event| matches!(event, server::Event::Media(_))).await;
        // The next has media before the forwarder has its turn.
        publisher.finish();
        let publisher = publish_frame(&hub, &conn, 2);
        assert_eq!(seen_until_ends(&mut target, 1).await, ["end"]);
        target.until(|event| matches!(event, server::Event::Media(_))).await;
        publisher.finish();
        publish_frame(&hub, &conn, 3).finish();
        publish_frame(&hub, &conn, 4).finish();
        let rest = ["end", "begin", "3", "end", "begin", "4", "end"];
        assert_eq!(seen_until_ends(&mut target, 3).await, rest);
    };
    timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
}

/// Until a forwarder of the stream is as `is_wanted` says.
async fn until_forward(hub: &Hub, is_wanted: impl Fn(&ForwardStats) -> bool) {
    let key = StreamKey::parse("live", "a").unwrap();
    while !hub.find(&key).unwrap().forwards.borrow().iter().any(|f| is_wanted(&f.stats(None, 0))) {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn publications_that_are_over_before_the_target_can_be_reached_arrive_whole() {
    // Nobody listens yet.
    let target = TcpSocket::new_v4().unwrap();
    target.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let hub = Hub::new(origin(target.local_addr().unwrap()), vec![7; 32]);
    let encoder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(encoder.local_addr().unwrap()).await.unwrap();
    let conn = hub.admit(socket, encoder.local_addr().unwrap()).unwrap();
    let test = async {
        // Before the forwarder has its first turn, and while it waits to try again.
        publish_frame(&hub, &conn, 1).finish();
        publish_frame(&hub, &conn, 2).finish();
        until_forward(&hub, |forward| forward.last_error.is_some()).await;
        hub.tick();
        publish_frame(&hub, &conn, 3).finish();
        let last = publish_frame(&hub, &conn, 4);
        hub.tick();
        let target = target.listen(8).unwrap();
        let mut target = accept(&target).await;
        let expected = ["begin", "1", "end", "begin", "2", "end", "begin", "3", "end"];
        assert_eq!(seen_until_ends(&mut target, 3).await, expected);
        last.finish();
        assert_eq!(seen_until_ends(&mut target, 1).await, ["begin", "4", "end"]);
    };
    timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
}

#[tokio::test]
async fn of_a_publication_that_is_gone_the_end_alone_is_told_and_those_behind_it_follow() {
    let (target, hub, conn, _encoder) = forwarding().await;
    let test = async {
        let publisher = publish_frame(&hub, &conn, 1);
        let mut first = accept(&target).await;
        first.until(|event| matches!(event, server::Event::Media(_))).await;
        drop(first);
        until_forward(&hub, |forward| forward.state == ForwardState::Backoff).await;
        publisher.finish();
        // More than the log keeps apart.
        (2..90).for_each(|number| publish_frame(&hub, &conn, number).finish());
        // Its keyframe is not its begin.
        let last = publish(&hub, &StreamKey::parse("live", "a").unwrap(), None, &conn).unwrap();
        for (number, frame) in [(90, 0x27), (91, 0x17)] {
            let payload = vec![frame, 1, 0, 0, 0, number].into();
            let timestamp = u32::from(number) * 1_000;
            let message = Message { csid: 4, type_id: VIDEO, msid: 1, timestamp, payload };
            assert!(last.take(&message, hub.now()));
        }
        last.commit();
        let mut again = accept(&target).await;
        assert_eq!(seen_until_ends(&mut again, 1).await, ["begin", "end"]);
        let mut seen = Vec::new();
        while seen.last() != Some(&91) {
            if let server::Event::Media(message) = again.next().await {
                seen.push(message.payload[5]);
            }
        }
        assert!(seen.len() < 60 && seen.is_sorted() && seen.contains(&89), "{seen:?}");
    };
    timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
}

#[tokio::test]
async fn an_end_that_was_lost_with_its_connection_is_told_again() {
    let small = TcpSocket::new_v4().unwrap();
    small.set_recv_buffer_size(16 * 1024).unwrap();
    small.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let target = small.listen(8).unwrap();
    let hub = Hub::new(origin(target.local_addr().unwrap()), vec![7; 32]);
    let encoder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(encoder.local_addr().unwrap()).await.unwrap();
    let conn = hub.admit(socket, encoder.local_addr().unwrap()).unwrap();
    let test = async {
        let publisher = publish_frame(&hub, &conn, 1);
        // More than the target takes without reading.
        let payload = [&[0x27, 1, 0, 0, 0, 2][..], &[7; 200_000]].concat().into();
        assert!(
            publisher
                .take(&Message { csid: 4, type_id: VIDEO, msid: 1, timestamp: 1_040, payload }, hub.now())
        );
        publisher.finish();
        let mut first = accept(&target).await;
        first.until(|event| matches!(event, server::Event::Publish { .. })).await;
        until_forward(&hub, |forward| forward.state == ForwardState::Idle).await;
        drop(first);
        let mut again = accept(&target).await;
        assert_eq!(seen_until_ends(&mut again, 1).await, ["begin", "1", "2", "end"]);
    };
    timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
}

#[tokio::test]
async fn an_end_that_came_while_the_target_was_away_is_told_when_it_is_back() {
    let (target, hub, conn, _encoder) = forwarding().await;
    let test = async {
        // Alone, and with another publication behind it.
        for is_followed in [false, true] {
            let publisher = publish_frame(&hub, &conn, 1);
            let mut first = accept(&target).await;
            first.until(|event| matches!(event, server::Event::Media(_))).await;
            drop(first);
            until_forward(&hub, |forward| forward.state == ForwardState::Backoff).await;
            publisher.finish();
            let next = is_followed.then(|| publish_frame(&hub, &conn, 2));
            let mut again = accept(&target).await;
            assert_eq!(seen_until_ends(&mut again, 1).await, ["begin", "1", "end"]);
            drop(next);
            if is_followed {
                assert_eq!(seen_until_ends(&mut again, 1).await, ["begin", "2", "end"]);
            }
        }
    };
    timeout(Duration::from_secs(20), LocalSet::new().run_until(test)).await.expect("nothing more came");
}

#[tokio::test]
async fn a_target_that_takes_a_large_group_slowly_is_not_given_up() {
    let small = TcpSocket::new_v4().unwrap();
    small.set_recv_buffer_size(PACE as u32).unwrap();
    small.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let target = small.listen(1).unwrap();

    let hub = Hub::new(origin(target.local_addr().unwrap()), vec![7; 32]);
    let encoder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socket = TcpStream::connect(encoder.local_addr().unwrap()).await.unwrap();
    let conn = hub.admit(socket, encoder.local_addr().unwrap()).unwrap();
    let publish_and_read = async {
        let publisher = publish(&hub, &StreamKey::parse("live", "a").unwrap(), None, &conn).unwrap();
        for frame in 0..GROUP.0 {
            let mut payload = vec![0; GROUP.1];
            payload[..2].copy_from_slice(if frame == 0 { &[0x17, 1] } else { &[0x27, 1] });
            let timestamp = frame as u32 * 40;
            let csid = csid::VIDEO.into();
            let message = Message { csid, type_id: VIDEO, msid: 1, timestamp, payload: payload.into() };
            assert!(publisher.take(&message, hub.now()));
        }
        publisher.commit();
        let (socket, _) = target.accept().await.unwrap();
        read_slowly(socket).await;
    };
    LocalSet::new().run_until(publish_and_read).await;
}
