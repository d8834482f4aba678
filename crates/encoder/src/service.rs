//! The encoder as a process under a supervisor.

use std::cell::Cell;
use std::io;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

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
    let Inherited { listener: _, control, lock, config: lent, secret: _ } = Inherited::take()?;
    let spec = EncoderSpec::from_file(&lent.as_ref().map_or_else(|| config.to_owned(), fds::path_of))?;
    let url: Url = spec.url.parse().map_err(|e| RunError::Config(format!("{}: {e}", spec.url)))?;
    info!(id = %spec.id, %url, "starting");
    control::block_on(async move {
        let encoder = Rc::new(Encoder::default());
        let seat = Seat { id: spec.id, role: Role::Encoder, control, lock };
        tokio::task::spawn_local(beat(Rc::clone(&encoder)));
        let mut log = |progress: PublishEvent<'_>| log_event(&progress);
        tokio::select! {
            ended = publish(&spec.source, &url, Persistence::Always, &encoder.sent, &mut log) => {
                ended.map_err(|e| RunError::System { what: "encoder", source: io::Error::other(e) })
            }
            served = control::serve(seat, encoder.clone()) => served,
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
#[derive(Default)]
struct Encoder {
    sent: Sent,
    beats: Cell<u64>,
}

impl Service for Encoder {
    fn process_stats(&self) -> ProcessStats {
        ProcessStats {
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
