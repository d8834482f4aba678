//! What is wrong with the forwards of a stream: a warning, whatever it is.

use std::time::Duration;

use cluster::stats::{ForwardState, ForwardStats, StreamStats};

/// A forward may take so long to be live; then it is told of.
const FORWARD_WARNING: Duration = Duration::from_secs(2);
/// Forwards of one stream that are told of one by one: each edge tells of its own too.
const FORWARDS_TOLD: usize = 3;

/// Of those to edges and of those beyond them.
pub(super) fn troubles(stream: &StreamStats) -> Vec<String> {
    let (beyond, to_edges): (Vec<_>, Vec<_>) =
        stream.forwards.iter().partition(|forward| forward.outbound().is_some());
    let mut found = Vec::new();
    for (forwards, kind) in [(to_edges, "ports"), (beyond, "targets of `forward`")] {
        let failing: Vec<String> = forwards.into_iter().filter_map(trouble).collect();
        let more = failing.len().saturating_sub(FORWARDS_TOLD);
        let told = failing.into_iter().take(FORWARDS_TOLD);
        found.extend(told.map(|trouble| format!("{} to {trouble}", stream.stream)));
        if more > 0 {
            found.push(format!("{} to {more} more {kind}: see their lines", stream.stream));
        }
    }
    found
}

/// Why a target does not get its stream.
fn trouble(forward: &ForwardStats) -> Option<String> {
    let waits = forward.waiting_ms.map(Duration::from_millis);
    let is_late = waits.is_some_and(|waits| waits >= FORWARD_WARNING);
    let error = forward.last_error.as_deref();
    let why = match (forward.state, is_late) {
        (ForwardState::Live | ForwardState::Idle, _) | (ForwardState::Connecting, false) => return None,
        (ForwardState::Stalled, _) => "no sign of life".to_owned(),
        (ForwardState::Backoff, _) => error.unwrap_or("it failed").to_owned(),
        (ForwardState::Connecting, true) => match error {
            Some(error) => error.to_owned(),
            None => "still connecting".to_owned(),
        },
    };
    let lasts =
        waits.filter(|_| is_late).map_or_else(String::new, |waits| format!(" (for {} s)", waits.as_secs()));
    let target = forward.outbound().unwrap_or(forward.target.id.as_str());
    Some(format!("{target}: {why}{lasts}"))
}
