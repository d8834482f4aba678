//! A connection that was accepted.

mod by_stream;
mod driver;
pub(crate) mod end;
pub(crate) mod handle;
pub(crate) mod machine;
mod outlet;

pub(crate) use driver::{Serving, begin, record, serve};
