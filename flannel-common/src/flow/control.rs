//! What a TCP segment that opens, answers or closes its connection does to the flow.

use super::Flow;
use crate::tick::{Tick, ticks};
use crate::transport::Control;

/// After FIN or RST nothing is proven for this long: the rest of the handshake belongs to conntrack.
const CLOSING: Tick = ticks(15_000);

impl Flow {
    /// SYN: a new connection on an old tuple owes nothing to the old one. The actions may stay: each proof writes its own
    /// before anyone acts on it.
    #[inline(always)]
    pub const fn reopen(&mut self) {
        self.tx.verified = 0;
        self.rx.verified = 0;
        self.closed = 0;
        self.bulk = 0;
    }

    /// What a TCP segment that opens, answers or closes its connection does to the flow. True if it is one: it takes the
    /// stack. The answer to a SYN proves its direction if it comes out, the other one is proven by what follows: so conntrack
    /// sees the handshake to its end.
    #[inline(always)]
    pub fn control(&mut self, control: Control, now: Tick) -> bool {
        match control {
            Control::None => return false,
            Control::Open | Control::Answer => self.reopen(),
            Control::Close => self.close(now),
        }
        true
    }

    /// The same for one that a pod sends: while the flow is proven to be of one port, no other port's segment says anything
    /// about it.
    #[inline(always)]
    pub fn control_from(&mut self, control: Control, port: u32, now: Tick, epoch: u32) -> bool {
        if let Control::None = control {
            return false;
        }
        if self.tx.port == port || !self.tx.holds(now, epoch) {
            self.control(control, now);
        }
        true
    }

    /// FIN or RST, in either direction.
    #[inline(always)]
    pub fn close(&mut self, now: Tick) {
        self.tx.verified = 0;
        self.rx.verified = 0;
        self.closed = now;
    }

    /// FIN or RST was seen not long ago.
    #[inline(always)]
    pub const fn is_closing(&self, now: Tick) -> bool {
        self.closed != 0 && now.wrapping_sub(self.closed) < CLOSING
    }
}
