//! Whether the node still runs on our pair of devices. A flanneld that is started after the agent's end deletes
//! `flannel.<VNI>` to make its own, and with it the far end; what is on other devices' hooks stays, with maps that nobody
//! follows any more.

use core::cell::UnsafeCell;

use flannel_common::reason::Reason;

use crate::clock;
use crate::globals::FLANNEL_IFINDEX;
use crate::skb::Skb;
use crate::xdp_frame::Frame;

/// Fails once the pair is gone: then the packet is for whoever serves the network now.
///
/// Without a tunnel there is no pair to ask for.
#[inline(always)]
pub(crate) fn check(skb: &Skb) -> Result<(), Reason> {
    let pair = FLANNEL_IFINDEX.load();
    if pair == 0 || was_seen(|| skb.has_device(pair)) {
        Ok(())
    } else {
        Err(Reason::PairGone)
    }
}

/// When the pair was last seen, in jiffies. Of one load of the programs, as the index of the pair is.
static SEEN: Word = Word::new();

/// A word that all CPUs read and write as a whole. (For an atomic one the compiler has no load.)
pub(crate) struct Word(UnsafeCell<u64>);

// SAFETY: it is aligned, so that loads and stores are whole, and any value somebody wrote will do.
unsafe impl Sync for Word {}

impl Word {
    pub(crate) const fn new() -> Self {
        Self(UnsafeCell::new(0))
    }

    #[inline(always)]
    pub(crate) fn load(&self) -> u64 {
        // SAFETY: as above.
        unsafe { self.0.get().read_volatile() }
    }

    #[inline(always)]
    pub(crate) fn store(&self, value: u64) {
        // SAFETY: as above.
        unsafe { self.0.get().write_volatile(value) }
    }
}

/// Once a tick of the timer is enough to look: what is written in between is lost with the devices anyway.
#[inline(always)]
fn was_seen(look: impl FnOnce() -> bool) -> bool {
    let now = clock::jiffies();
    if SEEN.load() == now {
        return true;
    }
    let there = look();
    if there {
        SEEN.store(now);
    }
    there
}

/// The same at the driver.
#[inline(always)]
pub(crate) fn check_frame(frame: &Frame) -> Result<(), Reason> {
    if frame.has_device(FLANNEL_IFINDEX.load()) {
        Ok(())
    } else {
        Err(Reason::PairGone)
    }
}
