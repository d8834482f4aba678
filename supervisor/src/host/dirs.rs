//! Where a cluster's state lives, and how it is written.
//!
//! | file | what |
//! | --- | --- |
//! | run/CLUSTER/lock | locked by the supervisor for life (see `host::lock`); its text is the supervisor's pid |
//! | run/CLUSTER/agent.sock | control API |
//! | run/CLUSTER/units/ID/{record.json, alive.lock, ctl.sock} | what a new supervisor needs to prove that a process is its own |
//! | run/CLUSTER/units/ID/departure.json | while its port leaves: until when, and whether who is left may be closed then |
//! | lib/CLUSTER/{cluster.yaml, cluster.path} | the cluster file in force, and where it came from |
//! | lib/CLUSTER/history/N.json | the cluster files that were in force, the newest few |
//! | lib/CLUSTER/cluster.hosts | the hosts of it that are this machine, a line each; without it, all are |
//! | lib/CLUSTER/wanted | there from the first moment of `up` until `down`: `srsctl service run` brings the cluster up at boot |
//! | lib/CLUSTER/conf/ID.yaml | the generated config of each process |
//! | lib/CLUSTER/secret | between origin and edges: 32 random bytes in hex, 0600, created once |
//! | lib/CLUSTER/log/{ID.log, agent.log} | logs |
//! | lib/CLUSTER/events.jsonl | what the supervisors did and noticed (`host::journal`) |
//!
//! `run` and `lib` are /run/srsctl and /var/lib/srsctl for root and for the user to whom /var/lib/srsctl belongs, so that who logs in as
//! that user means the clusters of its services; else both are in ~/.local/state/srsctl, or wherever `--state-dir` says: never in XDG_RUNTIME_DIR, which goes away at logout. Directories are 0700, belong to who runs srsctl,
//! and are refused when others may write in them, or could put others in their place (`host::ancestors`).
//!
//! `run/CLUSTER` goes with `down`, `lib/CLUSTER` stays. Files are written beside and renamed, those of `lib` synced too: those
//! of `run` mean nothing after a reboot. What somebody removes under a running cluster its supervisor puts back within a second
//! (`Surroundings::tend`, `Processes::tend`, `Watched::heartbeat`). Whoever removes `run` or purges `lib` holds the lock and removes it last; `agent.sock`
//! and the listeners go before it.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use cluster::UnitId;
use cluster::events::Event;
use control::start::Secret;

use crate::host::ancestors::require_safe;
use crate::host::files::{StateError, hex, write_atomic, write_synced};
use crate::host::journal;

/// The roots of the system's clusters.
const RUN: &str = "/run/srsctl";
/// See [`RUN`].
const LIB: &str = "/var/lib/srsctl";

/// What must be free in the state directory, bytes.
const ROOM: usize = 1 << 20;

/// What a log line or a record needs, bytes.
const A_LITTLE: usize = 4 << 10;

/// The two roots of all clusters' state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRoots {
    run: PathBuf,
    lib: PathBuf,
    /// What was named for both.
    state_dir: Option<PathBuf>,
}

impl StateRoots {
    /// The roots below `state_dir`, if given, else the usual ones of this user.
    ///
    /// # Errors
    /// When the user has no home directory, `state_dir` cannot be made absolute or is not UTF-8 (configs name it), or somebody
    /// else could put other directories in their place.
    pub fn resolve(state_dir: Option<&Path>) -> Result<Self, StateError> {
        if let Some(dir) = state_dir {
            let dir = std::path::absolute(dir).map_err(|source| StateError {
                what: "cannot use state directory",
                path: dir.to_owned(),
                source,
            })?;
            if dir.to_str().is_none() {
                let source = io::Error::other("its name is not UTF-8; choose another place with --state-dir");
                return Err(StateError { what: "cannot use state directory", path: dir, source });
            }
            return Self { state_dir: Some(dir.clone()), ..Self::below(&dir) }.safe();
        }
        let user = rustix::process::geteuid();
        if let Some((owner, _)) = owner_of_services().filter(|(owner, _)| user.is_root() && *owner != 0) {
            let name = nix::unistd::User::from_uid(owner.into()).ok().flatten();
            let name = name.map_or_else(|| format!("#{owner}"), |user| user.name);
            let why = format!(
                "the clusters of this machine are of user {name}; run srsctl as that one: sudo -u {name} srsctl"
            );
            return Err(StateError { what: "cannot use", path: LIB.into(), source: io::Error::other(why) });
        }
        if user.is_root() || owner_of_services().is_some_and(|(owner, _)| owner == user.as_raw()) {
            return Self { run: RUN.into(), lib: LIB.into(), state_dir: None }.safe();
        }
        let home = std::env::var_os("HOME")
            .map(PathBuf::from)
            .filter(|home| home.is_absolute())
            .or_else(|| Some(nix::unistd::User::from_uid(nix::unistd::geteuid()).ok()??.dir))
            .ok_or_else(|| StateError {
                what: "cannot find the home directory for",
                path: PathBuf::from("~/.local/state/srsctl"),
                source: io::Error::other("set HOME, or choose a place with --state-dir"),
            })?;
        Self::below(&home.join(".local/state/srsctl")).safe()
    }

