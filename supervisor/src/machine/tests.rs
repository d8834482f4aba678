//! Every state × event pair of a unit, and what follows from several.

use std::time::{Duration, Instant};

use cluster::status::UnitState;

use super::exit::Exit;
use super::state::{Action, Event, State, Stop, Wanted};
use super::unit::Unit;

/// The events that stand in one row of the table.
fn events(row: &str) -> Vec<Event> {
    match row {
        "Want(Up)" => vec![Event::Want(Wanted::Up)],
        "Want(Down)" => vec![Event::Want(Wanted::Down)],
        "Restart" => vec![Event::Restart],
        "Deadline" => vec![Event::Deadline],
        "SpawnFailed" => vec![Event::SpawnFailed { why: "x".into() }],
        "Ready" => vec![Event::Ready],
        "Frozen" => vec![Event::Frozen { why: "x".into() }],
        "AskFailed" => vec![Event::AskFailed],
        "Exited" => {
            [Exit::Signal(9), Exit::Code(0), Exit::Code(1), Exit::Unobserved].map(Event::Exited).into()
        }
        "Exited 64, 78" => [Exit::Code(64), Exit::Code(78)].map(Event::Exited).into(),
        "Adopted" => vec![Event::Adopted],
        "Unproven" => vec![Event::Unproven { why: "y".into() }],
        "Freed" => vec![Event::Freed],
        other => panic!("{other}"),
    }
}

fn short(state: &State) -> &'static str {
    match state {
        State::Stopped => "Stopped",
        State::Starting => "Starting",
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
        "Starting" => State::Starting,
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

/// Rows of the table in README.md, the first with the names of the states.
fn table() -> Vec<Vec<&'static str>> {
    let rows =
        include_str!("README.md").lines().filter(|line| line.starts_with('|') && !line.starts_with("| --"));
    let cells = |row: &'static str| row.trim_matches('|').split('|').map(str::trim).collect();
    rows.map(cells).collect()
}

/// What a cell says of a unit that is wanted, or is not.
fn expected(cell: &str, wanted: Wanted) -> &str {
    let (usual, unwanted) = match cell.chars().last() {
        Some(mark @ '¹') => (cell.trim_end_matches(mark), "·"),
        Some(mark @ '²') => (cell.trim_end_matches(mark), "Stopped"),
        Some(mark @ '³') => (cell.trim_end_matches(mark), "Asked / AskStop"),
        _ => (cell, cell),
    };
    if wanted == Wanted::Up { usual } else { unwanted }
}

fn outcome(from: &str, event: Event, wanted: Wanted) -> String {
    let now = Instant::now();
    let mut unit = unit(from, wanted, now);
    let action = unit.handle(now, event, 0.5);
    let to = short(unit.state());
    match action {
        None if to == from => "·".to_owned(),
        None => to.to_owned(),
        Some(action) => format!("{to} / {action:?}"),
    }
}

#[test]
fn every_state_and_event_pair_does_what_the_table_says() {
    let table = table();
    let (states, rows) = table.split_first().unwrap();
    assert_eq!((states.len(), rows.len()), (11, 13), "states and events");
    for row in rows {
        assert_eq!(row.len(), states.len(), "{row:?}");
        for event in events(row[0]) {
            for (state, cell) in states.iter().zip(row).skip(1) {
                for wanted in [Wanted::Up, Wanted::Down] {
                    let is = outcome(state, event.clone(), wanted);
                    assert_eq!(is, expected(cell, wanted), "{state} × {event:?}, {wanted:?}");
                }
            }
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
fn a_start_has_no_end_of_its_own_however_long_it_takes() {
    let start = Instant::now();
    let mut unit = unit("Stopped", Wanted::Down, start);
    unit.handle(start, Event::Want(Wanted::Up), 0.0);
    assert_eq!(unit.deadline(), None);
    unit.handle(start + Duration::from_secs(600), Event::Ready, 0.0);
    assert_eq!(unit.status(), UnitState::Running);
}
