//! The commands, a file each: what it takes, what it does, what it says.

pub(crate) mod agent;
pub(crate) mod bench;
pub(crate) mod check;
pub(crate) mod down;
pub(crate) mod encoder;
pub(crate) mod events;
pub(crate) mod history;
pub(crate) mod host;
pub(crate) mod logs;
pub(crate) mod ls;
pub(crate) mod plan;
pub(crate) mod probe;
pub(crate) mod publish;
pub(crate) mod render;
pub(crate) mod restart;
pub(crate) mod rollback;
pub(crate) mod secret;
pub(crate) mod self_check;
pub(crate) mod service;
pub(crate) mod status;
pub(crate) mod up;
pub(crate) mod upgrade;
pub(crate) mod urls;
pub(crate) mod worker;
