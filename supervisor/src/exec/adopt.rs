//! Whether a process that was found alive is this cluster's: proved, disproved, or neither.
//!
//! A supervisor that was killed left processes behind. Each holds the lock of its unit, which no stranger can; it
//! answers with the token that was given to it alone; the kernel says which pid answered, and whose session that is in: of a port
//! its keeper's; a pidfd keeps that pid from being another's; its start time and the boot are those on record. What is not
//! proved is neither stopped nor replaced. Who was stopped (SIGSTOP) is woken before it is asked: nobody has a reason to stop what serves,
//! and each second of it is one that players wait. A worker whose keeper has died is ended: nothing would hold its port open. So is all that is
//! in the session of a process that has ended, where one of it holds the lock that this was lent.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::time::Duration;

use cluster::UnitId;
use control::{AskError, Connection, Request, VERSION, fds};
use tokio::task::JoinSet;

use crate::exec::process::{Process, end_session};
use crate::exec::record::{AliveLock, Identity, Record, SCHEMA, UnitFiles};
use crate::exec::strays;
use crate::host::dirs::ClusterDirs;
use crate::host::files::StateError;
use crate::host::procfs;
use crate::machine::keeper::Halt;

/// How long a process may take to say who it is, and to lend its listener.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// How long the kernel may take to end a worker that was sent SIGKILL.
const END_LIMIT: Duration = Duration::from_secs(5);

/// What was found of a unit.
#[derive(Debug)]
pub(crate) enum Found {
    /// No process. What was on record is forgotten.
    Nothing,
    /// A worker without its keeper; it has been ended, which is to be told.
    Ended {
        /// What it was.
        pid: u32,
    },
    /// Its process, proved.
    Process {
        /// The process: of a port its keeper.
        process: Process,
        /// The process that has answered, or that was found: of a port the worker.
        serving: u32,
        /// Its RTMP listener, if it could be had.
        listener: Option<OwnedFd>,
        /// It does not answer; the watchdog must judge it.
        silent: bool,
        /// Those of it that were stopped, and were sent SIGCONT.
        woken: Vec<u32>,
        /// What is remembered of it, or what would be, had nobody removed the record.
        record: Box<Record>,
    },
    /// Something that holds the unit's lock and cannot be proved to be its process.
    Unknown {
        /// What is missing, for a person.
        why: String,
    },
}

impl Found {
    /// The secret between origin and edges, as a process that was found was given it.
    pub(crate) fn secret(&self) -> Option<String> {
        match self {
            Self::Process { process, .. } => procfs::file_in_memory(process.identity().pid, fds::SECRET),
            Self::Nothing | Self::Ended { .. } | Self::Unknown { .. } => None,
        }
    }
}

/// All that is known of whoever holds the lock of a unit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Evidence {
    /// The token that the process was given, from the record or the lock file.
    token: Option<String>,
    /// The process on record, if there is a record.
    recorded: Option<Identity>,
    /// The record was written in this boot.
    same_boot: bool,
    /// When the process that has the recorded pid now started.
    recorded_pid_ticks: Option<u64>,
    /// What answered on the control socket.
    answer: Option<Answered>,
    /// A process that was started as the unit's, or of the recorded one's session with the unit's lock open: it, and whose session
    /// that is.
    widow: Option<(u32, u32)>,
}

/// An answer to HELLO.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Answered {
    version: u32,
    id: UnitId,
    token: String,
    /// From the kernel.
    sender: Option<u32>,
    /// Whose session the sender is in: its own, or its keeper's.
    leader: Option<u32>,
    /// The leader has ended.
    is_widow: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Verdict {
    Ours {
        pid: u32,
    },
    OursSilent {
        pid: u32,
    },
    /// A worker of ours without its keeper.
    Widow {
        pid: u32,
    },
    Unknown(String),
}

