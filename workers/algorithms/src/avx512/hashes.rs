//! Hashes of tokens and buckets of bigrams, eight at a time.
//!
//! The formulas for all lengths up to eight bytes are computed for each token, as far as they differ,
//! and the right one is picked by masks; longer tokens are listed without a branch and hashed
//! afterwards, eight of them at a time. Nothing depends on what the next length is, so the processor
//! has nothing to foresee.

use std::arch::x86_64::{
    __m128i, __m256i, __m512i, __mmask8, _mm_loadu_si128, _mm256_add_epi32, _mm256_castsi128_si256,
    _mm256_cmpgt_epu32_mask, _mm256_inserti128_si256, _mm256_maskz_compress_epi32,
    _mm256_set1_epi32, _mm256_setr_epi32, _mm256_sub_epi32, _mm512_add_epi64, _mm512_and_si512,
    _mm512_castsi256_si512, _mm512_cmpgt_epu64_mask, _mm512_cvtepu32_epi64, _mm512_inserti64x4,
    _mm512_mask_blend_epi64, _mm512_maskz_mov_epi64, _mm512_mul_epu32, _mm512_mullo_epi64,
    _mm512_or_si512, _mm512_rol_epi64, _mm512_set1_epi64, _mm512_set4_epi64, _mm512_shuffle_epi8,
    _mm512_slli_epi64, _mm512_sllv_epi64, _mm512_srli_epi64, _mm512_srlv_epi64, _mm512_sub_epi64,
    _mm512_ternarylogic_epi64, _mm512_unpackhi_epi64, _mm512_unpacklo_epi64, _mm512_xor_si512,
};

use super::{
    Avx512, load_u32s, load_u64s, store_u32s, store_u32s_256, store_u64s, with_instructions,
};
use crate::features::{FIRST_FACTOR, SECOND_FACTOR, combine, reduce};
use crate::token_hash::{
    FLIP_1_TO_3, FLIP_4_TO_8, FLIP_9_TO_16_HIGH, FLIP_9_TO_16_LOW, PRIME_MX1, PRIME_MX2, PRIME64_2,
    PRIME64_3, READ_BYTES, hash_token,
};

/// Tokens of a vector.
const LANES: usize = 8;
/// Tokens after which the longer ones among them are hashed.
const BATCH: usize = 256;

impl Avx512 {
    /// The hashes of `text[start..end]` for each pair, as of [`hash_token`], in memory that is used
    /// again and again and only grows.
    ///
    /// # Panics
    ///
    /// If fewer than [`READ_BYTES`] bytes follow a start.
    pub(crate) fn hash_tokens<'a>(
        self,
        text: &[u8],
        starts: &[u32],
        ends: &[u32],
        memory: &'a mut Vec<u64>,
    ) -> &'a [u64] {
        let hashes = room(memory, starts.len().min(ends.len()));
        with_instructions!(self, hash_tokens(text, starts, ends, hashes));
        hashes
    }

    /// The buckets of each token and of each with the one before, given the hashes of the tokens,
    /// in memory that is used again and again and only grows.
    pub(crate) fn bigram_buckets<'a>(
        self,
        hashes: &[u64],
        n_buckets: u32,
        memory: &'a mut Vec<u32>,
    ) -> &'a [u32] {
        let buckets = room(memory, (2 * hashes.len()).saturating_sub(1));
        with_instructions!(self, bigram_buckets(hashes, n_buckets, buckets));
        buckets
    }
}

/// The first values, whatever they are.
fn room<T: Clone + Default>(memory: &mut Vec<T>, n_values: usize) -> &mut [T] {
    if memory.len() < n_values {
        memory.resize(n_values, T::default());
    }
    &mut memory[..n_values]
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt"
)]
fn hash_tokens(text: &[u8], starts: &[u32], ends: &[u32], hashes: &mut [u64]) {
    let batches = starts.chunks(BATCH).zip(ends.chunks(BATCH));
    for ((starts, ends), hashes) in batches.zip(hashes.chunks_mut(BATCH)) {
        hash_batch(text, starts, ends, hashes);
    }
}

