//! Chance, of the kernel's pseudo-random numbers.

use aya_ebpf::helpers::bpf_get_prandom_u32;
use flannel_common::chance;

use crate::clock;
use crate::globals::SNAT_SECRET;

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

/// What nobody else can tell: of that number, and of the moment.
///
/// A global function, as [`check_sender`](crate::senders::check_sender) is one.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn secret_number() -> u64 {
    let message = u64::from(number()) << 24 ^ clock::exact_ns();
    chance::siphash(SNAT_SECRET.load(), message)
}
