//! Who changes a cluster on this machine: one operator at a time.
//!
//! `lib/CLUSTER/lease` is locked by the process that carries out a change, of an operator here or at the other end of a session, and says
//! who that is. The kernel lets go of it when that process ends, however it ends: there is no lease to be broken by hand.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::host::ancestors::require_safe;
use crate::host::dirs::ClusterDirs;
use crate::host::files::StateError;

/// Bytes that are read of who has it, at most.
const MAX_TEXT: u64 = 4 << 10;
/// Characters of each word of it, at most.
const MAX_WORD: usize = 200;

/// Who changes a cluster, for a person.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The operator.
    pub who: String,
    /// The machine that the operator is on.
    pub from: String,
    /// The operator's process there.
    pub pid: u32,
    /// What is being done.
    pub command: String,
    /// Since when, ms since 1970 by this machine's clock.
    #[serde(default)]
    pub since_ms: u64,
}

impl Holder {
    /// That it has the cluster now, `now_ms` by the clock of the same machine.
    #[must_use]
    pub fn tell(&self, now_ms: u64) -> String {
        let cut = |word: &str| word.chars().take(MAX_WORD).collect::<String>();
        let age = now_ms.saturating_sub(self.since_ms) / 1_000;
        format!(
            "{} on {} (pid {}) has been at it for {age} s: {}",
            cut(&self.who),
            cut(&self.from),
            self.pid,
            cut(&self.command)
        )
    }
}

/// Held until dropped.
#[derive(Debug)]
pub struct Lease {
    path: PathBuf,
    _file: File,
}

/// What became of an attempt to take it.
#[derive(Debug)]
pub enum Taken {
    /// It is ours.
    Ours(Lease),
    /// Another one has it.
    Held(Holder),
}

impl Lease {
    /// Takes it for `holder`.
    ///
    /// # Errors
    /// When the state directory cannot be used.
    pub fn take(dirs: &ClusterDirs, holder: &Holder) -> Result<Taken, StateError> {
        let path = dirs.lib().join("lease");
        let fail = |what| {
            let path = path.clone();
            move |source| StateError { what, path, source }
        };
        require_safe(dirs.lib())?;
        let create = || {
            fs::DirBuilder::new().recursive(true).mode(0o700).create(dirs.lib())?;
            fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)
        };
        loop {
            let mut file = create().map_err(fail("cannot take lease"))?;
            match file.try_lock() {
                Ok(()) => {}
                Err(TryLockError::WouldBlock) => {
                    let mut text = String::new();
                    let _ = (&file).take(MAX_TEXT).read_to_string(&mut text);
                    // It is written a moment after it is locked.
                    return Ok(Taken::Held(serde_json::from_str(&text).unwrap_or_default()));
                }
                Err(TryLockError::Error(source)) => return Err(fail("cannot take lease")(source)),
            }
            // Whoever had it before may have removed the file since it was opened.
            let inode = |found: io::Result<fs::Metadata>| found.ok().map(|found| (found.dev(), found.ino()));
            if inode(file.metadata()) != inode(fs::metadata(&path)) {
                continue;
            }
            let text = serde_json::to_vec(holder).map_err(io::Error::other);
            let written = text.and_then(|text| {
                file.set_len(0)?;
                file.rewind()?;
                file.write_all(&text)
            });
            written.map_err(fail("cannot write lease"))?;
            return Ok(Taken::Ours(Self { path, _file: file }));
        }
    }
}

impl Drop for Lease {
    /// Leaves no trace where nothing else is there either.
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.path);
        for directory in self.path.ancestors().skip(1).take(2) {
            if fs::remove_dir(directory).is_err() {
                break;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::dirs::StateRoots;

    #[test]
    fn the_second_is_told_who_has_it_and_gets_it_when_that_one_is_gone() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = StateRoots::resolve(Some(&temporary.path().join("state"))).unwrap().cluster("live");
        let holder = Holder {
            who: "ann".into(),
            from: "laptop".into(),
            pid: 7,
            command: "up guide.yaml".into(),
            since_ms: 1_000,
        };
        let Taken::Ours(lease) = Lease::take(&dirs, &holder).unwrap() else { panic!() };
        let Taken::Held(found) = Lease::take(&dirs, &Holder::default()).unwrap() else { panic!() };
        assert_eq!(found.tell(5_000), "ann on laptop (pid 7) has been at it for 4 s: up guide.yaml");
        drop(lease);
        assert!(!temporary.path().join("state/lib").exists(), "it leaves no trace");
        dirs.create().unwrap().keep();
        for _ in 0..2 {
            let Taken::Ours(_lease) = Lease::take(&dirs, &holder).unwrap() else { panic!() };
        }
        assert!(dirs.lib().join("log").exists());
    }
}
