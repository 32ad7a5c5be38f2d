//! Importance weights: how much more likely a document's n-grams are under the target
//! (DSIR, arXiv 2302.03169, section 4; reference: the Python package data-selection).

use std::fmt;

use crate::counts::BucketCounts;

/// Added to both probabilities under the logarithm, as the reference does, so that a bucket
/// that one side lacks has a finite ratio.
pub const FLOOR: f64 = 1e-8;

/// Why no model can be fitted.
#[derive(Debug, Clone, PartialEq)]
pub enum FitError {
    /// The target has no n-gram, and there is no pseudo-count.
    EmptyTarget,
    /// The raw corpus has no n-gram.
    EmptyRaw,
    /// The sides have different numbers of buckets.
    Buckets {
        /// Buckets of the raw side.
        raw: usize,
        /// Buckets of the target side.
        target: usize,
    },
    /// The pseudo-count is negative or not a number.
    PseudoCount(f64),
}

impl fmt::Display for FitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::EmptyTarget => f.write_str("the target has no usable token"),
            Self::EmptyRaw => f.write_str("the corpus has no usable token"),
            Self::Buckets { raw, target } => {
                write!(
                    f,
                    "{raw} buckets were counted in the corpus, {target} in the target"
                )
            }
            Self::PseudoCount(value) => {
                write!(f, "the pseudo-count is {value}, it must be zero or more")
            }
        }
    }
}

impl std::error::Error for FitError {}

/// The log ratio of each bucket, in nats:
/// `ln((target + a) / sum(target + a) + 1e-8) - ln(raw / sum(raw) + 1e-8)`,
/// where `a` is the pseudo-count, on the target only.
///
/// # Errors
///
/// If a side is empty; never gives a NaN.
pub fn fit(raw: &[u64], target: &[u64], pseudo_count: f64) -> Result<Vec<f64>, FitError> {
    if raw.len() != target.len() {
        return Err(FitError::Buckets {
            raw: raw.len(),
            target: target.len(),
        });
    }
    if !(pseudo_count >= 0.0 && pseudo_count.is_finite()) {
        return Err(FitError::PseudoCount(pseudo_count));
    }
    let raw_total = raw.iter().sum::<u64>() as f64;
    let target_total = target.iter().sum::<u64>() as f64 + pseudo_count * target.len() as f64;
    if raw_total <= 0.0 {
        return Err(FitError::EmptyRaw);
    }
    if target_total <= 0.0 {
        return Err(FitError::EmptyTarget);
    }
    let log_ratio = |(&raw, &target): (&u64, &u64)| {
        let p = (target as f64 + pseudo_count) / target_total;
        let q = raw as f64 / raw_total;
        (p + FLOOR).ln() - (q + FLOOR).ln()
    };
    Ok(raw.iter().zip(target).map(log_ratio).collect())
}

/// Terms added up plainly before their sum is added with compensation: the error stays below
/// this many roundings, however long the document.
const BLOCK: usize = 128;
/// Blocks that are added up side by side.
const BLOCKS_AT_ONCE: usize = 4;

/// The log weight of a document in nats: the **sum** of its n-grams' log ratios, so long
/// documents have extreme weights. Buckets beyond the model count as zero.
#[must_use]
pub fn log_weight(log_ratios: &[f64], buckets: &[u32]) -> f64 {
    sum_of_terms(buckets, |bucket| {
        log_ratios.get(bucket as usize).copied().unwrap_or(0.0)
    })
}

/// The [`log_weight`] of a document whose n-grams are added to `counts` in the same pass over them.
///
/// # Panics
///
/// If a bucket is not below the number of buckets of `counts`.
#[must_use]
pub fn log_weight_and_count(log_ratios: &[f64], buckets: &[u32], counts: &mut BucketCounts) -> f64 {
    let Some(counts) = counts.with_room_for(buckets.len()) else {
        counts.add(buckets);
        return log_weight(log_ratios, buckets);
    };
    let Some(log_ratios) = log_ratios.get(..counts.len()) else {
        buckets
            .iter()
            .for_each(|&bucket| counts[bucket as usize] += 1);
        return log_weight(log_ratios, buckets);
    };
    sum_of_terms(buckets, |bucket| {
        counts[bucket as usize] += 1;
        log_ratios[bucket as usize]
    })
}

/// An addition waits for the one before. Those of several blocks do not wait for one another, and
/// each block still adds its own terms in their order: no bit of the result depends on how many are
/// added at once.
#[inline]
fn sum_of_terms(buckets: &[u32], mut term: impl FnMut(u32) -> f64) -> f64 {
    let mut sum = CompensatedSum::default();
    let (groups, rest) = buckets.as_chunks::<{ BLOCK * BLOCKS_AT_ONCE }>();
    for group in groups {
        let blocks: &[[u32; BLOCK]] = group.as_chunks().0;
        let mut sums = [-0.0; BLOCKS_AT_ONCE];
        for idx in 0..BLOCK {
            for (sum, block) in sums.iter_mut().zip(blocks) {
                *sum += term(block[idx]);
            }
        }
        sums.into_iter().for_each(|block_sum| sum.add(block_sum));
    }
    for block in rest.chunks(BLOCK) {
        sum.add(block.iter().map(|&bucket| term(bucket)).sum());
    }
    sum.value()
}

