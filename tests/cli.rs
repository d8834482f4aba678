//! The commands besides `up` on a cluster: what they print, what they change, how they end. See `commands` for what needs none.

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use cluster::spec::Role;
use cluster::status::{Health, SCHEMA, UnitState};
use nix::sys::signal::Signal::SIGKILL;

use crate::support::cluster::{SRSCTL, TestCluster, run, signal};
use crate::support::flv::assert_same;
use crate::support::net::url;
use crate::support::{CARD_MS, SOON, STREAM, card, card_file, looped_card, rml, wait_until};

#[test]
fn status_as_json_tells_of_every_worker_stream_and_forward() {
    let cluster = TestCluster::up_guide();
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    player.record_after(0, 3.0);

    let done = cluster.run(&["status", "--json"]).expect_code(0);
    let status: cluster::status::Status = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!((status.schema.as_str(), status.cluster), (SCHEMA, cluster.net.cluster_name()));
    assert_eq!(fs::canonicalize(status.file).unwrap(), fs::canonicalize(&cluster.file).unwrap());
    let places: Vec<_> = status.units.iter().map(|u| (u.role, format!("{}:{}", u.host, u.port))).collect();
    let mut wanted = vec![(Role::Origin, cluster.net.origin().to_string())];
    wanted.extend(cluster.net.edges().map(|a| (Role::Edge, a.to_string())));
    assert_eq!(places, wanted);
    for unit in &status.units {
        assert_eq!((unit.state, unit.restarts, &unit.last_exit), (UnitState::Running, 0, &None), "{unit:?}");
        assert_eq!(unit.health, Health::Passing, "{unit:?}");
        assert!(unit.stats.is_some() && unit.uptime_ms.is_some(), "{unit:?}");
        assert!(
            fs::read_to_string(&unit.config).is_ok_and(|c| c.contains(&unit.port.to_string())),
            "{unit:?}"
        );
        assert!(fs::exists(&unit.log).unwrap(), "{unit:?}");
    }
    assert_eq!(status.streams.len(), 5);
    let origin = &status.streams[0];
    assert_eq!(origin.forwards.len(), 4, "{origin:?}");
    for row in &status.streams {
        assert_eq!(
            (row.video_codec.as_deref(), row.audio_codec.as_deref()),
            (Some("h264"), Some("aac")),
            "{row:?}"
        );
        assert!((100_000..500_000).contains(&row.bitrate), "{row:?}");
        assert!(row.last_frame_age_ms.is_some_and(|age| age < 2000), "{row:?}");
        assert_eq!(row.url, format!("rtmp://{}:{}/{STREAM}", row.host, row.port));
    }
    let connections: Vec<_> = status.streams.iter().skip(1).map(|r| r.connections).collect();
    assert_eq!(connections, [1, 0, 0, 0]);
}

#[test]
fn status_as_a_table_shows_the_guides_streams() {
    let cluster = TestCluster::up_guide();
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let urls = cluster.net.edges().map(|a| url(a, STREAM));
    let words: Vec<_> =
        urls.iter().map(String::as_str).chain(["origin", "h264", "aac", "running", "passing"]).collect();
    cluster.run(&["status"]).expect_code(0).expect_words(&words);
}

#[test]
fn status_ends_with_3_while_something_wanted_is_not_ready() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    // Each death lets the next start wait for longer.
    wait_until("status to report it", SOON, || {
        if let Some(keeper) = cluster.unit(edge).keeper_pid {
            signal(keeper, SIGKILL);
        }
        cluster.run(&["status"]).code == 3
    });
    wait_until("status to be well again", SOON, || cluster.run(&["status"]).code == 0);
}

#[test]
fn restart_takes_a_port_on_every_edge_host_and_leaves_the_rest_alone() {
    let cluster = TestCluster::up_guide();
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    let before = cluster.pids();
    cluster.run(&["restart", "edge", "1936"]).expect_code(0);
    let after = cluster.pids();
    for (id, pid) in &before {
        assert_eq!(after[id] != *pid, id.ends_with("-1936"), "{id}: {before:?} → {after:?}");
    }
    // Each was ready, keyframe included, before the command went on.
    for row in cluster.status().streams {
        assert!(row.publishing && row.last_frame_age_ms.is_some(), "{row:?}");
    }
    for addr in cluster.net.edges() {
        let player = rml::play(addr, STREAM).unwrap();
        assert_same(&addr.to_string(), &player.record_after(0, 1.0), &looped_card(), 1.0);
    }
    assert_same("a player of 1935", &player.record_after(0, 3.0), &looped_card(), 3.0);
    assert!(
        cluster.status().units.iter().all(|u| u.restarts == 0),
        "a restart that was asked for is no crash"
    );
}

