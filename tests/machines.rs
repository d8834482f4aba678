//! A cluster on several machines, changed from another one.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::process::Stdio;
use std::sync::mpsc;

use crate::support::cluster::{finish, spawn, srsctl_of_minor};
use crate::support::hosts::Hosts;
use crate::support::pictures::assert_nothing_lost;
use crate::support::{SOON, wait_until};

#[test]
fn the_guide_is_brought_up_looked_at_restarted_and_ended_from_a_fourth_machine() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    hosts.run(&["up"]).expect_code(0).expect_words(&["machines 3/3", "origin 1/1 edges 4/4 encoder 1/1"]);

    hosts.assert_equal_edges();
    let secrets =
        [5, 6, 7].map(|last| hosts.sh(last, "cat /var/lib/srsctl/live/secret").expect_code(0).stdout);
    assert!(secrets.iter().all(|secret| secret.len() >= 64 && *secret == secrets[0]));
    for last in [5, 6, 7] {
        hosts.sh(last, "stat -c %a /var/lib/srsctl/live/secret").expect_words(&["600"]);
        let lines = hosts.processes(last);
        assert!(
            lines.len() > 2 && !lines.concat().contains(secrets[0].trim()),
            "no command line has it: {lines:?}"
        );
        assert_ne!(
            hosts.sh(last, &format!("grep -r {} /var/lib/srsctl/live/log", secrets[0].trim())).code,
            0
        );
    }

    let logs = hosts.run(&["logs"]).expect_code(0);
    let logs =
        logs.expect_words(&["supervisor 192.168.1.5", "supervisor 192.168.1.7", "edge-192.168.1.6-1936"]);
    assert!(!logs.text().contains(secrets[0].trim()));
    let one = hosts.run(&["logs", "--host", "192.168.1.6"]).expect_code(0).stdout;
    assert!(one.contains("supervisor 192.168.1.6") && !one.contains("192.168.1.7"), "{one}");
    hosts.run(&["events"]).expect_code(0).expect_words(&["192.168.1.5: version", "192.168.1.7: version"]);
    let urls = hosts.run(&["urls", "live/livestream", "--host", "192.168.1.7"]).expect_code(0).stdout;
    assert_eq!(urls.lines().count(), 2, "{urls}");

    hosts.run(&["restart", "edge", "--host", "192.168.1.7"]).expect_code(0);
    let status = hosts.run(&["status", "--json"]).expect_code(0).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    assert_eq!(status["machines"].as_array().unwrap().len(), 3);
    let renewed = |host: &str| {
        let units = status["units"].as_array().unwrap();
        let units = units.iter().filter(|unit| unit["host"] == host);
        units.map(|unit| unit["renewed"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!((renewed("192.168.1.6"), renewed("192.168.1.7")), (0, 2));
    // The same file again changes nothing, on no machine.
    hosts.run(&["up"]).expect_code(0).expect_words(&["nothing to change"]);

    // The origin's secret is another one, and no stream was cut for it.
    let url = "rtmp://192.168.1.7:1936/live/livestream";
    let words = ["ffmpeg", "-v", "error", "-i", url, "-t", "6", "-c", "copy", "-f", "null", "-"];
    let player = spawn(&mut hosts.at(9, &words));
    hosts.run(&["secret", "rotate"]).expect_code(0).expect_words(&["192.168.1.7: has forgotten the old one"]);
    let changed =
        [5, 6, 7].map(|last| hosts.sh(last, "cat /var/lib/srsctl/live/secret").expect_code(0).stdout);
    assert!(changed.iter().all(|secret| *secret == changed[0] && *secret != secrets[0]));
    finish(player, SOON).expect_code(0);
    // A worker that dies goes on with it, and so does a new connection of the origin.
    hosts.run(&["restart", "edge", "1936", "--cold"]).expect_code(0);
    hosts.run(&["status"]).expect_code(0).expect_words(&["4/4"]);

    // A port more on one machine is a target more on another.
    let (before, after) =
        Hosts::guide().rsplit_once("[1935, 1936]").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    hosts.write("guide.yaml", &format!("{before}[1935, 1936, 1937]{after}"));
    let plan = hosts.run(&["plan", "--exit-code"]).expect_code(7);
    plan.expect_words(&["start", "reconfigure", "nobody is disconnected"]);
    hosts.run(&["up"]).expect_code(0).expect_words(&["edges 5/5", "5/5"]);
    hosts.run(&["plan", "--exit-code"]).expect_code(0);

    hosts.run(&["down"]).expect_code(0).expect_words(&["192.168.1.5: origin-192.168.1.5-1935 is stopped"]);
    for last in [5, 6, 7] {
        wait_until("all to end", SOON, || hosts.processes(last).is_empty());
    }
    let down = hosts.run(&["status"]);
    assert_eq!(down.code, 3, "{}", down.text());
}

#[test]
fn a_machine_that_is_dead_keeps_the_rest_from_being_touched_unless_it_is_left_out() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    hosts.cut(7, true);
    let refused = hosts.run(&["up"]).expect_code(1);
    refused.expect_words(&["nothing was touched", "192.168.1.7", "= help:", "--skip-unreachable"]);
    wait_until("the sessions to end", SOON, || hosts.processes(5).is_empty());
    let partly = hosts.run(&["up", "--skip-unreachable"]).expect_code(6);
    partly.expect_words(&["edges 2/2", "done without 192.168.1.7"]);
    hosts.run(&["status"]).expect_code(4).expect_words(&[
        "unreachable",
        "machines 2/3",
        "edges 2/4",
        "nothing is known of it",
    ]);

    hosts.cut(7, false);
    hosts.run(&["up"]).expect_code(0).expect_words(&["machines 3/3", "edges 4/4"]);
    hosts.run(&["status"]).expect_code(0);
    hosts.cut(7, true);
    let seen = hosts.run(&["status"]).expect_code(4);
    seen.expect_words(&[
        "edges 2/4",
        "192.168.1.7",
        "2 of 2 were ready then",
        "what is known of it is",
        "old",
    ]);
}

#[test]
fn no_key_is_believed_but_the_one_that_is_pinned() {
    let Some(hosts) = Hosts::new() else { return };
    hosts.write("guide.yaml", &Hosts::guide());
    hosts
        .run(&["up"])
        .expect_code(1)
        .expect_words(&["no key of it is pinned", "srsctl host trust 192.168.1.5"]);
    hosts.run(&["host", "trust", "192.168.1.5"]).expect_code(2).expect_words(&[&hosts.fingerprint("key-5")]);
    let wrong = hosts.fingerprint("key-6");
    let wrong = hosts.run(&["host", "trust", "192.168.1.5", "--host-key", &wrong]).expect_code(1);
    wrong.expect_words(&["nothing is pinned"]);
    [5, 6, 7].iter().for_each(|last| hosts.trust(*last));
    hosts.run(&["status"]).expect_code(3);

    hosts.restart_sshd(6, "key-9");
    let changed = hosts.run(&["up"]).expect_code(1);
    changed
        .expect_words(&["192.168.1.6: it has another host key", "srsctl host trust 192.168.1.6 --replace"]);
    let key = hosts.fingerprint("key-9");
    let words = ["host", "trust", "192.168.1.6", "--host-key", &key];
    hosts.run(&words).expect_code(1).expect_words(&["--replace"]);
    hosts.run(&[&words[..], &["--replace"]].concat()).expect_code(0);
    hosts.run(&["status"]).expect_code(3);
}

#[test]
fn a_viewer_may_look_and_change_nothing() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    hosts.run(&["up"]).expect_code(0);
    let viewer = r#"sed -i 's,^,restrict\,command="srsctl agent dial-stdio --role viewer" ,' /root/.ssh/authorized_keys"#;
    [5, 6, 7].iter().for_each(|last| drop(hosts.sh(*last, viewer).expect_code(0)));
    hosts.run(&["status"]).expect_code(0);
    hosts.run(&["logs"]).expect_code(0);
    for words in [&["up"][..], &["down"], &["restart", "edge"]] {
        hosts.run(words).expect_code(1).expect_words(&["its role is viewer"]);
    }
    hosts.run(&["status"]).expect_code(0);
}

