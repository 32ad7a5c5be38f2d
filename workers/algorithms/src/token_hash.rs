//! XXH3-64 of tokens, without a branch on the exact length.
//!
//! A language's words are short and their lengths unforeseeable: a branch per length, as in the
//! general algorithm, costs more than the hash. Here a token's first 16 bytes are read whatever
//! its length, and both formulas for up to eight bytes are computed. The results are those of
//! XXH3 with seed 0 (github.com/Cyan4973/xxHash, `XXH3_len_0to16_64b`); a test compares them with
//! the `xxhash-rust` crate's.

use xxhash_rust::xxh3::xxh3_64;

/// Bytes that must follow the first one of a token.
pub(crate) const READ_BYTES: usize = 16;

// Words of the default secret at 0, 8, 24 and 40, each combined with its neighbour as XXH3 does.
pub(crate) const FLIP_1_TO_3: u64 = 0x396c_feb8 ^ 0xbe4b_a423;
pub(crate) const FLIP_4_TO_8: u64 = 0x1cad_21f7_2c81_017c ^ 0xdb97_9083_e96d_d4de;
pub(crate) const FLIP_9_TO_16_LOW: u64 = 0x1f67_b3b7_a4a4_4072 ^ 0x78e5_c0cc_4ee6_79cb;
pub(crate) const FLIP_9_TO_16_HIGH: u64 = 0x2172_ffcc_7dd0_5a82 ^ 0x8e24_43f7_7446_08b8;

pub(crate) const PRIME64_2: u64 = 0xc2b2_ae3d_27d4_eb4f;
pub(crate) const PRIME64_3: u64 = 0x1656_67b1_9e37_79f9;
pub(crate) const PRIME_MX1: u64 = 0x1656_6791_9e37_79f9;
pub(crate) const PRIME_MX2: u64 = 0x9fb2_1c65_1e98_df25;

/// The first 16 bytes at `start`, as two little-endian integers.
///
/// # Panics
///
/// If fewer bytes than that follow.
#[inline]
pub(crate) fn read_16(bytes: &[u8], start: usize) -> (u64, u64) {
    let mut halves = [[0; 8]; 2];
    halves
        .as_flattened_mut()
        .copy_from_slice(&bytes[start..start + READ_BYTES]);
    (u64::from_le_bytes(halves[0]), u64::from_le_bytes(halves[1]))
}

/// The first eight bytes at `start`, as a little-endian integer.
///
/// # Panics
///
/// If fewer bytes than that follow.
#[inline]
pub(crate) fn read_8(bytes: &[u8], start: usize) -> u64 {
    let mut eight = [0; 8];
    eight.copy_from_slice(&bytes[start..start + 8]);
    u64::from_le_bytes(eight)
}

/// `XXH3-64(bytes[start..end], seed 0)`. At least [`READ_BYTES`] bytes must follow `start`.
#[inline]
pub(crate) fn hash_token(bytes: &[u8], start: usize, end: usize) -> u64 {
    let len = end - start;
    match len {
        1..=8 => {
            let (low, _) = read_16(bytes, start);
            let short = hash_1_to_3(low, len as u32);
            let longer = hash_4_to_8(low, len as u32);
            if len < 4 { short } else { longer }
        }
        9..=16 => {
            let (low, high) = read_16(bytes, start);
            // The last eight bytes: the upper end of `low` and the lower one of `high`.
            let n_bits = 8 * (len as u32 - 8);
            let last = (u128::from(high) << 64 | u128::from(low)) >> n_bits;
            hash_9_to_16(low, last as u64, len as u64)
        }
        _ => xxh3_64(&bytes[start..end]),
    }
}

#[inline]
fn hash_1_to_3(low: u64, len: u32) -> u64 {
    let byte = |idx: u32| low >> (8 * (idx & 7)) & 0xff;
    let combined =
        byte(0) << 16 | byte(len >> 1) << 24 | byte(len.wrapping_sub(1)) | u64::from(len) << 8;
    let mut hash = combined ^ FLIP_1_TO_3;
    hash = (hash ^ hash >> 33).wrapping_mul(PRIME64_2);
    hash = (hash ^ hash >> 29).wrapping_mul(PRIME64_3);
    hash ^ hash >> 32
}

#[inline]
fn hash_4_to_8(low: u64, len: u32) -> u64 {
    let first = low & 0xffff_ffff;
    let last = low >> (8 * (len.wrapping_sub(4) & 7)) & 0xffff_ffff;
    let mut hash = (last + (first << 32)) ^ FLIP_4_TO_8;
    hash ^= hash.rotate_left(49) ^ hash.rotate_left(24);
    hash = hash.wrapping_mul(PRIME_MX2);
    hash ^= (hash >> 35).wrapping_add(u64::from(len));
    hash = hash.wrapping_mul(PRIME_MX2);
    hash ^ hash >> 28
}

#[inline]
fn hash_9_to_16(first: u64, last: u64, len: u64) -> u64 {
    let low = first ^ FLIP_9_TO_16_LOW;
    let high = last ^ FLIP_9_TO_16_HIGH;
    let mut hash = len
        .wrapping_add(low.swap_bytes())
        .wrapping_add(high)
        .wrapping_add(fold(low, high));
    hash = (hash ^ hash >> 37).wrapping_mul(PRIME_MX1);
    hash ^ hash >> 32
}

/// The halves of the 128-bit product, xored.
#[inline]
pub(crate) fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn equals_the_general_algorithm(
            before in proptest::collection::vec(any::<u8>(), 0..9),
            token in proptest::collection::vec(any::<u8>(), 1..300),
            n_short in 1_usize..20,
        ) {
            for token in [&token[..], &token[..n_short.min(token.len())]] {
                let mut bytes = before.clone();
                bytes.extend_from_slice(token);
                let end = bytes.len();
                bytes.extend_from_slice(&[0xa5; READ_BYTES]);
                prop_assert_eq!(hash_token(&bytes, before.len(), end), xxh3_64(token));
            }
        }
    }

    #[test]
    fn equals_the_general_algorithm_at_every_length() {
        let bytes: Vec<u8> = (0..300_u32).map(|i| (i * 37 + 11) as u8).collect();
        for len in 1..=280 {
            assert_eq!(
                hash_token(&bytes, 3, 3 + len),
                xxh3_64(&bytes[3..3 + len]),
                "{len}"
            );
        }
    }
}
