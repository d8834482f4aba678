//! Every state × event pair of a unit, and what follows from several.

use std::time::{Duration, Instant};

use cluster::status::UnitState;

use super::exit::Exit;
use super::state::{Action, Event, State, Stop, Wanted};
use super::unit::Unit;

const EVENTS: [&str; 15] = [
    "up",
    "down",
    "restart",
    "deadline",
    "fails",
    "no binary",
    "ready",
    "frozen",
    "ask failed",
    "killed",
    "exit 78",
    "adopted",
    "unproven",
    "freed",
    "exit 0",
];

fn event(name: &str) -> Event {
    match name {
        "up" => Event::Want(Wanted::Up),
        "down" => Event::Want(Wanted::Down),
        "restart" => Event::Restart,
        "deadline" => Event::Deadline,
        "fails" => Event::SpawnFailed { fatal: false, why: "x".into() },
        "no binary" => Event::SpawnFailed { fatal: true, why: "x".into() },
        "ready" => Event::Ready,
        "frozen" => Event::Frozen { why: "x".into() },
        "ask failed" => Event::AskFailed,
        "killed" => Event::Exited(Exit::Signal(9)),
        "exit 78" => Event::Exited(Exit::Code(78)),
        "exit 0" => Event::Exited(Exit::Code(0)),
        "adopted" => Event::Adopted,
        "unproven" => Event::Unproven { why: "y".into() },
        "freed" => Event::Freed,
        other => panic!("{other}"),
    }
}

fn short(state: &State) -> &'static str {
    match state {
        State::Stopped => "Stopped",
        State::Starting { .. } => "Starting",
        State::Running { .. } => "Running",
        State::Stopping { step: Stop::Asked, .. } => "Asked",
        State::Stopping { step: Stop::Terminated, .. } => "Terminated",
        State::Stopping { step: Stop::Killed, .. } => "Killed",
        State::Killing { .. } => "Killing",
        State::Backoff { .. } => "Backoff",
        State::Failed { .. } => "Failed",
        State::Unknown { .. } => "Unknown",
    }
}

fn unit(state: &str, wanted: Wanted, now: Instant) -> Unit {
    let state = match state {
        "Stopped" => State::Stopped,
        "Starting" => State::Starting { since: now },
        "Running" => State::Running { since: now },
        "Asked" => State::Stopping { step: Stop::Asked, until: now },
        "Terminated" => State::Stopping { step: Stop::Terminated, until: now },
        "Killed" => State::Stopping { step: Stop::Killed, until: now },
        "Killing" => State::Killing { why: "x".into(), ready_for: None, until: now },
        "Backoff" => State::Backoff { until: now },
        "Failed" => State::Failed { why: "x".into() },
        "Unknown" => State::Unknown { why: "x".into() },
        other => panic!("{other}"),
    };
    Unit { wanted, state, ..Unit::default() }
}