#[test]
fn what_is_wrong_with_srsctl_there_is_said_with_what_to_do() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    hosts.sh(6, "rm /usr/local/bin/srsctl; echo 'echo welcome to host6' > /root/.ssh/rc").expect_code(0);
    let missing = hosts.run(&["up"]).expect_code(1);
    missing.expect_words(&[
        "srsctl is not installed there",
        "srsctl host install 192.168.1.6",
        "| welcome to host6",
    ]);
    hosts.replace_srsctl(6, "#!/bin/sh\necho 'This account is currently not available.'; exit 1\n");
    hosts.run(&["up"]).expect_code(1).expect_words(&["the user there may not log in"]);
    hosts.replace_srsctl(
        6,
        "#!/bin/sh\necho 'sudo: a terminal is required to read the password' >&2; exit 1\n",
    );
    hosts.run(&["up"]).expect_code(1).expect_words(&["sudo there asks for a password"]);
    hosts.replace_srsctl(6, "#!/bin/sh\nexec sleep 1000\n");
    hosts.run(&["up"]).expect_code(1).expect_words(&["nothing came in time while logging in by ssh"]);
    let as_minor = |minor: u8| {
        let path = hosts.dir.path().join(format!("minor-{minor}"));
        let version = srsctl_of_minor(&path, minor);
        hosts.use_program(6, &path);
        assert_eq!(hosts.sh(6, "srsctl --version").stdout, format!("srsctl {version}\n"));
        version
    };
    let version = as_minor(3);
    let refused = hosts.run(&["up"]).expect_code(1);
    refused.expect_words(&["nothing was touched", &format!("srsctl {version} is on 192.168.1.6")]);
    // One that is older by one, supervisor and ports too.
    let version = as_minor(0);
    let up = hosts.run(&["up"]).expect_code(0);
    up.expect_words(&[&format!("192.168.1.6: srsctl {version} is there"), "edges 4/4"]);
    hosts.run(&["events"]).expect_code(0).expect_words(&[&format!("192.168.1.6: version {version}")]);
    hosts.run(&["restart", "edge", "--host", "192.168.1.6"]).expect_code(0);
    hosts.run(&["down"]).expect_code(0);
}

