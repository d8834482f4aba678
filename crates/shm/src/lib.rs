//! What outlives a process: objects that change together, and media, in memory that is mapped from a file.
//!
//! # Theory of operation
//!
//! ```text
//! header: epoch, words │ scratch │ table: for each object two entries │ extents: bytes of objects, blocks
//! ```
//!
//! A process may be killed between any two of its stores into memory, and another then goes on with what it finds. So nothing that is in
//! force is ever overwritten: [`Store::put`] writes an object's bytes where nothing is, and names them in the older of the object's
//! two entries, with the next epoch; [`Store::commit`] stores that epoch in the header. Of an object's entries the newer one that is not
//! of a later epoch is in force. All that was put and removed since the last commit becomes true with one store.
//!
//! A [`Block`] is filled once, from front to back; how much of it counts is said by the object that names it ([`Block::place`]), so what was
//! appended behind that does not exist after a death. Memory that is given up is used again only after the next commit: until then what
//! is in force may name it.
//!
//! [`Recovery`] reads what an earlier process has left, as a stranger's bytes: an object whose entry cannot be right, or whose bytes
//! are not those that were put, is dropped and counted.
//!
//! The one crate of this project that maps memory: `memory` has all of its `unsafe`.

mod alloc;
mod block;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod layout;
mod memory;
mod recovery;
mod store;
#[cfg(test)]
mod tests;

pub use block::{Block, Place};
pub use layout::WORDS;
pub use memory::Memory;
pub use recovery::{Found, Object, Recovery, RecoveryError};
pub use store::{Id, Scratch, Store};
