//! Importance resampling: noise, keys, and how a budget is divided among targets.
//!
//! Taking the k largest `log_weight + Gumbel(0, 1)` samples without replacement with probability
//! proportional to `exp(log_weight)` (the Gumbel top-k trick). The reference draws its noise from
//! an unseeded global generator over a layout that depends on the number of processes; here the
//! noise of a document is a function of (seed, target, document id) alone.

use xxhash_rust::xxh3::Xxh3;

/// Standard Gumbel noise of a document. Always finite: between about -3.7 and 37.5.
#[must_use]
pub fn gumbel(seed: u64, target: &str, doc_id: &str) -> f64 {
    let uniform = uniform(seed, target, doc_id);
    // The logarithm of a number just below one is its distance from one: computed as such, it
    // keeps all of its digits where the noise is largest.
    let log = if uniform > 0.5 {
        (-(1.0 - uniform)).ln_1p()
    } else {
        uniform.ln()
    };
    -(-log).ln()
}

/// A number in the open interval (0, 1), uniform over the odd multiples of 2^-54.
fn uniform(seed: u64, target: &str, doc_id: &str) -> f64 {
    let mut hasher = Xxh3::with_seed(seed);
    // The length keeps ("ab", "c") and ("a", "bc") apart.
    hasher.update(&(target.len() as u64).to_le_bytes());
    hasher.update(target.as_bytes());
    hasher.update(doc_id.as_bytes());
    let bits = hasher.digest() >> 11;
    (bits as f64 + 0.5) / (1_u64 << 53) as f64
}

/// Divides `total` among targets: target i gets `floor(total * share_i / sum of shares)`, the
/// remainder goes to the last, as in the reference. All zero shares count as equal ones.
#[must_use]
pub fn proportional_counts(total: u64, shares: &[u64]) -> Vec<u64> {
    let sum: u128 = shares.iter().map(|&share| u128::from(share)).sum();
    let share_of = |share: u64| match sum {
        0 => total / shares.len() as u64,
        _ => (u128::from(total) * u128::from(share) / sum) as u64,
    };
    let mut counts: Vec<u64> = shares.iter().map(|&share| share_of(share)).collect();
    let given: u64 = counts.iter().sum();
    if let Some(last) = counts.last_mut() {
        *last += total - given;
    }
    counts
}

/// Divides `total` in proportion to `shares` by largest remainder: the result depends on the
/// shares and not on their order, ties go to the earlier one.
#[must_use]
pub fn largest_remainder(total: u64, shares: &[u64]) -> Vec<u64> {
    let sum: u128 = shares.iter().map(|&share| u128::from(share)).sum();
    if sum == 0 {
        return vec![0; shares.len()];
    }
    let product = |share: u64| u128::from(total) * u128::from(share);
    let mut counts: Vec<u64> = shares
        .iter()
        .map(|&share| (product(share) / sum) as u64)
        .collect();
    let mut by_remainder: Vec<usize> = (0..shares.len()).collect();
    by_remainder.sort_by_key(|&i| (std::cmp::Reverse(product(shares[i]) % sum), i));
    let given: u64 = counts.iter().sum();
    for &i in by_remainder.iter().take((total - given) as usize) {
        counts[i] += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn noise_is_standard_gumbel() {
        let n = 200_000;
        let noise: Vec<f64> = (0..n)
            .map(|i| gumbel(7, "target", &format!("doc-{i}")))
            .collect();
        let mean = noise.iter().sum::<f64>() / f64::from(n);
        let variance = noise.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / f64::from(n);
        // The Euler-Mascheroni constant and pi^2 / 6; tolerances of five standard errors.
        assert!((mean - 0.577_215_664_9).abs() < 0.015, "{mean}");
        assert!((variance - 1.644_934).abs() < 0.05, "{variance}");
    }

    #[test]
    fn noise_depends_on_seed_target_and_document() {
        let noise = gumbel(1, "ab", "c");
        assert_eq!(noise, gumbel(1, "ab", "c"));
        for other in [
            gumbel(2, "ab", "c"),
            gumbel(1, "a", "bc"),
            gumbel(1, "ab", "d"),
        ] {
            assert_ne!(noise, other);
        }
    }

    /// Of documents with weights 1, 2, 3, 4, two are drawn without replacement. The chance of the
    /// last one is computed by hand: 4/10 + sum over the first drawn w/10 * 4/(10 - w).
    #[test]
    fn the_largest_keys_are_a_sample_without_replacement() {
        let weights: [f64; 4] = [1.0, 2.0, 3.0, 4.0];
        let n = 100_000_u32;
        let mut n_last = 0;
        for seed in 0..u64::from(n) {
            let mut keys: Vec<(f64, usize)> = weights
                .iter()
                .enumerate()
                .map(|(i, weight)| (weight.ln() + gumbel(seed, "", &i.to_string()), i))
                .collect();
            keys.sort_by(|a, b| b.0.total_cmp(&a.0));
            n_last += u32::from(keys[..2].iter().any(|&(_, i)| i == 3));
        }
        let expected = 0.4 + 0.1 * 4.0 / 9.0 + 0.2 * 4.0 / 8.0 + 0.3 * 4.0 / 7.0;
        let share = f64::from(n_last) / f64::from(n);
        let error = (expected * (1.0 - expected) / f64::from(n)).sqrt();
        assert!((share - expected).abs() < 5.0 * error, "{share} {expected}");
    }

    #[test]
    fn the_remainder_goes_to_the_last() {
        assert_eq!(proportional_counts(10, &[1, 1, 1]), [3, 3, 4]);
        assert_eq!(proportional_counts(10, &[0, 5]), [0, 10]);
        assert_eq!(proportional_counts(u64::MAX, &[u64::MAX, 0]), [u64::MAX, 0]);
        assert_eq!(proportional_counts(3, &[0, 0]), [1, 2]);
    }

    proptest! {
        #[test]
        fn nothing_is_lost_in_division(total in 0_u64..1_000_000, shares in proptest::collection::vec(0_u64..1000, 1..9)) {
            prop_assert_eq!(proportional_counts(total, &shares).iter().sum::<u64>(), total);
            let counts = largest_remainder(total, &shares);
            let sum: u64 = shares.iter().sum();
            prop_assert_eq!(counts.iter().sum::<u64>(), if sum == 0 { 0 } else { total });
            for (count, share) in counts.iter().zip(&shares) {
                prop_assert!(sum == 0 || (*count as f64 - (total * share) as f64 / sum as f64).abs() < 1.0);
            }
        }

        #[test]
        fn noise_is_finite(seed: u64, target in ".{0,5}", id in ".{0,9}") {
            prop_assert!(gumbel(seed, &target, &id).is_finite());
        }
    }
}
