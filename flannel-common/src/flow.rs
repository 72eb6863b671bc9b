//! The verified fast path's state machine: when a flow may skip the stack.
//!
//! The stack decides, BPF repeats. Each direction of a flow is watched at two hooks, one before the stack
//! and one behind it. A packet that passes both *unchanged* proves that no rule drops or translates it; for a
//! while its successors may take the short way. One packet in five seconds goes through the stack again,
//! so that conntrack's timers live on and a rule added later still reaches the flow.
//!
//! All times are [`Tick`]s; comparisons wrap.

mod setting;

use bytemuck::{Pod, Zeroable};

pub use setting::Setting;

use crate::globals::POD_HOOK_PORT;
use crate::header::Ip;
use crate::maps::Peer;
use crate::snat::Key;
use crate::transport::{Control, L4};
use crate::{Ipv4, Mac};

/// Monotonic time in units of 2^20 ns (1.05 ms); wraps after 52 days.
pub type Tick = u32;

/// Milliseconds (rounded down) as ticks.
const fn ticks(ms: u32) -> Tick {
    ms - ms / 20
}

/// From nanoseconds of the monotonic clock. Never 0, which stands for "never".
#[inline(always)]
pub const fn tick(ns: u64) -> Tick {
    #[expect(clippy::cast_possible_truncation, reason = "wraps by design")]
    let tick = (ns >> 20) as u32;
    tick | 1
}

/// How long one proof holds.
pub const LIFETIME: Tick = ticks(15_000);
/// After this long the proof is renewed by sending one packet through the stack.
pub const REFRESH: Tick = ticks(5_000);
/// At most one renewal is under way in this time; the other packets go on.
const PROBE_GAP: Tick = ticks(1_000);
/// A packet takes no longer than this from the hook before the stack to the one behind it.
const CROSSING: Tick = ticks(1_000);
/// After FIN or RST nothing is proven for this long: the rest of the handshake belongs to conntrack.
const CLOSING: Tick = ticks(15_000);
/// How long a pod's port is taken for the bridge's choice after it was seen to be.
pub const PORT_LIFETIME: Tick = ticks(1_000);
/// After this long the choice is looked at anew, by a packet that takes the bridge.
pub const PORT_REFRESH: Tick = ticks(500);
/// At most one such packet in this time.
const PORT_GAP: Tick = ticks(50);
/// A TCP flow that sent a full-size segment in this time is bulk.
const BULK: Tick = ticks(1_000);

/// A flow as this node sees it; both directions have one key.
#[repr(C, align(4))]
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Pod, Zeroable)]
pub struct FlowKey {
    /// The pod on this node.
    pub local: Ipv4,
    /// The pod on the other node.
    pub remote: Ipv4,
    /// Ports in network order.
    pub local_port: [u8; 2],
    pub remote_port: [u8; 2],
    pub proto: u8,
    pub pad: [u8; 3],
}

/// What is known about one direction.
#[repr(C)]
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Pod, Zeroable)]
pub struct Half {
    /// When the hook before the stack last let a packet go through the stack.
    pub seen: Tick,
    /// When the hook behind the stack last saw such a packet come out unchanged; 0: never.
    pub verified: Tick,
    /// When the last renewal was sent.
    pub probed: Tick,
    /// The epoch in which `verified` was written.
    pub epoch: u32,
}

/// The proof of one flow, and what to do while it holds.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable)]
pub struct Flow {
    /// From the pod to the overlay.
    pub tx: Half,
    /// From the overlay to the pod.
    pub rx: Half,
    /// When FIN or RST was seen; 0: open.
    pub closed: Tick,
    /// When a full-size segment last arrived; 0: never.
    pub bulk: Tick,
    /// Where the stack sent it: the transmit action. For the outside a [`Way`](crate::outside::Way) in its place.
    pub peer: Peer,
    /// Whence it may arrive: the outer source or, without a tunnel, the remote pod itself.
    pub rx_peer: Ipv4,
    /// Where the stack delivered it: the receive action. An ifindex and the frame's MACs.
    pub port: u32,
    pub pod_mac: Mac,
    pub gateway_mac: Mac,
    /// What `port` is, a pod's port or the bridge ([`crate::globals::POD_HOOK`] of whoever saw the packet there): the
    /// programs of two settings run side by side while one replaces the other.
    pub hook: u8,
    pub pad: [u8; 3],
}

/// Which way a packet goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Skip the stack.
    Fast,
    /// Through the stack, although the proof holds: time to renew it.
    Refresh,
    /// Through the stack.
    Stack,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    Tx,
    Rx,
}

impl FlowKey {
    /// Of a packet that leaves this node.
    #[inline(always)]
    pub const fn outbound(ip: &Ip, l4: &L4) -> Self {
        Self::of(ip.src, ip.dst, [l4[0], l4[1], l4[2], l4[3]], ip.proto)
    }

    /// Of a packet that arrives.
    #[inline(always)]
    pub const fn inbound(ip: &Ip, l4: &L4) -> Self {
        Self::of(ip.dst, ip.src, [l4[2], l4[3], l4[0], l4[1]], ip.proto)
    }

    /// Of a packet that leaves as the node, from before it was translated.
    #[inline(always)]
    pub const fn untranslated(key: &Key) -> Self {
        let ([a, b], [c, d]) = (key.src_port, key.dst_port);
        Self::of(key.src, key.dst, [a, b, c, d], key.proto)
    }

    /// Stands for a pod: where no proof is asked for, for all flows to it; else for the port to which the bridge sends
    /// what the stack has let through.
    #[inline(always)]
    pub const fn pod(local: Ipv4) -> Self {
        Self::of(local, [0; 4], [0; 4], 0)
    }

