//! Processes are killed and frozen under playing clients.

use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use cluster::status::UnitState;
use nix::sys::signal::Signal::{SIGKILL, SIGSTOP};

use crate::support::clients::{Recorder, ffmpeg_encoder_loop, ffmpeg_publisher};
use crate::support::cluster::{TestCluster, finish, signal, spawn};
use crate::support::debugger::Debugger;
use crate::support::flv::assert_same;
use crate::support::net::url;
use crate::support::raw::{Raw, message};
use crate::support::{CARD_MS, SOON, STREAM, card, looped_card, rml, wait_for, wait_until};

#[test]
fn a_killed_edge_loses_and_refuses_nobody_and_gives_the_next_player_a_keyframe_on_its_first_connection() {
    let cluster = TestCluster::up_guide();
    let [edge, sibling, ..] = cluster.net.edges();
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let through = rml::play(edge, STREAM).unwrap();
    let untouched = rml::play(sibling, STREAM).unwrap();
    let recorded_through = Recorder::ffmpeg(cluster.dir.path(), &url(sibling, STREAM));
    through.record_after(0, 1.0);
    untouched.record_after(0, 1.0);

    let old = cluster.pid(edge);
    let refused = while_connecting(edge, || {
        signal(old, SIGKILL);
        let next = rml::play(edge, STREAM).expect("connecting right after the kill");
        assert_same("the first connection after the kill", &next.record_after(0, 3.0), &looped_card(), 3.0);
        cluster.await_successor(edge, old);
    });
    assert_eq!(refused, Vec::<String>::new());

    assert_same("the player whose worker died", &through.record_after(0, 4.0), &looped_card(), 4.0);
    assert_eq!(encoder.ended(), None, "the publisher noticed");
    assert_same("a player of another port", &untouched.record_after(0, 3.0), &looped_card(), 3.0);
    assert_same("ffmpeg at another port", &recorded_through.record(4.0), &looped_card(), 4.0);
    let unit = cluster.unit(edge);
    assert_eq!((unit.resumed, unit.restarts), (1, 0), "{unit:?}");
    assert!(unit.last_exit.as_ref().is_some_and(|e| e.how.contains("KILL")), "{unit:?}");
}

#[test]
fn a_killed_origin_comes_back_and_the_encoders_reconnect_reaches_every_edge() {
    let cluster = TestCluster::up_guide();
    let origin = cluster.net.origin();
    let _encoder = ffmpeg_encoder_loop(cluster.dir.path(), &url(origin, STREAM));
    cluster.await_live(STREAM);
    let players: Vec<_> = cluster.net.edges().iter().map(|addr| rml::play(*addr, STREAM).unwrap()).collect();
    players.iter().for_each(|p| drop(p.record_after(0, 1.0)));
    let edges: Vec<_> = cluster.net.edges().iter().map(|addr| cluster.pid(*addr)).collect();

    let old = cluster.pid(origin);
    signal(old, SIGKILL);
    cluster.await_successor(origin, old);
    cluster.await_live(STREAM);
    for (player, addr) in players.iter().zip(cluster.net.edges()) {
        let mark = player.mark();
        assert_same(
            &format!("a player that stayed at {addr}"),
            &player.record_after(mark, 3.0),
            &looped_card(),
            3.0,
        );
        let tags = player.tags();
        for kind in [8, 9] {
            let times: Vec<_> =
                tags.iter().filter(|t| t.kind == kind && t.is_frame()).map(|t| t.timestamp).collect();
            assert!(times.is_sorted(), "time goes back at {addr}");
        }
    }
    let now: Vec<_> = cluster.net.edges().iter().map(|addr| cluster.pid(*addr)).collect();
    assert_eq!(edges, now, "an edge was restarted because its origin died");
}

#[test]
fn an_origin_that_starts_anew_behind_the_streams_clock_is_played_at_once() {
    let cluster = TestCluster::up_guide();
    let (origin, edge) = (cluster.net.origin(), cluster.net.edges()[1]);
    let player = rml::play(edge, STREAM).unwrap();
    // 100 s of stream time at once: so far is the edges' clock ahead of what the next process of the origin starts with.
    let mut fast =
        Raw::dial(origin).handshake().connect("live", &[]).publish("livestream", "NetStream.Publish.Start");
    for n in 0..2_500_u32 {
        fast.send(&message(6, n * 40, 9, 1, &[0x17, 1, 0, 0, 0, 0xEE, (n >> 8) as u8, n as u8]));
    }
    wait_for("the end of it at an edge", SOON, || {
        let last = player.tags().pop();
        let is_last = last.as_ref().is_some_and(|tag| tag.payload.ends_with(&2_499_u16.to_be_bytes()));
        if is_last { Ok(()) } else { Err(format!("{last:?}")) }
    });

    cluster.run(&["restart", "origin", "--cold"]).expect_code(0);
    let mark = player.mark();
    let _encoder = rml::publish(origin, STREAM, card(), Some(CARD_MS));
    assert_same("the player that stayed", &player.record_after(mark, 2.0), &looped_card(), 2.0);
    assert!(player.tags().iter().filter(|tag| tag.kind == 9).is_sorted_by_key(|tag| tag.timestamp));
}

