//! docs/deploy.md as it is written, on three hosts that have nothing of srsctl; and what comes of the cluster when they reboot.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Stdio;

use serde_json::Value;

use crate::support::cluster::finish;
use crate::support::guide::Guide;
use crate::support::pictures::assert_nothing_lost;
use crate::support::{SOON, wait_for, wait_until};

/// The first block of a document in this language.
fn block(document: &str, language: &str) -> String {
    let (_, rest) = document.split_once(&format!("```{language}\n")).unwrap();
    rest.split_once("```").unwrap().0.to_owned()
}

/// Runs what asks a person, who answers yes each time, and gives what was shown.
fn answered(guide: &Guide, line: &str) -> String {
    let dir = guide.laptop.dir.path().display();
    let shell = format!("cd {dir} && {line}");
    let mut command = guide.laptop.at(9, &["script", "-qec", &shell, "/dev/null"]);
    let mut asked = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let (mut stdin, mut stdout) = (asked.stdin.take().unwrap(), asked.stdout.take().unwrap());
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    let mut answers = 0;
    while let Ok(length @ 1..) = stdout.read(&mut buffer) {
        seen.extend(&buffer[..length]);
        let questions = String::from_utf8_lossy(&seen).matches("[y/N]").count();
        for _ in answers..questions {
            writeln!(stdin, "y").unwrap();
        }
        answers = questions;
    }
    let seen = String::from_utf8_lossy(&seen).into_owned();
    assert_eq!(asked.wait().unwrap().code(), Some(0), "{seen}");
    seen
}

fn status(guide: &Guide) -> Result<Value, String> {
    let done = guide.run_line("srsctl -f guide.yaml status --json");
    let status: Value = serde_json::from_str(&done.stdout).map_err(|e| format!("{e}: {}", done.text()))?;
    if done.code == 0 { Ok(status) } else { Err(done.text()) }
}

/// The processes of the ports of a host.
fn pids(status: &Value, host: &str) -> Vec<u64> {
    let units = status["units"].as_array().unwrap().iter().filter(|unit| unit["host"] == host);
    units.map(|unit| unit["pid"].as_u64().unwrap()).collect()
}

#[test]
fn the_document_leads_from_three_bare_hosts_to_the_guides_cluster_and_a_reboot_of_any_brings_it_back() {
    let Some(mut guide) = Guide::bare(&[5, 6, 7], true) else { return };
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/deploy.md");
    let document = std::fs::read_to_string(document).unwrap();
    guide.laptop.write("guide.yaml", &block(&document, "yaml"));
    let commands = block(&document, "sh");
    let commands: Vec<_> = commands.lines().map(|line| line.split(" #").next().unwrap().trim()).collect();
    assert!(commands.len() < 10, "{} commands", commands.len());
    let [build, commands @ ..] = &commands[..] else { panic!("no commands") };
    // The program under test is in the PATH.
    assert!(build.starts_with("make release && export PATH="), "{build}");
    let mut publisher = None;
    for command in commands {
        if let Some(command) = command.strip_suffix('&') {
            publisher = Some(guide.line(command));
        } else if command.ends_with("host trust") {
            let shown = answered(&guide, command);
            for last in [5, 6, 7] {
                assert!(shown.contains(&guide.laptop.fingerprint(&format!("key-{last}"))), "{shown}");
            }
        } else {
            let done = guide.run_line(command).expect_code(0);
            if command.contains(" up ") || command.ends_with("status") {
                done.expect_words(&["machines 3/3", "origin 1/1", "edges 4/4"]);
            }
        }
    }
    let mut publisher = publisher.unwrap();
    let urls = document.split('`').find(|code| code.contains(" urls ")).unwrap();
    let urls = guide.run_line(urls).expect_code(0);
    urls.expect_words(&[
        "rtmp://192.168.1.6:1935/live/livestream",
        "rtmp://192.168.1.7:1936/live/livestream",
    ]);
    guide.laptop.assert_equal_edges();

    // An edge host: who plays from another one does not notice.
    let list = guide.laptop.dir.path().join("player");
    let mut player = guide.laptop.player("rtmp://192.168.1.7:1936/live/livestream", &list);
    wait_until("it to play", SOON, || std::fs::metadata(&list).is_ok_and(|list| list.len() > 1000));
    guide.host_mut(6).shut_down();
    let away = guide.run_line("srsctl -f guide.yaml status").expect_code(4);
    away.expect_words(&["192.168.1.6", "unreachable", "machines 2/3", "edges 2/4"]);
    guide.host_mut(6).boot();
    wait_for("the cluster to be back", SOON, || status(&guide).map(drop));
    guide.laptop.assert_equal_edges();
    assert!(player.try_wait().unwrap().is_none() && publisher.try_wait().unwrap().is_none());
    guide.laptop.interrupt(&player);
    finish(player, SOON);
    assert_nothing_lost(&std::fs::read_to_string(&list).unwrap());

    // One whose power fails, which has had no time for anything.
    guide.host_mut(7).cut_power();
    guide.run_line("srsctl -f guide.yaml status").expect_code(4).expect_words(&["machines 2/3", "edges 2/4"]);
    guide.host_mut(7).boot();
    wait_for("the cluster to be back", SOON, || status(&guide).map(drop));
    guide.laptop.assert_equal_edges();

    // The origin's: encoders come back, and no edge is started anew.
    let before = status(&guide).unwrap();
    let mut player = guide.laptop.player("rtmp://192.168.1.6:1935/live/livestream", &list);
    guide.host_mut(5).reboot();
    let after = wait_for("the cluster to be back", SOON, || status(&guide));
    for edge in ["192.168.1.6", "192.168.1.7"] {
        assert_eq!(pids(&before, edge), pids(&after, edge));
    }
    wait_until("the stream to be back", SOON, || {
        let edge = "srsctl probe rtmp://192.168.1.7:1935/live/livestream";
        guide.run_line(edge).code == 0
    });
    guide.laptop.assert_equal_edges();
    assert!(player.try_wait().unwrap().is_none(), "who plays at an edge waits for the origin");
    guide.laptop.interrupt(&player);
    finish(player, SOON);
    guide.laptop.interrupt(&publisher);
    finish(publisher, SOON);
}
