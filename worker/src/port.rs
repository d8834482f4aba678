//! What the control socket of a worker reaches.

use std::cell::RefCell;
use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;
use std::time::Duration;

use cluster::stats::{Joining, ProcessStats, StreamStats};
use cluster::{Drain, Role, WorkerSpec};
use control::fds::{self, Lent, Name};
use control::{Code, Error, Service};
use stream::{Cursor, Offer, Stream};
use tokio::net::TcpListener;
use tracing::info;

use crate::channel::Channel;
use crate::egress::forward;
use crate::hub::Hub;
use crate::secret;

/// The time of which a report says how late the loop was.
const LATE_SPAN: Duration = Duration::from_secs(10);
/// Streams in one report, beside those that are published.
const REPORTED_MAX: usize = 256;

/// One RTMP port, as its supervisor sees it.
pub(crate) struct Port {
    pub(crate) hub: Rc<Hub>,
    pub(crate) listener: Rc<TcpListener>,
    /// What the next worker of the port starts with.
    pub(crate) lent: RefCell<ManuallyDrop<Lent>>,
}

impl Service for Port {
    fn process_stats(&self) -> ProcessStats {
        let hub = &self.hub;
        let c = &hub.counters;
        let (loop_lag_p99_ms, loop_lag_max_ms) = hub.lag.p99_and_max();
        ProcessStats {
            beats: c.beats.get(),
            connections: u32::try_from(hub.conns()).unwrap_or(u32::MAX),
            players: hub.players.get(),
            publishers: hub.publishers(),
            accepted: c.accepted.get(),
            refused: hub.tally.refused(),
            refused_publishers: hub.tally.refused_publishers(),
            memory_used_bytes: hub.books.used(),
            memory_limit_bytes: hub.books.limit(),
            limits: hub.tally.stats(&hub.spec.borrow().options, hub.now()),
            peer_errors: c.peer_errors.get(),
            stuck_players: c.stuck_players.get(),
            skips: c.skips.get(),
            bytes_in: c.bytes_in.get(),
            bytes_out: c.bytes_out.get(),
            loop_lag_p99_ms,
            loop_lag_max_ms,
            loop_late_ms: hub.lag.late_within(LATE_SPAN),
            trouble: hub.keeping.unkept.clone(),
            trouble_ms: None,
        }
    }

    /// Streams that are published, played or were just now; published ones first, by name.
    fn stream_stats(&self) -> Vec<StreamStats> {
        let channels = self.hub.channels();
        let mut stats: Vec<_> = channels.iter().map(|channel| stats_of(&self.hub, channel)).collect();
        stats.sort_by(|a, b| (!a.publishing, &a.stream).cmp(&(!b.publishing, &b.stream)));
        let published = stats.iter().filter(|stream| stream.publishing).count();
        stats.truncate(published.max(REPORTED_MAX));
        stats
    }

    /// Takes a new spec: all but who it is and where it listens. What is copied anywhere is copied anew here.
    fn configure(&self, new: WorkerSpec) -> Result<(), Error> {
        {
            let old = self.hub.spec.borrow();
            let changed = WorkerSpec {
                options: new.options.clone(),
                forward: new.forward.clone(),
                outbound: new.outbound.clone(),
                sources: new.sources.clone(),
                drain: new.drain,
                // A worker has no use for it, and an older supervisor did not tell it.
                address: new.address,
                ..old.clone()
            };
            if changed != new {
                let why = "only options, forward targets, origins and drain change without a restart";
                return Err(Error::new(Code::NeedsRestart, why));
            }
        }
        // Whoever serves after this worker starts with it.
        fds::in_memory(fds::CONFIG, new.to_file_text().as_bytes())
            .and_then(|file| self.keep(Name::Config, file.as_fd()))
            .map_err(|error| Error::new(Code::Failed, format!("the new config cannot be kept: {error}")))?;
        info!(targets = new.forward.len() + new.outbound.len(), "configured");
        self.hub.books.set_limit(new.options.memory);
        let old = self.hub.spec.replace(new);
        let new = self.hub.spec.borrow().clone();
        let timeouts =
            |spec: &WorkerSpec| (spec.options.publish_firstpkt_timeout, spec.options.publish_normal_timeout);
        if timeouts(&old) != timeouts(&new) {
            // Each looks at it as it is woken.
            self.hub.open().iter().for_each(|conn| conn.wake());
        }
        for channel in self.hub.channels() {
            if old.options.queue_length != new.options.queue_length {
                channel.stream_mut().set_queue_length(self.hub.queue_length());
            }
            if new.drain == Drain::Close && old.drain != Drain::Close {
                close(&self.hub, &channel, new.role);
            }
            // Those that wait for the next publication too.
            if channel.stream().head().is_live || !channel.forwards.borrow().is_empty() {
                forward::sync(&self.hub, &channel);
            }
        }
        Ok(())
    }

