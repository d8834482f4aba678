//! What the supervisor holds beside its loop, put back where somebody removes it: lock, agent.sock, directories.

use std::fs::File;
use std::path::PathBuf;
use std::time::Duration;

use rustix::fs::FlockOperation;
use tokio::net::UnixListener;
use tokio::sync::{mpsc, oneshot};

use crate::api;
use crate::door::Door;
use crate::host::dirs::ClusterDirs;
use crate::host::files::{FileId, StateError};
use crate::host::lock::Lock;

/// Answers that are under way may take this long when the supervisor ends.
const LAST_ANSWERS: Duration = Duration::from_secs(2);

/// See the top of this file.
pub(super) struct Surroundings {
    lock: Lock,
    pub(super) dirs: ClusterDirs,
    /// Of agent.sock, as it was made.
    socket: Option<FileId>,
    sockets: mpsc::Sender<UnixListener>,
    stop_api: oneshot::Sender<()>,
    api: tokio::task::JoinHandle<()>,
    /// Each with a shared lock: what ages files, such as systemd-tmpfiles, passes over a directory that is locked.
    kept: Vec<(PathBuf, File)>,
    /// What could not be put back, as it was told.
    told: Option<String>,
}

impl Surroundings {
    /// Serves the control API on `listener`.
    pub(super) fn new(
        lock: Lock,
        dirs: ClusterDirs,
        listener: UnixListener,
        commands: mpsc::Sender<api::Asked>,
    ) -> Self {
        let (sockets, next) = mpsc::channel(1);
        let (stop_api, stopped) = oneshot::channel();
        let socket = FileId::at(&dirs.agent_socket());
        let api = tokio::spawn(api::serve(Door::new(listener, next), commands, stopped));
        let mut new = Self { lock, dirs, socket, sockets, stop_api, api, kept: Vec::new(), told: None };
        new.keep_directories();
        new
    }

    /// Puts back what is missing. To be called now and then.
    pub(super) fn tend(&mut self) {
        let outcome = self.lock.tend(&self.dirs).and_then(|lock| Ok((lock, self.tend_socket()?)));
        match outcome {
            Ok((lock, socket)) => {
                if lock || socket {
                    tracing::warn!(lock, socket, "what somebody removed from the run directory is put back");
                }
                self.told = None;
            }
            Err(error) => {
                let why = error.to_string();
                if self.told.as_ref() != Some(&why) {
                    tracing::error!(%error, "somebody removed it, and it cannot be put back");
                    self.told = Some(why);
                }
            }
        }
        self.keep_directories();
    }

    fn tend_socket(&mut self) -> Result<bool, StateError> {
        let path = self.dirs.agent_socket();
        if self.socket.is_some() && self.socket == FileId::at(&path) {
            return Ok(false);
        }
        let listener = listen(&self.dirs)?;
        self.socket = FileId::at(&path);
        // Full only while the one before waits to be taken up.
        let _ = self.sockets.try_send(listener);
        Ok(true)
    }

    fn keep_directories(&mut self) {
        self.kept.retain(|(path, dir)| FileId::of(dir).is_some_and(|own| Some(own) == FileId::at(path)));
        for path in [self.dirs.run(), self.dirs.lib()] {
            if !self.kept.iter().any(|(kept, _)| kept == path)
                && let Ok(dir) = File::open(path)
                && rustix::fs::flock(&dir, FlockOperation::NonBlockingLockShared).is_ok()
            {
                self.kept.push((path.to_owned(), dir));
            }
        }
    }

    /// Ends the API, and waits for the answers that are under way.
    pub(super) async fn end(self) {
        let _ = self.stop_api.send(());
        let _ = tokio::time::timeout(LAST_ANSWERS, self.api).await;
    }
}

/// Binds agent.sock.
///
/// # Errors
/// When that fails.
pub(super) fn listen(dirs: &ClusterDirs) -> Result<UnixListener, StateError> {
    let socket = dirs.agent_socket();
    control::unix::listen_stream(&socket, 0o660)
        .and_then(UnixListener::from_std)
        .map_err(|source| StateError { what: "cannot listen on", path: socket, source })
}
