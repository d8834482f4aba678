//! What a command means: which cluster, with which file and which state. It is decided here, once, and every command takes
//! the answer; whatever else may name a cluster or a part of one one day belongs here too.

use std::cell::LazyCell;
use std::io;
use std::net::{IpAddr, ToSocketAddrs as _};
use std::path::{Path, PathBuf};

use clap::Args;
use cluster::Cluster;
use cluster::file::{ClusterFile, FileError};
use supervisor::Client;
use supervisor::{ClusterDirs, StateRoots};
use supervisor::{orphans, preflight};

use crate::failure::Failure;
use crate::terminal::complain;

/// The file a command without one takes.
const DEFAULT_FILE: &str = "cluster.yaml";

/// Stands for standard input in place of a file.
const STDIN: &str = "-";

/// What every command line can say about it.
#[derive(Clone, Debug, Args)]
pub(crate) struct Global {
    /// The cluster's file or its name; without it ./cluster.yaml, else the only cluster that runs
    #[arg(short, long, global = true, value_name = "FILE")]
    file: Option<PathBuf>,
    /// Where state, configs and logs are kept [default: /run/srsctl and /var/lib/srsctl as root and as the user who owns them, else ~/.local/state/srsctl]
    #[arg(long, global = true, value_name = "DIR", env = "SRSCTL_STATE_DIR", hide_env_values = true)]
    state_dir: Option<PathBuf>,
    /// The ssh config that other machines are reached with, in place of yours
    #[arg(
        long,
        global = true,
        hide = true,
        value_name = "FILE",
        env = "SRSCTL_SSH_CONFIG",
        hide_env_values = true
    )]
    ssh_config: Option<PathBuf>,
}

impl Global {
    /// The file that was named, of a command that cannot do without: as its own argument, by -f, by the name of its cluster, or
    /// by being here.
    pub(crate) fn required_file(&self, argument: Option<&Path>) -> Result<ClusterFile, Failure> {
        let path = self.path(argument)?.ok_or_else(|| {
            Failure::usage(format!("no cluster file: there is no {DEFAULT_FILE} here; name one: -f FILE"))
        })?;
        let recorded = Subject::called(&path, &self.roots()?)?.and_then(|subject| subject.in_force);
        Ok(ClusterFile::read(recorded.as_ref().map_or(&*path, ClusterFile::path))?)
    }

    /// The directory that was named for the state of all clusters.
    pub(crate) fn state_dir(&self) -> Option<&Path> {
        self.state_dir.as_deref()
    }

    /// The ssh config that was named.
    pub(crate) fn ssh_config(&self) -> Option<&Path> {
        self.ssh_config.as_deref()
    }

    fn path(&self, argument: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
        let named = match (argument, &self.file) {
            (Some(argument), Some(option)) if argument != option => {
                return Err(Failure::usage("a cluster is named by FILE or by -f FILE, not by both"));
            }
            (argument, option) => argument.or(option.as_deref()),
        };
        Ok(match named {
            Some(path) if path == Path::new(STDIN) => Some(PathBuf::from("/dev/stdin")),
            Some(path) => Some(path.to_owned()),
            None => Some(PathBuf::from(DEFAULT_FILE)).filter(|path| path.exists()),
        })
    }

    /// Where the state of all clusters is.
    pub(crate) fn roots(&self) -> Result<StateRoots, Failure> {
        Ok(StateRoots::resolve(self.state_dir())?)
    }
}

/// A cluster file that was found sound, to be brought into force.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What it says.
    pub(crate) cluster: Cluster,
    /// Its absolute path; symbolic links are kept. Where the text came through a pipe, that of the file in force.
    pub(crate) path: PathBuf,
    /// What is written in it.
    pub(crate) text: String,
    /// The hosts that are this machine; without any, all are.
    pub(crate) hosts: Vec<String>,
}

/// The cluster that a command means.
#[derive(Debug)]
pub(crate) struct Subject {
    /// Its file; none where a command goes on with the one in force.
    file: Option<ClusterFile>,
    /// Its state.
    dirs: ClusterDirs,
    /// The file that was last brought into force.
    in_force: Option<ClusterFile>,
    /// The state of all clusters.
    roots: StateRoots,
    /// Nobody named it, and no file of it is here.
    is_guessed: bool,
    /// It was named as it is called, not by its file.
    is_called: bool,
}

