//! Hashed n-grams: a document as a bag of buckets.
//!
//! # The hashes, which are stored and must not change
//!
//! `sha256`, version 1, as the reference package: the n-gram is its tokens joined by one space;
//! bucket = SHA-256 of its UTF-8 bytes, as a big-endian integer, modulo the number of buckets.
//!
//! `xxh3`, version 1: `t(w) = XXH3-64(w, seed 0)` per token; `h(w1) = t(w1)`;
//! `h(w1..wk) = fold((h(w1..wk-1) ^ A) * (t(wk) ^ B))`, where the product has 128 bits, `fold`
//! xors its halves, `A = 0x9e3779b97f4a7c15` and `B = 0xd1b54a32d192ed03`; bucket = the upper 64
//! bits of `h * number of buckets`. Tokens are hashed once, and no string is built.

use std::fmt;
use std::str::FromStr;

use crate::avx512::Avx512;
use crate::sha_buckets::ShaBuckets;
use crate::token_hash::fold;
use crate::token_memo::TokenHasher;
use crate::tokenize::{Tokenizer, Tokens};

/// Longest n-gram.
pub const NGRAMS_MAX: u8 = 4;
/// Largest number of buckets.
pub const BUCKETS_MAX: u32 = 1 << 24;

pub(crate) const FIRST_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
pub(crate) const SECOND_FACTOR: u64 = 0xd1b5_4a32_d192_ed03;

/// How n-grams become buckets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum NgramHash {
    /// The fast one.
    #[default]
    Xxh3,
    /// The reference package's.
    Sha256,
}

impl NgramHash {
    /// The name in job files and in fitted models.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Xxh3 => "xxh3",
            Self::Sha256 => "sha256",
        }
    }

    /// The version of its definition above.
    #[must_use]
    pub fn version(self) -> u32 {
        1
    }
}

impl fmt::Display for NgramHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for NgramHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "xxh3" => Ok(Self::Xxh3),
            "sha256" => Ok(Self::Sha256),
            _ => Err(format!("{text:?} is not a hash: expected xxh3 or sha256")),
        }
    }
}

/// What a document is turned into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct FeatureSpec {
    /// How text is split.
    pub tokenizer: Tokenizer,
    /// All i-grams for i = 1..=ngrams.
    pub ngrams: u8,
    /// Number of buckets.
    pub buckets: u32,
    /// How n-grams become buckets.
    pub hash: NgramHash,
}

impl Default for FeatureSpec {
    fn default() -> Self {
        Self {
            tokenizer: Tokenizer::default(),
            ngrams: 2,
            buckets: 10_000,
            hash: NgramHash::default(),
        }
    }
}

/// A [`FeatureSpec`] outside of its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FeatureError {
    /// Not 1 to [`NGRAMS_MAX`].
    Ngrams(u8),
    /// Not 1 to [`BUCKETS_MAX`].
    Buckets(u32),
}

impl fmt::Display for FeatureError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ngrams(n) => write!(f, "ngrams is {n}, it must be 1 to {NGRAMS_MAX}"),
            Self::Buckets(n) => write!(f, "buckets is {n}, it must be 1 to {BUCKETS_MAX}"),
        }
    }
}

impl std::error::Error for FeatureError {}

/// Turns documents into buckets. Keeps memory between documents, so one per thread.
pub struct FeatureExtractor {
    spec: FeatureSpec,
    tokens: Tokens,
    buckets: Vec<u32>,
    hasher: Hasher,
    avx512: Option<Avx512>,
}

impl fmt::Debug for FeatureExtractor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FeatureExtractor")
            .field("spec", &self.spec)
            .finish_non_exhaustive()
    }
}

/// What finds the buckets, and what it remembers.
enum Hasher {
    Xxh3(TokenHasher),
    Sha256(ShaBuckets),
}

/// A document's features.
#[derive(Debug, Clone, Copy)]
pub struct Features<'a> {
    /// Number of tokens.
    pub n_tokens: u32,
    /// The bucket of every n-gram, with repetition; of L tokens there are
    /// `L + (L - 1) + ... + (L - n + 1)`. The order is a function of the document.
    pub buckets: &'a [u32],
}

