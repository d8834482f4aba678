//! Whether somebody else could put another directory in the place of a state directory: then he could have a supervisor that runs
//! as root stop what he names, or run what he likes.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid, User};

use crate::host::files::StateError;

/// Refuses `dir` unless each directory above it, as far as it exists, belongs to root or to this user, and nobody else may move
/// what is in it. Looked at under the name that was given, and under that without links.
///
/// # Errors
/// Names the first directory that does not fit.
pub(crate) fn require_safe(dir: &Path) -> Result<(), StateError> {
    way(dir)?;
    let existing = dir.ancestors().find_map(|path| Some((path, path.canonicalize().ok()?)));
    let Some((path, real)) = existing.filter(|(path, real)| path != real) else { return Ok(()) };
    way(&dir.strip_prefix(path).map_or_else(|_| real.clone(), |rest| real.join(rest)))
}

fn way(dir: &Path) -> Result<(), StateError> {
    let mut below: Option<PathBuf> = None;
    for path in dir.ancestors() {
        if let Ok(found) = fs::metadata(path)
            && let Some(why) = fault(&found, below.as_deref())
        {
            let source =
                io::Error::other(format!("{} {why}; choose another place with --state-dir", path.display()));
            return Err(StateError { what: "cannot use state directory", path: dir.to_owned(), source });
        }
        below = Some(path.to_owned());
    }
    Ok(())
}

/// Why what is `below` a directory is not safe there.
fn fault(found: &Metadata, below: Option<&Path>) -> Option<String> {
    let is_trusted = |uid: u32| uid == 0 || uid == Uid::effective().as_raw();
    if !is_trusted(found.uid()) {
        return Some(format!("belongs to {}, who could put another directory there", user(found.uid())));
    }
    let others_write = found.mode() & 0o002 != 0 || (found.mode() & 0o020 != 0 && !is_private(found.gid()));
    // In a sticky directory each moves what is his own.
    let is_sticky = found.mode() & 0o1000 != 0;
    let owner = below.and_then(|below| fs::symlink_metadata(below).ok()).map(|below| below.uid());
    match (others_write, is_sticky, owner) {
        (true, false, _) => Some("is a directory in which others may write".to_owned()),
        (true, true, Some(uid)) if !is_trusted(uid) => Some(format!(
            "is a directory in which others may write, and has one of {} on this path",
            user(uid)
        )),
        (true, true, _) | (false, ..) => None,
    }
}

/// Whether a group is this user's own and has no other member.
fn is_private(gid: u32) -> bool {
    let user = User::from_uid(Uid::effective()).ok().flatten();
    let group = Group::from_gid(Gid::from_raw(gid)).ok().flatten();
    user.zip(group).is_some_and(|(user, group)| {
        user.gid == group.gid
            && user.name == group.name
            && group.mem.iter().all(|member| *member == user.name)
    })
}

fn user(uid: u32) -> String {
    let user = User::from_uid(Uid::from_raw(uid)).ok().flatten();
    user.map_or_else(|| format!("another user ({uid})"), |user| format!("user {}", user.name))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt as _, symlink};

    fn chmod(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }

    #[test]
    fn a_directory_in_which_others_may_write_is_refused_all_the_way_up_unless_it_is_sticky() {
        let temporary = tempfile::tempdir().unwrap();
        let open = temporary.path().join("open");
        let state = open.join("a/b/state");
        fs::create_dir_all(open.join("a")).unwrap();
        for (mode, is_safe) in [(0o755, true), (0o777, false), (0o772, false), (0o1777, true), (0o700, true)]
        {
            chmod(&open, mode);
            let refused = require_safe(&state).map_err(|error| error.to_string());
            assert_eq!(refused.is_ok(), is_safe, "{mode:o}: {refused:?}");
            if let Err(why) = refused {
                let parts = [open.to_str().unwrap(), "others may write", "--state-dir"];
                assert!(parts.iter().all(|part| why.contains(part)), "{why}");
            }
        }
    }

    #[test]
    fn a_link_does_not_hide_where_it_leads_nor_where_it_lies() {
        let temporary = tempfile::tempdir().unwrap();
        let (open, closed) = (temporary.path().join("open"), temporary.path().join("closed"));
        fs::create_dir_all(open.join("state")).unwrap();
        fs::create_dir_all(closed.join("state")).unwrap();
        symlink(open.join("state"), closed.join("link")).unwrap();
        symlink(closed.join("state"), open.join("link")).unwrap();
        for path in [closed.join("link/new"), open.join("link/new")] {
            require_safe(&path).unwrap();
            chmod(&open, 0o777);
            assert!(require_safe(&path).is_err(), "{}", path.display());
            chmod(&open, 0o755);
        }
    }

    #[test]
    fn a_directory_of_another_user_is_refused_with_his_name() {
        let temporary = tempfile::tempdir().unwrap();
        let (theirs, sticky) = (temporary.path().join("theirs"), temporary.path().join("sticky"));
        fs::create_dir(&theirs).unwrap();
        fs::create_dir_all(sticky.join("theirs")).unwrap();
        chmod(&sticky, 0o1777);
        if !Uid::effective().is_root() {
            // Only root can make one.
            return;
        }
        for path in [&theirs, &sticky.join("theirs")] {
            std::os::unix::fs::chown(path, Some(65534), None).unwrap();
            let why = require_safe(&path.join("state/run")).unwrap_err().to_string();
            assert!(why.contains("belongs to") && why.contains(path.to_str().unwrap()), "{why}");
        }
    }
}
