//! Statistics: one [`Counters`] per program and CPU.

pub use crate::count::Count;
pub use crate::reason::Counters;
use crate::reason::Reason;

/// Byte offset of a reason's [`Count`] in [`Counters`].
pub const fn offset(reason: Reason) -> usize {
    reason as usize * size_of::<Count>()
}

const _: () = assert!(size_of::<Counters>() == Reason::ALL.len() * size_of::<Count>());
