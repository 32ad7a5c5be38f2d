//! The hashes of a text's tokens, with those of frequent short tokens remembered.
//!
//! Half of the time of hashing goes into its formulas, and a language uses the same short words
//! all the time. So a direct-mapped table keeps the hashes of tokens of up to eight bytes; looking
//! one up is a multiplication and a comparison. What is not found is listed without a branch and
//! hashed afterwards: whether the next token is a known one cannot be foreseen by the processor.
//! Results do not depend on what is remembered.

use crate::avx512::Avx512;
use crate::token_hash::{hash_token, read_8};

/// Entries of the table, of 16 bytes (256 KiB, within the second cache).
const ENTRIES: usize = 1 << ENTRIES_LOG2;
const ENTRIES_LOG2: u32 = 14;
/// Longest token that is remembered, in bytes.
const KEY_BYTES: usize = 8;
/// Tokens that are looked up before the missed ones are hashed.
const BATCH: usize = 256;

/// Spreads keys over the table: 2^64 divided by the golden ratio.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

#[derive(Debug, Clone, Copy)]
struct Entry {
    /// The token, filled up with spaces: no token holds one.
    key: u64,
    hash: u64,
}

/// Computes hashes of tokens, by whatever is fastest on this processor.
#[derive(Debug)]
pub(crate) enum TokenHasher {
    /// Computing them anew is faster than remembering.
    Avx512(Avx512, Vec<u64>),
    Memo(TokenMemo),
}

impl TokenHasher {
    pub(crate) fn new(avx512: Option<Avx512>) -> Self {
        avx512.map_or_else(
            || Self::Memo(TokenMemo::new()),
            |avx512| Self::Avx512(avx512, Vec::new()),
        )
    }

    /// The hashes of `text[start..end]` for each pair, as of [`hash_token`]. At least 16 bytes must
    /// follow a start.
    pub(crate) fn hash(&mut self, text: &[u8], starts: &[u32], ends: &[u32]) -> &[u64] {
        match self {
            Self::Avx512(avx512, hashes) => avx512.hash_tokens(text, starts, ends, hashes),
            Self::Memo(memo) => memo.hash(text, starts, ends),
        }
    }
}

/// Computes hashes of tokens, and remembers them.
#[derive(Debug)]
pub(crate) struct TokenMemo {
    entries: Box<[Entry; ENTRIES]>,
    hashes: Vec<u64>,
}

impl TokenMemo {
    fn new() -> Self {
        let nothing = Entry {
            key: KEY_OF_NOTHING,
            hash: 0,
        };
        Self {
            entries: Box::new([nothing; ENTRIES]),
            hashes: Vec::new(),
        }
    }

    /// The hashes of `text[start..end]` for each pair, as of [`hash_token`].
    fn hash(&mut self, text: &[u8], starts: &[u32], ends: &[u32]) -> &[u64] {
        self.hashes.resize(starts.len(), 0);
        let batches = starts.chunks(BATCH).zip(ends.chunks(BATCH));
        for ((starts, ends), hashes) in batches.zip(self.hashes.chunks_mut(BATCH)) {
            let mut missed = [0_u8; BATCH];
            let mut n_missed = 0;
            for (idx, ((&start, &end), hash)) in
                starts.iter().zip(ends).zip(&mut *hashes).enumerate()
            {
                let len = (end - start) as usize;
                let key = key(read_8(text, start as usize), len);
                let entry = self.entries[slot(key)];
                *hash = entry.hash;
                // Written always and kept if missed: no branch.
                missed[n_missed & (BATCH - 1)] = idx as u8;
                n_missed += usize::from(entry.key != key || len > KEY_BYTES);
            }
            for &idx in &missed[..n_missed] {
                let idx = usize::from(idx);
                let (start, end) = (starts[idx] as usize, ends[idx] as usize);
                let hash = hash_token(text, start, end);
                hashes[idx] = hash;
                if end - start <= KEY_BYTES {
                    let key = key(read_8(text, start), end - start);
                    self.entries[slot(key)] = Entry { key, hash };
                }
            }
        }
        &self.hashes
    }
}

const KEY_OF_NOTHING: u64 = 0x2020_2020_2020_2020;

/// The token of `len` bytes that `bytes` begin with, filled up with spaces. Of tokens longer than
/// [`KEY_BYTES`], anything.
#[inline]
fn key(bytes: u64, len: usize) -> u64 {
    // In two steps, since no shift is of 64 bits.
    let fill = (u64::MAX << 1) << ((8 * len as u32).wrapping_sub(1) & 63);
    bytes ^ (bytes ^ KEY_OF_NOTHING) & fill
}

#[inline]
fn slot(key: u64) -> usize {
    (key.wrapping_mul(SPREAD) >> (u64::BITS - ENTRIES_LOG2)) as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use xxhash_rust::xxh3::xxh3_64;

    /// Of few different bytes, so that tokens come again, are prefixes of one another, and end in
    /// zeros or in small numbers.
    #[test]
    fn remembered_hashes_are_those_of_the_tokens() {
        let mut memo = TokenMemo::new();
        let mut state = 1_u64;
        let mut draw = |n: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % n
        };
        for n_tokens in [0, 1, BATCH - 1, BATCH, BATCH + 1, 20_000] {
            let (mut text, mut starts, mut ends) = (Vec::new(), Vec::new(), Vec::new());
            for _ in 0..n_tokens {
                starts.push(text.len() as u32);
                let n_bytes = 1 + draw(18);
                text.extend((0..n_bytes).map(|_| [0, 7, b'a', 0xff][draw(4) as usize]));
                ends.push(text.len() as u32);
            }
            text.extend_from_slice(&[b' '; 16]);
            let hashes = memo.hash(&text, &starts, &ends);
            assert_eq!(hashes.len(), n_tokens);
            for ((&start, &end), &hash) in starts.iter().zip(&ends).zip(hashes) {
                assert_eq!(hash, xxh3_64(&text[start as usize..end as usize]));
            }
        }
    }
}
