//! What commands write, where, and what they take: a disk that is full, a reader that goes away, words of strangers, names
//! instead of files.

use std::fs::{self, File, OpenOptions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::thread;

use crate::support::cluster::{SRSCTL, TestCluster, run};
use crate::support::net::url;
use crate::support::{CARD_MS, SOON, STREAM, card, rml, wait_for, wait_until};

/// The log of the origin of `cluster`.
fn origin_log(cluster: &TestCluster) -> PathBuf {
    PathBuf::from(cluster.unit(cluster.net.origin()).log)
}

/// A command that goes on, and the lines that it writes.
struct Following(Child, mpsc::Receiver<String>);

impl Following {
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let (lines, stdout) = (mpsc::channel(), BufReader::new(child.stdout.take().unwrap()));
        let sender = lines.0;
        thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self(child, lines.1)
    }

    /// The next line that holds `text`.
    #[track_caller]
    fn expect(&self, text: &str) -> String {
        loop {
            let line = self.1.recv_timeout(SOON).unwrap_or_else(|e| panic!("no line with {text:?}: {e}"));
            if line.contains(text) {
                return line;
            }
        }
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn what_cannot_be_written_to_stdout_is_an_error_and_a_reader_that_went_away_is_none() {
    let cluster = TestCluster::up_guide();
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let edge = url(cluster.net.edges()[0], STREAM);
    let commands: [&[&str]; 11] = [
        &["status"],
        &["status", "--json"],
        &["up", "cluster.yaml"],
        &["ls"],
        &["ls", "--json"],
        &["logs"],
        &["urls", STREAM],
        &["check"],
        &["probe", &edge],
        &["--version"],
        &["help", "logs"],
    ];
    for args in commands {
        let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let done = cluster.srsctl(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(1), "{args:?}: {said}");
        assert!(said.contains("cannot write to standard output: No space left"), "{args:?}: {said}");

        // Closed; and what somebody chose, also as a library may open it for both.
        for (to, code) in [(">&-", 1), (">/dev/null", 0), ("1<>/dev/null", 0)] {
            let mut command = Command::new("sh");
            command
                .args(["-c", &format!("exec \"$0\" \"$@\" {to}"), SRSCTL])
                .args(args)
                .stderr(Stdio::piped());
            command.current_dir(cluster.dir.path()).env("SRSCTL_STATE_DIR", &cluster.state);
            let done = command.output().unwrap();
            let said = String::from_utf8(done.stderr).unwrap();
            assert_eq!(done.status.code(), Some(code), "{args:?} {to}: {said}");
            let is_told = said.contains("cannot write to standard output: Bad file descriptor");
            assert_eq!(is_told, code == 1, "{args:?} {to}: {said}");
        }

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let done = cluster.srsctl(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        let said = String::from_utf8(done.stderr).unwrap();
        assert_eq!(done.status.code(), Some(0), "{args:?}: {said}");
        assert!(!said.contains("panic") && !said.contains("write"), "{args:?}: {said}");
    }
}

#[test]
fn a_followed_log_is_followed_through_cutting_removal_and_rotation() {
    let cluster = TestCluster::up_guide();
    let log = origin_log(&cluster);
    let write = |text: &str| {
        let mut file = OpenOptions::new().create(true).append(true).open(&log).unwrap();
        writeln!(file, "{text}").unwrap();
    };
    let logs = Following::start(&mut cluster.srsctl(&["logs", "origin", "-f", "-n", "0"]));
    // Until it is known to look.
    wait_for("the first line to be followed", SOON, || {
        write("begun");
        logs.1.try_recv().map_err(|e| e.to_string())
    });
    write("before");
    logs.expect("before");
    File::create(&log).unwrap();
    write("after it was cut, and longer than all that was there before");
    logs.expect("after it was cut");
    fs::rename(&log, log.with_extension("log.1")).unwrap();
    write("after it was put aside");
    logs.expect("after it was put aside");
    fs::remove_file(&log).unwrap();
    write("after it was removed");
    logs.expect("after it was removed");
}

#[test]
fn a_log_that_is_not_there_yet_is_waited_for() {
    let cluster = TestCluster::guide();
    let logs = Following::start(&mut cluster.srsctl(&["logs", "-f", "cluster.yaml"]));
    cluster.up();
    logs.expect("origin-");
}

#[test]
fn logs_keep_the_order_in_which_one_log_was_written() {
    let cluster = TestCluster::up_guide();
    let log = origin_log(&cluster);
    cluster.down();
    let mut file = OpenOptions::new().append(true).open(log).unwrap();
    writeln!(file, "2020-01-01T00:00:00.000000Z  INFO after the clock was set back").unwrap();
    let done = cluster.run(&["logs", "origin", "-n", "3"]).expect_code(0);
    assert!(done.stdout.trim_end().ends_with("after the clock was set back"), "{}", done.stdout);
}

#[test]
fn followed_logs_end_with_their_reader_though_nothing_is_written() {
    let cluster = TestCluster::guide();
    let logs = cluster.state.join("lib").join(cluster.net.cluster_name()).join("log");
    fs::create_dir_all(&logs).unwrap();
    fs::write(logs.join("agent.log"), "one\n").unwrap();
    let mut logs = cluster.srsctl(&["logs", "-f"]).stdout(Stdio::piped()).spawn().unwrap();
    drop(logs.stdout.take());
    wait_until("logs to end", SOON, || logs.try_wait().unwrap().is_some());
}

#[test]
fn a_file_may_come_through_a_pipe() {
    let cluster = TestCluster::guide();
    let yaml = fs::read(&cluster.file).unwrap();
    fs::remove_file(&cluster.file).unwrap();
    let up = || {
        let mut command = cluster.srsctl(&["up", "-"]);
        let command = command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(&yaml).unwrap();
        child.wait().unwrap().code()
    };
    assert_eq!(up(), Some(0));
    let before = cluster.pids();
    assert_eq!(up(), Some(0), "it runs already");
    let name = cluster.net.cluster_name();
    cluster.run(&["up", &name]).expect_code(0);
    assert_eq!(cluster.pids(), before);
    cluster.run(&["down", &name]).expect_code(0);
    cluster.assert_nothing_left();
}

#[test]
fn a_cluster_that_nobody_named_is_stopped_only_when_that_is_said() {
    let cluster = TestCluster::up_guide();
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |args: &[&str]| run(cluster.srsctl(args).current_dir(elsewhere.path()));
    let name = cluster.net.cluster_name();
    let refused = at(&["down"]).expect_code(2);
    let _ = refused.expect_words(&[&name, &format!("srsctl down {name}"), "--yes"]);
    at(&["status"]).expect_code(0);
    at(&["restart", "edge", "1935"])
        .expect_code(0)
        .expect_words(&[&format!("the only cluster here: {name} (")]);
    // A person at a terminal is asked.
    let mut asked = Command::new("script");
    asked.args(["-qec", &format!("{SRSCTL} down"), "/dev/null"]).current_dir(elsewhere.path());
    asked.env("SRSCTL_STATE_DIR", &cluster.state).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut asked = asked.spawn().unwrap();
    asked.stdin.as_mut().unwrap().write_all(b"n\n").unwrap();
    let said = asked.wait_with_output().unwrap();
    let (code, said) = (said.status.code(), String::from_utf8_lossy(&said.stdout));
    assert!(code == Some(1) && said.contains(&format!("Stop cluster {name} (")), "{code:?} {said}");
    assert!(said.contains(")? [y/N]"), "{said}");
    // So is who names it from elsewhere; who names its file has it in mind.
    at(&["down", &name]).expect_code(2).expect_words(&["this is not the folder of cluster", &name, "--yes"]);
    at(&["status"]).expect_code(0);
    at(&["status"]).expect_code(0);
    at(&["ls"]).expect_code(0).expect_words(&[&name, "ready", "1935,1936", "cluster.yaml"]);
    at(&["down", "--yes"]).expect_code(0);
    cluster.assert_nothing_left();
    at(&["ls"]).expect_code(0).expect_words(&[&name, "not-running"]);
}

#[test]
fn every_command_takes_a_file_or_a_name() {
    let cluster = TestCluster::up_guide();
    let elsewhere = tempfile::tempdir().unwrap();
    let name = cluster.net.cluster_name();
    for what in [name.as_str(), cluster.file.to_str().unwrap()] {
        let commands: [&[&str]; 8] = [
            &["status", what],
            &["-f", what, "status"],
            &["urls", STREAM, what],
            &["logs", what, "origin"],
            &["check", what],
            &["up", what],
            &["status", "--file", what],
            &["restart", "edge", "1936", what],
        ];
        for args in commands {
            run(cluster.srsctl(args).current_dir(elsewhere.path())).expect_code(0);
        }
    }
    run(cluster.srsctl(&["down", "--yes", &name]).current_dir(elsewhere.path())).expect_code(0);
}

#[test]
fn status_as_json_has_the_same_fields_with_and_without_a_supervisor_and_errors_are_json() {
    let cluster = TestCluster::up_guide();
    let fields = |args: &[&str], code: i32| {
        let done = cluster.run(args).expect_code(code);
        let document: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
        let object = document.as_object().unwrap();
        (object.keys().cloned().collect::<Vec<_>>(), document)
    };
    let (with, document) = fields(&["status", "--json"], 0);
    assert_eq!(document["state"], "supervised");
    cluster.down();
    let (without, document) = fields(&["status", "--json"], 3);
    assert_eq!(with, without);
    assert_eq!((&document["state"], &document["units"]), (&"not-running".into(), &serde_json::json!([])));
    let (_, error) = fields(&["status", "--json", "absent.yaml"], 2);
    assert_eq!((&error["schema"], &error["error"]["code"]), (&"srsctl/error/v1".into(), &"usage".into()));
}

#[test]
fn a_publication_that_is_refused_for_good_ends_with_the_reason() {
    let cluster = TestCluster::up_guide();
    let edge = url(cluster.net.edges()[0], STREAM);
    cluster
        .run(&["publish", "--test-card", &edge])
        .expect_code(1)
        .expect_words(&[STREAM, "refused", "Denied"]);
}

#[test]
fn a_streams_name_neither_widens_a_table_nor_reaches_a_terminal_as_it_is() {
    let cluster = TestCluster::up_guide();
    let long = format!("live/{}", "x".repeat(240));
    let hostile = "live/a\u{202e}b\u{2028}c\u{200b}d";
    let _one = rml::publish(cluster.net.origin(), &long, card(), Some(CARD_MS));
    let _two = rml::publish(cluster.net.origin(), hostile, card(), Some(CARD_MS));
    cluster.await_live(&long);
    cluster.await_live(hostile);
    for args in [&["status"][..], &["status", "--json"], &["logs"], &["up", "cluster.yaml"]] {
        let done = cluster.run(args).expect_code(0);
        assert_eq!(text::clean_lines(&done.text()), done.text(), "{args:?}");
        if args == ["status"] {
            let lines = done.stdout.lines().filter(|line| text::width(line) > 80);
            assert_eq!(lines.collect::<Vec<_>>(), Vec::<&str>::new());
        }
    }
    let log = fs::read_to_string(origin_log(&cluster)).unwrap();
    assert_eq!(text::clean_lines(&log), log, "a log is read by other programs too");
}

#[test]
fn what_a_server_says_is_shown_clean_and_short() {
    // Sends no RTMP: what it says instead may be repeated.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = format!("rtmp://{}/live/a", listener.local_addr().unwrap());
    thread::spawn(move || {
        for socket in listener.incoming().map_while(Result::ok) {
            let _ = (&socket).write_all("\u{3}\u{202e}\u{1b}[31m".repeat(2000).as_bytes());
        }
    });
    for args in [&["probe", "--timeout", "2", &address][..], &["bench", "play", "--duration", "1", &address]]
    {
        let done = run(Command::new(SRSCTL).args(args)).expect_code(1);
        assert_eq!(text::clean_lines(&done.text()), done.text(), "{args:?}");
    }
}