#[test]
fn a_full_disk_on_one_machine_is_found_before_any_is_touched() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    hosts.sh(6, "dd if=/dev/zero of=/var/lib/filler bs=1M count=200 2>/dev/null; true");
    let refused = hosts.run(&["up"]).expect_code(1);
    refused.expect_words(&["nothing was touched", "192.168.1.6", "no space left"]);
    wait_until("the sessions to end", SOON, || hosts.processes(5).is_empty());
    hosts.sh(6, "rm /var/lib/filler").expect_code(0);
    hosts.run(&["up"]).expect_code(0).expect_words(&["edges 4/4"]);
}

#[test]
fn a_cut_between_the_origin_and_one_machine_heals_and_restarts_nothing() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    hosts.run(&["up"]).expect_code(0);
    hosts.sh(5, "ip route add blackhole 192.168.1.6/32").expect_code(0);
    wait_until("the cut to be seen", SOON, || {
        let status = hosts.run(&["status"]).text();
        status.contains("2/4") && status.contains("forward to 192.168.1.6:1936")
    });
    hosts.sh(5, "ip route del blackhole 192.168.1.6/32").expect_code(0);
    wait_until("the forwards to be back", SOON, || hosts.run(&["status"]).text().contains("4/4 "));
    let status = hosts.run(&["status", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let restarts = status["units"].as_array().unwrap().iter().map(|unit| unit["restarts"].as_u64().unwrap());
    assert_eq!(restarts.sum::<u64>(), 0);
}

#[test]
fn ports_are_upgraded_and_files_changed_and_brought_back_on_all_machines_and_a_player_notices_nothing() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    hosts.run(&["up"]).expect_code(0);
    let url = "rtmp://192.168.1.6:1936/live/livestream";
    let list = hosts.dir.path().join("player");
    let player = hosts.player(url, &list);

    // What is followed comes from all of them.
    let mut logs = hosts.srsctl(&["logs", "-f", "-n", "2"]);
    let mut logs = logs.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let (sender, lines) = mpsc::channel();
    let stdout = BufReader::new(logs.stdout.take().unwrap());
    std::thread::spawn(move || stdout.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let expect = |wanted: &mut Vec<&str>| {
        while !wanted.is_empty() {
            let line = lines.recv_timeout(SOON).unwrap_or_else(|e| panic!("no line of {wanted:?}: {e}"));
            wanted.retain(|word| !line.contains(word));
        }
    };
    expect(&mut vec!["supervisor 192.168.1.5", "supervisor 192.168.1.6", "supervisor 192.168.1.7"]);

    let upgraded = hosts.run(&["upgrade", "--canary", "0", "--json"]).expect_code(0).stdout;
    let upgraded: serde_json::Value = serde_json::from_str(&upgraded).unwrap();
    let ports = upgraded["ports"].as_array().unwrap();
    assert!(upgraded["upgraded"] == true && ports.len() == 5, "{upgraded:#}");
    expect(&mut vec!["edge-192.168.1.6-1936", "edge-192.168.1.7-1935", "origin-192.168.1.5-1935"]);
    hosts.interrupt(&logs);
    let _ = logs.wait();
    for last in [5, 6, 7] {
        let is_session = |line: &String| line.contains("dial-stdio");
        wait_until("what followed to end", SOON, || !hosts.processes(last).iter().any(is_session));
    }

    // One machine first; the others have a plan then that is theirs alone.
    let changed = Hosts::guide().replace("max_connections: 100", "max_connections: 101");
    hosts.write("guide.yaml", &changed);
    let plan = hosts.dir.path().join("plan.json").display().to_string();
    hosts.run(&["plan", "-o", &plan]).expect_code(0).expect_words(&["5 reconfigured"]);
    hosts.run(&["up", "--limit", "192.168.1.6"]).expect_code(0).expect_words(&["machines 1/1", "edges 2/2"]);
    hosts.run(&["up", "--limit", "192.168.1.8"]).expect_code(2).expect_words(&["is no host of cluster live"]);
    let up_plan = |plan: &str| finish(spawn(&mut hosts.at(9, &["srsctl", "up", plan])), SOON * 2);
    up_plan(&plan).expect_code(1).expect_words(&[
        "192.168.1.6: nothing was touched: the plan was made for generation 1",
        "which is 2 by now",
    ]);
    hosts.run(&["history"]).expect_code(0).expect_words(&["192.168.1.5,192.168.1.7", "192.168.1.6"]);
    hosts.run(&["plan", "-o", &plan]).expect_code(0).expect_words(&["3 reconfigured"]);
    up_plan(&plan).expect_code(0).expect_words(&["machines 3/3", "edges 4/4"]);
    hosts.run(&["plan", "--exit-code"]).expect_code(0);

    // And back.
    let history = hosts.run(&["history", "--json"]).expect_code(0).stdout;
    let history: serde_json::Value = serde_json::from_str(&history).unwrap();
    let rows = history["generations"].as_array().unwrap();
    assert!(history["in_force"] == 2 && rows.len() == 2, "{history:#}");
    assert!(rows.iter().all(|row| row["machines"].as_array().unwrap().len() == 3), "{history:#}");
    assert_eq!(hosts.run(&["history", "--text", "1"]).expect_code(0).stdout, Hosts::guide());
    hosts.run(&["rollback", "--dry-run"]).expect_code(0).expect_words(&["5 reconfigured"]);
    hosts.run(&["rollback"]).expect_code(0).expect_words(&["machines 3/3", "still has another text"]);
    let back = hosts.run(&["history"]).expect_code(0);
    back.expect_words(&["rollback to 1", "all"]);
    hosts.run(&["plan", "--exit-code"]).expect_code(7).expect_words(&["5 reconfigured"]);

    // What runs on without a supervisor is taken over before it is changed.
    let status = hosts.run(&["status", "--json"]).expect_code(0).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let machines = status["machines"].as_array().unwrap();
    let supervisor =
        machines.iter().find(|it| it["host"] == "192.168.1.6").unwrap()["supervisor_pid"].clone();
    hosts.sh(6, &format!("kill -KILL {supervisor}")).expect_code(0);
    wait_until("it to be gone", SOON, || hosts.run(&["status"]).code != 0);
    hosts.run(&["plan"]).expect_code(0).expect_words(&["5 reconfigured"]);
    let taken = hosts.run(&["up"]).expect_code(0);
    taken.expect_words(&["192.168.1.6: taking over what runs, with the file in force", "edges 4/4"]);
    hosts.run(&["plan", "--exit-code"]).expect_code(0);

    hosts.interrupt(&player);
    finish(player, SOON);
    assert_nothing_lost(&std::fs::read_to_string(&list).unwrap());
}

#[test]
fn one_of_the_three_machines_may_be_the_operators_and_needs_no_ssh_to_itself() {
    let Some(hosts) = Hosts::new() else { return };
    let file = hosts.write("guide.yaml", &Hosts::guide()).display().to_string();
    let at_5 = |words: &[&str]| {
        let words = [&["srsctl", "--file", &file], words].concat();
        finish(spawn(&mut hosts.at(5, &words)), SOON * 2)
    };
    at_5(&["host", "trust", "192.168.1.5"]).expect_code(2).expect_words(&["is this machine"]);
    for last in [6, 7] {
        let key = hosts.fingerprint(&format!("key-{last}"));
        at_5(&["host", "trust", &format!("192.168.1.{last}"), "--host-key", &key]).expect_code(0);
    }
    hosts.sh(5, "kill $(pgrep -f '^[^ ]*sshd')");
    at_5(&["up"]).expect_code(0).expect_words(&["machines 3/3", "origin 1/1 edges 4/4"]);
    at_5(&["status"]).expect_code(0);
    at_5(&["restart", "origin"]).expect_code(0);
    at_5(&["down"]).expect_code(0);
    wait_until("all to end", SOON, || [5, 6, 7].iter().all(|last| hosts.processes(*last).is_empty()));
}

#[test]
fn a_person_is_shown_a_key_and_asked_whether_it_is_the_right_one() {
    let Some(hosts) = Hosts::new() else { return };
    let file = hosts.write("guide.yaml", &Hosts::guide());
    let trust = format!("srsctl --file {} host trust 192.168.1.6", file.display());
    let key = hosts.fingerprint("key-6");
    for (answer, code, said) in [("n", 1, "nothing is pinned"), ("y", 0, "is pinned for cluster live")] {
        // A terminal of its own.
        let mut command = hosts.at(9, &["script", "-qec", &trust, "/dev/null"]);
        let mut asked = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let (mut seen, mut stdout) = (Vec::new(), asked.stdout.take().unwrap());
        let mut stdin = asked.stdin.take().unwrap();
        while !seen.ends_with(b"[y/N]") {
            let mut byte = [0];
            assert_eq!(stdout.read(&mut byte).unwrap(), 1, "{}", String::from_utf8_lossy(&seen));
            seen.extend(byte);
        }
        writeln!(stdin, "{answer}").unwrap();
        stdout.read_to_end(&mut seen).unwrap();
        let seen = String::from_utf8_lossy(&seen);
        assert_eq!(asked.wait().unwrap().code(), Some(code), "{seen}");
        assert!(seen.contains(&key) && seen.contains(said), "{seen}");
    }
    hosts.run(&["status"]).expect_code(4).expect_words(&["srsctl host trust 192.168.1.5"]);
}
#[test]
fn a_machine_that_leaves_the_file_is_drained_with_its_stream_and_ended_and_what_runs_there_is_told() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    let all = Hosts::guide();
    let without = |last: u8| {
        let host = format!("  - host: 192.168.1.{last}\n    ports: [1935, 1936]\n");
        assert!(all.contains(&host));
        all.replace(&host, "")
    };
    hosts.run(&["up"]).expect_code(0);
    let player = |edge: &str| {
        let list = hosts.dir.path().join(edge.replace([':', '.'], "-"));
        let url = format!("rtmp://{edge}/live/livestream");
        let words = ["ffmpeg", "-v", "error", "-i", &url, "-c:v", "copy", "-an", "-flush_packets", "1"];
        let words = [&words[..], &["-f", "framemd5", list.to_str().unwrap()]].concat();
        let player = spawn(&mut hosts.at(9, &words));
        let pictures = {
            let list = list.clone();
            move || std::fs::read_to_string(&list).map_or(0, |text| text.matches("\n0,").count())
        };
        wait_until("pictures", SOON, || pictures() > 0);
        (player, list, pictures)
    };
    let (stays, list, _) = player("192.168.1.6:1936");
    let (goes, _, pictures) = player("192.168.1.7:1935");

    hosts.write("guide.yaml", &without(7));
    let warned = "192.168.1.7 is not in the file any more, and srsctl up ends what runs there";
    hosts.run(&["status"]).expect_code(0).expect_words(&["machines 3/3", warned]);
    let planned = hosts.run(&["plan", "--exit-code"]).expect_code(7);
    planned.expect_words(&["2 stopped", "disconnects 1 player: needs --yes"]);
    hosts
        .run(&["up"])
        .expect_code(6)
        .expect_words(&["nothing was touched", "stop edge-192.168.1.7-1935: disconnects 1 player"]);
    let before = pictures();
    let done = hosts.run(&["up", "--yes", "--drain", "3s"]).expect_code(0);
    done.expect_words(&["192.168.1.7: edge-192.168.1.7-1935 is removed", "machines 2/2", "edges 2/2"]);
    finish(goes, SOON);
    let more = pictures() - before;
    assert!(more >= 60, "its stream came as long as it was there: {more} pictures");
    wait_until("all to end there", SOON, || hosts.processes(7).is_empty());
    hosts.run(&["plan", "--exit-code"]).expect_code(0);
    assert!(!hosts.run(&["status"]).expect_code(0).text().contains("192.168.1.7"));

    // One that is dead is looked for once.
    hosts.write("guide.yaml", &all);
    hosts.run(&["up"]).expect_code(0).expect_words(&["machines 3/3", "edges 4/4"]);
    hosts.cut(7, true);
    hosts.write("guide.yaml", &without(7));
    let told = "not in the file any more, but in the one in force";
    hosts.run(&["up"]).expect_code(1).expect_words(&["nothing was touched", "192.168.1.7", told]);
    let partly = hosts.run(&["up", "--skip-unreachable"]).expect_code(6);
    partly.expect_words(&["done without 192.168.1.7", "ends with this command on it: srsctl down live"]);
    hosts.run(&["up"]).expect_code(0).expect_words(&["nothing to change", "machines 2/2"]);
    hosts.cut(7, false);
    assert!(!hosts.processes(7).is_empty());

    // Put back, it is the same as before; and down ends what is in force, whatever the file says by now.
    hosts.write("guide.yaml", &all);
    hosts.run(&["up"]).expect_code(0).expect_words(&["machines 3/3", "edges 4/4"]);
    hosts.interrupt(&stays);
    finish(stays, SOON);
    assert_nothing_lost(&std::fs::read_to_string(&list).unwrap());
    hosts.write("guide.yaml", &without(7));
    hosts.run(&["down"]).expect_code(0).expect_words(&["192.168.1.7: edge-192.168.1.7-1935 is stopped"]);
    for last in [5, 6, 7] {
        wait_until("all to end", SOON, || hosts.processes(last).is_empty());
    }
}

