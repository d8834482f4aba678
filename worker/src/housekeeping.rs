//! What a worker does by the clock.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

use crate::counters::{Lag, count};
use crate::egress::forward;
use crate::hub::Hub;
use crate::relief::relieve;

/// Measures how late the loop gets to what is due.
pub(crate) async fn measure_lag(hub: Rc<Hub>) {
    loop {
        let due = Instant::now() + Lag::PERIOD;
        sleep_until(due).await;
        hub.lag.push(due.elapsed());
    }
}

/// Once a second: deadlines and rates, and the beat by which the supervisor sees that the loop turns.
pub(crate) async fn tick(hub: Rc<Hub>) {
    let mut every = interval(Duration::from_secs(1));
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        every.tick().await;
        hub.tick();
        relieve(&hub);
        forward::start_late(&hub);
        count(&hub.counters.beats, 1);
    }
}
