//! Sessions as plain data: another process goes on with a connection where one ended.
//!
//! [`server::Session`](crate::server::Session), [`client::Session`](crate::client::Session) and
//! [`chunk::Reader`](crate::chunk::Reader) are serialised as they are between any two calls. The form is that of one version of this
//! crate: whoever keeps a record keeps the version with it.
//!
//! In a record are what the peer has said so far, output that was not drained, and events that are still to come. Not in it are
//!
//! * input that was not consumed: it stays with the caller;
//! * the bytes of unfinished messages, which may be many: [`chunk::Reader::partials`](crate::chunk::Reader::partials);
//! * limits and secrets: they are those of the process that goes on.
//!
//! A record is trusted no more than a peer. What was deserialised must pass `check` and, where it has unfinished messages, be given their
//! bytes by `restore_partials`, before it is used; then no input can do to it what it cannot do to a session that was never in a record.

/// No session could have left this record; the connection cannot go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the record cannot be right: {0}")]
pub struct RecordError(&'static str);

/// An error that names `what` unless it holds.
pub(crate) fn ensure(holds: bool, what: &'static str) -> Result<(), RecordError> {
    if holds { Ok(()) } else { Err(RecordError(what)) }
}