fn judge(unit: &UnitId, evidence: &Evidence) -> Verdict {
    let unknown = |why: String| Verdict::Unknown(why);
    if evidence.recorded.is_some() && !evidence.same_boot {
        return unknown("its record is of another boot".to_owned());
    }
    let recorded_lives =
        evidence.recorded.filter(|recorded| evidence.recorded_pid_ticks == Some(recorded.start_ticks));
    let Some(answer) = &evidence.answer else {
        return match (recorded_lives, evidence.recorded) {
            (Some(recorded), _) => Verdict::OursSilent { pid: recorded.pid },
            (None, Some(recorded)) if evidence.widow.is_some_and(|(_, keeper)| keeper == recorded.pid) => {
                evidence.widow.map_or_else(|| unknown(String::new()), |(pid, _)| Verdict::Widow { pid })
            }
            (None, Some(recorded)) => {
                unknown(format!("it does not answer, and pid {} on record has ended", recorded.pid))
            }
            (None, None) => unknown("it does not answer, and its pid is not on record".to_owned()),
        };
    };
    if answer.version != VERSION {
        return unknown(format!(
            "it speaks control version {}, this srsctl speaks {VERSION}",
            answer.version
        ));
    }
    if answer.id != *unit {
        return unknown(format!("it says that it is {}", answer.id));
    }
    if evidence.token.as_ref() != Some(&answer.token) {
        return unknown("it does not have the token that was given to this unit's process".to_owned());
    }
    let (Some(sender), Some(pid)) = (answer.sender, answer.leader) else {
        return unknown("the kernel does not tell its pid".to_owned());
    };
    match evidence.recorded {
        Some(recorded) if answer.is_widow && recorded.pid == pid => Verdict::Widow { pid: sender },
        None if answer.is_widow => Verdict::Widow { pid: sender },
        // Killed between the fork and the record of it: the token in the lock file is the proof.
        None => Verdict::Ours { pid },
        Some(recorded) if recorded.pid != pid => {
            unknown(format!("pid {pid} answers, pid {} is on record", recorded.pid))
        }
        Some(_) if recorded_lives.is_none() => unknown(format!("pid {pid} is not the process on record")),
        Some(_) => Verdict::Ours { pid },
    }
}

/// Finds out what there is of `unit`, and of the `stray` that was started as its process if there is one: then a lock that
/// nobody holds was put there by somebody else. Starts nothing, and stops nothing but a worker without its keeper.
///
/// # Errors
/// When the state directory cannot be used.
pub(crate) async fn find(
    unit: &UnitId,
    files: &UnitFiles,
    stray: Option<u32>,
    boot_id: &str,
) -> Result<Found, StateError> {
    let is_held = files.alive_lock().exists() && matches!(files.take_lock()?, AliveLock::Held);
    if !is_held && stray.is_none() {
        files.forget();
        return Ok(Found::Nothing);
    }
    let record = files.read(unit);
    let listener_fd = record.as_ref().and_then(|record| record.listener_fd);
    let of_this_boot = record.as_ref().filter(|record| record.boot_id == boot_id);
    let woken = of_this_boot.map(|record| wake(record.process)).unwrap_or_default();
    let mut connection = None;
    let answer = match hello(files, stray).await {
        Ok((opened, answered)) => {
            connection = Some(opened);
            Some(answered)
        }
        Err(error) => {
            tracing::info!(%unit, %error, "no hello");
            None
        }
    };
    let mut evidence = Evidence {
        same_boot: record.as_ref().is_some_and(|record| record.boot_id == boot_id),
        recorded: record.as_ref().map(|record| record.process),
        token: record
            .map(|record| record.token)
            .or_else(|| files.lock_token().filter(|_| is_held))
            .or_else(|| strays::token_of(stray?)),
        recorded_pid_ticks: None,
        answer,
        widow: None,
    };
    evidence.widow = evidence.recorded.filter(|_| evidence.answer.is_none()).and_then(|recorded| {
        let mut others = procfs::followers(recorded.pid).into_iter();
        let left = others.find(|pid| stray == Some(*pid) || strays::has_open(*pid, &files.alive_lock()))?;
        Some((left, recorded.pid))
    });
    let leader = evidence.answer.as_ref().map(|answer| answer.leader);
    let pid = leader.unwrap_or_else(|| evidence.recorded.map(|it| it.pid));
    // Opened before the start time is read: from here on the pid cannot change hands unnoticed.
    let process = pid.and_then(|pid| Process::adopt(pid).ok());
    evidence.recorded_pid_ticks = evidence.recorded.and_then(|recorded| procfs::start_ticks(recorded.pid));
    let (pid, silent) = match judge(unit, &evidence) {
        Verdict::Ours { pid } => (pid, false),
        Verdict::OursSilent { pid } => (pid, true),
        Verdict::Widow { pid } => return Ok(end_widow(files, pid, &evidence).await),
        Verdict::Unknown(why) => return Ok(Found::Unknown { why }),
    };
    let Some(process) = process.filter(|process| process.identity().pid == pid) else {
        return Ok(Found::Unknown { why: format!("pid {pid} has just ended") });
    };
    let sender = evidence.answer.as_ref().and_then(|answer| answer.sender);
    let mut listener = None;
    if let Some(mut connection) = connection {
        match connection.ask(&Request::Listener, None, ANSWER_LIMIT).await {
            // The second answer comes from a process that the pidfd already held.
            Ok(answer) if !answer.sender.is_some_and(|sender| process.has(sender)) => {
                return Ok(Found::Unknown { why: format!("pid {pid} answered first, then another") });
            }
            Ok(answer) => listener = answer.fds.into_iter().next(),
            Err(AskError::Refused(_)) => {}
            Err(error) => tracing::info!(%unit, %error, "listener not lent back"),
        }
    }
    if listener.is_none() {
        listener = listener_fd.and_then(|number| process.duplicate_fd(number).ok());
    }
    let record = Box::new(Record {
        schema: SCHEMA.to_owned(),
        unit: unit.clone(),
        token: evidence.token.unwrap_or_default(),
        boot_id: boot_id.to_owned(),
        process: process.identity(),
        listener_fd,
    });
    let serving = sender.or(stray).filter(|serving| process.has(*serving)).unwrap_or(pid);
    let listener = listener.filter(fds::is_tcp_listener);
    Ok(Found::Process { process, serving, listener, silent, woken, record })
}

