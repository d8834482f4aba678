//! The events of a cluster: the newest in memory, and the same in a file that outlives the supervisor.
//!
//! The file has a line of JSON for each event and is appended to. It is written anew, all at once, when it has grown to twice what is
//! kept, and when it is not what was written last: somebody has removed it, or the disk was full. What cannot be written waits in
//! memory; nothing else waits for it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use cluster::events::{Event, Happening, Kind, timestamp};

use super::files::{FileId, StateError, write_atomic};

/// Events that are kept.
const KEPT: usize = 4_096;
/// Lines of the file; then it is written anew.
const LINES_MAX: usize = 2 * KEPT;
/// Characters of what is said of an event; the rest is left out.
const TEXT_MAX: usize = 1_000;
/// Bytes read of a file, from its end: more than a supervisor writes.
const READ_MAX: u64 = 64 << 20;

/// Events, and the file that has them.
#[derive(Debug)]
pub(crate) struct Journal {
    path: PathBuf,
    events: VecDeque<Event>,
    /// The number of the newest.
    newest: u64,
    /// The file that has them all, and its lines.
    written: Option<(FileId, usize)>,
    /// Why there is none.
    fails: Option<String>,
}

impl Journal {
    /// Goes on with what is at `path`, as far as that can be read.
    pub(crate) fn open(path: PathBuf) -> Self {
        let (mut events, is_whole) = read_lines(&path).unwrap_or_default();
        let lines = events.len();
        events.drain(..lines.saturating_sub(KEPT));
        let newest = events.iter().map(|event| event.number).max().unwrap_or(0);
        let written = FileId::at(&path).filter(|_| is_whole).map(|file| (file, lines));
        Self { path, events: events.into(), newest, written, fails: None }
    }

    /// Whether the supervisor that wrote last ended without a word.
    pub(crate) fn was_left_open(&self) -> bool {
        let of_supervisor =
            |event: &&Event| matches!(event.what.kind, Kind::SupervisorStarted | Kind::SupervisorEnded);
        let last = self.events.iter().rev().find(of_supervisor);
        last.is_some_and(|event| event.what.kind == Kind::SupervisorStarted)
    }

    /// Keeps what happened `now`.
    pub(crate) fn add(&mut self, now: SystemTime, mut what: Happening) {
        if let Some((end, _)) = what.text.char_indices().nth(TEXT_MAX) {
            what.text.truncate(end);
            what.text.push('…');
        }
        self.newest = self.newest.saturating_add(1);
        let at = timestamp(now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default());
        self.events.push_back(Event { number: self.newest, at, what });
        if self.events.len() > KEPT {
            self.events.pop_front();
        }
        let appended = match (self.written, self.events.back()) {
            (Some((file, lines)), Some(event))
                if lines < LINES_MAX && FileId::at(&self.path) == Some(file) =>
            {
                append(&self.path, &line(event)).map(|()| Some((file, lines + 1)))
            }
            _ => Ok(None),
        };
        // What is written in part is written anew.
        self.written = appended.unwrap_or_default();
        self.tend();
    }

    /// Writes what could not be written, and puts back what was removed.
    pub(crate) fn tend(&mut self) {
        let is_there = self.written.is_some_and(|(file, _)| FileId::at(&self.path) == Some(file));
        if is_there || self.events.is_empty() {
            return;
        }
        self.written = None;
        let text: String = self.events.iter().map(line).collect();
        match write_atomic(&self.path, text.as_bytes()) {
            Ok(()) => {
                self.written = FileId::at(&self.path).map(|file| (file, self.events.len()));
                self.fails = None;
            }
            Err(error) => {
                let why = error.to_string();
                if self.fails.as_ref() != Some(&why) {
                    tracing::warn!(%error, "events are kept in memory alone");
                    self.fails = Some(why);
                }
            }
        }
    }

    /// Whether the newest of the same unit that is told of a worker is of the same one.
    pub(crate) fn has_worker(&self, what: &Happening) -> bool {
        let of_worker = |event: &&Event| {
            event.what.unit == what.unit
                && matches!(
                    event.what.kind,
                    Kind::Resumed | Kind::Renewed | Kind::ColdStart | Kind::WentBack | Kind::Started
                )
        };
        self.events.iter().rev().find(of_worker).is_some_and(|event| event.what.pid == what.pid)
    }

    /// Those behind number `after`, and the number of the newest.
    pub(crate) fn after(&self, after: u64) -> (Vec<Event>, u64) {
        (self.events.iter().filter(|event| event.number > after).cloned().collect(), self.newest)
    }
}

/// The events that the file at `path` has, the newest of them; none if there is no file.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn read(path: &Path) -> Result<Vec<Event>, StateError> {
    let (mut events, _) = read_lines(path).map_err(|source| StateError {
        what: "cannot read",
        path: path.to_owned(),
        source,
    })?;
    events.drain(..events.len().saturating_sub(KEPT));
    Ok(events)
}

/// What can be read of the file, and whether that is all.
fn read_lines(path: &Path) -> io::Result<(Vec<Event>, bool)> {
    let mut file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), false)),
        Err(error) => return Err(error),
    };
    let before = file.metadata()?.len().saturating_sub(READ_MAX);
    file.seek(SeekFrom::Start(before))?;
    let mut bytes = Vec::new();
    file.take(READ_MAX).read_to_end(&mut bytes)?;
    let mut is_whole = before == 0 && (bytes.is_empty() || bytes.ends_with(b"\n"));
    let mut events: Vec<Event> = Vec::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        match serde_json::from_slice::<Event>(line) {
            // A file that somebody put together has no order that holds.
            Ok(event) if events.last().is_none_or(|last| last.number < event.number) => events.push(event),
            Ok(_) | Err(_) => is_whole = false,
        }
    }
    Ok((events, is_whole))
}