#[test]
fn restart_can_be_limited_to_one_host_and_can_take_the_origin() {
    let cluster = TestCluster::up_guide();
    let host = cluster.net.host(7).to_string();
    let before = cluster.pids();
    cluster.run(&["restart", "edge", "1935", "--host", &host]).expect_code(0);
    cluster.run(&["restart", "origin"]).expect_code(0);
    let after = cluster.pids();
    for (id, pid) in &before {
        let wanted = id.starts_with("origin") || *id == format!("edge-{host}-1935");
        assert_eq!(after[id] != *pid, wanted, "{id}: {before:?} → {after:?}");
    }
    // Nobody published anything; now somebody does, once.
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    cluster.run(&["restart", "--cold", "origin"]).expect_code(0).expect_words(&[
        "its encoders are disconnected and must reconnect",
        &format!("no encoder has come back to publish {STREAM}; start it again"),
    ]);
    drop(encoder);
    let after = cluster.pids();
    cluster.run(&["restart", "edge", "1999"]).expect_words(&["1999", "1936"]);
    assert_ne!(cluster.run(&["restart", "edge", "1999"]).code, 0);
    assert_eq!(cluster.pids(), after);
}

#[test]
fn logs_show_the_workers_that_are_asked_for() {
    let cluster = TestCluster::up_guide();
    let all = cluster.run(&["logs"]).expect_code(0);
    let edge = cluster.run(&["logs", "edge", "1936"]).expect_code(0);
    assert!(!edge.stdout.is_empty() && edge.stdout.lines().count() < all.stdout.lines().count(), "{all:?}");
    let _ = cluster.run(&["logs", "origin"]).expect_code(0).expect_words(&[&cluster.net.host(5).to_string()]);

    let supervisor = cluster.run(&["logs", "supervisor"]).expect_code(0);
    assert!(supervisor.stdout.lines().all(|line| line.starts_with("supervisor | ")), "{supervisor:?}");
    let edge = format!("edge-{}", cluster.net.edges()[0].to_string().replace(':', "-"));
    cluster
        .run(&["logs", "edge", "1999"])
        .expect_code(1)
        .expect_words(&["there is no edge on port 1999; there are: ", &edge]);

    // A log that was rotated lately is short; what is missing is in the one before. This one has no process.
    let log = std::path::PathBuf::from(cluster.unit(cluster.net.origin()).log).with_file_name("encoder.log");
    fs::write(log.with_extension("log.1"), "one\ntwo\n").unwrap();
    fs::write(log, "three\n").unwrap();
    let two = cluster.run(&["logs", "encoder", "-n", "2"]).expect_code(0);
    assert_eq!(two.stdout, "encoder | two\nencoder | three\n");
}

#[test]
fn probe_tells_a_live_stream_from_a_missing_one_and_from_no_server() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    cluster.run(&["probe", &url(edge, STREAM)]).expect_code(0).expect_words(&["h264", "aac"]);
    let nobody = url(edge, "live/nobody");
    let done = cluster.run(&["probe", "--timeout", "1", &nobody]).expect_code(1);
    done.expect_words(&[&format!("{nobody}: connected, but nothing is published as live/nobody within 1 s")]);
    cluster
        .run(&["probe", &url((cluster.net.host(9), 1935).into(), STREAM)])
        .expect_code(1)
        .expect_words(&["refused"]);
}

#[test]
fn probe_gives_up_in_time_though_the_name_is_still_looked_up() {
    let cluster = TestCluster::guide();
    let resolver = cluster.net.host(53);
    // A resolver that never answers, in a mount of our own. Where that is forbidden there is nothing to show.
    let Ok(_silent) = std::net::UdpSocket::bind((resolver, 53)) else { return };
    let conf = cluster.dir.path().join("resolv.conf");
    fs::write(&conf, format!("nameserver {resolver}\noptions timeout:25 attempts:1\n")).unwrap();
    let script = r#"mount --bind "$1" /etc/resolv.conf || exit 99
        exec "$0" probe --timeout 1 rtmp://nobody.example/live/a"#;
    let begin = Instant::now();
    let mut command = Command::new("unshare");
    let done = run(command.args(["--mount", "sh", "-c", script, SRSCTL]).arg(&conf));
    if done.code != 99 && !done.text().contains("unshare") {
        assert!(begin.elapsed() < Duration::from_secs(15), "{:?} {done:?}", begin.elapsed());
        let _ = done.expect_code(1);
    }
}