/// Wakes the process on record and those of its session, as far as they are stopped; tells whom.
fn wake(recorded: Identity) -> Vec<u32> {
    let Some(leader) = Process::adopt(recorded.pid).ok().filter(|it| it.identity() == recorded) else {
        return Vec::new();
    };
    let followers = leader.workers().into_iter().filter_map(|pid| Process::adopt(pid).ok());
    // Their pids may have become others' since they were listed.
    let followers: Vec<_> = followers.filter(|process| leader.has(process.identity().pid)).collect();
    let all = std::iter::once(&leader).chain(&followers);
    let stopped = all.filter(|process| process.wake() == Some(Halt::Stopped));
    stopped.map(|process| process.identity().pid).collect()
}

/// Ends a worker whose keeper has died, and all else of its session.
async fn end_widow(files: &UnitFiles, pid: u32, evidence: &Evidence) -> Found {
    let leader = procfs::session(pid);
    let widow = Process::adopt(pid).ok();
    // It may have ended, and its pid be another's, since it was judged.
    let known = match (&evidence.answer, evidence.widow) {
        (Some(answer), _) => answer.leader,
        (None, Some((_, leader))) => Some(leader),
        (None, None) => None,
    };
    let Some(widow) = widow.filter(|_| leader.is_some() && leader == known) else {
        return Found::Unknown { why: format!("pid {pid} has just ended") };
    };
    // As long as it lives, and it is held here, nobody else gets a session of that name.
    let leader = Identity { pid: leader.unwrap_or(pid), start_ticks: 0 };
    widow.kill();
    let ends = async {
        end_session(leader).await;
        widow.wait().await
    };
    if tokio::time::timeout(END_LIMIT, ends).await.is_err() {
        return Found::Unknown { why: format!("the kernel does not end pid {pid}, whose keeper has died") };
    }
    files.forget();
    Found::Ended { pid }
}

/// What earlier supervisors left: of `units`, and of those of older files.
///
/// # Errors
/// When the state directory cannot be used.
pub(crate) async fn find_all(
    dirs: &ClusterDirs,
    units: impl Iterator<Item = UnitId>,
    boot_id: &str,
) -> Result<BTreeMap<UnitId, Found>, StateError> {
    let strays = strays::find(dirs);
    let mut ids: Vec<UnitId> = units.collect();
    ids.extend(recorded(dirs));
    ids.extend(strays.keys().cloned());
    ids.sort();
    ids.dedup();
    // Side by side: each that is frozen takes its time to be silent.
    let mut looks = JoinSet::new();
    for id in ids {
        let (files, boot_id) = (UnitFiles::new(dirs.unit(&id)), boot_id.to_owned());
        let stray = strays.get(&id).copied();
        looks.spawn(async move { find(&id, &files, stray, &boot_id).await.map(|found| (id, found)) });
    }
    let mut all = BTreeMap::new();
    while let Some(found) = looks.join_next().await {
        match found {
            Ok(Ok((_, Found::Nothing))) => {}
            Ok(Ok((id, found))) => drop(all.insert(id, found)),
            Ok(Err(error)) => return Err(error),
            Err(panic) => std::panic::resume_unwind(panic.into_panic()),
        }
    }
    Ok(all)
}

/// The units that have a run directory.
pub(crate) fn recorded(dirs: &ClusterDirs) -> Vec<UnitId> {
    let entries = std::fs::read_dir(dirs.units()).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    // A unit id is any string; what is no unit has no lock that is held.
    names.filter_map(|name| serde_json::from_value(serde_json::Value::String(name)).ok()).collect()
}

async fn hello(files: &UnitFiles, stray: Option<u32>) -> Result<(Connection, Answered), AskError> {
    let mut connection = open(&files.control(), stray)?.0;
    let (hello, sender) = connection.hello(ANSWER_LIMIT).await?;
    let leader = sender.and_then(procfs::session);
    let answered = Answered {
        version: hello.version,
        id: hello.id,
        token: hello.token,
        sender,
        leader,
        is_widow: leader.is_some_and(|leader| procfs::start_ticks(leader).is_none()),
    };
    Ok((connection, answered))
}