impl Subject {
    /// The cluster of the file that is named or here, or that is called so, else the only one that runs. A file that has been
    /// broken or removed since it was brought into force still means its cluster. `argument` is what a command takes beside -f, `command`
    /// how it is written in front of a cluster's name.
    pub(crate) fn find(global: &Global, argument: Option<&Path>, command: &str) -> Result<Self, Failure> {
        let roots = global.roots()?;
        let Some(path) = global.path(argument)? else { return Self::only_one(roots, command) };
        if let Some(called) = Self::called(&path, &roots)? {
            return Ok(called);
        }
        let named = ClusterFile::read(&path).and_then(|file| Ok((file.name()?, file)));
        match named {
            Ok((name, file)) => Self::of_file(file, &name, roots),
            Err(error) => Self::started_from(&path, &roots, error),
        }
    }

    /// The same, to change it: one that nobody named is told of first.
    pub(crate) fn find_to_change(
        global: &Global,
        argument: Option<&Path>,
        command: &str,
    ) -> Result<Self, Failure> {
        let this = Self::find(global, argument, command)?;
        if this.is_guessed() {
            complain(&format!("the only cluster here: {}", this.full_name()));
        }
        Ok(this)
    }

    /// Its name, and where its file in force came from.
    pub(crate) fn full_name(&self) -> String {
        let file = self.origin_of_file().map(|path| format!(" ({})", path.display()));
        format!("{}{}", self.name(), file.unwrap_or_default())
    }

    /// The cluster of `file`, once it has been found sound.
    pub(crate) fn of_loaded(global: &Global, file: ClusterFile) -> Result<(Self, Loaded), Failure> {
        let roots = global.roots()?;
        let cluster = parse_in(&file, &roots)?;
        let path = if file.path().is_file() {
            std::path::absolute(file.path())
                .map_err(|e| Failure::usage(format!("{}: no absolute path: {e}", file.path().display())))?
        } else {
            // A pipe is read once; what came through it lies there afterwards.
            roots.cluster(&cluster.name).file_in_force()
        };
        let text = file.text().to_owned();
        let file = ClusterFile::new(path.clone(), text.clone());
        let hosts = own_hosts(&cluster);
        Ok((Self::of_file(file, &cluster.name, roots)?, Loaded { cluster, path, text, hosts }))
    }

    /// The cluster called `name` with the file that is in force, to go on with that; nothing where it was never up.
    pub(crate) fn to_go_on(global: &Global, name: &str) -> Result<Option<(Self, Loaded)>, Failure> {
        let roots = global.roots()?;
        let this = Self::new(None, roots.cluster(name), roots)?;
        let Some(file) = &this.in_force else { return Ok(None) };
        let cluster = parse_in(file, &this.roots)?;
        let hosts = this.dirs.hosts_in_force()?;
        let loaded = Loaded { cluster, path: file.path().to_owned(), text: file.text().to_owned(), hosts };
        Ok(Some((this, loaded)))
    }

    /// The cluster's name.
    pub(crate) fn name(&self) -> &str {
        self.dirs.name()
    }

    /// Where its state is.
    pub(crate) fn dirs(&self) -> &ClusterDirs {
        &self.dirs
    }

    /// The state of all clusters.
    pub(crate) fn roots(&self) -> &StateRoots {
        &self.roots
    }

    /// To ask its supervisor.
    pub(crate) fn client(&self) -> Client {
        Client::new(self.dirs.clone())
    }

    /// Whether it was taken because no other runs, and neither named nor here.
    pub(crate) fn is_guessed(&self) -> bool {
        self.is_guessed
    }

    /// Whether it was named as it is called, not by its file.
    pub(crate) fn is_called(&self) -> bool {
        self.is_called
    }

    /// Whether this is the folder of its file; of one that came through a pipe any is.
    pub(crate) fn is_here(&self) -> bool {
        if self.origin_of_file() == Some(&*self.dirs.file_in_force()) {
            return true;
        }
        let here = std::env::current_dir().ok().and_then(|here| here.canonicalize().ok());
        let folder = self.origin_of_file().and_then(|file| canonical(file).parent().map(Path::to_owned));
        here.is_some() && here == folder
    }

    /// Where its file in force came from, as far as that is known.
    pub(crate) fn origin_of_file(&self) -> Option<&Path> {
        self.in_force.as_ref().map(ClusterFile::path)
    }

    /// Its file, if that is not the one in force any more.
    pub(crate) fn changed_file(&self) -> Option<&ClusterFile> {
        let in_force = self.in_force.as_ref()?;
        self.file.as_ref().filter(|file| file.text() != in_force.text())
    }

    /// What its file says, or the one in force where there is none or a broken one.
    pub(crate) fn cluster(&self) -> Result<Cluster, Failure> {
        match &self.file {
            Some(file) => parse_in(file, &self.roots)
                .or_else(|error| Self::started_from(file.path(), &self.roots, error)?.cluster_in_force()),
            None => self.cluster_in_force(),
        }
    }

