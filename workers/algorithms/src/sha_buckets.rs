//! The reference package's buckets, remembered.
//!
//! SHA-256 of every n-gram is the reference's bottleneck. Natural text repeats its n-grams, so
//! their buckets are kept in direct-mapped tables of fixed size, in which an n-gram is recognised
//! by 122 bits of its XXH3-128: a wrong bucket is as improbable as a collision of checksums.
//!
//! N-grams are handled in batches, in steps that do not wait for one another: look all of them up
//! without branching on the result, lay out the missed ones as blocks of SHA-256, hash the blocks.
//! That way the processor overlaps the accesses to memory, and the hashes.

use std::ops::Range;

use sha2::block_api::compress256;
use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_128;

use crate::prefetch::prefetch;
use crate::token_hash::read_16;
use crate::tokenize::Tokens;

/// Entries of the table of single tokens, of 16 bytes: a language's frequent words (512 KiB).
const TOKEN_ENTRIES: usize = 1 << 15;
/// Entries of the table of longer n-grams, of 16 bytes (8 MiB).
const NGRAM_ENTRIES: usize = 1 << 19;
/// N-grams that are looked up together.
const BATCH: usize = 64;

/// Finds the buckets of n-grams. Results do not depend on what was remembered.
pub(crate) struct ShaBuckets {
    modulus: Modulus,
    token_memo: Memo,
    ngram_memo: Memo,
    keys: Vec<TokenKey>,
    missed: Vec<Missed>,
}

impl ShaBuckets {
    pub(crate) fn new(n_buckets: u32) -> Self {
        Self {
            modulus: Modulus::new(n_buckets),
            token_memo: Memo::new(TOKEN_ENTRIES),
            ngram_memo: Memo::new(NGRAM_ENTRIES),
            keys: Vec::new(),
            missed: Vec::new(),
        }
    }

    /// Appends the buckets of all i-grams for i up to `ngrams`, in the order of i.
    pub(crate) fn extend(&mut self, tokens: &Tokens, ngrams: u8, buckets: &mut Vec<u32>) {
        let text = tokens.padded_lower();
        let keys = tokens.spans().map(|span| token_key(text, span));
        self.keys.clear();
        self.keys.extend(keys);
        for n in 1..=usize::from(ngrams) {
            let n_ngrams = (self.keys.len() + 1).saturating_sub(n);
            for first in (0..n_ngrams).step_by(BATCH) {
                let last = (first + BATCH).min(n_ngrams);
                self.extend_batch(tokens, first..last, n, buckets);
            }
        }
    }

    /// Appends the buckets of the n-grams that begin at the given tokens.
    fn extend_batch(
        &mut self,
        tokens: &Tokens,
        begins: Range<usize>,
        n: usize,
        buckets: &mut Vec<u32>,
    ) {
        let memo = match n {
            1 => &mut self.token_memo,
            _ => &mut self.ngram_memo,
        };
        let keys = &self.keys[begins.start..begins.end + n - 1];
        let n_buckets_before = buckets.len();
        self.missed.clear();
        memo.look_up(keys.windows(n), buckets, &mut self.missed);
        let buckets = &mut buckets[n_buckets_before..];

        self.missed.retain_mut(|missed| {
            let fits = lay_out(&keys[missed.idx..missed.idx + n], &mut missed.block);
            if !fits {
                let first = begins.start + missed.idx;
                let words = sha256_of_joined(tokens, first..first + n);
                buckets[missed.idx] = memo.insert(missed, self.modulus.remainder(&words));
            }
            fits
        });
        for missed in &self.missed {
            let words = sha256_of_block(&missed.block);
            buckets[missed.idx] = memo.insert(missed, self.modulus.remainder(&words));
        }
    }
}

/// A token of up to 15 bytes itself, then its length; of a longer one a hash and 255.
type TokenKey = [u8; 16];

fn token_key(text: &[u8], span: Range<usize>) -> TokenKey {
    let key = if span.len() < 16 {
        let (low, high) = read_16(text, span.start);
        let bytes = u128::from(high) << 64 | u128::from(low);
        let own = bytes & ((1 << (8 * span.len())) - 1);
        own | (span.len() as u128) << 120
    } else {
        xxh3_128(&text[span]) | 255 << 120
    };
    key.to_le_bytes()
}

/// A direct-mapped table from hashes of n-grams to buckets.
struct Memo {
    entries: Vec<Entry>,
}

