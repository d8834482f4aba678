//! `srsctl agent`: the supervisor itself. `up` starts it, with a [`Start`] as its standard input and a pipe as its standard
//! output.
//!
//! The agent keeps a duplicate of that pipe and writes a line of JSON to it for each [`StartupEvent`], or one
//! [`StartupLine::Failed`] with message and exit code. Once all checks have passed, standard output and error are the log. After
//! [`StartupEvent::Complete`] the pipe is closed, and `up` asks for the status.

use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use cluster::file::ClusterFile;
use control::api::StartupEvent;
use control::start::{Secret, Start, StartupLine};
use supervisor::{AgentConfig, AgentError};

use crate::failure::{Failure, code};
use crate::fleet::serve::{self, Role};
use crate::log;
use crate::subject::{self, Global, Loaded, Subject};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: Option<What>,
    /// Where the text came from
    path: Option<PathBuf>,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// The far end of an operator's session, between stdin and stdout; ssh starts it
    DialStdio {
        /// What may be asked
        #[arg(long, value_enum, default_value = "viewer")]
        role: Role,
    },
}

/// Becomes the supervisor, detached from the terminal that started it.
pub(crate) async fn run(global: &Global, Args { what, path }: Args) -> Result<ExitCode, Failure> {
    if let Some(What::DialStdio { role }) = what {
        return dial_stdio(global, role).await;
    }
    let path = path.ok_or_else(|| Failure::usage("srsctl agent is what srsctl up starts"))?;
    // Fails only for the leader of a process group, which is detached enough.
    let _ = nix::unistd::setsid();
    // From the moment all checks have passed stdout is the log's; the pipe to `up` closes when the start is over.
    let mut pipe = rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdout(), 3).ok().map(File::from);
    let outcome = supervise_in_background(global, &path, &mut pipe).await;
    if let (Err(failure), Some(pipe)) = (&outcome, &mut pipe) {
        let _ = tell(pipe, &StartupLine::Failed { message: failure.to_string(), code: failure.number() });
        return Ok(failure.code());
    }
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Serves the operator at the other end of stdin and stdout until he is gone.
async fn dial_stdio(global: &Global, role: Role) -> Result<ExitCode, Failure> {
    let (input, output) = (tokio::io::stdin(), tokio::io::stdout());
    serve::serve(global.roots()?, role, input, output).await.map_err(Failure::failed)?;
    Ok(ExitCode::SUCCESS)
}

async fn supervise_in_background(
    global: &Global,
    path: &Path,
    pipe: &mut Option<File>,
) -> Result<(), Failure> {
    let Start { path, text, hosts, secret } = serde_json::from_reader(io::stdin().lock())
        .map_err(|e| Failure::failed(format!("{}: cannot be taken over: {e}", path.display())))?;
    let (subject, loaded) = Subject::of_loaded(global, ClusterFile::new(path, text))?;
    let config = config(&subject, Loaded { hosts, ..loaded }, secret, true)?;
    // The state directory must not pin the directory that `up` was called in.
    std::env::set_current_dir("/").map_err(|e| Failure::failed(format!("cannot change to /: {e}")))?;
    log::start();
    let outcome = supervisor::run(config, |event| {
        let complete = matches!(event, StartupEvent::Complete { .. });
        if let Some(open) = pipe.as_mut() {
            // An `up` that was killed does not stop the cluster.
            let _ = tell(open, &StartupLine::Startup(event));
        }
        if complete {
            *pipe = None;
        }
    });
    outcome.await.map_err(|error| failure(&error))
}

fn tell(pipe: &mut impl Write, report: &StartupLine) -> io::Result<()> {
    let mut line = serde_json::to_vec(report)?;
    line.push(b'\n');
    pipe.write_all(&line)
}

/// The supervisor's config for the cluster that `subject` is to run.
pub(crate) fn config(
    subject: &Subject,
    loaded: Loaded,
    secret: Option<Secret>,
    detached: bool,
) -> Result<AgentConfig, Failure> {
    let binary =
        supervisor::own_binary().map_err(|e| Failure::failed(format!("cannot find srsctl itself: {e}")))?;
    let Loaded { cluster, path, text, hosts } = loaded;
    let roots = subject.roots().clone();
    Ok(AgentConfig {
        cluster: cluster.only(&hosts),
        path,
        text,
        hosts,
        secret,
        dirs: subject.dirs().clone(),
        binary,
        detached,
        service: None,
        parse: Arc::new(move |path, text| {
            let file = ClusterFile::new(path.to_owned(), text.to_owned());
            subject::parse_in(&file, &roots).map_err(|e| e.to_string())
        }),
    })
}

/// An agent's failure as a command's.
pub(crate) fn failure(error: &AgentError) -> Failure {
    let code = match error {
        AgentError::AlreadyRunning { .. } => code::LOCKED,
        AgentError::Interrupted | AgentError::NotStopped(_) | AgentError::Left(_) => code::INTERRUPTED,
        AgentError::Preflight(_)
        | AgentError::State(_)
        | AgentError::Changed(_)
        | AgentError::System { .. } => code::FAILED,
    };
    Failure::new(code, error)
}
