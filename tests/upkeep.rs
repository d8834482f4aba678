//! Logs that are moved, files that are removed and signals that are sent under a running cluster: none of it is felt by a player.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::sys::signal::Signal::{SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGTERM, SIGUSR1};
use nix::sys::signal::{SigSet, SigmaskHow};

use crate::support::cluster::{SRSCTL, TestCluster, run, signal};
use crate::support::{SOON, STREAM, wait_for, wait_until};

fn with_encoder() -> TestCluster {
    let cluster = TestCluster::with(|net| {
        format!("{}encoder: {{ source: test-card, stream: {STREAM} }}\n", net.guide())
    });
    cluster.up();
    cluster
}

/// Its log and its process, of every unit.
fn logs(cluster: &TestCluster) -> Vec<(PathBuf, u32)> {
    cluster.status().units.into_iter().map(|unit| (PathBuf::from(unit.log), unit.pid.unwrap())).collect()
}

fn own_log(cluster: &TestCluster) -> PathBuf {
    cluster.state.join("lib").join(cluster.net.cluster_name()).join("log/agent.log")
}

fn writes_to(pid: u32, log: &Path) -> bool {
    let file = |path: &Path| fs::metadata(path).map(|it| (it.dev(), it.ino())).ok();
    file(log).is_some() && file(&PathBuf::from(format!("/proc/{pid}/fd/2"))) == file(log)
}

#[test]
fn hup_and_usr1_open_moved_logs_anew_and_end_no_process() {
    let cluster = with_encoder();
    let supervisor = cluster.status().supervisor_pid;
    let units = logs(&cluster);
    for signals in [[SIGHUP, SIGUSR1], [SIGUSR1, SIGHUP]] {
        // While the supervisor stands still, each process does it by itself.
        signal(supervisor, SIGSTOP);
        for (log, pid) in &units {
            fs::rename(log, log.with_extension("log.old")).unwrap();
            signal(*pid, signals[0]);
            wait_until("a process to write to its new log", SOON, || writes_to(*pid, log));
        }
        signal(supervisor, SIGCONT);

        let own = own_log(&cluster);
        for log in units.iter().map(|(log, _)| log).chain([&own]) {
            fs::rename(log, log.with_extension("log.old")).unwrap();
        }
        signal(supervisor, signals[1]);
        for (log, pid) in units.iter().chain([&(own, supervisor)]) {
            wait_until("everybody to write to the new log", SOON, || writes_to(*pid, log));
        }
        assert_eq!(logs(&cluster), units);
        assert_eq!(cluster.status().supervisor_pid, supervisor);
    }
}

#[test]
fn removed_logs_are_written_again_without_being_asked_and_their_directory_too() {
    let cluster = with_encoder();
    let supervisor = cluster.status().supervisor_pid;
    let edge = cluster.net.edges()[0];
    let (old, keeper) = (cluster.pid(edge), cluster.keeper(edge));
    fs::remove_dir_all(own_log(&cluster).parent().unwrap()).unwrap();
    signal(keeper, SIGKILL);
    cluster.await_successor(edge, old);
    for (log, pid) in logs(&cluster).into_iter().chain([(own_log(&cluster), supervisor)]) {
        wait_until("a log to be there again", SOON, || writes_to(pid, &log));
    }
    cluster.run(&["logs", "edge"]).expect_code(0).expect_words(&["starting"]);
}

#[test]
fn a_log_that_cannot_be_opened_keeps_no_worker_from_its_start() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let (log, old) = (PathBuf::from(cluster.unit(edge).log), cluster.pid(edge));
    let keeper = cluster.keeper(edge);
    fs::remove_file(&log).unwrap();
    fs::create_dir(&log).unwrap();
    signal(keeper, SIGKILL);
    let new = cluster.await_successor(edge, old);
    let told = wait_for("the supervisor to name it", SOON, || {
        let text = fs::read_to_string(own_log(&cluster)).map_err(|error| error.to_string())?;
        text.lines().find(|line| line.contains("log not opened")).map(str::to_owned).ok_or(text)
    });
    assert!(told.contains("WARN") && told.contains(log.to_str().unwrap()), "{told}");
    fs::remove_dir(&log).unwrap();
    wait_until("the log to be written once it can be", SOON, || writes_to(new, &log));
}

