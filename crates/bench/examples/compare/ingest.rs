//! Publishers without players: what taking streams in costs, and sending them on.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use serde::Serialize;

use crate::measure::{Cores, Helper, Pace, Usage, wait_for_stream};
use crate::processes::{pin, rss_kib};
use crate::rows::{IngestRow, Result};
use crate::servers::{self, Ingester};

/// Behind the first frame of the last publisher, until logs and buffers are as they stay.
const SETTLE: Duration = Duration::from_secs(10);

/// What was measured.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Intake {
    row: &'static str,
    publishers: u32,
    server: &'static str,
    usage: Usage,
    rss_kib: u64,
}

impl Intake {
    pub(crate) fn summary(&self) -> String {
        format!("  CPU {:.1} %, waited {:.1} %", self.usage.cpu(), self.usage.waited)
    }
}

pub(crate) fn intake(
    row: &IngestRow,
    server: Ingester,
    file: &Path,
    srsctl: &Path,
    cores: &Cores,
    pace: Pace,
) -> Result<Intake> {
    pin(std::process::id(), &cores.others)?;
    let running = servers::start_ingester(server, row, srsctl)?;
    pin(running.pid, &cores.server)?;
    let mut command = Command::new(srsctl);
    command.args(["bench", "publish", "--duration", "0", "-c", &row.publishers.to_string()]);
    command.arg(file).arg(&running.publish);
    let _publishers =
        Helper(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?);
    wait_for_stream(srsctl, &format!("{}{}", running.play, row.publishers))?;
    sleep(SETTLE);
    let usage = Usage::of(running.pid, pace.window)?;
    let (row, publishers, rss_kib) = (row.name, row.publishers, rss_kib(running.pid)?);
    Ok(Intake { row, publishers, server: server.name(), usage, rss_kib })
}

/// A table of all, a row each.
pub(crate) fn markdown(intakes: &[Intake]) -> String {
    let mut text = String::from(
        "| publishers | server | CPU user | CPU sys | waited | CPU | CPU per publisher | ÷ nginx-rtmp | RSS MiB |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for intake in intakes {
        let Intake { row, publishers, server, usage, rss_kib } = intake;
        let nginx = |other: &&Intake| other.row == *row && other.server == Ingester::Nginx.name();
        let ratio = intakes
            .iter()
            .find(nginx)
            .filter(|nginx| nginx.usage.is_comparable() && usage.is_comparable() && nginx.usage.cpu() > 0.0)
            .map_or_else(|| "-".to_owned(), |nginx| format!("{:.2}", usage.cpu() / nginx.usage.cpu()));
        let _ = writeln!(
            text,
            "| {publishers}, {row} | {server} | {:.1} % | {:.1} % | {:.1} % | {:.1} % | {:.3} % | {ratio} | {:.0} |",
            usage.user,
            usage.system,
            usage.waited,
            usage.cpu(),
            usage.cpu() / f64::from(*publishers),
            *rss_kib as f64 / 1024.0,
        );
    }
    text
}
