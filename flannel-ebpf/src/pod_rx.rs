//! What reaches a pod's port: the stack let it through, and this is where it goes.

use core::mem::MaybeUninit;

use flannel_common::cidr;
use flannel_common::crossing::Change;
use flannel_common::flow::{Direction, FlowKey};
use flannel_common::globals::POD_HOOK_BRIDGE;
use flannel_common::header::{Eth, PROTO_TCP};
use flannel_common::reason::Reason;

use crate::crossing::{self, Passed};
use crate::flows;
use crate::globals::{FLANNEL_IFINDEX, NETWORK, NETWORK_MASK, POD_HOOK, SUBNET, SUBNET_MASK};
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
    let key = FlowKey::inbound(&packet.ip, &packet.l4);
    let seen = crossing::seen(skb, packet);
    // What a pod puts on the bridge was received on its own port (`skb_iif`), and can be made to look like nothing else.
    match crossing::passed(&key, Direction::Rx, &seen) {
        Some(passed) if passed.device() == skb.came_by() => arrives(skb, packet, &key, passed),
        _ => note_port(skb, packet),
    }
}

/// A packet that was noted on its way into the stack.
#[inline(always)]
fn arrives(
    skb: &Skb,
    packet: &Packet,
    key: &FlowKey,
    mut passed: Passed,
) -> Result<Verdict, Reason> {
    let eth: Eth = skb.load(0).ok_or(Reason::Truncated)?;
    let port = skb.ifindex();
    if eth.is_to_group() || !crossing::is_fit(passed.device()) {
        return Ok(Verdict::Untouched);
    }
    // Without proof there is one entry per pod instead of one per flow. Only the tunnel and its like deliver by it.
    let is_pods = flows::always() && came_from_overlay(packet);
    let pod = FlowKey::pod(packet.ip.dst);
    let key = if is_pods { &pod } else { key };
    if !passed.is_only(port) {
        if let Some(flow) = flows::get(key) {
            flow.note_flooded();
        }
        return Ok(Verdict::Untouched);
    }
    // Mark and class are for the queueing discipline of the port, which is behind the bridge. A veth takes them off.
    let hook = POD_HOOK.load();
    let change = match (is_pods, hook) {
        (true, _) => Change::NONE,
        (false, POD_HOOK_BRIDGE) => passed.change,
        (false, _) => Change {
            mark: 0,
            priority: 0,
            ..passed.change
        },
    };
    let Some(mut proof) = passed.proof(port, change) else {
        return Ok(Verdict::Untouched);
    };
    if !cidr::contains(NETWORK.load(), NETWORK_MASK.load(), packet.ip.src) {
        proof = proof.of_outside();
    }
    let flow = crossing::flow(key)?;
    if !flow.may_pass(passed.now, &proof) {
        return Ok(Verdict::Untouched);
    }
    flow.hook = hook;
    flow.pod_mac = eth.dst;
    flow.gateway_mac = eth.src;
    flows::prove(flow, Direction::Rx, passed.now, &proof);
    Err(Reason::Verified)
}

/// Segments that the bridge has cut out of a packet that `bridge_rx` let pass: the next such packet may come whole. One
/// that is whole shows nothing: it came past the bridge.
#[inline(always)]
fn note_port(skb: &Skb, packet: &Packet) -> Result<Verdict, Reason> {
    if skb.is_gso()
        || skb.len() < WORTHWHILE
        || packet.ip.proto != PROTO_TCP
        || skb.came_by() != FLANNEL_IFINDEX.load()
        || !crossing::is_fit(skb.ifindex())
    {
        return Ok(Verdict::Untouched);
    }
    let (now, epoch, port) = (flows::now(), flows::epoch(), skb.ifindex());
    let Some(pod) = flows::get(&FlowKey::pod(packet.ip.dst)) else {
        return Ok(Verdict::Untouched);
    };
    if pod.is_chosen(port, now) {
        let eth: Eth = skb.load(0).ok_or(Reason::Truncated)?;
        pod.hook = POD_HOOK.load();
        pod.pod_mac = eth.dst;
        pod.gateway_mac = eth.src;
        pod.note_port(port, now, epoch);
    }
    Ok(Verdict::Untouched)
}

#[inline(always)]
pub(crate) fn came_from_overlay(packet: &Packet) -> bool {
    cidr::contains(SUBNET.load(), SUBNET_MASK.load(), packet.ip.dst)
        && cidr::contains(NETWORK.load(), NETWORK_MASK.load(), packet.ip.src)
        && !cidr::contains(SUBNET.load(), SUBNET_MASK.load(), packet.ip.src)
}
