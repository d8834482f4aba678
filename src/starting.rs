//! How a supervisor is started: the one place that knows what it is a child of. `up` uses it, and so does whoever is asked to by an
//! operator on another machine.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use control::start::{Start, StartupLine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::SIGINT;
use supervisor::StateRoots;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::failure::{Failure, code};

/// What a supervisor that was started tells, until all it starts is ready.
#[derive(Debug)]
pub(crate) struct StartupLines {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
    is_interrupted: bool,
}

/// Starts a supervisor in the background.
///
/// # Errors
/// When none could be started; nothing was touched.
pub(crate) async fn start(roots: &StateRoots, start: &Start) -> Result<StartupLines, Failure> {
    let failed = |e: std::io::Error| Failure::failed(format!("cannot start the supervisor: {e}"));
    let text = serde_json::to_vec(start).map_err(Failure::failed)?;
    supervisor::keep_descriptors_to_self().map_err(failed)?;
    let mut command = Command::new(supervisor::own_binary().map_err(failed)?);
    command.arg("agent").arg(&start.path);
    if let Some(dir) = roots.state_dir() {
        command.arg("--state-dir").arg(dir);
    }
    // It leaves this terminal and, once its state directory is there, this stderr too.
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // One that ends early says why.
        let _ = stdin.write_all(&text).await;
    }
    let stdout = child.stdout.take().ok_or_else(|| Failure::failed("the supervisor has no output"))?;
    Ok(StartupLines { child, lines: BufReader::new(stdout).lines(), is_interrupted: false })
}

impl StartupLines {
    /// The next thing it tells. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When it ended without a word.
    pub(crate) async fn next(&mut self) -> Result<StartupLine, Failure> {
        let line = self.lines.next_line().await;
        let line = line.ok().flatten().and_then(|line| serde_json::from_str(&line).ok());
        if let Some(line) = line {
            return Ok(line);
        }
        let ended = self.child.wait().await;
        // A Ctrl-C reaches a supervisor that has not left the terminal yet as well.
        self.is_interrupted |= ended.as_ref().is_ok_and(|status| status.signal() == Some(SIGINT));
        let how = ended.map_or_else(|e| e.to_string(), |status| status.to_string());
        let code = if self.is_interrupted { code::INTERRUPTED } else { code::FAILED };
        Err(Failure::new(code, format!("the supervisor ended before all was ready: {how}")))
    }

    /// Has it stop what it has started, and end; it tells when that is done.
    pub(crate) fn interrupt(&mut self) {
        self.is_interrupted = true;
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()) {
            // It is our child and not waited for: the number is still its own.
            let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        }
    }

    /// Whether it was told to end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }
}
