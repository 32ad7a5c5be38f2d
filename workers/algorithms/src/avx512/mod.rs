//! Kernels for processors with AVX-512 as of Ice Lake and Zen 4.
//!
//! An [`Avx512`] is the proof that the processor has the instructions; whoever has none takes the
//! portable code, which computes the same, bit for bit. Unsafe code is in this folder only: calls
//! of functions that need the instructions, which the proof allows, and reads and writes of
//! vectors, whose bounds are checked or are those of arrays of fixed length.

#![expect(
    unsafe_code,
    reason = "vector instructions; every function of `Avx512` is safe for all arguments"
)]

mod blocks;
mod hashes;

use std::arch::x86_64::{
    __m256i, __m512i, _mm256_loadu_si256, _mm256_storeu_si256, _mm512_loadu_si512,
    _mm512_storeu_si512,
};

/// A processor with AVX-512 F, BW, DQ, VL, VBMI and VBMI2, and the instructions on bits.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Avx512 {
    _detected: (),
}

impl Avx512 {
    /// Asks the processor. The standard library remembers the answer.
    pub(crate) fn detect() -> Option<Self> {
        let has_all = is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vbmi2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt");
        has_all.then_some(Self { _detected: () })
    }
}

/// Calls a function that needs the instructions of [`Avx512`].
macro_rules! with_instructions {
    ($proof:expr, $call:expr) => {{
        let Avx512 { _detected: () } = $proof;
        // SAFETY: a value of `Avx512` exists only where `detect` found the instructions.
        unsafe { $call }
    }};
}
use with_instructions;

#[inline]
#[target_feature(enable = "avx512f")]
fn load_bytes(values: &[u8; 64]) -> __m512i {
    // SAFETY: 64 bytes of integers are there, and the read needs no alignment.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn load_u64s(values: &[u64; 8]) -> __m512i {
    // SAFETY: as `load_bytes`.
    unsafe { _mm512_loadu_si512(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_u64s(values: &mut [u64; 8], vector: __m512i) {
    // SAFETY: there is room for 64 bytes, any of which make integers; no alignment is needed.
    unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), vector) }
}

#[inline]
#[target_feature(enable = "avx512f")]
fn store_u32s(values: &mut [u32; 16], vector: __m512i) {
    // SAFETY: as `store_u64s`.
    unsafe { _mm512_storeu_si512(values.as_mut_ptr().cast(), vector) }
}

#[inline]
#[target_feature(enable = "avx")]
fn load_u32s(values: &[u32; 8]) -> __m256i {
    // SAFETY: 32 bytes of integers are there, and the read needs no alignment.
    unsafe { _mm256_loadu_si256(values.as_ptr().cast()) }
}

#[inline]
#[target_feature(enable = "avx")]
fn store_u32s_256(values: &mut [u32; 8], vector: __m256i) {
    // SAFETY: there is room for 32 bytes, any of which make integers; no alignment is needed.
    unsafe { _mm256_storeu_si256(values.as_mut_ptr().cast(), vector) }
}
