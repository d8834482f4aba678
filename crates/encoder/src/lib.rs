//! An encoder without encoding: an FLV file or the test card, in real time, again and again.
//!
//! * [`Source`]: what is sent, frame by frame, and how long it lasts.
//! * [`publish()`]: sends it to a server for ever.
//! * [`run`]: does so as the process of `encoder:`, under a supervisor.

mod publish;
mod service;
mod source;

pub use publish::{Persistence, PublishError, PublishEvent, Sent, publish};
pub use service::run;
pub use source::{Frame, Source, SourceError};