#[test]
fn down_keeps_logs_configs_and_secret_and_purge_removes_them() {
    let cluster = TestCluster::up_guide();
    let unit = cluster.unit(cluster.net.origin());
    cluster.down();
    assert!(fs::exists(&unit.config).unwrap() && fs::exists(&unit.log).unwrap());
    cluster.up();
    cluster.run(&["down", "--purge"]).expect_code(0);
    assert!(!fs::exists(&unit.config).unwrap() && !fs::exists(&unit.log).unwrap());
    let left = fs::read_dir(&cluster.state).into_iter().flatten().count();
    assert_eq!(left, 0, "left in {}", cluster.state.display());
    cluster.assert_nothing_left();
}

#[test]
fn commands_find_the_cluster_by_file_then_directory_then_as_the_only_one_running() {
    let one = TestCluster::up_guide();
    // In the same state directory, another cluster on a network of its own.
    let two = TestCluster::guide();
    let elsewhere = tempfile::tempdir().unwrap();
    let at = |args: &[&str]| run(one.srsctl(args).current_dir(elsewhere.path()));

    at(&["status"]).expect_code(0).expect_words(&[&one.net.cluster_name()]);

    let other = two.file.to_str().unwrap();
    at(&["-f", other, "up"]).expect_code(0);
    for what in ["status", "down"] {
        // Each as it is to be written.
        let command = |of: &TestCluster| {
            let name = of.net.cluster_name();
            format!("running: {name} ({}): srsctl {what} {name}", of.file.display())
        };
        at(&[what]).expect_code(2).expect_words(&[&command(&one), &command(&two)]);
    }
    let by_file = at(&["-f", other, "status"]).expect_code(0);
    assert!(by_file.text().contains(&two.net.host(5).to_string()), "{by_file:?}");
    let by_directory = one.run(&["status"]).expect_code(0);
    assert!(by_directory.text().contains(&one.net.host(5).to_string()), "{by_directory:?}");
    at(&["-f", other, "down"]).expect_code(0);
    at(&["status"]).expect_code(0);
}

#[test]
fn of_several_clusters_the_only_one_that_runs_is_meant() {
    let one = TestCluster::up_guide();
    let elsewhere = tempfile::tempdir().unwrap();
    // As a crash of the machine leaves it.
    let dead = one.state.join("run/dead");
    fs::create_dir_all(dead.join("units/edge-127.0.0.9-1935")).unwrap();
    fs::write(dead.join("lock"), "1\n").unwrap();
    fs::write(dead.join("units/edge-127.0.0.9-1935/alive.lock"), "0".repeat(32)).unwrap();
    let at = |args: &[&str]| run(one.srsctl(args).current_dir(elsewhere.path()));
    at(&["status"]).expect_code(0).expect_words(&[&one.net.cluster_name()]);
    at(&["down", "--yes"]).expect_code(0);
    at(&["down", "--yes"]).expect_code(0).expect_words(&["dead"]);
    assert!(!dead.exists());
}

#[test]
fn two_files_with_one_name_and_different_origins_are_not_one_cluster() {
    let one = TestCluster::up_guide();
    let other = tempfile::tempdir().unwrap();
    let file = other.path().join("cluster.yaml");
    let at = |args: &[&str]| run(one.srsctl(args).current_dir(other.path()));
    let guide = fs::read_to_string(&one.file).unwrap();
    let before = one.pids();

    fs::write(&file, guide.replace(&one.net.origin().ip().to_string(), &one.net.host(8).to_string()))
        .unwrap();
    for args in [&["up"][..], &["status"], &["restart", "origin"], &["down"], &["logs"], &["urls", STREAM]] {
        let path = one.file.to_str().unwrap();
        at(args).expect_code(2).expect_words(&["already runs from", path, "another `cluster:` name"]);
    }
    assert_eq!(one.pids(), before);

    // A file that was copied is the same cluster, and so is one that was moved and changed.
    fs::write(&file, &guide).unwrap();
    at(&["status"]).expect_code(0);
    one.down();
    fs::write(&file, guide.replace(&one.net.origin().ip().to_string(), &one.net.host(8).to_string()))
        .unwrap();
    at(&["up"]).expect_code(2).expect_words(&["is known from", "down --purge"]);
    fs::remove_file(&one.file).unwrap();
    at(&["status"]).expect_code(3);
}

