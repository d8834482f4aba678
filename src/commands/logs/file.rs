//! One log: its last lines, and those that come, however it is put aside, cut, removed or made.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

/// Bytes read of one log at once at most: more lines than anyone reads.
const TAIL_MAX: u64 = 4 << 20;

/// Bytes of a line at most; the rest of a longer one is a line of its own.
const LINE_MAX: usize = 64 << 10;

/// Bytes in front of the place that was read up to, by which it is known again: the time of their line is among them.
const MARK: usize = 512;

/// A log that is read up to some place.
pub(super) struct LogFile {
    path: PathBuf,
    /// None while there is none.
    file: Option<File>,
    /// What was read of it, bytes.
    at: u64,
    /// The last bytes that were read, at most [`MARK`].
    mark: Vec<u8>,
    /// The beginning of a line whose end is not there yet.
    rest: Vec<u8>,
}

impl LogFile {
    /// The log at `path`, whether or not there is one by now, from its begin on.
    pub(super) fn new(path: PathBuf) -> Self {
        Self { path, file: None, at: 0, mark: Vec::new(), rest: Vec::new() }
    }

    /// Its last `count` whole lines, those of the logs that were put aside lately too; then it is read up to its end.
    ///
    /// # Errors
    /// When it is there and cannot be read.
    pub(super) fn tail(&mut self, count: usize) -> io::Result<VecDeque<String>> {
        let mut lines = VecDeque::new();
        if let Some(file) = open(&self.path)? {
            self.at = file.metadata()?.len().saturating_sub(TAIL_MAX);
            let is_whole = self.at == 0;
            self.file = Some(file);
            lines.extend(self.read_on()?);
            if !is_whole {
                // It began in the middle.
                lines.pop_front();
            }
        }
        let mut number = 0;
        while lines.len() < count {
            number += 1;
            let Some(older) = open(&put_aside(&self.path, number))? else { break };
            let mut older = Self { file: Some(older), ..Self::new(PathBuf::new()) };
            older.at = older.len()?.saturating_sub(TAIL_MAX);
            let mut before = older.read_on()?;
            before.extend(older.end_line());
            before.into_iter().rev().for_each(|line| lines.push_front(line));
        }
        lines.drain(..lines.len().saturating_sub(count));
        Ok(lines)
    }

    /// The line that has no end yet.
    pub(super) fn end_line(&mut self) -> Option<String> {
        let rest = std::mem::take(&mut self.rest);
        (!rest.is_empty()).then(|| String::from_utf8_lossy(&rest).into_owned())
    }

    /// The whole lines that were written since. What is read is all of a log that was put aside or removed, then its
    /// successor; a log that was cut is read from its begin on, and a copy that took its place from where it was read up to.
    ///
    /// # Errors
    /// When it cannot be read now; it may be the next time.
    pub(super) fn new_lines(&mut self) -> io::Result<Vec<String>> {
        // Looked at before the rest is read: what comes into the old file later is its process's last word.
        let named = open(&self.path)?;
        let mut lines = self.read_on()?;
        let successor = named.filter(|named| self.file.as_ref().is_none_or(|file| !is_same(named, file)));
        if let Some(successor) = successor
            && self.at >= self.len()?
        {
            if !self.is_continued_by(&successor) {
                lines.extend(self.end_line());
                self.at = 0;
                self.mark.clear();
            }
            self.file = Some(successor);
            lines.extend(self.read_on()?);
        }
        Ok(lines)
    }

    /// Whether `successor` begins as this log did, as far as it was read.
    fn is_continued_by(&self, successor: &File) -> bool {
        let Some(file) = &self.file else { return false };
        let begins = |file: &File| {
            let mut begin = vec![0; MARK.min(usize::try_from(self.at).unwrap_or(MARK))];
            file.read_exact_at(&mut begin, 0).ok().map(|()| begin)
        };
        let mut mark = vec![0; self.mark.len()];
        let is_marked = successor.read_exact_at(&mut mark, self.at - self.mark.len() as u64).is_ok();
        self.at > 0
            && is_marked
            && mark == self.mark
            && begins(file).is_some_and(|begin| Some(begin) == begins(successor))
    }

    fn len(&self) -> io::Result<u64> {
        self.file.as_ref().map_or(Ok(0), |file| Ok(file.metadata()?.len()))
    }

    /// The whole lines between the place that was read up to and the end, or a bound.
    fn read_on(&mut self) -> io::Result<Vec<String>> {
        let mut lines = Vec::new();
        let len = self.len()?;
        let Some(file) = &self.file else { return Ok(lines) };
        let mut before = vec![0; self.mark.len()];
        let begin = self.at - before.len() as u64;
        let is_here = len >= self.at && file.read_exact_at(&mut before, begin).is_ok();
        if !is_here || before != self.mark {
            // Cut, and perhaps written again as far as this.
            self.at = 0;
            self.mark.clear();
            lines.extend(self.end_line());
        }
        let Some(file) = &self.file else { return Ok(lines) };
        let length = usize::try_from((len - self.at).min(TAIL_MAX)).unwrap_or_default();
        let mut bytes = vec![0; length];
        file.read_exact_at(&mut bytes, self.at)?;
        self.at += bytes.len() as u64;
        self.mark.extend_from_slice(&bytes[bytes.len().saturating_sub(MARK)..]);
        self.mark.drain(..self.mark.len().saturating_sub(MARK));
        for piece in bytes.split_inclusive(|byte| *byte == b'\n') {
            self.rest.extend_from_slice(piece);
            if piece.ends_with(b"\n") || self.rest.len() >= LINE_MAX {
                let line = String::from_utf8_lossy(&self.rest);
                lines.push(line.strip_suffix('\n').unwrap_or(&line).to_owned());
                self.rest.clear();
            }
        }
        Ok(lines)
    }
}

