//! Did it work? KL reduction and effective sample size.

use crate::importance::FLOOR;

/// Kullback-Leibler divergence `sum p ln((p + 1e-8) / (q + 1e-8))` in nats of the distributions
/// that two lists of counts make. `None` if a list is empty or sums to zero.
#[must_use]
pub fn kl_divergence(p_counts: &[u64], q_counts: &[u64]) -> Option<f64> {
    let p_total = p_counts.iter().sum::<u64>() as f64;
    let q_total = q_counts.iter().sum::<u64>() as f64;
    if p_total <= 0.0 || q_total <= 0.0 || p_counts.len() != q_counts.len() {
        return None;
    }
    let term = |(&p, &q): (&u64, &u64)| {
        let (p, q) = (p as f64 / p_total, q as f64 / q_total);
        p * ((p + FLOOR).ln() - (q + FLOOR).ln())
    };
    Some(p_counts.iter().zip(q_counts).map(term).sum())
}

/// How much nearer to the target the selection is than the corpus, in nats:
/// `KL(target || raw) - KL(target || selected)`; the paper finds that it goes with downstream
/// accuracy (r = 0.89, arXiv 2302.03169, section 5). Zero when nothing changed. A tiny selection
/// makes it sharply negative through the floor: show the selection's size beside it.
#[must_use]
pub fn kl_reduction(target: &[u64], raw: &[u64], selected: &[u64]) -> Option<f64> {
    Some(kl_divergence(target, raw)? - kl_divergence(target, selected)?)
}

/// The effective sample size `(sum w)^2 / sum w^2` of weights given as logarithms, without
/// overflow. Small values mean that few documents dominate a resampling.
#[derive(Debug, Clone, Copy)]
pub struct EffectiveSampleSize {
    max: f64,
    sum: f64,
    sum_of_squares: f64,
}

impl Default for EffectiveSampleSize {
    fn default() -> Self {
        Self {
            max: f64::NEG_INFINITY,
            sum: 0.0,
            sum_of_squares: 0.0,
        }
    }
}

impl EffectiveSampleSize {
    /// Adds a log weight. Values that are not finite are left out.
    pub fn add(&mut self, log_weight: f64) {
        if log_weight.is_finite() {
            self.merge(&Self {
                max: log_weight,
                sum: 1.0,
                sum_of_squares: 1.0,
            });
        }
    }

    /// Adds all of another's weights.
    pub fn merge(&mut self, other: &Self) {
        let max = self.max.max(other.max);
        if max == f64::NEG_INFINITY {
            return;
        }
        let scale = (self.max - max).exp();
        let other_scale = (other.max - max).exp();
        self.sum = self.sum * scale + other.sum * other_scale;
        self.sum_of_squares =
            self.sum_of_squares * scale * scale + other.sum_of_squares * other_scale * other_scale;
        self.max = max;
    }

    /// The size, or `None` without weights.
    #[must_use]
    pub fn value(&self) -> Option<f64> {
        (self.sum_of_squares > 0.0).then(|| self.sum * self.sum / self.sum_of_squares)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reduction_is_zero_for_the_corpus_itself_and_largest_for_the_target() {
        let (target, raw) = ([5, 1, 0, 2], [1, 4, 3, 2]);
        assert_eq!(kl_reduction(&target, &raw, &raw), Some(0.0));
        let best = kl_reduction(&target, &raw, &target).unwrap();
        assert!(best > kl_reduction(&target, &raw, &[4, 2, 0, 2]).unwrap());
        assert_eq!(kl_reduction(&target, &raw, &[0; 4]), None);
    }

    #[test]
    fn effective_sample_size_counts_equal_weights_and_survives_extremes() {
        let mut equal = EffectiveSampleSize::default();
        assert_eq!(equal.value(), None);
        for _ in 0..10 {
            equal.add(-5000.0);
        }
        assert!((equal.value().unwrap() - 10.0).abs() < 1e-9);
        equal.add(5000.0);
        assert!((equal.value().unwrap() - 1.0).abs() < 1e-9);
        let mut half = EffectiveSampleSize::default();
        half.add(0.0);
        half.add(2.0_f64.ln());
        let mut merged = EffectiveSampleSize::default();
        merged.merge(&half);
        assert!((merged.value().unwrap() - 9.0 / 5.0).abs() < 1e-12);
    }
}