/// The upper half of the hash; the upper 40 bits of its lower half, and the bucket in 24 bits.
#[derive(Clone, Copy, Default)]
struct Entry {
    high: u64,
    low_and_bucket: u64,
}

const BUCKET_BITS: u64 = (1 << 24) - 1;

/// An n-gram that a table does not remember.
struct Missed {
    /// Among the n-grams that were looked up.
    idx: usize,
    slot: usize,
    /// Without its bucket.
    entry: Entry,
    block: [u8; 64],
}

impl Memo {
    fn new(n_entries: usize) -> Self {
        Self {
            entries: vec![Entry::default(); n_entries],
        }
    }

    /// Appends a bucket for each n-gram, any for those that are `missed`.
    fn look_up<'a>(
        &self,
        ngrams: impl Iterator<Item = &'a [TokenKey]>,
        buckets: &mut Vec<u32>,
        missed: &mut Vec<Missed>,
    ) {
        // The table is larger than the caches: all entries are asked for before the first of them
        // is looked at, so that their ways through the memory overlap.
        let mask = self.entries.len() - 1;
        let mut hashes = [0_u128; BATCH];
        let mut n_ngrams = 0;
        for (hash, ngram) in hashes.iter_mut().zip(ngrams) {
            // The number of tokens is part of it: the input has 16 bytes per token.
            *hash = xxh3_128(ngram.as_flattened());
            prefetch(&self.entries[*hash as usize & mask]);
            n_ngrams += 1;
        }
        let mut missed_idxs = [(0, 0, Entry::default()); BATCH];
        let mut n_missed = 0;
        for (idx, &hash) in hashes[..n_ngrams].iter().enumerate() {
            let (high, low) = ((hash >> 64) as u64, hash as u64);
            let slot = low as usize & mask;
            let found = self.entries[slot];
            let low_and_bucket = low & !BUCKET_BITS;
            let is_same =
                found.high == high && found.low_and_bucket & !BUCKET_BITS == low_and_bucket;
            buckets.push((found.low_and_bucket & BUCKET_BITS) as u32);
            // Written always and kept if missed: no branch.
            let entry = Entry {
                high,
                low_and_bucket,
            };
            missed_idxs[n_missed] = (idx, slot, entry);
            n_missed += usize::from(!is_same);
        }
        missed.extend(
            missed_idxs[..n_missed]
                .iter()
                .map(|&(idx, slot, entry)| Missed {
                    idx,
                    slot,
                    entry,
                    block: [0; 64],
                }),
        );
    }

    fn insert(&mut self, missed: &Missed, bucket: u32) -> u32 {
        let mut entry = missed.entry;
        entry.low_and_bucket |= u64::from(bucket);
        self.entries[missed.slot] = entry;
        bucket
    }
}

/// Lays the tokens out, joined by one space, as a padded block of SHA-256 (FIPS 180-4, section
/// 5.1.1). `false` if they are too long for that: a token above 15 bytes, or 55 bytes altogether.
fn lay_out(ngram: &[TokenKey], block: &mut [u8; 64]) -> bool {
    // Of 16 bytes each; the last one takes what the longest n-gram spills over.
    let mut quarters = [0_u128; 5];
    let mut put = |bytes: u128, position: usize| {
        let n_bits = 8 * (position % 16) as u32;
        quarters[position / 16] |= bytes << n_bits;
        quarters[position / 16 + 1] |= bytes >> 1 >> (127 - n_bits);
    };
    let mut end = 0;
    for key in ngram {
        let key = u128::from_le_bytes(*key);
        let len = (key >> 120) as usize;
        if len > 15 || end > 48 {
            return false;
        }
        put(key & (u128::MAX >> 8), end);
        put(u128::from(b' '), end + len);
        end += len + 1;
    }
    // No space follows the last one, but the end mark.
    end -= 1;
    if end > 55 {
        return false;
    }
    for (bytes, quarter) in block.as_chunks_mut().0.iter_mut().zip(quarters) {
        *bytes = quarter.to_le_bytes();
    }
    block[end] = 0x80;
    block[56..].copy_from_slice(&(8 * end as u64).to_be_bytes());
    true
}

/// The initial state of SHA-256 (FIPS 180-4, section 5.3.3).
const SHA256_START: [u32; 8] = [
    0x6a09_e667,
    0xbb67_ae85,
    0x3c6e_f372,
    0xa54f_f53a,
    0x510e_527f,
    0x9b05_688c,
    0x1f83_d9ab,
    0x5be0_cd19,
];

