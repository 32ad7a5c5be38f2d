//! The reference package's buckets, remembered.
//!
//! SHA-256 of every n-gram is the reference's bottleneck. Natural text repeats its n-grams, so
//! buckets are kept in a direct-mapped table. An entry is recognised by 128 bits of hash, which
//! makes a wrong bucket as improbable as a collision of checksums.

use sha2::{Digest as _, Sha256};
use xxhash_rust::xxh3::xxh3_128;

use crate::tokenize::Tokens;

/// Entries of the table of single tokens: a language's frequent words.
const TOKEN_ENTRIES: usize = 1 << 15;
/// Entries of the table of longer n-grams; 24 bytes each.
const NGRAM_ENTRIES: usize = 1 << 18;

const FIRST_FACTOR: u64 = 0x9e37_79b9_7f4a_7c15;
const SECOND_FACTOR: u64 = 0xd1b5_4a32_d192_ed03;
const THIRD_FACTOR: u64 = 0xaef1_7502_108e_f2d9;

pub(crate) struct ShaBuckets {
    n_buckets: u32,
    tokens: Memo,
    ngrams: Memo,
    keys: Vec<Key>,
    spans: Vec<(usize, usize)>,
    joined: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq, Default)]
struct Key {
    high: u64,
    low: u64,
}

#[derive(Clone, Copy, Default)]
struct Entry {
    key: Key,
    /// Plus one; zero is an empty entry.
    bucket: u32,
}

struct Memo(Vec<Entry>);

impl Memo {
    fn new(n_entries: usize) -> Self {
        Self(vec![Entry::default(); n_entries])
    }

    fn get_or(&mut self, key: Key, compute: impl FnOnce() -> u32) -> u32 {
        let mask = self.0.len() - 1;
        let entry = &mut self.0[key.low as usize & mask];
        if entry.bucket == 0 || entry.key != key {
            *entry = Entry {
                key,
                bucket: compute() + 1,
            };
        }
        entry.bucket - 1
    }
}

impl ShaBuckets {
    pub(crate) fn new(n_buckets: u32) -> Self {
        Self {
            n_buckets,
            tokens: Memo::new(TOKEN_ENTRIES),
            ngrams: Memo::new(NGRAM_ENTRIES),
            keys: Vec::new(),
            spans: Vec::new(),
            joined: Vec::new(),
        }
    }

    pub(crate) fn extend(&mut self, tokens: &Tokens, ngrams: u8, buckets: &mut Vec<u32>) {
        let text = tokens.lower().as_bytes();
        let n_buckets = self.n_buckets;
        self.keys.clear();
        self.spans.clear();
        for span in tokens.spans() {
            let hash = xxh3_128(&text[span.clone()]);
            self.keys.push(Key {
                high: (hash >> 64) as u64,
                low: hash as u64,
            });
            self.spans.push((span.start, span.end));
        }
        for start in 0..self.keys.len() {
            let mut key = self.keys[start];
            let (from, to) = self.spans[start];
            buckets.push(
                self.tokens
                    .get_or(key, || sha_bucket(&text[from..to], n_buckets)),
            );
            let end = (start + usize::from(ngrams)).min(self.keys.len());
            for next in start + 1..end {
                key = key.combine(self.keys[next]);
                let (spans, joined) = (&self.spans[start..=next], &mut self.joined);
                buckets.push(self.ngrams.get_or(key, || {
                    join(text, spans, joined);
                    sha_bucket(joined, n_buckets)
                }));
            }
        }
    }
}

impl Key {
    /// Two lanes that mix both halves of both operands, each order-sensitive.
    fn combine(self, token: Self) -> Self {
        Self {
            high: fold(self.high ^ FIRST_FACTOR, token.low ^ SECOND_FACTOR),
            low: fold(self.low ^ THIRD_FACTOR, token.high ^ FIRST_FACTOR),
        }
    }
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

fn join(text: &[u8], spans: &[(usize, usize)], joined: &mut Vec<u8>) {
    joined.clear();
    for (i, &(from, to)) in spans.iter().enumerate() {
        if i > 0 {
            joined.push(b' ');
        }
        joined.extend_from_slice(&text[from..to]);
    }
}

/// SHA-256 as a big-endian integer modulo the number of buckets. The remainder stays below 2^24,
/// so 32 more bits fit beside it.
pub(crate) fn sha_bucket(ngram: &[u8], n_buckets: u32) -> u32 {
    let digest = Sha256::digest(ngram);
    let n_buckets = u64::from(n_buckets);
    let mut remainder = 0_u64;
    for word in digest.chunks_exact(4) {
        let word = word.iter().fold(0, |word, &byte| word << 8 | u64::from(byte));
        remainder = (remainder << 32 | word) % n_buckets;
    }
    remainder as u32
}
