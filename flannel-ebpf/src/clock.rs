//! What time it is.

use aya_ebpf::helpers::{bpf_jiffies64, bpf_ktime_get_coarse_ns, bpf_ktime_get_ns};

/// Monotonic nanoseconds at the resolution of the timer tick; cheap, and a flow counts in seconds.
#[inline(always)]
pub(crate) fn coarse_ns() -> u64 {
    // SAFETY: takes no arguments.
    unsafe { bpf_ktime_get_coarse_ns() }
}

/// The kernel's timer ticks. The verifier puts a load in the place of the call.
#[inline(always)]
pub(crate) fn jiffies() -> u64 {
    // SAFETY: takes no arguments.
    unsafe { bpf_jiffies64() }
}

/// Monotonic nanoseconds.
#[inline(always)]
pub(crate) fn exact_ns() -> u64 {
    // SAFETY: takes no arguments.
    unsafe { bpf_ktime_get_ns() }
}
