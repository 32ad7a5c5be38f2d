//! How near what is tested is to what was trained on.

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::features::{DIMENSIONS, TextVectors};
use crate::grading::Estimate;

/// Texts of the test side that are compared with all of the training side; of more, those with the
/// smallest hashes.
pub const OVERLAP_TESTED_MAX: usize = 1000;
/// Cosine from which two texts have the same words, but for rounding.
const SAME_WORDS: f64 = 1.0 - 1e-9;

/// What a test set has in common with a training set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Overlap {
    /// The cosine ([`TextVectors`]) of a tested text and the nearest one in training.
    pub nearest_cosine: Estimate,
    /// The share of tested texts whose words, as often and in whatever order, are those of a text
    /// in training.
    pub same_words_share: f64,
}

/// Compares a test set with a training set; `None` if either is empty. `seed` draws the sample of
/// tested texts and the interval.
#[must_use]
pub fn overlap(train: &[&str], tested: &[&str], seed: u64) -> Option<Overlap> {
    if train.is_empty() {
        return None;
    }
    let hash = |text: &&str| xxh3_64_with_seed(text.as_bytes(), seed);
    let mut tested: Vec<&str> = tested.to_vec();
    tested.sort_unstable_by_key(|text| (hash(text), *text));
    tested.truncate(OVERLAP_TESTED_MAX);
    let texts: Vec<&str> = train.iter().chain(&tested).copied().collect();
    let vectors = TextVectors::new(&texts);

    let mut lists: Vec<Vec<(usize, f64)>> = vec![Vec::new(); DIMENSIONS];
    for item in 0..train.len() {
        for &(dimension, x) in vectors.vector(item) {
            lists[usize::from(dimension)].push((item, x));
        }
    }
    let mut cosines = vec![0.0; train.len()];
    let mut nearest_cosine = |item| {
        cosines.fill(0.0);
        for &(dimension, x) in vectors.vector(item) {
            for &(other, y) in &lists[usize::from(dimension)] {
                cosines[other] += x * y;
            }
        }
        cosines.iter().copied().fold(0.0, f64::max)
    };
    let nearest: Vec<f64> = (train.len()..texts.len())
        .map(&mut nearest_cosine)
        .collect();
    let n_same = nearest
        .iter()
        .filter(|&&cosine| cosine >= SAME_WORDS)
        .count();
    Some(Overlap {
        nearest_cosine: Estimate::new(&nearest, seed)?,
        same_words_share: n_same as f64 / nearest.len() as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlap_is_with_the_nearest_text() {
        let train = ["how do tides work", "what is bread", "who plays violin"];
        let found = overlap(&train, &["work tides, how do?", "quite other things"], 1).unwrap();
        assert_eq!((found.same_words_share, found.nearest_cosine.n), (0.5, 2));
        assert!((found.nearest_cosine.mean - 0.5).abs() < 1e-9);
        let near = overlap(&train, &["how do tides rise"], 1).unwrap();
        let vectors = TextVectors::new(&[train[0], train[1], train[2], "how do tides rise"]);
        assert!((near.nearest_cosine.mean - vectors.cosine(0, 3)).abs() < 1e-12);
        assert_eq!(near.same_words_share, 0.0);
    }

    #[test]
    fn an_empty_side_has_no_overlap() {
        assert_eq!(overlap(&[], &["a"], 1), None);
        assert_eq!(overlap(&["a"], &[], 1), None);
        assert_eq!(overlap(&["a"], &[""], 1).unwrap().nearest_cosine.mean, 0.0);
    }

    #[test]
    fn a_sample_does_not_depend_on_order() {
        let texts: Vec<String> = (0..1500).map(|i| format!("w{} x{}", i % 40, i)).collect();
        let train: Vec<&str> = texts[..50].iter().map(String::as_str).collect();
        let mut tested: Vec<&str> = texts[20..].iter().map(String::as_str).collect();
        let found = overlap(&train, &tested, 3).unwrap();
        tested.reverse();
        assert_eq!(overlap(&train, &tested, 3).unwrap(), found);
        assert_eq!(found.nearest_cosine.n, OVERLAP_TESTED_MAX);
    }
}
