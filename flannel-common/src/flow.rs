//! The verified fast path's state machine: when a flow may skip the stack.
//!
//! The stack decides, BPF repeats. Each direction of a flow is watched at two hooks, one before the stack
//! and one behind it. A packet that [crosses](crate::crossing) from one to the other proves that no rule drops or translates
//! it, and shows what else the stack does to it; for a while its successors may take the short way. One packet in five
//! seconds goes through the stack again, so that conntrack's timers live on and a rule added later still reaches the flow.
//!
//! All times are [`Tick`]s; comparisons wrap.

mod setting;

use bytemuck::{Pod, Zeroable};

pub use setting::Setting;

use crate::change::Change;
use crate::globals::POD_HOOK_PORT;
use crate::header::{Ip, PROTO_UDP};
use crate::maps::Peer;
use crate::snat::Key;
use crate::tick::ticks;
pub use crate::tick::{Tick, tick};
use crate::transport::{Control, L4, is_answer};
use crate::{Ipv4, Mac};

/// How long one proof holds.
pub const LIFETIME: Tick = ticks(15_000);
/// After this long the proof is renewed by sending one packet through the stack.
pub const REFRESH: Tick = ticks(5_000);
/// So soon behind who opened, who answers is looked at as well; or so long after it was due, where that one is silent.
const PATIENCE: Tick = ticks(1_000);
/// After so long a silence whoever speaks first is taken for who opens: conntrack has forgotten a flow without a handshake by then
/// (`nf_conntrack_udp_timeout_stream`).
const FORGOTTEN: Tick = ticks(120_000);
/// A frame that shows the bridge's choice comes out of a port no later than this.
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

/// Values of [`Flow::opener`]: not known; the pod of this node; the other end.
pub const NOBODY: u8 = 0;
pub const POD: u8 = 1;
pub const PEER: u8 = 2;

/// A packet came out behind the stack: what that says of its flow.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Proof {
    /// The epoch in which it went in.
    pub epoch: u32,
    /// The pod's port.
    pub port: u32,
    pub change: Change,
    /// Who sent first, if this is the first that is seen of the flow: a value of [`Flow::opener`].
    pub opener: u32,
}

impl Proof {
    /// Of a flow to the outside: only such are entered that a pod has opened, though the first packet that is proven may be an answer.
    #[inline(always)]
    #[must_use]
    pub const fn of_outside(self) -> Self {
        Self {
            opener: POD as u32,
            ..self
        }
    }
}

