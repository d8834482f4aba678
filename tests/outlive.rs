//! Workers die under players that check every byte, and none of these notices more than a pause.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bench::exact::{Plan, Swarm};
use nix::sys::signal::Signal::{SIGKILL, SIGUSR2};

use crate::support::clients::{Recorder, ffmpeg_publisher};
use crate::support::cluster::{TestCluster, signal};
use crate::support::flv::{assert_same, seconds_of_video};
use crate::support::net::url;
use crate::support::{SOON, STREAM, looped_card};

/// Lets the swarm run until nobody waits for anything.
fn settle(swarm: &mut Swarm) {
    let start = Instant::now();
    while !swarm.is_settled() {
        assert!(start.elapsed() < SOON, "{:?}", swarm.counts());
        run(swarm, 50);
    }
}

fn run(swarm: &mut Swarm, ms: u64) {
    swarm.run(Instant::now() + Duration::from_millis(ms)).unwrap();
}

#[test]
fn players_encoders_and_forwards_outlive_workers_and_get_every_frame_once() {
    let cluster = TestCluster::up_guide();
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[0]);
    let mut encoder = ffmpeg_publisher(cluster.dir.path(), &url(origin, STREAM));
    let mut swarm = Swarm::new(Plan { origin, edge, players: 60, seed: 1 }).unwrap();
    swarm.ramp(60).unwrap();
    cluster.await_live(STREAM);
    let recorders = [Recorder::ffmpeg, Recorder::rtmpdump, Recorder::gstreamer]
        .map(|start| start(cluster.dir.path(), &url(edge, STREAM)));
    settle(&mut swarm);

    let replace = |port: SocketAddr| signal(cluster.keeper(port), SIGUSR2);
    for round in 0..4 {
        replace(edge);
        run(&mut swarm, 150 * round);
        replace(origin);
        run(&mut swarm, 350);
        // Both, and one in the middle of its recovery.
        replace(edge);
        replace(origin);
        run(&mut swarm, round);
        replace(edge);
        run(&mut swarm, 300);
    }
    // Deaths that count, of which a port may have two.
    for port in [edge, origin, edge, origin] {
        signal(cluster.pid(port), SIGKILL);
        run(&mut swarm, 700);
    }
    settle(&mut swarm);
    run(&mut swarm, 1_000);

    let counts = swarm.counts();
    assert_eq!((counts.lost, counts.wrong), (0, 0), "{counts:#?}");
    assert!(counts.frames > 60 * 100, "{counts:?}");
    assert!(encoder.is_running(), "{}", encoder.said());
    for recorder in recorders {
        let name = recorder.file.display().to_string();
        let seconds = seconds_of_video(&recorder.tags());
        assert!(seconds > 5.0, "{name} has {seconds} s");
        assert_same(&name, &recorder.record(seconds), &looped_card(), seconds);
    }
    for port in [origin, edge] {
        let unit = cluster.unit(port);
        assert_eq!(unit.restarts, 0, "{unit:#?}");
        assert!(unit.resumed >= 10, "{unit:#?}");
    }
}
