//! `srsctl service stop`: the end of a cluster's processes when systemd stops its service, in whatever state that is: also while it
//! waits to be started again after a crash, or hangs and is about to be killed.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::unistd::{Gid, Uid};
use supervisor::ClusterDirs;
use supervisor::orphans::{self, OrphansError};
use tokio::process::Command;

use crate::failure::Failure;
use crate::subject::Global;
use crate::talk::{Answer, Ask, Talk};
use crate::terminal::complain;

/// For how long it is tried: a supervisor that hangs is killed by the watchdog meanwhile. Less than TimeoutStopSec= of the unit.
const LIMIT: Duration = Duration::from_secs(100);
/// How long the service may take to stop all; it kills what does not stop before that.
const SERVICE_LIMIT: Duration = Duration::from_secs(40);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(250);

/// How long systemd may take to say which job it does.
const JOB_LIMIT: Duration = Duration::from_secs(10);

/// Stops all, by the service if that answers.
pub(super) async fn run(global: &Global, name: &str, unit: Option<&str>) -> Result<ExitCode, Failure> {
    if let Some(unit) = unit {
        match job_of(unit).await {
            Ok(Some(job)) if job == "stop" => {}
            // A crash, or a restart: its processes go on.
            Ok(_) => return Ok(ExitCode::SUCCESS),
            // Who cannot tell leaves the players what they have: at the end of the machine systemd ends what is left.
            Err(why) => {
                let hint = format!("to stop them: srsctl service stop {name}");
                let what = format!("whether {unit} is to stop is not known: {why}; its processes go on");
                return Err(Failure::failed(format!("{what}; {hint}")));
            }
        }
        become_owner()?;
    }
    let dirs = global.roots()?.cluster(name);
    let begin = Instant::now();
    let mut said = String::new();
    loop {
        let Some(why) = attempt(&dirs).await? else { return Ok(ExitCode::SUCCESS) };
        if why != said {
            complain(&why);
            said = why;
        }
        if begin.elapsed() > LIMIT {
            return Err(Failure::failed(format!("cluster {name} is not stopped: {said}")));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// What systemd is about to do with a unit.
async fn job_of(unit: &str) -> Result<Option<String>, String> {
    let mut systemctl = Command::new("systemctl");
    systemctl.args(["list-jobs", "--no-legend", "--no-pager", "--plain", "--", unit]).kill_on_drop(true);
    let output = tokio::time::timeout(JOB_LIMIT, systemctl.output()).await;
    let output = output.map_err(|_| "systemctl does not answer".to_owned())?;
    let output = output.map_err(|error| format!("systemctl: {error}"))?;
    if !output.status.success() {
        return Err(format!("systemctl: {}", String::from_utf8_lossy(&output.stderr).trim()));
    }
    // Number, unit, kind and state of each job.
    let kind = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        (words.next() == Some(unit)).then(|| words.next().map(str::to_owned)).flatten()
    };
    Ok(String::from_utf8_lossy(&output.stdout).lines().find_map(kind))
}

/// As root: becomes the user to whom the clusters of services belong. What root leaves there, their supervisor could not use.
fn become_owner() -> Result<(), Failure> {
    let Some((user, group)) = supervisor::owner_of_services().filter(|_| nix::unistd::geteuid().is_root())
    else {
        return Ok(());
    };
    nix::unistd::setgroups(&[])
        .and_then(|()| nix::unistd::setgid(Gid::from_raw(group)))
        .and_then(|()| nix::unistd::setuid(Uid::from_raw(user)))
        .map_err(|error| Failure::failed(format!("cannot become user {user}: {error}")))
}

/// Nothing once all is stopped; else why it is not yet.
async fn attempt(dirs: &ClusterDirs) -> Result<Option<String>, Failure> {
    let asked = match Talk::open(dirs) {
        Ok(Some(mut service)) => tokio::time::timeout(SERVICE_LIMIT, async {
            service.telling.say(&Ask::Stop {}).await?;
            service.hearing.next::<Answer>().await
        })
        .await
        .unwrap_or_else(|late| Err(late.into())),
        Ok(None) => Ok(None),
        Err(error) => Err(error),
    };
    match asked {
        Ok(Some(Answer::Stopped {})) => return Ok(None),
        Ok(Some(Answer::NotStopped(why))) => return Err(Failure::failed(why)),
        Ok(None) => {}
        Err(error) => complain(&format!("the service does not answer: {error}")),
    }
    match orphans::stop_all(dirs, complain).await {
        Ok(stopped) => match stopped.left.first() {
            None => Ok(None),
            Some((id, why, _)) => Ok(Some(format!("{id}: left alone: {why}"))),
        },
        Err(OrphansError::Supervised { .. }) => Ok(Some("a supervisor runs and does not answer".to_owned())),
        Err(error) => Err(Failure::failed(error)),
    }
}
