//! The encoder as a process under a supervisor.

use std::cell::{Cell, RefCell};
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use cluster::spec::{EncoderSpec, Role};
use cluster::stats::ProcessStats;
use control::fds;
use control::{Inherited, RunError, Seat, Service};
use rtmp::url::Url;
use tokio::time::sleep;
use tracing::{debug, info, warn};

use crate::publish::{Persistence, PublishEvent, Sent, publish};

/// Runs the encoder of the config file `config` under a supervisor, until told to stop. To be called before a thread or a
/// runtime exists.
///
/// # Errors
/// See [`RunError`].
pub fn run(config: &Path) -> Result<(), RunError> {
    let Inherited { listener: _, control, lock, config: lent, secret: _, socket } = Inherited::take()?;
    let spec = EncoderSpec::from_file(&lent.as_ref().map_or_else(|| config.to_owned(), fds::path_of))?;
    let url: Url = spec.url.parse().map_err(|e| RunError::Config(format!("{}: {e}", spec.url)))?;
    info!(id = %spec.id, %url, "starting");
    control::block_on(async move {
        let encoder = Rc::new(Encoder::default());
        let seat = Seat {
            id: spec.id,
            role: Role::Encoder,
            control,
            socket,
            lock,
            generation: 0,
            renewed: 0,
            cause: None,
            forgot: None,
            lost: 0,
        };
        tokio::task::spawn_local(beat(Rc::clone(&encoder)));
        let mut log = |progress: PublishEvent<'_>| {
            log_event(&progress);
            encoder.take(&progress);
        };
        tokio::select! {
            ended = publish(&spec.source, &url, Persistence::Always, &encoder.sent, &mut log) => {
                ended.map_err(|e| RunError::System { what: "encoder", source: io::Error::other(e) })
            }
            served = control::serve(seat, encoder.clone()) => served.map(drop),
        }
    })
}

/// Shows the supervisor that the loop turns, whatever the server does.
async fn beat(encoder: Rc<Encoder>) {
    loop {
        encoder.beats.set(encoder.beats.get() + 1);
        sleep(Duration::from_secs(1)).await;
    }
}

/// Writes `progress` to the log.
fn log_event(progress: &PublishEvent<'_>) {
    match progress {
        PublishEvent::Publishing => info!("publishing"),
        PublishEvent::Retrying(error, delay) => warn!(%error, ?delay, "not publishing; trying again"),
        PublishEvent::Looping(false) => debug!("starting over"),
        PublishEvent::Looping(true) => debug!("the file ends within a tag; starting over"),
    }
}

/// What the control socket of an encoder reaches.
struct Encoder {
    sent: Sent,
    beats: Cell<u64>,
    /// What keeps it from publishing, and since when it does not.
    trouble: RefCell<Option<(String, Instant)>>,
}

impl Default for Encoder {
    fn default() -> Self {
        let trouble = ("it has not been let publish yet".to_owned(), Instant::now());
        Self { sent: Sent::default(), beats: Cell::default(), trouble: RefCell::new(Some(trouble)) }
    }
}

impl Encoder {
    fn take(&self, progress: &PublishEvent<'_>) {
        let mut trouble = self.trouble.borrow_mut();
        match progress {
            PublishEvent::Publishing => *trouble = None,
            PublishEvent::Retrying(error, _) => {
                let since = trouble.as_ref().map_or_else(Instant::now, |(_, since)| *since);
                *trouble = Some((error.to_string(), since));
            }
            PublishEvent::Looping(_) => {}
        }
    }
}

impl Service for Encoder {
    fn process_stats(&self) -> ProcessStats {
        let trouble = self.trouble.borrow();
        let for_ms = |since: &Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        ProcessStats {
            trouble: trouble.as_ref().map(|(why, _)| why.clone()),
            trouble_ms: trouble.as_ref().map(|(_, since)| for_ms(since)),
            beats: self.beats.get(),
            bytes_out: self.sent.bytes(),
            publishers: self.sent.is_publishing().into(),
            ..ProcessStats::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use cluster::EncoderSource;
    use rtmp_io::socket;

    use super::*;
    use crate::publish::PublishError;

    #[test]
    fn it_says_what_keeps_it_from_publishing_and_for_how_long_until_it_does() {
        let encoder = Encoder::default();
        let trouble = || encoder.process_stats().trouble;
        assert_eq!(trouble().unwrap(), "it has not been let publish yet");
        encoder.take(&PublishEvent::Retrying(&PublishError::Stuck, Duration::ZERO));
        assert_eq!(trouble().unwrap(), "the server took no byte for 10 s");
        assert!(encoder.process_stats().trouble_ms.is_some());
        encoder.take(&PublishEvent::Publishing);
        assert_eq!((trouble(), encoder.process_stats().trouble_ms), (None, None));
    }

    #[tokio::test]
    async fn it_reports_a_publisher_only_while_the_server_takes_the_stream() {
        use rtmp::server::{Config, Event, Session};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("rtmp://{}/live/a", listener.local_addr().unwrap()).parse().unwrap();
        let encoder = Encoder::default();
        let publishers = || encoder.process_stats().publishers;
        let server = async {
            for is_taken in [false, true, false] {
                let (socket, _) = listener.accept().await.unwrap();
                assert_eq!(publishers(), 0);
                let mut session = Session::new(Config::default());
                while encoder.sent.messages() == 0 || !is_taken {
                    let mut buffer = [0; 4096];
                    socket.readable().await.unwrap();
                    let Ok(taken) = socket.try_read(&mut buffer) else { continue };
                    let mut input = &buffer[..taken];
                    let mut is_asked = false;
                    while let Some(event) = session.handle_input(&mut input).unwrap() {
                        is_asked |= matches!(event, Event::Publish { .. });
                    }
                    if is_asked && is_taken {
                        session.accept_publish();
                    } else if is_asked {
                        session.reject_publish("NetStream.Publish.BadName", "taken");
                    }
                    socket::write_all(&socket, session.output()).await.unwrap();
                    if is_asked && !is_taken {
                        break;
                    }
                }
                assert_eq!(publishers(), u32::from(is_taken));
            }
        };
        let mut told = |_: PublishEvent<'_>| {};
        tokio::select! {
            ended = publish(&EncoderSource::TestCard, &url, Persistence::Always, &encoder.sent, &mut told) => panic!("{ended:?}"),
            () = server => {}
        }
    }
}
