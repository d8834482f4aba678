//! `srsctl urls`: where to publish a stream and where to play it.

use std::process::ExitCode;

use rtmp::server::StreamKey;

use crate::failure::Failure;
use crate::output;
use crate::subject::Subject;
use crate::terminal::print;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// app/stream, e.g. live/livestream
    #[arg(value_parser = stream)]
    stream: StreamKey,
}

/// A stream as it is named in an address, without what a key does not keep.
fn stream(text: &str) -> Result<StreamKey, String> {
    let key = text.parse::<StreamKey>().ok().filter(|key| key.as_str() == text);
    key.ok_or_else(|| "not APP/STREAM, such as live/livestream".to_owned())
}

/// Prints the URLs of a stream.
pub(crate) fn run(subject: &Subject, Args { stream }: &Args) -> Result<ExitCode, Failure> {
    print(&output::urls(&subject.cluster()?, stream.as_str()))?;
    Ok(ExitCode::SUCCESS)
}