#[test]
fn a_caller_that_blocks_or_ignores_signals_does_not_hand_that_on() {
    let cluster = TestCluster::guide();
    let blocked = || {
        let before = SigSet::all().thread_swap_mask(SigmaskHow::SIG_SETMASK).unwrap();
        let done = cluster.up();
        before.thread_set_mask().unwrap();
        done
    };
    thread::scope(|scope| drop(scope.spawn(blocked).join().unwrap()));
    let clean = |pid: u32| {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let mask = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim();
            u64::from_str_radix(line, 16).unwrap()
        };
        let termination = 1 << (SIGTERM as u32 - 1);
        assert_eq!(mask("SigBlk:"), 0, "{status}");
        assert_eq!(mask("SigIgn:") & termination, 0, "{status}");
    };
    let everybody = || {
        let status = cluster.status();
        status.units.into_iter().filter_map(|unit| unit.pid).chain([status.supervisor_pid])
    };
    everybody().for_each(clean);
    signal(cluster.status().supervisor_pid, SIGTERM);
    wait_until("SIGTERM to end the cluster", SOON, || cluster.processes().is_empty());

    let up = r#"trap "" TERM CHLD USR1 && exec "$0" up cluster.yaml"#;
    let template = cluster.srsctl(&[]);
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", up]).arg(template.get_program()).current_dir(cluster.dir.path());
    run(shell.env("SRSCTL_STATE_DIR", &cluster.state)).expect_code(0);
    everybody().for_each(clean);
    let edge = cluster.net.edges()[0];
    let old = cluster.pid(edge);
    signal(cluster.keeper(edge), SIGKILL);
    cluster.await_successor(edge, old);
    let how = cluster.unit(edge).last_exit.unwrap().how;
    assert!(how.contains("SIGKILL"), "the end of a child is seen: {how}");
}

#[test]
fn what_means_nothing_here_ends_no_process() {
    let cluster = with_encoder();
    let before = cluster.pids();
    let supervisor = cluster.status().supervisor_pid;
    // SIGALRM, SIGSTKFLT, SIGXCPU, SIGXFSZ, SIGVTALRM, SIGPROF, SIGIO, SIGPWR, and the first and last real-time signal.
    for number in ["14", "16", "24", "25", "26", "27", "29", "30", "34", "64"] {
        for pid in before.values().copied().chain([supervisor]) {
            run(std::process::Command::new("kill").args(["-s", number, &pid.to_string()])).expect_code(0);
        }
    }
    assert_eq!((cluster.pids(), cluster.status().supervisor_pid), (before, supervisor));
    assert!(cluster.status().units.iter().all(|unit| unit.restarts == 0));
}

#[test]
fn a_log_at_the_limit_of_a_files_size_is_put_aside_and_ends_no_process() {
    let cluster = TestCluster::guide();
    let up = r#"ulimit -f 2200 && exec "$0" up cluster.yaml"#;
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", up, SRSCTL]).current_dir(cluster.dir.path());
    run(shell.env("SRSCTL_STATE_DIR", &cluster.state)).expect_code(0);
    let before = cluster.pids();
    let log = PathBuf::from(cluster.unit(cluster.net.origin()).log);
    // More than any of them may write.
    fs::OpenOptions::new().append(true).open(&log).unwrap().set_len(1 << 20).unwrap();
    wait_until("the log to be put aside", SOON, || fs::metadata(&log).is_ok_and(|it| it.len() < 1 << 20));
    assert_eq!(cluster.pids(), before);
    // Nor does the file in memory fit, which a port can do without.
    let _ = cluster.run(&["logs", "origin"]).expect_code(0).expect_words(&["no memory to outlive a worker"]);
    // A command, too, is told and not killed.
    let status = r#"ulimit -f 0 && trap "" XFSZ && exec "$0" status cluster.yaml > out"#;
    for script in [status.to_owned(), status.replace("trap \"\" XFSZ && ", "")] {
        let mut shell = std::process::Command::new("sh");
        shell.args(["-c", &script, SRSCTL]).current_dir(cluster.dir.path());
        let done = run(shell.env("SRSCTL_STATE_DIR", &cluster.state)).expect_code(1);
        let _ = done.expect_words(&["cannot write to standard output: File too large"]);
    }
}

