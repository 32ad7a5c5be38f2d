//! Texts that are the same, or nearly so: MinHash over 5-grams of tokens, with banded
//! locality-sensitive hashing.
//!
//! 1. [`DuplicateIndex::insert`] takes texts in any order and keeps a signature of each;
//! 2. [`DuplicateIndex::finish`] goes through them by ascending id and compares each with those
//!    kept before it: what is like a kept one is its duplicate, what is not is kept.
//!
//! So the result is a function of the set of (id, text), whatever order or number of workers they
//! come from, and each duplicate names a text that is kept. Two texts count as near duplicates
//! where at least [`NEAR_DUPLICATE_SIMILARITY_MIN`] of the minima agree: an estimate of the Jaccard
//! similarity of their 5-grams with a standard deviation of 0.035 there. Texts below five tokens
//! have one shingle, and are duplicates only if all of it agrees.

use std::collections::{BTreeMap, HashMap};

use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::words::Tokens;

/// Estimated similarity from which two texts are near duplicates.
pub const NEAR_DUPLICATE_SIMILARITY_MIN: f64 = 0.8;
/// The same as a number of minima.
const AGREEING_MIN: usize = (N_MINIMA * 4).div_ceil(5);
/// Tokens of a shingle.
const SHINGLE_TOKENS: usize = 5;
/// Minima of a signature.
const N_MINIMA: usize = BANDS * ROWS;
/// Bands: two texts are compared if all rows of one of them agree. At a similarity of 0.8 that
/// fails for 1 pair in 10^7, at 0.3 it holds for one in four.
const BANDS: usize = 32;
/// Rows of a band.
const ROWS: usize = 4;
/// Comparisons of one text, so that a band that all texts share costs no more than this each.
const COMPARISONS_MAX: usize = 4_096;
/// Shingles of a text that count, about a megabyte of text.
const SHINGLES_MAX: usize = 200_000;

/// What a text repeats.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DuplicateOf {
    /// Id of the text that is kept: a smaller one.
    pub id: String,
    /// Whether the texts have the same tokens ([`crate::Flag::Duplicate`]), else they are nearly
    /// the same ([`crate::Flag::NearDuplicate`]).
    pub is_exact: bool,
}

/// Why a text is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DuplicateError {
    /// More texts than the index was made for.
    #[error("more than {capacity} texts to compare: raise the bound, or compare them in parts")]
    Full {
        /// The bound.
        capacity: usize,
    },
    /// Ids decide, so that each must be there once.
    #[error("two texts to compare have the id `{id}`")]
    IdTwice {
        /// The id.
        id: String,
    },
}

/// Finds duplicates among texts. About 600 bytes for each text with its id.
#[derive(Debug)]
pub struct DuplicateIndex {
    capacity: usize,
    texts: BTreeMap<String, Signature>,
    /// Multiplier and summand of each minimum's hash.
    hashes: Vec<(u64, u64)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Signature {
    /// Of all tokens.
    exact: [u8; 16],
    minima: Box<[u32; N_MINIMA]>,
}

impl DuplicateIndex {
    /// An index for at most `capacity` texts.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let number =
            |index: usize, seed: u64| xxh3_64_with_seed(&(index as u64).to_le_bytes(), seed);
        // An odd multiplier is a bijection of 64 bits.
        let hashes = (0..N_MINIMA)
            .map(|index| (number(index, 1) | 1, number(index, 2)))
            .collect();
        Self {
            capacity,
            texts: BTreeMap::new(),
            hashes,
        }
    }

    /// Takes a text. One without tokens is never a duplicate.
    pub fn insert(&mut self, id: &str, text: &str) -> Result<(), DuplicateError> {
        let tokens = Tokens::new(text);
        if tokens.is_empty() {
            return Ok(());
        }
        if self.texts.contains_key(id) {
            return Err(DuplicateError::IdTwice { id: id.to_owned() });
        }
        if self.texts.len() >= self.capacity {
            return Err(DuplicateError::Full {
                capacity: self.capacity,
            });
        }
        let signature = self.signature(&tokens);
        self.texts.insert(id.to_owned(), signature);
        Ok(())
    }

    fn signature(&self, tokens: &Tokens) -> Signature {
        let token_hashes = tokens.hashes();
        let bytes: Vec<u8> = token_hashes
            .iter()
            .flat_map(|hash| hash.to_le_bytes())
            .collect();
        let mut exact = [0; 16];
        exact.copy_from_slice(&blake3::hash(&bytes).as_bytes()[..16]);
        let shingle_bytes = size_of::<u64>() * SHINGLE_TOKENS.min(token_hashes.len());
        let mut minima = Box::new([u32::MAX; N_MINIMA]);
        for shingle in bytes
            .windows(shingle_bytes)
            .step_by(size_of::<u64>())
            .take(SHINGLES_MAX)
        {
            let shingle_hash = xxh3_64_with_seed(shingle, 0);
            for (minimum, (multiplier, summand)) in minima.iter_mut().zip(&self.hashes) {
                let hash = shingle_hash
                    .wrapping_mul(*multiplier)
                    .wrapping_add(*summand);
                // The high bits are the well mixed ones.
                *minimum = (*minimum).min((hash >> 32) as u32);
            }
        }
        Signature { exact, minima }
    }

