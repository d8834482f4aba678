//! What this machine gives: directories, files and logs, and what it tells before anything is touched.

pub(crate) mod ancestors;
pub(crate) mod dirs;
pub(crate) mod files;
pub(crate) mod history;
pub(crate) mod journal;
pub(crate) mod last_words;
pub(crate) mod lease;
pub(crate) mod lock;
pub(crate) mod logs;
pub(crate) mod oom;
pub(crate) mod owner;
pub mod preflight;
pub(crate) mod procfs;
pub(crate) mod systemd;
