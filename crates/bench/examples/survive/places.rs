//! Where some causes take place: a file system that can be filled, a control group that is short of memory.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::process::Pid;

use crate::cluster::Result;

/// Of the file system that is filled.
const SIZE: &str = "size=32m,mode=700";
/// Bytes that a worker may come to have there before it is killed: less than anything takes.
const LIMIT: &str = "65536";
const GROUPS: &str = "/sys/fs/cgroup";

/// A file system of this process and its children alone, at `directory`. To be made before there is another thread.
pub(crate) fn mount_small(directory: &Path) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)?;
    fs::create_dir_all(directory)?;
    mount(Some("tmpfs"), directory, Some("tmpfs"), MsFlags::empty(), Some(SIZE))?;
    Ok(())
}

/// Fills the file system of `directory` to the last byte, until it is dropped.
pub(crate) struct Filler(PathBuf);

impl Filler {
    pub(crate) fn fill(directory: &Path) -> Result<Self> {
        let this = Self(directory.join("filler"));
        let mut file = fs::File::create(&this.0)?;
        for size in [64 * 1024, 1] {
            let bytes = vec![0; size];
            let full = loop {
                if let Err(error) = file.write_all(&bytes) {
                    break error;
                }
            };
            if full.kind() != std::io::ErrorKind::StorageFull {
                return Err(full.into());
            }
        }
        Ok(this)
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A control group whose processes are killed as soon as they take memory. Gone when it is dropped, which its processes are by then.
pub(crate) struct Group(PathBuf);

impl Group {
    /// # Errors
    /// Where this system has none for memory, or this user may not make one.
    pub(crate) fn new() -> Result<Self> {
        let name = format!("srsctl-survive-{}", std::process::id());
        let root = Path::new(GROUPS);
        let unified = fs::read_to_string(root.join("cgroup.subtree_control")).unwrap_or_default();
        let (parent, limit) = if unified.split_whitespace().any(|controller| controller == "memory") {
            (root.to_owned(), "memory.max")
        } else if root.join("memory/memory.limit_in_bytes").exists() {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            return Err(format!("{GROUPS} has no controller of memory").into());
        };
        let this = Self(parent.join(name));
        fs::create_dir(&this.0).map_err(|error| format!("{}: {error}", this.0.display()))?;
        fs::write(this.0.join(limit), LIMIT)?;
        Ok(this)
    }

    /// Takes the process in.
    pub(crate) fn add(&self, pid: Pid) -> Result<()> {
        Ok(fs::write(self.0.join("cgroup.procs"), pid.as_raw_nonzero().to_string())?)
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
