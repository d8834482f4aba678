//! Drives the real `srsctl` with real clients. Each test has a loopback network of its own, so they run side by side.
#![allow(missing_docs, unreachable_pub, reason = "nothing uses a test crate")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod bench;
mod beyond;
mod broken_files;
mod changes;
mod cli;
mod commands;
mod crash;
mod crowded;
mod events;
mod guide;
mod health;
mod hostile;
mod install;
mod join;
mod keeper;
mod leaving;
mod links;
mod machines;
mod outlive;
mod package;
mod relay;
mod removed;
mod restart;
mod sessions;
mod slow_players;
mod startup;
mod support;
mod survive;
mod systemd;
mod terminal;
mod upkeep;