    /// By words: field by field, LLVM calls `memset` for three bytes of padding.
    #[inline(always)]
    const fn of(local: Ipv4, remote: Ipv4, ports: [u8; 4], proto: u8) -> Self {
        bytemuck::must_cast([
            u32::from_ne_bytes(local),
            u32::from_ne_bytes(remote),
            u32::from_ne_bytes(ports),
            u32::from_ne_bytes([proto, 0, 0, 0]),
        ])
    }
}

impl Half {
    /// Nothing known.
    pub const EMPTY: Self = Self {
        seen: 0,
        verified: 0,
        probed: 0,
        epoch: 0,
    };

    #[inline(always)]
    const fn holds(&self, now: Tick, epoch: u32) -> bool {
        self.verified != 0 && self.epoch == epoch && now.wrapping_sub(self.verified) < LIFETIME
    }

    #[inline(always)]
    const fn is_due(&self, now: Tick) -> bool {
        now.wrapping_sub(self.verified) >= REFRESH && now.wrapping_sub(self.probed) >= PROBE_GAP
    }
}

impl Flow {
    /// Nothing known.
    pub const EMPTY: Self = Self {
        tx: Half::EMPTY,
        rx: Half::EMPTY,
        closed: 0,
        bulk: 0,
        peer: Peer {
            public_ip: [0; 4],
            next_hop: [0; 4],
            vtep_mac: [0; 6],
            kind: 0,
            pad: 0,
        },
        rx_peer: [0; 4],
        port: 0,
        pod_mac: [0; 6],
        gateway_mac: [0; 6],
        hook: POD_HOOK_PORT,
        pad: [0; 3],
    };

    /// Decides for one packet. `both`: the other direction must be proven too (TCP, where conntrack must have
    /// seen the handshake; UDP where the hook sits behind br_netfilter's DNAT).
    #[inline(always)]
    pub fn decide(&self, direction: Direction, now: Tick, epoch: u32, both: bool) -> Step {
        let (half, other) = self.halves(direction);
        if self.is_closing(now) || !half.holds(now, epoch) || (both && !other.holds(now, epoch)) {
            Step::Stack
        } else if half.is_due(now) {
            Step::Refresh
        } else {
            Step::Fast
        }
    }

    /// The hook before the stack lets a packet go.
    #[inline(always)]
    pub fn note_seen(&mut self, direction: Direction, now: Tick) {
        let half = self.half_mut(direction);
        half.seen = now;
        half.probed = now;
    }

    /// Whether a packet that comes out behind the stack now proves the direction: it went in just before.
    #[inline(always)]
    pub const fn may_pass(&self, direction: Direction, now: Tick) -> bool {
        let (half, _) = self.halves(direction);
        !self.is_closing(now) && half.seen != 0 && now.wrapping_sub(half.seen) < CROSSING
    }

    /// The hook behind the stack sees it come out unchanged. Returns whether that proves the direction.
    /// The caller has written the action before, for another CPU may act on the proof at once.
    #[inline(always)]
    pub const fn note_passed(&mut self, direction: Direction, now: Tick, epoch: u32) -> bool {
        if !self.may_pass(direction, now) {
            return false;
        }
        let half = self.half_mut(direction);
        half.epoch = epoch;
        half.verified = now;
        true
    }

    /// SYN: a new connection on an old tuple owes nothing to the old one. The actions may stay: each proof writes its own
    /// before anyone acts on it.
    #[inline(always)]
    pub const fn reopen(&mut self) {
        self.tx.seen = 0;
        self.tx.verified = 0;
        self.rx.seen = 0;
        self.rx.verified = 0;
        self.closed = 0;
        self.bulk = 0;
    }

    /// The answer to a SYN goes through the stack, and proves its direction if it comes out. The other one is proven
    /// by what follows, so conntrack sees the handshake to its end.
    #[inline(always)]
    pub fn answer(&mut self, direction: Direction, now: Tick) {
        self.reopen();
        self.note_seen(direction, now);
    }

    /// What a TCP segment that opens, answers or closes its connection does to the flow. True if it is one: it takes the stack.
    #[inline(always)]
    pub fn control(&mut self, direction: Direction, control: Control, now: Tick) -> bool {
        match control {
            Control::None => return false,
            Control::Open => self.reopen(),
            Control::Answer => self.answer(direction, now),
            Control::Close => self.close(now),
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

    #[inline(always)]
    pub const fn is_bulk(&self, now: Tick) -> bool {
        self.bulk != 0 && now.wrapping_sub(self.bulk) < BULK
    }

    /// FIN or RST was seen not long ago.
    #[inline(always)]
    pub const fn is_closing(&self, now: Tick) -> bool {
        self.closed != 0 && now.wrapping_sub(self.closed) < CLOSING
    }

    /// In the entry of a [pod](FlowKey::pod): which way a frame for `mac` takes that the stack hands to the bridge.
    #[inline(always)]
    pub fn decide_at_bridge(&self, mac: Mac, now: Tick, epoch: u32) -> Step {
        let half = &self.rx;
        let age = now.wrapping_sub(half.verified);
        if half.verified == 0
            || half.epoch != epoch
            || age >= PORT_LIFETIME
            || self.port == 0
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
    /// what is for the pod. Frames for a MAC that it does not know come out of every port: two ports are none.
    #[inline(always)]
    pub const fn is_chosen(&mut self, port: u32, now: Tick) -> bool {
        if !self.may_pass(Direction::Rx, now) {
            return false;
        }
        let is_other = self.port != 0 && self.port != port;
        if is_other {
            self.rx.verified = 0;
            self.rx.seen = 0;
            self.port = 0;
        }
        !is_other
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
