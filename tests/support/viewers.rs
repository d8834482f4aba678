//! Programs that people watch with. Each leaves the messages that it got and the pictures that it decoded from them.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::clients::{Recorder, ffmpeg, gstreamer};
use super::cluster::run;
use super::flv::{self, Tag};
use super::pictures::{Picture, parse_checksum, parse_framemd5};
use super::{SOON, card_file, wait_for};

/// A program that plays.
pub struct Viewer {
    /// Its name.
    pub name: &'static str,
    /// The program, and what it got.
    pub recorder: Recorder,
    shown: Shown,
}

/// Where the pictures of a viewer are listed.
#[derive(Clone, Copy)]
enum Shown {
    /// In a file beside what it records.
    Listed,
    /// The same; and it says when it has shown one.
    Told,
    /// Among what it says.
    Said,
    /// Nowhere: it records alone, and who watches later decodes.
    Later,
}

impl Viewer {
    /// ffmpeg (libavformat).
    pub fn ffmpeg(dir: &Path, url: &str) -> Self {
        let recorder = Recorder::start(dir, "ffmpeg-watch", |file| {
            let mut command = ffmpeg();
            command.args(["-y", "-i", url, "-c", "copy", "-f", "flv", "-flush_packets", "1", file]);
            command
                .args(["-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5"])
                .arg(list(file.as_ref()));
            command
        });
        Self { name: "ffmpeg", recorder, shown: Shown::Listed }
    }

    /// rtmpdump (librtmp).
    pub fn rtmpdump(dir: &Path, url: &str) -> Self {
        let recorder = Recorder::start(dir, "rtmpdump-watch", |file| {
            let mut command = Command::new("rtmpdump");
            command.args(["--live", "-r", url, "-o", file]);
            command
        });
        Self { name: "rtmpdump", recorder, shown: Shown::Later }
    }

    /// GStreamer's own RTMP stack and demuxer; OpenH264 decodes.
    pub fn gstreamer(dir: &Path, url: &str) -> Self {
        let recorder = Recorder::start(dir, "gstreamer-watch", |file| {
            // Neither branch waits for the other to have its first buffer.
            let pipeline = format!(
                "rtmp2src location={url} ! tee name=t ! queue ! filesink location={file} buffer-mode=unbuffered async=false \
                 t. ! queue ! flvdemux ! h264parse ! openh264dec ! checksumsink hash=md5 async=false"
            );
            gstreamer(&pipeline.split(' ').collect::<Vec<_>>())
        });
        Self { name: "GStreamer", recorder, shown: Shown::Said }
    }

    /// mpv, without a screen: it encodes what it would show. What it records and lists is complete when it has ended.
    pub fn mpv(dir: &Path, url: &str) -> Self {
        let recorder = Recorder::start(dir, "mpv-watch", |file| {
            let mut command = Command::new("mpv");
            command.args(["--no-config", "--msg-level=all=warn,statusline=status", url]);
            command.args(["--term-status-msg=${=time-pos} s"]);
            command.args(["--of=framemd5", "--ovc=rawvideo", "--oac=pcm_s16le"]);
            command
                .args([format!("--o={}", list(file.as_ref()).display()), format!("--stream-record={file}")]);
            command
        });
        Self { name: "mpv", recorder, shown: Shown::Told }
    }

    /// Seconds of video that it has got so far.
    pub fn seconds(&self) -> f64 {
        match self.shown {
            Shown::Told => self.said().iter().rev().find_map(|line| told_time(line)).unwrap_or(0.0),
            Shown::Listed | Shown::Said | Shown::Later => flv::seconds_of_video(&self.recorder.tags()),
        }
    }

    /// Waits until it has got so much.
    #[track_caller]
    pub fn await_seconds(&self, seconds: f64) {
        wait_for(&format!("{seconds} s of video at {}", self.name), SOON, || {
            let have = self.seconds();
            if have >= seconds { Ok(()) } else { Err(format!("{have} s, and it says {:?}", self.messages())) }
        });
    }

    /// What it has said so far, but for how much it has, and for pictures that it shows.
    pub fn messages(&self) -> Vec<String> {
        let mut said = self.said();
        said.retain(|line| {
            let is_progress = line.ends_with(" sec") && line.contains(" kB / ");
            !is_progress && told_time(line).is_none() && parse_checksum(line).is_none()
        });
        said
    }

    fn said(&self) -> Vec<String> {
        let said = self.recorder.client.said();
        said.split(['\n', '\r']).filter(|line| !line.trim().is_empty()).map(str::to_owned).collect()
    }

    /// Ends it; the messages that it got, and the pictures that it showed.
    #[track_caller]
    pub fn stop(mut self) -> (Vec<Tag>, Vec<Picture>) {
        self.recorder.client.stop();
        let shown = match self.shown {
            Shown::Listed | Shown::Told => {
                parse_framemd5(&fs::read_to_string(list(&self.recorder.file)).unwrap()).unwrap()
            }
            Shown::Said => self.said().iter().filter_map(|line| parse_checksum(line)).collect(),
            Shown::Later => decode(&self.recorder.file),
        };
        (self.recorder.tags(), shown)
    }
}

/// The pictures of the test card.
pub fn card_pictures() -> Vec<Picture> {
    decode(&card_file())
}

/// The pictures of a file, as ffmpeg decodes them.
#[track_caller]
fn decode(file: &Path) -> Vec<Picture> {
    let mut command = ffmpeg();
    command.arg("-i").arg(file).args(["-map", "0:v", "-fps_mode", "passthrough", "-f", "framemd5", "-"]);
    parse_framemd5(&run(&mut command).expect_code(0).stdout).unwrap()
}

/// The time of a picture that mpv says it has shown, s.
fn told_time(line: &str) -> Option<f64> {
    line.strip_prefix("\x1b[K")?.strip_suffix(" s")?.parse().ok()
}

/// Where the pictures of what is recorded into `file` are listed.
fn list(file: &Path) -> PathBuf {
    file.with_extension("framemd5")
}
