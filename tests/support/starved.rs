//! A process that runs out of memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A control group in which nothing more is to be had of memory; none where this machine, or this user, has no such thing.
pub struct Starved(PathBuf);

impl Starved {
    /// One of its own for this test.
    pub fn new() -> Option<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let next = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("srsctl-test-{}-{next}", std::process::id());
        for (parent, limit) in [("memory", "memory.limit_in_bytes"), ("", "memory.max")] {
            let this = Self(Path::new("/sys/fs/cgroup").join(parent).join(&name));
            let file = this.0.join(limit);
            let is_made = fs::create_dir(&this.0).is_ok();
            if is_made && file.exists() && fs::write(file, "65536").is_ok() {
                return Some(this);
            }
        }
        None
    }

    /// The file that takes the pid of whoever is to be in it.
    pub fn members(&self) -> PathBuf {
        self.0.join("cgroup.procs")
    }
}

impl Drop for Starved {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}
