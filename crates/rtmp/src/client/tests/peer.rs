//! An independent server: the sessions of rml_rtmp.

use super::*;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::sessions::{ServerSession, ServerSessionConfig, ServerSessionEvent, ServerSessionResult};

struct Peers {
    client: Session,
    server: ServerSession,
    handshake: Option<Handshake>,
    client_events: Vec<Event>,
    server_events: Vec<ServerSessionEvent>,
}

impl Peers {
    fn new(mode: Mode) -> Self {
        let client = Session::new(config(mode)).unwrap();
        let (server, greeting) = ServerSession::new(ServerSessionConfig::new()).unwrap();
        let handshake = Some(Handshake::new(PeerType::Server));
        let mut peers = Self { client, server, handshake, client_events: vec![], server_events: vec![] };
        peers.shake_hands(greeting);
        peers
    }

    /// The server's first words are its greeting, whatever the client already said behind its C2.
    fn shake_hands(&mut self, mut greeting: Vec<ServerSessionResult>) {
        while let Some(handshake) = &mut self.handshake {
            let to_server = std::mem::take(self.client.output());
            match handshake.process_bytes(&to_server).unwrap() {
                HandshakeProcessResult::InProgress { response_bytes } => {
                    assert_eq!(self.client.handle_input(&mut &response_bytes[..]), Ok(None));
                }
                HandshakeProcessResult::Completed { remaining_bytes, .. } => {
                    self.handshake = None;
                    greeting.extend(self.server.handle_input(&remaining_bytes).unwrap());
                }
            }
        }
        self.run(greeting);
    }

    /// Until neither side has anything to say; the server accepts every request.
    fn run(&mut self, mut results: Vec<ServerSessionResult>) {
        while !results.is_empty() {
            let mut to_client = Vec::new();
            let mut accepted = Vec::new();
            for result in results.drain(..) {
                match result {
                    ServerSessionResult::OutboundResponse(packet) => to_client.extend(packet.bytes),
                    ServerSessionResult::RaisedEvent(event) => {
                        if let ServerSessionEvent::ConnectionRequested { request_id, .. }
                        | ServerSessionEvent::PublishStreamRequested { request_id, .. }
                        | ServerSessionEvent::PlayStreamRequested { request_id, .. } = event
                        {
                            accepted.extend(self.server.accept_request(request_id).unwrap());
                        }
                        self.server_events.push(event);
                    }
                    ServerSessionResult::UnhandleableMessageReceived(_) => {}
                }
            }
            let mut input = &to_client[..];
            while let Some(event) = self.client.handle_input(&mut input).unwrap() {
                self.client_events.push(event);
            }
            results = accepted;
            let to_server = std::mem::take(self.client.output());
            results.extend(self.server.handle_input(&to_server).unwrap());
        }
    }

    fn speak(&mut self) {
        let to_server = std::mem::take(self.client.output());
        let results = self.server.handle_input(&to_server).unwrap();
        self.run(results);
    }
}

#[test]
fn it_publishes_to_rml_rtmp() {
    let mut peers = Peers::new(Mode::Publish);
    assert!(peers.client_events.contains(&Event::Started), "{:?}", peers.client_events);
    let (chunk_size, msid) = (peers.client.chunk_size(), peers.client.msid());
    peers.server_events.clear();
    crate::chunk::put_full(peers.client.output(), chunk_size, 4, 0x0123_4567, VIDEO, msid, &[0x17; 100_000]);
    crate::chunk::put_delta(peers.client.output(), chunk_size, 4, 40, VIDEO, &[0x27; 70_000]);
    peers.client.finish();
    peers.speak();
    let frames = peers.server_events.iter().filter_map(|event| match event {
        ServerSessionEvent::VideoDataReceived { data, timestamp, .. } => Some((timestamp.value, data.len())),
        _ => None,
    });
    let frames: Vec<_> = frames.collect();
    assert_eq!(frames, [(0x0123_4567, 100_000), (0x0123_4567 + 40, 70_000)]);
    assert!(matches!(peers.server_events.last(), Some(ServerSessionEvent::PublishStreamFinished { .. })));
}

#[test]
fn it_plays_from_rml_rtmp() {
    let mut peers = Peers::new(Mode::Play);
    assert!(peers.client_events.contains(&Event::Started), "{:?}", peers.client_events);
    let time = rml_rtmp::time::RtmpTimestamp::new(77);
    let packet = peers.server.send_video_data(1, vec![0x17; 9000].into(), time, false).unwrap();
    peers.client_events.clear();
    let mut input = &packet.bytes[..];
    while let Some(event) = peers.client.handle_input(&mut input).unwrap() {
        peers.client_events.push(event);
    }
    assert_eq!(peers.client_events, [Event::Media(media(4, 77, &[0x17; 9000]))]);
}