    fn safe(self) -> Result<Self, StateError> {
        require_safe(&self.run)?;
        require_safe(&self.lib)?;
        Ok(self)
    }

    fn below(dir: &Path) -> Self {
        Self { run: dir.join("run"), lib: dir.join("lib"), state_dir: None }
    }

    /// The directory that was named for the state of all clusters, absolute.
    #[must_use]
    pub fn state_dir(&self) -> Option<&Path> {
        self.state_dir.as_deref()
    }

    /// The directories of one cluster; none is created.
    #[must_use]
    pub fn cluster(&self, name: &str) -> ClusterDirs {
        ClusterDirs { name: name.to_owned(), run: self.run.join(name), lib: self.lib.join(name) }
    }

    /// The names of all clusters that left something here, running or not, sorted.
    #[must_use]
    pub fn known(&self) -> Vec<String> {
        let mut names: Vec<String> = [&self.run, &self.lib]
            .into_iter()
            .filter_map(|root| fs::read_dir(root).ok())
            .flat_map(|entries| entries.flatten())
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        names.sort();
        names.dedup();
        names
    }

    /// The names of the clusters whose supervisor runs, sorted.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        self.known().into_iter().filter(|name| self.cluster(name).is_supervised()).collect()
    }
}

/// User and group to whom the clusters of this machine's services belong, where there are any.
#[must_use]
pub fn owner_of_services() -> Option<(u32, u32)> {
    fs::metadata(LIB).ok().filter(fs::Metadata::is_dir).map(|lib| (lib.uid(), lib.gid()))
}

/// Where one cluster's state lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterDirs {
    name: String,
    run: PathBuf,
    lib: PathBuf,
}

impl ClusterDirs {
    /// The cluster's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What vanishes with `down` or a reboot.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// What stays after `down`.
    #[must_use]
    pub fn lib(&self) -> &Path {
        &self.lib
    }

