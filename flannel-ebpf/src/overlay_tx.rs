//! What the stack routed to the overlay: find the peer, encapsulate, send.

use core::mem::MaybeUninit;

use flannel_common::Ipv4;
use flannel_common::cidr;
use flannel_common::flow::{Direction, FlowKey};
use flannel_common::header::PROTO_UDP;
use flannel_common::maps::{BY_STACK, PEER_STACK, PEER_VXLAN, Peer, ROUTED};
use flannel_common::reason::Reason;

use crate::encap::{At, Encapsulate};
use crate::headers::{self, Packet};
use crate::maps::VTEPS;
use crate::route::{self, Forwarded};
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{asked, crossing, flows, peers};

/// First try, on the way out of `flannel.<VNI>`. What it passes crosses the veth pair, which segments in
/// software what this hook could not take, and comes to [`run_last`].
#[inline(always)]
pub(crate) fn run<Tunnel: Encapsulate>(skb: &Skb) -> Result<Verdict, Reason> {
    send::<Tunnel>(skb, asked::LOOK_OUT)
}

/// `ask`: what to do with a packet whose turn it is to ask the host's firewall. It has to get to the far end for that.
#[inline(always)]
fn send<Tunnel: Encapsulate>(skb: &Skb, ask: u8) -> Result<Verdict, Reason> {
    if !skb.is_ipv4() {
        return Err(Reason::NotIpv4);
    }
    let mut room = MaybeUninit::uninit();
    let packet = headers::load(skb, headers::IP, &mut room).ok_or(Reason::Truncated)?;
    if !packet.ip.is_ipv4() {
        return Err(Reason::NotIpv4);
    }
    if cidr::is_not_unicast(packet.ip.dst) {
        return Err(Reason::NotUnicast);
    }
    let leased = peers::of(packet.ip.dst);
    let at_address;
    let peer = match leased {
        Some(peer) => peer,
        None if Tunnel::BY_ADDRESS => {
            at_address = routed_by_address(skb, packet)?;
            &at_address
        }
        None => routed(skb, packet)?,
    };
    // Behind the pair the agent has a socket, and sends it as the node's own.
    if peer.kind == PEER_STACK {
        return Err(Reason::ByStack);
    }
    // At the far end it is what passed the near one.
    if ask == asked::LOOK_OUT && leased.is_some() {
        // An agent that is dead hears of no other way to the peer.
        note_passed(skb, packet, peer, || {
            route::still(skb, peer.public_ip, peer.next_hop)
        });
    }
    // Of several datagrams in one packet nobody behind the pair knows where they end.
    let is_one = !skb.is_gso() || packet.ip.proto != PROTO_UDP;
    if is_one && asked::is_turn(peer.public_ip, ask) {
        return Err(Reason::ByStack);
    }
    Tunnel::send(skb, peer, &packet.ip, At::Stack, None, Reason::Encap)
}

/// Whom somebody's own route by this device leads through: `ip route add 10.8.0.0/24 via 10.244.2.0 dev flannel.1 onlink`.
#[inline(always)]
pub(crate) fn routed(skb: &Skb, packet: &Packet) -> Result<&'static Peer, Reason> {
    let gateway = route::overlay_gateway(skb, &forwarded(packet));
    peers::of(gateway).ok_or(Reason::NoPeer)
}

/// The same where the gateway may be a peer's own address.
#[inline(always)]
fn routed_by_address(skb: &Skb, packet: &Packet) -> Result<Peer, Reason> {
    let gateway = route::overlay_gateway(skb, &forwarded(packet));
    let Some(vtep) = VTEPS.get_ptr(gateway) else {
        return peers::of(gateway).copied().ok_or(Reason::NoPeer);
    };
    // SAFETY: a value of the map, which lives as long as the program; one word, read whole.
    let is_for_stack = unsafe { (*vtep).leases } & BY_STACK != 0;
    Ok(Peer {
        public_ip: gateway,
        next_hop: ROUTED,
        vtep_mac: [0; 6],
        kind: match is_for_stack {
            true => PEER_STACK,
            false => PEER_VXLAN,
        },
        narrow: 0,
    })
}

#[inline(always)]
fn forwarded(packet: &Packet) -> Forwarded {
    Forwarded {
        src: packet.ip.src,
        dst: packet.ip.dst,
        tos: packet.ip.tos,
        proto: packet.ip.proto,
    }
}

/// Last try, at the far end of the pair: behind it there is no stack that could help.
#[inline(always)]
pub(crate) fn run_last<Tunnel: Encapsulate>(skb: &Skb) -> Result<Verdict, Reason> {
    send::<Tunnel>(skb, asked::ASK_OUT).map_err(|reason| match reason {
        Reason::EncapRefused => Reason::UnhandledTx,
        other => other,
    })
}

/// A packet of a pod of ours came out of the stack as it went in: that proves its flow. `next_hop`: to the peer.
#[inline(always)]
pub(crate) fn note_passed(
    skb: &Skb,
    packet: &Packet,
    peer: &Peer,
    next_hop: impl FnOnce() -> Ipv4,
) {
    if !flows::enabled() || flows::always() {
        return;
    }
    let key = FlowKey::outbound(&packet.ip, &packet.l4);
    let seen = crossing::seen(skb, packet);
    let Some(passed) = crossing::passed(&key, Direction::Tx, &seen) else {
        return;
    };
    let (Some(proof), true) = (
        passed.proof(passed.device(), passed.change),
        crossing::is_fit(skb.ifindex()),
    ) else {
        return;
    };
    let Ok(flow) = crossing::flow(&key) else {
        return;
    };
    if flow.may_pass(passed.now, &proof) {
        // By the tunnel, whatever the agent is about to do about routes: this is what the stack did.
        flow.peer = Peer {
            kind: PEER_VXLAN,
            next_hop: next_hop(),
            ..*peer
        };
        flows::prove(flow, Direction::Tx, passed.now, &proof);
    }
}
