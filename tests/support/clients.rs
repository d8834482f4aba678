//! The programs that people publish and play with. Each ends with its value, and with it every child it started.

use std::fs::{self, File};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use super::flv::{self, Tag};
use super::{CARD_MS, SOON, card, card_file, wait_for};

/// A running client program, in a process group of its own.
pub struct Client {
    name: String,
    child: Child,
    log: PathBuf,
}

impl Client {
    /// Starts a program that writes its messages into `dir`.
    pub fn start(dir: &Path, name: &str, command: &mut Command) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let log = dir.join(format!("{name}-{}.log", NEXT.fetch_add(1, Ordering::Relaxed)));
        let out = File::create(&log).unwrap();
        command.stdin(Stdio::null()).stdout(out.try_clone().unwrap()).stderr(out).process_group(0);
        let child = command.spawn().unwrap_or_else(|e| {
            panic!("{name} ({:?}): {e}; run `make install-test-deps`", command.get_program())
        });
        Self { name: name.to_owned(), child, log }
    }

    /// What the program has said so far.
    pub fn said(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether the program still runs.
    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Waits for the program to end by itself.
    #[track_caller]
    pub fn wait_with_deadline(&mut self, limit: Duration) -> ExitStatus {
        let (name, log) = (self.name.clone(), self.log.clone());
        wait_for(&format!("the end of {name}"), limit, || {
            self.child.try_wait().unwrap().ok_or_else(|| fs::read_to_string(&log).unwrap_or_default())
        })
    }

    /// Asks the program to end, as Ctrl-C does, and waits for it.
    pub fn stop(&mut self) {
        self.signal(Signal::SIGINT);
        for _ in 0..40 {
            if !self.is_running() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }

    fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.child.id() as i32), signal);
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.name, self.said());
        }
    }
}

/// A player that records into an FLV file.
pub struct Recorder {
    /// The program.
    pub client: Client,
    /// What it records into.
    pub file: PathBuf,
}

impl Recorder {
    /// Starts a program that records into the file that `command` is given.
    pub fn start(dir: &Path, name: &str, command: impl FnOnce(&str) -> Command) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let file = dir.join(format!("{name}-{}.flv", NEXT.fetch_add(1, Ordering::Relaxed)));
        let client = Client::start(dir, name, &mut command(file.to_str().unwrap()));
        Self { client, file }
    }

    /// ffmpeg (libavformat).
    pub fn ffmpeg(dir: &Path, url: &str) -> Self {
        Self::start(dir, "ffmpeg-play", |file| {
            let mut command = ffmpeg();
            command.args(["-y", "-i", url, "-c", "copy", "-f", "flv", "-flush_packets", "1", file]);
            command
        })
    }

    /// rtmpdump (librtmp).
    pub fn rtmpdump(dir: &Path, url: &str) -> Self {
        Self::start(dir, "rtmpdump", |file| {
            let mut command = Command::new("rtmpdump");
            command.args(["--quiet", "--live", "-r", url, "-o", file]);
            command
        })
    }

    /// GStreamer's own RTMP stack; what it gives is FLV already.
    pub fn gstreamer(dir: &Path, url: &str) -> Self {
        Self::start(dir, "rtmp2src", |file| {
            gstreamer(&[
                "rtmp2src",
                &format!("location={url}"),
                "!",
                "filesink",
                "buffer-mode=unbuffered",
                &format!("location={file}"),
            ])
        })
    }

    /// What is recorded so far.
    pub fn tags(&self) -> Vec<Tag> {
        if self.file.exists() { flv::read(&self.file) } else { Vec::new() }
    }

    /// Waits until `seconds` of video from a keyframe on are recorded, then stops and gives everything recorded.
    #[track_caller]
    pub fn record(mut self, seconds: f64) -> Vec<Tag> {
        self.await_seconds(seconds);
        self.client.stop();
        self.tags()
    }

    /// Waits until `seconds` of video from a keyframe on are recorded.
    #[track_caller]
    pub fn await_seconds(&mut self, seconds: f64) {
        let what = format!("{seconds} s of video in {}", self.file.display());
        wait_for(&what, SOON, || {
            let tags = self.tags();
            let have = flv::seconds_of_video(&tags);
            if have >= seconds {
                return Ok(());
            }
            let ended = if self.client.is_running() { "" } else { "; the player has ended: " };
            Err(format!("{have:.1} s in {} tags{ended}{}", tags.len(), self.client.said()))
        });
    }
}

