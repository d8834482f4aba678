//! The program as `srsctl host install` puts it on a machine: each version under its own name, a link to the one in force, the one before it
//! kept. A version is written beside, made sure of, and renamed: what is there under its name is whole, whatever is cut off meanwhile.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

/// Versions that are kept whether any process runs them or not: the one in force, and the one before it.
const KEPT: usize = 2;
/// Bytes of a program, at most.
const PROGRAM_MAX: u64 = 256 << 20;

/// What was done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Installed {
    /// Where it is.
    pub(crate) path: PathBuf,
    /// Another version was in force.
    pub(crate) is_new: bool,
}

/// What a program is known by: SHA-256 of its bytes, in hex.
///
/// # Errors
/// When it cannot be read.
pub(crate) fn digest(from: &mut impl Read) -> io::Result<String> {
    let (mut hash, mut buffer, mut length) = (Sha256::new(), vec![0; 1 << 16], 0);
    loop {
        let read = from.read(&mut buffer)?;
        let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        hash.update(bytes);
        length += bytes.len() as u64;
        if length > PROGRAM_MAX {
            return Err(io::Error::other("it is too large to be srsctl"));
        }
    }
    let mut text = String::new();
    for byte in hash.finalize() {
        // To memory.
        let _ = write!(text, "{byte:02x}");
    }
    Ok(text)
}

/// Installs `program` below `versions`, and has `link` lead to it.
///
/// # Errors
/// When that fails; then what was in force still is.
pub(crate) fn install(program: &Path, versions: &Path, link: &Path) -> Result<Installed, String> {
    let fail = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{path}: {error}")
    };
    let digest_of = |path: &Path| File::open(path).and_then(|mut file| digest(&mut file)).map_err(fail(path));
    let name = digest_of(program)?;
    let before = match fs::symlink_metadata(link) {
        Ok(found) if found.is_symlink() => fs::read_link(link).ok(),
        Ok(_) => {
            return Err(format!(
                "{} is no link, so somebody else has put it there; remove it first",
                link.display()
            ));
        }
        Err(_) => None,
    };
    let dir = versions.join(&name);
    let path = dir.join("srsctl");
    if digest_of(&path).ok().as_ref() != Some(&name) {
        fs::create_dir_all(&dir).map_err(fail(&dir))?;
        let new = dir.join(".srsctl.new");
        let written = copy(program, &new).map_err(fail(&new)).and_then(|()| {
            // As it was written, and not as it was read.
            let is_sound = digest_of(&new)? == name;
            let broken =
                || format!("{}: what was written is not what was to be; is the disk sound?", new.display());
            is_sound.then_some(()).ok_or_else(broken)
        });
        if written.is_err() {
            // It may be room that is wanting.
            let _ = fs::remove_file(&new);
            let _ = fs::remove_dir(&dir);
        }
        written?;
        fs::rename(&new, &path).map_err(fail(&path))?;
        for dir in [&dir, versions] {
            sync(dir).map_err(fail(dir))?;
        }
    }
    let is_new = before.as_ref() != Some(&path);
    if is_new {
        let new = link.with_file_name(".srsctl.new");
        let _ = fs::remove_file(&new);
        std::os::unix::fs::symlink(&path, &new).map_err(fail(&new))?;
        fs::rename(&new, link).map_err(fail(link))?;
        if let Some(dir) = link.parent() {
            sync(dir).map_err(fail(dir))?;
        }
    }
    forget_old(versions, &name, before.as_deref());
    Ok(Installed { path, is_new })
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let mut file = File::options().write(true).create(true).truncate(true).mode(0o755).open(to)?;
    io::copy(&mut File::open(from)?, &mut file)?;
    // Whatever the umask is.
    file.set_permissions(fs::Permissions::from_mode(0o755))?;
    file.flush()?;
    file.sync_all()
}

