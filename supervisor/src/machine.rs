//! What a unit is and what becomes of it. Pure: events, time and chance are arguments, actions are answers.
//!
//! `machine/README.md` has the table of all states and events.

pub(crate) mod backoff;
pub(crate) mod exit;
pub(crate) mod health;
pub(crate) mod heartbeat;
pub(crate) mod keeper;
pub(crate) mod state;
mod transitions;
pub(crate) mod unit;

#[cfg(test)]
mod tests;
