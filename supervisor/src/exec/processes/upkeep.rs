//! What is looked after now and then: logs, files that somebody removed, descriptors in reserve.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::time::Duration;

use cluster::UnitId;
use control::api::Apply;
use control::{Request, fds};

use super::{Processes, Remembered, tell_change};
use crate::host::dirs::ClusterDirs;
use crate::host::files::{StateError, write_atomic};
use crate::host::{logs, procfs};

/// Descriptors that a spawn opens at most.
const RESERVE: usize = 32;
/// How long a process may take to open its new log.
const REOPEN_LIMIT: Duration = Duration::from_secs(5);

impl Processes {
    /// Looks after logs and files, to be called now and then; false once the cluster is closed and nothing is to be put back.
    pub(crate) fn tend(&mut self) -> bool {
        while self.helpers.try_join_next().is_some() {}
        if self.is_closed {
            return false;
        }
        self.fill_reserve();
        self.tend_logs();
        self.journal.tend();
        match self.tend_files() {
            Ok(()) => self.missing = None,
            Err(error) => {
                let why = error.to_string();
                if self.missing.as_ref() != Some(&why) {
                    tracing::warn!(%error, "somebody removed it, and it cannot be put back");
                    self.missing = Some(why);
                }
            }
        }
        true
    }

    /// What is wrong with the place where logs and state are kept, and with the program that is started.
    pub(crate) fn warnings(&self) -> Vec<String> {
        let logs = self.held.values().filter(|held| held.live.is_some()).map(|held| &held.log_fails);
        let logs = std::iter::once(&self.own_log_fails).chain(logs).flatten();
        let logs = logs.map(|why| format!("{why}; what would be written there is lost"));
        let room = self.dirs.lack_of_room();
        // What is missing for want of room is put back with it.
        let missing = self.missing.iter().filter(|_| room.is_empty()).cloned();
        room.clone().into_iter().chain(logs).chain(missing).chain(self.spawner.lack()).collect()
    }

    /// Puts back what somebody removed.
    fn tend_files(&mut self) -> Result<(), StateError> {
        let Remembered { secret, in_force: Apply { path, text, hosts, .. }, .. } = &self.remembered;
        if !self.dirs.secret().exists() {
            write_atomic(&self.dirs.secret(), secret.as_bytes())?;
        }
        let is_whole = |dirs: &ClusterDirs| -> Result<bool, StateError> {
            let is_there = dirs.in_force()?.is_some_and(|(path, _)| !path.as_os_str().is_empty());
            Ok(is_there && (hosts.is_empty() || !dirs.hosts_in_force()?.is_empty()))
        };
        if !is_whole(&self.dirs)? {
            self.dirs.put_in_force(path, text, hosts)?;
        }
        for (unit, held) in &self.held {
            let Some(live) = &held.live else { continue };
            if !held.files.has_record() {
                held.files.create()?;
                held.files.write(&live.record)?;
            }
            let config = self.dirs.config(unit);
            let text = || {
                held.config.clone().or_else(|| procfs::file_in_memory(live.record.process.pid, fds::CONFIG))
            };
            if !config.exists()
                && let Some(text) = text()
            {
                write_atomic(&config, text.as_bytes())?;
            }
        }
        Ok(())
    }

    pub(super) fn fill_reserve(&mut self) {
        while self.reserve.len() < RESERVE {
            let Ok(spare) = File::open("/dev/null") else { return };
            self.reserve.push(spare.into());
        }
    }

    /// Puts logs that are full aside, and has those opened anew that were moved or removed.
    fn tend_logs(&mut self) {
        if let Some(own) = &self.remembered.own_log {
            tell_change(&mut self.own_log_fails, logs::tend_own(own), own);
        }
        let mut new = Vec::new();
        for (unit, held) in &mut self.held {
            let Some(live) = &held.live else { continue };
            let log = self.dirs.log(unit);
            let opened = if !logs::writes_to(live.process.identity().pid, &log) {
                logs::open(&log)
            } else if logs::is_full(&log) {
                logs::rotate(&log)
            } else {
                continue;
            };
            if let Some(file) = tell_change(&mut held.log_fails, opened, &log) {
                new.push((unit.clone(), file));
            }
        }
        new.into_iter().for_each(|(unit, file)| self.reopen(&unit, file));
    }

    /// Opens all logs anew, as SIGHUP and SIGUSR1 ask.
    pub(crate) fn reopen_logs(&mut self) {
        if let Some(own) = &self.remembered.own_log {
            tell_change(&mut self.own_log_fails, logs::write_here(own), own);
        }
        let units: Vec<UnitId> = self.held.keys().cloned().collect();
        for unit in units {
            let log = self.dirs.log(&unit);
            let held = self.held(&unit);
            if held.live.is_some()
                && let Some(file) = tell_change(&mut held.log_fails, logs::open(&log), &log)
            {
                self.reopen(&unit, file);
            }
        }
        tracing::info!("logs reopened");
    }

    /// Has a process write to `file` from now on.
    fn reopen(&mut self, unit: &UnitId, file: File) {
        let (unit, reach) = (unit.clone(), self.held(unit).reach());
        self.helpers.spawn(async move {
            let asked = reach.ask(&Request::ReopenLog, Some(file.as_fd()), REOPEN_LIMIT).await;
            if let Err(error) = asked {
                tracing::warn!(%unit, %error, "it goes on writing to its old log");
            }
        });
    }
}