/// Neumaier's sum.
#[derive(Debug, Clone, Copy, Default)]
pub struct CompensatedSum {
    sum: f64,
    compensation: f64,
}

impl CompensatedSum {
    /// Adds a term.
    pub fn add(&mut self, term: f64) {
        let sum = self.sum + term;
        self.compensation += if self.sum.abs() >= term.abs() {
            (self.sum - sum) + term
        } else {
            (term - sum) + self.sum
        };
        self.sum = sum;
    }

    /// The sum so far.
    #[must_use]
    pub fn value(&self) -> f64 {
        self.sum + self.compensation
    }
}

/// The log weight divided by the number of tokens (ours; not in the reference). `None` for a
/// document without tokens.
#[must_use]
pub fn log_weight_per_token(log_weight: f64, n_tokens: u32) -> Option<f64> {
    (n_tokens > 0).then(|| log_weight / f64::from(n_tokens))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{FeatureExtractor, FeatureSpec, NgramHash};

    const RAW: [&str; 4] = [
        "the cat sat on the mat",
        "dogs and cats are friends",
        "parallel query engines split work",
        "the quick brown fox jumps over the lazy dog",
    ];
    const TARGET: [&str; 2] = ["cats and dogs", "the cat and the dog are friends"];

    fn count(extractor: &mut FeatureExtractor, texts: &[&str]) -> BucketCounts {
        let mut counts = BucketCounts::new(extractor.spec().buckets);
        for text in texts {
            counts.add(extractor.extract(text).buckets);
        }
        counts
    }

    fn weights(target: &[&str], pseudo_count: f64) -> Vec<f64> {
        let spec = FeatureSpec {
            hash: NgramHash::Sha256,
            ..FeatureSpec::default()
        };
        let mut extractor = FeatureExtractor::new(spec).unwrap();
        let raw = count(&mut extractor, &RAW);
        let target = count(&mut extractor, target);
        let ratios = fit(&raw.to_vec(), &target.to_vec(), pseudo_count).unwrap();
        RAW.iter()
            .map(|text| log_weight(&ratios, extractor.extract(text).buckets))
            .collect()
    }

    /// The small reference example: the weights of the original package.
    #[test]
    fn the_small_example_has_the_reference_weights() {
        let expected = [
            (
                0.0,
                [
                    -99.777_495_069,
                    -37.453_356_180,
                    -131.328_358_267,
                    -202.860_043_080,
                ],
            ),
            (
                1.0,
                [
                    -58.406_676_898,
                    -43.886_547_804,
                    -48.450_578_782,
                    -91.400_159_847,
                ],
            ),
        ];
        for (pseudo_count, expected) in expected {
            for (weight, expected) in weights(&TARGET, pseudo_count).iter().zip(expected) {
                assert!((weight - expected).abs() < 1e-8, "{weight} {expected}");
            }
        }
    }

    #[test]
    fn a_target_equal_to_the_corpus_gives_zero() {
        assert_eq!(weights(&RAW, 0.0), [0.0; 4]);
    }

    /// Weights are compared and reproduced to the bit, so the order of additions is fixed.
    #[test]
    fn blocks_are_summed_in_order_and_one_after_the_other() {
        let ratios: Vec<f64> = (1..=997_u32).map(|i| f64::from(i).sin() * 1e3).collect();
        let buckets: Vec<u32> = (0..4 * 512 + 300).map(|i: u32| i * i % 1009).collect();
        for n in [0, 1, 127, 128, 511, 512, 513, 1025, buckets.len()] {
            let mut sum = CompensatedSum::default();
            for block in buckets[..n].chunks(128) {
                let mut block_sum = -0.0;
                for &bucket in block {
                    block_sum += ratios.get(bucket as usize).copied().unwrap_or(0.0);
                }
                sum.add(block_sum);
            }
            let weight = log_weight(&ratios, &buckets[..n]);
            assert_eq!(weight.to_bits(), sum.value().to_bits(), "{n}");

            for n_buckets in [1009, 997, 1100] {
                let mut counts = BucketCounts::new(n_buckets.max(1009));
                let ratios = &ratios[..ratios.len().min(n_buckets as usize)];
                let weight = log_weight_and_count(ratios, &buckets[..n], &mut counts);
                let mut expected = BucketCounts::new(n_buckets.max(1009));
                expected.add(&buckets[..n]);
                assert_eq!(weight.to_bits(), sum.value().to_bits(), "{n}");
                assert_eq!(counts, expected);
            }
        }
    }

    #[test]
    fn an_empty_side_is_an_error() {
        assert_eq!(fit(&[1, 2], &[0, 0], 0.0), Err(FitError::EmptyTarget));
        assert_eq!(fit(&[0, 0], &[1, 0], 0.0), Err(FitError::EmptyRaw));
        assert!(fit(&[1, 2], &[0, 0], 0.5).is_ok());
        assert!(fit(&[1], &[1, 1], 0.0).is_err());
        assert!(fit(&[1], &[1], f64::NAN).is_err());
    }
}
