//! A port goes on while its workers die: its keeper starts the next one, and the supervisor sees both.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use cluster::events::Kind;
use cluster::status::{UnitState, UnitStatus};
use nix::libc;
use nix::sys::signal::Signal::{SIGCONT, SIGHUP, SIGKILL, SIGSEGV, SIGSTOP, SIGTERM, SIGUSR2};

use crate::support::cluster::{SRSCTL, TestCluster, find, run, signal};
use crate::support::debugger::Debugger;
use crate::support::flv::assert_same;
use crate::support::raw::{Raw, amf, command};
use crate::support::{CARD_MS, SOON, STREAM, card, looped_card, rml, wait_for, wait_until};

fn lives(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}/exe")).exists()
}

/// Waits until the port is as wanted.
#[track_caller]
fn await_unit(cluster: &TestCluster, addr: SocketAddr, wanted: impl Fn(&UnitStatus) -> bool) -> UnitStatus {
    wait_for("the port to be as wanted", SOON, || {
        let unit = find(&cluster.try_status()?, addr)?;
        if unit.state == UnitState::Running && wanted(&unit) { Ok(unit) } else { Err(format!("{unit:#?}")) }
    })
}

#[track_caller]
fn how(unit: &UnitStatus) -> &str {
    unit.last_exit.as_ref().map_or_else(|| panic!("{unit:#?}"), |exit| &exit.how)
}

/// The guide's cluster with the stream live on every port, one of its edges, and the encoder.
#[track_caller]
fn up_live() -> (TestCluster, SocketAddr, rml::Peer) {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    (cluster, edge, encoder)
}

/// Bytes of memory that a process alone has.
fn private_memory(pid: u32) -> u64 {
    let smaps = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap();
    let private = smaps.lines().filter(|line| line.starts_with("Private_"));
    private.map(|line| line.split_ascii_whitespace().nth(1).unwrap().parse::<u64>().unwrap() * 1024).sum()
}

#[test]
fn a_killed_worker_is_followed_by_the_next_within_a_second_and_that_is_no_restart() {
    let (cluster, edge, _encoder) = up_live();
    let before = cluster.unit(edge);
    let keeper = before.keeper_pid.unwrap();
    assert!(private_memory(keeper) < 2 << 20, "{}", private_memory(keeper));
    signal(before.pid.unwrap(), SIGKILL);
    let killed = Instant::now();
    let after = await_unit(&cluster, edge, |unit| unit.pid != before.pid);
    let late = killed.elapsed().saturating_sub(Duration::from_millis(after.uptime_ms.unwrap()));
    assert!(late < Duration::from_secs(1), "the next one began {late:?} after the kill");
    assert_eq!((after.keeper_pid, after.resumed, after.restarts), (Some(keeper), 1, 0));
    assert!(how(&after).starts_with("killed by SIGKILL"), "{after:#?}");
    let next = rml::play(edge, STREAM).unwrap();
    assert_same("behind the death", &next.record_after(0, 3.0), &looped_card(), 3.0);
    let _ = cluster
        .run(&["status"])
        .expect_code(0)
        .expect_words(&["resumed once", "last exit: killed by SIGKILL"]);
    let log = cluster.run(&["logs", "supervisor"]).expect_code(0).text();
    assert!(log.lines().any(|line| line.contains(" WARN ") && line.contains("resumed")), "{log}");
    let log = cluster.run(&["logs", "edge", "1935"]).expect_code(0).text();
    let told = |words: &str| log.lines().filter(|line| line.contains(words)).count();
    assert_eq!(told("the worker died; the next one goes on"), 1, "{log}");
    cluster.down();
}

