//! Lines of several logs in order of time; those of one log stay in the order in which they were written, whatever their clock did.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// Lines of `logs`, each with the name of its log: next comes the line with the earliest time of those that are the first of
/// their logs.
pub(super) fn merge(logs: Vec<(&str, impl IntoIterator<Item = String>)>) -> Vec<(&str, String)> {
    let mut logs: Vec<_> = logs.into_iter().map(|(name, lines)| (name, timed(lines).into_iter())).collect();
    let mut heads = BinaryHeap::new();
    for (index, (_, lines)) in logs.iter_mut().enumerate() {
        heads.extend(lines.next().map(|(time, line)| Reverse((time, index, line))));
    }
    let mut merged = Vec::new();
    while let Some(Reverse((_, index, line))) = heads.pop() {
        if let Some((name, lines)) = logs.get_mut(index) {
            heads.extend(lines.next().map(|(time, line)| Reverse((time, index, line))));
            merged.push((*name, line));
        }
    }
    merged
}

/// Each line with its own time stamp, or that of the line before: a message of several lines stays whole.
fn timed(lines: impl IntoIterator<Item = String>) -> Vec<(String, String)> {
    let mut time = String::new();
    let mut timed = Vec::new();
    for line in lines {
        let first = line.split(' ').next().unwrap_or_default();
        if first.len() >= 20 && first.starts_with("20") && first.contains('T') {
            first.clone_into(&mut time);
        }
        timed.push((time.clone(), line));
    }
    timed
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(logs: &[&[&str]]) -> Vec<String> {
        let owned = |lines: &&[&str]| ("", lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        merge(logs.iter().map(owned).collect()).into_iter().map(|(_, line)| line).collect()
    }

    #[test]
    fn lines_come_in_order_of_time_and_a_message_of_several_stays_whole() {
        let one =
            ["2026-01-02T03:04:05.000001Z  INFO a", "  more of a", "2026-01-02T03:04:07.000000Z  INFO c"];
        let two = ["2026-01-02T03:04:06.000000Z  INFO b"];
        assert_eq!(merged(&[&one, &two]), [one[0], one[1], two[0], one[2]]);
    }

    #[test]
    fn a_clock_that_was_set_back_changes_the_order_of_no_log() {
        let one = [
            "2026-01-02T03:04:05.000001Z  INFO a",
            "2020-01-02T03:04:05.000001Z  INFO b",
            "2026-01-02T03:04:07.000001Z  INFO d",
        ];
        let two = ["2026-01-02T03:04:06.000001Z  INFO c"];
        assert_eq!(merged(&[&one, &two]), [one[0], one[1], two[0], one[2]]);
    }
}
