//! Stands in for `srsctl` in the tests of this crate: `worker` and `encoder` without media, and `supervise`, a bare
//! supervisor.
//!
//! How a process misbehaves is read from `ID.fake` beside its config: words, see [`Fake`].
#![allow(clippy::unwrap_used)]

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster::stats::{ProcessStats, StreamStats};
use cluster::{
    Cluster, Encoder, EncoderSource, EncoderSpec, Host, Port, ProcessSpec, Role, WorkerOptions, WorkerSpec,
};
use control::fds::Lock;
use control::packet::{Listener, Socket};
use control::{Code, Error, Hello, Inherited, Reply, Request, VERSION};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["worker", "--config", config] => {
            let spec = WorkerSpec::from_file(Path::new(config)).unwrap();
            run(ProcessSpec::Worker(spec), Path::new(config));
        }
        ["encoder", "--config", config] => {
            let spec = EncoderSpec::from_file(Path::new(config)).unwrap();
            run(ProcessSpec::Encoder(spec), Path::new(config));
        }
        ["--self-check"] => {
            let check = supervisor::SelfCheck::new("0", (1, 1), (1, 1));
            println!("{}", serde_json::to_string(&check).unwrap());
        }
        ["supervise", state, file] => supervise(Path::new(state), Path::new(file)),
        _ => panic!("{arguments:?}"),
    }
}

/// Lines `key=value`: name, net (`127.1.2`), edges (ports), max, encoder.
fn parse(text: &str) -> Result<Cluster, String> {
    let value = |key: &str| {
        text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).map(str::to_owned)
    };
    let net = value("net").ok_or("no net")?;
    let options = WorkerOptions {
        max_connections: value("max").map_or(100, |max| max.parse().unwrap()),
        gop_cache: true,
        ..WorkerOptions::default()
    };
    let port = |role, last: u8, number: u16| {
        let name = format!("{net}.{last}");
        let address = name.parse().unwrap();
        Port { role, host: Host { name, address }, port: number, listen: address, options: options.clone() }
    };
    let edges = value("edges").ok_or("no edges")?;
    Ok(Cluster {
        name: value("name").unwrap_or_else(|| "live".to_owned()),
        origins: vec![port(Role::Origin, 5, 1935)],
        edges: edges.split(',').map(|number| port(Role::Edge, 6, number.parse().unwrap())).collect(),
        elsewhere: Vec::new(),
        forward: Vec::new(),
        ssh: std::collections::BTreeMap::new(),
        encoder: value("encoder")
            .map(|_| Encoder { source: EncoderSource::TestCard, stream: "live/a".into() }),
    })
}

