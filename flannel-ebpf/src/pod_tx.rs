//! What a pod sends: verified flows to other nodes' pods, and out of the cluster, skip the stack here.

use core::mem::MaybeUninit;

use flannel_common::Ipv4;
use flannel_common::cidr;
use flannel_common::crossing::Change;
use flannel_common::flow::{Direction, FlowKey, NOBODY, Step};
use flannel_common::globals::POD_HOOK_BRIDGE;
use flannel_common::maps::{PEER_DIRECT, PEER_OUTSIDE, PEER_STACK, PEER_VXLAN, Peer, ROUTED};
use flannel_common::outside::Way;
use flannel_common::reason::Reason;
use flannel_common::transport::{self, Control};

use crate::encap::{At, Encapsulate};
use crate::globals::{
    self, NETWORK, NETWORK_MASK, OVERLAY_MTU, POD_HOOK, SUBNET, SUBNET_MASK, UPLINK_IFINDEX,
};
use crate::headers::{self, Packet};
use crate::redirect;
use crate::route::{self, Forwarded};
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{asked, crossing, flows, forged, ours, peers, shown};

/// `Tunnel`: by which packets for other nodes' pods go.
#[inline(always)]
pub(crate) fn run<Tunnel: Encapsulate>(skb: &Skb) -> Result<Verdict, Reason> {
    if !flows::enabled() {
        return Ok(Verdict::Untouched);
    }
    // What a pod's own filters have left there (a classid) is no note of ours.
    skb.set_passes(0);
    // What carries a priority takes the stack, which knows what to do with it.
    if !skb.is_ipv4() {
        forged::check_odd(skb)?;
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    let outside = !leaves_for_overlay(packet);
    if outside {
        forged::check(skb, packet)?;
    }
    if outside && !leaves_cluster(packet) {
        return Ok(Verdict::Untouched);
    }
    transport::check_fast(&packet.ip)?;
    let tcp = transport::tcp(&packet.ip, &packet.l4)?;
    let len = transport::check_sent(
        &packet.ip,
        tcp,
        skb.gso_size(),
        OVERLAY_MTU.load(),
        skb.len(),
    )?;

    // Only the stack knows the way out of the cluster.
    if flows::always() && !outside {
        // Nobody proves there that all that happens to a packet is what the stack does.
        if !crossing::is_fit(skb.ifindex()) {
            return Err(Reason::Unverified);
        }
        ours::check(skb)?;
        if is_of_node(packet) {
            return Err(Reason::Unverified);
        }
        let mut peer = *peers::of(packet.ip.dst).ok_or(Reason::Unverified)?;
        let asks = peer.kind == PEER_VXLAN && asked::is_turn(peer.public_ip, asked::LOOK_OUT);
        if peer.kind == PEER_STACK || asks {
            return Err(Reason::ByStack);
        }
        if !peer.carries(len) {
            return Err(Reason::OverMtu);
        }
        if shown::is_turn(skb.ifindex(), flows::now(), NOBODY) {
            return Err(Reason::Refresh);
        }
        peer.next_hop = match peer.kind {
            PEER_DIRECT if Tunnel::HAS_DIRECT => routed_by_uplink(skb, packet)?,
            _ => ROUTED,
        };
        // Nobody has shown what the stack would do to it.
        let change = Change {
            mark: skb.mark(),
            priority: skb.priority(),
            ..Change::NONE
        };
        return send::<Tunnel>(skb, &peer, packet, &change);
    }
    let key = FlowKey::outbound(&packet.ip, &packet.l4);
    let control = transport::control(tcp);
    let at = (flows::now(), flows::epoch());
    let Some(flow) = flows::get(&key) else {
        if let Control::Open | Control::Close = control {
            return Err(Reason::TcpControl);
        }
        // Most of what has no entry is for a service, which never gets one: `outside_tx` enters what does leave.
        if outside {
            return Ok(Verdict::Untouched);
        }
        crossing::enters(skb, packet, &key, Direction::Tx, at);
        return Err(reason_of(control));
    };
    let (now, epoch) = at;
    if flow.control_from(control, skb.ifindex(), now, epoch) {
        if control == Control::Answer {
            crossing::enters(skb, packet, &key, Direction::Tx, at);
        }
        return Err(Reason::TcpControl);
    }
    let mut step = Step::Stack;
    if flow.is_from(skb.ifindex(), &packet.ip, skb.mark()) {
        step = flows::decide(flow, Direction::Tx, now, epoch, flows::needs_both(&key));
    }
    if step == Step::Fast && shown::is_turn(skb.ifindex(), now, flow.opener) {
        step = Step::Refresh;
    }
    if step == Step::Fast && may_skip(&flow.peer, outside, len) {
        let (peer, change) = (flow.peer, flow.tx.change);
        return send::<Tunnel>(skb, &peer, packet, &change);
    }
    crossing::enters(skb, packet, &key, Direction::Tx, at);
    let reason = reason_of_step(step);
    if step == Step::Refresh {
        flow.note_probe(Direction::Tx, now);
    }
    Err(reason)
}

/// Why a packet of a flow that is known takes the stack.
#[inline(always)]
pub(crate) const fn reason_of_step(step: Step) -> Reason {
    if step as u32 >= Step::Refresh as u32 {
        Reason::Refresh
    } else {
        Reason::Unverified
    }
}

/// Why the first packet of a flow takes the stack.
#[inline(always)]
pub(crate) fn reason_of(control: Control) -> Reason {
    match control {
        Control::None => Reason::Unverified,
        _ => Reason::TcpControl,
    }
}

/// From a pod of ours to a pod elsewhere. Anything else belongs to the stack, and to no statistics.
#[inline(always)]
pub(crate) fn leaves_for_overlay(packet: &Packet) -> bool {
    cidr::contains(NETWORK.load(), NETWORK_MASK.load(), packet.ip.dst)
        && !cidr::contains(SUBNET.load(), SUBNET_MASK.load(), packet.ip.dst)
        && cidr::contains(SUBNET.load(), SUBNET_MASK.load(), packet.ip.src)
}

/// Whether the source is an address of the node's in its subnet: the overlay's device has the first, the bridge the one behind it. The
/// stack, which hears that from nobody else (`fib_validate_source`: a martian), is to judge.
#[inline(always)]
fn is_of_node(packet: &Packet) -> bool {
    u32::from_be_bytes(packet.ip.src).wrapping_sub(SUBNET.load()) <= 1
}

/// From a pod of ours to an address that is no pod's, where such packets leave as the node.
#[inline(always)]
fn leaves_cluster(packet: &Packet) -> bool {
    globals::masquerades()
        && cidr::contains(SUBNET.load(), SUBNET_MASK.load(), packet.ip.src)
        && !cidr::contains(NETWORK.load(), NETWORK_MASK.load(), packet.ip.dst)
        && !cidr::is_not_unicast(packet.ip.dst)
}

/// Whether the stack showed where to send packets of this length. A way out of the cluster is one only for what leaves
/// it: no other packet is translated there.
#[inline(always)]
fn may_skip(peer: &Peer, outside: bool, len: u32) -> bool {
    match Way::of(peer) {
        Some(way) => outside && way.carries(UPLINK_IFINDEX.load(), len),
        None => !outside && peer.kind != 0 && peer.carries(len),
    }
}

/// Without proof nothing shows that a route of somebody's leads elsewhere, or nowhere, with or without an agent: the kernel is asked. What it
/// does not send by the uplink is the stack's, which says so to the pod.
#[inline(always)]
fn routed_by_uplink(skb: &Skb, packet: &Packet) -> Result<Ipv4, Reason> {
    let forwarded = Forwarded {
        src: packet.ip.src,
        dst: packet.ip.dst,
        tos: packet.ip.tos,
        proto: packet.ip.proto,
    };
    route::next_hop_by_uplink(skb, &forwarded).ok_or(Reason::Unverified)
}

/// What br_netfilter translated on its way through the bridge, for a service, has a route at the bridge's own hook
/// (`br_nf_pre_routing_finish`). No other packet has one ahead of the stack, and such a flow is never proven.
#[inline(always)]
fn has_route() -> bool {
    flows::always() && POD_HOOK.load() == POD_HOOK_BRIDGE
}

/// Skipping the stack is still a hop: the TTL goes down by one, and what rules write is written.
#[inline(always)]
fn send<Tunnel: Encapsulate>(
    skb: &Skb,
    peer: &Peer,
    packet: &Packet,
    change: &Change,
) -> Result<Verdict, Reason> {
    let ip = change.hop(&packet.ip);
    if peer.kind == PEER_DIRECT || peer.kind == PEER_OUTSIDE {
        skb.set_class(change.mark, change.priority);
        skb.store(headers::IP, &ip.front())
            .map_err(|_| Reason::Mangled)?;
        let uplink = UPLINK_IFINDEX.load();
        skb.tell_past_stack();
        let action = match peer.kind == PEER_DIRECT && has_route() {
            true => redirect::routed(uplink),
            false => redirect::to_neighbour(uplink, peer.next_hop),
        };
        return Ok(Verdict::Taken(action, Reason::FastTx));
    }
    let at = match has_route() {
        true => At::Stack,
        false => At::Pod,
    };
    Tunnel::send(skb, peer, &ip, at, Some(change), Reason::FastTx)
}