/// Up to [`BATCH`] tokens.
#[inline]
#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt"
)]
fn hash_batch(text: &[u8], starts: &[u32], ends: &[u32], hashes: &mut [u64]) {
    // Those that are longer than eight bytes, in groups, behind which there is room for one more.
    let mut longer = [[0; LANES]; BATCH / LANES + 1];
    let mut n_longer = 0;
    let (whole_starts, last_starts) = starts.as_chunks();
    let (whole_ends, last_ends) = ends.as_chunks();
    let (whole, last) = hashes.as_chunks_mut();
    let mut idxs = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let mut note = |are_longer: __mmask8| {
        let idxs_longer = _mm256_maskz_compress_epi32(are_longer, idxs);
        if let Some(room) = longer.as_flattened_mut()[n_longer..].first_chunk_mut() {
            store_u32s_256(room, idxs_longer);
        }
        n_longer += are_longer.count_ones() as usize;
        idxs = _mm256_add_epi32(idxs, _mm256_set1_epi32(LANES as i32));
    };
    for ((starts, ends), hashes) in whole_starts.iter().zip(whole_ends).zip(whole) {
        note(hash_short(text, starts, ends, hashes));
    }
    if !last.is_empty() {
        // What is not there is an empty token at the beginning of the text.
        let (mut starts, mut ends, mut hashes) = ([0; LANES], [0; LANES], [0; LANES]);
        starts[..last.len()].copy_from_slice(last_starts);
        ends[..last.len()].copy_from_slice(last_ends);
        note(hash_short(text, &starts, &ends, &mut hashes));
        last.copy_from_slice(&hashes[..last.len()]);
    }
    for (group_idx, group) in longer[..n_longer.div_ceil(LANES)].iter().enumerate() {
        let n_lanes = LANES.min(n_longer - group_idx * LANES);
        // Behind the last one stands zero or whatever was compressed: a token of this batch whose
        // hash is not taken.
        let group_starts = group.map(|idx| starts[idx as usize]);
        let group_ends = group.map(|idx| ends[idx as usize]);
        let mut group_hashes = [0; LANES];
        hash_long(text, &group_starts, &group_ends, &mut group_hashes);
        for (&idx, hash) in group.iter().zip(group_hashes).take(n_lanes) {
            hashes[idx as usize] = hash;
        }
    }
}

/// Tokens of up to eight bytes; the result tells which are longer.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl")]
fn hash_short(
    text: &[u8],
    starts: &[u32; LANES],
    ends: &[u32; LANES],
    hashes: &mut [u64; LANES],
) -> __mmask8 {
    let (low, _) = read_16_each(text, starts);
    let lens = _mm256_sub_epi32(load_u32s(ends), load_u32s(starts));
    store_u64s(hashes, hash_1_to_8(low, _mm512_cvtepu32_epi64(lens)));
    _mm256_cmpgt_epu32_mask(lens, _mm256_set1_epi32(8))
}

/// Tokens of nine bytes and more.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,bmi1")]
fn hash_long(text: &[u8], starts: &[u32; LANES], ends: &[u32; LANES], hashes: &mut [u64; LANES]) {
    let (low, high) = read_16_each(text, starts);
    let lens = _mm256_sub_epi32(load_u32s(ends), load_u32s(starts));
    store_u64s(hashes, hash_9_to_16(low, high, _mm512_cvtepu32_epi64(lens)));
    let mut longer = _mm256_cmpgt_epu32_mask(lens, _mm256_set1_epi32(READ_BYTES as i32));
    while longer != 0 {
        let lane = longer.trailing_zeros() as usize % LANES;
        hashes[lane] = hash_token(text, starts[lane] as usize, ends[lane] as usize);
        longer &= longer - 1;
    }
}

