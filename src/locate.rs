//! Which cluster a command means: `-f FILE`, else ./cluster.yaml, else the only one running.

use std::path::{Path, PathBuf};

use cluster::file::Loaded;
use supervisor::dirs::{ClusterDirs, StateRoots};
use supervisor::orphans;

use crate::cli::{Global, resolve};
use crate::commands::complain;
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
        return of_file(&path, &roots);
    }
    if let Some(dirs) = recorded(Path::new(DEFAULT_FILE), &roots).filter(runs) {
        complain(&in_force_instead(&format!("{DEFAULT_FILE} is gone"), &dirs));
        return Ok(dirs);
    }
    let fits = |fits: &dyn Fn(&ClusterDirs) -> bool| -> Vec<ClusterDirs> {
        roots.known().into_iter().map(|name| roots.cluster(&name)).filter(|dirs| fits(dirs)).collect()
    };
    let mut running = fits(&runs);
    if running.is_empty() {
        // A crash of the machine leaves what `down` may tidy up.
        running = fits(&|dirs| dirs.run().exists());
    }
    match running.as_slice() {
        [dirs] => Ok(dirs.clone()),
        [] => Err(Failure::failed(format!(
            "no cluster runs, and there is no {DEFAULT_FILE} here; name a cluster by its file: -f FILE"
        ))),
        several => Err(Failure::usage(format!(
            "several clusters run; name the one you mean by its file:{}",
            several.iter().map(how_to_name).collect::<String>()
        ))),
    }
}

/// Whether anything of a cluster runs: one whose supervisor was killed counts, since its workers run.
fn runs(dirs: &ClusterDirs) -> bool {
    dirs.is_supervised() || orphans::living(dirs) > 0
}

/// The cluster of a file; also of one that has been broken or removed since it was brought into force.
fn of_file(path: &Path, roots: &StateRoots) -> Result<ClusterDirs, Failure> {
    match cluster::file::cluster_name(path) {
        Ok(name) => {
            let dirs = roots.cluster(&name);
            require_same(path, &std::fs::read_to_string(path).unwrap_or_default(), &dirs)?;
            Ok(dirs)
        }
        Err(error) => instead_of(path, roots, error.into()),
    }
}

/// The cluster that was started from a file which is broken or gone now, for the sake of which `error` is no failure.
pub(crate) fn instead_of(path: &Path, roots: &StateRoots, error: Failure) -> Result<ClusterDirs, Failure> {
    let Some(dirs) = recorded(path, roots) else { return Err(error) };
    complain(&in_force_instead(error.to_string().lines().next().unwrap_or_default(), &dirs));
    Ok(dirs)
}

/// That a command goes on without its file, and why.
fn in_force_instead(why: &str, dirs: &ClusterDirs) -> String {
    format!("{why}; using the file in force of cluster {}", dirs.name())
}

/// Refuses a file whose cluster, `dirs`, is known from another file with another origin: two clusters that happen to have
/// the same name. With the same origin it is one cluster, whose file was copied or moved.
pub(crate) fn require_same(path: &Path, text: &str, dirs: &ClusterDirs) -> Result<(), Failure> {
    let Some((original, in_force)) = dirs.in_force()? else { return Ok(()) };
    let is_other = canonical(&original) != canonical(path)
        && original.exists()
        && cluster::file::origin(&in_force) != cluster::file::origin(text);
    if !is_other {
        return Ok(());
    }
    let (name, original) = (dirs.name(), original.display());
    Err(Failure::usage(if runs(dirs) {
        format!(
            "cluster `{name}` already runs from {original}; give this file another `cluster:` name, or use -f {original}"
        )
    } else {
        format!(
            "cluster `{name}` is known from {original}; give this file another `cluster:` name, or forget that one with: \
             srsctl -f {original} down --purge"
        )
    }))
}

/// The cluster that was started from the file at `path`.
fn recorded(path: &Path, roots: &StateRoots) -> Option<ClusterDirs> {
    let wanted = canonical(path);
    let is_its = |dirs: &ClusterDirs| {
        let in_force = dirs.in_force().ok().flatten();
        in_force.is_some_and(|(original, _)| canonical(&original) == wanted)
    };
    roots.known().into_iter().map(|name| roots.cluster(&name)).find(is_its)
}

/// `path` without links, as far as it exists: the file may be gone.
fn canonical(path: &Path) -> PathBuf {
    let whole = path.canonicalize().ok();
    let absolute = || std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    let without_file = || {
        let absolute = absolute();
        Some(absolute.parent()?.canonicalize().ok()?.join(absolute.file_name()?))
    };
    whole.or_else(without_file).unwrap_or_else(absolute)
}

/// That the cluster of `dirs` does not run, and which do.
pub(crate) fn not_running(global: &Global, dirs: &ClusterDirs) -> String {
    let running: String = roots(global)
        .into_iter()
        .flat_map(|roots| roots.running().into_iter().map(move |name| roots.cluster(&name)))
        .map(|other| how_to_name(&other))
        .collect();
    format!("cluster {} is not running{running}", dirs.name())
}

/// A line with the command that means this cluster.
fn how_to_name(dirs: &ClusterDirs) -> String {
    let file = dirs.in_force().ok().flatten().map_or_else(PathBuf::new, |(path, _)| path);
    format!("\nrunning: {}: srsctl -f {} status", dirs.name(), file.display())
}

/// Where all clusters keep their state.
pub(crate) fn roots(global: &Global) -> Result<StateRoots, Failure> {
    Ok(StateRoots::resolve(global.state_dir.as_deref())?)
}