fn line(event: &Event) -> String {
    // It has no map with other keys than texts, which alone could fail.
    let mut line = serde_json::to_string(event).unwrap_or_default();
    line.push('\n');
    line
}

fn append(path: &Path, line: &str) -> io::Result<()> {
    let nofollow = rustix::fs::OFlags::NOFOLLOW.bits().cast_signed();
    let mut file = OpenOptions::new().append(true).custom_flags(nofollow).open(path)?;
    file.write_all(line.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn happening(text: &str) -> Happening {
        Happening { kind: Kind::Warning, unit: None, pid: None, by: None, text: text.to_owned() }
    }

    fn add(journal: &mut Journal, text: &str) {
        journal.add(SystemTime::UNIX_EPOCH, happening(text));
    }

    fn texts(events: &[Event]) -> Vec<&str> {
        events.iter().map(|event| event.what.text.as_str()).collect()
    }

    fn scratch() -> (tempfile::TempDir, PathBuf) {
        let temporary = tempfile::tempdir().unwrap();
        let path = temporary.path().join("lib/events.jsonl");
        (temporary, path)
    }

    #[test]
    fn the_next_supervisor_goes_on_with_the_events_and_the_numbers_of_the_one_before() {
        let (_temporary, path) = scratch();
        let mut journal = Journal::open(path.clone());
        add(&mut journal, "one");
        let text: String = (0..2 * TEXT_MAX).map(|_| 'ü').collect();
        add(&mut journal, &text);
        let mut next = Journal::open(path.clone());
        add(&mut next, "three");
        let (events, newest) = next.after(0);
        assert_eq!((events.len(), newest), (3, 3));
        assert_eq!(events[1].what.text.chars().count(), TEXT_MAX + 1);
        assert_eq!(texts(&next.after(2).0), ["three"]);
        assert_eq!(read(&path).unwrap(), events);
        assert_eq!(events[0].at, "1970-01-01T00:00:00.000Z");
    }

    #[test]
    fn a_worker_is_known_to_have_been_told_of_as_long_as_no_other_was() {
        let (_temporary, path) = scratch();
        let unit = |pid, kind| Happening { kind, pid: Some(pid), ..happening("") };
        let mut journal = Journal::open(path.clone());
        let has = |journal: &Journal| [7, 8].map(|pid| journal.has_worker(&unit(pid, Kind::Resumed)));
        assert_eq!(has(&journal), [false, false]);
        journal.add(SystemTime::UNIX_EPOCH, unit(7, Kind::Renewed));
        journal.add(SystemTime::UNIX_EPOCH, unit(8, Kind::Adopted));
        assert_eq!(has(&Journal::open(path)), [true, false]);
        journal.add(SystemTime::UNIX_EPOCH, unit(8, Kind::Resumed));
        assert_eq!(has(&journal), [false, true]);
    }

    #[test]
    fn no_more_is_kept_than_the_newest_and_the_file_is_written_anew_before_it_is_long() {
        let (_temporary, path) = scratch();
        let mut journal = Journal::open(path.clone());
        for number in 0..LINES_MAX + KEPT + 5 {
            add(&mut journal, &number.to_string());
            assert!(journal.events.len() <= KEPT);
        }
        let text = fs::read_to_string(&path).unwrap();
        assert!((KEPT..=LINES_MAX).contains(&text.lines().count()), "{}", text.lines().count());
        let kept = read(&path).unwrap();
        assert_eq!((kept.len(), kept[0].number), (KEPT, (LINES_MAX + 6) as u64));
    }

    #[test]
    fn what_cannot_be_written_or_was_removed_or_torn_is_written_as_soon_as_it_can_be() {
        let (_temporary, path) = scratch();
        fs::create_dir_all(&path).unwrap();
        let mut journal = Journal::open(path.clone());
        add(&mut journal, "a directory is in the way");
        assert_eq!(journal.after(0).0.len(), 1, "it is kept");
        assert!(journal.fails.is_some());
        fs::remove_dir(&path).unwrap();
        journal.tend();
        assert_eq!(read(&path).unwrap().len(), 1);
        fs::remove_dir_all(path.parent().unwrap()).unwrap();
        add(&mut journal, "the directory was removed");
        assert_eq!(read(&path).unwrap().len(), 2);
        fs::remove_file(&path).unwrap();
        journal.tend();
        assert_eq!(read(&path).unwrap(), journal.after(0).0);
        // Half a line, as of a disk that was full.
        let torn = fs::read_to_string(&path).unwrap();
        fs::write(&path, &torn[..torn.len() - 9]).unwrap();
        let mut next = Journal::open(path.clone());
        add(&mut next, "after it");
        assert_eq!(texts(&read(&path).unwrap()), ["a directory is in the way", "after it"]);
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), 2);
    }

    #[test]
    fn a_supervisor_that_was_killed_is_known_by_what_it_did_not_say() {
        let (_temporary, path) = scratch();
        let mut journal = Journal::open(path);
        assert!(!journal.was_left_open());
        for (kind, is_open) in
            [(Kind::SupervisorStarted, true), (Kind::Died, true), (Kind::SupervisorEnded, false)]
        {
            journal.add(SystemTime::UNIX_EPOCH, Happening { kind, ..happening("") });
            assert_eq!(journal.was_left_open(), is_open);
        }
    }
}
