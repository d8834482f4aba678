//! A real supervisor process with processes that carry no media: what it starts, restarts, adopts, stops and leaves.
#![allow(clippy::unwrap_used)]

mod bench;
mod changes;
mod restarts;
mod start;
mod takeover;