/// Who opened the flow of which this is the first packet that is proven: whoever sent it, or got an answer by it. Of a TCP flow that is
/// found under way nobody knows.
#[inline(always)]
#[must_use]
pub const fn opener(proto: u8, l4: &L4, direction: Direction) -> u32 {
    let (sender, receiver) = match direction {
        Direction::Tx => (POD, PEER),
        Direction::Rx => (PEER, POD),
    };
    let opener = match (proto, is_answer(l4)) {
        (PROTO_UDP, _) => sender,
        (_, true) => receiver,
        (_, false) => NOBODY,
    };
    opener as u32
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
        verified: 0,
        probed: 0,
        epoch: 0,
        port: 0,
        change: Change::NONE,
    };

    #[inline(always)]
    const fn holds(&self, now: Tick, epoch: u32) -> bool {
        self.verified != 0 && self.epoch == epoch && now.wrapping_sub(self.verified) < LIFETIME
    }

    #[inline(always)]
    const fn is_due(&self, now: Tick) -> bool {
        now.wrapping_sub(self.verified) >= REFRESH
    }

    #[inline(always)]
    const fn is_forgotten(&self, now: Tick) -> bool {
        self.verified == 0 || now.wrapping_sub(self.verified) >= FORGOTTEN
    }

    /// Whether the last renewal has not come out, so that what follows goes the same way: it is on its way, and would be overtaken (what
    /// arrives for the stack waits until the CPU has emptied the uplink's queue, `netif_rx`), or it was dropped, or is not what it was.
    #[inline(always)]
    const fn is_awaited(&self) -> bool {
        self.probed != 0
    }
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
        } else if half.is_due(now) && self.may_ask(direction, now, epoch) {
            Step::Refresh
        } else {
            Step::Fast
        }
    }

    /// Whether a packet of this direction may be the first that conntrack sees, should it have forgotten the flow: it takes whose packet that is
    /// for who opened, and what a rule says of the other's then would not be asked. So whoever answers is looked at behind whoever
    /// opened, while that one speaks. Not much later, though: conntrack's time-outs may be short.
    #[inline(always)]
    const fn may_ask(&self, direction: Direction, now: Tick, epoch: u32) -> bool {
        let (_, other) = self.halves(direction);
        let answers = match direction {
            Direction::Tx => self.opener == PEER,
            Direction::Rx => self.opener == POD,
        };
        let age = now.wrapping_sub(other.verified);
        let is_right_behind = self.answer_due != 0 && age < PATIENCE;
        let is_silent = !other.is_awaited() && age >= REFRESH + PATIENCE;
        !answers || is_right_behind || is_silent || !other.holds(now, epoch)
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

    /// Whether a packet that came out behind the stack proves the direction now. While what a pod sends by one port is
    /// proven, nobody else's packets are: a pod that makes frames in another's name cannot take the flow over.
    #[inline(always)]
    pub const fn may_pass(&self, direction: Direction, now: Tick, proof: &Proof) -> bool {
        let is_taken = match direction {
            Direction::Tx => self.tx.port != proof.port && self.tx.holds(now, proof.epoch),
            // There the bridge decides, and the last time counts.
            Direction::Rx => false,
        };
        !self.is_closing(now) && !is_taken
    }

    /// A packet came out behind the stack. Returns whether that proves the direction.
    /// The caller has written the action before, for another CPU may act on the proof at once.
    pub const fn note_passed(&mut self, direction: Direction, now: Tick, proof: &Proof) -> bool {
        let may = self.may_pass(direction, now, proof);
        if may {
            self.prove(direction, now, proof);
        }
        may
    }

    /// The same of one that [may](Self::may_pass).
    #[inline(always)]
    pub const fn prove(&mut self, direction: Direction, now: Tick, proof: &Proof) {
        self.note_opener(now, proof.opener);
        self.note_proof(direction, now, proof);
    }

    /// Who opened the flow, if `opener` is who speaks first. Ahead of [`Self::note_proof`].
    #[inline(always)]
    pub const fn note_opener(&mut self, now: Tick, opener: u32) {
        let is_new = self.tx.is_forgotten(now) && self.rx.is_forgotten(now);
        // In the middle of a TCP connection nobody knows better than who saw its beginning.
        if is_new && (opener != NOBODY as u32 || self.tx.verified | self.rx.verified == 0) {
            #[expect(clippy::cast_possible_truncation, reason = "one of three values")]
            let opener = opener as u8;
            self.opener = opener;
        }
    }

    /// What a proof says but for who opened the flow.
    #[inline(always)]
    pub const fn note_proof(&mut self, direction: Direction, now: Tick, proof: &Proof) {
        let opener = match direction {
            Direction::Tx => POD,
            Direction::Rx => PEER,
        };
        // 1 if they are the same; a branch would be two ways on from here to the verifier.
        let differs = self.opener ^ opener;
        self.answer_due = 1 - ((differs | differs.wrapping_neg()) >> 7);
        match direction {
            // The bridge may have sent packets for the pod to all its ports, and there was but another one.
            Direction::Tx if self.rx.port != proof.port => self.note_flooded(),
            Direction::Tx => {}
            // Whoever delivered it need not be whom programs may believe in this epoch.
            Direction::Rx if self.rx.epoch != proof.epoch => self.rx_peer = [0; 4],
            Direction::Rx => {}
        }
        let half = self.half_mut(direction);
        half.port = proof.port;
        half.change = proof.change;
        half.epoch = proof.epoch;
        half.verified = now;
        half.probed = 0;
    }

    /// The same packet came out of a second port: the bridge does not know the MAC, and sends to all. Two ports are none.
    #[inline(always)]
    pub const fn note_flooded(&mut self) {
        self.rx.verified = 0;
        self.rx.port = 0;
    }

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