/// The first 16 bytes at each start: their lower halves, and their upper ones.
#[inline]
#[target_feature(enable = "avx512f,avx512vl")]
fn read_16_each(text: &[u8], starts: &[u32; LANES]) -> (__m512i, __m512i) {
    // Offsets have 32 bits: where a text is longer, what lies behind is not reached.
    let last = text.len().checked_sub(READ_BYTES);
    let last = last.map(|last| u32::try_from(last).unwrap_or(u32::MAX));
    let is_within = last.is_some_and(|last| {
        let last = _mm256_set1_epi32(last.cast_signed());
        _mm256_cmpgt_epu32_mask(load_u32s(starts), last) == 0
    });
    assert!(is_within, "a token begins too near to the end of its text");
    let read = |lane: usize| -> __m128i {
        // SAFETY: no start is above `text.len() - READ_BYTES`, by the assertion.
        unsafe { _mm_loadu_si128(text.as_ptr().add(starts[lane] as usize).cast()) }
    };
    let pair = |first: usize, second: usize| -> __m256i {
        _mm256_inserti128_si256::<1>(_mm256_castsi128_si256(read(first)), read(second))
    };
    let four = |first: __m256i, second: __m256i| -> __m512i {
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(first), second)
    };
    let even = four(pair(0, 2), pair(4, 6));
    let odd = four(pair(1, 3), pair(5, 7));
    (
        _mm512_unpacklo_epi64(even, odd),
        _mm512_unpackhi_epi64(even, odd),
    )
}

