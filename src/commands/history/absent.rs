//! What is said where no file has the number that is asked for.

use std::collections::BTreeSet;

use supervisor::Generation;

use crate::failure::Failure;

/// That none of them has this number.
pub(super) fn no_such<'a>(
    cluster: &str,
    all: impl IntoIterator<Item = &'a Generation>,
    number: u64,
) -> Failure {
    let kept: BTreeSet<u64> = all.into_iter().map(|it| it.number).collect();
    let kept: Vec<String> = kept.iter().map(u64::to_string).collect();
    let kept = if kept.is_empty() { "none".to_owned() } else { kept.join(", ") };
    Failure::failed(format!("cluster {cluster} has no file {number}; there are: {kept}"))
}

/// That there is nothing to go back to.
pub(crate) fn none_before(cluster: &str) -> Failure {
    Failure::failed(format!("cluster {cluster} has no file before the one in force"))
}
