//! What is remembered of a process, so that a new supervisor can prove that it is its own.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use cluster::UnitId;
use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::host::files::{StateError, hex, write_for_this_boot};

/// The schema of record.json.
pub(crate) const SCHEMA: &str = "srsctl/unit/v1";

/// record.json: what is known of the process that was started last. Without it, or until it is there, the token in
/// alive.lock is the proof.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// [`SCHEMA`].
    pub(crate) schema: String,
    /// Whose process.
    pub(crate) unit: UnitId,
    /// 128 bits in hex, new for each process; also the text of alive.lock.
    pub(crate) token: String,
    /// The boot in which it was started.
    pub(crate) boot_id: String,
    /// The process.
    pub(crate) process: Identity,
    /// The number of its RTMP listener; none of an encoder.
    #[serde(default)]
    pub(crate) listener_fd: Option<RawFd>,
}

/// departure.json: that the unit's port leaves its place, of the cluster or of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Departing {
    /// Until when whoever is there may stay, ms since boot.
    pub(crate) until_ms: u64,
    /// How long that was from the beginning, ms.
    pub(crate) limit_ms: u64,
    /// Whoever is left then may be disconnected.
    pub(crate) consent: bool,
}

/// A pid, and what makes it one process for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Identity {
    /// Process id.
    pub(crate) pid: u32,
    /// See [`crate::host::procfs::start_ticks`].
    pub(crate) start_ticks: u64,
}

/// The run files of one unit.
#[derive(Clone, Debug)]
pub struct UnitFiles {
    dir: PathBuf,
}

/// Who has the lock of a unit.
#[derive(Debug)]
pub enum AliveLock {
    /// Nobody had; now this.
    Free(File),
    /// A process that was started with it lives.
    Held,
}