/// ffmpeg sends the test card in real time, again and again; it ends when the connection does.
pub fn ffmpeg_publisher(dir: &Path, url: &str) -> Client {
    let mut command = ffmpeg();
    let card = card_file();
    command.args(["-re", "-stream_loop", "-1", "-i", card.to_str().unwrap(), "-c", "copy", "-f", "flv", url]);
    Client::start(dir, "ffmpeg-publish", &mut command)
}

/// The guide's encoder: ffmpeg in a shell loop that starts it again whenever it ends.
pub fn ffmpeg_encoder_loop(dir: &Path, url: &str) -> Client {
    let mut command = Command::new("sh");
    let script = r#"while :; do ffmpeg -hide_banner -loglevel error -nostdin -re -stream_loop -1 -i "$1" -c copy -f flv "$2"; sleep 0.2; done"#;
    command.args(["-c", script, "encoder"]).arg(card_file()).arg(url);
    Client::start(dir, "encoder-loop", &mut command)
}

/// GStreamer's own RTMP stack sends the test card [`ROUNDS`] times, in real time.
pub fn gstreamer_publisher(dir: &Path, url: &str) -> Client {
    flv_pipeline(dir, "rtmp2sink", &format!("location={url}"))
}

/// librtmp sends the test card [`ROUNDS`] times, in real time.
pub fn librtmp_publisher(dir: &Path, url: &str) -> Client {
    flv_pipeline(dir, "rtmpsink", &format!("location={url} live=1"))
}

/// How often the publishers of GStreamer send the test card: 160 s, longer than any test needs.
const ROUNDS: u32 = 10;

/// `sync=true` makes the sink keep real time; the queues keep audio and video from waiting for each other.
fn flv_pipeline(dir: &Path, sink: &str, location: &str) -> Client {
    let file = dir.join(format!("{sink}-source.flv"));
    let card = card();
    let rounds = (0..ROUNDS).flat_map(|round| {
        let is_of_it = move |tag: &&Tag| round == 0 || tag.is_frame();
        card.iter()
            .filter(is_of_it)
            .map(move |tag| Tag { timestamp: tag.timestamp + round * CARD_MS, ..tag.clone() })
    });
    fs::write(&file, flv::to_bytes(rounds)).unwrap();
    let source = format!("location={}", file.display());
    let words = [
        "filesrc",
        &source,
        "!",
        "flvdemux",
        "name=d",
        "flvmux",
        "name=m",
        "streamable=true",
        "!",
        sink,
        "sync=true",
        location,
        "d.video",
        "!",
        "queue",
        "!",
        "m.video",
        "d.audio",
        "!",
        "queue",
        "!",
        "m.audio",
    ];
    Client::start(dir, sink, &mut gstreamer(&words))
}

/// nginx-rtmp on `addr`, with these applications; unpacked by tests/install-deps.sh.
pub fn nginx(dir: &Path, addr: SocketAddr, applications: &str) -> Client {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nginx-rtmp");
    let home = dir.join("nginx");
    fs::create_dir(&home).unwrap();
    let user = if nix::unistd::getuid().is_root() { "user root;" } else { "" };
    let config = format!(
        "load_module {}/usr/lib/nginx/modules/ngx_rtmp_module.so;\n{user}\ndaemon off;\nmaster_process off;\npid nginx.pid;\n\
         events {{ }}\nrtmp {{ access_log off; server {{ listen {addr}; chunk_size 4096; {applications} }} }}\n",
        root.display()
    );
    fs::write(home.join("nginx.conf"), config).unwrap();
    let mut command = Command::new(root.join("usr/sbin/nginx"));
    command.arg("-p").arg(&home).arg("-c").arg(home.join("nginx.conf")).arg("-e").arg("stderr");
    let client = Client::start(dir, "nginx", &mut command);
    wait_for("nginx to listen", SOON, || TcpStream::connect(addr).map(drop).map_err(|e| e.to_string()));
    client
}

/// ffmpeg that says what is wrong, and nothing else.
pub fn ffmpeg() -> Command {
    let mut command = Command::new("ffmpeg");
    command.args(["-hide_banner", "-loglevel", "warning", "-nostdin"]);
    command
}

/// A pipeline of GStreamer that says what is wrong, and nothing else.
pub fn gstreamer(words: &[&str]) -> Command {
    let mut command = Command::new("gst-launch-1.0");
    command.arg("-q").args(words);
    command
}