#[test]
fn what_is_followed_goes_on_when_a_machine_comes_back() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    hosts.run(&["up"]).expect_code(0);
    let follow = |words: &[&str]| {
        let mut command = hosts.srsctl(words);
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (sender, lines) = mpsc::channel();
        let pipes: [Box<dyn std::io::Read + Send>; 2] =
            [Box::new(child.stdout.take().unwrap()), Box::new(child.stderr.take().unwrap())];
        for pipe in pipes {
            let sender = sender.clone();
            std::thread::spawn(move || {
                BufReader::new(pipe).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
            });
        }
        (child, lines)
    };
    let expect = |lines: &mpsc::Receiver<String>, wanted: &str| {
        let mut seen = String::new();
        while !seen.contains(wanted) {
            let line = lines.recv_timeout(SOON);
            let line = line.unwrap_or_else(|e| panic!("no line of {wanted}: {e}: {seen}"));
            seen.push_str(&line);
            seen.push('\n');
        }
    };
    let (logs, of_logs) = follow(&["logs", "-f", "-n", "1"]);
    let (events, of_events) = follow(&["events", "-f"]);
    expect(&of_logs, "edge-192.168.1.7-1936");
    expect(&of_events, "192.168.1.7: ");
    // One may have gone with another.
    hosts.sh(7, "kill -KILL $(pgrep -f '[d]ial-stdio')");
    for lines in [&of_logs, &of_events] {
        expect(lines, "nothing of 192.168.1.7 is shown until it answers again");
        expect(lines, "192.168.1.7 answers again");
    }
    hosts.run(&["restart", "edge", "1936", "--host", "192.168.1.7"]).expect_code(0);
    expect(&of_logs, "edge-192.168.1.7-1936");
    expect(&of_events, "192.168.1.7 edge       1936 renewed");
    for mut child in [logs, events] {
        hosts.interrupt(&child);
        let _ = child.wait();
    }
}

