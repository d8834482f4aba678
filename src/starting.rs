//! How a supervisor is started: the one place that knows what it is a child of. `up` uses it, and so does whoever is asked to by an
//! operator on another machine.

use std::os::unix::process::ExitStatusExt as _;
use std::process::Stdio;

use control::start::{Start, StartupLine};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::SIGINT;
use supervisor::{ClusterDirs, StateRoots};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::failure::{Failure, code};
use crate::talk::{Ask, Talk};

/// What a supervisor that was started tells, until all it starts is ready.
#[derive(Debug)]
pub(crate) struct StartupLines {
    from: From,
    is_interrupted: bool,
    is_complete: bool,
}

#[derive(Debug)]
enum From {
    /// A supervisor in the background.
    Child(Child, Lines<BufReader<ChildStdout>>),
    /// The service of the cluster, which is the supervisor then.
    Service(Talk),
}

/// Starts a supervisor: the service of the cluster where there is one, else one in the background.
///
/// # Errors
/// When none could be started; nothing was touched.
pub(crate) async fn start(
    roots: &StateRoots,
    dirs: &ClusterDirs,
    start: Start,
) -> Result<StartupLines, Failure> {
    let name = dirs.name();
    let no_service = |e| {
        Failure::failed(format!(
            "the service srsctl@{name} cannot be told what to start: {e}; see: systemctl status srsctl@{name}"
        ))
    };
    if let Some(mut service) = Talk::open(dirs).map_err(no_service)? {
        service.telling.say(&Ask::Start(start)).await.map_err(no_service)?;
        return Ok(StartupLines { from: From::Service(service), is_interrupted: false, is_complete: false });
    }
    let failed = |e: std::io::Error| Failure::failed(format!("cannot start the supervisor: {e}"));
    let text = serde_json::to_vec(&start).map_err(Failure::failed)?;
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
    let from = From::Child(child, BufReader::new(stdout).lines());
    Ok(StartupLines { from, is_interrupted: false, is_complete: false })
}

impl StartupLines {
    /// The next thing it tells. Dropping the future loses nothing.
    ///
    /// # Errors
    /// When it ended without a word.
    pub(crate) async fn next(&mut self) -> Result<StartupLine, Failure> {
        let (line, how) = match &mut self.from {
            From::Child(child, lines) => {
                let line = lines.next_line().await.ok().flatten();
                if let Some(line) = line.and_then(|line| serde_json::from_str(&line).ok()) {
                    return Ok(line);
                }
                let ended = child.wait().await;
                // A Ctrl-C reaches a supervisor that has not left the terminal yet as well.
                self.is_interrupted |= ended.as_ref().is_ok_and(|status| status.signal() == Some(SIGINT));
                (None, ended.map_or_else(|e| e.to_string(), |status| status.to_string()))
            }
            From::Service(service) => match service.hearing.next().await {
                Ok(line) => (line, "its service has closed the connection".to_owned()),
                Err(error) => (None, error.to_string()),
            },
        };
        let code = if self.is_interrupted { code::INTERRUPTED } else { code::FAILED };
        let ended = || Failure::new(code, format!("the supervisor ended before all was ready: {how}"));
        line.ok_or_else(ended)
    }

    /// Has it stop what it has started, and end; it tells when that is done.
    pub(crate) fn interrupt(&mut self) {
        self.is_interrupted = true;
        match &self.from {
            From::Child(child, _) => {
                if let Some(pid) = child.id().and_then(|pid| i32::try_from(pid).ok()) {
                    // It is our child and not waited for: the number is still its own.
                    let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
                }
            }
            // One that does not take it has ended.
            From::Service(service) => drop(service.telling.try_say(&Ask::Interrupt {})),
        }
    }

    /// Whether it was told to end.
    pub(crate) fn is_interrupted(&self) -> bool {
        self.is_interrupted
    }

    /// It has told all, and is on its own from now on.
    pub(crate) fn complete(&mut self) {
        self.is_complete = true;
    }

    /// Whether it has told all.
    pub(crate) fn is_complete(&self) -> bool {
        self.is_complete
    }
}
