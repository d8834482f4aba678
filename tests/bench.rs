//! `srsctl bench` against a running cluster: what it reports is what was there.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, Stdio};

use nix::sys::signal::Signal::SIGINT;
use serde_json::Value;

use crate::support::cluster::{TestCluster, signal};
use crate::support::net::url;
use crate::support::{STREAM, card_file};

/// Publishes until it is dropped.
struct Publisher(Child);

impl Publisher {
    fn start(cluster: &TestCluster) -> Self {
        let origin = url(cluster.net.origin(), STREAM);
        let mut command =
            cluster.srsctl(&["bench", "publish", "--duration", "0", card_file().to_str().unwrap(), &origin]);
        let child = command.stderr(Stdio::null()).stdout(Stdio::null()).spawn().unwrap();
        cluster.await_live(STREAM);
        Self(child)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn report(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[test]
fn players_of_several_processes_are_one_report() {
    let cluster = TestCluster::up_guide();
    let _publisher = Publisher::start(&cluster);
    let edges = [0, 3].map(|index| url(cluster.net.edges()[index], STREAM));
    let done = cluster
        .run(&[
            "bench",
            "play",
            "-c",
            "21",
            "--processes",
            "2",
            "--duration",
            "4",
            "--json",
            &edges[0],
            &edges[1],
        ])
        .expect_code(0);
    let report = report(&done.stdout);
    assert_eq!((&report["connected"], &report["processes"]), (&21.into(), &2.into()), "{report:#}");
    assert_eq!(report["first_keyframe_ms"]["count"], 21, "{report:#}");
    // The card has about 220 kbit/s; each player had all of it.
    assert!(report["bitrate_bps"]["min"].as_u64().is_some_and(|min| min > 100_000), "{report:#}");
    assert!(report["latency_ms"]["p50"].as_f64().is_some_and(|p50| p50 > 0.0 && p50 < 5_000.0), "{report:#}");
    assert!(done.stderr.contains("21 connected"), "{}", done.stderr);
}

#[test]
fn an_ordinary_client_waits_for_no_delayed_acknowledgement() {
    let cluster = TestCluster::up_guide();
    let _publisher = Publisher::start(&cluster);
    let edge = url(cluster.net.edges()[1], STREAM);
    let done = cluster
        .run(&["bench", "play", "--nagle", "-c", "20", "--ramp", "20", "--duration", "1", "--json", &edge])
        .expect_code(0);
    let report = report(&done.stdout);
    assert_eq!(report["first_keyframe_ms"]["count"], 20, "{report:#}");
    // It is held back twice, behind C2 and behind its chunk size, where the kernel waits 40 ms each time.
    assert!(report["first_keyframe_ms"]["p50"].as_f64().is_some_and(|p50| p50 < 40.0), "{report:#}");
}

#[test]
fn players_beyond_max_connections_are_reported_with_the_servers_reason() {
    let cluster = TestCluster::with(|net| net.guide_with("{ max_connections: 5 }"));
    cluster.up();
    let _publisher = Publisher::start(&cluster);
    let edge = url(cluster.net.edges()[1], STREAM);
    let done = cluster.run(&["bench", "play", "-c", "8", "--duration", "1", "--json", &edge]).expect_code(1);
    let report = report(&done.stdout);
    assert_eq!(report["connected"], 5, "{report:#}");
    let refused: Vec<_> = report["refused"].as_object().unwrap().iter().collect();
    assert!(
        matches!(refused[..], [(why, n)] if why.contains("NetStream.Play.Failed") && n == 3),
        "{report:#}"
    );
}

#[test]
fn ctrl_c_gives_the_report_of_what_there_was() {
    let cluster = TestCluster::up_guide();
    let _publisher = Publisher::start(&cluster);
    let edge = url(cluster.net.edges()[2], STREAM);
    for processes in ["1", "2"] {
        let mut command = cluster.srsctl(&[
            "bench",
            "play",
            "-c",
            "6",
            "--duration",
            "0",
            "--processes",
            processes,
            "--json",
            &edge,
        ]);
        let mut child = command.stderr(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        lines.find(|line| line.contains("6 connected")).expect("progress tells of all players");
        // Nobody reads any more: what cannot be told must not cost the report.
        drop(lines);
        signal(child.id(), SIGINT);
        let mut stdout = String::new();
        child.stdout.take().unwrap().read_to_string(&mut stdout).unwrap();
        assert_eq!(child.wait().unwrap().code(), Some(0));
        assert_eq!(report(&stdout)["connected"], 6, "{stdout}");
    }
}
