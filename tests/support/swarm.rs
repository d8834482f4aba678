//! Players that check every byte, while a test has something happen.

use std::time::{Duration, Instant};

use bench::exact::Swarm;

use super::SOON;

/// Lets the swarm go on.
pub fn run(swarm: &mut Swarm, ms: u64) {
    swarm.run(Instant::now() + Duration::from_millis(ms)).unwrap();
}

/// Lets the swarm go on until nobody waits for anything.
pub fn settle(swarm: &mut Swarm) {
    run_until(swarm, "nobody waits", Swarm::is_settled);
}

/// Lets the swarm go on until something has happened.
#[track_caller]
pub fn run_until(swarm: &mut Swarm, what: &str, mut has_happened: impl FnMut(&Swarm) -> bool) {
    let start = Instant::now();
    while !has_happened(swarm) {
        assert!(start.elapsed() < SOON, "waited for this: {what}; {:?}", swarm.counts());
        run(swarm, 50);
    }
}

/// Fails if any has lost its connection, a byte or the order.
#[track_caller]
pub fn assert_whole(swarm: &Swarm) {
    let counts = swarm.counts();
    assert_eq!((counts.lost, counts.wrong), (0, 0), "{counts:#?}");
}