impl UnitFiles {
    /// The files in `dir`.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir }
    }

    /// Creates the directory.
    ///
    /// # Errors
    /// When that fails.
    pub fn create(&self) -> Result<(), StateError> {
        use std::os::unix::fs::DirBuilderExt as _;
        fs::DirBuilder::new().mode(0o700).recursive(true).create(&self.dir).map_err(|source| StateError {
            what: "cannot create",
            path: self.dir.clone(),
            source,
        })
    }

    /// The control socket.
    #[must_use]
    pub(crate) fn control(&self) -> PathBuf {
        self.dir.join("ctl.sock")
    }

    /// The lock that a process inherits.
    #[must_use]
    pub fn alive_lock(&self) -> PathBuf {
        self.dir.join("alive.lock")
    }

    fn record(&self) -> PathBuf {
        self.dir.join("record.json")
    }

    /// Takes alive.lock, unless a process has it. The lock belongs to the open file: whoever inherits it holds it.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn take_lock(&self) -> Result<AliveLock, StateError> {
        let path = self.alive_lock();
        let fail = |source| StateError { what: "cannot lock", path: path.clone(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(fail)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(AliveLock::Free(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(AliveLock::Held),
            Err(error) => Err(fail(error.into())),
        }
    }

    /// Takes alive.lock for a new process. A command that looks who lives holds the lock for some microseconds, and so
    /// does a process between fork and exec: only who holds it for longer is a process of the unit.
    ///
    /// # Errors
    /// When the file cannot be used.
    pub fn wait_for_lock(&self) -> Result<AliveLock, StateError> {
        for _ in 0..20 {
            if let AliveLock::Free(file) = self.take_lock()? {
                return Ok(AliveLock::Free(file));
            }
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        self.take_lock()
    }

    /// Before the fork: writes a new token into `lock`, in place, which a full disk allows too, and forgets the
    /// process before. Returns the token.
    ///
    /// # Errors
    /// When that cannot be written; then nothing may be spawned.
    pub(crate) fn begin(&self, lock: &File) -> Result<String, StateError> {
        let fail = |source| StateError { what: "cannot write", path: self.alive_lock(), source };
        let mut token = [0; 16];
        getrandom::fill(&mut token).map_err(|error| fail(io::Error::other(error.to_string())))?;
        let token = hex(&token);
        let _ = fs::remove_file(self.record());
        // The offset stays 0, where the process that shares it starts to read.
        lock.write_all_at(token.as_bytes(), 0)
            .and_then(|()| lock.set_len(token.len() as u64))
            .map_err(fail)?;
        Ok(token)
    }

    /// Writes record.json.
    ///
    /// # Errors
    /// When it cannot be written; then there is none, unless there was one before.
    pub(crate) fn write(&self, record: &Record) -> Result<(), StateError> {
        let mut text = serde_json::to_vec_pretty(record).unwrap_or_default();
        text.push(b'\n');
        write_for_this_boot(&self.record(), &text)
    }

    fn departure(&self) -> PathBuf {
        self.dir.join("departure.json")
    }

    /// Writes departure.json, or removes it.
    ///
    /// # Errors
    /// When it cannot be written; then there is none, unless there was one before.
    pub(crate) fn note_departure(&self, departing: Option<Departing>) -> Result<(), StateError> {
        let Some(departing) = departing else {
            let _ = fs::remove_file(self.departure());
            return Ok(());
        };
        write_for_this_boot(&self.departure(), &serde_json::to_vec(&departing).unwrap_or_default())
    }

    /// Reads departure.json; one that is missing or broken is none.
    #[must_use]
    pub(crate) fn departing(&self) -> Option<Departing> {
        serde_json::from_slice(&read_bounded(&self.departure())?).ok()
    }

    /// Reads record.json. A record that is missing, broken, of a newer schema or of another unit is none: then the
    /// token in alive.lock is all that is known.
    #[must_use]
    pub(crate) fn read(&self, unit: &UnitId) -> Option<Record> {
        let record: Record = serde_json::from_slice(&read_bounded(&self.record())?).ok()?;
        (record.schema == SCHEMA && record.unit == *unit).then_some(record)
    }

    /// Whether the record is there.
    #[must_use]
    pub(crate) fn has_record(&self) -> bool {
        self.record().exists()
    }

    /// The token in alive.lock, if it is one.
    #[must_use]
    pub(crate) fn lock_token(&self) -> Option<String> {
        token_at(&self.alive_lock())
    }

    /// Whether a process holds alive.lock.
    #[must_use]
    pub(crate) fn is_held(&self) -> bool {
        File::open(self.alive_lock()).is_ok_and(|lock| {
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockShared)
                == Err(rustix::io::Errno::WOULDBLOCK)
        })
    }

    /// Another alive.lock, held, with the token of the process that lives, in place of the one that somebody removed or
    /// replaced.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn renew_lock(&self, token: &str) -> Result<File, StateError> {
        self.create()?;
        let (path, new) = (self.alive_lock(), self.dir.join("alive.lock.tmp"));
        let fail = |source| StateError { what: "cannot write", path: path.clone(), source };
        let mut file = OpenOptions::new();
        let file = file.read(true).write(true).create(true).truncate(true).mode(0o600).open(&new);
        let file = file.map_err(fail)?;
        rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|error| fail(error.into()))?;
        file.write_all_at(token.as_bytes(), 0).and_then(|()| fs::rename(&new, &path)).map_err(fail)?;
        Ok(file)
    }

    /// Forgets the process.
    pub(crate) fn forget(&self) {
        let _ = fs::remove_file(self.record());
        let _ = fs::remove_file(self.control());
    }

    /// Forgets the unit.
    pub(crate) fn remove(&self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The token in a lock file, if there is one.
pub(crate) fn token_at(path: &Path) -> Option<String> {
    let text = String::from_utf8(read_bounded(path)?).ok()?;
    (text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit())).then_some(text)
}

