//! What a SNAT program knows of its packet, in a per-CPU map instead of registers and stack.
//!
//! The verifier follows every value it knows: on the stack, each protocol and direction would multiply all
//! paths behind it. Of a map's memory it knows nothing, so that paths which differ only in values are one.
//! It is also how a packet gets from a program to the next step.

use crate::maps::SNAT_WORK;
pub(crate) use crate::snat_packet::{Odd, Work};

/// This CPU's. A program runs to its end before another of them begins on the same CPU: both run with
/// softirqs off.
#[inline(always)]
pub(crate) fn get() -> Option<&'static mut Work> {
    let work = SNAT_WORK.get_ptr_mut(0)?;
    // SAFETY: the only reference on this CPU, as said above. The map begins zeroed, which is a valid value
    // of every field.
    Some(unsafe { &mut *work })
}
