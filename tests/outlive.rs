//! Workers die under players and encoders that check every byte and every picture, and none of these notices more than a pause.

use std::collections::BTreeSet;
use std::fs;
use std::net::{SocketAddr, TcpStream};

use bench::exact::{Plan, Swarm};
use nix::sys::signal::Signal::{SIGABRT, SIGILL, SIGKILL, SIGSTOP, SIGUSR2};

use crate::support::clients::{ffmpeg_publisher, gstreamer_publisher, librtmp_publisher};
use crate::support::cluster::{TestCluster, find, signal};
use crate::support::flv::{assert_same, seconds_of_video};
use crate::support::net::{peers, url};
use crate::support::starved::Starved;
use crate::support::swarm::{assert_whole, run, run_until, settle};
use crate::support::viewers::{Viewer, card_pictures};
use crate::support::{CARD_MS, SOON, STREAM, looped_card, pictures, rml, wait_until};

/// Deaths of each port.
const DEATHS: usize = 10;

/// The worker of each of `ports` dies, all at once, in round `round` of [`DEATHS`]; the next one is there.
///
/// A third death within a minute starts cold, on purpose: two are by the worker's own end, and the others are asked for. Those come the same
/// way: the worker is killed.
#[track_caller]
fn kill(cluster: &TestCluster, ports: &[SocketAddr], round: usize) {
    let units: Vec<_> = ports.iter().map(|port| cluster.unit(*port)).collect();
    for unit in &units {
        match round {
            3 | 7 => signal(unit.pid.unwrap(), SIGKILL),
            _ => signal(unit.keeper_pid.unwrap(), SIGUSR2),
        }
    }
    for (unit, port) in units.iter().zip(ports) {
        cluster.await_successor(*port, unit.pid.unwrap());
    }
}

/// Who is connected to the ports.
fn connections(ports: &[SocketAddr]) -> Vec<BTreeSet<SocketAddr>> {
    ports.iter().map(|port| peers(*port)).collect()
}

/// Fails unless who was connected still is, by the same connections.
#[track_caller]
fn assert_kept(before: &[BTreeSet<SocketAddr>], ports: &[SocketAddr]) {
    for ((before, now), port) in before.iter().zip(connections(ports)).zip(ports) {
        let lost: Vec<_> = before.difference(&now).collect();
        assert!(!before.is_empty() && lost.is_empty(), "{port} has lost {lost:?} of {before:?}");
    }
}

/// Fails unless the worker of each port died [`DEATHS`] times, and the next one went on each time.
#[track_caller]
fn assert_deaths(cluster: &TestCluster, ports: &[SocketAddr]) {
    for port in ports {
        let unit = cluster.unit(*port);
        assert_eq!((unit.resumed as usize, unit.restarts), (DEATHS, 0), "{unit:#?}");
    }
}

#[test]
fn players_encoders_and_forwards_outlive_workers_and_get_every_frame_once() {
    let cluster = TestCluster::up_guide();
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[0]);
    let mut encoder = ffmpeg_publisher(cluster.dir.path(), &url(origin, STREAM));
    let mut swarm = Swarm::new(Plan { origin, edge, players: 60, seed: 1 }).unwrap();
    swarm.ramp(60).unwrap();
    cluster.await_live(STREAM);
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

    assert_whole(&swarm);
    assert!(swarm.counts().frames > 60 * 100, "{:?}", swarm.counts());
    assert!(encoder.is_running(), "{}", encoder.said());
    for port in [origin, edge] {
        let unit = cluster.unit(port);
        assert_eq!(unit.restarts, 0, "{unit:#?}");
        assert!(unit.resumed >= 10, "{unit:#?}");
    }
}

#[test]
fn ffmpeg_rtmpdump_gstreamer_and_mpv_show_every_picture_once_and_say_nothing_while_edge_and_origin_die_ten_times()
 {
    let cluster = TestCluster::up_guide();
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[0]);
    let _encoder = ffmpeg_publisher(cluster.dir.path(), &url(origin, STREAM));
    cluster.await_live(STREAM);
    let clock = rml::play(edge, STREAM).unwrap();
    let mut viewers = [Viewer::ffmpeg, Viewer::rtmpdump, Viewer::gstreamer, Viewer::mpv]
        .map(|start| start(cluster.dir.path(), &url(edge, STREAM)));
    viewers.iter().for_each(|viewer| viewer.await_seconds(1.0));
    let said: Vec<_> = viewers.iter().map(Viewer::messages).collect();
    let before = connections(&[origin, edge]);

    for round in 0..DEATHS {
        if round % 3 == 2 {
            kill(&cluster, &[edge, origin], round);
        } else {
            kill(&cluster, &[edge], round);
            clock.await_more(round * 7 % 23);
            kill(&cluster, &[origin], round);
        }
        clock.await_more(round * 5 % 17);
    }

    let wanted = viewers.each_ref().map(|viewer| viewer.seconds() + 1.0);
    for ((viewer, said), seconds) in viewers.iter_mut().zip(said).zip(wanted) {
        viewer.await_seconds(seconds);
        assert_eq!(viewer.messages(), said, "{} says more than before the first death", viewer.name);
        assert!(viewer.recorder.client.is_running(), "{} has ended", viewer.name);
    }
    assert_kept(&before, &[origin, edge]);
    let card = card_pictures();
    for (viewer, seconds) in viewers.into_iter().zip(wanted) {
        let name = viewer.name;
        let (got, shown) = viewer.stop();
        assert_same(name, &got, &looped_card(), seconds);
        pictures::compare(&shown, &card, i64::from(CARD_MS) * 1000).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(
            shown.len() >= (seconds * 25.0) as usize - 25,
            "{name}: {} pictures in {seconds} s",
            shown.len()
        );
    }
    assert_deaths(&cluster, &[origin, edge]);
}