#[test]
fn the_origin_moves_to_another_machine_and_a_player_goes_on_with_the_stream_of_the_new_one() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    hosts.run(&["up"]).expect_code(0);
    let list = hosts.dir.path().join("moved");
    let player = hosts.player("rtmp://192.168.1.6:1935/live/livestream", &list);
    let pictures = || std::fs::read_to_string(&list).map_or(0, |text| text.matches("\n0,").count());
    wait_until("pictures", SOON, || pictures() > 0);
    hosts.write("guide.yaml", &Hosts::guide().replace("host: 192.168.1.5", "host: 192.168.1.7"));
    let moved = hosts.run(&["up", "--yes"]).expect_code(2);
    moved.expect_words(&["192.168.1.7:1935"]);
    let file = Hosts::guide().replace("host: 192.168.1.5\n  port: 1935", "host: 192.168.1.7\n  port: 1930");
    hosts.write("guide.yaml", &file);
    let moved = hosts.run(&["up", "--yes", "--drain", "5s"]).expect_code(0);
    moved.expect_words(&[
        "machines 2/2",
        "origin 1/1 edges 4/4 encoder 1/1",
        "192.168.1.5: origin-192.168.1.5-1935 is removed",
    ]);
    let before = pictures();
    wait_until("pictures of the new origin", SOON, || pictures() > before + 25);
    wait_until("all to end there", SOON, || hosts.processes(5).is_empty());
    hosts.run(&["status"]).expect_code(0);
    hosts.interrupt(&player);
    finish(player, SOON);
}

