//! A bound on what the C library keeps for itself.

/// As many heaps as cores. Call it before any other thread runs.
///
/// The C library of Linux makes eight for each core, and what is freed in one is not there for
/// threads of another: on a corpus with huge row groups, three times the memory was seen that the
/// budgets of the slots add up to.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub fn limit() {
    let n_cores = std::thread::available_parallelism().map_or(1, usize::from);
    let n_heaps = libc::c_int::try_from(n_cores).unwrap_or(libc::c_int::MAX);
    #[expect(
        unsafe_code,
        reason = "there is no safe way to set an option of the C library"
    )]
    // SAFETY: takes two numbers; no other thread is running yet.
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, n_heaps);
    }
}

/// Nothing: only the C library of Linux needs it.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub fn limit() {}