    /// What each duplicate repeats, by id. Texts that are kept are not in it.
    #[must_use]
    pub fn finish(self) -> BTreeMap<String, DuplicateOf> {
        let texts: Vec<(String, Signature)> = self.texts.into_iter().collect();
        let mut kept_exact: HashMap<[u8; 16], usize> = HashMap::new();
        let mut kept_bands: HashMap<(usize, [u32; ROWS]), Vec<usize>> = HashMap::new();
        let mut duplicates = BTreeMap::new();
        for (index, (id, signature)) in texts.iter().enumerate() {
            if let Some(&of) = kept_exact.get(&signature.exact) {
                let id_kept = texts[of].0.clone();
                duplicates.insert(
                    id.clone(),
                    DuplicateOf {
                        id: id_kept,
                        is_exact: true,
                    },
                );
                continue;
            }
            let mut candidates: Vec<usize> = bands(signature)
                .filter_map(|band| kept_bands.get(&band))
                .flatten()
                .copied()
                .take(COMPARISONS_MAX)
                .collect();
            candidates.sort_unstable();
            candidates.dedup();
            let near = candidates
                .into_iter()
                .find(|&of| is_near(signature, &texts[of].1));
            if let Some(of) = near {
                let id_kept = texts[of].0.clone();
                duplicates.insert(
                    id.clone(),
                    DuplicateOf {
                        id: id_kept,
                        is_exact: false,
                    },
                );
                continue;
            }
            kept_exact.insert(signature.exact, index);
            for band in bands(signature) {
                kept_bands.entry(band).or_default().push(index);
            }
        }
        duplicates
    }
}

fn bands(signature: &Signature) -> impl Iterator<Item = (usize, [u32; ROWS])> {
    let (bands, _) = signature.minima.as_chunks::<ROWS>();
    bands.iter().copied().enumerate()
}

fn is_near(a: &Signature, b: &Signature) -> bool {
    let n_agreeing = a
        .minima
        .iter()
        .zip(b.minima.iter())
        .filter(|(a, b)| a == b)
        .count();
    n_agreeing >= AGREEING_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    fn duplicates(texts: &[(&str, &str)]) -> Vec<(String, String, bool)> {
        let mut index = DuplicateIndex::new(1_000);
        for (id, text) in texts {
            index.insert(id, text).unwrap();
        }
        index
            .finish()
            .into_iter()
            .map(|(id, of)| (id, of.id, of.is_exact))
            .collect()
    }

    /// `n` words, different for each `seed`.
    fn words(seed: usize, n: usize) -> Vec<String> {
        (0..n)
            .map(|index| format!("w{}", seed * 10_000 + index))
            .collect()
    }

    #[test]
    fn the_smallest_id_is_kept() {
        let found = duplicates(&[
            ("q3", "How do volcanoes form?"),
            ("q1", "how do volcanoes form"),
            ("q2", "how do mountains form"),
            ("q0", "HOW DO VOLCANOES FORM!"),
            ("q4", "火山是怎么形成的"),
            ("q5", "火山是怎么形成的？"),
            ("q6", "?"),
            ("q7", "!"),
        ]);
        let expected = [("q1", "q0"), ("q3", "q0"), ("q5", "q4")]
            .map(|(id, of)| (id.to_owned(), of.to_owned(), true));
        assert_eq!(found, expected);
    }

    #[test]
    fn near_duplicates_are_told_from_texts_on_the_same_topic() {
        // One word of 300 changed: 296 shingles, 5 differ on each side, similarity 0.967.
        let text = words(1, 300);
        let mut changed = text.clone();
        changed[150] = "other".to_owned();
        // Each tenth word changed: half of the shingles differ, similarity 0.33.
        let mut rewritten = text.clone();
        for word in rewritten.iter_mut().step_by(10) {
            *word = format!("{word}x");
        }
        let found = duplicates(&[
            ("d1", &text.join(" ")),
            ("d2", &changed.join(" ")),
            ("d3", &rewritten.join(" ")),
            ("d4", &words(2, 300).join(" ")),
        ]);
        assert_eq!(found, [("d2".to_owned(), "d1".to_owned(), false)]);
        let chinese: String = (0..200)
            .filter_map(|i| char::from_u32(0x4e00 + i))
            .collect();
        let changed = chinese.replacen('\u{4e50}', "字", 1);
        let found = duplicates(&[("a", &chinese), ("b", &changed)]);
        assert_eq!(found, [("b".to_owned(), "a".to_owned(), false)]);
    }

    #[test]
    fn the_order_of_insertion_does_not_count() {
        let mut texts: Vec<(String, String)> = Vec::new();
        for group in 0..10 {
            for variant in 0..5 {
                let mut text = words(group, 100);
                text[variant * 20] = format!("v{variant}");
                texts.push((format!("d{variant}{group}"), text.join(" ")));
            }
        }
        let run = |texts: &[(String, String)]| {
            let mut index = DuplicateIndex::new(100);
            for (id, text) in texts {
                index.insert(id, text).unwrap();
            }
            index.finish()
        };
        let forward = run(&texts);
        texts.reverse();
        assert_eq!(run(&texts), forward);
        texts.sort_by_key(|(_, text)| text.len());
        assert_eq!(run(&texts), forward);
        assert!(!forward.is_empty());
        for of in forward.values() {
            assert!(
                !forward.contains_key(&of.id),
                "{} is a duplicate itself",
                of.id
            );
        }
    }

    #[test]
    fn signatures_do_not_change_between_releases() {
        let index = DuplicateIndex::new(1);
        let signature = index.signature(&Tokens::new("one two three four five six seven"));
        assert_eq!(signature.minima[..2], [199_823_311, 936_351_726]);
    }

    #[test]
    fn the_index_is_bounded_and_ids_are_unique() {
        let mut index = DuplicateIndex::new(1);
        index.insert("a", "one").unwrap();
        let error = index.insert("a", "two").unwrap_err();
        assert_eq!(error, DuplicateError::IdTwice { id: "a".to_owned() });
        assert_eq!(
            index.insert("b", "two").unwrap_err(),
            DuplicateError::Full { capacity: 1 }
        );
    }
}
