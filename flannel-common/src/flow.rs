//! The verified fast path's state machine: when a flow may skip the stack.
//!
//! The stack decides, BPF repeats. Each direction of a flow is watched at two hooks, one before the stack
//! and one behind it. A packet that [crosses](crate::crossing) from one to the other proves that no rule drops or translates
//! it, and shows what else the stack does to it; for a while its successors may take the short way. One packet in five
//! seconds goes through the stack again, so that conntrack's timers live on and a rule added later still reaches the flow.
//!
//! All times are [`Tick`]s; comparisons wrap.

mod control;
mod half;
mod key;
mod opener;
mod port;
mod proof;
mod setting;

use bytemuck::{Pod, Zeroable};

pub use half::Half;
pub use key::FlowKey;
pub use opener::{NOBODY, PEER, POD, opener};
pub use port::{PORT_LIFETIME, PORT_REFRESH};
pub use proof::Proof;
pub use setting::Setting;

use crate::globals::POD_HOOK_PORT;
use crate::header::Ip;
use crate::maps::Peer;
use crate::tick::ticks;
pub use crate::tick::{Tick, tick};
use crate::{Ipv4, Mac};

/// How long one proof holds.
pub const LIFETIME: Tick = ticks(15_000);
/// After this long the proof is renewed by sending one packet through the stack.
pub const REFRESH: Tick = ticks(5_000);
/// After this long, where nothing has shown yet that it is the pod which is at the port: one that sends frames with its MAC has what the
/// bridge sends until the pod is heard again.
const UNANSWERED: Tick = ticks(500);
/// A TCP flow that sent a full-size segment in this time is bulk.
const BULK: Tick = ticks(1_000);

/// The proof of one flow, and what to do while it holds.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow {
    /// From the pod to the overlay.
    pub tx: Half,
    /// Where the stack sent it: the transmit action. For the outside a [`Way`](crate::outside::Way) in its place.
    pub peer: Peer,
    /// When FIN or RST was seen; 0: open.
    pub closed: Tick,
    /// When a full-size segment last arrived; 0: never.
    pub bulk: Tick,
    /// From the overlay to the pod.
    pub rx: Half,
    /// Whence it may arrive: the outer source or, without a tunnel, the remote pod itself.
    pub rx_peer: Ipv4,
    /// The frame's MACs: with [`Half::port`], the receive action.
    pub pod_mac: Mac,
    pub gateway_mac: Mac,
    /// What the port of `rx` is, a pod's port or the bridge ([`crate::globals::POD_HOOK`] of whoever saw the packet there):
    /// the programs of two settings run side by side while one replaces the other.
    pub hook: u8,
    /// Who sent first, as far as this node has seen: [`NOBODY`], [`POD`] or [`PEER`].
    pub opener: u8,
    /// 1: who opened was looked at since who answers was; see [`Flow::may_ask`].
    pub answer_due: u8,
    pub pad: u8,
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Through the stack.
    Stack,
    /// Skip the stack.
    Fast,
    /// Through the stack, although the proof holds: time to renew it.
    Refresh,
    /// The same way: behind such a one, which has not come out yet, or never does.
    Behind,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Tx,
    Rx,
}

impl Flow {
    /// Nothing known.
    pub const EMPTY: Self = Self {
        tx: Half::EMPTY,
        peer: Peer {
            public_ip: [0; 4],
            next_hop: [0; 4],
            vtep_mac: [0; 6],
            kind: 0,
            narrow: 0,
        },
        closed: 0,
        bulk: 0,
        rx: Half::EMPTY,
        rx_peer: [0; 4],
        pod_mac: [0; 6],
        gateway_mac: [0; 6],
        hook: POD_HOOK_PORT,
        opener: NOBODY,
        answer_due: 0,
        pad: 0,
    };

    /// Decides for one packet. `both`: the other direction must be proven too (TCP, where conntrack must have
    /// seen the handshake; UDP where the hook sits behind br_netfilter's DNAT).
    #[inline(always)]
    pub fn decide(&self, direction: Direction, now: Tick, epoch: u32, both: bool) -> Step {
        let (half, other) = self.halves(direction);
        if self.is_closing(now) || !half.holds(now, epoch) || (both && !other.holds(now, epoch)) {
            Step::Stack
        } else if half.is_awaited() {
            Step::Behind
        } else if half.is_due(now, self.lasts(direction, now, epoch))
            && self.may_ask(direction, now, epoch)
        {
            Step::Refresh
        } else {
            Step::Fast
        }
    }

    /// After how long a proof of the direction is renewed.
    #[inline(always)]
    const fn lasts(&self, direction: Direction, now: Tick, epoch: u32) -> Tick {
        match direction {
            Direction::Rx if !self.tx.holds(now, epoch) => UNANSWERED,
            _ => REFRESH,
        }
    }

    /// Whether a packet from the pod is of the flow that was proven: the same port, and nothing else about it that rules
    /// may go by.
    #[inline(always)]
    pub const fn is_from(&self, port: u32, ip: &Ip, mark: u32) -> bool {
        (self.tx.port ^ port) | self.tx.change.difference(ip, mark) == 0
    }

    /// A renewal is sent through the stack.
    #[inline(always)]
    pub const fn note_probe(&mut self, direction: Direction, now: Tick) {
        self.half_mut(direction).probed = now;
    }

    #[inline(always)]
    pub const fn is_bulk(&self, now: Tick) -> bool {
        self.bulk != 0 && now.wrapping_sub(self.bulk) < BULK
    }

    #[inline(always)]
    const fn halves(&self, direction: Direction) -> (&Half, &Half) {
        match direction {
            Direction::Tx => (&self.tx, &self.rx),
            Direction::Rx => (&self.rx, &self.tx),
        }
    }

    #[inline(always)]
    const fn half_mut(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::Tx => &mut self.tx,
            Direction::Rx => &mut self.rx,
        }
    }
}

#[cfg(test)]
mod tests;