#[test]
fn what_a_port_was_told_outlives_its_worker() {
    let cluster = TestCluster::up_guide();
    let origin = cluster.net.origin();
    // An edge more, another control socket, and a log that was moved.
    cluster.write(&cluster.net.guide().replace("[1935, 1936]", "[1935, 1936, 1937]"));
    cluster.up();
    let unit = cluster.unit(origin);
    let run = cluster.state.join("run").join(cluster.net.cluster_name()).join("units").join(unit.id.as_str());
    fs::remove_dir_all(&run).unwrap();
    wait_until("its files to be there again", SOON, || {
        run.join("ctl.sock").exists() && run.join("alive.lock").exists()
    });
    let log = Path::new(&unit.log);
    fs::rename(log, log.with_extension("old")).unwrap();
    signal(unit.keeper_pid.unwrap(), SIGHUP);
    wait_until("a new log", SOON, || log.exists());

    signal(unit.pid.unwrap(), SIGKILL);
    let after =
        await_unit(&cluster, origin, |it| it.resumed == 1 && it.stats_age_ms.is_some_and(|age| age < 2_000));
    assert_eq!((after.keeper_pid, after.restarts), (unit.keeper_pid, 0));
    let _encoder = rml::publish(origin, STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let new = rml::play((cluster.net.host(7), 1937).into(), STREAM).unwrap();
    assert_same("the port that came later", &new.record_after(0, 2.0), &looped_card(), 2.0);
    let written = fs::read_to_string(log).unwrap();
    assert!(written.contains("the worker died") && written.contains("generation=1"), "{written}");
    // The socket that it was given later is the one on which the next one is asked.
    assert_eq!(fs::read_to_string(run.join("alive.lock")).unwrap().len(), 32);
    cluster.run(&["restart", "origin"]).expect_code(0);
}

#[test]
fn workers_that_die_one_after_the_other_start_cold_and_then_the_supervisor_starts_the_port() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let keeper = cluster.keeper(edge);
    let mut old = cluster.pid(edge);
    for death in 1..=3 {
        signal(old, SIGKILL);
        let unit = await_unit(&cluster, edge, |unit| unit.resumed + unit.cold_starts == death);
        assert_eq!((unit.keeper_pid, unit.restarts), (Some(keeper), 0), "{unit:#?}");
        assert_eq!(unit.cold_starts, u32::from(death == 3), "only what went on is resumed: {unit:#?}");
        assert_eq!(how(&unit).contains("forgot all connections"), death == 3, "{unit:#?}");
        old = unit.pid.unwrap();
    }
    let log = cluster.run(&["logs", "edge", "1935"]).expect_code(0).text();
    assert!(log.lines().any(|line| line.contains("starting") && line.contains("is_cold=true")), "{log}");
    assert_eq!(log.matches("the worker died; the next one goes on").count(), 2, "{log}");
    assert_eq!(log.matches("the worker died; the next one uses nothing of what it left").count(), 1, "{log}");
    let _ = cluster.run(&["status"]).expect_code(0).expect_words(&["resumed 2 times", "started cold once"]);
    signal(old, SIGKILL);
    let unit = await_unit(&cluster, edge, |unit| unit.restarts == 1 && unit.keeper_pid.is_some());
    assert_ne!(unit.keeper_pid, Some(keeper));
    assert_eq!((unit.resumed, unit.cold_starts), (2, 1));
    assert!(how(&unit).contains("die again and again, the last one so: killed by SIGKILL"), "{unit:#?}");
}

#[test]
fn a_killed_keeper_takes_its_worker_with_it_and_the_port_is_started_anew() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let before = cluster.unit(edge);
    signal(before.keeper_pid.unwrap(), SIGKILL);
    let after = await_unit(&cluster, edge, |unit| unit.restarts == 1 && unit.keeper_pid.is_some());
    assert!(!lives(before.pid.unwrap()), "its worker is left");
    assert_ne!((after.pid, after.keeper_pid), (before.pid, before.keeper_pid));
    assert_eq!(after.resumed, 0);
    assert!(how(&after).starts_with("its keeper was killed by SIGKILL"), "{after:#?}");
    // One that is told to end does so with its worker.
    signal(after.keeper_pid.unwrap(), SIGTERM);
    let last = await_unit(&cluster, edge, |unit| unit.restarts == 2 && unit.keeper_pid.is_some());
    assert!(!lives(after.pid.unwrap()) && how(&last) == "exit 0", "{last:#?}");
    cluster.down();
}

