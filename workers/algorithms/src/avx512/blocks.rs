//! Classes of bytes and positions of bits, 64 at a time.

use std::arch::x86_64::{
    _mm512_add_epi32, _mm512_castsi512_si128, _mm512_cmpge_epu8_mask, _mm512_cvtepu8_epi32,
    _mm512_extracti32x4_epi32, _mm512_maskz_compress_epi8, _mm512_movepi8_mask,
    _mm512_permutex2var_epi8, _mm512_set1_epi8, _mm512_set1_epi32, _mm512_test_epi8_mask,
};

use super::{Avx512, load_bytes, store_u32s, with_instructions};
use crate::ascii_block::{BLOCK_BYTES, BlockClasses, BlockOps};
use crate::char_class::{CharTable, SPACE, WORD, code_point_at};
use crate::split::{Bounds, split_blocks};

impl BlockOps for Avx512 {
    #[inline(always)]
    fn classify(self, table: &CharTable, block: &[u8; BLOCK_BYTES]) -> BlockClasses {
        with_instructions!(self, classify(table.ascii_flags(), block))
    }

    #[inline(always)]
    fn put_positions(self, bits: u64, base: u32, positions: &mut [u32; BLOCK_BYTES]) -> usize {
        with_instructions!(self, put_positions(bits, base, positions))
    }
}

impl Avx512 {
    /// [`str::make_ascii_lowercase`].
    pub(crate) fn make_ascii_lowercase(self, text: &mut str) {
        with_instructions!(self, make_ascii_lowercase(text));
    }

    /// Whether lower-casing changes a character beyond ASCII.
    pub(crate) fn has_cased_beyond_ascii(self, table: &CharTable, text: &str) -> bool {
        with_instructions!(self, has_cased_beyond_ascii(table, text))
    }

    /// [`split_blocks`].
    pub(crate) fn split(self, table: &CharTable, padded: &[u8], bounds: &mut Bounds) {
        with_instructions!(self, split(self, table, padded, bounds));
    }
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt"
)]
fn make_ascii_lowercase(text: &mut str) {
    // The compiler makes the vectors.
    text.make_ascii_lowercase();
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt"
)]
fn split(ops: Avx512, table: &CharTable, padded: &[u8], bounds: &mut Bounds) {
    split_blocks(ops, table, padded, bounds);
}

#[target_feature(
    enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vbmi2,bmi1,bmi2,lzcnt,popcnt"
)]
fn has_cased_beyond_ascii(table: &CharTable, text: &str) -> bool {
    let bytes = text.as_bytes();
    let is_cased = |idx: usize| table.is_cased(code_point_at(bytes, idx).0);
    let (blocks, rest) = bytes.as_chunks();
    for (block_idx, block) in blocks.iter().enumerate() {
        // Characters begin with these; the bytes that follow are between them and ASCII.
        let mut leads = _mm512_cmpge_epu8_mask(load_bytes(block), _mm512_set1_epi8(0xc0_u8 as i8));
        while leads != 0 {
            if is_cased(block_idx * BLOCK_BYTES + leads.trailing_zeros() as usize) {
                return true;
            }
            leads &= leads - 1;
        }
    }
    let rest = bytes.len() - rest.len()..bytes.len();
    rest.into_iter()
        .any(|idx| bytes[idx] >= 0xc0 && is_cased(idx))
}

/// The flags of all 64 bytes are looked up at once: the table is two registers.
#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi")]
fn classify(flags: &[u8; 128], block: &[u8; BLOCK_BYTES]) -> BlockClasses {
    let [first, second] = flags.as_chunks().0 else {
        return BlockClasses::default();
    };
    let block = load_bytes(block);
    // The highest bit of a byte is not looked at.
    let flags = _mm512_permutex2var_epi8(load_bytes(first), block, load_bytes(second));
    let beyond_ascii = _mm512_movepi8_mask(block);
    let of_ascii =
        |flag: u8| _mm512_test_epi8_mask(flags, _mm512_set1_epi8(flag as i8)) & !beyond_ascii;
    BlockClasses {
        word: of_ascii(WORD),
        space: of_ascii(SPACE),
        beyond_ascii,
    }
}

const IDENTITY: [u8; BLOCK_BYTES] = {
    let mut idxs = [0; BLOCK_BYTES];
    let mut idx = 0;
    while idx < BLOCK_BYTES {
        idxs[idx] = idx as u8;
        idx += 1;
    }
    idxs
};

#[inline]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi2,popcnt")]
fn put_positions(bits: u64, base: u32, positions: &mut [u32; BLOCK_BYTES]) -> usize {
    let n_bits = bits.count_ones() as usize;
    let idxs = _mm512_maskz_compress_epi8(bits, load_bytes(&IDENTITY));
    let base = _mm512_set1_epi32(base.cast_signed());
    let [first, second, third, fourth] = positions.as_chunks_mut().0 else {
        return n_bits;
    };
    let quarter = _mm512_castsi512_si128(idxs);
    store_u32s(first, _mm512_add_epi32(_mm512_cvtepu8_epi32(quarter), base));
    let quarter = _mm512_extracti32x4_epi32::<1>(idxs);
    store_u32s(
        second,
        _mm512_add_epi32(_mm512_cvtepu8_epi32(quarter), base),
    );
    // Rare: a language's words do not alternate with punctuation.
    if n_bits > BLOCK_BYTES / 2 {
        let quarter = _mm512_extracti32x4_epi32::<2>(idxs);
        store_u32s(third, _mm512_add_epi32(_mm512_cvtepu8_epi32(quarter), base));
        let quarter = _mm512_extracti32x4_epi32::<3>(idxs);
        store_u32s(
            fourth,
            _mm512_add_epi32(_mm512_cvtepu8_epi32(quarter), base),
        );
    }
    n_bits
}