impl FeatureExtractor {
    /// An extractor for `spec`.
    ///
    /// # Errors
    ///
    /// If the spec is out of bounds.
    pub fn new(spec: FeatureSpec) -> Result<Self, FeatureError> {
        Self::on(Avx512::detect(), spec)
    }

    fn on(avx512: Option<Avx512>, spec: FeatureSpec) -> Result<Self, FeatureError> {
        if !(1..=NGRAMS_MAX).contains(&spec.ngrams) {
            return Err(FeatureError::Ngrams(spec.ngrams));
        }
        if !(1..=BUCKETS_MAX).contains(&spec.buckets) {
            return Err(FeatureError::Buckets(spec.buckets));
        }
        Ok(Self {
            spec,
            tokens: Tokens::on(avx512, spec.tokenizer),
            buckets: Vec::new(),
            hasher: match spec.hash {
                NgramHash::Xxh3 => Hasher::Xxh3(TokenHasher::new(avx512)),
                NgramHash::Sha256 => Hasher::Sha256(ShaBuckets::new(spec.buckets)),
            },
            avx512,
        })
    }

    /// What it extracts.
    #[must_use]
    pub fn spec(&self) -> FeatureSpec {
        self.spec
    }

    /// The tokens of the document that was extracted last.
    #[must_use]
    pub fn tokens(&self) -> &Tokens {
        &self.tokens
    }

    /// The features of a document.
    pub fn extract(&mut self, text: &str) -> Features<'_> {
        self.tokens.set(text);
        let spec = self.spec;
        let buckets = match &mut self.hasher {
            Hasher::Sha256(sha) => {
                self.buckets.clear();
                sha.extend(&self.tokens, spec.ngrams, &mut self.buckets);
                &self.buckets
            }
            Hasher::Xxh3(hasher) => {
                let (starts, ends) = self.tokens.bounds();
                let hashes = hasher.hash(self.tokens.padded_lower(), starts, ends);
                match (self.avx512, spec.ngrams) {
                    (Some(avx512), 2) => {
                        avx512.bigram_buckets(hashes, spec.buckets, &mut self.buckets)
                    }
                    _ => {
                        xxh3_buckets(hashes, spec.ngrams, spec.buckets, &mut self.buckets);
                        &self.buckets
                    }
                }
            }
        };
        Features {
            // Spans are 32-bit offsets, so there are fewer tokens than that.
            n_tokens: self.tokens.len() as u32,
            buckets,
        }
    }
}

/// Order-sensitive: the two operands are treated differently.
pub(crate) fn combine(prefix: u64, token: u64) -> u64 {
    fold(prefix ^ FIRST_FACTOR, token ^ SECOND_FACTOR)
}

pub(crate) fn reduce(hash: u64, buckets: u32) -> u32 {
    ((u128::from(hash) * u128::from(buckets)) >> 64) as u32
}

