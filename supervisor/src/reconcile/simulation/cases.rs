//! Histories that are told, of which each shows one thing.

use std::time::Duration;

use cluster::{ProcessSpec, Role, UnitId};
use control::api::{Apply, Restart};

use super::History;
use crate::reconcile::kernel::Command;

#[test]
fn streams_that_end_behind_a_restart_do_not_fail_it_and_are_not_waited_for() {
    for seed in 0..50 {
        for role in [Role::Edge, Role::Origin] {
            let mut it = History::new(seed, false);
            it.fake.calm = true;
            it.fake.reports = Duration::from_secs(1);
            it.fake.streams = ["live/a", "live/b", "live/c", "live/d"].into();
            it.start("1935,1936");
            it.pass(Duration::from_secs(20));
            let restart = Restart { role, port: None, host: None, cold: false, yes: false };
            it.ask(Command::Restart(restart));
            // Three of four end, before their turn or in it.
            let wait = it.fake.random.ms(1, 1000);
            it.pass(wait);
            it.fake.streams = ["live/d"].into();
            let begun = it.fake.now;
            while it.fake.answers.is_empty() {
                it.pass(Duration::from_millis(10));
                assert!(
                    it.fake.now < begun + Duration::from_secs(25),
                    "seed {seed}: it waits for what is over"
                );
            }
            assert!(
                matches!(it.fake.answers.as_slice(), [(1, Ok(()))]),
                "seed {seed}: {:?}",
                it.fake.answers
            );
        }
    }
}

#[test]
fn a_stream_that_an_edge_does_not_play_fails_its_restart_whatever_ends_before_it() {
    let mut it = History::new(1, false);
    it.fake.calm = true;
    it.fake.reports = Duration::from_secs(1);
    it.fake.streams = ["live/a", "live/b"].into();
    it.fake.unplayable = Some("live/b");
    it.start("1935,1936");
    it.pass(Duration::from_secs(20));
    it.ask(Command::Restart(Restart { role: Role::Edge, port: None, host: None, cold: false, yes: false }));
    it.pass(Duration::from_secs(40));
    let [(1, Err(error))] = it.fake.answers.as_slice() else { panic!("{:?}", it.fake.answers) };
    assert!(error.message.contains("does not play live/b within 10 s: nothing came"), "{error}");
    assert!(error.message.contains("not restarted: edge-127.0.0.6-1936"), "{error}");
}

#[test]
fn each_port_that_leaves_ends_when_it_is_empty_and_an_origin_does_not_wait_for_the_clusters_own_encoder() {
    for seed in 0..20 {
        let mut it = History::new(seed, false);
        it.fake.calm = true;
        it.fake.reports = Duration::from_secs(1);
        it.start("1935,1936,1937");
        it.pass(Duration::from_secs(20));
        let origin = |last: u8| UnitId::worker(Role::Origin, &format!("127.0.0.{last}"), 1935);
        it.fake.stay = [(edge(1936), 2), (edge(1937), 0), (origin(5), 0)].into();
        let apply =
            Apply { yes: true, drain_ms: Some(60_000), ..Apply::new("/file".into(), "1935,o4".into()) };
        it.ask(Command::Apply(apply));
        // Reading the file takes up to 9 s.
        it.pass(Duration::from_secs(20));
        let known = |it: &History| -> Vec<UnitId> {
            it.supervisor.iter().flat_map(|it| &it.members).map(|member| member.id.clone()).collect()
        };
        let left = [origin(4), edge(1935), edge(1936), UnitId::encoder()];
        assert_eq!(known(&it), left, "seed {seed}");
        assert!(it.fake.answers.is_empty(), "seed {seed}: {:?}", it.fake.answers);
        it.fake.stay.insert(edge(1936), 0);
        it.pass(Duration::from_secs(5));
        assert_eq!(known(&it).len(), 3, "seed {seed}");
        assert!(matches!(it.fake.answers.as_slice(), [(1, Ok(()))]), "seed {seed}: {:?}", it.fake.answers);
    }
}

#[test]
fn a_port_that_is_back_in_the_file_stays_with_its_players_whoever_supervises() {
    for seed in 0..20 {
        let mut it = History::new(seed, false);
        it.fake.calm = true;
        it.fake.reports = Duration::from_secs(1);
        it.start("1935,1936");
        it.pass(Duration::from_secs(20));
        it.fake.stay = [(edge(1936), 2)].into();
        let process = it.fake.holder(&edge(1936));
        let apply = Apply { yes: true, drain_ms: Some(60_000), ..Apply::new("/file".into(), "1935".into()) };
        it.ask(Command::Apply(apply));
        it.pass(Duration::from_secs(20));
        it.kill_supervisor();
        it.start("1935");
        it.pass(Duration::from_secs(25));
        assert!(it.is_complete, "seed {seed}: a start does not wait for those who leave");
        let departure =
            it.supervisor.as_ref().unwrap().member(&edge(1936)).unwrap().departure.clone().unwrap();
        let left = departure.until - it.fake.now;
        assert!(departure.consent && left < Duration::from_secs(30), "seed {seed}: {departure:?}");
        it.ask(Command::Apply(Apply::new("/file".into(), "1935,1936".into())));
        it.pass(Duration::from_secs(60));
        assert!(matches!(it.fake.answers.as_slice(), [(2, Ok(()))]), "seed {seed}: {:?}", it.fake.answers);
        assert_eq!(it.fake.holder(&edge(1936)), process, "seed {seed}");
        let process = &it.fake.processes[&process.unwrap()];
        let Some(ProcessSpec::Worker(spec)) = &process.spec else { panic!("no spec") };
        assert!(spec.drain.is_no() && process.players == 2, "seed {seed}: {process:?}");
    }
}

fn edge(port: u16) -> UnitId {
    UnitId::worker(Role::Edge, "127.0.0.6", port)
}