/// None if there is none.
fn open(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn is_same(a: &File, b: &File) -> bool {
    let inode = |file: &File| file.metadata().ok().map(|metadata| (metadata.dev(), metadata.ino()));
    inode(a) == inode(b)
}

/// Where the supervisor puts a full log; 1 is the newest.
fn put_aside(path: &Path, number: u32) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::io::Write as _;

    use super::*;

    struct Scratch(tempfile::TempDir);

    impl Scratch {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self) -> PathBuf {
            self.0.path().join("edge.log")
        }

        fn append(&self, text: &str) -> File {
            let mut file = File::options().create(true).append(true).open(self.path()).unwrap();
            file.write_all(text.as_bytes()).unwrap();
            file
        }
    }

    #[test]
    fn the_last_lines_go_back_into_the_logs_that_were_put_aside() {
        let scratch = Scratch::new();
        fs::write(put_aside(&scratch.path(), 2), "one\ntwo\n").unwrap();
        fs::write(put_aside(&scratch.path(), 1), "three\n").unwrap();
        let mut log = LogFile::new(scratch.path());
        assert_eq!(log.tail(2).unwrap(), ["two", "three"], "the newest was removed");
        drop(scratch.append("four\nfi"));
        for (count, expected) in [
            (0, &[][..]),
            (1, &["four"]),
            (3, &["two", "three", "four"]),
            (9, &["one", "two", "three", "four"]),
        ] {
            let mut log = LogFile::new(scratch.path());
            assert_eq!(log.tail(count).unwrap(), expected);
            assert_eq!(log.end_line().as_deref(), Some("fi"));
        }
    }

    #[test]
    fn a_log_that_is_put_aside_is_read_to_its_end_and_then_its_successor() {
        let scratch = Scratch::new();
        let mut old = scratch.append("one\ntwo\n");
        let mut log = LogFile::new(scratch.path());
        assert_eq!(log.tail(1).unwrap(), ["two"]);
        old.write_all(b"three\n").unwrap();
        fs::rename(scratch.path(), put_aside(&scratch.path(), 1)).unwrap();
        // Longer than what was read of the old one.
        drop(scratch.append("four, which is longer\nfi"));
        assert_eq!(log.new_lines().unwrap(), ["three", "four, which is longer"]);
        drop(scratch.append("ve\n"));
        assert_eq!(log.new_lines().unwrap(), ["five"]);
    }

    #[test]
    fn a_copy_that_takes_the_place_of_a_log_is_read_behind_what_was_read() {
        for begin in ["one\ntwo\nthr", &"a line of a longer log\n".repeat(100)] {
            let scratch = Scratch::new();
            drop(scratch.append(begin));
            let mut log = LogFile::new(scratch.path());
            log.tail(9).unwrap();
            for _ in 0..2 {
                let copy = scratch.path().with_extension("new");
                fs::copy(scratch.path(), &copy).unwrap();
                fs::rename(copy, scratch.path()).unwrap();
                drop(scratch.append("ee\nfour\n"));
                assert_eq!(log.new_lines().unwrap().last().unwrap(), "four");
                assert!(log.new_lines().unwrap().is_empty());
            }
            assert_eq!(log.at, begin.len() as u64 + 16);
            // One that begins in another way is read whole.
            fs::write(scratch.path().with_extension("new"), "x".repeat(4_000) + "\n").unwrap();
            fs::rename(scratch.path().with_extension("new"), scratch.path()).unwrap();
            assert_eq!(log.new_lines().unwrap().len(), 1);
        }
    }

    #[test]
    fn a_log_that_is_cut_is_read_from_its_begin_however_long_it_is_by_then() {
        let scratch = Scratch::new();
        let file = scratch.append("one\ntwo\nthr");
        let mut log = LogFile::new(scratch.path());
        assert_eq!(log.tail(9).unwrap(), ["one", "two"]);
        for again in ["a\n", "much longer than all that was there before\nb\n"] {
            file.set_len(0).unwrap();
            drop(scratch.append(again));
            let lines = log.new_lines().unwrap();
            assert_eq!(lines[lines.len() - again.lines().count()..], again.lines().collect::<Vec<_>>());
        }
        assert!(log.new_lines().unwrap().is_empty());
    }

    #[test]
    fn a_log_that_is_removed_or_not_there_yet_is_waited_for() {
        let scratch = Scratch::new();
        let mut log = LogFile::new(scratch.path());
        assert!(log.tail(9).unwrap().is_empty() && log.new_lines().unwrap().is_empty());
        let mut old = scratch.append("one\n");
        assert_eq!(log.new_lines().unwrap(), ["one"]);
        fs::remove_file(scratch.path()).unwrap();
        old.write_all(b"two\n").unwrap();
        assert_eq!(log.new_lines().unwrap(), ["two"], "its process still writes there");
        drop(scratch.append("three\n"));
        assert_eq!(log.new_lines().unwrap(), ["three"]);
    }

    #[test]
    fn a_line_without_end_is_not_kept_without_end() {
        let scratch = Scratch::new();
        drop(scratch.append(&"x".repeat(3 * LINE_MAX)));
        let mut log = LogFile::new(scratch.path());
        log.new_lines().unwrap();
        assert!(log.rest.len() <= LINE_MAX, "{}", log.rest.len());
    }
}
