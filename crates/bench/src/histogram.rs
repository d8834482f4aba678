//! Quantiles of many values in little memory, mergeable between processes.

use serde::{Deserialize, Serialize};

/// Buckets per power of two: a quantile is wrong by 1.6 % at most.
const STEPS: u64 = 32;

/// How often each value occurred, to within 1.6 %; the smallest and the largest are exact.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Histogram {
    /// At most 1920 buckets; grown by the largest value seen.
    buckets: Vec<u64>,
    count: u64,
    min: u64,
    max: u64,
}

impl Histogram {
    /// Adds `value` once.
    pub fn record(&mut self, value: u64) {
        let bucket = bucket(value);
        if bucket >= self.buckets.len() {
            self.buckets.resize(bucket + 1, 0);
        }
        if let Some(count) = self.buckets.get_mut(bucket) {
            *count += 1;
        }
        self.min = if self.count == 0 { value } else { self.min.min(value) };
        self.max = self.max.max(value);
        self.count += 1;
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        if other.count == 0 {
            return;
        }
        if other.buckets.len() > self.buckets.len() {
            self.buckets.resize(other.buckets.len(), 0);
        }
        for (mine, theirs) in self.buckets.iter_mut().zip(&other.buckets) {
            *mine += theirs;
        }
        self.min = if self.count == 0 { other.min } else { self.min.min(other.min) };
        self.max = self.max.max(other.max);
        self.count += other.count;
    }

    /// Values recorded.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The smallest value; `None` without any.
    pub fn min(&self) -> Option<u64> {
        (self.count > 0).then_some(self.min)
    }

    /// The largest value; `None` without any.
    pub fn max(&self) -> Option<u64> {
        (self.count > 0).then_some(self.max)
    }

    /// The value that the share `q` (0 to 1) of all values does not exceed; `None` without any.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        let rank = ((self.count as f64 * q).ceil() as u64).clamp(1, self.count.max(1));
        let mut seen = 0;
        let bucket = self.buckets.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(middle(bucket).clamp(self.min, self.max))
    }
}

fn bucket(value: u64) -> usize {
    if value < STEPS {
        return value as usize;
    }
    let exponent = u64::from(value.ilog2());
    ((exponent - 4) * STEPS + ((value >> (exponent - 5)) & (STEPS - 1))) as usize
}

fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < STEPS {
        return bucket;
    }
    let shift = bucket / STEPS - 1;
    ((STEPS + bucket % STEPS) << shift) + (1 << shift) / 2
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|&value| histogram.record(value));
        histogram
    }

    proptest! {
        #[test]
        fn a_bucket_holds_values_within_two_percent(value in any::<u64>()) {
            let middle = middle(bucket(value));
            prop_assert!(middle.abs_diff(value) <= value / 60, "{value} counts as {middle}");
        }

        #[test]
        fn merging_is_recording_together(a in prop::collection::vec(any::<u64>(), 0..50), b in prop::collection::vec(any::<u64>(), 0..50)) {
            let mut merged = of(&a);
            merged.merge(&of(&b));
            prop_assert_eq!(merged, of(&[a, b].concat()));
        }
    }

    #[test]
    fn quantiles_of_one_to_a_thousand_are_near_their_rank() {
        let histogram = of(&(1..=1000).collect::<Vec<_>>());
        let near = |q, wanted: u64| histogram.quantile(q).unwrap().abs_diff(wanted) <= wanted / 50;
        assert!(near(0.5, 500) && near(0.99, 990));
        assert_eq!(
            (histogram.min(), histogram.max(), histogram.quantile(1.0)),
            (Some(1), Some(1000), Some(1000))
        );
    }

    #[test]
    fn without_values_there_is_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(Histogram::default().max(), None);
    }
}
