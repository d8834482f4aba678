use super::*;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;

use cluster::stats::{ForwardState, ForwardStats};
use cluster::{Target, WorkerOptions};
use tokio::task::LocalSet;

use crate::client::{AskError, Connection};

const LIMIT: Duration = Duration::from_secs(20);

#[derive(Default)]
struct Fake {
    listener: Option<TcpListener>,
    streams: Vec<StreamStats>,
    outlives: bool,
}

impl Service for Fake {
    fn process_stats(&self) -> ProcessStats {
        ProcessStats { beats: 7, ..ProcessStats::default() }
    }

    fn stream_stats(&self) -> Vec<StreamStats> {
        self.streams.clone()
    }

    fn renew(&self, _: BorrowedFd<'_>, _: BorrowedFd<'_>) -> Result<(), Error> {
        if self.outlives { Ok(()) } else { Err(Error::new(Code::Unsupported, "nothing does")) }
    }

    fn listener(&self) -> Option<BorrowedFd<'_>> {
        self.listener.as_ref().map(|listener| listener.as_fd())
    }
}

fn edge() -> UnitId {
    UnitId::worker(Role::Edge, "127.0.0.6", 1935)
}

fn spec() -> WorkerSpec {
    WorkerSpec {
        id: edge(),
        cluster: "live".into(),
        role: Role::Edge,
        host: "127.0.0.6".into(),
        listen: "127.0.0.6:1935".parse().unwrap(),
        address: None,
        options: WorkerOptions::default(),
        sources: Vec::new(),
        forward: Vec::new(),
        outbound: Vec::new(),
        drain: cluster::Drain::No,
        secret_file: PathBuf::from("/secret"),
    }
}

/// Runs `talk` against a process that serves `fake`; gives how the process ended, if it has.
async fn with<F: Future>(
    fake: Fake,
    talk: impl FnOnce(Connection, PathBuf) -> F,
) -> (F::Output, Option<Result<Asked, RunError>>) {
    let temporary = tempfile::tempdir().unwrap();
    let path = temporary.path().join("ctl.sock");
    let seat = Seat {
        id: edge(),
        role: Role::Edge,
        control: Listener::bind(&path).unwrap(),
        socket: None,
        lock: crate::fds::testing::lock(temporary.path()),
        generation: 1,
        renewed: 0,
        cause: Some("exit 70".into()),
        forgot: None,
        lost: 0,
    };
    LocalSet::new()
        .run_until(async {
            let served = tokio::task::spawn_local(serve(seat, Rc::new(fake)));
            let said = talk(Connection::open(&path).unwrap(), path.clone()).await;
            // One that was asked to stop does so once it is woken.
            let lives = async { Connection::open(&path)?.hello(LIMIT).await }.await.is_ok();
            (said, if lives { None } else { Some(served.await.unwrap()) })
        })
        .await
}

