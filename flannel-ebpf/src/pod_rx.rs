//! What reaches a pod's port: the stack let it through, and this is where it goes.

use core::mem::MaybeUninit;

use flannel_common::cidr;
use flannel_common::flow::{Direction, FlowKey, Tick};
use flannel_common::header::{Eth, PROTO_TCP};
use flannel_common::reason::Reason;
use flannel_common::transport;

use crate::flows;
use crate::globals::{self, FLANNEL_IFINDEX, NETWORK, NETWORK_MASK, POD_HOOK, SUBNET, SUBNET_MASK};
use crate::headers::{self, Packet};
use crate::skb::Skb;
use crate::verdict::Verdict;

/// Shorter frames are not what bulk transfers are cut into; they need not look for their pod's port.
const WORTHWHILE: u32 = 512;

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if !flows::enabled() || !skb.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    let of_overlay = came_from_overlay(packet);
    if of_overlay && flows::always() {
        return learn_pod(skb, packet);
    }
    let may_be_fast =
        (of_overlay || came_from_outside(packet)) && transport::check_fast(&packet.ip).is_ok();
    let known = if may_be_fast {
        flows::get(&FlowKey::inbound(&packet.ip, &packet.l4))
    } else {
        None
    };
    let (now, epoch) = (flows::now(), flows::epoch());
    let Some(flow) = known.filter(|flow| flow.may_pass(Direction::Rx, now)) else {
        return note_port(skb, packet, now, epoch);
    };
    let eth: Eth = skb.load(0).ok_or(Reason::Truncated)?;
    flow.port = skb.ifindex();
    flow.hook = POD_HOOK.load();
    flow.pod_mac = eth.dst;
    flow.gateway_mac = eth.src;
    flow.note_passed(Direction::Rx, now, epoch);
    Err(Reason::Verified)
}

/// Without proof there is one entry per pod instead of one per flow.
#[inline(always)]
fn learn_pod(skb: &Skb, packet: &Packet) -> Result<Verdict, Reason> {
    let key = FlowKey::pod(packet.ip.dst);
    let eth: Eth = skb.load(0).ok_or(Reason::Truncated)?;
    let (now, epoch) = (flows::now(), flows::epoch());
    let mut fresh = flows::seen(Direction::Rx, now);
    fresh.port = skb.ifindex();
    fresh.hook = POD_HOOK.load();
    fresh.pod_mac = eth.dst;
    fresh.gateway_mac = eth.src;
    fresh.note_passed(Direction::Rx, now, epoch);
    match flows::get(&key) {
        Some(known) => *known = fresh,
        None => flows::enter(&key, &fresh)?,
    }
    Err(Reason::Verified)
}

/// Segments that the bridge has cut out of a packet that `bridge_rx` let pass: the next such packet may come whole. One
/// that is whole shows nothing: it came past the bridge.
#[inline(always)]
fn note_port(skb: &Skb, packet: &Packet, now: Tick, epoch: u32) -> Result<Verdict, Reason> {
    if skb.is_gso()
        || skb.len() < WORTHWHILE
        || packet.ip.proto != PROTO_TCP
        || skb.came_by() != FLANNEL_IFINDEX.load()
    {
        return Ok(Verdict::Untouched);
    }
    let Some(pod) = flows::get(&FlowKey::pod(packet.ip.dst)) else {
        return Ok(Verdict::Untouched);
    };
    if pod.is_chosen(skb.ifindex(), now) {
        let eth: Eth = skb.load(0).ok_or(Reason::Truncated)?;
        pod.port = skb.ifindex();
        pod.hook = POD_HOOK.load();
        pod.pod_mac = eth.dst;
        pod.gateway_mac = eth.src;
        pod.note_passed(Direction::Rx, now, epoch);
    }
    Ok(Verdict::Untouched)
}

/// What could be a reply that `uplink_snat_rx` translated.
#[inline(always)]
fn came_from_outside(packet: &Packet) -> bool {
    globals::masquerades()
        && cidr::contains(SUBNET.load(), SUBNET_MASK.load(), packet.ip.dst)
        && !cidr::contains(NETWORK.load(), NETWORK_MASK.load(), packet.ip.src)
}

#[inline(always)]
pub(crate) fn came_from_overlay(packet: &Packet) -> bool {
    cidr::contains(SUBNET.load(), SUBNET_MASK.load(), packet.ip.dst)
        && cidr::contains(NETWORK.load(), NETWORK_MASK.load(), packet.ip.src)
        && !cidr::contains(SUBNET.load(), SUBNET_MASK.load(), packet.ip.src)
}
