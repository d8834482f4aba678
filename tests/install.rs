//! `srsctl host install` on machines that have nothing but sshd, as a user who may use sudo without a password and as one who may not.

use serde_json::Value;

use crate::support::cluster::{finish, run};
use crate::support::guide::{Guide, VERSIONS};
use crate::support::pictures::assert_nothing_lost;
use crate::support::{SOON, wait_until};

const UNIT: &str = "srsctl@live.service";
const FILE: &str = "cluster: live
origin: { host: 192.168.1.5, port: 1935, ssh: srsctl@192.168.1.5 }
edges:
  - { host: 192.168.1.6, ports: [1935], ssh: srsctl@192.168.1.6 }
encoder: { source: test-card, stream: live/livestream }
";

/// The versions that a host has.
fn versions(guide: &Guide, last: u8) -> Vec<String> {
    let list = guide.host(last).sh(&format!("cd {VERSIONS} && sha256sum */srsctl")).expect_code(0).stdout;
    let versions = list.lines().map(|line| {
        let (sum, path) = line.split_once("  ").unwrap();
        assert_eq!(path, format!("{sum}/srsctl"));
        sum.to_owned()
    });
    versions.collect()
}

/// The version in force on a host.
fn version(guide: &Guide, last: u8) -> String {
    let link = run(&mut guide.host(last).command("readlink", &["/usr/local/bin/srsctl"])).stdout;
    let name = link.trim().strip_prefix(&format!("{VERSIONS}/")).unwrap().strip_suffix("/srsctl").unwrap();
    name.to_owned()
}

/// Fails unless both ports run this version; the encoder goes on as it is when they are upgraded.
#[track_caller]
fn assert_run(guide: &Guide, version: &str) {
    let status = guide.run_line("srsctl -f guide.yaml status --json").expect_code(0).stdout;
    let status: Value = serde_json::from_str(&status).unwrap();
    let units = status["units"].as_array().unwrap();
    let path = format!("{VERSIONS}/{version}/srsctl");
    let right = units.iter().filter(|unit| unit["keeper_pid"].is_u64() && unit["program"]["path"] == path);
    assert_eq!(right.count(), 2, "{version}\n{status:#}");
}

fn install(guide: &Guide, hosts: &[u8]) {
    for last in hosts {
        let done = guide.run_line(&format!("srsctl -f guide.yaml host install admin@192.168.1.{last}"));
        done.expect_code(0).expect_words(&["copying srsctl", "installed"]);
    }
}

#[test]
fn versions_come_one_after_another_ports_are_upgraded_between_them_and_none_that_runs_is_removed() {
    let Some(guide) = Guide::bare(&[5, 6], true) else { return };
    guide.laptop.write("guide.yaml", FILE);
    let refused = guide.run_line("srsctl -f guide.yaml host install admin@192.168.1.5").expect_code(1);
    refused.expect_words(&["no key of it is pinned", "srsctl host trust"]);
    [5, 6].iter().for_each(|last| guide.laptop.trust(*last));
    install(&guide, &[5, 6]);
    let first = version(&guide, 6);
    let host = guide.host(6);
    wait_until("it waits", SOON, || host.property_of(UNIT, "StatusText") == "waits for srsctl up");
    assert_eq!(host.sh("stat -c %U:%a /var/lib/srsctl").stdout, "srsctl:700\n");
    guide.run_line("srsctl -f guide.yaml host install admin@192.168.1.6").expect_code(0);
    guide.run_line("srsctl -f guide.yaml up").expect_code(0);
    let list = guide.laptop.dir.path().join("player");
    let player = guide.laptop.player("rtmp://192.168.1.6:1935/live/livestream", &list);

    // Another one: the supervisors run it, and the ports that of before.
    guide.use_program("second", "second");
    install(&guide, &[5, 6]);
    let second = version(&guide, 6);
    assert!(second != first && versions(&guide, 6).len() == 2);
    assert_run(&guide, &first);
    // A third: that of before is kept, and so is the one that runs.
    guide.use_program("third", "third");
    install(&guide, &[5, 6]);
    let third = version(&guide, 6);
    assert_eq!(versions(&guide, 6).len(), 3);
    assert_run(&guide, &first);
    guide.run_line("srsctl -f guide.yaml upgrade --canary 0").expect_code(0);
    assert_run(&guide, &third);
    guide.use_program("fourth", "fourth");
    install(&guide, &[6]);
    let mut kept = [third, version(&guide, 6)];
    kept.sort();
    assert_eq!(versions(&guide, 6), kept);

    guide.laptop.interrupt(&player);
    finish(player, SOON);
    assert_nothing_lost(&std::fs::read_to_string(&list).unwrap());
}

#[test]
fn where_sudo_wants_a_password_the_one_command_for_root_is_printed_and_does_the_rest() {
    let Some(guide) = Guide::bare(&[5], false) else { return };
    guide.laptop.write("guide.yaml", FILE);
    guide.laptop.trust(5);
    let done = guide.run_line("srsctl -f guide.yaml host install admin@192.168.1.5").expect_code(1);
    let done = done.expect_words(&["ssh -t admin@192.168.1.5", "host setup"]);
    let line = done.stderr.lines().find(|line| line.contains("ssh -t")).unwrap();
    // As the shell of whoever pastes it would, and then root's.
    let last = format!("for word in {line}; do last=$word; done; printf %s \"$last\"");
    let words = guide.laptop.sh(9, &last).expect_code(0).stdout;
    let host = guide.host(5);
    let root = format!("cd ~admin && {}", words.replacen("sudo ", "", 1));
    host.sh(&root).expect_code(0).expect_words(&["runs, and starts with the machine"]);
    assert_eq!(host.property_of(UNIT, "StatusText"), "waits for srsctl up");
}