#[test]
fn a_worker_without_its_keeper_is_ended_by_the_next_supervisor_and_by_down() {
    let cluster = TestCluster::up_guide();
    let (edge, frozen) = (cluster.net.edges()[0], cluster.net.edges()[1]);
    for by_down in [false, true] {
        let widows = [cluster.unit(edge), cluster.unit(frozen)];
        signal(cluster.status().supervisor_pid, SIGKILL);
        wait_until("the supervisor to be gone", SOON, || cluster.run(&["status"]).code == 4);
        signal(widows[1].pid.unwrap(), SIGSTOP);
        for unit in &widows {
            signal(unit.keeper_pid.unwrap(), SIGKILL);
            assert!(lives(unit.pid.unwrap()));
        }
        if by_down {
            let _ = cluster.run(&["down"]).expect_code(0).expect_words(&["its keeper had died"]);
            cluster.assert_nothing_left();
        } else {
            cluster.up().expect_words(&["all 5 ready"]);
            let log = cluster.run(&["logs", "supervisor"]).expect_code(0).text();
            assert!(log.contains("its keeper has died: the worker is ended"), "{log}");
        }
        assert!(widows.iter().all(|unit| !lives(unit.pid.unwrap())), "{widows:#?}");
    }
}

#[test]
fn a_frozen_worker_is_replaced_by_its_keeper_and_one_whose_keeper_does_nothing_by_the_supervisor() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let before = cluster.unit(edge);
    signal(before.pid.unwrap(), SIGSTOP);
    let after = await_unit(&cluster, edge, |unit| unit.pid != before.pid);
    assert_eq!((after.keeper_pid, after.resumed, after.restarts), (before.keeper_pid, 1, 0));
    assert_eq!(how(&after), "killed by SIGKILL: frozen: no heartbeat for 3 s");
    signal(after.keeper_pid.unwrap(), SIGUSR2);
    let replaced = await_unit(&cluster, edge, |unit| unit.resumed == 2);
    assert_eq!(how(&replaced), "killed by its keeper, which was sent SIGUSR2");
    let Some(debugger) = Debugger::of(replaced.keeper_pid.unwrap()) else { return };
    signal(replaced.pid.unwrap(), SIGSTOP);
    debugger.await_end();
    let after = replaced;
    let last = await_unit(&cluster, edge, |unit| unit.restarts == 1 && unit.keeper_pid.is_some());
    assert!(!lives(after.pid.unwrap()) && !lives(after.keeper_pid.unwrap()));
    assert!(how(&last).starts_with("killed by SIGKILL: frozen: no heartbeat for 5 s"), "{last:#?}");
}

#[test]
fn a_keeper_that_somebody_stops_is_woken_and_one_that_a_debugger_has_is_warned_of_and_not_restarted() {
    let (cluster, edge, encoder) = up_live();
    let player = rml::play(edge, STREAM).unwrap();
    player.record_after(0, 1.0);
    let before = cluster.unit(edge);
    let (keeper, host) = (before.keeper_pid.unwrap(), edge.ip().to_string());
    // The worker's death is what a keeper that sleeps would not see.
    signal(keeper, SIGSTOP);
    signal(before.pid.unwrap(), SIGKILL);
    await_unit(&cluster, edge, |unit| unit.resumed == 1);
    let told = cluster.run(&["events", "edge", "1935", "--host", &host, "--json"]).expect_code(0).stdout;
    let told: cluster::events::Events = serde_json::from_str(&told).unwrap();
    let woken: Vec<_> = told.events.iter().filter(|event| event.what.kind == Kind::Woken).collect();
    assert!(woken.len() == 1 && woken[0].what.pid == Some(keeper), "{told:#?}");

    let restart = || cluster.run(&["restart", "edge", "1935", "--host", &host]);
    signal(keeper, SIGSTOP);
    restart().expect_code(0);
    let renewed = cluster.unit(edge);
    assert_eq!((renewed.keeper_pid, renewed.renewed, renewed.restarts), (Some(keeper), 1, 0), "{renewed:#?}");

    if let Some(debugger) = Debugger::of(keeper) {
        let pid = format!("(pid {keeper})");
        wait_until("status to warn", SOON, || {
            let said = cluster.run(&["status"]);
            said.code == 0
                && said.stdout.contains("a debugger holds its keeper")
                && said.stdout.contains(&pid)
        });
        let _ = restart().expect_code(6).expect_words(&[
            "it cannot keep its connections",
            "a debugger holds",
            "--yes",
        ]);
        debugger.let_go();
        wait_until("status to warn no more", SOON, || {
            !cluster.run(&["status"]).stdout.contains("a debugger")
        });
        restart().expect_code(0);
        assert_eq!(cluster.unit(edge).renewed, 2);
    }
    signal(keeper, SIGCONT);
    assert_same("the player", &player.record_after(0, 4.0), &looped_card(), 4.0);
    assert_eq!((player.ended(), encoder.ended(), cluster.unit(edge).lost), (None, None, 0));
}