fn xxh3_buckets(tokens: &[u64], ngrams: u8, n_buckets: u32, buckets: &mut Vec<u32>) {
    if ngrams == 2 {
        // The usual case, each token with the one before: without a loop inside, and into memory
        // that is there already.
        buckets.resize((2 * tokens.len()).saturating_sub(1), 0);
        if let (Some((bucket, pairs)), Some(&first)) = (buckets.split_first_mut(), tokens.first()) {
            *bucket = reduce(first, n_buckets);
            for (pair, tokens) in pairs.as_chunks_mut().0.iter_mut().zip(tokens.windows(2)) {
                let bigram = combine(tokens[0], tokens[1]);
                *pair = [reduce(tokens[1], n_buckets), reduce(bigram, n_buckets)];
            }
        }
        return;
    }
    buckets.clear();
    for start in 0..tokens.len() {
        let mut hash = tokens[start];
        buckets.push(reduce(hash, n_buckets));
        for &token in tokens[start + 1..].iter().take(usize::from(ngrams) - 1) {
            hash = combine(hash, token);
            buckets.push(reduce(hash, n_buckets));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn buckets(spec: FeatureSpec, text: &str) -> Vec<u32> {
        let mut extractor = FeatureExtractor::new(spec).unwrap();
        let mut buckets = extractor.extract(text).buckets.to_vec();
        buckets.sort_unstable();
        buckets
    }

    fn spec(hash: NgramHash, ngrams: u8, n_buckets: u32) -> FeatureSpec {
        FeatureSpec {
            hash,
            ngrams,
            buckets: n_buckets,
            ..FeatureSpec::default()
        }
    }

    #[test]
    fn sha256_gives_the_buckets_of_the_reference() {
        let two = spec(NgramHash::Sha256, 2, 10_000);
        assert!(buckets(two, "alice").contains(&6720));
        assert!(buckets(two, "alice went").contains(&114));
        assert_eq!(buckets(two, "a b c d e").len(), 9);
    }

    /// The hash is stored in fitted models: these buckets were computed once and must stay.
    #[test]
    fn xxh3_is_stable() {
        let three = spec(NgramHash::Xxh3, 3, 10_000);
        let mut extractor = FeatureExtractor::new(three).unwrap();
        assert_eq!(
            extractor.extract("Alice went home.").buckets,
            XXH3_OF_ALICE_WENT_HOME
        );
    }

    const XXH3_OF_ALICE_WENT_HOME: [u32; 9] =
        [3032, 3332, 8467, 4253, 3221, 6202, 3285, 9798, 6700];

    #[test]
    fn the_usual_case_equals_the_general_one() {
        let text = "the quick brown fox jumps over the lazy dog . the end";
        let bigrams = buckets(spec(NgramHash::Xxh3, 2, 1 << 20), text);
        let mut trigrams = buckets(spec(NgramHash::Xxh3, 3, 1 << 20), text);
        trigrams.retain(|bucket| bigrams.contains(bucket));
        assert_eq!(bigrams, trigrams);
    }

    #[test]
    fn every_processor_gives_the_same() {
        let texts = [
            "",
            "a",
            "The naïve «fox» jumps over 12 lazy dogs-of-war\u{a0}… ΜΕΓΑΣ antidisestablishmentarianism!",
            "Die Donaudampfschifffahrtsgesellschaft, сегодня непредсказуемость 東京都 x_y1 a.b.c.d.e.f",
        ];
        for hash in [NgramHash::Xxh3, NgramHash::Sha256] {
            for ngrams in 1..=NGRAMS_MAX {
                let spec = spec(hash, ngrams, 10_000);
                let mut extractors = [Avx512::detect(), None]
                    .map(|avx512| FeatureExtractor::on(avx512, spec).unwrap());
                for n_copies in [1, 2, 3, 7, 1] {
                    for text in texts.map(|text| text.repeat(n_copies)) {
                        let [fast, portable] = extractors
                            .each_mut()
                            .map(|extractor| extractor.extract(&text).buckets.to_vec());
                        assert_eq!(fast, portable, "{spec:?} {text}");
                    }
                }
            }
        }
    }

    #[test]
    fn order_and_length_matter() {
        let one = spec(NgramHash::Xxh3, 2, 1 << 24);
        assert_ne!(buckets(one, "dog bites man"), buckets(one, "man bites dog"));
        assert_eq!(buckets(one, "x x").len(), 3);
        let same = buckets(one, "x x");
        assert_ne!(same[0], same[2]);
    }

    #[test]
    fn buckets_are_even() {
        for hash in [NgramHash::Xxh3, NgramHash::Sha256] {
            let n_buckets = 256;
            let text: Vec<String> = (0..20_000).map(|i| format!("w{i}")).collect();
            let mut counts: HashMap<u32, f64> = HashMap::new();
            let all = buckets(spec(hash, 2, n_buckets), &text.join(" "));
            for bucket in &all {
                *counts.entry(*bucket).or_default() += 1.0;
            }
            let expected = all.len() as f64 / f64::from(n_buckets);
            let chi_square: f64 = counts
                .values()
                .map(|count| (count - expected).powi(2) / expected)
                .sum();
            // 255 degrees of freedom: mean 255, standard deviation 22.6.
            assert!((150.0..370.0).contains(&chi_square), "{hash}: {chi_square}");
        }
    }

    #[test]
    fn specs_out_of_bounds_are_refused() {
        for (ngrams, n_buckets) in [(0, 10), (5, 10), (2, 0), (2, BUCKETS_MAX + 1)] {
            assert!(FeatureExtractor::new(spec(NgramHash::Xxh3, ngrams, n_buckets)).is_err());
        }
    }
}
