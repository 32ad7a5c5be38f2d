//! Kernels for AVX-512: six rows by 64 outputs in 24 registers of sums.
//!
//! Rows of `x` are read where they lie: six rows of a few hundred inputs stay in the first cache
//! while a panel of weights streams from the second. Each sum is taken in the order of the inputs,
//! so that a row's result does not depend on the rows beside it.

#![expect(
    unsafe_code,
    reason = "intrinsics on pointers; the two public functions check bounds and features"
)]

use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __mmask16, _mm256_storeu_si256, _mm512_add_ps,
    _mm512_cvtneps_pbh, _mm512_dpbf16_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_loadu_si512,
    _mm512_mask_storeu_ps, _mm512_maskz_loadu_ps, _mm512_set1_epi32, _mm512_set1_ps,
    _mm512_setzero_ps,
};
use std::mem::transmute;

use super::{PANEL, has_avx512, has_bf16};

/// Rows of a block.
const ROWS: usize = 6;
/// Registers of a panel.
const LANES: usize = PANEL / 16;
/// Inputs of a panel that are multiplied before its next rows: keeps it in the second cache.
const INPUTS: usize = 1024;

/// `y (+)= x B`, `B` of `n_in` rows of [`PANEL`] values every `b_stride`; the first `width` columns
/// are written.
#[expect(clippy::too_many_arguments, reason = "those of a matrix product")]
pub(super) fn f32_panel(
    x: &[f32],
    x_stride: usize,
    n_in: usize,
    b: &[f32],
    b_stride: usize,
    y: &mut [f32],
    y_stride: usize,
    width: usize,
    n_rows: usize,
    add: bool,
) {
    assert!(has_avx512() && n_in > 0 && n_rows > 0 && (1..=PANEL).contains(&width));
    assert!((n_rows - 1) * x_stride + n_in <= x.len());
    assert!((n_in - 1) * b_stride + PANEL <= b.len());
    assert!(y_stride >= width && (n_rows - 1) * y_stride + width <= y.len());
    let masks = masks(width);
    for start in (0..n_in).step_by(INPUTS) {
        let n = INPUTS.min(n_in - start);
        let add = add || start > 0;
        for row in (0..n_rows).step_by(ROWS) {
            // SAFETY: the processor has AVX-512; rows `row..row + R` of `x` and `y` exist and lie in
            // their slices by the assertions, as do `n` rows of `b` from `start`.
            unsafe {
                let x = x.as_ptr().add(row * x_stride + start);
                let b = b.as_ptr().add(start * b_stride);
                let y = y.as_mut_ptr().add(row * y_stride);
                match n_rows - row {
                    1 => f32_block::<1>(x, x_stride, n, b, b_stride, y, y_stride, masks, add),
                    2 => f32_block::<2>(x, x_stride, n, b, b_stride, y, y_stride, masks, add),
                    3 => f32_block::<3>(x, x_stride, n, b, b_stride, y, y_stride, masks, add),
                    4 => f32_block::<4>(x, x_stride, n, b, b_stride, y, y_stride, masks, add),
                    5 => f32_block::<5>(x, x_stride, n, b, b_stride, y, y_stride, masks, add),
                    _ => f32_block::<ROWS>(x, x_stride, n, b, b_stride, y, y_stride, masks, add),
                }
            }
        }
    }
}

/// As [`f32_panel`], of pairs of bfloat16: rows of `x` are `n_pairs` pairs, `b` is
/// `[n_pairs][PANEL][2]`.
#[expect(clippy::too_many_arguments, reason = "those of a matrix product")]
pub(super) fn bf16_panel(
    x: &[u16],
    n_pairs: usize,
    b: &[u16],
    y: &mut [f32],
    y_stride: usize,
    width: usize,
    n_rows: usize,
    add: bool,
) {
    assert!(has_bf16() && n_pairs > 0 && n_rows > 0 && (1..=PANEL).contains(&width));
    assert!(n_rows * n_pairs * 2 <= x.len() && n_pairs * PANEL * 2 <= b.len());
    assert!(y_stride >= width && (n_rows - 1) * y_stride + width <= y.len());
    let masks = masks(width);
    for start in (0..n_pairs).step_by(INPUTS) {
        let n = INPUTS.min(n_pairs - start);
        let add = add || start > 0;
        for row in (0..n_rows).step_by(ROWS) {
            // SAFETY: as in `f32_panel`.
            unsafe {
                let x = x.as_ptr().add((row * n_pairs + start) * 2);
                let b = b.as_ptr().add(start * PANEL * 2);
                let y = y.as_mut_ptr().add(row * y_stride);
                match n_rows - row {
                    1 => bf16_block::<1>(x, n_pairs, n, b, y, y_stride, masks, add),
                    2 => bf16_block::<2>(x, n_pairs, n, b, y, y_stride, masks, add),
                    3 => bf16_block::<3>(x, n_pairs, n, b, y, y_stride, masks, add),
                    4 => bf16_block::<4>(x, n_pairs, n, b, y, y_stride, masks, add),
                    5 => bf16_block::<5>(x, n_pairs, n, b, y, y_stride, masks, add),
                    _ => bf16_block::<ROWS>(x, n_pairs, n, b, y, y_stride, masks, add),
                }
            }
        }
    }
}

