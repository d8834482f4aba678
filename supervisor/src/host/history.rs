//! The cluster files that were in force: each with its number, in a file of its own, the newest few.
//!
//! A file is written here first and put in force then. So one that is newer than the one in force was never in force: a supervisor was
//! killed in between. It is not told of, and goes with the next one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use cluster::events::{By, timestamp};
use cluster::plan::digest;
use control::api::Apply;
use serde::{Deserialize, Serialize};

use crate::host::dirs::ClusterDirs;
use crate::host::files::{StateError, write_atomic};

/// The name of the schema of one file.
const SCHEMA: &str = "srsctl/generation/v1";
/// Files of a cluster that are kept: enough to find the one that worked, each at most a cluster file long.
const KEPT: usize = 10;

/// A cluster file that is or was in force.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Generation {
    schema: String,
    /// One more than that of the one before it.
    pub number: u64,
    /// When it was brought into force, in UTC.
    pub at: String,
    /// Who asked for it, as far as that is known.
    pub by: Option<By>,
    /// What it changed, in short.
    pub what: String,
    /// Absolute path that it came from.
    pub path: PathBuf,
    /// SHA-256 of its text.
    pub digest: String,
    /// What is written in it.
    pub text: String,
    /// The hosts of it that were this machine; without any, all were.
    #[serde(default)]
    pub hosts: Vec<String>,
}

/// A file that is to be in force.
pub(crate) struct New<'a> {
    pub(crate) file: &'a Apply,
    pub(crate) by: Option<By>,
    /// What it changes, in short.
    pub(crate) what: String,
}

/// The files that are and were in force, the newest last: the one that is in force, where any is.
///
/// # Errors
/// When the directory cannot be read; a file that cannot be is passed over.
pub fn generations(dirs: &ClusterDirs) -> Result<Vec<Generation>, StateError> {
    let mut all: Vec<Generation> = files(dirs)?.into_iter().filter_map(|(_, path)| read(&path)).collect();
    let in_force = dirs.in_force()?;
    let newest = all.iter().rposition(|it| in_force.as_ref().is_some_and(|(_, text)| *text == it.text));
    all.truncate(newest.map_or(all.len(), |newest| newest + 1));
    Ok(all)
}

/// Puts a file in force, and remembers it; gives its number. That of the one that is in force already stays.
///
/// # Errors
/// When it cannot be written; then the one before is in force, whole.
pub(crate) fn put_in_force(dirs: &ClusterDirs, new: New<'_>, now: SystemTime) -> Result<u64, StateError> {
    let mut known = generations(dirs)?;
    if let (true, Some((path, text))) = (known.is_empty(), dirs.in_force()?)
        && text != new.file.text
    {
        // It was brought into force before files were remembered.
        let what = "in force before files were remembered".to_owned();
        let file = Apply { hosts: dirs.hosts_in_force()?, ..Apply::new(path, text) };
        known.push(write(dirs, 1, New { file: &file, by: None, what }, now)?);
    }
    let Apply { path, text, hosts, .. } = new.file;
    let is_same = |last: &&Generation| (&last.path, &last.text, &last.hosts) == (path, text, hosts);
    if let Some(last) = known.last().filter(is_same) {
        dirs.put_in_force(path, text, hosts)?;
        return Ok(last.number);
    }
    let next = known.last().map_or(1, |last| last.number + 1);
    let written = write(dirs, next, new, now)?;
    if let Err(error) = dirs.put_in_force(path, text, hosts) {
        let _ = fs::remove_file(file(dirs, written.number));
        return Err(error);
    }
    let all = files(dirs)?;
    // Those that were never in force, and those that are too many.
    let is_left = |number: &u64| *number > next || *number + (KEPT as u64) <= next;
    for (_, path) in all.into_iter().filter(|(number, _)| is_left(number)) {
        let _ = fs::remove_file(path);
    }
    Ok(next)
}

/// What was in force at some moment, and the number of it.
#[derive(Debug)]
pub(crate) struct Before {
    number: u64,
    in_force: Option<(PathBuf, String, Vec<String>)>,
}

impl Before {
    /// What is in force now.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(crate) fn now(dirs: &ClusterDirs) -> Result<Self, StateError> {
        let hosts = dirs.hosts_in_force()?;
        let in_force = dirs.in_force()?.map(|(path, text)| (path, text, hosts));
        Ok(Self { number: newest(dirs), in_force })
    }

    /// Puts that in force again, and forgets what came after it: that has never served anybody.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn bring_back(&self, dirs: &ClusterDirs) -> Result<(), StateError> {
        match &self.in_force {
            Some((path, text, hosts)) => dirs.put_in_force(path, text, hosts)?,
            None => dirs.nothing_in_force(),
        }
        for (_, path) in files(dirs)?.into_iter().filter(|(number, _)| *number > self.number) {
            let _ = fs::remove_file(path);
        }
        Ok(())
    }
}

/// The number of the file in force; 0 where that is not known.
pub(crate) fn newest(dirs: &ClusterDirs) -> u64 {
    generations(dirs).ok().and_then(|all| Some(all.last()?.number)).unwrap_or(0)
}

