//! How many flows that do not last yet each pod has.

use flannel_common::Ipv4;
use flannel_common::snat::{Seen, Share, lasts, share, yields_lasting, yields_port};

use crate::cluster::cluster;
use crate::maps::SHARES;
use crate::{snat_work, xadd};

/// How many young flows somebody has. A count that went below zero is none.
#[inline(always)]
pub(crate) fn young(whose: u32) -> u32 {
    let share = SHARES.get_ptr(whose);
    // SAFETY: an element of an array.
    let young = share.map_or(0, |share: *const Share| unsafe { (*share).young });
    if young > u32::MAX / 2 { 0 } else { young }
}

/// Adds to that; `u32::MAX` takes one off.
#[inline(always)]
pub(crate) fn count_young(whose: u32, by: u32) {
    if let Some(share) = SHARES.get_ptr_mut(whose) {
        // SAFETY: an element of an array.
        let young = unsafe { &raw mut (*share).young };
        // SAFETY: an aligned word of it.
        unsafe { xadd::add(young, by) };
    }
}

/// Whether a flow of `pod` gives up its port to the packet at hand; `what` has its protocol and what was seen of it. A function of
/// its own, which the verifier looks at once.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn gives_up_port(pod: u32, what: u32, length: u64, silent: u64) -> u8 {
    let [proto, seen, ..] = what.to_ne_bytes();
    let Some(work) = snat_work::get() else {
        return 0;
    };
    let pod: Ipv4 = pod.to_ne_bytes();
    let same = pod == work.packet.key.src;
    if lasts(proto, Seen(seen), length) {
        return u8::from(yields_lasting(proto, same, silent));
    }
    let theirs = young(share(&cluster(), pod, false));
    let mine = young(share(&cluster(), work.packet.key.src, false));
    u8::from(yields_port(theirs, mine, same, silent))
}
