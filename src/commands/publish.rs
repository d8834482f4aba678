//! `srsctl publish`: an encoder, for trying things out.

use std::process::ExitCode;
use std::time::Duration;

use cluster::EncoderSource;
use encoder::{Persistence, PublishError, PublishEvent, Sent};
use rtmp::url::Url;

use crate::failure::Failure;
use crate::output;
use crate::terminal::complain;

/// What its help shows: clap cannot say that the file is optional and comes first.
pub(crate) const USAGE: &str = "srsctl publish FILE.flv rtmp://HOST[:PORT]/APP/STREAM\n       \
    srsctl publish --test-card rtmp://HOST[:PORT]/APP/STREAM";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Send the built-in moving picture with a clock, and a tone
    #[arg(long)]
    test_card: bool,
    /// The FLV file to send, unless --test-card is given, and where to publish
    #[arg(required = true, num_args = 1..=2, value_name = "FILE.flv> <URL")]
    args: Vec<String>,
}

/// Publishes until stopped, or until the server will not have it.
pub(crate) async fn run(Args { test_card, mut args }: Args) -> Result<ExitCode, Failure> {
    let url = args.pop().unwrap_or_default();
    let source = match (test_card, args.pop()) {
        (true, None) => EncoderSource::TestCard,
        (false, Some(file)) => EncoderSource::File(file.into()),
        (true, Some(_)) => {
            return Err(Failure::usage("either a file or --test-card, not both; see srsctl publish --help"));
        }
        (false, None) if !url.contains("://") => {
            return Err(Failure::usage(format!(
                "where to? srsctl publish {url} rtmp://HOST[:PORT]/APP/STREAM"
            )));
        }
        (false, None) => {
            return Err(Failure::usage(
                "what to publish? srsctl publish FILE.flv URL, or srsctl publish --test-card URL",
            ));
        }
    };
    let url: Url = url.parse().map_err(Failure::usage)?;
    let mut progress = |progress: PublishEvent<'_>| match progress {
        PublishEvent::Publishing => complain(&format!("publishing to {url}")),
        PublishEvent::Retrying(error, delay) => {
            complain(&format!(
                "{url}: not publishing: {error}; trying again in {}",
                output::duration(millis(delay))
            ));
        }
        PublishEvent::Looping(true) => complain("the file ends within a tag; starting over"),
        PublishEvent::Looping(false) => {}
    };
    let sent = Sent::default();
    tokio::select! {
        ended = encoder::publish(&source, &url, Persistence::WhileItMayHelp, &sent, &mut progress) => ended.map_err(|error| match error {
            PublishError::Source(error) => Failure::failed(error),
            error => Failure::failed(format!("{url}: {error}")),
        })?,
        _ = tokio::signal::ctrl_c() => {}
    }
    Ok(ExitCode::SUCCESS)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