/// These files are short; whatever is longer is none of ours.
fn read_bounded(path: &Path) -> Option<Vec<u8>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(4096).read_to_end(&mut bytes).ok()?;
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::Role;

    fn unit() -> UnitId {
        UnitId::worker(Role::Edge, "127.0.0.6", 1935)
    }

    fn files(temporary: &tempfile::TempDir) -> UnitFiles {
        UnitFiles::new(temporary.path().to_owned())
    }

    fn written(files: &UnitFiles) -> Record {
        let AliveLock::Free(lock) = files.wait_for_lock().unwrap() else { panic!("held") };
        let record = Record {
            schema: SCHEMA.to_owned(),
            unit: unit(),
            token: files.begin(&lock).unwrap(),
            boot_id: "boot".to_owned(),
            process: Identity { pid: 42, start_ticks: 4711 },
            listener_fd: Some(9),
        };
        files.write(&record).unwrap();
        record
    }

    #[test]
    fn a_record_comes_back_as_it_was_written() {
        let temporary = tempfile::tempdir().unwrap();
        let files = files(&temporary);
        let record = written(&files);
        assert_eq!(files.read(&unit()).as_ref(), Some(&record));
        assert_eq!(files.lock_token(), Some(record.token));
    }

    #[test]
    fn a_departure_comes_back_as_it_was_written_and_a_broken_one_is_none() {
        let temporary = tempfile::tempdir().unwrap();
        let files = files(&temporary);
        let departing = Departing { until_ms: 7, limit_ms: 30_000, consent: true };
        assert_eq!(files.departing(), None);
        files.note_departure(Some(departing)).unwrap();
        assert_eq!(files.departing(), Some(departing));
        let whole = fs::read(files.departure()).unwrap();
        for end in 0..whole.len() - 1 {
            fs::write(files.departure(), &whole[..end]).unwrap();
            assert_eq!(files.departing(), None, "cut at {end}");
        }
        files.note_departure(None).unwrap();
        assert!(!files.departure().exists());
    }

    #[test]
    fn each_process_has_another_token() {
        let temporary = tempfile::tempdir().unwrap();
        let files = files(&temporary);
        assert_ne!(written(&files).token, written(&files).token);
    }

    #[test]
    fn a_new_token_replaces_whatever_was_in_the_lock_file_and_the_old_record() {
        let temporary = tempfile::tempdir().unwrap();
        let files = files(&temporary);
        for before in ["", "short", &"x".repeat(100)] {
            written(&files);
            fs::write(files.alive_lock(), before).unwrap();
            let AliveLock::Free(lock) = files.wait_for_lock().unwrap() else { panic!("held") };
            let token = files.begin(&lock).unwrap();
            assert_eq!(files.lock_token(), Some(token));
            assert_eq!(files.read(&unit()), None);
        }
    }

    #[test]
    fn a_record_cut_at_any_byte_is_none_and_the_token_is_still_known() {
        let temporary = tempfile::tempdir().unwrap();
        let files = files(&temporary);
        let record = written(&files);
        let whole = fs::read(files.record()).unwrap();
        for end in 0..whole.len() - 2 {
            fs::write(files.record(), &whole[..end]).unwrap();
            assert_eq!(files.read(&unit()), None, "cut at {end}");
        }
        assert_eq!(files.lock_token(), Some(record.token));
    }

    #[test]
    fn a_record_of_a_newer_schema_or_another_unit_is_none() {
        let temporary = tempfile::tempdir().unwrap();
        let files = files(&temporary);
        let record = written(&files);
        assert_eq!(files.read(&UnitId::encoder()), None);
        files.write(&Record { schema: "srsctl/unit/v2".into(), ..record }).unwrap();
        assert_eq!(files.read(&unit()), None);
    }

    #[test]
    fn garbage_in_the_lock_file_is_no_token() {
        let temporary = tempfile::tempdir().unwrap();
        let files = files(&temporary);
        for garbage in [&b""[..], b"short", &[0xff; 32], &[b'a'; 33], &[b'z'; 32], &[b'a'; 9000]] {
            fs::write(files.alive_lock(), garbage).unwrap();
            assert_eq!(files.lock_token(), None);
        }
    }

    #[test]
    fn who_looks_for_a_moment_does_not_keep_the_lock_from_a_new_process() {
        let temporary = tempfile::tempdir().unwrap();
        let files = files(&temporary);
        let AliveLock::Free(looker) = files.wait_for_lock().unwrap() else { panic!("held") };
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| files.wait_for_lock().unwrap());
            drop(looker);
            assert!(matches!(waiter.join().unwrap(), AliveLock::Free(_)));
        });
    }

    #[test]
    fn a_lock_that_was_removed_or_replaced_is_held_again_with_the_token_that_it_had() {
        let temporary = tempfile::tempdir().unwrap();
        let files = files(&temporary);
        let token = written(&files).token;
        for replaced in [None, Some("another")] {
            fs::remove_file(files.alive_lock()).unwrap();
            if let Some(text) = replaced {
                fs::write(files.alive_lock(), text).unwrap();
            }
            let lock = files.renew_lock(&token).unwrap();
            assert!(files.is_held());
            assert_eq!(files.lock_token().as_ref(), Some(&token));
            drop(lock);
        }
    }

    #[test]
    fn the_lock_is_held_as_long_as_any_duplicate_of_it_lives() {
        let temporary = tempfile::tempdir().unwrap();
        let files = files(&temporary);
        let AliveLock::Free(lock) = files.wait_for_lock().unwrap() else { panic!("held") };
        let inherited = lock.try_clone().unwrap();
        drop(lock);
        assert!(matches!(files.take_lock().unwrap(), AliveLock::Held));
        drop(inherited);
        assert!(matches!(files.wait_for_lock().unwrap(), AliveLock::Free(_)));
    }
}