/// Connects to a process by the file of its control socket, or, where nobody is there, by the socket that process `pid` itself
/// holds. Tells whether it was the file.
///
/// # Errors
/// When neither is there.
pub(crate) fn open(control: &Path, pid: Option<u32>) -> Result<(Connection, bool), AskError> {
    let by_file = match Connection::open(control) {
        Ok(connection) => return Ok((connection, true)),
        Err(error) => error,
    };
    let held = pid.filter(|_| by_file.is_missing()).and_then(strays::control_of);
    held.map_or(Err(by_file), |held| Ok((Connection::open(&held)?, false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cluster::Role;

    fn unit() -> UnitId {
        UnitId::worker(Role::Edge, "127.0.0.6", 1935)
    }

    /// All in order: record, process and answer agree.
    fn sound() -> Evidence {
        Evidence {
            token: Some("t".into()),
            recorded: Some(Identity { pid: 42, start_ticks: 7 }),
            same_boot: true,
            recorded_pid_ticks: Some(7),
            answer: Some(Answered {
                version: VERSION,
                id: unit(),
                token: "t".into(),
                sender: Some(43),
                leader: Some(42),
                is_widow: false,
            }),
            widow: Some((43, 42)),
        }
    }

    fn with(change: impl FnOnce(&mut Evidence)) -> Verdict {
        let mut evidence = sound();
        change(&mut evidence);
        judge(&unit(), &evidence)
    }

    fn with_answer(change: impl FnOnce(&mut Answered)) -> Verdict {
        with(|evidence| change(evidence.answer.as_mut().unwrap()))
    }

    #[test]
    fn a_process_of_which_all_agrees_is_ours() {
        assert_eq!(with(|_| {}), Verdict::Ours { pid: 42 });
    }

    #[test]
    fn a_process_spawned_just_before_the_crash_is_ours_by_its_token() {
        let forked = with(|evidence| {
            evidence.recorded = None;
            evidence.recorded_pid_ticks = None;
        });
        assert_eq!(forked, Verdict::Ours { pid: 42 });
    }

    #[test]
    fn a_frozen_process_is_ours_by_pid_start_and_boot() {
        assert_eq!(with(|evidence| evidence.answer = None), Verdict::OursSilent { pid: 42 });
    }

    #[test]
    fn a_worker_without_its_keeper_is_known_by_its_token_or_its_session() {
        let answers = |change: &dyn Fn(&mut Evidence)| {
            with(|evidence| {
                evidence.recorded_pid_ticks = None;
                evidence.answer.as_mut().unwrap().is_widow = true;
                change(evidence);
            })
        };
        assert_eq!(answers(&|_| {}), Verdict::Widow { pid: 43 });
        assert_eq!(answers(&|evidence| evidence.recorded = None), Verdict::Widow { pid: 43 });
        assert_eq!(answers(&|evidence| evidence.answer = None), Verdict::Widow { pid: 43 });
        for change in [
            (&|evidence: &mut Evidence| evidence.token = None) as &dyn Fn(&mut Evidence),
            &|evidence| evidence.answer.as_mut().unwrap().leader = Some(44),
            &|evidence| (evidence.answer, evidence.widow) = (None, Some((43, 44))),
            &|evidence| evidence.same_boot = false,
        ] {
            let verdict = answers(change);
            assert!(matches!(verdict, Verdict::Unknown(_)), "{verdict:?}");
        }
    }

    #[test]
    fn whatever_does_not_agree_is_unknown() {
        let cases = [
            ("another boot", with(|evidence| evidence.same_boot = false)),
            ("another start", with(|evidence| evidence.recorded_pid_ticks = Some(8))),
            (
                "recorded pid gone",
                with(|evidence| (evidence.recorded_pid_ticks, evidence.widow) = (None, None)),
            ),
            ("no token known", with(|evidence| evidence.token = None)),
            ("another token", with_answer(|answer| answer.token = "u".into())),
            ("another unit", with_answer(|answer| answer.id = UnitId::encoder())),
            ("another version", with_answer(|answer| answer.version = VERSION + 1)),
            ("another keeper", with_answer(|answer| answer.leader = Some(44))),
            ("no pid", with_answer(|answer| answer.sender = None)),
            ("no session", with_answer(|answer| answer.leader = None)),
            (
                "silent, another start",
                with(|evidence| {
                    evidence.answer = None;
                    evidence.recorded_pid_ticks = Some(8);
                    evidence.widow = None;
                }),
            ),
            (
                "silent, no record",
                with(|evidence| {
                    evidence.answer = None;
                    evidence.recorded = None;
                }),
            ),
        ];
        for (case, verdict) in cases {
            assert!(matches!(verdict, Verdict::Unknown(_)), "{case}: {verdict:?}");
        }
    }
}
