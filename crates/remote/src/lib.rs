//! A session with srsctl on another machine, over the system's `ssh`.
//!
//! # Theory of operation
//!
//! ```text
//!  srsctl ──pipe── ssh ════════ sshd ──pipe── srsctl agent dial-stdio
//!  Session (ssh's child is ours)               serve
//! ```
//!
//! No daemon listens for us: who may log in there, and with which key, is sshd's. The far end writes [`frame::MAGIC`] first; what a login
//! shell or a banner wrote before is skipped, and shown when the magic does not come. Then both ends send frames: a [`Hello`] each, and
//! pings, so that either notices when the other is gone, stopped, or cut off. The far end ends when its input does, or when nothing has come
//! for [`SILENCE`]: a client that is killed or stopped leaves nothing running there.
//!
//! One *exchange* at a time: the client opens it with what it wants done ([`Frame::Open`]), both send bytes, each says when it has sent all
//! ([`Frame::End`]), and the far end may refuse ([`Frame::Refused`]). The pipe is the flow control: pings are sent whether or not anybody reads.
//! What may be asked is not decided here: whoever serves is given what was opened.
//!
//! Every wait has a deadline and a name ([`Step`]), and every way in which `ssh` fails a sentence and a next step ([`failure`]).

mod child;
mod exchange;
pub mod failure;
pub mod frame;
mod hello;
pub mod known_hosts;
mod script;
mod serve;
mod session;
mod ssh;
mod wire;

pub use exchange::{Exchange, Refused};
pub use failure::{Problem, Step};
pub use frame::Frame;
pub use hello::{Hello, PROTO};
pub use script::Outcome;
pub use serve::serve;
pub use session::Session;
pub use ssh::Ssh;
pub use wire::SILENCE;
