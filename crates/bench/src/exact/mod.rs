//! Players that check every byte: what `make survive` and the tests of deaths play with.
//!
//! The publishers' [frames](frame) say which they are, so a player knows whether each comes once, whole, in order and at its time
//! ([`Check`]), and each answer of the server is awaited by name. [`Swarm`] runs thousands of them, of several [habits](Habit), and the
//! publishers, on one thread.

mod check;
mod client;
pub mod frame;
mod publisher;
mod random;
mod swarm;

pub use check::{Check, Gets, Wrong};
pub use client::Habit;
pub use random::Random;
pub use swarm::{Counts, Gaps, Plan, Swarm};