fn supervise(state: &Path, file: &Path) {
    let text = std::fs::read_to_string(file).unwrap();
    let cluster = parse(&text).unwrap();
    let dirs = supervisor::StateRoots::resolve(Some(state)).unwrap().cluster(&cluster.name);
    let config = supervisor::AgentConfig {
        cluster,
        path: file.to_owned(),
        hosts: Vec::new(),
        secret: None,
        dirs,
        binary: supervisor::own_binary().unwrap(),
        service: None,
        detached: text.contains("detached"),
        text,
        parse: std::sync::Arc::new(|_, text| parse(text)),
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let outcome = runtime.block_on(supervisor::run(config, |event| {
        println!("{}", serde_json::to_string(&event).unwrap());
    }));
    if let Err(error) = outcome {
        println!("error: {error}");
        std::process::exit(1);
    }
}

struct Fake {
    spec: ProcessSpec,
    lock: Lock,
    _socket: Option<OwnedFd>,
    listener: Option<TcpListener>,
    words: String,
    words_file: PathBuf,
    beats: AtomicU64,
}

fn run(spec: ProcessSpec, config: &Path) {
    let fds: Vec<String> = std::fs::read_dir("/proc/self/fd")
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    println!("descriptors {} limit {:?}", fds.join(" "), limit.current);
    let Inherited { listener, control, lock, config: _config, secret: _secret, socket } =
        Inherited::take().unwrap();
    let words_file: PathBuf = config.with_extension("fake");
    let words = std::fs::read_to_string(&words_file).unwrap_or_default();
    Arc::new(Fake { spec, lock, _socket: socket, listener, words, words_file, beats: AtomicU64::new(0) })
        .run(control);
}

impl Fake {
    fn has(&self, word: &str) -> bool {
        self.words.split_whitespace().any(|it| it == word)
    }

    fn run(self: Arc<Self>, control: Listener) {
        if self.has("exit-78") {
            std::process::exit(78);
        }
        if self.has("exit-1") {
            std::process::exit(1);
        }
        if self.listener.is_some() {
            let fake = Arc::clone(&self);
            std::thread::spawn(move || {
                let listener = fake.listener.as_ref().unwrap();
                listener.set_nonblocking(false).unwrap();
                for stream in listener.incoming().flatten() {
                    let fake = Arc::clone(&fake);
                    std::thread::spawn(move || fake.serve_rtmp(stream));
                }
            });
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let incoming = control.watch().unwrap();
            loop {
                let connection = incoming.accept().await.unwrap();
                let fake = Arc::clone(&self);
                tokio::spawn(async move { fake.serve_control(connection).await });
            }
        });
    }

    fn serve_rtmp(&self, mut stream: std::net::TcpStream) {
        use rtmp::server::{Config, Event, Session};
        use rtmp::wire::csid;
        let mut session = Session::new(Config::default());
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = stream.read(&mut buffer) {
            let mut input = &buffer[..length];
            while let Ok(Some(event)) = session.handle_input(&mut input) {
                if !matches!(event, Event::Play { .. }) {
                    continue;
                }
                if self.has("full") {
                    session.reject_play("NetStream.Play.Failed", "no place");
                } else if let Event::Play { msid, .. } = event
                    && !self.has("blind")
                {
                    session.accept_play();
                    let keyframe = [0x17, 1, 0, 0, 0, 0, 0, 0, 1, 0x65];
                    let chunk_size = session.chunk_size();
                    rtmp::chunk::put_full(session.output(), chunk_size, csid::VIDEO, 0, 9, msid, &keyframe);
                }
            }
            if stream.write_all(&std::mem::take(session.output())).is_err() {
                return;
            }
        }
    }

    async fn serve_control(&self, mut connection: Socket) {
        while let Ok(Some(packet)) = connection.receive::<Request>().await {
            if !self.has("mute") && !self.is_hung() {
                self.answer(&connection, packet.message, packet.fds).await;
            }
        }
    }

    /// From when its file says so, on; not what is started then.
    fn is_hung(&self) -> bool {
        let words = std::fs::read_to_string(&self.words_file).unwrap_or_default();
        words.contains("hung") && !self.has("hung")
    }

    async fn answer(&self, connection: &Socket, request: Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Hello { .. } => {
                let hello = Hello {
                    version: VERSION,
                    id: self.spec.id().clone(),
                    role: self.spec.role(),
                    token: self.lock.token().to_owned(),
                    pid: std::process::id(),
                    build: "test".into(),
                    generation: 0,
                    renewed: 0,
                    cause: None,
                    forgot: None,
                    lost: 0,
                };
                reply(connection, &Reply::Hello(hello)).await;
            }
            Request::Stats => {
                let step = u64::from(!self.has("stuck"));
                let beats = self.beats.fetch_add(step, Ordering::Relaxed);
                let publishers = u32::from(self.spec.role() == Role::Encoder);
                let stats = ProcessStats { beats, publishers, ..ProcessStats::default() };
                reply(connection, &Reply::Process(stats)).await;
                // Until it is taken out of the file.
                let words = std::fs::read_to_string(&self.words_file).unwrap_or_default();
                if self.has("stream") && words.contains("stream") {
                    let stream = StreamStats {
                        stream: "live/a".into(),
                        publishing: true,
                        last_frame_age_ms: Some(10),
                        keyframe_age_ms: Some(10),
                        video_frames: 1,
                        ..StreamStats::default()
                    };
                    reply(connection, &Reply::Stream(stream)).await;
                }
                reply(connection, &Reply::Done).await;
            }
            Request::Configure { spec } => {
                println!("configured {} targets", spec.forward.len());
                if !self.has("tells-not") {
                    reply(connection, &Reply::Done).await;
                }
            }
            Request::ReopenLog => {
                rustix::stdio::dup2_stdout(&fds[0]).unwrap();
                rustix::stdio::dup2_stderr(&fds[0]).unwrap();
                reply(connection, &Reply::Done).await;
            }
            Request::Listener => match &self.listener {
                Some(listener) => drop(connection.send(&Reply::Done, &[listener.as_fd()]).await),
                None => {
                    let error = Error::new(Code::Unsupported, "no listener");
                    reply(connection, &Reply::Error(error)).await;
                }
            },
            Request::Replace | Request::Renew | Request::Secret => {
                let error = Error::new(Code::Unsupported, "as it is");
                reply(connection, &Reply::Error(error)).await;
            }
            Request::Unknown => {}
            Request::Stop if self.has("deaf") => {}
            Request::Stop => {
                reply(connection, &Reply::Done).await;
                std::process::exit(0);
            }
        }
    }
}

async fn reply(connection: &Socket, reply: &Reply) {
    let _ = connection.send(reply, &[]).await;
}
