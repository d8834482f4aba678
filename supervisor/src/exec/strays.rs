//! Processes of a cluster, found by what they were started with: whatever became of the files that tell of them.

use std::collections::BTreeMap;
use std::fs;
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use cluster::{UnitId, WorkerSpec};
use control::fds;

use crate::host::dirs::ClusterDirs;
use crate::host::files::FileId;
use crate::host::procfs;

/// A worker or an encoder, as its command line says: `srsctl worker --config LIB/CLUSTER/conf/ID.yaml`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Started {
    pub(crate) pid: u32,
    /// Its user.
    pub(crate) uid: u32,
    pub(crate) unit: UnitId,
    pub(crate) config: PathBuf,
}

impl Started {
    /// Where its cluster's state is; the last part is that cluster's name.
    pub(crate) fn lib(&self) -> &Path {
        self.config.ancestors().nth(2).unwrap_or_else(|| Path::new(""))
    }
}

/// The processes of this user that were started with the config of a unit of the cluster, of every unit one: of a keeper and its
/// worker the worker.
///
/// The kernel keeps their command lines when files are removed, moved or replaced. What they say is no proof: any process of
/// this user can be started so.
#[must_use]
pub(crate) fn find(dirs: &ClusterDirs) -> BTreeMap<UnitId, u32> {
    let own = rustix::process::geteuid().as_raw();
    let ours = all().filter(|started| started.uid == own && started.config == dirs.config(&started.unit));
    let mut found = BTreeMap::new();
    for Started { unit, pid, .. } in ours {
        let is_keeper = procfs::session(pid) == Some(pid);
        if !is_keeper || !found.contains_key(&unit) {
            found.insert(unit, pid);
        }
    }
    found
}

/// What the names of hosts (in lower case) stood for when the workers that [`find`] finds were brought up.
pub(crate) fn addresses(dirs: &ClusterDirs) -> BTreeMap<String, IpAddr> {
    let told = |(unit, pid): (UnitId, u32)| {
        let in_memory = procfs::path_in_memory(pid, fds::CONFIG);
        let spec = in_memory.into_iter().chain([dirs.config(&unit)]);
        let spec = spec.filter_map(|path| WorkerSpec::from_file(&path).ok()).next()?;
        Some((spec.host.to_ascii_lowercase(), spec.host_address()))
    };
    find(dirs).into_iter().filter_map(told).collect()
}

/// Those of every user and every cluster that this process can see.
pub(crate) fn all() -> impl Iterator<Item = Started> {
    let namespace = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/pid")).ok();
    let here = namespace("self");
    fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(move |entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let uid = entry.metadata().ok()?.uid();
        let (unit, config) = parse(&fs::read(entry.path().join("cmdline")).ok()?)?;
        // A container may have a cluster with the same paths.
        let is_here = namespace(&pid.to_string()).is_none_or(|other| Some(other) == here);
        (is_here && procfs::start_ticks(pid).is_some()).then_some(Started { pid, uid, unit, config })
    })
}

fn parse(command_line: &[u8]) -> Option<(UnitId, PathBuf)> {
    let mut words = command_line.split(|byte| *byte == 0).skip(1).map(std::str::from_utf8);
    if !matches!(words.next()?.ok()?, "worker" | "encoder") || words.next()?.ok()? != "--config" {
        return None;
    }
    let config = Path::new(words.next()?.ok()?);
    let is_one = config.extension().is_some_and(|it| it == "yaml")
        && config.parent().and_then(Path::file_name).is_some_and(|it| it == "conf");
    // A unit id is any string.
    let id = config.file_stem()?.to_str()?.to_owned();
    let unit = serde_json::from_value(serde_json::Value::String(id)).ok()?;
    is_one.then(|| (unit, config.to_owned()))
}

/// A path by which the control socket of process `pid` is reached when its file is gone: by the process's own hold of it.
#[must_use]
pub(crate) fn control_of(pid: u32) -> Option<PathBuf> {
    descriptor(pid, "ctl.sock")
}

/// The token in the lock file that process `pid` has open, wherever that is now.
#[must_use]
pub(crate) fn token_of(pid: u32) -> Option<String> {
    crate::exec::record::token_at(&descriptor(pid, "alive.lock")?)
}

/// Whether process `pid` has the file at `path` open, as far as it lets us look.
#[must_use]
pub(crate) fn has_open(pid: u32, path: &Path) -> bool {
    let Some(wanted) = FileId::behind(path) else { return false };
    descriptors(pid).any(|open| FileId::behind(&open) == Some(wanted))
}

/// The paths of what process `pid` has open, if it lets us look.
fn descriptors(pid: u32) -> impl Iterator<Item = PathBuf> {
    let open = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    open.map(|entry| entry.path())
}

/// A descriptor of process `pid` on a file that has or had this name, if the process lets us look.
fn descriptor(pid: u32, name: &str) -> Option<PathBuf> {
    descriptors(pid).find(|path| {
        fs::read_link(path).is_ok_and(|target| {
            let target = target.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            target.strip_suffix(" (deleted)").unwrap_or(target) == name
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::dirs::StateRoots;

    #[test]
    fn a_command_line_names_a_unit_and_its_config_or_nothing() {
        let parse = |line: &str| parse(line.replace(' ', "\0").as_bytes());
        let config = "/nowhere/state/lib/live/conf/edge-h-1.yaml";
        let (unit, path) = parse(&format!("srsctl worker --config {config} ")).unwrap();
        assert_eq!((unit.as_str(), path.as_path()), ("edge-h-1", Path::new(config)));
        let dirs = StateRoots::resolve(Some(Path::new("/nowhere/state"))).unwrap().cluster("live");
        assert_eq!(dirs.config(&unit), path);
        for other in [
            "srsctl".to_owned(),
            format!("srsctl agent --config {config}"),
            format!("srsctl worker {config}"),
            "srsctl worker --config /nowhere/state/lib/live/conf/edge-h-1.txt".to_owned(),
            "srsctl worker --config /elsewhere/edge-h-1.yaml".to_owned(),
        ] {
            assert_eq!(parse(&other), None, "{other}");
        }
    }

    #[test]
    fn a_file_that_was_removed_is_found_by_who_has_it_open() {
        let temporary = tempfile::tempdir().unwrap();
        // Other tests of this process have lock files open.
        let path = temporary.path().join("removed.lock");
        fs::write(&path, "00112233445566778899aabbccddeeff").unwrap();
        let _open = fs::File::open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let found = descriptor(std::process::id(), "removed.lock").unwrap();
        let token = crate::exec::record::token_at(&found);
        assert_eq!(token.as_deref(), Some("00112233445566778899aabbccddeeff"));
        // Another one of that name is another.
        fs::write(&path, "").unwrap();
        assert!(has_open(std::process::id(), &found) && !has_open(std::process::id(), &path));
    }
}
