//! `srsctl probe`: one player, until its first keyframe.

use std::process::ExitCode;
use std::time::Duration;

use rtmp::url::Url;

use crate::failure::Failure;
use crate::output;
use crate::terminal::print;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// rtmp://host[:port]/app/stream
    url: String,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 10)]
    timeout: u64,
}

/// Plays until the first keyframe, or until it is clear that there is audio alone.
pub(crate) async fn run(Args { url, timeout }: Args) -> Result<ExitCode, Failure> {
    let _: Url = url.parse().map_err(Failure::usage)?;
    let report =
        supervisor::probe::play(&url, Duration::from_secs(timeout)).await.map_err(Failure::failed)?;
    let (what, first) = match report.keyframe {
        Some(first) => ("keyframe", first),
        None => ("audio alone", report.audio.unwrap_or_default()),
    };
    let codecs: Vec<_> =
        [&report.video_codec, &report.audio_codec].into_iter().flatten().map(String::as_str).collect();
    print(&format!(
        "{}: {what} after {} (TCP {}, RTMP connect {}), {}\n",
        report.url,
        output::delay(first),
        output::delay(report.tcp),
        output::delay(report.rtmp),
        codecs.join("+"),
    ))?;
    Ok(ExitCode::SUCCESS)
}