#[test]
fn a_killed_supervisor_is_noticed_by_no_player_and_the_next_up_adopts_its_workers() {
    let cluster = TestCluster::up_guide();
    let _encoder = ffmpeg_publisher(cluster.dir.path(), &url(cluster.net.origin(), STREAM));
    cluster.await_live(STREAM);
    let player = rml::play(cluster.net.edges()[0], STREAM).unwrap();
    player.record_after(0, 1.0);
    let before = cluster.status();
    let pids = cluster.pids();

    signal(before.supervisor_pid, SIGKILL);
    wait_until("status to fail without a supervisor", SOON, || cluster.run(&["status"]).code != 0);
    cluster.up();
    assert_eq!(cluster.pids(), pids, "the workers were not adopted");
    assert_ne!(cluster.status().supervisor_pid, before.supervisor_pid);
    assert_same("a player through it all", &player.record_after(0, 6.0), &looped_card(), 6.0);

    // An adopted worker is supervised like any other.
    let edge = cluster.net.edges()[2];
    let old = cluster.pid(edge);
    signal(old, SIGKILL);
    cluster.await_successor(edge, old);
    cluster.down();
}

#[test]
fn a_frozen_worker_that_is_taken_over_is_told_to_be_unknown_until_it_is_replaced() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let (old, supervisor) = (cluster.pid(edge), cluster.status().supervisor_pid);
    // One that is stopped is woken as it is taken over; what a debugger has is left to it.
    let Some(debugger) = Debugger::of(old) else { return };
    signal(supervisor, SIGKILL);
    let up = spawn(&mut cluster.srsctl(&["up", "cluster.yaml"]));
    wait_until("the new supervisor", SOON, || cluster.try_status().is_ok());
    let done = cluster.run(&["status"]).expect_code(4);
    assert!(done.text().contains("no report yet"), "{done:?}");
    signal(old, SIGSTOP);
    debugger.let_go();
    let _ = finish(up, SOON).expect_code(0).expect_words(&["does not answer", "all 5 ready"]);
    assert_ne!(cluster.pid(edge), old);
    cluster.run(&["status"]).expect_code(0);
}

#[test]
fn down_after_the_supervisor_was_killed_stops_its_workers() {
    let cluster = TestCluster::up_guide();
    let pids = cluster.pids();
    signal(cluster.status().supervisor_pid, SIGKILL);
    wait_until("status to fail without a supervisor", SOON, || cluster.run(&["status"]).code == 4);
    let told = cluster.run(&["status"]).expect_code(4).expect_words(&["no supervisor runs", "alive"]).stdout;
    for (id, pid) in pids {
        let port = id.rsplit('-').next().unwrap();
        assert!(told.lines().any(|l| l.contains(&pid.to_string()) && l.contains(port)), "{id}: {told}");
    }
    let json = cluster.run(&["status", "--json"]).expect_code(4).expect_words(&["unsupervised"]).stdout;
    assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
    cluster.down();
}

#[test]
fn a_worker_that_died_while_no_supervisor_ran_has_a_successor_before_the_next_up() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[1];
    let (old, mut pids) = (cluster.pid(edge), cluster.pids());
    let keeper = cluster.keeper(edge);
    signal(cluster.status().supervisor_pid, SIGKILL);
    signal(old, SIGKILL);
    cluster.up();
    let new = cluster.await_successor(edge, old);
    pids.values_mut().filter(|pid| **pid == old).for_each(|pid| *pid = new);
    assert_eq!(cluster.pids(), pids);
    let unit = cluster.unit(edge);
    assert_eq!((unit.keeper_pid, unit.resumed, unit.restarts), (Some(keeper), 1, 0), "{unit:?}");
    assert!(unit.last_exit.is_some_and(|exit| exit.how.contains("SIGKILL")));
}

#[test]
fn a_frozen_edge_is_replaced_while_its_siblings_play_on() {
    let cluster = TestCluster::up_guide();
    let [edge, .., sibling] = cluster.net.edges();
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let player = rml::play(sibling, STREAM).unwrap();
    let old = cluster.pid(edge);
    signal(old, SIGSTOP);
    cluster.await_successor(edge, old);
    let next = rml::play(edge, STREAM).unwrap();
    assert_same("after the freeze", &next.record_after(0, 3.0), &looped_card(), 3.0);
    assert_same("a sibling meanwhile", &player.record_after(0, 5.0), &looped_card(), 5.0);
}

#[test]
fn a_worker_that_keeps_dying_is_backed_off_and_flagged() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    wait_for("the edge to be flagged", SOON * 2, || {
        let unit = crate::support::cluster::find(&cluster.try_status()?, edge)?;
        if unit.state == UnitState::Flapping {
            return Ok(());
        }
        if let Some(pid) = unit.pid {
            // It may be gone already.
            let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), SIGKILL);
        }
        Err(format!("{unit:?}"))
    });
    // It is never given up.
    wait_for("the edge to serve again", SOON * 2, || {
        let unit = crate::support::cluster::find(&cluster.try_status()?, edge)?;
        let reports = unit.stats_age_ms.is_some_and(|age| age < 5000);
        if unit.pid.is_some() && reports { Ok(()) } else { Err(format!("{unit:?}")) }
    });
}

/// Connects to `addr` again and again while `act` runs; the errors met.
fn while_connecting(addr: std::net::SocketAddr, act: impl FnOnce()) -> Vec<String> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let errors = scope.spawn(|| {
            let mut errors = Vec::new();
            while !stop.load(Ordering::Relaxed) {
                if let Err(e) = TcpStream::connect_timeout(&addr, Duration::from_secs(5)) {
                    errors.push(e.to_string());
                }
                thread::sleep(Duration::from_millis(10));
            }
            errors
        });
        // A panic of `act` must not leave the other thread running, which the scope would wait for.
        struct Stop<'a>(&'a AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let guard = Stop(&stop);
        act();
        drop(guard);
        errors.join().unwrap()
    })
}