/// Rounds a row to bfloat16, to nearest even; what lies behind it in `bits` becomes 0.
pub(super) fn round_row(row: &[f32], bits: &mut [u16]) {
    assert!(has_bf16() && bits.len() >= row.len());
    let (blocks, rest) = row.as_chunks::<16>();
    for (block, bits) in blocks.iter().zip(bits.chunks_exact_mut(16)) {
        // SAFETY: the processor has it, and both slices are of 16 values.
        unsafe { round_block(block, bits) }
    }
    let done = blocks.len() * 16;
    for (i, bits) in bits[done..].iter_mut().enumerate() {
        *bits = rest
            .get(i)
            .map_or(0, |&value| crate::half::bf16_bits(value));
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512bf16")]
unsafe fn round_block(block: &[f32; 16], bits: &mut [u16]) {
    // SAFETY: both are of 16 values, by the caller.
    unsafe {
        let rounded = _mm512_cvtneps_pbh(_mm512_loadu_ps(block.as_ptr()));
        _mm256_storeu_si256(
            bits.as_mut_ptr().cast(),
            transmute::<__m256bh, __m256i>(rounded),
        );
    }
}

/// The columns of each register that are written.
fn masks(width: usize) -> [__mmask16; LANES] {
    std::array::from_fn(|lane| match width.saturating_sub(lane * 16) {
        n @ 0..16 => (1 << n) - 1,
        _ => !0,
    })
}

#[target_feature(enable = "avx512f")]
#[expect(clippy::too_many_arguments, reason = "those of a matrix product")]
unsafe fn f32_block<const R: usize>(
    x: *const f32,
    x_stride: usize,
    n_in: usize,
    b: *const f32,
    b_stride: usize,
    y: *mut f32,
    y_stride: usize,
    masks: [__mmask16; LANES],
    add: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); LANES]; R];
    // SAFETY: bounds are the caller's.
    unsafe {
        for input in 0..n_in {
            let b = b.add(input * b_stride);
            let weights: [__m512; LANES] =
                std::array::from_fn(|lane| _mm512_loadu_ps(b.add(lane * 16)));
            for (row, sums) in sums.iter_mut().enumerate() {
                let value = _mm512_set1_ps(*x.add(row * x_stride + input));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_fmadd_ps(value, weights, *sum);
                }
            }
        }
        store(&sums, y, y_stride, masks, add);
    }
}

#[target_feature(enable = "avx512f,avx512bf16")]
#[expect(clippy::too_many_arguments, reason = "those of a matrix product")]
unsafe fn bf16_block<const R: usize>(
    x: *const u16,
    x_pairs: usize,
    n_pairs: usize,
    b: *const u16,
    y: *mut f32,
    y_stride: usize,
    masks: [__mmask16; LANES],
    add: bool,
) {
    let mut sums = [[_mm512_setzero_ps(); LANES]; R];
    // SAFETY: bounds are the caller's.
    unsafe {
        let x: *const i32 = x.cast();
        for pair in 0..n_pairs {
            let b = b.add(pair * PANEL * 2);
            let weights: [__m512bh; LANES] =
                std::array::from_fn(|lane| transmute(_mm512_loadu_si512(b.add(lane * 32).cast())));
            for (row, sums) in sums.iter_mut().enumerate() {
                let both = x.add(row * x_pairs + pair).read_unaligned();
                let both: __m512bh = transmute(_mm512_set1_epi32(both));
                for (sum, weights) in sums.iter_mut().zip(weights) {
                    *sum = _mm512_dpbf16_ps(*sum, both, weights);
                }
            }
        }
        store(&sums, y, y_stride, masks, add);
    }
}

#[target_feature(enable = "avx512f")]
#[inline]
unsafe fn store<const R: usize>(
    sums: &[[__m512; LANES]; R],
    y: *mut f32,
    y_stride: usize,
    masks: [__mmask16; LANES],
    add: bool,
) {
    // SAFETY: bounds are the caller's; masked lanes are not touched.
    unsafe {
        for (row, sums) in sums.iter().enumerate() {
            for (lane, (sum, mask)) in sums.iter().zip(masks).enumerate() {
                let y = y.add(row * y_stride + lane * 16);
                let total = match add {
                    true => _mm512_add_ps(_mm512_maskz_loadu_ps(mask, y), *sum),
                    false => *sum,
                };
                _mm512_mask_storeu_ps(y, mask, total);
            }
        }
    }
}