#[test]
fn who_was_stopped_while_no_supervisor_ran_is_woken_by_the_next_one_and_nothing_is_lost() {
    let cluster = TestCluster::up_guide();
    let [first, second, ..] = cluster.net.edges();
    let encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let players = [first, second].map(|edge| rml::play(edge, STREAM).unwrap());
    players.iter().for_each(|player| drop(player.record_after(0, 1.0)));
    let before = cluster.status();
    let [origin, dead, slept] =
        [cluster.net.origin(), first, second].map(|addr| find(&before, addr).unwrap());
    signal(before.supervisor_pid, SIGKILL);
    // Nobody starts the next worker of either, and none of the third does anything.
    for unit in [&origin, &dead] {
        signal(unit.keeper_pid.unwrap(), SIGSTOP);
        signal(unit.pid.unwrap(), SIGKILL);
    }
    signal(slept.keeper_pid.unwrap(), SIGSTOP);
    signal(slept.pid.unwrap(), SIGSTOP);
    cluster.up();
    for (unit, addr) in [(&origin, cluster.net.origin()), (&dead, first)] {
        let after = await_unit(&cluster, addr, |after| after.resumed == 1);
        assert_eq!((after.keeper_pid, after.restarts, after.lost), (unit.keeper_pid, 0, 0), "{after:#?}");
    }
    let after = cluster.unit(second);
    assert_eq!((after.pid, after.resumed, after.restarts), (slept.pid, 0, 0), "{after:#?}");
    for player in &players {
        assert_same("a player", &player.record_after(0, 4.0), &looped_card(), 4.0);
        assert_eq!(player.ended(), None);
    }
    assert_eq!(encoder.ended(), None);
    let told = cluster.run(&["events", "--json"]).expect_code(0).stdout;
    let told: cluster::events::Events = serde_json::from_str(&told).unwrap();
    let woken = told.events.iter().filter(|event| event.what.kind == Kind::Woken);
    let woken: BTreeSet<_> = woken.filter_map(|event| event.what.pid).collect();
    let stopped = [origin.keeper_pid, dead.keeper_pid, slept.keeper_pid, slept.pid];
    assert_eq!(woken, stopped.into_iter().flatten().collect(), "{told:#?}");
}

/// What a signal does, by what a process has said of it to the kernel.
fn effect(pid: u32, number: i32) -> &'static str {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let has = |mask: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(mask)).unwrap();
        u64::from_str_radix(line.trim(), 16).unwrap() >> (number - 1) & 1 == 1
    };
    let is_by_itself_ignored = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH].contains(&number);
    match () {
        () if has("SigCgt:") => "is handled",
        () if has("SigIgn:") || is_by_itself_ignored => "nothing",
        () => "dies",
    }
}

