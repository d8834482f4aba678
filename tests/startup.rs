//! What can go wrong while starting is said clearly, and nothing is left half-started.

use std::fs;
use std::net::TcpListener;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getuid};

use crate::support::cluster::{Done, SRSCTL, TestCluster, finish, run, signal, spawn};
use crate::support::flv::assert_same;
use crate::support::net::Net;
use crate::support::{CARD_MS, SOON, STREAM, card, card_file, looped_card, rml, wait_until};

#[test]
fn up_tells_of_the_processes_that_status_shows() {
    let cluster = TestCluster::guide();
    let told = cluster.up().text();
    for unit in cluster.status().units {
        let line = format!("{}: started, pid {}", unit.id, unit.pid.unwrap());
        assert!(told.lines().any(|told| told == line), "{line} is missing in:\n{told}");
    }
}

#[test]
fn up_prints_the_table_and_returns_with_every_worker_ready() {
    let cluster = TestCluster::guide();
    let hosts = [5, 6, 7].map(|n| cluster.net.host(n).to_string());
    cluster
        .up()
        .expect_words(&["origin", "edge", "1935", "1936", "running", &hosts[0], &hosts[1], &hosts[2]]);
    cluster.run(&["status"]).expect_code(0);
    cluster.down();
}

#[test]
fn foreground_stays_until_it_is_interrupted_and_stops_what_it_started() {
    let cluster = TestCluster::guide();
    let child = spawn(&mut cluster.srsctl(&["up", "cluster.yaml", "--foreground"]));
    wait_until("the cluster to be ready", SOON, || cluster.run(&["status"]).code == 0);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    let done = finish(child, SOON);
    assert!([0, 130].contains(&done.code), "{done:?}");
    cluster.assert_nothing_left();
}

#[test]
fn a_taken_port_is_reported_with_the_program_and_pid_that_has_it() {
    let cluster = TestCluster::guide();
    let addr = cluster.net.edges()[2];
    let taken = TcpListener::bind(addr).unwrap();
    let program = fs::read_to_string("/proc/self/comm").unwrap();
    let done = cluster.run(&["up", "cluster.yaml"]).expect_code(1);
    done.expect_words(&[&addr.to_string(), &std::process::id().to_string(), program.trim()]);
    drop(taken);
    cluster.assert_nothing_left();
    cluster.up();
}

#[test]
fn a_descriptor_limit_below_max_connections_is_said_before_anything_is_spawned() {
    let cluster = TestCluster::with(|net| net.guide_with("{ max_connections: 1000 }"));
    let done = limited(&cluster.srsctl(&[]), "ulimit -n 900", "up cluster.yaml").expect_code(1);
    done.expect_words(&["max_connections", "1000", "900"]);
    cluster.assert_nothing_left();
}

#[test]
fn a_state_directory_that_cannot_be_made_is_reported() {
    let cluster = TestCluster::guide();
    fs::write(&cluster.state, "in the way").unwrap();
    let done = cluster.run(&["up", "cluster.yaml"]).expect_code(1);
    done.expect_words(&[cluster.state.to_str().unwrap()]);
    fs::remove_file(&cluster.state).unwrap();
    cluster.assert_nothing_left();
}