#[test]
fn the_encoders_of_ffmpeg_gstreamer_and_librtmp_keep_their_connections_and_no_edge_lacks_a_frame_while_workers_die()
 {
    let cluster = TestCluster::up_guide();
    let (origin, edges) = (cluster.net.origin(), cluster.net.edges());
    let ports = [&edges[..], &[origin]].concat();
    let starts = [ffmpeg_publisher, gstreamer_publisher, librtmp_publisher];
    let mut encoders: Vec<_> = ["live/ffmpeg", "live/gstreamer", "live/librtmp"]
        .into_iter()
        .zip(starts)
        .map(|(stream, start)| (stream, start(cluster.dir.path(), &url(origin, stream))))
        .collect();
    encoders.iter().for_each(|(stream, _)| cluster.await_live(stream));
    let watched = edges.iter().flat_map(|edge| encoders.iter().map(move |(stream, _)| (*edge, *stream)));
    let players: Vec<_> =
        watched.map(|(edge, stream)| (edge, stream, rml::play(edge, stream).unwrap())).collect();
    players.iter().for_each(|(.., player)| drop(player.record_after(0, 1.0)));
    let before = connections(&ports);

    for round in 0..DEATHS {
        let at = round % edges.len();
        // Of the first stream at that edge.
        let clock = &players[at * encoders.len()].2;
        if round % 2 == 1 {
            kill(&cluster, &[origin, edges[at]], round);
        } else {
            kill(&cluster, &[origin], round);
            clock.await_more(round * 7 % 23);
            kill(&cluster, &edges[at..=at], round);
        }
        clock.await_more(round * 5 % 17);
    }

    let marks: Vec<_> = players.iter().map(|(.., player)| player.mark()).collect();
    for ((edge, stream, player), mark) in players.iter().zip(marks) {
        let who = format!("{stream} at {edge}");
        player.record_after(mark, 1.0);
        let seconds = seconds_of_video(&player.tags());
        assert!(seconds > 4.0, "{who}: {seconds} s");
        assert_same(&who, &player.tags(), &looped_card(), seconds);
    }
    for (stream, encoder) in &mut encoders {
        assert!(encoder.is_running(), "the encoder of {stream} has ended");
        assert_eq!(encoder.said(), "", "the encoder of {stream} has noticed");
    }
    assert_kept(&before, &ports);
    assert_deaths(&cluster, &[origin]);
}

#[test]
fn whatever_a_worker_dies_of_its_players_get_every_frame_once_and_status_tells() {
    let cluster = TestCluster::up_guide();
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[0]);
    let mut swarm = Swarm::new(Plan { origin, edge, players: 60, seed: 2 }).unwrap();
    swarm.ramp(60).unwrap();
    settle(&mut swarm);

    let mut dies = |port: SocketAddr, how: &str, kill: &mut dyn FnMut(u32)| {
        let before = cluster.unit(port);
        kill(before.pid.unwrap());
        run_until(&mut swarm, how, |_| {
            let unit = cluster.try_status().ok().and_then(|status| find(&status, port).ok());
            let unit = unit.filter(|unit| unit.resumed == before.resumed + 1 && unit.restarts == 0);
            unit.and_then(|unit| unit.last_exit).is_some_and(|exit| exit.how.contains(how))
        });
        settle(&mut swarm);
    };
    dies(edge, "SIGABRT", &mut |pid| signal(pid, SIGABRT));
    dies(origin, "SIGILL", &mut |pid| signal(pid, SIGILL));
    dies(edge, "frozen", &mut |pid| signal(pid, SIGSTOP));
    let mut strangers = Vec::new();
    match Starved::new() {
        Some(group) => dies(edge, "out of memory", &mut |pid| {
            fs::write(group.members(), pid.to_string()).unwrap();
            strangers.extend((0..200).map(|_| TcpStream::connect(edge).unwrap()));
        }),
        None => dies(edge, "SIGKILL", &mut |pid| signal(pid, SIGKILL)),
    }
    // The supervisor dies with the worker.
    dies(origin, "SIGKILL", &mut |pid| {
        signal(cluster.status().supervisor_pid, SIGKILL);
        signal(pid, SIGKILL);
        wait_until("the supervisor to be gone", SOON, || cluster.run(&["status"]).code == 4);
        cluster.up();
    });
    assert_whole(&swarm);
}
