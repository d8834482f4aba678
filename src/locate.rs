//! Which cluster a command means: `-f FILE`, else ./cluster.yaml, else the only one running.

use std::path::{Path, PathBuf};

use cluster::file::Loaded;
use supervisor::dirs::{ClusterDirs, StateRoots};
use supervisor::orphans;

use crate::cli::{Global, resolve};
use crate::failure::Failure;

/// The file a command without one takes.
const DEFAULT_FILE: &str = "cluster.yaml";

/// The file that was named, else ./cluster.yaml if there is one.
pub(crate) fn file(named: Option<&Path>) -> Option<PathBuf> {
    let default = || Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists());
    named.map(Path::to_path_buf).or_else(default)
}

/// As [`file`], for commands that cannot do without.
pub(crate) fn required_file(named: Option<&Path>) -> Result<PathBuf, Failure> {
    file(named).ok_or_else(|| {
        Failure::usage(format!("no cluster file: there is no {DEFAULT_FILE} here; name one: -f FILE"))
    })
}

/// Reads and checks a cluster file.
pub(crate) fn load(path: &Path) -> Result<Loaded, Failure> {
    Ok(cluster::file::load(path, &resolve)?)
}

/// The state of the cluster that a command means.
pub(crate) fn cluster(global: &Global) -> Result<ClusterDirs, Failure> {
    let roots = roots(global)?;
    if let Some(path) = file(global.file.as_deref()) {
        return Ok(roots.cluster(&name_of(&path, &roots)?));
    }
    // One whose supervisor was killed counts: its workers run.
    let runs = |dirs: &ClusterDirs| dirs.is_supervised() || orphans::living(dirs) > 0;
    let fits = |fits: &dyn Fn(&ClusterDirs) -> bool| -> Vec<String> {
        roots.known().into_iter().filter(|name| fits(&roots.cluster(name))).collect()
    };
    let mut running = fits(&runs);
    if running.is_empty() {
        // A crash of the machine leaves what `down` may tidy up.
        running = fits(&|dirs| dirs.run().exists());
    }
    match running.as_slice() {
        [name] => Ok(roots.cluster(name)),
        [] => Err(Failure::failed(format!(
            "no cluster runs, and there is no {DEFAULT_FILE} here; name a cluster by its file: -f FILE"
        ))),
        several => Err(Failure::usage(format!(
            "several clusters run: {}; name the one you mean by its file: -f FILE",
            several.join(", ")
        ))),
    }
}

/// The cluster of a file; also of one that has been broken or removed since it was brought into force.
fn name_of(path: &Path, roots: &StateRoots) -> Result<String, Failure> {
    let error = match cluster::file::cluster_name(path) {
        Ok(name) => return Ok(name),
        Err(error) => error,
    };
    let absolute = std::path::absolute(path).ok();
    let is_its = |name: &String| {
        let in_force = roots.cluster(name).in_force().ok().flatten();
        in_force.map(|(original, _)| original) == absolute
    };
    roots.known().into_iter().find(is_its).ok_or_else(|| error.into())
}

/// That the cluster of `dirs` does not run, and which do.
pub(crate) fn not_running(global: &Global, dirs: &ClusterDirs) -> String {
    let running: String = roots(global)
        .into_iter()
        .flat_map(|roots| roots.running().into_iter().map(move |name| roots.cluster(&name)))
        .map(|other| {
            let file = other.in_force().ok().flatten().map_or_else(PathBuf::new, |(path, _)| path);
            format!("\nrunning: {}: srsctl -f {} status", other.name(), file.display())
        })
        .collect();
    format!("cluster {} is not running{running}", dirs.name())
}

/// Where all clusters keep their state.
pub(crate) fn roots(global: &Global) -> Result<StateRoots, Failure> {
    Ok(StateRoots::resolve(global.state_dir.as_deref())?)
}