fn sha256_of_block(block: &[u8; 64]) -> [u32; 8] {
    let mut words = SHA256_START;
    compress256(&mut words, std::slice::from_ref(block));
    words
}

/// The general case, for rare long n-grams.
fn sha256_of_joined(tokens: &Tokens, ngram: Range<usize>) -> [u32; 8] {
    let mut hasher = Sha256::new();
    let (starts, ends) = tokens.bounds();
    let text = tokens.lower().as_bytes();
    let spans = starts[ngram.clone()].iter().zip(&ends[ngram]);
    for (i, (start, end)) in spans.enumerate() {
        if i > 0 {
            hasher.update(b" ");
        }
        hasher.update(&text[*start as usize..*end as usize]);
    }
    let digest = hasher.finalize();
    let mut words = [0; 8];
    for (word, bytes) in words.iter_mut().zip(digest.as_chunks().0) {
        *word = u32::from_be_bytes(*bytes);
    }
    words
}

/// Takes remainders of 256-bit integers.
struct Modulus {
    n_buckets: u64,
    /// 2^(32 i) modulo the number of buckets, by falling i, as the words of a digest.
    powers: [u64; 8],
}

impl Modulus {
    fn new(n_buckets: u32) -> Self {
        let n_buckets = u64::from(n_buckets);
        let mut powers = [1 % n_buckets; 8];
        for i in (0..7).rev() {
            powers[i] = (powers[i + 1] << 32) % n_buckets;
        }
        Self { n_buckets, powers }
    }

    /// The remainder of a digest, as eight big-endian words.
    fn remainder(&self, words: &[u32; 8]) -> u32 {
        // Words have 32 bits and powers 24, so that eight products stay below 2^59.
        let sum: u64 = words
            .iter()
            .zip(self.powers)
            .map(|(&word, power)| u64::from(word) * power)
            .sum();
        (sum % self.n_buckets) as u32
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Tokenizer;

    /// Long division of the digest, byte by byte.
    fn slow_bucket(message: &str, n_buckets: u32) -> u32 {
        let append = |rest: u64, &byte: &u8| (rest << 8 | u64::from(byte)) % u64::from(n_buckets);
        Sha256::digest(message).iter().fold(0, append) as u32
    }

    fn slow_buckets(tokens: &Tokens, ngrams: usize, n_buckets: u32) -> Vec<u32> {
        let tokens: Vec<&str> = tokens.iter().collect();
        (1..=ngrams)
            .flat_map(|n| tokens.windows(n))
            .map(|ngram| slow_bucket(&ngram.join(" "), n_buckets))
            .collect()
    }

    #[test]
    fn ngrams_of_all_lengths_have_the_buckets_of_long_division() {
        for n_buckets in [1, 2, 7, 1000, 10_000, 65_536, 16_777_213, 1 << 24] {
            let mut sha = ShaBuckets::new(n_buckets);
            let mut tokens = Tokens::new(Tokenizer::WordPunct);
            for len in 1..40 {
                let text = [len, 1, len, 15, 14, 13, 12, 16, 15, 15, 15, 15]
                    .map(|len| "x".repeat(len))
                    .join(" ");
                tokens.set(&text);
                let mut buckets = Vec::new();
                sha.extend(&tokens, 4, &mut buckets);
                assert_eq!(buckets, slow_buckets(&tokens, 4, n_buckets), "{len}");
            }
        }
    }

    #[test]
    fn what_is_remembered_changes_nothing() {
        let n_buckets = 10_007;
        let mut sha = ShaBuckets::new(n_buckets);
        // So small that entries are found, missed and replaced all the time.
        sha.token_memo = Memo::new(8);
        sha.ngram_memo = Memo::new(16);
        let mut tokens = Tokens::new(Tokenizer::WordPunct);
        let words = [
            "a",
            "of",
            "the",
            "-",
            "antidisestablishmentarianism",
            "ü",
            "fifteen_letters",
            "sixteen_letters_",
        ];
        let mut state = 1_u32;
        for _ in 0..30 {
            let mut text = String::new();
            for _ in 0..150 {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                text.push_str(words[state as usize >> 29]);
                text.push_str([" ", " ", "\n", "  "][state as usize >> 20 & 3]);
            }
            tokens.set(&text);
            let mut buckets = Vec::new();
            sha.extend(&tokens, 4, &mut buckets);
            assert_eq!(buckets, slow_buckets(&tokens, 4, n_buckets));
        }
    }
}