#[test]
fn a_drain_goes_on_when_the_supervisor_of_a_machine_that_leaves_is_killed_and_what_was_left_out_ends_there() {
    let Some(hosts) = Hosts::trusted(&Hosts::guide()) else { return };
    let without = Hosts::guide().replace("  - host: 192.168.1.7\n    ports: [1935, 1936]\n", "");
    hosts.run(&["up"]).expect_code(0);
    let list = hosts.dir.path().join("leaves");
    let player = hosts.player("rtmp://192.168.1.7:1935/live/livestream", &list);
    let pictures = || std::fs::read_to_string(&list).map_or(0, |text| text.matches("\n0,").count());
    wait_until("pictures", SOON, || pictures() > 0);

    hosts.write("guide.yaml", &without);
    let up = spawn(&mut hosts.srsctl(&["up", "--yes", "--drain", "16s"]));
    wait_until("the drain", SOON, || hosts.run(&["status"]).text().contains("draining 1"));
    hosts.run(&["up", "--yes"]).expect_code(5).expect_words(&["nothing was touched"]);
    let status = hosts.run(&["status", "--json"]).stdout;
    let status: serde_json::Value = serde_json::from_str(&status).unwrap();
    let machines = status["machines"].as_array().unwrap();
    let supervisor = &machines.iter().find(|it| it["host"] == "192.168.1.7").unwrap()["supervisor_pid"];
    hosts.sh(7, &format!("kill -KILL {supervisor}")).expect_code(0);
    finish(up, SOON).expect_code(1);
    let before = pictures();
    hosts
        .run(&["status"])
        .expect_code(4)
        .expect_words(&["192.168.1.7 is not in the file any more", "no supervisor runs, but"]);
    hosts.run(&["plan"]).expect_code(0).expect_words(&["it drains without a supervisor", "needs --yes"]);
    let again = hosts.run(&["up", "--yes"]).expect_code(0);
    again.expect_words(&["192.168.1.7: takes nobody any more, left: 1 player", "machines 2/2"]);
    finish(player, SOON);
    assert!(pictures() - before > 50, "it had the time that was left: {} pictures", pictures() - before);
    wait_until("all to end there", SOON, || hosts.processes(7).is_empty());

    // What nobody looks for any more ends by the command that was told.
    hosts.write("guide.yaml", &Hosts::guide());
    hosts.run(&["up"]).expect_code(0);
    hosts.cut(7, true);
    hosts.write("guide.yaml", &without);
    let command = "srsctl down live --limit 192.168.1.7 --yes";
    hosts.run(&["up", "--skip-unreachable"]).expect_code(6).expect_words(&[command]);
    hosts.cut(7, false);
    let words: Vec<&str> = command.split(' ').collect();
    finish(spawn(&mut hosts.at(7, &words)), SOON * 2).expect_code(0);
    wait_until("all to end there", SOON, || hosts.processes(7).is_empty());
    hosts.run(&["status"]).expect_code(0).expect_words(&["machines 2/2", "edges 2/2"]);
}
