//! What the stack hands to the pod bridge: large packets from the tunnel go to the pod's port whole.
//!
//! `bpf_skb_adjust_room` takes headers off and leaves `skb->encapsulation` set. Of such packets a bridge can send none
//! that stands for several (`netif_skb_features` asks for `hw_enc_features`), so `validate_xmit_skb` would cut it up
//! right behind this hook. A veth can.

use core::mem::MaybeUninit;

use flannel_common::cidr;
use flannel_common::flow::{Direction, FlowKey, Step};
use flannel_common::header::{Eth, PROTO_TCP};
use flannel_common::reason::Reason;

use crate::flows;
use crate::globals::{FLANNEL_IFINDEX, SUBNET, SUBNET_MASK};
use crate::headers::{self, Packet};
use crate::redirect;
use crate::skb::Skb;
use crate::verdict::Verdict;

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    if !skb.is_gso() || !skb.is_ipv4() || skb.came_by() != FLANNEL_IFINDEX.load() {
        return Ok(Verdict::Untouched);
    }
    let mut room = MaybeUninit::uninit();
    let Some(packet) = headers::load(skb, headers::IP, &mut room) else {
        return Ok(Verdict::Untouched);
    };
    if !is_ours(packet) {
        return Ok(Verdict::Untouched);
    }
    let eth: Eth = skb.load(0).ok_or(Reason::Truncated)?;
    let key = FlowKey::pod(packet.ip.dst);
    let (now, epoch) = (flows::now(), flows::epoch());
    let Some(pod) = flows::get(&key) else {
        flows::enter(&key, &flows::asked(now))?;
        return Ok(Verdict::Untouched);
    };
    if pod.decide_at_bridge(eth.dst, now, epoch) == Step::Fast {
        return Ok(Verdict::Taken(
            redirect::out(pod.rx.port),
            Reason::PastBridge,
        ));
    }
    pod.note_probe(Direction::Rx, now);
    Ok(Verdict::Untouched)
}

/// IPv4 options or fragments are no business of GSO, and a pod's own tunnel comes as UDP.
#[inline(always)]
fn is_ours(packet: &Packet) -> bool {
    packet.ip.proto == PROTO_TCP && cidr::contains(SUBNET.load(), SUBNET_MASK.load(), packet.ip.dst)
}