#[inline]
#[target_feature(enable = "avx512f")]
fn all(value: u64) -> __m512i {
    _mm512_set1_epi64(value.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn xor_3(a: __m512i, b: __m512i, c: __m512i) -> __m512i {
    _mm512_ternarylogic_epi64::<0x96>(a, b, c)
}

/// `hash ^ hash >> N`.
#[inline]
#[target_feature(enable = "avx512f")]
fn xor_shift<const N: u32>(hash: __m512i) -> __m512i {
    _mm512_xor_si512(hash, _mm512_srli_epi64::<N>(hash))
}

/// The functions of `token_hash` for up to eight bytes, side by side; of longer tokens, anything.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn hash_1_to_8(low: __m512i, len: __m512i) -> __m512i {
    let (byte, half) = (all(0xff), all(0xffff_ffff));
    let above_3 = _mm512_cmpgt_epu64_mask(len, all(3));
    let n_bits = _mm512_slli_epi64::<3>(len);
    // Shifts by 64 bits and more, also by what is negative, give zero.
    let shifted = |n_bits: __m512i| _mm512_srlv_epi64(low, n_bits);

    // One to three bytes.
    let first = _mm512_slli_epi64::<16>(_mm512_and_si512(low, byte));
    let middle = shifted(_mm512_slli_epi64::<3>(_mm512_srli_epi64::<1>(len)));
    let middle = _mm512_slli_epi64::<24>(_mm512_and_si512(middle, byte));
    let last = _mm512_and_si512(shifted(_mm512_sub_epi64(n_bits, all(8))), byte);
    let parts = _mm512_or_si512(_mm512_or_si512(first, middle), last);
    let parts = _mm512_or_si512(parts, _mm512_slli_epi64::<8>(len));
    let of_1_to_3 = xor_shift::<33>(_mm512_xor_si512(parts, all(FLIP_1_TO_3)));

    // Four to eight.
    let last = _mm512_and_si512(shifted(_mm512_sub_epi64(n_bits, all(32))), half);
    let parts = _mm512_or_si512(last, _mm512_slli_epi64::<32>(low));
    let parts = _mm512_xor_si512(parts, all(FLIP_4_TO_8));
    let of_4_to_8 = xor_3(
        parts,
        _mm512_rol_epi64::<49>(parts),
        _mm512_rol_epi64::<24>(parts),
    );

    // Both are multiplied and shifted twice, by different numbers.
    let pick = |short: u64, longer: u64| _mm512_mask_blend_epi64(above_3, all(short), all(longer));
    let hash = _mm512_mask_blend_epi64(above_3, of_1_to_3, of_4_to_8);
    let hash = _mm512_mullo_epi64(hash, pick(PRIME64_2, PRIME_MX2));
    let added = _mm512_maskz_mov_epi64(above_3, len);
    let shifted_hash = _mm512_add_epi64(_mm512_srlv_epi64(hash, pick(29, 35)), added);
    let hash = _mm512_xor_si512(hash, shifted_hash);
    let hash = _mm512_mullo_epi64(hash, pick(PRIME64_3, PRIME_MX2));
    _mm512_xor_si512(hash, _mm512_srlv_epi64(hash, pick(32, 28)))
}

/// `token_hash::hash_9_to_16`; of other tokens, anything.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512dq")]
fn hash_9_to_16(low: __m512i, high: __m512i, len: __m512i) -> __m512i {
    // The last eight bytes: the upper end of `low`, the lower one of `high`.
    let n_bits = _mm512_slli_epi64::<3>(len);
    let last = _mm512_or_si512(
        _mm512_srlv_epi64(low, _mm512_sub_epi64(n_bits, all(64))),
        _mm512_sllv_epi64(high, _mm512_sub_epi64(all(128), n_bits)),
    );
    let first = _mm512_xor_si512(low, all(FLIP_9_TO_16_LOW));
    let last = _mm512_xor_si512(last, all(FLIP_9_TO_16_HIGH));
    let sum = _mm512_add_epi64(
        _mm512_add_epi64(len, swap_bytes(first)),
        _mm512_add_epi64(last, fold(first, last)),
    );
    let hash = _mm512_mullo_epi64(xor_shift::<37>(sum), all(PRIME_MX1));
    xor_shift::<32>(hash)
}

#[inline]
#[target_feature(enable = "avx512f,avx512bw")]
fn swap_bytes(values: __m512i) -> __m512i {
    let (low, high) = (0x0001_0203_0405_0607, 0x0809_0a0b_0c0d_0e0f);
    _mm512_shuffle_epi8(values, _mm512_set4_epi64(high, low, high, low))
}

/// The halves of the 128-bit products, xored: `token_hash::fold`.
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
fn fold(a: __m512i, b: __m512i) -> __m512i {
    let half = all(0xffff_ffff);
    let (a_high, b_high) = (_mm512_srli_epi64::<32>(a), _mm512_srli_epi64::<32>(b));
    let low_low = _mm512_mul_epu32(a, b);
    let low_high = _mm512_mul_epu32(a, b_high);
    let high_low = _mm512_mul_epu32(a_high, b);
    let high_high = _mm512_mul_epu32(a_high, b_high);
    // No sum overflows: (2^32 - 1)^2 + 2 (2^32 - 1) = 2^64 - 1.
    let middle = _mm512_add_epi64(low_high, _mm512_srli_epi64::<32>(low_low));
    let other_middle = _mm512_add_epi64(high_low, _mm512_and_si512(middle, half));
    let high = _mm512_add_epi64(
        _mm512_add_epi64(high_high, _mm512_srli_epi64::<32>(middle)),
        _mm512_srli_epi64::<32>(other_middle),
    );
    let low = _mm512_add_epi64(
        _mm512_and_si512(low_low, half),
        _mm512_slli_epi64::<32>(other_middle),
    );
    _mm512_xor_si512(high, low)
}

/// The upper 64 bits of `hash * n_buckets`, of fewer buckets than 2^32.
#[inline]
#[target_feature(enable = "avx512f")]
fn reduce_each(hash: __m512i, n_buckets: __m512i) -> __m512i {
    let low = _mm512_srli_epi64::<32>(_mm512_mul_epu32(hash, n_buckets));
    let high = _mm512_mul_epu32(_mm512_srli_epi64::<32>(hash), n_buckets);
    _mm512_srli_epi64::<32>(_mm512_add_epi64(high, low))
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt"
)]
fn bigram_buckets(hashes: &[u64], n_buckets: u32, buckets: &mut [u32]) {
    let (Some((bucket, pairs)), Some((&first, next))) =
        (buckets.split_first_mut(), hashes.split_first())
    else {
        return;
    };
    *bucket = reduce(first, n_buckets);
    // Token and predecessor, as two looks at the same hashes.
    let (predecessors, last_predecessors) = hashes[..next.len()].as_chunks();
    let (tokens, last_tokens) = next.as_chunks();
    let (whole_pairs, last_pairs) = pairs.as_chunks_mut();
    let n = all(u64::from(n_buckets));
    for ((token, predecessor), pairs) in tokens.iter().zip(predecessors).zip(whole_pairs) {
        let (token, predecessor) = (load_u64s(token), load_u64s(predecessor));
        let bigram = fold(
            _mm512_xor_si512(predecessor, all(FIRST_FACTOR)),
            _mm512_xor_si512(token, all(SECOND_FACTOR)),
        );
        let bigram = _mm512_slli_epi64::<32>(reduce_each(bigram, n));
        store_u32s(pairs, _mm512_or_si512(reduce_each(token, n), bigram));
    }
    let last = last_tokens.iter().zip(last_predecessors);
    for (pair, (&token, &predecessor)) in last_pairs.as_chunks_mut().0.iter_mut().zip(last) {
        let bigram = combine(predecessor, token);
        *pair = [reduce(token, n_buckets), reduce(bigram, n_buckets)];
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn hashes_are_those_of_the_tokens(
            bytes in proptest::collection::vec(any::<u8>(), READ_BYTES..400),
            spans in proptest::collection::vec((any::<u32>(), prop_oneof![1_u32..9, 1_u32..40, Just(12)]), 0..700),
        ) {
            let Some(avx512) = Avx512::detect() else { return Ok(()) };
            let last = (bytes.len() - READ_BYTES) as u32;
            let starts: Vec<u32> = spans.iter().map(|(start, _)| start % (last + 1)).collect();
            let ends: Vec<u32> = starts
                .iter()
                .zip(&spans)
                .map(|(start, (_, len))| (start + len).min(bytes.len() as u32))
                .collect();
            let mut memory = vec![1, 2, 3];
            let hashes = avx512.hash_tokens(&bytes, &starts, &ends, &mut memory);
            let bounds = starts.iter().zip(&ends);
            let expected: Vec<u64> = bounds
                .map(|(&start, &end)| hash_token(&bytes, start as usize, end as usize))
                .collect();
            prop_assert_eq!(hashes, expected);
        }

        #[test]
        fn buckets_are_those_of_one_pair_at_a_time(
            hashes in proptest::collection::vec(
                prop_oneof![any::<u64>(), Just(u64::MAX), Just(0), Just(!FIRST_FACTOR), Just(!SECOND_FACTOR)],
                0..60,
            ),
            n_buckets in prop_oneof![1_u32..100_000, Just(1 << 24)],
        ) {
            let Some(avx512) = Avx512::detect() else { return Ok(()) };
            let mut memory = vec![7; 3];
            let buckets = avx512.bigram_buckets(&hashes, n_buckets, &mut memory);
            let mut expected: Vec<u32> = Vec::new();
            for (idx, &hash) in hashes.iter().enumerate() {
                expected.push(reduce(hash, n_buckets));
                if idx > 0 {
                    expected.push(reduce(combine(hashes[idx - 1], hash), n_buckets));
                }
            }
            prop_assert_eq!(buckets, expected);
        }
    }

    #[test]
    #[should_panic(expected = "too near")]
    fn nothing_is_read_behind_the_text() {
        // Where there are no such instructions, the portable code's bounds are checked elsewhere.
        let Some(avx512) = Avx512::detect() else {
            panic!("too near")
        };
        avx512.hash_tokens(&[b'a'; 16], &[1], &[2], &mut Vec::new());
    }
}