    fn renew(&self, program: BorrowedFd<'_>, config: BorrowedFd<'_>) -> Result<(), Error> {
        if !self.hub.keeping.outlives() || self.lent.borrow().get(Name::Program).is_none() {
            return Err(Error::new(Code::Unsupported, "nothing of this worker outlives it"));
        }
        // The config first: the program alone decides that there is another.
        self.keep(Name::Config, config)
            .and_then(|()| self.keep(Name::Program, program))
            .map_err(|error| Error::new(Code::Failed, format!("what was given cannot be kept: {error}")))
    }

    fn take_secret(&self, file: BorrowedFd<'_>) -> Result<(), Error> {
        let text = secret::read(&fds::path_of(&file)).map_err(|error| Error::new(Code::Refused, error))?;
        // Whoever serves after this worker starts with it.
        let kept = self.keep(Name::Secret, file);
        kept.map_err(|error| Error::new(Code::Failed, format!("the new secret cannot be kept: {error}")))?;
        self.hub.secret.set(text);
        info!("the secret is replaced");
        Ok(())
    }

    fn listener(&self) -> Option<BorrowedFd<'_>> {
        Some(self.listener.as_fd())
    }

    fn keep(&self, name: Name, fd: BorrowedFd<'_>) -> io::Result<()> {
        self.lent.borrow_mut().replace(name, fd)
    }
}

/// Tells the players of a stream that it is over, and closes them when they have had all that there is; on an origin also who publishes it.
fn close(hub: &Hub, channel: &Rc<Channel>, role: Role) {
    let end = channel.log().end();
    for player in channel.players.borrow().iter() {
        player.end_at(end);
    }
    hub.mark_dirty(channel);
    let publisher = channel.stream().publisher().filter(|_| role == Role::Origin);
    if let Some(publisher) = publisher.and_then(|id| hub.open().into_iter().find(|conn| conn.id == id)) {
        channel.is_to_end.set(true);
        channel.touch();
        publisher.wake();
    }
}

fn stats_of(hub: &Hub, channel: &Channel) -> StreamStats {
    let now = hub.now();
    let stream = channel.stream();
    let stats = stream.stats();
    let age = |at: u64| now.saturating_sub(at);
    let players = |is: &dyn Fn(&Cursor) -> bool| {
        let players = channel.players.borrow();
        let count = players.iter().filter(|player| is(&player.cursor.borrow())).count();
        u32::try_from(count).unwrap_or(u32::MAX)
    };
    let newest = stream.newest().filter(|_| stream.publisher().is_some());
    StreamStats {
        stream: channel.key.to_string(),
        publishing: stream.publisher().is_some(),
        publisher: stream.publisher().and_then(|id| hub.peer(id)).map(|peer| peer.to_string()),
        players: u32::try_from(channel.players.borrow().len()).unwrap_or(u32::MAX),
        waiting_players: players(&Cursor::is_waiting),
        videoless_players: players(&Cursor::lacks_video),
        joining: Some(joining(&stream)),
        bitrate: stats.bitrate(),
        video_codec: stats.video_codec.map(|codec| codec.to_string()),
        audio_codec: stats.audio_codec.map(|codec| codec.to_string()),
        last_frame_age_ms: stats.last_frame.map(age),
        last_audio_age_ms: stats.last_audio.map(age),
        last_video_age_ms: stats.last_video.map(age),
        keyframe_age_ms: stats.last_key.map(age),
        newest_ms: stream.newest(),
        video_frames: stats.video_frames,
        audio_frames: stats.audio_frames,
        forwards: channel.forwards.borrow().iter().map(|forward| forward.stats(newest, now)).collect(),
    }
}

fn joining(stream: &Stream) -> Joining {
    if stream.publisher().is_none() {
        return Joining::Unpublished;
    }
    match stream.log().offer() {
        Offer::Nothing => Joining::NoMedia,
        Offer::NoVideo => Joining::Audio,
        Offer::NoKeyframe => Joining::NoKeyframe,
        Offer::Keyless => Joining::Keyless,
        Offer::Keyframe => Joining::Keyframe,
    }
}