/// Every state × event pair, for a unit that is wanted: the state after it, and the action after a slash.
/// `-` is: nothing changes, nothing is done.
#[rustfmt::skip]
const TABLE: [(&str, [&str; 15]); 10] = [
    //              up                down             restart           deadline           fails      no binary  ready      frozen          ask failed              killed            exit 78           adopted    unproven   freed             exit 0
    ("Stopped",    ["Starting/Spawn", "-",             "Starting/Spawn", "-",               "Backoff", "Failed",  "-",       "-",            "-",                    "-",              "-",              "Running", "Unknown", "-",              "-"]),
    ("Starting",   ["-",              "Asked/AskStop", "Asked/AskStop",  "Killing/Kill",    "Backoff", "Failed",  "Running", "Killing/Kill", "-",                    "Backoff",        "Failed",         "Running", "Unknown", "-",              "Backoff"]),
    ("Running",    ["-",              "Asked/AskStop", "Asked/AskStop",  "-",               "-",       "-",       "-",       "Killing/Kill", "-",                    "Backoff",        "Failed",         "-",       "-",       "-",              "Backoff"]),
    ("Asked",      ["-",              "-",             "-",              "Terminated/Term", "-",       "-",       "-",       "Killed/Kill",  "Terminated/Term",      "Starting/Spawn", "Starting/Spawn", "-",       "-",       "-",              "Starting/Spawn"]),
    ("Terminated", ["-",              "-",             "-",              "Killed/Kill",     "-",       "-",       "-",       "Killed/Kill",  "-",                    "Starting/Spawn", "Starting/Spawn", "-",       "-",       "-",              "Starting/Spawn"]),
    ("Killed",     ["-",              "-",             "-",              "Killed/Kill",     "-",       "-",       "-",       "-",            "-",                    "Starting/Spawn", "Starting/Spawn", "-",       "-",       "-",              "Starting/Spawn"]),
    ("Killing",    ["-",              "-",             "Killed",         "Killing/Kill",    "-",       "-",       "-",       "-",            "-",                    "Backoff",        "Failed",         "-",       "-",       "-",              "Backoff"]),
    ("Backoff",    ["-",              "Stopped",       "Starting/Spawn", "Starting/Spawn",  "-",       "-",       "-",       "-",            "-",                    "-",              "-",              "-",       "Unknown", "-",              "-"]),
    ("Failed",     ["-",              "Stopped",       "Starting/Spawn", "-",               "-",       "-",       "-",       "-",            "-",                    "-",              "-",              "-",       "-",       "-",              "-"]),
    ("Unknown",    ["-",              "-",             "-",              "-",               "-",       "-",       "-",       "-",            "-",                    "-",              "-",              "Running", "-",       "Starting/Spawn", "-"]),
];

/// What differs for a unit that is not wanted any more.
#[rustfmt::skip]
const UNWANTED: [(&str, &str, &str); 29] = [
    ("Stopped", "fails", "-"),
    ("Stopped", "no binary", "-"),
    ("Starting", "killed", "Stopped"), ("Starting", "exit 78", "Stopped"), ("Starting", "exit 0", "Stopped"),
    ("Running", "killed", "Stopped"), ("Running", "exit 78", "Stopped"), ("Running", "exit 0", "Stopped"),
    ("Asked", "killed", "Stopped"), ("Asked", "exit 78", "Stopped"), ("Asked", "exit 0", "Stopped"),
    ("Terminated", "killed", "Stopped"), ("Terminated", "exit 78", "Stopped"), ("Terminated", "exit 0", "Stopped"),
    ("Killed", "killed", "Stopped"), ("Killed", "exit 78", "Stopped"), ("Killed", "exit 0", "Stopped"),
    ("Killing", "killed", "Stopped"), ("Killing", "exit 78", "Stopped"), ("Killing", "exit 0", "Stopped"),
    ("Unknown", "adopted", "Asked/AskStop"),
    ("Unknown", "freed", "Stopped"),
    // Wanting it again while it stops starts it when it is gone: see the test below. Nothing at once:
    ("Asked", "up", "-"), ("Asked", "restart", "-"), ("Terminated", "up", "-"), ("Terminated", "restart", "-"),
    ("Killed", "up", "-"), ("Killing", "up", "-"), ("Unknown", "restart", "-"),
];

fn outcome(from: &str, name: &str, wanted: Wanted) -> String {
    let now = Instant::now();
    let mut unit = unit(from, wanted, now);
    let action = unit.handle(now, event(name), 0.5);
    let to = short(unit.state());
    match action {
        None if to == from => "-".to_owned(),
        None => to.to_owned(),
        Some(Action::Terminate) => format!("{to}/Term"),
        Some(action) => format!("{to}/{action:?}"),
    }
}

#[test]
fn every_state_and_event_pair_of_a_wanted_unit_does_what_the_table_says() {
    for (state, row) in TABLE {
        for (name, expected) in EVENTS.iter().zip(row) {
            assert_eq!(outcome(state, name, Wanted::Up), expected, "{state} × {name}");
        }
    }
}

#[test]
fn every_state_and_event_pair_of_an_unwanted_unit_does_what_the_tables_say() {
    for (state, row) in TABLE {
        for (name, usual) in EVENTS.iter().zip(row) {
            let special =
                UNWANTED.iter().find(|(s, e, _)| *s == state && e == name).map(|(_, _, then)| *then);
            assert_eq!(outcome(state, name, Wanted::Down), special.unwrap_or(usual), "{state} × {name}");
        }
    }
}