fn refused(answer: Result<crate::client::Answer, AskError>) -> Error {
    match answer {
        Err(AskError::Refused(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn it_says_who_it_is_and_reports() {
    let streams = vec![StreamStats { stream: "live/a".into(), ..StreamStats::default() }];
    let fake = Fake { streams: streams.clone(), ..Fake::default() };
    let talk = async |mut asks: Connection, _| {
        let (hello, sender) = asks.hello(LIMIT).await.unwrap();
        assert_eq!((&hello.id, hello.role, hello.version), (&edge(), Role::Edge, VERSION));
        assert_eq!(hello.token, crate::fds::testing::TOKEN);
        assert_eq!((Some(hello.pid), sender), (Some(std::process::id()), Some(std::process::id())));
        asks.ask(&Request::Stats, None, LIMIT).await.unwrap().replies
    };
    let (replies, ended) = with(fake, talk).await;
    let [process, stream] =
        [Reply::Process(Fake::default().process_stats()), Reply::Stream(streams[0].clone())];
    assert_eq!(replies, [process, stream, Reply::Done]);
    assert!(ended.is_none());
}

#[tokio::test]
async fn what_it_cannot_do_is_refused_with_a_code_and_the_conversation_goes_on() {
    let talk = async |mut asks: Connection, path: PathBuf| {
        let configure = Request::Configure { spec: Box::new(spec()) };
        for (request, code) in [
            (&Request::Listener, Code::Unsupported),
            (&configure, Code::NeedsRestart),
            (&Request::ReopenLog, Code::Malformed),
            (&Request::Renew, Code::Malformed),
        ] {
            assert_eq!(refused(asks.ask(request, None, LIMIT).await).code, code, "{request:?}");
        }
        let mut socket = Socket::connect(&path).unwrap();
        for (text, code) in [
            (serde_json::json!({ "type": "drain", "seconds": 5 }), Code::Unsupported),
            (serde_json::json!({ "type": "configure", "spec": 5 }), Code::Malformed),
            (serde_json::json!([1, 2]), Code::Malformed),
            (serde_json::json!({ "type": "stats" }), Code::Unknown),
        ] {
            socket.send(&text, &[]).await.unwrap();
            let reply = socket.receive::<Reply>().await.unwrap().unwrap().message;
            match reply {
                Reply::Error(error) => assert_eq!(error.code, code, "{text}"),
                other => assert_eq!((other.is_last(), code), (false, Code::Unknown), "{text}: {other:?}"),
            }
        }
    };
    with(Fake::default(), talk).await;
}

#[tokio::test]
async fn a_report_that_would_be_too_long_comes_without_the_errors_of_its_forwards() {
    let forward = |number: usize| ForwardStats {
        target: Target { id: edge(), host: format!("edge-{number}"), port: 1935, address: None },
        state: ForwardState::Backoff,
        lag_ms: None,
        sent: 0,
        reconnects: 1,
        last_error: Some("e".repeat(1024)),
        waiting_ms: Some(1),
        url: None,
        code: None,
        bytes: 0,
        dropped: 0,
    };
    let beyond = |number| ForwardStats {
        url: Some("u".repeat(700)),
        code: Some("c".repeat(80)),
        bytes: u64::MAX,
        dropped: u64::MAX,
        ..forward(number)
    };
    let forwards = (0..256).map(forward).chain((0..cluster::Outbound::MAX).map(beyond));
    let long = StreamStats { forwards: forwards.collect(), ..StreamStats::default() };
    let endless = StreamStats { stream: "s".repeat(crate::packet::MAX_PACKET), ..StreamStats::default() };
    let talk = async |mut asks: Connection, _| asks.ask(&Request::Stats, None, LIMIT).await;
    let (answer, _) = with(Fake { streams: vec![long], ..Fake::default() }, talk).await;
    let replies = answer.unwrap().replies;
    let Reply::Stream(stream) = &replies[1] else { panic!("{replies:?}") };
    assert_eq!(stream.forwards.len(), 256 + cluster::Outbound::MAX);
    assert!(stream.forwards.iter().all(|forward| forward.last_error.is_none()));
    let (answer, _) = with(Fake { streams: vec![endless], ..Fake::default() }, talk).await;
    assert_eq!(refused(answer).code, Code::TooLong);
}

#[tokio::test]
async fn it_takes_another_control_socket_and_lock_with_its_token() {
    let temporary = tempfile::tempdir().unwrap();
    let talk = async |mut asks: Connection, path: PathBuf| {
        std::fs::remove_file(&path).unwrap();
        let given = |token: &str| {
            let control = OwnedFd::from(Listener::bind(&path).unwrap());
            let lock = crate::fds::testing::locked_file(temporary.path(), token);
            [control, crate::unix::hold(&path).unwrap(), lock.into()]
        };
        let strange = given("ffffffffffffffffffffffffffffffff");
        for fds in [&strange[..], &strange[..2], &[]] {
            let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd()).collect();
            assert_eq!(refused(asks.ask_with(&Request::Replace, &fds, LIMIT).await).code, Code::Malformed);
        }
        let fitting = given(crate::fds::testing::TOKEN);
        asks.ask_with(&Request::Replace, &fitting.each_ref().map(|fd| fd.as_fd()), LIMIT).await.unwrap();
        let (hello, _) = Connection::open(&path).unwrap().hello(LIMIT).await.unwrap();
        assert_eq!(hello.token, crate::fds::testing::TOKEN);
        asks.hello(LIMIT).await.unwrap();
    };
    with(Fake::default(), talk).await;
}

#[tokio::test]
async fn it_lends_its_listener_back() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let fake = Fake { listener: Some(listener), ..Fake::default() };
    let talk = async |mut asks: Connection, _| asks.ask(&Request::Listener, None, LIMIT).await.unwrap();
    let (mut answer, _) = with(fake, talk).await;
    let lent = answer.fds.pop().unwrap();
    assert!(answer.fds.is_empty());
    // The process has ended, and the port is open.
    let mut client = std::net::TcpStream::connect(address).unwrap();
    client.write_all(b"x").unwrap();
    let (mut accepted, _) = TcpListener::from(lent).accept().unwrap();
    accepted.read_exact(&mut [0]).unwrap();
}

#[tokio::test]
async fn clients_that_ask_nothing_keep_nobody_out_and_make_room_for_whoever_comes() {
    let talk = async |mut asks: Connection, path: PathBuf| {
        let mut idle: Vec<Connection> = Vec::new();
        for _ in 0..CONNECTIONS * 4 {
            idle.push(Connection::open(&path).unwrap());
            // Whoever asks stays.
            asks.ask(&Request::Stats, None, LIMIT).await.unwrap();
        }
        Connection::open(&path).unwrap().hello(LIMIT).await.unwrap();
        let oldest = idle.first_mut().unwrap().hello(LIMIT).await;
        assert!(oldest.is_err(), "the one that was idle for longest was to make room: {oldest:?}");
    };
    with(Fake::default(), talk).await;
}

#[tokio::test]
async fn it_makes_place_when_its_service_has_kept_what_came_with_the_request() {
    let given = std::fs::File::open("/dev/null").unwrap();
    for outlives in [false, true] {
        let fake = Fake { outlives, ..Fake::default() };
        let talk =
            async |mut asks: Connection, _| asks.ask_with(&Request::Renew, &[given.as_fd(); 2], LIMIT).await;
        let (answer, ended) = with(fake, talk).await;
        if outlives {
            assert_eq!(answer.unwrap().replies, [Reply::Done]);
            assert!(matches!(ended, Some(Ok(Asked::Renew))), "{ended:?}");
        } else {
            assert_eq!(refused(answer).code, Code::Unsupported);
            assert!(ended.is_none(), "{ended:?}");
        }
    }
}

#[tokio::test]
async fn it_ends_when_it_is_asked_to() {
    let talk = async |mut asks: Connection, _| asks.ask(&Request::Stop, None, LIMIT).await.unwrap().replies;
    let (replies, ended) = with(Fake::default(), talk).await;
    assert_eq!(replies, [Reply::Done]);
    assert!(matches!(ended, Some(Ok(Asked::Stop))), "{ended:?}");
}
