//! The service under a real systemd: what it outlives, what ends with it, and what comes back.

use std::path::Path;
use std::process::Command;

use bench::exact::{Plan, Swarm};

use crate::support::clients::ffmpeg_publisher;
use crate::support::cluster::{SRSCTL, run};
use crate::support::machine::Machine;
use crate::support::net::url;
use crate::support::raw::Raw;
use crate::support::starved::Starved;
use crate::support::swarm::{assert_whole, run_until, settle};
use crate::support::{SOON, STREAM, wait_until};

#[test]
fn a_supervisor_that_is_killed_that_hangs_and_that_is_restarted_costs_no_player_a_byte() {
    let Some(machine) = Machine::booted("WatchdogSec=2") else { return };
    machine.up();
    let (origin, edge) = (machine.net.origin(), machine.net.edges()[0]);
    let dir = tempfile::tempdir().unwrap();
    let mut encoder = ffmpeg_publisher(dir.path(), &url(origin, STREAM));
    let mut swarm = Swarm::new(Plan { origin, edge, players: 40, seed: 1 }).unwrap();
    swarm.ramp(40).unwrap();
    settle(&mut swarm);
    let pids = machine.await_ready();

    let end_one_way_or_another: [&dyn Fn(u32); 3] =
        [&|pid| machine.kill("-KILL", &[pid]), &|pid| machine.kill("-STOP", &[pid]), &|_| {
            drop(machine.systemctl(&["restart", &machine.unit()]).expect_code(0))
        }];
    for end in end_one_way_or_another {
        let supervisor = machine.main_pid();
        end(supervisor);
        run_until(&mut swarm, "another supervisor is there", |_| {
            ![0, supervisor].contains(&machine.main_pid())
        });
        assert_eq!(machine.await_ready(), pids, "workers and keepers are the same");
        settle(&mut swarm);
    }

    assert_whole(&swarm);
    assert!(encoder.is_running(), "{}", encoder.said());
    assert!(machine.property("StatusText").ends_with("5 of 5 ready"), "{}", machine.property("StatusText"));
}

#[test]
fn a_stop_ends_all_also_while_the_service_waits_to_be_restarted() {
    let Some(machine) = Machine::booted("RestartSec=600") else { return };
    machine.up();
    let stop = || machine.systemctl(&["stop", &machine.unit()]).expect_code(0);
    stop();
    assert_eq!(machine.processes(), [""; 0], "nothing runs once systemctl is back");
    machine.systemctl(&["start", &machine.unit()]).expect_code(0);
    machine.await_ready();

    machine.kill("-KILL", &[machine.main_pid()]);
    wait_until("it waits", SOON, || machine.property("SubState") == "auto-restart");
    assert!(machine.processes().len() >= 10, "ports go on: {:?}", machine.processes());
    stop();
    wait_until("nothing runs", SOON, || machine.processes().is_empty());
}

#[test]
fn a_reboot_brings_the_cluster_back_unless_it_was_taken_down() {
    let Some(mut machine) = Machine::booted("") else { return };
    machine.up();
    machine.reboot();
    machine.await_ready();
    let events = machine.events();
    assert!(events.contains("\"stopped\""), "a shutdown stops them in order: {events}");

    machine.srsctl(&["down", "--yes", &machine.net.cluster_name()]).expect_code(0);
    assert_eq!(machine.property("StatusText"), "waits for srsctl up");
    machine.reboot();
    assert_eq!(machine.property("StatusText"), "waits for srsctl up");
    assert_eq!(machine.processes().len(), 1, "the service alone: {:?}", machine.processes());
    machine.up();
}

#[test]
fn a_port_whose_keeper_and_supervisor_are_dead_lets_players_in_to_wait() {
    let Some(machine) = Machine::booted("RestartSec=600") else { return };
    machine.up();
    let edge = machine.net.edges()[0];
    let unit = machine.status().unwrap();
    let unit =
        unit.units.iter().find(|unit| unit.id.as_str().contains(&format!("{}-1935", edge.ip()))).unwrap();
    let pids = [machine.main_pid(), unit.keeper_pid.unwrap(), unit.pid.unwrap()];
    machine.kill("-KILL", &pids);
    wait_until("it waits", SOON, || machine.property("SubState") == "auto-restart");

    let player = Raw::dial(edge);
    machine.systemctl(&["restart", &machine.unit()]).expect_code(0);
    player.handshake().connect("live", &[]).expect("NetConnection.Connect.Success");

    machine.srsctl(&["down", "--yes", &machine.net.cluster_name()]).expect_code(0);
    assert!(std::net::TcpStream::connect(edge).is_err(), "systemd keeps no port of a cluster that is down");
}

#[test]
fn a_worker_that_is_out_of_memory_costs_nobody_a_byte_and_the_service_goes_on() {
    let Some(machine) = Machine::booted("") else { return };
    machine.up();
    let (origin, edge) = (machine.net.origin(), machine.net.edges()[0]);
    let mut swarm = Swarm::new(Plan { origin, edge, players: 20, seed: 1 }).unwrap();
    swarm.ramp(20).unwrap();
    settle(&mut swarm);
    let supervisor = machine.main_pid();
    let id = format!("edge-{}-1935", edge.ip());
    let of_edge = || machine.status().ok()?.units.into_iter().find(|unit| unit.id.as_str() == id);
    let Some(group) = Starved::new() else { return };
    machine.move_to(of_edge().unwrap().pid.unwrap(), &group.members());
    let _strangers: Vec<_> = (0..200).map(|_| std::net::TcpStream::connect(edge).unwrap()).collect();
    run_until(&mut swarm, "the kernel takes it, and the next one is there", |_| {
        of_edge().is_some_and(|unit| {
            let how = unit.last_exit.as_ref().map(|exit| exit.how.clone()).unwrap_or_default();
            unit.resumed == 1 && unit.restarts == 0 && how.contains("out of memory")
        })
    });
    settle(&mut swarm);
    assert_whole(&swarm);
    assert_eq!(machine.main_pid(), supervisor);
    let [state, restarts, policy] = ["ActiveState", "NRestarts", "OOMPolicy"].map(|it| machine.property(it));
    assert_eq!([&*state, &*restarts, &*policy], ["active", "0", "continue"]);
}

#[test]
fn the_units_are_sound_and_leave_little_to_whoever_breaks_in() {
    let dir = tempfile::tempdir().unwrap();
    run(Command::new(SRSCTL).args(["render", "systemd", "live", "-o"]).arg(dir.path())).expect_code(0);
    let units = ["srsctl@live.service", "srsctl-ports@live.service"].map(|name| dir.path().join(name));
    let said = run(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(&units)).expect_code(0);
    let about_units: Vec<_> = said.stderr.lines().filter(|line| line.contains("srsctl")).collect();
    assert_eq!(about_units, [""; 0]);
    for unit in units {
        let security = ["security", "--offline=true", "--no-pager", "--threshold=25"];
        run(Command::new("systemd-analyze").args(security).arg(unit)).expect_code(0);
    }
    let shipped = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/systemd/srsctl@.service");
    let shipped = std::fs::read_to_string(shipped).unwrap();
    let printed =
        run(Command::new(SRSCTL).args(["render", "systemd", "--program", "/usr/bin/srsctl"])).expect_code(0);
    assert!(printed.stdout.contains(&shipped), "{}", printed.stdout);
}
