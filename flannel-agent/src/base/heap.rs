//! How much of what was once needed stays with this process.
//!
//! Lists of thousands of leases come and go, in every thread. glibc has a heap for each of them, keeps what it has had of large blocks
//! (it raises its own limits with the size of what is freed), and gives back only the end of each heap: of a node's memory, what it
//! needs for a moment would stay taken for good, once for each thread.

/// One heap for all threads, which make few demands at the same time; large blocks on their own, and gone with their owner. To be
/// called before there are threads.
pub(crate) fn be_thrifty() {
    #[cfg(target_env = "gnu")]
    {
        /// glibc's own first values; set, they stay.
        const LARGE: libc::c_int = 128 << 10;
        set(libc::M_ARENA_MAX, 1);
        set(libc::M_MMAP_THRESHOLD, LARGE);
        set(libc::M_TRIM_THRESHOLD, LARGE);
    }
}

/// Gives the kernel every page that holds nothing any more.
pub(crate) fn give_back() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it takes the heap's lock as every allocation does, and touches no memory in use.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// What glibc does not take, it does without: nothing depends on it.
#[cfg(target_env = "gnu")]
fn set(parameter: libc::c_int, value: libc::c_int) {
    // SAFETY: no pointers; these parameters may be set at any time.
    unsafe {
        libc::mallopt(parameter, value);
    }
}
