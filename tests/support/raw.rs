//! An RTMP client made of bytes, for what no real client sends. Shares no code with the product.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketType, bind, connect, socket};

use super::SOON;

/// Length of C1, S1, C2 and S2.
const HANDSHAKE: usize = 1536;

/// Message types by number.
pub mod kind {
    /// Set Chunk Size.
    pub const CHUNK_SIZE: u8 = 1;
    /// User Control.
    pub const USER_CONTROL: u8 = 4;
    /// Window Acknowledgement Size.
    pub const WINDOW: u8 = 5;
    /// AMF0 data.
    pub const DATA: u8 = 18;
    /// AMF0 command.
    pub const COMMAND: u8 = 20;
}

/// One connection.
pub struct Raw {
    tcp: TcpStream,
    /// Everything received after the handshake.
    received: Vec<u8>,
    /// The server's S1: its challenge.
    pub s1: Vec<u8>,
}

impl Raw {
    /// A connection that has sent nothing.
    pub fn dial(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).unwrap())
    }

    /// [`Raw::dial`] with this source address.
    pub fn dial_from(source: IpAddr, addr: SocketAddr) -> Self {
        let fd = socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        bind(&fd, &SocketAddr::new(source, 0)).unwrap();
        connect(&fd, &addr).unwrap();
        Self::over(TcpStream::from(fd))
    }

    fn over(tcp: TcpStream) -> Self {
        tcp.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        // A server that no longer reads must not hold the test.
        tcp.set_write_timeout(Some(Duration::from_secs(5))).unwrap();
        Self { tcp, received: Vec::new(), s1: Vec::new() }
    }

    /// The simple handshake, complete.
    #[track_caller]
    pub fn handshake(mut self) -> Self {
        let mut c0c1 = vec![3];
        c0c1.extend([0; 8]);
        c0c1.extend((8..HANDSHAKE).map(|i| (i * 7) as u8));
        assert!(self.send(&c0c1), "the server closed during the handshake");
        let start = Instant::now();
        while self.received.len() < 1 + 2 * HANDSHAKE {
            assert!(self.fill() && start.elapsed() < SOON, "no S0S1S2: {} bytes", self.received.len());
        }
        assert_eq!(self.received[0], 3, "S0");
        self.s1 = self.received[1..=HANDSHAKE].to_vec();
        let c2 = self.s1.clone();
        assert!(self.send(&c2), "the server closed during the handshake");
        self.received.drain(..1 + 2 * HANDSHAKE);
        self
    }

    /// Sends bytes; false once the server has closed or does not read.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        self.tcp.write_all(bytes).is_ok()
    }

    /// `connect` to `app`, answered with success.
    #[track_caller]
    pub fn connect(mut self, app: &str, extra: &[(&str, &str)]) -> Self {
        let mut object = vec![("app", app), ("tcUrl", "rtmp://127.0.0.1/live")];
        object.extend(extra);
        let arguments = [amf::object(&object)].concat();
        self.send(&command("connect", 1.0, &arguments, 0));
        self.expect("NetConnection.Connect.Success");
        self
    }

    /// createStream and publish of `name` with message stream id 1; waits for the status that is wanted.
    #[track_caller]
    pub fn publish(mut self, name: &str, status: &str) -> Self {
        self.send(&command("createStream", 2.0, &amf::NULL, 0));
        let arguments = [&amf::NULL[..], &amf::string(name), &amf::string("live")].concat();
        self.send(&command("publish", 3.0, &arguments, 1));
        self.expect(status);
        self
    }

    /// A connection that plays `live/NAME`, whether anybody publishes it or not.
    #[track_caller]
    pub fn playing(addr: SocketAddr, name: &str) -> Self {
        let mut raw = Self::dial(addr).handshake().connect("live", &[]);
        raw.send(&command("createStream", 2.0, &amf::NULL, 0));
        raw.send(&command("play", 3.0, &[&amf::NULL[..], &amf::string(name)].concat(), 1));
        raw.expect("NetStream.Play.Start");
        raw
    }

    /// Waits until the server has sent this text.
    #[track_caller]
    pub fn expect(&mut self, text: &str) {
        let start = Instant::now();
        while !self.has(text) {
            let open = self.fill();
            assert!(
                open && start.elapsed() < SOON || self.has(text),
                "waited for {text:?}, open: {open}, received: {}",
                String::from_utf8_lossy(&self.received)
            );
        }
    }

    /// Waits until the server has sent one of these texts; which.
    #[track_caller]
    pub fn expect_any<'t>(&mut self, texts: &[&'t str]) -> &'t str {
        let start = Instant::now();
        loop {
            if let Some(text) = texts.iter().find(|text| self.has(text)) {
                return text;
            }
            assert!(self.fill() && start.elapsed() < SOON, "waited for one of {texts:?}");
        }
    }

    /// Lets go of what was received so far.
    pub fn forget(&mut self) {
        self.received.clear();
    }

    /// Whether the server has sent this text.
    pub fn has(&self, text: &str) -> bool {
        self.received.windows(text.len()).any(|w| w == text.as_bytes())
    }

    /// Waits until the server closes the connection.
    #[track_caller]
    pub fn expect_closed(&mut self, limit: Duration) {
        let start = Instant::now();
        while self.fill() {
            assert!(start.elapsed() < limit, "the server kept the connection open for {limit:?}");
        }
    }

    /// Reads what is there, or for a moment; false at the end.
    pub fn fill(&mut self) -> bool {
        let mut buffer = [0; 64 * 1024];
        match self.tcp.read(&mut buffer) {
            Ok(0) => false,
            Ok(n) => {
                self.received.extend(&buffer[..n]);
                true
            }
            Err(e) => matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        }
    }
}