#[test]
fn each_signal_does_to_each_process_what_the_documentation_says() {
    let cluster = TestCluster::up_guide();
    let unit = cluster.unit(cluster.net.edges()[0]);
    let pids = [unit.pid.unwrap(), unit.keeper_pid.unwrap(), cluster.status().supervisor_pid];
    let documented = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/operations.md")).unwrap();
    let rows: Vec<Vec<&str>> = documented
        .lines()
        .skip_while(|line| !line.starts_with("| signal |"))
        .skip(2)
        .take_while(|line| line.starts_with('|'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect())
        .collect();
    let named = |row: &&Vec<&str>, name: &str| row[0].split([',', ' ']).any(|word| word == name);
    let others = rows.iter().find(|row| row[0].contains("all others")).unwrap();
    for number in
        (1..=libc::SIGRTMAX()).filter(|number| ![libc::SIGKILL, libc::SIGSTOP, 32, 33].contains(number))
    {
        let signal = nix::sys::signal::Signal::try_from(number);
        let row =
            signal.ok().and_then(|it| rows.iter().find(|row| named(row, it.as_str()))).unwrap_or(others);
        for (place, pid) in pids.into_iter().enumerate() {
            // It blocks these, but the kernel says that who waits for a signal does not.
            let awaited = [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2];
            let does =
                if place == 1 && awaited.contains(&number) { "is handled" } else { effect(pid, number) };
            let told = match row[place + 1] {
                "nothing" => "nothing",
                told if told.contains("dies") => "dies",
                _ => "is handled",
            };
            assert_eq!(does, told, "{signal:?} ({number}), {row:?}, process {place}");
        }
    }
}

#[test]
fn a_signal_of_a_fault_ends_a_worker_and_a_keeper_at_once_whoever_sends_it() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let before = cluster.unit(edge);
    signal(before.pid.unwrap(), SIGSEGV);
    let after = await_unit(&cluster, edge, |unit| unit.resumed == 1);
    assert_eq!((how(&after), after.keeper_pid), ("killed by SIGSEGV", before.keeper_pid));
    signal(after.keeper_pid.unwrap(), SIGSEGV);
    let last = await_unit(&cluster, edge, |unit| unit.restarts == 1 && unit.keeper_pid.is_some());
    assert_eq!(how(&last), "its keeper was killed by SIGSEGV");
    let supervisor = cluster.status().supervisor_pid;
    signal(supervisor, SIGSEGV);
    wait_until("the supervisor to be gone", SOON, || !lives(supervisor));
    cluster.up();
    assert_eq!(cluster.pid(edge), last.pid.unwrap());
}

#[test]
fn deaths_leave_no_descriptor_behind() {
    let cluster = TestCluster::up_guide();
    let edge = cluster.net.edges()[0];
    let open = |pid: u32| fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
    let _encoder = rml::publish(cluster.net.origin(), STREAM, card(), Some(CARD_MS));
    cluster.await_live(STREAM);
    let (keeper, before) = (cluster.keeper(edge), open(cluster.keeper(edge)));
    let players: Vec<_> = (0..20).map(|_| rml::play(edge, STREAM).unwrap()).collect();
    for death in 1..=2 {
        signal(cluster.pid(edge), SIGKILL);
        await_unit(&cluster, edge, |unit| unit.resumed == death);
    }
    drop(players);
    cluster.await_live(STREAM);
    wait_for("descriptors to be closed", SOON, || {
        let now = open(keeper);
        if now <= before + 2 { Ok(()) } else { Err(format!("{before} → {now}")) }
    });
}

#[test]
fn a_worker_that_dies_when_no_descriptor_is_left_is_followed_by_one_that_goes_on() {
    let (cluster, edge, encoder) = up_live();
    let player = rml::play(edge, STREAM).unwrap();
    player.record_after(0, 1.0);
    let unit = cluster.unit(edge);
    let keeper = unit.keeper_pid.unwrap();
    // Up to the first number that is free.
    let limit = (0..).find(|fd| !Path::new(&format!("/proc/{keeper}/fd/{fd}")).exists()).unwrap();
    let limit = |pid: u32| {
        let args = ["--pid".to_owned(), pid.to_string(), format!("--nofile={limit}:")];
        run(Command::new("prlimit").args(args)).expect_code(0);
    };
    limit(keeper);
    limit(unit.pid.unwrap());
    signal(unit.pid.unwrap(), SIGKILL);
    let after =
        await_unit(&cluster, edge, |it| it.resumed == 1 && it.stats_age_ms.is_some_and(|age| age < 2_000));
    assert_eq!((after.keeper_pid, after.restarts), (Some(keeper), 0));
    assert_same("the player", &player.record_after(0, 4.0), &looped_card(), 4.0);
    assert_eq!((player.ended(), encoder.ended()), (None, None));
}

