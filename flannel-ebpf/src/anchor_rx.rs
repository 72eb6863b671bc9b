//! What `uplink_rx` leaves to the stack and the kernel decapsulates for the anchor: fragments that it has put together, packets
//! with outer options, and what GRO has merged but no pod's port will take. From here it goes where the rest goes. The kernel
//! has merged the congestion mark (`vxlan_ecn_decapsulate`) and refused other flags than 0x08.

use core::mem::MaybeUninit;

use flannel_common::header::Eth;
use flannel_common::reason::Reason;
use flannel_common::source::Claim;

use crate::globals::{FLANNEL_IFINDEX, VNI};
use crate::redirect;
use crate::skb::Skb;
use crate::verdict::Verdict;
use crate::{decap, headers, ours, senders};

#[inline(always)]
pub(crate) fn run(skb: &Skb) -> Result<Verdict, Reason> {
    // The device takes any VNI, and behind it is the node's stack: what no network's program takes must not get there.
    skb.hide_from_stack();
    let (vni, sender) = skb.tunnel().ok_or(Reason::OtherVni)?;
    if vni != VNI.load() {
        return Err(Reason::OtherVni);
    }
    if !skb.is_ipv4_for_us() {
        return Err(Reason::NotIpv4);
    }
    ours::check(skb)?;
    skb.untag();
    let mut room = MaybeUninit::uninit();
    let packet = headers::load(skb, headers::IP, &mut room).ok_or(Reason::Truncated)?;
    if !packet.ip.is_ipv4() {
        return Err(Reason::NotIpv4);
    }
    let eth: Eth = skb.load(0).ok_or(Reason::Truncated)?;
    senders::check_delivered(&Claim {
        outer: sender,
        inner: packet.ip.src,
        mac: eth.src,
    })?;
    decap::address_to_stack(skb, eth.src, &packet.ip)?;
    Ok(Verdict::Taken(
        redirect::ingress(FLANNEL_IFINDEX.load()),
        Reason::DecapDirect,
    ))
}