/// A message in chunks of 128 bytes, the size in force until another is announced.
pub fn message(csid: u8, time: u32, kind: u8, msid: u32, payload: &[u8]) -> Vec<u8> {
    let mut out = chunk_header(csid, time, payload.len(), kind, msid);
    for (i, part) in payload.chunks(128).enumerate() {
        if i > 0 {
            out.push(0xC0 | csid);
        }
        out.extend(part);
    }
    out
}

/// A fmt-0 chunk header with a one-byte chunk stream id (2–63) and a time below 0xFFFFFF.
pub fn chunk_header(csid: u8, time: u32, length: usize, kind: u8, msid: u32) -> Vec<u8> {
    let mut out = vec![csid];
    out.extend(&time.to_be_bytes()[1..]);
    out.extend(&(length as u32).to_be_bytes()[1..]);
    out.push(kind);
    out.extend(msid.to_le_bytes());
    out
}

/// A command message; `arguments` begin with the command object.
pub fn command(name: &str, transaction: f64, arguments: &[u8], msid: u32) -> Vec<u8> {
    let payload = [&amf::string(name)[..], &amf::number(transaction), arguments].concat();
    message(3, 0, kind::COMMAND, msid, &payload)
}

/// AMF0 by hand.
pub mod amf {
    /// Null.
    pub const NULL: [u8; 1] = [5];

    /// A number.
    pub fn number(value: f64) -> Vec<u8> {
        [&[0][..], &value.to_be_bytes()].concat()
    }

    /// A string.
    pub fn string(value: &str) -> Vec<u8> {
        bytes(value.as_bytes())
    }

    /// A string that need not be UTF-8.
    pub fn bytes(value: &[u8]) -> Vec<u8> {
        [&[2][..], &(value.len() as u16).to_be_bytes(), value].concat()
    }

    /// An object of strings.
    pub fn object(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut out = vec![3];
        for (key, value) in pairs {
            out.extend((key.len() as u16).to_be_bytes());
            out.extend(key.as_bytes());
            out.extend(string(value));
        }
        out.extend([0, 0, 9]);
        out
    }
}
