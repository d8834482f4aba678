//! Stands in for `srsctl` in the tests of this crate: `worker` and `encoder` without media, and `supervise`, a bare
//! supervisor.
//!
//! How a process misbehaves is read from `ID.fake` beside its config: words, see [`Fake`].
#![allow(unsafe_code, clippy::unwrap_used)]

use std::fs::File;
use std::io::{IoSlice, IoSliceMut, Read as _, Write as _};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use cluster::control::{Hello, MAX_PACKET, ProcessStats, Reply, Request, StreamStats, VERSION, fd};
use cluster::{
    Cluster, Encoder, EncoderSource, EncoderSpec, Host, Port, ProcessSpec, Role, WorkerOptions, WorkerSpec,
};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags,
};

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[1..] {
        ["worker", "--config", config] => {
            let spec = WorkerSpec::from_file(Path::new(config)).unwrap();
            Fake::new(ProcessSpec::Worker(spec), Path::new(config)).run();
        }
        ["encoder", "--config", config] => {
            let spec = EncoderSpec::from_file(Path::new(config)).unwrap();
            Fake::new(ProcessSpec::Encoder(spec), Path::new(config)).run();
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
        dirs,
        binary: supervisor::process::own_binary().unwrap(),
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
    token: String,
    words: String,
    words_file: PathBuf,
    beats: AtomicU64,
}

impl Fake {
    fn new(spec: ProcessSpec, config: &Path) -> Self {
        let fds: Vec<String> = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
        println!("descriptors {} limit {:?}", fds.join(" "), limit.current);
        let mut token = String::new();
        // SAFETY: the descriptors of the table in `cluster::control`, taken once.
        let mut lock = unsafe { File::from_raw_fd(fd::LOCK) };
        lock.read_to_string(&mut token).unwrap();
        std::mem::forget(lock);
        let words_file: PathBuf = config.with_extension("fake");
        let words = std::fs::read_to_string(&words_file).unwrap_or_default();
        Self { spec, token, words, words_file, beats: AtomicU64::new(0) }
    }

    fn has(&self, word: &str) -> bool {
        self.words.split_whitespace().any(|it| it == word)
    }

    fn run(self) {
        if self.has("exit-78") {
            std::process::exit(78);
        }
        if self.has("exit-1") {
            std::process::exit(1);
        }
        let this = Arc::new(self);
        if this.spec.role() != Role::Encoder {
            // SAFETY: as above.
            let listener = unsafe { std::net::TcpListener::from_raw_fd(fd::LISTENER) };
            listener.set_nonblocking(false).unwrap();
            let fake = Arc::clone(&this);
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    let fake = Arc::clone(&fake);
                    std::thread::spawn(move || fake.serve_rtmp(stream));
                }
            });
        }
        // SAFETY: as above.
        let control = unsafe { OwnedFd::from_raw_fd(fd::CONTROL) };
        rustix::io::ioctl_fionbio(&control, false).unwrap();
        loop {
            let connection = rustix::net::accept(&control).unwrap();
            let fake = Arc::clone(&this);
            std::thread::spawn(move || fake.serve_control(&connection));
        }
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

    fn serve_control(&self, connection: &OwnedFd) {
        let mut buffer = vec![0; MAX_PACKET];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let mut slices = [IoSliceMut::new(&mut buffer)];
            let Ok(received) = rustix::net::recvmsg(connection, &mut slices, &mut beside, RecvFlags::empty())
            else {
                return;
            };
            if received.bytes == 0 {
                return;
            }
            let mut fds: Vec<OwnedFd> = Vec::new();
            for message in beside.drain() {
                if let RecvAncillaryMessage::ScmRights(rights) = message {
                    fds.extend(rights);
                }
            }
            let request: Request = serde_json::from_slice(&buffer[..received.bytes]).unwrap();
            if self.has("mute") {
                continue;
            }
            self.answer(connection, &request, fds);
        }
    }

    fn answer(&self, connection: &OwnedFd, request: &Request, fds: Vec<OwnedFd>) {
        match request {
            Request::Hello { .. } => {
                let hello = Hello {
                    version: VERSION,
                    id: self.spec.id().clone(),
                    role: self.spec.role(),
                    token: self.token.clone(),
                    pid: std::process::id(),
                    build: "test".into(),
                };
                reply(connection, &Reply::Hello(hello), None);
            }
            Request::Stats => {
                let step = u64::from(!self.has("stuck"));
                let beats = self.beats.fetch_add(step, Ordering::Relaxed);
                let publishers = u32::from(self.spec.role() == Role::Encoder);
                let stats = ProcessStats { beats, publishers, ..ProcessStats::default() };
                reply(connection, &Reply::Process(stats), None);
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
                    reply(connection, &Reply::Stream(stream), None);
                }
                reply(connection, &Reply::Done, None);
            }
            Request::Configure { spec } => {
                println!("configured {} targets", spec.forward.len());
                if !self.has("tells-not") {
                    reply(connection, &Reply::Done, None);
                }
            }
            Request::ReopenLog => {
                rustix::stdio::dup2_stdout(&fds[0]).unwrap();
                rustix::stdio::dup2_stderr(&fds[0]).unwrap();
                reply(connection, &Reply::Done, None);
            }
            Request::Listener if self.spec.role() == Role::Encoder => {
                reply(connection, &Reply::Error { message: "no listener".into() }, None);
            }
            Request::Listener => {
                // SAFETY: descriptor 3 stays open as long as this process lives.
                let listener = unsafe { BorrowedFd::borrow_raw(fd::LISTENER) };
                reply(connection, &Reply::Done, Some(listener));
            }
            Request::Stop if self.has("deaf") => {}
            Request::Stop => {
                reply(connection, &Reply::Done, None);
                std::process::exit(0);
            }
        }
    }
}

fn reply(connection: &OwnedFd, reply: &Reply, fd: Option<BorrowedFd<'_>>) {
    let text = serde_json::to_vec(reply).unwrap();
    let fds: Vec<BorrowedFd<'_>> = fd.into_iter().collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut beside = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() {
        beside.push(SendAncillaryMessage::ScmRights(&fds));
    }
    let _ =
        rustix::net::sendmsg(connection.as_fd(), &[IoSlice::new(&text)], &mut beside, SendFlags::NOSIGNAL);
}