    /// The socket of the control API.
    #[must_use]
    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.run.join("agent.sock")
    }

    /// Takes no requests any more.
    pub(crate) fn remove_agent_socket(&self) {
        let _ = fs::remove_file(self.agent_socket());
    }

    /// The run files of all units.
    #[must_use]
    pub(crate) fn units(&self) -> PathBuf {
        self.run.join("units")
    }

    /// The run files of one unit.
    #[must_use]
    pub fn unit(&self, id: &UnitId) -> PathBuf {
        self.units().join(id.as_str())
    }

    /// The generated config of one unit.
    #[must_use]
    pub fn config(&self, id: &UnitId) -> PathBuf {
        self.lib.join("conf").join(format!("{id}.yaml"))
    }

    /// The log of one unit.
    #[must_use]
    pub fn log(&self, id: &UnitId) -> PathBuf {
        self.lib.join("log").join(format!("{id}.log"))
    }

    /// The log of the supervisor.
    #[must_use]
    pub fn agent_log(&self) -> PathBuf {
        self.lib.join("log/agent.log")
    }

    /// The events of the cluster.
    #[must_use]
    pub(crate) fn events(&self) -> PathBuf {
        self.lib.join("events.jsonl")
    }

    /// The events that are written down; those of a supervisor that runs are its own to tell.
    ///
    /// # Errors
    /// When they cannot be read.
    pub fn written_events(&self) -> Result<Vec<Event>, StateError> {
        journal::read(&self.events())
    }

    /// The cluster files that were in force.
    #[must_use]
    pub(crate) fn history(&self) -> PathBuf {
        self.lib.join("history")
    }

    /// The secret between origin and edges.
    #[must_use]
    pub fn secret(&self) -> PathBuf {
        self.lib.join("secret")
    }

    /// The copy of the cluster file that is in force.
    #[must_use]
    pub fn file_in_force(&self) -> PathBuf {
        self.lib.join("cluster.yaml")
    }

    /// The cluster file in force: where it came from, and its text. `None` if none was ever in force.
    ///
    /// # Errors
    /// When it exists and cannot be read.
    pub fn in_force(&self) -> Result<Option<(PathBuf, String)>, StateError> {
        let path = self.file_in_force();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(StateError { what: "cannot read", path, source }),
        };
        let original = fs::read_to_string(self.lib.join("cluster.path")).unwrap_or_default();
        Ok(Some((PathBuf::from(original.trim_end_matches('\n')), text)))
    }

    /// The hosts of the file in force that are this machine; without any, all are.
    ///
    /// # Errors
    /// When they are on record and cannot be read.
    pub fn hosts_in_force(&self) -> Result<Vec<String>, StateError> {
        let path = self.hosts();
        match fs::read_to_string(&path) {
            Ok(text) => Ok(text.lines().map(str::to_owned).collect()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(source) => Err(StateError { what: "cannot read", path, source }),
        }
    }

    fn hosts(&self) -> PathBuf {
        self.lib.join("cluster.hosts")
    }

    /// Puts a cluster file in force, for the `hosts` of it that are this machine.
    ///
    /// # Errors
    /// When it cannot be written; then the old one is whole.
    pub fn put_in_force(&self, original: &Path, text: &str, hosts: &[String]) -> Result<(), StateError> {
        if self.hosts_in_force()? != hosts {
            write_atomic(
                &self.hosts(),
                hosts.iter().map(|host| format!("{host}\n")).collect::<String>().as_bytes(),
            )?;
        }
        write_atomic(&self.file_in_force(), text.as_bytes())?;
        write_atomic(&self.lib.join("cluster.path"), format!("{}\n", original.display()).as_bytes())?;
        if self.is_wanted() {
            return Ok(());
        }
        write_atomic(
            &self.lib.join("wanted"),
            b"srsctl down removes this file; while it is here, the service starts the cluster\n",
        )
    }

    /// As if no file had ever been in force.
    pub(crate) fn nothing_in_force(&self) {
        for path in [self.file_in_force(), self.lib.join("cluster.path"), self.hosts()] {
            let _ = fs::remove_file(path);
        }
        self.stay_down();
    }

    /// Whether the cluster was brought up and not taken down since, whatever became of its processes.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.lib.join("wanted").exists()
    }

    /// The cluster was taken down: it does not come up by itself.
    pub fn stay_down(&self) {
        if let Err(error) = fs::remove_file(self.lib.join("wanted"))
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(%error, "the cluster may come up by itself at the next boot");
        }
    }

    /// The socket at which `srsctl service run` waits for what it is to start. Not in `run`, which goes with `down`.
    #[must_use]
    pub fn service_socket(&self) -> PathBuf {
        self.run.with_file_name(format!("{}.service.sock", self.name))
    }

    /// Creates the directories that are missing.
    ///
    /// # Errors
    /// When that fails; what was created is removed again.
    pub fn create(&self) -> Result<Created, StateError> {
        let mut created = Created::default();
        for dir in
            [self.run.clone(), self.units(), self.lib.clone(), self.lib.join("conf"), self.lib.join("log")]
        {
            created.create(&dir)?;
            require_own(&dir)?;
        }
        Ok(created)
    }

    /// Proves that files can be written. A disk with less room would leave some processes without a record, and all without a
    /// log.
    ///
    /// # Errors
    /// When that fails.
    pub(crate) fn prove_room(&self) -> Result<(), StateError> {
        for dir in [&self.run, &self.lib] {
            let probe = dir.join(".write-test");
            let outcome = write_synced(&probe, &vec![0; ROOM]);
            let _ = fs::remove_file(&probe);
            outcome.map_err(|source| StateError {
                what: "cannot write in state directory",
                path: dir.clone(),
                source,
            })?;
        }
        Ok(())
    }

    /// What keeps logs and state from being written now, a sentence for each cause. Where there seems to be room, nothing is written.
    pub(crate) fn lack_of_room(&self) -> Vec<String> {
        let mut found: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for dir in [&self.run, &self.lib, &self.lib.join("log")].into_iter().filter(|dir| is_short(dir)) {
            let probe = dir.join(".write-test");
            let outcome = fs::write(&probe, [0; A_LITTLE]);
            let _ = fs::remove_file(&probe);
            if let Err(error) = outcome
                && error.kind() != io::ErrorKind::NotFound
            {
                found.entry(error.to_string()).or_default().push(dir.display().to_string());
            }
        }
        let tell = |(error, dirs): (String, Vec<String>)| {
            let dirs = dirs.join(", ");
            format!(
                "nothing can be written in {dirs}: {error}; streams go on, log lines are lost until that is mended"
            )
        };
        found.into_iter().map(tell).collect()
    }

    /// Writes the secret that all machines of the cluster have.
    ///
    /// # Errors
    /// When it cannot be written; then the old one is whole.
    pub(crate) fn put_secret(&self, secret: &Secret) -> Result<(), StateError> {
        let path = self.secret();
        if fs::read_to_string(&path).is_ok_and(|text| text == secret.as_str()) {
            return Ok(());
        }
        write_atomic(&path, secret.as_str().as_bytes())
    }

    /// The secret. One that is not there any more is written again as `kept` has it, if that is possible, else a new one.
    ///
    /// # Errors
    /// When it can be neither read nor written, and nobody has kept it.
    pub(crate) fn ensure_secret(&self, kept: impl FnOnce() -> Option<String>) -> Result<String, StateError> {
        let path = self.secret();
        let fail = |what, source| StateError { what, path: path.clone(), source };
        if let Ok(text) = fs::read_to_string(&path)
            && text.len() >= 64
        {
            // Whoever loosened it did not mean to: running workers have it.
            if fs::metadata(&path).is_ok_and(|found| found.mode() & 0o777 != 0o600) {
                let private = fs::Permissions::from_mode(0o600);
                fs::set_permissions(&path, private).map_err(|source| fail("cannot protect", source))?;
            }
            return Ok(text);
        }
        if let Some(text) = kept() {
            if let Err(error) = write_atomic(&path, text.as_bytes()) {
                tracing::warn!(%error, "secret not written; its processes have it in memory");
            }
            return Ok(text);
        }
        let mut secret = [0; 32];
        getrandom::fill(&mut secret)
            .map_err(|error| fail("no random numbers for", io::Error::other(error.to_string())))?;
        let text = format!("{}\n", hex(&secret));
        write_atomic(&path, text.as_bytes())?;
        Ok(text)
    }

    /// Removes what vanishes with `down`, the lock last: from then on another may take it. Only the holder of the
    /// lock may do this.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub(crate) fn remove_run(&self) -> Result<(), StateError> {
        remove_tree(&self.units())?;
        let lock = self.run.join("lock");
        let others = fs::read_dir(&self.run).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in others.filter(|path| *path != lock).chain([lock.clone()]) {
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StateError { what: "cannot remove", path, source });
                }
                Ok(()) | Err(_) => {}
            }
        }
        // Not empty: the next one was fast.
        let _ = fs::remove_dir(&self.run);
        Ok(())
    }

    /// Removes logs, configs and secret too. False: a supervisor runs or is starting, and nothing was removed.
    ///
    /// # Errors
    /// When something cannot be removed.
    pub fn purge(&self) -> Result<bool, StateError> {
        let mut created = Created::default();
        created.create(&self.run)?;
        let lock = self.lock();
        // With the lock it is removed below; without, it is another's.
        created.keep();
        let Some(_lock) = lock? else { return Ok(false) };
        remove_tree(&self.lib)?;
        self.remove_run()?;
        // The roots go with their last cluster.
        for root in [&self.lib, &self.run].into_iter().filter_map(|dir| dir.parent()) {
            let _ = fs::remove_dir(root);
        }
        Ok(true)
    }
}