#[test]
fn a_caller_without_standard_descriptors_starts_a_cluster_that_has_them() {
    let cluster = with_encoder();
    cluster.down();
    let mut shell = std::process::Command::new("sh");
    shell.args(["-c", r#""$0" up cluster.yaml <&- >&- 2>&-"#, SRSCTL]).current_dir(cluster.dir.path());
    // What it would print is lost.
    run(shell.env("SRSCTL_STATE_DIR", &cluster.state)).expect_code(1);
    let status = cluster.status();
    for pid in status.units.iter().filter_map(|unit| unit.pid).chain([status.supervisor_pid]) {
        let opened = |fd: u8| fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
        // The supervisor was told its file through a pipe.
        let input = opened(0);
        let is_input = input == Path::new("/dev/null") || input.to_str().unwrap().starts_with("pipe:");
        assert!(is_input, "{pid} has {} as 0", input.display());
        for fd in [1, 2] {
            let output = opened(fd);
            assert_eq!(output.extension().unwrap(), "log", "{pid} has {} as {fd}", output.display());
        }
    }
}

/// Kills an edge with its keeper, and waits until its successor plays the encoder's stream.
fn replace_an_edge(cluster: &TestCluster) {
    let edge = cluster.net.edges()[0];
    let old = cluster.pid(edge);
    signal(cluster.keeper(edge), SIGKILL);
    cluster.await_successor(edge, old);
    cluster.await_live(STREAM);
}

#[test]
fn a_worker_starts_without_its_config_directory_and_without_the_secrets_file() {
    let cluster = with_encoder();
    let lib = cluster.state.join("lib").join(cluster.net.cluster_name());
    let secret = fs::read_to_string(lib.join("secret")).unwrap();
    fs::remove_dir_all(lib.join("conf")).unwrap();
    fs::write(lib.join("conf"), "in the way").unwrap();
    for other in [None, Some("another, from a backup, which running workers do not have")] {
        // It may not have been put back yet.
        let _ = fs::remove_file(lib.join("secret"));
        if let Some(other) = other {
            fs::write(lib.join("secret"), other).unwrap();
        }
        replace_an_edge(&cluster);
    }
    // Taken over, the workers tell what they run with.
    let supervisor = cluster.status().supervisor_pid;
    signal(supervisor, SIGSTOP);
    fs::remove_file(lib.join("secret")).unwrap();
    fs::remove_file(lib.join("conf")).unwrap();
    signal(supervisor, SIGKILL);
    wait_until("the supervisor to be gone", SOON, || cluster.run(&["status"]).code != 0);
    cluster.up();
    assert_eq!(fs::read_to_string(lib.join("secret")).unwrap(), secret);
    replace_an_edge(&cluster);
}

#[test]
fn a_worker_starts_while_the_binary_is_away() {
    let cluster = TestCluster::guide();
    let binary = cluster.dir.path().join("srsctl");
    crate::support::cluster::copy_of_srsctl(&binary);
    let mut up = std::process::Command::new(&binary);
    up.args(["up", "cluster.yaml"]).current_dir(cluster.dir.path());
    run(up.env("SRSCTL_STATE_DIR", &cluster.state)).expect_code(0);
    fs::remove_file(&binary).unwrap();
    let edge = cluster.net.edges()[0];
    let old = cluster.pid(edge);
    signal(cluster.keeper(edge), SIGKILL);
    cluster.await_successor(edge, old);
}