#[test]
fn a_full_state_directory_is_reported_and_nothing_is_started() {
    let cluster = TestCluster::guide();
    fs::create_dir(&cluster.state).unwrap();
    // A file system of its own that only these processes see, its last free byte used up. Where a container forbids
    // that, no file may grow at all.
    let mount = if getuid().is_root() { &["--mount"][..] } else { &["--mount", "--map-root-user"] };
    let may_mount =
        run(Command::new("unshare").args(mount).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"])).code == 0;
    let script = r#"
        fill() { :; }; empty() { :; }
        if [ "$1" = tmpfs ]; then
            mount -t tmpfs -o size=2m,mode=700 tmpfs "$SRSCTL_STATE_DIR" || exit 99
            fill() { cat /dev/zero > "$SRSCTL_STATE_DIR/filler" 2>/dev/null; }
            empty() { rm "$SRSCTL_STATE_DIR/filler"; }
            limit=unlimited
        else
            trap "" XFSZ
            limit=0
        fi
        fill
        (ulimit -f $limit; exec "$0" up cluster.yaml)
        echo "up ended with $?"
        empty
        "$0" up cluster.yaml >/dev/null && echo "up works with space" && "$0" down
    "#;
    let mut command = Command::new(if may_mount { "unshare" } else { "env" });
    command.args(if may_mount { mount } else { &[] });
    command.args(["sh", "-c", script, SRSCTL, if may_mount { "tmpfs" } else { "limit" }]);
    command.current_dir(cluster.dir.path()).env("SRSCTL_STATE_DIR", &cluster.state).env_remove("RUST_LOG");
    let done = run(&mut command);
    let said = if may_mount { "no space left" } else { "file too large" };
    let done =
        done.expect_words(&["up ended with 1", said, cluster.state.to_str().unwrap(), "up works with space"]);
    assert!(!done.text().contains("panicked"), "{}", done.text());
    cluster.assert_nothing_left();
}

#[test]
fn a_takeover_needs_no_room_and_no_lib_that_can_be_written() {
    let cluster = TestCluster::guide();
    fs::create_dir(&cluster.state).unwrap();
    let script = r#"
        mount -t tmpfs -o size=4m,mode=700 tmpfs "$SRSCTL_STATE_DIR" || exit 99
        lib=$SRSCTL_STATE_DIR/lib
        pids() { "$0" status --json | grep '"pid"'; }
        orphan() { kill -9 "$(cat "$SRSCTL_STATE_DIR"/run/*/lock)"; until "$0" status >/dev/null; [ $? = 4 ]; do :; done; }
        "$0" up cluster.yaml || exit 98
        before=$(pids)
        cat /dev/zero > "$SRSCTL_STATE_DIR/filler" 2>/dev/null
        orphan
        "$0" up cluster.yaml && [ "$(pids)" = "$before" ] && echo "taken over on a full disk"
        rm "$SRSCTL_STATE_DIR/filler"
        mount --bind "$lib" "$lib" && mount -o remount,ro,bind "$lib" || exit 99
        orphan
        "$0" up cluster.yaml && [ "$(pids)" = "$before" ] && echo "taken over beside a lib that is read-only"
        "$0" down && echo "stopped"
    "#;
    let mount = if getuid().is_root() { &["--mount"][..] } else { &["--mount", "--map-root-user"] };
    let mut command = Command::new("unshare");
    command.args(mount).args(["sh", "-c", script, SRSCTL]);
    command.current_dir(cluster.dir.path()).env("SRSCTL_STATE_DIR", &cluster.state).env_remove("RUST_LOG");
    let done = run(&mut command);
    // Where nothing can be mounted there is no disk to fill.
    if done.code != 99 && !done.text().contains("unshare") {
        done.expect_words(&["on a full disk", "that is read-only", "stopped"]);
    }
    cluster.assert_nothing_left();
}

#[test]
fn a_name_service_that_is_away_keeps_nobody_from_taking_over_what_runs() {
    let cluster = TestCluster::with(|net| {
        format!(
            "cluster: {}\norigin: {{ host: origin.test }}\nedges:\n  - {{ host: Edge.test, ports: [1935] }}\n\
             \x20 - {{ host: nat.test, listen: {}, ports: [1935] }}\n",
            net.cluster_name(),
            net.host(7)
        )
    });
    let (hosts, resolver) = (cluster.dir.path().join("hosts"), cluster.dir.path().join("resolver"));
    let (origin, edge) = (cluster.net.host(5), cluster.net.host(6));
    fs::write(&hosts, format!("{origin} origin.test\n{edge} edge.test\n203.0.113.7 nat.test\n")).unwrap();
    // Nobody is there.
    let nobody = cluster.net.host(53);
    fs::write(&resolver, format!("nameserver {nobody}\noptions timeout:1 attempts:1\n")).unwrap();
    let script = r#"
        mount --bind "$1" /etc/hosts && mount --bind "$2" /etc/resolv.conf || exit 99
        "$0" up cluster.yaml || exit 98
        : > "$1"
        "$0" up cluster.yaml && echo "the same file is taken"
        kill -9 "$(cat "$SRSCTL_STATE_DIR"/run/*/lock)"; until "$0" status >/dev/null; [ $? = 4 ]; do :; done
        "$0" up cluster.yaml && echo "taken over"
        sed -i 's/\[1935\] }$/[1935, 1936] }/;' cluster.yaml
        "$0" up cluster.yaml && echo "ports are added"
        "$0" restart edge 1936 && echo "one is restarted"
        "$0" down && echo "stopped"
        "$0" up cluster.yaml || echo "a start needs names: $?"
    "#;
    let mount = if getuid().is_root() { &["--mount"][..] } else { &["--mount", "--map-root-user"] };
    let mut command = Command::new("unshare");
    command.args(mount).args(["sh", "-c", script, SRSCTL]).args([&hosts, &resolver]);
    command.current_dir(cluster.dir.path()).env("SRSCTL_STATE_DIR", &cluster.state).env_remove("RUST_LOG");
    let done = run(&mut command);
    if done.code != 99 && !done.text().contains("unshare") {
        done.expect_words(&[
            "the same file is taken",
            "runs already",
            "taken over\n",
            "ports are added",
            "one is restarted",
            "stopped",
            "a start needs names: 2",
        ]);
    }
    cluster.assert_nothing_left();
}

#[test]
fn a_disk_that_fills_up_costs_log_lines_and_no_port() {
    let cluster = TestCluster::with(|net| {
        format!("{}encoder: {{ source: test-card, stream: {STREAM} }}\n", net.guide())
    });
    fs::create_dir(&cluster.state).unwrap();
    let mount = if getuid().is_root() { &["--mount"][..] } else { &["--mount", "--map-root-user"] };
    let may_mount =
        run(Command::new("unshare").args(mount).args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"])).code == 0;
    if !may_mount {
        // Where nothing can be mounted there is no disk to fill; the test before this one covers what is left.
        return;
    }
    // Each refused publish writes a line to the edge's log: far more than the last page holds.
    let script = r#"
        mount -t tmpfs -o size=4m,mode=700 tmpfs "$SRSCTL_STATE_DIR" || exit 99
        "$0" up cluster.yaml >/dev/null || exit 98
        cat /dev/zero > "$SRSCTL_STATE_DIR/filler" 2>/dev/null
        for i in $(seq 40); do timeout 0.3 "$0" publish --test-card "rtmp://$1/live/refused" 2>/dev/null; done
        for i in $(seq 40); do "$0" restart edge 7777 2>/dev/null; done
        until "$0" status | grep "WARNING: .*$SRSCTL_STATE_DIR/.*No space left"; do sleep 0.1; done
        "$0" status | grep "  ready, 1 warning" && echo "told and still ready"
        "$0" up cluster.yaml && echo "up again"
        "$0" restart edge 1936 && echo "restarted"
        kill -9 $(sed -n 's/.*"pid": *\([0-9]*\).*/\1/p' "$SRSCTL_STATE_DIR"/run/*/units/$3/record.json)
        until said=$("$0" status) && echo "$said" | grep -q SIGKILL; do sleep 0.1; done
        "$0" probe --timeout 20 "rtmp://$1/$2" && echo "the edge plays"
        "$0" status && echo "all is ready"
        rm "$SRSCTL_STATE_DIR/filler"
        while "$0" status | grep -q WARNING; do sleep 0.1; done; echo "over"
        "$0" down && echo "down"
    "#;
    let mut command = Command::new("unshare");
    command.args(mount).args(["sh", "-c", script, SRSCTL]);
    let edge = cluster.net.edges()[0];
    command.args([edge.to_string(), STREAM.to_owned(), format!("edge-{}-{}", edge.ip(), edge.port())]);
    command.current_dir(cluster.dir.path()).env("SRSCTL_STATE_DIR", &cluster.state).env_remove("RUST_LOG");
    let words =
        ["told and still ready", "up again", "restarted", "the edge plays", "all is ready", "over", "down"];
    run(&mut command).expect_words(&words);
    cluster.assert_nothing_left();
}

#[test]
fn a_missing_or_cut_encoder_file_is_reported_and_nothing_is_started() {
    let cluster = TestCluster::guide();
    let whole = fs::read(card_file()).unwrap();
    let cases: [(&str, Option<&[u8]>); 4] = [
        ("missing.flv", None),
        ("cut.flv", Some(&whole[..whole.len() - 100])),
        ("empty.flv", Some(b"")),
        ("text.flv", Some(b"not FLV at all")),
    ];
    for (name, bytes) in cases {
        if let Some(bytes) = bytes {
            fs::write(cluster.dir.path().join(name), bytes).unwrap();
        }
        cluster.write(&format!("{}encoder: {{ source: {name}, stream: {STREAM} }}\n", cluster.net.guide()));
        let done = cluster.run(&["up", "cluster.yaml"]);
        assert!([1, 2].contains(&done.code), "{name}: {done:?}");
        done.expect_words(&[name]);
        cluster.assert_nothing_left();
    }
}

#[test]
fn an_encoder_in_the_file_runs_under_supervision() {
    let cluster = TestCluster::with(|net| {
        format!("{}encoder: {{ source: test-card, stream: {STREAM} }}\n", net.guide())
    });
    cluster.up();
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[2], STREAM).unwrap();
    assert_same("a player", &player.record_after(0, 3.0), &looped_card(), 3.0);

    let encoder =
        || cluster.try_status().ok()?.units.into_iter().find(|u| u.role == cluster::Role::Encoder)?.pid;
    let old = encoder().unwrap();
    kill(Pid::from_raw(old as i32), Signal::SIGKILL).unwrap();
    wait_until("another encoder", SOON, || encoder().is_some_and(|pid| pid != old));
    let mark = player.mark();
    player.record_after(mark, 2.0);
    cluster.down();
}

#[test]
fn an_encoder_that_is_an_flv_file_sends_that_file() {
    let cluster = TestCluster::with(|net| {
        format!("{}encoder: {{ source: mine.flv, stream: {STREAM} }}\n", net.guide())
    });
    fs::copy(card_file(), cluster.dir.path().join("mine.flv")).unwrap();
    cluster.up();
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    assert_same("a player", &player.record_after(0, 3.0), &looped_card(), 3.0);
}

/// A cluster that has many processes to start when its first ones are seen.
fn a_hundred_ports(net: &Net) -> String {
    let ports: Vec<String> = (1935..1985).map(|port| port.to_string()).collect();
    let guide = net.guide_with("{ max_connections: 20, max_streams: 4 }");
    guide.replace("[1935, 1936]", &format!("[{}]", ports.join(", ")))
}

#[test]
fn ctrl_c_during_up_leaves_nothing_half_started() {
    let cluster = TestCluster::with(a_hundred_ports);
    let child = spawn(&mut cluster.srsctl(&["up", "cluster.yaml"]));
    wait_until("the workers to be spawned", SOON, || cluster.processes().len() >= 5);
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    finish(child, SOON).expect_code(130);
    cluster.assert_nothing_left();
}

#[test]
fn under_nohup_up_goes_on_when_its_terminal_is_closed() {
    let cluster = TestCluster::with(a_hundred_ports);
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' HUP; exec \"$0\" up cluster.yaml", SRSCTL]);
    let child = spawn(like(&mut command, &cluster.srsctl(&[])));
    wait_until("the workers to be spawned", SOON, || cluster.processes().len() >= 5);
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap();
    let ignored = u64::from_str_radix(ignored.trim(), 16).unwrap();
    assert_eq!(ignored & 1, 1, "SIGHUP is ignored no longer: {ignored:x}");
    kill(Pid::from_raw(child.id() as i32), Signal::SIGINT).unwrap();
    finish(child, SOON).expect_code(130);
    cluster.assert_nothing_left();
}

#[test]
fn a_host_that_is_not_this_machine_is_refused() {
    let cluster = TestCluster::with(|net| {
        net.guide().replace(&format!("host: {}, ", net.host(7)), "host: 192.0.2.7, ")
    });
    let done = cluster.run(&["up", "cluster.yaml"]);
    assert!([1, 2].contains(&done.code), "{done:?}");
    done.expect_words(&["192.0.2.7", "this machine"]);
    cluster.assert_nothing_left();
}

#[test]
fn up_twice_changes_nothing_and_says_so() {
    let cluster = TestCluster::up_guide();
    let (pids, supervisor) = (cluster.pids(), cluster.status().supervisor_pid);
    cluster.up().expect_words(&["nothing"]);
    assert_eq!(cluster.pids(), pids);
    assert_eq!(cluster.status().supervisor_pid, supervisor);
}

#[test]
fn up_fails_while_a_port_does_not_run() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let id = cluster.unit(edge).id.to_string();
    let lock =
        cluster.state.join("run").join(cluster.net.cluster_name()).join("units").join(&id).join("alive.lock");

    // What the system refuses now may go the next time; `up` does not wait for it.
    let keeper = cluster.keeper(edge);
    signal(cluster.pid(edge), Signal::SIGSTOP);
    fs::remove_file(&lock).unwrap();
    fs::create_dir(&lock).unwrap();
    signal(keeper, Signal::SIGKILL);
    wait_until("the edge to fail again", SOON, || cluster.unit(edge).restarts > 1);
    cluster.run(&["up", "cluster.yaml"]).expect_code(1).expect_words(&["1 not ready"]);

    fs::remove_dir(&lock).unwrap();
    cluster.run(&["restart", "edge"]).expect_code(0);
    cluster.up();
    cluster.down();
}

#[test]
fn an_added_port_gets_every_running_stream_and_nobody_notices() {
    let cluster = TestCluster::up_guide();
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    let other = rml::publish(cluster.net.origin(), "live/other", card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    cluster.await_live("live/other");
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    player.record_after(0, 1.0);
    let before = cluster.pids();

    cluster.write(&cluster.net.guide().replace("[1935, 1936]", "[1935, 1936, 1937]"));
    cluster.up().expect_words(&["1937"]);
    cluster.await_live(STREAM);
    cluster.await_live("live/other");
    let after = cluster.pids();
    assert_eq!(after.len(), before.len() + 2);
    for unit in cluster.status().units {
        let config = fs::read_to_string(&unit.config).unwrap();
        assert!(
            config.contains(&format!("memory: auto/{}\n", after.len())),
            "its share is another: {config}"
        );
    }
    assert!(before.iter().all(|(id, pid)| after.get(id) == Some(pid)), "restarted: {before:?} → {after:?}");
    for stream in [STREAM, "live/other"] {
        for host in [6, 7] {
            let new = rml::play((cluster.net.host(host), 1937).into(), stream).unwrap();
            assert_same("a player of the new port", &new.record_after(0, 3.0), &looped_card(), 3.0);
        }
    }
    assert_same("a player of an old port", &player.record_after(0, 3.0), &looped_card(), 3.0);
    assert_eq!((encoder.ended(), other.ended()), (None, None));
    cluster.down();
}

/// Runs `srsctl` with these arguments under a shell that sets a limit first.
fn limited(template: &Command, limit: &str, args: &str) -> Done {
    let mut command = Command::new("sh");
    command.args(["-c", &format!("{limit} && exec \"$0\" {args}"), SRSCTL]);
    run(like(&mut command, template))
}

/// With the directory and the environment of `template`.
fn like<'a>(command: &'a mut Command, template: &Command) -> &'a mut Command {
    command.current_dir(template.get_current_dir().unwrap());
    for (key, value) in template.get_envs() {
        match value {
            Some(value) => command.env(key, value),
            None => command.env_remove(key),
        };
    }
    command
}
