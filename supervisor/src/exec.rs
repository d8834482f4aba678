//! Processes of this machine: started with what they are lent, watched, found again, stopped.

pub(crate) mod adopt;
pub(crate) mod listeners;
pub(crate) mod monitor;
pub(crate) mod names;
pub mod orphans;
pub(crate) mod own;
pub(crate) mod process;
pub(crate) mod processes;
pub(crate) mod record;
pub(crate) mod self_check;
pub(crate) mod strays;
