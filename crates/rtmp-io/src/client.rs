//! Connections that we open.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rtmp::client::{self, Config, Event, Session, Stage};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::{Instant, timeout_at};

use crate::socket;

/// Bytes read at once until the server has agreed: its answers are short.
const START_READ: usize = 4 * 1024;
/// So long a name is looked up before what it stood for last time is used.
const KNOWN_AFTER: Duration = Duration::from_secs(1);

/// What a connection that is being opened waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The addresses of the host's name.
    Lookup,
    /// One of the addresses to accept.
    Tcp,
    /// An answer of the server.
    Rtmp(Stage),
}

impl fmt::Display for Step {
    /// Fit to stand behind "no" or "waits for".
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lookup => f.write_str("address of the host"),
            Self::Tcp => f.write_str("TCP connection"),
            Self::Rtmp(stage) => stage.fmt(f),
        }
    }
}

/// Why a connection that we opened is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The host has no address that we know.
    #[error("cannot look up {host}: {source}")]
    Lookup {
        /// As it was given.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// The host's name stands for no address.
    #[error("the host has no address")]
    NoAddress,
    /// None of the addresses accepts; the last one, and its reason.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The address that was tried last.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The server's time to agree was up.
    #[error("no {step} within {} s", (limit.as_secs_f32() * 10.0).round() / 10.0)]
    TimedOut {
        /// What had not come.
        step: Step,
        /// The time there was.
        limit: Duration,
    },
    /// The server ended the connection.
    #[error("the server closed the connection")]
    Closed,
    /// Something between us ended it.
    #[error("connection lost: {0}")]
    Lost(io::Error),
    /// The server refused, or what it sends is no RTMP.
    #[error(transparent)]
    Rtmp(#[from] client::Error),
}

/// The time there is for something.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    length: Duration,
    end: Instant,
}

impl Limit {
    /// `length` from now on.
    #[must_use]
    pub fn new(length: Duration) -> Self {
        Self { length, end: Instant::now() + length }
    }

    /// The same, or `length` from now on if that ends earlier.
    fn at_most(self, length: Duration) -> Self {
        let sooner = Self::new(length);
        if sooner.end < self.end { sooner } else { self }
    }

    async fn keep<T>(self, step: Step, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        timeout_at(self.end, work).await.unwrap_or_else(|_| Err(self.passed(step)))
    }

    fn passed(self, step: Step) -> Error {
        Error::TimedOut { step, limit: self.length }
    }
}

/// How a server is reached, kept from one connection to the next.
#[derive(Debug, Default)]
pub struct Route {
    /// Our own address, where the server's is of the same family; without it the system chooses.
    from: Option<IpAddr>,
    /// The server's address, where it is known better than by its name: then nothing is looked up.
    to: Option<IpAddr>,
    /// What the server's name stood for when it was last found.
    known: Vec<SocketAddr>,
}

impl Route {
    /// From our address `from`, to the server's address `to`; what is left open the system chooses, and the name tells. It is
    /// looked up again for each connection. While the name service does not answer, what it said last is used.
    #[must_use]
    pub fn new(from: Option<IpAddr>, to: Option<IpAddr>) -> Self {
        Self { from, to, known: Vec::new() }
    }

    async fn lookup(&mut self, host: &str, port: u16, limit: Limit) -> Result<Vec<SocketAddr>, Error> {
        if let Some(to) = self.to {
            return Ok(vec![SocketAddr::new(to, port)]);
        }
        let failed = |source| Error::Lookup { host: host.to_owned(), source };
        let found = async { tokio::net::lookup_host((host, port)).await.map_err(failed) };
        let patience = if self.known.is_empty() { limit } else { limit.at_most(KNOWN_AFTER) };
        match patience.keep(Step::Lookup, found).await {
            Ok(found) => self.known = found.collect(),
            Err(_) if !self.known.is_empty() => {}
            Err(error) => return Err(error),
        }
        Ok(self.known.clone())
    }

    async fn connect(&self, addresses: &[SocketAddr]) -> Result<TcpStream, Error> {
        let mut failed = None;
        for &address in addresses {
            match connect_to(address, self.from).await {
                Ok(socket) => return Ok(socket),
                Err(source) => failed = Some(Error::Connect { address, source }),
            }
        }
        Err(failed.unwrap_or(Error::NoAddress))
    }
}

