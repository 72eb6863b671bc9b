//! By which port the bridge sends what is for a pod: entries of pods.

use super::{Flow, Step};
use crate::Mac;
use crate::tick::{Tick, ticks};

/// A frame that shows the bridge's choice comes out of a port no later than this.
const CROSSING: Tick = ticks(1_000);
/// How long a pod's port is taken for the bridge's choice after it was seen to be.
pub const PORT_LIFETIME: Tick = ticks(1_000);
/// After this long the choice is looked at anew, by a packet that takes the bridge.
pub const PORT_REFRESH: Tick = ticks(500);
/// At most one such packet in this time.
const PORT_GAP: Tick = ticks(50);

impl Flow {
    /// In the entry of a [pod](FlowKey::pod): which way a frame for `mac` takes that the stack hands to the bridge.
    #[inline(always)]
    pub fn decide_at_bridge(&self, mac: Mac, now: Tick, epoch: u32) -> Step {
        let half = &self.rx;
        let age = now.wrapping_sub(half.verified);
        if half.verified == 0
            || half.epoch != epoch
            || age >= PORT_LIFETIME
            || half.port == 0
            || self.pod_mac != mac
        {
            Step::Stack
        } else if age >= PORT_REFRESH && now.wrapping_sub(half.probed) >= PORT_GAP {
            Step::Refresh
        } else {
            Step::Fast
        }
    }

    /// In the entry of a pod: whether a frame at `port`, behind the bridge, shows that this is where the bridge sends
    /// what is for the pod, for such a frame has been handed to it. Frames for a MAC that it does not know come out of every
    /// port: two ports are none.
    #[inline(always)]
    pub const fn is_chosen(&mut self, port: u32, now: Tick) -> bool {
        let half = &mut self.rx;
        if half.probed == 0 || now.wrapping_sub(half.probed) >= CROSSING {
            return false;
        }
        let is_other = half.port != 0 && half.port != port;
        if is_other {
            half.probed = 0;
            self.note_flooded();
        }
        !is_other
    }

    /// In the entry of a pod: it is reached by `port`.
    #[inline(always)]
    pub const fn note_port(&mut self, port: u32, now: Tick, epoch: u32) {
        self.rx.port = port;
        self.rx.epoch = epoch;
        self.rx.verified = now;
    }
}
