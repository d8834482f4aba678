//! What leaves the worker: to players, and to the edges it forwards to.

pub(crate) mod forward;
mod liveness;
pub(crate) mod outbound;
pub(crate) mod play;
pub(crate) mod player;
pub(crate) mod status;