async fn connect_to(address: SocketAddr, from: Option<IpAddr>) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    if let Some(from) = from.filter(|from| !from.is_unspecified() && from.is_ipv4() == address.is_ipv4()) {
        socket::bind_address(&socket, from)?;
    }
    let socket = socket.connect(address).await?;
    socket::set_options(&socket)?;
    Ok(socket)
}

/// An RTMP connection that we opened, to publish or to play. Dropping it closes it.
#[derive(Debug)]
pub struct Client {
    /// Ours to read and write; see [`Client::read`] for the one way in.
    pub socket: TcpStream,
    /// Whatever stands in its output is to be sent, at a message boundary.
    pub session: Session,
}

impl Client {
    /// Connects to the first address of `config.url` that accepts, by `route`. The session is at the begin of its handshake
    /// then.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn dial(config: Config, route: &mut Route, limit: Limit) -> Result<Self, Error> {
        let addresses = route.lookup(&config.url.host, config.url.port, limit).await?;
        let socket = limit.keep(Step::Tcp, route.connect(&addresses)).await?;
        Ok(Self { socket, session: Session::new(config)? })
    }

    /// Connects like [`Client::dial`], and waits until the server has agreed to `publish` or `play`. `handle` gets every event, so the
    /// first media of a server that sends it in one piece with its consent are not lost. The last answer may leave output,
    /// which goes out with what is sent next.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn open(
        config: Config,
        route: &mut Route,
        limit: Limit,
        mut handle: impl FnMut(Event),
    ) -> Result<Self, Error> {
        let mut client = Self::dial(config, route, limit).await?;
        let handle = |event| {
            let started = event == Event::Started;
            handle(event);
            started
        };
        client.run_until(limit, &mut vec![0; START_READ], handle).await?;
        Ok(client)
    }

    /// Reads, and sends the session's replies, until an event satisfies `handle`, which gets every event.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn run_until(
        &mut self,
        limit: Limit,
        buffer: &mut [u8],
        mut handle: impl FnMut(Event) -> bool,
    ) -> Result<(), Error> {
        let mut done = false;
        while !done {
            let handle = |event| done |= handle(event);
            match timeout_at(limit.end, self.turn(buffer, handle)).await {
                Ok(outcome) => outcome?,
                Err(_) => return Err(limit.passed(Step::Rtmp(self.session.stage()))),
            }
        }
        Ok(())
    }

    /// Sends the session's output, waits until the server has sent something, and takes it in: the whole life of a
    /// connection that only reads.
    ///
    /// # Errors
    /// See [`Error`]. There is no limit of time.
    pub async fn turn(&mut self, buffer: &mut [u8], handle: impl FnMut(Event)) -> Result<(), Error> {
        if let Err(lost) = socket::write_all(&self.socket, self.session.output()).await {
            return Err(self.why_lost(lost, buffer, handle).await);
        }
        self.socket.readable().await.map_err(Error::Lost)?;
        self.read(buffer, handle)?;
        Ok(())
    }

    /// Why a connection ended that is `lost` to writing: what the server said last may still be there to read, and be the reason.
    pub async fn why_lost(
        &mut self,
        lost: io::Error,
        buffer: &mut [u8],
        mut handle: impl FnMut(Event),
    ) -> Error {
        // It has ended, so it is readable until its end has been read.
        while self.socket.readable().await.is_ok() {
            match self.read(buffer, &mut handle) {
                Ok(_) => {}
                Err(Error::Closed | Error::Lost(_)) => break,
                Err(reason) => return reason,
            }
        }
        Error::Lost(lost)
    }

    /// Takes in what is there, one `buffer` at most, and gives each event to `handle`; the bytes taken, 0 when nothing is there.
    ///
    /// # Errors
    /// [`Error::Closed`], [`Error::Lost`] and [`Error::Rtmp`].
    pub fn read(&mut self, buffer: &mut [u8], mut handle: impl FnMut(Event)) -> Result<usize, Error> {
        let taken = match socket::try_read(&self.socket, buffer) {
            Ok(0) => return Err(Error::Closed),
            Ok(taken) => taken,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(e) => return Err(Error::Lost(e)),
        };
        let mut input = buffer.get(..taken).unwrap_or(&[]);
        while let Some(event) = self.session.handle_input(&mut input)? {
            handle(event);
        }
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;
    use rtmp::client::Mode;
    use rtmp::wire::csid;
    use rtmp::{message_type, server};
    use tokio::net::TcpListener;

    const SOON: Duration = Duration::from_millis(200);
    const LONG: Duration = Duration::from_secs(10);

    async fn listener() -> (TcpListener, Config) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("rtmp://{}/live/a", listener.local_addr().unwrap());
        (listener, Config::new(Mode::Play, url.parse().unwrap()))
    }

    /// Answers one client as a server until it has closed; `media` follows the consent to play at once.
    async fn serve(listener: &TcpListener, media: &[u8], consents: bool) -> SocketAddr {
        let (socket, peer) = listener.accept().await.unwrap();
        let mut session = server::Session::new(server::Config::default());
        let mut buffer = [0; 4096];
        loop {
            socket.readable().await.unwrap();
            let Ok(taken) = socket.try_read(&mut buffer) else { continue };
            if taken == 0 {
                return peer;
            }
            let mut input = &buffer[..taken];
            while let Some(event) = session.handle_input(&mut input).unwrap() {
                if let server::Event::Play { msid, .. } = event
                    && consents
                {
                    session.accept_play();
                    let size = session.chunk_size();
                    rtmp::chunk::put_full(
                        session.output(),
                        size,
                        csid::VIDEO,
                        0,
                        message_type::VIDEO,
                        msid,
                        media,
                    );
                }
            }
            socket::write_all(&socket, session.output()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn what_a_server_sends_in_one_piece_with_its_consent_is_not_lost() {
        let (listener, config) = listener().await;
        let media = RefCell::new(Vec::new());
        let mut handle = |event| {
            if let Event::Media(message) = event
                && message.type_id == message_type::VIDEO
            {
                media.borrow_mut().push(message.payload);
            }
        };
        let client = async {
            let mut client =
                Client::open(config, &mut Route::default(), Limit::new(LONG), &mut handle).await.unwrap();
            assert_eq!(client.session.stage(), Stage::Active);
            let mut buffer = [0; 4096];
            while media.borrow().is_empty() {
                client.turn(&mut buffer, &mut handle).await.unwrap();
            }
        };
        tokio::join!(client, serve(&listener, &[0x17, 1], true));
        assert_eq!(media.take(), [&[0x17, 1][..]]);
    }

    #[tokio::test]
    async fn the_last_word_of_a_server_that_has_gone_is_the_reason_though_nothing_can_be_written() {
        let (listener, config) = listener().await;
        let mut client = Client::dial(config, &mut Route::default(), Limit::new(LONG)).await.unwrap();
        let refuse = async {
            let (socket, _) = listener.accept().await.unwrap();
            let mut session = server::Session::new(server::Config::default());
            let mut buffer = [0; 4096];
            loop {
                socket.readable().await.unwrap();
                let Ok(taken) = socket.try_read(&mut buffer) else { continue };
                let mut input = &buffer[..taken];
                while let Some(event) = session.handle_input(&mut input).unwrap() {
                    if let server::Event::Play { .. } = event {
                        session.reject_play("NetStream.Play.Failed", "no room");
                        socket::write_all(&socket, session.output()).await.unwrap();
                        // As when something was left unread: the client's next write fails.
                        return rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))
                            .unwrap();
                    }
                }
                socket::write_all(&socket, session.output()).await.unwrap();
            }
        };
        let mut buffer = [0; 4096];
        tokio::select! {
            biased;
            () = refuse => {}
            ended = client.run_until(Limit::new(LONG), &mut buffer, |_| false) => panic!("{ended:?}"),
        }
        client.session.ping(1);
        let reason = client.turn(&mut buffer, |_| {}).await.unwrap_err();
        assert!(reason.to_string().contains("no room"), "{reason}");
    }

    #[tokio::test]
    async fn it_comes_from_the_address_that_was_asked_for() {
        let (listener, config) = listener().await;
        let from = "127.9.8.7".parse().unwrap();
        let client = async {
            drop(
                Client::open(config, &mut Route::new(Some(from), None), Limit::new(LONG), |_| {})
                    .await
                    .unwrap(),
            )
        };
        let ((), peer) = tokio::join!(client, serve(&listener, &[], true));
        assert_eq!(peer.ip(), from);
    }

    #[tokio::test]
    async fn an_address_of_another_family_or_of_none_is_left_to_the_system() {
        for from in ["::1", "0.0.0.0"] {
            let (listener, config) = listener().await;
            let mut route = Route::new(Some(from.parse().unwrap()), None);
            Client::dial(config, &mut route, Limit::new(LONG)).await.unwrap();
            assert!(listener.accept().await.unwrap().1.ip().is_loopback());
        }
    }

    #[tokio::test]
    async fn a_name_that_cannot_be_looked_up_keeps_the_address_that_it_had() {
        let (listener, config) = listener().await;
        let nameless = |mut config: Config| {
            config.url.host = "no-such-host.invalid".to_owned();
            config
        };
        let mut route = Route::default();
        let failed = Client::dial(nameless(config.clone()), &mut route, Limit::new(LONG)).await;
        assert!(matches!(failed, Err(Error::Lookup { .. } | Error::TimedOut { step: Step::Lookup, .. })));
        Client::dial(config.clone(), &mut route, Limit::new(LONG)).await.unwrap();
        Client::dial(nameless(config), &mut route, Limit::new(LONG)).await.unwrap();
        drop(listener);
    }

    #[tokio::test]
    async fn where_the_address_is_known_no_name_is_looked_up() {
        let (_listener, mut config) = listener().await;
        config.url.host = "no-such-host.invalid".to_owned();
        let mut route = Route::new(None, Some("127.0.0.1".parse().unwrap()));
        Client::dial(config, &mut route, Limit::new(LONG)).await.unwrap();
    }

    #[tokio::test]
    async fn the_error_says_which_step_failed() {
        let (closed, config) = listener().await;
        drop(closed);
        let failed = Client::open(config, &mut Route::default(), Limit::new(LONG), |_| {}).await;
        let address = failed.unwrap_err().to_string();
        assert!(address.starts_with("cannot connect to 127.0.0.1:"), "{address}");

        let (silent, config) = listener().await;
        let late = Client::open(config, &mut Route::default(), Limit::new(SOON), |_| {}).await.unwrap_err();
        assert_eq!(late.to_string(), "no RTMP handshake within 0.2 s");
        drop(silent);

        let (undecided, config) = listener().await;
        let client = async {
            Client::open(config, &mut Route::default(), Limit::new(SOON), |_| {}).await.unwrap_err()
        };
        let (late, _) = tokio::join!(client, serve(&undecided, &[], false));
        assert_eq!(late.to_string(), "no answer to play within 0.2 s");

        let (hangs_up, config) = listener().await;
        let client = async { Client::open(config, &mut Route::default(), Limit::new(LONG), |_| {}).await };
        let (ended, _) = tokio::join!(client, async { drop(hangs_up.accept().await) });
        assert!(matches!(ended, Err(Error::Closed | Error::Lost(_))), "{ended:?}");
    }

    #[tokio::test]
    async fn what_a_peer_has_not_acknowledged_is_known() {
        let (listener, config) = listener().await;
        let client = Client::dial(config, &mut Route::default(), Limit::new(LONG)).await.unwrap().socket;
        let (server, _) = listener.accept().await.unwrap();
        // Nobody reads: the peer's kernel takes some, and the rest stays.
        let mut sent = 0;
        loop {
            match client.try_write(&[0; 64 * 1024]) {
                Ok(taken) => sent += taken as u64,
                Err(_) if sent > 0 && socket::unacknowledged(&client).unwrap() > 0 => break,
                Err(_) => client.writable().await.unwrap(),
            }
        }
        assert!(socket::unacknowledged(&client).unwrap() <= sent);
        let mut buffer = vec![0; 1 << 20];
        while socket::unacknowledged(&client).unwrap() > 0 {
            server.readable().await.unwrap();
            let _ = server.try_read(&mut buffer);
        }
    }
}
