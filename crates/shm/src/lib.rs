//! What outlives a process: objects that change together, and media, in memory that is mapped from a file.
//!
//! # Theory of operation
//!
//! ```text
//! header: epoch, words │ scratch │ table: for each object two entries │ extents: bytes of objects, blocks
//! ```
//!
//! A process may be killed between any two of its stores into memory, and another then goes on with what it finds. So nothing that is in
//! force is ever overwritten: [`Store::put`] writes an object's bytes where nothing is, and names them in that of the object's two entries
//! that is not in force, with the next epoch; [`Store::commit`] stores that epoch in the header. Of an object's entries the newer one that
//! is not of a later epoch is in force. All that was put and removed since the last commit becomes true with one store. `store` says why
//! the order of the others costs no instruction.
//!
//! A [`Block`] is filled once, from front to back; how much of it counts is said by the object that names it ([`Block::place`]), so what was
//! appended behind that does not exist after a death. Memory that is given up is used again only after the next commit: until then what
//! is in force may name it. So whoever drops a block puts or removes what named it before the next commit.
//!
//! Two kinds of memory are outside of commits. [`WORDS`] are stored at once, each for itself ([`Store::set_word`]). The [`Scratch`] area is
//! read into and has what it has: a word says whose that is.
//!
//! [`Recovery`] reads what an earlier process has left, as a stranger's bytes. An entry says by a checksum that it is as it was written, and
//! by another what its bytes were; no byte is two owners'. What cannot be right is dropped and counted, for good: should the one who
//! recovers die as well, the next one finds the same. Blocks are [adopted](Recovery::adopt) by whoever reads the object that names them.
//! What nobody has then is free, and its memory goes back to the system.
//!
//! Where there is no memory left, [`Store::put`] says so, and what the object was does not come back; a block then lives in memory of the
//! process alone, and has no place to be named by.
//!
//! # What is checked
//!
//! `memory` has all of the `unsafe`; `make miri` runs the tests under Miri. Random histories are cut before each store, those of whoever
//! recovers too (`tests`); what is free is checked against a model (`alloc`); whatever else may stand there is made by `fuzz`.

mod alloc;
mod block;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod layout;
mod memory;
mod recovery;
mod slabs;
mod store;
#[cfg(test)]
mod tests;

pub use block::{Block, Place};
pub use layout::{LAYOUT, OLDEST_LAYOUT, WORDS};
pub use memory::Memory;
pub use recovery::{Found, Object, Recovery, RecoveryError, peek};
pub use store::{Id, Scratch, Store};
