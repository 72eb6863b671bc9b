//! What a pod sends: verified flows to the overlay skip the stack here.

use core::mem::MaybeUninit;

use flannel_common::flow::{Direction, FlowKey, Step};
use flannel_common::globals::FAST_MARK;
use flannel_common::maps::{PEER_DIRECT, Peer};
use flannel_common::reason::Reason;
use flannel_common::transport::{self, Control};
use flannel_common::{cidr, ttl};

use crate::globals::{NETWORK, NETWORK_MASK, OVERLAY_MTU, SUBNET, SUBNET_MASK, UPLINK_IFINDEX};
use crate::headers::{self, Packet};
use crate::skb::{self, Skb};
use crate::verdict::Verdict;
use crate::{encap, flows, peers};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if !flows::enabled() || !skb.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    if !leaves_for_overlay(packet) {
        return Ok(Verdict::Untouched);
    }
    transport::check_fast(&packet.ip)?;
    let tcp = transport::tcp(&packet.ip, &packet.l4)?;
    transport::check_size(&packet.ip, tcp, skb.gso_size(), OVERLAY_MTU.load())?;

    if flows::always() {
        let peer = *peers::of(packet.ip.dst).ok_or(Reason::Unverified)?;
        return send(skb, &peer, packet);
    }
    let key = FlowKey::outbound(&packet.ip, &packet.l4);
    let control = transport::control(tcp);
    let now = flows::now();
    let Some(flow) = flows::get(&key) else {
        if let Control::Open | Control::Close = control {
            return Err(Reason::TcpControl);
        }
        flows::enter(&key, &flows::seen(Direction::Tx, now))?;
        return Err(reason_of(control));
    };
    match control {
        Control::None => {}
        Control::Open => {
            flow.reopen();
            return Err(Reason::TcpControl);
        }
        Control::Answer => {
            flow.answer(Direction::Tx, now);
            return Err(Reason::TcpControl);
        }
        Control::Close => {
            flow.close(now);
            return Err(Reason::TcpControl);
        }
    }
    match flow.decide(Direction::Tx, now, flows::epoch(), flows::needs_both(&key)) {
        Step::Fast if flow.peer.kind != 0 => {
            let peer = flow.peer;
            send(skb, &peer, packet)
        }
        Step::Refresh => {
            flow.note_seen(Direction::Tx, now);
            Err(Reason::Refresh)
        }
        Step::Fast | Step::Stack => {
            flow.note_seen(Direction::Tx, now);
            Err(Reason::Unverified)
        }
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

/// Skipping the stack is still a hop: the TTL goes down by one.
#[inline(always)]
fn send(skb: &Skb, peer: &Peer, packet: &Packet) -> Result<Verdict, Reason> {
    let ip = ttl::decremented(&packet.ip);
    if peer.kind == PEER_DIRECT {
        skb.store(headers::IP, &ip.front())
            .map_err(|_| Reason::Mangled)?;
        skb.set_mark(FAST_MARK);
        let action = skb::redirect_to_neighbour(UPLINK_IFINDEX.load(), peer.next_hop);
        return Ok(Verdict::Taken(action, Reason::FastTx));
    }
    encap::send(skb, peer, &ip, Reason::FastTx)
}
