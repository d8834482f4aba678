//! Server side of a connection: handshake, `connect`, `createStream`, `publish` or `play`.

mod config;
mod event;
mod key;
mod reply;
mod session;
#[cfg(test)]
mod tests;

pub use config::Config;
pub use event::{Auth, Error, Event, MAX_ACTIVE, MAX_BEFORE_CONNECT, MAX_OUTPUT, PlayEnd, PublishEnd};
pub use key::{KeyError, StreamKey};
pub use session::Session;