    /// That it does not run, which clusters do, and who has its ports: its file may name the cluster anew since, it may run as
    /// another user, or with another state directory.
    pub(crate) fn not_running(&self) -> String {
        let others =
            self.roots.running().into_iter().map(|name| how_to_name(&self.roots.cluster(&name), "status"));
        let mut said = format!("cluster {} is not running{}", self.name(), others.collect::<String>());
        for holder in self.holders() {
            said.push_str(&format!("\nits port {holder}"));
        }
        said
    }

    /// The workers of any cluster that have its ports, as far as its file can be read.
    pub(crate) fn holders(&self) -> Vec<orphans::Holder> {
        self.cluster().map(|cluster| orphans::holders(&cluster)).unwrap_or_default()
    }

    /// The cluster `name` of `file`, unless two clusters happen to have that name: it is known from another file with
    /// another origin. With the same origin it is one cluster, whose file was copied or moved.
    fn of_file(file: ClusterFile, name: &str, roots: StateRoots) -> Result<Self, Failure> {
        let this = Self::new(Some(file), roots.cluster(name), roots)?;
        let (Some(file), Some(in_force)) = (&this.file, &this.in_force) else { return Ok(this) };
        let original = in_force.path();
        let is_other = canonical(original) != canonical(file.path())
            && original.exists()
            && in_force.origin() != file.origin();
        if !is_other {
            return Ok(this);
        }
        let original = original.display();
        Err(Failure::usage(if runs(&this.dirs) {
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

    /// The cluster that is called as `path` reads, unless there is a file there.
    fn called(path: &Path, roots: &StateRoots) -> Result<Option<Self>, Failure> {
        let known = path.to_str().filter(|name| roots.known().iter().any(|known| known == name));
        let Some(name) = known.filter(|_| !path.exists()) else { return Ok(None) };
        let mut this = Self::new(None, roots.cluster(name), roots.clone())?;
        this.is_called = true;
        let file = this.in_force.as_ref().and_then(|file| ClusterFile::read(file.path()).ok());
        // Its file may have been given to another cluster since.
        this.file = file.filter(|file| file.name().is_ok_and(|found| found == name));
        Ok(Some(this))
    }

    /// The cluster that was started from the file at `path`, which is broken or gone now, as `error` says.
    fn started_from(path: &Path, roots: &StateRoots, error: FileError) -> Result<Self, Failure> {
        let Some(this) = Self::recorded(path, roots) else { return Err(error.into()) };
        this.explain(error.to_string().lines().next().unwrap_or_default());
        Ok(this)
    }

    /// The only cluster that runs; one that left something, if none does.
    fn only_one(roots: StateRoots, command: &str) -> Result<Self, Failure> {
        if let Some(this) = Self::recorded(Path::new(DEFAULT_FILE), &roots).filter(|this| runs(&this.dirs)) {
            this.explain(&format!("{DEFAULT_FILE} is gone"));
            return Ok(this);
        }
        let known: Vec<_> = roots.known().iter().map(|name| roots.cluster(name)).collect();
        let mut fitting: Vec<_> = known.iter().filter(|dirs| runs(dirs)).collect();
        if fitting.is_empty() {
            // A crash of the machine leaves what `down` may tidy up.
            fitting = known.iter().filter(|dirs| dirs.run().exists()).collect();
        }
        match fitting.as_slice() {
            [dirs] => Ok(Self { is_guessed: true, ..Self::new(None, (*dirs).clone(), roots)? }),
            [] => Err(Failure::failed(format!(
                "no cluster runs, and there is no {DEFAULT_FILE} here; name a cluster by its file: -f FILE; srsctl ls lists all"
            ))),
            several => Err(Failure::usage(format!(
                "several clusters run; name the one you mean:{}",
                several.iter().map(|dirs| how_to_name(dirs, command)).collect::<String>()
            ))),
        }
    }

    /// The cluster whose file in force came from `path`.
    fn recorded(path: &Path, roots: &StateRoots) -> Option<Self> {
        let wanted = canonical(path);
        let mut known = roots.known().into_iter().filter_map(|name| {
            let dirs = roots.cluster(&name);
            let in_force = Some(in_force(&dirs).ok()??);
            Some(Self {
                file: None,
                dirs,
                in_force,
                roots: roots.clone(),
                is_guessed: false,
                is_called: false,
            })
        });
        known.find(|this| this.in_force.as_ref().is_some_and(|file| canonical(file.path()) == wanted))
    }

    fn new(file: Option<ClusterFile>, dirs: ClusterDirs, roots: StateRoots) -> Result<Self, Failure> {
        let in_force = in_force(&dirs)?;
        Ok(Self { file, dirs, in_force, roots, is_guessed: false, is_called: false })
    }

    /// That this is a host of the cluster.
    ///
    /// # Errors
    /// When it is none. Of a cluster whose file nobody knows nothing can be said.
    pub(crate) fn expect_host(&self, host: Option<&String>) -> Result<(), Failure> {
        let (Some(host), Ok(cluster)) = (host, self.cluster()) else { return Ok(()) };
        let known = || cluster.ports().map(|port| &port.host.name);
        if known().any(|name| name == host) { Ok(()) } else { Err(no_such_host(host, self.name(), known())) }
    }

    /// What the file in force says, where anything of the cluster runs here.
    pub(crate) fn running(&self) -> Option<Cluster> {
        runs(&self.dirs).then(|| self.cluster_in_force().ok()).flatten()
    }

    pub(crate) fn cluster_in_force(&self) -> Result<Cluster, Failure> {
        let in_force = self.in_force.as_ref().ok_or_else(|| {
            Failure::failed(format!("cluster {} has no file in force; name it: -f FILE", self.name()))
        })?;
        Ok(parse_in(in_force, &self.roots)?)
    }

    /// The file in force, where processes go on without a supervisor and another one is to be brought into force. None of one that is not
    /// valid any more.
    pub(crate) fn to_take_over(&self, loaded: &Loaded) -> Result<Option<Loaded>, Failure> {
        let Some(file) = self.in_force.as_ref().filter(|file| file.text() != loaded.text) else {
            return Ok(None);
        };
        if orphans::living(&self.dirs) == 0 {
            return Ok(None);
        }
        let Ok(cluster) = parse_in(file, &self.roots) else { return Ok(None) };
        let hosts = self.dirs.hosts_in_force()?;
        let (path, text) = (file.path().to_owned(), file.text().to_owned());
        Ok(Some(Loaded { cluster, path, text, hosts }))
    }

    /// Says that the command goes on without its file, and why.
    fn explain(&self, why: &str) {
        complain(&format!("{why}; using the file in force of cluster {}", self.name()));
    }
}

/// That a cluster has no host that is called so, but the `known` ones.
pub(crate) fn no_such_host<'a>(
    host: &str,
    cluster: &str,
    known: impl Iterator<Item = &'a String>,
) -> Failure {
    let mut known: Vec<&str> = known.map(String::as_str).collect();
    known.dedup();
    Failure::usage(format!("{host} is no host of cluster {cluster}: {}", known.join(", ")))
}

/// The name of a cluster, as an argument.
///
/// # Errors
/// When no cluster may be called so.
pub(crate) fn cluster_name(text: &str) -> Result<String, String> {
    if cluster::file::is_cluster_name(text) {
        return Ok(text.to_owned());
    }
    Err(format!("expected {}", cluster::file::CLUSTER_NAME))
}

/// The hosts of a whole cluster that are this machine; none where all are.
fn own_hosts(cluster: &Cluster) -> Vec<String> {
    let machines = cluster.machines(preflight::here());
    let own = machines.iter().find(|machine| machine.way.is_none());
    own.filter(|_| machines.len() > 1).map(|machine| machine.hosts.clone()).unwrap_or_default()
}

/// What a cluster file says; names of hosts are looked up as the system does.
pub(crate) fn parse(file: &ClusterFile) -> Result<Cluster, FileError> {
    file.cluster(&look_up)
}

/// The same of a cluster that may run: then a name stands for what it stood for when its ports were brought up.
pub(crate) fn parse_in(file: &ClusterFile, roots: &StateRoots) -> Result<Cluster, FileError> {
    let brought_up = LazyCell::new(|| {
        file.name().map(|name| orphans::addresses(&roots.cluster(&name))).unwrap_or_default()
    });
    file.cluster(&|host| match brought_up.get(&host.to_ascii_lowercase()) {
        Some(address) => Ok(vec![*address]),
        None => look_up(host),
    })
}

fn look_up(host: &str) -> io::Result<Vec<IpAddr>> {
    Ok((host, 0).to_socket_addrs()?.map(|address| address.ip()).collect())
}

fn in_force(dirs: &ClusterDirs) -> Result<Option<ClusterFile>, Failure> {
    Ok(dirs.in_force()?.map(|(path, text)| ClusterFile::new(path, text)))
}

/// Whether anything of a cluster runs: one whose supervisor was killed counts, since its workers run.
fn runs(dirs: &ClusterDirs) -> bool {
    dirs.is_supervised() || orphans::living(dirs) > 0
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

/// A line with `command` as it means this cluster.
fn how_to_name(dirs: &ClusterDirs, command: &str) -> String {
    let name = dirs.name();
    let file = dirs.in_force().ok().flatten().map(|(path, _)| format!(" ({})", path.display()));
    format!("\nrunning: {name}{}: srsctl {command} {name}", file.unwrap_or_default())
}

#[cfg(test)]
mod tests;
