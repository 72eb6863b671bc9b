//! What the stack let out of the cluster with the tuple it came with, and `uplink_tx` translated after that: this proves
//! its flow.

use core::mem::MaybeUninit;

use flannel_common::cidr;
use flannel_common::flow::{Direction, Flow, FlowKey};
use flannel_common::outside::Way;
use flannel_common::reason::Reason;
use flannel_common::transport;

use crate::globals::{OVERLAY_MTU, SUBNET, SUBNET_MASK, UPLINK_IFINDEX};
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{crossing, flows, headers, route, snat_work};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    let Some(work) = snat_work::get() else {
        return Ok(Verdict::Untouched);
    };
    let is_pods = cidr::contains(SUBNET.load(), SUBNET_MASK.load(), work.ip.src);
    if !is_pods
        || skb.ifindex() != UPLINK_IFINDEX.load()
        || transport::check_fast(&work.ip).is_err()
    {
        return Ok(Verdict::Untouched);
    }
    let key = FlowKey::untranslated(&work.packet.key);
    let Some(flow) = flows::get(&key) else {
        // Here and not before the stack: what kube-proxy translates has another tuple by now, and takes no room.
        flows::enter(&key, &Flow::EMPTY)?;
        return Ok(Verdict::Untouched);
    };
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    let mut seen = crossing::seen(skb, packet);
    // As it came out of the stack.
    seen.ip = work.ip;
    let [a, b] = key.local_port;
    let [c, d] = key.remote_port;
    seen.l4[..4].copy_from_slice(&[a, b, c, d]);
    let Some(passed) = crossing::passed(&key, Direction::Tx, &seen) else {
        return Ok(Verdict::Untouched);
    };
    let Some(proof) = passed.proof(passed.device(), passed.change) else {
        return Ok(Verdict::Untouched);
    };
    let proof = proof.of_outside();
    if !flow.may_pass(passed.now, &proof) {
        return Ok(Verdict::Untouched);
    }
    let tcp = transport::tcp(&packet.ip, &packet.l4)?;
    let len = transport::check_size(&packet.ip, tcp, skb.gso_size(), OVERLAY_MTU.load())?;
    let next_hop = route::next_hop(skb, &key, work.ip.tos).ok_or(Reason::Unverified)?;
    let way = Way::new(UPLINK_IFINDEX.load(), next_hop, len);
    // A route may have got a smaller MTU with the new epoch.
    flow.peer = match flow.tx.epoch == proof.epoch {
        true => way.joined(&flow.peer).into(),
        false => way.into(),
    };
    flows::prove(flow, Direction::Tx, passed.now, &proof);
    Err(Reason::Verified)
}
