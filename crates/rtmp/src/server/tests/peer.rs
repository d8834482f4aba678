//! An independent client: the sessions of rml_rtmp.

use super::*;
use bytes::Bytes;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::sessions::{
    ClientSession, ClientSessionConfig, ClientSessionEvent, ClientSessionResult, PublishRequestType,
};
use rml_rtmp::time::RtmpTimestamp;

struct Peers {
    server: Session,
    client: ClientSession,
    /// Events of both sides, in order.
    server_events: Vec<Event>,
    client_events: Vec<ClientSessionEvent>,
}

impl Peers {
    fn new() -> Self {
        let mut server = Session::new(Config::default());
        let mut handshake = Handshake::new(PeerType::Client);
        let mut to_server = handshake.generate_outbound_p0_and_p1().unwrap();
        loop {
            assert_eq!(server.handle_input(&mut &to_server[..]), Ok(None));
            let to_client = std::mem::take(server.output());
            if to_client.is_empty() {
                break;
            }
            to_server = match handshake.process_bytes(&to_client).unwrap() {
                HandshakeProcessResult::InProgress { response_bytes }
                | HandshakeProcessResult::Completed { response_bytes, .. } => response_bytes,
            };
        }
        let (client, results) = ClientSession::new(ClientSessionConfig::new()).unwrap();
        assert!(results.is_empty());
        Self { server, client, server_events: Vec::new(), client_events: Vec::new() }
    }

    fn run(&mut self, result: ClientSessionResult) {
        let mut results = vec![result];
        while !results.is_empty() {
            let mut to_server = Vec::new();
            for result in results.drain(..) {
                match result {
                    ClientSessionResult::OutboundResponse(packet) => to_server.extend(packet.bytes),
                    ClientSessionResult::RaisedEvent(event) => self.client_events.push(event),
                    ClientSessionResult::UnhandleableMessageReceived(_) => {}
                }
            }
            let mut input = &to_server[..];
            while let Some(event) = self.server.handle_input(&mut input).unwrap() {
                match event {
                    Event::Publish { .. } => self.server.accept_publish(),
                    Event::Play { .. } => self.server.accept_play(),
                    _ => {}
                }
                self.server_events.push(event);
            }
            let to_client = std::mem::take(self.server.output());
            results = self.client.handle_input(&to_client).unwrap();
        }
    }

    fn connect(&mut self) {
        let request = self.client.request_connection("live".into()).unwrap();
        self.run(request);
        assert_eq!(self.server_events, [Event::Connected { app: "live".into(), auth: None }]);
        assert!(self.client_events.contains(&ClientSessionEvent::ConnectionRequestAccepted));
    }
}

#[test]
fn rml_rtmp_publishes() {
    let mut peers = Peers::new();
    peers.connect();
    let request = peers.client.request_publishing("s".into(), PublishRequestType::Live).unwrap();
    peers.run(request);
    assert!(peers.client_events.contains(&ClientSessionEvent::PublishRequestAccepted));
    assert_eq!(peers.server_events[1..], [Event::Publish { msid: 1, stream: key("live/s") }]);
    let sent = [(0u32, 5000usize), (40, 10), (0xFF_FFFF, 3000), (0xFF_FFFF + 40, 700)];
    for (time, len) in sent {
        let data = Bytes::from(vec![0x17; len]);
        let video = peers.client.publish_video_data(data, RtmpTimestamp::new(time), false).unwrap();
        peers.run(video);
    }
    let received = peers.server_events[2..].iter().map(|event| match event {
        Event::Media(message) => (message.timestamp, message.payload.len()),
        other => panic!("{other:?}"),
    });
    assert_eq!(received.collect::<Vec<_>>(), sent);
    for result in peers.client.stop_publishing().unwrap() {
        peers.run(result);
    }
    assert_eq!(peers.server_events.last(), Some(&Event::Unpublish { msid: 1 }));
}

#[test]
fn rml_rtmp_plays() {
    let mut peers = Peers::new();
    peers.connect();
    let request = peers.client.request_playback("s".into()).unwrap();
    peers.run(request);
    assert!(peers.client_events.contains(&ClientSessionEvent::PlaybackRequestAccepted));
    let mut bytes = Vec::new();
    let chunk_size = peers.server.chunk_size();
    crate::chunk::put_full(&mut bytes, chunk_size, 4, 1000, VIDEO, 1, &[0x17; 100_000]);
    crate::chunk::put_delta(&mut bytes, chunk_size, 4, 40, VIDEO, &[0x27; 70_000]);
    peers.client_events.clear();
    for result in peers.client.handle_input(&bytes).unwrap() {
        peers.run(result);
    }
    let frame = |time, byte, len| ClientSessionEvent::VideoDataReceived {
        timestamp: RtmpTimestamp::new(time),
        data: Bytes::from(vec![byte; len]),
    };
    assert_eq!(peers.client_events, [frame(1000, 0x17, 100_000), frame(1040, 0x27, 70_000)]);
    for result in peers.client.stop_playback().unwrap() {
        peers.run(result);
    }
    assert_eq!(peers.server_events.last(), Some(&Event::StopPlay { msid: 1 }));
}
