//! Random histories, each from one number: what readers get is held against what was sent.
//!
//! A failure names its seed: `SRSCTL_SEED=n SRSCTL_SEEDS=1 cargo test -p stream random` runs it alone.

mod cursors;
mod headers;
mod relay;
