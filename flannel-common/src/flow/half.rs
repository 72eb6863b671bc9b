//! What is known about one direction of a flow.

use bytemuck::{Pod, Zeroable};

use super::LIFETIME;
use super::opener::FORGOTTEN;
use crate::change::Change;
use crate::tick::Tick;

/// What is known about one direction.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Half {
    /// When the hook behind the stack last saw a packet come out that went in just before; 0: never.
    pub verified: Tick,
    /// When the renewal was sent that has not come out yet; 0: there is none.
    pub probed: Tick,
    /// The epoch in which that packet went in.
    pub epoch: u32,
    /// ifindex of the pod's port, where packets of this direction come in (tx) or go out (rx). No others are of this flow.
    pub port: u32,
    /// What the stack did to it.
    pub change: Change,
}

impl Half {
    /// Nothing known.
    pub const EMPTY: Self = Self {
        verified: 0,
        probed: 0,
        epoch: 0,
        port: 0,
        change: Change::NONE,
    };

    #[inline(always)]
    pub(super) const fn holds(&self, now: Tick, epoch: u32) -> bool {
        self.verified != 0 && self.epoch == epoch && now.wrapping_sub(self.verified) < LIFETIME
    }

    #[inline(always)]
    pub(super) const fn is_due(&self, now: Tick, lasts: Tick) -> bool {
        now.wrapping_sub(self.verified) >= lasts
    }

    #[inline(always)]
    pub(super) const fn is_forgotten(&self, now: Tick) -> bool {
        self.verified == 0 || now.wrapping_sub(self.verified) >= FORGOTTEN
    }

    /// Whether the last renewal has not come out, so that what follows goes the same way: it is on its way, and would be overtaken (what
    /// arrives for the stack waits until the CPU has emptied the uplink's queue, `netif_rx`), or it was dropped, or is not what it was.
    #[inline(always)]
    pub(super) const fn is_awaited(&self) -> bool {
        self.probed != 0
    }
}
