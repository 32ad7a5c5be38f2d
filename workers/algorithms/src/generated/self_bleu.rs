//! Self-BLEU: how well the other texts foretell a text (arXiv 1802.01886).

use std::collections::HashMap;

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Longest n-grams.
const N_MAX: usize = 4;
/// What n-grams without a match count as (method 1 of Chen and Cherry 2014), as in the first
/// publication's code.
const NO_MATCH: f64 = 0.1;

/// The mean BLEU-4 of each text of a sample against all others of it, from 0 (nothing in common)
/// to 1 (all the same). `None` if fewer than two texts have words.
///
/// The sample are the `sample_texts_max` texts with the smallest hashes of (seed, id), so it does
/// not depend on the order of texts. The value grows with the sample: compare equal sizes. Time and
/// memory are linear in the sample's words.
#[must_use]
pub fn self_bleu<T: AsRef<[u32]>>(
    texts: &[(&str, T)],
    sample_texts_max: usize,
    seed: u64,
) -> Option<f64> {
    let mut sample: Vec<(u64, &str, &[u32])> = texts
        .iter()
        .map(|(id, text)| (xxh3_64_with_seed(id.as_bytes(), seed), *id, text.as_ref()))
        .filter(|(_, _, text)| !text.is_empty())
        .collect();
    sample.sort_unstable();
    sample.truncate(sample_texts_max);
    if sample.len() < 2 {
        return None;
    }
    let sample: Vec<&[u32]> = sample.into_iter().map(|(_, _, text)| text).collect();
    let log_precisions = log_precisions(&sample);
    let mut lengths: Vec<usize> = sample.iter().map(|text| text.len()).collect();
    lengths.sort_unstable();
    let bleu = |(text, log_precision): (&&[u32], f64)| {
        let reference = closest_other_length(&lengths, text.len());
        let ratio = reference as f64 / text.len() as f64;
        libm::exp(log_precision + (1.0 - ratio).min(0.0))
    };
    let sum: f64 = sample.iter().zip(log_precisions).map(bleu).sum();
    Some(sum / sample.len() as f64)
}

/// Of each text, the mean over n of the logarithm of the n-grams' precision: the share of its
/// n-grams that are in another text, each as often as the other text with the most has it.
fn log_precisions(sample: &[&[u32]]) -> Vec<f64> {
    let mut sums = vec![0.0; sample.len()];
    for n in 1..=N_MAX {
        let counted: Vec<HashMap<&[u32], u32>> = sample.iter().map(|text| count(text, n)).collect();
        let mut most: HashMap<&[u32], Most> = HashMap::new();
        for (text_idx, counts) in counted.iter().enumerate() {
            for (&n_gram, &count) in counts {
                most.entry(n_gram).or_default().add(text_idx, count);
            }
        }
        for (text_idx, (sum, counts)) in sums.iter_mut().zip(&counted).enumerate() {
            let others = |n_gram: &[u32]| most.get(n_gram).map_or(0, |most| most.besides(text_idx));
            let matching =
                |(&n_gram, &count): (&&[u32], &u32)| u64::from(count.min(others(n_gram)));
            let n_matching: u64 = counts.iter().map(matching).sum();
            let n_all: u64 = counts.values().map(|&count| u64::from(count)).sum();
            let n_matching = match n_matching {
                // Without a word in common nothing is foretold.
                0 if n == 1 => 0.0,
                0 => NO_MATCH,
                _ => n_matching as f64,
            };
            // A text shorter than n has one n-gram without a match.
            *sum += libm::log(n_matching / n_all.max(1) as f64) / N_MAX as f64;
        }
    }
    sums
}

fn count(text: &[u32], n: usize) -> HashMap<&[u32], u32> {
    let mut counts = HashMap::new();
    for n_gram in text.windows(n) {
        *counts.entry(n_gram).or_default() += 1;
    }
    counts
}

/// The largest two counts of an n-gram, and whose the largest is.
#[derive(Debug, Default)]
struct Most {
    text_idx: usize,
    count: u32,
    second: u32,
}

impl Most {
    fn add(&mut self, text_idx: usize, count: u32) {
        if count > self.count {
            self.second = self.count;
            (self.text_idx, self.count) = (text_idx, count);
        } else {
            self.second = self.second.max(count);
        }
    }

    /// The largest count in any other text.
    fn besides(&self, text_idx: usize) -> u32 {
        if text_idx == self.text_idx {
            self.second
        } else {
            self.count
        }
    }
}

/// The length of another text that is nearest to `length`, of equally near ones the smaller;
/// `lengths` are sorted and contain it.
fn closest_other_length(lengths: &[usize], length: usize) -> usize {
    let own = lengths.partition_point(|&other| other < length);
    let below = own.checked_sub(1).map(|idx| lengths[idx]);
    let above = lengths.get(own + 1).copied();
    match (below, above) {
        (Some(below), Some(above)) if above - length < length - below => above,
        (Some(below), _) => below,
        (None, Some(above)) => above,
        (None, None) => length,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generated::Words;

    fn check(texts: &[&str], expected: f64) {
        let mut words = Words::default();
        let mut texts: Vec<(&str, Vec<u32>)> =
            texts.iter().map(|&text| (text, words.of(text))).collect();
        let found = self_bleu(&texts, 100, 1).unwrap();
        assert!((found - expected).abs() < 1e-12, "{found} {expected}");
        texts.reverse();
        assert_eq!(self_bleu(&texts, 100, 1), Some(found));
    }

    #[test]
    fn values_are_those_of_nltk() {
        check(
            &[
                "what is the capital of france",
                "what is the capital of the north of the country",
                "how do cats see in the dark at night",
                "what is the best way to see in the dark",
            ],
            0.379_750_474_315_692_5,
        );
        check(&["a b c d e", "a b c d e", "a b c d e"], 1.0);
        check(&["a b c d e", "f g h i j"], 0.0);
        // Short texts lack long n-grams.
        check(&["a b", "a b c"], 0.216_041_488_477_560_22);
    }

    #[test]
    fn a_sample_depends_on_seed_and_ids() {
        let texts: Vec<(String, Vec<u32>)> = (0..50_u32)
            .map(|i| (format!("q{i}"), (0..20).map(|j| (i * j) % 17).collect()))
            .collect();
        let texts: Vec<(&str, &Vec<u32>)> = texts.iter().map(|(id, t)| (id.as_str(), t)).collect();
        let sampled = self_bleu(&texts, 10, 1);
        let mut backward = texts.clone();
        backward.reverse();
        assert_eq!(self_bleu(&backward, 10, 1), sampled);
        assert_ne!(self_bleu(&texts, 10, 2), sampled);
        assert_eq!(self_bleu(&texts, 1, 1), None);
        assert_eq!(
            self_bleu::<Vec<u32>>(&[("a", vec![]), ("b", vec![1])], 10, 1),
            None
        );
    }

    #[test]
    fn the_nearest_length_is_of_another_text() {
        assert_eq!(closest_other_length(&[3, 5, 6], 5), 6);
        assert_eq!(closest_other_length(&[4, 5, 6], 5), 4);
        assert_eq!(closest_other_length(&[2, 5, 5], 5), 5);
        assert_eq!(closest_other_length(&[2, 5], 2), 5);
    }
}
