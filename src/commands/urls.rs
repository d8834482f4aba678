//! `srsctl urls`: where to publish a stream and where to play it.

use std::path::PathBuf;
use std::process::ExitCode;

use rtmp::server::StreamKey;

use crate::failure::Failure;
use crate::output;
use crate::subject::{Global, Subject};
use crate::terminal::print;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// app/stream, e.g. live/livestream
    #[arg(value_parser = stream)]
    stream: StreamKey,
    /// The cluster's file or its name
    #[arg(value_name = "FILE")]
    path: Option<PathBuf>,
    /// Only this host, as written in the cluster's file
    #[arg(long)]
    host: Option<String>,
}

/// A stream as it is named in an address, without what a key does not keep.
fn stream(text: &str) -> Result<StreamKey, String> {
    let key = text.parse::<StreamKey>().ok().filter(|key| key.as_str() == text);
    key.ok_or_else(|| "not APP/STREAM, such as live/livestream".to_owned())
}

/// Prints the URLs of a stream.
pub(crate) fn run(global: &Global, Args { stream, path, host }: &Args) -> Result<ExitCode, Failure> {
    let subject = Subject::find(global, path.as_deref(), "urls APP/STREAM")?;
    let mut cluster = subject.cluster()?;
    if let Some(host) = host {
        subject.expect_host(Some(host))?;
        cluster = cluster.only(std::slice::from_ref(host));
    }
    print(&output::urls(&cluster, stream.as_str()))?;
    Ok(ExitCode::SUCCESS)
}
