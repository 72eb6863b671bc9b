//! What leaves by the uplink to peers without a tunnel: the stack let it through, which proves its flow.

use core::mem::MaybeUninit;

use flannel_common::flow::{Direction, FlowKey};
use flannel_common::maps::PEER_DIRECT;
use flannel_common::reason::Reason;

use crate::headers;
use crate::pod_tx::leaves_for_overlay;
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{crossing, flows, ours, peers, route};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    // Came past the stack: it was proven before, and proves nothing.
    if skb.take_past_stack() {
        return Ok(Verdict::Untouched);
    }
    if !flows::enabled() || flows::always() || !skb.is_ipv4() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    if !leaves_for_overlay(packet) {
        return Ok(Verdict::Untouched);
    }
    let key = FlowKey::outbound(&packet.ip, &packet.l4);
    let seen = crossing::seen(skb, packet);
    let Some(passed) = crossing::passed(&key, Direction::Tx, &seen) else {
        return Ok(Verdict::Untouched);
    };
    let Some(proof) = passed.proof(passed.device(), passed.change) else {
        return Ok(Verdict::Untouched);
    };
    let Some(peer) = peers::of(packet.ip.dst).filter(|peer| peer.kind == PEER_DIRECT) else {
        return Ok(Verdict::Untouched);
    };
    ours::check(skb)?;
    // Marks and rules may lead single flows elsewhere: the way is the peer's only if this packet takes it.
    if route::next_hop(skb, &key, packet.ip.tos) != Some(peer.next_hop) {
        return Err(Reason::Unverified);
    }
    let flow = crossing::flow(&key)?;
    if !flow.may_pass(passed.now, &proof) {
        return Ok(Verdict::Untouched);
    }
    flow.peer = *peer;
    flows::prove(flow, Direction::Tx, passed.now, &proof);
    Err(Reason::Verified)
}
