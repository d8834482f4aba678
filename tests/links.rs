//! What may be wrong on the way to a machine of a cluster, and what is left there when it goes wrong in the middle of something.

use std::process::{Child, Command};

use crate::support::cluster::{finish, run, spawn};
use crate::support::guide::Guide;
use crate::support::hosts::Hosts;
use crate::support::{SOON, wait_for, wait_until};

/// A TCP proxy: `proxy.py HOST PORT MODE BYTES DELAY BEGIN`, of which ssh is the client on stdin and stdout. Once it has moved so many bytes, and
/// the file BEGIN is there, it holds what comes back for DELAY seconds each time (slow), moves nothing more (stall), or resets the connection.
const PROXY: &str = r"
import os, select, socket, sys, time
mode, limit, delay, begin = sys.argv[3], int(sys.argv[4]), float(sys.argv[5]), sys.argv[6]
s = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5)
moved = 0
while True:
    ready, _, _ = select.select([0, s], [], [], 0.2)
    if moved >= limit and os.path.exists(begin):
        if mode == 'stall':
            time.sleep(1000)
        if mode == 'reset':
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b'\1\0\0\0\0\0\0\0')
            sys.exit(1)
        if ready:
            time.sleep(delay)
    for f in ready:
        b = os.read(0, 65536) if f == 0 else s.recv(65536)
        if not b: sys.exit(0)
        moved += len(b)
        os.write(1, b) if f is s else s.sendall(b)
";

/// An ssh config with such a proxy on the way to one machine.
fn link(hosts: &Hosts, mode: &str, bytes: u64, delay: &str, begin: &str) -> String {
    let proxy = hosts.write("proxy.py", PROXY);
    let proxy = format!("python3 {} %h %p {mode} {bytes} {delay} {begin}", proxy.display());
    let text = format!("Host 192.168.1.6\n  ProxyCommand {proxy}\n");
    hosts.write(&format!("ssh-{mode}"), &text).display().to_string()
}

fn assert_proxy_ended(hosts: &Hosts) {
    wait_until("what ssh has started to end", SOON, || hosts.sh(9, "pgrep -f '[p]roxy.py'").code != 0);
}

/// The supervisors on a machine.
fn supervisors(hosts: &Hosts, last: u8) -> usize {
    let is_supervisor = |line: &&String| line.contains(" agent ") && !line.contains("dial-stdio");
    hosts.processes(last).iter().filter(is_supervisor).count()
}

/// What finds the supervisors on a machine, but neither sessions nor itself.
const FIND: &str = "pgrep -f '[s]rsctl agent [^d]'";

/// Stops the next supervisor of a machine as soon as it is there, in the middle of its start.
fn freezer(hosts: &Hosts, last: u8) -> Child {
    spawn(&mut hosts.at(last, &["sh", "-c", &format!("until pid=$({FIND}); do :; done; kill -STOP $pid")]))
}

fn thaw(hosts: &Hosts, last: u8) {
    hosts.sh(last, &format!("kill -CONT $({FIND})")).expect_code(0);
}

/// Fails unless each session has ended soon, and on each machine there is either nothing or a supervisor whose ports are all ready.
#[track_caller]
fn assert_nothing_half_done(hosts: &Hosts) {
    for last in [5, 6, 7] {
        wait_for("all or nothing", SOON, || {
            let processes = hosts.processes(last);
            if processes.is_empty() {
                return Ok(());
            }
            let said = hosts.sh(last, "srsctl status live --json").stdout;
            let status: serde_json::Value =
                serde_json::from_str(&said).map_err(|e| format!("{e}: {processes:?}"))?;
            let host = format!("192.168.1.{last}");
            let units = status["units"].as_array().unwrap().iter().filter(|unit| unit["host"] == *host);
            let states: Vec<_> = units.map(|unit| unit["state"].as_str().unwrap_or_default()).collect();
            let is_session = |line: &String| line.contains("dial-stdio");
            let is_whole = !states.is_empty() && states.iter().all(|state| *state == "running");
            if is_whole && supervisors(hosts, last) == 1 && !processes.iter().any(is_session) {
                Ok(())
            } else {
                Err(format!("{processes:?} {states:?}"))
            }
        });
    }
}

