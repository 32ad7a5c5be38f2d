//! A mean with its interval, and quantiles.

use crate::random::Random;

/// Samples that are drawn for an interval.
pub const BOOTSTRAP_SAMPLES: usize = 1000;
/// Values up to which samples are drawn. The mean of more is as good as normal, and its interval is
/// `mean -+ 1.96 s / sqrt(n)`.
pub const BOOTSTRAP_VALUES_MAX: usize = 2000;

/// Of the normal distribution.
const QUANTILE_975: f64 = 1.959_963_984_540_054;

/// A mean over n independent values (queries), and the interval that holds the mean of all such
/// values with a probability of about 95 %.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// Values.
    pub n: usize,
    /// The lower end of the interval.
    pub low: f64,
    /// The upper end of the interval.
    pub high: f64,
}

impl Estimate {
    /// The mean of the values, with the percentile interval of a seeded bootstrap. The same for
    /// any order of the values. `None` without values; values that are not finite are left out.
    ///
    /// A handful of values gives an interval that is too narrow, a single one none at all: show n.
    #[must_use]
    pub fn new(values: &[f64], seed: u64) -> Option<Self> {
        let mut values: Vec<f64> = values.iter().copied().filter(|x| x.is_finite()).collect();
        values.sort_unstable_by(f64::total_cmp);
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        let (low, high) = if n > BOOTSTRAP_VALUES_MAX {
            let squares: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
            let half = QUANTILE_975 * (squares / (n - 1) as f64 / n as f64).sqrt();
            (mean - half, mean + half)
        } else {
            let mut random = Random::new(seed);
            let mut sample = || (0..n).map(|_| values[random.below(n)]).sum::<f64>() / n as f64;
            let mut means: Vec<f64> = (0..BOOTSTRAP_SAMPLES).map(|_| sample()).collect();
            means.sort_unstable_by(f64::total_cmp);
            (
                quantile_of_sorted(&means, 0.025),
                quantile_of_sorted(&means, 0.975),
            )
        };
        Some(Self { mean, n, low, high })
    }
}

/// The quantiles of the values at these shares, interpolated between neighbours (type 7 of Hyndman
/// and Fan, the default of R and NumPy). Empty without values.
#[must_use]
pub fn quantiles(values: &[f64], shares: &[f64]) -> Vec<f64> {
    let mut values: Vec<f64> = values.iter().copied().filter(|x| !x.is_nan()).collect();
    values.sort_unstable_by(f64::total_cmp);
    if values.is_empty() {
        return Vec::new();
    }
    let quantile = |&share: &f64| quantile_of_sorted(&values, share);
    shares.iter().map(quantile).collect()
}

fn quantile_of_sorted(sorted: &[f64], share: f64) -> f64 {
    let position = share.clamp(0.0, 1.0) * (sorted.len() - 1) as f64;
    let (below, fraction) = (position.floor() as usize, position.fract());
    let above = (below + 1).min(sorted.len() - 1);
    if fraction == 0.0 {
        sorted[below]
    } else {
        sorted[below] + (sorted[above] - sorted[below]) * fraction
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interval_holds_its_mean_and_narrows_with_n() {
        // A variance of 2/9: the standard error of 100 values is 0.047.
        let values: Vec<f64> = (0..100).map(|i| f64::from(u8::from(i % 3 == 0))).collect();
        let estimate = Estimate::new(&values, 1).unwrap();
        assert_eq!((estimate.mean, estimate.n), (0.34, 100));
        assert!((estimate.low - 0.247).abs() < 0.015, "{estimate:?}");
        assert!((estimate.high - 0.433).abs() < 0.015, "{estimate:?}");
        // The two ways agree about where one follows the other.
        let many = values.repeat(20);
        let drawn = Estimate::new(&many, 1).unwrap();
        let closed = Estimate::new(&values.repeat(21), 1).unwrap();
        assert!(
            (drawn.high - closed.high).abs() < 0.003,
            "{drawn:?} {closed:?}"
        );
        assert!(drawn.high - drawn.low < 0.05);
    }

    #[test]
    fn the_order_of_values_does_not_matter() {
        let values = [0.1, 0.7, 0.3, f64::NAN, 0.9, f64::INFINITY];
        let mut backward = values;
        backward.reverse();
        assert_eq!(Estimate::new(&values, 5), Estimate::new(&backward, 5));
        assert_ne!(Estimate::new(&values, 5), Estimate::new(&values, 6));
        assert_eq!(Estimate::new(&values, 5).unwrap().n, 4);
        assert_eq!(Estimate::new(&[f64::NAN], 5), None);
        let one = Estimate::new(&[0.25], 5).unwrap();
        assert_eq!((one.low, one.mean, one.high), (0.25, 0.25, 0.25));
    }

    #[test]
    fn quantiles_are_those_of_numpy() {
        let values = [3.0, 1.0, 2.0, 10.0, f64::NAN];
        let found = quantiles(&values, &[0.0, 0.25, 0.5, 0.9, 1.0]);
        for (found, expected) in found.iter().zip([1.0, 1.75, 2.5, 7.9, 10.0]) {
            assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        }
        assert_eq!(quantiles(&[], &[0.5]), [0.0; 0]);
        let infinite = [1.0, f64::INFINITY, f64::INFINITY];
        assert_eq!(quantiles(&infinite, &[0.5, 1.0]), [f64::INFINITY; 2]);
    }
}
