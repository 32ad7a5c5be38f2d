//! Asks for memory before it is read.

#![expect(
    unsafe_code,
    reason = "the instruction takes a pointer; it reads nothing that a program could see"
)]

/// Tells the processor that `value` will be read soon. Changes nothing but time.
#[inline]
pub(crate) fn prefetch<T>(value: &T) {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: every x86-64 has the instruction, and the address is that of a value.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = value;
}