#[test]
fn each_way_in_which_ssh_fails_has_its_sentence_and_what_to_do() {
    let yaml = "cluster: live
origin: { host: 192.168.1.5, port: 1935, ssh: 192.168.1.5:2222 }
edges:
  - { host: 192.168.1.6, ports: [1935] }
  - { host: 192.168.1.7, ports: [1935] }
  - { host: 192.168.1.10, ports: [1935], ssh: nobody@192.168.1.5 }
  - { host: 192.168.1.11, ports: [1935], ssh: host.invalid }
";
    let Some(hosts) = Hosts::with(&[5, 6, 7, 9]) else { return };
    hosts.write("guide.yaml", yaml);
    let key = hosts.fingerprint("key-5");
    hosts.run(&["host", "trust", "192.168.1.10", "--host-key", &key]).expect_code(0);
    // What comes from there does not come back; and here the kernel knows no way.
    hosts.sh(6, "ip route add blackhole 192.168.1.9/32").expect_code(0);
    hosts.sh(9, "ip route add unreachable 192.168.1.7/32").expect_code(0);
    let up = hosts.run(&["up"]).expect_code(1);
    assert!(up.stderr.starts_with("nothing was touched: 5 machines cannot be reached"), "{}", up.stderr);
    for (host, words) in [
        ("192.168.1.5:2222", ["nothing listens for ssh there", "does sshd run? see: ssh 192.168.1.5"]),
        ("192.168.1.6", ["it does not answer", "is the machine up"]),
        ("192.168.1.7", ["there is no way to it from here", "is this machine in the right network?"]),
        ("nobody@192.168.1.5", ["it does not let you in", "load your key (ssh-add)"]),
        ("host.invalid", ["its name stands for no address", "correct `host:` or `ssh:` of it"]),
    ] {
        let (_, rest) =
            up.stderr.split_once(&format!("\n{host}: ")).unwrap_or_else(|| panic!("{}", up.stderr));
        let (cause, help) = rest.split_once("\n  = help: ").unwrap();
        let about = format!("{cause}\n{}", help.lines().next().unwrap());
        for word in words {
            assert!(about.contains(word), "{host}: {word:?} is not in {about}");
        }
    }
    let status = hosts.run(&["status"]).expect_code(4);
    status.expect_words(&[
        "machines 0/5",
        "nothing listens",
        "does not answer",
        "no way",
        "let you in",
        "no address",
    ]);
}

#[test]
fn a_client_that_is_stopped_in_the_middle_leaves_nothing_there_and_a_second_operator_is_told_of_it() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    for host in [5, 6] {
        let freezer = freezer(&hosts, host);
        let mut up = spawn(&mut hosts.srsctl(&["up"]));
        finish(freezer, SOON).expect_code(0);
        let client = hosts.child_of(&up);
        run(Command::new("kill").args(["-STOP", &client])).expect_code(0);
        let second = hosts.run(&["up"]).expect_code(5);
        second.expect_words(&["somebody else changes cluster live", "root on laptop", "up /"]);
        let is_session = |line: &String| line.contains("dial-stdio");
        wait_until("the far ends to notice", SOON, || !hosts.processes(7).iter().any(is_session));
        thaw(&hosts, host);
        assert_nothing_half_done(&hosts);
        run(Command::new("kill").args(["-KILL", &client])).expect_code(0);
        // nsenter stops with what it runs.
        let _ = up.kill();
        let _ = up.wait();
        hosts.run(&["up"]).expect_code(0).expect_words(&["edges 4/4"]);
        hosts.run(&["down"]).expect_code(0);
    }
}

