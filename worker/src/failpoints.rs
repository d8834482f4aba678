//! Deaths at chosen points of the code, and errors that are made on purpose, for `make survive`: with the feature `failpoints` alone,
//! which no package is built with.
//!
//! A worker that finds the file that `SRSCTL_TEST_DIE` names removes it and dies as it says: `POINT:N` at the Nth time that it passes
//! the point. So it is the one worker that dies. It is its keeper that kills it: such a death does not count. Behind the point
//! nothing is done any more.
//!
//! `SRSCTL_TEST_MUTATE` makes the code wrong, so that it can be seen whether somebody notices:
//!
//! * `skip:N`: each Nth commit is left out;
//! * `apart`: what is put is in force at once, each object for itself, and not all of a commit together;
//! * `early`: so it is, and before its bytes are there; the point `put` lies between.

#[cfg(feature = "failpoints")]
pub(crate) use on::{leaves_out_commit, order, pass, puts_apart, puts_early};

/// Dies here, if that is wanted.
#[cfg(not(feature = "failpoints"))]
pub(crate) fn pass(_point: &str) {}

#[cfg(feature = "failpoints")]
mod on {
    use std::cell::{Cell, RefCell};
    use std::path::PathBuf;

    use rustix::process::{Signal, getppid, kill_process};

    const ORDERS: &str = "SRSCTL_TEST_DIE";
    const MUTATION: &str = "SRSCTL_TEST_MUTATE";

    #[derive(Debug)]
    enum Mutation {
        Skip(u32),
        Apart,
        Early,
    }

    thread_local! {
        static ORDER: RefCell<Option<(String, u32, PathBuf)>> = const { RefCell::new(None) };
        static MUTATE: RefCell<Option<Mutation>> = const { RefCell::new(None) };
        static COMMITS: Cell<u32> = const { Cell::new(0) };
    }

    /// What this worker is to do. To be called once, first.
    pub(crate) fn order() {
        let mutation = std::env::var(MUTATION).ok().and_then(|text| match text.split_once(':') {
            Some(("skip", nth)) => nth.parse().ok().map(Mutation::Skip),
            _ if text == "apart" => Some(Mutation::Apart),
            _ => (text == "early").then_some(Mutation::Early),
        });
        MUTATE.set(mutation);
        let Some(file) = std::env::var_os(ORDERS).map(PathBuf::from) else { return };
        let Ok(text) = std::fs::read_to_string(&file) else { return };
        let order =
            text.trim().split_once(':').and_then(|(point, nth)| Some((point.to_owned(), nth.parse().ok()?)));
        let _ = std::fs::remove_file(&file);
        ORDER.set(order.map(|(point, nth)| (point, nth, file.with_extension("done"))));
    }

    /// Dies here, if that is wanted.
    pub(crate) fn pass(point: &str) {
        let died = ORDER.with_borrow_mut(|order| {
            let (wanted, left, done) = order.as_mut()?;
            if wanted != point {
                return None;
            }
            *left = left.saturating_sub(1);
            (*left == 0).then(|| done.clone())
        });
        let Some(done) = died else { return };
        let _ = std::fs::write(done, point);
        if let Some(keeper) = getppid() {
            let _ = kill_process(keeper, Signal::USR2);
        }
        loop {
            std::thread::park();
        }
    }

    pub(crate) fn leaves_out_commit() -> bool {
        COMMITS.set(COMMITS.get().wrapping_add(1));
        MUTATE.with_borrow(
            |it| matches!(it, Some(Mutation::Skip(nth)) if COMMITS.get().is_multiple_of((*nth).max(1))),
        )
    }

    pub(crate) fn puts_apart() -> bool {
        MUTATE.with_borrow(|it| matches!(it, Some(Mutation::Apart)))
    }

    pub(crate) fn puts_early() -> bool {
        MUTATE.with_borrow(|it| matches!(it, Some(Mutation::Early)))
    }
}