fn write(dirs: &ClusterDirs, number: u64, new: New<'_>, now: SystemTime) -> Result<Generation, StateError> {
    let New { file: Apply { path, text, hosts, .. }, by, what } = new;
    let generation = Generation {
        schema: SCHEMA.to_owned(),
        number,
        at: timestamp(now.duration_since(UNIX_EPOCH).unwrap_or_default()),
        by,
        what,
        path: path.clone(),
        digest: digest(text),
        text: text.clone(),
        hosts: hosts.clone(),
    };
    let dir = dirs.history();
    let fail = |source| StateError { what: "cannot create state directory", path: dir.clone(), source };
    match fs::create_dir(&dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(fail(error)),
        Ok(()) | Err(_) => {}
    }
    let json = serde_json::to_vec(&generation).map_err(|error| fail(io::Error::other(error)))?;
    write_atomic(&self::file(dirs, number), &json)?;
    Ok(generation)
}

fn read(path: &Path) -> Option<Generation> {
    let generation: Generation = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    // Somebody has edited it.
    (generation.schema == SCHEMA && digest(&generation.text) == generation.digest).then_some(generation)
}

fn file(dirs: &ClusterDirs, number: u64) -> PathBuf {
    dirs.history().join(format!("{number}.json"))
}

/// By number.
fn files(dirs: &ClusterDirs) -> Result<Vec<(u64, PathBuf)>, StateError> {
    let dir = dirs.history();
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(StateError { what: "cannot read", path: dir, source }),
    };
    let numbered = entries.flatten().filter_map(|entry| {
        let number = entry.file_name().to_str()?.strip_suffix(".json")?.parse().ok()?;
        Some((number, entry.path()))
    });
    let mut numbered: Vec<_> = numbered.collect();
    numbered.sort();
    Ok(numbered)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::dirs::StateRoots;

    fn put(dirs: &ClusterDirs, text: &str) -> u64 {
        let file = Apply::new("/c.yaml".into(), text.to_owned());
        let new = New { file: &file, by: None, what: format!("for {text}") };
        put_in_force(dirs, new, SystemTime::now()).unwrap()
    }

    fn texts(dirs: &ClusterDirs) -> Vec<(u64, String)> {
        generations(dirs).unwrap().into_iter().map(|it| (it.number, it.text)).collect()
    }

    #[test]
    fn each_other_file_has_the_next_number_and_the_newest_are_kept() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = StateRoots::resolve(Some(temporary.path())).unwrap().cluster("live");
        dirs.create().unwrap().keep();
        assert_eq!((texts(&dirs), newest(&dirs)), (vec![], 0));
        assert_eq!([put(&dirs, "a"), put(&dirs, "a"), put(&dirs, "b"), put(&dirs, "a")], [1, 1, 2, 3]);
        assert_eq!(texts(&dirs), [(1, "a".to_owned()), (2, "b".to_owned()), (3, "a".to_owned())]);
        for number in 4..40 {
            assert_eq!(put(&dirs, &number.to_string()), number);
        }
        let kept: Vec<u64> = texts(&dirs).into_iter().map(|(number, _)| number).collect();
        assert_eq!(kept, (30..40).collect::<Vec<_>>());
        assert_eq!(fs::read_dir(dirs.history()).unwrap().count(), KEPT);
    }

    #[test]
    fn one_that_was_written_and_not_put_in_force_is_not_told_of_and_its_number_is_used_again() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = StateRoots::resolve(Some(temporary.path())).unwrap().cluster("live");
        dirs.create().unwrap().keep();
        put(&dirs, "a");
        // A supervisor is killed.
        let lost = Apply::new("/c.yaml".into(), "lost".to_owned());
        let lost = New { file: &lost, by: None, what: String::new() };
        write(&dirs, 2, lost, SystemTime::now()).unwrap();
        assert_eq!((texts(&dirs), newest(&dirs)), (vec![(1, "a".to_owned())], 1));
        assert_eq!([put(&dirs, "a"), put(&dirs, "b")], [1, 2]);
        assert_eq!(texts(&dirs), [(1, "a".to_owned()), (2, "b".to_owned())]);
    }

    #[test]
    fn what_was_in_force_before_a_start_that_was_interrupted_is_so_again() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = StateRoots::resolve(Some(temporary.path())).unwrap().cluster("live");
        dirs.create().unwrap().keep();
        let before = Before::now(&dirs).unwrap();
        put(&dirs, "a");
        before.bring_back(&dirs).unwrap();
        assert_eq!((texts(&dirs), dirs.in_force().unwrap()), (vec![], None));
        put(&dirs, "a");
        let before = Before::now(&dirs).unwrap();
        put(&dirs, "b");
        before.bring_back(&dirs).unwrap();
        assert_eq!((texts(&dirs), newest(&dirs)), (vec![(1, "a".to_owned())], 1));
        assert_eq!(dirs.in_force().unwrap().unwrap().1, "a");
    }

    #[test]
    fn what_was_in_force_before_files_were_remembered_can_be_brought_back_and_an_edited_one_cannot() {
        let temporary = tempfile::tempdir().unwrap();
        let dirs = StateRoots::resolve(Some(temporary.path())).unwrap().cluster("live");
        dirs.create().unwrap().keep();
        dirs.put_in_force(Path::new("/c.yaml"), "old", &[]).unwrap();
        assert_eq!(put(&dirs, "new"), 2);
        assert_eq!(texts(&dirs), [(1, "old".to_owned()), (2, "new".to_owned())]);
        let first = fs::read_to_string(file(&dirs, 1)).unwrap();
        fs::write(file(&dirs, 1), first.replace("old", "odd")).unwrap();
        assert_eq!(texts(&dirs), [(2, "new".to_owned())]);
    }
}
