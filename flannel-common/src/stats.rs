//! Statistics: one [`Counters`] per program and CPU.

use bytemuck::{Pod, Zeroable};

pub use crate::reason::Counters;
use crate::reason::Reason;

/// Packets and bytes (`skb->len` when the verdict was reached; GSO packets count as one).
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Count {
    pub packets: u64,
    pub bytes: u64,
}

/// Byte offset of a reason's [`Count`] in [`Counters`].
pub const fn offset(reason: Reason) -> usize {
    reason as usize * size_of::<Count>()
}

const _: () = assert!(size_of::<Counters>() == Reason::ALL.len() * size_of::<Count>());