#[test]
fn a_unit_wanted_again_while_it_stops_starts_when_it_is_gone() {
    let now = Instant::now();
    let mut unit = unit("Running", Wanted::Up, now);
    assert_eq!(unit.handle(now, Event::Want(Wanted::Down), 0.0), Some(Action::AskStop));
    assert_eq!(unit.handle(now, Event::Want(Wanted::Up), 0.0), None);
    assert_eq!(unit.handle(now, Event::Exited(Exit::Code(0)), 0.0), Some(Action::Spawn));
}

#[test]
fn a_stop_is_asked_then_terminated_after_5_s_then_killed_after_10_s() {
    let start = Instant::now();
    let mut unit = unit("Running", Wanted::Up, start);
    assert_eq!(unit.handle(start, Event::Restart, 0.0), Some(Action::AskStop));
    let term = unit.deadline().unwrap();
    assert_eq!(term - start, Duration::from_secs(5));
    assert_eq!(unit.handle(term, Event::Deadline, 0.0), Some(Action::Terminate));
    let kill = unit.deadline().unwrap();
    assert_eq!(kill - start, Duration::from_secs(10));
    assert_eq!(unit.handle(kill, Event::Deadline, 0.0), Some(Action::Kill));
}

#[test]
fn a_restart_that_a_person_asks_for_is_neither_death_nor_counted() {
    let now = Instant::now();
    let mut unit = unit("Running", Wanted::Up, now);
    for _ in 0..10 {
        unit.handle(now, Event::Restart, 0.0);
        unit.handle(now, Event::Exited(Exit::Code(0)), 0.0);
        unit.handle(now, Event::Ready, 0.0);
    }
    assert_eq!((unit.restarts(), unit.is_flapping()), (0, false));
}

#[test]
fn an_exit_with_0_that_nobody_asked_for_is_a_death() {
    let now = Instant::now();
    let mut unit = unit("Running", Wanted::Up, now);
    assert_eq!(unit.handle(now, Event::Exited(Exit::Code(0)), 1.0), None);
    assert_eq!(unit.state(), &State::Backoff { until: now + Duration::from_millis(400) });
    assert_eq!(unit.handle(now + Duration::from_millis(400), Event::Deadline, 0.0), Some(Action::Spawn));
    assert_eq!(unit.restarts(), 1);
}

#[test]
fn a_unit_that_keeps_dying_is_flagged_and_tried_again_for_ever() {
    let mut now = Instant::now();
    let mut unit = unit("Starting", Wanted::Up, now);
    for _ in 0..1000 {
        unit.handle(now, Event::Exited(Exit::Signal(11)), 0.5);
        now = unit.deadline().unwrap();
        assert_eq!(unit.handle(now, Event::Deadline, 0.5), Some(Action::Spawn));
    }
    assert_eq!((unit.status(), unit.restarts()), (UnitState::Flapping, 1000));
    unit.handle(now, Event::Ready, 0.5);
    unit.handle_time(now + Duration::from_secs(59));
    assert!(unit.is_flapping());
    unit.handle_time(now + Duration::from_secs(60));
    assert!(!unit.is_flapping());
}

#[test]
fn the_end_of_a_frozen_process_says_so() {
    let now = Instant::now();
    let mut unit = unit("Running", Wanted::Up, now);
    unit.handle(now, Event::Frozen { why: "no heartbeat for 5 s".into() }, 0.0);
    unit.handle(now, Event::Exited(Exit::Signal(9)), 0.0);
    assert_eq!(unit.last_end().unwrap().1.to_string(), "killed by SIGKILL: no heartbeat for 5 s");
}

#[test]
fn a_start_that_never_gets_ready_is_killed_after_30_s() {
    let start = Instant::now();
    let mut unit = unit("Stopped", Wanted::Down, start);
    unit.handle(start, Event::Want(Wanted::Up), 0.0);
    let late = unit.deadline().unwrap();
    assert_eq!(late - start, Duration::from_secs(30));
    assert_eq!(unit.handle(late, Event::Deadline, 0.0), Some(Action::Kill));
    unit.handle(late, Event::Exited(Exit::Signal(9)), 0.0);
    assert_eq!(unit.last_end().unwrap().1.to_string(), "killed by SIGKILL: not ready within 30 s");
}