#[test]
fn a_slow_link_is_waited_for_and_one_that_stalls_or_breaks_is_told() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    let slow = link(&hosts, "slow", 0, "0.15", "/");
    hosts.run(&["--ssh-config", &slow, "up"]).expect_code(0).expect_words(&["edges 4/4"]);
    let broken = ["stall", "reset"].map(|mode| {
        let config = link(&hosts, mode, 6000, "0", "/");
        spawn(&mut hosts.srsctl(&["--ssh-config", &config, "status"]))
    });
    for status in broken {
        finish(status, SOON).expect_code(4).expect_words(&["192.168.1.6", "machines 2/3"]);
    }
    assert_proxy_ended(&hosts);
    hosts.run(&["status"]).expect_code(0);
    hosts.run(&["down"]).expect_code(0);

    // In the middle of a start.
    for mode in ["stall", "reset"] {
        let begin = hosts.dir.path().join(mode);
        let config = link(&hosts, mode, 0, "0", begin.to_str().unwrap());
        let freezer = freezer(&hosts, 5);
        let up = spawn(&mut hosts.srsctl(&["--ssh-config", &config, "up"]));
        finish(freezer, SOON).expect_code(0);
        hosts.write(mode, "");
        thaw(&hosts, 5);
        let done = finish(up, SOON).expect_code(1);
        done.expect_words(&["192.168.1.6: broken off", "not touched: 192.168.1.7", "goes on from here"]);
        assert_nothing_half_done(&hosts);
        hosts.run(&["up"]).expect_code(0).expect_words(&["edges 4/4"]);
        hosts.run(&["down"]).expect_code(0);
    }
}

#[test]
fn an_installation_that_breaks_off_or_does_not_fit_puts_nothing_in_force_and_the_next_one_does() {
    let Some(guide) = Guide::bare(&[6], true) else { return };
    let yaml = "cluster: live
origin: { host: 192.168.1.6, port: 1935, ssh: srsctl@192.168.1.6 }
edges:
  - { host: 192.168.1.6, ports: [1936] }
";
    guide.laptop.write("guide.yaml", yaml);
    guide.laptop.trust(6);
    let host = guide.host(6);
    let install = |options: &str| {
        guide.run_line(&format!("srsctl -f guide.yaml {options} host install admin@192.168.1.6"))
    };
    let refused = |options: &str, words: &[&str]| {
        install(options).expect_code(1).expect_words(words);
        let left = "ls -A /usr/local/bin /usr/local/lib/srsctl /etc/systemd/system/srsctl@.service";
        wait_for("nothing to be in force", SOON, || {
            let left = host.sh(left).stdout;
            if left == "/usr/local/bin:\n\n/usr/local/lib/srsctl:\n" { Ok(()) } else { Err(left) }
        });
    };
    for (mode, words) in [("reset", "the connection broke"), ("stall", "it does not answer")] {
        let config = link(&guide.laptop, mode, 1 << 20, "0", "/");
        refused(&format!("--ssh-config {config}"), &["192.168.1.6", words]);
        assert_proxy_ended(&guide.laptop);
        wait_until("what has arrived to be gone", SOON, || {
            host.sh("ls -A ~admin/.cache/srsctl").expect_code(0).stdout.is_empty()
        });
    }
    let size = std::fs::metadata(guide.laptop.dir.path().join("srsctl")).unwrap().len() / 1024;
    // Not enough for what is copied, and then for what is installed of that.
    for room in [size / 2, size * 3 / 2] {
        let fill = format!(
            "rm -f /filler; room=$(df --output=avail -k / | tail -n 1); head -c $(((room - {room}) * 1024)) /dev/zero > /filler"
        );
        host.sh(&fill).expect_code(0);
        refused("", &["192.168.1.6", "its disk is full", "No space left on device", "df -h"]);
    }
    host.sh("rm /filler").expect_code(0);
    // The copy of before is there, and as it should be.
    install("").expect_code(0).expect_words(&["installed"]);

    // Another one over a slow line, and a full disk leaves the one in force.
    guide.use_program("second", "second");
    let before = host.sh("readlink /usr/local/bin/srsctl").stdout;
    host.sh(
        "room=$(df --output=avail -k / | tail -n 1); head -c $(((room - 100) * 1024)) /dev/zero > /filler",
    )
    .expect_code(0);
    install("").expect_code(1).expect_words(&["its disk is full"]);
    assert_eq!(host.sh("readlink /usr/local/bin/srsctl").stdout, before);
    host.sh("rm /filler").expect_code(0);
    let slow = link(&guide.laptop, "slow", 0, "0.01", "/");
    install(&format!("--ssh-config {slow}")).expect_code(0).expect_words(&["copying srsctl", "installed"]);
    assert_ne!(host.sh("readlink /usr/local/bin/srsctl").stdout, before);
    guide.run_line("srsctl -f guide.yaml up").expect_code(0).expect_words(&["edges 1/1"]);
}
