//! Client side of a connection: handshake, `connect`, `createStream`, `publish` or `play`.

mod config;
mod event;
mod session;
mod stage;
#[cfg(test)]
mod tests;

pub use config::{Config, Mode};
pub use event::{Error, Event, MAX_OUTPUT};
pub use session::Session;
pub use stage::Stage;
