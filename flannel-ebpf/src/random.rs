//! Chance, of the kernel's pseudo-random numbers.

use aya_ebpf::helpers::bpf_get_prandom_u32;

/// A random IPv4 identification: DF is 0, so fragments of two packets must not share one.
#[inline(always)]
pub(crate) fn ip_id() -> [u8; 2] {
    (number() as u16).to_be_bytes()
}

#[inline(always)]
pub(crate) fn number() -> u32 {
    // SAFETY: takes no arguments.
    unsafe { bpf_get_prandom_u32() }
}
