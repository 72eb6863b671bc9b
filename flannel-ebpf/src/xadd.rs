//! Counting in a word that other CPUs count in as well.

use core::arch::asm;

/// Adds to a word at once (`BPF_ATOMIC | BPF_ADD`): the target has no atomics that the compiler knows of.
///
/// # Safety
/// `word` is an aligned word of a map's value.
#[inline(always)]
pub(crate) unsafe fn add(word: *mut u32, by: u32) {
    // SAFETY: one instruction, on the word that the caller vouches for.
    unsafe {
        asm!(
            "lock *(u32 *)({word} + 0) += {by}",
            word = in(reg) word,
            by = in(reg) u64::from(by),
        );
    }
}