#[test]
fn a_cluster_whose_file_is_broken_or_gone_is_still_operated() {
    let cluster = TestCluster::up_guide();
    // By another way to the same place.
    let link = tempfile::tempdir().unwrap();
    let link = link.path().join("link");
    std::os::unix::fs::symlink(cluster.dir.path(), &link).unwrap();
    let linked = link.join("cluster.yaml");
    for is_gone in [false, true] {
        if is_gone {
            fs::remove_file(&cluster.file).unwrap();
        } else {
            cluster.write("cluster: [\n");
        }
        for args in [&["status"][..], &["-f", linked.to_str().unwrap(), "urls", STREAM]] {
            cluster.run(args).expect_code(0).expect_words(&["using the file in force", "cluster.yaml"]);
        }
        cluster.run(&["up", "cluster.yaml"]).expect_code(2);
    }
    cluster.run(&["restart", "edge", "1935"]).expect_code(0);
    cluster.down();
}

#[test]
fn following_logs_ends_with_its_reader() {
    let cluster = TestCluster::up_guide();
    let mut logs = cluster.srsctl(&["logs", "--follow"]);
    let mut logs = logs.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    drop(logs.stdout.take());
    // A line more, which nobody reads.
    cluster.run(&["restart", "edge", "1935"]).expect_code(0);
    wait_until("logs to end", SOON, || logs.try_wait().unwrap().is_some());
}

#[test]
fn every_shipped_cluster_file_is_valid() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let examples = fs::read_dir(root.join("deploy/examples")).unwrap().map(|e| e.unwrap().path());
    let files: Vec<_> = examples
        .filter(|p| p.extension().is_some_and(|e| e == "yaml"))
        .chain([root.join("cluster.yaml")])
        .collect();
    assert!(files.len() >= 3, "{files:?}");
    let cluster = TestCluster::guide();
    for file in files {
        cluster.run(&["check", file.to_str().unwrap()]).expect_code(0);
    }
}

#[test]
fn bench_publishes_plays_and_reports() {
    let cluster = TestCluster::up_guide();
    let origin = format!("rtmp://{}/{STREAM}", cluster.net.origin());
    let mut publisher = cluster.srsctl(&["bench", "publish", card_file().to_str().unwrap(), &origin]);
    let mut publisher = publisher.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    cluster.await_live(STREAM);
    let edge = format!("rtmp://{}/{STREAM}", cluster.net.edges()[3]);
    let done = cluster.run(&["bench", "play", "-c", "20", "--duration", "3", "--json", &edge]);
    publisher.kill().unwrap();
    publisher.wait().unwrap();
    let done = done.expect_code(0);
    let report: serde_json::Value = serde_json::from_str(&done.stdout).unwrap();
    assert_eq!(report["connected"], 20, "{report:#}");
    for figure in ["first_keyframe_ms", "latency_ms", "bitrate_bps"] {
        assert!(report[figure].is_object(), "{figure} in {report:#}");
    }
    assert_eq!(report["backwards"], 0, "{report:#}");
}

#[test]
fn a_token_in_the_encoders_address_is_written_nowhere() {
    let cluster = TestCluster::up_guide();
    let address = format!("rtmp://{}/{STREAM}?token=s3cret-token", cluster.net.origin());
    let mut publisher = cluster.srsctl(&["publish", "--test-card", &address]);
    let mut publisher = publisher.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
    cluster.await_live(STREAM);
    let status = cluster.run(&["status", "--json"]);
    publisher.kill().unwrap();
    publisher.wait().unwrap();
    assert!(!status.text().contains("s3cret"), "{}", status.text());
    let mut seen = 0;
    let mut directories = vec![cluster.state.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap().flatten() {
            let kind = entry.file_type().unwrap();
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                let bytes = fs::read(entry.path()).unwrap();
                assert!(!bytes.windows(6).any(|w| w == b"s3cret"), "{}", entry.path().display());
                seen += 1;
            }
        }
    }
    assert!(seen > 10, "logs, configs and records were read: {seen}");
}

#[test]
fn a_worker_that_is_started_by_hand_touches_nothing_and_says_who_starts_it() {
    for command in ["worker", "encoder"] {
        for (lent, why) in [
            (None, "SRSCTL_FDS is not set"),
            (Some("listener:999,control:4,lock:5"), "listener, descriptor 999, is not open"),
            (Some("control:1"), "SRSCTL_FDS=\"control:1\" is not understood"),
        ] {
            let mut by_hand = Command::new(SRSCTL);
            by_hand.args([command, "--config", "/nowhere"]).envs(lent.map(|lent| ("SRSCTL_FDS", lent)));
            let done = by_hand.output().unwrap();
            assert_eq!(done.status.code(), Some(64), "{done:?}");
            let said = String::from_utf8(done.stderr).unwrap();
            assert_eq!(
                said,
                format!("this command is started by the supervisor; use: srsctl up ({why})\n"),
                "{command} {lent:?}"
            );
        }
    }
}