#[test]
fn whoever_dies_in_whatever_order_every_port_serves_again_and_nothing_is_left() {
    let cluster = TestCluster::up_guide();
    // Whoever dies may be gone already, and whoever looks meanwhile may find anything: the order is all that is chosen.
    let kill = |pid: u32| {
        let _ = nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), SIGKILL);
    };
    let mut chance = 1_u32;
    for _ in 0..40 {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let (what, which) = (chance >> 24, (chance >> 16) as usize);
        let Ok(status) = cluster.try_status() else { continue };
        let unit = &status.units[which % status.units.len()];
        let (supervisor, worker, keeper) = (status.supervisor_pid, unit.pid, unit.keeper_pid);
        let victims = match what % 8 {
            0 => [Some(supervisor), worker.filter(|_| what % 3 == 0)],
            1 => [keeper, worker],
            2 => [worker, keeper],
            3 | 4 => [keeper, None],
            _ => [worker, None],
        };
        victims.into_iter().flatten().for_each(kill);
        if victims[0] == Some(supervisor) {
            wait_until("the supervisor to be gone", SOON, || !lives(supervisor));
            // One whose port died with it may have to wait.
            let _ = cluster.run(&["up", "cluster.yaml"]);
        }
    }
    for addr in cluster.net.edges().into_iter().chain([cluster.net.origin()]) {
        let unit =
            await_unit(&cluster, addr, |unit| unit.keeper_pid.is_some() && unit.stats_age_ms.is_some());
        assert!(lives(unit.pid.unwrap()) && lives(unit.keeper_pid.unwrap()), "{unit:#?}");
    }
    // The supervisor, and a keeper and a worker of each port.
    wait_for("nobody else to be there", SOON, || {
        let there = cluster.processes();
        if there.len() == 1 + 2 * 5 { Ok(()) } else { Err(format!("{there:#?}")) }
    });
    cluster.down();
}

#[test]
fn a_connection_that_plays_no_more_outlives_the_worker_too() {
    let (cluster, edge, _encoder) = up_live();
    let delete = [&amf::NULL[..], &amf::number(1.0)].concat();
    let mut idle =
        [("closeStream", &amf::NULL[..], 1), ("deleteStream", &delete, 0)].map(|(name, arguments, msid)| {
            let mut raw = Raw::playing(edge, "livestream");
            raw.send(&command(name, 0.0, arguments, msid));
            raw
        });
    let before = await_unit(&cluster, edge, |unit| {
        unit.stats.as_ref().is_some_and(|stats| stats.connections == 3 && stats.players == 0)
    });
    signal(before.pid.unwrap(), SIGKILL);
    await_unit(&cluster, edge, |unit| unit.resumed == 1);
    for raw in &mut idle {
        raw.forget();
        raw.send(&command("createStream", 8.0, &amf::NULL, 0));
        raw.expect("_result");
    }
}

#[test]
fn a_port_whose_state_cannot_be_kept_says_so() {
    let cluster = TestCluster::guide();
    // The keeper has a file in memory, and the worker no room to map it.
    let up = r#"ulimit -v 4000000 && exec "$0" up cluster.yaml"#;
    let mut shell = Command::new("sh");
    shell.args(["-c", up, SRSCTL]).current_dir(cluster.dir.path());
    run(shell.env("SRSCTL_STATE_DIR", &cluster.state)).expect_code(0);
    let edge = cluster.net.edges()[0];
    wait_for("the port to warn", SOON, || {
        let said = cluster.run(&["status"]).text();
        let wanted = "its death would cost its connections: the memory that outlives it cannot be mapped";
        let trouble = cluster.unit(edge).stats.and_then(|stats| stats.trouble).unwrap_or_default();
        if trouble.starts_with(wanted) && said.contains("its death would cost") { Ok(()) } else { Err(said) }
    });
}
