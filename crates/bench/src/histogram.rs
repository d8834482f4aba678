//! Quantiles of many values in little memory, mergeable between processes.

use serde::{Deserialize, Serialize};

/// Decimal digits to which a value is kept.
const DIGITS: u8 = 3;

/// How often each value occurred, to within 0.1 %. As JSON a list of values, each with its count.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(from = "Vec<(u64, u64)>", into = "Vec<(u64, u64)>")]
pub struct Histogram(hdrhistogram::Histogram<u64>);

impl Histogram {
    /// Adds `value` once.
    pub fn record(&mut self, value: u64) {
        self.record_many(value, 1);
    }

    fn record_many(&mut self, value: u64, count: u64) {
        self.0.record_n(value, count).expect("it grows for any value");
    }

    /// Adds all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows for any value");
    }

    /// Values recorded.
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The smallest value; `None` without any.
    pub fn min(&self) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.min())
    }

    /// The largest value; `None` without any.
    pub fn max(&self) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.max())
    }

    /// The value that the share `q` (0 to 1) of all values does not exceed; `None` without any.
    pub fn quantile(&self, q: f64) -> Option<u64> {
        (!self.0.is_empty()).then(|| self.0.value_at_quantile(q))
    }
}

impl Default for Histogram {
    fn default() -> Self {
        Self(hdrhistogram::Histogram::new(DIGITS).expect("three digits can be kept"))
    }
}

impl From<Vec<(u64, u64)>> for Histogram {
    fn from(counts: Vec<(u64, u64)>) -> Self {
        let mut histogram = Self::default();
        counts.into_iter().for_each(|(value, count)| histogram.record_many(value, count));
        histogram
    }
}

impl From<Histogram> for Vec<(u64, u64)> {
    fn from(histogram: Histogram) -> Self {
        histogram.0.iter_recorded().map(|at| (at.value_iterated_to(), at.count_at_value())).collect()
    }
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

    fn is_near(kept: u64, value: u64) -> bool {
        kept.abs_diff(value) <= value / 1000
    }

    proptest! {
        #[test]
        fn a_quantile_is_within_a_thousandth_of_the_value_at_its_rank(
            mut values in prop::collection::vec((any::<u64>(), 0..64u32).prop_map(|(n, shift)| n >> shift), 1..50),
            q in 0.0..=1.0f64,
        ) {
            let histogram = of(&values);
            values.sort_unstable();
            let rank = ((values.len() as f64 * q).ceil() as usize).clamp(1, values.len());
            let kept = histogram.quantile(q).unwrap();
            prop_assert!(is_near(kept, values[rank - 1]), "{kept} for {}", values[rank - 1]);
            prop_assert!(is_near(histogram.min().unwrap(), values[0]));
            prop_assert!(is_near(histogram.max().unwrap(), values[values.len() - 1]));
        }

        #[test]
        fn merging_what_other_processes_send_is_recording_together(
            a in prop::collection::vec(any::<u64>(), 0..50),
            b in prop::collection::vec(any::<u64>(), 0..50),
        ) {
            let sent: Histogram = serde_json::from_str(&serde_json::to_string(&of(&b)).unwrap()).unwrap();
            let mut merged = of(&a);
            merged.merge(&sent);
            let together = of(&[a, b].concat());
            prop_assert_eq!(merged.count(), together.count());
            for q in [0.0, 0.5, 0.99, 1.0] {
                prop_assert_eq!(merged.quantile(q), together.quantile(q));
            }
            prop_assert_eq!((merged.min(), merged.max()), (together.min(), together.max()));
        }
    }

    #[test]
    fn quantiles_of_one_to_a_thousand_are_their_ranks() {
        let histogram = of(&(1..=1000).collect::<Vec<_>>());
        let quantiles = [0.0, 0.5, 0.99, 1.0].map(|q| histogram.quantile(q).unwrap());
        assert_eq!(quantiles, [1, 500, 990, 1000]);
        assert_eq!((histogram.min(), histogram.max()), (Some(1), Some(1000)));
    }

    #[test]
    fn without_values_there_is_no_quantile() {
        assert_eq!(Histogram::default().quantile(0.5), None);
        assert_eq!(Histogram::default().max(), None);
    }
}