fn sync(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Removes versions but for [`KEPT`] and those that run: the one in force, the one before, and else the newest.
fn forget_old(versions: &Path, in_force: &str, before: Option<&Path>) {
    let before = before.and_then(|path| path.parent()?.file_name()?.to_str());
    let running = running(versions);
    let entries = fs::read_dir(versions).into_iter().flatten().flatten();
    let mut others: Vec<_> = entries
        .filter_map(|entry| {
            Some((entry.metadata().ok()?.modified().ok()?, entry.file_name().into_string().ok()?))
        })
        .filter(|(_, name)| name.len() == 64 && name != in_force)
        .collect();
    others.sort_by_key(|(time, name)| (Some(name.as_str()) == before, *time));
    others.reverse();
    for (_, name) in others.iter().skip(KEPT - 1).filter(|(_, name)| !running.contains(name)) {
        // The next installation tries again.
        let _ = fs::remove_dir_all(versions.join(name));
    }
}

/// The versions that are run by any process that this one may look at. Ports run an earlier one than the supervisor until they are upgraded, and
/// a failed upgrade brings them back to its path.
fn running(versions: &Path) -> BTreeSet<String> {
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let programs = processes.filter_map(|process| fs::read_link(process.path().join("exe")).ok());
    let version_of = |program: PathBuf| {
        let name = program.strip_prefix(versions).ok()?.iter().next()?;
        name.to_str().map(str::to_owned)
    };
    programs.filter_map(version_of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Place(tempfile::TempDir);

    impl Place {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join(name)
        }

        fn install(&self, text: &str) -> Installed {
            fs::write(self.path("given"), text).unwrap();
            let installed = install(&self.path("given"), &self.path("versions"), &self.path("link")).unwrap();
            assert_eq!(fs::read_to_string(self.path("link")).unwrap(), text);
            installed
        }

        fn versions(&self) -> usize {
            fs::read_dir(self.path("versions")).unwrap().count()
        }
    }

    #[test]
    fn each_version_has_its_own_name_and_the_one_before_is_kept() {
        let place = Place::new();
        let first = place.install("one");
        assert!(first.is_new && !place.install("one").is_new);
        assert!(place.install("two").is_new && first.path.exists());
        place.install("three");
        assert_eq!(place.versions(), 2);
        assert!(!first.path.exists());
        assert!(place.install("two").is_new, "and it can be gone back to");
        assert_eq!(place.versions(), 2);
    }

    #[test]
    fn a_version_that_runs_is_kept_until_it_does_not() {
        let place = Place::new();
        let running = place.path("versions").join("a".repeat(64)).join("srsctl");
        // By another process: none can be run that this one has open for writing while another test forks.
        let made = std::process::Command::new("install").args(["-D", "/bin/sleep"]).arg(&running).status();
        assert!(made.unwrap().success());
        let mut process = std::process::Command::new(&running).arg("1000").spawn().unwrap();
        for version in ["one", "two", "three"] {
            place.install(version);
        }
        assert!(running.exists());
        assert_eq!(place.versions(), 3);
        process.kill().unwrap();
        process.wait().unwrap();
        place.install("four");
        assert!(!running.exists());
        assert_eq!(place.versions(), 2);
    }

    #[test]
    fn a_version_that_was_cut_off_or_changed_is_written_anew() {
        let place = Place::new();
        let first = place.install("one");
        fs::write(&first.path, "on").unwrap();
        assert!(!place.install("one").is_new);
    }

    #[test]
    fn a_program_that_somebody_else_has_put_there_is_left_alone() {
        let place = Place::new();
        fs::write(place.path("link"), "another").unwrap();
        fs::write(place.path("given"), "one").unwrap();
        let why = install(&place.path("given"), &place.path("versions"), &place.path("link")).unwrap_err();
        assert!(why.contains("remove it first"), "{why}");
        assert_eq!(fs::read_to_string(place.path("link")).unwrap(), "another");
    }
}
