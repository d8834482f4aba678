//! A script of ours on a machine that has no srsctl yet.
//!
//! `ssh` gives its command to the login shell there, whichever that is. So the command is one that all shells understand alike, and the script comes as
//! the first bytes of its input; what is behind it is the script's own input.

use std::process::Stdio;
use std::time::Duration;

use cluster::Destination;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::child::Group;
use crate::failure::{Kind, Problem, Said, Step, explain};
use crate::frame::MAX_NOISE;
use crate::ssh::{LAST_WORDS, Ssh, spawn};

/// For so long a script and its input may take: a program over a slow line. A line that is cut is noticed sooner, by ssh.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Lines with this in front are the script's; a login may print others.
const MARK: &str = "srsctl:";

/// What a script has come to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// Its exit code.
    pub code: i32,
    /// The lines that it has printed for us, without what marks them.
    pub lines: Vec<String>,
    /// What was printed else, there or by ssh: made harmless by whoever shows it.
    pub errors: String,
}

impl Outcome {
    /// Whether it failed for want of room there.
    #[must_use]
    pub fn is_disk_full(&self) -> bool {
        self.code != 0 && Kind::known(&self.errors) == Some(Kind::DiskFull)
    }
}

impl Ssh {
    /// Runs `script` for sh there, with `input`.
    ///
    /// # Errors
    /// [`Problem`] where it did not come to that.
    pub async fn script(
        &self,
        way: &Destination,
        script: &str,
        mut input: impl AsyncRead + Unpin,
    ) -> Result<Outcome, Problem> {
        let place = way.to_string();
        let problem = |step, kind, why: String| Problem::new(&place, step, kind, why);
        let mut command = self.command(way, &self.known_hosts);
        let remote = format!("sh -c 'eval \"$(dd bs=1 count={} 2>/dev/null)\"'", script.len());
        command.args(["-o", "StrictHostKeyChecking=yes", "--", &way.host, &remote]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = spawn(&place, &mut command)?;
        let (Some(mut stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(problem(Step::Start, Kind::Other, "ssh has no pipes".to_owned()));
        };
        let child = Group::new(child);
        let feed = async {
            // One that ends early says why.
            if stdin.write_all(script.as_bytes()).await.is_ok() {
                let _ = tokio::io::copy(&mut input, &mut stdin).await;
            }
            drop(stdin);
        };
        let done = async { tokio::join!(feed, first_of(stdout), first_of(stderr)) };
        let ((), output, errors) =
            timeout(LIMIT, done).await.map_err(|_| problem(Step::Ask, Kind::Silent, String::new()))?;
        let status = child.end(LAST_WORDS).await;
        let (lines, noise): (Vec<&str>, Vec<&str>) = output.lines().partition(|line| line.starts_with(MARK));
        let lines: Vec<String> =
            lines.iter().map(|line| line.trim_start_matches(MARK).trim().to_owned()).collect();
        let noise = noise.join("\n");
        match status.and_then(|status| status.code()) {
            // 255 is ssh's own, unless the script has said something.
            Some(code) if code != 255 || !lines.is_empty() => {
                Ok(Outcome { code, lines, errors: format!("{noise}\n{errors}") })
            }
            _ => Err(explain(&place, status, &Said { errors, noise })),
        }
    }
}

/// The first of what is said; the rest passes.
pub(crate) async fn first_of(mut from: impl AsyncRead + Unpin) -> String {
    let (mut said, mut buffer) = (Vec::new(), vec![0; 4 << 10]);
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let room = MAX_NOISE.saturating_sub(said.len());
        said.extend_from_slice(buffer.get(..length.min(room)).unwrap_or_default());
    }
    String::from_utf8_lossy(&said).into_owned()
}