/// Whoever can write there could have us run or overwrite what they like.
fn require_own(dir: &Path) -> Result<(), StateError> {
    let what = "cannot use state directory";
    let fail = |source| StateError { what, path: dir.to_owned(), source };
    let found = fs::metadata(dir).map_err(fail)?;
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(fail(io::Error::other(
            "it belongs to another user; run srsctl as that user, or choose another place with --state-dir",
        )));
    }
    if found.mode() & 0o022 != 0 {
        return Err(fail(io::Error::other("others may write there; forbid it with: chmod go-w DIRECTORY")));
    }
    Ok(())
}

fn remove_tree(path: &Path) -> Result<(), StateError> {
    match fs::remove_dir_all(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(StateError { what: "cannot remove", path: path.to_owned(), source })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Directories that were created: removed again, as far as they are empty, when dropped before [`Created::keep`].
#[derive(Debug, Default)]
#[must_use]
pub struct Created(Vec<PathBuf>);

impl Created {
    /// They stay.
    pub fn keep(mut self) {
        self.0.clear();
    }

    fn create(&mut self, dir: &Path) -> Result<(), StateError> {
        let missing: Vec<&Path> = dir.ancestors().take_while(|path| !path.exists()).collect();
        for path in missing.into_iter().rev() {
            match fs::DirBuilder::new().mode(0o700).create(path) {
                Ok(()) => self.0.push(path.to_owned()),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
                Err(source) => {
                    return Err(StateError {
                        what: "cannot create state directory",
                        path: path.to_owned(),
                        source,
                    });
                }
            }
        }
        Ok(())
    }
}

impl Drop for Created {
    fn drop(&mut self) {
        for path in self.0.iter().rev() {
            // The lock is the one file that is written before it is known whether all can be done.
            let _ = fs::remove_file(path.join("lock"));
            let _ = fs::remove_dir(path);
        }
    }
}

/// Whether the file system of `dir` may have no room, as far as it tells: it is read-only, or little of it is free.
fn is_short(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|found| {
        let is_fixed = found.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY);
        let few_files = found.f_files > 0 && found.f_favail == 0;
        is_fixed || few_files || found.f_bavail.saturating_mul(found.f_frsize) < ROOM as u64
    })
}

#[cfg(test)]
mod tests;
